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

from include.gateway.ledger import Batch, Ledger, LedgerRow, Told

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
        name = (batch.domain, f"{batch.day}/{batch.gateway}_{batch.number}")
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
            assert self.ledger.pending(domain) == bool(told - landed)


TestOutcomes = Outcomes.TestCase
TestOutcomes.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_decision_in_hand_is_known(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    assert ledger.receive("d", [Told("1", 1, NOW), Told("2", 0, NOW)], NOW, "a", {"1"}.__contains__) == ["accepted", "pending"]
    assert ledger.index("d", [("2", "x"), ("3", "x")], "key") == 1
    assert ledger.were_read(["key", "other"]) == {"key"}


def test_what_is_forgotten_has_left(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.index("d", [("1", "2026-01-01T00:00:00Z"), ("2", "2026-04-01T00:00:00Z")])
    ledger.receive("d", [Told("1", 1, NOW), Told("9", 1, NOW)], NOW - timedelta(days=60), "a")
    later = NOW - timedelta(days=30)
    assert ledger.forget(later) == 1
    assert ledger.counts("d") == {"accepted": 1, "pending": 1, "conflicts": 0, "landed": 0}  # neither has left
    for kind in ("labels", "outcomes"):
        for batch in ledger.open_batches(kind, "d", "g", day_of):  # type: ignore[arg-type]
            ledger.batch_left(batch)
    ledger.forget(later)
    assert ledger.counts("d") == {"accepted": 0, "pending": 1, "conflicts": 0, "landed": 0}


@pytest.mark.parametrize("at_once", [1, 300])
def test_a_batch_is_one_transaction(tmp_path: Path, at_once: int) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    told = [Told(str(number), number % 2, NOW) for number in range(at_once)]
    assert ledger.receive("d", told, NOW, "a") == ["pending"] * at_once
    assert ledger.receive("d", told, NOW, "b") == ["known"] * at_once
