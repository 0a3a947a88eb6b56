"""The baseline profile: what each column looked like, day by day, as counts that can be merged; a few kB a column a month.

As JSON (version 2), with numbers that belong together in one string, separated by blanks::

    {"version": 2,
     "days": ["2026-03-01", …], "rows": "412 398 …",
     "columns": {
       "amount": {"type": "numeric", "edges": "e₁ e₂ … eₖ", "values": "v₀ … vₖ" or "", "minimum": 0.1, "maximum": 98.2, counts…},
       "facet_gender": {"type": "text", "levels": ["Female", …], counts…},
       "merchant": {"type": "text", "buckets": 64, "frequent": [["Acme", 812], …], counts…}},
     "multivariate": null or {"scores": {"amount": "-1.9 …", …}, "whitening": ["…", …], "edges": "…", counts…}}

with the counts ``"counts": ["12 40 …", …]`` (a string a day, a number a cell) and ``"missing"``, ``"infinite"``, ``"invalid"``, ``"unseen"``
(strings of a number a day). What the cells are, ``include.lifecycle.profile_schema`` says.

A row is counted once in each column: in a cell, or as missing, infinite, invalid (text where the baseline has numbers, and no number) or unseen
(a level that the baseline does not have, known where the levels are few enough to have a cell each). Rows without a day are counted on the day
"". ``minimum`` and ``maximum`` are those of the finite values of all days, null without any. The multivariate check counts about every other row
(``profile_schema``).

Profiles of the same schema merge by adding counts. Merging is associative and commutative, and equals profiling all the rows at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.profile_schema import (
    MULTIVARIATE,
    Cells,
    Codes,
    Joint,
    Mask,
    NumericCells,
    ProfileError,
    Schema,
    SchemaSketch,
    TextCells,
    cells_of,
    column_kind,
    in_counted_half,
    numbers_of,
)

__all__ = ["MULTIVARIATE", "NO_DAY", "Column", "Counter", "Profile", "ProfileError", "Schema", "SchemaSketch", "column_kind"]

VERSION = 2
NO_DAY = ""
"""The day of rows without one."""

_ROWS_AT_ONCE = 131_072
_THREADS = min(4, os.cpu_count() or 1)
_ASIDE = ("missing", "infinite", "invalid", "unseen")

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Column:
    """``counts``: (days, cells). ``missing``, ``infinite``, ``invalid``, ``unseen``: (days,), rows that are in no cell. ``minimum``, ``maximum``:
    of the finite values, NaN without any, and for text."""

    counts: Counts
    missing: Counts
    infinite: Counts
    invalid: Counts
    unseen: Counts
    minimum: float = np.nan
    maximum: float = np.nan


@dataclass(frozen=True)
class Profile:
    """``days``: ISO dates in order, the day "" first; ``rows``: (days,); the columns by name in the schema's order, and, where the schema has the
    multivariate check, its distances as the column "multivariate"."""

    schema: Schema
    days: tuple[str, ...]
    rows: Counts
    columns: Mapping[str, Column]

    @classmethod
    def of(cls, schema: Schema, columns: pa.RecordBatch | pa.Table, days: pa.Array | pa.ChunkedArray | None = None) -> Profile:
        """Counts rows that are all there. See ``Counter.add``."""
        counter = Counter(schema)
        counter.add(columns, days)
        return counter.profile()

    def cells(self, name: str) -> Cells:
        """What the cells of a column are. KeyError without it."""
        if name == MULTIVARIATE and self.schema.joint is not None:
            return self.schema.joint.cells
        return self.schema.columns[name]

    def merge(self, other: Profile) -> Profile:
        """All days of both, the counts of a common day added. ProfileError where the schemas differ."""
        if self.schema != other.schema:
            raise ProfileError("profiles with other cells cannot be merged: count the rows again under one schema")
        days = tuple(sorted({*self.days, *other.days}))
        place = {day: row for row, day in enumerate(days)}
        places = [np.array([place[day] for day in profile.days], np.intp) for profile in (self, other)]

        def added(one: Counts, another: Counts) -> Counts:
            total = np.zeros((len(days), *one.shape[1:]), np.int64)
            total[places[0]] += one
            total[places[1]] += another
            return total

        columns = {}
        for name, mine in self.columns.items():
            theirs = other.columns[name]
            aside = {each: added(getattr(mine, each), getattr(theirs, each)) for each in _ASIDE}
            low, high = float(np.fmin(mine.minimum, theirs.minimum)), float(np.fmax(mine.maximum, theirs.maximum))
            columns[name] = Column(added(mine.counts, theirs.counts), **aside, minimum=low, maximum=high)
        return Profile(self.schema, days, added(self.rows, other.rows), columns)

    def as_json(self) -> dict[str, Any]:
        joint = self.schema.joint
        return {
            "version": VERSION,
            "days": list(self.days),
            "rows": _joined(self.rows),
            "columns": {name: _cells_json(cells) | _column_json(self.columns[name]) for name, cells in self.schema.columns.items()},
            "multivariate": None
            if joint is None
            else {
                "scores": {name: _joined(score) for name, score in joint.scores.items()},
                "whitening": [_joined(row) for row in joint.whitening],
                "edges": _joined(joint.cells.edges),
            }
            | _column_json(self.columns[MULTIVARIATE]),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Profile:
        """The inverse of ``as_json``. ProfileError for another version and for what is no profile."""
        if content.get("version") != VERSION:
            raise ProfileError(f"profile version {content.get('version')!r}; this code reads {VERSION}: profile the rows again")
        try:
            days = tuple(content["days"])
            found = {name: _cells_of_json(column) for name, column in content["columns"].items()}
            columns = {name: _column_of_json(column, len(days), found[name].size) for name, column in content["columns"].items()}
            joint = None
            if check := content["multivariate"]:
                joint = Joint(
                    {name: _floats(score) for name, score in sorted(check["scores"].items())},
                    tuple(_floats(row) for row in check["whitening"]),
                    NumericCells(_floats(check["edges"])),
                )
                columns[MULTIVARIATE] = _column_of_json(check, len(days), joint.cells.size)
            return cls(Schema(found, joint), days, _integers(content["rows"], (len(days),)), columns)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProfileError(f"no profile of version {VERSION}, or one that was changed by hand: {type(error).__name__}: {error}") from error


class Counter:
    """Counts rows in batches under one schema. What it holds does not grow with the rows, only with the days."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        widths = [cells.size + len(_ASIDE) for cells in schema.columns.values()]
        if schema.joint is not None:
            widths.append(schema.joint.cells.size + len(_ASIDE))
        self._bounds = np.cumsum([0, *widths])
        self._days: dict[str, Counts] = {}  # one row a day: the columns' cells and the rest, one after the other
        self._rows: dict[str, int] = {}
        self._ranges: dict[str, tuple[float, float]] = dict.fromkeys(schema.columns, (np.nan, np.nan))

    def add(self, columns: pa.RecordBatch | pa.Table, days: pa.Array | pa.ChunkedArray | None = None) -> None:
        """columns: those of the schema by name, others are passed over; every row of a column that is not there is missing. Text in a numeric
        column is read as numbers. days: date32, shape (rows,); null, or None altogether: no day. ProfileError for a type without numbers or
        text, or where the days are not as many as the rows."""
        for name in self.schema.columns:
            if name in columns.schema.names and column_kind(columns.schema.field(name).type) is None:
                raise ProfileError(f"column {name!r} is {columns.schema.field(name).type}, the baseline has numbers or text")
        if days is not None and len(days) != columns.num_rows:
            raise ProfileError(f"{len(days)} days for {columns.num_rows} rows")
        dates = None if days is None else _dates(days)
        start = 0
        with ThreadPoolExecutor(_THREADS) as pool:
            for batch in _batches(columns):
                self._add(batch, None if dates is None else dates[start : start + batch.num_rows], pool)
                start += batch.num_rows

    def profile(self) -> Profile:
        days = tuple(sorted(self._days))
        counts = np.array([self._days[day] for day in days], np.int64).reshape(len(days), int(self._bounds[-1]))
        names = [*self.schema.columns, *([MULTIVARIATE] if self.schema.joint is not None else [])]
        columns = {}
        for name, (first, end) in zip(names, pairwise(self._bounds), strict=True):
            middle = end - len(_ASIDE)
            aside = dict(zip(_ASIDE, counts[:, middle:end].T, strict=True))
            low, high = self._ranges.get(name, (np.nan, np.nan))
            columns[name] = Column(counts[:, first:middle], **aside, minimum=low, maximum=high)
        return Profile(self.schema, days, np.array([self._rows[day] for day in days], np.int64), columns)

    def _add(self, batch: pa.RecordBatch, dates: NDArray[np.int32] | None, pool: ThreadPoolExecutor) -> None:
        if batch.num_rows == 0:
            return
        names, place = _day_places(dates, batch.num_rows)
        run: Callable[..., Iterable[Any]] = map if batch.num_rows < 4096 else pool.map
        present = set(batch.schema.names)

        def count(name: str) -> tuple[Counts, _Numbers | None]:
            cells = self.schema.columns[name]
            column = batch.column(name) if name in present else pa.nulls(batch.num_rows)
            if isinstance(cells, TextCells):
                return _count_texts(column, cells, place, len(names)), None
            numbers = _Numbers.of(column, cells)
            return numbers.count(cells, place, len(names)), numbers

        counted = list(run(count, self.schema.columns))
        parts = [counts for counts, _ in counted]
        numeric = {name: found for name, (_, found) in zip(self.schema.columns, counted, strict=True) if found is not None}
        for name, found in numeric.items():
            low, high = self._ranges[name]
            self._ranges[name] = (float(np.fmin(low, found.low)), float(np.fmax(high, found.high)))
        if self.schema.joint is not None:
            parts.append(_count_joint(self.schema.joint, numeric, place, len(names)))
        total = np.concatenate(parts, axis=1)
        rows = np.bincount(place, minlength=len(names)) if place is not None else np.array([batch.num_rows])
        for row, day in enumerate(names):
            self._days[day] = self._days[day] + total[row] if day in self._days else total[row].copy()
            self._rows[day] = self._rows.get(day, 0) + int(rows[row])


