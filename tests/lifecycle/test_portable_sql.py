from __future__ import annotations

import pytest

from include import domains
from include.lifecycle.portable_sql import PortableSqlError, parse, spark_sql, sums_in_any_order, tables_read

TABLES = ["claims", "customers"]


@pytest.mark.parametrize(
    ("sql", "spark"),
    [
        ("SELECT a::DOUBLE AS a FROM claims", "SELECT CAST(a AS DOUBLE) AS a FROM claims"),
        ("SELECT CAST(a AS VARCHAR) AS a FROM claims", "SELECT CAST(a AS STRING) AS a FROM claims"),
        ("SELECT epoch(a) AS e FROM claims", "SELECT ( UNIX_MICROS(CAST(a AS TIMESTAMP_LTZ)) / 1e6 ) AS e FROM claims"),
        ("SELECT 1.5 * a / 2 AS a FROM claims", "SELECT CAST(1.5 AS DOUBLE) * a / 2 AS a FROM claims"),
        (
            "SELECT DATE_DIFF('day', DATE '1900-01-01', CAST(a AS DATE)) % 7 AS d FROM claims",
            "SELECT DATEDIFF(DAY, CAST('1900-01-01' AS DATE), CAST(a AS DATE)) % 7 AS d FROM claims",
        ),
        (
            "SELECT COUNT(*) OVER (PARTITION BY a ORDER BY b RANGE BETWEEN INTERVAL 30 DAY PRECEDING AND CURRENT ROW) AS n FROM claims",
            "SELECT COUNT(*) OVER ( PARTITION BY a ORDER BY b NULLS LAST"
            " RANGE BETWEEN INTERVAL '30' DAY PRECEDING AND CURRENT ROW ) AS n FROM claims",
        ),
        (  # Spark takes no arithmetic in a frame's bounds
            "SELECT SUM(a) OVER (ORDER BY b RANGE BETWEEN 7 * 86400 - 1 PRECEDING AND 2 * 5 FOLLOWING) AS n FROM claims",
            "SELECT SUM(a) OVER (ORDER BY b NULLS LAST RANGE BETWEEN 604799 PRECEDING AND 10 FOLLOWING) AS n FROM claims",
        ),
    ],
)
def test_in_spark(sql: str, spark: str) -> None:
    assert " ".join(spark_sql(sql, TABLES).split()) == spark


def test_tables_read() -> None:
    tree = parse("WITH w AS (SELECT * FROM claims) SELECT * FROM w WHERE a IN (SELECT b FROM customers)", TABLES)
    assert tables_read(tree) == {"claims", "customers"}


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT * FROM claims ASOF JOIN customers USING (a)", "ASOF joins are not portable"),
        ("SELECT * FROM claims POSITIONAL JOIN customers", "POSITIONAL joins are not portable"),
        ("SELECT * FROM read_csv('/etc/passwd')", "something else than a table"),
        ("SELECT * FROM '/etc/passwd'", "no such table; there are: claims, customers"),
        ("SELECT * FROM other.claims", "something else than a table"),
        ("SELECT now() AS a FROM claims", "NOW"),
        ("SELECT CURRENT_DATE AS a FROM claims", "CURRENT_DATE"),
        ("SELECT random() AS a FROM claims", "RANDOM"),
        ("SELECT log(a) AS a FROM claims", "LOG"),
        ("SELECT dayofweek(a) AS a FROM claims", "DAYOFWEEK"),
        ("SELECT EXTRACT(ISODOW FROM a) AS a FROM claims", "extract one of DAY, HOUR"),
        ("SELECT DATE_DIFF('day', a, b) AS d FROM claims", "cast both sides to DATE"),
        ("SELECT * EXCLUDE (a) FROM claims", "EXCLUDE"),
        ("SELECT a FROM claims USING SAMPLE 10%", "sample"),
        ("SELECT list_transform(a, x -> x + 1) AS a FROM claims", "LIST_TRANSFORM"),
        ("SELECT my_macro(a) AS a FROM claims", "MY_MACRO"),
        ("SELECT a FROM claims UNION ALL SELECT a FROM claims", "one SELECT"),
        ("SELECT a FROM claims; DROP TABLE claims", "one SELECT"),
        ("DELETE FROM claims", "one SELECT"),
        ("SELECT 1 AS a", "reads no table"),
        ("SELECT (", "not SQL"),
        ("", "one SELECT"),
    ],
)
def test_refuses(sql: str, message: str) -> None:
    with pytest.raises(PortableSqlError, match=message):
        parse(sql, TABLES)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT COUNT(*) AS n, MAX(money) AS m FROM claims", True),
        ("SELECT SUM(number) AS n, AVG(number) AS a FROM claims", True),
        ("SELECT SUM(money) OVER (PARTITION BY number) AS m FROM claims", False),
        ("WITH c AS (SELECT FLOOR(money * 100 + 0.5) AS cents FROM claims) SELECT SUM(cents * cents) AS s FROM c", True),
        ("WITH c AS (SELECT CAST(FLOOR(money * 100) AS DOUBLE) AS cents FROM claims) SELECT SUM(cents) AS s FROM c", True),
        ("WITH c AS (SELECT FLOOR(money * 100) / 100 AS rounded FROM claims) SELECT SUM(rounded) AS s FROM c", False),
        ("SELECT AVG(CASE WHEN number = 1 THEN 1 ELSE 0 END) AS a FROM claims", True),
        ("SELECT AVG(CASE WHEN number = 1 THEN 1.5 ELSE 0 END) AS a FROM claims", False),
        ("SELECT STDDEV(number) AS s FROM claims", False),
        ("SELECT SUM(CAST(money AS BIGINT)) AS s FROM claims JOIN customers USING (number)", True),
        ("SELECT SUM(unknown) AS s FROM claims", False),
    ],
)
def test_sums_in_any_order(sql: str, expected: bool) -> None:
    columns = {"claims": {"number": "BIGINT", "money": "DOUBLE"}, "customers": {"number": "BIGINT"}}
    assert sums_in_any_order(parse(sql, TABLES), columns) is expected


@pytest.mark.parametrize("name", domains.catalogue().domains)
def test_every_domain_is_portable(name: str) -> None:
    tables = [table.name for table in domains.get(name).landing_tables]
    assert spark_sql(domains.features_sql(name), tables)
