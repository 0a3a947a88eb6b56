"""features.sql of card payments against the book's pandas, and against its definitions written out row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from bench import reference
from bench.handbook import read_payments
from bench.reference import INPUTS
from include import domains
from include.domains.card_payments.domain import DOMAIN
from include.lifecycle import portable_sql
from include.lifecycle.features import compute_features, feature_names

FIRST = pd.Timestamp("2026-01-01")
DAYS = 70
WINDOWS = (1, 7, 30)
EVER = datetime(9999, 1, 1, tzinfo=UTC)
Version = tuple[int, int, pd.Timestamp]
"""transaction_id, label, when it became known."""


def generated(seed: int, step_hours: int = 6, payments: int = 900) -> pd.DataFrame:
    """Payments on a coarse grid of times, so that many are at one instant, or exactly one, seven or thirty days apart."""
    rng = np.random.default_rng(seed)
    steps = np.sort(rng.integers(0, DAYS * 24 // step_hours, payments))
    terminal = rng.integers(0, 6, payments)
    fraud = (rng.random(payments) < 0.05) | ((terminal == 1) & (steps * step_hours // 24 % 45 < 20) & (rng.random(payments) < 0.9))
    return pd.DataFrame({
        "transaction_id": np.arange(payments) + 100,
        "tx_datetime": [FIRST + timedelta(hours=int(step) * step_hours) for step in steps],
        "customer_id": rng.integers(0, 7, payments),
        "terminal_id": terminal,
        "tx_amount": np.round(rng.gamma(2, 30, payments), 2),
        "tx_fraud": fraud.astype(int),
    })  # fmt: skip


def after_a_week(payments: pd.DataFrame) -> list[Version]:
    frauds = payments[payments["tx_fraud"] == 1]
    return [
        (int(key), 1, moment + timedelta(days=7))
        for key, moment in zip(frauds["transaction_id"], frauds["tx_datetime"], strict=True)
    ]


def computed(
    folder: Path,
    payments: pd.DataFrame,
    versions: Sequence[Version],
    as_of: datetime = EVER,
    days: tuple[date, date] = (date(1970, 1, 1), date(9998, 1, 1)),
    places: dict[str, pd.DataFrame] | None = None,
) -> pd.DataFrame:
    """The features by transaction_id, through the function that every job uses."""
    labels = pd.DataFrame(versions, columns=["transaction_id", "label", "known_at"])
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("payments", payments)
    connection.register("versions", labels)
    times = "tx_datetime::TIMESTAMP::TIMESTAMPTZ"
    queries = {
        "transactions": f"SELECT *, {times} AS event_time, {times} AS available_at, {times} AS delivered_at, 'f' AS source FROM payments",
        "labels": f"SELECT transaction_id::VARCHAR AS event_id, label::BIGINT AS label, {times} AS event_time,"
        " known_at::TIMESTAMP::TIMESTAMPTZ AS available_at, known_at::TIMESTAMP::TIMESTAMPTZ AS delivered_at, 'f' AS source"
        " FROM versions JOIN payments USING (transaction_id)",
    }
    for name, frame in (places or {}).items():
        connection.register(f"{name}_rows", frame)
        queries[name] = (
            "SELECT *, available_at AS event_time, available_at AS delivered_at, 'f' AS source"
            f" FROM (SELECT * REPLACE (available_at::TIMESTAMP::TIMESTAMPTZ AS available_at) FROM {name}_rows)"
        )
    files = {}
    for name, query in queries.items():
        files[name] = [folder / f"{name}.parquet"]
        connection.execute(f"COPY ({query}) TO '{files[name][0]}' (FORMAT parquet)")
    table = compute_features(connection, DOMAIN, domains.features_sql(DOMAIN.name), files, as_of, *days)
    return table.to_pandas().assign(event_id=lambda rows: rows["event_id"].astype(int)).set_index("event_id").sort_index()


def book(payments: pd.DataFrame) -> pd.DataFrame:
    """The fifteen inputs as §3.4 of the book makes them: rolling windows over each customer's and each terminal's payments."""
    ordered = payments.sort_values(["tx_datetime", "transaction_id"]).set_index("tx_datetime")

    def of_customer(rows: pd.DataFrame) -> pd.DataFrame:
        inputs = {}
        for days in WINDOWS:
            window = rows["tx_amount"].rolling(f"{days}D")
            inputs[f"customer_id_nb_tx_{days}day_window"] = window.count().to_numpy()
            inputs[f"customer_id_avg_amount_{days}day_window"] = (window.sum() / window.count()).to_numpy()
        return pd.DataFrame(inputs, index=rows["transaction_id"])

    def of_terminal(rows: pd.DataFrame) -> pd.DataFrame:
        inputs = {}
        delay = rows["tx_fraud"].rolling("7D")
        for days in WINDOWS:
            both = rows["tx_fraud"].rolling(f"{7 + days}D")
            count, frauds = both.count() - delay.count(), both.sum() - delay.sum()
            inputs[f"terminal_id_nb_tx_{days}day_window"] = count.to_numpy()
            inputs[f"terminal_id_risk_{days}day_window"] = (frauds / count).fillna(0).to_numpy()
        return pd.DataFrame(inputs, index=rows["transaction_id"])

    moments = payments.set_index("transaction_id")
    when = moments["tx_datetime"].dt
    of_payment = pd.DataFrame({
        "tx_amount": moments["tx_amount"],
        "tx_during_weekend": (when.day_of_week >= 5).astype(int),
        "tx_during_night": (when.hour <= 6).astype(int),
    })  # fmt: skip
    customers = pd.concat([of_customer(rows) for _, rows in ordered.groupby("customer_id")])
    terminals = pd.concat([of_terminal(rows) for _, rows in ordered.groupby("terminal_id")])
    return of_payment.join(customers).join(terminals)[list(INPUTS)].sort_index()


@pytest.mark.parametrize("step_hours", [1, 6, 24])
def test_the_published_inputs_are_the_books(tmp_path: Path, step_hours: int) -> None:
    payments = generated(step_hours, step_hours)
    assert payments.duplicated(["customer_id", "tx_datetime"]).sum() > 10
    ours = computed(tmp_path, payments, after_a_week(payments))
    expected = book(payments)
    assert expected["terminal_id_risk_7day_window"].gt(0).sum() > 50
    pd.testing.assert_frame_equal(ours[list(INPUTS)], expected, check_dtype=False, check_names=False, rtol=0, atol=1e-9)


def test_the_published_inputs_are_the_books_on_published_payments(tmp_path: Path) -> None:
    data = reference.payments()
    if data is None:
        pytest.skip("no published payments: set FRAUD_REFERENCE_DATA or put shared/data beside the repository")
    payments = read_payments(data)
    payments = payments[(payments["customer_id"] < 250) & (payments["terminal_id"] < 600)]
    assert len(payments) > 3000
    ours = computed(tmp_path, payments, after_a_week(payments))
    pd.testing.assert_frame_equal(ours[list(INPUTS)], book(payments), check_dtype=False, check_names=False, rtol=0, atol=1e-9)


def decided(payments: pd.DataFrame) -> list[Version]:
    """Labels early, in time, late, confirmed, withdrawn, and reported again; and some that clear a payment."""
    rng = np.random.default_rng(3)
    versions: list[Version] = []
    for row in payments.itertuples():
        when = row.tx_datetime
        if row.tx_fraud:
            for known, label in [
                [(7, 1)], [(1, 1), (7, 1)], [(2.25, 1), (5, 0)], [(20, 1)], [(7, 1), (12, 0), (15.5, 1)], [(45, 1)], [(0, 1)], [(7, 1), (9, 0)],
            ][rng.integers(8)]:  # fmt: skip
                versions.append((row.transaction_id, label, when + timedelta(days=known)))
        elif rng.random() < 0.1:
            versions.append((row.transaction_id, 0, when + timedelta(days=1)))
    return versions


def spells(versions: list[Version]) -> list[tuple[int, pd.Timestamp, pd.Timestamp]]:
    """transaction_id, and from when until when it was known to be fraud."""
    found = []
    for key in {key for key, _, _ in versions}:
        story = sorted((known, label) for other, label, known in versions if other == key)
        began = None
        for known, label in story:
            if label and began is None:
                began = known
            if not label and began is not None:
                found.append((key, began, known))
                began = None
        if began is not None:
            found.append((key, began, pd.Timestamp.max))
    return found


def terminal_history(payments: pd.DataFrame, versions: list[Version]) -> pd.DataFrame:
    """The terminal's features from their definitions, one payment at a time."""
    day = timedelta(days=1)
    of = payments.set_index("transaction_id")
    known = [
        (of.loc[key], max(start, of.loc[key, "tx_datetime"] + timedelta(seconds=1)), end) for key, start, end in spells(versions)
    ]
    fraud_at_maturity = {row.name for row, start, end in known if start <= row.tx_datetime + 7 * day < end}
    rows: list[dict[str, Any]] = []
    for payment in payments.itertuples():
        now = payment.tx_datetime
        here = payments[payments["terminal_id"] == payment.terminal_id]
        frauds = [
            (row, start)
            for row, start, end in known
            if row.terminal_id == payment.terminal_id and start <= now < end and row.tx_datetime > now - 37 * day
        ]
        recent = [(row, start) for row, start in frauds if start > now - 30 * day]
        found: dict[str, Any] = {}
        for days in WINDOWS:
            count = int(((here["tx_datetime"] > now - (7 + days) * day) & (here["tx_datetime"] <= now - 7 * day)).sum())
            reported = sum(start > now - days * day for _, start in frauds)
            found[f"terminal_id_nb_tx_{days}day_window"] = count
            found[f"terminal_id_risk_{days}day_window"] = reported / max(count, reported) if reported else 0
        matured = here[(here["tx_datetime"] >= now - 37 * day) & (here["tx_datetime"] <= now - 7 * day)]
        is_fraud = matured["transaction_id"].isin(fraud_at_maturity)
        genuine = matured[~is_fraud]
        found["terminal_id_days_since_last_matured_genuine"] = (now - genuine["tx_datetime"].max()) / day if len(genuine) else math.nan
        within = matured["tx_datetime"] > (genuine["tx_datetime"].max() if len(genuine) else now - 37 * day)
        found["terminal_id_matured_frauds_since_genuine"] = int((is_fraud & within).sum())
        run_began = math.nan
        earlier: Any = None
        for row in here[here["tx_datetime"] <= now - 7 * day].sort_values(["tx_datetime", "transaction_id"]).itertuples():
            if row.transaction_id in fraud_at_maturity:
                first = earlier is None or earlier.transaction_id not in fraud_at_maturity or row.tx_datetime - earlier.tx_datetime > 7 * day
                if first and row.tx_datetime >= now - 30 * day:
                    run_began = (now - row.tx_datetime) / day
            earlier = row
        found["terminal_id_days_since_fraud_run_began"] = run_began
        found["fraud_known"] = bool(recent)
        found["last_known_fraud"] = (now - max(row.tx_datetime for row, _ in recent)) / day if recent else math.nan
        rows.append(found)
    return pd.DataFrame(rows, index=payments["transaction_id"])


