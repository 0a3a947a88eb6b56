"""What Great Expectations says of reference claims, of simulated ones, and of every kind of damage."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.auto_claims import read_landed, reference_features
from include import domains
from include.domains.auto_claims.simulator import Simulation, deliveries, simulate
from include.jobs.quality import QualityChecks, SuiteResult

EXPECTATIONS = domains.part("auto_claims", "expectations")
RAW = EXPECTATIONS.raw_expectations()
INJURY_WARNING = "no injury_claim where num_injuries is 0"


@pytest.fixture(scope="module")
def quality() -> Iterator[QualityChecks]:
    with QualityChecks() as checks:
        yield checks


def test_the_reference_claims_warn_of_3371_injury_claims_and_lose_no_row(quality: QualityChecks, reference: Path) -> None:
    claims = quality.check(read_landed(reference / "claims.csv"), "reference claims", RAW["claims"])
    assert claims.row_failures == {}
    assert claims.table_failures == ()
    assert claims.warnings == [{"expectation": INJURY_WARNING, "column": "injury_claim", "unexpected": 3371, "share": 0.6742}]
    assert quality.check(read_landed(reference / "customers.csv"), "reference customers", RAW["customers"]) == SuiteResult()


def test_reference_features_pass_and_a_wrong_year_warns(quality: QualityChecks, reference: Path) -> None:
    right = reference_features(reference).reset_index()
    assert quality.check(right, "reference features", EXPECTATIONS.feature_expectations()) == SuiteResult()
    wrong = reference_features(reference, year=None, delivered=date(2026, 3, 1)).reset_index()
    found = quality.check(wrong, "features of a wrong year", EXPECTATIONS.feature_expectations())
    assert found.row_failures == {}
    assert [(warning["column"], warning["unexpected"]) for warning in found.warnings] == [("weekday_contradicts_date", 5000)]


def test_simulated_claims_are_as_the_reference_claims(quality: QualityChecks, simulation: Simulation) -> None:
    found = quality.check(simulation.claims, "simulated claims", RAW["claims"])
    assert (found.row_failures, found.table_failures) == ({}, ())
    assert [warning["expectation"] for warning in found.warnings] == [INJURY_WARNING]
    assert quality.check(simulation.customers, "simulated customers", RAW["customers"]) == SuiteResult()
    assert quality.check(simulation.labels, "simulated labels", RAW["labels"]) == SuiteResult()


def test_damaged_rows_are_exactly_the_critical_ones(quality: QualityChecks, simulation: Simulation, tmp_path: Path) -> None:
    day = simulation.last_day
    [landed] = [file.rows for file in deliveries(simulation, day, day, damaged_share=0.02) if file.table == "claims"]
    damaged = (landed.astype(str) != simulation.claims.assign(fraud="").astype(str)).any(axis=1)
    landed.to_csv(tmp_path / "claims.csv", index=False)
    rows = read_landed(tmp_path / "claims.csv")
    # text for a number and an empty cell are found by ingestion's own typing, before Great Expectations
    typed = pd.to_numeric(rows["num_witnesses"], errors="coerce").notna() & rows["incident_severity"].notna()
    rows["num_witnesses"] = pd.to_numeric(rows["num_witnesses"], errors="coerce")
    found = quality.check(rows[typed], "damaged claims", RAW["claims"])
    assert sorted(found.row_failures) == damaged[typed].reset_index(drop=True).pipe(lambda flags: flags[flags].index.tolist())
    assert len(found.row_failures) > 200


CRITICAL: list[tuple[str, dict[str, Any]]] = [
    ("policy_id", {"policy_id": 0}),
    ("driver_relationship", {"driver_relationship": "Neighbour"}),
    ("incident_type", {"incident_type": "collision"}),
    ("collision_type", {"collision_type": "Roof"}),
    ("incident_severity", {"incident_severity": "Total"}),
    ("authorities_contacted", {"authorities_contacted": "Army"}),
    ("police_report_available", {"police_report_available": "Maybe"}),
    ("num_vehicles_involved", {"num_vehicles_involved": 0}),
    ("num_injuries", {"num_injuries": -1}),
    ("num_witnesses", {"num_witnesses": 101}),
    ("incident_month", {"incident_month": 13}),
    ("incident_day", {"incident_day": 0}),
    ("incident_day", {"incident_month": 4, "incident_day": 31}),
    ("incident_day", {"incident_month": 2, "incident_day": 30}),
    ("incident_dow", {"incident_dow": 7}),
    ("incident_hour", {"incident_hour": 24}),
    ("injury_claim", {"injury_claim": -100.0, "total_claim_amount": 900.0}),
    ("vehicle_claim", {"vehicle_claim": -1.0, "total_claim_amount": 499.0}),
    ("total_claim_amount", {"total_claim_amount": 1500.02}),
    ("total_claim_amount", {"total_claim_amount": 1499.98}),
    ("fraud", {"fraud": 2}),
]
HARMLESS: list[dict[str, Any]] = [
    {},
    {"incident_month": 2, "incident_day": 29},
    {"incident_hour": 0},
    {"injury_claim": 0.0, "vehicle_claim": 0.0, "total_claim_amount": 0.0},
    {"total_claim_amount": 1500.004},
    {"fraud": None},
    {"authorities_contacted": "None", "police_report_available": "Yes"},
    {"collision_type": "N/A"},
]
GOOD_CLAIM = {
    "policy_id": 1, "driver_relationship": "Self", "incident_type": "Collision", "collision_type": "Rear", "incident_severity": "Minor",
    "authorities_contacted": "Police", "num_vehicles_involved": 2, "num_injuries": 1, "num_witnesses": 0, "police_report_available": "Yes",
    "injury_claim": 500.0, "vehicle_claim": 1000.0, "total_claim_amount": 1500.0, "incident_month": 5, "incident_day": 31, "incident_dow": 6,
    "incident_hour": 23, "fraud": 1,
}  # fmt: skip


def test_each_fault_is_found_in_its_column_and_harmless_rows_pass(quality: QualityChecks) -> None:
    rows = pd.DataFrame([{**GOOD_CLAIM, **fault} for fault in [*(fault for _, fault in CRITICAL), *HARMLESS]])
    found = quality.check(rows, "faults", RAW["claims"])
    assert sorted(found.row_failures) == list(range(len(CRITICAL)))
    for position, (column, fault) in enumerate(CRITICAL):
        assert [reason.split(":")[0] for reason in found.row_failures[position]] == [column], fault


def test_claims_in_cents_warn(quality: QualityChecks) -> None:
    first = date(2026, 1, 1)
    found = quality.check(simulate(3, 700, first, 1, "injury_claim_in_cents", first).claims, "cents", RAW["claims"])
    assert found.row_failures == {}
    assert {warning["column"] for warning in found.warnings} == {"injury_claim", "total_claim_amount"}
    assert "the median injury_claim is between 3,000 and 75,000 USD" in [warning["expectation"] for warning in found.warnings]


def test_customers_out_of_the_world_are_critical_and_unusual_ones_warn(quality: QualityChecks, simulation: Simulation) -> None:
    customers = simulation.customers.head(8).copy()
    faults = {
        "customer_age": 230,
        "months_as_customer": -1,
        "num_insurers_past_5_years": 0,
        "policy_state": "Cal",
        "policy_liability": "none",
        "auto_year": 20,
    }
    for position, (column, value) in enumerate(faults.items()):
        customers.loc[position, column] = value
    customers.loc[6, "customer_gender"] = "Unknown"
    customers.loc[7, "policy_state"] = "TX"
    found = quality.check(customers, "customers", RAW["customers"])
    assert {position: reasons[0].split(":")[0] for position, reasons in found.row_failures.items()} == dict(enumerate(faults))
    assert {"customer_gender", "policy_state"} <= {warning["column"] for warning in found.warnings}
