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
    found, flagged = _by_threshold(labels, scores, weights)
    gained = np.diff(found, axis=-1, prepend=0.0)
    return _ratio((gained * _ratio(found, flagged, 0.0)).sum(axis=-1), found[..., -1])


def roc_auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """The probability that a fraud scores above a genuine event, ties counted half (Hanley & McNeil 1982)."""
    found, flagged = _by_threshold(labels, scores, weights)
    genuine = np.diff(flagged - found, axis=-1, prepend=0.0)
    above = found - np.diff(found, axis=-1, prepend=0.0) / 2
    return _ratio((genuine * above).sum(axis=-1), genuine.sum(axis=-1) * found[..., -1])


def precision_recall_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Precision, recall and threshold at every distinct score, from the highest down (three arrays of equal length)."""
    found, flagged = _by_threshold(labels, scores, None)
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
    reviewed = np.empty_like(weight)
    reviewed[..., order] = part[..., np.cumsum(fresh) - 1]
    return reviewed


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


def _by_threshold(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None) -> tuple[FloatArray, FloatArray]:
    """Weight of fraud, and of all events, that score at or above each distinct score, from the highest down. Shape (…, thresholds)."""
    score, fraud = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    weight = event_weights(score, weights)[..., order]
    return np.cumsum(weight * fraud[order], axis=-1)[..., last], np.cumsum(weight, axis=-1)[..., last]


def _ratio(part: FloatArray, whole: FloatArray, undefined: float = np.nan) -> FloatArray:
    shape = np.broadcast_shapes(np.shape(part), np.shape(whole))
    filled: NDArray[np.float64] = np.full(shape, undefined)
    return np.divide(part, whole, out=filled, where=np.broadcast_to(np.asarray(whole) != 0, shape))
