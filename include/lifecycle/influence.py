"""The metrics of evaluation with their derivatives: how much each event, were it fraud or genuine, moves a metric.

Standard errors then need no resampling: with θ a metric as a function of event weights, event i counts yᵢ·gᵢ¹ + (1 - yᵢ)·gᵢ⁰, where gᵢ¹ and
gᵢ⁰ are the derivatives of θ by a small weight of fraud and of genuine events with the features of event i (the empirical influence function:
Hampel 1974, The influence curve and its role in robust estimation; Efron & Tibshirani 1993, An Introduction to the Bootstrap, §21). Sums of
them over clusters give the variance whatever the clusters are (``include.lifecycle.clustering``), and gᵢ¹ - gᵢ⁰ is how the metric depends on
the probability of fraud of event i.

Labels may be probabilities (0 to 1): the metric is then the one of the expected counts, which is how a metric is estimated where no label is
known yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from include.lifecycle import calibration, costs, metrics
from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.domain import ReviewCapacity
from include.lifecycle.evaluation import Economics

AT_PREVALENCE = "average_precision_at_prevalence"
_SINGULAR = 1e12
_MARGIN = 0.2
"""Events ranked within this share of the capacity around it tell how often the marginal event is fraud."""


@dataclass(frozen=True)
class Measured:
    """A metric, NaN where it is undefined, with its derivatives by a unit of weight of fraud, and of genuine events, at each event: shape
    (events,) each."""

    value: float
    fraud: FloatArray
    genuine: FloatArray

    def influence(self, labels: FloatArray) -> FloatArray:
        """The derivative by each event's weight, shape (events,)."""
        return labels * self.fraud + (1 - labels) * self.genuine

    @property
    def by_probability(self) -> FloatArray:
        """The derivative by each event's probability of fraud, shape (events,)."""
        return self.fraud - self.genuine


@dataclass(frozen=True)
class Scored:
    """Events with their scores, all arrays of shape (events,): ``labels`` 0 to 1, ``scores`` finite. ``economics`` None: nothing is known of
    costs and review capacity, and what depends on them is undefined. Amounts that are not finite are left out of what depends on money."""

    labels: FloatArray
    scores: FloatArray
    amounts: FloatArray
    days: NDArray[np.datetime64]
    economics: Economics | None

    @property
    def size(self) -> int:
        return int(self.scores.size)

    @cached_property
    def frauds(self) -> float:
        return float(self.labels.sum())

    @cached_property
    def ranked(self) -> _Ranked:
        return _Ranked.of(self.scores)

    @cached_property
    def queue(self) -> _Queue | None:
        """By score; None without a review capacity."""
        return _queue(self.scores, self.days, self.economics.review) if self.economics else None

    @cached_property
    def calibration(self) -> tuple[calibration.Line, FloatArray]:
        """The calibration line, and its derivatives by x(y - q), shape (2, events); not finite where the line is not unique."""
        odds = calibration.log_odds(self.scores)
        line = calibration.calibration_line(self.labels, self.scores)
        q = calibration.sigmoid(line(odds))
        weight = q * (1 - q)
        square = np.array([[weight @ odds**2, weight @ odds], [weight @ odds, weight.sum()]])
        if np.isnan(line.slope) or np.linalg.cond(square) > _SINGULAR:
            return calibration.Line(np.nan, np.nan), np.zeros((2, 0))
        inverse = np.linalg.inv(square)
        return line, np.stack([row[0] * odds + row[1] for row in inverse])

    @cached_property
    def priced(self) -> NDArray[np.bool_]:
        return np.isfinite(self.amounts)

    def measure(self, name: str, prevalence: float | None = None) -> Measured:
        """One of ``MEASURES``, or ``AT_PREVALENCE``: average precision as it were at ``prevalence``. KeyError for another name."""
        if not self.size or (not 0 < self.frauds < self.size and name not in _WITHOUT_FRAUD):
            return self.undefined
        if name == AT_PREVALENCE:
            return _average_precision_at(self, prevalence) if prevalence is not None and 0 < prevalence < 1 else self.undefined
        return MEASURES[name](self)

    @property
    def undefined(self) -> Measured:
        return Measured(np.nan, np.full(self.size, np.nan), np.full(self.size, np.nan))


@dataclass(frozen=True)
class _Ranked:
    """Events from the highest score down. ``order``: rows; ``tie``: of each row, the number of its score from the highest, from 0."""

    order: NDArray[np.intp]
    tie: NDArray[np.intp]

    @classmethod
    def of(cls, scores: FloatArray) -> _Ranked:
        order = np.argsort(-scores, kind="stable")
        tie = np.empty(scores.size, np.intp)
        tie[order] = np.cumsum(np.diff(scores[order], prepend=np.inf) != 0) - 1
        return cls(order, tie)

    def by_tie(self, weight: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(self.tie, weight), np.float64)


