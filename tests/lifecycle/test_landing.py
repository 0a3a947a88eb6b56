"""Reading landed files: every record once, in ``cells`` or in ``damaged``, and the two CSV readers agree."""

from __future__ import annotations

import csv
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.lifecycle import landing
from include.lifecycle.domain import Column, Table

TABLE = Table("t", (Column("a", "string"), Column("b", "string"), Column("c", "string")), ("a",), "reference")
CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
ROWS = st.lists(st.tuples(CELL, CELL, CELL).filter(any), max_size=8)


def cells(file: landing.LandedFile) -> list[tuple[str | None, ...]]:
    assert file.cells is not None
    rows = file.cells.select(TABLE.column_names).to_pylist()
    return [tuple(row.values()) for row in rows]


@settings(max_examples=300, deadline=None)
@given(ROWS, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_what_a_csv_writer_writes_is_read_back(rows: list[tuple[str, str, str]], line_end: str, byte_order_mark: bool) -> None:
    text = io.StringIO()
    careless = any("\r" in cell for row in rows for cell in row)  # Python's writer leaves a carriage return without quotes
    writer = csv.writer(text, lineterminator=line_end, quoting=csv.QUOTE_ALL if careless else csv.QUOTE_MINIMAL)
    writer.writerows([TABLE.column_names, *rows])
    body = text.getvalue().encode("utf-8-sig" if byte_order_mark else "utf-8")
    file = landing.read(body, "t.csv", TABLE)
    assert file.refused is None
    assert file.damaged == []
    assert cells(file) == [tuple(cell or None for cell in row) for row in rows]
    originals = file.originals(range(1, file.records + 1))
    assert [next(csv.reader([original.decode()])) for original in originals if original] == [list(row) for row in rows]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from([b"a,b,c", b"x", b"\n", b"\r\n", b"\r", b",", b'"', b"\0", b"\xe9", "é".encode(), b" "]), max_size=40).map(b"".join))
def test_every_record_is_read_or_damaged_once(rest: bytes) -> None:
    file = landing.read(b"a,b,c\n" + rest, "t.csv", TABLE)
    assert file.refused is None
    assert file.cells is not None
    numbers = file.cells[landing.RECORD].to_pylist() + [damaged.record for damaged in file.damaged]
    assert sorted(numbers) == list(range(1, file.records + 1))
    body = b"a,b,c\n" + rest
    position = len(b"a,b,c")
    for original in file.originals(range(1, file.records + 1)):
        found = body.index(original, position)
        assert not body[position:found].strip(b"\r\n"), "text between two records belongs to neither"
        position = found + len(original)
    assert not body[position:].strip(b"\r\n")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["", "x", "é", "N/A", "None", "1.5"]), min_size=2, max_size=4), max_size=6), st.booleans())
def test_the_fast_reader_and_the_careful_one_agree(rows: list[list[str]], crlf: bool) -> None:
    end = "\r\n" if crlf else "\n"
    plain = end.join([",".join(row) for row in [["a", "b", "c"], *rows]]) + end
    fast = landing.read(plain.encode(), "t.csv", TABLE)
    quoted = plain.replace("a,b,c", '"a",b,c', 1)  # a quote anywhere sends the file to the careful reader
    careful = landing.read(quoted.encode(), "t.csv", TABLE)
    assert cells(fast) == cells(careful)
    assert fast.damaged == careful.damaged
    assert fast.originals(range(1, fast.records + 1)) == careful.originals(range(1, careful.records + 1))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.sampled_from(["t.csv", "t.parquet", "t.txt"]))
def test_reading_never_raises(body: bytes, name: str) -> None:
    file = landing.read(body, name, TABLE)
    assert file.refused or file.records == file.cells.num_rows + len(file.damaged)  # type: ignore[union-attr]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4), st.integers(0, 10_000))
