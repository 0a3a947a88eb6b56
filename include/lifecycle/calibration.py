"""Whether a score of 0.1 means one in ten, and how to make it so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.metrics import event_weights

_SMALLEST_PROBABILITY = 1e-7
_NEWTON_STEPS = 100


@dataclass(frozen=True)
class Line:
    """slope · margin + intercept, in log-odds."""

    slope: float
    intercept: float

    def __call__(self, margins: ArrayLike) -> FloatArray:
        return self.slope * np.asarray(margins, np.float64) + self.intercept


def sigmoid(margins: ArrayLike) -> FloatArray:
    return np.asarray(0.5 * (1 + np.tanh(np.asarray(margins, np.float64) / 2)), np.float64)


def log_odds(scores: ArrayLike) -> FloatArray:
    """log(p / (1 - p)), with p kept 1e-7 away from 0 and 1."""
    p = np.clip(np.asarray(scores, np.float64), _SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY)
    return np.asarray(np.log(p / (1 - p)), np.float64)


def log_loss(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """Mean of -log of the probability given to what happened."""
    fraud, odds = np.asarray(labels, np.float64), log_odds(scores)
    weight = event_weights(fraud, weights)
    return np.asarray(weight @ (np.logaddexp(0, odds) - fraud * odds) / weight.sum(axis=-1), np.float64)


def brier_score(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """Mean squared difference of score and label (Brier 1950)."""
    weight = event_weights(labels, weights)
    squares = (np.asarray(scores, np.float64) - np.asarray(labels, np.float64)) ** 2
    return np.asarray(weight @ squares / weight.sum(axis=-1), np.float64)


def quantile_bins(scores: ArrayLike, bins: int = 10) -> NDArray[np.intp]:
    """The bin of each event when the scores are cut into ``bins`` of as equal a size as ties allow. Shape (events,)."""
    score = np.asarray(scores, np.float64)
    inner = np.unique(np.quantile(score, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.searchsorted(inner, score, side="left")


def expected_calibration_error(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, bins: int = 10) -> FloatArray:
    """Mean over events of |share of fraud - mean score| of their bin (Naeini, Cooper & Hauskrecht 2015, §2), with bins of equal size
    (Nguyen & O'Connor 2015, §3): bins of equal width would hold nearly all events of rare fraud in the first one."""
    weight = event_weights(labels, weights)
    member = quantile_bins(scores, bins)
    surplus = np.asarray(labels, np.float64) - np.asarray(scores, np.float64)
    by_bin = np.zeros((surplus.size, int(member.max()) + 1))
    by_bin[np.arange(surplus.size), member] = surplus
    return np.asarray(np.abs(weight @ by_bin).sum(axis=-1) / weight.sum(axis=-1), np.float64)


def reliability_curve(labels: ArrayLike, scores: ArrayLike, bins: int = 10) -> list[dict[str, float]]:
    """Per quantile bin: how many events, their mean score, their share of fraud."""
    fraud, score, member = np.asarray(labels, np.float64), np.asarray(scores, np.float64), quantile_bins(scores, bins)
    inside = [member == b for b in np.unique(member)]
    return [{"events": int(i.sum()), "mean_score": float(score[i].mean()), "fraud_share": float(fraud[i].mean())} for i in inside]


def calibration_line(labels: ArrayLike, scores: ArrayLike) -> Line:
    """Slope and intercept of the logistic regression of the label on the log-odds of the score (Cox 1958; Van Calster et al. 2019,
    Calibration: the Achilles heel of predictive analytics). 1 and 0 are perfect; a slope below 1: the scores are too extreme.

    Both are NaN where no finite line is the most likely one (Albert & Anderson 1984, On the existence of maximum likelihood estimates in
    logistic regression models): all scores are equal, or a threshold separates fraud from genuine events, or one of them is missing.
    Labels may be probabilities."""
    fraud, odds = np.asarray(labels, np.float64), log_odds(scores)
    frauds, genuine = odds[fraud > 0], odds[fraud < 1]
    if not frauds.size or not genuine.size or frauds.min() >= genuine.max() or frauds.max() <= genuine.min():
        return Line(np.nan, np.nan)
    return _fit_logistic(odds, fraud)


def calibration_slope_intercept(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """``calibration_line`` for many weightings, shape (resamples, events), each by one Newton step from the unweighted estimate, which is
    as accurate as the bootstrap itself (Davidson & MacKinnon 1999, Bootstrap testing in nonlinear models, §3). Two arrays (resamples,): NaN
    where the unweighted estimate is, and for a weighting without fraud or without genuine events."""
    fraud, odds = np.asarray(labels, np.float64), log_odds(scores)
    weight = np.asarray(weights, np.float64)
    start = calibration_line(labels, scores)
    if np.isnan(start.slope):
        return np.full(len(weight), np.nan), np.full(len(weight), np.nan)
    p = sigmoid(start(odds))
    gradient = weight @ np.column_stack([(fraud - p) * odds, fraud - p])
    curvature = weight @ np.column_stack([p * (1 - p) * odds**2, p * (1 - p) * odds, p * (1 - p)])
    determinant = curvature[:, 0] * curvature[:, 2] - curvature[:, 1] ** 2
    frauds = weight @ fraud
    determinant = np.where((frauds > 0) & (frauds < weight.sum(axis=1)), determinant, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = start.slope + (curvature[:, 2] * gradient[:, 0] - curvature[:, 1] * gradient[:, 1]) / determinant
        intercept = start.intercept + (curvature[:, 0] * gradient[:, 1] - curvature[:, 1] * gradient[:, 0]) / determinant
    return slope, intercept


def platt_scaling(labels: ArrayLike, margins: ArrayLike) -> Line:
    """The line that turns margins into calibrated log-odds: maximum likelihood with Platt's smoothed targets (N₊+1)/(N₊+2) and 1/(N₋+2)
    (Platt 1999, Probabilistic outputs for support vector machines, §2.2; Lin, Lin & Weng 2007 for the method of solving it)."""
    fraud = np.asarray(labels, np.float64)
    frauds = fraud.sum()
    targets = np.where(fraud > 0, (frauds + 1) / (frauds + 2), 1 / (fraud.size - frauds + 2))
    return _fit_logistic(np.asarray(margins, np.float64), targets)


def platt_scaling_if_better(labels: ArrayLike, margins: ArrayLike, folds: int = 5) -> Line | None:
    """``platt_scaling`` of all events if it lowers the log loss on events that it was not fitted on, else None.

    ``folds`` contiguous blocks of the events, in the order given (by time), are each scored by the line of the others. None as well where a
    line would turn the order of the scores round, or a block's complement has only one label.
    """
    fraud, margin = np.asarray(labels, np.float64), np.asarray(margins, np.float64)
    held_out = np.empty_like(margin)
    for block in np.array_split(np.arange(fraud.size), folds):
        rest = np.delete(np.arange(fraud.size), block)
        if not 0 < fraud[rest].sum() < rest.size:
            return None
        held_out[block] = platt_scaling(fraud[rest], margin[rest])(margin[block])
    line = platt_scaling(fraud, margin)
    better = log_loss(fraud, sigmoid(held_out)) < log_loss(fraud, sigmoid(margin))
    return line if better and line.slope > 0 else None


def _fit_logistic(x: FloatArray, targets: FloatArray) -> Line:
    """argmin of the cross-entropy of sigmoid(slope·x + intercept) against targets in [0, 1]: Newton's method with step halving
    (Lin, Lin & Weng 2007, algorithm 1). A vanishing ridge keeps it defined where x is constant."""
    design = np.column_stack([x, np.ones_like(x)])
    share = np.clip(targets.mean(), _SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY)
    theta = np.array([0.0, np.log(share / (1 - share))])

    def loss(candidate: FloatArray) -> float:
        odds = design @ candidate
        return float(np.sum(np.logaddexp(0, odds) - targets * odds))

    current = loss(theta)
    for _ in range(_NEWTON_STEPS):
        p = sigmoid(design @ theta)
        gradient = design.T @ (p - targets)
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + 1e-10 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-10 and loss(theta - size * step) > current:
            size /= 2
        theta = theta - size * step
        improved, current = current - loss(theta), loss(theta)
        if improved <= 1e-12 * max(1.0, abs(current)):
            break
    return Line(float(theta[0]), float(theta[1]))