def test_the_terminals_history_counts_what_was_known(tmp_path: Path) -> None:
    payments = generated(8, payments=350)
    versions = decided(payments)
    ours = computed(tmp_path, payments, versions)
    expected = terminal_history(payments, versions)
    names = [name for name in expected if name.startswith("terminal_id_")]
    assert expected[names].nunique().gt(2).all()
    pd.testing.assert_frame_equal(ours[names], expected[names], check_dtype=False, check_names=False, rtol=0, atol=1e-9)
    assert (ours["terminal_id_days_since_last_known_fraud"].notna() == expected["fraud_known"]).all()
    assert (ours["terminal_id_smallest_fraud_known_21day"].notna() <= expected["fraud_known"]).all()


def test_the_last_known_fraud_is_the_youngest_that_is_known(tmp_path: Path) -> None:
    payments = generated(9, payments=350)
    versions = [version for version in decided(payments) if version[1] == 1]  # nothing is withdrawn
    last = terminal_history(payments, versions)["last_known_fraud"]
    ours = computed(tmp_path, payments, versions)
    assert last.notna().sum() > 50
    pd.testing.assert_series_equal(ours["terminal_id_days_since_last_known_fraud"], last, check_names=False, rtol=0, atol=1e-9)


@pytest.mark.parametrize("offset", [0, 11])
def test_a_day_alone_equals_that_day_of_everything(tmp_path: Path, offset: int) -> None:
    """From the history that the domain says, and with nothing that was not yet known at the end of the day."""
    payments = generated(4, step_hours=1)
    versions = decided(payments)
    everything = computed(tmp_path, payments, versions)
    day = (FIRST + timedelta(days=DAYS - 12 + offset)).date()
    end = pd.Timestamp(day) + timedelta(days=1)
    moments = payments["tx_datetime"]
    read = payments[(moments >= end - timedelta(days=1) - DOMAIN.feature_history) & (moments < end)]
    ids = set(read["transaction_id"])
    known = [version for version in versions if version[0] in ids and version[2] < end]
    alone = computed(tmp_path, read, known, end.tz_localize("UTC").to_pydatetime(), (day, day))
    assert 0 < len(alone) < 60
    pd.testing.assert_frame_equal(alone, everything.loc[alone.index], check_exact=True)


