"""What else decides between two models, on the same world as ``bench.rollout``: each says, by experiment and day, whether it found the challenger
better.

Paired, on the events that both models were asked about: a z-test once at the horizon, the same test every day ("peeking"), and the mixture
sequential probability ratio test (Johari, Koomen, Pekelis & Walsh 2022, "Always valid inference", Operations Research 70). Randomised, half of
the decisions each: the same three. The z-test every day on randomised traffic, its winner called at a confidence above .95, is what AWS's sample
amazon-sagemaker-ab-testing-pipeline does in its notebook ("calling the winner"), with money for its binary reward.

The randomised ones are given independent decisions, and the mSPRT the true effect as the scale of its prior: more than they would have.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from bench.rollout_world import COSTS, Array, Traffic, World
from include.lifecycle.confidence_sequence import TIGHTEST_AT, Sums

Found = npt.NDArray[np.bool_]


def paired(sums: Sums, level: float) -> Mapping[str, Found]:
    """(experiments, days) each."""
    z = sums.total / np.sqrt(np.maximum(sums.unit_squares, 1e-12))
    r = 8 * sums.differing / TIGHTEST_AT
    return {"peeking": _peeking(z, level), "fixed_horizon": _at_horizon(z, level), "msprt": _msprt(z, r, level)}


def randomised(world: World, traffic: Traffic, experiments: int, seed: int, level: float, effect: float) -> Mapping[str, Found]:
    """``effect``: difference in mean cost that the mSPRT's prior expects, money per event."""
    rng = np.random.default_rng([seed, 7])
    shape = (experiments, traffic.days)
    count = traffic.per_day / 2 * np.arange(1.0, traffic.days + 1)
    means, variances = [], []
    for model in range(2):
        reviews = np.cumsum(rng.poisson(traffic.per_day / 2 * world.review_share[model], shape), axis=1)
        missed = rng.poisson(traffic.per_day / 2 * world.missed_share[model], shape)
        sizes = rng.choice(world.missed[model], missed.sum())
        place = np.repeat(np.arange(missed.size), missed.ravel())
        loss, squares = (np.cumsum(np.bincount(place, values, missed.size).reshape(shape), axis=1) for values in (sizes, sizes**2))
        mean = (COSTS.review * reviews + loss) / count
        means.append(mean)
        variances.append((COSTS.review**2 * reviews + squares) / count - mean**2)
    variance = variances[0] + variances[1]
    z = (means[1] - means[0]) / np.sqrt(variance / count)
    r = count * effect**2 / variance  # Johari et al., equation 8: n τ² / (σ₀² + σ₁²)
    return {"peeking": _peeking(z, level), "fixed_horizon": _at_horizon(z, level), "msprt": _msprt(z, r, level)}


def decisions_for_power(variance: float, difference: float, level: float, power: float = 0.8, arms: int = 1) -> float:
    """Of a fixed-horizon test that knows both: n = (z_α + z_β)² σ² / δ² paired, four times that with σ² of one decision's cost randomised."""
    needed = (norm.isf(level) + norm.ppf(power)) ** 2 * variance / difference**2
    return float(needed * (4 if arms == 2 else 1))


def _peeking(z: Array, level: float) -> Found:
    return np.asarray(z < norm.ppf(level))


def _at_horizon(z: Array, level: float) -> Found:
    found = _peeking(z, level)
    found[:, :-1] = False
    return found


def _msprt(z: Array, r: Array, level: float) -> Found:
    """Λ = (1 + r)^(-1/2) exp(z² r / (2 (1 + r))) at 1/α or above, on the challenger's side."""
    return np.asarray((z < 0) & (z**2 * r / (2 * (1 + r)) - np.log1p(r) / 2 >= -np.log(level)))
