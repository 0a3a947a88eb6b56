"""Customers, terminals and their payments as they come, before anybody asks which of them are fraudulent.

The specification is that of Le Borgne et al. 2022, Reproducible Machine Learning for Credit Card Fraud Detection: Practical Handbook, chapter
3, section 2 (see README.md); the code and the random streams are ours. Days are drawn one after the other, the payments of a day all at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SIDE = 100.0
"""Customers and terminals lie on a square of this side."""
RADIUS = 5.0
"""A customer pays at terminals nearer than this."""
MEAN_AMOUNT = (5.0, 100.0)
"""A customer's mean amount: least, most. The standard deviation is half of it."""
MOST_PAYMENTS_A_DAY = 4.0
"""A customer's expected payments a day lie between 0 and this, before those beyond midnight are left out."""
DAY_SECONDS = 86_400
TIME_OF_DAY = (43_200.0, 20_000.0)
"""Mean and standard deviation of a payment's second of the day. What falls on another day does not happen."""

_LEFT_OUT = 0.5 * (math.erfc(43_199 / 20_000 / math.sqrt(2)) + math.erfc(43_200 / 20_000 / math.sqrt(2)))
PAYMENTS_PER_CUSTOMER_AND_DAY = MOST_PAYMENTS_A_DAY / 2 * (1 - _LEFT_OUT)
"""Expected, of a customer who has a terminal within reach: 1.94."""


@dataclass
class Payments:
    """Payments in the order of time, by row: the day (0 is the first), the second of that day, customer and terminal (numbers from 0), and
    the amount. ``day_count`` days, some of which may have none."""

    day: Array
    second: Array
    customer: Array
    terminal: Array
    amount: Array
    day_count: int

    def __len__(self) -> int:
        return len(self.day)

    def first_row(self, day: int) -> int:
        """The row at which that day begins."""
        return int(np.searchsorted(self.day, day))

    def of_days(self, first: int, end: int) -> slice:
        """The rows of the days ``first`` to ``end``, without ``end``."""
        return slice(self.first_row(first), self.first_row(end))

    def take(self, rows: Array) -> Payments:
        return Payments(self.day[rows], self.second[rows], self.customer[rows], self.terminal[rows], self.amount[rows], self.day_count)

    def time_order(self) -> Array:
        """The rows in the order of time; of the same second, in the order they have."""
        return np.argsort(self.day.astype(np.int64) * DAY_SECONDS + self.second, kind="stable")


@dataclass(frozen=True)
class Population:
    """Who pays where. ``mean_amount`` and ``payments_a_day`` are a customer's; customer c reaches the terminals
    ``reachable[first_reachable[c] : first_reachable[c + 1]]``."""

    customer_x: Array
    customer_y: Array
    mean_amount: Array
    payments_a_day: Array
    terminal_x: Array
    terminal_y: Array
    reachable: Array
    first_reachable: Array

    @property
    def customers(self) -> int:
        return len(self.customer_x)

    @property
    def terminals(self) -> int:
        return len(self.terminal_x)

    def payments(self, rng: np.random.Generator, day: int, volume: float = 1.0) -> Payments:
        """A day's payments, ``volume`` times as many as usual. A customer without a terminal within reach makes none."""
        count = rng.poisson(volume * self.payments_a_day)
        customer = np.repeat(np.arange(self.customers, dtype=np.int32), count)
        second = rng.normal(*TIME_OF_DAY, len(customer)).astype(np.int32)
        amount = self.amounts(rng, customer)
        within_reach = self.first_reachable[customer + 1] - self.first_reachable[customer]
        choice = self.first_reachable[customer] + (rng.random(len(customer)) * within_reach).astype(np.int64)
        happens = np.flatnonzero((second > 0) & (second < DAY_SECONDS) & (within_reach > 0))
        happens = happens[np.argsort(second[happens], kind="stable")]
        return Payments(
            day=np.full(len(happens), day, dtype=np.int32),
            second=second[happens],
            customer=customer[happens],
            terminal=self.reachable[choice[happens]],
            amount=amount[happens],
            day_count=day + 1,
        )

    def amounts(self, rng: np.random.Generator, customer: Array) -> Array:
        """An amount for each customer number: normal; where that is negative, uniform up to twice the mean; in cents."""
        mean = self.mean_amount[customer]
        amount = rng.normal(mean, mean / 2)
        return np.round(np.where(amount < 0, rng.random(len(customer)) * 2 * mean, amount), 2)


def populate(
    customer_rng: np.random.Generator, terminal_rng: np.random.Generator, customers: int, terminals: int, radius: float
) -> Population:
    """Places customers and terminals and finds who reaches what."""
    from sklearn.neighbors import KDTree  # a second to import

    customer_at = customer_rng.uniform(0, SIDE, (customers, 2))
    mean_amount = customer_rng.uniform(*MEAN_AMOUNT, customers)
    payments_a_day = customer_rng.uniform(0, MOST_PAYMENTS_A_DAY, customers)
    terminal_at = terminal_rng.uniform(0, SIDE, (terminals, 2))
    near = KDTree(terminal_at).query_radius(customer_at, radius)
    return Population(
        customer_x=customer_at[:, 0],
        customer_y=customer_at[:, 1],
        mean_amount=mean_amount,
        payments_a_day=payments_a_day,
        terminal_x=terminal_at[:, 0],
        terminal_y=terminal_at[:, 1],
        reachable=np.concatenate(near).astype(np.int32),
        first_reachable=np.concatenate([[0], np.cumsum([len(found) for found in near])]),
    )


def draw(
    population: Population, days: Iterable[int], day_count: int, rng_of: Callable[[int], np.random.Generator], volume: float = 1.0
) -> Payments:
    """The payments of those days, in order; each day has random numbers of its own, ``rng_of(day)``."""
    return join([population.payments(rng_of(day), day, volume) for day in days], day_count)


def join(parts: Iterable[Payments], day_count: int) -> Payments:
    """One after the other, as they are."""
    parts = list(parts)
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in ("day", "second", "customer", "terminal", "amount")
    }
    return Payments(**columns, day_count=day_count)
