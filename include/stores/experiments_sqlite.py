"""The experiment store in one SQLite file, for the processes of one machine.

Write-ahead logging: readers never wait for the writer, and a process killed in a write leaves nothing of it. The file must lie on a local disk:
over a network, SQLite's locks do not hold. A connection lasts for one call, as Airflow forks its workers, and a connection must not cross a fork.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from include.lifecycle.experiment import Command, Entry, Experiment, GatewayHealth
from include.stores.experiments import (
    COMMANDS_AT_ONCE,
    ExperimentStoreUnavailable,
    UnknownExperiment,
    check_successor,
    command_of,
    command_text,
    entry_of,
    entry_text,
    experiment_of,
    experiment_text,
    health_text,
    healths_of,
    running,
    same_experiment,
)

_BUSY_SECONDS = 1.3
_FIRST_SCHEMA = """
CREATE TABLE experiments (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, domain TEXT NOT NULL, ended INTEGER NOT NULL, document TEXT NOT NULL
);
CREATE UNIQUE INDEX one_of_a_domain_runs ON experiments (domain) WHERE NOT ended;
CREATE TABLE entries (number INTEGER PRIMARY KEY, experiment TEXT NOT NULL REFERENCES experiments (id), document TEXT NOT NULL);
CREATE INDEX entries_of_experiment ON entries (experiment);
CREATE TABLE commands (
    number INTEGER PRIMARY KEY, experiment TEXT NOT NULL REFERENCES experiments (id), id TEXT NOT NULL, done INTEGER NOT NULL DEFAULT 0,
    document TEXT NOT NULL, UNIQUE (experiment, id)
);
CREATE TABLE healths (
    experiment TEXT NOT NULL REFERENCES experiments (id), step INTEGER NOT NULL, gateway TEXT NOT NULL, document TEXT NOT NULL,
    PRIMARY KEY (experiment, step, gateway)
) WITHOUT ROWID;
"""
_SCHEMAS = (
    _FIRST_SCHEMA,
    "CREATE TABLE watched (experiment TEXT PRIMARY KEY REFERENCES experiments (id), at TEXT NOT NULL) WITHOUT ROWID;",
)
"""What ``ensure`` adds to a file of the schema before: a change is one more of them."""
SCHEMA_VERSION = len(_SCHEMAS)
"""``PRAGMA user_version`` of a file."""


class SQLiteExperiments:
    """See ``ExperimentStore``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ensure(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ExperimentStoreUnavailable(f"{self._path.parent} cannot be made: {error.strerror}") from error
        with self._connection(create=True) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            _begin_writing(connection)
            for statement in filter(str.strip, "".join(_SCHEMAS[_version(connection) :]).split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")

    def create(self, experiment: Experiment, entries: Sequence[Entry] = ()) -> Experiment:
        first = experiment.but(version=1)
        with self._writing() as connection:
            if stored := _found(connection, "id = ?", experiment.id):
                return same_experiment(stored, experiment)
            if present := _found(connection, "domain = ? AND NOT ended", experiment.domain):
                raise running(present)
            connection.execute(
                "INSERT INTO experiments (id, domain, ended, document) VALUES (?, ?, ?, ?)",
                (first.id, first.domain, first.ended, experiment_text(first)),
            )
            _append(connection, first, entries)
        return first

    def find(self, experiment: str) -> Experiment | None:
        with self._reading() as connection:
            return _found(connection, "id = ?", experiment)

    def get(self, experiment: str) -> Experiment:
        with self._reading() as connection:
            return _known(connection, experiment)

    def current(self, domain: str) -> Experiment | None:
        with self._reading() as connection:
            return _found(connection, "domain = ? ORDER BY ended, number DESC LIMIT 1", domain)

    def save(self, experiment: Experiment, entries: Sequence[Entry] = (), done: Sequence[str] = ()) -> Experiment:
        following = experiment.but(version=experiment.version + 1)
        with self._writing() as connection:
            check_successor(_known(connection, experiment.id), experiment)
            connection.execute(
                "UPDATE experiments SET ended = ?, document = ? WHERE id = ?", (following.ended, experiment_text(following), following.id)
            )
            _append(connection, following, entries)
            connection.executemany("UPDATE commands SET done = 1 WHERE experiment = ? AND id = ?", [(experiment.id, each) for each in done])
        return following

    def history(self, experiment: str) -> list[Entry]:
        with self._reading() as connection:
            _known(connection, experiment)
            rows = connection.execute("SELECT document FROM entries WHERE experiment = ? ORDER BY number", (experiment,))
            return [entry_of(text) for (text,) in rows]

    def give(self, experiment: str, command: Command) -> None:
        with self._writing() as connection:
            _known(connection, experiment)
            connection.execute(
                "INSERT INTO commands (experiment, id, document) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (experiment, command.id, command_text(command)),
            )

    def commands(self, experiment: str) -> list[Command]:
        with self._reading() as connection:
            _known(connection, experiment)
            asked = "SELECT document FROM commands WHERE experiment = ? AND NOT done ORDER BY number LIMIT ?"
            return [command_of(text) for (text,) in connection.execute(asked, (experiment, COMMANDS_AT_ONCE))]

    def put_health(self, experiment: str, health: GatewayHealth) -> None:
        with self._writing() as connection:
            _known(connection, experiment)
            connection.execute(
                "INSERT INTO healths (experiment, step, gateway, document) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (experiment, step, gateway) DO UPDATE SET document = excluded.document",
                (experiment, health.step, health.gateway, health_text(health)),
            )

    def healths(self, experiment: str, step: int) -> list[GatewayHealth]:
        with self._reading() as connection:
            _known(connection, experiment)
            rows = connection.execute("SELECT document FROM healths WHERE experiment = ? AND step = ? ORDER BY gateway", (experiment, step))
            return healths_of(text for (text,) in rows)

    def note_watched(self, experiment: str, at: str) -> None:
        with self._writing() as connection:
            _known(connection, experiment)
            connection.execute(
                "INSERT INTO watched (experiment, at) VALUES (?, ?) ON CONFLICT (experiment) DO UPDATE SET at = excluded.at",
                (experiment, at),
            )

    def watched(self, experiment: str) -> str | None:
        with self._reading() as connection:
            _known(connection, experiment)
            row = connection.execute("SELECT at FROM watched WHERE experiment = ?", (experiment,)).fetchone()
            return str(row[0]) if row else None

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One snapshot for all that is read."""
        with self._connection() as connection:
            connection.execute("BEGIN")
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; no other process writes meanwhile."""
        with self._connection() as connection:
            _begin_writing(connection)
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def _connection(self, create: bool = False) -> Iterator[sqlite3.Connection]:
        """What was begun and not committed when it closes is undone."""
        connection = None
        try:
            connection = sqlite3.connect(
                f"{self._path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}",
                uri=True,
                timeout=_BUSY_SECONDS,
                isolation_level=None,  # transactions are begun by hand
                check_same_thread=False,
            )
            connection.execute("PRAGMA synchronous = FULL")  # what was answered outlives a power cut, too
            connection.execute("PRAGMA foreign_keys = ON")
            if (found := _version(connection)) > SCHEMA_VERSION or (found < SCHEMA_VERSION and not create):
                older = "the store's ensure() brings it there" if found else "nothing has made a store of it yet"
                raise ExperimentStoreUnavailable(
                    f"{self._path} has the schema {found} of experiment stores, and this code knows {SCHEMA_VERSION}"
                    + (f": {older}" if found < SCHEMA_VERSION else "")
                )
            yield connection
        except sqlite3.Error as error:
            missing = "" if self._path.exists() else ": there is no such file, and only the store's ensure() makes one"
            raise ExperimentStoreUnavailable(f"the experiment store {self._path} does not answer ({error}){missing}") from error
        finally:
            if connection is not None:
                connection.close()


def _begin_writing(connection: sqlite3.Connection) -> None:
    """SQLite's own wait looks again ever more seldom, and so may never get its turn among busy writers. This looks every few milliseconds."""
    connection.execute("PRAGMA busy_timeout = 2")
    deadline = time.monotonic() + _BUSY_SECONDS
    while not connection.in_transaction:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
    connection.execute(f"PRAGMA busy_timeout = {int(1000 * _BUSY_SECONDS)}")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _found(connection: sqlite3.Connection, where: str, value: str) -> Experiment | None:
    row = connection.execute(f"SELECT document FROM experiments WHERE {where}", (value,)).fetchone()  # noqa: S608 -- ours, all of it
    return experiment_of(row[0]) if row else None


def _known(connection: sqlite3.Connection, experiment: str) -> Experiment:
    if (found := _found(connection, "id = ?", experiment)) is None:
        raise UnknownExperiment(f"the store has no experiment {experiment!r}")
    return found


def _append(connection: sqlite3.Connection, experiment: Experiment, entries: Sequence[Entry]) -> None:
    rows = [(experiment.id, entry_text(replace(entry, version=experiment.version))) for entry in entries]
    connection.executemany("INSERT INTO entries (experiment, document) VALUES (?, ?)", rows)
