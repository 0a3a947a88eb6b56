from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from include.stores.layout import Layout
from include.stores.objects import ObjectStore
from include.stores.watermark import Watermark

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


def test_it_moves_forward_only(bucket: ObjectStore) -> None:
    watermark = Watermark(bucket, Layout("claims"))
    assert watermark.get() is None
    assert watermark.move_to(MONDAY) == MONDAY
    assert watermark.get() == MONDAY
    assert watermark.move_to(MONDAY - timedelta(days=30)) == MONDAY, "an old delivery that is ingested again"
    assert watermark.move_to(MONDAY + timedelta(hours=5)) == watermark.get() == MONDAY + timedelta(hours=5)


def test_it_is_an_instant_in_utc_of_one_domain(bucket: ObjectStore) -> None:
    there = timezone(timedelta(hours=2))
    Watermark(bucket, Layout("claims")).move_to(datetime(2026, 3, 2, 2, tzinfo=there))
    assert bucket.get_json("claims/watermark.json") == {"as_of": "2026-03-02T00:00:00Z"}
    assert Watermark(bucket, Layout("payments")).get() is None
