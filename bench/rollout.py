"""The whole rollout, simulated: is a challenger that is not better promoted, and how soon is one that is?

``python -m bench.rollout [--experiments 2000]``. The world is that of ``bench.rollout_world``: 3 % fraud, lognormal amounts, a review at 5 EUR,
labels after ``MATURITY``, sticky entities (300 or 5,000) with effects for good, 5,000 decisions a day. Each experiment is looked at daily, by the
code that rollouts use: the evidence, and ``advance`` from shadow to promotion with the default policy. In the ramp all guardrails are well, and
what the challenger does live is what its scores imply.

- ``equal``: both models cost the same over the very entities of the experiment (they have twins with exchanged roles); ``worse``: the challenger
  costs 2 % more; ``better``: 10 % less. Wrong: promoted though not better.
- ``bolder`` and ``shyer`` (stress): a challenger that reviews a third as often, or three times as often, and costs the same.
- ``heavy``: amounts whose mean square is ten times as large; ``few``: 500 decisions a day; ``runs``: a difference is repeated by its entity for 3
  days on average; ``waves``: each day's risk is half as high or one and a half times as high, by side; ``selective``: labels only of events
  that the champion has reviewed, or the default policy's lots draw; ``selective_0.5%``: without the lot among the disagreements.

"Decisions needed" are matured ones, until proven in shadow; peers: ``bench.rollout_peers``. The constants of the confidence sequence were chosen on
a prototype of this world with seeds 1, 2 and 5, and on worlds 101 and 102 with experiments of the seeds 11, 12 and 777 to 779; here
are the worlds 201 and 202, with the seeds 31 and 32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import rollout_peers
from bench.report import Figure, publish
from bench.rollout_world import COSTS, FIRST_DAY, HEAVY_SIGMA, Setting, Traffic, World, events, experiments, sums, world
from include.lifecycle.confidence_sequence import ConfidenceSequence, Sums, confidence_sequence
from include.lifecycle.domain import Rollout
from include.lifecycle.experiment import CHALLENGER, CHAMPION, Contender, Experiment
from include.lifecycle.guardrails import Reading
from include.lifecycle.rollout import advance, begin_ramp, finish
from include.lifecycle.rollout_evidence import Units, differences

POLICY = Rollout()
MATURITY = timedelta(days=7)
SEED = 31
HEALTHY = [Reading(name, 0.0, 1.0, False, "") for name in ("heartbeat", "errors", "latency", "reviews", "scores")]

EQUAL, WORSE, BETTER = Setting(mirrored=True), Setting(cost=1.02), Setting(cost=0.9)
BOLDER = Setting(champion_threshold=-2.5, challenger_threshold=8.0, even=True, seed=202)
SHYER = Setting(champion_threshold=8.0, challenger_threshold=-2.5, even=True, seed=202)


@dataclass(frozen=True)
class Outcome:
    """Of each experiment: how it ended, and on how many matured decisions it was proven in shadow (∞: never), and how many days the ramp took."""

    stages: list[str]
    needed: npt.NDArray[np.float64]
    ramp_days: npt.NDArray[np.float64]

    def share(self, *stages: str) -> float:
        return float(np.mean([stage in stages for stage in self.stages]))


def rolled_out(drawn: World, traffic: Traffic, seed: int, shadow: Sums) -> Outcome:
    """Every experiment from shadow to its end."""
    sequence = confidence_sequence(shadow, POLICY.error_rate)
    stages, needed, ramp = [], [], []
    for number in range(sequence.value.shape[0]):
        state, day = _shadow(number, sequence, shadow, drawn)
        proven = state.stage == "proven"
        needed.append(shadow.events[number, day] if proven else np.inf)
        state, days = _ramp(state, day, drawn, traffic, [seed, number]) if proven else (state, np.nan)
        stages.append(state.stage)
        ramp.append(days)
    return Outcome(stages, np.array(needed), np.array(ramp))


def _instant(day: float) -> str:
    """By when the first ``day`` days of events have matured."""
    first = datetime.combine(FIRST_DAY.astype(object), datetime.min.time(), UTC)
    return (first + timedelta(days=day) + MATURITY).isoformat()


def _shadow(number: int, sequence: ConfidenceSequence, shadow: Sums, drawn: World) -> tuple[Experiment, int]:
    opened = _instant(-MATURITY / timedelta(days=1))
    contenders = (Contender("package/1", "model/1", 0.0), Contender("package/2", "model/2", 0.0))
    state = Experiment(f"simulated-{number}", "simulated", "simulated", *contenders, opened=opened, stage_since=opened, policy=POLICY)
    day = -1
    while state.stage == "shadow":
        day += 1
        evidence = _evidence("shadow", number, day, 0, sequence, shadow, drawn)
        state = advance(state, as_of=_instant(day + 1), evidence=evidence, readings=[], commands=[]).experiment
    return state, day


def _evidence(stage: str, row: int, day: int, first: int, sequence: ConfidenceSequence, known: Sums, drawn: World) -> dict[str, Any]:
    value, low, high = (float(end[row, day]) for end in (sequence.value, sequence.low, sequence.high))
    margin = POLICY.non_inferiority_margin * drawn.costs[0]
    return {
        "stage": stage,
        "first_day": str(FIRST_DAY + first),
        "last_day": str(FIRST_DAY + first + day),
        "events": int(known.events[row, day]),
        "frauds": int(known.frauds[row, day]),
        "difference": {"value": value, "low": low, "high": high},
        "margin": margin,
        "better": high < 0,
        "worse": low > 0,
        "not_worse": high < margin,
        "arms": {CHAMPION: [], CHALLENGER: []},
    }


def _ramp(state: Experiment, proven: int, drawn: World, traffic: Traffic, seed: list[int]) -> tuple[Experiment, float]:
    """From the day on that it was proven; what happens then are new events of the same entities."""
    first = proven + 1 + MATURITY.days
    traffic = replace(traffic, days=POLICY.ramp_at_most.days)
    decided = events(drawn, traffic, seed, first)
    row = sums(decided, POLICY, traffic, first)
    known = Sums(**{name: values[None] for name, values in vars(row).items()})
    sequence = confidence_sequence(known, POLICY.error_rate)
    units = Units.of(decided)
    saved = -units.sums(differences(decided, COSTS).difference)
    day_of = (units.days - FIRST_DAY).astype(int) - first
    drawn_lots = np.random.default_rng([*seed, 3]).random(saved.size)
    state = begin_ramp(state, _instant(proven + 1), "ramp").experiment
    shares: list[float] = []
    for day in range(traffic.days + MATURITY.days):
        shares.append(state.share)
        matured = day + 1 - MATURITY.days
        if matured < 1:
            evidence = None
        else:
            evidence = _evidence("ramp", 0, min(matured, traffic.days) - 1, first, sequence, known, drawn)
            evidence["arms"] = _arms(saved, day_of, drawn_lots, shares[:matured], traffic.per_day, first)
        state = advance(state, as_of=_instant(first + matured), evidence=evidence, readings=HEALTHY, commands=[]).experiment
        if state.stage == "safe":
            state = finish(state, "promoted", _instant(first + matured), "safe").experiment
        if state.ended:
            break
    return state, day + 1.0


def _arms(
    saved: npt.NDArray[np.float64],
    day_of: npt.NDArray[np.int64],
    lots: npt.NDArray[np.float64],
    shares: list[float],
    per_day: int,
    first: int,
) -> Mapping[str, Any]:
    """Day by day what the challenger's units saved; the champion's save nothing against themselves."""
    share = np.array(shares)
    inside = day_of < share.size
    mine = inside & (lots < share[np.minimum(day_of, share.size - 1)])
    reward, squared = (np.bincount(day_of[mine], values[mine], share.size) for values in (saved, saved**2))
    days = [str(FIRST_DAY + first + day) for day in range(share.size)]
    rows = zip(days, share * per_day, reward, squared, strict=True)
    return {
        CHALLENGER: [{"day": day, "events": float(n), "reward": float(r), "reward_squared": float(q)} for day, n, r, q in rows],
        CHAMPION: [
            {"day": day, "events": float(n), "reward": 0.0, "reward_squared": 0.0}
            for day, n in zip(days, (1 - share) * per_day, strict=True)
        ],
    }


def found_better(high: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """By experiment and day; not before a rollout would believe it."""
    return np.asarray((high < 0) & (np.arange(1, high.shape[1] + 1) >= POLICY.shadow_at_least / timedelta(days=1)))


def first_found(found: npt.NDArray[np.bool_], per_day: int) -> npt.NDArray[np.float64]:
    """Decisions until then; ∞: never."""
    return np.where(found.any(axis=1), (found.argmax(axis=1) + 1.0) * per_day, np.inf)


def _median(needed: npt.NDArray[np.float64]) -> float:
    """NaN where fewer than half are ever proven."""
    middle = float(np.median(needed))
    return middle if np.isfinite(middle) else float("nan")


def main_figures(count: int) -> Iterator[tuple[str, Figure]]:
    """The whole rollout, to its end."""
    level = POLICY.error_rate
    yield "fraud_share", Figure(world(BETTER).fraud_share)
    for name, setting, many in (("equal", EQUAL, count), ("worse", WORSE, count), ("better", BETTER, max(1, count // 4))):
        drawn = world(setting)
        yield f"{name}_cost_over_champions", Figure(1 + drawn.difference / drawn.costs[0])
        for entities in (300, 5_000):
            traffic = Traffic(entities=entities)
            shadow = experiments(setting, traffic, POLICY, many, SEED)
            outcome = rolled_out(drawn, traffic, SEED, shadow)
            label = f"{name}_{entities}"
            yield f"{label}_proven", Figure(float(np.isfinite(outcome.needed).mean()), *((0.8, True) if name == "better" else (None, None)))
            yield f"{label}_promoted", Figure(outcome.share("promoted"), *((None, None) if name == "better" else (level, False)))
            if name != "worse":  # what is worse may be found so
                wrong = float((confidence_sequence(shadow, level).low > 0).any(axis=1).mean())
                yield f"{label}_wrongly_found_worse", Figure(wrong, level, False)
            else:
                yield f"{label}_rolled_back", Figure(outcome.share("rolled_back"))
            if name == "better":
                yield f"{label}_median_decisions", Figure(_median(outcome.needed))
                yield f"{label}_median_days_of_ramp", Figure(float(np.nanmedian(outcome.ramp_days)))
            if entities == 5_000:
                yield from _peers(name, drawn, traffic, shadow, many)


def _peers(name: str, drawn: World, traffic: Traffic, shadow: Sums, count: int) -> Iterator[tuple[str, Figure]]:
    """What the others find on the same: wrongly, or how soon."""
    effect = 0.1 * drawn.costs[0]
    families = {
        "paired": rollout_peers.paired(shadow, POLICY.error_rate),
        "randomised": rollout_peers.randomised(drawn, traffic, count, SEED, POLICY.error_rate, effect),
    }
    for family, rules in families.items():
        for rule, found in rules.items():
            rule = "z_test_of_aws_sample" if (family, rule) == ("randomised", "peeking") else rule
            yield f"{name}_{family}_{rule}_found", Figure(float(found.any(axis=1).mean()))
            if name == "better":
                yield f"{name}_{family}_{rule}_median_decisions", Figure(_median(first_found(found, traffic.per_day)))
    if name == "better":
        paired = float((shadow.unit_squares[:, -1] / shadow.events[:, -1]).mean())
        single = float(np.mean([_variance(drawn, model) for model in range(2)]))
        for family, variance, arms in (("paired", paired, 1), ("randomised", single, 2)):
            needed = rollout_peers.decisions_for_power(variance, drawn.difference, POLICY.error_rate, arms=arms)
            yield f"{name}_{family}_fixed_horizon_decisions_for_80%", Figure(needed)


def _variance(drawn: World, model: int) -> float:
    """Of one decision's cost."""
    reviews, missed = drawn.review_share[model], drawn.missed[model]
    mean = COSTS.review * reviews + drawn.missed_share[model] * missed.mean()
    return float(COSTS.review**2 * reviews + drawn.missed_share[model] * (missed**2).mean() - mean**2)


