"""One part of a data set (``train.parquet``, ``validation.parquet``, ``test.parquet``) as arrays.

Columns: event_id, event_time, entity_id, group_id, amount, ``facet_*`` (text), the features (numeric), label (0 or 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from include.jobs.context import JobError
from include.lifecycle.domain import EVENT_COLUMNS

LABEL_COLUMN = "label"
FACET_PREFIX = "facet_"


@dataclass(frozen=True)
class DatasetFile:
    """Rows in the order of the file, which is that of time."""

    source: str
    table: pa.Table

    @classmethod
    def read(cls, path: Path, source: str = "") -> DatasetFile:
        """JobError where the file is no Parquet, lacks a column, or has labels other than 0 and 1, or only one of them.
        ``source`` names the file in messages."""
        source = source or str(path)
        try:
            table = pq.read_table(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise JobError(f"{source} cannot be read as Parquet: {error}") from error
        missing = [name for name in (*EVENT_COLUMNS, LABEL_COLUMN) if name not in table.column_names]
        if missing:
            raise JobError(f"{source} has no column {', '.join(missing)}; it has {', '.join(table.column_names)}")
        data = cls(source, table)
        if not data.features:
            raise JobError(f"{source} has no feature: nothing beside {', '.join(table.column_names)}")
        text = [name for name in data.features if not _numeric(table.schema.field(name).type)]
        if text:
            raise JobError(f"{source}: features must be numbers, but {', '.join(text)} are not")
        data._check_labels()
        return data

    def _check_labels(self) -> None:
        values = self.table[LABEL_COLUMN].to_numpy(zero_copy_only=False)
        if values.size == 0:
            raise JobError(f"{self.source} has no rows")
        bad = int((~np.isin(values, (0, 1))).sum()) if values.dtype.kind in "iufb" else values.size
        if bad:
            raise JobError(f"{self.source}: {bad} of {values.size} labels are neither 0 nor 1 (missing ones among them)")
        positives = int((values == 1).sum())
        if positives in {0, values.size}:
            raise JobError(
                f"{self.source}: all {values.size} labels are {int(positives > 0)}; a model needs fraud and genuine events. "
                "Take a longer training window, or wait for labels to mature"
            )

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(
            name
            for name in self.table.column_names
            if name not in EVENT_COLUMNS and name != LABEL_COLUMN and not name.startswith(FACET_PREFIX)
        )

    @property
    def rows(self) -> int:
        return int(self.table.num_rows)

    @property
    def labels(self) -> NDArray[np.float64]:
        return self.numbers(LABEL_COLUMN)

    def numbers(self, column: str) -> NDArray[np.float64]:
        """A numeric column, null as NaN. Shape (rows,)."""
        return self.table[column].cast(pa.float64()).to_numpy(zero_copy_only=False)

    def texts(self, column: str) -> list[str | None]:
        return self.table[column].cast(pa.string()).to_pylist()

    def days(self) -> NDArray[np.datetime64]:
        """The UTC date of each event."""
        return self.table["event_time"].to_numpy(zero_copy_only=False).astype("datetime64[D]")

    def matrix(self, features: tuple[str, ...]) -> NDArray[np.float32]:
        """The features in that order, shape (rows, features), null as NaN. JobError names those the file lacks, and infinite values."""
        lacking = [name for name in features if name not in self.table.column_names]
        if lacking:
            raise JobError(f"{self.source} lacks {len(lacking)} of the model's {len(features)} features: {', '.join(lacking)}")
        matrix = np.empty((self.rows, len(features)), np.float32)
        for place, name in enumerate(features):  # column by column: all of them as 64 bits would be twice the matrix beside it
            matrix[:, place] = self.numbers(name)
        infinite = [name for name, column in zip(features, matrix.T, strict=True) if np.isinf(column).any()]
        if infinite:
            raise JobError(f"{self.source}: {', '.join(infinite)} hold infinite values (or beyond what 32 bits hold)")
        return matrix

    def summary(self) -> dict[str, str | int]:
        times = self.table["event_time"].to_numpy(zero_copy_only=False).astype("datetime64[s]")
        return {
            "rows": self.rows,
            "positives": int(self.labels.sum()),
            "first_event": f"{times.min()}Z",
            "last_event": f"{times.max()}Z",
        }


def _numeric(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