def _from_below(values: FloatArray) -> FloatArray:
    """Sums from each threshold to the lowest, itself included."""
    return np.cumsum(values[::-1])[::-1]


def _average_precision(events: Scored) -> Measured:
    """Σ_t f_t F_t/N_t / F, with f_t the fraud at threshold t, F_t and N_t the fraud and the events down to it. An event at threshold u adds
    to f_u, and to F_t and N_t for t from u on."""
    return _weighted_average_precision(events, events.labels, 1 - events.labels)


def _average_precision_at(events: Scored, prevalence: float) -> Measured:
    """Average precision with fraud and genuine events weighted so that fraud has this share (Siblini, Fréry, He-Guelton, Oblé & Wang 2020,
    Master your metrics with calibration, §3): of two times, what is left is how well fraud is ranked above the rest."""
    fraud = prevalence / events.frauds
    genuine = (1 - prevalence) / (events.size - events.frauds)
    found = _weighted_average_precision(events, events.labels * fraud, (1 - events.labels) * genuine)
    # the weights of a class sum to a constant: an event that comes in takes from the others of its class
    mean_fraud = events.labels @ found.fraud / events.frauds
    mean_genuine = (1 - events.labels) @ found.genuine / (events.size - events.frauds)
    return Measured(found.value, fraud * (found.fraud - mean_fraud), genuine * (found.genuine - mean_genuine))


def _weighted_average_precision(events: Scored, fraud: FloatArray, genuine: FloatArray) -> Measured:
    ranked = events.ranked
    f, n = ranked.by_tie(fraud), ranked.by_tie(fraud + genuine)
    found, flagged, total = np.cumsum(f), np.cumsum(n), f.sum()
    value = float((f * found / flagged).sum() / total)
    spoilt = _from_below(f * found / flagged**2)
    gained = found / flagged + _from_below(f / flagged) - spoilt
    return Measured(value, ((gained - value) / total)[ranked.tie], (-spoilt / total)[ranked.tie])


def _roc_auc(events: Scored) -> Measured:
    """The share of pairs of a fraud and a genuine event in the right order; the derivatives are the placement values of DeLong, DeLong &
    Clarke-Pearson 1988, Comparing the areas under two or more correlated receiver operating characteristic curves."""
    ranked = events.ranked
    f, g = ranked.by_tie(events.labels), ranked.by_tie(1 - events.labels)
    genuine_below = _from_below(g) - g / 2
    frauds_above = np.cumsum(f) - f / 2
    value = float(f @ genuine_below / (f.sum() * g.sum()))
    return Measured(
        value,
        ((genuine_below / g.sum() - value) / f.sum())[ranked.tie],
        ((frauds_above / f.sum() - value) / g.sum())[ranked.tie],
    )


@dataclass(frozen=True)
class _Queue:
    """Who is reviewed when each day's highest ``ranking`` are, all of shape (events,). ``reviewed``: how much of each event; ``near``: whether it
    stands near the end of the queue; ``scarce``: 1 on days with more events than reviews, else 0; ``room``: how much of a review more there is
    with the event, where the capacity is a share. An event that is reviewed takes the place of the marginal one."""

    reviewed: FloatArray
    near: NDArray[np.bool_]
    scarce: FloatArray
    room: FloatArray

    def displaced(self, gain: FloatArray) -> FloatArray:
        """What the marginal review gains, of ``gain`` per event; 0 where none is displaced."""
        return self.scarce * (float(gain[self.near].mean()) if self.near.any() else 0.0)


def _queue(ranking: FloatArray, days: NDArray[np.datetime64], capacity: ReviewCapacity) -> _Queue:
    reviewed = metrics.reviewed_share(ranking, days, capacity)
    day = np.unique(days, return_inverse=True)[1]
    by_day, worth = np.bincount(day), np.bincount(day, ~np.isneginf(ranking))
    room = np.full(by_day.size, float(capacity.per_day or 0)) if capacity.share is None else capacity.share * by_day
    order = np.lexsort((-ranking, day))
    rank = np.empty(ranking.size)
    rank[order] = np.arange(ranking.size) - (np.cumsum(by_day) - by_day)[day[order]]
    near = (np.abs(rank + 0.5 - room[day]) <= np.maximum(_MARGIN * room[day], 1)) & ~np.isneginf(ranking)
    scarce = np.asarray((worth > room)[day], np.float64)
    return _Queue(reviewed, near, scarce, scarce * (capacity.share or 0.0))


def _recall_at_capacity(events: Scored) -> Measured:
    queue = events.queue
    if queue is None:
        return events.undefined
    reviewed = queue.reviewed
    value = float(reviewed @ events.labels / events.frauds)
    gained = (queue.room - reviewed) * queue.displaced(events.labels)
    return Measured(value, (gained + reviewed - value) / events.frauds, gained / events.frauds)


