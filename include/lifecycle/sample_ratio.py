"""Sample-ratio mismatch: whether entities were split as the shares say. A split that is off means that the two sides are no longer alike, and then
no comparison of them means anything (Fabijan et al. 2019, "Diagnosing sample ratio mismatch in online controlled experiments", KDD).

Unit i (an entity × epoch) was to be the challenger's with the chance q_i, which may change from epoch to epoch. Were the odds θ times as large,
its chance would be θq_i / (1 - q_i + θq_i), so the likelihood ratio after n units, x_i = 1 where the challenger had it, is

    E_n = ∫ Π_i θ^{x_i} / (1 - q_i + θ q_i) dπ(θ)

Each factor has the mean 1 if the split is right, whatever came before: E_n is a martingale that starts at 1, and it exceeds 1/α at any time with
a chance of α at most (Ville 1939). 1/E_n is therefore a p-value that may be looked at after every event. This is the test of multinomial counts
of Lindon & Malek 2022, "Anytime-valid inference for multinomial count data", NeurIPS, §3, with chances that may differ between units, and
with a mixture π over the odds in place of the Dirichlet one, for which there is no closed form then. π is on a grid, so no integral is
approximated: any π will do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

_STEPS = np.geomspace(0.005, 5.0, 50)
_TILTS: NDArray[np.float64] = np.concatenate([-_STEPS[::-1], _STEPS])
"""log θ, from half a percent either way to 150 times the odds."""


@dataclass(frozen=True)
class SampleRatio:
    """``expected`` and ``observed``: the challenger's share of the units. ``p_value``: any-time valid, 1 / e-value. ``mismatch``: it is at most
    the level."""

    units: int
    expected: float
    observed: float
    p_value: float
    mismatch: bool


def sample_ratio(chances: ArrayLike, challenger: ArrayLike, level: float) -> SampleRatio | None:
    """``chances``: of each unit, the chance of the challenger that was logged; ``challenger``: 1 or True where it was assigned; shape (units,).
    ``level``: the chance of a false alarm over the whole ramp. None without units whose chance lies between 0 and 1; ValueError for shapes that
    differ. A unit that got what had no chance at all is a mismatch, whatever the level."""
    q, x = np.asarray(chances, np.float64), np.asarray(challenger, np.float64)
    if q.shape != x.shape or q.ndim != 1:
        raise ValueError(f"chances and assignments want one shape (units,), not {q.shape} and {x.shape}")
    if impossible := bool(((q <= 0) & (x > 0)).any() or ((q >= 1) & (x < 1)).any()):
        return SampleRatio(q.size, float(q.mean()), float(x.mean()), 0.0, impossible)
    open_ = (q > 0) & (q < 1)
    if not open_.any():
        return None
    levels, place = np.unique(q[open_], return_inverse=True)  # units of one chance count together: there are few shares in a ramp
    units = np.bincount(place).astype(np.float64)
    hits = float(x[open_].sum())
    log_ratios = hits * _TILTS - units @ np.log1p(levels[:, None] * np.expm1(_TILTS)[None, :])
    log_e = float(logsumexp(log_ratios)) - float(np.log(_TILTS.size))
    p_value = float(np.exp(-max(0.0, log_e)))
    return SampleRatio(int(units.sum()), float(units @ levels / units.sum()), hits / float(units.sum()), p_value, p_value <= level)
