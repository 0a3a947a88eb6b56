"""Curated history as a pure function of the set of landed files, computed from what is there and what is new.

A key's **versions** are its good rows in the order of (delivery, source). The first holds as the domain says; a later one that equals its
predecessor says nothing new and is a **repeat**, which goes to quarantine; any other is appended, and is available from its own expression
or its delivery, whichever is later, never before the version that it corrects.

Comparing with the predecessor makes the outcome independent of the order in which files are ingested, provided that a file which arrives
late brings back the files delivered after it that share a key with it: whether their rows are repeats, and from when they hold, may change.
``later_sources`` finds those; the caller reads them again from ``raw/`` and treats them as new.

A correction may move an event to another day. Readers fetch a few days' partitions, and must learn from any day that held the event what has
become of it. So all versions of an event lie in each day that holds one of them: one on its own day, and as copies on the others. Which
version a reader takes follows from ``available_at`` and not from the day under which it found it. Reference tables are read whole and have
no copies.

Everything here is SQL over temporary tables of one DuckDB connection, for a table ``t`` of the domain:

- ``candidates_t``: good rows of the files in hand (those of this run and those brought back);
- ``stored_t``: curated rows as they lie in S3, with ``_key``, ``_path`` and ``_day``, the partition that holds them: of the days that matter;
- ``state_t``: of these the versions, each once and on its own day, without the copies;
- ``repeats_t``: ``_key, source, delivered_at`` of rows quarantined as repeats by earlier runs, where they may matter;
- ``versions_t``: the outcome for the files in hand.

Which days matter: those that hold rows of the files in hand or of a key that these files touch (``touched_keys``), because nothing else is
compared, moved or counted; and, once the outcome is known, the days that are written anew. The caller finds them by an index of the keys.

Labels have one history whether they arrive inline or in deliveries of their own: ``candidates_labels`` takes both. A label whose event is
unknown stays in that history, under ``curated/labels``, and appears under ``labels/`` in the run in which the event arrives: there too, in
each day that holds a version of the event.
"""

# ruff: noqa: S608 -- statements are put together from the domain's checked identifiers

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.lifecycle.delivery import SOURCE_SUFFIX, Delivery
from include.lifecycle.domain import LABELS_TABLE, Column, Domain, Table
from include.lifecycle.landing import RECORD
from include.lifecycle.row_checks import KEY, SQL_TYPES, key_text

REPEATED = "duplicate of a curated row"
CONTRADICTORY = "contradictory rows for one key"
_TIMES = ("event_time", "available_at", "delivered_at")
_ORDER = "delivered_at, source"
_WRITTEN = "event_time, available_at, delivered_at, source"
_LABEL_COLUMNS = {"event_id": "VARCHAR", "label": "BIGINT", **dict.fromkeys(_TIMES, "TIMESTAMP"), "source": "VARCHAR"}
_DAY_OF_FILE = "CAST(replace(parse_filename(_partition, true), 'dt=', '') AS DATE)"
_PATH = f"regexp_replace(source, '{SOURCE_SUFFIX}', '')"
_NUMBER = f"coalesce(TRY_CAST({KEY} AS BIGINT), CAST(md5_number_lower({KEY}) & {2**48 - 1} AS BIGINT))"
"""A key as a 64-bit integer, by which keys are indexed: its own value where it is one, otherwise 48 bits of its MD5. Two keys that share a
number cost an object read in vain: between two sets of a million hashed keys, once in 280 times."""
INLINE_LABELS = "inline_labels"
"""Temporary table (``_file, _record, _key``, the label's column, ``_decided_at``): the labels that stand in rows of the event table in hand."""
PROCESSED = "processed_paths"
"""Temporary table (``_path``): the files in hand. Their rows in the state are replaced."""


