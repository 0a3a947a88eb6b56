"""Scores and labels of a file's rows, for measured and estimated quality, and what is wrong with the labels.

The rows go through a database that spills to disk: memory stays bounded, and whether labels of one id contradict each other is asked of all rows.
Of more than ``MOST_ROWS`` rows every second, third, … is taken.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from include.jobs.columns_file import ColumnsFile, as_days, as_numbers, as_texts
from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.domain import Monitoring
from include.lifecycle.estimated_quality import concept_drift, estimated_quality
from include.lifecycle.evaluation import Events
from include.lifecycle.features import open_database
from include.lifecycle.profile_schema import numbers_of
from include.lifecycle.quality_drift import over_time, quality_drift
from include.lifecycle.quality_reference import quality_reference

MOST_ROWS = 1_000_000
_MEMORY = "500MB"
_NO_DATE = np.datetime64("1970-01-01", "D")
_SCHEMA = pa.schema([("id", pa.string()), ("label", pa.float64()), ("wrong", pa.bool_()), ("score", pa.float64()), ("day", pa.date32())])
_CONTRADICTING = """
CREATE TABLE contradicting AS
SELECT id FROM given WHERE id IS NOT NULL AND label IS NOT NULL GROUP BY id HAVING min(label) <> max(label)
"""
_TAKEN = """
SELECT CASE WHEN id IN (SELECT id FROM contradicting) THEN NULL ELSE label END AS label, score, day
FROM given WHERE rowid % ? = 0 ORDER BY rowid
"""


@dataclass(frozen=True)
class LabelledRows:
    """``labels`` (NaN: not known, or not to be trusted), ``scores`` (NaN: none) and ``days`` of the rows taken, shape (rows,) each. ``rows``: of the
    whole file; ``wrong``: labels of it that are neither 0 nor 1, nor missing; ``contradicting``: ids that are labelled both, None where rows have
    no id. ``dated``: whether ``days`` are days, and not one date for all."""

    labels: FloatArray
    scores: FloatArray
    days: NDArray[np.datetime64]
    rows: int
    wrong: int
    contradicting: int | None
    dated: bool

    @classmethod
    def read(cls, file: ColumnsFile, *, label: str | None, score: str | None, time: str | None, id: str | None) -> LabelledRows:
        """A column that is None is missing in every row."""
        reader = pa.RecordBatchReader.from_batches(_SCHEMA, _batches(file, label, score, time, id))
        with tempfile.TemporaryDirectory() as scratch, open_database(Path(scratch), _MEMORY) as connection:
            connection.register("reader", reader)
            connection.execute("CREATE TABLE given AS SELECT * FROM reader")
            connection.execute(_CONTRADICTING)
            (counts,) = connection.execute("SELECT count(*), count(*) FILTER (wrong), (SELECT count(*) FROM contradicting) FROM given").fetchall()
            rows, wrong, contradicting = (int(count) for count in counts)
            taken = connection.sql(_TAKEN, params=[-(-rows // MOST_ROWS) or 1]).to_arrow_table()
        labels, scores = (taken[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in ("label", "score"))
        days = np.where(taken["day"].is_null(), _NO_DATE, taken["day"].to_numpy(zero_copy_only=False).astype("datetime64[D]"))
        return cls(labels, scores, days, rows, wrong, None if id is None else contradicting, time is not None)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.labels)

    def events(self, chosen: NDArray[np.bool_]) -> tuple[Events, FloatArray]:
        """The chosen rows, each an entity of its own and without an amount, and their scores."""
        own = np.arange(int(chosen.sum())).astype(str)
        return Events(np.nan_to_num(self.labels[chosen]), np.ones(own.size), self.days[chosen], own, own), self.scores[chosen]

    def reference(self) -> dict[str, Any] | None:
        """What quality of later rows is compared with; None without a labelled row that has a score."""
        chosen = self.labelled & np.isfinite(self.scores)
        return quality_reference(*self.events(chosen), None) if chosen.any() else None

    def sections(self, reference: dict[str, Any], monitoring: Monitoring) -> dict[str, Any]:
        """The sections of a report: measured on the labelled rows, estimated on the others."""
        found: dict[str, Any] = {}
        labelled = self.labelled
        if labelled.any():
            events, scores = self.events(labelled)
            found["quality"] = quality_drift(reference, events, scores, None, monitoring, unlabelled=int((~labelled).sum()))
            found["concept_drift"] = concept_drift(reference, events, scores, None, monitoring)
            if self.dated:
                events, scores = self.events(np.ones(labelled.size, bool))
                found["quality"]["over_time"] = over_time(reference, events, scores, labelled, None)
        if not labelled.all():
            found["estimated_quality"] = estimated_quality(reference, *self.events(~labelled), None, monitoring)
        if not self.dated:
            for section in found.values():
                section.update(first_day=None, last_day=None)
        return found


def _batches(file: ColumnsFile, label: str | None, score: str | None, time: str | None, id: str | None) -> Iterator[pa.RecordBatch]:
    named = list(dict.fromkeys(name for name in (label, score, time, id) if name is not None))
    for batch in file.batches(named):
        labels, wrong = _labels(batch[label]) if label is not None else (np.full(batch.num_rows, np.nan), np.zeros(batch.num_rows, bool))
        scores = numbers_of(as_numbers(batch[score]))[0] if score is not None else np.full(batch.num_rows, np.nan)
        ids = as_texts(batch[id]) if id is not None else pa.nulls(batch.num_rows)
        if pa.types.is_dictionary(ids.type):
            ids = ids.dictionary_decode()
        columns = [
            ids.cast(pa.string()),
            pa.array(labels, from_pandas=True),
            pa.array(wrong),
            pa.array(scores, from_pandas=True),
            as_days(batch[time]) if time is not None else pa.nulls(batch.num_rows, pa.date32()),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


def _labels(column: pa.Array) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Labels, NaN where there is none or a wrong one; and where it is wrong. Truth values are labels too."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.float64())
    elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        lower = pc.utf8_lower(column)
        column = pc.case_when(pc.make_struct(pc.equal(lower, "true"), pc.equal(lower, "false")), "1", "0", column.cast(pa.string()))
    values, no_number = numbers_of(as_numbers(column))
    wrong = np.asarray(no_number, bool) | (~np.isnan(values) & (values != 0) & (values != 1))
    return np.where(wrong, np.nan, values), np.broadcast_to(wrong, values.shape)
