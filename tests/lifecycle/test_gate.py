from __future__ import annotations

import math

import pytest

from include.lifecycle.bootstrap import Interval
from include.lifecycle.domain import Gate
from include.lifecycle.gate import Comparison, Verdict, decide

RULES = Gate(minimum_average_precision_lift=2, non_inferiority_margin=0.02, maximum_calibration_error=0.03, confidence=0.9)
METRICS = {"average_precision": Interval(0.2, 0.15, 0.25), "expected_calibration_error": Interval(0.01, 0.005, 0.02)}
EVEN = Interval(0.0, -0.01, 0.01)


def broken(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.checks if not check.passed]


def test_without_a_champion_the_absolute_rules_count() -> None:
    verdict = decide(RULES, METRICS, 0.05, None)
    assert verdict.passed
    assert any("no champion" in reason for reason in verdict.reasons)


def test_the_lift_is_over_the_share_of_fraud() -> None:
    verdict = decide(RULES, METRICS, 0.11, None)
    assert broken(verdict) == ["average_precision_lift"]
    assert "1.82 times the share of fraud (11.00%)" in verdict.reasons[0]


def test_calibration_has_a_limit() -> None:
    assert broken(decide(RULES, METRICS | {"expected_calibration_error": Interval(0.031, 0.02, 0.04)}, 0.05, None)) == ["calibration_error"]


@pytest.mark.parametrize(
    ("savings", "average_precision", "expected"),
    [
        (EVEN, EVEN, []),
        (Interval(-0.005, -0.019, 0.01), EVEN, []),
        (Interval(0.01, -0.02, 0.04), EVEN, ["savings_non_inferiority"]),
        (EVEN, Interval(-0.03, -0.06, 0.0), []),
        (EVEN, Interval(-0.03, -0.05, -0.01), ["average_precision_not_worse"]),
        (Interval(-0.1, -0.2, 0.0), Interval(-0.03, -0.05, -0.01), ["savings_non_inferiority", "average_precision_not_worse"]),
    ],
)
def test_against_a_champion(savings: Interval, average_precision: Interval, expected: list[str]) -> None:
    verdict = decide(RULES, METRICS, 0.05, Comparison(average_precision, savings))
    assert broken(verdict) == expected
    assert verdict.passed == (not expected)


def test_what_is_not_known_is_not_good() -> None:
    unknown = Interval(math.nan, math.nan, math.nan)
    assert broken(decide(RULES, METRICS | {"average_precision": unknown}, 0.05, None)) == ["average_precision_lift"]
    assert broken(decide(RULES, METRICS, 0.0, None)) == ["average_precision_lift"]
    assert broken(decide(RULES, METRICS, 0.05, Comparison(unknown, unknown))) == ["savings_non_inferiority", "average_precision_not_worse"]


def test_a_champion_that_cannot_be_scored_stops_the_challenger_and_says_why() -> None:
    verdict = decide(RULES, METRICS, 0.05, Comparison(obstacle="the data set lacks its feature witnesses"))
    assert broken(verdict) == ["champion"]
    assert "lacks its feature witnesses" in verdict.reasons[0]


def test_a_comparison_is_complete_or_has_an_obstacle() -> None:
    for incomplete in ({}, {"savings": EVEN}, {"savings": EVEN, "average_precision": EVEN, "obstacle": "x"}):
        with pytest.raises(ValueError, match="comparison"):
            Comparison(**incomplete)
