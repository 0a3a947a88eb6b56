"""``quality_reference`` and ``quality_drift``: no change is found where there is none, a loss is found, and what cannot be measured is said."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from quality_cases import ECONOMICS, POLICY, a_reference, events_of, sample

from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.evaluation import Events, resampled
from include.lifecycle.influence import MEASURES
from include.lifecycle.quality_drift import over_time, quality_drift
from include.lifecycle.quality_reference import quality_reference, read_reference

REFERENCE = a_reference()
TESTED = tuple(POLICY.minimum_quality_loss)


def worse(events: Events, scores: FloatArray, share: float, seed: int = 0) -> FloatArray:
    """Scores of which a share has been dealt out anew: that part ranks like chance."""
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(rng.random(scores.size) < share)
    changed = scores.copy()
    changed[rows] = rng.permutation(scores[rows])
    return changed


def test_a_reference_is_small_plain_json_and_its_intervals_are_the_bootstraps() -> None:
    events, scores = sample(12_000, 100)
    assert json.loads(json.dumps(REFERENCE, allow_nan=False)) == REFERENCE
    assert len(json.dumps(REFERENCE)) < 30_000
    assert (REFERENCE["events"], REFERENCE["frauds"], REFERENCE["days"]) == (12_000, events.labels.sum(), 14)
    bootstrapped = resampled(events, scores, ECONOMICS).intervals()
    for name in ("roc_auc", "average_precision", "recall_at_capacity", "savings", "expected_cost"):
        ours, theirs = REFERENCE["metrics"][name], bootstrapped[name]
        assert ours["value"] == pytest.approx(theirs.value, rel=1e-6)
        assert 0.8 < (ours["high"] - ours["low"]) / (theirs.high - theirs.low) < 1.5, name  # days count here as well


@pytest.mark.parametrize(
    ("document", "complaint"),
    [({}, "no quality reference"), ([], "no quality reference"), ({"version": 9, "metrics": {}, "prevalence": 0.1}, "version 9")],
)
def test_what_is_no_reference_is_refused(document: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_reference(document)
    assert read_reference(REFERENCE) is REFERENCE


def test_baselines_without_scores_or_with_other_labels_are_refused() -> None:
    events, scores = sample(100, 0)
    with pytest.raises(ValueError, match="finite score"):
        quality_reference(events, np.full(100, np.nan), ECONOMICS)
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        quality_reference(replace(events, labels=np.full(100, 2.0)), scores, ECONOMICS)


def test_nothing_is_found_where_nothing_changed_and_p_values_are_about_uniform() -> None:
    p_values: dict[str, list[float]] = {name: [] for name in TESTED}
    for seed in range(30):
        section = quality_drift(a_reference(4_000, 200 + seed), *sample(5_000, seed), ECONOMICS, POLICY)
        assert section["says"] == []
        assert set(section["metrics"]) == set(MEASURES)
        for name in TESTED:
            p_values[name].append(section["metrics"][name]["p_value"])
            assert not section["metrics"][name]["drifted"]
    for name, found in p_values.items():
        assert 0.3 < np.mean(found) < 0.7, name
        assert np.mean(np.array(found) < 0.05) <= 0.15, name


def test_a_loss_is_found_where_there_is_one_and_only_from_the_least_loss_on() -> None:
    events, scores = sample(20_000, 1)
    section = quality_drift(REFERENCE, events, worse(events, scores, 0.5), ECONOMICS, POLICY)
    for name in TESTED:
        found = section["metrics"][name]
        assert found["drifted"], name
        assert found["effect"] < -POLICY.minimum_quality_loss[name]
        assert found["p_value"] < 1e-4
    assert not section["metrics"]["brier_score"]["drifted"], "it has no minimum loss"
    lenient = replace(POLICY, minimum_quality_loss=dict.fromkeys(TESTED, 0.9))
    again = quality_drift(REFERENCE, events, worse(events, scores, 0.5), ECONOMICS, lenient)
    assert not any(found["drifted"] for found in again["metrics"].values())
    better = quality_drift(REFERENCE, events, events.labels * 0.5 + scores / 2, ECONOMICS, POLICY)
    assert not any(found["drifted"] for found in better["metrics"].values())
    assert better["metrics"]["roc_auc"]["p_value"] > 0.999


def test_costs_get_worse_upwards() -> None:
    events, scores = sample(20_000, 1)
    policy = replace(POLICY, minimum_quality_loss={"expected_cost": 0.1, "log_loss": 0.01})
    found = quality_drift(REFERENCE, events, worse(events, scores, 0.6), ECONOMICS, policy)["metrics"]
    assert found["log_loss"]["drifted"]
    assert found["expected_cost"]["drifted"]
    assert found["expected_cost"]["effect"] > 0.1
    assert not found["roc_auc"]["drifted"]


def test_less_fraud_alone_is_no_loss_of_average_precision() -> None:
    """Three of four frauds are gone, at random: average precision falls, but the model ranks as before."""
    events, scores = sample(40_000, 2)
    kept = (events.labels == 0) | (np.random.default_rng(0).random(scores.size) < 0.25)
    fewer = Events(*(getattr(events, name)[kept] for name in ("labels", "amounts", "days", "entities", "groups")))
    section = quality_drift(REFERENCE, fewer, scores[kept], ECONOMICS, POLICY)
    found = section["metrics"]["average_precision"]
    assert found["current"]["value"] < found["baseline"]["value"] - 0.08
    assert abs(found["effect"]) < 0.06
    assert found["p_value"] > 0.01
    assert not found["drifted"]
    assert found["effect"] == pytest.approx(found["at_baseline_prevalence"]["value"] - found["baseline"]["value"], abs=1e-6)
    assert section["prevalence"]["current"] < 0.4 * section["prevalence"]["baseline"]


@pytest.mark.parametrize("frauds", [0, 1, 9, 600])
def test_too_few_of_either_kind_are_measured_where_they_can_be_and_not_tested(frauds: int) -> None:
    labels = np.zeros(600)
    labels[:frauds] = 1
    section = quality_drift(REFERENCE, events_of(labels), np.linspace(0, 1, 600), ECONOMICS, POLICY, unlabelled=7)
    assert any("too few" in sentence for sentence in section["says"])
    assert all(found["p_value"] is None and not found["drifted"] for found in section["metrics"].values())
    assert (section["metrics"]["roc_auc"]["current"]["value"] is None) == (frauds in (0, 600))
    assert section["unlabelled"] == 7
    json.dumps(section, allow_nan=False)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", ["empty", "one", "constant", "no money", "no score", "bad labels", "no economics", "perfect", "one day"])
def test_degenerate_windows_are_said_to_be_so(case: str) -> None:
    events, scores = sample(3_000, 6)
    economics = ECONOMICS
    if case in ("empty", "one"):
        keep = slice(0, int(case == "one"))
        events, scores = Events(*(getattr(events, name)[keep] for name in ("labels", "amounts", "days", "entities", "groups"))), scores[keep]
    elif case == "constant":
        scores = np.full(3_000, 0.3)
    elif case == "no money":
        events = replace(events, amounts=np.full(3_000, np.nan))
    elif case == "no score":
        scores = np.full(3_000, np.nan)
    elif case == "bad labels":
        events = replace(events, labels=np.where(np.arange(3_000) < 5, np.nan, events.labels))
    elif case == "perfect":
        scores = events.labels
    elif case == "one day":
        events = replace(events, days=np.full(3_000, np.datetime64("2026-01-05")))
    section = quality_drift(REFERENCE, events, scores, None if case == "no economics" else economics, POLICY)
    json.dumps(section, allow_nan=False)
    if case not in ("perfect", "one day", "constant"):
        assert section["says"], case
    if case == "no economics":
        assert section["metrics"]["savings"]["current"]["value"] is None
        assert section["metrics"]["roc_auc"]["p_value"] > 0.001
    if case == "bad labels":
        assert "5 events" in section["says"][0]
    if case == "constant":
        assert section["metrics"]["roc_auc"]["drifted"]
        assert section["metrics"]["calibration_slope"]["current"]["value"] is None


@pytest.mark.filterwarnings("error")
def test_a_reference_without_fraud_tests_nothing_and_says_so() -> None:
    events, scores = sample(500, 8)
    reference = quality_reference(replace(events, labels=np.zeros(500)), scores, None)
    assert reference["recalibration"] is None
    assert reference["review"] is None
    section = quality_drift(reference, *sample(3_000, 1), ECONOMICS, POLICY)
    assert len(section["says"]) >= len(TESTED)
    assert all(found["p_value"] is None for found in section["metrics"].values())


def test_over_time_tells_what_is_known_and_what_is_estimated_apart() -> None:
    events, scores = sample(8_000, 9, days=24)
    known = events.days < np.datetime64("2026-01-20")
    periods = over_time(REFERENCE, events, scores, known, ECONOMICS)
    assert [period["last_day"] for period in periods] == ["2026-01-07", "2026-01-14", "2026-01-21", "2026-01-28"]
    starts = np.datetime64("2026-01-01") + np.arange(0, 28, 7)
    assert sum(period["events"] for period in periods) == 8_000
    assert [period["known"] is None for period in periods] == [False, False, False, True]
    assert [period["labelled"] for period in periods] == [int((known & (events.days >= day) & (events.days < day + 7)).sum()) for day in starts]
    area = REFERENCE["metrics"]["roc_auc"]["value"]
    assert all(period["estimated"]["roc_auc"]["low"] < area < period["estimated"]["roc_auc"]["high"] for period in periods[1:])
    hidden = replace(events, labels=np.where(known, events.labels, 7.0))
    assert over_time(REFERENCE, hidden, scores, known, ECONOMICS) == periods
    nothing = Events(*(getattr(events, name)[:0] for name in ("labels", "amounts", "days", "entities", "groups")))
    assert over_time(REFERENCE, nothing, scores[:0], known[:0], ECONOMICS) == []
