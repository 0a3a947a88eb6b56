"""Claims and policyholders as they come, before anybody asks whether they are fraudulent.

The shares below were counted in the 5,000 reference claims (see README.md), conditional on what they depend on there. Nothing is drawn
row by row: a million claims take seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Array = npt.NDArray[Any]

WEEKDAY_WEIGHTS = (847, 868, 754, 758, 802, 469, 502)
"""Claims by day of the week, Monday first."""
MONTH_WEIGHTS = (16.5, 13.1, 13.2, 11.5, 11.6, 11.0, 11.8, 13.3, 11.7, 16.9, 18.3, 15.4)
"""Claims a day by month, January first."""
DAY_TO_DAY_DEVIATION = 0.12
"""Standard deviation of the logarithm of a day's expected volume, beside weekday and month."""
HOUR_WEIGHTS = (67, 67, 94, 86, 153, 232, 229, 247, 297, 288, 294, 306, 291, 311, 330, 334, 336, 277, 223, 192, 147, 84, 61, 54)

INCIDENT_KINDS = {  # (incident type, severity): weight; a collision's severity depends on the vehicles involved
    ("Collision", ""): 4272,
    ("Break-in", "Minor"): 436,
    ("Break-in", "Major"): 48,
    ("Theft", "Major"): 244,
}
COLLISION_VEHICLES = {1: 488, 2: 2308, 3: 1212, 4: 241, 5: 22, 6: 1}
COLLISION_SEVERITY = {  # vehicles involved: weights of Minor, Major, Totaled
    1: (74, 16, 10),
    2: (44, 40, 16),
    3: (20, 27, 53),
    4: (15, 33, 52),
    5: (9, 32, 59),
    6: (9, 32, 59),
}
INJURIES = {  # (severity, vehicles involved, at most 4): weights of 0 to 4 injuries in a collision
    ("Minor", 1): (1, 0, 0, 0, 0),
    ("Minor", 2): (950, 71, 0, 0, 0),
    ("Minor", 3): (220, 24, 0, 0, 0),
    ("Minor", 4): (32, 0, 4, 0, 0),
    ("Major", 1): (65, 11, 0, 0, 0),
    ("Major", 2): (545, 227, 101, 45, 0),
    ("Major", 3): (192, 82, 0, 35, 16),
    ("Major", 4): (45, 0, 19, 0, 15),
    ("Totaled", 1): (39, 8, 4, 0, 0),
    ("Totaled", 2): (81, 188, 48, 37, 15),
    ("Totaled", 3): (124, 339, 0, 89, 91),
    ("Totaled", 4): (24, 0, 70, 0, 32),
}
WITNESSES = {  # vehicles involved, at most 5: weights of 0 to 5 witnesses
    1: (986, 14, 0, 0, 0, 0),
    2: (507, 281, 158, 45, 7, 1),
    3: (210, 304, 300, 142, 35, 8),
    4: (41, 199, 336, 191, 162, 71),
    5: (0, 45, 136, 227, 364, 227),
}
COLLISION_TYPES = {"Front": 2109, "Rear": 1105, "Side": 1058}
DRIVERS = {"Self": 3418, "Spouse": 428, "Child": 226, "Other": 200}
AUTHORITIES = {  # severity of a collision: weights
    "Minor": {"None": 70, "Police": 30},
    "Major": {"Ambulance": 5, "Police": 95},
    "Totaled": {"Ambulance": 7, "Fire": 11, "Police": 82},
}
BREAK_IN_UNREPORTED = 0.10  # share of minor break-ins of which nobody was told
POLICE_REPORT = {"Collision": 0.74, "Break-in": 0.027, "Theft": 0.02}  # share with a report, of those with the police contacted

INJURY_CLAIM_LOG = (9.581, 1.005)  # mean and standard deviation of log(USD); in hundreds, and independent of all else
VEHICLE_CLAIM = {  # USD: new vehicle's mean, less a year of age, residual standard deviation
    "Minor": (13_000.0, 617.0, 4_000.0),
    "Major": (19_700.0, 985.0, 3_850.0),
    "Totaled": (39_900.0, 2_050.0, 4_030.0),
}
VEHICLE_CLAIM_MINIMUM = 1_000.0

