"""Features: a domain's ``features.sql`` over the curated tables, as of an instant. One function for every use, so that they cannot differ.

What the SQL sees is in ``as_of_views``. DuckDB computes, or another engine (Spark) that is handed in; what was computed is checked here in
either case, by DuckDB, against the events as DuckDB finds them.
"""

# ruff: noqa: S608 -- the statements are put together from the domain's checked identifiers, from quoted paths and from times

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Protocol

import duckdb
import pyarrow as pa
from sqlglot import exp

from include.lifecycle import portable_sql
from include.lifecycle.as_of_views import CURATED, View, as_of_views, columns
from include.lifecycle.domain import EVENT_COLUMNS, Domain
from include.lifecycle.processors import usable_processors

FEATURES = "computed_features"
"""The temporary table that ``materialise_features`` leaves in the connection, its rows in no order."""

_NUMERIC = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT",
            "FLOAT", "DOUBLE", "DECIMAL", "BOOLEAN")  # fmt: skip
_TEXT_COLUMNS = ("event_id", "entity_id", "group_id")
_EXAMPLES = 3


class FeatureError(ValueError):
    """``features.sql`` or the rows under it break a promise. The message says which, with the column or a few event ids."""


class Engine(Protocol):
    """Something other than DuckDB that computes features."""

    def compute(self, files: Mapping[str, Sequence[Path]], views: Sequence[View], statement: exp.Select) -> Path:
        """A folder with the statement's rows as Parquet files (``*.parquet``), times without a zone. ``views`` are to be created first, over
        ``curated_<table>`` of each table with ``files``. FeatureError where the statement does not run."""
        ...


def open_database(scratch: Path, memory_limit: str | None = None) -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory that spills into ``scratch`` beyond ``memory_limit`` ("3GB"; None: 80 % of the machine's or the container's).

    One thread: in parallel, sums of floats are added in whatever order threads finish, and equal inputs must give equal bytes. (Where all
    sums are over whole numbers, ``materialise_features`` computes with every processor.) Extensions are never fetched from the network.
    """
    settings: dict[str, str | bool | int | float | list[str]] = {
        "temp_directory": str(scratch),
        "threads": 1,
        "autoinstall_known_extensions": False,
    }
    if memory_limit is not None:
        settings["memory_limit"] = memory_limit
    return duckdb.connect(":memory:", config=settings)


def compute_features(
    connection: duckdb.DuckDBPyConnection,
    domain: Domain,
    sql: str,
    files: Mapping[str, Sequence[Path]],
    as_of: datetime,
    first_day: date,
    last_day: date,
) -> pa.Table:
    """One row for each event of ``first_day`` to ``last_day`` (UTC days, inclusive) known at ``as_of``, ordered by event_time, event_id.

    ``files``: table name → curated Parquet files, of the event tables at least from ``first_day - domain.feature_history`` on, of the
    reference tables all. Columns: ``EVENT_COLUMNS``, ``facet_<name>`` (text), then the features as DOUBLE (null: unknown), in the order of
    the SQL; ``event_time`` is TIMESTAMP(us, UTC). FeatureError as in ``materialise_features``.
    """
    materialise_features(connection, domain, sql, files, as_of, first_day, last_day)
    return fetch(connection, f"SELECT * FROM {FEATURES} ORDER BY event_time, event_id")


TAKEN_NAMES = frozenset({"score", "model", "model_package", "variant", "inference_time", "capture_id", "multivariate"})
"""What stands beside the features in predictions and in profiles."""


def feature_names(domain: Domain, columns: Sequence[str]) -> list[str]:
    """The numeric features among the columns of a feature table, in their order."""
    others = {*EVENT_COLUMNS, *(facet.column for facet in domain.facets)}
    return [column for column in columns if column not in others]


def materialise_features(
    connection: duckdb.DuckDBPyConnection,
    domain: Domain,
    sql: str,
    files: Mapping[str, Sequence[Path]],
    as_of: datetime,
    first_day: date,
    last_day: date,
    engine: Engine | None = None,
) -> list[str]:
    """``compute_features`` into the temporary table ``FEATURES``, which may be larger than memory; returns its columns in order.

    ``engine`` computes the rows; None: DuckDB. FeatureError where the SQL is not portable, a mandatory column is missing or null, a feature
    is not a finite number, or the rows are not exactly the events: one lost by a join, two made of one, one with another event time.
    """
    connection.execute(f"SET threads = {usable_processors()}")  # to read and to check; sums are another matter, see below
    try:
        tree = portable_sql.parse(sql, [table.name for table in domain.landing_tables])
    except portable_sql.PortableSqlError as error:
        raise FeatureError(f"features.sql of {domain.name}: {error}") from error
    tables = portable_sql.tables_read(tree)
    within = f"event_time >= {_timestamp(first_day)} AND event_time < {_timestamp(last_day + timedelta(days=1))}"
    if engine is None:
        create_views(connection, domain, files, as_of, tables | {domain.event_table})
        statement = tree.sql("duckdb")  # without comments and a closing semicolon, which cannot stand inside a subquery
    else:
        create_views(connection, domain, files, as_of, {domain.event_table})
        views = [view for name in sorted(tables) for view in as_of_views(domain, name, as_of, bool(files.get(name)))]
        wanted = exp.select("*").from_(tree.subquery("computed")).where(within, dialect="duckdb")
        statement = f"SELECT * FROM read_parquet({_text(str(engine.compute(files, views, wanted) / '*.parquet'))})"
    try:
        described = connection.execute(f"DESCRIBE {statement}").fetchall()
        chosen = _checked_columns(domain, [(name, type_) for name, type_, *_ in described])
        exact = engine is not None or portable_sql.sums_in_any_order(tree, {name: columns(domain, name) for name in tables})
        query = f"SELECT {', '.join(chosen.values())} FROM ({statement}) WHERE {within}"
        _keep(connection, query, usable_processors() if exact else 1)
    except duckdb.Error as error:
        raise FeatureError(f"features.sql of {domain.name} does not run: {error}") from error
    _check_rows(connection, domain, first_day, last_day)
    _check_values(connection, domain, list(chosen))
    connection.execute("SET threads = 1")
    return list(chosen)


def _keep(connection: duckdb.DuckDBPyConnection, query: str, threads: int) -> None:
    """The query's rows as the table ``FEATURES``. Every thread wants memory of its own: where it does not suffice, one thread computes them."""
    try:
        connection.execute(f"SET threads = {threads}")
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {FEATURES} AS {query}")
    except duckdb.OutOfMemoryException:
        if threads == 1:
            raise
        _keep(connection, query, 1)


