from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from include.lifecycle.domain import Costs, Rollout
from include.lifecycle.experiment import CHALLENGER, CHAMPION
from include.lifecycle.rollout_evidence import Decided, Units, day_sums, differences, label_chance, ramp_evidence, shadow_evidence

COSTS = Costs(currency="EUR", review=5.0, missed_share=0.5)
POLICY = Rollout()
DAY = np.datetime64("2026-03-01", "D")


def decided(rows: list[dict[str, Any]]) -> Decided:
    """One event a row; what a row does not say is the usual."""
    usual = {
        "days": DAY,
        "entities": "a",
        "labels": 0.0,
        "amounts": 100.0,
        "observed": 1.0,
        "champion_wants": False,
        "challenger_wants": False,
    }
    full = [usual | row for row in rows]
    columns = {name: np.array([row[name] for row in full]) for name in full[0]}
    return Decided(**{"epochs": columns["days"].astype(np.int64)} | columns)


def stream(seed: int, count: int = 60_000, *, days: int = 30, entities: int = 2_000, challenger: float = 0.9) -> Decided:
    """Fraud of 3 %, of which the champion catches 60 % and the challenger another share, both with false alarms; the models are not alike."""
    rng = np.random.default_rng(seed)
    day = DAY + rng.integers(0, days, count)
    fraud = rng.random(count) < 0.03
    wants = [np.where(fraud, rng.random(count) < caught, rng.random(count) < 0.02) for caught in (0.6, challenger)]
    names = np.array([f"card {number}" for number in range(entities)])
    return Decided(
        days=day,
        entities=names[rng.integers(0, entities, count)],
        epochs=day.astype(np.int64),
        labels=fraud.astype(float),
        amounts=rng.lognormal(4, 1, count),
        observed=np.ones(count),
        champion_wants=wants[0],
        challenger_wants=wants[1],
    )


def live(events: Decided, share: float, seed: int, fails: float = 0.0, instead: Any = False) -> Decided:
    """The same in a ramp. ``fails``: of the challenger's units, those that are decided by ``instead``: without any review, unless told."""
    rng = np.random.default_rng(seed)
    unit = Units.of(events).of_event
    assigned = (rng.random(unit.max() + 1) < share)[unit]
    failed = (rng.random(unit.max() + 1) < fails)[unit]
    reviewed = np.where(assigned, np.where(failed, instead, events.challenger_wants), events.champion_wants)
    return replace(events, live_reviewed=reviewed, assigned_challenger=assigned, share=np.full(unit.size, share))


def test_the_difference_of_an_event_is_a_review_or_a_missed_fraud() -> None:
    found = differences(
        decided([
            {"challenger_wants": True},
            {"challenger_wants": True, "labels": 1.0},
            {"champion_wants": True},
            {"champion_wants": True, "labels": 1.0},
            {"labels": 1.0},
            {"champion_wants": True, "challenger_wants": True, "labels": 1.0},
        ]),
        COSTS,
    )
    assert found.difference.tolist() == [5, 5 - 50, -5, 50 - 5, 0, 0]
    assert found.champion.tolist() == [0, 50, 5, 5, 50, 5]
    assert found.differs.tolist() == [True] * 4 + [False] * 2
    assert found.if_genuine[:4].tolist() == [5, 5, -5, -5]
    assert found.if_fraud[:4].tolist() == [-45, -45, 45, 45]


