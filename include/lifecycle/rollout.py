"""What becomes of an experiment, one step at a time: pure functions from its state and what was found to its next state, with the reasons.

``advance`` is a tick. It may be called at any time and any number of times: what was looked at already changes nothing, so whoever calls it may be
killed between any two steps and begin again from the stored state. Three things move a rollout, the strongest first:

1. a guardrail: a tripped reading takes the challenger's traffic at once, whatever a person says in the same tick;
2. a person's command, which outweighs evidence: it may promote what is not proven yet, and stop what is;
3. evidence, when the data's time has moved on: see ``Rollout`` for the rules.

Nothing found is nothing proven: without evidence no stage is passed, and without guardrails that were judged no cap rises, no share grows, and no
ramp is safe. The cap rises after ``epochs_per_step`` epochs at whose ends every guardrail was judged, and none was beyond its limit. An epoch at
whose end one was not judged (too few requests since the share last changed) does not count, and those before it do; one at whose end one was
beyond its limit makes them begin anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, get_args

from include.lifecycle.as_of import iso, utc
from include.lifecycle.assignment import epoch_of
from include.lifecycle.experiment import ACTIONS, CHALLENGER, ENDED, Command, Entry, Experiment, Slot, Stage

if TYPE_CHECKING:
    from include.lifecycle.guardrails import Reading

POLICY = "policy"
"""Who decided, where no person did."""
NOT_DONE = "Not done"
"""How the history's line on a command begins that was refused."""
SLOTS: tuple[str, ...] = get_args(Slot)
_MAY_BE_UNKNOWN = "sample_ratio"
_SHADOWED: frozenset[Stage] = frozenset({"shadow", "proven"})


class RolloutError(ValueError):
    """An experiment is not where a step wants it to be. The message says where it is."""


@dataclass(frozen=True)
class Advance:
    """The next state with the history's new lines, for the store's ``save``. ``done``: ids of the commands that were heeded or refused. Without
    ``entries`` nothing has changed, and there is nothing to save."""

    experiment: Experiment
    entries: tuple[Entry, ...] = ()
    done: tuple[str, ...] = ()


def opening(experiment: Experiment, says: str, who: str = POLICY) -> Entry:
    """The first line of the history, for the store's ``create``."""
    return Entry(1, experiment.opened, experiment.stage, experiment.share, experiment.cap, says, who)


def advance(
    experiment: Experiment, *, as_of: str, evidence: Mapping[str, Any] | None, readings: Sequence[Reading], commands: Sequence[Command]
) -> Advance:
    """One tick, as of an instant of the data's time (ISO 8601).

    ``evidence``: of this experiment in its present stage as of then (evidence.json); None where nothing was computed: then only guardrails and
    commands are looked at, and ``as_of`` stays open to a later look. That of an earlier instant, or of another stage, is passed over.
    ``readings``: of the guardrails, for the experiment's present step. RolloutError for evidence of another experiment.
    """
    if evidence is not None and evidence.get("experiment", experiment.id) != experiment.id:
        raise RolloutError(f"evidence of the experiment {evidence['experiment']} says nothing about {experiment.id}")
    tick = _Tick(experiment, _now(experiment, as_of), evidence, readings)
    tick.guard()
    given: dict[str, Command] = {}
    for command in commands:
        if given.setdefault(command.id, command) is command:
            tick.heed(command)
    tick.look()
    return Advance(tick.state, tuple(tick.entries), tuple(given))


def begin_ramp(experiment: Experiment, as_of: str, endpoint_config: str, who: str = POLICY) -> Advance:
    """proven → ramp, once the endpoint has both production variants, by the configuration ``endpoint_config``. Again, it changes nothing.
    RolloutError from any other stage."""
    if experiment.stage == "ramp" and experiment.endpoint_config == endpoint_config:
        return Advance(experiment)
    if experiment.stage != "proven":
        raise RolloutError(f"{experiment.id}: a ramp begins when a challenger is proven, and this one is in the stage {experiment.stage}")
    tick = _Tick(experiment, _now(experiment, as_of))
    policy, now = experiment.policy, iso(tick.as_of)
    cap = policy.caps[0]
    share = min(policy.minimum_share, cap)
    says = f"The ramp begins: the challenger decides for {share:.1%} of the entities, at most {cap:.1%} for now."
    tick.change(says, who, stage="ramp", share=share, cap=cap, cap_since=now, as_of=now, endpoint_config=endpoint_config)
    return Advance(tick.state, tuple(tick.entries))