@dataclass(frozen=True)
class _Numbers:
    """One batch of a numeric column. ``known``: where it has a finite value; None: everywhere. ``wrong``: text that is no number."""

    values: FloatArray
    codes: Codes
    known: Mask | None
    wrong: int | Mask
    low: float
    high: float

    @classmethod
    def of(cls, column: pa.Array, cells: NumericCells) -> _Numbers:
        values, wrong = numbers_of(column)
        known = None
        with np.errstate(over="ignore", invalid="ignore"):
            if not np.isfinite(values.sum()):  # one pass that nearly always says that there is nothing to look for
                known = np.isfinite(values)
        finite = values if known is None else values[known]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (np.nan, np.nan)
        return cls(values, cells.codes(values), known, wrong, low, high)

    def count(self, cells: NumericCells, place: NDArray[np.int64] | None, days: int) -> Counts:
        codes = self.codes
        if self.known is not None:
            aside = np.where(np.isnan(self.values), np.where(self.wrong, 2, 0), 1).astype(np.uint8)
            codes = np.where(self.known, codes, np.uint8(cells.size) + aside)
        return _bincount(codes, cells.size + len(_ASIDE), place, days)


def _count_texts(column: pa.Array, cells: TextCells, place: NDArray[np.int64] | None, days: int) -> Counts:
    # unseen: the cell after the known ones; missing: the one after that. In the profile they come last and first of the rest
    counted = _bincount(cells_of(column, cells), cells.size + 2, place, days)
    nothing = np.zeros((days, 2), np.int64)
    known, unseen, missing = np.split(counted, [cells.size, cells.size + 1], axis=1)
    return np.concatenate([known, missing, nothing, unseen], axis=1)


