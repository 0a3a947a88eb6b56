from __future__ import annotations

import io
from datetime import date, timedelta

import great_expectations.expectations as gxe
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from claims_store import DOMAIN, LAYOUT, contents, land, run, simulated

from include import domains
from include.jobs import build_features
from include.jobs.context import JobError
from include.lifecycle.as_of import Days
from include.stores.objects import ObjectStore
from include.stores.stale_features import StaleFeatures

FIRST, LAST = date(2026, 1, 1), date(2026, 1, 12)
AS_OF = "2026-02-01T00:00:00Z"
PREFIX = f"{LAYOUT.features}/"


@pytest.fixture(scope="module")
def history() -> list[tuple[str, date, pd.DataFrame]]:
    return simulated(days=12, events=240, first_day=FIRST)


@pytest.fixture
def store(bucket: ObjectStore, history: list[tuple[str, date, pd.DataFrame]]) -> ObjectStore:
    land(bucket, history)
    return bucket


def build(objects: ObjectStore, first: date = FIRST, last: date = LAST, as_of: str = AS_OF, *more: str) -> dict:
    return run("build_features", objects, "--first-day", str(first), "--last-day", str(last), "--as-of", as_of, *more)


def written(objects: ObjectStore) -> dict[str, bytes]:
    """The partitions' files under features/."""
    return {key: body for key, body in contents(objects, PREFIX).items() if key.startswith("dt=")}


def partition(objects: ObjectStore, day: date) -> pa.Table:
    return pq.read_table(io.BytesIO(objects.get(f"{PREFIX}dt={day}/data.parquet")))


def test_a_partition_for_each_day_of_events(store: ObjectStore) -> None:
    result = build(store)
    files = written(store)
    rows = [pq.read_table(io.BytesIO(body)) for body in files.values()]
    assert result["days"] == len(files) == 12
    assert result["rows"] == sum(map(len, rows)) == 240
    assert result["features"] == rows[0].column_names[7:]
    for name, table in zip(files, rows, strict=True):
        assert {str(time.date()) for time in table["event_time"].to_pylist()} == {name[3:13]}
    assert store.exists(store.key(result["data_docs"]))


def test_what_was_built_is_not_stale_any_more(store: ObjectStore) -> None:
    stale = StaleFeatures(store, LAYOUT)
    assert stale.days() == [Days(FIRST, LAST)], "as ingest has marked them"
    build(store, FIRST, date(2026, 1, 4))
    assert stale.days() == [Days(date(2026, 1, 5), LAST)]
    build(store)
    assert stale.days() == []
    assert stale.as_json()["features_as_of"] == AS_OF


def test_again_or_day_by_day_gives_the_same_bytes(store: ObjectStore) -> None:
    build(store)
    whole = written(store)
    build(store)
    assert written(store) == whole
    for day in range(3):
        store.delete(f"{PREFIX}dt={FIRST + timedelta(days=day)}/data.parquet")
        build(store, FIRST + timedelta(days=day), FIRST + timedelta(days=day))
    assert written(store) == whole


def test_only_the_interval_is_touched_and_only_what_was_known(store: ObjectStore) -> None:
    result = build(store, date(2026, 1, 4), date(2026, 1, 5), "2026-01-08T06:00:00Z")  # claims are reported after three days
    assert sorted(written(store)) == ["dt=2026-01-04/data.parquet", "dt=2026-01-05/data.parquet"]
    assert result["rows"] < build(store, date(2026, 1, 4), date(2026, 1, 5))["rows"]


def test_days_without_events_keep_no_partition(store: ObjectStore) -> None:
    build(store)
    stray = date(2026, 1, 20)
    store.put(f"{PREFIX}dt={stray}/data.parquet", store.get(f"{PREFIX}dt={LAST}/data.parquet"))
    build(store, FIRST, date(2026, 1, 25))
    assert not store.exists(f"{PREFIX}dt={stray}/data.parquet")
    result = build(store, date(2027, 1, 1), date(2027, 1, 2))
    assert (result["rows"], result["days"], result["data_docs"]) == (0, 0, None)
    assert len(written(store)) == 12


@pytest.mark.parametrize("at_once", ["_ROWS_COMPUTED_AT_ONCE", "_ROWS_CHECKED_AT_ONCE"])
def test_several_parts_give_the_same_bytes(store: ObjectStore, at_once: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build(store)
    whole = written(store)
    monkeypatch.setattr(build_features, at_once, 70)
    result = build(store)
    assert written(store) == whole
    assert result["rows"] == 240


def test_a_critical_failure_writes_nothing(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    expectations = domains.part(DOMAIN, "expectations")
    strict = [
        gxe.ExpectColumnValuesToBeBetween(column="amount", max_value=100, severity="critical"),
        gxe.ExpectColumnValuesToBeBetween(column="customer_age", max_value=17, severity="warning"),
    ]
    monkeypatch.setattr(expectations, "feature_expectations", lambda: strict)
    with pytest.raises(JobError, match=r"nothing was written.*amount.*row\(s\), such as event \d+.*index\.html"):
        build(store)
    assert written(store) == {}
    monkeypatch.setattr(expectations, "feature_expectations", lambda: strict[1:])
    [warning] = build(store)["warnings"]
    assert (warning["column"], warning["unexpected"]) == ("customer_age", 240)


def test_changed_columns_want_a_rebuild(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    build(store)
    before = written(store)
    sql = domains.features_sql(DOMAIN)
    monkeypatch.setattr(build_features, "features_sql", lambda context: sql.replace("AS severity", "AS how_severe"))
    with pytest.raises(JobError, match=r"changed the columns \(how_severe, severity\).*--rebuild"):
        build(store, FIRST, FIRST)
    assert written(store) == before
    expectations = domains.part(DOMAIN, "expectations")
    monkeypatch.setattr(expectations, "feature_expectations", list)
    result = build(store, FIRST, FIRST, AS_OF, "--rebuild")
    assert (result["days"], result["rows"]) == (12, 240)
    assert all("how_severe" in partition(store, FIRST + timedelta(days=day)).column_names for day in range(12))


def test_what_is_wrong_with_the_arguments_or_the_sql_is_said(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JobError, match="the last day, 2026-01-01, lies before the first, 2026-01-12"):
        build(store, LAST, FIRST)
    monkeypatch.setattr(build_features, "features_sql", lambda context: "SELECT * FROM claims ASOF JOIN customers USING (policy_id)")
    with pytest.raises(JobError, match="ASOF"):
        build(store)


def test_days_that_pass_one_by_one_end_with_the_same_features(bucket: ObjectStore, history: list[tuple[str, date, pd.DataFrame]]) -> None:
    """A claim is landed before it is available (an incident is reported three days later): its day stays marked until it is."""
    land(bucket, history)
    days = StaleFeatures(bucket, LAYOUT)
    for day in (LAST + timedelta(days=number) for number in range(1, 6)):
        if stale := days.days():
            build(bucket, stale[0].first, stale[-1].last, f"{day}T00:00:00Z")
            if day == LAST + timedelta(days=1):
                assert days.days() == [Days(LAST - timedelta(days=2), LAST)]
                assert f"dt={LAST}/data.parquet" not in written(bucket)
    assert days.days() == []
    piecemeal = written(bucket)
    build(bucket)
    assert written(bucket) == piecemeal
