"""One event's way: which model decides, its score, the decision, on the disk, and only then the answer."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, repeat
from typing import Any

from include.gateway.counts import Metrics, SlotCounts, StepCounts
from include.gateway.endpoint import Endpoints, Invocation, InvocationError
from include.gateway.journal import Journal
from include.gateway.live import Live, NotLive, View
from include.gateway.schemas import ScoreRequest
from include.lifecycle.as_of import iso
from include.lifecycle.assignment import assign, epoch_of, random_review
from include.lifecycle.costs import expected_benefit
from include.lifecycle.domain import Domain
from include.lifecycle.experiment import CHALLENGER, CHAMPION, Experiment, Slot

CHALLENGER_FAILED = "challenger_failed"
STORE_DOWN = "experiment_store_down"
UNWATCHED = "unwatched"
MOST_AT_ONCE = 128
"""Requests of a domain under way. By Little's law so many are 2,000 a second of 64 ms each: more at once is an endpoint that stalls, and those that
came on top would only wait, and take the machine's sockets and files with them."""
_WAITS = (0.0, 0.05, 0.2, 0.5)
"""Seconds before the champion is asked again that could not answer; the last one again and again."""
_WHOLE_NUMBER = re.compile(r"0|-?[1-9]\d{0,17}")
_LINE = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_BREAK_AFTER = 5
_BREAK_SECONDS = 2.0


class BadRequest(ValueError):
    """The request makes no sense for its domain. ``member``: what is wrong."""

    def __init__(self, member: str, says: str) -> None:
        super().__init__(f"{member}: {says}")
        self.member, self.says = member, says


class TooMany(Exception):
    """``MOST_AT_ONCE`` requests of the domain are under way."""


class NoAnswer(Exception):
    """No model answered. The message says why. ``lost``: milliseconds that the challenger's failure took, where it was asked before."""

    lost: float | None = None


@dataclass(frozen=True)
class Plan:
    """``share``: the challenger's, of the entities, at this moment. ``propensity``: chance of the assigned slot."""

    assigned: Slot
    share: float
    propensity: float
    epoch: int | None
    fallback: str | None = None
    override: bool = False


def planned(view: View, request: ScoreRequest, store_down: bool, now: datetime) -> Plan:
    """Who decides. While the store is down nothing it said counts, and what nobody has watched for too long is no rollout any more: the share of
    the challenger is 0. So it is while the challenger is to have all, but the endpoint has no variant of it: it was promoted from shadow, and the
    champion's is still the old model. ``now``: the clock's."""
    experiment = view.experiment
    epoch = epoch_of(request.event_time, experiment.policy.epoch) if experiment else None
    unwatched = view.watched_until is not None and now > view.watched_until
    share = 0.0
    if experiment is not None and not store_down and not unwatched:
        share = {"ramp": experiment.share, "safe": experiment.share, "promoted": 1.0}.get(experiment.stage, 0.0)
        if share == 1 and CHALLENGER not in view.variants:
            share = 0.0
    fallback = STORE_DOWN if store_down else UNWATCHED if unwatched else None
    if request.variant is not None:
        return Plan(request.variant, share, 1.0, epoch, fallback, override=True)
    if experiment is None or epoch is None or share == 0:
        return Plan(CHAMPION, share, 1.0, epoch, fallback)
    shares: dict[str, float] = {CHAMPION: 1 - share, CHALLENGER: share}
    assigned: Slot = CHALLENGER if assign(experiment.id, epoch, request.entity_id, shares) == CHALLENGER else CHAMPION
    return Plan(assigned, share, shares[assigned], epoch)


def check_id(domain: Domain, inference_id: str) -> None:
    """BadRequest where no event of the domain can have that id: what became of it would find no event."""
    key = domain.table(domain.event_table).column(domain.event_id)
    if key.type == "integer" and not _WHOLE_NUMBER.fullmatch(inference_id):
        raise BadRequest("event_id", f"{inference_id!r} is no whole number, as {domain.event_id} of {domain.name} is")


def row_of(request: ScoreRequest, features: tuple[str, ...]) -> list[float | None]:
    """The request's features in the model's order. BadRequest says what is wrong with them."""
    given = request.features
    if isinstance(given, list):
        if len(given) != len(features):
            raise BadRequest("features", f"{len(given)} values, but the model has {len(features)} features")
        return given
    row = [given.get(name) for name in features]
    if len(given) > len(features) - row.count(None) and (unknown := set(given) - set(features)):
        raise BadRequest("features", f"the model has no feature {', '.join(sorted(unknown)[:5])}")
    return row


