"""The server's memory: every resource as a JSON document in SQLite, written before the caller is answered.

WAL with ``synchronous=FULL``: a transaction that returned is on disk, so nothing acknowledged is lost by ``kill -9`` or a
power cut. Documents are kept in the form that goes on the wire (timestamps are seconds since 1970), so a Describe*
answers with what was asked for. One connection behind a lock: statements take microseconds, and every
read-modify-write is one transaction.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Document = dict[str, Any]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS resources (
    kind TEXT NOT NULL, name TEXT NOT NULL, created REAL NOT NULL,
    document TEXT NOT NULL,   -- what Describe* answers with
    private TEXT NOT NULL,    -- what the server needs beside it
    PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tags (arn TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (arn, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS processes (pid INTEGER PRIMARY KEY, started REAL NOT NULL, owner TEXT NOT NULL);
"""


class AlreadyExists(Exception):
    """The (kind, name) is taken."""


class Missing(Exception):
    """There is no such (kind, name)."""


@dataclass
class Resource:
    """One stored resource."""

    kind: str
    name: str
    document: Document
    private: Document


def now() -> float:
    """The current time as the wire carries it, in milliseconds' precision."""
    return round(time.time(), 3)


class Store:
    """Resources by kind and name, tags by ARN, version counters, and the processes to reap after a crash."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the database; later calls fail."""
        with self._lock:
            self._connection.close()

    def transaction(self) -> _Transaction:
        """A context in which everything read and written is one transaction; nests into an open one."""
        return _Transaction(self._lock, self._connection)

    def create(self, kind: str, name: str, document: Document, private: Document | None = None) -> None:
        """Write a new resource, or raise AlreadyExists."""
        with self.transaction() as connection:
            try:
                connection.execute(
                    "INSERT INTO resources VALUES (?, ?, ?, ?, ?)", (kind, name, now(), json.dumps(document), json.dumps(private or {}))
                )
            except sqlite3.IntegrityError as error:
                raise AlreadyExists(f"{kind} {name}") from error

    def get(self, kind: str, name: str) -> Resource:
        """The resource, or Missing."""
        with self._lock:
            row = self._connection.execute("SELECT document, private FROM resources WHERE kind = ? AND name = ?", (kind, name)).fetchone()
        if row is None:
            raise Missing(f"{kind} {name}")
        return Resource(kind, name, json.loads(row[0]), json.loads(row[1]))

    def exists(self, kind: str, name: str) -> bool:
        """Whether the resource is there."""
        with self._lock:
            return self._connection.execute("SELECT 1 FROM resources WHERE kind = ? AND name = ?", (kind, name)).fetchone() is not None

    def all(self, kind: str) -> Iterator[Resource]:
        """Every resource of a kind, by name."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT name, document, private FROM resources WHERE kind = ? ORDER BY name", (kind,)
            ).fetchall()
        for name, document, private in rows:
            yield Resource(kind, name, json.loads(document), json.loads(private))

    def count(self, kind: str) -> int:
        """How many resources of a kind there are."""
        with self._lock:
            return int(self._connection.execute("SELECT count(*) FROM resources WHERE kind = ?", (kind,)).fetchone()[0])

    def update(self, kind: str, name: str, change: Callable[[Resource], None]) -> Resource:
        """Apply ``change`` to the resource in one transaction and return it; raises Missing, or what ``change`` raises (then nothing is written)."""
        with self.transaction() as connection:
            resource = self.get(kind, name)
            change(resource)
            connection.execute(
                "UPDATE resources SET document = ?, private = ? WHERE kind = ? AND name = ?",
                (json.dumps(resource.document), json.dumps(resource.private), kind, name),
            )
            return resource

    def delete(self, kind: str, name: str) -> None:
        """Remove the resource and, if it has an ``Arn`` in its private part, its tags; raises Missing."""
        with self.transaction() as connection:
            resource = self.get(kind, name)
            connection.execute("DELETE FROM resources WHERE kind = ? AND name = ?", (kind, name))
            if "Arn" in resource.private:
                connection.execute("DELETE FROM tags WHERE arn = ?", (resource.private["Arn"],))

    def next_number(self, counter: str) -> int:
        """The next value of a counter that never goes back (versions are not reused after a delete)."""
        with self.transaction() as connection:
            connection.execute("INSERT INTO counters VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1", (counter,))
            return int(connection.execute("SELECT value FROM counters WHERE name = ?", (counter,)).fetchone()[0])

    def set_tags(self, arn: str, tags: dict[str, str]) -> None:
        """Add tags or replace their values."""
        with self.transaction() as connection:
            connection.executemany(
                "INSERT INTO tags VALUES (?, ?, ?) ON CONFLICT (arn, key) DO UPDATE SET value = excluded.value",
                [(arn, key, value) for key, value in tags.items()],
            )

    def tags(self, arn: str) -> dict[str, str]:
        """The tags of a resource, by key."""
        with self._lock:
            return dict(self._connection.execute("SELECT key, value FROM tags WHERE arn = ? ORDER BY key", (arn,)).fetchall())

    def remove_tags(self, arn: str, keys: list[str]) -> None:
        """Remove tags; a key that is not there is no error, as on AWS."""
        with self.transaction() as connection:
            connection.executemany("DELETE FROM tags WHERE arn = ? AND key = ?", [(arn, key) for key in keys])

    def record_process(self, pid: int, started: float, owner: str) -> None:
        """Remember a process, so that it can be ended after a crash."""
        with self.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO processes VALUES (?, ?, ?)", (pid, started, owner))

    def forget_process(self, pid: int) -> None:
        """Forget a process that has ended."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM processes WHERE pid = ?", (pid,))

    def processes(self) -> list[tuple[int, float, str]]:
        """The recorded processes: pid, start time (as psutil tells it), owner."""
        with self._lock:
            return [(int(pid), float(started), str(owner)) for pid, started, owner in self._connection.execute("SELECT * FROM processes")]


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT under the store's lock; an inner transaction is part of the outer one."""

    def __init__(self, lock: AbstractContextManager[bool], connection: sqlite3.Connection) -> None:
        self._lock = lock
        self._connection = connection
        self._outermost = False

    def __enter__(self) -> sqlite3.Connection:
        self._lock.__enter__()
        self._outermost = not self._connection.in_transaction
        if self._outermost:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error:
                self._lock.__exit__(None, None, None)
                raise
        return self._connection

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if self._outermost:
                self._connection.execute("COMMIT" if kind is None else "ROLLBACK")
        finally:
            self._lock.__exit__(None, None, None)