@dataclass(frozen=True)
class CuratedTable:
    """What is kept of a landing table: its columns without an inline label, and on which day's partition a row lies."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    day: str
    """SQL: the partition's day."""
    compared: tuple[str, ...]
    """SQL: the values in which versions of a key may differ."""
    copied: bool
    """Whether each day that holds a version of a key holds all of them."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def quoted(self) -> str:
        return ", ".join(f'"{name}"' for name in self.names)

    @property
    def stored_key(self) -> str:
        """SQL: the key as text, from the columns as they are stored."""
        return key_text(Table(self.name, self.columns, self.key))

    @property
    def values(self) -> str:
        return f"row({', '.join(self.compared)})"


def curated_tables(domain: Domain) -> dict[str, CuratedTable]:
    """By name, in the order of the domain, ``labels`` last."""
    return {table.name: _curated(domain, table) for table in domain.landing_tables}


def _curated(domain: Domain, table: Table) -> CuratedTable:
    inline = domain.label.column if table.name == domain.event_table else None
    columns = tuple(column for column in table.columns if column.name != inline)
    day = "CAST(event_time AS DATE)" if table.kind == "event" else "CAST(delivered_at - INTERVAL 1 DAY AS DATE)"
    compared = tuple(f'"{column.name}"' for column in columns)
    if table.name == LABELS_TABLE:  # an inline label's instant follows from its event and its delivery: only the label itself is news
        compared = ("label", f"CASE WHEN starts_with(source, '{LABELS_TABLE}/') THEN decided_at END")
    copied = table.kind == "event" and table.name != LABELS_TABLE  # the labels' history is ingest's own: others read ``labels/``
    return CuratedTable(table.name, columns, table.key, day, compared, copied)


def create_state(connection: duckdb.DuckDBPyConnection, table: CuratedTable) -> None:
    """``stored_t`` without rows, and ``state_t``, which follows it."""
    columns = "".join(f'"{column.name}" {SQL_TYPES[column.type]}, ' for column in table.columns)
    times = "".join(f"{name} TIMESTAMP, " for name in _TIMES)
    connection.execute(f"CREATE TEMP TABLE stored_{table.name} ({columns}{times}source VARCHAR, _day DATE, {KEY} VARCHAR, _path VARCHAR)")
    connection.execute(f"CREATE TEMP VIEW state_{table.name} AS SELECT * FROM stored_{table.name} WHERE _day = {table.day}")
    connection.execute(f"CREATE TEMP TABLE repeats_{table.name} ({KEY} VARCHAR, source VARCHAR, delivered_at TIMESTAMP)")


def load_state(connection: duckdb.DuckDBPyConnection, table: CuratedTable, files: Sequence[Path]) -> None:
    """Adds partitions' files to ``stored_t``. DuckDB spills to disk where memory is short."""
    times = ", ".join(f"CAST({name} AS TIMESTAMP) AS {name}" for name in _TIMES)
    columns = ", ".join(
        f'CAST("{column.name}" AS TIMESTAMP) AS "{column.name}"' if column.type == "timestamp" else f'"{column.name}"'
        for column in table.columns
    )
    rows = f"SELECT {columns}, {times}, source, {_DAY_OF_FILE} AS _day FROM {_read_parquet(files)}"
    connection.execute(f"INSERT INTO stored_{table.name} SELECT *, {table.stored_key} AS {KEY}, {_PATH} AS _path FROM ({rows})")


def touched_keys(connection: duckdb.DuckDBPyConnection, tables: Sequence[CuratedTable]) -> np.ndarray:
    """The numbers of the keys that the files in hand have, or had, rows of: sorted, each once. ``tables`` share their keys."""
    keys = " UNION ALL ".join(
        f"SELECT {KEY} FROM candidates_{table.name} UNION ALL SELECT {KEY} FROM stored_{table.name} WHERE _path IN (FROM {PROCESSED})"
        for table in tables
    )
    numbers = connection.sql(f"SELECT DISTINCT {_NUMBER} AS number FROM ({keys}) ORDER BY number").to_arrow_table()
    found: np.ndarray = numbers["number"].to_numpy()
    return found


def key_numbers(connection: duckdb.DuckDBPyConnection, rows: str) -> tuple[pa.Table, pa.Table]:
    """Of ``rows``, an SQL query with ``name``, ``_key`` and ``source``: (name, number), sorted, and (name, path), each once."""
    numbers = connection.sql(f"SELECT DISTINCT name, {_NUMBER} AS number FROM ({rows}) ORDER BY ALL").to_arrow_table()
    return numbers, connection.sql(f"SELECT DISTINCT name, {_PATH} AS path FROM ({rows})").to_arrow_table()