def test_a_fraud_that_is_reported_late_is_not_looked_for_beyond_the_history(tmp_path: Path) -> None:
    """Reported after 35 days, the first fraud is in nobody's 38 days of history when the last payment is scored."""
    days, amounts = [0, 40, 45], [1.0, 50.0, 20.0]
    payments = pd.DataFrame({
        "transaction_id": [1, 2, 3],
        "tx_datetime": [FIRST + timedelta(days=day) for day in days],
        "customer_id": [1, 2, 3],
        "terminal_id": 7,
        "tx_amount": amounts,
        "tx_fraud": [1, 1, 0],
    })  # fmt: skip
    versions = [(1, 1, FIRST + timedelta(days=35)), (2, 1, FIRST + timedelta(days=44))]
    (tmp_path / "whole").mkdir()
    (tmp_path / "recent").mkdir()
    whole = computed(tmp_path / "whole", payments, versions)
    recent = computed(tmp_path / "recent", payments.iloc[1:], versions[1:])
    assert whole.loc[3, "terminal_id_smallest_fraud_known_21day"] == recent.loc[3, "terminal_id_smallest_fraud_known_21day"] == 50


def test_amounts_against_the_customers_own_history(tmp_path: Path) -> None:
    """Payments of 10, 30 and 20 twenty, ten and eight days ago, 50 two days ago, and 100 now."""
    ages, amounts = [20, 10, 8, 2, 0], [10.0, 30.0, 20.0, 50.0, 100.0]
    now = pd.Timestamp("2026-03-01 12:00")
    payments = pd.DataFrame({
        "transaction_id": range(5), "tx_datetime": [now - timedelta(days=age) for age in ages], "customer_id": 1, "terminal_id": range(5),
        "tx_amount": amounts, "tx_fraud": 0,
    })  # fmt: skip
    row = computed(tmp_path, payments, []).loc[4]
    expected = {
        "customer_id_nb_tx_matured": 3,
        "customer_id_avg_amount_matured": 20,
        "amount_to_avg_matured": 5,
        "amount_zscore_matured": (100 - 20) / np.std([10, 30, 20]),
        "amount_to_avg_earlier_30day": 100 / 27.5,
        "amount_to_avg_7day": 100 / 75,
        "amount_zscore_30day": (100 - 42) / np.std(amounts),
        "amount_to_largest_earlier_30day": 2,
        "largest_earlier_7day_to_avg_matured": 2.5,
    }
    assert {name: pytest.approx(row[name], abs=1e-9) for name in expected} == expected
    first = computed(tmp_path, payments, []).loc[0]
    assert first[[name for name in expected if name not in {"customer_id_nb_tx_matured", "amount_to_avg_7day"}]].isna().all()
    assert math.isnan(first["distance_from_home"])


