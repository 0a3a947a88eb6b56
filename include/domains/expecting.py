"""Great Expectations in the words of this project, for the domains' ``expectations.py``. Imported in jobs only: it loads Great Expectations.

Critical: the row is quarantined. Warning: counted and shown.
"""

from __future__ import annotations

from typing import Any

import great_expectations.expectations as gxe

CRITICAL = "critical"
WARNING = "warning"


def one_of(column: str, *values: Any) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(values), severity=CRITICAL)


def usually_one_of(column: str, *values: Any) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeInSet(
        column=column, value_set=list(values), severity=WARNING, description=f"{column} is one of {', '.join(map(str, values))}"
    )


def between(column: str, low: float | None, high: float | None, where: Any = None) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high, severity=CRITICAL, row_condition=where)


def usually_between(column: str, low: float | None, high: float | None, description: str) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high, severity=WARNING, description=description)


def never_null(column: str) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToNotBeNull(column=column, severity=CRITICAL)


def usually_known(column: str, description: str) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToNotBeNull(column=column, severity=WARNING, description=description)


def never(column: str, where: Any, description: str, severity: str) -> gxe.Expectation:
    """No row may meet the condition ``where``. Such a row's value of ``column`` is what the report shows."""
    # Great Expectations' condition objects know no arithmetic: what needs it is a pandas query.
    parser = {"condition_parser": "pandas"} if isinstance(where, str) else {}
    return gxe.ExpectColumnValuesToBeNull(column=column, severity=severity, description=description, row_condition=where, **parser)


def median_between(column: str, low: float, high: float, description: str) -> gxe.Expectation:
    """A warning: where the median leaves its range, a unit has changed before the events have."""
    return gxe.ExpectColumnMedianToBeBetween(column=column, min_value=low, max_value=high, severity=WARNING, description=description)
