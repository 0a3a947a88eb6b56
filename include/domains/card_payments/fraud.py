"""Which payments are fraudulent, by which scenario, and how that changes.

Scenarios 1 to 3 are those of the published specification (Le Borgne et al. 2022, chapter 3, section 2; see README.md), planted in that order,
a later one overriding an earlier one's number. Scenarios 4 and 5 occur only in planted changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from include.domains.card_payments.population import DAY_SECONDS, TIME_OF_DAY, Payments, Population

Array = npt.NDArray[Any]

LARGE_AMOUNT, COMPROMISED_TERMINAL, COMPROMISED_CUSTOMER, DISTANT_TERMINAL, CARD_TESTING = 1, 2, 3, 4, 5
"""The scenarios; 0 is genuine."""

AMOUNT_LIMIT = 220.0
"""A payment of more than this is fraudulent (scenario 1): who pays 100 on average comes near it, nobody beyond it."""
TERMINAL_DAYS = 28
"""Every payment at a compromised terminal is fraudulent for so many days (scenario 2)."""
TERMINAL_SHARE_A_DAY = 2 / 10_000
"""Share of the terminals that are compromised each day."""
CUSTOMER_DAYS = 14
"""For so many days, a third of a compromised customer's payments are fraudulent, and their amounts multiplied (scenario 3)."""
CUSTOMER_SHARE_A_DAY = 3 / 5_000
"""Share of the customers whose card data leak each day."""
CUSTOMER_AMOUNT_FACTOR = 5.0
DISTANT_DAYS = 7
"""For so many days, card data stolen from a customer are used for further payments, far from where the customer lives (scenario 4)."""
DISTANT_PAYMENTS_A_DAY = 3.0
DISTANT_CANDIDATES = 3
"""Of so many terminals drawn at random, the one farthest from the customer is used."""
TESTING_BEFORE_SECOND = 5 * 3_600
TESTING_BELOW_AMOUNT = 10.0
TESTING_SHARE = 0.58
"""Share of the payments below 10 EUR before 5 in the morning that test stolen cards (scenario 5): as much fraud as scenario 2 had."""
SEASON_VOLUME = 1.4
SEASON_AMOUNT_FACTOR = 1.25
SEASON_LATENESS = 0.7
"""In the busy season, a payment at the share s of its day comes at the share s ** 0.7: those of noon at a quarter to three."""

CHANGES: dict[str, str] = {
    "distant_terminals": (
        "a new scenario: stolen card data are used for about three further payments a day, for a week, of amounts as the customer's own, at"
        " terminals far from where the customer lives"
    ),
    "moved_fraud": (
        "the same amount of fraud moves from compromised terminals to payments below 10 EUR before 5 in the morning, which test stolen cards;"
        " payments as such do not change"
    ),
    "more_fraud": "twice as many compromised terminals and customers",
    "busy_season": "40 % more payments, later in the day, of amounts a quarter higher; fraud keeps its ways and its share",
    "amount_in_cents": "a data fault: tx_amount arrives in cents; fraud does not change",
}
"""What may be planted from a day on: name → what happens."""


@dataclass(frozen=True)
class Compromises:
    """Who was compromised from which day on, for ``length`` days: terminals or customers, by number. Aligned; in the order of the days."""

    day: Array
    who: Array
    length: int

    def starting_on(self, day: int) -> Array:
        return self.who[slice(*np.searchsorted(self.day, (day, day + 1)))]

    def lasting_on(self, day: int) -> Array:
        """Who is compromised on that day."""
        return self.who[slice(*np.searchsorted(self.day, (day - self.length + 1, day + 1)))]


def compromise(rng: np.random.Generator, size: int, share_a_day: float, length: int, first_day: int, end_day: int) -> Compromises:
    """A share of ``size`` terminals or customers, drawn anew each day from ``first_day`` on: as many that the total is never behind
    ``size * share_a_day`` a day, and so at least one on the first."""
    total = [math.ceil(round(size * share_a_day * number, 6)) for number in range(end_day - first_day + 1)]
    drawn = [rng.choice(size, min(size, total[number + 1] - total[number]), replace=False) for number in range(end_day - first_day)]
    day = np.repeat(np.arange(first_day, end_day), [len(who) for who in drawn])
    return Compromises(day, np.concatenate(drawn).astype(np.int32), length)


