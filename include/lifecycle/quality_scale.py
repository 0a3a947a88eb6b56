"""The scale on which a metric's estimate is about normal, and what is done there: intervals and comparisons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from include.lifecycle.bootstrap import Interval

LOWER_IS_BETTER = frozenset({"expected_cost", "expected_calibration_error", "brier_score", "log_loss"})
_SMALLEST = 1e-9


_LARGEST_EXPONENT = 700.0
_ERRORS = {"expected_calibration_error", "brier_score"}
"""Which are never above 1."""


@dataclass(frozen=True)
class Scale:
    """``to`` and ``back``: from the metric's unit and into it; ``by``: the derivative of ``to``. ``bounds``: by how much of the range values
    keep away from the ends, where ``to`` has no finite value: a share over the number of frauds plus one."""

    to: Callable[[float], float]
    back: Callable[[float], float]
    by: Callable[[float], float]
    margin: float | None = None

    def forward(self, value: float, frauds: float) -> float:
        return float(self.to(self._kept(value, frauds)))

    def slope(self, value: float, frauds: float) -> float:
        return float(self.by(self._kept(value, frauds)))

    def _kept(self, value: float, frauds: float) -> float:
        if self.margin is None:
            return value
        edge = self.margin / (max(frauds, 0.0) + 1)
        return min(max(value, edge), 1 - edge)


def _exp(value: float) -> float:
    """Of what an interval of next to no events reaches to, too: without overflow."""
    return float(np.exp(np.clip(value, -_LARGEST_EXPONENT, _LARGEST_EXPONENT)))


_LOGIT = (lambda v: np.log(v / (1 - v)), lambda v: 1 / (1 + _exp(-v)), lambda v: 1 / (v * (1 - v)))
_SHARE = Scale(*_LOGIT, margin=0.5)
_AREA = Scale(*_LOGIT, margin=0.02)
_COST = Scale(lambda v: np.log(max(v, _SMALLEST)), _exp, lambda v: 1 / max(v, _SMALLEST))
_SAVINGS = Scale(lambda v: -np.log(max(1 - v, _SMALLEST)), lambda v: 1 - _exp(-v), lambda v: 1 / max(1 - v, _SMALLEST))
_ERROR = Scale(_COST.to, lambda v: min(_exp(v), 1.0), _COST.by)
_AS_IS = Scale(lambda v: v, lambda v: v, lambda v: 1.0)


def of(name: str) -> Scale:
    """Log-odds of shares and areas; logarithm of costs and errors, and of what savings leave of the cost; the coefficients of the calibration
    line as they are."""
    if name in _ERRORS:
        return _ERROR
    if name in LOWER_IS_BETTER:
        return _COST
    if name.startswith("savings"):
        return _SAVINGS
    if name.startswith("calibration_"):
        return _AS_IS
    return _AREA if name == "roc_auc" else _SHARE


@dataclass(frozen=True)
class Estimate:
    """A metric in its own unit (``value``) and on its scale (``scaled``), with the standard error there. ``size``: how many frauds it is of."""

    value: float
    scaled: float
    standard_error: float
    degrees: float
    size: float

    def interval(self, scale: Scale, confidence: float) -> Interval:
        half = float(student.ppf((1 + confidence) / 2, self.degrees)) * self.standard_error
        low, high = scale.back(self.scaled - half), scale.back(self.scaled + half)
        return Interval(self.value, float(min(low, self.value)), float(max(high, self.value)))


def chance_of_less(difference: float, variance: float, degrees: float) -> float:
    """The probability of a difference as low as this or lower where the true one is 0."""
    if variance <= 0:
        return 1.0 if difference >= 0 else 0.0
    return float(student.cdf(difference / np.sqrt(variance), degrees))


def pooled(one: Estimate, other: Estimate) -> tuple[float, float]:
    """Variance of the difference of two independent estimates that vary alike from fraud to fraud, and its degrees of freedom: the two
    variances per fraud are averaged by how many frauds each is of, so that a small window's own, which may be 0 by chance, counts little."""
    weight = one.size + other.size
    a, b = one.standard_error**2 * one.size, other.standard_error**2 * other.size
    per_fraud = (a * one.size + b * other.size) / weight
    spread = ((a * one.size) ** 2 / one.degrees + (b * other.size) ** 2 / other.degrees) / weight**2
    degrees = per_fraud**2 / spread if spread > 0 else one.degrees + other.degrees
    return per_fraud * (1 / one.size + 1 / other.size), degrees