def test_a_damaged_parquet_file_is_read_or_refused(changes: list[tuple[int, int]], cut: int) -> None:
    stream = io.BytesIO()
    pq.write_table(pa.table({name: [f"{name}{number}" for number in range(50)] for name in TABLE.column_names}), stream)
    body = bytearray(stream.getvalue())
    for position, value in changes:
        body[position % len(body)] = value
    file = landing.read(bytes(body[: cut % len(body)] if cut % 3 == 0 else body), "t.parquet", TABLE)
    assert file.refused or file.records == file.cells.num_rows  # type: ignore[union-attr]


def test_an_unbalanced_quote_harms_its_own_line_only() -> None:
    file = landing.read(b'a,b,c\n1,2,3\n4,"5,6\n7,8,9\n"x\ny",1,2\n3,"4""5",6\n', "t.csv", TABLE)
    assert cells(file) == [("1", "2", "3"), ("7", "8", "9"), ("x\ny", "1", "2"), ("3", '4"5', "6")]
    assert file.damaged == [landing.DamagedRecord(2, "unbalanced quotes")]
    assert file.originals([2, 4]) == [b'4,"5,6', b'"x\ny",1,2']


def test_the_last_line_needs_its_end() -> None:
    file = landing.read(b"a,b,c\n1,2,3\n4,5,6", "t.csv", TABLE)
    assert cells(file) == [("1", "2", "3")]
    assert [damaged.reason for damaged in file.damaged] == ["the file ends inside this record: it has no line end"]


def test_lines_ended_by_carriage_returns_alone() -> None:
    assert cells(landing.read(b"a,b,c\r1,2,3\r", "t.csv", TABLE)) == [("1", "2", "3")]


@pytest.mark.parametrize("order", [["c", "a", "b"], ["b", "x", "c", "a"]])
def test_columns_are_found_by_name(order: list[str]) -> None:
    file = landing.read(f"{','.join(order)}\n{','.join(order)}\n".encode(), "t.csv", TABLE)
    assert cells(file) == [("a", "b", "c")]
    assert file.extra_columns == tuple(set(order) - set("abc"))


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
@pytest.mark.parametrize("quoted", [False, True])
def test_columns_are_found_whatever_their_case(name: str, quoted: bool) -> None:
    if name == "t.parquet":
        body = parquet({"C": ["3"], "a": ["1"], "Extra": ["x"], "B": ["2"]})
    else:  # a quote sends the file to the careful reader
        body = b'C,a,Extra,"B"\n3,1,x,2\n' if quoted else b"C,a,Extra,B\n3,1,x,2\n"
    file = landing.read(body, name, TABLE)
    assert cells(file) == [("1", "2", "3")]
    assert file.extra_columns == ("Extra",)
    assert b"C" in file.header, "what goes to quarantine is as it landed"
    assert file.originals([1]) == [b'{"C": "3", "a": "1", "Extra": "x", "B": "2"}' if name == "t.parquet" else b"3,1,x,2"]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a", "b", "c", "B"], "columns that differ only by case: B and b"),
        (["A", "b", "C", "a", "c"], "columns that differ only by case: A and a, C and c"),
        (["A", "B", "B", "c"], "columns that occur twice: B"),
        (["A", "c"], "missing columns: b"),
        (["a", "b", "c", "x", "X", "x"], None),
    ],
)
def test_a_file_in_which_two_columns_could_be_meant_is_refused(names: list[str], reason: str | None) -> None:
    file = landing.read(f"{','.join(names)}\n{','.join(names)}\n".encode(), "t.csv", TABLE)
    assert (file.refused, file.records) == (reason, 1)
    arrays = [pa.array([each]) for each in names]
    file = landing.read(parquet(pa.Table.from_arrays(arrays, names)), "t.parquet", TABLE)
    assert (file.refused, file.records) == (reason, 1)


def parquet(rows: pa.Table | dict[str, list[str]]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(rows if isinstance(rows, pa.Table) else pa.table(rows), stream)
    return stream.getvalue()
