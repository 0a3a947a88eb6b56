"""Which days' features are to be built again: added by what changes, taken back by what is built, and kept over everything else."""

from __future__ import annotations

from datetime import UTC, date, datetime

from include.lifecycle.as_of import Days
from include.stores.layout import Layout
from include.stores.objects import ObjectStore
from include.stores.stale_features import StaleFeatures


def day(number: int) -> date:
    return date(2026, 1, number)


def test_days_stay_marked_until_they_are_built(bucket: ObjectStore) -> None:
    def stale() -> StaleFeatures:
        return StaleFeatures(bucket, Layout("d"))

    assert stale().as_json() == {"stale_features": [], "features_as_of": None}
    stale().add([])
    assert not list(bucket.list("d/")), "no news, no object"
    stale().add([Days(day(3), day(5)), Days(day(10), day(12))])
    stale().add([Days(day(5), day(6)), Days(day(20), day(20))])
    assert stale().days() == [Days(day(3), day(6)), Days(day(10), day(12)), Days(day(20), day(20))]
    stale().built(Days(day(5), day(11)), datetime(2026, 1, 13, tzinfo=UTC))
    stale().built(Days(day(1), day(1)), datetime(2026, 1, 2, tzinfo=UTC))
    assert stale().as_json() == {
        "stale_features": [["2026-01-03", "2026-01-04"], ["2026-01-12", "2026-01-12"], ["2026-01-20", "2026-01-20"]],
        "features_as_of": "2026-01-13T00:00:00Z",
    }
    stale().add([Days(day(12), day(12))])
    stale().built(Days(day(1), day(31)), datetime(2026, 1, 31, tzinfo=UTC))
    assert stale().as_json() == {"stale_features": [], "features_as_of": "2026-01-31T00:00:00Z"}
