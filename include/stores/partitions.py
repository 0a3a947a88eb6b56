"""Daily Parquet partitions, ``<prefix>/dt=YYYY-MM-DD/data.parquet``: each one object, written whole or not at all, same rows same bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from include.stores.objects import ObjectNotFoundError, ObjectStore

_KEY = re.compile(r"/dt=(\d{4}-\d{2}-\d{2})/data\.parquet$")
_TRANSFERS = 8


class Partitions:
    """One partitioned set of rows under ``prefix`` (see ``Layout``)."""

    def __init__(self, objects: ObjectStore, prefix: str) -> None:
        self._objects = objects
        self.prefix = prefix.rstrip("/")

    def key(self, day: date) -> str:
        return f"{self.prefix}/dt={day.isoformat()}/data.parquet"

    def versions(self, first: date | None = None, last: date | None = None) -> dict[date, str]:
        """Which days there are between ``first`` and ``last`` (inclusive; None: unbounded), each with its content's ETag, in order."""
        found: dict[date, str] = {}
        for info in self._objects.list(f"{self.prefix}/dt="):
            if match := _KEY.search(info.key):
                day = date.fromisoformat(match[1])
                if (first is None or first <= day) and (last is None or day <= last):
                    found[day] = info.etag
        return found

    def read(self, day: date) -> pa.Table | None:
        """The day's rows, or None where there is no such partition."""
        try:
            return pq.read_table(io.BytesIO(self._objects.get(self.key(day))))
        except ObjectNotFoundError:
            return None

    def write(self, day: date, rows: pa.Table) -> None:
        """Replaces the day's rows. The caller has put them in a definite order: equal tables become equal bytes."""
        buffer = io.BytesIO()
        pq.write_table(rows, buffer, compression="zstd")
        self._put(day, buffer.getvalue())

    def _put(self, day: date, content: bytes) -> None:
        self._objects.put(self.key(day), content, "application/vnd.apache.parquet")

    def delete(self, day: date) -> None:
        """Takes the day's partition away, where there is one."""
        self._objects.delete(self.key(day))

    def write_all(self, days: Iterable[tuple[date, pa.Table]]) -> None:
        """Replaces many days, several at a time. Each day is whole or untouched; a failure may leave some days written and others not,
        which running again repairs."""
        with ThreadPoolExecutor(_TRANSFERS) as pool:
            for _ in pool.map(lambda item: self.write(*item), days):
                pass

    def upload_all(self, files: Mapping[date, Path]) -> None:
        """The same with Parquet files on disk, as they are."""
        with ThreadPoolExecutor(_TRANSFERS) as pool:
            for _ in pool.map(lambda day: self._put(day, files[day].read_bytes()), files):
                pass

    def download(self, into: Path, first: date | None = None, last: date | None = None) -> list[Path]:
        """Fetches the days into ``into`` (one file a day) for DuckDB to read from disk, and returns the paths in the order of the days."""
        return self.download_days(into, self.versions(first, last))

    def download_days(self, into: Path, days: Iterable[date]) -> list[Path]:
        """The same for these days, in this order. ObjectNotFoundError or botocore's ClientError where there is no such partition."""

        def fetch(day: date) -> Path:
            return self._objects.download(self.key(day), into / f"dt={day.isoformat()}.parquet")

        with ThreadPoolExecutor(_TRANSFERS) as pool:
            return list(pool.map(fetch, days))

    def __iter__(self) -> Iterator[date]:
        return iter(self.versions())
