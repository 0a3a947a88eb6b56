"""When events happened, by their ids: from the curated partitions that the key index says hold them."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from include.jobs.context import JobContext
from include.lifecycle import curation
from include.stores.key_index import KeyIndex
from include.stores.partitions import Partitions


class EventTimes:
    """``folder``: where partitions are downloaded to. Days that the index does not know are read, too."""

    def __init__(self, context: JobContext, folder: Path) -> None:
        self._id = context.domain.event_id
        prefix = context.layout.curated(context.domain.event_table)
        self._partitions = Partitions(context.objects, prefix)
        versions = {day.isoformat(): etag for day, etag in self._partitions.versions().items()}
        self._index = KeyIndex(context.objects, context.layout.key_index(prefix), versions)
        self._folder = folder
        self._read: dict[date, pa.Table] = {}

    def of(self, event_ids: Collection[str]) -> dict[str, datetime]:
        """Event id → its time; ids without a curated event are left out."""
        if not event_ids:
            return {}
        wanted = pa.array(sorted(set(event_ids)), pa.string())
        found: dict[str, datetime] = {}
        for day in sorted(map(date.fromisoformat, self._index.holding(_numbers(wanted)) | self._index.unknown)):
            rows = self._rows(day)
            rows = rows.filter(pc.is_in(rows["event_id"], wanted))
            found |= dict(zip(rows["event_id"].to_pylist(), rows["event_time"].to_pylist(), strict=True))
        return found

    def _rows(self, day: date) -> pa.Table:
        if day not in self._read:
            [path] = self._partitions.download_days(self._folder, [day])
            rows = pq.read_table(path, columns=[self._id, "event_time"], partitioning=None)
            times = rows["event_time"].cast(pa.timestamp("us"), safe=False).cast(pa.timestamp("us", "UTC"))
            self._read[day] = pa.table({"event_id": rows[self._id].cast(pa.string()), "event_time": times})
        return self._read[day]


def _numbers(event_ids: pa.Array) -> np.ndarray:
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        connection.register("asked", pa.table({"_key": event_ids}))
        numbers, _ = curation.key_numbers(connection, "SELECT '' AS name, _key, '' AS source FROM asked")
    found: np.ndarray = numbers["number"].to_numpy()
    return found
