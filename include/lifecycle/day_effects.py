"""How the shares of days vary when nothing changes: the model that ``drift_tests`` compares with. Notation as there.

**Weekdays** are taken out by direct standardisation: the baseline's days are weighted so that its weekdays have the shares of rows that they
have in the window, wherever the baseline has three days or more of each weekday.

**Day-to-day variance** Ω is estimated from the baseline's days by moments (one-way analysis of variance: Searle, Casella & McCulloch 1992,
Variance Components, §3.6): the days' scatter about their (weekday's) mean, less what sampling makes, not below 0. The difference between window
and baseline then has the covariance V = s·P + τ·Ω in units of √π, P the projection on what sums to 0, s = 1/M + Σ a_d²/n_d, and
τ = Σ (m_e/M)² + Σ a_d², for M rows in the window (m_e a day) and standardisation weights a_d.

Days that follow each other may be alike (a customer's average of thirty days moves slowly): day effects are autoregressive, with the correlation
ρ^|lag|. ρ is found by the restricted likelihood of the baseline's days (Patterson & Thompson 1971, Biometrika 58), along the direction in which
they move most, or in all cells together where none stands out; τ is then Var(Σ m_e/M u_e − Σ a_d u_d) for Ω = 1, which for a slow feature is
many times as large.

What a baseline cannot tell is taken as not there: weekdays that it has fewer than three of, days where it has fewer than five, and a wander that is
slower than the baseline is long, which 28 days may well have seen standing still.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.profile import NO_DAY, Counts

LEAST_DAYS = 5
"""With fewer days in the baseline, how days vary is unknown, and rows are taken as independent."""
LEAST_OF_WEEKDAY = 3
LEAST_FREEDOM = 5.0
"""Of the days' variance, however alike they are: with fewer, no change of a slow feature would ever be certain."""

_CERTAIN, _ALIKE = 10.0, 1.0
"""Twice the logarithm of likelihood ratios: from which on there are day effects, and up to which two correlations explain them alike."""
_CORRELATIONS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
_SIZES = np.concatenate([[0.0], np.geomspace(0.02, 1000, 30)])
"""Of day effects, over sampling."""


@dataclass(frozen=True)
class Days:
    """Counts by day and cell. ``counts``: (days, cells); ``dates``: ISO dates in order, "" for rows without one."""

    dates: tuple[str, ...]
    counts: Counts

    def known(self) -> Days:
        """Only the days that have rows."""
        kept = np.flatnonzero(self.counts.sum(axis=1) > 0)
        return Days(tuple(self.dates[day] for day in kept), self.counts[kept])

    @property
    def rows(self) -> FloatArray:
        found: FloatArray = self.counts.sum(axis=1).astype(np.float64)
        return found


@dataclass(frozen=True)
class Scale:
    """The difference's variance. ``rows``: M of the window; ``effective``: of the baseline, 1/Σ(a_d²/n_d); ``days``: τ of the module docstring;
    ``scatter``: (cells, cells), the baseline days' scatter in units in which sampling makes it P; ``freedom`` ν of it and ``size`` n₀:
    E scatter = P + n₀ Ω. No scatter: rows are independent."""

    rows: float
    effective: float
    days: float = 0.0
    scatter: FloatArray | None = None
    freedom: float = 0.0
    size: float = 1.0

    @property
    def sampling(self) -> float:
        """s of the module docstring."""
        return 1 / self.rows + 1 / self.effective


def standard_weights(baseline: Days, window: Days) -> FloatArray:
    """Weight of each day of the baseline, sum 1: its share of the rows, within the weekdays that the window has."""
    rows = baseline.rows
    plain: FloatArray = rows / rows.sum()
    if NO_DAY in baseline.dates or NO_DAY in window.dates:
        return plain
    its, others = _weekdays(baseline.dates), _weekdays(window.dates)
    if not _seasonal(its) or not np.isin(others, its).all():
        return plain
    wanted = np.bincount(others, window.rows, 7) / window.rows.sum()
    have = np.bincount(its, rows, 7)
    found: FloatArray = wanted[its] * rows / have[its]
    return found


def weighted_shares(days: Days, weights: FloatArray) -> FloatArray:
    found: FloatArray = weights @ (days.counts / days.rows[:, None])
    return found


def scale_of(baseline: Days, window: Days, weights: FloatArray, pooled: FloatArray) -> Scale:
    rows, its = baseline.rows, window.rows
    effective = 1 / float((weights**2 / rows).sum())
    if NO_DAY in baseline.dates or NO_DAY in window.dates or len(baseline.dates) < LEAST_DAYS:
        return Scale(float(its.sum()), effective)
    contrasts = _contrasts(baseline.dates, tuple(rows.tolist()))
    rest = contrasts.basis.T @ (np.sqrt(rows)[:, None] * (baseline.counts / rows[:, None]) / np.sqrt(pooled))
    if not rest.size:
        return Scale(float(its.sum()), effective)
    scatter = rest.T @ rest / rest.shape[0]
    correlation, size, freedom = _autoregression(*_moving(rest, scatter), contrasts)
    days = np.array([*baseline.dates, *window.dates], "datetime64[D]").astype(np.float64)
    weight = np.concatenate([-weights, its / its.sum()])
    tau = float(weight @ correlation ** np.abs(days[:, None] - days[None, :]) @ weight)
    return Scale(float(its.sum()), effective, tau, scatter, freedom, size)


