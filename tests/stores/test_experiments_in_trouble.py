"""The stores of experiments when many write at once, when a writer is killed, and when they are away."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from experiments_lab import COUNTS, NOW, an_entry, an_experiment

from include.lifecycle.experiment import Command, GatewayHealth, VariantCounts
from include.stores import experiments_dynamodb, experiments_sqlite
from include.stores.experiments import (
    ExperimentRunning,
    ExperimentStore,
    ExperimentStoreUnavailable,
    VersionConflict,
    open_store,
)

ROOT = Path(__file__).parents[2]

# ----------------------------------------------------------------------------------------------------------------------- concurrency

_SAVER = """
import sys
from include.lifecycle.experiment import Entry
from include.stores.experiments import VersionConflict, open_store
store, conflicts = open_store(sys.argv[1]), 0
for number in range(int(sys.argv[3])):
    while True:
        present = store.get("first")
        entry = Entry(0, "2026-03-02T00:00:00Z", "shadow", 0.0, 0.0, f"{sys.argv[2]}-{number}", "a test")
        try:
            store.save(present.but(step=present.step + 1), [entry])
            break
        except VersionConflict:
            conflicts += 1
print(conflicts)
"""


def test_of_many_writers_none_loses_anything(store: ExperimentStore, url: str) -> None:
    store.create(an_experiment())
    savers = [
        subprocess.Popen([sys.executable, "-c", _SAVER, url, str(each), "50"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for each in range(4)
    ]
    conflicts = [int(saver.communicate(timeout=300)[0]) for saver in savers]
    assert all(saver.returncode == 0 for saver in savers)
    assert sum(conflicts) > 0, "they met"
    history = store.history("first")
    assert (store.get("first").step, store.get("first").version) == (200, 201)
    assert [entry.version for entry in history] == list(range(2, 202))
    assert {entry.says for entry in history} == {f"{each}-{number}" for each in range(4) for number in range(50)}


def test_many_may_make_the_store_at_once(url: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: open_store(url).ensure(), range(6)))
    assert open_store(url).create(an_experiment()).version == 1


def test_of_two_that_create_one_wins(store: ExperimentStore) -> None:
    barrier = threading.Barrier(6)

    def create(number: int) -> str:
        barrier.wait()
        try:
            return store.create(an_experiment(f"e{number}"), [an_entry()]).id
        except (ExperimentRunning, VersionConflict):
            return ""

    with ThreadPoolExecutor(6) as pool:
        winners = [winner for winner in pool.map(create, range(6)) if winner]
    assert len(winners) == 1
    present = store.current("claims")
    assert present is not None
    assert present.id == winners[0]
    assert [store.find(f"e{number}") is not None for number in range(6)].count(True) == 1


def test_commands_and_healths_do_not_disturb_saves(store: ExperimentStore) -> None:
    """Gateways tell their counts, and people give commands, while the state is written: no save fails for it, and no command is lost."""
    present = store.create(an_experiment())

    def gateway(name: str) -> None:
        for told in range(20):
            store.put_health("first", GatewayHealth(name, 0, "2026-11-01T10:00:00Z", VariantCounts(told), COUNTS))
            store.give("first", Command(f"{name}-{told}", "set_share", "ann", "more", 0.1))

    heeded: list[str] = []
    with ThreadPoolExecutor(3) as pool:
        telling = [pool.submit(gateway, name) for name in ("a", "b", "c")]
        while not (all(each.done() for each in telling) and not store.commands("first")):
            commands = store.commands("first")
            present = store.save(present, [an_entry(command.id) for command in commands], done=[command.id for command in commands])
            heeded += [command.id for command in commands]
            time.sleep(0.01)
        assert [each.result() for each in telling] == [None] * 3
    assert sorted(heeded) == sorted(f"{name}-{told}" for name in ("a", "b", "c") for told in range(20))
    assert [entry.says for entry in store.history("first")] == heeded
    assert [health.champion.requests for health in store.healths("first", 0)] == [19, 19, 19]


_KILLED = """
import sys
from include.lifecycle.experiment import Command, Entry
from include.stores.experiments import open_store
store = open_store(sys.argv[1])
present = store.get("first")
while True:
    step = present.step + 1
    store.give("first", Command(f"{step}", "set_share", "ann", "more", 0.1))
    entries = [Entry(0, "2026-03-02T00:00:00Z", "shadow", 0.0, 0.0, f"{step}{part}" + "x" * 20_000, "a test") for part in "ab"]
    present = store.save(present.but(step=step), entries, done=[f"{step}"])
    print(step, flush=True)
"""


@pytest.mark.parametrize("seed", range(5))
def test_a_writer_killed_in_the_middle_leaves_whole_versions(store: ExperimentStore, url: str, seed: int) -> None:
    store.create(an_experiment())
    with subprocess.Popen([sys.executable, "-c", _KILLED, url], cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "1\n"
        time.sleep(random.Random(seed).uniform(0.05, 0.3))
        os.kill(writer.pid, signal.SIGKILL)
    present = store.get("first")
    history = store.history("first")
    assert present.version == present.step + 1 > 1
    assert [entry.says.rstrip("x") for entry in history] == [f"{step}{part}" for step in range(1, present.step + 1) for part in "ab"]
    waiting = [command.id for command in store.commands("first")]
    assert waiting in ([], [f"{present.step + 1}"])
    assert store.save(present.but(step=present.step + 1), [an_entry("it goes on")]).version == present.version + 1


_KILLED_INSIDE = """
import sys, time
from include.lifecycle.experiment import Entry
from include.stores import experiments_sqlite
from include.stores.experiments import open_store
append = experiments_sqlite._append
def append_and_hang(*arguments):
    append(*arguments)
    print("written, not committed", flush=True)
    time.sleep(600)
