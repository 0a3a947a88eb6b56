"""The reader of ``monitor``: types, missing values, days, and memory that does not grow with the file."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.jobs.columns_file import ColumnsFile, as_days, as_numbers, as_texts
from include.jobs.context import JobError

MOMENT = dt.datetime(2026, 3, 31, 23, 30, tzinfo=dt.UTC)


def test_types_of_parquet(tmp_path: Path) -> None:
    table = pa.table({
        "whole": pa.array([1], pa.int8()), "decimal": pa.array([Decimal("1.5")]), "float": pa.array([1.5], pa.float32()), "nothing": pa.nulls(1),
        "text": ["a"], "large": pa.array(["a"], pa.large_string()), "dictionary": pa.array(["a"]).dictionary_encode(), "truth": [True],
        "date": [dt.date(2026, 3, 1)], "moment": [MOMENT], "time": [dt.time(1)], "list": [[1]], "struct": [{"a": 1}], "bytes": [b"a"],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "types.parquet")
    kinds = ColumnsFile.open(tmp_path / "types.parquet").kinds
    expected = {"numeric": 4, "text": 4, "time": 3, None: 3}
    assert list(kinds.values()) == [kind for kind, count in expected.items() for _ in range(count)]


def test_types_of_csv(tmp_path: Path) -> None:
    columns = {
        "number": ["1", "-2.5e3", "", "NA"] * 25,
        "mostly": ["1"] * 95 + ["oops"] * 5,
        "seldom": ["1"] * 80 + ["oops"] * 20,
        "truth": ["True", "False"] * 50,
        "day": ["2026-03-01", ""] * 50,
        "moment": ["2026-03-01T10:00:00Z", "2026-03-01 10:00:00+02:00"] * 50,
        "nothing": [""] * 100,
        "text": ["NA", "DE"] * 50,
    }
    lines = ["\t".join(columns), *("\t".join(row) for row in zip(*columns.values(), strict=True))]
    path = tmp_path / "types.tsv"
    path.write_text("\n".join(lines))
    file = ColumnsFile.open(path)
    assert dict(file.kinds) == {
        "number": "numeric", "mostly": "numeric", "seldom": "text", "truth": "text", "day": "time", "moment": "time", "nothing": "numeric",
        "text": "text",
    }  # fmt: skip
    (batch,) = file.batches(["text", "number"])
    assert batch.schema.names == ["text", "number"]
    assert batch["text"].null_count == 0, "in a text column, NA is a text"
    assert as_numbers(batch["number"]).to_pylist() == [1, -2500, None, None] * 25


def test_one_column_of_csv_and_quoted_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text('note\n"two\nlines"\nplain\n')
    file = ColumnsFile.open(path)
    (batch,) = file.batches(file.names)
    assert batch["note"].to_pylist() == ["two\nlines", "plain"]


def test_numbers_and_texts() -> None:
    assert as_numbers(pa.array([" 1 ", "-", None, "2"])).to_pylist() == [1, None, None, 2]
    assert as_numbers(pa.array(["1", "x", "NaN"])).to_pylist() == ["1", "x", None]
    assert as_numbers(pa.array(["1", "2"]).dictionary_encode()).to_pylist() == [1, 2]
    assert as_texts(pa.array(["True", "no", None]).dictionary_encode()).to_pylist() == ["true", "no", None]
    assert as_texts(pa.array([True, False])).to_pylist() == ["true", "false"]
    assert as_texts(pa.array([1.0, 2.5])).to_pylist() == ["1", "2.5"]


def test_days_are_utc() -> None:
    day = dt.date(2026, 3, 31)
    berlin = pa.array([MOMENT, None], pa.timestamp("us", "Europe/Berlin"))
    texts = ["2026-03-31", "2026-03-31T23:59:59Z", "2026-04-01 01:30:00+02:00", "31.3.2026", "", None]
    assert as_days(berlin).to_pylist() == [day, None]
    assert as_days(pa.array([day], pa.date64())).to_pylist() == [day]
    for array in (pa.array(texts), pa.array(texts).dictionary_encode()):
        assert as_days(array).to_pylist() == [day, day, day, None, None, None]
    assert as_days(pa.array([1, 2])).to_pylist() == [None, None]


def test_what_is_no_file(tmp_path: Path) -> None:
    for path, says in ((tmp_path, "folder"), (tmp_path / "none.csv", "no such file")):
        with pytest.raises(JobError, match=says):
            ColumnsFile.open(path)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Eight times the rows, a tenth more memory at most, whatever the row groups."""
    generator = np.random.default_rng(1)
    peaks = []
    for number, rows in enumerate((400_000, 3_200_000)):
        path = tmp_path / f"{number}.parquet"
        columns = {f"x{column}": generator.normal(size=rows).astype(np.float32) for column in range(4)}
        pq.write_table(pa.table(columns), path, row_group_size=200_000)
        code = (
            "import sys; from pathlib import Path; from include.jobs.columns_file import ColumnsFile; from bench.peers import peak_bytes; "
            "file = ColumnsFile.open(Path(sys.argv[1])); rows = sum(batch.num_rows for batch in file.batches(file.names)); "
            "print(rows, peak_bytes())"
        )
        ended = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
        read, peak = map(int, ended.stdout.split())
        assert read == rows
        peaks.append(peak)
    assert peaks[1] <= 1.1 * peaks[0]
