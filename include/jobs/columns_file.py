"""A Parquet or CSV file of any size, read in batches: what its columns are, and their rows as profiles count them.

Parquet says itself what its columns are. A CSV says nothing: a column is numeric where nine tenths of its known cells are numbers (those that are
not are then counted as such, never a reason to stop), a time where every known cell is a date or a timestamp in ISO 8601, and text otherwise. An
empty cell is missing, and in a numeric column so is what usual programs write for it (``MISSING_NUMBERS``).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from include.jobs.context import JobError
from include.lifecycle.profile_schema import column_kind, numbers_of

Kind = Literal["numeric", "text", "time"]
BATCH_ROWS = 1 << 17
CSV_BLOCK_BYTES = 1 << 23
DELIMITERS = ",;\t|"
NUMERIC_SHARE = 0.9
MISSING_NUMBERS = ("", "NA", "N/A", "n/a", "null", "NULL", "None", "-", "NaN", "nan")
_ABSENT = pa.array(MISSING_NUMBERS)
_TRUTH = pa.array(["True", "TRUE", "False", "FALSE"])
_PARQUET_MAGIC = b"PAR1"
_HEAD_BYTES = 1 << 16
# Otherwise all that was read stays in memory, and whole row groups are read at once.
_STREAMED = {"pre_buffer": False, "buffer_size": 1 << 20}
_DAYS = "SELECT CAST(make_timestamp(epoch_us(TRY_CAST(value AS TIMESTAMPTZ))) AS DATE) AS value FROM given"


@dataclass(frozen=True)
class ColumnsFile:
    """One file. ``names``: its columns, in the file's order; ``delimiter``: of a CSV, None for Parquet."""

    path: Path
    names: tuple[str, ...]
    delimiter: str | None = None

    @classmethod
    def open(cls, path: Path) -> ColumnsFile:
        """Reads the names only. JobError where there is no such file, it is neither Parquet nor CSV, or a column name comes twice."""
        if not path.is_file():
            raise JobError(f"{path}: {'this is a folder, and one file is wanted' if path.is_dir() else 'there is no such file'}")
        with _reading(path), path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if not head:
            raise JobError(f"{path}: the file is empty, without even the names of columns")
        if head.startswith(_PARQUET_MAGIC) or path.suffix.lower() in {".parquet", ".pq"}:
            with _reading(path):
                found = cls(path, tuple(pq.read_schema(path).names))
        else:
            found = cls(path, *_header(path, head))
        if twice := sorted({name for name in found.names if found.names.count(name) > 1}):
            raise JobError(f"{path}: the column {', '.join(map(repr, twice))} comes more than once: give every column a name of its own")
        return found

    @property
    def declares_types(self) -> bool:
        return self.delimiter is None

    @cached_property
    def kinds(self) -> Mapping[str, Kind | None]:
        """What each column is; None: nothing that has a distribution, such as a list. A CSV is read once for it."""
        if self.delimiter is None:
            with _reading(self.path):
                schema = pq.read_schema(self.path)
            return {name: _declared(schema.field(name).type) for name in self.names}
        known, wrong, times = (dict.fromkeys(self.names, 0) for _ in range(3))
        for batch in self.batches(self.names):
            for name, column in zip(self.names, batch.columns, strict=True):
                only_times = times[name] == known[name]
                known[name] += len(column) - column.null_count - int(pc.is_in(column, value_set=_ABSENT).true_count)
                wrong[name] += int(np.sum(numbers_of(as_numbers(column))[1]))
                if only_times and wrong[name]:
                    times[name] += len(column) - as_days(column).null_count
        return {name: _sniffed(known[name], wrong[name], times[name]) for name in self.names}

    def batches(self, names: Sequence[str], rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """The columns ``names``, in that order; texts of a Parquet file as dictionaries, all of a CSV as text. Memory does not grow with the file.
        JobError where the file is damaged."""
        wanted = list(names)
        with _reading(self.path):
            if self.delimiter is None:
                schema = pq.read_schema(self.path)
                texts = [name for name in wanted if _is_text(schema.field(name).type)]
                parquet = pq.ParquetFile(self.path, read_dictionary=texts, page_checksum_verification=True, **_STREAMED)
                for batch in parquet.iter_batches(rows, columns=wanted):
                    yield batch.select(wanted)
            else:
                yield from self._csv_batches(wanted, self.delimiter)

    def _csv_batches(self, names: list[str], delimiter: str) -> Iterable[pa.RecordBatch]:
        convert = pacsv.ConvertOptions(
            column_types=dict.fromkeys(self.names, pa.string()),
            include_columns=names,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        )
        parse = pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        read = pacsv.ReadOptions(block_size=CSV_BLOCK_BYTES, use_threads=False)  # with threads, an error does not tell the row
        return pacsv.open_csv(self.path, read, parse, convert)


def as_numbers(column: pa.Array) -> pa.Array:
    """Numbers, missing ones null; or, where some text is no number, the texts, of which the others are numbers or null."""
    if column_kind(column.type) == "numeric":
        return column
    texts = (column.dictionary_decode() if pa.types.is_dictionary(column.type) else column).cast(pa.string())
    try:
        return texts.cast(pa.float64())
    except pa.ArrowInvalid:
        trimmed = pc.utf8_trim_whitespace(texts)
    known = pc.if_else(pc.is_in(trimmed, value_set=_ABSENT), pa.scalar(None, pa.string()), trimmed)
    try:
        return known.cast(pa.float64())
    except pa.ArrowInvalid:
        return known


def as_texts(column: pa.Array) -> pa.Array:
    """Text; truth values as "true" and "false", however they are written."""
    if pa.types.is_dictionary(column.type):
        return pa.DictionaryArray.from_arrays(column.indices, as_texts(column.dictionary))
    texts = column.cast(pa.string())
    truth = pc.is_in(texts, value_set=_TRUTH)
    return pc.if_else(truth, pc.utf8_lower(texts), texts) if truth.true_count else texts


def as_days(column: pa.Array) -> pa.Array:
    """The UTC dates (date32) of dates, timestamps, or texts of ISO 8601; null where there is none. A time without an offset counts as UTC."""
    if pa.types.is_dictionary(column.type):
        return as_days(column.dictionary).take(column.indices)
    if pa.types.is_date(column.type):
        return column.cast(pa.date32())
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp(column.type.unit)).cast(pa.date32(), safe=False)  # an instant is stored in UTC, whatever its zone
    if column_kind(column.type) != "text":
        return pa.nulls(len(column), pa.date32())
    with duckdb.connect() as connection:  # its TRY_CAST goes cell by cell; Arrow's cast gives up on the whole column
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("given", pa.table({"value": column.cast(pa.string())}))
        return connection.sql(_DAYS).to_arrow_table()["value"].combine_chunks()


