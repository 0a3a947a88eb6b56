"""How far a domain's deliveries are ingested: what the time of the data is now.

``<domain>/watermark.json``: ``{"as_of": instant}``. Retraining and rollouts wait for it to move, and look at the data as of it, never at a clock.
"""

from __future__ import annotations

from datetime import datetime

from include.lifecycle.as_of import iso, utc
from include.stores.layout import Layout
from include.stores.objects import ObjectNotFoundError, ObjectStore


class Watermark:
    """The watermark of one domain. One writer at a time: ``ingest_data`` lets no second run begin."""

    def __init__(self, objects: ObjectStore, layout: Layout) -> None:
        self._objects, self._key = objects, layout.watermark

    def get(self) -> datetime | None:
        """UTC; None before anything was ingested."""
        try:
            return utc(self._objects.get_json(self._key)["as_of"])
        except ObjectNotFoundError:
            return None

    def move_to(self, instant: datetime) -> datetime:
        """The watermark after it: ``instant``, or where it was already if that is later. An old delivery that is ingested again (a backfill, a
        late file) moves it nowhere."""
        present = self.get()
        if present is not None and present >= utc(instant):
            return present
        self._objects.put_json(self._key, {"as_of": iso(utc(instant))})
        return utc(instant)
