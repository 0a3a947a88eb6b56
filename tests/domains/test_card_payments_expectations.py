"""What Great Expectations says of published payments, of simulated ones, and of every kind of damage."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from bench import reference
from include import domains
from include.domains.card_payments.domain import DOMAIN
from include.domains.card_payments.simulator import Simulation, deliveries, simulate
from include.jobs.quality import QualityChecks, SuiteResult
from include.lifecycle.features import compute_features, feature_names

EXPECTATIONS = domains.part("card_payments", "expectations")
RAW = EXPECTATIONS.raw_expectations()
FIRST_DAY = date(2026, 1, 1)


@pytest.fixture(scope="module")
def quality() -> Iterator[QualityChecks]:
    with QualityChecks() as checks:
        yield checks


@pytest.fixture(scope="module")
def payments() -> Simulation:
    return simulate(20, 20_000, FIRST_DAY, seed=5)


def test_every_table_is_expected_something(quality: QualityChecks) -> None:
    assert set(RAW) == {table.name for table in DOMAIN.landing_tables}


def test_no_published_payment_is_refused_or_warns(quality: QualityChecks) -> None:
    file = reference.payments()
    if file is None:
        pytest.skip("no published payments: set FRAUD_REFERENCE_DATA or put shared/data beside the repository")
    published = pd.read_parquet(file).rename(columns=str.lower)
    amounts = published["tx_amount"]
    assert amounts.min() == 0  # an amount of nothing is true
    some = published[(np.arange(len(published)) % 10 == 0) | (amounts < 1) | (amounts > 500)]
    assert quality.check(some.reset_index(drop=True), "published payments", RAW["transactions"]) == SuiteResult()


def test_simulated_tables_pass(quality: QualityChecks, payments: Simulation) -> None:
    for table in ("transactions", "customers", "terminals", "labels"):
        assert quality.check(getattr(payments, table), f"simulated {table}", RAW[table]) == SuiteResult()


def test_damaged_rows_are_exactly_the_critical_ones(quality: QualityChecks, payments: Simulation) -> None:
    day = payments.last_day
    landed, clean = (
        next(file.rows for file in deliveries(payments, day, day, damaged_share=share) if file.table == "transactions")
        for share in (0.02, 0.0)
    )
    # an empty cell and an instant after the delivery are found by ingestion's own typing, before Great Expectations
    readable = landed.drop(columns="tx_fraud").notna().all(axis=1) & (landed["tx_datetime"].dt.date <= day)
    damaged = (landed != clean).drop(columns="tx_fraud").any(axis=1)[readable].reset_index(drop=True)
    found = quality.check(landed[readable].reset_index(drop=True), "damaged payments", RAW["transactions"])
    assert sorted(found.row_failures) == damaged[damaged].index.tolist()
    assert len(found.row_failures) > 80
    assert 80 < (~readable).sum() < 400


CRITICAL: list[tuple[str, dict[str, Any]]] = [
    ("transaction_id", {"transaction_id": -1}),
    ("customer_id", {"customer_id": -1}),
    ("terminal_id", {"terminal_id": -1}),
    ("tx_amount", {"tx_amount": -0.01}),
    ("tx_fraud", {"tx_fraud": 2}),
]
HARMLESS: list[dict[str, Any]] = [{}, {"transaction_id": 0, "customer_id": 0, "terminal_id": 0}, {"tx_amount": 0.0}, {"tx_fraud": None}]
GOOD_PAYMENT = {
    "transaction_id": 7, "tx_datetime": pd.Timestamp("2026-01-01 10:00", tz="UTC"), "customer_id": 3, "terminal_id": 9,
    "tx_amount": 41.5, "tx_fraud": 1,
}  # fmt: skip


def test_each_fault_is_found_in_its_column_and_harmless_rows_pass(quality: QualityChecks) -> None:
    rows = pd.DataFrame([{**GOOD_PAYMENT, **fault} for fault in [*(fault for _, fault in CRITICAL), *HARMLESS]])
    found = quality.check(rows, "faults", RAW["transactions"])
    assert sorted(found.row_failures) == list(range(len(CRITICAL)))
    for position, (column, fault) in enumerate(CRITICAL):
        assert [reason.split(":")[0] for reason in found.row_failures[position]] == [column], fault
    assert found.warnings == []


@pytest.mark.parametrize("table", ["customers", "terminals"])
def test_whoever_is_not_on_the_square_is_refused(quality: QualityChecks, payments: Simulation, table: str) -> None:
    rows = getattr(payments, table).head(6).copy()
    key, x, y = rows.columns
    faults = [(key, -1), (x, -0.1), (x, 100.1), (y, -0.1), (y, 100.1)]
    for position, (column, value) in enumerate(faults):
        rows.loc[position, column] = value
    found = quality.check(rows, f"{table} elsewhere", RAW[table])
    assert {position: reasons[0].split(":")[0] for position, reasons in found.row_failures.items()} == {
        position: column for position, (column, _) in enumerate(faults)
    }


def test_amounts_in_cents_warn_and_are_not_refused(quality: QualityChecks) -> None:
    first = date(2026, 1, 1)
    found = quality.check(simulate(2, 500, first, 1, "amount_in_cents", first).transactions, "cents", RAW["transactions"])
    assert found.row_failures == {}
    assert {warning["expectation"] for warning in found.warnings} == {
        "tx_amount is at most 5,000 EUR",
        "the median tx_amount is between 5 and 250 EUR",
    }


def test_the_busy_season_does_not_warn(quality: QualityChecks) -> None:
    busy = simulate(5, 3_000, FIRST_DAY, 1, "busy_season", FIRST_DAY).transactions
    assert quality.check(busy, "busy season", RAW["transactions"]) == SuiteResult()


WINDOWS = (1, 7, 30)
GOOD_FEATURES = {
    "event_id": "1", "event_time": pd.Timestamp("2026-01-01 10:00", tz="UTC"), "entity_id": "3", "group_id": "3", "amount": 41.5,
    **{f"customer_id_nb_tx_{days}day_window": float(days) for days in WINDOWS},
    **{f"customer_id_avg_amount_{days}day_window": 41.5 for days in WINDOWS},
    **{f"terminal_id_nb_tx_{days}day_window": 0.0 for days in WINDOWS},
    **{f"terminal_id_risk_{days}day_window": 0.0 for days in WINDOWS},
    "tx_amount": 41.5, "tx_during_weekend": 0.0, "tx_during_night": 1.0,
    "customer_id_avg_amount_matured": 41.5, "amount_to_avg_matured": 1.0, "amount_zscore_matured": 0.5, "amount_to_avg_earlier_30day": 1.0,
    "amount_to_avg_7day": 1.0, "amount_zscore_30day": -0.5, "amount_to_largest_earlier_30day": 0.4, "largest_earlier_7day_to_avg_matured": 2.0,
    "customer_id_nb_tx_matured": 40.0,
    "terminal_id_days_since_last_matured_genuine": 7.0 - 1e-11, "terminal_id_matured_frauds_since_genuine": 2.0,
    "terminal_id_days_since_fraud_run_began": 30.0 + 1e-11, "terminal_id_days_since_last_known_fraud": 0.0,
    "terminal_id_smallest_fraud_known_21day": 0.0,
    "distance_from_home": 3.5,
}  # fmt: skip
IMPOSSIBLE = [
    ("event_time", None),
    ("entity_id", None),
    ("amount", None),
    ("amount", -1.0),
    *((f"customer_id_nb_tx_{days}day_window", 0.0) for days in WINDOWS),
    *((f"customer_id_avg_amount_{days}day_window", -1.0) for days in WINDOWS),
    *((f"terminal_id_nb_tx_{days}day_window", -1.0) for days in WINDOWS),
    *((f"terminal_id_risk_{days}day_window", 1.01) for days in WINDOWS),
    *((f"terminal_id_risk_{days}day_window", -0.01) for days in WINDOWS),
    ("tx_amount", -0.01),
    ("tx_during_weekend", 2.0),
    ("tx_during_night", 0.5),
    ("customer_id_avg_amount_matured", -1.0),
    ("amount_to_avg_matured", -0.1),
    ("amount_to_avg_earlier_30day", -0.1),
    ("amount_to_avg_7day", -0.1),
    ("amount_zscore_30day", 1_001.0),
    ("amount_zscore_30day", -1_001.0),
    ("amount_to_largest_earlier_30day", -0.1),
    ("largest_earlier_7day_to_avg_matured", -0.1),
    ("customer_id_nb_tx_matured", -1.0),
    ("terminal_id_days_since_last_matured_genuine", 6.9),
    ("terminal_id_days_since_last_matured_genuine", 37.1),
    ("terminal_id_matured_frauds_since_genuine", -1.0),
    ("terminal_id_days_since_fraud_run_began", 6.9),
    ("terminal_id_days_since_fraud_run_began", 30.1),
    ("terminal_id_days_since_last_known_fraud", -0.1),
    ("terminal_id_days_since_last_known_fraud", 37.1),
    ("terminal_id_smallest_fraud_known_21day", -0.01),
    ("distance_from_home", 142.1),
]
UNKNOWN = (
    "customer_id_avg_amount_matured", "amount_to_avg_matured", "amount_zscore_matured", "amount_to_avg_earlier_30day", "amount_zscore_30day",
    "amount_to_largest_earlier_30day", "largest_earlier_7day_to_avg_matured", "terminal_id_days_since_last_matured_genuine",
    "terminal_id_days_since_fraud_run_began", "terminal_id_days_since_last_known_fraud", "terminal_id_smallest_fraud_known_21day",
    "distance_from_home",
)  # fmt: skip
"""Features of a customer's first payment, at a terminal's first."""


def test_every_feature_is_expected_something(quality: QualityChecks, tmp_path: Path) -> None:
    """Of every column that ``features.sql`` makes; and what it makes of simulated payments passes, without a warning."""
    payments = simulate(50, 2_500, FIRST_DAY, seed=5)
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("SET TimeZone = 'UTC'")
    known = "AS available_at, {0} AS delivered_at, 'f' AS source"
    files = {}
    for name, columns, time in (
        ("transactions", "* EXCLUDE (tx_fraud), tx_datetime AS event_time", "tx_datetime"),
        ("labels", "CAST(transaction_id AS VARCHAR) AS event_id, label, decided_at - INTERVAL 7 DAY AS event_time", "decided_at"),
        ("customers", "*", "TIMESTAMPTZ '1900-01-01'"),
        ("terminals", "*", "TIMESTAMPTZ '1900-01-01'"),
    ):
        connection.register(f"{name}_rows", getattr(payments, name))
        files[name] = [tmp_path / f"{name}.parquet"]
        connection.execute(f"COPY (SELECT {columns}, {time} {known.format(time)} FROM {name}_rows) TO '{files[name][0]}' (FORMAT parquet)")
    sql = domains.features_sql(DOMAIN.name)
    table = compute_features(connection, DOMAIN, sql, files, datetime(9999, 1, 1, tzinfo=UTC), FIRST_DAY, payments.last_day)
    expectations = EXPECTATIONS.feature_expectations()
    assert set(feature_names(DOMAIN, table.column_names)) <= {expectation.column for expectation in expectations}
    assert set(table.column_names) == set(GOOD_FEATURES)
    assert all(table[name].null_count < table.num_rows for name in UNKNOWN), "or the rules were asked of nothing"
    assert quality.check(table.to_pandas(), "simulated features", expectations) == SuiteResult()


def test_impossible_features_are_found_and_others_pass(quality: QualityChecks) -> None:
    faults = [*({column: value} for column, value in IMPOSSIBLE), {}, dict.fromkeys(UNKNOWN), {"terminal_id_risk_1day_window": 1.0}]
    rows = pd.DataFrame([{**GOOD_FEATURES, "event_id": str(number), **fault} for number, fault in enumerate(faults)])
    found = quality.check(rows, "features", EXPECTATIONS.feature_expectations())
    assert {position: reasons[0].split(":")[0] for position, reasons in found.row_failures.items()} == {
        position: column for position, (column, _) in enumerate(IMPOSSIBLE)
    }
    assert all(len(reasons) == 1 for reasons in found.row_failures.values())
    first = pd.DataFrame([{**GOOD_FEATURES, **dict.fromkeys(UNKNOWN, float("nan"))}])
    assert quality.check(first, "the first day of all", EXPECTATIONS.feature_expectations()) == SuiteResult()
    twice = quality.check(pd.DataFrame([GOOD_FEATURES, GOOD_FEATURES]), "the same event twice", EXPECTATIONS.feature_expectations())
    assert set(twice.row_failures) == {0, 1}
