"""How well scores find fraud.

Every metric takes ``labels`` (0 or 1) and ``scores``, shape (events,), and optionally event ``weights``, shape (events,) or
(resamples, events). The result has the shape of the weights without the events: a single number without weights or with one row of them.
It is NaN where the metric is undefined (no fraud, or nothing but fraud). Events of equal score are treated alike: no metric depends on
the order of the rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.domain import ReviewCapacity


def average_precision(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """Σ (R_k - R_{k-1}) P_k over the distinct scores from the highest down, without interpolation (scikit-learn's
    ``average_precision_score``; Boyd, Eng & Page 2013, Area under the precision-recall curve, §3)."""
    fraud, weight = _by_threshold(labels, scores, weights, only_at_fraud=True)
    found, flagged = np.cumsum(fraud, axis=-1), np.cumsum(weight, axis=-1)
    return _ratio((fraud * _ratio(found, flagged, 0.0)).sum(axis=-1), found[..., -1])


def roc_auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """The probability that a fraud scores above a genuine event, ties counted half (Hanley & McNeil 1982)."""
    fraud, weight = _by_threshold(labels, scores, weights, only_at_fraud=True)
    genuine, found = weight - fraud, np.cumsum(fraud, axis=-1)
    return _ratio((genuine * (found - fraud / 2)).sum(axis=-1), genuine.sum(axis=-1) * found[..., -1])


def precision_recall_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Precision, recall and threshold at every distinct score, from the highest down (three arrays of equal length)."""
    found, flagged = (np.cumsum(part) for part in _by_threshold(labels, scores, None))
    return found / flagged, _ratio(found, found[-1:]), np.unique(np.asarray(scores, np.float64))[::-1]


def precision_recall_at_capacity(
    labels: ArrayLike, scores: ArrayLike, days: ArrayLike, capacity: ReviewCapacity, weights: ArrayLike | None = None
) -> tuple[FloatArray, FloatArray]:
    """Precision among the events that analysts can look at, and the share of fraud among them, when each day's highest scores are
    reviewed (see ``reviewed_share``). ``days``: the day of each event, any sortable type, shape (events,)."""
    weight = event_weights(labels, weights)
    reviewed = reviewed_share(scores, days, capacity, weight) * weight
    fraud = np.asarray(labels, np.float64)
    return _ratio(reviewed @ fraud, reviewed.sum(axis=-1)), _ratio(reviewed @ fraud, weight @ fraud)


def reviewed_share(ranking: ArrayLike, days: ArrayLike, capacity: ReviewCapacity, weights: ArrayLike | None = None) -> FloatArray:
    """How much of each event is reviewed, 0 to 1, when every day the events of the highest ``ranking`` are reviewed up to the capacity.

    Between 0 and 1 is the chance of being picked: events of equal ranking share what is left of the capacity, and so does the last event
    where the capacity is not a whole number (5 % of 37 events). Events ranked minus infinity are never reviewed. Shape of the weights.
    """
    rank = np.asarray(ranking, np.float64)
    weight = event_weights(rank, weights)
    if rank.size == 0:
        return weight
    day = np.unique(np.asarray(days), return_inverse=True)[1]
    order = np.lexsort((-rank, day))
    order = _within_reach(order, day, rank, capacity, weight)
    fresh_day = np.diff(day[order], prepend=-1) != 0
    fresh = fresh_day | np.append(True, rank[order][1:] != rank[order][:-1])
    starts = np.flatnonzero(fresh)
    tied = np.add.reduceat(weight[..., order], starts, axis=-1)
    day_of_tie = day[order][starts]
    day_total = np.add.reduceat(tied, np.flatnonzero(fresh_day[starts]), axis=-1)
    before = np.cumsum(tied, axis=-1) - tied
    before -= (np.cumsum(day_total, axis=-1) - day_total)[..., day_of_tie]
    room = np.float64(capacity.per_day) if capacity.share is None else capacity.share * day_total[..., day_of_tie]
    part = np.clip(_ratio(room - before, tied, 0.0), 0.0, 1.0)
    part = np.where(np.isneginf(rank[order][starts]), 0.0, part)
    reviewed = np.zeros_like(weight)
    reviewed[..., order] = part[..., np.cumsum(fresh) - 1]
    return reviewed


