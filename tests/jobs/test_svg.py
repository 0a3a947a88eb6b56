"""The ranges of charts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.jobs.svg import round_range


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
