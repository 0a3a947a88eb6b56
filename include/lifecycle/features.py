"""Features: a domain's ``features.sql`` over the curated tables, as of an instant. One function for every use, so that they cannot differ.

What the SQL sees, under the tables' own names, times in UTC without a zone (TIMESTAMP), rows with ``available_at <= as_of`` only:

- an **event table**: one row an event, the version that was known when the event became known (below): the declared columns (never the
  label), ``event_time``, ``available_at``;
- a **reference table**: every version, each holding from ``available_at`` until ``superseded_at`` (exclusive; 9999-12-31 for the latest),
  so that a join can take the version known at the event:
  ``ON p.id = e.id AND p.available_at <= e.event_time AND e.event_time < p.superseded_at``;
- **labels**: every version likewise: ``event_id`` (text), ``label``, ``event_time``, ``available_at``, ``superseded_at``.

Versions of one key are ordered by ``available_at``, then ``delivered_at``, then ``source``.

**Corrections of events change no feature.** An event is scored once, when it becomes known: at the smallest ``available_at`` of its versions.
Of the versions known at that instant, features see the last. A later one must stay unseen, or training would know what scoring could not: a
claim set to zero after its investigation would give its label away. As event tables are also the history that windows of other events look
back on, there is one rule for all rows: an event counts everywhere as it was first known, even in features of events after its correction.
So the features of an event depend on the as-of instant only through which other rows were known. Corrections are kept in ``curated`` for
people, and correct labels. A source that has to bring corrected facts into the features of later events delivers them as a reference table.
"""

# ruff: noqa: S608 -- the statements are put together from the domain's checked identifiers, from quoted paths and from times

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa

from include.lifecycle import portable_sql
from include.lifecycle.domain import EVENT_COLUMNS, LABELS_TABLE, ColumnType, Domain, Table

FEATURES = "computed_features"
"""The temporary table that ``materialise_features`` leaves in the connection."""

_SQL_TYPES: dict[ColumnType, str] = {"string": "VARCHAR", "integer": "BIGINT", "float": "DOUBLE", "timestamp": "TIMESTAMP"}
_NUMERIC = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT",
            "FLOAT", "DOUBLE", "DECIMAL", "BOOLEAN")  # fmt: skip
_TEXT_COLUMNS = ("event_id", "entity_id", "group_id")
_EXAMPLES = 3


class FeatureError(ValueError):
    """``features.sql`` or the rows under it break a promise. The message says which, with the column or a few event ids."""


def open_database(scratch: Path, memory_limit: str | None = None) -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory that spills into ``scratch`` beyond ``memory_limit`` ("3GB"; None: 80 % of the machine's or the container's).

    One thread: in parallel, sums of floats are added in whatever order threads finish, and equal inputs must give equal bytes.
    Extensions are never fetched from the network.
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
) -> list[str]:
    """``compute_features`` into the temporary table ``FEATURES``, which may be larger than memory; returns its columns in order.

    FeatureError where the SQL is not portable, a mandatory column is missing or null, a feature is not a finite number, or the rows are not
    exactly the events: one lost by a join, two made of one, one with another event time.
    """
    try:
        tree = portable_sql.parse(sql, [table.name for table in domain.landing_tables])
    except portable_sql.PortableSqlError as error:
        raise FeatureError(f"features.sql of {domain.name}: {error}") from error
    create_views(connection, domain, files, as_of, portable_sql.tables_read(tree) | {domain.event_table})
    statement = tree.sql("duckdb")  # without comments and a closing semicolon, which cannot stand inside a subquery
    try:
        described = connection.execute(f"DESCRIBE {statement}").fetchall()
        columns = _checked_columns(domain, [(name, type_) for name, type_, *_ in described])
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE {FEATURES} AS SELECT {', '.join(columns.values())} FROM ({statement})"
            f" WHERE event_time >= {_timestamp(first_day)} AND event_time < {_timestamp(last_day + timedelta(days=1))}"
            " ORDER BY event_time, event_id"
        )
    except duckdb.Error as error:
        raise FeatureError(f"features.sql of {domain.name} does not run: {error}") from error
    _check_rows(connection, domain, first_day, last_day)
    _check_values(connection, domain, list(columns))
    return list(columns)


