"""Automobile claims for any number of days: claims, policyholders, the truth, when it becomes known, and the files that land.

``simulate`` makes the events and the truth; ``deliveries`` turns them into landing files, with the damage that real files have. Both are
functions of their arguments alone. Equal seeds give equal rows before a change's day, whatever the change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from include.domains.auto_claims import fraud, population
from include.domains.auto_claims.domain import CLAIMS, CUSTOMERS
from include.domains.auto_claims.fraud import CHANGES

__all__ = ["BROKEN_FEATURES", "CHANGES", "HISTORY", "LIVE", "Delivery", "Simulation", "deliveries", "simulate"]

HISTORY = {"days": 90, "events": 20_000}
"""What the laptop's demonstration simulates."""
LIVE = {"days": 18, "change": "staged_collisions", "change_after": 3, "rollout_days": 215}
"""The days after it, how fraud changes then, and how many days more a retraining and its rollout may take: a claim's truth takes a month."""
BROKEN_FEATURES = (
    *("months_as_customer", "share_of_driving_life_as_customer", "num_claims_past_year", "num_insurers_past_5_years"),  # the policy
    *("is_male", "is_female", "auto_age"),
    *("severity", "is_theft", "num_vehicles_involved", "driver_is_policyholder", "driver_is_family"),  # the incident
    *("incident_hour", "is_night", "is_weekend", "weekday_contradicts_date", "police_contacted", "nobody_contacted"),
)
"""What requests lack when hardly more than amounts, injuries and witnesses reaches the models. One that was retrained on staged collisions then asks
for next to no review, and so costs more than the one before it (README.md, "A bad challenger")."""
DECISION_DAYS = (5, 30)
"""A label is decided so many days after the incident: at least, at most."""
REPORT_DELAY_WEIGHTS = (70, 20, 10)
"""Claims reported on the day of the incident, the day after, two days after."""
DAMAGED_SHARE = 0.002
"""Share of landed claims with a fault that ingestion must refuse."""

# Independent streams of random numbers: what a change draws must not move what would have happened without it.
_CALENDAR, _POLICIES, _INCIDENTS, _FRAUD, _DECISIONS, _CHANGE, _REPORTS, _DAMAGE = range(8)


@dataclass(frozen=True)
class Simulation:
    """``claims`` (with the truth in ``fraud``) and ``customers`` have the columns of their tables, row by row the same policies, in the
    order of the incidents; ``event_times`` are the incidents' UTC instants, aligned. ``labels``: policy_id, label, decided_at (UTC)."""

    claims: pd.DataFrame
    customers: pd.DataFrame
    labels: pd.DataFrame
    event_times: pd.Series
    first_day: date
    days: int
    seed: int

    @property
    def last_day(self) -> date:
        return self.first_day + timedelta(days=self.days - 1)


@dataclass(frozen=True)
class Delivery:
    """A file as it lands: for which table, on which day, its rows. Cells are as they will be written, damaged ones among them."""

    table: str
    day: date
    rows: pd.DataFrame


def simulate(
    days: int,
    events: int,
    first_day: date,
    seed: int,
    change: str | None = None,
    change_day: date | None = None,
    first_event: int = 1,
) -> Simulation:
    """Exactly ``events`` claims with incidents on ``days`` days from ``first_day`` on, one a policy, numbered from ``first_event``.

    ``change`` (a name in CHANGES) holds from ``change_day`` on. ValueError for a change that is unknown, without a day, or outside of the
    simulated days, and for sizes below 1.
    """
    if days < 1 or events < 1:
        raise ValueError(f"days ({days}) and events ({events}) must be at least 1")
    if (change is None) != (change_day is None):
        raise ValueError("a change needs a day, and a day a change: give both or neither")
    if change is not None and change not in CHANGES:
        raise ValueError(f"no change is named {change!r}; there are: {', '.join(CHANGES)}")
    if change_day is not None and not first_day <= change_day < first_day + timedelta(days=days):
        raise ValueError(f"the change's day {change_day} lies outside of the simulated days, {first_day} and {days - 1} days after it")

    def stream(number: int) -> np.random.Generator:
        return np.random.default_rng([seed, number])

    rng = stream(_CALENDAR)
    day = population.incident_days(rng, events, first_day, days)
    hour = population.draw(rng, population.HOUR_WEIGHTS, events)
    calendar = pd.date_range(first_day, periods=days, freq="D")
    customers = population.policies(stream(_POLICIES), events, calendar.year.to_numpy()[day])
    claims = population.incidents(stream(_INCIDENTS), events, calendar.year.to_numpy()[day] - customers["auto_year"].to_numpy())
    claims["incident_month"] = calendar.month.to_numpy()[day]
    claims["incident_day"] = calendar.day.to_numpy()[day]
    claims["incident_dow"] = calendar.day_of_week.to_numpy()[day]
    claims["incident_hour"] = hour

    changed = np.zeros(events, dtype=bool) if change_day is None else day >= (change_day - first_day).days
    staged = _change_claims(change, changed, claims, customers, stream(_CHANGE))
    odds = fraud.scores(claims, customers)
    if change == "moved_fraud":
        odds = np.where(changed, fraud.scores(claims, customers, moved=True), odds)
    probability = 1 / (1 + np.exp(-odds))
    if change == "more_fraud":
        probability = np.where(changed, np.minimum(2 * probability, 1), probability)
    claims["fraud"] = ((stream(_FRAUD).random(events) < probability) | staged).astype(int)
    if change == "injury_claim_in_cents":  # after the truth: the fault is in the file, not in the world
        claims.loc[changed, "injury_claim"] *= 100
    claims["total_claim_amount"] = np.round(claims["injury_claim"] + claims["vehicle_claim"], 2)

    event_times = pd.Series(calendar.tz_localize("UTC")[day] + pd.to_timedelta(claims["incident_hour"].to_numpy(), unit="h"))
    order = np.argsort(event_times.to_numpy(), kind="stable")
    claims, customers = claims.iloc[order].reset_index(drop=True), customers.iloc[order].reset_index(drop=True)
    event_times = event_times.iloc[order].reset_index(drop=True)
    claims["policy_id"] = customers["policy_id"] = np.arange(first_event, first_event + events)
    return Simulation(
        claims=claims[list(CLAIMS.column_names)],
        customers=customers[list(CUSTOMERS.column_names)],
        labels=_decisions(claims, event_times, stream(_DECISIONS)),
        event_times=event_times,
        first_day=first_day,
        days=days,
        seed=seed,
    )


