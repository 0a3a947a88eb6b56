"""The world of ``bench.rollout``: two models on one stream of events, of which 3 % are fraud, with amounts of a lognormal distribution.

An event's true risk is logistic in what its entity is like, for good, and in what the event itself is like. Each model sees that with an error of
its own, part of which is the entity's, for good too: a model that misjudges a customer misjudges all that the customer does. Scores are
calibrated; a review is asked for when p·A - C is above the model's threshold. ``World`` draws two million events once, and keeps those in which
the models differ; an experiment draws its entities' events from them (of the others only the number matters), and their truth anew.

Entities come in kinds, each kind as often as any other, and each with the same traffic: so the mean difference between the models, over the very
entities of an experiment, is the world's, and where that is 0, it is 0 in every experiment. Within a kind, entities differ in traffic by a factor
of ten.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import expit, logit

from include.lifecycle.confidence_sequence import Sums
from include.lifecycle.domain import Costs, Rollout
from include.lifecycle.rollout_evidence import Decided, Units, day_sums, differences, label_chance

Array = npt.NDArray[np.float64]

COSTS = Costs(currency="EUR", review=5.0)
MEAN_AMOUNT, SIGMA = 100.0, 1.2
HEAVY_SIGMA = float(np.sqrt(SIGMA**2 + np.log(10)))
"""Of amounts whose mean square is ten times as large, at the same mean."""
KINDS, EVENTS_OF_A_KIND = 50, 40_000
BASE, SPREAD, KIND_SPREAD, KIND_ERROR = -6.66, 3.0, 0.7, 0.3  # logits; the first makes for 3 % fraud
ERROR, COMMON = 1.5, 0.5  # of the models, logits; and how much of its variance both share
FIRST_DAY = np.datetime64("2026-01-05", "D")


@dataclass(frozen=True)
class Setting:
    """``cost``: the challenger's, over the champion's. ``champion_threshold``, ``challenger_threshold``: money that a review has to be worth.
    ``even``: the world is bent until both cost the same, by making fraud rarer on one side of the difference; ``mirrored``: each entity has a
    twin for which the models' roles are exchanged, so that both cost the same."""

    cost: float = 1.0
    sigma: float = SIGMA
    champion_threshold: float = 0.0
    challenger_threshold: float = 0.0
    even: bool = False
    mirrored: bool = False
    seed: int = 201


@dataclass(frozen=True)
class World:
    """The events in which the models differ, by kind: ``added`` (+1 where the challenger reviews, -1 where the champion does), ``amounts``,
    ``risks``; ``starts``: where each kind's begin. Of all events, by model: ``costs``, the mean of an event; ``missed``, amounts of fraud that was
    not reviewed, and ``missed_share``, how often that is; ``review_share``."""

    setting: Setting
    added: Array
    amounts: Array
    risks: Array
    starts: npt.NDArray[np.int64]
    costs: tuple[float, float]
    fraud_share: float
    missed: tuple[Array, Array]
    missed_share: tuple[float, float]
    review_share: tuple[float, float]

    @property
    def difference(self) -> float:
        """Challenger's cost less champion's, an event, for the entities of every experiment."""
        if self.setting.mirrored:
            return 0.0
        return float((self.added * (COSTS.review - self.risks * self.amounts)).sum()) / (KINDS * EVENTS_OF_A_KIND)

    @property
    def differing_share(self) -> Array:
        """Of each kind's events."""
        return np.diff(self.starts) / EVENTS_OF_A_KIND