def fetch(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    """A query's rows as an Arrow table whose column ``event_time`` is TIMESTAMP(us, UTC)."""
    table = connection.sql(query).to_arrow_table()
    where = table.schema.get_field_index("event_time")
    return table.set_column(where, "event_time", table["event_time"].cast(pa.timestamp("us", "UTC")))


def create_views(
    connection: duckdb.DuckDBPyConnection, domain: Domain, files: Mapping[str, Sequence[Path]], as_of: datetime, tables: set[str]
) -> None:
    """Temporary views of ``tables`` as of the instant (see the module's text). FeatureError for files that lack a declared column."""
    connection.execute("SET TimeZone = 'UTC'")
    for name in sorted(tables):
        try:
            connection.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {_view(connection, domain, name, files.get(name, ()), as_of)}")
        except duckdb.Error as error:
            raise FeatureError(f"curated files of {domain.name}.{name} cannot be read as the domain declares them: {error}") from error


def _view(connection: duckdb.DuckDBPyConnection, domain: Domain, name: str, files: Sequence[Path], as_of: datetime) -> str:
    key, types = _columns(domain, domain.table(name))
    if not files:
        nothing = ", ".join(f'CAST(NULL AS {type_}) AS "{column}"' for column, type_ in types.items())
        return f"SELECT {nothing} WHERE false"
    paths = ", ".join(_text(str(path)) for path in files)
    known = (
        f"SELECT * FROM read_parquet([{paths}], union_by_name = true, hive_partitioning = false)"
        f" WHERE available_at <= TIMESTAMPTZ '{as_of.astimezone(UTC).isoformat()}'"
    )
    chosen = ", ".join(f'CAST("{column}" AS {type_}) AS "{column}"' for column, type_ in types.items() if column != "superseded_at")
    keys = ", ".join(f'"{column}"' for column in key)
    versions = f"PARTITION BY {keys} ORDER BY available_at, delivered_at, source"
    if "superseded_at" in types:
        until = f"coalesce(lead(CAST(available_at AS TIMESTAMP)) OVER ({versions}), TIMESTAMP '9999-12-31')"
        each_once = "DISTINCT" if name == LABELS_TABLE else ""  # a label lies in each day that holds a version of its event
        return f"SELECT {chosen}, {until} AS superseded_at FROM (SELECT {each_once} * FROM ({known}))"
    # Few events are ever corrected: to rank the versions of these only spares sorting all columns of all rows. A version that lies in
    # several days, because a correction moved its event, is ranked once for each copy, and at most one of them comes out first.
    corrected = f"corrected_{name}"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE {corrected} AS SELECT {keys} FROM ({known}) GROUP BY ALL HAVING count(*) > 1"
    )
    first_known = f"PARTITION BY {keys} ORDER BY available_at, delivered_at DESC, source DESC"
    ranked = f"SELECT *, row_number() OVER ({first_known}) AS place FROM ({known}) SEMI JOIN {corrected} USING ({keys})"
    return (
        f"SELECT {chosen} FROM ({known}) ANTI JOIN {corrected} USING ({keys})"
        f" UNION ALL SELECT {chosen} FROM ({ranked}) WHERE place = 1"
    )


def _columns(domain: Domain, table: Table) -> tuple[tuple[str, ...], dict[str, str]]:
    """The table's key and the columns of its view with their types."""
    times = {"event_time": "TIMESTAMP", "available_at": "TIMESTAMP"}
    if table.name == LABELS_TABLE:
        return ("event_id",), {"event_id": "VARCHAR", "label": "INTEGER", **times, "superseded_at": "TIMESTAMP"}
    declared = {
        column.name: _SQL_TYPES[column.type]
        for column in table.columns
        if not (table.name == domain.event_table and column.name == domain.label.column)
    }
    if table.kind == "reference":
        return table.key, {**declared, "available_at": "TIMESTAMP", "superseded_at": "TIMESTAMP"}
    return table.key, {**declared, **times}


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
