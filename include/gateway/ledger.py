"""Which decisions are known here, and what became of them: a SQLite file, from which no outcome is lost and none counted twice.

An outcome is accepted where its decision is known, pending where it is not yet, and then accepted when the decision comes. Of what this gateway is
told of one event the first outcome stands: the same label again changes nothing, another one is a conflict, which is kept beside it and never takes
its place. What another gateway was told is not known here: where the two contradict each other, both land (see ``Batch.made``).

Accepted outcomes leave in batches, as a landing file of labels; all outcomes leave in batches for the audit. A batch is written down with
its rows before it leaves, so that one that was cut off leaves again, the same, under the same name.

Methods block, and are for one thread.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Literal

from include.gateway.schemas import OutcomeState
from include.lifecycle.as_of import iso

_log = logging.getLogger(__name__)
BatchKind = Literal["labels", "outcomes"]
_COLUMN: dict[BatchKind, str] = {"labels": "landing", "outcomes": "shipment"}
_SCHEMA = """
CREATE TABLE IF NOT EXISTS decisions (
    domain TEXT NOT NULL, inference_id TEXT NOT NULL, decided_at TEXT NOT NULL, PRIMARY KEY (domain, inference_id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS decided ON decisions (decided_at);
CREATE TABLE IF NOT EXISTS batches (
    number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, domain TEXT NOT NULL, day TEXT NOT NULL, gateway TEXT NOT NULL,
    done INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS still_here ON batches (kind, domain) WHERE NOT done;
CREATE TABLE IF NOT EXISTS outcomes (
    domain TEXT NOT NULL, inference_id TEXT NOT NULL, label INTEGER NOT NULL CHECK (label IN (0, 1)), known_at TEXT NOT NULL,
    received_at TEXT NOT NULL, said_by TEXT NOT NULL, state TEXT NOT NULL CHECK (state IN ('accepted', 'pending')),
    landing INTEGER REFERENCES batches, shipment INTEGER REFERENCES batches, PRIMARY KEY (domain, inference_id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS to_land ON outcomes (domain, state) WHERE landing IS NULL;
CREATE INDEX IF NOT EXISTS to_ship ON outcomes (domain) WHERE shipment IS NULL;
CREATE INDEX IF NOT EXISTS landed ON outcomes (landing);
CREATE INDEX IF NOT EXISTS shipped ON outcomes (shipment);
CREATE INDEX IF NOT EXISTS received ON outcomes (received_at);
CREATE INDEX IF NOT EXISTS waiting ON outcomes (received_at) WHERE state = 'pending';
CREATE TABLE IF NOT EXISTS conflicts (
    domain TEXT NOT NULL, inference_id TEXT NOT NULL, label INTEGER NOT NULL, known_at TEXT NOT NULL, received_at TEXT NOT NULL,
    said_by TEXT NOT NULL, PRIMARY KEY (domain, inference_id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS contradicted ON conflicts (received_at);
CREATE TABLE IF NOT EXISTS shipments_known (
    domain TEXT NOT NULL, day TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (day, domain, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS searched (domain TEXT PRIMARY KEY, day TEXT NOT NULL) WITHOUT ROWID;
DROP TABLE IF EXISTS objects_read;
CREATE TABLE IF NOT EXISTS totals (domain TEXT NOT NULL, what TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (domain, what)) WITHOUT ROWID;
"""


def _counting(when: str, domain: str, what: str, by: str) -> str:
    """A trigger that adds to a total: what is counted changes with its rows, in their transaction."""
    name = "_".join(re.findall("[a-z]+", f"{when} {what}".lower()))
    return f"""
        CREATE TRIGGER IF NOT EXISTS {name} AFTER {when} BEGIN
            INSERT OR IGNORE INTO totals VALUES ({domain}, {what}, 0);
            UPDATE totals SET number = number + {by} WHERE domain = {domain} AND what = {what};
        END;
    """  # noqa: S608 -- our own words


_TRIGGERS = "".join((
    _counting("INSERT ON outcomes", "NEW.domain", "NEW.state", "1"),
    _counting("UPDATE OF state ON outcomes", "OLD.domain", "OLD.state", "-1"),
    _counting("UPDATE OF state ON outcomes", "NEW.domain", "NEW.state", "1"),
    _counting("DELETE ON outcomes", "OLD.domain", "OLD.state", "-1"),
    _counting("INSERT ON conflicts", "NEW.domain", "'conflicts'", "1"),
    _counting("DELETE ON conflicts", "OLD.domain", "'conflicts'", "-1"),
    _counting(
        "UPDATE OF done ON batches WHEN NEW.kind = 'labels' AND NEW.done > OLD.done",
        "NEW.domain",
        "'landed'",
        "(SELECT count(*) FROM outcomes WHERE landing = NEW.number)",
    ),
    _counting("DELETE ON outcomes WHEN OLD.landing IS NOT NULL", "OLD.domain", "'landed'", "-1"),  # only what has left is deleted
))
_COUNT_ANEW = """
BEGIN;
DELETE FROM totals;
INSERT INTO totals SELECT domain, state, count(*) FROM outcomes GROUP BY domain, state;
INSERT INTO totals SELECT domain, 'conflicts', count(*) FROM conflicts GROUP BY domain;
INSERT INTO totals
    SELECT o.domain, 'landed', count(*) FROM outcomes o JOIN batches b ON o.landing = b.number WHERE b.done GROUP BY o.domain;
PRAGMA user_version = 1;
COMMIT;
"""
"""For a file from before there were totals, and for a new one."""


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
    """Rows that leave together. ``day``: under which. ``made``: when and by which gateway, part of its name for ever. Ingestion takes what two
    gateways say of one event in the order of the delivery's day and then of the file's name, the later as a correction: so the name begins with the
    instant."""

    number: int
    kind: BatchKind
    domain: str
    day: date
    made: str
    rows: tuple[LedgerRow, ...]


class Ledger:
    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")  # an outcome is on the disk before its answer
        self._connection.executescript(_SCHEMA + _TRIGGERS)
        if self._connection.execute("PRAGMA user_version").fetchone() == (0,):
            self._connection.executescript(_COUNT_ANEW)
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

    def index(self, domain: str, decisions: Iterable[tuple[str, str]], shipment: tuple[date, str] | None = None) -> int:
        """Makes decisions, (inference id, decided at), known, and returns how many pending outcomes are accepted now. ``shipment``: the day and the
        key of the object they are in, so that it need not be read any more."""
        with self._transaction():
            rows = [(domain, inference_id, decided_at) for inference_id, decided_at in decisions]
            self._connection.executemany("INSERT OR IGNORE INTO decisions VALUES (?, ?, ?)", rows)
            if shipment is not None:
                day, key = shipment
                self._connection.execute("INSERT OR IGNORE INTO shipments_known VALUES (?, ?, ?)", (domain, day.isoformat(), key))
            accepted = self._connection.executemany(
                "UPDATE outcomes SET state = 'accepted' WHERE domain = ? AND inference_id = ? AND state = 'pending'",
                [row[:2] for row in rows],
            )
            return accepted.rowcount if rows else 0

    def shipments_known(self, domain: str, day: date) -> set[str]:
        """The keys of the day's objects whose decisions are known."""
        query = "SELECT key FROM shipments_known WHERE domain = ? AND day = ?"
        return {key for (key,) in self._connection.execute(query, (domain, day.isoformat()))}

    def searched(self, domain: str) -> date | None:
        """The day on which all days' objects had been looked through; None: never."""
        found = self._connection.execute("SELECT day FROM searched WHERE domain = ?", (domain,)).fetchone()
        return date.fromisoformat(found[0]) if found else None

    def note_searched(self, domain: str, day: date) -> None:
        with self._transaction():
            self._connection.execute("INSERT OR REPLACE INTO searched VALUES (?, ?)", (domain, day.isoformat()))

    def has_new_labels(self, domain: str) -> bool:
        """Whether an accepted outcome is in no batch of labels."""
        query = "SELECT 1 FROM outcomes WHERE domain = ? AND state = 'accepted' AND landing IS NULL LIMIT 1"
        return self._connection.execute(query, (domain,)).fetchone() is not None

    def open_batches(self, kind: BatchKind, domain: str, made: str, day_of: Callable[[LedgerRow], date] | None) -> list[Batch]:
        """The batches that have not left yet: earlier ones, and new ones of all outcomes that are in none, one for each ``day_of`` them (None:
        only the earlier ones)."""
        column = _COLUMN[kind]
        if day_of is not None:
            with self._transaction():
                self._make_batches(kind, domain, made, day_of)
        open_ones = self._connection.execute(
            "SELECT number, day, gateway FROM batches WHERE kind = ? AND domain = ? AND NOT done ORDER BY number", (kind, domain)
        ).fetchall()
        return [
            Batch(number, kind, domain, date.fromisoformat(day), name, tuple(self._rows(f"domain = ? AND {column} = ?", domain, number)))
            for number, day, name in open_ones
        ]

    def _make_batches(self, kind: BatchKind, domain: str, made: str, day_of: Callable[[LedgerRow], date]) -> None:
        column, accepted = _COLUMN[kind], "AND state = 'accepted'" if kind == "labels" else ""
        days: dict[date, list[LedgerRow]] = {}
        for row in self._rows(f"domain = ? AND {column} IS NULL {accepted}", domain):
            days.setdefault(day_of(row), []).append(row)
        for day, rows in sorted(days.items()):
            batch = self._connection.execute(
                "INSERT INTO batches (kind, domain, day, gateway) VALUES (?, ?, ?, ?)", (kind, domain, day.isoformat(), made)
            )
            self._connection.executemany(
                f"UPDATE outcomes SET {column} = {int(batch.lastrowid or 0)} WHERE domain = ? AND inference_id = ?",  # noqa: S608
                [(domain, row.inference_id) for row in rows],
            )

    def batch_left(self, batch: Batch) -> None:
        with self._transaction():
            self._connection.execute("UPDATE batches SET done = 1 WHERE number = ?", (batch.number,))

    def _rows(self, where: str, *values: str | int) -> list[LedgerRow]:
        columns = "inference_id, label, known_at, received_at, said_by"
        query = f"SELECT {columns} FROM outcomes WHERE {where} ORDER BY known_at, inference_id"  # noqa: S608 -- our own words
        return [LedgerRow(*row) for row in self._connection.execute(query, values)]

    def pending(self, domain: str, since: datetime) -> bool:
        """Whether an outcome that was told since then waits for its decision."""
        query = "SELECT 1 FROM outcomes INDEXED BY waiting WHERE domain = ? AND state = 'pending' AND received_at >= ? LIMIT 1"
        return self._connection.execute(query, (domain, iso(since))).fetchone() is not None

    def counts(self, domain: str) -> dict[str, int]:
        """{"accepted", "pending", "conflicts", "landed" (of the accepted)}."""
        found = dict(self._connection.execute("SELECT what, number FROM totals WHERE domain = ?", (domain,)))
        return {what: found.get(what, 0) for what in ("accepted", "pending", "conflicts", "landed")}

    def forget(self, before: datetime, at_most: int = 1000) -> int:
        """Drops decisions made before an instant, outcomes told before it that have left, what contradicted them, outcomes whose decision never
        came, and shipments of earlier days; of each ``at_most``, so that others need not wait long for the ledger. How many rows: 0 when all are
        gone. An outcome that is told again after that is pending."""
        instant = iso(before)
        landed, shipped = (f"(SELECT done FROM batches WHERE number = {column})" for column in ("landing", "shipment"))  # noqa: S608
        with self._transaction():
            given_up = self._drop("outcomes", "waiting", f"received_at < ? AND state = 'pending' AND {shipped}", instant, at_most)
            gone = self._drop("decisions", "decided", "decided_at < ?", instant, at_most)
            gone += self._drop("outcomes", "received", f"received_at < ? AND {landed} AND {shipped}", instant, at_most)
            gone += self._drop("conflicts", "contradicted", "received_at < ?", instant, at_most)
            old = f"SELECT day, domain, key FROM shipments_known WHERE day < ? LIMIT {at_most}"  # noqa: S608 -- our own words
            shipments = f"DELETE FROM shipments_known WHERE (day, domain, key) IN ({old})"  # noqa: S608
            gone += self._connection.execute(shipments, (before.date().isoformat(),)).rowcount
        if given_up:
            _log.warning("%d outcomes told before %s are given up, for no gateway decided about their events", given_up, instant)
        return gone + given_up

    def _drop(self, table: str, index: str, where: str, instant: str, at_most: int) -> int:
        chosen = f"SELECT domain, inference_id FROM {table} INDEXED BY {index} WHERE {where} LIMIT {at_most}"  # noqa: S608 -- our own words
        return self._connection.execute(f"DELETE FROM {table} WHERE (domain, inference_id) IN ({chosen})", (instant,)).rowcount  # noqa: S608

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
