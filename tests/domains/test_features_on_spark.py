"""DuckDB and Spark compute the same features from the same ``features.sql``, for every domain."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from small_history import History, small_history

from include import domains
from include.lifecycle.features import FEATURES, Engine, FeatureError, feature_names, fetch, materialise_features, open_database

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def engine(spark: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    from include.lifecycle.spark_features import SparkEngine, local_session

    scratch = tmp_path_factory.mktemp("spark")
    with local_session(scratch, "1g") as session:
        yield SparkEngine(session, scratch / "computed")


def history_of(name: str, folder: Path) -> History:
    days = domains.get(name).feature_history // timedelta(days=1) + 12
    return small_history(name, folder, days, 14 * days)


@pytest.mark.parametrize("name", domains.catalogue().domains)
def test_duckdb_and_spark_agree(name: str, engine: Engine, tmp_path: Path) -> None:
    """Counts exactly, other numbers to 1e-9; as of an instant in the middle, when labels are on their way and corrections have come."""
    history = history_of(name, tmp_path)
    domain, days = history.domain, history.event_days
    tables = []
    for chosen in (None, engine):
        with open_database(tmp_path / "spill") as connection:
            as_of = history.midnights[-9]
            materialise_features(connection, domain, domains.features_sql(name), history.paths(days[0], days[-1]), as_of, days[2], days[-1], chosen)
            tables.append(fetch(connection, f"SELECT * FROM {FEATURES} ORDER BY event_time, event_id"))
    duckdb, spark = tables
    assert len(duckdb) > 100
    assert spark.schema == duckdb.schema
    features = feature_names(domain, duckdb.column_names)
    others = [column for column in duckdb.column_names if column not in features]
    assert spark.select(others).equals(duckdb.select(others))
    for column in features:
        mine, theirs = (table[column].to_numpy() for table in (duckdb, spark))
        assert np.allclose(mine, theirs, rtol=0, atol=1e-9, equal_nan=True), column
        if np.array_equal(mine, np.round(mine), equal_nan=True):
            assert np.array_equal(mine, theirs, equal_nan=True), column


def test_what_spark_cannot_compute_is_said_as_a_fault_of_the_sql(engine: Engine, tmp_path: Path) -> None:
    name = next(iter(domains.catalogue().domains))
    history = history_of(name, tmp_path)
    domain, days = history.domain, history.event_days
    sql = f"SELECT CAST({domain.event_id} AS VARCHAR) AS event_id, no_such_column FROM {domain.event_table}"
    with open_database(tmp_path / "spill") as connection, pytest.raises(FeatureError, match=r"Spark cannot compute.*no_such_column"):
        materialise_features(connection, domain, sql, history.whole, history.end, days[0], days[-1], engine)
