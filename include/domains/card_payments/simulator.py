"""Card payments for any number of customers, terminals and days: payments, the truth, when it becomes known, and the files that land.

``simulate`` and ``simulate_population`` make the payments and the truth; ``deliveries`` turns them into landing files, with the damage that
real files have. All are functions of their arguments alone. Equal seeds give equal rows before a change's day, whatever the change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from include.domains.card_payments import fraud, population
from include.domains.card_payments.domain import CHARGEBACK_DELAY, TRANSACTIONS
from include.domains.card_payments.fraud import CHANGES, Compromises
from include.domains.card_payments.population import DAY_SECONDS, PAYMENTS_PER_CUSTOMER_AND_DAY, RADIUS, SIDE, Payments, Population

__all__ = ["CHANGES", "HISTORY", "LIVE", "Delivery", "Simulation", "deliveries", "simulate", "simulate_population"]

HISTORY = {"days": 90, "events": 170_000}
"""What the laptop's demonstration simulates."""
LIVE = {"days": 18, "change": "distant_terminals", "change_after": 4}
"""The days after it, and how fraud changes then."""
TERMINALS_PER_CUSTOMER = 2
TERMINALS_WITHIN_REACH = 10
"""In a small simulation customers go farther than RADIUS: so far that they reach this many terminals on average."""
DAMAGED_SHARE = 0.0005
"""Share of landed transactions with a fault that ingestion must refuse."""

# Independent streams of random numbers: what a change draws must not move what would have happened without it.
_CUSTOMERS, _TERMINALS, _PAYMENTS, _COMPROMISED_TERMINALS, _COMPROMISED_CUSTOMERS, _STOLEN, _CHANGE, _MORE_PAYMENTS, _DAMAGE = range(9)


@dataclass(frozen=True)
class Simulation:
    """``transactions`` (with the truth in ``tx_fraud``), ``customers`` and ``terminals`` have the columns of their tables; transactions are
    in the order of time. ``labels``, of frauds alone, as nobody reports the rest: transaction_id, label, decided_at (UTC).

    What nobody is told: ``scenario``, aligned with the transactions (0 genuine, 1 to 5: ``fraud.py``), and ``compromised_terminals`` and
    ``compromised_customers``: terminal_id or customer_id, and the first and last day."""

    transactions: pd.DataFrame
    customers: pd.DataFrame
    terminals: pd.DataFrame
    labels: pd.DataFrame
    scenario: npt.NDArray[np.int8]
    compromised_terminals: pd.DataFrame
    compromised_customers: pd.DataFrame
    first_day: date
    days: int
    seed: int

    @property
    def last_day(self) -> date:
        return self.first_day + timedelta(days=self.days - 1)


@dataclass(frozen=True)
class Delivery:
    """A file as it lands: for which table, on which day, its rows, damaged ones among them."""

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
    """About ``events`` payments on ``days`` days from ``first_day`` on, numbered from ``first_event``.

    How many there are is left to chance, and so are the customers' habits: with 10 customers a quarter more or less, with 1,000 some 2 %. The
    number of customers follows from PAYMENTS_PER_CUSTOMER_AND_DAY, the terminals are twice as many. Simulations of equal seed and numbers
    of customers and terminals can follow each other: they have the same people, and each day has random numbers of its own.

    ``change`` (a name in CHANGES) holds from ``change_day`` on. ValueError for a change that is unknown, without a day, or outside of the
    simulated days, and for sizes below 1.
    """
    if days < 1 or events < 1:
        raise ValueError(f"days ({days}) and events ({events}) must be at least 1")
    customers = max(1, round(events / days / PAYMENTS_PER_CUSTOMER_AND_DAY))
    terminals = TERMINALS_PER_CUSTOMER * customers
    radius = max(RADIUS, SIDE * math.sqrt(TERMINALS_WITHIN_REACH / terminals / math.pi))
    return simulate_population(customers, terminals, days, first_day, seed, change, change_day, first_event, radius)


def simulate_population(
    customers: int,
    terminals: int,
    days: int,
    first_day: date,
    seed: int,
    change: str | None = None,
    change_day: date | None = None,
    first_event: int = 1,
    radius: float = RADIUS,
) -> Simulation:
    """The published specification with its own parameters; it uses 5,000 customers, 10,000 terminals and 183 days from 2018-04-01 on.
    ValueError as for ``simulate``, and where no terminal is within any customer's reach."""
    if min(customers, terminals, days) < 1:
        raise ValueError(f"customers ({customers}), terminals ({terminals}) and days ({days}) must be at least 1")
    if (change is None) != (change_day is None):
        raise ValueError("a change needs a day, and a day a change: give both or neither")
    if change is not None and change not in CHANGES:
        raise ValueError(f"no change is named {change!r}; there are: {', '.join(CHANGES)}")
    if change_day is not None and not first_day <= change_day < first_day + timedelta(days=days):
        raise ValueError(f"the change's day {change_day} lies outside of the simulated days, {first_day} and {days - 1} days after it")
    world = _World(customers, terminals, days, first_day, seed, radius)
    if not len(world.population.reachable):
        raise ValueError(f"no customer has a terminal within {radius:g}: simulate more terminals, or a larger radius")
    payments, scenario = world.payments()
    if change is not None and change_day is not None:
        payments, scenario = world.change(change, (change_day - first_day).days, payments, scenario)
    return _simulation(world, payments, scenario, first_event)