def take_all(experiment: Experiment, who: str = POLICY) -> Advance:
    """The challenger decides for all, before the endpoint loses the champion's variant: so nobody meets half a change. From "safe"; again, or once
    promoted, it changes nothing. RolloutError from any other stage."""
    if experiment.stage not in {"safe", "promoted"}:
        raise RolloutError(f"{experiment.id}: only what is safe takes all traffic, and this is in the stage {experiment.stage}")
    if experiment.share == 1:
        return Advance(experiment)
    tick = _Tick(experiment, _now(experiment))
    tick.change("The challenger decides for all entities.", who, share=1.0, cap=1.0)
    return Advance(tick.state, tuple(tick.entries))


def finish(experiment: Experiment, stage: Stage, as_of: str, why: str, who: str = POLICY) -> Advance:
    """Ends the experiment: "promoted" (from "safe" only; the challenger decides for all), or any other end (for none). Ended like that already,
    it changes nothing; RolloutError where it has ended otherwise, or is not safe, or ``stage`` is no end."""
    if stage not in ENDED:
        raise RolloutError(f"{stage} is no end of an experiment: {', '.join(sorted(ENDED))}")
    if experiment.stage == stage:
        return Advance(experiment)
    if experiment.ended:
        raise RolloutError(f"{experiment.id} has ended as {experiment.stage}, which is final: it cannot be {stage} any more")
    if stage == "promoted" and experiment.stage != "safe":
        raise RolloutError(f"{experiment.id}: only what is safe is promoted, and this is in the stage {experiment.stage}")
    tick = _Tick(experiment, _now(experiment, as_of))
    tick.end(stage, why, who)
    return Advance(tick.state, tuple(tick.entries))


def refusal(experiment: Experiment, command: Command) -> str:
    """Why the command cannot be done as things stand, in words; empty if it can."""
    if command.action not in ACTIONS:
        return f"there is no such action, but {', '.join(ACTIONS)}"
    if experiment.ended:
        return f"the experiment has ended as {experiment.stage}"
    if command.action == "promote" and experiment.stage == "safe":
        return "it is safe already, and waits for its approval and for the endpoint"
    if command.action == "set_share":
        if experiment.stage != "ramp":
            return f"a share can be set in the ramp only, and the stage is {experiment.stage}"
        if command.share is None or not 0 < command.share < 1:
            return f"a share lies between 0 and 1, not at {command.share}: for the ends there are roll_back and promote"
    return ""