def take_contradictions(connection: duckdb.DuckDBPyConnection, table: Table, rows: str) -> list[tuple[int, int, str, str]]:
    """Takes out of ``rows`` (good rows of a landing table, with every declared column) what a file says twice about one key.

    The same values again: all but the first, with ``REPEATED``. Different values: all of them, with ``CONTRADICTORY``, because nobody can
    tell which is right. Returns (_file, _record, reason, _key)."""
    values = f"row({', '.join(f'{chr(34)}{name}{chr(34)}' for name in table.column_names)})"
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE repeated_in_file AS
        WITH several AS (SELECT _file, {KEY} FROM {rows} GROUP BY ALL HAVING count(*) > 1),
        compared AS (
            SELECT _file, {RECORD}, {KEY}, row_number() OVER w AS position, first_value({values}) OVER w IS DISTINCT FROM {values} AS differs
            FROM {rows} JOIN several USING (_file, {KEY}) WINDOW w AS (PARTITION BY _file, {KEY} ORDER BY {RECORD})),
        judged AS (SELECT *, bool_or(differs) OVER (PARTITION BY _file, {KEY}) AS contradictory FROM compared)
        SELECT _file, {RECORD}, CASE WHEN contradictory THEN '{CONTRADICTORY}' ELSE '{REPEATED}' END AS reason, {KEY}
        FROM judged WHERE contradictory OR position > 1
    """)
    connection.execute(f"DELETE FROM {rows} USING repeated_in_file r WHERE {rows}._file = r._file AND {rows}.{RECORD} = r.{RECORD}")
    return connection.execute("SELECT * FROM repeated_in_file ORDER BY ALL").fetchall()


def load_repeats(connection: duckdb.DuckDBPyConnection, name: str, rows: Sequence[tuple[str, str]]) -> None:
    """Adds (key, source) of rows in quarantine to ``repeats_t``."""
    delivered = [Delivery.of_source(source).delivered_at.replace(tzinfo=None) for _, source in rows]
    table = pa.table({
        KEY: pa.array([key for key, _ in rows], pa.string()),
        "source": pa.array([source for _, source in rows], pa.string()),
        "delivered_at": pa.array(delivered, pa.timestamp("us")),
    })
    connection.register("loaded_repeats", table)
    connection.execute(f"INSERT INTO repeats_{name} FROM loaded_repeats")
    connection.unregister("loaded_repeats")


def later_sources(connection: duckdb.DuckDBPyConnection, tables: Iterable[CuratedTable]) -> set[str]:
    """Sources delivered after a row in hand, or after a row that is about to be replaced, which have a row of the same key and are not in
    hand themselves. ``tables`` share their keys: one table, or the event table and the labels."""
    names = [table.name for table in tables]
    touched = " UNION ALL ".join(
        f"SELECT {KEY}, {_ORDER} FROM candidates_{name} UNION ALL SELECT {KEY}, {_ORDER} FROM state_{name} WHERE _path IN (FROM {PROCESSED})"
        for name in names
    )
    known = [f"SELECT {KEY}, {_ORDER} FROM {kind}_{name}" for name in names for kind in ("state", "repeats")]
    rows = connection.execute(f"""
        WITH touched AS ({touched}),
        earliest AS (SELECT {KEY}, min(row({_ORDER})) AS place FROM touched GROUP BY {KEY})
        SELECT DISTINCT source FROM ({" UNION ALL ".join(known)}) JOIN earliest USING ({KEY})
        WHERE row({_ORDER}) > place AND {_PATH} NOT IN (FROM {PROCESSED})
    """).fetchall()
    return {source for (source,) in rows}


def resolve(connection: duckdb.DuckDBPyConnection, table: CuratedTable) -> None:
    """``versions_t`` from ``candidates_t``, which goes, and ``state_t``: every candidate, with ``_new`` (a version; otherwise a repeat),
    ``_first`` (the first version of its key) and its final ``available_at``."""
    name, columns = table.name, table.quoted
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE versions_{name} AS
        WITH pool AS (
            SELECT _file, {RECORD}, {KEY}, {columns}, event_time, available_at, delivered_at, source, false AS settled FROM candidates_{name}
            UNION ALL
            SELECT NULL, NULL, {KEY}, {columns}, event_time, available_at, delivered_at, source, true FROM state_{name}
            WHERE _path NOT IN (FROM {PROCESSED}) AND {KEY} IN (SELECT {KEY} FROM candidates_{name})),
        single AS (SELECT {KEY} FROM pool GROUP BY {KEY} HAVING count(*) = 1),
        compared AS (
            SELECT *, row_number() OVER w = 1 AS _first, lag({table.values}) OVER w IS DISTINCT FROM {table.values} AS differs
            FROM pool WHERE {KEY} NOT IN (FROM single) WINDOW w AS (PARTITION BY {KEY} ORDER BY {_ORDER})),
        judged AS (SELECT * EXCLUDE (differs), settled OR _first OR differs AS _new FROM compared),
        held AS (
            SELECT * EXCLUDE (available_at), max(CASE WHEN NOT _new THEN NULL WHEN settled OR _first THEN available_at
                ELSE greatest(available_at, delivered_at) END) OVER (PARTITION BY {KEY} ORDER BY {_ORDER}) AS available_at FROM judged)
        SELECT * EXCLUDE (settled) FROM held WHERE NOT settled
        UNION ALL BY NAME
        SELECT * EXCLUDE (settled), true AS _first, true AS _new FROM pool WHERE {KEY} IN (FROM single) AND NOT settled
    """)
    connection.execute(f"DROP TABLE candidates_{name}")


