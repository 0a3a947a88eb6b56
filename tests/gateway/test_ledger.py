"""Outcomes, whatever order they come in and wherever the gateway dies: none lost, none counted twice."""

from __future__ import annotations

import sqlite3
import tempfile
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from include.gateway.ledger import Batch, BatchKind, Ledger, LedgerRow, Told

NOW = datetime(2026, 4, 1, 12, tzinfo=UTC)
IDS = st.sampled_from([str(number) for number in range(4)])
DOMAINS = st.sampled_from(["claims", "payments"])
TOLD = st.lists(st.tuples(IDS, st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=5)


class Died(Exception):
    """The process ends here."""


class Mortal:
    """A connection that dies at the n-th statement from now."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection, self.left = connection, -1

    def _step(self) -> None:
        if self.left == 0:
            raise Died
        self.left -= 1

    def execute(self, *arguments: object) -> sqlite3.Cursor:
        self._step()
        return self.connection.execute(*arguments)  # type: ignore[arg-type]

    def executemany(self, *arguments: object) -> sqlite3.Cursor:
        self._step()
        return self.connection.executemany(*arguments)  # type: ignore[arg-type]

    def cursor(self) -> sqlite3.Cursor:
        self._step()
        return self.connection.cursor()

    def close(self) -> None:
        self.connection.close()


def day_of(row: LedgerRow) -> date:
    return date.fromisoformat(row.known_at[:10])


class Outcomes(RuleBasedStateMachine):
    """What the world was told, beside what the ledger makes of it. ``landed`` and ``audited``: objects by name, as S3 has them: put twice, one."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.first: dict[tuple[str, str], int] = {}
        self.contradicted: set[tuple[str, str]] = set()
        self.decided: set[tuple[str, str]] = set()
        self.objects: dict[str, dict[tuple[str, str], tuple[LedgerRow, ...]]] = {"labels": {}, "outcomes": {}}
        self.starts = 0
        self.open()

    def open(self) -> None:
        self.starts += 1
        self.ledger = Ledger(Path(self.folder.name) / "ledger.db")
        self.mortal = Mortal(self.ledger._connection)
        self.ledger._connection = self.mortal  # type: ignore[assignment]

    def restart(self) -> None:
        self.mortal.close()
        self.open()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.nothing_is_lost()
            self.nothing_is_counted_twice()
            self.mortal.close()
            self.folder.cleanup()

    def tell(self, domain: str, told: list[tuple[str, int, int]]) -> list[str]:
        items = [Told(name, label, NOW + timedelta(days=days)) for name, label, days in told]
        return list(self.ledger.receive(domain, items, NOW, "someone", lambda name: False))

    @rule(domain=DOMAINS, told=TOLD)
    def outcomes(self, domain: str, told: list[tuple[str, int, int]]) -> None:
        self.tell_and_compare(domain, told)

    def tell_and_compare(self, domain: str, told: list[tuple[str, int, int]]) -> None:
        states = self.tell(domain, told)
        for (name, label, _), state in zip(told, states, strict=True):
            key = (domain, name)
            if key not in self.first:
                self.first[key] = label
                assert state == ("accepted" if key in self.decided else "pending")
            elif self.first[key] == label:
                assert state == "known"
            else:
                assert state == "conflict"
                self.contradicted.add(key)

    @rule(domain=DOMAINS, names=st.lists(IDS, max_size=4))
    def decisions(self, domain: str, names: list[str]) -> None:
        self.ledger.index(domain, [(name, "2026-04-01T00:00:00Z") for name in names])
        self.decided |= {(domain, name) for name in names}

    @rule(domain=DOMAINS, told=TOLD, steps=st.integers(0, 12))
    def outcomes_cut_off(self, domain: str, told: list[tuple[str, int, int]], steps: int) -> None:
        """The process dies before the answer: the client asks again, and the second answer is what a first one would have been."""
        self.mortal.left = steps
        try:
            self.tell_and_compare(domain, told)
        except Died:
            self.restart()
            self.tell_and_compare(domain, told)
        self.mortal.left = -1

    @rule(
        domain=DOMAINS,
        kind=st.sampled_from(["labels", "outcomes"]),
        steps=st.just(-1) | st.integers(0, 25),
        until=st.sampled_from(["object", "note"]),
    )
    def leave(self, domain: str, kind: str, steps: int, until: str) -> None:
        """A round of shipping that may die at any statement, and between an object and the note that it is there."""
        self.mortal.left = steps
        try:
            for batch in self.ledger.open_batches(kind, domain, f"g{self.starts}", day_of):  # type: ignore[arg-type]
                self.put(batch)
                if until == "object":
                    raise Died
                self.ledger.batch_left(batch)
        except Died:
            self.restart()
        self.mortal.left = -1

    def put(self, batch: Batch) -> None:
        name = (batch.domain, f"{batch.day}/{batch.made}_{batch.number}")
        before = self.objects[batch.kind].setdefault(name, batch.rows)
        assert before == batch.rows  # under one name there is only ever one content

    @rule()
    def restarted(self) -> None:
        self.restart()

    @invariant()
    def nothing_is_counted_twice(self) -> None:
        if not hasattr(self, "objects"):
            return
        for kind, objects in self.objects.items():
            seen = Counter((domain, row.inference_id) for (domain, _), rows in objects.items() for row in rows)
            assert not [key for key, count in seen.items() if count > 1]
            for (domain, _), rows in objects.items():
                for row in rows:
                    assert row.label == self.first[domain, row.inference_id]
                    assert kind == "outcomes" or (domain, row.inference_id) in self.decided

    @rule()
    def nothing_is_lost(self) -> None:
        """Also at the end of every run. When everything has left, all that was accepted is landed, and all that was told is in the audit."""
        self.mortal.left = -1
        for domain in ("claims", "payments"):
            for kind in ("labels", "outcomes"):
                for batch in self.ledger.open_batches(kind, domain, f"g{self.starts}", day_of):  # type: ignore[arg-type]
                    self.put(batch)
                    self.ledger.batch_left(batch)
            landed = {(d, row.inference_id) for (d, _), rows in self.objects["labels"].items() for row in rows if d == domain}
            audited = {(d, row.inference_id) for (d, _), rows in self.objects["outcomes"].items() for row in rows if d == domain}
            told = {key for key in self.first if key[0] == domain}
            assert audited == told
            assert landed == told & self.decided
            counts = self.ledger.counts(domain)
            expected = {"accepted": len(landed), "pending": len(told - landed), "landed": len(landed)}
            assert counts == expected | {"conflicts": sum(key[0] == domain for key in self.contradicted)}
            assert self.ledger.pending(domain, NOW) == bool(told - landed)
            assert not self.ledger.pending(domain, NOW + timedelta(seconds=1))


TestOutcomes = Outcomes.TestCase
TestOutcomes.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_decision_in_hand_is_known(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    assert ledger.receive("d", [Told("1", 1, NOW), Told("2", 0, NOW)], NOW, "a", {"1"}.__contains__) == ["accepted", "pending"]
    assert ledger.index("d", [("2", "x"), ("3", "x")], (date(2026, 4, 1), "key")) == 1
    assert ledger.shipments_known("d", date(2026, 4, 1)) == {"key"}
    assert ledger.shipments_known("d", date(2026, 4, 2)) == ledger.shipments_known("e", date(2026, 4, 1)) == set()


def leave(ledger: Ledger, *kinds: BatchKind) -> None:
    for kind in kinds:
        for batch in ledger.open_batches(kind, "d", "g", day_of):
            ledger.batch_left(batch)


def forget(ledger: Ledger, before: datetime, at_most: int = 1000) -> list[int]:
    """How many rows each call dropped, until one dropped none."""
    return list(iter(lambda: ledger.forget(before, at_most), 0))


def test_what_is_forgotten_has_left(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.index("d", [("1", "2026-01-01T00:00:00Z"), ("2", "2026-04-01T00:00:00Z")])
    ledger.receive("d", [Told("1", 1, NOW), Told("9", 1, NOW)], NOW - timedelta(days=60), "a")
    ledger.receive("d", [Told("1", 0, NOW)], NOW - timedelta(days=60), "a")
    later = NOW - timedelta(days=30)
    assert forget(ledger, later) == [2], "a decision, and what contradicted an outcome"
    assert ledger.counts("d") == {"accepted": 1, "pending": 1, "conflicts": 0, "landed": 0}, "neither outcome has left"
    leave(ledger, "labels")
    assert forget(ledger, later) == []
    leave(ledger, "outcomes")
    assert ledger.counts("d") == {"accepted": 1, "pending": 1, "conflicts": 0, "landed": 1}
    assert forget(ledger, later) == [2], "one has landed, and the other one's decision never came"
    assert ledger.counts("d") == {"accepted": 0, "pending": 0, "conflicts": 0, "landed": 0}
    assert ledger.receive("d", [Told("2", 1, NOW), Told("9", 1, NOW)], NOW, "a") == ["accepted", "pending"]


def test_what_is_old_is_forgotten_a_piece_at_a_time(tmp_path: Path) -> None:
    """Outcomes wait for as long as one piece takes."""
    ledger = Ledger(tmp_path / "ledger.db")
    names = [str(number) for number in range(25)]
    ledger.index("d", [(name, "2026-01-01T00:00:00Z") for name in names], (date(2026, 1, 1), "key"))
    ledger.receive("d", [Told(name, 1, NOW) for name in names], NOW - timedelta(days=60), "a")
    leave(ledger, "labels", "outcomes")
    assert forget(ledger, NOW - timedelta(days=30), 10) == [21, 20, 10]
    assert ledger.shipments_known("d", date(2026, 1, 1)) == set()


def test_nothing_is_looked_through_whole_while_outcomes_wait_for_the_ledger(tmp_path: Path) -> None:
    """Counts, what waits and what is old are looked up: no statement reads all rows, however many there are."""
    ledger = Ledger(tmp_path / "ledger.db")
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    taken = []
    for part in range(2):
        names = [str(number) for number in range(part * 5000, part * 5000 + 5000)]
        ledger.index("d", [(name, "2026-03-31T00:00:00Z") for name in names])
        ledger.receive("d", [Told(name, 1, NOW) for name in names], NOW, "a")
        leave(ledger, "labels", "outcomes")
        with ledger._transaction():  # as many as a busy gateway ships on a day
            rows = [(f"2026-03-0{part + 1}", str(number)) for number in range(5000)]
            ledger._connection.executemany("INSERT INTO shipments_known VALUES ('d', ?, ?)", rows)
            batches = "INSERT INTO batches (kind, domain, day, gateway, done) VALUES ('labels', 'd', ?, ?, 1)"
            ledger._connection.executemany(batches, rows)
        ledger._connection.set_progress_handler(step, 10)
        steps = 0
        assert ledger.counts("d")["landed"] == 5000 * (part + 1)
        assert not ledger.pending("d", NOW - timedelta(days=14))
        assert ledger.open_batches("labels", "d", "g", day_of) == []
        assert ledger.forget(NOW - timedelta(days=400)) == 0
        ledger._connection.set_progress_handler(None, 0)
        taken.append(steps)
    assert taken[0] < 200, "tens of instructions, where 5,000 rows would be tens of thousands"
    assert taken[1] <= taken[0] + 10
    ledger._connection.set_progress_handler(step, 10)
    steps = 0
    assert ledger.forget(NOW + timedelta(days=1), 10) == 30
    assert steps < 1000, "a piece costs what is in it, however much is old"


def test_a_ledger_from_before_there_were_totals_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(path)
    ledger.index("d", [("1", "2026-03-31T00:00:00Z")])
    ledger.receive("d", [Told("1", 1, NOW), Told("2", 1, NOW)], NOW, "a")
    leave(ledger, "labels")
    ledger.receive("d", [Told("1", 0, NOW)], NOW, "a")
    counted = ledger.counts("d")
    assert counted == {"accepted": 1, "pending": 1, "conflicts": 1, "landed": 1}
    triggers = [name for (name,) in ledger._connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]
    ledger._connection.executescript(
        "".join(f"DROP TRIGGER {name};" for name in triggers)
        + "DROP TABLE totals; PRAGMA user_version = 0; CREATE TABLE objects_read (key TEXT PRIMARY KEY) WITHOUT ROWID;"
    )
    ledger.close()
    for _ in range(2):
        ledger = Ledger(path)
        assert ledger.counts("d") == counted
        ledger.close()


@pytest.mark.parametrize("at_once", [1, 300])
def test_a_batch_is_one_transaction(tmp_path: Path, at_once: int) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    told = [Told(str(number), number % 2, NOW) for number in range(at_once)]
    assert ledger.receive("d", told, NOW, "a") == ["pending"] * at_once
    assert ledger.receive("d", told, NOW, "b") == ["known"] * at_once