def test_events_are_summed_by_entity_and_epoch_and_unlabelled_ones_are_left_out_and_counted() -> None:
    rows = [{"challenger_wants": True}] * 2 + [{"challenger_wants": True, "entities": "b"}, {"challenger_wants": True, "days": DAY + 1}]
    left_out = [{"labels": np.nan, "challenger_wants": True}, {"amounts": np.nan, "challenger_wants": True}]
    events = decided(rows + left_out)
    evidence = shadow_evidence(events, POLICY, COSTS)
    assert (evidence["events"], evidence["units"], evidence["unlabelled"], evidence["unpriced"]) == (4, 3, 1, 1)
    assert evidence["cost"] == {CHAMPION: 0.0, CHALLENGER: 5.0, "currency": "EUR"}
    usable = decided(rows)
    days, sums = day_sums(usable, differences(usable, COSTS), Units.of(usable))
    assert days.tolist() == [DAY.astype(object), (DAY + 1).astype(object)]
    assert sums.event_squares.tolist() == [75, 75 + 25]
    assert sums.unit_squares.tolist() == [100 + 25, 125 + 25]
    assert sums.entity_squares.tolist() == [100 + 25, 225 + 25]
    assert sums.day_squares.tolist() == [225, 225 + 25]
    assert (sums.total[-1], sums.events[-1], sums.differing[-1], sums.frauds[-1]) == (20, 4, 3, 0)
    assert (sums.losses[-1], sums.losses_squared[-1], sums.gains[-1], sums.gains_squared[-1]) == (20, 100, 180, 8100)


def test_sums_do_not_depend_on_the_order_of_events_and_entities_add_up_over_days() -> None:
    events = stream(1, 5_000, entities=50)
    order = np.random.default_rng(2).permutation(5_000)
    known = [day_sums(each, differences(each, COSTS), Units.of(each))[1] for each in (events, events.where(order))]
    for name, values in vars(known[0]).items():
        np.testing.assert_allclose(values, getattr(known[1], name), err_msg=name)
    total = differences(events, COSTS).difference
    by_entity = [total[events.entities == entity].sum() for entity in np.unique(events.entities)]
    assert known[0].entity_squares[-1] == pytest.approx(np.square(by_entity).sum())


def test_a_challenger_that_catches_more_is_found_better_and_the_same_with_roles_exchanged_worse() -> None:
    events = stream(3)
    better = shadow_evidence(events, POLICY, COSTS)
    assert (better["better"], better["worse"], better["not_worse"]) == (True, False, True)
    assert better["difference"]["high"] < 0
    assert better["difference"]["error_rate"] == POLICY.error_rate
    exchanged = replace(events, champion_wants=events.challenger_wants, challenger_wants=events.champion_wants)
    worse = shadow_evidence(exchanged, POLICY, COSTS)
    assert (worse["better"], worse["worse"], worse["not_worse"]) == (False, True, False)
    assert worse["difference"]["low"] == pytest.approx(-better["difference"]["high"])
    assert worse["cost"][CHAMPION] == pytest.approx(better["cost"][CHALLENGER])
    assert worse["margin"] == pytest.approx(POLICY.non_inferiority_margin * worse["cost"][CHAMPION])


def test_the_evidence_is_what_json_can_say_and_its_last_day_is_its_verdict() -> None:
    events = stream(4, 20_000)
    evidence = shadow_evidence(events, POLICY, COSTS)
    assert json.loads(json.dumps(evidence, allow_nan=False)) == evidence
    assert len(evidence["over_time"]) == 30
    first, last = evidence["over_time"][0], evidence["over_time"][-1]
    assert (first["day"], first["low"], first["high"]) == (str(DAY), None, None)
    assert {name: last[name] for name in ("value", "low", "high")} | {"error_rate": 0.05} == evidence["difference"]
    # a day later changes nothing about the days before
    earlier = shadow_evidence(events.where(events.days < DAY + 20), POLICY, COSTS)
    for then, now in zip(earlier["over_time"], evidence["over_time"][:20], strict=True):
        assert then == pytest.approx(now)


def test_of_nothing_nothing_is_said() -> None:
    empty = stream(5, 10).where(np.zeros(10, bool))
    evidence = shadow_evidence(empty, POLICY, COSTS)
    assert (evidence["events"], evidence["difference"]["value"], evidence["margin"]) == (0, None, None)
    assert not any(evidence[verdict] for verdict in ("better", "worse", "not_worse"))
    assert evidence["over_time"] == []
    begun = ramp_evidence(live(stream(5, 10), 0.5, 0).where(np.zeros(10, bool)), POLICY, COSTS)
    assert (begun["arms"], begun["extra_cost"]) == ({CHAMPION: [], CHALLENGER: []}, 0.0)
    nobody_agrees = decided([{"challenger_wants": True}] * 50)
    assert shadow_evidence(nobody_agrees, POLICY, COSTS)["difference"]["low"] is None