def resolve_inline_labels(connection: duckdb.DuckDBPyConnection, domain: Domain) -> None:
    """Adds the labels that stand in the event table's rows to ``candidates_labels``, once their events are resolved: a label in a corrected
    row was not known before that row was delivered."""
    events = domain.event_table
    connection.execute(f"""
        INSERT INTO candidates_{LABELS_TABLE} BY NAME
        SELECT l._file, l.{RECORD}, l.{KEY}, v."{domain.event_id}", l."{domain.label.column}" AS label, l._decided_at AS decided_at,
            l._decided_at AS event_time, v.delivered_at, v.source,
            CASE WHEN v._first THEN l._decided_at ELSE greatest(l._decided_at, v.delivered_at) END AS available_at
        FROM {INLINE_LABELS} l JOIN versions_{events} v USING (_file, {RECORD})
    """)


def repeats(connection: duckdb.DuckDBPyConnection, domain: Domain, name: str) -> list[tuple[int, int, str, str]]:
    """(_file, _record, REPEATED, _key) of the candidates that say nothing new: neither as a version, nor, in the event table, as a label."""
    label = ""
    if name == domain.event_table:
        label = f"AND (_file, {RECORD}) NOT IN (SELECT (_file, {RECORD}) FROM versions_{LABELS_TABLE} WHERE _new)"
    landed_here = f"starts_with(source, '{name}/')"  # the labels' history holds inline labels too: those rows are the event table's
    return connection.execute(
        f"SELECT _file, {RECORD}, '{REPEATED}', {KEY} FROM versions_{name} WHERE NOT _new AND {landed_here} {label} ORDER BY ALL"
    ).fetchall()


def curated_records(connection: duckdb.DuckDBPyConnection, domain: Domain) -> dict[int, int]:
    """_file → how many of its records are curated: as a version, or, in the event table, by their label alone."""
    versions = [(table.name, table.name) for table in domain.landing_tables] + [(LABELS_TABLE, domain.event_table)]
    records = " UNION ".join(
        f"SELECT _file, {RECORD} FROM versions_{versioned} WHERE _new AND starts_with(source, '{landed}/')" for versioned, landed in versions
    )
    return dict(connection.execute(f"SELECT _file, count(*) FROM ({records}) GROUP BY _file").fetchall())


