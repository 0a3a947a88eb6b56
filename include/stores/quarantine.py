"""Quarantine: what a landed file held that was not curated, as one Parquet object beside the file's own path.

Columns: ``source`` (file, digest, year), ``record`` (from 1 in the order of the file; 0: the file as a whole), ``records`` (how many landed rows
the entry stands for: 1, or all that could be counted in a refused file), ``reasons``, ``detail`` (the bad values, shortened), ``key`` (the row's
key as text, where it could be read), ``header`` and ``original`` (bytes as landed: header line and record, or the whole refused file): put
together and mended, they can be landed again.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from include.lifecycle.delivery import Delivery
from include.stores.layout import Layout
from include.stores.objects import ObjectStore

_SCHEMA = pa.schema([
    ("source", pa.string()),
    ("record", pa.int64()),
    ("records", pa.int64()),
    ("reasons", pa.list_(pa.string())),
    ("detail", pa.string()),
    ("key", pa.string()),
    ("header", pa.large_binary()),
    ("original", pa.large_binary()),
])  # fmt: skip
_TRANSFERS = 8


@dataclass(frozen=True)
class QuarantineEntry:
    record: int
    reasons: tuple[str, ...]
    detail: str = ""
    key: str | None = None
    records: int = 1


class Quarantine:
    def __init__(self, objects: ObjectStore, layout: Layout) -> None:
        self._objects = objects
        self._layout = layout

    def key(self, delivery: Delivery) -> str:
        return self._layout.quarantine(delivery.table, delivery.day, f"{delivery.file}.parquet")

    def prefix(self, table: str) -> str:
        return f"{self._layout.domain}/quarantine/{table}/"

    def versions(self, table: str) -> dict[str, str]:
        """The paths (``Delivery.path``) of the table's landed files which have something in quarantine, each with that content's ETag."""
        root = f"{self._layout.domain}/quarantine/"
        return {info.key.removeprefix(root).removesuffix(".parquet"): info.etag for info in self._objects.list(self.prefix(table))}

    def write(self, delivery: Delivery, source: str, entries: Sequence[QuarantineEntry], header: bytes, originals: Iterable[bytes]) -> None:
        """Replaces what is in quarantine of one file. ``entries`` in the order of the records, ``originals`` likewise."""
        columns = [
            [source] * len(entries),
            [entry.record for entry in entries],
            [entry.records for entry in entries],
            [list(entry.reasons) for entry in entries],
            [entry.detail for entry in entries],
            [entry.key for entry in entries],
            [header] * len(entries),
            list(originals),
        ]
        rows = pa.table([pa.array(values, field.type) for values, field in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA)
        buffer = io.BytesIO()
        pq.write_table(rows, buffer, compression="zstd")
        self._objects.put(self.key(delivery), buffer.getvalue(), "application/vnd.apache.parquet")

    def read(self, delivery: Delivery) -> pa.Table:
        """Everything in quarantine of one file. ObjectNotFoundError where there is nothing."""
        return pq.read_table(pa.BufferReader(self._objects.get(self.key(delivery))))

    def delete(self, delivery: Delivery) -> None:
        self._objects.delete(self.key(delivery))

    def rows_for_reason(self, paths: Sequence[str], reason: str) -> Iterator[tuple[str, str]]:
        """(key, source) of every row that is in quarantine for ``reason``, of these landed files."""

        def read(path: str) -> pa.Table:
            body = self._objects.get(self.key(Delivery(path)))
            rows = pq.read_table(pa.BufferReader(body), columns=["key", "source", "reasons"])
            return rows.filter(pc.equal(pc.list_element(rows["reasons"], 0), reason))

        with ThreadPoolExecutor(_TRANSFERS) as pool:
            for rows in pool.map(read, paths):
                yield from zip(rows["key"].to_pylist(), rows["source"].to_pylist(), strict=True)