def _count_joint(joint: Joint, numbers: Mapping[str, _Numbers], place: NDArray[np.int64] | None, days: int) -> Counts:
    its = {name: numbers[name] for name in joint.scores}
    known = {name: found.known for name, found in its.items()}
    counted = in_counted_half({name: found.values for name, found in its.items()}, known)
    codes = {name: found.codes[counted] for name, found in its.items()}
    distances = joint.distances(codes, {name: None if where is None else where[counted] for name, where in known.items()})
    return _bincount(joint.cells.codes(distances), joint.cells.size + len(_ASIDE), None if place is None else place[counted], days)


def _bincount(codes: Codes, width: int, place: NDArray[np.int64] | None, days: int) -> Counts:
    """Shape (days, width)."""
    key = codes if place is None else place * width + codes
    return np.bincount(key, minlength=days * width).reshape(days, width)


def _batches(columns: pa.RecordBatch | pa.Table) -> Iterable[pa.RecordBatch]:
    for batch in [columns] if isinstance(columns, pa.RecordBatch) else columns.to_batches():
        for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
            yield batch.slice(start, _ROWS_AT_ONCE)


_NEVER = np.iinfo(np.int32).min


def _dates(days: pa.Array | pa.ChunkedArray) -> NDArray[np.int32]:
    if days.type != pa.date32():
        raise ProfileError(f"days are {days.type}, date32 is wanted")
    numbers = days.cast(pa.int32()).fill_null(_NEVER)
    found: NDArray[np.int32] = numbers.to_numpy() if isinstance(numbers, pa.ChunkedArray) else numbers.to_numpy(zero_copy_only=False)
    return found