@cache
def world(setting: Setting) -> World:
    draws = _Draws(setting)
    error = ERROR
    if setting.cost != 1.0:
        champion = draws.cost(0, ERROR)
        error = float(brentq(lambda tried: draws.cost(1, tried) / champion - setting.cost, 0.2, 3.0, xtol=1e-3))
    wants = draws.wants(0, ERROR), draws.wants(1, error)
    differ = wants[0] != wants[1]
    rng = np.random.default_rng([setting.seed, 1])
    fraud = rng.random(differ.shape) < draws.risks
    missed = tuple(draws.amounts[fraud & ~each] for each in wants)
    found = World(
        setting=setting,
        added=np.where(wants[1], 1.0, -1.0)[differ],
        amounts=draws.amounts[differ],
        risks=draws.risks[differ],
        starts=np.concatenate([[0], np.cumsum(differ.sum(axis=1))]),
        costs=(draws.cost_of(wants[0]), draws.cost_of(wants[1])),
        fraud_share=float(draws.risks.mean()),
        missed=(missed[0], missed[1]),
        missed_share=(missed[0].size / differ.size, missed[1].size / differ.size),
        review_share=(float(wants[0].mean()), float(wants[1].mean())),
    )
    return _evened(found) if setting.even else found


class _Draws:
    """All events of a world, (kinds, events), with what is common to any error of the challenger's."""

    def __init__(self, setting: Setting) -> None:
        rng = np.random.default_rng(setting.seed)
        shape = (KINDS, EVENTS_OF_A_KIND)
        self.setting = setting
        self.truth = BASE + rng.normal(0, KIND_SPREAD, KINDS)[:, None] + SPREAD * rng.normal(size=shape)
        self.risks = np.asarray(expit(self.truth), np.float64)
        self.amounts = MEAN_AMOUNT * np.exp(setting.sigma * rng.normal(size=shape) - setting.sigma**2 / 2)
        self.of_kind = rng.normal(0, KIND_ERROR, (2, KINDS))[:, :, None]
        common = rng.normal(size=shape)
        self.error = [np.sqrt(COMMON) * common + np.sqrt(1 - COMMON) * rng.normal(size=shape) for _ in range(2)]

    def wants(self, model: int, error: float) -> npt.NDArray[np.bool_]:
        seen = self.truth + self.of_kind[model] + error * self.error[model]
        threshold = (self.setting.champion_threshold, self.setting.challenger_threshold)[model]
        return np.asarray(_calibrated(seen, self.risks) * self.amounts - COSTS.review > threshold)

    def cost(self, model: int, error: float) -> float:
        return self.cost_of(self.wants(model, error))

    def cost_of(self, wants: npt.NDArray[np.bool_]) -> float:
        return float(np.where(wants, COSTS.review, self.risks * self.amounts).mean())


def _calibrated(seen: Array, risks: Array) -> Array:
    """Logistic regression of the risk on what is seen (Newton's method, on every seventh event)."""
    x, risk = np.stack([np.ones(seen.size), seen.ravel()])[:, ::7], risks.ravel()[::7]
    truth = logit(risk)
    slope = truth.var() / x[1].var()
    weights = np.array([truth.mean() - slope * x[1].mean(), slope])
    for _ in range(8):
        p = expit(weights @ x)
        weights += np.linalg.solve((x * p * (1 - p)) @ x.T, x @ (risk - p))
    return np.asarray(expit(weights[0] + weights[1] * seen), np.float64)


def _evened(found: World) -> World:
    """With the risks on one side scaled down so that both models cost the same."""
    challenger = found.added > 0
    stake = found.risks * found.amounts
    reviews, gains, losses = COSTS.review * found.added.sum(), stake[challenger].sum(), stake[~challenger].sum()
    scale = (gains - reviews) / losses
    bent = np.where(challenger, found.risks, scale * found.risks)
    if scale > 1:
        bent = np.where(challenger, (reviews + losses) / gains * found.risks, found.risks)
    return replace(found, risks=bent)


@dataclass(frozen=True)
class Traffic:
    """``runs``: an event in which the models differ is repeated by its entity, on as many days in a row, geometric with that mean (the
    number of events stays the same); ``waves``: each day's risk is by that share higher or lower, by lot, on each side of the difference;
    ``selective``: only reviewed events get a label, those that the champion asks for and those that the lots of this policy draw; None: all do."""

    entities: int = 5_000
    per_day: int = 5_000
    days: int = 60
    runs: float = 1.0
    waves: float = 0.0
    selective: Rollout | None = None


