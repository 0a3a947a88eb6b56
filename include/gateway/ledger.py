"""Which decisions are known here, and what became of them: a SQLite file, from which no outcome is lost and none counted twice.

An outcome is accepted where its decision is known, pending where it is not yet, and then accepted when the decision comes. Of one event the first
outcome stands: the same label again changes nothing, another one is a conflict, which is kept beside it and never takes its place.

Accepted outcomes leave in batches, as a landing file of labels; all outcomes leave in batches for the audit. A batch is written down with
its rows before it leaves, so that one that was cut off leaves again, the same, under the same name.

Methods block, and are for one thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Literal

from include.gateway.words import OutcomeState
from include.lifecycle.as_of import iso

BatchKind = Literal["labels", "outcomes"]
_COLUMN: dict[BatchKind, str] = {"labels": "landing", "outcomes": "shipment"}
_SCHEMA = """
CREATE TABLE IF NOT EXISTS decisions (
    domain TEXT NOT NULL, inference_id TEXT NOT NULL, decided_at TEXT NOT NULL, PRIMARY KEY (domain, inference_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
    number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, domain TEXT NOT NULL, day TEXT NOT NULL, gateway TEXT NOT NULL,
    done INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS outcomes (
    domain TEXT NOT NULL, inference_id TEXT NOT NULL, label INTEGER NOT NULL CHECK (label IN (0, 1)), known_at TEXT NOT NULL,
    received_at TEXT NOT NULL, said_by TEXT NOT NULL, state TEXT NOT NULL CHECK (state IN ('accepted', 'pending')),
    landing INTEGER REFERENCES batches, shipment INTEGER REFERENCES batches, PRIMARY KEY (domain, inference_id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS to_land ON outcomes (domain, state) WHERE landing IS NULL;
CREATE INDEX IF NOT EXISTS to_ship ON outcomes (domain) WHERE shipment IS NULL;
CREATE INDEX IF NOT EXISTS landed ON outcomes (landing);
CREATE INDEX IF NOT EXISTS shipped ON outcomes (shipment);
CREATE TABLE IF NOT EXISTS conflicts (
    domain TEXT NOT NULL, inference_id TEXT NOT NULL, label INTEGER NOT NULL, known_at TEXT NOT NULL, received_at TEXT NOT NULL,
    said_by TEXT NOT NULL, PRIMARY KEY (domain, inference_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS objects_read (key TEXT PRIMARY KEY) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Told:
    """An outcome as somebody told it; ``known_at`` in UTC."""

    inference_id: str
    label: int
    known_at: datetime


@dataclass(frozen=True)
class LedgerRow:
    """An outcome in a batch; instants as ISO 8601 text, UTC."""

    inference_id: str
    label: int
    known_at: str
    received_at: str
    said_by: str


@dataclass(frozen=True)
class Batch:
    """Rows that leave together. ``day``: under which. ``gateway``: which made it, part of its name for ever."""

    number: int
    kind: BatchKind
    domain: str
    day: date
    gateway: str
    rows: tuple[LedgerRow, ...]


class Ledger:
    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")  # an outcome is on the disk before its answer
        self._connection.executescript(_SCHEMA)
        path.chmod(0o600)

    def close(self) -> None:
        self._connection.close()

    def receive(
        self, domain: str, told: Sequence[Told], received_at: datetime, said_by: str, in_hand: Callable[[str], bool] = lambda _: False
    ) -> list[OutcomeState]:
        """What becomes of each, in their order; all of them are durable when this returns. ``in_hand``: whether a decision is known that is not
        among ``index``'s yet, by inference id."""
        with self._transaction():
            return [self._take(domain, each, iso(received_at), said_by, in_hand) for each in told]

    def _take(self, domain: str, told: Told, received_at: str, said_by: str, in_hand: Callable[[str], bool]) -> OutcomeState:
        key = (domain, told.inference_id)
        stands = self._connection.execute("SELECT label FROM outcomes WHERE domain = ? AND inference_id = ?", key).fetchone()
        row = (*key, told.label, iso(told.known_at), received_at, said_by)
        if stands is None:
            known = (
                in_hand(told.inference_id)
                or self._connection.execute("SELECT 1 FROM decisions WHERE domain = ? AND inference_id = ?", key).fetchone()
            )
            state: OutcomeState = "accepted" if known else "pending"
            self._connection.execute("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL)", (*row, state))
            return state
        if stands[0] == told.label:
            return "known"
        self._connection.execute("INSERT OR IGNORE INTO conflicts VALUES (?, ?, ?, ?, ?, ?)", row)
        return "conflict"

    def index(self, domain: str, decisions: Iterable[tuple[str, str]], read_from: str | None = None) -> int:
        """Makes decisions, (inference id, decided at), known, and returns how many pending outcomes are accepted now. ``read_from``: the key of
        the object they came from, so that it need not be read again."""
        with self._transaction():
            rows = [(domain, inference_id, decided_at) for inference_id, decided_at in decisions]
            self._connection.executemany("INSERT OR IGNORE INTO decisions VALUES (?, ?, ?)", rows)
            if read_from is not None:
                self._connection.execute("INSERT OR IGNORE INTO objects_read VALUES (?)", (read_from,))
            accepted = self._connection.executemany(
                "UPDATE outcomes SET state = 'accepted' WHERE domain = ? AND inference_id = ? AND state = 'pending'",
                [row[:2] for row in rows],
            )
            return accepted.rowcount if rows else 0

    def were_read(self, keys: Collection[str]) -> set[str]:
        """Those of the objects whose decisions are known."""
        found = (self._connection.execute("SELECT key FROM objects_read WHERE key = ?", (key,)).fetchone() for key in keys)
        return {row[0] for row in found if row}

    def has_new_labels(self, domain: str) -> bool:
        """Whether an accepted outcome is in no batch of labels."""
        query = "SELECT 1 FROM outcomes WHERE domain = ? AND state = 'accepted' AND landing IS NULL LIMIT 1"
        return self._connection.execute(query, (domain,)).fetchone() is not None

    def open_batches(self, kind: BatchKind, domain: str, gateway: str, day_of: Callable[[LedgerRow], date] | None) -> list[Batch]:
        """The batches that have not left yet: earlier ones, and new ones of all outcomes that are in none, one for each ``day_of`` them (None:
        only the earlier ones)."""
        column = _COLUMN[kind]
        if day_of is not None:
            with self._transaction():
                self._make_batches(kind, domain, gateway, day_of)
        open_ones = self._connection.execute(
            "SELECT number, day, gateway FROM batches WHERE kind = ? AND domain = ? AND NOT done ORDER BY number", (kind, domain)
        ).fetchall()
        return [
            Batch(number, kind, domain, date.fromisoformat(day), made_by, tuple(self._rows(f"domain = ? AND {column} = ?", domain, number)))
            for number, day, made_by in open_ones
        ]

    def _make_batches(self, kind: BatchKind, domain: str, gateway: str, day_of: Callable[[LedgerRow], date]) -> None:
        column, accepted = _COLUMN[kind], "AND state = 'accepted'" if kind == "labels" else ""
        days: dict[date, list[LedgerRow]] = {}
        for row in self._rows(f"domain = ? AND {column} IS NULL {accepted}", domain):
            days.setdefault(day_of(row), []).append(row)
        for day, rows in sorted(days.items()):
            made = self._connection.execute(
                "INSERT INTO batches (kind, domain, day, gateway) VALUES (?, ?, ?, ?)", (kind, domain, day.isoformat(), gateway)
            )
            self._connection.executemany(
                f"UPDATE outcomes SET {column} = {int(made.lastrowid or 0)} WHERE domain = ? AND inference_id = ?",  # noqa: S608
                [(domain, row.inference_id) for row in rows],
            )

    def batch_left(self, batch: Batch) -> None:
        with self._transaction():
            self._connection.execute("UPDATE batches SET done = 1 WHERE number = ?", (batch.number,))

    def _rows(self, where: str, *values: str | int) -> list[LedgerRow]:
        columns = "inference_id, label, known_at, received_at, said_by"
        query = f"SELECT {columns} FROM outcomes WHERE {where} ORDER BY known_at, inference_id"  # noqa: S608 -- our own words
        return [LedgerRow(*row) for row in self._connection.execute(query, values)]

    def pending(self, domain: str) -> bool:
        """Whether an outcome waits for its decision."""
        query = "SELECT 1 FROM outcomes WHERE domain = ? AND state = 'pending' AND landing IS NULL LIMIT 1"
        return self._connection.execute(query, (domain,)).fetchone() is not None

    def counts(self, domain: str) -> dict[str, int]:
        """{"accepted", "pending", "conflicts", "landed" (of the accepted)}."""
        states = dict(self._connection.execute("SELECT state, count(*) FROM outcomes WHERE domain = ? GROUP BY state", (domain,)))
        [conflicts] = self._connection.execute("SELECT count(*) FROM conflicts WHERE domain = ?", (domain,)).fetchone()
        landed = "SELECT count(*) FROM outcomes o JOIN batches b ON o.landing = b.number WHERE o.domain = ? AND b.done"
        [left] = self._connection.execute(landed, (domain,)).fetchone()
        return {"accepted": states.get("accepted", 0), "pending": states.get("pending", 0), "conflicts": conflicts, "landed": left}

    def forget(self, before: datetime) -> int:
        """Drops decisions made before an instant, with outcomes told before it that have left; how many decisions. An outcome that is told again
        after that is pending."""
        with self._transaction():
            gone = self._connection.execute("DELETE FROM decisions WHERE decided_at < ?", (iso(before),)).rowcount
            done = "IN (SELECT number FROM batches WHERE done)"
            query = f"DELETE FROM outcomes WHERE received_at < ? AND landing {done} AND shipment {done}"  # noqa: S608 -- our own words
            self._connection.execute(query, (iso(before),))
            return gone

    def _transaction(self) -> _Transaction:
        return _Transaction(self._connection)


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with closing(self._connection.cursor()) as cursor:
            cursor.execute("ROLLBACK" if kind else "COMMIT")
