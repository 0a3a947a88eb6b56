"""Multi-armed bandits: from what each variant has earned so far, the chance with which each should decide next. Pure functions: no draw is made
here, so the same cohorts give the same chances, and the chances are what decisions log as propensities.

**Maturity.** What a decision earned is known late, and not equally late: a fraud that is caught is known in days, a genuine event only by nothing
being heard of it. Counting a decision as soon as its outcome is known favours whichever outcome is known sooner; counting a pending one as a
failure punishes whichever variant got more traffic lately. So an arm is its cohorts: a day's decisions count all at once, when the day's labels are
mature, and those unconfirmed by then as what the domain says silence means (``Label.unreported_is_genuine``). The price is additive, about
the delay times the gap (Joulani, György & Szepesvári 2013, "Online learning under delayed feedback", ICML).

**Discount.** Sums are Σ γ^age over cohorts, with the age of a cohort in days before the newest matured one: a variant may become worse (Raj & Kalyani
2017, "Taming non-stationary bandits: a Bayesian approach", arXiv:1707.09727, algorithm 1; Garivier & Moulines 2011, ALT, for UCB). The prior is not
discounted, so an arm that is not tried becomes uncertain again.

**Rewards.** "bounded": each within [0, 1]; the posterior of a mean is Beta(1 + Σr, 1 + Σ(1 - r)) (Agrawal & Goyal 2012, COLT, §2.1, for rewards that
are not 0 or 1). "real" (money): normal-inverse-gamma, so a Student t (Murphy 2007, "Conjugate Bayesian analysis of the Gaussian distribution", §6).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlog1py, xlogy

from include.lifecycle.domain import BanditName

Rewards = Literal["bounded", "real"]
FloatArray = NDArray[np.float64]

EPSILON = 0.1
"""Of ε-greedy: the chance to choose among all arms alike."""
TOP = 0.5
"""Of top-two Thompson sampling: the chance to play the leader (β of Russo 2016)."""


@dataclass(frozen=True)
class DayReward:
    """One arm's decisions of one day, all of them old enough. Sums over events; ``events`` need not be whole where events are weighted."""

    day: date
    events: float
    reward: float
    reward_squared: float


@dataclass(frozen=True)
class _Sums:
    """An arm's discounted sums."""

    events: float
    reward: float
    squared: float

    @property
    def mean(self) -> float:
        return self.reward / self.events if self.events else float("nan")


def propensities(
    policy: BanditName,
    arms: Mapping[str, Sequence[DayReward]],
    newest: date | None = None,
    discount_per_day: float = 1.0,
    *,
    rewards: Rewards = "bounded",
    epsilon: float = EPSILON,
) -> dict[str, float]:
    """The chance that each arm is chosen next; they sum to 1.

    ``arms``: of each, its matured cohorts, in any order; an arm may have none. ``newest``: the day that ages are counted from, the last one that
    has matured; None: the last of the cohorts. Cohorts after it are not counted. Counting from the day of the decision instead would discount
    everything by the labels' delay.

    - "thompson": the chance that the arm's mean is the largest, which is how often Thompson sampling (1933) chooses it;
    - "top_two_thompson": Russo 2016, "Simple Bayesian algorithms for best-arm identification", COLT, §3.3;
    - "epsilon_greedy": the largest mean but for ``epsilon``, which all arms share;
    - "ucb1": Auer, Cesa-Bianchi & Fischer 2002, figure 1: the choice is certain, so its chance is 1, which only the floor of ``challenger_share``
      softens;
    - "fixed": alike.

    ValueError for an unknown policy, no arms, a discount outside (0, 1], and bounded rewards outside [0, 1].
    """
    if policy not in get_args(BanditName):
        raise ValueError(f"no bandit is called {policy!r}; there are {', '.join(get_args(BanditName))}")
    if not arms:
        raise ValueError("a bandit wants one arm at least")
    if not 0 < discount_per_day <= 1:
        raise ValueError(f"discount_per_day wants more than 0 and at most 1, not {discount_per_day!r}")
    sums = [_sums(name, cohorts, _newest(arms, newest), discount_per_day, rewards) for name, cohorts in arms.items()]
    found = _POLICIES[policy](sums, rewards, epsilon)
    return dict(zip(arms, (found / found.sum()).tolist(), strict=True))


def challenger_share(propensity: float, minimum_share: float, cap: float) -> float:
    """The challenger's share of the entities: its propensity, within floor and cap. A cap below the floor wins: it is there to limit harm."""
    return min(cap, max(minimum_share, propensity))


def _newest(arms: Mapping[str, Sequence[DayReward]], newest: date | None) -> date:
    return newest or max((cohort.day for cohorts in arms.values() for cohort in cohorts), default=date.max)


def _sums(name: str, cohorts: Sequence[DayReward], newest: date, discount: float, rewards: Rewards) -> _Sums:
    counted = [cohort for cohort in cohorts if cohort.day <= newest]
    for cohort in counted:
        if rewards == "bounded" and not -1e-9 <= cohort.reward <= cohort.events * (1 + 1e-9):
            raise ValueError(
                f"arm {name!r}, {cohort.day}: a reward of {cohort.reward} in {cohort.events} events is not within [0, 1] an event"
            )
    weights = [discount ** (newest - cohort.day).days for cohort in counted]
    events, reward, squared = (
        float(sum(weight * getattr(cohort, field) for weight, cohort in zip(weights, counted, strict=True)))
        for field in ("events", "reward", "reward_squared")
    )
    return _Sums(events, reward, squared)


