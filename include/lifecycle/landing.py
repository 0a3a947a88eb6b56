"""Reading landed files without trusting them: CSV and Parquet bytes into text cells, and what cannot be read, each with its reason.

A record is one row of a file. Whatever the bytes are, reading ends in one of two ways and raises nothing:

- the file is **refused** as a whole (``refused`` says why): empty, a declared column missing or there twice, not UTF-8, not Parquet;
- or each record is in ``cells`` (declared columns as text, null where the cell is empty) or in ``damaged``, once.

CSV is RFC 4180 in UTF-8, a byte order mark allowed, comma-separated, lines ended by LF, CRLF or CR, a header first. Blank lines are
no records. Three rules are stricter than the RFC, because the rows are about money: the last line needs its line end (without it nobody can
tell 26 from a cut 26146.72), a quote that does not close damages its own line and not the rest of the file, and a record has exactly as
many fields as the header. Columns that the domain does not declare are left out and named in ``extra_columns``: sources add columns, the
landed file keeps them, and to refuse would stop the business for a change that harms nobody. A declared column is found whatever the case
of its name, because exports write TX_DATETIME; a file in which two columns could be meant is refused.

How records are counted in a refused file: non-blank lines after the first (CSV; UTF-16 is decoded for this), the row count in the footer
(Parquet), 0 where there is no footer to be read. The file itself is kept whole in any case.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from include.lifecycle.domain import ColumnType, Table

RECORD = "_record"
"""The column of ``cells`` that numbers a file's records, from 1 in the order of the file."""
_JOINED_LINES = 1000  # a quoted field may span that many lines; beyond it, the quote is taken as unbalanced
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

csv.field_size_limit(2**31 - 1)  # a cell's length is judged with its column, not by the parser


@dataclass(frozen=True)
class DamagedRecord:
    record: int
    reason: str
    detail: str = ""


@dataclass
class LandedFile:
    """A landed file as read. ``records`` = rows of ``cells`` + ``damaged``, or, when refused, the number that can be counted."""

    body: bytes
    records: int = 0
    refused: str | None = None
    cells: pa.Table | None = None
    damaged: list[DamagedRecord] = field(default_factory=list)
    extra_columns: tuple[str, ...] = ()
    header: bytes = b""
    """The header line, which the text of a record cannot be read without."""
    _spans: list[tuple[int, int]] | None = None
    _is_parquet: bool = False

    def originals(self, records: Sequence[int]) -> list[bytes]:
        """The records' text as it stands in the file, without the line end; a Parquet row as JSON."""
        if not records:
            return []
        if self._is_parquet:
            rows = pq.ParquetFile(pa.BufferReader(self.body)).read()
            return [_json(row) for row in rows.take([record - 1 for record in records]).to_pylist()]
        if self._spans is None:
            self._spans = list(_lines(self.body))[1:]
        return [self.body[start:end] for start, end in (self._spans[record - 1] for record in records)]


def read(body: bytes, name: str, table: Table) -> LandedFile:
    """Reads a landed file; its name's ending (``.csv``, ``.parquet``, in any case) says what it should be."""
    if name.lower().endswith(".parquet"):
        return _read_parquet(body, table)
    if name.lower().endswith(".csv"):
        return _read_csv(body, table)
    return LandedFile(body, 0, "the name ends neither in .csv nor in .parquet")


# ---------------------------------------------------------------------------------------------------------------------------- CSV


def _read_csv(body: bytes, table: Table) -> LandedFile:
    if not body:
        return LandedFile(body, 0, "the file is empty (0 bytes)")
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        written = [line for line in body.decode("utf-16", errors="replace").splitlines() if line]
        return LandedFile(body, max(0, len(written) - 1), "UTF-16 text: files must be UTF-8")
    first = next(_lines(body), None)
    if first is None:
        return LandedFile(body, 0, "the file has no header line")
    header = body[slice(*first)]
    landed_names, error = _fields(header)
    names = _as_declared(landed_names, table)
    refusal = f"the header line {error}" if error else _header_refusal(landed_names, names, table)
    if refusal:
        written_lines = sum(1 for start, end in _lines(body) if body[start:end].strip(b"\0"))
        return LandedFile(body, max(0, written_lines - 1), refusal, header=header)
    extra = tuple(sorted(set(names) - set(table.column_names)))
    cells = _read_clean_csv(body, [landed_names[names.index(name)] for name in table.column_names], names, table)
    if cells is not None:
        return LandedFile(body, cells.num_rows, None, cells, [], extra, header)
    return _read_careful_csv(body, list(_lines(body)), names, table, extra, header)


