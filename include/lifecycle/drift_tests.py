"""Whether two sets of days have the same shares: the test and the distance that every drift of monitoring is measured with.

Given are counts by cell, day by day, of a baseline and of a window. The model of a day's shares (design-based notation, cells c, days d)::

    p_dc = π_c + weekday effect + u_dc + sampling noise,    Cov(u_d) = Ω,    Cov(noise) = (diag π − ππᵀ) / n_d

How the weekdays' effect, Ω and V are found is said in ``day_effects``.

**Two statistics**, with the difference's covariance V = s·P + τ·Ω in units of √π. The overall one, T = Σ (difference)²/π, which is Pearson's for
independent rows, sees what moves many cells. Its distribution is a chi-square of V's first three moments (Pearson 1959; Imhof 1961, Biometrika
48, §4, eq. 4.2): matching two only (Box 1954; Brunner, Dette & Munk 1997) is far too light in the tail. Moments of Ω are the unbiased ones of a
Wishart matrix (Letac & Massam 2004); a direction that stands out of it (a mean that moves from day to day) is taken apart, and counts as the
squared t that it is. That Ω is itself an estimate widens the distribution as the denominator of an F does (Satterthwaite 1946). The single-cell
one, the normal deviate of each cell's exact tail, Šidák-corrected, sees one cell that moves alone. Its variance borrows strength from the other
cells (Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3). The two are combined by the Cauchy combination (Liu & Xie 2020, JASA 115).

Sparse cells are put together by the counts of both sides added up, which the null distribution is conditional on anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, chdtrc, gammaln, ndtr, ndtri, polygamma, psi, stdtr, xlogy

from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.day_effects import Days, Scale, largest_by_chance, scale_of, standard_weights, weighted_shares
from include.lifecycle.profile import NO_DAY, Counts

LEAST_EXPECTED = 5.0

_Counted = TypeVar("_Counted", Counts, FloatArray)


@dataclass(frozen=True)
class Comparison:
    """``p_value``: of no difference. ``effect``: Jensen-Shannon distance (base 2; Lin 1991) of the shares, the square of what chance and the days'
    own variance make of it taken out. ``baseline`` (standardised to the window's weekdays) and ``window``: shares by cell; NaN without rows."""

    p_value: float
    effect: float
    baseline: FloatArray
    window: FloatArray


def compare(baseline: Days, window: Days, *, ordered: bool = False) -> Comparison:
    """Whether window and baseline differ in their shares. ordered: cells are neighbours in their order (of numbers), so that sparse ones are put
    together with the next; otherwise with other sparse ones. Without rows on a side the p-value is 1 and the effect 0."""
    baseline, window = baseline.known(), window.known()
    cells = baseline.counts.shape[1]
    nothing = np.full(cells, np.nan)
    if not baseline.dates or not window.dates:
        then, now = (side.counts.sum(axis=0) / side.rows.sum() if side.dates else nothing for side in (baseline, window))
        return Comparison(1.0, 0.0, then, now)
    weights = standard_weights(baseline, window)
    then, now = weighted_shares(baseline, weights), window.counts.sum(axis=0) / window.rows.sum()
    rows, effective = float(window.rows.sum()), 1 / float((weights**2 / baseline.rows).sum())
    groups = _groups(then * effective + now * rows, min(effective, rows), ordered)
    before, after = (Days(side.dates, _by_group(side.counts, groups)) for side in (baseline, window))
    p_value, effect = _compare_grouped(before, after, weights)
    return Comparison(p_value, effect, then, now)


def cauchy_combination(*p_values: float) -> float:
    """One p-value of several that need not be independent (Liu & Xie 2020, JASA 115, §2)."""
    # at 1 the tangent is minus infinity: a p-value that is certain of nothing would drown one that is certain of something
    values = np.clip(p_values, 1e-300, 0.99)
    terms = np.where(values < 1e-8, 1 / (np.pi * values), np.tan((0.5 - values) * np.pi))
    mean = float(terms.mean())
    return float(1 / (np.pi * mean)) if mean > 1e8 else float(0.5 - np.arctan(mean) / np.pi)


def _compare_grouped(baseline: Days, window: Days, weights: FloatArray) -> tuple[float, float]:
    then, now = weighted_shares(baseline, weights), window.counts.sum(axis=0) / window.rows.sum()
    rows, effective = float(window.rows.sum()), 1 / float((weights**2 / baseline.rows).sum())
    pooled = (then * effective + now * rows) / (effective + rows)
    if np.count_nonzero(pooled) < 2:
        return 1.0, 0.0
    scale = scale_of(baseline, window, weights, pooled)
    rank = pooled.size - 1
    spectrum = _Spectrum(0.0, (rank, rank, rank), rank) if scale.scatter is None else _spectrum(scale.scatter, scale.freedom, rank)
    by_cell = _largest_cell(then, now, pooled, scale, spectrum)
    overall = by_cell if pooled.size == 2 else _overall(float(((now - then) ** 2 / pooled).sum()), scale, spectrum)
    expected = _variance_traces(scale, spectrum)[0]
    if spectrum.spike > 0:
        expected += scale.sampling + scale.days / scale.size * (spectrum.spike - 1)
    effect = np.sqrt(max(0.0, _jensen_shannon(then, now) - expected / (8 * np.log(2))))
    return cauchy_combination(overall, by_cell), float(effect)


@dataclass(frozen=True)
class _Spectrum:
    """Of the days' covariance C = P + n₀Ω: the largest eigenvalue where it may stand out (otherwise 0), and the traces of C, C², C³ of the rest;
    ``rank``: how many directions the rest has; ``certain``: whether the largest stands out beyond what chance makes."""

    spike: float
    traces: tuple[float, float, float]
    rank: int
    certain: bool = False

    @property
    def directions(self) -> float:
        """How many directions of equal variance the whole would be, as far as its tail is concerned: tr³C²/tr²C³."""
        return (self.traces[1] + self.spike**2) ** 3 / (self.traces[2] + self.spike**3) ** 2


def _spectrum(scatter: FloatArray, nu: float, rank: int) -> _Spectrum:
    """The eigenvalue that stands out is corrected for the noise of many cells on few days (Baik & Silverstein 2006, J. Multivar. Anal. 97; Paul
    2007, Stat. Sin. 17); traces are unbiased, and no less than those of sampling alone."""
    first, second, third = _wishart_traces(scatter, nu)
    top, gamma = float(np.linalg.eigvalsh(scatter)[-1]), rank / nu
    bulk = max(1.0, (first - top) / (rank - 1)) if rank > 1 else 1.0
    ratio, spike = top / bulk, 0.0
    certain = rank > 1 and ratio > largest_by_chance(rank, nu)
    if rank > 1 and ratio > (1 + np.sqrt(gamma)) ** 2:
        inner = ratio + 1 - gamma
        spike = bulk * (inner + float(np.sqrt(inner**2 - 4 * ratio))) / 2
        first, second, third, rank = first - spike, second - spike**2, third - spike**3, rank - 1
    # of n₀Ω alone: what is left when P is taken out, kept to what traces of a covariance can be
    one = max(0.0, first - rank)
    two = float(np.clip(second - 2 * first + rank, one**2 / rank, one**2))
    three = 0.0 if one == 0 else float(np.clip(third - 3 * second + 3 * first - rank, two**2 / one, two**1.5))
    return _Spectrum(spike, (rank + one, rank + 2 * one + two, rank + 3 * one + 3 * two + three), rank, certain)


def _wishart_traces(scatter: FloatArray, nu: float) -> tuple[float, float, float]:
    """Unbiased tr C, tr C², tr C³ where ν·scatter is Wishart with ν degrees of freedom and covariance C (Letac & Massam 2004, Scand. J. Stat. 31)."""
    square = scatter @ scatter
    one, two, three = float(np.trace(scatter)), float(np.trace(square)), float(np.trace(square @ scatter))
    second = nu**2 / ((nu - 1) * (nu + 2)) * (two - one**2 / nu)
    third = nu**4 / ((nu - 1) * (nu - 2) * (nu + 2) * (nu + 4)) * (three - 3 * one * two / nu + 2 * one**3 / nu**2)
    return one, second, third


def _variance_traces(scale: Scale, spectrum: _Spectrum) -> tuple[float, float, float]:
    """Traces of V, V², V³ without the direction that stands out: V = s·P + t·(C − P)."""
    s, t = scale.sampling, scale.days / scale.size
    a, rank = s - t, spectrum.rank
    one, two, three = spectrum.traces
    return a * rank + t * one, a**2 * rank + 2 * a * t * one + t**2 * two, a**3 * rank + 3 * a**2 * t * one + 3 * a * t**2 * two + t**3 * three


def _overall(statistic: float, scale: Scale, spectrum: _Spectrum) -> float:
    """Probability of a quadratic form as large as this or larger. The direction that stands out is a squared t, on the days' degrees of freedom;
    the rest a shifted chi-square of three moments, over the estimate of its mean."""
    first, second, third = _variance_traces(scale, spectrum)
    t = scale.days / scale.size
    freedom, step = second**3 / third**2, second / third
    if spectrum.spike > 0:
        variance = scale.sampling + t * (spectrum.spike - 1)
        its = scale.freedom * (variance / (t * spectrum.spike)) ** 2
        grid, density = _t_grid(its)
        beyond = chdtrc(freedom, np.maximum(0.0, freedom + (statistic - variance * grid**2 - first) * step))
        return float(min(1.0, np.trapezoid(beyond * density, grid)))
    if t == 0:
        return float(chdtrc(freedom, max(0.0, freedom + (statistic - first) * step)))
    known = scale.freedom * freedom * second / (t**2 * spectrum.traces[1])
    log_x, density = _log_chi_square_grid(known)
    return float(min(1.0, np.trapezoid(density * chdtrc(freedom, np.maximum(0.0, freedom + (statistic * np.exp(log_x) - first) * step)), log_x)))


def _t_grid(freedom: float) -> tuple[FloatArray, FloatArray]:
    """Points of the positive half, dense at 0, far into the tail; and twice the density of Student's t there."""
    grid = np.sinh(np.linspace(0, 9, 901)) / 40
    log = gammaln((freedom + 1) / 2) - gammaln(freedom / 2) - np.log(freedom * np.pi) / 2 - (freedom + 1) / 2 * np.log1p(grid**2 / freedom)
    return grid, 2 * np.exp(log)


def _log_chi_square_grid(freedom: float) -> tuple[FloatArray, FloatArray]:
    """Points of log(X/freedom), X a chi-square, far to the left; and its density."""
    freedom = min(freedom, 1e7)
    half, width = freedom / 2, np.sqrt(2 / freedom)
    grid = np.linspace(max(-60.0, -14 * width - 40 / freedom), 9 * width, 601)
    return grid, np.exp(half * (np.log(half) + grid - np.exp(grid)) - gammaln(half))


def _largest_cell(then: FloatArray, now: FloatArray, pooled: FloatArray, scale: Scale, spectrum: _Spectrum) -> float:
    """Šidák-corrected p-value of the cell that moved most."""
    sampling, free = scale.sampling, 1 - pooled
    variance, freedom = np.full(pooled.size, sampling), np.full(pooled.size, np.inf)
    if scale.scatter is not None:
        ratio, known = _moderated(np.diag(scale.scatter) / free, scale.freedom, spectrum)
        t = scale.days / scale.size
        variance = sampling + t * (ratio - 1)
        freedom = known * (variance / (t * ratio)) ** 2
    deviates = _deviates(then, now, pooled, scale) * np.sqrt(sampling / variance)
    tails = np.where(freedom > 1e6, ndtr(-deviates), stdtr(np.minimum(freedom, 1e6), -deviates))
    if pooled.size == 2:  # the second says what the first does
        return min(1.0, 2 * float(tails[np.argmin(pooled)]))
    return float(-np.expm1(pooled.size * np.log1p(-min(1 - 1e-16, 2 * float(tails.min())))))


def _deviates(then: FloatArray, now: FloatArray, pooled: FloatArray, scale: Scale) -> FloatArray:
    """Size of the normal deviate with each cell's exact tail probability. Given the cell's rows on both sides together, those of the window are
    hypergeometric: a binomial (its mid-p value: Lancaster 1961, JASA 56), the variance of which is too large by 1/(1 - pooled). A cell of few
    rows has a longer tail than a normal variable, which matters where levels are one in a million."""
    here, there = now * scale.rows, then * scale.effective
    share = scale.rows / (scale.rows + scale.effective)
    above = (_binomial_tail(here, there, share) + _binomial_tail(here + 1, there - 1, share)) / 2
    below = (_binomial_tail(there, here, 1 - share) + _binomial_tail(there + 1, here - 1, 1 - share)) / 2
    found: FloatArray = -ndtri(np.clip(np.minimum(above, below), 1e-300, 0.5)) / np.sqrt(1 - pooled)
    return found


def _binomial_tail(successes: FloatArray, failures: FloatArray, share: float) -> FloatArray:
    """Probability of so many successes or more. Counts need not be whole: the baseline's are weighted."""
    inside = betainc(np.maximum(successes, 1e-12), np.maximum(failures + 1, 1e-12), share)
    found: FloatArray = np.where(successes <= 0, 1.0, np.where(failures + 1 <= 0, 0.0, inside))
    return found


def _moderated(ratio: FloatArray, nu: float, spectrum: _Spectrum) -> tuple[FloatArray, float]:
    """Each cell's variance over what sampling makes, at least 1, shrunk towards that of all cells (Smyth 2004, §6.2), and its degrees of freedom:
    not more than the cells have together, since one day moves many cells alike."""
    if ratio.size == 2 or spectrum.certain:
        return np.maximum(1.0, ratio), nu
    together = nu * max(1.0, spectrum.directions)
    logs = np.log(np.maximum(ratio, 1e-12)) - psi(nu / 2) + np.log(nu / 2)
    excess = float(logs.var(ddof=1)) - float(polygamma(1, nu / 2))
    if excess <= 0:
        return np.full(ratio.size, max(1.0, float(ratio.mean()))), together
    prior = 2 * _inverse_trigamma(excess)
    centre = np.exp(logs.mean() + psi(prior / 2) - np.log(prior / 2))
    return np.maximum(1.0, (prior * centre + nu * ratio) / (prior + nu)), min(prior + nu, together)


def _inverse_trigamma(value: float) -> float:
    """Newton's method on 1/ψ′ (Smyth 2004, appendix)."""
    if value > 1e7:
        return 1 / float(np.sqrt(value))
    if value < 1e-6:
        return 1 / value
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, x))
        x += step
        if -step / x < 1e-8:
            break
    return x


