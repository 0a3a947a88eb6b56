"""A rollout, tick by tick: what holds of every sequence of evidence, readings and commands."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rollout_cases import (
    HEALTHY,
    OPENED,
    POLICY_OF_TESTS,
    TRIPPED,
    UNJUDGED,
    an_experiment,
    day,
    evidence,
    in_ramp,
)

from include.lifecycle.as_of import iso, utc
from include.lifecycle.experiment import ACTIONS, CHALLENGER, CHAMPION, STAGES, Command, Experiment
from include.lifecycle.guardrails import Reading
from include.lifecycle.rollout import Advance, advance, begin_ramp, finish, take_all


@dataclass(frozen=True)
class Move:
    """What happens next: time passes, a tick, or somebody finishes what a stage waits for."""

    kind: str
    hours: int
    flags: dict[str, Any]
    arms: dict[str, Any]
    readings: tuple[Reading, ...]
    commands: tuple[Command, ...]
    blind: bool


def some_moves(chance: Random) -> list[Move]:
    """Sequences of Hypothesis' own are short, and end early: these are seeded with what it draws, and mostly uneventful."""

    def arm() -> list[dict[str, Any]]:
        rows = [(chance.randrange(50), chance.uniform(0, 1000), chance.uniform(-3, 3)) for _ in range(chance.randrange(5))]
        return [{"day": day(at)[:10], "events": n, "reward": n * r, "reward_squared": n * r * r} for at, n, r in rows]

    def command() -> Command:
        share = chance.choice([None, chance.uniform(-0.5, 1.5), chance.random() / 4])
        return Command(f"{chance.getrandbits(64)}", chance.choice([*ACTIONS, "set_share", "set_share"]), "ann", "why", share)

    return [
        Move(
            kind=chance.choices(["tick", "operator"], [4, 1])[0],
            hours=chance.choice([0, 1, 12, 24, 24, 24, 72]),
            flags={name: chance.random() < odds for name, odds in (("better", 0.2), ("worse", 0.03), ("not_worse", 0.5))},
            arms={slot: arm() for slot in (CHAMPION, CHALLENGER)},
            readings=chance.choices([HEALTHY, UNJUDGED, (), TRIPPED], [85, 10, 3, 2])[0],
            commands=tuple(command() for _ in range(chance.choices([0, 1, 2, 5], [88, 8, 3, 1])[0])),
            blind=chance.random() < 0.2,
        )
        for _ in range(chance.randrange(60))
    ]


@dataclass
class World:
    """An experiment, the data's time, and the commands that are not done."""

    experiment: Experiment
    now: datetime = OPENED
    pending: list[Command] = field(default_factory=list)
    history: list[Any] = field(default_factory=list)

    @classmethod
    def begun(cls, seed: int) -> World:
        """In shadow or in the ramp, with one bandit or another."""
        policy = replace(QUICK, bandit=("thompson", "fixed", "ucb1")[seed % 3])
        if seed % 2:
            return cls(an_experiment(policy=policy))
        return cls(in_ramp(policy=policy), OPENED + timedelta(days=20))

    def save(self, after: Advance) -> None:
        self.experiment = after.experiment
        self.pending = [command for command in self.pending if command.id not in after.done]
        self.history += after.entries

    def tick(self, move: Move) -> Advance:
        stage = "shadow" if self.experiment.stage in ("shadow", "proven") else "ramp"
        as_of = iso(self.now)
        found = None if move.blind else evidence(as_of, stage, arms=move.arms, **move.flags)
        return advance(self.experiment, as_of=as_of, evidence=found, readings=move.readings, commands=list(self.pending))

    def operator(self) -> Advance:
        stage, as_of = self.experiment.stage, iso(self.now)
        if stage == "proven":
            return begin_ramp(self.experiment, as_of, "both-variants")
        if stage == "safe" and self.experiment.share < 1:
            return take_all(self.experiment)
        return finish(self.experiment, "promoted", as_of, "Promoted") if stage == "safe" else Advance(self.experiment)

    def make(self, move: Move) -> Advance:
        self.now += timedelta(hours=move.hours)
        self.pending += move.commands
        return self.tick(move) if move.kind == "tick" else self.operator()


QUICK = replace(POLICY_OF_TESTS, ramp_at_least=2, shadow_at_most=timedelta(days=12), ramp_at_most=timedelta(days=20))
seeds = st.integers(0, 2**32)
many = settings(max_examples=300, deadline=None)


@many
@given(seeds)
def test_every_step_keeps_to_the_rules(seed: int) -> None:
    world, by_hand = World.begun(seed), False
    policy = world.experiment.policy
    for move in some_moves(Random(seed)):
        before, pending = world.experiment, len(world.pending) + len(move.commands)
        after = world.make(move)
        now = after.experiment
        by_hand |= any("by ann" in entry.says for entry in after.entries)
        assert 0 <= now.share <= now.cap <= 1
        assert now.share <= policy.caps[-1] or by_hand or now.stage in ("safe", "promoted")
        assert now.share == 0 or now.stage in ("ramp", "safe", "promoted")
        assert utc(now.as_of) >= utc(before.as_of)
        assert bool(after.entries) >= (now != before), "no change without a reason"
        assert (now.step > before.step) == ((now.stage, now.share) != (before.stage, before.share)) or pending
        if before.ended:
            assert now == before
        if move.kind == "tick":
            if before.share > 0 and not before.ended and move.readings == TRIPPED:
                assert (now.stage, now.share) == ("rolled_back", 0)
            if now.cap < before.cap:
                assert now.ended or by_hand
            if now.share > before.share and not any("ann" in entry.says for entry in after.entries):
                assert move.readings == HEALTHY
                assert now.stage == "ramp"
            assert set(after.done) == {command.id for command in world.pending}
        if now.stage == "safe" != before.stage and not any("by the word of ann" in entry.says for entry in after.entries):
            assert before.stage == "ramp"
            assert before.cap >= policy.caps[-1]
            assert move.flags["not_worse"]
        for entry in after.entries:
            assert len(json.dumps(asdict(entry), allow_nan=False)) < 20_000
            assert entry.version == before.version + 1
        world.save(after)


@many
@given(seeds)
def test_ticks_repeated_and_killed_end_as_they_would_have(seed: int) -> None:
    """Each tick is made some times more, on what is stored: as if whoever made it was killed before, or after, it was stored."""
    once, again, kills = World.begun(seed), World.begun(seed), Random(~seed)
    for move in some_moves(Random(seed)):
        repeat = kills.randrange(4)
        once.save(once.make(move))
        lost = again.make(move)
        for _ in range(repeat % 2):  # killed before it was stored
            assert (again.tick(move) if move.kind == "tick" else again.operator()) == lost
        again.save(lost)
        for _ in range(repeat // 2 if move.kind == "tick" else 0):  # killed after
            repeated = again.tick(move)
            assert repeated == Advance(again.experiment)
            again.save(repeated)
        assert again.experiment == once.experiment
    assert again.history == once.history


def test_the_sequences_drawn_reach_every_end() -> None:
    """Else the properties above would be about nothing."""
    reached: Counter[str] = Counter()
    for seed in range(400):
        world = World.begun(seed)
        for move in some_moves(Random(seed)):
            world.save(world.make(move))
        reached.update({entry.stage for entry in world.history})
    assert min(reached[stage] for stage in STAGES) > 3