def _change_claims(
    change: str | None, changed: npt.NDArray[Any], claims: pd.DataFrame, customers: pd.DataFrame, rng: np.random.Generator
) -> npt.NDArray[Any]:
    """Rewrites what the change rewrites, in place; says which claims are fraudulent by construction."""
    chance = rng.random(len(claims))
    staged = changed & (chance < fraud.STAGED_SHARE) if change == "staged_collisions" else np.zeros(len(claims), dtype=bool)
    if staged.any():
        fraud.stage_collisions(claims, customers, np.flatnonzero(staged), rng)
    if change == "storm_season":
        fraud.bring_storms(claims, np.flatnonzero(changed & (chance < fraud.STORM_SHARE)), rng)
    return staged


def _decisions(claims: pd.DataFrame, event_times: pd.Series, rng: np.random.Generator) -> pd.DataFrame:
    """Most cases are decided in one or two weeks; some take the whole month."""
    earliest, latest = DECISION_DAYS
    days = np.minimum(earliest + rng.gamma(2.0, 4.0, len(claims)), latest)
    decided_at = event_times + pd.to_timedelta((days * 86_400).astype(int), unit="s")
    return pd.DataFrame({"policy_id": claims["policy_id"], "label": claims["fraud"], "decided_at": decided_at})


def deliveries(
    simulation: Simulation, history_until: date | None = None, until: date | None = None, damaged_share: float = DAMAGED_SHARE
) -> Iterator[Delivery]:
    """The landing files, day by day: a claim (its ``fraud`` empty) and its policy on the day it is reported, zero to two days after the
    incident and by the simulation's last day at the latest; a label on the day it is decided.

    ``history_until``: everything that landed up to that day comes as one delivery on it. ``until``: the last delivery day (None: the last
    label's). ``damaged_share`` of the claims are damaged in ways that ingestion must refuse.
    """
    rng = np.random.default_rng([simulation.seed, _REPORTS])
    incident = simulation.event_times.dt.tz_localize(None).dt.normalize()
    delay = population.draw(rng, REPORT_DELAY_WEIGHTS, len(incident))
    reported = (incident + pd.to_timedelta(delay, unit="D")).clip(upper=pd.Timestamp(simulation.last_day))
    decided = simulation.labels["decided_at"].dt.tz_localize(None).dt.normalize()
    claims = _damage(simulation.claims.assign(fraud=""), damaged_share, np.random.default_rng([simulation.seed, _DAMAGE]))
    labels = simulation.labels.assign(decided_at=simulation.labels["decided_at"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"))

    files: list[Delivery] = []
    for table, frame, landed in (("claims", claims, reported), ("customers", simulation.customers, reported), ("labels", labels, decided)):
        day = landed if history_until is None else landed.clip(lower=pd.Timestamp(history_until))
        if until is not None:
            frame, day = frame[day <= pd.Timestamp(until)], day[day <= pd.Timestamp(until)]
        files += [Delivery(table, moment.date(), rows) for moment, rows in frame.groupby(day, sort=True)]
    yield from sorted(files, key=lambda file: (file.day, file.table))


def _damage(claims: pd.DataFrame, share: float, rng: np.random.Generator) -> pd.DataFrame:
    """Each damaged row gets one fault: an impossible value, a misspelt category, an empty cell, text for a number, a total that is not."""
    rows = np.flatnonzero(rng.random(len(claims)) < share)
    faults: tuple[tuple[str, Any], ...] = (
        ("injury_claim", lambda row: -row["injury_claim"]),
        ("incident_hour", lambda row: 24 + row["incident_hour"]),
        ("incident_type", lambda row: row["incident_type"].upper()),
        ("incident_severity", lambda row: ""),
        ("num_witnesses", lambda row: "unknown"),
        ("total_claim_amount", lambda row: round(row["total_claim_amount"] * 1.1, 2)),
        ("incident_month", lambda row: 13),
    )
    choice = rng.integers(0, len(faults), len(rows))
    damaged = claims.copy()
    for number, (column, fault) in enumerate(faults):
        hit = rows[choice == number]
        if len(hit):
            damaged[column] = damaged[column].astype(object)
            damaged.iloc[hit, damaged.columns.get_loc(column)] = [fault(row) for _, row in claims.iloc[hit].iterrows()]
    return damaged
