"""The part of SQL that a domain's ``features.sql`` is written in: what DuckDB and Spark answer alike.

One SELECT (with CTEs) over the domain's tables. Joins, aggregates, window functions with ``ROWS`` or ``RANGE BETWEEN INTERVAL … PRECEDING``
frames, CASE, and the functions in ``FUNCTIONS``. The list names what is allowed instead of what is not: engines agree on less than their
parsers accept (``log`` is base 10 in DuckDB and natural in Spark, ``dayofweek`` counts from 0 or from 1), and a feature that changes with
the engine is worse than one that is refused.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlglot
from sqlglot import exp

FUNCTIONS: tuple[type[exp.Expression], ...] = (
    # aggregates
    exp.Avg, exp.Count, exp.Max, exp.Min, exp.Stddev, exp.StddevSamp, exp.StddevPop, exp.Sum, exp.Variance,
    # ranking and neighbours within a window
    exp.DenseRank, exp.FirstValue, exp.Lag, exp.LastValue, exp.Lead, exp.Rank, exp.RowNumber,
    # choices and nulls
    exp.Case, exp.Coalesce, exp.Greatest, exp.If, exp.Least, exp.Nullif, exp.And, exp.Or, exp.Exists,
    # numbers
    exp.Abs, exp.Ceil, exp.Exp, exp.Floor, exp.Ln, exp.Pow, exp.Round, exp.Sign, exp.Sqrt,
    # text
    exp.Length, exp.Lower, exp.Replace, exp.StartsWith, exp.Substring, exp.Trim, exp.Upper,
    # time
    exp.DateDiff, exp.DateTrunc, exp.Day, exp.Extract, exp.Hour, exp.Minute, exp.Month, exp.TimestampTrunc, exp.TimeToUnix, exp.Year,
    # types
    exp.Cast, exp.TryCast,
)  # fmt: skip
_EXTRACTED = frozenset({"YEAR", "MONTH", "DAY", "HOUR", "MINUTE"})
_CONSTRUCTS: dict[type[exp.Expression], str] = {
    exp.Columns: "COLUMNS(…)",
    exp.Lambda: "a lambda",
    exp.Lateral: "LATERAL",
    exp.Parameter: "a parameter",
    exp.Pivot: "PIVOT",
    exp.Placeholder: "a placeholder",
    exp.TableSample: "a sample",
}


class PortableSqlError(ValueError):
    """A statement leaves the portable subset. The message quotes the construct and says what to write instead."""


def parse(sql: str, tables: Collection[str]) -> exp.Select:
    """The statement's syntax tree (of DuckDB's dialect), once it is known to be portable and to read nothing but ``tables``.

    PortableSqlError otherwise.
    """
    try:
        statements = [statement for statement in sqlglot.parse(sql, read="duckdb") if statement is not None]
    except (sqlglot.errors.SqlglotError, ValueError) as error:
        raise PortableSqlError(f"not SQL that can be translated: {error}") from error
    if len(statements) != 1 or not isinstance(statements[0], exp.Select):
        raise PortableSqlError("wants one SELECT (WITH … SELECT … is fine), and nothing else")
    tree = statements[0]
    if not tree.args.get("from_"):
        raise PortableSqlError("the SELECT reads no table: wants FROM")
    defined = {cte.alias for cte in tree.find_all(exp.CTE)}
    for node in tree.walk():
        _check(node, defined | set(tables), tables)
    return tree


def tables_read(tree: exp.Select) -> set[str]:
    """The names of the tables that a parsed statement reads, its own CTEs left out."""
    return {table.name for table in tree.find_all(exp.Table)} - {cte.alias for cte in tree.find_all(exp.CTE)}


def spark_sql(sql: str, tables: Collection[str]) -> str:
    """The same statement as Spark SQL (session time zone UTC, timestamps without a zone). PortableSqlError as in ``parse``."""
    try:
        return parse(sql, tables).sql("spark", unsupported_level=sqlglot.ErrorLevel.RAISE, pretty=True)
    except sqlglot.errors.UnsupportedError as error:
        raise PortableSqlError(f"cannot be translated to Spark SQL: {error}") from error


def _check(node: exp.Expr, known: set[str], tables: Collection[str]) -> None:
    def refuse(why: str) -> None:
        raise PortableSqlError(f"{_quote(node)}: {why}")

    if isinstance(node, exp.Table):
        if node.args.get("db") or not isinstance(node.this, exp.Identifier):
            refuse("reads something else than a table of the domain")
        if node.name not in known:
            refuse(f"there is no such table; there are: {', '.join(sorted(tables))}")
    elif isinstance(node, exp.Join) and node.method:
        refuse(f"{node.method} joins are not portable; join on a range of times, or use a window function")
    elif isinstance(node, exp.Star) and (node.args.get("except_") or node.args.get("replace") or node.args.get("rename")):
        refuse("name the columns instead: * EXCLUDE and * REPLACE are not portable")
    elif isinstance(node, exp.DateDiff) and not all(_is_date(side) for side in (node.this, node.expression)):
        refuse("DuckDB counts midnights crossed and Spark full days; cast both sides to DATE, or subtract epoch(…) seconds")
    elif isinstance(node, exp.Extract) and node.name.upper() not in _EXTRACTED:
        refuse(f"engines number this part of a date differently; extract one of {', '.join(sorted(_EXTRACTED))}")
    elif isinstance(node, exp.Func) and not isinstance(node, FUNCTIONS):
        refuse("not one of the functions that DuckDB and Spark answer alike (see include/lifecycle/portable_sql.py)")
    for construct, name in _CONSTRUCTS.items():
        if isinstance(node, construct):
            refuse(f"{name} is not portable")


def _is_date(node: exp.Expr) -> bool:
    return isinstance(node, exp.Cast) and node.to.this == exp.DataType.Type.DATE


def _quote(node: exp.Expr) -> str:
    text = node.sql("duckdb")
    return text if len(text) <= 120 else text[:117] + "…"
