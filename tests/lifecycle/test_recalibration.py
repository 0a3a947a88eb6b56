"""``include.lifecycle.recalibration``: monotone, near the truth, and sure of itself no more than it may be."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.calibration import sigmoid
from include.lifecycle.clustering import Clusters
from include.lifecycle.recalibration import Recalibration, recalibrate


def by_row(size: int) -> Clusters:
    return Clusters.of(np.arange(size).astype(str), np.arange(size) * 10 // size)


def distorted(size: int, seed: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    rng = np.random.default_rng(seed)
    odds = rng.normal(-4, 1.7, size)
    truth = sigmoid(odds + 0.5 * np.sin(odds))
    return (rng.random(size) < truth).astype(float), sigmoid(1.5 * odds + 1), truth


def test_it_finds_the_probabilities_and_their_sum() -> None:
    labels, scores, _ = distorted(20_000, 0)
    curve = recalibrate(labels, scores, by_row(labels.size))
    assert curve is not None
    assert curve.knots.size <= 30
    assert curve(scores).sum() == pytest.approx(labels.sum(), rel=0.005)
    _, fresh, truth = distorted(20_000, 1)
    assert np.abs(curve(fresh) - truth).mean() < 0.15 * np.abs(fresh - truth).mean()


def test_its_covariance_is_how_curves_of_other_samples_differ() -> None:
    at, curves = sigmoid(np.array([-5.0, -2.0, 0.0])), []
    for seed in range(25):
        labels, scores, _ = distorted(4_000, seed)
        curve = recalibrate(labels, scores, by_row(labels.size))
        assert curve is not None
        curves.append((np.log(curve(at) / (1 - curve(at))), [_spread(curve, float(score)) for score in at]))
    values, claimed = (np.array(part) for part in zip(*curves, strict=True))
    np.testing.assert_allclose(np.median(claimed, axis=0), values.std(axis=0), rtol=0.5)


def _spread(curve: Recalibration, score: float) -> float:
    p = float(curve(score))
    by_value = curve.place(np.array([score])).gradient(np.array([1 / (p * (1 - p))]))
    return float(np.sqrt(by_value @ curve.covariance @ by_value))


def test_json_gives_it_back() -> None:
    labels, scores, _ = distorted(3_000, 2)
    curve = recalibrate(labels, scores, by_row(labels.size))
    assert curve is not None
    again = Recalibration.from_json(json.loads(json.dumps(curve.as_json())))
    np.testing.assert_array_equal(again(scores), curve(scores))


def test_a_constant_score_has_the_share_of_fraud() -> None:
    labels = np.repeat([1.0, 0.0], [30, 970])
    curve = recalibrate(labels, np.full(1_000, 0.4), by_row(1_000))
    assert curve is not None
    np.testing.assert_allclose(curve([0.1, 0.4, 0.9]), 0.03, rtol=1e-3)


@pytest.mark.parametrize("frauds", [0, 9, 991, 1_000])
def test_too_little_of_either_kind_makes_no_curve(frauds: int) -> None:
    labels = np.zeros(1_000)
    labels[:frauds] = 1
    assert recalibrate(labels, np.linspace(0, 1, 1_000), by_row(1_000)) is None


@given(st.integers(0, 10_000), st.integers(60, 300), st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_it_never_falls_whatever_the_labels(seed: int, size: int, digits: int) -> None:
    rng = np.random.default_rng(seed)
    scores = np.round(rng.random(size), digits)
    labels = (rng.random(size) < 0.5 * (1 - scores) + 0.25).astype(float)  # against the scores
    curve = recalibrate(labels, scores, by_row(size))
    if curve is not None:
        p = curve(np.linspace(0, 1, 200))
        assert (np.diff(p) >= -1e-12).all()
        assert ((p > 0) & (p < 1)).all()
        assert np.isfinite(curve.covariance).all()
