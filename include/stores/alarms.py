"""Alarms, and the windows they come from: one JSON object each, so that nothing is half written and writing again changes nothing.

An alarm (``<domain>/monitoring/alarms/<as-of day>-<id>.json``)::

    {"id", "domain", "source": "monitor_model" | "cloudwatch", "as_of", "kinds": [finding kinds], "since": day | null, "says": sentence,
     "model_package", "report": URI | null, "evidence": {…}}

The asset event of an alarm only rings the bell: events coalesce, and a paused DAG gets none. Whoever acts on alarms reads them here.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from typing import Any

from include.lifecycle.alarm_policy import WindowRecord, record_as_json, record_of
from include.lifecycle.names import digest
from include.stores.layout import Layout
from include.stores.objects import ObjectStore


class Alarms:
    """The alarms of one domain."""

    def __init__(self, objects: ObjectStore, layout: Layout) -> None:
        self._objects, self._layout = objects, layout

    def put(self, alarm: dict[str, Any]) -> str:
        """Stores the alarm, its ``id`` made from the rest, and returns its URI."""
        return self._objects.put_json(self._key(alarm), {**alarm, "id": digest(alarm)})

    def knows(self, alarm: dict[str, Any]) -> bool:
        """Whether the very same alarm is stored."""
        return self._objects.exists(self._key(alarm))

    def all(self) -> list[dict[str, Any]]:
        """In the order of their as-ofs."""
        found = [self._objects.get_json(info.key) for info in self._objects.list(self._layout.alarm())]
        return sorted(found, key=lambda alarm: (alarm["as_of"], alarm["id"]))

    def _key(self, alarm: dict[str, Any]) -> str:
        return self._layout.alarm(f"{alarm['as_of'][:10]}-{digest(alarm)}.json")


class MonitoredWindows:
    """What each day's window was found to be, by model package."""

    def __init__(self, objects: ObjectStore, layout: Layout) -> None:
        self._objects, self._layout = objects, layout

    def put(self, record: WindowRecord) -> str:
        return self._objects.put_json(self._key(record.last_day, record.model_package), record_as_json(record))

    def before(self, record: WindowRecord, windows: int) -> dict[date, WindowRecord]:
        """Those of the ``windows`` days before, under the same model."""
        days = (record.last_day - timedelta(days=back) for back in range(1, windows + 1))
        return {found.last_day: found for found in self._found(days, record.model_package)}

    def _found(self, days: Iterable[date], model_package: str) -> Iterable[WindowRecord]:
        for day in days:
            key = self._key(day, model_package)
            if self._objects.exists(key):
                yield record_of(self._objects.get_json(key))

    def _key(self, last_day: date, model_package: str) -> str:
        return f"{self._layout.monitored_windows}/dt={last_day.isoformat()}/{digest(model_package)}.json"
