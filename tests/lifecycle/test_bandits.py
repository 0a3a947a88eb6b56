"""``include.lifecycle.bandits``: against draws, against the papers' formulas, and what must hold whatever the cohorts."""

from __future__ import annotations

from datetime import date, timedelta
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.lifecycle.bandits import DayReward, Rewards, challenger_share, propensities
from include.lifecycle.domain import BanditName

TODAY = date(2026, 3, 10)
POLICIES: tuple[BanditName, ...] = get_args(BanditName)


def cohort(events: float, reward: float, age: int = 0, squared: float | None = None) -> DayReward:
    return DayReward(TODAY - timedelta(days=age), events, reward, reward if squared is None else squared)


def money(values: np.ndarray) -> list[DayReward]:
    return [DayReward(TODAY, values.size, float(values.sum()), float((values**2).sum()))]


COHORTS = st.lists(
    st.tuples(st.integers(0, 3_000), st.floats(0, 1), st.integers(0, 40)).map(lambda each: cohort(each[0], each[0] * each[1], each[2])),
    max_size=5,
)
ARMS = st.dictionaries(st.sampled_from("abcd"), COHORTS, min_size=1)


@settings(max_examples=150, deadline=None)
@given(ARMS, st.sampled_from(POLICIES), st.floats(0.5, 1), st.sampled_from(get_args(Rewards)))
def test_propensities_are_chances_and_the_same_for_the_same_cohorts(
    arms: dict[str, list[DayReward]], policy: BanditName, discount: float, rewards: Rewards
) -> None:
    found = propensities(policy, arms, TODAY, discount, rewards=rewards)
    assert list(found) == list(arms)
    assert sum(found.values()) == pytest.approx(1)
    assert min(found.values()) >= 0
    assert found == propensities(policy, arms, TODAY, discount, rewards=rewards)
    turned = propensities(policy, {name: arms[name] for name in reversed(arms)}, TODAY, discount, rewards=rewards)
    assert turned == pytest.approx(found, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2_000), st.floats(0, 1)), min_size=2, max_size=4), st.integers(0, 99))
def test_thompson_is_how_often_its_draws_choose_an_arm(sums: list[tuple[int, float]], seed: int) -> None:
    arms = {str(place): [cohort(events, events * mean)] for place, (events, mean) in enumerate(sums)}
    rng, draws = np.random.default_rng(seed), 40_000
    drawn = np.stack([rng.beta(1 + events * mean, 1 + events * (1 - mean), draws) for events, mean in sums])
    expected = np.bincount(drawn.argmax(axis=0), minlength=len(sums)) / draws
    assert list(propensities("thompson", arms).values()) == pytest.approx(expected.tolist(), abs=4 * 0.5 / draws**0.5 + 0.002)


def test_thompson_of_money_is_how_often_draws_of_its_posterior_choose_an_arm() -> None:
    rng = np.random.default_rng(3)
    samples = [rng.normal(-5.0, 30, 80), rng.normal(-2.0, 10, 200), rng.normal(-4.0, 60, 30)]
    everything = np.concatenate(samples)
    drawn = []
    for values in samples:  # Murphy 2007, equations 85 to 89 and 100, by sampling variance, then mean
        n, prior, kappa = values.size, everything.mean(), 1 + values.size
        beta = everything.var() + ((values - values.mean()) ** 2).sum() / 2 + n * (values.mean() - prior) ** 2 / 2 / kappa
        variance = beta / rng.gamma(1 + n / 2, size=200_000)
        drawn.append((prior + values.sum()) / kappa + rng.normal(size=200_000) * np.sqrt(variance / kappa))
    expected = np.bincount(np.argmax(drawn, axis=0), minlength=3) / 200_000
    found = propensities("thompson", {str(n): money(values) for n, values in enumerate(samples)}, rewards="real")
    assert list(found.values()) == pytest.approx(expected.tolist(), abs=0.006)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_unit_of_money_changes_nothing(policy: BanditName, unit: float) -> None:
    rng = np.random.default_rng(5)
    one, other = rng.lognormal(3, 2, 300), rng.lognormal(3.1, 2, 200)
    found = propensities(policy, {"a": money(one), "b": money(other)}, rewards="real")
    assert propensities(policy, {"a": money(one * unit), "b": money(other * unit)}, rewards="real") == pytest.approx(found, abs=1e-6)