def _as_declared(names: Sequence[str], table: Table) -> list[str]:
    """The file's column names, those of declared columns in the declared spelling."""
    declared = set(table.column_names)
    return [name.lower() if name.lower() in declared else name for name in names]


def _header_refusal(landed: Sequence[str], names: Sequence[str], table: Table) -> str | None:
    """``landed``: the names as they stand in the file; ``names``: the same as declared."""
    missing = [name for name in table.column_names if name not in names]
    if missing:
        return f"missing columns: {', '.join(missing)}"
    several = {name: [found for found, meant in zip(landed, names, strict=True) if meant == name] for name in table.column_names}
    twice = sorted({found for spellings in several.values() for found in spellings if spellings.count(found) > 1})
    if twice:
        return f"columns that occur twice: {', '.join(twice)}"
    alike = [" and ".join(sorted(spellings)) for spellings in several.values() if len(spellings) > 1]
    return f"columns that differ only by case: {', '.join(alike)}" if alike else None


def _lines(body: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of each non-blank line, without its line end."""
    position = len(_BYTE_ORDER_MARK) if body.startswith(_BYTE_ORDER_MARK) else 0
    line_end = b"\r" if b"\n" not in body else b"\n"
    while position < len(body):
        end = body.find(line_end, position)
        end = len(body) if end < 0 else end
        stop = end - 1 if end > position and line_end == b"\n" and body[end - 1] == 0x0D else end
        if stop > position:
            yield position, stop
        position = end + 1


def _read_clean_csv(body: bytes, wanted: Sequence[str], names: Sequence[str], table: Table) -> pa.Table | None:
    """The fast path, for files in which nothing can be mistaken: no quotes, no NUL, no blank line, whole lines, as many fields everywhere.
    None for any other. ``wanted``: the declared columns as the file spells them."""
    records = body.count(b"\n") - 1
    if b'"' in body or b"\0" in body or not body.endswith(b"\n") or body.count(b"\r") != body.count(b"\r\n"):
        return None
    if records == 0 or len(set(names)) != len(names) or len(names) == 1:
        return None
    try:
        cells = pa_csv.read_csv(
            pa.BufferReader(body),
            pa_csv.ReadOptions(block_size=8 << 20),
            pa_csv.ParseOptions(quote_char=False, double_quote=False, newlines_in_values=False),
            pa_csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.string()),
                include_columns=list(wanted),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid:
        return None
    cells = cells.rename_columns(list(table.column_names))
    return _numbered(cells, range(1, records + 1)) if cells.num_rows == records else None


def _read_careful_csv(
    body: bytes, lines: list[tuple[int, int]], names: Sequence[str], table: Table, extra: tuple[str, ...], header: bytes
) -> LandedFile:
    """Record by record: each is good, or damaged with a reason, and the next one starts on a line of its own."""
    wanted = [names.index(name) for name in table.column_names]
    spans: list[tuple[int, int]] = []
    rows: list[list[str]] = []
    numbers: list[int] = []
    damaged: list[DamagedRecord] = []
    unfinished = not body.endswith((b"\n", b"\r"))
    at = 1
    while at < len(lines):
        last, fields, error = _record(body, lines, at, len(names))
        if unfinished and last == len(lines) - 1:
            error = "the file ends inside this record: it has no line end"
        spans.append((lines[at][0], lines[last][1]))
        if error:
            damaged.append(DamagedRecord(len(spans), error))
        else:
            rows.append([fields[index] for index in wanted])
            numbers.append(len(spans))
        at = last + 1
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(wanted)
    cells = pa.table(
        {name: pa.array([value or None for value in column], pa.string()) for name, column in zip(table.column_names, columns, strict=True)}
    )
    return LandedFile(body, len(spans), None, _numbered(cells, numbers), damaged, extra, header, spans)


def _record(body: bytes, lines: list[tuple[int, int]], first: int, width: int) -> tuple[int, list[str], str | None]:
    """The record that starts on line ``first``: (its last line, its fields, what is wrong with it or None)."""
    start, end = lines[first]
    fields, error = _fields(body[start:end])
    if error is None and len(fields) != width:
        error = f"{len(fields)} fields where the header has {width}"
    quotes = body.count(b'"', start, end)
    if quotes % 2 == 0:
        return first, fields, error
    for last in range(first + 1, min(first + _JOINED_LINES, len(lines))):
        quotes += body.count(b'"', *lines[last])
        if quotes % 2 == 0:
            fields, error = _fields(body[start : lines[last][1]])
            if error is None and len(fields) == width:
                return last, fields, None
            break
    return first, [], "unbalanced quotes"


def _fields(line: bytes) -> tuple[list[str], str | None]:
    """A record's fields, or what keeps it from being read."""
    if b"\0" in line:
        return [], "holds NUL bytes"
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return [], f"is not UTF-8 (byte 0x{line[error.start]:02x})"
    if '"' not in text:
        return (text.split(","), None) if "\r" not in text else ([], "holds a carriage return outside of quotes")
    try:
        parsed = list(csv.reader([text], strict=True))
    except csv.Error as error:
        return [], f"is not CSV: {error}"
    return (parsed[0], None) if len(parsed) == 1 else ([], "is not CSV: a line break outside of quotes")


# ------------------------------------------------------------------------------------------------------------------------ Parquet


def _read_parquet(body: bytes, table: Table) -> LandedFile:
    records = 0
    try:
        file = pq.ParquetFile(pa.BufferReader(body))
        records = file.metadata.num_rows
        landed_names = file.schema_arrow.names
        names = _as_declared(landed_names, table)
        refusal = _header_refusal(landed_names, names, table)
        if refusal:
            return LandedFile(body, records, refusal)
        rows = file.read()
        rows.validate(full=True)  # a text that is not UTF-8 would surface much later
        cells = {}
        for column in table.columns:
            position = names.index(column.name)
            values = _as_text(rows.column(position), column.type)
            if values is None:
                kind = rows.schema.field(position).type
                name = landed_names[position]
                return LandedFile(body, records, f"column {name} has the Parquet type {kind}, which cannot be read as {column.type}")
            cells[column.name] = values
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        return LandedFile(body, records, f"not a readable Parquet file: {str(error).splitlines()[0][:200]}")
    extra = tuple(sorted(set(names) - set(table.column_names)))
    numbered = _numbered(pa.table(cells), range(1, rows.num_rows + 1))
    return LandedFile(body, rows.num_rows, None, numbered, [], extra, _json(landed_names), None, _is_parquet=True)


def _as_text(values: pa.ChunkedArray, wanted: ColumnType) -> pa.ChunkedArray | None:
    """Typed values as the text that a CSV of them would hold, so that one set of rules reads both; empty text is null. None where a type
    cannot stand for the declared one."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _as_text(values.cast(kind.value_type), wanted)
    if pa.types.is_null(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        text = values.cast(pa.string())
        return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    if pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        return values.cast(pa.string()) if wanted in {"integer", "float", "string"} else None
    if pa.types.is_floating(kind):
        return _float_as_text(values.cast(pa.float64()), wanted) if wanted in {"integer", "float"} else None
    if pa.types.is_date(kind) and wanted == "timestamp":
        return values.cast(pa.date32()).cast(pa.string())
    if pa.types.is_timestamp(kind) and wanted == "timestamp":  # finer than microseconds is cut, as in every engine downstream
        return values.cast(pa.timestamp("us", tz=kind.tz), safe=False).cast(pa.timestamp("us")).cast(pa.string())
    return None


def _float_as_text(values: pa.ChunkedArray, wanted: ColumnType) -> pa.ChunkedArray:
    """pandas keeps whole numbers with gaps as floats: 3.0 is the integer 3, and 3.5 stays what it is, to be refused with its row."""
    text = values.cast(pa.string())
    if wanted == "float":
        return text
    whole = pc.and_(pc.equal(pc.floor(values), values), pc.less_equal(pc.abs(values), float(2**53)))
    integers = pc.if_else(whole, values, 0.0).cast(pa.int64()).cast(pa.string())
    return pc.if_else(whole, integers, text)


def _numbered(cells: pa.Table, records: Sequence[int]) -> pa.Table:
    return cells.append_column(RECORD, pa.array(records, pa.int64()))


def _json(value: Any) -> bytes:
    stream = io.StringIO()
    json.dump(value, stream, ensure_ascii=False, default=str)
    return stream.getvalue().encode("utf-8", errors="backslashreplace")
