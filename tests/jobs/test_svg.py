"""Ranges, ticks and marks of charts."""

from __future__ import annotations

import re
from datetime import date
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.jobs.svg import Bounded, Intervals, day_bars, interval_chart, round_range, round_ticks, tick_texts


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.164, 0.0, (-0.2, 0.0)),
        (-165.0, 811.0, (-250.0, 1000.0)),
        (-270.0, 863.0, (-300.0, 1200.0)),
        (0.0, 0.0, (0.0, 5.0)),
        (0.0, 5.0, (0.0, 5.0)),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, expected: tuple[float, float]) -> None:
    assert round_range(low, high) == pytest.approx(expected)


@given(low=st.floats(-1e6, 0), high=st.floats(0, 1e6))
def test_the_range_holds_both_values_and_zero_is_a_tick(low: float, high: float) -> None:
    bottom, top = round_range(low, high)
    assert bottom <= low
    assert high <= top
    step = (top - bottom) / 5
    assert bottom / step == pytest.approx(round(bottom / step))
    assert high - low < 1e-300 or top - bottom <= 10 * (high - low)


@given(low=st.floats(-1e6, 1e6), length=st.floats(1e-6, 1e6))
def test_a_small_chart_has_three_to_six_ticks_inside_its_range(low: float, length: float) -> None:
    high = low + length
    ticks = round_ticks(low, high)
    slack = 1e-6 * length
    assert 3 <= len(ticks) <= 6
    assert low - slack <= ticks[0]
    assert ticks[-1] <= high + slack


@pytest.mark.parametrize(
    ("ticks", "as_percent", "expected"),
    [
        ([0.0, 0.025, 0.05], False, ["0.000", "0.025", "0.050"]),
        ([-0.1, 0.0, 0.1], False, ["−0.1", "0.0", "0.1"]),
        ([0.62, 0.625, 0.63], True, ["62.0%", "62.5%", "63.0%"]),
        ([0.0, 1000.0, 2000.0], False, ["0", "1,000", "2,000"]),
    ],
)
def test_ticks_are_told_apart(ticks: list[float], as_percent: bool, expected: list[str]) -> None:
    assert tick_texts(ticks, as_percent=as_percent) == expected


DAYS = [date(2026, 3, day) for day in range(1, 8)]


def test_a_missing_day_leaves_a_gap_and_days_from_the_beginning_on_stand_out() -> None:
    values = [(day, 0.1) for day in DAYS if day.day != 3]
    chart = day_bars(values, "distance", floor=0.03, began=DAYS[4])
    assert re.findall(r'<rect class="(\w+)"', chart) == ["main"] * 3 + ["other"] * 3
    places = [float(x) for x in re.findall(r'<rect class="\w+" x="([\d.]+)"', chart)]
    gaps = [after - before for before, after in pairwise(places)]
    assert max(gaps) == pytest.approx(2 * min(gaps), abs=0.3)
    assert "began 5 Mar" in chart
    assert "floor 0.03" in chart
    assert "began" not in day_bars(values, "distance", floor=0.03, began=date(2026, 2, 1))


def test_one_endless_interval_does_not_flatten_the_others() -> None:
    usual: list[Bounded | None] = [(0.8, 0.75, 0.85)] * 6
    chart = interval_chart([Intervals("known", [*usual, (0.8, 0.0, 1e6)])], DAYS, "ROC AUC", band=(0.8, 0.78, 0.82))
    whiskers = [tuple(map(float, found)) for found in re.findall(r'<g class="whiskers main">.*?y1="([\d.-]+)" y2="([\d.-]+)"', chart)]
    assert len(whiskers) == 7
    height = whiskers[0][1] - whiskers[0][0]
    assert height > 30
    assert whiskers[6][1] - whiskers[6][0] > height
    assert all(0 <= end <= 190 for pair in whiskers for end in pair)


def test_places_without_a_value_have_no_mark_and_every_label_fits() -> None:
    chart = interval_chart([Intervals("known", [None, (0.5, None, None), *[None] * 5])], DAYS, "share", as_percent=True)
    assert chart.count("<circle") == 1
    across = [float(x) for x in re.findall(r'x="([\d.]+)" y="182.0" text-anchor="middle"', chart)]
    assert across
    assert all(after - before > 30 for before, after in pairwise(sorted(across)))
    assert max(across) + 18 < 340
