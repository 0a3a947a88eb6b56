"""What learning costs: the regret of each bandit while labels are late, and while the best arm changes.

``python -m bench.bandit [--quick] [--choose]``. 60 days of 300 decisions, three arms, rewards of 0 or 1, what a day's decisions earned known 7
days later, 200 repetitions. Regret is the sum over decisions of the best arm's rate less the chosen one's. Cases:

- ``stationary``: rates .60, .66, .55;
- ``flip``: from day 30 on .60, .54, .66: the best arm becomes the worst, and the worst the best;
- ``capped_…``: the arms other than the first share 1, 5, 25, 50, 100 % at most, two days each, as challengers in a ramp do;
- ``delays_…``: an outcome is known when it is: a success after 5 days in the mean, a failure after 17 (both geometric). Ours count a day's
  decisions when they are 7 days old, and those of which nothing was heard by then (a fifth of the successes) as failures.

Ours are ``include.lifecycle.bandits`` with the discount of ``Rollout``'s default, one for all cases. Beside them:

- ``even_split``;
- ``aws_thompson``, ``aws_epsilon``: aws-samples/amazon-sagemaker-ab-testing-pipeline, lambda/api/algorithm.py, written anew from its rules: a draw
  from Beta(1 + rewards, 1 + invocations - rewards), or the largest rewards / invocations but for ε = .1, after a warm-up of more than 0 or 100
  invocations of every arm. Invocations count when they happen and rewards when they arrive, so what is pending is a failure;
- ``confirmed_only``: Thompson sampling, discounted as ours, that counts each outcome as soon as it is known, and nothing else;
- ``undiscounted``, ``ucb1_undiscounted``: Thompson sampling and UCB1 as ours, without the discount.

``--choose``: what the default discount was chosen by, on other seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from typing import get_args

import numpy as np
import numpy.typing as npt

from bench.report import Figure, publish
from include.lifecycle.bandits import DayReward, challenger_share, propensities
from include.lifecycle.domain import BanditName, Rollout

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

DAYS, DECISIONS, REPETITIONS = 60, 300, 200
BEFORE, AFTER, FLIP_DAY = (0.60, 0.66, 0.55), (0.60, 0.54, 0.66), 30
MATURITY = 7
SUCCESS_DELAY, FAILURE_DELAY = 5.0, 17.0
CAPS, EPOCHS_PER_STEP, FLOOR = (0.01, 0.05, 0.25, 0.5, 1.0), 2, 0.01
AWS_EPSILON, AWS_WARM_UP = 0.1, 100
FIRST_DAY = date(2026, 1, 1)
DISCOUNTS = (0.80, 0.84, 0.87, 0.90, 0.92, 0.95, 1.0)
SEED, OTHER_SEED = 1, 1_000_001


@dataclass(frozen=True)
class Seen:
    """What is known on a day: of each earlier day and arm, how many decisions, how many successes and failures were heard of, and how many of the
    successes were when the decisions were ``MATURITY`` old or younger. Shape (days, arms)."""

    decisions: Counts
    successes: Counts
    failures: Counts
    on_time: Counts


Policy = Callable[[Seen, np.random.Generator], Array]
"""The chances of the arms for the day's decisions (or, where every decision draws for itself, what came of 300 draws)."""


@dataclass(frozen=True)
class World:
    flips: bool = False
    late: bool = False
    """Outcomes are known when they are, not all 7 days later."""
    caps: tuple[float, ...] = field(default=())

    def rates(self, day: int) -> Array:
        return np.array(AFTER if self.flips and day >= FLIP_DAY else BEFORE)

    def arrivals(self, of: Counts, mean_delay: float, rng: np.random.Generator) -> Counts:
        """How many are known at each age in days. ``of``: (arms,); the result: (arms, DAYS + 1), its last cell later than the end."""
        ages = np.arange(DAYS)
        chances = (
            np.where(ages > 0, (1 - 1 / mean_delay) ** (ages - 1.0) / mean_delay, 0.0) if self.late else (ages == MATURITY).astype(float)
        )
        return rng.multinomial(of, [*chances, max(0.0, 1 - chances.sum())])


