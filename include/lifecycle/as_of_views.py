"""What ``features.sql`` sees: a domain's tables as of an instant, as SQL that every engine runs alike.

Under the tables' own names, times in UTC without a zone (TIMESTAMP), rows with ``available_at <= as_of`` only:

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

# ruff: noqa: S608 -- the statements are put together from the domain's checked identifiers and from times

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from include.lifecycle.domain import LABELS_TABLE, ColumnType, Domain

CURATED = "curated_"
"""Before a table's name: the relation that an engine makes of its curated files, all columns."""

_SQL_TYPES: dict[ColumnType, str] = {"string": "VARCHAR", "integer": "BIGINT", "float": "DOUBLE", "timestamp": "TIMESTAMP"}


@dataclass(frozen=True)
class View:
    """``select`` is of DuckDB's dialect, and SQLGlot translates it to Spark's. ``small``: few rows that others read repeatedly."""

    name: str
    select: str
    small: bool = False


def as_of_views(domain: Domain, table: str, as_of: datetime, has_files: bool) -> Iterable[View]:
    """The views to create, in this order, for ``table`` as of the instant; the last has the table's name. They read ``curated_<table>``, or
    nothing where the table has no files."""
    key = ("event_id",) if table == LABELS_TABLE else domain.table(table).key
    types = columns(domain, table)
    if not has_files:
        nothing = ", ".join(f'CAST(NULL AS {type_}) AS "{column}"' for column, type_ in types.items())
        return [View(table, f"SELECT {nothing} WHERE false")]
    instant = as_of.astimezone(UTC).replace(tzinfo=None).isoformat(" ")
    known = f"SELECT * FROM {CURATED}{table} WHERE CAST(available_at AS TIMESTAMP) <= TIMESTAMP '{instant}'"
    chosen = ", ".join(f'CAST(k."{column}" AS {type_}) AS "{column}"' for column, type_ in types.items() if column != "superseded_at")
    keys = ", ".join(f'k."{column}"' for column in key)
    if "superseded_at" in types:
        versions = f"PARTITION BY {keys} ORDER BY k.available_at, k.delivered_at, k.source"
        until = f"COALESCE(LEAD(CAST(k.available_at AS TIMESTAMP)) OVER ({versions}), TIMESTAMP '9999-12-31')"
        each_once = "DISTINCT" if table == LABELS_TABLE else ""  # a label lies in each day that holds a version of its event
        return [View(table, f"SELECT {chosen}, {until} AS superseded_at FROM (SELECT {each_once} * FROM ({known}) AS r) AS k")]
    # Few events are ever corrected: to rank the versions of these only spares sorting all columns of all rows. A version that lies in
    # several days, because a correction moved its event, is ranked once for each copy, and at most one of them comes out first.
    corrected = f"corrected_{table}"
    same_key = " AND ".join(f'c."{column}" = k."{column}"' for column in key)
    first_known = f"PARTITION BY {keys} ORDER BY k.available_at, k.delivered_at DESC, k.source DESC"
    ranked = f"SELECT k.*, ROW_NUMBER() OVER ({first_known}) AS place FROM ({known}) AS k SEMI JOIN {corrected} AS c ON {same_key}"
    return [
        View(corrected, f"SELECT {keys} FROM ({known}) AS k GROUP BY {keys} HAVING COUNT(*) > 1", small=True),
        View(
            table,
            f"SELECT {chosen} FROM ({known}) AS k ANTI JOIN {corrected} AS c ON {same_key}"
            f" UNION ALL SELECT {chosen} FROM ({ranked}) AS k WHERE k.place = 1",
        ),
    ]


def columns(domain: Domain, table: str) -> dict[str, str]:
    """The columns of the table's view with their SQL types."""
    times = {"event_time": "TIMESTAMP", "available_at": "TIMESTAMP"}
    if table == LABELS_TABLE:
        return {"event_id": "VARCHAR", "label": "INTEGER", **times, "superseded_at": "TIMESTAMP"}
    declared = {
        column.name: _SQL_TYPES[column.type]
        for column in domain.table(table).columns
        if not (table == domain.event_table and column.name == domain.label.column)
    }
    if domain.table(table).kind == "reference":
        return {**declared, "available_at": "TIMESTAMP", "superseded_at": "TIMESTAMP"}
    return {**declared, **times}
