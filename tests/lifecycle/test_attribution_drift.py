"""``attribution_drift``: NDCG by hand and as scikit-learn has it, chance in small windows, and a model that decides otherwise."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quality_cases import ECONOMICS, POLICY, sample
from sklearn.metrics import ndcg_score

from include.lifecycle.attribution_drift import attribution_drift, ndcg
from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.quality_reference import quality_reference

FEATURES = [f"feature_{number}" for number in range(8)]
STRENGTH = np.array([3.0, 2.0, 1.1, 1.0, 0.9, 0.3, 0.2, 0.1])


def contributions(rows: int, seed: int, strength: FloatArray = STRENGTH) -> FloatArray:
    """Features' contributions with the expected value as the last column."""
    return np.column_stack([np.random.default_rng(seed).standard_t(4, (rows, 8)) * strength, np.full(rows, -4.0)])


def reference_of(rows: int = 4_000, seed: int = 0) -> dict[str, Any]:
    events, scores = sample(rows + 500, seed)
    found = quality_reference(
        events, scores, ECONOMICS, features=FEATURES, contributions=contributions(rows, seed), explained=np.arange(0, rows)
    )
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def analyse(reference: dict[str, Any], matrix: FloatArray, features: list[str] = FEATURES, seed: int = 1) -> dict[str, Any]:
    events, _ = sample(max(len(matrix), 1), seed, days=7)
    section = attribution_drift(reference, features, matrix, events.days[: len(matrix)], events.groups[: len(matrix)], POLICY)
    json.dumps(section, allow_nan=False)
    return section


def test_ndcg_by_hand() -> None:
    baseline = np.array([3.0, 2.0, 1.0])
    swapped = (2 + 3 / np.log2(3) + 1 / 2) / (3 + 2 / np.log2(3) + 1 / 2)
    assert ndcg(baseline, np.array([1.0, 2.0, 0.5])) == pytest.approx(swapped)
    assert ndcg(baseline, np.array([9.0, 5.0, 2.0])) == 1


@given(st.lists(st.tuples(st.floats(0.01, 9), st.integers(0, 1_000)), min_size=2, max_size=12, unique_by=lambda pair: pair[1]))
@settings(deadline=None)
def test_ndcg_is_scikit_learns(pairs: list[tuple[float, int]]) -> None:
    baseline, current = (np.array(column, float) for column in zip(*pairs, strict=True))
    assert ndcg(baseline, current) == pytest.approx(ndcg_score([baseline], [current]))


def test_a_model_that_decides_by_other_features_is_found() -> None:
    section = analyse(reference_of(), contributions(2_000, 1, STRENGTH[::-1]))
    assert section["drifted"]
    assert section["ndcg"] < 0.8
    assert section["p_value"] < 1e-3
    first, last = section["ranking"][0], section["ranking"][-1]
    assert (first["feature"], first["baseline_rank"], first["current_rank"]) == ("feature_7", 8, 1)
    assert (last["feature"], last["baseline_rank"], last["current_rank"]) == ("feature_0", 1, 8)
    assert first["current"] == pytest.approx(3 * np.abs(np.random.default_rng(0).standard_t(4, 100_000)).mean(), rel=0.1)


def test_small_windows_of_an_unchanged_model_are_no_drift() -> None:
    reference = reference_of()
    p_values = []
    for seed in range(40):
        section = analyse(reference, contributions(30 if seed % 2 else 300, 10 + seed), seed=seed)
        assert not section["drifted"]
        p_values.append(section["p_value"])
    assert np.mean(np.array(p_values) < 0.05) <= 0.15


def test_columns_may_come_in_another_order() -> None:
    matrix = contributions(500, 3)
    order = [4, 2, 0, 7, 6, 5, 3, 1]
    shuffled = analyse(reference_of(), matrix[:, order], [FEATURES[place] for place in order])
    assert shuffled["ndcg"] == analyse(reference_of(), matrix)["ndcg"]


@pytest.mark.filterwarnings("error")
def test_what_cannot_be_compared_is_said() -> None:
    reference = reference_of(200)
    silent = reference | {"attribution": reference["attribution"] | {"mean_absolute": [0.0] * 8}}
    for section, why in (
        (analyse(reference | {"attribution": None}, contributions(50, 1)), "knows no contributions"),
        (analyse(reference, contributions(50, 1)[:, :3], FEATURES[:3]), "are others"),
        (analyse(reference, contributions(0, 1)), "No event"),
        (analyse(reference, np.full((50, 9), np.nan)), "No event"),
        (analyse(silent, contributions(9, 1)), "no feature contributed"),
    ):
        assert section["ndcg"] is None
        assert not section["drifted"]
        assert why in section["says"][0]
    assert analyse(reference, contributions(1, 1))["p_value"] > 0.0005
    assert analyse(reference, np.zeros((50, 9)))["ranking"][0]["current"] == 0
