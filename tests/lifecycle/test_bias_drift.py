"""``bias_drift``: by hand, on days that differ, and where a group comes to be reviewed more."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from quality_cases import ECONOMICS, POLICY, sample

from include.lifecycle.bias_drift import MINIMUM_EVENTS, bias_drift
from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.domain import Costs, ReviewCapacity
from include.lifecycle.evaluation import Economics, Events
from include.lifecycle.quality_reference import quality_reference


def levels_of(size: int, seed: int) -> Any:
    return np.random.default_rng([seed, 7]).choice(np.array(["a", "b", "c"], object), size, p=[0.5, 0.4, 0.1])


def reference_of(events: Events, scores: FloatArray, levels: Any, economics: Economics | None = ECONOMICS) -> dict[str, Any]:
    """Labels have no part in it."""
    return quality_reference(replace(events, labels=np.zeros(scores.size)), scores, economics, facets={"region": levels})


def compare(
    reference: dict[str, Any], events: Events, scores: FloatArray, levels: Any, base: str = "a", economics: Any = ECONOMICS
) -> dict[str, Any]:
    section = bias_drift(reference, events.days, events.groups, scores, {"region": levels}, {"region": base}, economics, POLICY)
    json.dumps(section, allow_nan=False)
    return section


def test_review_shares_are_those_of_each_level_by_hand() -> None:
    """Ten events a day of which the two highest are reviewed: both of level b on the first day, one of each on the second."""
    scores = np.tile(np.linspace(0.1, 1.0, 10), 2)
    levels = np.array(["a"] * 8 + ["b"] * 2 + ["b"] * 1 + ["a"] * 8 + ["b"] * 1, object)
    days = np.repeat(np.array(["2026-01-05", "2026-01-06"], "datetime64[D]"), 10)
    events = Events(np.zeros(20), np.ones(20), days, np.arange(20).astype(str), np.arange(20).astype(str))
    economics = Economics(Costs("EUR", 1.0), ReviewCapacity(per_day=2))
    review = reference_of(events, scores, levels, economics)["review"]["region"]
    assert review["levels"] == ["a", "b"]
    assert review["events"] == [16, 4]
    np.testing.assert_allclose(review["shares"], [1 / 16, 3 / 4])
    row = compare(reference_of(events, scores, levels, economics), events, scores, levels, economics=economics)["rows"][0]
    assert (row["baseline"], row["effect"], row["p_value"]) == (pytest.approx(3 / 4 - 1 / 16), pytest.approx(0, abs=1e-6), None)


def test_nothing_is_found_where_nothing_changed_and_p_values_are_about_uniform() -> None:
    p_values = []
    for seed in range(60):
        events, scores = sample(3_000, 50 + seed)
        now, scores_now = sample(3_000, seed)
        section = compare(reference_of(events, scores, levels_of(3_000, 50 + seed)), now, scores_now, levels_of(3_000, seed))
        assert [row["level"] for row in section["rows"]] == ["b", "c"]
        assert section["says"] == []
        p_values += [row["p_value"] for row in section["rows"]]
        assert not any(row["drifted"] for row in section["rows"])
    assert 0.38 < np.mean(p_values) < 0.62
    assert np.mean(np.array(p_values) < 0.05) < 0.12


def test_a_group_that_comes_to_be_reviewed_more_is_found() -> None:
    events, scores = sample(12_000, 1)
    now, scores_now = sample(12_000, 2)
    levels = levels_of(12_000, 2)
    rows = compare(reference_of(events, scores, levels_of(12_000, 1)), now, np.where(levels == "c", scores_now**0.2, scores_now), levels)["rows"]
    assert [row["drifted"] for row in rows] == [False, True]
    assert rows[1]["effect"] > 0.1
    assert rows[1]["p_value"] < 1e-6
    assert rows[1]["metric"] == "review_share_difference"


@pytest.mark.filterwarnings("error")
def test_what_cannot_be_compared_is_said() -> None:
    events, scores = sample(1_000, 3)
    levels = levels_of(1_000, 3)
    levels[:5] = None
    levels[5:9] = "rare"
    reference = reference_of(events, scores, levels)
    section = compare(reference, events, scores, levels)
    untested = {row["level"] for row in section["rows"] if row["p_value"] is None}
    assert untested == {"", "rare"}
    assert sum(str(MINIMUM_EVENTS) in sentence for sentence in section["says"]) == 2
    fresh = compare(reference, events, scores, np.where(np.arange(1_000) < 100, "new", levels))
    assert [row["baseline"] for row in fresh["rows"] if row["level"] == "new"] == [None]
    assert any("no event of level 'rare'" in sentence for sentence in fresh["says"])
    assert "reference level 'z'" in compare(reference, events, scores, levels, base="z")["says"][0]
    assert "No event has a finite score" in compare(reference, events, np.full(1_000, np.nan), levels)["says"][0]
    assert "capacity" in compare(reference_of(events, scores, levels, None), events, scores, levels)["says"][0]
    assert "no facet" in compare(reference | {"review": {}}, events, scores, levels)["says"][0]
    assert compare(reference, replace(events, days=events.days[:0], groups=events.groups[:0]), scores[:0], levels[:0])["rows"] == []
