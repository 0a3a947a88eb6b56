"""The rules of a rollout, one by one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

import pytest
from rollout_cases import (
    BEYOND,
    HEALTHY,
    POLICY_OF_TESTS,
    STOP,
    TRIPPED,
    UNJUDGED,
    an_experiment,
    day,
    evidence,
    in_ramp,
    tick,
)

from include.lifecycle.as_of import utc
from include.lifecycle.domain import Guardrails, Rollout
from include.lifecycle.experiment import CHALLENGER, CHAMPION, LATENCY_BOUNDS_MS, Experiment, GatewayHealth, Stage, VariantCounts
from include.lifecycle.guardrails import Reading, judge
from include.lifecycle.rollout import POLICY, Advance, RolloutError, begin_ramp, finish, opening, take_all

# --------------------------------------------------------------------------------------------------------------------------- shadow


def test_shadow_proves_a_better_challenger_after_its_least_time() -> None:
    early = tick(an_experiment(), 16, evidence(day(16), "shadow", better=True))
    assert early.experiment.stage == "shadow", "six days have matured"
    assert "6 days of matured events (at least 7 days are waited for)" in early.entries[0].says
    proven = tick(early.experiment, 17, evidence(day(17), "shadow", better=True, shadow_scores=[1] * 20))
    assert (proven.experiment.stage, proven.experiment.share, proven.experiment.step) == ("proven", 0.0, 1)
    assert proven.experiment.shadow_scores == (1,) * 20
    assert proven.experiment.stage_since == proven.experiment.as_of == day(17)
    assert proven.entries[0].who == POLICY
    assert (
        "Proven in shadow: challenger minus champion -0.2 EUR an event (-0.5 to +0.1; 1,000 matured events, 30 frauds)"
        in proven.entries[0].says
    )


def test_days_before_the_experiment_do_not_count_as_matured() -> None:
    found = evidence(day(16), "shadow", better=True, first_day="2026-01-01")
    assert tick(an_experiment(), 16, found).experiment.stage == "shadow"


def test_shadow_proves_nothing_while_the_challenger_leaves_requests_unanswered() -> None:
    found = evidence(day(17), "shadow", better=True, events=970, unpaired=30)
    waiting = tick(an_experiment(), 17, found)
    assert waiting.experiment.stage == "shadow"
    assert "3.0% of the matured events lack a model's answer, and the others prove nothing" in waiting.entries[0].says
    assert tick(an_experiment(), 17, {**found, "unpaired": 10}).experiment.stage == "proven"
    assert tick(an_experiment(), 40, evidence(day(40), "shadow", better=True, events=970, unpaired=30)).experiment.stage == "undecided"


@pytest.mark.parametrize("at", [12, 17])
def test_shadow_rolls_a_worse_challenger_back_at_once(at: int) -> None:
    ended = tick(an_experiment(), at, evidence(day(at), "shadow", worse=True))
    assert (ended.experiment.stage, ended.experiment.share, ended.experiment.step) == ("rolled_back", 0.0, 1)
    assert "costs more" in ended.experiment.why


def test_shadow_ends_undecided_when_its_time_is_up() -> None:
    assert tick(an_experiment(), 39, evidence(day(39), "shadow")).experiment.stage == "shadow"
    ended = tick(an_experiment(), 40, evidence(day(40), "shadow"))
    assert ended.experiment.stage == "undecided"
    assert "30 days of matured events" in ended.experiment.why


def test_shadow_without_traffic_does_not_wait_for_ever() -> None:
    silent = {"unmatured": 0, "first_day": None, "last_day": None, "events": 0, "frauds": 0, "difference": None}
    assert tick(an_experiment(), 29, evidence(day(29), "shadow", **silent)).experiment.stage == "shadow"
    ended = tick(an_experiment(), 30, evidence(day(30), "shadow", **silent))
    assert ended.experiment.stage == "undecided"
    assert "no events any more that could still mature: nothing to compare yet (0 matured events, 0 frauds)" in ended.experiment.why


def test_what_is_proven_may_still_turn_out_worse() -> None:
    proven = an_experiment(stage="proven", stage_since=day(17), as_of=day(17))
    assert tick(proven, 18, evidence(day(18), "shadow", better=True)).experiment.stage == "proven"
    assert tick(proven, 18, evidence(day(18), "shadow", worse=True)).experiment.stage == "rolled_back"


def test_guardrails_watch_only_what_is_live() -> None:
    assert tick(an_experiment(), 5, None, TRIPPED) == Advance(an_experiment())


# ----------------------------------------------------------------------------------------------------------------------------- ramp


def test_a_ramp_begins_at_the_least_share_and_only_once() -> None:
    ramp = in_ramp()
    assert (ramp.stage, ramp.share, ramp.cap, ramp.step, ramp.endpoint_config) == ("ramp", 0.01, 0.01, 1, "both-variants")
    assert ramp.stage_since == ramp.cap_since == ramp.as_of == day(20)
    assert begin_ramp(ramp, day(21), "both-variants") == Advance(ramp)
    for wrong in (an_experiment(), ramp.but(endpoint_config="another"), ramp.but(stage="safe")):
        with pytest.raises(RolloutError, match="a ramp begins when a challenger is proven"):
            begin_ramp(wrong, day(21), "both-variants")


def test_the_cap_climbs_every_two_epochs_and_the_bandit_fills_it() -> None:
    ramp, shares = in_ramp(), []
    for at in range(21, 28):
        ramp = tick(ramp, at, evidence(day(at), since=20)).experiment
        shares.append((ramp.cap, ramp.share))
    assert shares == [(0.01, 0.01), (0.05, 0.05), (0.05, 0.05), (0.25, 0.25), (0.25, 0.25), (0.25, 0.25), (0.25, 0.25)]
    assert (ramp.step, ramp.cap_since) == (3, day(24))


def test_a_step_takes_whole_epochs() -> None:
    ramp = in_ramp(stage_since=day(20.5), cap_since=day(20.5), as_of=day(20.5))
    caps = []
    for at in (21, 22, 23):
        ramp = tick(ramp, at, evidence(day(at), since=20)).experiment
        caps.append(ramp.cap)
    assert caps == [0.01, 0.01, 0.05]


def test_shares_change_with_the_epochs_only() -> None:
    ramp = in_ramp(cap=0.25, share=0.05, cap_since=day(20))
    within = tick(ramp, 20.9, evidence(day(20.9), since=20)).experiment
    assert (within.share, within.as_of) == (0.05, day(20.9))
    assert tick(within, 21, evidence(day(21), since=20)).experiment.share == 0.25


def saving(mean: float, events: float = 5000.0) -> dict[str, Any]:
    """Matured cohorts of a challenger that saves so much money an event; the champion's own decisions save nothing against themselves."""
    row = {"day": "2026-03-10", "events": events, "reward": 0.0, "reward_squared": 0.0}
    return {CHAMPION: [row], CHALLENGER: [row | {"reward": mean * events, "reward_squared": 4 * events}]}