def regret(policy: Policy, world: World, seed: int) -> float:
    """Of one repetition."""
    rng = np.random.default_rng(seed)
    arms = len(BEFORE)
    decisions = np.zeros((DAYS, arms), np.int64)
    known = np.zeros((2, DAYS, DAYS, arms), np.int64)  # (success or failure, day it is known, day of the decision, arm): in all
    lost = 0.0
    for day in range(DAYS):
        earlier = np.arange(day)
        on_time = known[0, np.minimum(day, earlier + MATURITY), earlier]
        chances = policy(Seen(decisions[:day], known[0, day, :day], known[1, day, :day], on_time), rng)
        if world.caps:
            chances = capped(chances, world.caps[min(day // EPOCHS_PER_STEP, len(world.caps) - 1)])
        rates = world.rates(day)
        decisions[day] = rng.multinomial(DECISIONS, chances)
        good = rng.binomial(decisions[day], rates)
        for kind, (of, delay) in enumerate(((good, SUCCESS_DELAY), (decisions[day] - good, FAILURE_DELAY))):
            heard = world.arrivals(of, delay, rng)[:, : DAYS - day].cumsum(axis=1)
            known[kind, day:, day] = heard.T
        lost += float(decisions[day] @ (rates.max() - rates))
    return lost


def capped(chances: Array, cap: float) -> Array:
    """The arms after the first have so much together at most, and the floor at least."""
    others = float(chances[1:].sum())
    wanted = challenger_share(others, min(FLOOR, cap), cap)
    rest = chances[1:] / others if others else np.full(chances.size - 1, 1 / (chances.size - 1))
    return np.array([1 - wanted, *(wanted * rest)])


def ours(name: BanditName, discount: float, seen: Seen, rng: np.random.Generator) -> Array:
    newest = len(seen.decisions) - MATURITY
    arms = {
        str(arm): [
            DayReward(FIRST_DAY + timedelta(days=day), float(seen.decisions[day, arm]), *(2 * [float(seen.on_time[day, arm])]))
            for day in range(newest + 1)
        ]
        for arm in range(len(BEFORE))
    }
    return np.array(list(propensities(name, arms, FIRST_DAY + timedelta(days=max(0, newest)), discount).values()))


def confirmed_only(discount: float, seen: Seen, rng: np.random.Generator) -> Array:
    today = FIRST_DAY + timedelta(days=len(seen.decisions))
    arms = {
        str(arm): [
            DayReward(FIRST_DAY + timedelta(days=day), float(good + bad), float(good), float(good))
            for day, (good, bad) in enumerate(zip(seen.successes[:, arm], seen.failures[:, arm], strict=True))
        ]
        for arm in range(len(BEFORE))
    }
    return np.array(list(propensities("thompson", arms, today, discount).values()))


def aws_thompson(seen: Seen, rng: np.random.Generator) -> Array:
    invocations, rewards = seen.decisions.sum(axis=0), seen.successes.sum(axis=0)
    if not invocations.all():
        return even_split(seen, rng)
    draws = rng.beta(1 + rewards, 1 + invocations - rewards, (DECISIONS, rewards.size))
    return np.bincount(draws.argmax(axis=1), minlength=rewards.size) / DECISIONS


def aws_epsilon(seen: Seen, rng: np.random.Generator) -> Array:
    invocations, rewards = seen.decisions.sum(axis=0), seen.successes.sum(axis=0)
    if (invocations <= AWS_WARM_UP).any():
        return even_split(seen, rng)
    chances = np.full(rewards.size, AWS_EPSILON / rewards.size)
    chances[int(np.argmax(rewards / invocations))] += 1 - AWS_EPSILON
    return chances


def even_split(seen: Seen, rng: np.random.Generator) -> Array:
    return np.full(len(BEFORE), 1 / len(BEFORE))


WORLDS = {
    "stationary": World(),
    "flip": World(flips=True),
    "capped_stationary": World(caps=CAPS),
    "capped_flip": World(flips=True, caps=CAPS),
    "delays_stationary": World(late=True),
    "delays_flip": World(flips=True, late=True),
}
GOALS = {"stationary": 260.0, "flip": 650.0}


def policies(discount: float) -> dict[str, Policy]:
    mine: dict[str, Policy] = {name: partial(ours, name, discount) for name in get_args(BanditName)}
    return mine | {
        "undiscounted": partial(ours, "thompson", 1.0),
        "ucb1_undiscounted": partial(ours, "ucb1", 1.0),
        "confirmed_only": partial(confirmed_only, discount),
        "aws_thompson": aws_thompson,
        "aws_epsilon": aws_epsilon,
        "even_split": even_split,
    }


def figures(repetitions: int, seed: int = SEED) -> Iterator[tuple[str, Figure]]:
    default = Rollout()
    for case, world in WORLDS.items():
        for name, policy in policies(default.discount_per_day).items():
            found = np.array([regret(policy, world, seed + number) for number in range(repetitions)])
            goal = (GOALS[case], False) if name == default.bandit and case in GOALS else (None, None)
            yield f"{case}_{name}", Figure(float(found.mean()), *goal)
            if name == default.bandit:
                yield f"{case}_{name}_standard_error", Figure(float(found.std(ddof=1) / np.sqrt(repetitions)))


def choices(repetitions: int) -> Iterator[tuple[str, Figure]]:
    """Regret by discount, on seeds that ``figures`` does not use."""
    for name in ("thompson", "top_two_thompson"):
        for discount in DISCOUNTS:
            for case in GOALS:
                found = [regret(partial(ours, name, discount), WORLDS[case], OTHER_SEED + number) for number in range(repetitions)]
                yield f"{case}_{name}_{discount:g}", Figure(float(np.mean(found)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the repetitions")
    parser.add_argument("--choose", action="store_true", help="regret by discount, on other seeds")
    options = parser.parse_args()
    repetitions = REPETITIONS // 10 if options.quick else REPETITIONS
    if options.choose:
        publish("bandit_discounts", dict(choices(repetitions)))
    else:
        publish("bandit", dict(figures(repetitions)))


if __name__ == "__main__":
    main()