class _World:
    """People, terminals and who was compromised when; every random number comes from a stream of its own purpose, and day where it has one."""

    def __init__(self, customers: int, terminals: int, days: int, first_day: date, seed: int, radius: float) -> None:
        self.days, self.first_day, self.seed = days, first_day, seed
        self.population: Population = population.populate(self.stream(_CUSTOMERS), self.stream(_TERMINALS), customers, terminals, radius)
        self.terminals = self._compromised_terminals(self.stream(_COMPROMISED_TERMINALS, first_day.toordinal()), 0)
        self.customers = self._compromised_customers(self.stream(_COMPROMISED_CUSTOMERS, first_day.toordinal()), 0)

    def stream(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *purpose])

    def payments(self) -> tuple[Payments, npt.NDArray[np.int8]]:
        """The payments without any change, and the scenario of each."""
        first = self.first_day.toordinal()
        payments = population.draw(self.population, range(self.days), self.days, lambda day: self.stream(_PAYMENTS, first + day))
        return payments, self._plant(payments, self.stream(_STOLEN, first))

    def change(self, name: str, from_day: int, payments: Payments, scenario: npt.NDArray[np.int8]) -> tuple[Payments, npt.NDArray[np.int8]]:
        """The payments and their scenarios with the change; ``payments`` is used up."""
        first = self.first_day.toordinal()
        rng = self.stream(_CHANGE, first + from_day)
        if name == "distant_terminals":
            thefts = fraud.compromise(rng, self.population.customers, fraud.CUSTOMER_SHARE_A_DAY, fraud.DISTANT_DAYS, from_day, self.days)
            more = fraud.distant_payments(rng, self.population, thefts, self.days)
            return _merged((payments, more), (scenario, np.full(len(more), fraud.DISTANT_TERMINAL, dtype=np.int8)))
        if name == "moved_fraud":
            fraud.move_to_card_testing(payments, scenario, from_day, rng)
        if name == "more_fraud":  # as many again, who were compromised before the change, too, but do harm only from then on
            terminals = self._compromised_terminals(rng, from_day - fraud.TERMINAL_DAYS + 1)
            customers = self._compromised_customers(rng, from_day - fraud.CUSTOMER_DAYS + 1)
            fraud.plant_compromised_terminals(payments, scenario, terminals, self.population.terminals, from_day)
            fraud.plant_compromised_customers(payments, scenario, customers, rng, from_day)
        if name == "busy_season":
            days, volume = range(from_day, self.days), fraud.SEASON_VOLUME - 1
            more = population.draw(self.population, days, self.days, lambda day: self.stream(_MORE_PAYMENTS, first + day), volume)
            payments, scenario = _merged((payments, more), (scenario, self._plant(more, rng)))
            fraud.bring_busy_season(payments, scenario, from_day)
            return _merged((payments,), (scenario,))
        if name == "amount_in_cents":  # after the truth: the fault is in the file, not in the world
            late = payments.of_days(from_day, self.days)
            payments.amount[late] = np.round(100 * payments.amount[late])
        return payments, scenario

    def _plant(self, payments: Payments, rng: np.random.Generator) -> npt.NDArray[np.int8]:
        scenario = np.zeros(len(payments), dtype=np.int8)
        fraud.plant_large_amounts(payments, scenario)
        fraud.plant_compromised_terminals(payments, scenario, self.terminals, self.population.terminals)
        fraud.plant_compromised_customers(payments, scenario, self.customers, rng)
        return scenario

    def _compromised_terminals(self, rng: np.random.Generator, first: int) -> Compromises:
        size, share = self.population.terminals, fraud.TERMINAL_SHARE_A_DAY
        return fraud.compromise(rng, size, share, fraud.TERMINAL_DAYS, first, self.days)

    def _compromised_customers(self, rng: np.random.Generator, first: int) -> Compromises:
        size, share = self.population.customers, fraud.CUSTOMER_SHARE_A_DAY
        return fraud.compromise(rng, size, share, fraud.CUSTOMER_DAYS, first, self.days)


def _merged(parts: tuple[Payments, ...], scenarios: tuple[npt.NDArray[np.int8], ...]) -> tuple[Payments, npt.NDArray[np.int8]]:
    """All of the parts in the order of time."""
    payments = population.join(parts, parts[0].day_count)
    order = payments.time_order()
    return payments.take(order), np.concatenate(scenarios)[order]