STATES = {"CA": 3134, "WA": 607, "AZ": 539, "OR": 363, "NV": 222, "ID": 135}
ZIP_RANGES = {
    "CA": (90001, 96150), "WA": (98001, 99362), "AZ": (85003, 86538), "OR": (97004, 97914), "NV": (89002, 89883), "ID": (83201, 83869),
}  # fmt: skip
GENDERS = {"Male": 2281, "Female": 2208, "Unkown": 420, "Other": 91}
EDUCATION = {"Bachelor": 2211, "High School": 1264, "Advanced Degree": 952, "Associate": 475, "Below High School": 98}
LIABILITY = {"25/50": 1697, "15/30": 1631, "30/60": 1137, "100/200": 535}
CLAIMS_PAST_YEAR = (4665, 268, 43, 17, 3, 2, 2)
DEDUCTIBLES = {750: 4950, 800: 28, 850: 9, 900: 3, 950: 5, 1000: 1, 1050: 2, 1100: 2}
PREMIUMS = {  # of policies without a claim in the past year; the others pay the full 3,000
    2200: 1, 2250: 2, 2300: 2, 2350: 10, 2400: 22, 2450: 33, 2500: 65, 2550: 73, 2600: 125, 2650: 148, 2700: 154, 2750: 162, 2800: 180,
    2850: 136, 2900: 141, 2950: 165, 3000: 3246,
}  # fmt: skip
AGES = {(18, 24): 347, (24, 32): 696, (32, 48): 1863, (48, 60): 1355, (60, 71): 739}  # [from, below): weight, even within
TENURE_BETA = (1.7, 4.2)  # months as a customer as a share of the months since the age of 15
INSURERS = {  # months as a customer, below: weights of 1 to 5 insurers; above the last, one insurer
    12: (20, 21, 24, 21, 14),
    24: (20, 30, 19, 20, 11),
    36: (29, 32, 25, 14, 0),
    48: (40, 38, 22, 0, 0),
    60: (63, 37, 0, 0, 0),
}
AUTO_AGE_WEIGHTS = (478, 581, 673, 682, 602, 531, 425, 276, 224, 142, 101, 67, 60, 53, 23, 31, 16, 18, 14, 3)
"""Vehicles by age in years; the youngest is of next year's model."""


def draw(rng: np.random.Generator, weights: Mapping[Any, float] | Sequence[float], size: int) -> Array:
    """``size`` independent draws: keys of a mapping, or positions of a sequence, in proportion to their weights."""
    values: Sequence[Any] = list(weights) if isinstance(weights, Mapping) else range(len(weights))
    shares = np.array(list(weights.values()) if isinstance(weights, Mapping) else list(weights), dtype=float)
    array = np.array(values, dtype=object if isinstance(values[0], str) else None)
    return array[np.searchsorted(np.cumsum(shares / shares.sum())[:-1], rng.random(size), side="right")]


def incident_days(rng: np.random.Generator, events: int, first_day: date, days: int) -> Array:
    """The day (0 is ``first_day``) of each of exactly ``events`` incidents, in order: weekday and month, and days that differ by chance."""
    calendar = [first_day + timedelta(days=offset) for offset in range(days)]
    weights = np.array([WEEKDAY_WEIGHTS[day.weekday()] * MONTH_WEIGHTS[day.month - 1] for day in calendar])
    weights *= np.exp(rng.normal(0, DAY_TO_DAY_DEVIATION, days))
    return np.repeat(np.arange(days), rng.multinomial(events, weights / weights.sum()))