def test_labels_of_reviewed_events_only_leave_the_difference_unbiased() -> None:
    truth = stream(6, 20_000)
    wanted = float(differences(truth, COSTS).difference.mean())
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        chance = np.where(truth.champion_wants, 1.0, 0.2)
        seen = replace(truth, observed=chance, labels=np.where(rng.random(chance.size) < chance, truth.labels, np.nan))
        evidence = shadow_evidence(seen, POLICY, COSTS)
        assert evidence["unlabelled"] == 0
        assert evidence["events"] == truth.days.size
        found.append(evidence["difference"]["value"])
    assert np.mean(found) == pytest.approx(wanted, abs=4 * np.std(found) / np.sqrt(60))
    assert np.std(found) < abs(wanted)


def test_reviews_where_the_models_disagree_tell_more_than_ten_times_as_many_of_all_events() -> None:
    truth = stream(6, 20_000)
    wanted = float(differences(truth, COSTS).difference.mean())
    disagree = truth.champion_wants != truth.challenger_wants
    spread, reviews = [], []
    for first, second in ((0.005, 0.2), (0.05, 0.0)):
        policy = replace(POLICY, random_review_share=first, disagreement_review_share=second)
        chance = label_chance(policy, truth.champion_wants, disagree)
        found = []
        for seed in range(100):
            known = np.random.default_rng(seed).random(chance.size) < chance
            seen = replace(truth, observed=chance, labels=np.where(known, truth.labels, np.nan))
            found.append(shadow_evidence(seen, policy, COSTS)["difference"]["value"])
        assert np.mean(found) == pytest.approx(wanted, abs=4 * np.std(found) / np.sqrt(100))
        spread.append(np.std(found))
        reviews.append(chance.sum() - truth.champion_wants.sum())
    assert spread[0] < 0.7 * spread[1]
    assert reviews[0] < reviews[1] / 3


@pytest.mark.parametrize(("made", "telling"), [(0.97, True), (0.8, False)])
def test_without_the_reviews_that_were_drawn_there_is_no_verdict(made: float, telling: bool) -> None:
    truth, rng = stream(3), np.random.default_rng(1)
    policy = replace(POLICY, random_review_share=0.1, disagreement_review_share=0.5)
    chance = label_chance(policy, truth.champion_wants, truth.champion_wants != truth.challenger_wants)
    drawn = rng.random(chance.size) < chance
    due = drawn & ~truth.champion_wants & truth.challenger_wants
    known = drawn & ~(due & (rng.random(chance.size) > made))
    seen = replace(truth, observed=chance, labels=np.where(known, truth.labels, np.nan), due=due)
    evidence = shadow_evidence(seen, policy, COSTS)
    assert (evidence["reviews_drawn"], evidence["reviews_missing"]) == (due.sum(), (due & ~known).sum())
    assert evidence["difference"]["high"] < 0
    assert (evidence["better"], evidence["not_worse"]) == (telling, telling)
    exchanged = replace(seen, champion_wants=seen.challenger_wants, challenger_wants=seen.champion_wants, observed=np.ones(chance.size))
    assert shadow_evidence(exchanged, policy, COSTS)["worse"] is telling


def test_a_live_decision_that_is_what_the_model_implies_adds_no_noise() -> None:
    events = stream(7)
    shadow, ramp = shadow_evidence(events, POLICY, COSTS), ramp_evidence(live(events, 0.05, 1), POLICY, COSTS)
    for name in ("difference", "over_time", "cost", "margin", "better"):
        assert ramp[name] == shadow[name]


