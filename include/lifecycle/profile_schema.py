"""What profiles count by: the cells of every column, fixed once on the rows of a baseline.

A numeric column has 20 cells between quantiles of the baseline, the outer ones cut finer (fewer where values are few). A text column of at most
50 levels has a cell for each; one of more levels has 64 cells by hash. Why by hash, and not one cell for each of the most frequent: levels that
are chosen because the baseline has many of them have fewer in any other rows (regression to the mean), so that of a thousand levels that occur
alike, the chosen ones would seem to fall in every window although nothing changed. A hash knows nothing of the counts, so that both sides are
drawn alike. The most frequent levels' names are kept only to explain what a cell holds.

The multivariate check (``Joint``) gives every row one number, its squared Mahalanobis distance after each column is replaced by the normal
score of its cell (van der Waerden 1952), and that number is binned like any numeric column. It sees a broken correlation that no single column
shows. A distance measured on the rows that the correlation was fitted on is too short (by about two in a hundred with 20 columns and 2,000
rows), which would be drift in every window. So a hash of a row's own numbers says which half it is in: the correlation is fitted on one half
of the baseline, and rows of the other half, in the baseline and in any window, are counted.
"""

from __future__ import annotations

import zlib
from collections import Counter as Tally
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.special import ndtri

from include.lifecycle.bootstrap import FloatArray

BINS = 20
TAILS = (0.001, 0.01, 0.99, 0.999)
"""Quantiles that cut the outer two of ``BINS`` cells once more each: a new kind of fraud is one in a hundred rows, and far out."""
LEVELS = 50
BUCKETS = 64
NAMED = 20
SAMPLE = 100_000
"""Rows, spread evenly over the baseline, that quantiles and the correlation are measured on: between this and twice as many."""
MULTIVARIATE = "multivariate"

_BLOCK = 16_384  # rows whose numbers and cells fit the processor's second-level cache
_TALLIED = 100_000
_LEAST_VARIANCE = 0.05
_LEAST_HALF = 0.25

Codes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class ProfileError(ValueError):
    """Profiles, columns or JSON that do not fit together. The message is for a person."""


def plain(value: float, digits: int = 4) -> str:
    """A number for people: so many significant digits, and an exponent only below .0001 and above ten digits."""
    return f"{float(f'{value:.{digits}g}'):,.10g}"


@dataclass(frozen=True)
class NumericCells:
    """Cell i holds the values eᵢ ≤ x < eᵢ₊₁, without end on both sides. ``values``: the value of each cell, where the baseline has no more
    distinct ones than cells."""

    edges: tuple[float, ...]
    values: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        return len(self.edges) + 1

    def codes(self, numbers: FloatArray) -> Codes:
        """Each number's cell; NaN: 0. Counting the edges that are passed, block by block, is several times faster than a binary search,
        whose branches no processor can foresee."""
        found = np.zeros(numbers.size, np.uint8)
        passed = np.empty(_BLOCK, bool)
        for start in range(0, numbers.size, _BLOCK):
            block, cell = numbers[start : start + _BLOCK], found[start : start + _BLOCK]
            flag = passed[: block.size]
            for edge in self.edges:
                np.greater_equal(block, edge, out=flag)
                np.add(cell, flag.view(np.uint8), out=cell)
        return found

    @property
    def labels(self) -> tuple[str, ...]:
        if self.values:
            return tuple(plain(value, 6) for value in self.values)
        if not self.edges:
            return ("any value",)
        between = (f"{plain(low)} to {plain(high)}" for low, high in zip(self.edges, self.edges[1:], strict=False))
        return (f"below {plain(self.edges[0])}", *between, f"{plain(self.edges[-1])} or more")


@dataclass(frozen=True)
class TextCells:
    """``levels``: a cell for each, and one more for every text that the baseline does not have. Or, where the baseline has more than 50 levels,
    ``levels`` is empty and the cell is a hash: CRC-32 (ISO 3309) of the text in UTF-8, modulo ``buckets``. ``frequent``: the levels that the
    baseline has most of and their counts there, for explanations."""

    levels: tuple[str, ...]
    buckets: int = 0
    frequent: tuple[tuple[str, int], ...] = ()

    @property
    def size(self) -> int:
        """Cells of known levels; the cell of unseen ones comes after them."""
        return self.buckets or len(self.levels)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {level: place for place, level in enumerate(self.levels)}

    def cells(self, texts: Sequence[str]) -> NDArray[np.uint8]:
        """Each text's cell; ``size`` where no level of the baseline is meant."""
        if self.buckets:
            return np.array([zlib.crc32(text.encode()) % self.buckets for text in texts], np.uint8)
        return np.array([self._places.get(text, self.size) for text in texts], np.uint8)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        if not self.buckets:
            return self.levels
        names: list[list[str]] = [[] for _ in range(self.buckets)]
        for (level, _), cell in zip(self.frequent, self.cells([level for level, _ in self.frequent]), strict=True):
            names[cell].append(level)
        return tuple(f"{', '.join(known)} and others" if known else f"levels of group {cell + 1}" for cell, known in enumerate(names))


