"""A confidence sequence for the mean difference in cost: an interval after every look that may be looked at whenever one likes.

**Formula.** Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024, "Time-uniform central limit theory and asymptotic confidence sequences", Annals
of Statistics 52, theorem 2.2, but one-sided, with a half-normal mixture in place of the normal one. Let S be the sum of the differences x so far,
V that of their squares, t a time that grows with V. For a Gaussian walk M = 2 (r + 1)^(-1/2) exp(z²/2) Φ(z), with z = S √(r / (V (r + 1))) and r
= ρ²t, is a non-negative martingale that begins at 1, so it ever reaches 1/α with a chance of at most α (Ville 1939); and as exp(z²/2) Φ(z) ≥
exp(z²/2) - 1/2, it has reached it where

    |S| ≥ √V · √(2 (1 + 1/r) ln(1 + √(r + 1) / (2α)))

is true on one side. The interval is (S ± that) / events. t counts the units in which the models differ, the others add nothing to V; ρ is such
that the interval is tightest at ``TIGHTEST_AT`` of them (Howard, Ramdas, McAuliffe & Sekhon 2021, Annals of Statistics 49, proposition 3, at 2α,
Lambert's W approximated), and within a tenth of that from half as many to ten times as many.

**Error.** Each end holds at level α = ``error_rate`` by itself: whatever the looks, and however many, the chance that ``high`` is ever below the
true difference is at most α, and the same for ``low`` above it. So a challenger that is not better is ever found better (high < 0) in at most α
of all rollouts, and one that is not worse is ever found worse in at most α. These are two questions with a decision and a price each, so each has
its α; as an interval for both at once, it is one at 1 - 2α. What is reported is the interval of the present look, not the intersection with
earlier ones: it may widen again after a surprise, and an earlier "better" was still right in the sense above.

**What is added for money.** The theorem is asymptotic, and money is where that hurts: most differences are 0, some are the price of a review, and
few are a fraud of any amount. Four things make it hold (measured in ``bench/rollout.py``):

- *Skew.* A challenger that reviews less saves a little often, and loses much rarely: before the rare losses came it looks better, and safely so,
  because V has not seen them either. Simulated without remedy, such a challenger, truly as costly, was found better in up to 18 % of rollouts at
  α = 5 %. But what could be lost is known before the truth is: the stakes L of the events in which the models differ. So each end has to survive
  one more event against it, of ``RESERVE`` times ΣL²/ΣL: it is added to S, and its square to V. ΣL²/ΣL is the ratio of the third moment to the
  second if the chance of fraud falls with the amount, as it does where two models that weigh p·A against the price of a review disagree; so this
  is a correction for skewness in the manner of Johnson 1978 (JASA 73), from stakes instead of the few losses seen.
- *Runs.* What is lost N times over is one loss, N times as large: the ratio of its third moment to its second is E[N³]/E[N²] times that of one
  event. The data show another ratio, the design effect d (Kish 1965, Survey Sampling, §8.2): squares of the sums of entities, or of units, over
  those of events, which is E[N²]/E[N], and at least 1. If a run goes on with the same chance each time, N is geometric, and the first is
  (3 d - 1/d) / 2: the reserve is multiplied by that, which is 1 where nothing is repeated. Without it, a challenger that reviews less at equal
  cost was found better in 4 to 7 % of rollouts at α = 5 % where events came in runs of three days, and in 14 % with 500 decisions a day.
- *Dependence.* Fraud comes in runs: what was missed of a card today is missed tomorrow. And in waves: one day's attack hits many cards. So V is
  the largest of three sums of squares: of units (entity × epoch), of entities, everything of one summed (Liang & Zeger 1986, Biometrika 73, §2:
  right whatever the dependence within an entity), and of days, likewise. Squares of units and entities are not taken about the mean: they are
  right for a difference of 0, too large elsewhere, and few entities never prove anything, because |S| ≤ √(entities · V). Days are few, so theirs
  are taken about the mean, and times D/(D - ``DAYS_LOST``) for D days, which makes up for the tails of Student's t at the boundary. Without days,
  a challenger that costs the same was found better in up to 40 % of rollouts where each day's risk varied by a half.
- *Burn-in.* No end is finite before ``LEAST_DIFFERING`` units in which the models differ, ``LEAST_FRAUDS`` known frauds among their events, and
  ``LEAST_DAYS`` days. Units and frauds count 1/d each: as many as there would be without runs (ibid.).

**When it does not hold.** Where what is common to many entities lasts for longer than a day: an attack of a week that one of the models does not
see counts as seven accidents. Where variance is infinite (amounts with a Pareto tail of index 2 or less). And it is
about the mean over the events so far: if the models' difference changes, so does what is estimated (it is then the running mean of the
conditional means, Waudby-Smith et al., proposition 2.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

TIGHTEST_AT = 1_000
"""Units in which the models differ."""
RESERVE = 0.5
LEAST_DIFFERING, LEAST_FRAUDS, LEAST_DAYS = 100, 20, 5
DAYS_LOST = 4
"""Student's t has its (one-sided) tail of .0026, a normal distribution's at 2.8, at 4.3 with 6 degrees of freedom and at 3.0 with 29: its square is
larger by 7/(7 - 4) and 30/(30 - 4.4)."""


@dataclass(frozen=True)
class Sums:
    """What is known at each look: running totals, of any one shape. ``events``: all of them; ``days``: that had any; ``differing``: units in which
    the models differ; ``frauds``: known ones among the events in which they do. ``total``: of the differences, money; ``event_squares``,
    ``unit_squares``, ``entity_squares``, ``day_squares``: of the differences by event, by unit, by entity, and by day. ``losses``,
    ``losses_squared``: of what each event in which the models differ could at most have cost the challenger more than the champion, whatever
    its truth turned out to be; ``gains``, ``gains_squared``: less (both as positive numbers)."""

    events: FloatArray
    days: FloatArray
    differing: FloatArray
    frauds: FloatArray
    total: FloatArray
    event_squares: FloatArray
    unit_squares: FloatArray
    entity_squares: FloatArray
    day_squares: FloatArray
    losses: FloatArray
    losses_squared: FloatArray
    gains: FloatArray
    gains_squared: FloatArray


@dataclass(frozen=True)
class ConfidenceSequence:
    """Mean difference, money per event, and the ends of its interval at each look: shape of the sums. An end that cannot be told yet is infinite;
    without events the value is NaN."""

    value: FloatArray
    low: FloatArray
    high: FloatArray


def confidence_sequence(sums: Sums, error_rate: float) -> ConfidenceSequence:
    """The sequence at every look, each end at level ``error_rate`` (more than 0, less than .5); each look needs its own sums only."""
    if not 0 < error_rate < 0.5:
        raise ValueError(f"an error rate wants more than 0 and less than 0.5, not {error_rate!r}")
    squares = np.maximum(np.maximum(sums.unit_squares, sums.entity_squares), _about_mean(sums))
    factor = boundary(sums.differing, error_rate)
    effect = _design_effect(sums)
    reserve = RESERVE * (3 * effect - 1 / effect) / 2
    worse, better = (reserve * _ratio(*pair) for pair in ((sums.losses_squared, sums.losses), (sums.gains_squared, sums.gains)))
    silent = (sums.differing < effect * LEAST_DIFFERING) | (sums.frauds < effect * LEAST_FRAUDS) | (sums.days < LEAST_DAYS)
    with np.errstate(invalid="ignore"):  # 0 · ∞ where nothing differs yet: silent
        high = np.where(silent, np.inf, _ratio(sums.total + worse + factor * np.sqrt(squares + worse**2), sums.events))
        low = np.where(silent, -np.inf, _ratio(sums.total - better - factor * np.sqrt(squares + better**2), sums.events))
    return ConfidenceSequence(np.where(sums.events > 0, _ratio(sums.total, sums.events), np.nan), low, high)


def boundary(differing: FloatArray, error_rate: float) -> FloatArray:
    """How many √V the sum of independent differences of mean 0 may reach, one side, after so many of them are not 0; infinite at none."""
    level = -2 * np.log(2 * error_rate)
    with np.errstate(divide="ignore"):
        r = (level + np.log1p(level)) / TIGHTEST_AT * np.asarray(differing, np.float64)
        return np.asarray(np.sqrt(2 * (1 + 1 / r) * np.log1p(np.sqrt(r + 1) / (2 * error_rate))), np.float64)


def _design_effect(sums: Sums) -> FloatArray:
    """By how much the dependence within units and entities multiplies V; at least 1."""
    return np.maximum(1.0, _ratio(np.maximum(sums.unit_squares, sums.entity_squares), sums.event_squares))


def _about_mean(sums: Sums) -> FloatArray:
    """Squares of the days' sums about their mean, for as many days as there are; those of fewer than ``LEAST_DAYS`` are not looked at."""
    scatter = sums.day_squares - _ratio(sums.total**2, sums.days)
    return np.asarray(np.maximum(scatter, 0) * _ratio(sums.days, sums.days - DAYS_LOST), np.float64)


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """0 where nothing is below."""
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=np.asarray(below) > 0)