def _jensen_shannon(one: FloatArray, other: FloatArray) -> float:
    """Divergence, base 2 (Lin 1991, IEEE Trans. Inf. Theory 37)."""
    middle = (one + other) / 2
    return sum(float((side[side > 0] * np.log2(side[side > 0] / middle[side > 0])).sum()) for side in (one, other)) / 2


def _groups(expected: FloatArray, smaller: float, ordered: bool) -> NDArray[np.intp]:
    """Each cell's group. expected: rows of both sides together; smaller: rows of the smaller side. Groups have at least ``LEAST_EXPECTED`` expected
    rows in the smaller side; two cells are never put together (theirs is an exact test in all but name)."""
    cells = expected.size
    if cells <= 2:
        return np.arange(cells)
    on_smaller = expected / expected.sum() * smaller
    order = np.arange(cells) if ordered else np.argsort(on_smaller, kind="stable")
    group, filled, found = 0, 0.0, np.zeros(cells, np.intp)
    for cell in order:
        if filled >= LEAST_EXPECTED:
            group, filled = group + 1, 0.0
        found[cell] = group
        filled += on_smaller[cell]
    if filled < LEAST_EXPECTED and group:
        found[found == group] = group - 1
    return found


def _by_group(counts: _Counted, groups: NDArray[np.intp]) -> _Counted:
    found = np.zeros((counts.shape[0], int(groups.max()) + 1), counts.dtype)
    np.add.at(found.T, groups, counts.T)
    return found