@dataclass(frozen=True)
class _Contrasts:
    """``basis``: (days, contrasts), orthonormal, of what the (weekdays') means leave of the days, each day weighted with the root of its rows: those
    of the restricted likelihood. ``spectra``: by ρ, eigenvalues and eigenvectors of the contrasts' covariance for Ω = 1, without sampling."""

    basis: FloatArray
    spectra: tuple[tuple[float, FloatArray, FloatArray], ...]


@lru_cache(maxsize=64)
def _contrasts(dates: tuple[str, ...], rows: tuple[float, ...]) -> _Contrasts:
    """Kept, because most columns of a profile have values in the same rows."""
    weekdays, root = _weekdays(dates), np.sqrt(np.array(rows))[:, None]
    strata = np.eye(7)[weekdays] if _seasonal(weekdays) else np.ones((len(rows), 1))
    design = root * strata[:, strata.any(axis=0)]
    basis = np.linalg.qr(design, mode="complete")[0][:, design.shape[1] :]
    days = np.array(dates, "datetime64[D]").astype(np.float64)
    lags, scaled = np.abs(days[:, None] - days[None, :]), basis * root
    spectra = []
    for rho in _CORRELATIONS if basis.size else ():
        values, vectors = np.linalg.eigh(scaled.T @ rho**lags @ scaled)
        spectra.append((rho, np.maximum(values, 0.0), vectors))
    return _Contrasts(basis, tuple(spectra))


def _moving(rest: FloatArray, scatter: FloatArray) -> tuple[FloatArray, int]:
    """The contrasts' values, shape (contrasts, directions), and how many of the directions are free: along the one in which days move, where one
    stands out of the noise that the others would drown it in."""
    rank, nu = rest.shape[1] - 1, rest.shape[0]
    values, vectors = np.linalg.eigh(scatter)
    if rank > 1 and values[-1] > largest_by_chance(rank, nu):
        return rest @ vectors[:, -1:], 1
    return rest, rank


def largest_by_chance(rank: int, nu: float) -> float:
    """What the largest eigenvalue of a scatter of that many directions on ν degrees of freedom exceeds one time in a hundred where none stands out
    (Johnstone 2001, Ann. Stat. 29, theorem 1.1; 2.02 is that quantile of the Tracy-Widom law of order 1)."""
    one, other = np.sqrt(nu), np.sqrt(rank)
    return float(((one + other) ** 2 + 2.02 * (one + other) * (1 / one + 1 / other) ** (1 / 3)) / nu)


def _autoregression(rest: FloatArray, rank: int, contrasts: _Contrasts) -> tuple[float, float, float]:
    """ρ; n₀, the contrasts' mean of what Ω = 1 adds to a sampling variance of 1; and the degrees of freedom of the scatter, fewer where days are
    alike (Satterthwaite 1946). Where there are day effects at all, ρ is the largest that is not much less likely than the likeliest: a few weeks
    say little of a slow wander, and to take it for none is the error that cries wolf."""
    found = []
    for rho, values, vectors in contrasts.spectra:
        squares = ((vectors.T @ rest) ** 2).sum(axis=1)
        variance = 1 + _SIZES[:, None] * values / values.mean()
        likelihood = -(rank * np.log(variance) + squares / variance).sum(axis=1)
        place = int(np.argmax(likelihood))
        freedom = float(variance[place].sum() ** 2 / (variance[place] ** 2).sum())
        found.append((float(likelihood[place]), rho, float(values.mean()), freedom, float(likelihood[0])))
    best = max(found)
    chosen = found[0]
    if best[0] > best[4] + _CERTAIN:
        chosen = next(each for each in reversed(found) if each[0] > best[0] - _ALIKE)
    return chosen[1], chosen[2], max(LEAST_FREEDOM, chosen[3])


def _weekdays(dates: tuple[str, ...]) -> NDArray[np.int64]:
    """0: Thursday … 6: Wednesday."""
    return np.array(dates, "datetime64[D]").astype(np.int64) % 7


def _seasonal(weekdays: NDArray[np.int64]) -> bool:
    """Whether weekdays are taken out: there are enough of each that there is, and of more than one."""
    days = np.bincount(weekdays)
    days = days[days > 0]
    return days.size > 1 and bool((days >= LEAST_OF_WEEKDAY).all())