def test_what_every_event_earned_alike_is_certain() -> None:
    found = propensities("thompson", {"a": money(np.full(50, 3.0)), "b": money(np.full(50, 2.0))}, rewards="real")
    assert found["a"] > 0.99
    assert propensities("thompson", {"a": money(np.full(50, 3.0)), "b": money(np.full(50, 3.0))}, rewards="real")["a"] == pytest.approx(0.5)


def test_the_top_two_share_the_play_even_when_one_is_surely_better() -> None:
    arms = {"a": [cohort(5_000, 3_000)], "b": [cohort(5_000, 4_000)], "c": [cohort(5_000, 3_100)]}
    best, found = propensities("thompson", arms), propensities("top_two_thompson", arms)
    assert best["b"] > 0.9999
    assert found["b"] == pytest.approx(0.5, abs=1e-3)
    assert found["c"] > found["a"] > 0
    close = {"a": [cohort(50, 30)], "b": [cohort(50, 31)], "c": [cohort(20, 12)]}
    p, found = propensities("thompson", close), propensities("top_two_thompson", close)
    for arm in p:  # Russo 2016, §3.3
        second = sum(p[leader] * p[arm] / (1 - p[leader]) for leader in p if leader != arm)
        assert found[arm] == pytest.approx(0.5 * p[arm] + 0.5 * second)


def test_epsilon_greedy_plays_the_largest_mean_and_first_what_it_does_not_know() -> None:
    arms = {"a": [cohort(100, 60)], "b": [cohort(100, 61)]}
    assert propensities("epsilon_greedy", arms, epsilon=0.1) == pytest.approx({"a": 0.05, "b": 0.95})
    assert propensities("epsilon_greedy", {**arms, "c": []}, epsilon=0.0) == {"a": 0, "b": 0, "c": 1}


def test_ucb1_adds_the_width_of_figure_1() -> None:
    def best(a: tuple[int, int], b: tuple[int, int]) -> str:
        return max(found := propensities("ucb1", {"a": [cohort(*a)], "b": [cohort(*b)]}), key=lambda arm: found[arm])

    # √(2 ln 1100 / n): .374 of 100 events, .118 of 1,000
    assert best((100, 40), (1_000, 655)) == "a"
    assert best((100, 40), (1_000, 657)) == "b"


def test_an_older_cohort_counts_less_and_what_comes_after_the_newest_does_not_count() -> None:
    old_glory = {"a": [cohort(1_000, 700, age=40), cohort(100, 50)], "b": [cohort(1_000, 600, age=40), cohort(100, 60)]}
    assert propensities("thompson", old_glory, TODAY, 1.0)["a"] > 0.99
    assert propensities("thompson", old_glory, TODAY, 0.9)["a"] < 0.2
    assert propensities("thompson", old_glory, TODAY - timedelta(days=40), 0.9)["a"] > 0.99
    untold = {name: cohorts[:1] for name, cohorts in old_glory.items()}
    assert propensities("thompson", untold, None, 0.9) == propensities("thompson", untold, TODAY - timedelta(days=40), 0.9)


def test_what_has_not_been_tried_for_long_becomes_uncertain_again() -> None:
    arms = {"a": [cohort(300, 198, age=age) for age in range(30)], "b": [cohort(300, 165, age=60)]}
    assert propensities("thompson", arms, TODAY, 1.0)["b"] < 1e-3
    assert propensities("thompson", arms, TODAY, 0.9)["b"] > 0.1


def test_shares_keep_to_floor_and_cap() -> None:
    assert [challenger_share(p, 0.01, 0.25) for p in (0.0, 0.1, 1.0)] == [0.01, 0.1, 0.25]
    assert challenger_share(0.5, 0.05, 0.01) == 0.01


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="no bandit is called 'best'"):
        propensities("best", {"a": []})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one arm"):
        propensities("thompson", {})
    with pytest.raises(ValueError, match="discount_per_day"):
        propensities("thompson", {"a": []}, discount_per_day=0)
    with pytest.raises(ValueError, match=r"arm 'a', 2026-03-10: a reward of 12 in 10 events"):
        propensities("thompson", {"a": [cohort(10, 12)]})