@dataclass
class Breaker:
    """After some failures in a row the challenger is not asked for a moment: its requests need not wait for its time limit."""

    failures: int = 0
    until: float = 0.0

    def open(self, now: float) -> bool:
        return now < self.until

    def told(self, well: bool, now: float) -> None:
        self.failures = 0 if well else self.failures + 1
        if self.failures >= _BREAK_AFTER:
            self.until = now + _BREAK_SECONDS


@dataclass
class Scorer:
    """``challenger_seconds``, ``champion_seconds``: how long either may take; the champion, with all attempts. ``in_hand``: (domain, inference id)
    of the decisions on the disk that the ledger does not know yet."""

    live: Live
    endpoints: Endpoints
    journal: Journal
    metrics: Metrics
    challenger_seconds: float
    champion_seconds: float
    in_hand: set[tuple[str, str]] = field(default_factory=set)
    steps: dict[str, StepCounts] = field(default_factory=dict)
    _breakers: dict[str, Breaker] = field(default_factory=dict)
    _under_way: Counter[str] = field(default_factory=Counter)

    async def score(self, request: ScoreRequest) -> dict[str, Any]:
        """The answer's body. KeyError (unknown domain), TooMany, NotLive, BadRequest, NoAnswer, JournalError where there is none."""
        view = self.live.view(request.domain)
        if self._under_way[request.domain] >= MOST_AT_ONCE:
            raise TooMany(f"{MOST_AT_ONCE} requests of {request.domain} are under way: its endpoint is slower than they come")
        self._under_way[request.domain] += 1
        try:
            return await self._score(request, view)
        finally:
            self._under_way[request.domain] -= 1

    async def _score(self, request: ScoreRequest, view: View) -> dict[str, Any]:
        plan = planned(view, request, self.live.store_is_down(request.domain), datetime.now(UTC))
        check_id(view.domain, request.event_id)
        row = row_of(request, view.champion.features)
        if plan.override and plan.assigned == CHALLENGER and view.challenger is None:
            raise BadRequest("variant", f"there is no challenger now{': ' + view.problem if view.problem else ''}")
        asked = time.perf_counter()
        try:
            slot, found, fallback, lost = await self._answer(view, plan, request, row)
        except NoAnswer as error:
            if (slots := self._counted(view, plan)) is not None:
                if plan.assigned == CHALLENGER:
                    slots[CHALLENGER].failed(error.lost, fell_back=False)
                slots[CHAMPION].failed((time.perf_counter() - asked) * 1000 - (error.lost or 0.0), fell_back=False)
            raise
        model = view.model(CHALLENGER if slot == CHALLENGER or self._promoted_alone(slot, plan, fallback) else CHAMPION) or view.champion
        threshold = model.contender.review_threshold
        wanted = bool(expected_benefit(found.score, request.amount, view.domain.costs) > threshold)
        share = view.domain.rollout.random_review_share if view.experiment is None else view.experiment.policy.random_review_share
        by_lot = random_review(request.domain, request.event_id, share)
        experiment = view.experiment
        answered: Slot = CHALLENGER if model is view.challenger else CHAMPION
        decision = {
            "inference_id": request.event_id,
            "domain": request.domain,
            "experiment": experiment.id if experiment else None,
            "step": experiment.step if experiment else None,
            "entity_id": request.entity_id,
            "event_time": iso(request.event_time),
            "epoch": plan.epoch,
            "amount": request.amount,
            "features": row,
            "assigned": plan.assigned,
            "answered": answered,
            "model_package": model.contender.model_package,
            "share": plan.share,
            "propensity": plan.propensity,
            "score": found.score,
            "threshold": threshold,
            "wanted": wanted,
            "random_review": by_lot,
            "reviewed": wanted or by_lot,
            "review_propensity": 1.0 if wanted else share,
            "override": plan.override,
            "fallback": fallback,
            "reasons": found.reasons,
            "latency_ms": round(found.milliseconds, 3),
            "decided_at": iso(datetime.now(UTC)),
        }
        await self.journal.append(_LINE.encode(decision).encode())
        self.in_hand.add((request.domain, request.event_id))
        if (slots := self._counted(view, plan)) is not None:
            if fallback == CHALLENGER_FAILED:
                slots[CHALLENGER].failed(lost, fell_back=True)
            else:
                slots[answered].answered(found.milliseconds, found.score, wanted)
        verdict = "review" if wanted or by_lot else "pass"
        self.metrics.requests[request.domain, answered, verdict, fallback or "", "true" if plan.override else "false"] += 1
        self.metrics.invocations[request.domain, answered].observe(found.milliseconds)
        return {
            "inference_id": request.event_id,
            "score": found.score,
            "decision": verdict,
            "reviewed_because": "score" if wanted else "random" if by_lot else None,
            "reasons": found.reasons,
            "variant": answered,
            "model_package": decision["model_package"],
            "experiment": decision["experiment"],
            "share": plan.share,
            "fallback": fallback,
        }

    @staticmethod
    def _promoted_alone(slot: str, plan: Plan, fallback: str | None) -> bool:
        """Whether the slot ``champion`` answered with the promoted model: the endpoint has changed, and was found so within this request."""
        return plan.share == 1 and slot == CHAMPION and plan.assigned == CHALLENGER and fallback is None

    async def _answer(
        self, view: View, plan: Plan, request: ScoreRequest, row: list[float | None]
    ) -> tuple[str, Invocation, str | None, float | None]:
        """(the slot that answered, its answer, why it is not the assigned one, milliseconds that the challenger's failure took; None: it was not
        asked). What the caller is at fault for, or wanted in the place of an assignment, does not speak against the challenger."""
        if plan.assigned == CHAMPION:
            return CHAMPION, await self._champion(view, request, row), plan.fallback, None
        breaker = self._breakers.setdefault(request.domain, Breaker())
        begun, lost = time.perf_counter(), None
        if view.challenger is not None and not breaker.open(time.monotonic()):
            try:
                found = await self._invoke(view, CHALLENGER, request, row, self.challenger_seconds)
                if not plan.override:
                    breaker.told(well=True, now=time.monotonic())
                return CHALLENGER, found, plan.fallback, None
            except InvocationError as error:
                if error.kind == "no_variant":
                    self.live.look_again(request.domain)
                    if plan.share == 1:  # it has all, and a moment ago it had its variant: it has moved into the champion's slot meanwhile
                        return CHAMPION, await self._champion(view, request, row, None), None, None
                if error.kind != "refused" and not plan.override:
                    breaker.told(well=False, now=time.monotonic())
                lost = (time.perf_counter() - begun) * 1000
        try:
            return CHAMPION, await self._champion(view, request, row), CHALLENGER_FAILED, lost
        except NoAnswer as error:
            error.lost = lost
            raise

    async def _champion(self, view: View, request: ScoreRequest, row: list[float | None], variant: str | None = CHAMPION) -> Invocation:
        """Asked again for as long as it may take: it may be starting anew. By name only where the endpoint has other variants beside it."""
        deadline = time.monotonic() + self.champion_seconds
        name = variant if len(view.variants) > 1 else None
        for wait in chain(_WAITS, repeat(_WAITS[-1])):
            try:
                found = await self._invoke(view, name, request, row, max(deadline - time.monotonic(), 0.05))
                if name is None and variant is not None and found.variant == CHALLENGER:  # there are two now, and the wrong one answered
                    self.live.look_again(request.domain)
                    name = variant
                    found = await self._invoke(view, name, request, row, max(deadline - time.monotonic(), 0.05))
                return found
            except InvocationError as error:
                if error.kind == "refused":
                    raise BadRequest("features", str(error)) from error
                if error.kind == "no_variant":
                    self.live.look_again(request.domain)
                    name = None
                if time.monotonic() + wait >= deadline:
                    raise NoAnswer(str(error)) from error
                await asyncio.sleep(wait)
        raise AssertionError("attempts end at the deadline")

    async def _invoke(self, view: View, variant: str | None, request: ScoreRequest, row: list[float | None], seconds: float) -> Invocation:
        return await self.endpoints.invoke(view.endpoint, variant, request.event_id, iso(request.event_time), row, request.reasons, seconds)

    def _counted(self, view: View, plan: Plan) -> dict[str, SlotCounts] | None:
        """Where a request that began with ``view`` counts; None: nowhere. An override is no traffic of the rollout's."""
        then, now = view.experiment, self._experiment(view.domain.name)
        if plan.override or then is None or now is None or (then.id, then.step) != (now.id, now.step):
            return None  # the step ended while the request was under way
        return self._step(now)

    def _experiment(self, domain: str) -> Experiment | None:
        try:
            return self.live.view(domain).experiment
        except NotLive:
            return None

    def _step(self, experiment: Experiment) -> dict[str, SlotCounts]:
        """The counts of the experiment's step, from 0 where it is a new one."""
        counts = self.steps.get(experiment.domain)
        if counts is None or (counts.experiment, counts.step) != (experiment.id, experiment.step):
            counts = self.steps[experiment.domain] = StepCounts(experiment.id, experiment.step)
        return counts.slots

    def step_counts(self, domain: str) -> StepCounts | None:
        """What was counted of the step that the domain's experiment is in, from 0 on; None without one."""
        if (experiment := self._experiment(domain)) is None:
            return None
        self._step(experiment)
        return self.steps[domain]
