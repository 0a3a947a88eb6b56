"""Who commits fraud, and how that changes.

A claim is fraudulent with probability ``1 / (1 + exp(-score))``, its score a sum over what is true of the claim and its policyholder. So
even who knows the mechanism exactly cannot tell the fraudulent claims, only rank them. The terms and their signs are those of the
reference claims; their sizes were chosen so that a good model's ROC AUC lies between .85 and .90 at 3 % fraud.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from include.domains.auto_claims import population

Array = npt.NDArray[Any]

CHANGES: dict[str, str] = {
    "staged_collisions": (
        "a new scheme: 6 in 100 claims become staged rear-end collisions with two injured people, high injury claims, no witness and no"
        " police, by customers of less than a year"
    ),
    "moved_fraud": (
        "the same amount of fraud moves from single-vehicle claims without injuries to collisions of three or more vehicles with injuries;"
        " the claims as such do not change"
    ),
    "more_fraud": "twice as much fraud of the same kinds",
    "storm_season": "a quarter of the claims become heavy single-vehicle collisions at night; who commits fraud does not change",
    "injury_claim_in_cents": "a data fault: injury_claim arrives in cents, and total_claim_amount with it; fraud does not change",
}
"""What may be planted from a day on: name → what happens."""

BASE_SCORE = -4.68
MOVED_BASE_SCORE = -5.4
STAGED_SHARE = 0.06
STORM_SHARE = 0.25


def scores(claims: pd.DataFrame, customers: pd.DataFrame, moved: bool = False) -> Array:
    """Log-odds of fraud, by row. ``claims`` and ``customers`` are aligned. ``moved``: after the change ``moved_fraud``."""
    months = customers["months_as_customer"].to_numpy()
    hour = claims["incident_hour"].to_numpy()
    vehicles = claims["num_vehicles_involved"].to_numpy()
    injuries = claims["num_injuries"].to_numpy()
    collision = (claims["incident_type"] == "Collision").to_numpy()
    nobody = (claims["authorities_contacted"] == "None").to_numpy()
    night = (hour >= 22) | (hour < 6)
    inflated = claims["injury_claim"].to_numpy() > 25_000
    gender = customers["customer_gender"].map({"Male": 0.6, "Female": -0.4, "Unkown": -0.8, "Other": -0.8}).to_numpy(dtype=float)
    holder = (
        gender
        + 0.5 * (customers["num_insurers_past_5_years"].to_numpy() - 1)
        + 0.8 * np.minimum(customers["num_claims_past_year"].to_numpy(), 3)
        + 1.2 * np.exp(-months / 30.0)
        + 0.5 * (customers["customer_age"].to_numpy() < 33)
    )
    statement = (
        -1.9 * (claims["num_witnesses"].to_numpy() >= 2)
        - 0.7 * (claims["police_report_available"] == "Yes").to_numpy()
        + 0.5 * night
        + 1.1 * (nobody & inflated)
        + 0.3 * (claims["incident_dow"].to_numpy() >= 5)
    )
    if moved:
        incident = (
            1.4 * (injuries > 0)
            + 1.2 * (vehicles >= 3)
            - 1.0 * (vehicles == 1)
            + 0.4 * (claims["incident_severity"] == "Totaled").to_numpy()
        )
        return np.asarray(MOVED_BASE_SCORE + holder + statement + incident, dtype=float)
    incident = (
        -1.1 * (injuries > 0)
        + 0.7 * (vehicles == 1)
        - 0.6 * (vehicles >= 3)
        + 0.5 * ~collision
        - 0.9 * (claims["incident_severity"] == "Totaled").to_numpy()
    )
    return np.asarray(BASE_SCORE + holder + statement + incident, dtype=float)


def stage_collisions(claims: pd.DataFrame, customers: pd.DataFrame, rows: Array, rng: np.random.Generator) -> None:
    """Rewrites ``rows`` (positions) of both frames, in place, as staged rear-end collisions."""
    size = len(rows)
    claims.loc[rows, ["driver_relationship", "incident_type", "collision_type", "incident_severity"]] = [
        "Self",
        "Collision",
        "Rear",
        "Minor",
    ]
    claims.loc[rows, ["authorities_contacted", "police_report_available"]] = ["None", "No"]
    claims.loc[rows, ["num_vehicles_involved", "num_injuries", "num_witnesses"]] = [2, 2, 0]
    claims.loc[rows, "injury_claim"] = population.injury_claims(rng, size, factor=4.0)
    months = rng.integers(1, 12, size)
    customers.loc[rows, "months_as_customer"] = months
    customers.loc[rows, "num_insurers_past_5_years"] = 1 + population.draw(rng, population.INSURERS[12], size)


def bring_storms(claims: pd.DataFrame, rows: Array, rng: np.random.Generator) -> None:
    """Rewrites ``rows`` (positions) in place as heavy single-vehicle collisions at night, with the police there."""
    size = len(rows)
    claims.loc[rows, ["driver_relationship", "incident_type", "collision_type", "authorities_contacted"]] = [
        "Self",
        "Collision",
        "Front",
        "Police",
    ]
    claims.loc[rows, ["num_vehicles_involved", "num_injuries", "num_witnesses"]] = [1, 0, 0]
    claims.loc[rows, "incident_severity"] = population.draw(rng, {"Major": 70, "Totaled": 30}, size)
    claims.loc[rows, "police_report_available"] = np.where(rng.random(size) < population.POLICE_REPORT["Collision"], "Yes", "No")
    claims.loc[rows, "incident_hour"] = rng.choice([20, 21, 22, 23, 0, 1, 2, 3, 4, 5], size)
    claims.loc[rows, "vehicle_claim"] = np.round(claims.loc[rows, "vehicle_claim"] * rng.uniform(1.2, 1.6, size), 2)