experiments_sqlite._append = append_and_hang
store = open_store(sys.argv[1])
store.save(store.get("first").but(step=7), [Entry(0, "2026-03-02T00:00:00Z", "shadow", 0.0, 0.0, "lost", "a test")])
"""


def test_a_transaction_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/e.db"
    store = open_store(url)
    store.ensure()
    created = store.create(an_experiment())
    with subprocess.Popen([sys.executable, "-c", _KILLED_INSIDE, url], cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written, not committed\n"
        with pytest.raises(ExperimentStoreUnavailable, match="locked"):
            store.save(created)
        os.kill(writer.pid, signal.SIGKILL)
    assert store.get("first") == created
    assert store.history("first") == []
    assert store.save(created, [an_entry()]).version == 2


# ------------------------------------------------------------------------------------------------------------------- unavailability


def test_a_store_that_nobody_made_is_none(url: str) -> None:
    store = open_store(url)
    for ask in (lambda: store.current("claims"), lambda: store.create(an_experiment()), lambda: store.history("first")):
        with pytest.raises(ExperimentStoreUnavailable, match=r"only the store's ensure\(\) makes one"):
            ask()
    if url.startswith("sqlite"):
        assert not Path(url.removeprefix("sqlite://")).exists()


def test_a_document_of_other_code_is_not_half_read(store: ExperimentStore, url: str) -> None:
    store.create(an_experiment())
    later = '{"id": "first", "what": "is this"}'
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite://")) as connection:
            connection.execute("UPDATE experiments SET document = ?", (later,))
    else:
        boto3.client("dynamodb").update_item(
            TableName=url.removeprefix("dynamodb://").partition("?")[0],
            Key={"pk": {"S": "experiment#first"}, "sk": {"S": "state"}},
            UpdateExpression="SET document = :later",
            ExpressionAttributeValues={":later": {"S": later}},
        )
    for ask in (lambda: store.get("first"), lambda: store.current("claims")):
        with pytest.raises(ExperimentStoreUnavailable, match="written by other code"):
            ask()


def test_a_file_of_the_first_schema_is_brought_to_this_one(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.executescript(experiments_sqlite._FIRST_SCHEMA + "PRAGMA user_version = 1")
        row = ("first", "claims", False, json.dumps(an_experiment().as_json()))
        connection.execute("INSERT INTO experiments (id, domain, ended, document) VALUES (?, ?, ?, ?)", row)
    store = open_store(f"sqlite://{tmp_path}/old.db")
    with pytest.raises(ExperimentStoreUnavailable, match=r"has the schema 1 of .* knows 2: the store's ensure\(\) brings it there"):
        store.get("first")
    store.ensure()
    store.ensure()
    store.note_watched("first", NOW)
    assert (store.get("first"), store.watched("first")) == (an_experiment(), NOW)


def test_a_locked_file_is_unavailable_within_two_seconds(tmp_path: Path) -> None:
    store = open_store(f"sqlite://{tmp_path}/e.db")
    store.ensure()
    created = store.create(an_experiment())
    holder = sqlite3.connect(tmp_path / "e.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert store.get("first") == created, "readers never wait"
    begun = time.monotonic()
    with pytest.raises(ExperimentStoreUnavailable, match="locked"):
        store.save(created)
    assert time.monotonic() - begun < 2
    holder.execute("ROLLBACK")
    holder.close()
    assert store.save(created).version == 2


def test_what_is_no_store_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, and long enough for a header of one" * 100)
    with pytest.raises(ExperimentStoreUnavailable, match="not a database"):
        open_store(f"sqlite://{tmp_path}/text.db").get("first")
    sqlite3.connect(tmp_path / "newer.db").execute("PRAGMA user_version = 99")
    newer = open_store(f"sqlite://{tmp_path}/newer.db")
    for ask in (newer.ensure, lambda: newer.get("first")):
        with pytest.raises(ExperimentStoreUnavailable, match=r"has the schema 99 of experiment stores, and this code knows 2$"):
            ask()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ExperimentStoreUnavailable, match="folder"):
        open_store(f"sqlite://{tmp_path}/folder").get("first")


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("how", ["silent", "closed"])
def test_a_table_that_does_not_answer_is_unavailable_within_two_seconds(
    how: str, silent: str, aws: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", silent if how == "silent" else "http://127.0.0.1:9")
    experiments_dynamodb._client.cache_clear()
    store = open_store("dynamodb://anything?region=eu-west-1")
    with pytest.raises(ExperimentStoreUnavailable):  # the first call makes the client, once in the life of a process
        store.current("claims")
    begun = time.monotonic()
    with pytest.raises(ExperimentStoreUnavailable, match="anything does not answer"):
        store.current("claims")
    assert time.monotonic() - begun < 2
    experiments_dynamodb._client.cache_clear()
