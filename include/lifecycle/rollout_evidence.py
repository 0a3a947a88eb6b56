"""Whether the challenger costs less than the champion, from the events that both were asked about: what a rollout decides on.

**What is compared.** The cost of an event under a model's own decision (``include.lifecycle.costs``): c·C + (1 - c)·y·m·A. Both models are scored on
every event, so both costs are known of every event whose truth is, whoever decided it: the difference, challenger's less champion's, is paired,
and 0 wherever the models agree.

**Unit.** Events of one entity are alike, and an entity stays with its variant for an epoch: differences are summed within entity × epoch, and it
is these sums that vary (``include.lifecycle.confidence_sequence``).

**Selective labels.** Where only reviewed events get a label, an event's truth is known with the chance ``observed``: y·m·A is weighed by the inverse
of it where it is known, by 0 where it is not (Horvitz & Thompson 1952, JASA 47, §3): what nobody looked at is made up for by its like that a
review by lot hit. The cost of reviews, c·C, is known of all. An event without a label whose truth was certain to be found out is left out, and
counted: it is a sign of nothing.

Two lots draw reviews (``label_chance``): one from all events, and a larger one from those of which a model wants a review and none was asked for:
the models disagree there, or what was decided live is not what the model wanted. The difference is 0 where the models agree, so there a review
says nothing about it: sample where the variance is (Neyman 1934, JRSS 97). A review that was drawn and not made looks like a genuine event. So it
has to be made within the label's maturity; and while more than ``MISSING_REVIEWS`` of those that were due have no label, there is no verdict.

**Ramp.** Now the challenger decides for the units that a lot of known chance p (``share``) gave it, A = 1; and what came of that may not be what its
scores imply: a request failed and the champion answered, or a threshold was not what it should be. The augmented inverse-propensity estimator
(Robins, Rotnitzky & Zhao 1994, JASA 89, §4; as p is known it is unbiased whatever μ is) has both in it:

    ψ = (μ₁ - μ₀) + A/p (Y - μ₁) - (1 - A)/(1 - p) (Y - μ₀)

μ₁ and μ₀ are the costs that the models' own decisions imply, Y the cost of the decision that was made. Where that is what the models imply, ψ is the
paired difference with all its power; where it is not, it shows, weighed by the inverse of its chance. A random review is no model's decision
and hits both variants alike: in Y it counts as not made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.lifecycle.confidence_sequence import FloatArray, Sums, confidence_sequence
from include.lifecycle.domain import Costs, Rollout
from include.lifecycle.experiment import CHALLENGER, CHAMPION

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

MISSING_REVIEWS = 0.1
"""Share of the drawn reviews that may lack a label, without which nothing is found better, worse or not worse."""


def _none() -> Any:
    return np.empty(0)


@dataclass(frozen=True)
class Decided:
    """Matured events that both models were asked about: one place each in every array, in any order.

    ``days``: datetime64[D] of the event; ``entities``: text; ``epochs``: numbers. ``labels``: 1 fraud, 0 genuine, NaN not known. ``amounts``: money.
    ``observed``: the chance, above 0, with which the label was to become known, given what was decided live (what the models would have decided
    says nothing about it, where a live decision went wrong); 1 where the truth of every event is found out. ``champion_wants``,
    ``challenger_wants``: whether the model's score asks for a review.

    Of the ramp alone, empty in shadow: ``assigned_challenger``: whom the lot gave the event to; ``share``: with which chance to the challenger, more
    than 0 and less than 1; ``live_reviewed``: whether the model that answered, a fallback to the champion included, asked for a review. A
    review by lot is none of these.

    Where only reviewed events get a label, else empty: ``due``: whether a model wants a review, none was asked for, and a lot drew one.
    """

    days: NDArray[np.datetime64]
    entities: NDArray[Any]
    epochs: IntArray
    labels: FloatArray
    amounts: FloatArray
    observed: FloatArray
    champion_wants: BoolArray
    challenger_wants: BoolArray
    live_reviewed: BoolArray = field(default_factory=_none)
    assigned_challenger: BoolArray = field(default_factory=_none)
    share: FloatArray = field(default_factory=_none)
    due: BoolArray = field(default_factory=_none)

    def where(self, chosen: BoolArray) -> Decided:
        return Decided(**{name: values[chosen] if values.size else values for name, values in vars(self).items()})


@dataclass(frozen=True)
class Differences:
    """Of every event, in money. ``champion``: its cost under the champion's own decision; ``difference``: ψ; ``if_genuine``, ``if_fraud``: what ψ
    would be if the event were known to be the one or the other; ``extra``: what the live decision cost above ``champion`` (ramp; else 0)."""

    champion: FloatArray
    difference: FloatArray
    if_genuine: FloatArray
    if_fraud: FloatArray
    extra: FloatArray

    @property
    def differs(self) -> BoolArray:
        """Where the difference is not bound to be 0."""
        return np.asarray((self.if_genuine != 0) | (self.if_fraud != 0))


@dataclass(frozen=True)
class Units:
    """Entity × epoch. ``of_event``: the unit of every event, as a number; ``entities``, ``days``: of every unit the number of its entity and the
    day of its last event."""

    of_event: IntArray
    entities: IntArray
    days: NDArray[np.datetime64]

    @classmethod
    def of(cls, events: Decided) -> Units:
        encoded = pa.array(events.entities, pa.string()).dictionary_encode()
        many = max(1, len(encoded.dictionary))
        codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        found, unit = np.unique(events.epochs.astype(np.int64) * many + codes, return_inverse=True)
        days = np.full(found.size, np.datetime64("0001-01-01", "D"))
        np.maximum.at(days, unit, events.days.astype("datetime64[D]"))
        return cls(unit, found % many, days)

    def sums(self, values: FloatArray | BoolArray | None = None) -> FloatArray:
        """Of the events' values by unit; without values, their number."""
        return np.asarray(np.bincount(self.of_event, values, self.days.size), np.float64)


