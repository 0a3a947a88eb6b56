"""The simulation of whole rollouts, in small."""

from __future__ import annotations

import numpy as np
import pytest

from bench import rollout, rollout_peers
from bench.rollout_world import COSTS, KINDS, Setting, Traffic, events, experiments, sums, world
from include.lifecycle.confidence_sequence import confidence_sequence
from include.lifecycle.rollout_evidence import differences, shadow_evidence


def test_the_world_costs_what_its_setting_says() -> None:
    drawn = world(rollout.BETTER)
    assert 1 + drawn.difference / drawn.costs[0] == pytest.approx(0.9, abs=0.002)
    assert drawn.fraud_share == pytest.approx(0.03, abs=0.004)
    assert world(rollout.BOLDER).difference == pytest.approx(0, abs=1e-12)
    assert world(rollout.BOLDER).review_share[1] < 0.5 * world(rollout.BOLDER).review_share[0]


@pytest.mark.parametrize(
    "traffic", [Traffic(), Traffic(waves=0.5), Traffic(runs=3.0), Traffic(entities=300), rollout.SELECTIVE, rollout.HALF_PERCENT]
)
def test_what_is_drawn_has_the_mean_of_the_world_over_the_very_entities_of_an_experiment(traffic: Traffic) -> None:
    setting = Setting(cost=0.9, seed=7)
    drawn = world(setting)
    found = [differences(events(drawn, traffic, [1, seed]), COSTS).difference.sum() for seed in range(60)]
    mean = np.array(found) / (traffic.per_day * traffic.days)
    # runs are cut off at the horizon: a few of a hundred events are missing
    missing = 0.06 * abs(drawn.difference) if traffic.runs > 1 else 0
    assert mean.mean() == pytest.approx(drawn.difference, abs=4 * mean.std() / np.sqrt(60) + missing)


def test_days_and_entities_of_an_experiment_are_as_many_as_asked_for() -> None:
    drawn = events(world(rollout.EQUAL), Traffic(entities=10 * KINDS, days=10), [1, 2])
    assert np.unique(drawn.entities).size == pytest.approx(10 * KINDS, rel=0.05)
    assert np.unique(drawn.days).size == 10
    assert not np.any(drawn.champion_wants == drawn.challenger_wants)


def test_the_sums_are_those_of_the_evidence_but_for_events_in_which_the_models_agree() -> None:
    drawn, traffic = world(rollout.BETTER), Traffic(days=20)
    decided = events(drawn, traffic, [3, 4])
    known = sums(decided, rollout.POLICY, traffic)
    evidence = shadow_evidence(decided, rollout.POLICY, COSTS)
    assert known.differing[-1] == evidence["differing"]
    one = confidence_sequence(known, rollout.POLICY.error_rate)
    scale = traffic.per_day * traffic.days / evidence["events"]
    assert float(one.high[-1]) * scale == pytest.approx(evidence["difference"]["high"])


def test_rollouts_end_where_they_should() -> None:
    traffic = Traffic(entities=300)
    for setting, end in ((rollout.EQUAL, "undecided"), (rollout.BETTER, "promoted"), (Setting(cost=1.3), "rolled_back")):
        shadow = experiments(setting, traffic, rollout.POLICY, 8, 5)
        outcome = rollout.rolled_out(world(setting), traffic, 5, shadow)
        assert outcome.share(end) >= 7 / 8
        proven = np.isfinite(outcome.needed)
        assert np.array_equal(proven, rollout.found_better(confidence_sequence(shadow, 0.05).high).any(axis=1))
        assert np.array_equal(np.isfinite(outcome.ramp_days), proven)


def test_peers_are_what_they_are_said_to_be() -> None:
    traffic = Traffic(days=30)
    drawn = world(rollout.EQUAL)
    found = rollout_peers.randomised(drawn, traffic, 400, 1, 0.05, 0.1)
    rates = {rule: each.any(axis=1).mean() for rule, each in found.items()}
    assert rates["fixed_horizon"] == pytest.approx(0.05, abs=0.04)
    assert rates["msprt"] <= 0.06
    assert rates["peeking"] > 0.15
    # n = (z_α + z_β)² σ²/δ²: 6.18 of them
    assert rollout_peers.decisions_for_power(1.0, 1.0, 0.05) == pytest.approx(6.18, abs=0.01)
    better = world(rollout.BETTER)
    shadow = experiments(rollout.BETTER, traffic, rollout.POLICY, 5, 1)
    assert all(each.any(axis=1).all() for each in rollout_peers.paired(shadow, 0.05).values())
    assert better.missed_share[1] < better.missed_share[0]


def test_every_figure_of_the_table_can_be_made_in_small() -> None:
    found = dict(rollout.main_figures(4)) | dict(rollout.side_figures(2))
    assert len(found) > 80
    assert found["equal_300_promoted"].goal == rollout.POLICY.error_rate
    assert found["better_300_proven"].met
    assert all(
        0 <= figure.value <= 1 for name, figure in found.items() if name.endswith(("proven", "promoted", "found", "better", "worse"))
    )
