"""Landed text cells become typed rows, or carry the reasons why not. One SQL statement for a table's files, so that good rows cost no Python.

Strict by declared type: an empty cell is null; an integer is digits with an optional sign, within 64 bits; a float is a finite decimal number;
a timestamp is ISO 8601 to the microsecond, UTC where it has no offset; every other text, "N/A" and "None" among them, is a string.
"""

# ruff: noqa: S608 -- statements are put together from the domain's checked identifiers and its own SQL expressions

from __future__ import annotations

import duckdb

from include.lifecycle.domain import LABELS_TABLE, Column, ColumnType, Label, Table
from include.lifecycle.landing import RECORD

MAXIMUM_CELL = 65_536
"""Characters in one cell. No code, name or narrative is longer; a runaway quote or a binary in the wrong column is."""
_SHOWN = 60
SQL_TYPES: dict[ColumnType, str] = {"string": "VARCHAR", "integer": "BIGINT", "float": "DOUBLE", "timestamp": "TIMESTAMP"}
_PATTERNS: dict[ColumnType, str] = {
    "integer": r"[+-]?[0-9]+",
    "float": r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?",
    "timestamp": r"[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?",
}
_NOUNS: dict[ColumnType, str] = {"string": "a string", "integer": "an integer", "float": "a finite number", "timestamp": "an ISO 8601 timestamp"}
KEY = "_key"


def key_text(table: Table) -> str:
    """SQL: a row's key as text. One column: the value; several: a JSON array of their texts."""
    texts = [f'CAST("{name}" AS VARCHAR)' for name in table.key]
    return texts[0] if len(texts) == 1 else f"CAST(to_json([{', '.join(texts)}]) AS VARCHAR)"


def check_rows(connection: duckdb.DuckDBPyConnection, table: Table, label: Label | None, landed: str, files: str, into: str) -> None:
    """Makes the temporary table ``into`` from ``landed`` (``_file``, ``_record``, text cells) and ``files`` (``_file``, ``source``,
    ``delivered_at``, ``delivery_year``).

    Columns of ``into``: ``_file, _record, _key``, the declared columns typed, ``event_time``, ``available_at`` (of a reference table: the
    delivery and the epoch), ``_decided_at`` (when an inline label becomes known; null without one), ``delivered_at``, ``source``, ``_reasons``
    (texts; empty for a good row) and ``_detail`` (the bad values, shortened). ``label``: the domain's, where this table carries it inline.

    duckdb.Error where an expression of the domain cannot be bound: a fault of the domain, not of the rows.
    """
    columns = table.columns
    texts = ", ".join(f'"{column.name}" AS _{i}' for i, column in enumerate(columns))
    typed = ", ".join(f'{_typed(f"_{i}", column)} AS "{column.name}"' for i, column in enumerate(columns))
    event_time = _tried(table.event_time) if table.kind == "event" else "delivered_at"
    available_at = _tried(table.available_at) if table.kind == "event" else "TIMESTAMP '1970-01-01'"
    decided_at = f'CASE WHEN "{label.column}" IS NOT NULL THEN {_tried(label.available_at)} END' if label else "CAST(NULL AS TIMESTAMP)"
    cell_reasons = ", ".join(_cell_reason(f"_{i}", column) for i, column in enumerate(columns))
    details = ", ".join(_detail(f"_{i}", column) for i, column in enumerate(columns))
    names = ", ".join(f'"{column.name}"' for column in columns)
    present = "lambda reason: reason IS NOT NULL"
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE {into} AS
        WITH cells AS (SELECT _file, {RECORD}, {texts}, source, delivered_at, delivery_year FROM {landed} JOIN {files} USING (_file)),
        typed AS (SELECT *, {typed} FROM cells),
        placed AS (SELECT *, {event_time} AS event_time FROM typed),
        known AS (SELECT *, {available_at} AS available_at FROM placed),
        decided AS (SELECT *, {decided_at} AS _decided_at FROM known),
        judged AS (SELECT *, list_filter([{cell_reasons}], {present}) AS _cell_reasons FROM decided)
        SELECT _file, {RECORD}, {key_text(table)} AS {KEY}, {names}, event_time, available_at, _decided_at, delivered_at, source,
            CASE WHEN len(_cell_reasons) > 0 THEN _cell_reasons
                 ELSE list_filter([{", ".join(_time_reasons(table, label))}], {present}) END AS _reasons,
            CASE WHEN len(_cell_reasons) > 0 THEN concat_ws('; ', {details}) ELSE '' END AS _detail
        FROM judged
    """)


def _tried(expression: str) -> str:
    """An expression that fails on a row (30 February) is null there."""
    return f"TRY(CAST(({expression}) AS TIMESTAMP))"


def _typed(text: str, column: Column) -> str:
    if column.type == "string":
        return f"CASE WHEN length({text}) <= {MAXIMUM_CELL} THEN {text} END"
    # a TIMESTAMP cast would ignore the offset; through TIMESTAMP WITH TIME ZONE (the session's zone is UTC) it counts
    through = "TIMESTAMPTZ" if column.type == "timestamp" else SQL_TYPES[column.type]
    value = f"TRY_CAST({text} AS {through})"
    value = f"CAST({value} AS TIMESTAMP)" if column.type == "timestamp" else value
    finite = f" AND isfinite({value})" if column.type == "float" else ""
    return f"CASE WHEN length({text}) <= 400 AND regexp_full_match({text}, '{_PATTERNS[column.type]}'){finite} THEN {value} END"


def _bad(text: str, column: Column) -> str:
    return f'({text} IS NOT NULL AND "{column.name}" IS NULL)'


def _cell_reason(text: str, column: Column) -> str:
    empty = "" if column.nullable else f"WHEN {text} IS NULL THEN '{column.name}: empty' "
    too_long = f"WHEN length({text}) > {MAXIMUM_CELL} THEN '{column.name}: longer than {MAXIMUM_CELL} characters' "
    return f"CASE {empty}{too_long}WHEN {_bad(text, column)} THEN '{column.name}: not {_NOUNS[column.type]}' END"


def _detail(text: str, column: Column) -> str:
    shown = f"CASE WHEN length({text}) > {_SHOWN} THEN left({text}, {_SHOWN}) || '…' ELSE {text} END"
    return f"CASE WHEN {_bad(text, column)} THEN '{column.name}=' || {shown} END"


def _time_reasons(table: Table, label: Label | None) -> list[str]:
    reasons = ["CAST(NULL AS VARCHAR)"]
    if table.kind == "event":
        reasons += [
            "CASE WHEN event_time IS NULL OR event_time < TIMESTAMP '0001-01-01' THEN 'event_time: no such instant' END",
            "CASE WHEN event_time > delivered_at THEN 'event_time: after the delivery' END",
            "CASE WHEN event_time IS NOT NULL AND (available_at IS NULL OR NOT isfinite(available_at)) THEN 'available_at: no such instant' END",
        ]
    inline = label.column if label else "label" if table.name == LABELS_TABLE else None
    if inline:
        reasons.append(f"CASE WHEN \"{inline}\" NOT IN (0, 1) THEN '{inline}: neither 0 nor 1' END")
    if label:
        reasons.append(f'CASE WHEN "{label.column}" IS NOT NULL AND _decided_at IS NULL AND event_time IS NOT NULL '
                       "THEN 'label: no instant at which it becomes known' END")  # fmt: skip
    return reasons