def shadow_evidence(decided: Decided, policy: Rollout, costs: Costs) -> dict[str, Any]:
    """What of evidence.json is measured on events, in shadow: "events", "differing" (units in which the models differ), "frauds", "units",
    "unlabelled" and "unpriced" (left out: no label where every event gets one, no finite amount), "reviews_drawn" (``Decided.due``) and
    "reviews_missing" (those without a label), "first_day", "last_day", "cost", "difference", "margin", "better", "worse", "not_worse",
    "over_time", and "arms" and "extra_cost", which shadow has none of.

    An end of "difference" is None as long as there is too little to tell (``confidence_sequence``); all of it without events. "margin" is
    measured on the same events, and its own error is not in the interval that it is compared with. "over_time": by the day that units ended on.
    """
    usable = _usable(decided)
    return _evidence(decided, usable, differences(usable, costs), policy, costs) | {"arms": {}, "extra_cost": None}


def ramp_evidence(decided: Decided, policy: Rollout, costs: Costs) -> dict[str, Any]:
    """The same in the ramp, and of the live decisions:

    "arms": by slot and day of the event, "events", "reward": money saved against what the champion's own decisions would have cost on the same
    events, and "reward_squared": squares of it, summed by unit, so that reward_squared / events² is the variance of the mean reward among
    alike events of one entity too. "extra_cost": what the challenger's live decisions cost above the champion's, so far.
    """
    usable = _usable(decided)
    found = differences(usable, costs)
    live = {"arms": _arms(usable, found.extra), "extra_cost": float(found.extra[usable.assigned_challenger.astype(bool)].sum())}
    return _evidence(decided, usable, found, policy, costs) | live


def label_chance(policy: Rollout, reviewed: BoolArray, wanted: BoolArray) -> FloatArray:
    """Where only reviewed events get a label, the chance that an event gets one, once it is decided about: 1 where a review was asked for, else
    that one of the lots draws it, the second of which is for events of which one of the models wants a review."""
    first, second = policy.random_review_share, policy.disagreement_review_share
    return np.where(reviewed, 1.0, first + (1 - first) * second * wanted)


def differences(events: Decided, costs: Costs) -> Differences:
    """See the head of this file. Events are labelled, or their ``observed`` is below 1. ValueError for a chance that is none."""
    if np.any(events.observed <= 0) or np.any(events.observed > 1):
        raise ValueError(
            "every event wants a chance above 0, and of 1 at most, that its label became known: without random reviews, none is"
        )
    stake, fraud = costs.missed_share * events.amounts, np.nan_to_num(events.labels)
    champion, challenger = events.champion_wants.astype(float), events.challenger_wants.astype(float)
    added, known = challenger - champion, 1 / events.observed
    surprise, extra = _live(events, champion, challenger) if events.share.size else (0.0, np.zeros(stake.size))

    def psi(truth: FloatArray | float) -> FloatArray:
        return np.asarray((added + surprise) * (costs.review - truth * stake * known))

    return Differences(
        champion=champion * costs.review + (1 - champion) * fraud * stake * known,
        difference=psi(fraud),
        if_genuine=psi(0.0),
        if_fraud=psi(1.0),
        extra=extra * (costs.review - fraud * stake * known),
    )