def test_the_bandit_moves_the_share_between_floor_and_cap() -> None:
    thompson = replace(POLICY_OF_TESTS, bandit="thompson", minimum_share=0.005, caps=(0.01, 0.05, 0.9))
    ramp = in_ramp(cap=0.9, share=0.05, policy=thompson)
    assert tick(ramp, 21, evidence(day(21), arms=saving(0.5))).experiment.share == 0.9
    assert tick(ramp, 21, evidence(day(21), arms=saving(0.0))).experiment.share == pytest.approx(0.5)
    lowered = tick(ramp, 21, evidence(day(21), arms=saving(-0.5)))
    assert lowered.experiment.share == 0.005
    assert lowered.entries[0].evidence["arms"][CHALLENGER] == {"events": 5000.0, "reward": -2500.0}


@pytest.mark.parametrize(
    ("readings", "rises_at"),
    [((), 26), (UNJUDGED, 26), ((replace(HEALTHY[0], value=float("nan")), *HEALTHY[1:]), 26), (BEYOND, 27)],
)
def test_nothing_grows_before_every_guardrail_was_judged(readings: Sequence[Reading], rises_at: int) -> None:
    ramp = in_ramp(cap=0.05, share=0.02, cap_since=day(23), as_of=day(24))
    held = tick(ramp, 25, evidence(day(25), since=20), readings).experiment
    assert (held.share, held.cap, held.step) == (0.02, 0.05, ramp.step)
    for at in (26, 27):
        held = tick(held, at, evidence(day(at), since=20)).experiment
        assert (held.cap == 0.25) == (at >= rises_at)


