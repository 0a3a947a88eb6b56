"""Rollouts as they go, by the functions that decide them: simulated events, measured as evidence, judged by the guardrails, advanced by the day."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np

from include.lifecycle.as_of import iso
from include.lifecycle.domain import Costs, Rollout
from include.lifecycle.experiment import LATENCY_BOUNDS_MS, SCORE_CELLS, Command, Contender, Entry, Experiment, GatewayHealth, VariantCounts
from include.lifecycle.guardrails import Reading, judge
from include.lifecycle.rollout import advance, begin_ramp, finish, opening, take_all
from include.lifecycle.rollout_evidence import Decided, ramp_evidence, shadow_evidence
from include.lifecycle.sample_ratio import sample_ratio

Kind = Literal["promoted", "fails_live", "worse", "in_ramp", "stopped", "in_shadow"]

OPENED = datetime(2026, 3, 2, tzinfo=UTC)
MATURITY = timedelta(days=7)
COSTS = Costs("EUR", review=5.0)
POLICY = Rollout(shadow_at_least=timedelta(days=5), ramp_at_least=5)
_EVENTS, _ENTITIES = 1_500, 4_000
_ARN = "arn:aws:sagemaker:eu-west-1:123456789012:model-package/auto-claims/"


class World:
    """1,500 events a day, 3 % fraud. ``found``: shares of frauds that champion and challenger ask to have reviewed; of genuine events both 2 %."""

    def __init__(self, found: tuple[float, float], failing_from: int | None, seed: int = 1) -> None:
        self.rng, self.found, self.failing_from = np.random.default_rng(seed), found, failing_from
        self.days: list[Decided] = []

    def live(self, day: int, share: float) -> None:
        rng, many = self.rng, _EVENTS
        fraud = (rng.random(many) < 0.03).astype(float)
        luck = rng.random(many)  # one for both models: what is hard for one is hard for the other
        wants = [np.where(fraud == 1, luck < its, luck < 0.02) for its in self.found]
        assigned = rng.random(many) < share
        self.days.append(
            Decided(
                np.full(many, np.datetime64((OPENED + timedelta(days=day)).date(), "D")),
                rng.integers(0, _ENTITIES, many).astype(str),
                np.full(many, day),
                fraud,
                rng.lognormal(4.0, 1.0, many),
                np.ones(many),
                wants[0],
                wants[1],
                np.where(assigned, wants[1], wants[0]),
                assigned,
                np.full(many, share),
            )
        )

    def matured(self, first: int, as_of: datetime) -> Decided:
        last = (as_of - MATURITY - OPENED).days
        chosen = self.days[first : max(first, last)] or [self.days[0].where(np.zeros(_EVENTS, bool))]
        return Decided(**{name: np.concatenate([getattr(day, name) for day in chosen]) for name in vars(chosen[0])})

    def read(self, state: Experiment, day: int, since: int, ratio: Any) -> list[Reading]:
        """What a gateway counted since the step began, half a minute ago."""
        events = _EVENTS * max(1, day - since) * 4
        failing = self.failing_from is not None and day >= self.failing_from
        counts = [
            self._counts(round(events * of), errs) for of, errs in ((1 - state.share, 0.001), (state.share, 0.2 if failing else 0.002))
        ]
        now = datetime(2026, 6, 1, tzinfo=UTC)
        health = GatewayHealth("g1", state.step, iso(now - timedelta(seconds=20)), counts[0], counts[1])
        return judge(state.policy.guardrails, state.step, [health], state.shadow_scores, ratio, now, now - timedelta(seconds=90))

    def _counts(self, requests: int, errors: float) -> VariantCounts:
        rng, failed = self.rng, int(self.rng.binomial(requests, errors))
        took = np.searchsorted(LATENCY_BOUNDS_MS, 4 * np.exp(0.4 * rng.normal(size=requests)))
        latencies = np.bincount(took, minlength=len(LATENCY_BOUNDS_MS) + 1).tolist()
        return VariantCounts(requests, failed, failed, int(rng.binomial(requests, 0.04)), tuple(latencies), scores(rng, requests - failed))


def scores(rng: np.random.Generator, many: int) -> tuple[int, ...]:
    return tuple(np.bincount((rng.beta(0.5, 8, many) * SCORE_CELLS).astype(int), minlength=SCORE_CELLS).tolist())


def history(kind: Kind, domain: str = "auto_claims", days: int = 80) -> dict[str, Any]:
    """history.json of a rollout that goes as ``kind`` says."""
    world = World((0.5, 0.2) if kind == "worse" else (0.5, 0.75), failing_from=22 if kind == "fails_live" else None)
    contenders = [Contender(f"{_ARN}{number}", f"s3://b/{domain}/models/{number}/model.tar.gz", 0.0) for number in (7, 8)]
    state = Experiment(
        f"{domain}-2026-03-02", domain, f"{domain}-live", *contenders, opened=iso(OPENED), stage_since=iso(OPENED), version=1, policy=POLICY
    )
    entries: list[Entry] = [opening(state, "Opened: the challenger scores a copy of the traffic.")]
    evidence: dict[str, Any] = {"shadow": None, "ramp": None}
    began = since = 0

    def take(found: Any) -> None:
        nonlocal state, since
        if found.entries:
            since = day if found.experiment.step != state.step else since
            state = found.experiment.but(version=state.version + 1)
            entries.extend(found.entries)

    for day in range(days):
        if state.ended or (kind == "in_shadow" and day > 9) or (kind == "in_ramp" and day > 24):
            break
        world.live(day, state.share)
        as_of = OPENED + timedelta(days=day + 1)
        stage = "ramp" if state.stage in {"ramp", "safe"} else "shadow"
        decided = world.matured(began, as_of)
        measured = (ramp_evidence if stage == "ramp" else shadow_evidence)(decided, state.policy, COSTS)
        ratio = None
        if stage == "ramp":
            all_live = world.days[began:]
            tested = sample_ratio(
                np.concatenate([each.share for each in all_live]), np.concatenate([each.assigned_challenger for each in all_live]), 0.001
            )
            ratio = tested and asdict(tested)
        unmatured = _EVENTS * (day - began) - int(decided.days.size)
        evidence[stage] = measured | {"stage": stage, "sample_ratio": ratio, "unmatured": max(0, unmatured)}
        if stage == "shadow":
            evidence[stage]["shadow_scores"] = list(scores(world.rng, 4_000))
        readings = world.read(state, day, since, ratio) if stage == "ramp" else []
        commands = [Command("c1", "stop", "r.meyer", "the call centre is closed")] if kind == "stopped" and day == 24 else []
        take(advance(state, as_of=iso(as_of), evidence=evidence[stage], readings=readings, commands=commands))
        if state.stage == "proven":
            take(begin_ramp(state, iso(as_of), "ramp-config"))
            began = day + 1
        if state.stage == "safe":
            take(take_all(state))
            take(finish(state, "promoted", iso(as_of), "Promoted: the registry names it, and the endpoint has it alone."))
    return {"experiment": state.as_json(), "entries": [asdict(entry) for entry in entries], "evidence": evidence}