def _within_reach(
    order: NDArray[np.intp], day: NDArray[np.intp], rank: FloatArray, capacity: ReviewCapacity, weight: FloatArray
) -> NDArray[np.intp]:
    """Of the events in ``order`` (by day, highest ranking first) those that a capacity of so many a day may come to: the first few hundred of
    thousands. Whole ties; all events where the capacity is a share."""
    if capacity.per_day is None:
        return order
    fresh_day = np.diff(day[order], prepend=-1) != 0
    fresh = fresh_day | np.append(True, rank[order][1:] != rank[order][:-1])
    positions = np.arange(order.size)
    day_starts = np.maximum.accumulate(np.where(fresh_day, positions, 0))
    tie_starts = np.maximum.accumulate(np.where(fresh, positions, 0))
    place = tie_starts - day_starts
    depth = 2 * capacity.per_day
    while True:
        reached = place < depth
        candidates = order[reached]
        if candidates.size == order.size:
            return order
        starts = np.flatnonzero(np.diff(day[candidates], prepend=-1))
        left_behind = np.bincount(day[order]) > np.bincount(day[candidates])
        total = np.add.reduceat(weight[..., candidates], starts, axis=-1)
        if (total[..., left_behind] >= capacity.per_day).all():
            return candidates
        depth *= 2


def card_precision_at_k(
    labels: ArrayLike, scores: ArrayLike, days: ArrayLike, entities: ArrayLike, k: int, weights: ArrayLike | None = None
) -> FloatArray:
    """Mean over days of the share of defrauded entities among the k of the highest score that day; an entity found is blocked, and does
    not come again (Le Borgne et al. 2022, Fraud Detection Handbook, §4.4, "card precision top-k").

    An entity's weight on a day is the greatest of its events': resample whole entities. Fewer than k entities still count as k.
    """
    weight = event_weights(labels, weights)
    score, fraud = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    day = np.unique(np.asarray(days), return_inverse=True)[1]
    entity = np.unique(np.asarray(entities), return_inverse=True)[1]
    blocked = np.zeros((*weight.shape[:-1], int(entity.max()) + 1), bool)
    shares = []
    for today in range(int(day.max()) + 1):
        rows = np.flatnonzero(day == today)
        rows = rows[np.lexsort((-score[rows], entity[rows]))]
        starts = np.flatnonzero(np.diff(entity[rows], prepend=-1))
        cards, best = entity[rows][starts], score[rows][starts]
        defrauded = np.maximum.reduceat(fraud[rows], starts)
        copies = np.where(blocked[..., cards], 0.0, np.maximum.reduceat(weight[..., rows], starts, axis=-1))
        share = reviewed_share(best, np.zeros_like(cards), ReviewCapacity(per_day=k), copies)
        shares.append((share * copies) @ defrauded / k)
        blocked[..., cards] |= (share * copies >= 0.5) & (defrauded > 0)
    return np.asarray(np.mean(shares, axis=0), np.float64)


def event_weights(events: ArrayLike, weights: ArrayLike | None) -> FloatArray:
    """The weights as floats, or ones of shape (events,)."""
    return np.ones(np.shape(events)) if weights is None else np.asarray(weights, np.float64)


def _by_threshold(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None, only_at_fraud: bool = False
) -> tuple[FloatArray, FloatArray]:
    """Weight of fraud, and of all events, at each distinct score, from the highest down. Shape (…, thresholds). ``only_at_fraud``: the scores
    between two that fraud has are taken together, which are nearly all of them, and tell no metric anything that their sum does not."""
    score, fraud = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    if score.size == 0:
        raise ValueError("no events to measure")
    order = np.argsort(-score, kind="stable")
    fresh = np.append(True, np.diff(score[order]) != 0)
    if only_at_fraud:
        with_fraud = np.add.reduceat(fraud[order], np.flatnonzero(fresh)) > 0
        apart = with_fraud | np.append(False, with_fraud[:-1])
        fresh[np.flatnonzero(fresh)[1:]] = apart[1:]
    starts = np.flatnonzero(fresh)
    weight = event_weights(score, weights)
    frauds = np.flatnonzero(fraud[order])
    by_threshold = np.zeros((*weight.shape[:-1], starts.size))
    if frauds.size:
        at = np.searchsorted(starts, frauds, side="right") - 1
        first = np.flatnonzero(np.diff(at, prepend=-1))
        weighed = weight[..., order[frauds]] * fraud[order[frauds]]
        by_threshold[..., at[first]] = np.add.reduceat(weighed, first, axis=-1)
    return by_threshold, np.add.reduceat(weight[..., order], starts, axis=-1)


def _ratio(part: FloatArray, whole: FloatArray, undefined: float = np.nan) -> FloatArray:
    shape = np.broadcast_shapes(np.shape(part), np.shape(whole))
    filled: NDArray[np.float64] = np.full(shape, undefined)
    return np.divide(part, whole, out=filled, where=np.broadcast_to(np.asarray(whole) != 0, shape))