def events(world: World, traffic: Traffic, seed: list[int], first: int = 0) -> Decided:
    """The events of one experiment in which the models differ, matured, from day ``first`` on."""
    entities = np.random.default_rng([*seed, 0])
    rng = np.random.default_rng([*seed, 1, first])
    kind, activity, sign = _entities(world.setting, traffic.entities, entities)
    rate = traffic.per_day * activity * world.differing_share[kind] / traffic.runs
    count = rng.poisson(rate.sum() * traffic.days)
    entity = np.minimum(np.searchsorted(np.cumsum(rate) / rate.sum(), rng.random(count)), kind.size - 1)
    day = rng.integers(0, traffic.days, count)
    start = world.starts[kind[entity]]
    place = start + (rng.random(count) * (world.starts[kind[entity] + 1] - start)).astype(np.int64)
    added, risk = world.added[place] * sign[entity], world.risks[place]
    if traffic.waves:
        factor = 1 + traffic.waves * rng.choice([-1.0, 1.0], (2, traffic.days))
        risk = risk * factor[(added > 0).astype(int), day]
    label = (rng.random(count) < risk).astype(float)
    if traffic.runs > 1:
        length = rng.geometric(1 / traffic.runs, count)
        source = np.repeat(np.arange(count), length)
        later = day[source] + np.arange(source.size) - np.repeat(np.cumsum(length) - length, length)
        inside = later < traffic.days
        entity, place, added, label, day = (values[source][inside] for values in (entity, place, added, label, day))
        day = later[inside]
    observed = np.ones(label.size)
    if traffic.selective is not None:
        observed = label_chance(traffic.selective, added < 0, added != 0)
        label = np.where(rng.random(label.size) < observed, label, np.nan)
    dates = FIRST_DAY + first + day
    names = np.array([f"{number:06d}" for number in range(kind.size)])
    return Decided(dates, names[entity], dates.astype(np.int64), label, world.amounts[place], observed, added < 0, added > 0)


def _entities(setting: Setting, count: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.int64], Array, Array]:
    """Of each entity its kind, its share of the traffic, and 1, or -1 where the models' roles are exchanged."""
    half = count // 2 if setting.mirrored else count
    kind = np.arange(half) % KINDS
    activity = 10 ** rng.random(half)
    activity /= np.bincount(kind, activity)[kind]  # each kind has the same traffic
    sign = np.ones(half)
    if setting.mirrored:
        kind, activity, sign = np.tile(kind, 2), np.tile(activity, 2), np.repeat([1.0, -1.0], half)
    return kind, activity / activity.sum(), sign


def sums(decided: Decided, policy: Rollout, traffic: Traffic, first: int = 0) -> Sums:
    """By the end of each day, those without an event too; through the code that rollouts use. All events count, not only those drawn."""
    found = differences(decided, COSTS)
    days, known = day_sums(decided, found, Units.of(decided))
    grid = FIRST_DAY + first + np.arange(traffic.days)
    place = np.searchsorted(days, grid, side="right") - 1
    filled = {item.name: np.where(place >= 0, getattr(known, item.name)[place], 0.0) for item in fields(Sums)}
    passed = np.arange(1.0, traffic.days + 1)
    return Sums(**filled | {"events": traffic.per_day * passed, "days": passed})


def together(rows: list[Sums]) -> Sums:
    """(experiments, days)"""
    return Sums(**{item.name: np.stack([getattr(row, item.name) for row in rows]) for item in fields(Sums)})


def experiments(setting: Setting, traffic: Traffic, policy: Rollout, count: int, seed: int) -> Sums:
    drawn = world(setting)
    return together([sums(events(drawn, traffic, [seed, number]), policy, traffic) for number in range(count)])