def _live(events: Decided, champion: FloatArray, challenger: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Of the decisions that were made: reviews that the answering variant's own model does not imply, weighed by the inverse of the chance of its
    assignment; and reviews that the champion does not imply."""
    assigned, live = events.assigned_challenger.astype(bool), events.live_reviewed.astype(float)
    chance = np.where(assigned, events.share, 1 - events.share)
    if np.any(chance <= 0):
        raise ValueError("an event was assigned to a variant that had no chance to get it: its share is wrong")
    return np.where(assigned, live - challenger, champion - live) / chance, live - champion


def day_sums(events: Decided, found: Differences, units: Units) -> tuple[NDArray[np.datetime64], Sums]:
    """The days that units ended on, and what is known by the end of each."""
    days, look = np.unique(units.days, return_inverse=True)
    differs, total = found.differs, units.sums(found.difference)
    loss = np.maximum(0.0, np.maximum(found.if_genuine, found.if_fraud))
    gain = np.maximum(0.0, -np.minimum(found.if_genuine, found.if_fraud))

    def by_look(values: FloatArray) -> FloatArray:
        return np.asarray(np.cumsum(np.bincount(look, values, days.size)), np.float64)

    return days, Sums(
        events=by_look(units.sums()),
        days=np.arange(1.0, days.size + 1),
        differing=by_look(np.minimum(units.sums(differs), 1)),
        frauds=by_look(units.sums(differs & (events.labels == 1))),
        total=by_look(total),
        event_squares=by_look(units.sums(found.difference**2)),
        unit_squares=by_look(total**2),
        entity_squares=by_look(_growth_of_squares(total, units.entities, look)),
        day_squares=np.cumsum(np.bincount(look, total, days.size) ** 2),
        losses=by_look(units.sums(loss)),
        losses_squared=by_look(units.sums(loss**2)),
        gains=by_look(units.sums(gain)),
        gains_squared=by_look(units.sums(gain**2)),
    )


def _growth_of_squares(total: FloatArray, entities: IntArray, look: IntArray) -> FloatArray:
    """What each unit adds to the square of its entity's running total: (T + x)² - T² = x (2T + x)."""
    order = np.lexsort((look, entities))
    sorted_total, sorted_entity = total[order], entities[order]
    running = np.cumsum(sorted_total) - sorted_total
    first = np.flatnonzero(np.diff(sorted_entity, prepend=-1))
    before = running - np.repeat(running[first], np.diff(first, append=total.size))
    growth = np.empty(total.size)
    growth[order] = sorted_total * (2 * before + sorted_total)
    return growth


def _usable(decided: Decided) -> Decided:
    known = ~np.isnan(decided.labels) | (decided.observed < 1)
    return decided.where(known & np.isfinite(decided.amounts))


def _evidence(decided: Decided, events: Decided, found: Differences, policy: Rollout, costs: Costs) -> dict[str, Any]:
    units = Units.of(events)
    days, sums = day_sums(events, found, units)
    sequence = confidence_sequence(sums, policy.error_rate)
    over_time: list[dict[str, Any]] = [
        {"day": str(day), "value": float(value), "low": _finite(low), "high": _finite(high), "events": int(many)}
        for day, value, low, high, many in zip(days, sequence.value, sequence.low, sequence.high, sums.events, strict=True)
    ]
    latest: dict[str, Any] = over_time[-1] if over_time else {"value": None, "low": None, "high": None}
    low, high = latest["low"], latest["high"]
    due = decided.due.astype(bool) if decided.due.size else np.zeros(decided.labels.shape, bool)
    missing = int((due & np.isnan(decided.labels)).sum())
    telling = missing <= MISSING_REVIEWS * int(due.sum())
    cost = float(found.champion.mean()) if over_time else None
    margin = None if cost is None else policy.non_inferiority_margin * cost
    return {
        "first_day": str(events.days.min()) if over_time else None,
        "last_day": str(events.days.max()) if over_time else None,
        "events": int(events.days.size),
        "differing": int(sums.differing[-1]) if over_time else 0,
        "frauds": int((events.labels == 1).sum()),
        "units": int(units.days.size),
        "unlabelled": int((np.isnan(decided.labels) & (decided.observed >= 1)).sum()),
        "unpriced": int((~np.isfinite(decided.amounts)).sum()),
        "reviews_drawn": int(due.sum()),
        "reviews_missing": missing,
        "cost": {CHAMPION: cost, CHALLENGER: None if cost is None else cost + latest["value"], "currency": costs.currency},
        "difference": {name: latest[name] for name in ("value", "low", "high")} | {"error_rate": policy.error_rate},
        "margin": margin,
        "better": telling and high is not None and high < 0,
        "worse": telling and low is not None and low > 0,
        "not_worse": telling and high is not None and margin is not None and high < margin,
        "over_time": over_time,
    }


def _arms(events: Decided, extra: FloatArray) -> dict[str, list[dict[str, Any]]]:
    assigned = events.assigned_challenger.astype(bool)
    return {slot: _rewards(events.where(chosen), -extra[chosen]) for slot, chosen in ((CHAMPION, ~assigned), (CHALLENGER, assigned))}


def _rewards(events: Decided, saved: FloatArray) -> list[dict[str, Any]]:
    units = Units.of(events)
    days, look = np.unique(units.days, return_inverse=True)
    total = units.sums(saved)
    columns = (np.bincount(look, values, days.size) for values in (units.sums(), total, total**2))
    return [
        {"day": str(day), "events": int(many), "reward": float(reward), "reward_squared": float(squared)}
        for day, many, reward, squared in zip(days, *columns, strict=True)
    ]


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
