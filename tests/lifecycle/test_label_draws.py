"""``include.lifecycle.label_draws``: labels are drawn with their probabilities, and metrics of them are those of ``metrics``."""

from __future__ import annotations

import numpy as np
import pytest
from quality_cases import ECONOMICS, sample

from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.evaluation import measure
from include.lifecycle.influence import AT_PREVALENCE, Scored
from include.lifecycle.label_draws import Draws


def a_window(size: int = 300, digits: int = 2) -> tuple[Scored, FloatArray]:
    events, scores = sample(size, 4)
    p = np.random.default_rng(0).beta(0.2, 2.0, size)
    p[:3] = 0.0, 1.0, 0.5
    return Scored(p, np.round(scores, digits), events.amounts, events.days, ECONOMICS), p


def test_each_event_is_fraud_with_its_probability() -> None:
    scored, p = a_window()
    draws = Draws.of(scored)
    times = np.bincount(draws.event, minlength=p.size)
    assert draws.frauds.size == 500
    assert (times[0], times[1]) == (0, 500)
    assert np.abs(times / 500 - p).max() < 4.5 * np.sqrt(0.25 / 500)
    assert draws.frauds.mean() == pytest.approx(p.sum(), abs=4 * np.sqrt((p * (1 - p)).sum() / 500))
    assert draws.frauds.var() == pytest.approx((p * (1 - p)).sum(), rel=0.25)


def test_metrics_of_a_draw_are_those_of_its_labels() -> None:
    scored, _ = a_window()
    draws = Draws.of(scored)
    events, _ = sample(scored.size, 4)
    for number in (0, 7, 499):
        labels = np.zeros(scored.size)
        labels[draws.event[draws.draw == number]] = 1
        again = type(events)(labels, scored.amounts, scored.days, events.entities, events.groups)
        expected = {name: float(value[0]) for name, value in measure(again, scored.scores, ECONOMICS, np.ones((1, labels.size))).items()}
        expected[AT_PREVALENCE] = Scored(labels, scored.scores, scored.amounts, scored.days, None).measure(AT_PREVALENCE, 0.02).value
        for name in ("roc_auc", "average_precision", AT_PREVALENCE, "recall_at_capacity", "precision_at_capacity", "expected_cost", "savings"):
            drawn = draws.metric(name, 0.02)
            assert drawn is not None
            assert drawn[number] == pytest.approx(expected[name]), name
    assert draws.metric("calibration_slope", 0.02) is None


def test_there_are_fewer_draws_of_very_many_frauds_and_always_the_same() -> None:
    events, scores = sample(8_000, 5)
    scored = Scored(np.full(scores.size, 0.5), scores, events.amounts, events.days, None)
    assert Draws.of(scored).frauds.size == 100
    np.testing.assert_array_equal(Draws.of(scored).event, Draws.of(scored).event)
