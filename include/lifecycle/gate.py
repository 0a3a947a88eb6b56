"""Whether a challenger may replace the champion: the domain's rules (``domain.Gate``) applied to measured intervals, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from include.lifecycle.bootstrap import Interval
from include.lifecycle.domain import Gate


@dataclass(frozen=True)
class Check:
    name: str
    passed: bool
    reason: str


@dataclass(frozen=True)
class Verdict:
    """``reasons`` is what a person reads: one sentence for each rule, the broken ones first."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(check.reason for check in sorted(self.checks, key=lambda check: check.passed))

    def as_json(self) -> dict[str, Any]:
        return {"passed": self.passed, "reasons": list(self.reasons), "checks": [vars(check) for check in self.checks]}


@dataclass(frozen=True)
class Comparison:
    """Challenger minus champion on the same events: ``average_precision`` and ``savings``, each with its interval at the gate's confidence.
    ``obstacle``: why the champion could not be scored on them; then both are None."""

    average_precision: Interval | None = None
    savings: Interval | None = None
    obstacle: str | None = None

    def __post_init__(self) -> None:
        if (self.obstacle is None) == (self.average_precision is None or self.savings is None):
            raise ValueError("a comparison has both differences, or an obstacle")


def decide(rules: Gate, metrics: Mapping[str, Interval], prevalence: float, comparison: Comparison | None) -> Verdict:
    """``metrics``: of the challenger, ``average_precision``, ``expected_calibration_error`` and ``savings`` among them. ``prevalence``: the
    share of fraud in the same events. ``comparison``: None where there is no champion; then only the absolute rules count.

    An undefined value (NaN) passes no rule, and neither does a champion that cannot be compared: what is not known is not good.
    """
    checks = [
        _lift(rules, metrics["average_precision"], prevalence),
        _calibration(rules, metrics["expected_calibration_error"], prevalence),
        _savings(rules, metrics["savings"]),
    ]
    if comparison is None:
        checks.append(Check("champion", True, "There is no champion to compare with."))
    elif comparison.average_precision is None or comparison.savings is None:
        checks.append(Check("champion", False, f"The champion could not be compared on the same events: {comparison.obstacle}"))
    else:
        checks += [_non_inferiority(rules, comparison.savings), _ranking(rules, comparison.average_precision)]
    return Verdict(tuple(checks))


def _lift(rules: Gate, measured: Interval, prevalence: float) -> Check:
    lift = measured.value / prevalence if prevalence > 0 else math.nan
    wanted = rules.minimum_average_precision_lift
    passed = lift >= wanted
    return Check(
        "average_precision_lift",
        passed,
        f"Average precision {measured.value:.3f} is {lift:.2f} times the share of fraud ({prevalence:.2%}), which a random order reaches: "
        f"{'at least' if passed else 'less than'} the {wanted:g} times wanted.",
    )


def _calibration(rules: Gate, measured: Interval, prevalence: float) -> Check:
    relative, low = ((bound / prevalence if prevalence > 0 else math.nan) for bound in (measured.value, measured.low))
    limit = rules.maximum_relative_calibration_error
    passed = low <= limit
    return Check(
        "calibration_error",
        passed,
        f"The expected calibration error {measured.value:.4f} is {relative:.2f} times the share of fraud ({prevalence:.2%}), "
        f"at least {low:.2f} times with {rules.confidence:.0%} confidence: {'within' if passed else 'more than'} the {limit:g} times allowed.",
    )


def _savings(rules: Gate, measured: Interval) -> Check:
    passed = measured.low > 0
    return Check(
        "savings",
        passed,
        f"Savings are {measured.value:+.3f} of the cost without a model ({_between(rules, measured)}): "
        f"{'better' if passed else 'not shown to be better'} than reviewing nothing.",
    )


def _non_inferiority(rules: Gate, difference: Interval) -> Check:
    margin = rules.non_inferiority_margin
    passed = difference.low > -margin
    return Check(
        "savings_non_inferiority",
        passed,
        f"Savings differ from the champion's by {difference.value:+.3f} of the cost without a model ({_between(rules, difference)}): "
        + (
            f"not worse by more than the margin of {margin:g}."
            if passed
            else f"that it is worse by the margin of {margin:g} or more cannot be ruled out."
        ),
    )


def _ranking(rules: Gate, difference: Interval) -> Check:
    passed = difference.high >= 0
    return Check(
        "average_precision_not_worse",
        passed,
        f"Average precision differs from the champion's by {difference.value:+.3f} ({_between(rules, difference)}): "
        f"{'not shown to be worse' if passed else 'worse'}.",
    )


def _between(rules: Gate, interval: Interval) -> str:
    return f"{rules.confidence:.0%} interval {interval.low:+.3f} to {interval.high:+.3f}"