def event_days(connection: duckdb.DuckDBPyConnection, table: CuratedTable, paths: Sequence[str]) -> list[date]:
    """The first and last day of the versions from these files; empty where there are none."""
    found = connection.execute(
        f"SELECT min({table.day}), max({table.day}) FROM versions_{table.name} WHERE _new AND {_PATH} IN (SELECT unnest(?::VARCHAR[]))",
        [list(paths)],
    ).fetchall()
    return [day for day in found[0] if day is not None]


def curated_days(connection: duckdb.DuckDBPyConnection, table: CuratedTable) -> set[date]:
    """The days whose partitions the files in hand had or have rows in."""
    name, columns = table.name, f"{table.quoted}, {_WRITTEN}"
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE moved AS
        WITH changed AS (
            SELECT {KEY}, {table.day} AS _day FROM versions_{name} WHERE _new
            UNION ALL SELECT {KEY}, _day FROM stored_{name} WHERE _path IN (FROM {PROCESSED})),
        placed AS (FROM changed UNION ALL SELECT {KEY}, _day FROM stored_{name} WHERE {KEY} IN (SELECT {KEY} FROM changed))
        SELECT {KEY} FROM placed WHERE {table.copied} GROUP BY {KEY} HAVING min(_day) < max(_day)
    """)
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE fresh AS
        WITH history AS (
            SELECT {KEY}, {table.day} AS _own_day, {columns} FROM versions_{name} WHERE _new
            UNION ALL
            SELECT {KEY}, _day, {columns} FROM state_{name} WHERE _path NOT IN (FROM {PROCESSED}) AND {KEY} IN (FROM moved)),
        days AS (SELECT DISTINCT {KEY}, _own_day AS _day FROM history WHERE {KEY} IN (FROM moved))
        SELECT _own_day AS _day, {columns} FROM history WHERE {KEY} NOT IN (FROM moved)
        UNION ALL
        SELECT _day, {columns} FROM history JOIN days USING ({KEY})
    """)
    touched = f"SELECT _day FROM fresh UNION SELECT _day FROM stored_{name} WHERE _path IN (FROM {PROCESSED}) OR {KEY} IN (FROM moved)"
    return {day for (day,) in connection.execute(touched).fetchall()}


def curated_rows(connection: duckdb.DuckDBPyConnection, table: CuratedTable, days: Collection[date]) -> pa.Table:
    """The whole new content of the partitions that ``curated_days`` has just named, with the column ``_day`` first, in the order in which it
    is written. What there was on these days must be loaded."""
    name, columns = table.name, f"{table.quoted}, {_WRITTEN}"
    keys = ", ".join(f'"{column}"' for column in table.key)
    rows = connection.sql(
        f"""
        SELECT _day, {columns} FROM fresh
        UNION ALL
        SELECT _day, {columns} FROM stored_{name}
        WHERE _path NOT IN (FROM {PROCESSED}) AND {KEY} NOT IN (FROM moved) AND _day IN (SELECT unnest(?::DATE[]))
        ORDER BY _day, event_time, {keys}, {_ORDER}
        """,
        params=[sorted(days)],
    ).to_arrow_table()
    return in_utc(rows)


def create_known_labels(connection: duckdb.DuckDBPyConnection) -> None:
    """``known_labels``, without rows: ``labels/`` as it lies in S3, of the days that matter."""
    connection.execute(f"CREATE TEMP TABLE known_labels (_day DATE, {', '.join(f'{name} {kind}' for name, kind in _LABEL_COLUMNS.items())})")


def load_known_labels(connection: duckdb.DuckDBPyConnection, files: Sequence[Path]) -> None:
    """Adds partitions' files to ``known_labels``."""
    columns = ", ".join(f"CAST({name} AS {kind})" for name, kind in _LABEL_COLUMNS.items())
    connection.execute(f"INSERT INTO known_labels SELECT {_DAY_OF_FILE}, {columns} FROM {_read_parquet(files)}")