def _simulation(world: _World, payments: Payments, scenario: npt.NDArray[np.int8], first_event: int) -> Simulation:
    """As tables."""
    people = world.population
    start = np.datetime64(world.first_day.isoformat(), "us")
    seconds = payments.day * np.int64(DAY_SECONDS) + payments.second
    columns = {
        "transaction_id": np.arange(first_event, first_event + len(payments)),
        "tx_datetime": pd.DatetimeIndex(start + (seconds * 1_000_000).astype("timedelta64[us]"), tz="UTC"),
        "customer_id": payments.customer,
        "terminal_id": payments.terminal,
        "tx_amount": payments.amount,
        "tx_fraud": (scenario > 0).astype(np.int8),
    }
    transactions = pd.DataFrame(columns, columns=list(TRANSACTIONS.column_names))
    frauds = transactions.loc[scenario > 0, ["transaction_id", "tx_datetime"]].reset_index(drop=True)
    homes = {"customer_id": np.arange(people.customers), "x_customer_id": people.customer_x, "y_customer_id": people.customer_y}
    places = {"terminal_id": np.arange(people.terminals), "x_terminal_id": people.terminal_x, "y_terminal_id": people.terminal_y}
    reports = {"transaction_id": frauds["transaction_id"], "label": 1, "decided_at": frauds["tx_datetime"] + CHARGEBACK_DELAY}
    return Simulation(
        transactions=transactions,
        customers=pd.DataFrame(homes),
        terminals=pd.DataFrame(places),
        labels=pd.DataFrame(reports),
        scenario=scenario,
        compromised_terminals=_periods("terminal_id", world.terminals, world.first_day),
        compromised_customers=_periods("customer_id", world.customers, world.first_day),
        first_day=world.first_day,
        days=world.days,
        seed=world.seed,
    )


def _periods(name: str, compromises: Compromises, first_day: date) -> pd.DataFrame:
    begins = pd.Timestamp(first_day) + pd.to_timedelta(compromises.day, unit="D")
    return pd.DataFrame({name: compromises.who, "first_day": begins, "last_day": begins + pd.Timedelta(days=compromises.length - 1)})


def deliveries(
    simulation: Simulation, history_until: date | None = None, until: date | None = None, damaged_share: float = DAMAGED_SHARE
) -> Iterator[Delivery]:
    """The landing files, day by day: customers and terminals on the first day, a transaction (its ``tx_fraud`` empty) on its day, the label
    of a fraud on the day it is decided.

    ``history_until``: everything that landed up to that day comes as one delivery on it. ``until``: the last delivery day (None: the last
    label's). ``damaged_share`` of the transactions are damaged in ways that ingestion must refuse.
    """
    landed = _damage(simulation.transactions, damaged_share, np.random.default_rng([simulation.seed, _DAMAGE]))
    first = pd.Timestamp(simulation.first_day)
    times = {"transactions": simulation.transactions["tx_datetime"], "labels": simulation.labels["decided_at"]}
    frames = {"customers": simulation.customers, "labels": simulation.labels, "terminals": simulation.terminals, "transactions": landed}
    files: list[Delivery] = []
    for table, frame in frames.items():
        day = times[table].dt.tz_localize(None).dt.normalize() if table in times else pd.Series(first, index=frame.index)
        day = day if history_until is None else day.clip(lower=pd.Timestamp(history_until))
        if until is not None:
            frame, day = frame[day <= pd.Timestamp(until)], day[day <= pd.Timestamp(until)]
        files += [Delivery(table, moment.date(), rows) for moment, rows in frame.groupby(day, sort=True)]
    yield from sorted(files, key=lambda file: (file.day, file.table))


def _damage(transactions: pd.DataFrame, share: float, rng: np.random.Generator) -> pd.DataFrame:
    """As landed. Each damaged row gets one fault: a negative or missing amount, no customer, an impossible terminal, a day to come."""
    rows = np.flatnonzero(rng.random(len(transactions)) < share)
    faults: tuple[tuple[str, Any], ...] = (
        ("tx_amount", lambda cells: -1 - cells),
        ("tx_amount", lambda cells: np.nan),
        ("customer_id", lambda cells: pd.NA),
        ("terminal_id", lambda cells: -1 - cells),
        ("tx_datetime", lambda cells: cells + pd.Timedelta(days=36_525)),
    )
    nobody_knows = pd.array(np.zeros(len(transactions)), dtype="Int8")
    nobody_knows[:] = pd.NA
    landed = transactions.astype({"customer_id": "Int32"}).assign(tx_fraud=nobody_knows)
    choice = rng.integers(0, len(faults), len(rows))
    for number, (column, fault) in enumerate(faults):
        hit = rows[choice == number]
        if len(hit):
            landed.iloc[hit, landed.columns.get_loc(column)] = fault(transactions[column].iloc[hit])
    return landed