def policies(rng: np.random.Generator, size: int, year: Array) -> pd.DataFrame:
    """Policyholders, one a row, without their policy_id. ``year`` is each one's calendar year, for the vehicle's model year."""
    low, high = np.array(list(AGES)).T
    band = draw(rng, list(AGES.values()), size)
    age = rng.integers(low[band], high[band])
    months = np.clip(np.round(rng.beta(*TENURE_BETA, size) * 12 * (age - 15)), 1, None).astype(int)
    insurers = np.ones(size, dtype=int)
    above = 0
    for below, weights in INSURERS.items():
        rows = np.flatnonzero((months >= above) & (months < below))
        insurers[rows] = 1 + draw(rng, weights, len(rows))
        above = below
    claims = draw(rng, CLAIMS_PAST_YEAR, size)
    state = draw(rng, STATES, size)
    first_zip, last_zip = np.array([ZIP_RANGES[name] for name in STATES]).T
    position = np.searchsorted(sorted(STATES), state.astype(str))
    order = np.argsort(list(STATES))
    zip_code = rng.integers(first_zip[order][position], last_zip[order][position] + 1)
    return pd.DataFrame({
        "customer_age": age,
        "months_as_customer": months,
        "num_claims_past_year": claims,
        "num_insurers_past_5_years": insurers,
        "policy_state": state,
        "policy_deductable": draw(rng, DEDUCTIBLES, size),
        "policy_annual_premium": np.where(claims > 0, 3000, draw(rng, PREMIUMS, size)),
        "policy_liability": draw(rng, LIABILITY, size),
        "customer_zip": zip_code,
        "customer_gender": draw(rng, GENDERS, size),
        "customer_education": draw(rng, EDUCATION, size),
        "auto_year": year + 1 - draw(rng, AUTO_AGE_WEIGHTS, size),
    })  # fmt: skip


def incidents(rng: np.random.Generator, size: int, auto_age: Array) -> pd.DataFrame:
    """What happened and what is claimed, one incident a row, without when. ``auto_age`` in years, at least -1."""
    kinds = list(INCIDENT_KINDS)
    kind = draw(rng, list(INCIDENT_KINDS.values()), size)
    incident_type = np.array([name for name, _ in kinds], dtype=object)[kind]
    severity = np.array([name for _, name in kinds], dtype=object)[kind]
    collision = incident_type == "Collision"
    vehicles = np.where(collision, draw(rng, COLLISION_VEHICLES, size), 1)
    for number, weights in COLLISION_SEVERITY.items():
        rows = np.flatnonzero(collision & (vehicles == number))
        severity[rows] = draw(rng, dict(zip(VEHICLE_CLAIM, weights, strict=True)), len(rows))

    injuries = np.zeros(size, dtype=int)
    for (level, number), weights in INJURIES.items():
        rows = np.flatnonzero(collision & (severity == level) & (np.minimum(vehicles, 4) == number))
        injuries[rows] = draw(rng, weights, len(rows))
    witnesses = np.zeros(size, dtype=int)
    for number, weights in WITNESSES.items():
        rows = np.flatnonzero(np.minimum(vehicles, 5) == number)
        witnesses[rows] = draw(rng, weights, len(rows))

    authorities = np.full(size, "Police", dtype=object)
    for level, shares in AUTHORITIES.items():
        rows = np.flatnonzero(collision & (severity == level))
        authorities[rows] = draw(rng, shares, len(rows))
    unreported = (incident_type == "Break-in") & (severity == "Minor") & (rng.random(size) < BREAK_IN_UNREPORTED)
    authorities[unreported] = "None"
    report_share = pd.Series(incident_type).map(POLICE_REPORT).to_numpy()
    report = (authorities == "Police") & (rng.random(size) < report_share)

    new, yearly, deviation = np.array([VEHICLE_CLAIM[level] for level in VEHICLE_CLAIM]).T
    level = pd.Series(severity).map({name: position for position, name in enumerate(VEHICLE_CLAIM)}).to_numpy()
    vehicle_claim = new[level] - yearly[level] * (auto_age + 1) + rng.normal(0, 1, size) * deviation[level]
    return pd.DataFrame({
        "driver_relationship": np.where(collision, draw(rng, DRIVERS, size), "N/A"),
        "incident_type": incident_type,
        "collision_type": np.where(collision, draw(rng, COLLISION_TYPES, size), "N/A"),
        "incident_severity": severity,
        "authorities_contacted": authorities,
        "num_vehicles_involved": vehicles,
        "num_injuries": injuries,
        "num_witnesses": witnesses,
        "police_report_available": np.where(report, "Yes", "No"),
        "injury_claim": injury_claims(rng, size),
        "vehicle_claim": np.round(np.maximum(vehicle_claim, VEHICLE_CLAIM_MINIMUM), 2),
    })  # fmt: skip


def injury_claims(rng: np.random.Generator, size: int, factor: float = 1.0) -> Array:
    """Log-normal amounts in USD, rounded to hundreds, at least 300; ``factor`` scales the median of 14,500."""
    amounts: Array = np.maximum(np.round(factor * rng.lognormal(*INJURY_CLAIM_LOG, size), -2), 300).astype(int)
    return amounts
