"""``steer`` as a person types it: a process of its own, on a real store, and nothing else that runs."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from include.lifecycle.experiment import Command, Contender, Entry, Experiment
from include.stores.experiments import ExperimentStore, heed, open_store

ROOT = Path(__file__).parents[2]
DOMAIN = "auto_claims"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/experiments.db"


@pytest.fixture
def store(url: str) -> ExperimentStore:
    opened = open_store(url)
    opened.ensure()
    return opened


@pytest.fixture
def ramp(store: ExperimentStore) -> Experiment:
    models = Contender("arn:old", "s3://b/old", 0.0), Contender("arn:new", "s3://b/new", 0.0)
    day = "2026-03-01T00:00:00Z"
    begun = Experiment("x1", DOMAIN, "endpoint", *models, day, "ramp", day, day, day, 0.05, 0.25, step=3)
    return store.create(begun, [Entry(1, day, "ramp", 0.05, 0.25, "The ramp begins.", "policy")])


def steer(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "include.jobs", "steer", "--domain", DOMAIN, *arguments]
    bare = {name: value for name, value in os.environ.items() if name not in ("FRAUD_BUCKET", "FRAUD_EXPERIMENTS")}
    return subprocess.run(command, cwd=ROOT, env=bare | environment, capture_output=True, text=True, check=False)


def test_a_stop_is_done_at_once(store: ExperimentStore, ramp: Experiment, url: str) -> None:
    asked = ("--action", "stop", "--why", "the campaign begins", "--who", "Zoë")
    given = steer(*asked, FRAUD_EXPERIMENTS=url)
    assert given.returncode == 0, given.stderr
    assert "rollout x1 of auto_claims: stopped since" in given.stderr
    assert "Done: Stopped by Zoë: the campaign begins\n" in given.stderr
    assert "Gateways follow within a second or two; retrain_and_rollout takes the challenger off the endpoint." in given.stderr
    found = json.loads(given.stdout)
    assert len(found.pop("given")) > 8
    assert found == {
        "experiment": "x1",
        "stage": "stopped",
        "share": 0.0,
        "cap": 0.0,
        "as_of": "2026-03-01T00:00:00Z",
        "why": "Stopped by Zoë: the campaign begins",
        "waiting": [],
    }
    after = store.get("x1")
    assert (after.stage, after.share, after.step, after.version) == ("stopped", 0.0, 4, 2)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(after.step_began)) < timedelta(minutes=1)
    assert (store.history("x1")[-1].who, store.commands("x1")) == ("Zoë", [])
    late = steer(*asked, FRAUD_EXPERIMENTS=url)
    assert late.returncode == 2
    assert "steer: x1: stop cannot be done: the experiment has ended as stopped" in late.stderr
    assert store.get("x1") == after


def test_a_share_is_set_by_the_login_name(store: ExperimentStore, ramp: Experiment, url: str) -> None:
    given = steer("--store", url, "--action", "set_share", "--share", ".4", "--why", "more", LOGNAME="ann")
    assert given.returncode == 0, given.stderr
    assert "Done: The challenger's share is 40.0%, and the cap too, from where it goes on, by ann: more\n" in given.stderr
    after = store.get("x1")
    assert (after.stage, after.share, after.cap, store.history("x1")[-1].who) == ("ramp", 0.4, 0.4, "ann")
    again = steer("--store", url, "--action", "set_share", "--share", ".1", "--why", "more", LOGNAME="ann")
    assert again.returncode == 0, again.stderr
    assert "40.0%, and the cap too" not in again.stderr.partition("Done:")[2], "only what is new"
    assert store.get("x1").share == 0.1


def test_what_others_asked_for_before_is_done_first(store: ExperimentStore, ramp: Experiment, url: str) -> None:
    store.give("x1", Command("bo", "stop", "bo", "enough"))
    given = steer("--store", url, "--action", "promote", "--why", "go", "--who", "ann")
    assert given.returncode == 2
    assert "steer: x1: Not done (promote), the experiment has ended as stopped. Asked for by ann: go\n" in given.stderr
    assert "Stopped by bo: enough\n" in given.stderr, "above it, in the history"
    assert (store.get("x1").stage, store.commands("x1")) == ("stopped", [])


def test_what_others_are_refused_meanwhile_is_no_refusal_of_this(
    store: ExperimentStore, ramp: Experiment, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Right behind its command, somebody else's line is written."""
    from include.jobs import steer as job

    def then_another(opened: ExperimentStore, *arguments: Any) -> Any:
        found = heed(opened, *arguments)
        heed(opened, "x1", Command("bo", "set_share", "bo", "less", 2.0), "2026-03-02T00:00:00Z")
        return found

    monkeypatch.setattr(job, "heed", then_another)
    options = argparse.Namespace(action="set_share", store=url, share=0.4, why="more", who="ann")
    found = job.run(options, SimpleNamespace(domain=SimpleNamespace(name=DOMAIN)))  # type: ignore[arg-type]
    assert (found["share"], store.history("x1")[-1].says[:8]) == (0.4, "Not done")
    told = capsys.readouterr().err.partition("Done:")[2]
    assert told.startswith(" The challenger's share is 40.0%, and the cap too, from where it goes on, by ann: more\n")
    assert "Not done" not in told


def test_show_tells_how_it_is(store: ExperimentStore, ramp: Experiment, url: str) -> None:
    for number in range(14):
        present = store.get("x1")
        store.save(present, [Entry(0, f"2026-03-{number + 2:02d}T00:00:00Z", "ramp", 0.05, 0.25, f"look {number}", "policy")])
    shown = steer("--store", url, "--action", "show")
    assert shown.returncode == 0, shown.stderr
    assert f"rollout x1 of {DOMAIN}: ramp since 2026-03-01T00:00:00Z" in shown.stderr
    assert "share       5.0% of the entities are the challenger's (cap 25.0%)" in shown.stderr
    assert "(3 earlier)" in shown.stderr
    assert "2026-03-15T00:00:00Z ramp            5.0%  25.0%  policy      look 13" in shown.stderr
    assert "look 1\n" not in shown.stderr
    assert json.loads(shown.stdout)["given"] is None
    assert store.commands("x1") == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--action", "stop"), "--why is kept in the rollout's history: say it"),
        (("--action", "stop", "--why", "x" * 501), "500 characters at most"),
        (("--action", "set_share", "--why", "x"), "--share goes with set_share, which wants it"),
        (("--action", "stop", "--why", "x", "--share", ".1"), "and with nothing else"),
        (
            ("--action", "set_share", "--why", "x", "--share", "1.5"),
            "x1: set_share cannot be done: a share lies between 0 and 1, not at 1.5",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(store: ExperimentStore, ramp: Experiment, url: str, arguments: tuple[str, ...], says: str) -> None:
    refused = steer("--store", url, *arguments)
    assert refused.returncode == 2
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr
    assert store.commands("x1") == []


def test_a_store_that_is_none_is_named(store: ExperimentStore, url: str, tmp_path: Path) -> None:
    for arguments, says in (
        ((), "which experiment store? Say --store, or set FRAUD_EXPERIMENTS"),
        (("--store", "experiments.db"), "'experiments.db' is no experiment store: sqlite:///"),
        (("--store", f"sqlite://{tmp_path}/gone.db"), "there is no such file"),
        (("--store", url), f"there never was a rollout of {DOMAIN} in this store"),
    ):
        refused = steer("--action", "show", *arguments)
        assert refused.returncode == 2
        assert says in refused.stderr
        assert "Traceback" not in refused.stderr