def day_distances(baseline: Days, window: Days, *, ordered: bool = False) -> tuple[tuple[str, float], ...]:
    """Each day of the window, and its Jensen-Shannon distance (base 2) from the baseline of that weekday, of which what sampling alone makes is
    taken out."""
    baseline, window = baseline.known(), window.known()
    if not baseline.dates or not window.dates:
        return ()
    together = baseline.counts.sum(axis=0) + window.counts.sum(axis=0)
    groups = _groups(together.astype(np.float64), min(baseline.rows.sum(), float(window.rows.min())), ordered)
    baseline, window = (Days(side.dates, _by_group(side.counts, groups)) for side in (baseline, window))
    return tuple(_day_distance(baseline, Days((day,), window.counts[row : row + 1])) for row, day in enumerate(window.dates) if day != NO_DAY)


def _day_distance(baseline: Days, day: Days) -> tuple[str, float]:
    weights = standard_weights(baseline, day)
    then, now = weighted_shares(baseline, weights), day.counts[0] / day.rows[0]
    sampling = 1 / day.rows[0] + float((weights**2 / baseline.rows).sum())
    chance = (np.count_nonzero(then + now) - 1) * sampling / (8 * np.log(2))
    return day.dates[0], float(np.sqrt(max(0.0, _jensen_shannon(then, now) - chance)))


def onset(baseline: Days, window: Days, *, ordered: bool = False) -> str | None:
    """The day of the window from which on it differs most likely: the change point of largest likelihood, the days before it having the
    baseline's shares and the days from it on shares of their own (Hinkley & Hinkley 1970, Biometrika 57). None without days."""
    baseline, window = baseline.known(), window.known()
    if not baseline.dates or not window.dates or NO_DAY in window.dates:
        return None
    weights = standard_weights(baseline, window)
    then = weighted_shares(baseline, weights) * baseline.rows.sum()
    groups = _groups(then + window.counts.sum(axis=0), min(baseline.rows.sum(), window.rows.sum()), ordered)
    before = _by_group(then[None, :], groups)[0]
    # half a row in every cell that the baseline does not have: a level seen for the first time is unlikely, not impossible
    before = (before + 0.5) / (before + 0.5).sum()
    later = _by_group(window.counts[::-1], groups).cumsum(axis=0)[::-1]
    share = later / later.sum(axis=1, keepdims=True)
    gain = xlogy(later, np.where(later > 0, share / before, 1.0)).sum(axis=1)
    return window.dates[int(np.argmax(gain))]
