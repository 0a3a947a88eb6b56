"""From scores to probabilities of fraud, as the baseline's labels have them: a monotone curve of few knots, with the uncertainty of its knots.

In log-odds, the probability is a piecewise linear function of the score. Its values at the knots maximise the likelihood of the baseline's
labels, less a penalty on bends, never falling; a strong penalty leaves a straight line, which is Platt scaling (1999). How strong it is, is
chosen on days that a curve was not fitted on. (An isotonic regression, as NannyML has it, is a step function, which says the same of all
scores between two steps and 0 or 1 at the ends: where most fraud or most events are.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.calibration import log_odds, sigmoid
from include.lifecycle.clustering import Clusters

MINIMUM_FRAUDS = 10
"""Of fewer frauds, or genuine events, no curve is made."""
_KNOTS = 16
_BINS = 100
_FOLDS = 5
_PENALTIES = (1.0, 30.0, 1e3, 3e4, 1e6)
_RIDGE = 1e-6


@dataclass(frozen=True)
class Recalibration:
    """``knots``: log-odds of scores, ascending; ``values``: log-odds of fraud there; both of shape (knots,). ``covariance`` of the values,
    shape (knots, knots), and its degrees of freedom."""

    knots: FloatArray
    values: FloatArray
    covariance: FloatArray
    degrees: float

    def __call__(self, scores: ArrayLike) -> FloatArray:
        """Probabilities of fraud, of the shape of the scores. Beyond the knots the curve goes on flat."""
        return sigmoid(np.interp(log_odds(scores), self.knots, self.values))

    def place(self, scores: FloatArray) -> Placed:
        return Placed(self(scores), _basis(log_odds(scores), self.knots))

    def as_json(self) -> dict[str, Any]:
        return {
            "knots": self.knots.tolist(),
            "values": self.values.tolist(),
            "covariance": self.covariance.tolist(),
            "degrees_of_freedom": self.degrees,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Recalibration:
        knots, values, covariance = (np.array(document[name], np.float64) for name in ("knots", "values", "covariance"))
        return cls(knots, values, covariance, float(document["degrees_of_freedom"]))


@dataclass(frozen=True)
class Placed:
    """Events on the curve: their probabilities of fraud, shape (events,), and between which knots they lie."""

    probabilities: FloatArray
    basis: _Basis

    def gradient(self, by_probability: FloatArray) -> FloatArray:
        """Of a metric, by the values at the knots, from its derivatives by the events' probabilities: shape (knots,)."""
        return self.basis.weigh(by_probability * self.probabilities * (1 - self.probabilities))


@dataclass(frozen=True)
class _Basis:
    """Linear interpolation: each event lies ``share`` of the way from knot ``below`` to the next."""

    below: NDArray[np.intp]
    share: FloatArray
    knots: int

    def matrix(self) -> FloatArray:
        found = np.zeros((self.below.size, self.knots))
        rows = np.arange(self.below.size)
        found[rows, self.below] = 1 - self.share
        found[rows, np.minimum(self.below + 1, self.knots - 1)] += self.share
        return found

    def weigh(self, weights: FloatArray) -> FloatArray:
        """Σ over events of weight times basis, shape (knots,)."""
        above = np.bincount(np.minimum(self.below + 1, self.knots - 1), weights * self.share, self.knots)
        return np.asarray(np.bincount(self.below, weights * (1 - self.share), self.knots) + above, np.float64)


def _basis(odds: FloatArray, knots: FloatArray) -> _Basis:
    if knots.size == 1:
        return _Basis(np.zeros(odds.size, np.intp), np.zeros(odds.size), 1)
    below = np.clip(np.searchsorted(knots, odds, side="right") - 1, 0, knots.size - 2)
    share = np.clip((odds - knots[below]) / (knots[below + 1] - knots[below]), 0.0, 1.0)
    return _Basis(below, share, knots.size)


def recalibrate(labels: FloatArray, scores: FloatArray, clusters: Clusters) -> Recalibration | None:
    """The curve of these events, shape (events,) each; None where there are fewer than ``MINIMUM_FRAUDS`` frauds or genuine events.

    The penalty is chosen by the log loss on folds of consecutive days (of groups, on a single day). The covariance is the clustered sandwich
    estimator H⁻¹ V H⁻¹ (White 1982, Maximum likelihood estimation of misspecified models), without regard to the constraint that the curve
    must not fall, which can only make it wider than need be.
    """
    frauds = labels.sum()
    if min(frauds, labels.size - frauds) < MINIMUM_FRAUDS:
        return None
    odds = log_odds(scores)
    knots = _knots(odds, labels)
    folds = clusters.days * _FOLDS // clusters.day_count if clusters.day_count >= _FOLDS else clusters.groups % _FOLDS
    binned = _Binned.of(odds, labels, folds, knots)
    penalty = min(_PENALTIES, key=lambda size: binned.held_out_loss(knots, size)) if knots.size > 2 else _PENALTIES[0]
    values = binned.fit(knots, penalty)
    design = _basis(odds, knots)
    p = sigmoid(np.interp(odds, knots, values))
    matrix = design.matrix()
    curvature = matrix.T @ (matrix * (p * (1 - p))[:, None]) + _hessian_of_bends(knots, penalty)
    spread, degrees = clusters.covariance(matrix * (labels - p)[:, None])
    inverse = np.linalg.inv(curvature)
    return Recalibration(knots, values, np.asarray(inverse @ spread @ inverse, np.float64), degrees)