def _day_places(dates: NDArray[np.int32] | None, rows: int) -> tuple[list[str], NDArray[np.int64] | None]:
    """The days of the batch, and each row's place among them (None: all on the one)."""
    if dates is None:
        return [NO_DAY], None
    if (dates == dates[0]).all():
        distinct, place = dates[:1], None
    else:
        distinct, place = np.unique(dates, return_inverse=True)
    return [NO_DAY if day == _NEVER else str(np.datetime64(int(day), "D")) for day in distinct], place


def _joined(numbers: Iterable[float]) -> str:
    return " ".join(f"{number!r}" if isinstance(number, float) else str(number) for number in np.asarray(numbers).tolist())


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split())


def _integers(text: str | Iterable[str], shape: tuple[int, ...]) -> Counts:
    words = text.split() if isinstance(text, str) else [word for line in text for word in line.split()]
    found = np.array(words, np.int64).reshape(shape)
    if (found < 0).any():
        raise ValueError("a count below zero")
    return found


def _cells_json(cells: Cells) -> dict[str, Any]:
    if isinstance(cells, NumericCells):
        return {"type": "numeric", "edges": _joined(cells.edges), "values": _joined(cells.values)}
    if cells.buckets:
        return {"type": "text", "buckets": cells.buckets, "frequent": [list(pair) for pair in cells.frequent]}
    return {"type": "text", "levels": list(cells.levels)}


def _cells_of_json(content: Mapping[str, Any]) -> Cells:
    if content["type"] == "numeric":
        return NumericCells(_floats(content["edges"]), _floats(content["values"]))
    if "buckets" in content:
        return TextCells((), int(content["buckets"]), tuple((str(level), int(count)) for level, count in content["frequent"]))
    return TextCells(tuple(content["levels"]))


def _column_json(column: Column) -> dict[str, Any]:
    return {
        "minimum": None if np.isnan(column.minimum) else column.minimum,
        "maximum": None if np.isnan(column.maximum) else column.maximum,
        "counts": [_joined(day) for day in column.counts],
        **{name: _joined(getattr(column, name)) for name in _ASIDE},
    }


def _column_of_json(content: Mapping[str, Any], days: int, cells: int) -> Column:
    low, high = (np.nan if content[name] is None else float(content[name]) for name in ("minimum", "maximum"))
    aside = {name: _integers(content[name], (days,)) for name in _ASIDE}
    return Column(_integers(content["counts"], (days, cells)), **aside, minimum=low, maximum=high)