def plant_large_amounts(payments: Payments, scenario: Array) -> None:
    """Scenario 1, in place in ``scenario`` (by row)."""
    scenario[payments.amount > AMOUNT_LIMIT] = LARGE_AMOUNT


def plant_compromised_terminals(
    payments: Payments, scenario: Array, terminals: Compromises, terminal_count: int, from_day: int = 0
) -> None:
    """Scenario 2 on the payments from ``from_day`` on, in place in ``scenario``."""
    for day in range(from_day, payments.day_count):
        rows = payments.of_days(day, day + 1)
        compromised = np.zeros(terminal_count, dtype=bool)
        compromised[terminals.lasting_on(day)] = True
        scenario[rows][compromised[payments.terminal[rows]]] = COMPROMISED_TERMINAL


def plant_compromised_customers(
    payments: Payments, scenario: Array, customers: Compromises, rng: np.random.Generator, from_day: int = 0
) -> None:
    """Scenario 3 on the payments from ``from_day`` on, in place in ``scenario`` and in the amounts: a third, rounded down, of what the
    customers compromised on a day pay together."""
    for day in np.unique(customers.day):
        window = payments.of_days(max(day, from_day), day + customers.length)
        rows = window.start + np.flatnonzero(np.isin(payments.customer[window], customers.starting_on(day)))
        stolen = rng.choice(rows, len(rows) // 3, replace=False)
        payments.amount[stolen] = np.round(CUSTOMER_AMOUNT_FACTOR * payments.amount[stolen], 2)
        scenario[stolen] = COMPROMISED_CUSTOMER


def distant_payments(rng: np.random.Generator, population: Population, thefts: Compromises, day_count: int) -> Payments:
    """What is paid with stolen card data, far from where the customer lives, in no order."""
    days = thefts.length
    count = rng.poisson(DISTANT_PAYMENTS_A_DAY, len(thefts.day) * days)
    day = np.repeat((thefts.day[:, None] + np.arange(days)).ravel(), count)
    customer = np.repeat(np.repeat(thefts.who, days), count)
    second = rng.normal(*TIME_OF_DAY, len(day)).astype(np.int32)
    candidates = rng.integers(0, population.terminals, (len(day), DISTANT_CANDIDATES))
    distance = np.hypot(
        population.terminal_x[candidates] - population.customer_x[customer][:, None],
        population.terminal_y[candidates] - population.customer_y[customer][:, None],
    )
    terminal = candidates[np.arange(len(day)), np.argmax(distance, axis=1)]
    amount = population.amounts(rng, customer)
    made = (second > 0) & (second < DAY_SECONDS) & (day < day_count)
    return Payments(day, second, customer, terminal.astype(np.int32), amount, day_count).take(np.flatnonzero(made))


def move_to_card_testing(payments: Payments, scenario: Array, from_day: int, rng: np.random.Generator) -> None:
    """From that day on, compromised terminals do no harm any more, and small payments at night do. In place, in ``scenario``."""
    late = payments.of_days(from_day, payments.day_count)
    was, amount = scenario[late], payments.amount[late]
    was[was == COMPROMISED_TERMINAL] = np.where(amount[was == COMPROMISED_TERMINAL] > AMOUNT_LIMIT, LARGE_AMOUNT, 0)
    testing = (payments.second[late] < TESTING_BEFORE_SECOND) & (amount < TESTING_BELOW_AMOUNT) & (rng.random(len(was)) < TESTING_SHARE)
    was[testing & (was == 0)] = CARD_TESTING


def bring_busy_season(payments: Payments, scenario: Array, from_day: int) -> None:
    """Amounts rise, but of genuine payments not over the limit, beyond which nobody genuine pays; all come later in the day. In place."""
    late = payments.of_days(from_day, payments.day_count)
    amount = payments.amount[late]
    raised = np.round(SEASON_AMOUNT_FACTOR * amount, 2)
    payments.amount[late] = np.where((scenario[late] == 0) & (raised > AMOUNT_LIMIT), amount, raised)
    payments.second[late] = DAY_SECONDS * (payments.second[late] / DAY_SECONDS) ** SEASON_LATENESS
