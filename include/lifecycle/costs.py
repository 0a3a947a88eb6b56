"""What a model is worth: example-dependent costs (Bahnsen, Stojanovic, Aouada & Ottersten 2013, Cost sensitive credit card fraud detection
using Bayes minimum risk, ICMLA, table 1).

A review costs C whatever it finds; a fraud of amount A that nobody reviews costs m·A (``Costs.review``, ``Costs.missed_share``). With
c_i = 1 where event i is reviewed and y_i = 1 where it is fraud: cost_i = c_i C + (1 - c_i) y_i m A_i.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.domain import Costs, ReviewCapacity
from include.lifecycle.metrics import event_weights, reviewed_share


def expected_benefit(scores: ArrayLike, amounts: ArrayLike, costs: Costs) -> FloatArray:
    """p·m·A - C: what reviewing an event is expected to save. Reviewing where it is positive minimises the expected cost, if the scores are
    probabilities (Bayes minimum risk, §III). Shape (events,)."""
    return np.asarray(np.asarray(scores, np.float64) * costs.missed_share * np.asarray(amounts, np.float64) - costs.review, np.float64)


def reviewed_for_benefit(
    scores: ArrayLike,
    amounts: ArrayLike,
    costs: Costs,
    days: ArrayLike | None = None,
    capacity: ReviewCapacity | None = None,
    weights: ArrayLike | None = None,
) -> FloatArray:
    """1 where an event is worth a review, 0 where not; with ``capacity`` only the day's most beneficial, as far as it goes.
    Shape (events,), or that of the weights with a capacity."""
    benefit = expected_benefit(scores, amounts, costs)
    if capacity is None:
        return (benefit > 0).astype(np.float64)
    if days is None:
        raise ValueError("a review capacity needs the events' days")
    return reviewed_share(np.where(benefit > 0, benefit, -np.inf), days, capacity, weights)


def review_threshold(scores: ArrayLike, amounts: ArrayLike, days: ArrayLike, costs: Costs, capacity: ReviewCapacity) -> float:
    """The expected benefit above which an event is reviewed when it has to be decided at once, before the day's others are known: 0, or as much as
    keeps the reviews of these events within their days' capacity on average. Money."""
    benefit = expected_benefit(scores, amounts, costs)
    within = capacity.per_day * np.unique(np.asarray(days)).size if capacity.per_day is not None else (capacity.share or 0) * benefit.size
    if (benefit > 0).sum() <= within:
        return 0.0
    return float(-np.partition(-benefit, int(within))[int(within)])  # the first that the capacity does not reach; above it are as many as it does


def expected_cost(
    labels: ArrayLike, amounts: ArrayLike, reviewed: ArrayLike, costs: Costs, weights: ArrayLike | None = None
) -> FloatArray:
    """Mean cost of an event, in the domain's currency, under the decisions ``reviewed`` (0 to 1, shape (events,) or that of the weights).
    The result has the shape of the weights without the events."""
    weight = event_weights(labels, weights)
    share = np.asarray(reviewed, np.float64)
    loss = np.asarray(labels, np.float64) * costs.missed_share * np.asarray(amounts, np.float64)
    if share.ndim == 1:
        total = weight @ (share * costs.review + (1 - share) * loss)
    else:
        reviews = weight * share
        total = costs.review * reviews.sum(axis=-1) + weight @ loss - reviews @ loss
    return np.asarray(total / weight.sum(axis=-1), np.float64)


def savings(labels: ArrayLike, amounts: ArrayLike, reviewed: ArrayLike, costs: Costs, weights: ArrayLike | None = None) -> FloatArray:
    """1 - cost / cost without a model, which is to review nothing: 1 is perfect and free, 0 is worth nothing, below 0 is harm
    (Bahnsen, Aouada & Ottersten 2015, Example-dependent cost-sensitive decision trees, §3.2). NaN without fraud."""
    without = expected_cost(labels, amounts, np.zeros(np.shape(labels)), costs, weights)
    cost = expected_cost(labels, amounts, reviewed, costs, weights)
    return np.asarray(1 - np.divide(cost, without, out=np.full(np.shape(cost), np.nan), where=without > 0), np.float64)