Cells = NumericCells | TextCells


@dataclass(frozen=True)
class Joint:
    """The multivariate check. ``scores``: by column, in the order of their names, the normal score of each cell (missing: 0). ``whitening``: shape
    (columns, directions); scores times it have unit variance and no correlation in the baseline. ``cells``: of the squared length of that."""

    scores: Mapping[str, tuple[float, ...]]
    whitening: tuple[tuple[float, ...], ...]
    cells: NumericCells

    def distances(self, codes: Mapping[str, Codes], known: Mapping[str, Mask | None]) -> FloatArray:
        """codes: each column's cells, shape (rows,); known: where it has a value (None: everywhere)."""
        return _squared_lengths(_score_matrix(self.scores, codes, known), np.array(self.whitening, np.float32))


@dataclass(frozen=True)
class Schema:
    """What profiles must share to be merged and compared: the cells of each column, in the order of the columns, and the multivariate check."""

    columns: Mapping[str, Cells]
    joint: Joint | None = None

    @classmethod
    def of(cls, columns: Mapping[str, pa.Array | pa.ChunkedArray], *, apart: Collection[str] = ()) -> Schema:
        """Fixed on the rows of the baseline, which must all be there (a level that they do not have counts as unseen later). apart: numeric
        columns that the multivariate check leaves out. ProfileError for a column that is neither numbers nor text."""
        sketch = SchemaSketch()
        sketch.add(pa.table(dict(columns)))
        return sketch.schema(apart=apart)


def column_kind(kind: pa.DataType) -> Literal["numeric", "text"] | None:
    """How a column of this Arrow type is profiled; None: not at all (times, lists, bytes). Truth values are text, "true" and "false"; a column
    without any value is numeric."""
    if pa.types.is_dictionary(kind):
        return column_kind(kind.value_type)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind):
        return "numeric"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_boolean(kind):
        return "text"
    return None


def numbers_of(column: pa.Array) -> tuple[FloatArray, int | Mask]:
    """Values as floats, NaN where there is none, and where a text is no number (0: nowhere). Empty text is missing."""
    if pa.types.is_dictionary(column.type) and column_kind(column.type) == "numeric":
        column = column.dictionary_decode()
    if column_kind(column.type) == "numeric":
        if pa.types.is_null(column.type) or pa.types.is_decimal(column.type):
            column = column.cast(pa.float64(), safe=False)
        return np.asarray(column.to_numpy(zero_copy_only=False), np.float64), 0
    place, texts = _dictionary(column)
    parsed = [_parse(text) for text in texts]
    numbers = np.array([np.nan if number is None else number for number in parsed] + [np.nan])
    wrong = np.array([number is None for number in parsed] + [False])
    return numbers[place], wrong[place]


def cells_of(column: pa.Array, cells: TextCells) -> Codes:
    """Each row's cell; ``size``: a level that the baseline does not have; ``size + 1``: missing."""
    place, texts = _dictionary(column)
    lookup: Codes = np.append(cells.cells(texts), np.uint8(cells.size + 1)).astype(np.uint8)
    return lookup[place]


def in_counted_half(numbers: Mapping[str, FloatArray], known: Mapping[str, Mask | None]) -> Mask:
    """Which rows the multivariate check counts; the others are those that its correlation is fitted on. By a hash of the row's numbers, the same
    for equal rows whatever file they are in: FNV-1a (Fowler, Noll & Vo 1991) over words of 64 bits, and the finisher of MurmurHash3."""
    hashed = np.full(next(iter(numbers.values())).size, 0xCBF29CE484222325, np.uint64)
    for name, values in numbers.items():
        word = (values + 0.0).view(np.uint64)  # minus zero is zero
        where = known[name]
        hashed ^= word if where is None else word * where
        hashed *= np.uint64(0x9E3779B97F4A7C15)
    hashed ^= hashed >> np.uint64(33)
    hashed *= np.uint64(0xFF51AFD7ED558CCD)
    found: Mask = hashed >= np.uint64(1 << 63)
    return found