FEW, RUNS, WAVES = Traffic(per_day=500), Traffic(runs=3.0), Traffic(waves=0.5)
SELECTIVE, HALF_PERCENT = Traffic(selective=POLICY), Traffic(selective=replace(POLICY, disagreement_review_share=0.0))
STRESSES: tuple[tuple[str, Setting, Traffic], ...] = (
    ("bolder", BOLDER, Traffic()),
    ("bolder_300", BOLDER, Traffic(entities=300)),
    ("bolder_few", BOLDER, FEW),
    ("bolder_heavy", replace(BOLDER, sigma=HEAVY_SIGMA), Traffic()),
    ("shyer", SHYER, Traffic()),
    ("shyer_few", SHYER, FEW),
    ("shyer_heavy", replace(SHYER, sigma=HEAVY_SIGMA), Traffic()),
    ("equal_few", EQUAL, FEW),
    ("equal_heavy", replace(EQUAL, sigma=HEAVY_SIGMA), Traffic()),
    ("equal_runs", EQUAL, RUNS),
    ("bolder_runs", BOLDER, RUNS),
    ("bolder_runs_300", BOLDER, replace(RUNS, entities=300)),
    ("bolder_runs_few", BOLDER, replace(RUNS, per_day=500)),
    ("equal_waves", EQUAL, WAVES),
    ("bolder_waves", BOLDER, WAVES),
    ("equal_selective", EQUAL, SELECTIVE),
    ("bolder_selective", BOLDER, SELECTIVE),
    ("shyer_selective", SHYER, SELECTIVE),
    ("shyer_selective_few", SHYER, replace(SELECTIVE, per_day=500)),
    ("shyer_selective_0.5%", SHYER, HALF_PERCENT),
)
POWERS: tuple[tuple[str, Setting, Traffic], ...] = (
    ("better_few", BETTER, FEW),
    ("better_heavy", replace(BETTER, sigma=HEAVY_SIGMA), Traffic()),
    ("better_runs", BETTER, RUNS),
    ("better_waves", BETTER, WAVES),
    ("better_selective", BETTER, SELECTIVE),
    ("better_selective_0.5%", BETTER, HALF_PERCENT),
)


