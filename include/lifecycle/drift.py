"""Drift of columns between two profiles: what moved, by how much, since when, and in words.

A column has drifted where both hold: its difference is significant (``drift_tests``), and it has a size worth telling someone
(``minimum_effect``). Columns of a window are one family, each tested at the family's level over their number (Bonferroni), and over ``LUCK``: one
baseline serves all the windows of its life, so that a baseline that is unlucky itself would alarm in many of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.day_effects import Days
from include.lifecycle.drift_tests import Comparison, compare, day_distances, onset
from include.lifecycle.profile import MULTIVARIATE, Column, Profile
from include.lifecycle.profile_schema import NumericCells, TextCells, plain

LUCK = 4.0
"""What levels are divided by, so that a family's false alarms keep to the level with 19 of 20 baselines, and not only on average over them
(``bench.false_alarms`` measures it)."""
UNSEEN_LABEL = "levels never seen before"

Count = Literal["missing", "infinite", "invalid", "unseen"]


@dataclass(frozen=True)
class DayDistance:
    """How far one day of the window is from the baseline: Jensen-Shannon distance (base 2), what chance makes of it taken out."""

    day: str
    distance: float


@dataclass(frozen=True)
class ColumnDrift:
    """One column of the report. ``level``: what ``p_value`` must not exceed; ``rows``: of the window with a known value; ``baseline`` and
    ``current``: shares by cell, in the order of ``cells``, the baseline's standardised to the window's weekdays; empty lists where a side has no
    value. ``began``: where it drifted, the day of the window from which on it differs."""

    name: str
    type: Literal["numeric", "text"]
    drifted: bool
    effect: float
    minimum_effect: float
    p_value: float
    level: float
    rows: int
    missing: Mapping[str, float | None]
    says: str
    cells: tuple[str, ...]
    baseline: tuple[float, ...]
    current: tuple[float, ...]
    days: tuple[DayDistance, ...]
    began: str | None

    def as_json(self) -> dict[str, Any]:
        found = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return found | {"missing": dict(self.missing), "days": [vars(day) for day in self.days]}


@dataclass(frozen=True)
class ShareDrift:
    """A share of rows then and now; None without rows. ``effect``: its change."""

    baseline: float | None
    current: float | None
    effect: float
    p_value: float
    began: str | None


def column_level(level: float, columns: int) -> float:
    """The level of one column of a family of so many, which may raise a false alarm with the probability ``level`` in all."""
    return level / max(1, columns) / LUCK


def drift(
    baseline: Profile,
    window: Profile,
    names: Iterable[str],
    *,
    level: float,
    minimum_effect: float,
    minimum_effect_of: Mapping[str, float] | None = None,
) -> tuple[ColumnDrift, ...]:
    """Every column of a family, in the given order. level: probability of a false alarm in the whole family."""
    family = tuple(names)
    floors = minimum_effect_of or {}
    its = column_level(level, len(family))
    return tuple(column_drift(baseline, window, name, level=its, minimum_effect=floors.get(name, minimum_effect)) for name in family)


def column_drift(baseline: Profile, window: Profile, name: str, *, level: float, minimum_effect: float) -> ColumnDrift:
    """One column (or "multivariate") of two profiles of the same schema. level: see ``column_level``. ValueError for other schemas; KeyError for
    a column that they do not have."""
    if baseline.schema != window.schema:
        raise ValueError("profiles of other schemas cannot be compared: count the window's rows under the baseline's schema")
    cells = baseline.cells(name)
    then, now = column_days(baseline, name), column_days(window, name)
    ordered = isinstance(cells, NumericCells)
    found = compare(then, now, ordered=ordered)
    drifted = found.p_value <= level and found.effect >= minimum_effect
    labels = cells.labels if isinstance(cells, NumericCells) or cells.buckets else (*cells.labels, UNSEEN_LABEL)
    return ColumnDrift(
        name,
        "numeric" if isinstance(cells, NumericCells) else "text",
        drifted,
        found.effect,
        minimum_effect,
        found.p_value,
        level,
        int(now.counts.sum()),
        {"baseline": _share(baseline, name, "missing"), "current": _share(window, name, "missing")},
        _says(name, cells, labels, found, baseline.columns[name], window.columns[name]),
        labels,
        _listed(found.baseline),
        _listed(found.window),
        tuple(DayDistance(*day) for day in day_distances(then, now, ordered=ordered)),
        onset(then, now, ordered=ordered) if drifted else None,
    )


def share_drift(baseline: Profile, window: Profile, name: str, what: Count) -> ShareDrift:
    """How the share of a column's rows that are missing, infinite, invalid or unseen has changed."""
    sides = [(profile.days, getattr(profile.columns[name], what), profile.rows) for profile in (baseline, window)]
    return compare_counts(*(Days(days, np.stack([hits, rows - hits], axis=1)) for days, hits, rows in sides))