def _thompson(arms: Sequence[_Sums], rewards: Rewards, epsilon: float) -> FloatArray:
    """Chance of each arm to have the largest mean: ∫ f_i Π_{j≠i} F_j, by the trapezoidal rule on points that are dense where any posterior is."""
    posteriors = _betas(arms) if rewards == "bounded" else _students(arms)
    reach = np.sinh(np.linspace(-9.0, 9.0, 601)) / np.sinh(9.0) * 60.0  # standard deviations: dense in the middle, far into the tails
    points = np.unique(np.concatenate([posterior.middle + posterior.spread * reach for posterior in posteriors]))
    if rewards == "bounded":
        points = np.concatenate([[0.0], points[(points > 0) & (points < 1)], [1.0]])
    steps = np.diff(points)
    masses, below = [], []
    for posterior in posteriors:
        log_density = posterior.log_density(points)
        density = np.exp(log_density - log_density.max())
        cell = (density[1:] + density[:-1]) / 2 * steps
        cell /= cell.sum()
        masses.append(cell)
        below.append(np.cumsum(cell) - cell / 2)
    found = [mass * np.prod([other for place, other in enumerate(below) if place != arm], axis=0) for arm, mass in enumerate(masses)]
    return np.array([each.sum() for each in found])


@dataclass(frozen=True)
class _Posterior:
    """Of an arm's mean. ``middle`` and ``spread`` say where it is; the density is so but for a factor."""

    middle: float
    spread: float
    log_density: Callable[[FloatArray], FloatArray]


def _betas(arms: Sequence[_Sums]) -> list[_Posterior]:
    found = []
    for arm in arms:
        a, b = 1 + max(0.0, arm.reward), 1 + max(0.0, arm.events - arm.reward)
        mean = a / (a + b)
        found.append(_Posterior(mean, float(np.sqrt(mean * (1 - mean) / (a + b + 1))), _log_beta(a, b)))
    return found


def _log_beta(a: float, b: float) -> Callable[[FloatArray], FloatArray]:
    return lambda x: np.asarray(xlogy(a - 1, x) + xlog1py(b - 1, -x), np.float64)


def _students(arms: Sequence[_Sums]) -> list[_Posterior]:
    """The prior is worth one event that is like all arms' events together: it takes its unit of money from them."""
    events = sum(arm.events for arm in arms)
    centre = sum(arm.reward for arm in arms) / events if events else 0.0
    variance = max(0.0, sum(arm.squared for arm in arms) / events - centre**2) if events else 1.0
    variance = variance or (centre**2 or 1.0) * 1e-12  # every event earned the same
    found = []
    for arm in arms:
        kappa, alpha = 1 + arm.events, 1 + arm.events / 2
        scatter = max(0.0, arm.squared - arm.reward**2 / arm.events) if arm.events else 0.0
        away = arm.events * (arm.mean - centre) ** 2 / kappa if arm.events else 0.0
        beta = variance + (scatter + away) / 2
        middle, spread = (centre + arm.reward) / kappa, float(np.sqrt(beta / (alpha * kappa)))
        found.append(_Posterior(middle, spread, _log_student(middle, spread, 2 * alpha)))
    return found


def _log_student(middle: float, spread: float, freedom: float) -> Callable[[FloatArray], FloatArray]:
    return lambda x: np.asarray(-(freedom + 1) / 2 * np.log1p(((x - middle) / spread) ** 2 / freedom), np.float64)


def _top_two(arms: Sequence[_Sums], rewards: Rewards, epsilon: float) -> FloatArray:
    """β P_i + (1 - β) Σ_{j≠i} P_j P_i / (1 - P_j): the leader, or else the next draw's leader that is another arm."""
    best = _thompson(arms, rewards, epsilon)
    best = np.asarray(best / best.sum(), np.float64)
    if best.size == 1:
        return best
    others = np.where(np.eye(best.size, dtype=bool), 0.0, np.maximum(best, 1e-300)[None, :])  # row: the leader j; columns: who comes next
    return np.asarray(TOP * best + (1 - TOP) * best @ (others / others.sum(axis=1, keepdims=True)), np.float64)


def _epsilon_greedy(arms: Sequence[_Sums], rewards: Rewards, epsilon: float) -> FloatArray:
    """An arm without events comes first: nothing is known of it."""
    means = np.array([arm.mean if arm.events else np.inf for arm in arms])
    return np.asarray((1 - epsilon) * _largest(means) + epsilon / means.size, np.float64)


def _ucb1(arms: Sequence[_Sums], rewards: Rewards, epsilon: float) -> FloatArray:
    """mean + 2σ √(2 ln n / n_i). Of rewards within [0, 1] σ is at most 1/2 (Hoeffding), which is UCB1; of money it is that of all events."""
    events = sum(arm.events for arm in arms)
    sigma = 0.5
    if rewards == "real" and events:
        sigma = float(np.sqrt(max(0.0, sum(arm.squared for arm in arms) / events - (sum(arm.reward for arm in arms) / events) ** 2)))
    width = 2 * sigma * np.sqrt(2 * np.log(max(1.0, events)))
    return _largest(np.array([arm.mean + width / np.sqrt(arm.events) if arm.events else np.inf for arm in arms]))


def _fixed(arms: Sequence[_Sums], rewards: Rewards, epsilon: float) -> FloatArray:
    return np.full(len(arms), 1 / len(arms))


def _largest(values: FloatArray) -> FloatArray:
    """1 for the largest value, shared by those that are as large."""
    found = values == values.max()
    return np.asarray(found / found.sum(), np.float64)


_POLICIES: Mapping[BanditName, Callable[[Sequence[_Sums], Rewards, float], FloatArray]] = {
    "thompson": _thompson,
    "top_two_thompson": _top_two,
    "epsilon_greedy": _epsilon_greedy,
    "ucb1": _ucb1,
    "fixed": _fixed,
}