def _precision_at_capacity(events: Scored) -> Measured:
    queue = events.queue
    if queue is None or not queue.reviewed.any():
        return events.undefined
    reviewed, reviews = queue.reviewed, queue.reviewed.sum()
    value = float(reviewed @ events.labels / reviews)
    more = np.where(queue.scarce > 0, queue.room, reviewed)  # reviews there are more of, with more of an event
    gained = (queue.room - reviewed) * queue.displaced(events.labels) - value * more
    return Measured(value, (gained + reviewed) / reviews, gained / reviews)


def _cost(events: Scored, relative: bool) -> Measured:
    """Expected cost of an event, or savings, when all that is worth a review gets one (``costs.reviewed_for_benefit``)."""
    if events.economics is None or not events.priced.any():
        return events.undefined
    money = events.economics.costs
    amounts = np.where(events.priced, events.amounts, 0.0)
    reviewed = costs.reviewed_for_benefit(events.scores, amounts, money)
    loss = money.missed_share * amounts
    fraud, genuine = reviewed * money.review + (1 - reviewed) * loss, reviewed * money.review
    cost = float(events.labels @ fraud + (1 - events.labels) @ genuine)
    if not relative:
        value = cost / int(events.priced.sum())
        return _ratio(events, value, fraud - value, genuine - value, float(events.priced.sum()))
    without = float(events.labels @ loss)
    if without <= 0:
        return events.undefined
    return _ratio(events, 1 - cost / without, cost / without * loss - fraud, -genuine, without)


def _savings_at_capacity(events: Scored) -> Measured:
    if events.economics is None or not events.priced.any():
        return events.undefined
    money = events.economics.costs
    amounts = np.where(events.priced, events.amounts, 0.0)
    benefit = costs.expected_benefit(events.scores, amounts, money)
    ranking, loss = np.where(benefit > 0, benefit, -np.inf), money.missed_share * amounts
    queue = _queue(ranking, events.days, events.economics.review)
    reviewed = queue.reviewed
    without = float(events.labels @ loss)
    if without <= 0:
        return events.undefined
    value = float(reviewed @ (events.labels * loss - money.review)) / without
    gained = (queue.room - reviewed) * queue.displaced(events.labels * loss - money.review) - reviewed * money.review
    return _ratio(events, value, gained + (reviewed - value) * loss, gained, without)


def _ratio(events: Scored, value: float, fraud: FloatArray, genuine: FloatArray, whole: float) -> Measured:
    """A quotient of sums over events with a finite amount, whose derivatives are these over ``whole``."""
    known = events.priced
    return Measured(value, np.where(known, fraud, 0.0) / whole, np.where(known, genuine, 0.0) / whole)


def _mean(events: Scored, fraud: FloatArray, genuine: FloatArray) -> Measured:
    """The mean of a loss that is ``fraud`` for a fraud, and ``genuine`` for a genuine event."""
    value = float(events.labels @ fraud + (1 - events.labels) @ genuine) / events.size
    return Measured(value, (fraud - value) / events.size, (genuine - value) / events.size)


def _brier_score(events: Scored) -> Measured:
    return _mean(events, (1 - events.scores) ** 2, events.scores**2)


def _log_loss(events: Scored) -> Measured:
    odds = calibration.log_odds(events.scores)
    return _mean(events, np.logaddexp(0, -odds), np.logaddexp(0, odds))


def _expected_calibration_error(events: Scored) -> Measured:
    member = calibration.quantile_bins(events.scores)
    sign = np.sign(np.bincount(member, events.labels - events.scores))[member]
    return _mean(events, sign * (1 - events.scores), -sign * events.scores)


def _calibration_line(events: Scored, intercept: bool) -> Measured:
    """The root of Σ x(y - q), x = (log-odds, 1): its derivative by an event's weight is H⁻¹ x(y - q)."""
    line, rows = events.calibration
    if np.isnan(line.slope):
        return events.undefined
    q, row = calibration.sigmoid(line(calibration.log_odds(events.scores))), rows[int(intercept)]
    return Measured(line.intercept if intercept else line.slope, row * (1 - q), -row * q)


MEASURES: dict[str, Callable[[Scored], Measured]] = {
    "average_precision": _average_precision,
    "roc_auc": _roc_auc,
    "precision_at_capacity": _precision_at_capacity,
    "recall_at_capacity": _recall_at_capacity,
    "expected_cost": lambda events: _cost(events, relative=False),
    "savings": lambda events: _cost(events, relative=True),
    "savings_at_capacity": _savings_at_capacity,
    "expected_calibration_error": _expected_calibration_error,
    "brier_score": _brier_score,
    "log_loss": _log_loss,
    "calibration_slope": lambda events: _calibration_line(events, intercept=False),
    "calibration_intercept": lambda events: _calibration_line(events, intercept=True),
}
"""The metrics of ``evaluation.METRICS`` but card precision, which depends on the order of the days."""

_WITHOUT_FRAUD = {"expected_cost", "precision_at_capacity", "expected_calibration_error", "brier_score", "log_loss"}