def fetch(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    """A query's rows as an Arrow table whose column ``event_time`` is TIMESTAMP(us, UTC)."""
    table = connection.sql(query).to_arrow_table()
    where = table.schema.get_field_index("event_time")
    return table.set_column(where, "event_time", table["event_time"].cast(pa.timestamp("us", "UTC")))


def create_views(
    connection: duckdb.DuckDBPyConnection, domain: Domain, files: Mapping[str, Sequence[Path]], as_of: datetime, tables: set[str]
) -> None:
    """Temporary views of ``tables`` as of the instant (see ``as_of_views``). FeatureError for files that lack a declared column."""
    connection.execute("SET TimeZone = 'UTC'")
    for name in sorted(tables):
        try:
            if files.get(name):
                paths = ", ".join(_text(str(path)) for path in files[name])
                rows = f"read_parquet([{paths}], union_by_name = true, hive_partitioning = false)"
                connection.execute(f"CREATE OR REPLACE TEMP VIEW {CURATED}{name} AS {_without_zones(connection, rows)}")
            for view in as_of_views(domain, name, as_of, bool(files.get(name))):
                connection.execute(f"CREATE OR REPLACE TEMP {'TABLE' if view.small else 'VIEW'} {view.name} AS {view.select}")
        except duckdb.Error as error:
            raise FeatureError(f"curated files of {domain.name}.{name} cannot be read as the domain declares them: {error}") from error


def _without_zones(connection: duckdb.DuckDBPyConnection, rows: str) -> str:
    """A SELECT of the rows with their instants as UTC without a zone. This way a third of the time of casting them, which asks for the zone."""
    types = connection.execute(f"DESCRIBE SELECT * FROM {rows}").fetchall()
    instants = [name for name, type_, *_ in types if type_ == "TIMESTAMP WITH TIME ZONE"]
    replaced = ", ".join(f'make_timestamp(epoch_us("{name}")) AS "{name}"' for name in instants)
    return f"SELECT * {f'REPLACE ({replaced})' if replaced else ''} FROM {rows}"


def _checked_columns(domain: Domain, described: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Output column → its expression over the SQL's result, in the order of a feature table."""

    def refuse(what: str) -> None:
        raise FeatureError(f"features.sql of {domain.name}: {what}")

    types = dict(described)
    facets = [facet.column for facet in domain.facets]
    if len(types) != len(described):
        refuse(f"a column is named twice among {', '.join(name for name, _ in described)}")
    if missing := [column for column in (*EVENT_COLUMNS, *facets) if column not in types]:
        refuse(f"wants the column(s) {', '.join(missing)}; it has {', '.join(types)}")
    names = feature_names(domain, list(types))
    if undeclared := [name for name in names if name.startswith("facet_")]:
        refuse(f"{', '.join(undeclared)}: no such facet in domain.py")
    if "label" in names or domain.label.column in names:
        refuse("a feature has the label's name")
    if taken := TAKEN_NAMES.intersection(names):
        refuse(f"a feature is named {min(taken)!r}, as a column of predictions or profiles is: give it another name")
    if not names:
        refuse("makes no feature")
    if types["event_time"] != "TIMESTAMP":
        refuse(f"event_time must be a TIMESTAMP (UTC), not {types['event_time']}")
    for column in (*_TEXT_COLUMNS, *facets):
        if types[column] != "VARCHAR":
            refuse(f"{column} must be text, not {types[column]}: write CAST(… AS VARCHAR)")
    for column in ("amount", *names):
        if types[column].split("(")[0] not in _NUMERIC:
            refuse(f"{column} must be a number, not {types[column]}")
    as_text = {column: column for column in (*EVENT_COLUMNS[:-1], *facets)}
    as_number = {column: f'CAST("{column}" AS DOUBLE) AS "{column}"' for column in ("amount", *names)}
    return {column: {**as_text, **as_number}[column] for column in (*EVENT_COLUMNS, *facets, *names)}


def _check_rows(connection: duckdb.DuckDBPyConnection, domain: Domain, first_day: date, last_day: date) -> None:
    """Exactly one row for each event: no more, no fewer, at its own time."""
    event_id = f'"{domain.event_id}"'
    within = f"event_time >= {_timestamp(first_day)} AND event_time < {_timestamp(last_day + timedelta(days=1))}"
    events = f"(SELECT CAST({event_id} AS VARCHAR) AS event_id, event_time FROM {domain.event_table})"
    # Equal rows have equal counts and sums of 64-bit hashes. Which rule is broken is looked for only where these differ.
    summed = "SELECT count(*), sum(CAST(hash(event_id, event_time) AS HUGEINT)) FROM"
    expected = connection.execute(f"{summed} {events} WHERE {within}").fetchall()
    if connection.execute(f"{summed} {FEATURES}").fetchall() == expected:
        return
    rules = {
        "several rows for one event (does a join match more than one row? a reference table has a row for each version)": (
            f"SELECT event_id || ' (' || count(*) || ' rows)' FROM {FEATURES} GROUP BY event_id HAVING count(*) > 1"
        ),
        f"no row for an event of {domain.event_table} (does an inner join or a filter lose it?)": (
            f"SELECT event_id FROM {events} ANTI JOIN {FEATURES} USING (event_id) WHERE {within}"
        ),
        f"an event that {domain.event_table} does not have, or not at that event_time": (
            f"SELECT event_id FROM {FEATURES} ANTI JOIN {events} USING (event_id, event_time)"
        ),
    }
    for what, query in rules.items():
        count, *examples = _found(connection, query)
        if count:
            raise FeatureError(f"features.sql of {domain.name}: {what}: {count} event(s), such as {', '.join(map(str, examples))}")


def _check_values(connection: duckdb.DuckDBPyConnection, domain: Domain, columns: Sequence[str]) -> None:
    """No null in what identifies an event, its facets and amount; no infinity or NaN in a number."""
    features = feature_names(domain, columns)
    rules = [(column, "null", f'"{column}" IS NULL') for column in columns if column not in features]
    unusable = "infinite or not a number (divide by NULLIF(…, 0))"
    rules += [(column, unusable, f'NOT isfinite("{column}")') for column in ("amount", *features)]
    counts = connection.execute(f"SELECT {', '.join(f'count_if({condition})' for _, _, condition in rules)} FROM {FEATURES}").fetchall()[0]
    for (column, wrong, condition), count in zip(rules, counts, strict=True):
        if count:
            _, *examples = _found(connection, f"SELECT event_id FROM {FEATURES} WHERE {condition}")
            some = ", ".join(map(str, examples))
            raise FeatureError(f"features.sql of {domain.name}: {column} is {wrong} in {count} event(s), such as {some}")


def _found(connection: duckdb.DuckDBPyConnection, query: str) -> list[str | int]:
    """How many rows a query of one column has, and the first few."""
    found = f"SELECT count(*), list(found ORDER BY found)[:{_EXAMPLES}] FROM ({query}) AS result(found)"
    count, examples = connection.execute(found).fetchall()[0]
    return [count, *(examples or [])]


def _timestamp(day: date) -> str:
    return f"TIMESTAMP '{day.isoformat()}'"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