@dataclass
class SchemaSketch:
    """Takes the rows of a baseline in batches, in memory that does not grow with them, and fixes a schema: quantiles and correlation on an even
    sample of the rows, the levels of text on all of them."""

    _kinds: dict[str, str] = field(default_factory=dict)
    _numbers: dict[str, list[FloatArray]] = field(default_factory=dict)
    _levels: dict[str, Tally[str]] = field(default_factory=dict)
    _step: int = 1
    _rows: int = 0
    _kept: int = 0

    def add(self, columns: pa.RecordBatch | pa.Table) -> None:
        """ProfileError for a column that is neither numbers nor text, or for other columns than the batch before had."""
        names = list(columns.schema.names)
        if not self._kinds:
            for name, kind in zip(names, columns.schema.types, strict=True):
                self._start(name, column_kind(kind), kind)
        if names != list(self._kinds):
            raise ProfileError(f"a part of the rows has the columns {', '.join(names)}, the part before {', '.join(self._kinds)}")
        for batch in [columns] if isinstance(columns, pa.RecordBatch) else columns.to_batches():
            self._add(batch)

    def schema(self, *, apart: Collection[str] = ()) -> Schema:
        """See ``Schema.of``."""
        numbers = {name: np.concatenate(parts) if parts else np.empty(0) for name, parts in self._numbers.items()}
        cells: dict[str, Cells] = {
            name: _numeric_cells(numbers[name]) if kind == "numeric" else _text_cells(self._levels[name]) for name, kind in self._kinds.items()
        }
        return Schema(cells, _fit_joint({name: numbers[name] for name in numbers if name not in apart}, cells))

    def _start(self, name: str, kind: str | None, arrow: pa.DataType) -> None:
        if kind is None:
            raise ProfileError(f"column {name!r} is {arrow}: a profile counts numbers and text, leave it out")
        if name == MULTIVARIATE:
            raise ProfileError(f"a column cannot be called {MULTIVARIATE!r}, which is the name of the check of all columns together: rename it")
        self._kinds[name] = kind
        if kind == "numeric":
            self._numbers[name] = []
        else:
            self._levels[name] = Tally()

    def _add(self, batch: pa.RecordBatch) -> None:
        first = -self._rows % self._step
        self._rows += batch.num_rows
        chosen = np.arange(first, batch.num_rows, self._step)
        for name, parts in self._numbers.items():
            column = batch.column(name)
            parts.append(numbers_of(column if self._step == 1 else column.take(pa.array(chosen)))[0])
        self._kept += chosen.size
        while self._kept > 2 * SAMPLE:
            self._numbers = {name: [np.concatenate(parts)[::2].copy()] for name, parts in self._numbers.items()}
            self._step *= 2
            self._kept = -(-self._kept // 2)
        for name, tally in self._levels.items():
            counted = pc.value_counts(_decoded(batch.column(name)))
            texts = counted.field("values").to_pylist()
            tally.update({text: count for text, count in zip(texts, counted.field("counts").to_pylist(), strict=True) if text is not None})
            if len(tally) > _TALLIED:  # far from being named one by one: the rare ones need not be remembered
                self._levels[name] = Tally(dict(tally.most_common(_TALLIED // 2)))


def _parse(text: str) -> float | None:
    """None: no number."""
    if not text.strip():
        return np.nan
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _decoded(column: pa.Array) -> pa.Array:
    """As text."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


def _dictionary(column: pa.Array) -> tuple[NDArray[np.intp], list[str]]:
    """Each row's place among the distinct texts, −1 where it is missing."""
    if not pa.types.is_dictionary(column.type):
        column = _decoded(column).dictionary_encode()
    texts = _decoded(column.dictionary).to_pylist()
    found = column.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    if None in texts:
        empty = texts.index(None)
        found = np.where(found == empty, -1, found)
        texts[empty] = ""
    return found, texts


def _numeric_cells(values: FloatArray, bins: int = BINS) -> NumericCells:
    """Inner edges of ``bins`` cells of about equal size, the outer ones in three. A column of few distinct values gets a cell for each; a value that
    fills more than a cell gets one of its own, so that its share shows."""
    known = np.sort(values[np.isfinite(values)])
    distinct, counts = np.unique(known, return_counts=True)
    if distinct.size <= bins:
        return NumericCells(tuple(distinct[1:].tolist()), tuple(distinct.tolist()))
    heavy = np.flatnonzero(counts > known.size / bins)
    edges = np.concatenate([
        np.quantile(known, [*np.linspace(0, 1, bins + 1)[1:-1], *TAILS], method="higher"),
        distinct[heavy],
        distinct[heavy[heavy + 1 < distinct.size] + 1],
    ])  # fmt: skip
    edges = np.unique(edges)
    return NumericCells(tuple(edges[edges > distinct[0]].tolist()))


def _text_cells(tally: Tally[str]) -> TextCells:
    if len(tally) <= LEVELS:
        return TextCells(tuple(sorted(tally)))
    return TextCells((), BUCKETS, tuple(sorted(tally.items(), key=lambda pair: (-pair[1], pair[0]))[:NAMED]))


def _fit_joint(numbers: Mapping[str, FloatArray], cells: Mapping[str, Cells]) -> Joint | None:
    """None where fewer than two columns vary, or where so few rows differ that they do not fall in two halves."""
    codes: dict[str, Codes] = {}
    known: dict[str, Mask | None] = {}
    scores: dict[str, tuple[float, ...]] = {}
    for name, values in sorted(numbers.items()):  # in an order that JSON cannot lose
        its = cells[name]
        if not isinstance(its, NumericCells) or its.size < 2:
            continue
        codes[name], known[name] = its.codes(values), np.isfinite(values)
        scores[name] = _normal_scores(np.bincount(codes[name][known[name]], minlength=its.size))
    if len(scores) < 2:
        return None
    counted = in_counted_half({name: numbers[name] for name in scores}, known)
    if not _LEAST_HALF <= counted.mean() <= 1 - _LEAST_HALF:
        return None
    matrix = _score_matrix(scores, codes, known)
    whitening = _whitening(matrix[~counted].astype(np.float64))
    distances = np.round(_squared_lengths(matrix[counted], whitening.astype(np.float32)), 3)
    distinct = np.unique(distances)
    place = np.searchsorted(distinct, _numeric_cells(distances).edges)
    # between distances that occur: the last digits of a sum of products differ from machine to machine
    edges = (distinct[place] + distinct[place - 1]) / 2
    return Joint(scores, tuple(tuple(row) for row in whitening.tolist()), NumericCells(tuple(edges.tolist())))


def _normal_scores(counts: NDArray[np.int64]) -> tuple[float, ...]:
    """Normal quantile of each cell's middle rank, scaled to mean 0 and variance 1."""
    share = counts / counts.sum()
    score = ndtri(np.clip(np.cumsum(share) - share / 2, 1e-6, 1 - 1e-6))
    score -= score @ share
    spread = np.sqrt(score**2 @ share)
    return tuple(np.round(score / spread if spread > 0 else score, 4).tolist())


def _whitening(scores: FloatArray) -> FloatArray:
    """Inverse square root of the covariance, shrunk towards the identity (Ledoit & Wolf 2004, A well-conditioned estimator for large-dimensional
    covariance matrices, §3.2). Variances below a twentieth are taken as that: columns that are copies of each other differ by rounding."""
    rows, width = scores.shape
    covariance = scores.T @ scores / rows
    scale = np.trace(covariance) / width
    spread = ((covariance - scale * np.eye(width)) ** 2).sum()
    noise = (((scores**2).sum(axis=1) ** 2).mean() - (covariance**2).sum()) / rows
    shrinkage = min(1.0, noise / spread) if spread > 0 else 1.0
    values, vectors = np.linalg.eigh((1 - shrinkage) * covariance + shrinkage * scale * np.eye(width))
    found: FloatArray = np.round(vectors / np.sqrt(np.maximum(values, _LEAST_VARIANCE)), 5)
    return found


def _score_matrix(scores: Mapping[str, tuple[float, ...]], codes: Mapping[str, Codes], known: Mapping[str, Mask | None]) -> NDArray[np.float32]:
    rows = next(iter(codes.values())).size
    found = np.empty((len(scores), rows), np.float32)
    for place, (name, score) in enumerate(scores.items()):
        np.take(np.array(score, np.float32), codes[name], out=found[place], mode="clip")
        where = known[name]
        if where is not None:
            found[place] *= where
    return found.T


def _squared_lengths(scores: NDArray[np.float32], whitening: NDArray[np.float32]) -> FloatArray:
    white = scores @ whitening
    found: FloatArray = np.einsum("ij,ij->i", white, white).astype(np.float64)
    return found