def compare_counts(baseline: Days, window: Days) -> ShareDrift:
    """The same for any count out of rows. Two cells each: what is counted, and the rest of the rows."""
    found = compare(baseline, window)
    then, now = (None if np.isnan(shares[0]) else float(shares[0]) for shares in (found.baseline, found.window))
    effect = 0.0 if then is None or now is None else now - then
    return ShareDrift(then, now, effect, found.p_value, onset(baseline, window) if effect else None)


def column_days(profile: Profile, name: str) -> Days:
    """Counts by day and cell of a column's known values; of named levels, the unseen ones are the last cell."""
    column, cells = profile.columns[name], profile.cells(name)
    if isinstance(cells, TextCells) and not cells.buckets:
        return Days(profile.days, np.concatenate([column.counts, column.unseen[:, None]], axis=1))
    return Days(profile.days, column.counts)


def _share(profile: Profile, name: str, what: Count) -> float | None:
    rows = int(profile.rows.sum())
    return float(getattr(profile.columns[name], what).sum() / rows) if rows and name != MULTIVARIATE else None


def _listed(shares: FloatArray) -> tuple[float, ...]:
    return () if np.isnan(shares).any() else tuple(float(share) for share in shares)


def _says(name: str, cells: NumericCells | TextCells, labels: tuple[str, ...], found: Comparison, then: Column, now: Column) -> str:
    """The change in a sentence."""
    if not _listed(found.baseline) or not _listed(found.window):
        return f"{name}: no known value in the {'baseline' if not _listed(found.baseline) else 'window'}"
    if name == MULTIVARIATE:
        return _says_multivariate(found)
    if isinstance(cells, NumericCells) and not cells.values:
        middles = [_median(shares, cells, column) for shares, column in ((found.baseline, then), (found.window, now))]
        return f"median of {name} {_moved(middles[0], middles[1])}; {_largest(labels, found)}"
    return f"{name}: {_largest(labels, found)}"


def _largest(labels: tuple[str, ...], found: Comparison) -> str:
    """Of the cell with the largest part of the divergence."""
    moved = found.window - found.baseline
    cell = int(np.argmax(moved**2 / np.maximum(found.window + found.baseline, 1e-12)))
    return f"share of '{labels[cell]}' {_moved_share(float(found.baseline[cell]), float(found.window[cell]))}"


def _says_multivariate(found: Comparison) -> str:
    far = found.baseline.cumsum() - found.baseline > 0.875  # cells are a twentieth wide: from the quantile .9 on
    return (
        "rows whose combination of values is unusual (as the most unusual tenth of the baseline is): share "
        + _moved_share(float(found.baseline[far].sum()), float(found.window[far].sum()))
    )


def _moved(then: float, now: float) -> str:
    return f"stayed at {plain(now)}" if plain(then) == plain(now) else f"moved from {plain(then)} to {plain(now)}"


def _moved_share(then: float, now: float) -> str:
    def tells(digits: int) -> bool:
        one, other = (f"{share:.{digits}%}" for share in (then, now))
        return one != other and all(float(text[:-1]) > 0 or share == 0 for text, share in ((one, then), (other, now)))

    digits = next(filter(tells, range(3)), 3)
    one, other = (f"{share:.{digits}%}".replace("%", " %") for share in (then, now))
    return f"{'rose' if now > then else 'fell'} from {one} to {other}" if one != other else f"stayed at {other}"


def _median(shares: FloatArray, cells: NumericCells, column: Column) -> float:
    """Interpolated in its cell, which ends at the column's minimum and maximum."""
    edges = np.array([min(column.minimum, *cells.edges, np.inf), *cells.edges, max(column.maximum, *cells.edges, -np.inf)])
    reached = np.concatenate([[0.0], np.cumsum(shares)])
    cell = int(np.clip(np.searchsorted(reached, 0.5) - 1, 0, cells.size - 1))
    inside = (0.5 - reached[cell]) / shares[cell] if shares[cell] > 0 else 0.0
    return float(edges[cell] + inside * (edges[cell + 1] - edges[cell]))
