from __future__ import annotations

import numpy as np
import pytest

from include.lifecycle.bootstrap import FloatArray, Interval, Measure, bootstrap
from include.lifecycle.calibration import sigmoid
from include.lifecycle.domain import Costs, ReviewCapacity
from include.lifecycle.evaluation import METRICS, Economics, Events, compare, resampled
from include.lifecycle.metrics import roc_auc

ECONOMICS = Economics(Costs("EUR", review=50, missed_share=0.5), ReviewCapacity(per_day=10))


def mean_of(values: FloatArray) -> Measure:
    return lambda weights: {"mean": weights @ values / weights.sum(axis=-1)}


def population(rows: int, seed: int) -> tuple[Events, FloatArray]:
    generator = np.random.default_rng(seed)
    margins = generator.normal(-2.5, 1.3, rows)
    people = np.array([f"P{row % (rows // 2)}" for row in range(rows)])
    events = Events(
        labels=(generator.random(rows) < sigmoid(margins)).astype(float),
        amounts=generator.gamma(2, 500, rows),
        days=np.datetime64("2026-01-01") + np.arange(rows) * 10 // rows,
        entities=people,
        groups=people,
    )
    return events, sigmoid(margins)


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation() -> None:
    values = np.random.default_rng(1).normal(5, 2, 1_000)
    interval = bootstrap(mean_of(values), np.arange(1_000), resamples=2_000).intervals()["mean"]
    error = values.std() / np.sqrt(1_000)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)


def test_clusters_of_equal_events_widen_the_interval_as_theory_says() -> None:
    values = np.repeat(np.random.default_rng(2).normal(size=300), 4)
    alone = bootstrap(mean_of(values), np.arange(1_200), resamples=1_500).intervals()["mean"]
    together = bootstrap(mean_of(values), np.repeat(np.arange(300), 4), resamples=1_500).intervals()["mean"]
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(2, abs=0.25)


def test_covers_the_truth_about_as_often_as_it_says() -> None:
    truth_events, truth_scores = population(400_000, 100)
    truth = float(roc_auc(truth_events.labels, truth_scores))
    covered = 0
    for seed in range(100):
        events, scores = population(500, seed)
        labels = events.labels
        found = bootstrap(
            lambda weights, labels=labels, scores=scores: {"auc": roc_auc(labels, scores, weights)}, np.arange(500), resamples=200
        ).intervals()["auc"]
        covered += found.low <= truth <= found.high
    assert 88 <= covered <= 100


def test_the_seed_decides() -> None:
    values = np.random.default_rng(3).normal(size=200)
    one, same, other = (bootstrap(mean_of(values), np.arange(200), seed=seed).intervals() for seed in (1, 1, 2))
    assert one == same
    assert one["mean"].low != other["mean"].low


def test_resamples_without_fraud_are_left_out() -> None:
    labels, scores = np.array([1.0, 0, 0]), np.array([0.9, 0.2, 0.1])
    found = bootstrap(lambda weights: {"auc": roc_auc(labels, scores, weights)}, np.arange(3)).intervals()["auc"]
    assert (found.low, found.high) == (1.0, 1.0)
    nothing = bootstrap(lambda weights: {"auc": roc_auc(np.zeros(3), scores, weights)}, np.arange(3)).intervals()["auc"]
    assert Interval.as_json(nothing) == {"value": None, "low": None, "high": None}


def test_refuses_to_resample_nothing() -> None:
    with pytest.raises(ValueError, match="no events"):
        bootstrap(mean_of(np.zeros(0)), [])


def test_every_metric_lies_within_its_interval() -> None:
    events, scores = population(3_000, 4)
    found = resampled(events, scores, ECONOMICS).intervals()
    assert set(found) == set(METRICS)
    for name, interval in found.items():
        assert np.isfinite([interval.value, interval.low, interval.high]).all(), name
        assert interval.low < interval.high, name
        # an error of calibration is biased upwards under resampling: it is the mean of absolute values
        assert interval.low <= interval.value <= interval.high or name == "expected_calibration_error", name


def test_a_paired_difference_is_narrower_than_the_metric_itself() -> None:
    events, scores = population(3_000, 5)
    noisy = sigmoid(np.log(scores / (1 - scores)) + np.random.default_rng(0).normal(0, 0.3, scores.size))
    own = resampled(events, scores, ECONOMICS).intervals()["savings"]
    mine, theirs = resampled(events, scores, ECONOMICS), resampled(events, noisy, ECONOMICS)
    comparison, differences = compare(mine, theirs)
    assert comparison.savings is not None
    assert comparison.savings.high - comparison.savings.low < 0.6 * (own.high - own.low)
    same, _ = compare(mine, mine)
    assert same.savings == Interval(0.0, 0.0, 0.0)
    assert set(differences) == set(METRICS)
