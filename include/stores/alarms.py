"""Alarms, and the windows they come from: one JSON object each, so that nothing is half written and writing again changes nothing.

An alarm (``<domain>/monitoring/alarms/<as-of day>-<id>.json``)::

    {"id", "domain", "source": "monitor_model" | "cloudwatch", "as_of", "kinds": [finding kinds], "since": day | null, "says": sentence,
     "model_package", "report": URI | null, "evidence": {…}}

An alarm that a retraining has taken up, or that was dropped, is handled (``<domain>/monitoring/handled/<id>.json``): {"alarm": id, "by": the run,
"outcome": sentence}. The alarm itself is never changed.

The asset event of an alarm only rings the bell: events coalesce, and a paused DAG gets none. Whoever acts on alarms reads them here.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from include.lifecycle.alarm_policy import WindowRecord, record_as_json, record_of
from include.lifecycle.names import digest
from include.stores.layout import Layout
from include.stores.objects import ObjectNotFoundError, ObjectStore


class Alarms:
    """The alarms of one domain."""

    def __init__(self, objects: ObjectStore, layout: Layout) -> None:
        self._objects, self._layout = objects, layout

    def put(self, alarm: dict[str, Any]) -> str:
        """Stores the alarm with its ``id``, in the place of an earlier one about the same, and returns its URI."""
        return self._objects.put_json(self._key(alarm), {**alarm, "id": _id(alarm)})

    def knows(self, alarm: dict[str, Any]) -> bool:
        """Whether an alarm about the same is stored: of the same source, instant and model (or, from outside, in the same words)."""
        return self._objects.exists(self._key(alarm))

    def all(self) -> list[dict[str, Any]]:
        """In the order of their as-ofs."""
        found = [self._objects.get_json(info.key) for info in self._objects.list(self._layout.alarm())]
        return sorted(found, key=lambda alarm: (alarm["as_of"], alarm["id"]))

    def open(self) -> list[dict[str, Any]]:
        """Those that nobody has handled, in the order of their as-ofs."""
        handled = {info.key.rpartition("/")[2].removesuffix(".json") for info in self._objects.list(self._layout.handled_alarm())}
        return [alarm for alarm in self.all() if alarm["id"] not in handled]

    def handle(self, identity: str, by: str, outcome: str) -> None:
        """Notes what became of an alarm; the last word counts."""
        self._objects.put_json(self._layout.handled_alarm(f"{identity}.json"), {"alarm": identity, "by": by, "outcome": outcome})

    def reopen(self, by: str) -> list[str]:
        """Takes back what ``by`` noted: its work came to nothing. Returns the alarms that are open again."""
        noted = {info.key: self._objects.get_json(info.key) for info in self._objects.list(self._layout.handled_alarm())}
        again = {key: content["alarm"] for key, content in noted.items() if content["by"] == by}
        for key in again:
            self._objects.delete(key)
        return sorted(again.values())

    def _key(self, alarm: dict[str, Any]) -> str:
        return self._layout.alarm(f"{alarm['as_of'][:10]}-{_id(alarm)}.json")


def _id(alarm: dict[str, Any]) -> str:
    """A run that is cleared finds its alarm again, though newer code may put it in other words."""
    return digest([alarm["source"], alarm["as_of"], alarm["model_package"] or alarm["says"]])


class MonitoredWindows:
    """What each day's window was found to be, by model package. ``history``: those of backfills, which live runs do not count."""

    def __init__(self, objects: ObjectStore, layout: Layout, history: bool = False) -> None:
        self._objects = objects
        self._prefix = f"{layout.monitored_windows}/{'history/' if history else ''}"

    def put(self, record: WindowRecord) -> str:
        return self._objects.put_json(self._key(record.last_day, record.model_package), record_as_json(record))

    def directly_before(self, record: WindowRecord, most: int) -> dict[date, WindowRecord]:
        """Those of the days before, under the same model, back to the first day without one; ``most`` of them at most."""
        found: dict[date, WindowRecord] = {}
        for back in range(1, most + 1):
            day = record.last_day - timedelta(days=back)
            try:
                found[day] = record_of(self._objects.get_json(self._key(day, record.model_package)))
            except ObjectNotFoundError:
                break
        return found

    def _key(self, last_day: date, model_package: str) -> str:
        return f"{self._prefix}dt={last_day.isoformat()}/{digest(model_package)}.json"