def _knots(odds: FloatArray, labels: FloatArray) -> FloatArray:
    """Quantiles of the scores of fraud and of those of all events in equal number, with the least and the greatest score."""
    inner = np.linspace(0, 1, _KNOTS // 2 + 1)[1:-1]
    every = np.concatenate([np.quantile(odds[labels > 0.5], inner), np.quantile(odds, inner), [odds.min(), odds.max()]])
    found = np.unique(every)
    least_gap = 1e-3 * max(float(found[-1] - found[0]), 1e-9)
    return np.asarray(found[np.append(True, np.diff(found) > least_gap)], np.float64)


@dataclass(frozen=True)
class _Binned:
    """Events counted by fold and small interval of the score, which is all that a curve of few knots can tell apart: ``odds`` (bins,) the mean
    of each, ``events`` and ``frauds`` (folds, bins)."""

    odds: FloatArray
    events: FloatArray
    frauds: FloatArray

    @classmethod
    def of(cls, odds: FloatArray, labels: FloatArray, folds: NDArray[np.intp], knots: FloatArray) -> _Binned:
        quantiles = np.quantile(odds, np.linspace(0, 1, _BINS))
        edges = np.unique(np.concatenate([quantiles, np.linspace(odds.min(), odds.max(), _BINS), knots]))
        member = np.searchsorted(edges, odds)
        used, member = np.unique(member, return_inverse=True)
        cell, shape = folds * used.size + member, (_FOLDS, int(used.size))
        count = np.bincount(cell, minlength=_FOLDS * used.size).reshape(shape).astype(np.float64)
        frauds = np.bincount(cell, labels, minlength=_FOLDS * used.size).reshape(shape).astype(np.float64)
        return cls(np.bincount(member, odds) / count.sum(axis=0), count, frauds)

    def held_out_loss(self, knots: FloatArray, penalty: float) -> float:
        loss = 0.0
        for fold in range(_FOLDS):
            rest = np.arange(_FOLDS) != fold
            kept = _Binned(self.odds, self.events[rest], self.frauds[rest])
            if not 0 < kept.frauds.sum() < kept.events.sum():
                continue
            fitted = np.interp(self.odds, knots, kept.fit(knots, penalty))
            loss += float(np.logaddexp(0, fitted) @ self.events[fold] - fitted @ self.frauds[fold])
        return loss

    def fit(self, knots: FloatArray, penalty: float) -> FloatArray:
        """The values at the knots: the first, and steps of at least 0 from one to the next."""
        events, frauds = self.events.sum(axis=0), self.frauds.sum(axis=0)
        design = np.cumsum(_basis(self.odds, knots).matrix()[:, ::-1], axis=1)[:, ::-1]
        steps = np.tril(np.ones((knots.size, knots.size)))
        bends = steps.T @ _hessian_of_bends(knots, penalty) @ steps
        share = frauds.sum() / events.sum()
        start = np.append(np.log(share / (1 - share)), np.zeros(knots.size - 1))

        def loss(theta: FloatArray) -> tuple[float, FloatArray]:
            fitted = design @ theta
            bent = bends @ theta
            value = np.logaddexp(0, fitted) @ events - fitted @ frauds + theta @ bent / 2
            return float(value), np.asarray(design.T @ (sigmoid(fitted) * events - frauds) + bent)

        bounds = [(None, None)] + [(0.0, None)] * (knots.size - 1)
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 2000, "ftol": 1e-10, "gtol": 1e-5})
        return np.asarray(np.cumsum(found.x), np.float64)


def _hessian_of_bends(knots: FloatArray, penalty: float) -> FloatArray:
    """Of penalty/2 · Σ (change of slope)² · mean gap, for knots scaled to 0 to 1; and of a vanishing ridge, where nothing else holds a value."""
    hessian = _RIDGE * np.eye(knots.size)
    if knots.size < 3:
        return hessian
    gaps = np.diff(knots) / (knots[-1] - knots[0])
    slopes = (np.eye(knots.size)[1:] - np.eye(knots.size)[:-1]) / gaps[:, None]
    bends = np.diff(slopes, axis=0) * np.sqrt((gaps[1:] + gaps[:-1]) / 2)[:, None]
    return np.asarray(hessian + penalty * 1e-4 * bends.T @ bends, np.float64)