def test_a_challenger_that_fails_live_costs_what_it_fails_at_without_bias() -> None:
    events = stream(8, 20_000)
    implied = differences(events, COSTS)
    silent = np.where(events.challenger_wants, events.labels * 0.5 * events.amounts - 5, 0.0)  # of answering without a review
    wanted = float((implied.difference + silent).mean())
    found = [ramp_evidence(live(events, 0.25, seed, fails=1.0), POLICY, COSTS) for seed in range(60)]
    values = [each["difference"]["value"] for each in found]
    assert np.mean(values) == pytest.approx(wanted, abs=4 * np.std(values) / np.sqrt(60))
    assert wanted > 0 > float(implied.difference.mean())  # which shadow could not see
    half = ramp_evidence(live(stream(8, 300_000, days=60), 0.5, 0, fails=1.0), POLICY, COSTS)
    assert half["worse"]
    assert not half["not_worse"]


@pytest.mark.parametrize("second", [0.0, 0.3])
@pytest.mark.parametrize("fails", [0.5, 1.0])
@pytest.mark.parametrize("failure", ["silent", "falls_back"])
def test_in_the_ramp_selective_labels_are_weighed_by_what_made_them_known(second: float, fails: float, failure: str) -> None:
    """Which is the live decision: unbiased also where that is not what the model wants, the threshold wrong or the champion called in."""
    events, share, first = stream(9, 20_000), 0.3, 0.2
    policy = replace(POLICY, random_review_share=first, disagreement_review_share=second)
    instead = events.champion_wants if failure == "falls_back" else np.zeros(events.days.size, bool)
    saved = events.labels * 0.5 * events.amounts - 5
    reviewed = (1 - fails) * events.challenger_wants + fails * instead
    wanted = float((saved * (events.champion_wants - reviewed)).mean())
    values = []
    for seed in range(80):
        ramp = live(events, share, seed, fails, instead)
        chance = label_chance(policy, ramp.live_reviewed, events.champion_wants | events.challenger_wants)
        known = np.random.default_rng([seed, 1]).random(chance.size) < chance
        seen = replace(ramp, observed=chance, labels=np.where(known, events.labels, np.nan))
        values.append(ramp_evidence(seen, policy, COSTS)["difference"]["value"])
    assert np.mean(values) == pytest.approx(wanted, abs=4 * np.std(values) / np.sqrt(80))


def test_what_arms_earned_is_saved_against_the_champion_on_the_same_events() -> None:
    rows = [
        {"assigned_challenger": True, "challenger_wants": True, "live_reviewed": True, "labels": 1.0},
        {"assigned_challenger": True, "challenger_wants": True, "live_reviewed": True},
        {"assigned_challenger": True, "champion_wants": True, "live_reviewed": False, "entities": "b"},
        {
            "assigned_challenger": True,
            "champion_wants": True,
            "challenger_wants": False,
            "live_reviewed": True,
            "days": DAY + 1,
        },  # fell back
        {"assigned_challenger": False, "challenger_wants": True, "live_reviewed": False, "labels": 1.0, "entities": "c"},
    ]
    evidence = ramp_evidence(decided([{"share": 0.5} | row for row in rows]), POLICY, COSTS)
    assert evidence["arms"][CHALLENGER] == [
        {"day": "2026-03-01", "events": 3, "reward": 45.0, "reward_squared": 40.0**2 + 5.0**2},
        {"day": "2026-03-02", "events": 1, "reward": 0.0, "reward_squared": 0.0},
    ]
    assert evidence["arms"][CHAMPION] == [{"day": "2026-03-01", "events": 1, "reward": 0.0, "reward_squared": 0.0}]
    assert evidence["extra_cost"] == -45.0
    assert shadow_evidence(decided([{}]), POLICY, COSTS)["extra_cost"] is None


@pytest.mark.parametrize(("wrong", "match"), [({"observed": 0.0}, "random reviews"), ({"observed": 1.5}, "random reviews")])
def test_a_chance_that_is_none_is_refused(wrong: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        shadow_evidence(decided([wrong]), POLICY, COSTS)


def test_an_assignment_without_a_chance_is_refused() -> None:
    with pytest.raises(ValueError, match="no chance"):
        ramp_evidence(decided([{"assigned_challenger": True, "live_reviewed": False, "share": 0.0}]), POLICY, COSTS)