def side_figures(count: int) -> Iterator[tuple[str, Figure]]:
    """In shadow alone, which nothing is promoted without."""
    level = POLICY.error_rate
    for name, setting, traffic in STRESSES:
        known = experiments(setting, traffic, POLICY, max(1, count // 4), SEED + 1)
        sequence = confidence_sequence(known, level)
        yield f"{name}_wrongly_found_better", Figure(float(found_better(sequence.high).any(axis=1).mean()), level, False)
        yield f"{name}_wrongly_found_worse", Figure(float((sequence.low > 0).any(axis=1).mean()), level, False)
        if setting is BOLDER and traffic.runs == 1:
            z = rollout_peers.paired(known, level)["msprt"]
            yield f"{name}_paired_msprt_found", Figure(float(z.any(axis=1).mean()))
    drawn = world(BETTER)
    only_challenger = float((drawn.added > 0).mean() * drawn.differing_share.mean())
    yield "better_selective_reviews_of_disagreements_over_events", Figure(only_challenger * POLICY.disagreement_review_share)
    for name, setting, traffic in POWERS:
        sequence = confidence_sequence(experiments(setting, traffic, POLICY, max(1, count // 8), SEED + 1), level)
        found = found_better(sequence.high)
        goal = (0.8, True) if traffic is SELECTIVE else (None, None)
        yield f"{name}_proven", Figure(float(found.any(axis=1).mean()), *goal)
        yield f"{name}_median_decisions", Figure(_median(first_found(found, traffic.per_day)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--experiments", type=int, default=2_000, help="of each of the main settings; a quarter of them, or fewer, of the others"
    )
    options = parser.parse_args()
    published: dict[str, Figure] = {}
    began = time.monotonic()
    for figures in (main_figures(options.experiments), side_figures(options.experiments)):
        for name, figure in figures:
            print(f"{time.monotonic() - began:6.0f} s  {name} {figure.value:.4g}", flush=True)
            published[name] = figure
    publish("rollout", published)


if __name__ == "__main__":
    main()
