"""Which days' features are older than what they were made from: ingest says so before it writes, build-features takes it back when it has built.

One small object. Because it is written before the rows change and shortened only after the features are there, a run that is killed, or never
happens, leaves days marked that the next one computes; at worst a day is computed in vain.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from typing import Any

from include.lifecycle.as_of import Days, iso, merged, utc, without
from include.stores.layout import Layout
from include.stores.objects import ObjectNotFoundError, ObjectStore


class StaleFeatures:
    def __init__(self, objects: ObjectStore, layout: Layout) -> None:
        self._objects = objects
        self._key = f"{layout.features}/stale.json"

    def as_json(self) -> dict[str, Any]:
        """``{"stale_features": [[first, last]], "features_as_of": instant or None}``: event days, both ends included, in order; and the latest
        as-of instant of a build, as of which days that it covered must be built again."""
        try:
            stored: dict[str, Any] = self._objects.get_json(self._key)
        except ObjectNotFoundError:
            return {"stale_features": [], "features_as_of": None}
        return stored

    def days(self) -> list[Days]:
        return [Days(date.fromisoformat(first), date.fromisoformat(last)) for first, last in self.as_json()["stale_features"]]

    def add(self, days: Iterable[Days]) -> None:
        before = self.days()
        self._put(before, merged([*before, *days]), self.as_json()["features_as_of"])

    def built(self, days: Days, as_of: datetime, incomplete: Iterable[Days] = ()) -> None:
        """The features of ``days`` were computed as of this instant, from all that there is. ``incomplete``: days that rows reach which are
        there but were not available yet at this instant; they stay stale."""
        last = self.as_json()["features_as_of"]
        latest = iso(max(as_of, utc(last)) if last else as_of)
        self._objects.put_json(self._key, _json(merged([*without(self.days(), days), *incomplete]), latest))

    def _put(self, before: list[Days], after: list[Days], as_of: str | None) -> None:
        if after != before:
            self._objects.put_json(self._key, _json(after, as_of))


def _json(days: list[Days], as_of: str | None) -> dict[str, Any]:
    return {"stale_features": [[each.first.isoformat(), each.last.isoformat()] for each in days], "features_as_of": as_of}
