from __future__ import annotations

import numpy as np
import pytest

from include.lifecycle.costs import expected_benefit, expected_cost, review_threshold, reviewed_for_benefit, savings
from include.lifecycle.domain import Costs, ReviewCapacity

COSTS = Costs(currency="EUR", review=10, missed_share=0.5)
LABELS = np.array([1, 0, 1, 0])
AMOUNTS = np.array([100.0, 40.0, 400.0, 1000.0])


def test_costs_by_hand() -> None:
    # reviewed: 10 + 10; missed: half of 400
    assert float(expected_cost(LABELS, AMOUNTS, [1, 1, 0, 0], COSTS)) == (10 + 10 + 200) / 4
    assert float(savings(LABELS, AMOUNTS, [1, 1, 0, 0], COSTS)) == pytest.approx(1 - 220 / 250)
    assert float(savings(LABELS, AMOUNTS, [0, 0, 0, 0], COSTS)) == 0
    assert float(savings(LABELS, AMOUNTS, [1, 0, 1, 0], COSTS)) == pytest.approx(1 - 20 / 250)


def test_reviewing_what_is_worth_it_is_best_when_scores_are_probabilities() -> None:
    generator = np.random.default_rng(5)
    scores, amounts = generator.random(20_000) * 0.2, generator.gamma(2, 100, 20_000)
    labels = generator.random(20_000) < scores

    def cost(reviewed: np.ndarray) -> float:
        return float(expected_cost(labels, amounts, reviewed, COSTS))

    best = cost(reviewed_for_benefit(scores, amounts, COSTS))
    others = [cost(expected_benefit(scores, amounts, COSTS) > shift) for shift in (-8, 8)]
    others += [cost(scores > threshold) for threshold in (0.05, 0.1, 0.15)]
    assert best < min(others)


def test_capacity_takes_the_most_beneficial_of_the_day_and_nothing_that_does_not_pay() -> None:
    scores, days = np.array([0.9, 0.9, 0.5, 0.01]), [1, 1, 2, 2]
    assert reviewed_for_benefit(scores, AMOUNTS, COSTS).tolist() == [1, 1, 1, 0]
    assert reviewed_for_benefit(scores, AMOUNTS, COSTS, days, ReviewCapacity(per_day=1)).tolist() == [1, 0, 1, 0]
    assert reviewed_for_benefit(scores, AMOUNTS, COSTS, days, ReviewCapacity(per_day=5)).tolist() == [1, 1, 1, 0]
    with pytest.raises(ValueError, match="days"):
        reviewed_for_benefit(scores, AMOUNTS, COSTS, capacity=ReviewCapacity(per_day=1))


def test_weights_repeat_events() -> None:
    weights = np.array([[2, 1, 0, 1], [1, 1, 1, 1]])
    reviewed = np.array([1.0, 0.0, 0.0, 1.0])
    rows = np.repeat(np.arange(4), weights[0])
    for function in (expected_cost, savings):
        found = function(LABELS, AMOUNTS, reviewed, COSTS, weights)
        assert found[0] == pytest.approx(float(function(LABELS[rows], AMOUNTS[rows], reviewed[rows], COSTS)))
        assert found == pytest.approx(function(LABELS, AMOUNTS, np.tile(reviewed, (2, 1)), COSTS, weights))


def test_savings_are_undefined_where_nothing_was_lost() -> None:
    assert np.isnan(savings([0, 0], [1.0, 1.0], [0, 1], COSTS))


def test_the_review_threshold_keeps_within_capacity_on_average() -> None:
    rng = np.random.default_rng(1)
    scores, amounts, days = rng.beta(1, 20, 2000), rng.lognormal(6, 1, 2000), np.repeat(np.arange(20), 100)
    for capacity, most in ((ReviewCapacity(share=0.05), 100), (ReviewCapacity(per_day=3), 60)):
        threshold = review_threshold(scores, amounts, days, COSTS, capacity)
        reviewed = int((expected_benefit(scores, amounts, COSTS) > threshold).sum())
        assert threshold > 0
        assert reviewed == most


def test_where_capacity_is_no_limit_every_worthwhile_event_is_reviewed() -> None:
    scores, days = np.array([0.9, 0.9, 0.5, 0.01]), [1, 1, 2, 2]
    assert review_threshold(scores, AMOUNTS, days, COSTS, ReviewCapacity(per_day=5)) == 0


def test_equal_benefits_at_the_capacitys_end_are_not_reviewed() -> None:
    """Else a model with one score for all would send all of them."""
    threshold = review_threshold(np.full(10, 0.5), np.full(10, 1000.0), np.zeros(10), COSTS, ReviewCapacity(share=0.2))
    assert (expected_benefit(np.full(10, 0.5), np.full(10, 1000.0), COSTS) > threshold).sum() == 0
