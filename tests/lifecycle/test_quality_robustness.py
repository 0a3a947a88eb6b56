"""Whatever is in a window, the quality sections are plain JSON, with chances between 0 and 1, without a warning."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quality_cases import ECONOMICS, POLICY, a_reference

from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.domain import Costs, ReviewCapacity
from include.lifecycle.estimated_quality import concept_drift, estimated_quality
from include.lifecycle.evaluation import Economics, Events
from include.lifecycle.quality_drift import over_time, quality_drift
from include.lifecycle.quality_reference import quality_reference, read_reference

REFERENCE = a_reference(4_000)
SOME = [None, ECONOMICS, Economics(Costs("EUR", 0.0), ReviewCapacity(per_day=3)), Economics(Costs("EUR", 1e9), ReviewCapacity(per_day=10**6))]


@st.composite
def windows(draw: st.DrawFn) -> tuple[Events, FloatArray, Economics | None]:
    size = draw(st.integers(0, 400))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    scores = np.round(rng.random(size) ** draw(st.sampled_from([0.1, 1, 8])), draw(st.sampled_from([0, 1, 6])))
    labels = (rng.random(size) < draw(st.sampled_from([0, 0.01, 0.5, 1]))).astype(float)
    amounts = draw(st.sampled_from([0.0, 1.0, 1e12])) * rng.random(size)
    if draw(st.booleans()):
        scores[rng.random(size) < 0.2] = draw(st.sampled_from([np.nan, np.inf]))
        amounts[rng.random(size) < 0.2] = np.nan
    days = np.datetime64("2026-01-01") + rng.integers(0, draw(st.integers(1, 40)), size)
    groups = rng.integers(0, draw(st.integers(1, 500)), size).astype(str)
    return Events(labels, amounts, days, groups, groups), scores, draw(st.sampled_from(SOME))


def chances(section: Any) -> list[float]:
    if isinstance(section, dict):
        own = [value for name, value in section.items() if name.endswith("p_value") and value is not None]
        return own + [chance for value in section.values() for chance in chances(value)]
    return []


@pytest.mark.filterwarnings("error")
@given(windows())
@settings(max_examples=60, deadline=None)
def test_every_window_has_its_sections(window: tuple[Events, FloatArray, Economics | None]) -> None:
    events, scores, economics = window
    for analyse in (quality_drift, estimated_quality, concept_drift):
        section = analyse(REFERENCE, events, scores, economics, POLICY)
        json.dumps(section, allow_nan=False)
        assert all(0 <= chance <= 1 for chance in chances(section))
        for metric in section["metrics"].values():
            for interval in (metric.get("current"), metric.get("estimated")):
                if interval is not None and interval["value"] is not None:
                    assert interval["low"] <= interval["value"] <= interval["high"]
    known = np.random.default_rng(0).random(scores.size) < 0.9
    json.dumps(over_time(REFERENCE, events, scores, known, economics), allow_nan=False)


@pytest.mark.filterwarnings("error")
@given(windows())
@settings(max_examples=40, deadline=None)
def test_every_baseline_is_a_reference_or_refused(window: tuple[Events, FloatArray, Economics | None]) -> None:
    events, scores, economics = window
    if not np.isfinite(scores).any():
        with pytest.raises(ValueError, match="finite score"):
            quality_reference(events, scores, economics)
        return
    reference = read_reference(json.loads(json.dumps(quality_reference(events, scores, economics), allow_nan=False)))
    for analyse in (quality_drift, estimated_quality, concept_drift):
        json.dumps(analyse(reference, events, scores, economics, POLICY), allow_nan=False)