@dataclass
class _Tick:
    """One look at an experiment: ``state`` is what has become of ``before`` so far."""

    before: Experiment
    as_of: datetime
    evidence: Mapping[str, Any] | None = None
    readings: Sequence[Reading] = ()
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = self.before

    # ------------------------------------------------------------------------------------------------------------ what changes

    def change(self, says: str, who: str = POLICY, command: str | None = None, **changes: Any) -> None:
        """The state with these fields changed, and a line of history that says why. ``command``: see ``Entry``."""
        changed = self.state.but(**changes)
        if changed.stage != self.state.stage:
            changed = changed.but(stage_since=iso(self.as_of), why=says)
        if (changed.stage, changed.share) != (self.state.stage, self.state.share):
            changed = changed.but(step=self.state.step + 1)
        self.state = changed
        found = _found(self.evidence, self.readings)
        version = self.before.version + 1
        self.entries.append(Entry(version, iso(self.as_of), changed.stage, changed.share, changed.cap, says, who, found, command))

    def end(self, stage: Stage, says: str, who: str = POLICY, **changes: Any) -> None:
        share = 1.0 if stage == "promoted" else 0.0
        self.change(says, who, stage=stage, share=share, cap=share, **changes)

    # -------------------------------------------------------------------------------------------------------------- guardrails

    def guard(self) -> None:
        tripped = [reading.says for reading in self.readings if reading.tripped]
        if tripped and self.state.share > 0 and not self.state.ended:
            self.end("rolled_back", f"A guardrail tripped, and the champion has all traffic again: {' '.join(tripped)}")

    @property
    def judged(self) -> bool:
        """Whether every guardrail had something to judge, and found it within its limit: what may be beyond it by chance has not tripped, but gets
        no more traffic either. A split that is too young to test is no reason to wait."""
        known = [reading for reading in self.readings if reading.name != _MAY_BE_UNKNOWN]
        return bool(known) and all(reading.value is not None and math.isfinite(reading.value) and not reading.beyond for reading in known)

    # ---------------------------------------------------------------------------------------------------------------- commands

    def heed(self, command: Command) -> None:
        state, reason = self.state, f"{command.who}: {command.why}"
        if refused := refusal(state, command):
            self.change(f"{NOT_DONE} ({command.action}), {refused}. Asked for by {reason}", command.who, command.id)
        elif command.action == "stop":
            self.end("stopped", f"Stopped by {reason}", command.who, command=command.id)
        elif command.action == "roll_back":
            self.end("rolled_back", f"Rolled back by {reason}", command.who, command=command.id)
        elif command.action == "promote":
            lacking = {"shadow": "before it was proven", "proven": "without a ramp"}.get(state.stage, "before its ramp was found safe")
            self.change(f"To be promoted {lacking}, by the word of {reason}", command.who, command.id, stage="safe")
        else:
            says = f"The challenger's share is {command.share:.1%}, and the cap too, from where it goes on, by {reason}"
            self.change(says, command.who, command.id, share=command.share, cap=command.share, cap_since=iso(self.as_of))

    # ---------------------------------------------------------------------------------------------------------------- evidence

    def look(self) -> None:
        """What follows from evidence that was not looked at yet."""
        state, evidence = self.state, self.evidence
        if evidence is None or state.ended or (state.as_of and self.as_of <= utc(state.as_of)):
            return
        if (evidence.get("stage", self.before.stage) in _SHADOWED) != (self.before.stage in _SHADOWED):
            return
        if state.stage != self.before.stage:  # a person was faster
            self.state = state.but(as_of=iso(self.as_of))
            return
        looked: dict[str, Any] = {"as_of": iso(self.as_of)}
        if state.stage in _SHADOWED and evidence.get("shadow_scores"):
            looked["shadow_scores"] = tuple(evidence["shadow_scores"])
        if evidence.get("worse"):
            self.end("rolled_back", f"The challenger costs more: {_difference(evidence)}.", **looked)
        elif state.stage == "shadow":
            self._shadow(evidence, looked)
        elif state.stage == "ramp":
            self._ramp(evidence, looked)
        else:
            self.change(f"Still {state.stage}: {_difference(evidence)}.", **looked)

    def _shadow(self, evidence: Mapping[str, Any], looked: dict[str, Any]) -> None:
        policy, found = self.state.policy, _difference(evidence)
        matured = _matured(evidence, utc(self.state.opened))
        silent = evidence.get("unmatured") == 0 and self.as_of - utc(self.state.opened) >= policy.shadow_at_most
        unanswered = evidence.get("unpaired", 0) / max(1, evidence.get("unpaired", 0) + evidence.get("events", 0))
        tells = unanswered <= policy.guardrails.maximum_error_share
        if not tells:
            found += f"; {unanswered:.1%} of the matured events lack a model's answer, and the others prove nothing"
        if evidence.get("better") and tells and matured >= policy.shadow_at_least:
            self.change(f"Proven in shadow: {found}.", stage="proven", **looked)
        elif matured >= policy.shadow_at_most or silent:
            why = f"no more than {_days(policy.shadow_at_most)} of matured events are waited for"
            if matured < policy.shadow_at_most:
                why = f"after {_days(policy.shadow_at_most)} there are no events any more that could still mature"
            self.end("undecided", f"Neither better nor worse in shadow, and {why}: {found}.", **looked)
        else:
            early = f" (at least {_days(policy.shadow_at_least)} are waited for)" if matured < policy.shadow_at_least else ""
            self.change(f"In shadow, {_days(matured)} of matured events{early}: {found}.", **looked)

    def _ramp(self, evidence: Mapping[str, Any], looked: dict[str, Any]) -> None:
        state, policy, found = self.state, self.state.policy, _difference(evidence)
        since = utc(state.stage_since)
        passed = _whole_epochs(utc(state.cap_since), self.as_of, policy.epoch) >= policy.epochs_per_step and self.judged
        last = state.cap >= policy.caps[-1]
        if passed and last and evidence.get("not_worse") and _matured(evidence, since) >= policy.ramp_at_least * policy.epoch:
            self.change(f"Safe: at the last cap, and not worse by more than the margin: {found}.", stage="safe", **looked)
        elif self.as_of - since >= policy.ramp_at_most:
            self.end("undecided", f"Not found safe within {_days(policy.ramp_at_most)}: {found}.", **looked)
        elif state != self.before or self._ended_epochs() < 1:  # a person's share holds until the next epoch
            self.change(f"In the ramp: {found}.", **looked)
        else:
            self._next_epoch(evidence, looked, passed and not last)

    def _ended_epochs(self) -> int:
        """How many epochs have ended since evidence was last looked at."""
        epoch = self.state.policy.epoch
        return epoch_of(self.as_of, epoch) - epoch_of(utc(self.before.as_of or self.before.stage_since), epoch)

    def _next_epoch(self, evidence: Mapping[str, Any], looked: dict[str, Any], rises: bool) -> None:
        """The cap's next step, if it has one coming, and the bandit's share below it."""
        state, policy = self.state, self.state.policy
        says, cap = "", state.cap
        if rises:
            cap = next(step for step in policy.caps if step > state.cap)
            looked |= {"cap_since": iso(self.as_of)}
            says = f" The cap rises to {cap:.1%}."
        elif not self.judged:
            looked |= {"cap_since": self._without_this_epoch()}
        share = self._wanted(evidence, cap)
        if share > state.share and not self.judged:
            share = state.share
            open_ = [each.name for each in self.readings if each.beyond or (each.value is None and each.name != _MAY_BE_UNKNOWN)]
            says = f" Nothing grows before every guardrail has been judged and is within its limit ({', '.join(open_) or 'there is none'})."
        self.change(f"A new epoch, the challenger's share {share:.1%}: {_difference(evidence)}.{says}", share=share, cap=cap, **looked)

    def _without_this_epoch(self) -> str:
        """From when on the epochs of the present cap count, if those that have just ended do not."""
        if any(reading.beyond for reading in self.readings):
            return iso(self.as_of)
        since, epoch = utc(self.state.cap_since), self.state.policy.epoch
        return iso(since + epoch * max(0, min(self._ended_epochs(), _whole_epochs(since, self.as_of, epoch))))

    def _wanted(self, evidence: Mapping[str, Any], cap: float) -> float:
        """The challenger's share as the bandit has it, between the policy's floor and ``cap``. Rewards are money (``ramp_evidence``)."""
        from include.lifecycle.bandits import DayReward, challenger_share, propensities  # numpy: who only names this module loads none

        policy, found = self.state.policy, evidence.get("arms") or {}
        arms = {slot: [DayReward(**day | {"day": date.fromisoformat(day["day"])}) for day in found.get(slot, ())] for slot in SLOTS}
        newest = date.fromisoformat(evidence["last_day"]) if evidence.get("last_day") else None
        chances = propensities(policy.bandit, arms, newest, policy.discount_per_day, rewards="real")  # money saved, see rollout_evidence
        return challenger_share(chances[CHALLENGER], policy.minimum_share, cap)


