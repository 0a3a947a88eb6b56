from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from include.lifecycle.bootstrap import Interval
from include.lifecycle.calibration import sigmoid
from include.lifecycle.domain import Costs, Gate, ReviewCapacity
from include.lifecycle.evaluation import Economics, Events, resampled
from include.lifecycle.gate import Comparison, Verdict, decide

RULES = Gate(minimum_average_precision_lift=2, non_inferiority_margin=0.02, maximum_relative_calibration_error=0.6, confidence=0.9)
METRICS = {
    "average_precision": Interval(0.2, 0.15, 0.25),
    "expected_calibration_error": Interval(0.01, 0.005, 0.02),
    "savings": Interval(0.3, 0.1, 0.4),
}
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


def test_the_calibration_error_is_limited_by_the_share_of_fraud() -> None:
    verdict = decide(RULES, METRICS | {"expected_calibration_error": Interval(0.04, 0.031, 0.05)}, 0.05, None)
    assert broken(verdict) == ["calibration_error"]
    assert "is 0.80 times the share of fraud (5.00%), at least 0.62 times with 90% confidence: more than the 0.6" in verdict.reasons[0]
    assert decide(RULES, METRICS | {"expected_calibration_error": Interval(0.04, 0.029, 0.05)}, 0.05, None).passed


@pytest.mark.parametrize("savings", [Interval(0.1, 0.0, 0.3), Interval(0.2, -0.05, 0.4), Interval(-0.5, -0.9, -0.2)])
def test_a_model_must_be_shown_to_save_money(savings: Interval) -> None:
    verdict = decide(RULES, METRICS | {"savings": savings}, 0.05, None)
    assert broken(verdict) == ["savings"]
    assert "not shown to be better than reviewing nothing" in verdict.reasons[0]


def events_at_natural_prevalence() -> tuple[Events, np.ndarray]:
    """2,700 events, some ninety of them fraud, as in the demo's test part; and the probabilities from which they were drawn."""
    generator = np.random.default_rng(4)
    rows = 2_700
    probabilities = sigmoid(generator.normal(-4.3, 1.6, rows))
    names = np.array([f"P{row}" for row in range(rows)])
    labels = (generator.random(rows) < probabilities).astype(float)
    days = np.datetime64("2026-01-01") + np.arange(rows) // 190
    return Events(labels, generator.gamma(2.0, 8_000.0, rows), days, names, names), probabilities


ECONOMICS = Economics(Costs("USD", review=1000, missed_share=0.5), ReviewCapacity(share=0.05))


@pytest.mark.parametrize(
    ("spoilt", "expected"),
    [
        (lambda p: p, []),
        (lambda p: 0.8 * p, []),
        (lambda p: p / 100, ["calibration_error", "savings"]),
        (lambda p: p / 10, ["calibration_error"]),
        (lambda p: p + 0.045, ["calibration_error"]),
        (lambda p: np.minimum(2.4 * p, 1), ["calibration_error"]),
    ],
)
def test_the_defaults_at_three_percent_fraud(spoilt: Callable[[np.ndarray], np.ndarray], expected: list[str]) -> None:
    events, probabilities = events_at_natural_prevalence()
    assert 80 < events.labels.sum() < 100
    verdict = decide(Gate(), resampled(events, spoilt(probabilities), ECONOMICS).intervals(), events.prevalence, None)
    assert set(expected) <= set(broken(verdict)) <= {*expected, "savings"}
    assert verdict.passed == (not expected)


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
    assert broken(decide(RULES, METRICS | {"savings": unknown}, 0.05, None)) == ["savings"]
    assert broken(decide(RULES, METRICS, 0.0, None)) == ["average_precision_lift", "calibration_error"]
    assert broken(decide(RULES, METRICS, 0.05, Comparison(unknown, unknown))) == ["savings_non_inferiority", "average_precision_not_worse"]


def test_a_champion_that_cannot_be_scored_stops_the_challenger_and_says_why() -> None:
    verdict = decide(RULES, METRICS, 0.05, Comparison(obstacle="the data set lacks its feature witnesses"))
    assert broken(verdict) == ["champion"]
    assert "lacks its feature witnesses" in verdict.reasons[0]


def test_a_comparison_is_complete_or_has_an_obstacle() -> None:
    for incomplete in ({}, {"savings": EVEN}, {"savings": EVEN, "average_precision": EVEN, "obstacle": "x"}):
        with pytest.raises(ValueError, match="comparison"):
            Comparison(**incomplete)
