"""``bench.bandit``, small: what it measures, and that its peers are what they are said to be."""

from __future__ import annotations

import numpy as np
import pytest

from bench import bandit


def seen(decisions: list[list[int]], successes: list[list[int]]) -> bandit.Seen:
    made, good = np.array(decisions), np.array(successes)
    return bandit.Seen(made, good, made - good, good)


def test_an_even_split_costs_what_arithmetic_says() -> None:
    for case, expected in {"stationary": 1_020, "flip": 1_050}.items():
        found = [bandit.regret(bandit.even_split, bandit.WORLDS[case], seed) for seed in range(5)]
        assert np.mean(found) == pytest.approx(expected, rel=0.02)


def test_the_goals_are_met_in_small_and_peers_do_worse() -> None:
    chosen = bandit.policies(0.9)
    for case, goal in bandit.GOALS.items():
        ours, theirs = (
            np.mean([bandit.regret(chosen[name], bandit.WORLDS[case], 50 + seed) for seed in range(6)])
            for name in ("thompson", "aws_thompson")
        )
        assert ours < goal < theirs


def test_outcomes_are_known_7_days_later_or_when_they_are() -> None:
    rng, many = np.random.default_rng(1), np.array([100_000])
    assert bandit.World().arrivals(many, bandit.SUCCESS_DELAY, rng)[0].nonzero()[0].tolist() == [bandit.MATURITY]
    late = bandit.World(late=True).arrivals(many, bandit.SUCCESS_DELAY, rng)[0]
    assert late.sum() == 100_000
    assert (late * np.arange(late.size)).sum() / 100_000 == pytest.approx(bandit.SUCCESS_DELAY, rel=0.02)


def test_a_policy_sees_nothing_that_is_not_known_yet() -> None:
    sights: list[bandit.Seen] = []

    def spy(what: bandit.Seen, rng: np.random.Generator) -> np.ndarray:
        sights.append(bandit.Seen(*(values.copy() for values in vars(what).values())))
        return bandit.even_split(what, rng)

    bandit.regret(spy, bandit.World(), 1)
    assert [len(what.decisions) for what in sights] == list(range(bandit.DAYS))
    assert sights[20].successes[14:].sum() == 0
    assert (sights[20].successes[:14] > 0).all()
    assert (sights[20].successes + sights[20].failures)[:14].tolist() == sights[20].decisions[:14].tolist()

    sights.clear()
    bandit.regret(spy, bandit.World(late=True), 1)
    last = sights[-1]
    assert (last.on_time <= last.successes).all()
    assert last.on_time[:40].sum() < 0.9 * last.successes[:40].sum()
    assert (sights[30].on_time[:20] == last.on_time[:20]).all()  # what was heard in time does not change later


def test_the_sample_of_aws_takes_what_is_pending_for_a_failure() -> None:
    rng = np.random.default_rng(2)
    pending = seen([[1_000, 1_000, 1_000], [0, 2_000, 0]], [[600, 660, 550], [0, 0, 0]])
    assert bandit.aws_thompson(pending, rng).argmax() == 0
    assert bandit.aws_epsilon(pending, rng) == pytest.approx([0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3])
    cold = seen([[100, 101, 101]], [[1, 1, 1]])
    assert bandit.aws_epsilon(cold, rng) == pytest.approx([1 / 3] * 3)  # a warm-up of more than 100 of every arm


def test_caps_are_on_all_challengers_together() -> None:
    assert bandit.capped(np.array([0.1, 0.6, 0.3]), 0.25) == pytest.approx([0.75, 0.25 * 2 / 3, 0.25 / 3])
    assert bandit.capped(np.array([1.0, 0.0, 0.0]), 0.25) == pytest.approx([0.99, 0.005, 0.005])
