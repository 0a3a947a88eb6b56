from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as sklearn_log_loss

from include.lifecycle.calibration import (
    brier_score,
    calibration_line,
    calibration_slope_intercept,
    expected_calibration_error,
    log_loss,
    log_odds,
    platt_scaling,
    platt_scaling_if_better,
    quantile_bins,
    reliability_curve,
    sigmoid,
)


def scored(rows: int, seed: int, slope: float = 1.0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and margins whose true log-odds are slope · margin + shift."""
    generator = np.random.default_rng(seed)
    margins = generator.normal(-3, 1.2, rows)
    return (generator.random(rows) < sigmoid(slope * margins + shift)).astype(float), margins


def test_sigmoid_and_log_odds_are_each_others_inverse_and_stay_finite() -> None:
    margins = np.linspace(-15, 15, 7)
    assert log_odds(sigmoid(margins)) == pytest.approx(margins)
    assert np.isfinite(log_odds([0.0, 1.0])).all()


def test_losses_agree_with_scikit_learn() -> None:
    labels, margins = scored(500, 1)
    scores, weights = sigmoid(margins), np.arange(500) % 4
    assert float(log_loss(labels, scores)) == pytest.approx(sklearn_log_loss(labels, scores))
    assert float(log_loss(labels, scores, weights)) == pytest.approx(sklearn_log_loss(labels, scores, sample_weight=weights))
    assert float(brier_score(labels, scores, weights)) == pytest.approx(brier_score_loss(labels, scores, sample_weight=weights))


def test_calibration_error_by_hand() -> None:
    labels, scores = [0, 0, 1, 1], [0.1, 0.1, 0.6, 0.6]
    assert quantile_bins(scores, 2).tolist() == [0, 0, 1, 1]
    assert float(expected_calibration_error(labels, scores, bins=2)) == pytest.approx((0.1 * 2 + 0.4 * 2) / 4)
    assert reliability_curve(labels, scores, 2) == [
        {"events": 2, "mean_score": pytest.approx(0.1), "fraud_share": 0.0},
        {"events": 2, "mean_score": pytest.approx(0.6), "fraud_share": 1.0},
    ]


def test_calibration_error_tells_a_calibrated_model_from_an_inflated_one() -> None:
    labels, margins = scored(20_000, 2)
    assert expected_calibration_error(labels, sigmoid(margins)) < 0.01
    assert expected_calibration_error(labels, sigmoid(margins + 2)) > 0.1


def test_calibration_line_is_the_logistic_regression_of_the_label() -> None:
    labels, margins = scored(4_000, 3, slope=0.6, shift=-0.5)
    line = calibration_line(labels, sigmoid(margins))
    reference = LogisticRegression(C=1e12, tol=1e-10).fit(margins[:, None], labels)
    assert (line.slope, line.intercept) == pytest.approx((reference.coef_[0, 0], reference.intercept_[0]), abs=1e-4)


def test_one_step_for_resamples_is_close_to_fitting_each() -> None:
    labels, margins = scored(4_000, 4, slope=0.8)
    weights = np.random.default_rng(0).multinomial(4_000, np.full(4_000, 1 / 4_000), size=5).astype(float)
    slopes, intercepts = calibration_slope_intercept(labels, sigmoid(margins), weights)
    for weight, slope, intercept in zip(weights, slopes, intercepts, strict=True):
        reference = LogisticRegression(C=1e12, tol=1e-10).fit(margins[:, None], labels, sample_weight=weight)
        assert slope == pytest.approx(reference.coef_[0, 0], abs=0.02)
        assert intercept == pytest.approx(reference.intercept_[0], abs=0.06)


@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        ([0, 1, 0, 1], [0.2, 0.2, 0.2, 0.2]),
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4]),
        ([1, 1, 0, 0], [0.1, 0.2, 0.2, 0.4]),
        ([0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_where_no_line_is_the_most_likely_one_there_is_none(labels: list[int], scores: list[float]) -> None:
    line = calibration_line(labels, scores)
    slopes, intercepts = calibration_slope_intercept(labels, scores, np.array([[1, 1, 1, 1], [2, 0, 1, 1]]))
    assert np.isnan([line.slope, line.intercept, *slopes, *intercepts]).all()


def test_a_resample_without_fraud_has_no_line() -> None:
    labels, scores = [0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4]
    slopes, intercepts = calibration_slope_intercept(labels, scores, np.array([[1, 1, 1, 1], [2, 0, 2, 0], [0, 1, 0, 3]]))
    assert np.isfinite(slopes).tolist() == np.isfinite(intercepts).tolist() == [True, False, False]


def test_platt_scaling_finds_the_true_line() -> None:
    labels, margins = scored(60_000, 5, slope=0.5, shift=-1.0)
    line = platt_scaling(labels, margins)
    assert (line.slope, line.intercept) == pytest.approx((0.5, -1.0), abs=0.08)


def test_platt_scaling_survives_perfect_separation_and_constant_margins() -> None:
    line = platt_scaling([0, 0, 1, 1], [-2.0, -1.0, 1.0, 2.0])
    assert np.isfinite([line.slope, line.intercept]).all()
    assert line.slope > 0
    constant = platt_scaling([0, 0, 0, 1], [1.0, 1.0, 1.0, 1.0])
    # Platt's targets: (1 + 1) / (1 + 2) for the fraud, 1 / (3 + 2) for the others
    assert float(sigmoid(constant(1.0))) == pytest.approx((3 * 1 / 5 + 2 / 3) / 4)


def test_scaling_is_kept_only_where_it_helps_on_events_it_did_not_see() -> None:
    labels, margins = scored(5_000, 6)
    assert platt_scaling_if_better(labels, 3 * margins + 2) is not None
    assert platt_scaling_if_better(labels, -margins) is None, "a line that turns the order round is no calibration"
    few, few_margins = scored(60, 11)
    assert few.sum() > 1
    assert platt_scaling_if_better(few, few_margins) is None, "sixty events cannot improve on the true probabilities"
    alone = np.zeros(50)
    alone[3] = 1
    assert platt_scaling_if_better(alone, np.arange(50.0)) is None, "without the block of the only fraud there is nothing to fit"