def _now(experiment: Experiment, asked: str = "") -> datetime:
    """The data's time, which does not go back."""
    return max(utc(known) for known in (experiment.opened, experiment.stage_since, experiment.as_of, asked) if known)


def _whole_epochs(since: datetime, until: datetime, epoch: timedelta) -> int:
    """How many epochs both began and ended between the two."""
    return epoch_of(until, epoch) - epoch_of(since - timedelta.resolution, epoch) - 1


def _matured(evidence: Mapping[str, Any], begun: datetime) -> timedelta:
    """From the first matured event day, or ``begun`` if that is later, to the end of the last."""
    if not evidence.get("first_day") or not evidence.get("last_day"):
        return timedelta(0)
    return max(utc(evidence["last_day"]) + timedelta(days=1) - max(utc(evidence["first_day"]), begun), timedelta(0))


def _days(length: timedelta) -> str:
    days = length / timedelta(days=1)
    return f"{days:.4g} day{'' if days == 1 else 's'}"


def _difference(evidence: Mapping[str, Any]) -> str:
    difference, counted = (
        evidence.get("difference") or {},
        f"{evidence.get('events', 0):,} matured events, {evidence.get('frauds', 0):,} frauds",
    )
    if any(difference.get(name) is None for name in ("value", "low", "high")):
        return f"nothing to compare yet ({counted})"
    currency = (evidence.get("cost") or {}).get("currency", "")
    bounds = f"{difference['low']:+.4g} to {difference['high']:+.4g}"
    return f"challenger minus champion {difference['value']:+.4g} {currency} an event ({bounds}; {counted})".replace("  ", " ")


_KEPT = frozenset(
    {"first_day", "last_day", "events", "frauds", "units", "unmatured", "unlabelled", "unpaired", "cost", "difference", "margin"}
    | {"better", "worse", "not_worse", "extra_cost", "sample_ratio"}
)


def _found(evidence: Mapping[str, Any] | None, readings: Sequence[Reading]) -> dict[str, Any]:
    """What was looked at, small enough for a line of history: of the arms the totals, and no day by day."""
    kept: dict[str, Any] = {name: value for name, value in (evidence or {}).items() if name in _KEPT}
    if evidence and evidence.get("arms"):
        kept["arms"] = {
            slot: {what: sum(day[what] for day in days) for what in ("events", "reward")} for slot, days in evidence["arms"].items()
        }
    if readings:
        kept["readings"] = [vars(reading) for reading in readings]
    finite: dict[str, Any] = _finite(kept)
    return finite


def _finite(content: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
