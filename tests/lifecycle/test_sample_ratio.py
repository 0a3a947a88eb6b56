"""``include.lifecycle.sample_ratio``: right splits are left alone at any look, wrong ones found, with shares that change."""

from __future__ import annotations

import numpy as np
import pytest

from include.lifecycle.assignment import assign
from include.lifecycle.sample_ratio import sample_ratio

LEVEL = 0.001
RAMP = (0.01, 0.01, 0.05, 0.05, 0.25, 0.4, 0.5, 0.5)
"""Shares by epoch."""


def units(rng: np.random.Generator, by_epoch: int, tilt: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Chances that were logged, and assignments with ``tilt`` times the odds."""
    q = np.repeat(RAMP, by_epoch)
    return q, (rng.random(q.size) < tilt * q / (1 - q + tilt * q)).astype(float)


@pytest.mark.parametrize("level", [0.05, 0.3])
def test_a_right_split_is_left_alone_at_any_look_while_shares_change(level: float) -> None:
    rng, runs, alarms = np.random.default_rng(1), 400, 0
    for _ in range(runs):
        q, x = units(rng, 100)
        alarms += any(sample_ratio(q[:n], x[:n], level).mismatch for n in range(20, q.size + 1, 20))
    assert alarms / runs <= level + 3 * (level * (1 - level) / runs) ** 0.5


@pytest.mark.parametrize(("tilt", "by_epoch"), [(1.3, 1_000), (0.7, 1_000), (3.0, 60), (0.0, 60)])
def test_a_wrong_split_is_found(tilt: float, by_epoch: int) -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        found = sample_ratio(*units(rng, by_epoch, tilt), LEVEL)
        assert found is not None
        assert found.mismatch, found
        assert found.p_value == pytest.approx(found.p_value)
        assert found.units == 8 * by_epoch


def test_what_the_gateways_assign_is_a_right_split() -> None:
    chances, mine = [], []
    for epoch, share in enumerate(RAMP):
        shares = {"champion": 1 - share, "challenger": share}
        mine += [assign("fraud-7", 20_000 + epoch, f"card {number}", shares) == "challenger" for number in range(3_000)]
        chances += [share] * 3_000
    found = sample_ratio(chances, mine, LEVEL)
    assert found is not None
    assert found.expected == pytest.approx(np.mean(RAMP))
    assert found.observed == pytest.approx(found.expected, abs=0.01)
    assert found.p_value > 0.05


def test_the_mean_of_the_e_value_is_1() -> None:
    # a martingale: over all outcomes of a few units, weighted with their chances
    q = np.array([0.1, 0.5, 0.3, 0.02])
    outcomes = np.array(np.meshgrid(*[[0.0, 1.0]] * 4)).reshape(4, -1).T
    weights = np.prod(np.where(outcomes == 1, q, 1 - q), axis=1)
    p_values = np.array([sample_ratio(q, outcome, LEVEL).p_value for outcome in outcomes])
    assert weights.sum() == pytest.approx(1)
    assert weights @ (1 / p_values) >= 1 - 1e-9  # p-values stop at 1: where E is below 1 it counts as 1
    for level in (0.01, 0.1, 0.5):
        assert weights[p_values <= level].sum() <= level


def test_what_had_no_chance_is_a_mismatch_and_what_had_no_choice_is_nothing() -> None:
    assert sample_ratio([0.0, 0.5], [1, 1], LEVEL) is not None
    assert sample_ratio([0.0, 0.5], [1, 1], LEVEL).p_value == 0
    assert sample_ratio([1.0, 0.5], [0, 1], LEVEL).mismatch
    assert sample_ratio([0.0, 1.0], [0, 1], LEVEL) is None
    assert sample_ratio([], [], LEVEL) is None
    with pytest.raises(ValueError, match="one shape"):
        sample_ratio([0.1], [1, 0], LEVEL)
