"""Great Expectations by severity: which rows, which tables, what is counted, and pages that fetch nothing from elsewhere."""

from __future__ import annotations

import re

import great_expectations.expectations as gxe
import pandas as pd
import pytest
from ingest_cases import MemoryStore

from include.jobs.quality import QualityChecks, is_about_single_rows

FRAME = pd.DataFrame({"a": [1, 2, 3, 4], "b": [4.0, 3.0, None, 1.0], "c": ["x", "y", "x", "N/A"]})


def check(*expectations: gxe.Expectation, frame: pd.DataFrame = FRAME):
    with QualityChecks() as quality:
        return quality.check(frame, "suite", expectations)


def test_critical_expectations_name_the_rows_that_break_them() -> None:
    result = check(
        gxe.ExpectColumnValuesToBeBetween(column="a", max_value=3, severity="critical"),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A="b", column_B="a", severity="critical", ignore_row_if="either_value_is_missing"
        ),
        gxe.ExpectColumnValuesToNotBeNull(column="b", severity="critical"),
        frame=FRAME.set_index(pd.Index([7, 7, 9, 3])),
    )
    assert result.row_failures == {
        2: ("b: expect_column_values_to_not_be_null",),
        3: ("a: expect_column_values_to_be_between (max_value 3.0)", "b, a: expect_column_pair_values_a_to_be_greater_than_b"),
    }
    assert result.table_failures == result.errors == ()


def test_a_row_condition_names_rows_of_the_whole_frame() -> None:
    condition = {"row_condition": 'c == "x"', "condition_parser": "pandas"}
    result = check(gxe.ExpectColumnValuesToBeInSet(column="a", value_set=[3], severity="critical", **condition))
    assert set(result.row_failures) == {0}


def test_more_failing_rows_than_a_summary_shows_are_all_named() -> None:
    frame = pd.DataFrame({"a": range(1000)})
    result = check(gxe.ExpectColumnValuesToBeBetween(column="a", max_value=499, severity="critical"), frame=frame)
    assert list(result.row_failures) == list(range(500, 1000))


def test_a_critical_expectation_about_the_table_fails_the_table() -> None:
    result = check(gxe.ExpectTableRowCountToBeBetween(min_value=5, severity="critical"))
    assert result.table_failures == ("expect_table_row_count_to_be_between (min_value 5): observed 4",)
    assert (result.row_failures, result.errors) == ({}, ())


def test_what_cannot_be_evaluated_is_an_error() -> None:
    result = check(gxe.ExpectColumnValuesToNotBeNull(column="nowhere", severity="critical"))
    assert result.errors == result.table_failures
    assert "nowhere" in result.errors[0]


def test_warnings_are_counted_over_all_rows_and_information_is_not() -> None:
    result = check(
        gxe.ExpectColumnValuesToBeInSet(column="c", value_set=["y"], row_condition="a < 3", condition_parser="pandas", severity="warning"),
        gxe.ExpectColumnMeanToBeBetween(column="a", min_value=3, severity="warning"),
        gxe.ExpectColumnValuesToNotBeNull(column="b", severity="info"),
    )
    assert result.warnings == [
        {"expectation": "expect_column_mean_to_be_between", "column": "a", "unexpected": None, "share": None, "observed": "2.5"},
        {"expectation": "expect_column_values_to_be_in_set", "column": "c", "unexpected": 1, "share": 0.25},
    ]
    assert (result.row_failures, result.table_failures) == ({}, ())


@pytest.mark.parametrize(
    ("expectation", "single"),
    [
        (gxe.ExpectColumnValuesToBeBetween(column="a", min_value=0), True),
        (gxe.ExpectColumnValuesToBeBetween(column="a", min_value=0, mostly=0.9), False),
        (gxe.ExpectColumnValuesToBeUnique(column="a"), False),
        (gxe.ExpectCompoundColumnsToBeUnique(column_list=["a", "b"]), False),
        (gxe.ExpectTableRowCountToBeBetween(min_value=1), False),
        (gxe.ExpectColumnMeanToBeBetween(column="a", min_value=1), False),
    ],
)
def test_which_expectations_concern_single_rows(expectation: gxe.Expectation, single: bool) -> None:
    assert is_about_single_rows(expectation) is single


def test_the_domains_expectations_are_left_as_they_were() -> None:
    expectation = gxe.ExpectColumnValuesToBeBetween(column="a", max_value=3, severity="critical")
    assert check(expectation) == check(expectation)
    assert expectation.id is None


def test_data_docs_show_every_suite_fetch_nothing_and_repeat_themselves() -> None:
    def publish() -> MemoryStore:
        objects = MemoryStore()
        with QualityChecks() as quality:
            for suite in ("first", "second.part"):
                quality.check(FRAME, suite, [gxe.ExpectColumnValuesToBeBetween(column="a", max_value=3, severity="warning")])
            assert quality.publish(objects, "reports/x") == "s3://memory/reports/x/index.html"
        return objects

    objects = publish()
    index = objects.get("reports/x/index.html").decode()
    pages = [link for link in re.findall(r'href="([^"#]+\.html)"', index) if "validations" in link]
    assert len(set(pages)) == 2
    for page in pages:
        assert "expect" in objects.get(f"reports/x/{page}").decode()
    for body in objects.objects.values():
        assert not re.search(rb"""(src|srcset)\s*=\s*["']?(https?:)?//|<link[^>]+https?:|url\(["']?https?:|@import""", body)
    assert publish().objects == objects.objects
