"""``FEATURES_ENGINE=spark``: the same job, the same partitions."""

from __future__ import annotations

import io
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from claims_store import LAYOUT, contents, land, run, simulated

from include.jobs.context import JobError
from include.lifecycle.domain import EVENT_COLUMNS
from include.stores.objects import ObjectStore

FIRST, LAST = date(2026, 1, 1), date(2026, 1, 6)
ARGUMENTS = ("--first-day", str(FIRST), "--last-day", str(LAST), "--as-of", "2026-02-01T00:00:00Z", "--memory-limit", "1GB")
PREFIX = f"{LAYOUT.features}/"


@pytest.fixture
def store(bucket: ObjectStore) -> ObjectStore:
    land(bucket, simulated(days=6, events=120, first_day=FIRST))
    return bucket


@pytest.mark.spark
def test_the_job_writes_the_same_partitions(store: ObjectStore, spark: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with_duckdb = run("build_features", store, *ARGUMENTS)
    expected = partitions(store)
    for key in expected:
        store.delete(f"{PREFIX}{key}")
    monkeypatch.setenv("FEATURES_ENGINE", "spark")
    with_spark = run("build_features", store, *ARGUMENTS)
    assert {name: with_spark[name] for name in with_spark.keys() - {"data_docs"}} == {
        name: with_duckdb[name] for name in with_duckdb.keys() - {"data_docs"}
    }
    found = partitions(store)
    assert found.keys() == expected.keys()
    for day, table in found.items():
        assert table.schema == expected[day].schema
        for name in table.column_names:
            if pa.types.is_floating(table.schema.field(name).type):
                assert np.allclose(table[name].to_numpy(), expected[day][name].to_numpy(), rtol=0, atol=1e-9, equal_nan=True), name
            else:
                assert table[name].equals(expected[day][name]), name
        assert table.column_names[: len(EVENT_COLUMNS)] == list(EVENT_COLUMNS)


def partitions(objects: ObjectStore) -> dict[str, pa.Table]:
    return {key: pq.read_table(io.BytesIO(body)) for key, body in contents(objects, PREFIX).items() if key.startswith("dt=")}


@pytest.mark.parametrize(
    ("engine", "limit", "message"), [("polars", "1GB", "wants duckdb or spark"), ("spark", "much", "--memory-limit 'much'")]
)
def test_an_unknown_engine_or_an_unreadable_limit_is_refused(
    engine: str, limit: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pathlib import Path

    from include.jobs.feature_engine import feature_engine

    monkeypatch.setenv("FEATURES_ENGINE", engine)
    with pytest.raises(JobError, match=message), feature_engine(Path("unused"), limit):
        pass
