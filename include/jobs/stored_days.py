"""What ``ingest`` needs of what it wrote before, without reading all of it: an index says which objects can matter (``stores/key_index``).

Objects that the index does not know, because it is old, damaged or gone, are read first, once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from include.lifecycle import curation
from include.lifecycle.curation import CuratedTable
from include.lifecycle.delivery import Delivery
from include.stores.key_index import KeyIndex, keys_by_object
from include.stores.layout import Layout
from include.stores.objects import ObjectStore
from include.stores.partitions import Partitions
from include.stores.quarantine import Quarantine


class StoredDays:
    """The daily partitions under ``prefix``. Days are loaded as they are asked for: downloaded, and added by ``load`` to the connection's
    table ``rows``, which has ``_day`` and ``source``; ``key`` is SQL that makes the key as text from its columns."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        objects: ObjectStore,
        layout: Layout,
        prefix: str,
        folder: Path,
        rows: str,
        key: str,
        load: Callable[[Sequence[Path]], None],
    ) -> None:
        self._connection, self._folder, self._rows, self._key, self._load = connection, folder, rows, key, load
        self._partitions = Partitions(objects, prefix)
        self._days = self._partitions.versions()
        self._copies: dict[date, Path] = {}
        self._index = KeyIndex(objects, layout.key_index(prefix), _named(self._days))

    def load(self, days: Iterable[date]) -> bool:
        """Loads those of ``days`` that are stored and not loaded yet. Returns whether there were any."""
        missing = sorted(self._days.keys() & set(days) - self._copies.keys())
        if missing:
            copies = self._partitions.download_days(self._folder, missing)
            self._load(copies)
            self._copies |= dict(zip(missing, copies, strict=True))
        return bool(missing)

    def load_matching(self, numbers: np.ndarray, paths: Collection[str]) -> bool:
        """Loads the days that hold a row of these keys or of these landed files. Returns whether some were not loaded yet."""
        unknown = _days(self._index.unknown)
        loaded = self.load(unknown)
        if unknown:
            self._enter(self._rows, unknown, self._days)
        return self.load(_days(self._index.holding(numbers) | self._index.made_from(paths))) or loaded

    def changes(self, days: Collection[date], rows: pa.Table) -> list[tuple[date, pa.Table]]:
        """Which partitions change when ``rows`` (sorted by ``_day``) is all that ``days``, loaded, hold: each with its rows, if any."""
        counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(rows["_day"]).to_pylist()}
        changed: list[tuple[date, pa.Table]] = []
        offset = 0
        for day in sorted(days):
            content = rows.slice(offset, counts.get(day, 0)).drop_columns("_day")
            offset += content.num_rows
            before = pq.read_table(self._copies[day], partitioning=None) if day in self._copies else content.slice(0, 0)
            if not content.combine_chunks().equals(before.combine_chunks()):
                changed.append((day, content))
        return changed

    def write(self, changed: Sequence[tuple[date, pa.Table]], rows: pa.Table) -> None:
        """Writes what ``changes`` found in ``rows``, and then the index."""
        for day, content in changed:
            if content.num_rows == 0:
                self._partitions.delete(day)
        self._partitions.write_all((day, content) for day, content in changed if content.num_rows)
        if changed:
            self._connection.register("written_rows", rows)
            self._enter("written_rows", [day for day, _ in changed], self._partitions.versions())
            self._connection.unregister("written_rows")
        self._index.save()

    def _enter(self, rows: str, days: Collection[date], versions: Mapping[date, str]) -> None:
        """Puts into the index what ``rows`` hold on ``days``."""
        within = ", ".join(f"DATE '{day}'" for day in days)
        query = f"SELECT CAST(_day AS VARCHAR) AS name, {self._key} AS _key, source FROM {rows} WHERE _day IN ({within})"  # noqa: S608 -- dates
        numbers, paths = curation.key_numbers(self._connection, query)
        self._index.put(keys_by_object(map(str, days), numbers, paths), _named(versions))


class StoredRepeats:
    """What lies in quarantine of one table because it repeats what was known: its keys decide which files a late one brings back."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, objects: ObjectStore, layout: Layout, table: CuratedTable) -> None:
        self._connection, self._table = connection, table
        self._quarantine = Quarantine(objects, layout)
        self._files = self._quarantine.versions(table.name)
        self._index = KeyIndex(objects, layout.key_index(self._quarantine.prefix(table.name)), self._files)
        self._loaded: set[str] = set()

    def __contains__(self, path: str) -> bool:
        """Whether there is something in quarantine of this landed file."""
        return path in self._files

    def load_matching(self, numbers: np.ndarray, first: date) -> None:
        """Loads what was delivered from ``first`` on and repeats one of these keys."""
        unknown = sorted(self._index.unknown)
        if unknown:
            self._enter(unknown, self._load(unknown), self._files)
        self._load([path for path in self._index.holding(numbers) if Delivery(path).day >= first])

    def _load(self, paths: Iterable[str]) -> list[tuple[str, str]]:
        missing = sorted(set(paths) - self._loaded)
        rows = list(self._quarantine.rows_for_reason(missing, curation.REPEATED))
        curation.load_repeats(self._connection, self._table.name, rows)
        self._loaded.update(missing)
        return rows

    def written(self, paths: Collection[str], rows: Sequence[tuple[str, str]]) -> None:
        """The quarantine of ``paths`` was written anew, or is gone; ``rows`` are its repeats: (key, source). Writes the index."""
        if paths:
            self._enter(paths, rows, self._quarantine.versions(self._table.name))
        self._index.save()

    def _enter(self, paths: Collection[str], rows: Sequence[tuple[str, str]], versions: Mapping[str, str]) -> None:
        names = [Delivery.of_source(source).path for _, source in rows]
        columns = {"name": names, "_key": [key for key, _ in rows], "source": [source for _, source in rows]}
        self._connection.register("repeated_rows", pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}))
        numbers, _ = curation.key_numbers(self._connection, "FROM repeated_rows")
        self._connection.unregister("repeated_rows")
        self._index.put(keys_by_object(paths, numbers, _NO_PATHS), versions)


_NO_PATHS = pa.table({"name": pa.array([], pa.string()), "path": pa.array([], pa.string())})


def _named(versions: Mapping[date, str]) -> dict[str, str]:
    return {day.isoformat(): etag for day, etag in versions.items()}


def _days(names: Iterable[str]) -> set[date]:
    return {date.fromisoformat(name) for name in names}
