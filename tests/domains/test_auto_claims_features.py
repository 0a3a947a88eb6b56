"""features.sql on reference and simulated claims, through the function that every job uses."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from bench.auto_claims import demo_encoding, read_landed, reference_features
from include import domains
from include.domains.auto_claims.domain import DOMAIN
from include.domains.auto_claims.simulator import Simulation
from include.lifecycle import portable_sql
from include.lifecycle.features import compute_features, feature_names


@pytest.fixture(scope="module")
def real(reference: Path) -> pd.DataFrame:
    return reference_features(reference)


@pytest.fixture(scope="module")
def simulated(simulation: Simulation, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("landing")
    simulation.claims.to_csv(folder / "claims.csv", index=False)
    simulation.customers.to_csv(folder / "customers.csv", index=False)
    return reference_features(folder, year=None, delivered=simulation.last_day + timedelta(days=1))


def test_one_complete_row_a_claim(real: pd.DataFrame) -> None:
    assert len(real) == 5000
    assert real.notna().all().all()
    assert real["label"].sum() == 164
    assert set(real["facet_gender"]) == {"Female", "Male", "Other", "Unkown"}
    assert set(real["facet_age_band"]) == {"18-29", "30-44", "45-59", "60+"}


def test_values_of_the_first_reference_claim(real: pd.DataFrame) -> None:
    """Claim 1: spouse, front collision, minor, nobody contacted, 2 vehicles, 71,600 + 8,913.67 USD, 17 March, 08:00, a customer of 54 for
    94 months whose gender is "Unkown" and whose car is of 2006."""
    row = real.loc[1]
    assert row["event_time"] == pd.Timestamp("2019-03-17 08:00", tz="UTC")
    assert row["amount"] == pytest.approx(80513.66876317882)
    expected = {
        "severity": 0, "is_break_in": 0, "is_theft": 0, "is_rear_collision": 0, "driver_is_policyholder": 0, "driver_is_family": 1,
        "police_contacted": 0, "nobody_contacted": 1, "police_report_available": 0, "num_vehicles_involved": 2, "num_injuries": 0,
        "num_witnesses": 0, "incident_hour": 8, "is_night": 0, "is_weekend": 1, "weekday_contradicts_date": 0, "injury_claim": 71600,
        "vehicle_claim": 8913.668763178823, "claim_to_premium": 80513.66876317882 / 3000, "customer_age": 54, "months_as_customer": 94,
        "share_of_driving_life_as_customer": 94 / (12 * 39), "num_claims_past_year": 0, "num_insurers_past_5_years": 1, "is_male": 0,
        "is_female": 0, "auto_age": 13,
    }  # fmt: skip
    assert row["facet_gender"] == "Unkown"
    assert row["facet_age_band"] == "45-59"
    assert {name: pytest.approx(row[name]) for name in expected} == expected
    assert set(feature_names(DOMAIN, [name for name in real.columns if name != "label"])) == set(expected)


def test_age_bands_start_where_they_say(real: pd.DataFrame) -> None:
    ages = real.groupby("facet_age_band")["customer_age"].agg(["min", "max"])
    assert ages.to_dict("index") == {
        "18-29": {"min": 18, "max": 29},
        "30-44": {"min": 30, "max": 44},
        "45-59": {"min": 45, "max": 59},
        "60+": {"min": 60, "max": 70},
    }


def test_a_wrong_year_shows_in_every_row(reference: Path, real: pd.DataFrame) -> None:
    assert real["weekday_contradicts_date"].sum() == 0
    wrong = reference_features(reference, year=None, delivered=date(2026, 3, 1))
    assert wrong["weekday_contradicts_date"].sum() == 5000
    assert wrong["event_time"].max() < pd.Timestamp("2026-03-01", tz="UTC") <= wrong["event_time"].min() + pd.Timedelta(days=365)


def test_simulated_claims_are_read_as_they_were_made(simulation: Simulation, simulated: pd.DataFrame) -> None:
    assert simulated["event_time"].tolist() == simulation.event_times.tolist()
    assert simulated["weekday_contradicts_date"].sum() == 0
    assert simulated.notna().all().all()
    assert np.allclose(simulated["amount"], simulation.claims["total_claim_amount"])
    assert simulated["label"].tolist() == simulation.claims["fraud"].tolist()


def test_the_sql_is_portable() -> None:
    spark = portable_sql.spark_sql(domains.features_sql("auto_claims"), ["claims", "customers"])
    assert "DATEDIFF(DAY, " in spark


def test_a_policy_counts_as_it_was_known_at_the_incident(tmp_path: Path) -> None:
    """A correction of the policy that came after the incident is not seen; a policy that was never delivered leaves its features unknown."""
    instant = lambda text: f"TIMESTAMPTZ '{text} 00:00:00Z'"  # noqa: E731
    claim = (
        "'Self' AS driver_relationship, 'Collision' AS incident_type, 'Rear' AS collision_type, 'Minor' AS incident_severity,"
        " 'None' AS authorities_contacted, 2 AS num_vehicles_involved, 0 AS num_injuries, 0 AS num_witnesses, 'No' AS police_report_available,"
        " 900.0 AS injury_claim, 1100.0 AS vehicle_claim, 2000.0 AS total_claim_amount, 1 AS incident_month, 10 AS incident_day,"
        " 5 AS incident_dow, 0 AS incident_hour"
    )
    policy = (
        "40 AS customer_age, 0 AS num_claims_past_year, 1 AS num_insurers_past_5_years, 'CA' AS policy_state, 750 AS policy_deductable,"
        " 2500 AS policy_annual_premium, '15/30' AS policy_liability, '90001' AS customer_zip, 'Male' AS customer_gender,"
        " 'Bachelor' AS customer_education, 2020 AS auto_year"
    )
    connection = duckdb.connect()
    delivered = f"{instant('2026-01-10')} AS delivered_at, 'file' AS source"
    connection.execute(
        f"COPY (SELECT unnest([1, 2]) AS policy_id, {claim}, {instant('2026-01-10')} AS event_time,"
        f" {instant('2026-01-13')} AS available_at, {delivered}) TO '{tmp_path / 'claims.parquet'}' (FORMAT parquet)"
    )
    versions = [(instant("1970-01-01"), 60), (instant("2026-01-09"), 61), (instant("2026-01-11"), 62)]
    rows = " UNION ALL ".join(
        f"SELECT 1 AS policy_id, {months} AS months_as_customer, {policy}, {known} AS event_time, {known} AS available_at, {delivered}"
        for known, months in versions
    )
    connection.execute(f"COPY ({rows}) TO '{tmp_path / 'customers.parquet'}' (FORMAT parquet)")
    files = {name: [tmp_path / f"{name}.parquet"] for name in ("claims", "customers")}
    day = date(2026, 1, 10)
    found = compute_features(
        connection, DOMAIN, domains.features_sql("auto_claims"), files, datetime(2026, 6, 1, tzinfo=UTC), day, day
    ).to_pandas().set_index("event_id")  # fmt: skip
    assert found.loc["1", "months_as_customer"] == 61
    assert np.isnan(found.loc["2", "months_as_customer"])
    assert found.loc["2", "facet_age_band"] == "unknown"
    assert found.loc["2", "injury_claim"] == 900.0


def test_the_comparison_uses_the_columns_of_the_published_demo(reference: Path) -> None:
    encoded = demo_encoding(reference)
    assert encoded.shape == (5000, 45)
    assert encoded.index.tolist() == read_landed(reference / "claims.csv")["policy_id"].tolist()
    assert encoded.notna().all().all()