def test_the_distance_is_that_between_the_places_known_at_the_payment(tmp_path: Path) -> None:
    payments = generated(5, payments=60)
    origin, moved = pd.Timestamp(0), FIRST + timedelta(days=30)
    places = {
        "customers": pd.DataFrame(
            [(0, 10.0, 10.0, origin), (0, 40.0, 50.0, moved)], columns=["customer_id", "x_customer_id", "y_customer_id", "available_at"]
        ),
        "terminals": pd.DataFrame(
            [(place, 10.0, 10.0, origin) for place in range(6)], columns=["terminal_id", "x_terminal_id", "y_terminal_id", "available_at"]
        ),
    }
    found = computed(tmp_path, payments, [], places=places)["distance_from_home"]
    of = payments.set_index("transaction_id").loc[found.index]
    expected = np.where(of["customer_id"] == 0, np.where(of["tx_datetime"] < moved, 0.0, 50.0), np.nan)
    assert {0.0, 50.0} <= set(expected)
    np.testing.assert_array_equal(found.to_numpy(), expected)


def test_the_sql_is_portable_and_its_first_features_are_the_published_inputs(tmp_path: Path) -> None:
    assert "UNIX_MICROS" in portable_sql.spark_sql(domains.features_sql(DOMAIN.name), [table.name for table in DOMAIN.landing_tables])
    payments = generated(6, payments=20)
    assert tuple(feature_names(DOMAIN, list(computed(tmp_path, payments, []).reset_index().columns)))[: len(INPUTS)] == INPUTS
