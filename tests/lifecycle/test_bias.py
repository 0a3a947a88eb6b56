"""The published values are those of the auto-claims demo's own Clarify run (aws/amazon-sagemaker-examples, fraud_detection,
clarify_output/bias_1): facet d is female, the favourable label is 0, and the model flags nobody."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon as scipy_js

from include.lifecycle.bias import NAMES, flip_test, post_training, pre_training

PUBLISHED_LABELS = {"CI": 0.398, "DPL": -0.01771, "KL": 0.00832, "KS": 0.01771, "LP": 0.02505, "TVD": 0.01771}
PUBLISHED_JS = 0.00204
PUBLISHED_DECISIONS = {"DPPL": 0, "DI": 1, "DCA": -0.01771, "DAR": -0.01771, "AD": -0.01771, "RD": 0, "TE": 0, "DRR": 0}


def demo() -> tuple[np.ndarray, np.ndarray]:
    """Counts that fit the run's CI, DPL and KL to the digits it gives: 16,000 claims, 30.1 % of them women's."""
    female = np.arange(16_000) < 4_816
    fraud = np.zeros(16_000)
    fraud[np.flatnonzero(female)[:68]] = 1
    fraud[np.flatnonzero(~female)[:356]] = 1
    return fraud, female


def test_labels_of_the_published_run() -> None:
    fraud, female = demo()
    found = pre_training(fraud, ~female, female)
    assert {name: found[name] for name in PUBLISHED_LABELS} == pytest.approx(PUBLISHED_LABELS, abs=4e-5)


def test_the_published_jensen_shannon_divergence_was_taken_from_the_pooled_labels() -> None:
    fraud, female = demo()

    def from_pooled(members: np.ndarray) -> float:
        p, pooled = fraud[members].mean(), fraud.mean()
        return float(p * np.log(p / pooled) + (1 - p) * np.log((1 - p) / (1 - pooled)))

    assert (from_pooled(female) + from_pooled(~female)) / 2 == pytest.approx(PUBLISHED_JS, abs=1e-5)
    ours = pre_training(fraud, ~female, female)["JS"]
    assert ours == pytest.approx(scipy_js([0.968169, 0.031831], [0.98588, 0.01412]) ** 2, abs=1e-6)


def test_decisions_of_the_published_run() -> None:
    fraud, female = demo()
    found = post_training(fraud, np.zeros(fraud.size, bool), ~female, female)
    assert {name: found[name] for name in PUBLISHED_DECISIONS} == pytest.approx(PUBLISHED_DECISIONS, abs=1e-5)
    assert flip_test(np.random.default_rng(0).normal(size=(fraud.size, 3)), np.zeros(fraud.size, bool), ~female, female) == 0


def counts(tp: int, fp: int, tn: int, fn: int) -> tuple[list[int], list[bool]]:
    """Labels (1 is fraud) and reviews, from the counts of one group."""
    return [0] * tp + [1] * fp + [1] * tn + [0] * fn, [False] * (tp + fp) + [True] * (tn + fn)


def test_decisions_by_hand() -> None:
    labels_a, reviewed_a = counts(tp=60, fp=10, tn=20, fn=10)
    labels_d, reviewed_d = counts(tp=20, fp=5, tn=15, fn=10)
    facet_a = np.array([True] * 100 + [False] * 50)
    found = post_training(labels_a + labels_d, reviewed_a + reviewed_d, facet_a, ~facet_a)
    assert found == pytest.approx(
        {
            "DPPL": 0.7 - 0.5,
            "DI": 0.5 / 0.7,
            "DCA": 70 / 70 - 30 / 25,
            "DCR": 20 / 25 - 30 / 30,
            "RD": 60 / 70 - 20 / 30,
            "SD": 15 / 20 - 20 / 30,
            "DAR": 60 / 70 - 20 / 25,
            "DRR": 15 / 25 - 20 / 30,
            "AD": 0.8 - 0.7,
            "TE": 10 / 5 - 10 / 10,
        }
    )


def test_where_clarify_reports_infinity_it_is_undefined() -> None:
    labels_a, reviewed_a = counts(tp=5, fp=0, tn=5, fn=2)
    labels_d, reviewed_d = counts(tp=5, fp=5, tn=0, fn=0)
    facet_a = np.array([True] * 12 + [False] * 10)
    found = post_training(labels_a + labels_d, reviewed_a + reviewed_d, facet_a, ~facet_a)
    assert found["TE"] is None
    assert found["DCR"] is None
    only_genuine = pre_training([0] * 12 + [0] * 5 + [1] * 5, ~facet_a, facet_a)
    assert only_genuine["KL"] is None
    assert only_genuine["JS"] == pytest.approx(0.5 * (0.5 * np.log(2 / 3) + 0.5 * np.log(2)) + 0.5 * np.log(4 / 3))


def test_an_empty_group_has_no_metrics() -> None:
    nobody, everybody = np.zeros(4, bool), np.ones(4, bool)
    assert set(pre_training([0, 1, 0, 1], nobody, everybody).values()) == {None}
    assert set(post_training([0, 1, 0, 1], everybody, nobody, everybody).values()) == {None}
    assert flip_test(np.ones((4, 1)), everybody, nobody, everybody) is None


def test_flip_test_sees_a_group_reviewed_where_its_like_is_not() -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(size=(600, 2)) * [1, 10_000]
    values[::7, 0] = np.nan
    facet_a = np.arange(600) < 400
    risky = np.nan_to_num(values[:, 0]) > 1
    assert abs(flip_test(values, risky, facet_a, ~facet_a) or 0) < 0.05
    assert flip_test(values, risky | ~facet_a, facet_a, ~facet_a) == pytest.approx(1 - risky[~facet_a].mean(), abs=0.05)
    assert (flip_test(values, risky & facet_a, facet_a, ~facet_a) or 0) < -0.05


def test_every_metric_has_a_name() -> None:
    fraud, female = demo()
    found = pre_training(fraud, ~female, female) | post_training(fraud, female, ~female, female) | {"FT": None}
    assert set(found) == set(NAMES)
