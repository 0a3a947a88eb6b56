"""``estimated_quality`` and ``concept_drift``: estimates hold where scores mean what they meant, and labels tell where they do not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from quality_cases import ECONOMICS, POLICY, a_reference, sample

from include.lifecycle.calibration import log_odds, sigmoid
from include.lifecycle.estimated_quality import concept_drift, estimated_quality
from include.lifecycle.evaluation import Events
from include.lifecycle.metrics import average_precision, roc_auc
from include.lifecycle.quality_reference import quality_reference

REFERENCE = a_reference()
TESTED = tuple(POLICY.minimum_quality_loss)


def test_estimates_are_near_what_is_measured_and_labels_are_not_looked_at() -> None:
    events, scores = sample(20_000, 1)
    section = estimated_quality(REFERENCE, replace(events, labels=np.full(20_000, np.nan)), scores, ECONOMICS, POLICY)
    assert section["says"] == []
    assert section["expected_frauds"] == pytest.approx(events.labels.sum(), rel=0.12)
    for name, metric in (("roc_auc", roc_auc), ("average_precision", average_precision)):
        found = section["metrics"][name]
        assert found["estimated"]["low"] < float(metric(events.labels, scores)) < found["estimated"]["high"]
        assert found["p_value"] > 0.01
        assert not found["drifted"]


def test_a_covariate_shift_is_foreseen() -> None:
    """Easy events, whose risk is far from the average, stay away: average precision and ROC AUC fall, and the scores alone can tell."""
    events, scores = sample(60_000, 2)
    kept = np.random.default_rng(0).random(scores.size) < np.exp(-0.5 * ((log_odds(scores) + 4) / 0.8) ** 2)
    fewer = Events(*(getattr(events, name)[kept] for name in ("labels", "amounts", "days", "entities", "groups")))
    section = estimated_quality(REFERENCE, fewer, scores[kept], ECONOMICS, POLICY)
    found, real = section["metrics"]["roc_auc"], float(roc_auc(fewer.labels, scores[kept]))
    assert real < REFERENCE["metrics"]["roc_auc"]["value"] - 0.1
    assert found["estimated"]["low"] < real < found["estimated"]["high"]
    assert found["drifted"]
    matured = concept_drift(REFERENCE, fewer, scores[kept], ECONOMICS, POLICY)
    assert not any(metric["drifted"] for metric in matured["metrics"].values())


def test_intervals_cover_and_p_values_are_about_uniform_where_nothing_changed() -> None:
    covered: list[bool] = []
    p_values: list[float] = []
    for seed in range(25):
        reference = a_reference(4_000, 300 + seed)
        events, scores = sample(3_000, seed)
        section = concept_drift(reference, events, scores, ECONOMICS, POLICY)
        for name in TESTED:
            found = section["metrics"][name]
            covered.append(found["estimated"]["low"] <= found["realised"] <= found["estimated"]["high"])
            p_values.append(found["p_value"])
            assert not found["drifted"]
        p_values.append(section["frauds_p_value"])
    assert 0.9 < np.mean(covered) <= 1.0
    assert 0.38 < np.mean(p_values) < 0.62
    assert np.mean(np.array(p_values) < 0.05) < 0.1


def test_concept_drift_is_found_where_the_scores_do_not_change() -> None:
    """Among the riskier half, half of the labels are dealt out anew: fraud moves, and no score does."""
    events, scores = sample(20_000, 3)
    rng, labels = np.random.default_rng(0), events.labels.copy()
    moved = np.flatnonzero((scores > np.median(scores)) & (rng.random(scores.size) < 0.5))
    labels[moved] = rng.permutation(labels[moved])
    changed = replace(events, labels=labels)
    foreseen = estimated_quality(REFERENCE, changed, scores, ECONOMICS, POLICY)
    assert not any(found["drifted"] for found in foreseen["metrics"].values())
    section = concept_drift(REFERENCE, changed, scores, ECONOMICS, POLICY)
    assert {name for name, found in section["metrics"].items() if found["drifted"]} >= {"roc_auc", "average_precision", "recall_at_capacity"}
    assert section["metrics"]["roc_auc"]["effect"] < -0.02
    assert section["frauds_p_value"] > 0.01, "there is as much fraud as before"


def test_twice_the_fraud_at_the_same_scores_is_seen_in_its_number() -> None:
    events, scores = sample(20_000, 4)
    more = np.maximum(events.labels, np.random.default_rng(0).random(scores.size) < sigmoid((log_odds(scores) - 0.5) / 1.2))
    section = concept_drift(REFERENCE, replace(events, labels=more.astype(float)), scores, ECONOMICS, POLICY)
    assert section["frauds"] > 1.5 * section["expected_frauds"]
    assert section["frauds_p_value"] < 1e-6


def test_no_fraud_where_some_was_expected_is_seen_too() -> None:
    events, scores = sample(5_000, 5)
    section = concept_drift(REFERENCE, replace(events, labels=np.zeros(5_000)), scores, ECONOMICS, POLICY)
    assert section["frauds"] == 0
    assert section["frauds_p_value"] < 1e-6
    assert section["metrics"]["roc_auc"]["realised"] is None
    assert any("ROC AUC" in sentence for sentence in section["says"])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", ["empty", "one", "constant", "no money", "no score", "no economics", "no reference", "certain"])
def test_degenerate_windows_are_said_to_be_so(case: str) -> None:
    events, scores = sample(2_000, 6)
    reference = REFERENCE
    if case in ("empty", "one"):
        keep = slice(0, int(case == "one"))
        events, scores = Events(*(getattr(events, name)[keep] for name in ("labels", "amounts", "days", "entities", "groups"))), scores[keep]
    elif case == "constant":
        scores = np.full(2_000, 0.3)
    elif case == "no money":
        events = replace(events, amounts=np.full(2_000, np.nan))
    elif case == "no score":
        scores = np.full(2_000, np.nan)
    elif case == "no reference":
        reference = quality_reference(replace(events, labels=np.zeros(2_000)), scores, ECONOMICS)
    elif case == "certain":
        scores = np.where(np.arange(2_000) < 50, 1.0, 0.0)
    for analyse in (estimated_quality, concept_drift):
        section = analyse(reference, events, scores, None if case == "no economics" else ECONOMICS, POLICY)
        json.dumps(section, allow_nan=False)
        if case not in ("constant", "certain"):
            assert section["says"], case
        if case in ("empty", "no score", "no reference"):
            assert section["metrics"] == {}
            assert section["expected_frauds"] is None


def test_a_hundred_thousand_events_take_seconds_not_minutes() -> None:
    import time

    events, scores = sample(100_000, 7)
    started = time.process_time()
    estimated_quality(REFERENCE, events, scores, ECONOMICS, POLICY)
    assert time.process_time() - started < 6
