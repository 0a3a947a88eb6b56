"""The description of the claims domain: cheap to load, true to the reference files, and exact about time."""

from __future__ import annotations

import subprocess
import sys
from datetime import date, datetime
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from bench.auto_claims import read_landed
from include import domains
from include.domains.auto_claims.domain import CLAIMS, CUSTOMERS, DOMAIN
from include.domains.auto_claims.model import HYPERPARAMETERS, TUNING_RANGES
from include.jobs.train import XGBOOST_PARAMETERS

ROOT = Path(domains.__file__).parents[2]


def test_the_domain_loads() -> None:
    assert domains.catalogue().failures == {}
    assert domains.get("auto_claims") is DOMAIN


@pytest.mark.parametrize("module", ["domain", "model"])
def test_loading_it_needs_the_standard_library_only(module: str) -> None:
    script = (
        "import sys; before = set(sys.modules)\n"
        f"import include.domains.auto_claims.{module}\n"
        "names = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(names - set(sys.stdlib_module_names) - {'include'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("table", [CLAIMS, CUSTOMERS], ids=lambda table: table.name)
def test_the_declared_schema_is_the_reference_files(reference: Path, table: object) -> None:
    landed = read_landed(reference / f"{table.name}.csv")
    assert tuple(landed.columns) == table.column_names
    assert len(landed) == 5000
    assert landed[list(table.key)].drop_duplicates().shape[0] == 5000
    kinds = {"integer": pd.api.types.is_integer_dtype, "float": pd.api.types.is_numeric_dtype, "string": lambda _: True}
    for column in table.columns:
        assert kinds[column.type](landed[column.name]), column.name
        assert column.nullable or landed[column.name].notna().all(), column.name


def test_missing_looking_strings_are_values(reference: Path) -> None:
    claims, customers = read_landed(reference / "claims.csv"), read_landed(reference / "customers.csv")
    assert (claims["collision_type"] == "N/A").sum() == 728
    assert (claims["authorities_contacted"] == "None").sum() == 1210
    assert (customers["customer_gender"] == "Unkown").sum() == 420


INCIDENTS = [
    # month, day, hour, delivered_at, year parameter, event time
    (12, 31, 23, "2026-01-01", None, "2025-12-31 23:00"),
    (12, 31, 23, "2026-12-31", None, "2025-12-31 23:00"),
    (1, 1, 0, "2026-01-01", None, "2025-01-01 00:00"),
    (1, 1, 0, "2026-01-02", None, "2026-01-01 00:00"),
    (3, 15, 9, "2026-03-15", None, "2025-03-15 09:00"),
    (3, 15, 9, "2026-03-16", None, "2026-03-15 09:00"),
    (3, 15, 9, "2026-03-16", 2019, "2019-03-15 09:00"),
    (2, 29, 5, "2024-03-01", None, "2024-02-29 05:00"),
    (2, 29, 5, "2025-01-10", None, "2024-02-29 05:00"),
    (2, 29, 5, "2025-03-01", None, None),
    (2, 29, 5, "2025-03-01", 2023, None),
    (4, 31, 5, "2025-06-01", None, None),
    (13, 1, 5, "2025-06-01", None, None),
    (6, 1, 24, "2025-07-01", None, None),
    (-1, 1, 5, "2025-06-01", None, None),
    (None, 1, 5, "2025-06-01", None, None),
    (10**15, 1, 5, "2025-06-01", None, None),
]


@pytest.mark.parametrize(("month", "day", "hour", "delivered", "year", "expected"), INCIDENTS)
def test_the_time_of_an_incident(month: int, day: int, hour: int, delivered: str, year: int | None, expected: str | None) -> None:
    row = (
        "SELECT CAST($month AS BIGINT) AS incident_month, CAST($day AS BIGINT) AS incident_day, CAST($hour AS BIGINT) AS incident_hour,"
        " CAST($delivered AS TIMESTAMP) AS delivered_at, CAST($year AS INTEGER) AS delivery_year"
    )
    values = {"month": month, "day": day, "hour": hour, "delivered": delivered, "year": year}
    event_time, available_at = duckdb.execute(f"SELECT {CLAIMS.event_time}, {CLAIMS.available_at} FROM ({row})", values).fetchone()
    assert event_time == (None if expected is None else datetime.fromisoformat(expected))
    assert available_at is None or (available_at - event_time).days == 3


def test_the_reference_calendar_is_that_of_2019_and_of_no_other_recent_year(reference: Path) -> None:
    claims = read_landed(reference / "claims.csv")

    def agrees(year: int) -> float:
        dates = pd.to_datetime({"year": year, "month": claims["incident_month"], "day": claims["incident_day"]}, errors="coerce")
        return float((dates.dt.day_of_week == claims["incident_dow"]).mean())

    assert agrees(2019) == 1.0
    assert all(agrees(year) < 1.0 for year in range(2014, 2025) if year != 2019)


def test_labels_are_final_by_maturity() -> None:
    event = "SELECT TIMESTAMP '2026-01-01' AS event_time"
    known, happened = duckdb.execute(f"SELECT {DOMAIN.label.available_at}, event_time FROM ({event})").fetchone()
    assert known == happened + DOMAIN.label.maturity


def test_a_person_approves() -> None:
    assert not DOMAIN.approval.automatic
    assert DOMAIN.approval.approvers == ("claims_lead",)


def test_the_training_job_takes_the_hyperparameters() -> None:
    own = {"num_boost_round", "early_stopping_rounds", "seed"}
    assert own <= set(HYPERPARAMETERS)
    assert set(HYPERPARAMETERS) - own <= XGBOOST_PARAMETERS
    for name, (low, high) in TUNING_RANGES.items():
        assert low <= HYPERPARAMETERS[name] <= high, name


def test_the_demo_fits_the_training_window() -> None:
    """90 days of 20,000 claims, and a year of 5,000, leave more than the minimum of matured events."""
    matured = {90: 20_000 * 60 / 90, 365: 5_000 * 335 / 365}
    assert all(events > DOMAIN.training.minimum_events for events in matured.values())
    assert DOMAIN.training.window.days >= 365 >= (date(2019, 12, 31) - date(2019, 1, 1)).days