def _declared(arrow: pa.DataType) -> Kind | None:
    return column_kind(arrow) or ("time" if pa.types.is_temporal(arrow) else None)


def _sniffed(known: int, wrong: int, times: int) -> Kind:
    if wrong <= (1 - NUMERIC_SHARE) * known:
        return "numeric"
    return "time" if times == known else "text"


def _is_text(arrow: pa.DataType) -> bool:
    return pa.types.is_string(arrow) or pa.types.is_large_string(arrow)


def _header(path: Path, head: bytes) -> tuple[tuple[str, ...], str]:
    """Column names and delimiter of a CSV: the one that cuts the first line into most columns."""
    try:
        text = head.decode("utf-8-sig", errors="strict" if len(head) < _HEAD_BYTES else "ignore")
    except UnicodeDecodeError as error:
        raise JobError(f"{path}: this is neither Parquet nor a CSV in UTF-8 ({error}): convert it") from error
    if "\0" in text:
        raise JobError(f"{path}: this is neither Parquet nor a CSV: it holds zero bytes")
    line = next(iter(text.splitlines()), "")
    delimiter = max(DELIMITERS, key=line.count)
    names = next(csv.reader([line], delimiter=delimiter), [])
    if not names or not all(name.strip() for name in names):
        raise JobError(f"{path}: the first line must name every column, and it is {line[:80]!r}")
    return tuple(names), delimiter


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise JobError(f"{path}: cannot be read, it is damaged or not what its name says: {reason}") from error
