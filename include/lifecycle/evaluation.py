"""All that is measured of one model on one set of events, with intervals; and of two models, compared on the same events."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from include.lifecycle import calibration, costs, metrics
from include.lifecycle.bootstrap import FloatArray, Interval, Resampled, bootstrap
from include.lifecycle.domain import Costs, ReviewCapacity
from include.lifecycle.gate import Comparison

METRICS = {
    "average_precision": "Average precision",
    "roc_auc": "ROC AUC",
    "precision_at_capacity": "Precision at the review capacity",
    "recall_at_capacity": "Recall at the review capacity",
    "card_precision_at_capacity": "Card precision at the review capacity",
    "expected_cost": "Cost of an event, reviewing what is worth it",
    "savings": "Savings, reviewing what is worth it",
    "savings_at_capacity": "Savings within the review capacity",
    "expected_calibration_error": "Expected calibration error",
    "brier_score": "Brier score",
    "log_loss": "Log loss",
    "calibration_slope": "Calibration slope",
    "calibration_intercept": "Calibration intercept",
}


@dataclass(frozen=True)
class Events:
    """Labelled events, every array of shape (events,). ``labels``: 0 or 1; ``groups``: the clusters that are resampled whole."""

    labels: FloatArray
    amounts: FloatArray
    days: NDArray[np.datetime64]
    entities: NDArray[np.str_]
    groups: NDArray[np.str_]

    @cached_property
    def entity_codes(self) -> NDArray[np.intp]:
        """``entities`` as numbers from 0 on, which are faster to compare."""
        return np.unique(self.entities, return_inverse=True)[1]

    @property
    def prevalence(self) -> float:
        return float(self.labels.mean())


@dataclass(frozen=True)
class Economics:
    """What reviews cost and how many there can be: the domain's ``costs`` and ``review``."""

    costs: Costs
    review: ReviewCapacity


def measure(events: Events, scores: FloatArray, economics: Economics, weights: FloatArray) -> dict[str, FloatArray]:
    """``METRICS`` for each weighting of the events, shape (resamples, events) → (resamples,) each. Card precision only where an entity comes
    more than once and the capacity is a number a day."""
    y, amounts, money, capacity = events.labels, events.amounts, economics.costs, economics.review
    precision, recall = metrics.precision_recall_at_capacity(y, scores, events.days, capacity, weights)
    worthwhile = costs.reviewed_for_benefit(scores, amounts, money)
    feasible = costs.reviewed_for_benefit(scores, amounts, money, events.days, capacity, weights)
    slope, intercept = calibration.calibration_slope_intercept(y, scores, weights)
    found = {
        "average_precision": metrics.average_precision(y, scores, weights),
        "roc_auc": metrics.roc_auc(y, scores, weights),
        "precision_at_capacity": precision,
        "recall_at_capacity": recall,
        "expected_cost": costs.expected_cost(y, amounts, worthwhile, money, weights),
        "savings": costs.savings(y, amounts, worthwhile, money, weights),
        "savings_at_capacity": costs.savings(y, amounts, feasible, money, weights),
        "expected_calibration_error": calibration.expected_calibration_error(y, scores, weights),
        "brier_score": calibration.brier_score(y, scores, weights),
        "log_loss": calibration.log_loss(y, scores, weights),
        "calibration_slope": slope,
        "calibration_intercept": intercept,
    }
    entities = events.entity_codes
    if capacity.per_day is not None and entities.max() + 1 < entities.size:
        found["card_precision_at_capacity"] = metrics.card_precision_at_k(y, scores, events.days, entities, capacity.per_day, weights)
    return found


def resampled(events: Events, scores: FloatArray, economics: Economics) -> Resampled:
    """``METRICS`` of one model on the events and on bootstrap resamples of their groups, which are the same for every model."""
    return bootstrap(lambda weights: measure(events, scores, economics, weights), events.groups)


def compare(challenger: Resampled, champion: Resampled, confidence: float = 0.95) -> tuple[Comparison, dict[str, Interval]]:
    """Challenger minus champion, paired on the same events: what the gate wants to know, and every metric's difference."""
    found = (challenger - champion).intervals(confidence)
    return Comparison(found["average_precision"], found["savings"]), found
