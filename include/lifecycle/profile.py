"""The baseline profile: what each feature and the score looked like, day by day, as counts that can be merged; a few kB a column a month.

As JSON (version 1)::

    {"version": 1,
     "days": ["2026-03-01", …], "rows": [412, …],
     "numeric": {"score": {"edges": [e₁ < … < eₖ], "counts": [[k+1 integers], …], "missing": [3, …], "minimum": [0.1, …], "maximum": […]}},
     "category": {"facet_gender": {"levels": ["Female", …], "counts": [[…], …], "other": [0, …], "missing": [2, …]}}}

Every list beside ``edges`` and ``levels`` has one entry a day. Bin i of a numeric column holds the values eᵢ ≤ x < eᵢ₊₁, with minus and
plus infinity at the ends; the edges are quantiles of the whole that the schema was fixed on, so that every bin had about as many values
there. ``minimum`` and ``maximum`` are null on a day without values. Levels are the most frequent of that whole; any other text counts as
``other``.

Profiles of the same schema merge by adding counts. Merging is associative and commutative, and equals profiling all the rows at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from include.lifecycle.bootstrap import FloatArray

VERSION = 1
BINS = 20
LEVELS = 50

Texts = Sequence[str | None]
Counts = NDArray[np.int64]


class ProfileError(ValueError):
    """Profiles, columns or JSON that do not fit together."""


@dataclass(frozen=True)
class Schema:
    """What profiles must share to be merged and compared: inner bin edges by numeric column, levels by category column."""

    edges: Mapping[str, tuple[float, ...]]
    levels: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, numeric: Mapping[str, ArrayLike], category: Mapping[str, Texts], bins: int = BINS, levels: int = LEVELS) -> Schema:
        """Fixed once, on the whole of the baseline rows. NaN and None are missing values."""
        edges = {name: _quantile_edges(np.asarray(values, np.float64), bins) for name, values in numeric.items()}
        return cls(edges, {name: _frequent(values, levels) for name, values in category.items()})


@dataclass(frozen=True)
class NumericDays:
    """Counts of one numeric column: ``counts`` (days, bins), ``missing`` (days,); ``minimum``, ``maximum`` (days,), NaN without values."""

    counts: Counts
    missing: Counts
    minimum: FloatArray
    maximum: FloatArray


@dataclass(frozen=True)
class CategoryDays:
    """Counts of one text column: ``counts`` (days, levels), ``other`` and ``missing`` (days,)."""

    counts: Counts
    other: Counts
    missing: Counts


@dataclass(frozen=True)
class Profile:
    """``days``: ISO dates in order; ``rows``: (days,); the columns' counts by name."""

    schema: Schema
    days: tuple[str, ...]
    rows: Counts
    numeric: Mapping[str, NumericDays]
    category: Mapping[str, CategoryDays]

    @classmethod
    def of(cls, schema: Schema, days: ArrayLike, numeric: Mapping[str, ArrayLike], category: Mapping[str, Texts]) -> Profile:
        """Counts rows. days: dates, shape (rows,). ProfileError where the columns are not the schema's."""
        if set(numeric) != set(schema.edges) or set(category) != set(schema.levels):
            given, wanted = sorted({*numeric, *category}), sorted({*schema.edges, *schema.levels})
            raise ProfileError(f"columns {', '.join(given)} are not the schema's {', '.join(wanted)}")
        dates, day = np.unique(np.asarray(days, "datetime64[D]"), return_inverse=True)
        count = dates.size
        return cls(
            schema,
            tuple(str(date) for date in dates),
            np.bincount(day, minlength=count),
            {name: _count_numbers(np.asarray(numeric[name], np.float64), edges, day, count) for name, edges in schema.edges.items()},
            {name: _count_levels(category[name], levels, day, count) for name, levels in schema.levels.items()},
        )

    def merge(self, other: Profile) -> Profile:
        """All days of both, the counts of a common day added. ProfileError where the schemas differ."""
        if self.schema != other.schema:
            raise ProfileError("profiles with other bins or levels cannot be merged: count the rows again under one schema")
        days = tuple(sorted({*self.days, *other.days}))
        places = [np.array([days.index(day) for day in profile.days], np.intp) for profile in (self, other)]

        def added(one: Counts, another: Counts) -> Counts:
            total = np.zeros((len(days), *one.shape[1:]), np.int64)
            total[places[0]] += one
            total[places[1]] += another
            return total

        def extreme(one: FloatArray, another: FloatArray, pick: np.ufunc) -> FloatArray:
            found = np.full(len(days), np.nan)
            found[places[0]] = one
            found[places[1]] = pick(found[places[1]], another)
            return found

        numeric = {
            name: NumericDays(
                added(mine.counts, theirs.counts),
                added(mine.missing, theirs.missing),
                extreme(mine.minimum, theirs.minimum, np.fmin),
                extreme(mine.maximum, theirs.maximum, np.fmax),
            )
            for name, mine in self.numeric.items()
            for theirs in (other.numeric[name],)
        }
        category = {
            name: CategoryDays(added(mine.counts, theirs.counts), added(mine.other, theirs.other), added(mine.missing, theirs.missing))
            for name, mine in self.category.items()
            for theirs in (other.category[name],)
        }
        return Profile(self.schema, days, added(self.rows, other.rows), numeric, category)

    def as_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "days": list(self.days),
            "rows": self.rows.tolist(),
            "numeric": {
                name: {
                    "edges": list(self.schema.edges[name]),
                    "counts": column.counts.tolist(),
                    "missing": column.missing.tolist(),
                    "minimum": _nullable(column.minimum),
                    "maximum": _nullable(column.maximum),
                }
                for name, column in self.numeric.items()
            },
            "category": {
                name: {
                    "levels": list(self.schema.levels[name]),
                    "counts": column.counts.tolist(),
                    "other": column.other.tolist(),
                    "missing": column.missing.tolist(),
                }
                for name, column in self.category.items()
            },
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Profile:
        """The inverse of ``as_json``. ProfileError for another version."""
        if content.get("version") != VERSION:
            raise ProfileError(f"profile version {content.get('version')!r}; this code reads {VERSION}")
        numeric, category = content["numeric"], content["category"]
        days = len(content["days"])

        def counts(values: Any, width: int | None = None) -> Counts:
            return np.array(values, np.int64).reshape(days if width is None else (days, width))

        return cls(
            Schema(
                {name: tuple(column["edges"]) for name, column in numeric.items()},
                {name: tuple(column["levels"]) for name, column in category.items()},
            ),
            tuple(content["days"]),
            counts(content["rows"]),
            {
                name: NumericDays(
                    counts(column["counts"], len(column["edges"]) + 1),
                    counts(column["missing"]),
                    np.array(column["minimum"], np.float64),
                    np.array(column["maximum"], np.float64),
                )
                for name, column in numeric.items()
            },
            {
                name: CategoryDays(counts(column["counts"], len(column["levels"])), counts(column["other"]), counts(column["missing"]))
                for name, column in category.items()
            },
        )


