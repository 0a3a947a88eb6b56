"""``include.lifecycle.influence``: the values are those of evaluation, the derivatives those of its metrics by event weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quality_cases import sample
from sklearn.metrics import average_precision_score

from include.lifecycle import metrics
from include.lifecycle.domain import Costs, ReviewCapacity
from include.lifecycle.evaluation import Economics, Events, measure
from include.lifecycle.influence import AT_PREVALENCE, MEASURES, Scored

CAPACITIES = (ReviewCapacity(per_day=9), ReviewCapacity(share=0.05), ReviewCapacity(per_day=10_000))
AT_THE_MARGIN = {"precision_at_capacity", "recall_at_capacity", "savings_at_capacity"}
"""Their derivatives stand for those of many days: the marginal event's label is replaced by its expectation."""


def a_case(capacity: ReviewCapacity, size: int = 2_000, ties: bool = True) -> tuple[Events, Scored]:
    events, scores = sample(size, seed=3, days=10)
    economics = Economics(Costs("EUR", 5.0), capacity)
    scores = np.round(scores, 3) if ties else scores
    return events, Scored(events.labels, scores, events.amounts, events.days, economics)


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_values_are_those_of_evaluation(capacity: ReviewCapacity) -> None:
    events, scored = a_case(capacity)
    assert scored.economics is not None
    expected = measure(events, scored.scores, scored.economics, np.ones((1, scored.size)))
    for name in MEASURES:
        assert scored.measure(name).value == pytest.approx(float(expected[name][0]), abs=1e-12), name


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_derivatives_are_those_by_event_weights(capacity: ReviewCapacity) -> None:
    events, scored = a_case(capacity)
    assert scored.economics is not None
    weights = 1 + 1e-4 * (np.random.default_rng(0).random((5, scored.size)) - 0.5)
    moved = measure(events, scored.scores, scored.economics, np.vstack([np.ones(scored.size), weights]))
    for name in MEASURES.keys() - AT_THE_MARGIN:
        linear = (weights - 1) @ scored.measure(name).influence(scored.labels)
        np.testing.assert_allclose(linear, moved[name][1:] - moved[name][0], rtol=2e-2, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("capacity", CAPACITIES[:2])
def test_standard_errors_at_the_margin_are_those_of_the_bootstrap(capacity: ReviewCapacity) -> None:
    events, scored = a_case(capacity, 4_000, ties=False)
    assert scored.economics is not None
    weights = np.random.default_rng(1).multinomial(scored.size, np.full(scored.size, 1 / scored.size), 400).astype(float)
    drawn = measure(events, scored.scores, scored.economics, weights)
    for name in AT_THE_MARGIN:
        influence = scored.measure(name).influence(scored.labels)
        assert np.sqrt(((influence - influence.mean()) ** 2).sum()) == pytest.approx(drawn[name].std(), rel=0.15), name


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
@settings(max_examples=60, deadline=None)
def test_probabilities_as_labels_are_expected_counts(pairs: list[tuple[int, bool]]) -> None:
    """Labels of one half are an event that is fraud and one that is genuine, at half a weight each."""
    score, label = np.array([pair[0] for pair in pairs], float), np.array([pair[1] for pair in pairs], float)
    if not 0 < label.sum() < label.size:
        return
    half = Scored((label + 0.5) / 2, score / 5, np.ones(score.size), np.zeros(score.size, "datetime64[D]"), None)
    both = np.concatenate([np.ones(score.size), np.zeros(score.size)])
    weight = np.concatenate([(label + 0.5) / 2, 1 - (label + 0.5) / 2])
    for name, metric in (("roc_auc", metrics.roc_auc), ("average_precision", metrics.average_precision)):
        assert half.measure(name).value == pytest.approx(float(metric(both, np.tile(score, 2), weight)), abs=1e-12)


def test_average_precision_at_another_prevalence_is_that_of_reweighted_events() -> None:
    _, scored = a_case(CAPACITIES[0], 1_500)
    share = scored.frauds / scored.size
    weights = np.where(scored.labels == 1, 0.2 / share, 0.8 / (1 - share))
    found = scored.measure(AT_PREVALENCE, 0.2)
    assert found.value == pytest.approx(average_precision_score(scored.labels, scored.scores, sample_weight=weights), abs=1e-9)
    assert scored.measure(AT_PREVALENCE, share).value == pytest.approx(scored.measure("average_precision").value)
    # more frauds of the same kind leave it as it is
    more = np.concatenate([np.arange(scored.size), np.flatnonzero(scored.labels == 1)])
    again = Scored(scored.labels[more], scored.scores[more], scored.amounts[more], scored.days[more], None)
    assert again.measure(AT_PREVALENCE, 0.2).value == pytest.approx(found.value)
    assert again.measure("average_precision").value > scored.measure("average_precision").value
    nudge = 1e-5 * np.random.default_rng(0).normal(size=scored.size)
    by_class = np.where(scored.labels == 1, 0.2 / ((1 + nudge) @ scored.labels), 0.8 / ((1 + nudge) @ (1 - scored.labels)))
    changed = metrics.average_precision(scored.labels, scored.scores, (1 + nudge) * by_class)
    assert nudge @ found.influence(scored.labels) == pytest.approx(float(changed) - found.value, rel=1e-2)


def test_what_is_undefined_is_not_a_number() -> None:
    none = Scored(np.zeros(5), np.linspace(0, 1, 5), np.full(5, np.nan), np.zeros(5, "datetime64[D]"), Economics(Costs("EUR", 5.0), CAPACITIES[0]))
    for name in ("roc_auc", "average_precision", "recall_at_capacity", "savings", "expected_cost", "calibration_slope"):
        assert np.isnan(none.measure(name).value), name
    assert none.measure("brier_score").value == pytest.approx(np.mean(np.linspace(0, 1, 5) ** 2))
    assert np.isnan(Scored(*(np.zeros(0),) * 3, np.zeros(0, "datetime64[D]"), None).measure("log_loss").value)
