"""The part of SQL that a domain's ``features.sql`` is written in: what DuckDB and Spark answer alike.

One SELECT (with CTEs) over the domain's tables. Joins, aggregates, window functions with ``ROWS`` or ``RANGE BETWEEN … PRECEDING`` frames
(of an interval, or of a number, which may be written as a product of literals), CASE, and the functions in ``FUNCTIONS``. The list names
what is allowed instead of what is not: engines agree on less than their parsers accept (``log`` is base 10 in DuckDB and natural in Spark,
``dayofweek`` counts from 0 or from 1), and a feature that changes with the engine is worse than one that is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import sqlglot
from sqlglot import exp
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.simplify import simplify

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

    A number with a decimal point is a DOUBLE in it: as DECIMAL, engines would divide and round it each in its own way. PortableSqlError for
    other statements.
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
    for number in list(tree.find_all(exp.Literal)):
        if not number.is_string and "." in number.name:
            number.replace(exp.cast(number.copy(), "DOUBLE"))
    return tree


def tables_read(tree: exp.Select) -> set[str]:
    """The names of the tables that a parsed statement reads, its own CTEs left out."""
    return {table.name for table in tree.find_all(exp.Table)} - {cte.alias for cte in tree.find_all(exp.CTE)}


def sums_in_any_order(tree: exp.Select, columns: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether every sum and mean of a parsed statement is over whole numbers, so that it is the same in whatever order rows are added.

    Whole are integers and what FLOOR and CEIL make, whose sums are exact below 2^53 in a DOUBLE too. False where that cannot be shown, and for
    every variance, which engines keep as floats. ``columns``: table → column → type, of every table that the statement reads.
    """
    whole = tree.copy()
    for node in list(whole.find_all(exp.Floor, exp.Ceil)):
        outer = node.parent if isinstance(node.parent, exp.Cast) else node
        outer.replace(exp.cast(node.copy(), "BIGINT"))
    schema: dict[str, object] = {table: dict(types) for table, types in columns.items()}
    try:
        typed = annotate_types(qualify(whole, schema=schema, dialect="duckdb"), schema=schema, dialect="duckdb")
    except sqlglot.errors.SqlglotError:
        return False
    if any(typed.find_all(exp.Stddev, exp.StddevSamp, exp.StddevPop, exp.Variance)):
        return False
    return all(total.this.is_type(*exp.DataType.INTEGER_TYPES) for total in typed.find_all(exp.Sum, exp.Avg))


def spark_sql(sql: str, tables: Collection[str]) -> str:
    """The same statement as Spark SQL (session time zone UTC, timestamps without a zone). PortableSqlError as in ``parse``."""
    return to_spark(parse(sql, tables))


def to_spark(statement: exp.Expression | str) -> str:
    """A statement of DuckDB's dialect in Spark's, for a session as above. PortableSqlError for what has no translation."""
    try:
        tree = sqlglot.parse_one(statement, read="duckdb") if isinstance(statement, str) else statement
        return tree.transform(_as_spark).sql("spark", unsupported_level=sqlglot.ErrorLevel.RAISE, pretty=True)
    except sqlglot.errors.SqlglotError as error:
        raise PortableSqlError(f"cannot be translated to Spark SQL: {error}") from error


def _as_spark(node: exp.Expr) -> exp.Expr:
    """Where SQLGlot's translation means something else: ``epoch`` keeps the fraction of a second, Spark's ``unix_timestamp`` drops it. And a
    frame's bounds as the literals that Spark wants."""
    if isinstance(node, exp.WindowSpec):
        for end in ("start", "end"):
            if isinstance(bound := node.args.get(end), exp.Binary):
                node.set(end, simplify(bound))
    if isinstance(node, exp.TimeToUnix):
        zoned = exp.cast(node.this.copy(), exp.DataType.Type.TIMESTAMPLTZ)
        return exp.paren(exp.Div(this=exp.Anonymous(this="UNIX_MICROS", expressions=[zoned]), expression=exp.Literal.number("1e6")))
    return node


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