@pytest.mark.parametrize("time_of_day", [0.0, 0.25])
def test_an_epoch_that_was_not_judged_does_not_count(time_of_day: float) -> None:
    """Those before it do, and the part of an epoch in which the cap rose has never counted."""

    def rises_after(*looks: tuple[float, Sequence[Reading]]) -> float:
        ramp = in_ramp(stage_since=day(20), cap_since=day(20 + time_of_day), as_of=day(20 + time_of_day))
        for at, readings in looks:
            ramp = tick(ramp, at + time_of_day, evidence(day(at + time_of_day), since=20), readings).experiment
            if ramp.cap > 0.01:
                return at
        raise AssertionError("the cap never rose")

    first = 23 if time_of_day else 22
    healthy = [(at, HEALTHY) for at in range(21, 30)]
    assert rises_after(*healthy) == first
    assert rises_after((21, UNJUDGED), *healthy[1:]) == 23
    assert rises_after((21, HEALTHY), (22, UNJUDGED), *healthy[2:]) == first + 1
    assert rises_after((24, UNJUDGED), (25, HEALTHY), (26, HEALTHY)) == 26
    assert rises_after((21, HEALTHY), (22, BEYOND), *healthy[2:]) == first + 2


def ramp_of_real_guardrails(requests: int, policy: Rollout, saves: Callable[[int], float]) -> tuple[dict[float, int], int]:
    """The day on which the cap reached each of its steps, and how many times the share changed, by guardrails that judge what one gateway counted of
    ``requests`` a day of the challenger's since its share last changed. ``saves``: what the challenger saves an event, by day."""
    ramp = in_ramp(policy=policy, share=policy.minimum_share, cap=policy.caps[0], shadow_scores=(50,) * 20)
    reached, counted = {ramp.cap: 20}, 0
    for at in range(21, 120):
        counted += requests
        scores = tuple(counted // 20 + (cell < counted % 20) for cell in range(20))
        mine = VariantCounts(counted, 0, 0, counted // 5, (counted,) + (0,) * len(LATENCY_BOUNDS_MS), scores)
        theirs = replace(mine, requests=19 * counted, reviews=19 * counted // 5)
        health = GatewayHealth("g", ramp.step, day(at), theirs, mine)
        readings = judge(Guardrails(minimum_requests=20), ramp.step, [health], ramp.shadow_scores, None, utc(day(at)), utc(day(at)))
        step, ramp = ramp.step, tick(ramp, at, evidence(day(at), since=20, arms=saving(saves(at))), readings).experiment
        counted = counted if step == ramp.step else 0
        reached.setdefault(ramp.cap, at)
    return reached, ramp.step


@pytest.mark.parametrize(("requests", "reached"), [(20, (20, 22, 24)), (11, (20, 23, 26)), (1, (20, 41, 62))])
def test_few_requests_an_epoch_slow_the_cap_and_do_not_stop_it(requests: int, reached: tuple[int, ...]) -> None:
    """A judgement takes twenty. With eleven a day there are as many at the end of the second epoch, and ever after."""
    policy = replace(POLICY_OF_TESTS, minimum_share=0.05, caps=(0.05, 0.25, 0.5), ramp_at_most=timedelta(days=200))
    assert ramp_of_real_guardrails(requests, policy, lambda at: 0.0) == (dict(zip(policy.caps, reached, strict=True)), 3)


def test_a_share_that_never_rests_does_not_stop_the_cap() -> None:
    """Every change of the share begins the counts anew. Then, of eleven requests a day, every other epoch is judged, and each of those counts."""
    policy = replace(
        POLICY_OF_TESTS, bandit="thompson", discount_per_day=1.0, caps=(0.5, 0.6, 0.7), ramp_at_most=timedelta(days=200), epochs_per_step=3
    )
    reached, changes = ramp_of_real_guardrails(11, policy, lambda at: (at - 120) / 2000)
    assert reached == {0.5: 20, 0.6: 26, 0.7: 32}
    assert changes > 40


def test_a_split_too_young_to_test_holds_nothing_back() -> None:
    readings = [replace(reading, value=None) if reading.name == "sample_ratio" else reading for reading in HEALTHY]
    assert tick(in_ramp(), 22, evidence(day(22), since=20), readings).experiment.cap == 0.05


def test_a_share_may_fall_though_guardrails_were_not_judged() -> None:
    ramp = in_ramp(cap=0.25, share=0.25, policy=replace(POLICY_OF_TESTS, bandit="thompson"))
    assert tick(ramp, 21, evidence(day(21), arms=saving(-0.5)), UNJUDGED).experiment.share == 0.01


@pytest.mark.parametrize("at", [20, 20.001, 21, 33])
@pytest.mark.parametrize("stage", ["ramp", "safe"])
def test_a_tripped_guardrail_takes_all_traffic_at_once(at: float, stage: Stage) -> None:
    """With or without evidence, at an instant already looked at, and whatever a person asks for."""
    for found, commands in ((None, ()), (evidence(day(at), not_worse=True), ()), (None, (replace(STOP, action="promote"),))):
        after = tick(in_ramp(stage=stage), at, found, TRIPPED, commands)
        assert (after.experiment.stage, after.experiment.share, after.experiment.cap) == ("rolled_back", 0.0, 0.0)
        assert "the challenger failed 20 of 100 requests" in after.experiment.why
        assert after.entries[0].evidence["readings"][1] == asdict(TRIPPED[1])
    assert "Not done (promote), the experiment has ended as rolled_back" in after.entries[1].says


def test_a_worse_challenger_loses_its_traffic_at_any_tick() -> None:
    for stage in ("ramp", "safe"):
        after = tick(in_ramp(stage=stage), 20.2, evidence(day(20.2), worse=True)).experiment
        assert (after.stage, after.share) == ("rolled_back", 0.0)


def at_last_cap(**changes: Any) -> Experiment:
    return in_ramp(cap=0.25, share=0.25, cap_since=day(30)).but(**changes)


def test_a_ramp_is_safe_at_the_last_cap_when_not_worse_on_enough_epochs() -> None:
    assert tick(at_last_cap(), 36, evidence(day(36), since=20, not_worse=True)).experiment.stage == "ramp", "six epochs have matured"
    assert tick(at_last_cap(), 37, evidence(day(37), since=20)).experiment.stage == "ramp", "not shown yet"
    for early in (at_last_cap(cap=0.05, share=0.05, cap_since=day(36)), at_last_cap(cap_since=day(36))):
        assert tick(early, 37, evidence(day(37), since=20, not_worse=True)).experiment.stage == "ramp"
    assert tick(at_last_cap(), 37, evidence(day(37), since=20, not_worse=True), UNJUDGED).experiment.stage == "ramp"
    safe = tick(at_last_cap(), 37, evidence(day(37), since=20, not_worse=True)).experiment
    assert (safe.stage, safe.share) == ("safe", 0.25)


def test_a_ramp_ends_undecided_when_its_time_is_up() -> None:
    assert tick(at_last_cap(), 59.9, evidence(day(59.9), since=20)).experiment.stage == "ramp"
    ended = tick(at_last_cap(), 60, evidence(day(60), since=20)).experiment
    assert (ended.stage, ended.share) == ("undecided", 0.0)
    assert "Not found safe within 40 days" in ended.why
    assert tick(at_last_cap(), 60, evidence(day(60), since=20, not_worse=True)).experiment.stage == "safe"


# ------------------------------------------------------------------------------------------------------------------------ commands


@pytest.mark.parametrize("stage", ["shadow", "proven", "ramp", "safe"])
@pytest.mark.parametrize(("action", "ends"), [("stop", "stopped"), ("roll_back", "rolled_back")])
def test_a_person_ends_it_at_any_stage(stage: Stage, action: str, ends: str) -> None:
    live = in_ramp(stage=stage) if stage in ("ramp", "safe") else an_experiment(stage=stage)
    after = tick(live, 25, None, commands=[replace(STOP, action=action)])
    assert (after.experiment.stage, after.experiment.share, after.done) == (ends, 0.0, ("1",))
    assert after.experiment.as_of == live.as_of, "nothing was looked at"
    [entry] = after.entries
    assert entry.who == "ann"
    assert entry.says.endswith("by ann: the campaign began")


@pytest.mark.parametrize(
    ("stage", "says"), [("shadow", "before it was proven"), ("proven", "without a ramp"), ("ramp", "before its ramp was found safe")]
)
def test_a_person_may_promote_what_is_not_proven(stage: Stage, says: str) -> None:
    live = in_ramp() if stage == "ramp" else an_experiment(stage=stage)
    after = tick(live, 25, None, commands=[replace(STOP, action="promote")])
    assert (after.experiment.stage, after.experiment.share) == ("safe", live.share)
    assert says in after.entries[0].says


def test_evidence_for_the_stage_that_a_person_left_is_not_used() -> None:
    promoted = tick(an_experiment(), 25, evidence(day(25), "shadow", worse=True), commands=[replace(STOP, action="promote")])
    assert (promoted.experiment.stage, promoted.experiment.as_of) == ("safe", day(25))
    assert tick(in_ramp(), 25, evidence(day(25), "shadow", worse=True)).experiment == in_ramp()


def test_a_person_sets_the_share_above_the_cap_until_the_next_epoch() -> None:
    command = replace(STOP, action="set_share", share=0.4)
    after = tick(in_ramp(), 21, evidence(day(21), since=20), commands=[command]).experiment
    assert (after.share, after.cap, after.cap_since, after.as_of) == (0.4, 0.4, day(21), day(21))
    following = tick(after, 22, evidence(day(22), since=20)).experiment
    assert (following.share, following.cap) == (0.4, 0.4), "the bandit has the share again, below the new cap"
    lowered = tick(after, 21.1, None, commands=[replace(command, id="2", share=0.02)]).experiment
    assert (lowered.share, lowered.cap) == (0.02, 0.02)
    climbed = tick(lowered, 24, evidence(day(24), since=20)).experiment
    assert (climbed.share, climbed.cap) == (0.05, 0.05)


@pytest.mark.parametrize(
    ("stage", "command", "says"),
    [
        ("shadow", {"action": "set_share", "share": 0.1}, "a share can be set in the ramp only, and the stage is shadow"),
        ("ramp", {"action": "set_share", "share": 0.0}, "a share lies between 0 and 1, not at 0.0"),
        ("ramp", {"action": "set_share", "share": 1.0}, "for the ends there are roll_back and promote"),
        ("ramp", {"action": "set_share", "share": float("nan")}, "not at nan"),
        ("ramp", {"action": "set_share", "share": None}, "not at None"),
        ("ramp", {"action": "faster"}, "there is no such action"),
        ("safe", {"action": "promote"}, "it is safe already"),
        ("stopped", {"action": "promote"}, "the experiment has ended as stopped"),
    ],
)
def test_what_cannot_be_done_is_done_with_a_reason(stage: Stage, command: dict[str, Any], says: str) -> None:
    live = in_ramp(stage=stage) if stage in ("ramp", "safe") else an_experiment(stage=stage)
    after = tick(live, 25, None, commands=[replace(STOP, **command)])
    assert after.experiment == live
    assert after.done == ("1",)
    assert says in after.entries[0].says
    assert after.entries[0].who == "ann"


def test_a_refused_command_does_not_hold_up_the_epoch() -> None:
    after = tick(in_ramp(), 22, evidence(day(22), since=20), commands=[replace(STOP, action="set_share", share=2.0)])
    assert after.experiment.cap == 0.05


def test_commands_are_heeded_in_turn_and_each_once() -> None:
    commands = [replace(STOP, id=name, action="set_share", share=share) for name, share in (("a", 0.1), ("b", 0.2), ("b", 0.3))]
    after = tick(in_ramp(), 20, None, commands=[*commands, STOP])
    assert after.done == ("a", "b", "1")
    assert [(entry.stage, entry.share) for entry in after.entries] == [("ramp", 0.1), ("ramp", 0.2), ("stopped", 0.0)]
    assert after.experiment.step == in_ramp().step + 3


# --------------------------------------------------------------------------------------------------------------- the ends, and the rest


def test_all_traffic_then_promoted() -> None:
    safe = at_last_cap(stage="safe")
    whole = take_all(safe, "ann")
    assert (whole.experiment.share, whole.experiment.cap, whole.experiment.stage, whole.entries[0].who) == (1.0, 1.0, "safe", "ann")
    assert take_all(whole.experiment) == Advance(whole.experiment)
    promoted = finish(whole.experiment, "promoted", day(50), "Promoted: released by ann", "ann")
    assert (promoted.experiment.stage, promoted.experiment.share) == ("promoted", 1.0)
    assert finish(promoted.experiment, "promoted", day(51), "again") == Advance(promoted.experiment)
    assert take_all(promoted.experiment) == Advance(promoted.experiment)
    assert tick(whole.experiment, 50, None, TRIPPED).experiment.share == 0


def test_only_what_is_safe_is_promoted_and_an_end_is_final() -> None:
    with pytest.raises(RolloutError, match="only what is safe takes all traffic, and this is in the stage ramp"):
        take_all(in_ramp())
    with pytest.raises(RolloutError, match="only what is safe is promoted, and this is in the stage ramp"):
        finish(in_ramp(), "promoted", day(30), "x")
    with pytest.raises(RolloutError, match="safe is no end"):
        finish(in_ramp(), "safe", day(30), "x")
    stopped = finish(in_ramp(), "stopped", day(30), "Not released", "ann")
    assert (stopped.experiment.share, stopped.experiment.why, stopped.entries[0].as_of) == (0.0, "Not released", day(30))
    with pytest.raises(RolloutError, match="has ended as stopped, which is final"):
        finish(stopped.experiment, "rolled_back", day(31), "x")
    assert tick(stopped.experiment, 40, evidence(day(40), not_worse=True)) == Advance(stopped.experiment)


def test_time_does_not_go_back_and_nothing_is_looked_at_twice() -> None:
    ramp = in_ramp()
    for at in (10, 20):
        assert tick(ramp, at, evidence(day(at), worse=True)) == Advance(ramp)
    assert tick(ramp, 30, None) == Advance(ramp), "without evidence there is nothing to say"
    assert finish(ramp, "stopped", day(3), "x").entries[0].as_of == day(20)


def test_a_persons_share_outlasts_the_bandits_wish_of_the_same_tick() -> None:
    arms = saving(-0.5)
    ramp = in_ramp(policy=replace(POLICY_OF_TESTS, bandit="thompson"))
    set_by_hand = tick(ramp, 21, evidence(day(21), arms=arms), commands=[replace(STOP, action="set_share", share=0.2)]).experiment
    assert (set_by_hand.share, set_by_hand.as_of) == (0.2, day(21))
    assert tick(set_by_hand, 22, evidence(day(22), arms=arms)).experiment.share == 0.01


def test_history_holds_no_number_that_json_has_not() -> None:
    endless = [replace(TRIPPED[1], value=float("inf")), replace(HEALTHY[0], value=float("nan"))]
    [entry] = tick(in_ramp(), 20, evidence(day(20), extra_cost=float("nan")), endless).entries
    assert [reading["value"] for reading in entry.evidence["readings"]] == [None, None]
    assert entry.evidence["extra_cost"] is None
    json.dumps(asdict(entry), allow_nan=False)


def test_evidence_of_another_experiment_is_an_error() -> None:
    with pytest.raises(RolloutError, match="evidence of the experiment x2 says nothing about x1"):
        tick(in_ramp(), 30, evidence(day(30), experiment="x2"))


def test_history_begins_with_why() -> None:
    entry = opening(an_experiment(), "Drift in amounts, retrained as of then.", "retrain_and_rollout")
    assert (entry.version, entry.as_of, entry.stage, entry.who) == (1, day(0), "shadow", "retrain_and_rollout")