def touched_label_days(connection: duckdb.DuckDBPyConnection, domain: Domain, tables: Mapping[str, CuratedTable]) -> set[date]:
    """The partition days of ``labels/`` that the files in hand touch: the labels' history lies in each day that holds a version of the event.

    ``event_time`` is the event's as it was known when the label became known (of an event known only later, its first), so that a correction
    changes nothing that was read as of an earlier instant. For what is known now, join the events."""
    events, labels = tables[domain.event_table], tables[LABELS_TABLE]

    def now(table: CuratedTable, wanted: str) -> str:
        settled = f"FROM state_{table.name} WHERE _path NOT IN (FROM {PROCESSED}) AND {KEY} IN (FROM touched_events)"
        return f"SELECT {wanted} FROM versions_{table.name} WHERE _new UNION ALL SELECT {wanted} {settled}"

    touched = " UNION ".join(
        f"SELECT {KEY} FROM versions_{name} UNION SELECT {KEY} FROM state_{name} WHERE _path IN (FROM {PROCESSED})"
        for name in (events.name, labels.name)
    )
    connection.execute(f"CREATE OR REPLACE TEMP TABLE touched_events AS {touched}")
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE happened AS {now(events, f"{KEY}, {events.day} AS _day, event_time, available_at, {_ORDER}")}
    """)
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE fresh_labels AS
        WITH said AS ({now(labels, f"{KEY}, label, available_at, {_ORDER}")}),
        dated AS (
            SELECT s.*, coalesce(
                arg_max(h.event_time, row(h.delivered_at, h.source)) FILTER (h.available_at <= s.available_at),
                arg_min(h.event_time, row(h.delivered_at, h.source))) AS event_time
            FROM said s JOIN happened h USING ({KEY}) GROUP BY ALL)
        SELECT _day, {KEY} AS event_id, label, event_time, available_at, delivered_at, source
        FROM dated JOIN (SELECT DISTINCT {KEY}, _day FROM happened) USING ({KEY})
    """)
    touched = "SELECT _day FROM fresh_labels UNION SELECT _day FROM known_labels WHERE event_id IN (FROM touched_events)"
    return {day for (day,) in connection.execute(touched).fetchall()}


def label_rows(connection: duckdb.DuckDBPyConnection, days: Collection[date]) -> pa.Table:
    """The whole new content of the partitions that ``touched_label_days`` has just named. Columns: ``_day, event_id`` (text), ``label,
    event_time, available_at, delivered_at, source``. What there was on these days must be loaded."""
    columns = ", ".join(_LABEL_COLUMNS)
    rows = connection.sql(
        f"""
        SELECT _day, {columns} FROM fresh_labels
        UNION ALL
        SELECT _day, {columns} FROM known_labels WHERE event_id NOT IN (FROM touched_events) AND _day IN (SELECT unnest(?::DATE[]))
        ORDER BY _day, event_time, event_id, {_ORDER}
        """,
        params=[sorted(days)],
    ).to_arrow_table()
    return in_utc(rows)


def label_changes(connection: duckdb.DuckDBPyConnection) -> list[tuple[date, date]]:
    """Of each day of ``labels/`` whose rows change: the day, and the first day on which a label that is new, different or gone is, or was,
    available: features of earlier events cannot tell."""
    columns = f"_day, {', '.join(_LABEL_COLUMNS)}"
    before = f"SELECT {columns} FROM known_labels WHERE event_id IN (FROM touched_events)"
    changed = f"(FROM fresh_labels EXCEPT ALL {before}) UNION ALL ({before} EXCEPT ALL FROM fresh_labels)"
    return connection.execute(f"SELECT _day, CAST(min(available_at) AS DATE) FROM ({changed}) GROUP BY _day ORDER BY _day").fetchall()


def _read_parquet(files: Sequence[Path]) -> str:
    paths = ", ".join("'" + str(path).replace("'", "''") + "'" for path in files)
    return f"read_parquet([{paths}], union_by_name = true, hive_partitioning = false, filename = '_partition')"


def in_utc(rows: pa.Table) -> pa.Table:
    """DuckDB's zoneless timestamps as what they are: TIMESTAMP(us, UTC)."""
    for index, column in enumerate(rows.schema):
        if pa.types.is_timestamp(column.type) and column.type.tz is None:
            rows = rows.set_column(index, column.name, pc.assume_timezone(rows.column(index).cast(pa.timestamp("us")), "UTC"))
    return rows