def _quantile_edges(values: FloatArray, bins: int) -> tuple[float, ...]:
    """Inner edges of ``bins`` bins of about equal size. A column of few distinct values gets a bin for each; a value that fills more than a
    bin starts one of its own, so that its share shows."""
    distinct = np.unique(values[~np.isnan(values)])
    if distinct.size <= bins:
        return tuple(float(edge) for edge in distinct[1:])
    known = np.sort(values[~np.isnan(values)])
    edges = np.unique(np.quantile(known, np.linspace(0, 1, bins + 1)[1:-1], method="higher"))
    return tuple(float(edge) for edge in edges[edges > distinct[0]])


def _frequent(values: Texts, levels: int) -> tuple[str, ...]:
    names, counts = np.unique(np.array([value for value in values if value is not None], str), return_counts=True)
    return tuple(sorted(str(name) for name in names[np.argsort(-counts, kind="stable")[:levels]]))


def _count_numbers(values: FloatArray, edges: Sequence[float], day: NDArray[np.intp], days: int) -> NumericDays:
    known = ~np.isnan(values)
    bins = len(edges) + 1
    member = np.searchsorted(np.asarray(edges), values[known], side="right")
    minimum, maximum = np.full(days, np.nan), np.full(days, np.nan)
    np.fmin.at(minimum, day[known], values[known])
    np.fmax.at(maximum, day[known], values[known])
    return NumericDays(
        np.bincount(day[known] * bins + member, minlength=days * bins).reshape(days, bins),
        np.bincount(day[~known], minlength=days),
        minimum,
        maximum,
    )


def _count_levels(values: Texts, levels: Sequence[str], day: NDArray[np.intp], days: int) -> CategoryDays:
    other, missing = len(levels), len(levels) + 1
    places = {level: place for place, level in enumerate(levels)}
    member = np.array([missing if value is None else places.get(value, other) for value in values], np.intp)
    width = len(levels) + 2
    counts = np.bincount(day * width + member, minlength=days * width).reshape(days, width)
    return CategoryDays(counts[:, :other], counts[:, other], counts[:, missing])


def _nullable(values: FloatArray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
