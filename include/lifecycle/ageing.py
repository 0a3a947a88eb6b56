"""The ageing matrix: how the models of each as-of did on each later period, and whether training them again would have paid.

Rows are models in the order of their as-of. Columns are periods of whole UTC days, the same for every model, so that the models of a column
are measured on the same events. A model has a cell in every period that begins at its as-of or later; its **age** there is the number of
whole periods between the two: 0 in its first. The **freshest** model of a period is the one with the latest as-of among its cells.

Money is what a period's events cost under the model's decisions: each day, within the review capacity, the events are reviewed whose review
is expected to save the most, if it saves anything (``costs.reviewed_for_benefit``).

Confidence intervals come from a Poisson bootstrap of whole clusters (Hanley & MacGibbon 2006, Creating non-parametric bootstrap samples
using Poisson frequencies; Chamandy et al. 2012, Estimating uncertainty for massive data streams): in each resample a cluster counts
Poisson(1) times, which is drawn from a hash of its name. So a customer counts alike in every cell, whichever run measured it, and whatever is
made of cells (a difference of two models, a sum over periods) is paired. The decisions are kept as they were made, not made again on each
resample. The intervals say how much is due to the customers who happened to be there; they say nothing about periods to come.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from include.lifecycle import costs
from include.lifecycle.bootstrap import FloatArray, Interval, percentile_interval
from include.lifecycle.evaluation import Economics, Events, measure

RESAMPLES = 500
RESAMPLED = ("average_precision", "savings_at_capacity", "cost")
"""What has an interval in every cell: ``cost`` in the domain's currency, for the whole period."""

_COUNTS_AT_ONCE = 10_000_000
_POLICY_STEPS = (1, 2, 4, 8)
_SENTENCE_STEPS = (4, 2)


@dataclass(frozen=True)
class Period:
    """Whole UTC days, both ends included."""

    first: date
    last: date

    @property
    def start(self) -> datetime:
        return datetime.combine(self.first, time(), UTC)

    @property
    def end(self) -> datetime:
        """The first instant after it."""
        return datetime.combine(self.last + timedelta(days=1), time(), UTC)


def periods(earliest_as_of: datetime, last_day: date, days: int) -> list[Period]:
    """Consecutive periods of ``days`` days from the first midnight at or after the as-of; only whole ones, up to ``last_day``."""
    first = earliest_as_of.astimezone(UTC).date()
    if earliest_as_of > datetime.combine(first, time(), UTC):
        first += timedelta(days=1)
    whole = ((last_day - first).days + 1) // days
    return [Period(first + timedelta(days=days * n), first + timedelta(days=days * (n + 1) - 1)) for n in range(whole)]


def age(as_of: datetime, period: Period, days: int) -> int:
    """Whole periods of ``days`` days from the as-of to the period's start; negative where the model did not exist yet."""
    return (period.start - as_of) // timedelta(days=days)


def cluster_counts(clusters: ArrayLike, resamples: int = RESAMPLES) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Each event's cluster as a code, shape (events,), and how often each cluster counts in each resample, shape (resamples, clusters).

    A cluster's counts depend on its name alone: Poisson(1) by inversion of uniforms from SplitMix64 (Steele, Lea & Flood 2014, Fast splittable
    pseudorandom number generators, §4.3), a generator seeded with the first eight bytes of the name's BLAKE2b.
    """
    names, codes = np.unique(np.asarray(clusters, str), return_inverse=True)
    seeds = np.array([int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") for name in names], np.uint64)
    counts = np.empty((resamples, names.size), np.uint8)
    for resample, step in enumerate(np.arange(1, resamples + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)):
        mixed = seeds + step
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        uniforms = ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
        counts[resample] = np.searchsorted(_POISSON, uniforms, side="right")
    return codes, counts


def _poisson_cumulative() -> FloatArray:
    """P(X ≤ k) of Poisson(1) for k = 0, 1, …, until it is 1 in double precision."""
    terms = np.exp(-1.0) / np.cumprod([1.0, *range(1, 20)])
    return np.asarray(np.minimum(np.cumsum(terms), 1.0), np.float64)


_POISSON = _poisson_cumulative()


@dataclass(frozen=True)
class Cell:
    """One model on one period. ``metrics``: those of ``evaluation.METRICS``, and ``cost`` and ``cost_without_model`` of all events together
    (NaN: undefined). ``draws``: ``average_precision``, ``cost`` and ``cost_without_model`` on each resample, shape (resamples,).
    ``left_out``: reason → how many events of the period are not among ``events``."""

    events: int
    positives: int
    metrics: dict[str, float]
    draws: dict[str, FloatArray]
    left_out: dict[str, int] = field(default_factory=dict)

    def sample(self, name: str) -> FloatArray:
        """A metric of ``RESAMPLED`` on each resample."""
        if name == "savings_at_capacity":
            return 1 - _quotient(self.draws["cost"], self.draws["cost_without_model"])
        return self.draws[name]

    def as_json(self) -> dict[str, Any]:
        return {
            "events": self.events,
            "positives": self.positives,
            "metrics": {name: _number(value) for name, value in self.metrics.items()},
            "draws": {name: [_number(value) for value in values.tolist()] for name, values in self.draws.items()},
            "left_out": self.left_out,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Cell:
        metrics = {name: np.nan if value is None else float(value) for name, value in content["metrics"].items()}
        return cls(
            content["events"],
            content["positives"],
            metrics,
            {name: np.array(values, np.float64) for name, values in content["draws"].items()},  # null becomes NaN
            content["left_out"],
        )


def measure_cell(events: Events, scores: FloatArray, economics: Economics, clusters: NDArray[np.intp], counts: NDArray[np.uint8]) -> Cell:
    """One model's scores, shape (events,), on a period's labelled events, of which there is at least one; ``clusters`` and ``counts`` are
    ``cluster_counts`` of the events' groups."""
    money, labels = economics.costs, events.labels
    measured = measure(events, scores, economics, np.ones((1, labels.size)))
    loss = labels * money.missed_share * events.amounts
    reviewed = costs.reviewed_for_benefit(scores, events.amounts, money, events.days, economics.review)
    cost = reviewed * money.review + (1 - reviewed) * loss

    def totals(of_events: FloatArray) -> FloatArray:
        of_clusters = np.bincount(clusters, of_events, counts.shape[1])
        return np.concatenate([some @ of_clusters for some in _few_at_once(counts)])

    return Cell(
        events=labels.size,
        positives=int(labels.sum()),
        metrics={name: float(value[0]) for name, value in measured.items()}
        | {"cost": float(cost.sum()), "cost_without_model": float(loss.sum())},
        draws={
            "average_precision": resampled_average_precision(labels, scores, clusters, counts),
            "cost": totals(cost),
            "cost_without_model": totals(loss),
        },
    )


def resampled_average_precision(labels: ArrayLike, scores: ArrayLike, clusters: NDArray[np.intp], counts: NDArray[np.uint8]) -> FloatArray:
    """``metrics.average_precision`` with each event counted as often as its cluster: shape (resamples,).

    Recall grows at the scores of frauds only, so the events between two of these are counted together: how many of each cluster, which is a
    sparse matrix of as many numbers as there are events, times the clusters' counts.
    """
    fraud, score = np.asarray(labels, np.float64) > 0, np.asarray(scores, np.float64)
    thresholds, threshold = np.unique(-score[fraud], return_inverse=True)
    if not thresholds.size:
        return np.full(len(counts), np.nan)

    def by_cluster(which: NDArray[np.bool_], at: NDArray[np.intp]) -> csr_array:
        """Events, each of which lies above the threshold ``at`` and those after it: how many of each cluster, shape (thresholds, clusters)."""
        return csr_array((np.ones(at.size, np.float32), (at, clusters[which])), (thresholds.size, counts.shape[1]))

    above_any = -score <= thresholds[-1]
    every = by_cluster(above_any, np.searchsorted(thresholds, -score[above_any]))
    frauds = by_cluster(fraud, threshold)

    def average(some: NDArray[np.uint8]) -> FloatArray:
        drawn = some.T.astype(np.float32)
        found, flagged = (np.cumsum(part @ drawn, axis=0, dtype=np.float64) for part in (frauds, every))
        gained = np.diff(found, axis=0, prepend=0.0)
        return _quotient((gained * _quotient(found, flagged, 0.0)).sum(axis=0), found[-1])

    return np.concatenate([average(some) for some in _few_at_once(counts)])


def _few_at_once(counts: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The resamples, so many together that they fit in memory as floats: of a million customers, one is 4 to 8 MB."""
    return np.array_split(counts, max(1, -(-counts.size // _COUNTS_AT_ONCE)))


@dataclass(frozen=True)
class Matrix:
    """``as_ofs``: ascending. ``cells``: (row, column) → cell; a model that could not be scored has none."""

    as_ofs: Sequence[datetime]
    periods: Sequence[Period]
    days: int
    cells: Mapping[tuple[int, int], Cell]
    confidence: float = 0.95

    def age(self, row: int, column: int) -> int:
        return age(self.as_ofs[row], self.periods[column], self.days)

    @cached_property
    def measured(self) -> list[int]:
        """The columns in which there is a cell."""
        return sorted({column for _, column in self.cells})

    def freshest(self, column: int, by: int | None = None) -> int:
        """The row of the newest model with a cell in the column, whose as-of is not after the start of period ``by`` (the column's own, unless
        told otherwise). ValueError where there is none."""
        latest = self.periods[column if by is None else by].start
        return max(row for row, at in self.cells if at == column and self.as_ofs[row] <= latest)

    def interval(self, row: int, column: int, name: str) -> Interval:
        """A metric of the cell; without bounds where it is not resampled."""
        cell = self.cells[row, column]
        if name not in RESAMPLED:
            return Interval(cell.metrics[name], np.nan, np.nan)
        return percentile_interval(cell.metrics[name], cell.sample(name), self.confidence)

    def difference(self, name: str, pairs: Iterable[tuple[int, int, int]], together: Callable[..., Any] = np.nanmean) -> Interval:
        """A metric of ``RESAMPLED``, of row a minus row b in a column, for triples (a, b, column); the ``together`` of them. Where a metric is
        undefined in a column (no fraud), the column is left out."""
        listed = list(pairs)
        values = np.array([self.cells[a, c].metrics[name] - self.cells[b, c].metrics[name] for a, b, c in listed])
        draws = np.array([self.cells[a, c].sample(name) - self.cells[b, c].sample(name) for a, b, c in listed])
        defined = ~np.isnan(values)
        if not defined.any():
            return Interval(np.nan, np.nan, np.nan)
        draws = np.where(np.isnan(draws[defined]), values[defined][:, None], draws[defined])  # no fraud drawn: says nothing
        return percentile_interval(float(together(values[defined])), together(draws, axis=0), self.confidence)

    def by_age(self) -> list[dict[str, Any]]:
        """For each age: how many cells, their means, and the mean difference to the freshest model of the same period, paired. Means over other
        periods cannot be compared with each other; the differences can."""
        found = []
        for wanted in sorted({self.age(row, column) for row, column in self.cells}):
            cells = [(row, column) for row, column in sorted(self.cells) if self.age(row, column) == wanted]
            pairs = [(row, self.freshest(column), column) for row, column in cells]
            found.append({
                "age": wanted,
                "cells": len(cells),
                "mean": {name: _number(_mean(self.cells[cell].metrics[name] for cell in cells)) for name in RESAMPLED},
                "versus_freshest": {name: self.difference(name, pairs).as_json() for name in RESAMPLED},
                "cheaper_than_freshest_in": sum(self.cells[a, c].metrics["cost"] < self.cells[b, c].metrics["cost"] for a, b, c in pairs),
            })
        return found

    @cached_property
    def step(self) -> int:
        """How many periods usually lie between two as-ofs: the shortest interval of retraining that these models can tell about."""
        gaps = [b - a for a, b in itertools.pairwise(self.as_ofs)]
        return max(1, round(float(np.median([gap / timedelta(days=self.days) for gap in gaps])))) if gaps else 1

    def policies(self) -> list[Policy]:
        """What it would have cost to train every so many periods, counted from the first measured one, and always to use the newest model there
        was at the last training: as often as there are models, 2, 4 and 8 times as seldom, and never again (``every`` None)."""
        if not self.measured:
            return []
        lengths = [self.step * times for times in _POLICY_STEPS if self.step * times < len(self.measured)]
        return [self._policy(every) for every in [*lengths, None]]

    def _policy(self, every: int | None) -> Policy:
        first = self.measured[0]
        used = {}
        for column in self.measured:
            trained = first if every is None else first + (column - first) // every * every
            used[column] = self._newest(column, trained)
        return Policy(every, used, sum(self.cells[row, column].metrics["cost"] for column, row in used.items()))

    def _newest(self, column: int, trained: int) -> int:
        """As ``freshest(column, by=trained)``; the oldest with a cell where none of that age could be scored."""
        try:
            return self.freshest(column, trained)
        except ValueError:
            return min(row for row, at in self.cells if at == column)

    def cost(self, policy: Policy) -> Interval:
        draws = np.sum([self.cells[row, column].draws["cost"] for column, row in policy.used.items()], axis=0)
        return percentile_interval(policy.cost, draws, self.confidence)

    def compare(self, often: Policy, seldom: Policy) -> Verdict:
        """What the one policy would have saved against the other, over all periods."""
        pairs = [(seldom.used[column], often.used[column], column) for column in often.used]
        return Verdict(often, seldom, self.difference("cost", pairs, np.sum), len(pairs))

    def verdicts(self) -> list[Verdict]:
        """The most frequent policy against one four times as seldom (where there is none, twice), and against never again; without those that
        used the same models."""
        policies = {policy.every: policy for policy in self.policies()}
        often = policies.get(self.step)
        seldom = next((policies[self.step * times] for times in _SENTENCE_STEPS if self.step * times in policies), None)
        return [self.compare(often, other) for other in (seldom, policies.get(None)) if often and other and other.used != often.used]

    def sentence(self, currency: str) -> str | None:
        """Whether training more often would have paid, in words; None where the models cannot tell."""
        return " ".join(verdict.sentence(self.days, currency, self.confidence) for verdict in self.verdicts()) or None


@dataclass(frozen=True)
class Policy:
    """``every``: periods from one training to the next; None: never after the first. ``used``: column → row of the model that was in use.
    ``cost``: of all periods together."""

    every: int | None
    used: Mapping[int, int]
    cost: float

    @property
    def models(self) -> int:
        """How many different models it used."""
        return len(set(self.used.values()))


@dataclass(frozen=True)
class Verdict:
    """``saved``: by the more frequent policy, over all ``periods``."""

    often: Policy
    seldom: Policy
    saved: Interval
    periods: int

    @property
    def each_retraining(self) -> float:
        """What each additional model saved: training it pays where it costs less. NaN where there is none."""
        more = self.often.models - self.seldom.models
        return self.saved.value / more if more > 0 else np.nan

    def sentence(self, days: int, currency: str, confidence: float) -> str:
        """The answer in words."""
        low, high = self.saved.low, self.saved.high
        lasting = f"over {_length(self.periods, days)}"
        interval = f"{confidence:.0%} interval {low:,.0f} to {high:,.0f}"
        instead = f"Retraining {frequency(self.often.every, days)} instead of {frequency(self.seldom.every, days)}"
        if low > 0:
            more = self.often.models - self.seldom.models
            models = "the one additional model" if more == 1 else f"each of the {more} additional models"
            each = f", {self.each_retraining:,.0f} {currency} for {models}" if more > 0 else ""
            return f"{instead} would have saved {self.saved.value:,.0f} {currency} {lasting} ({interval}){each}."
        if high < 0:
            return (
                f"{instead} would not have paid: it would have cost {-self.saved.value:,.0f} {currency} more {lasting} ({interval} saved)."
            )
        return (
            f"{instead} would not have made a difference that can be told from chance: {self.saved.value:,.0f} {currency} saved {lasting}"
            f" ({interval})."
        )


def frequency(every: int | None, days: int) -> str:
    """How often a policy trains, in words: "every 4 weeks", "never"."""
    if every is None:
        return "never"
    return "every week" if every * days == 7 else f"every {_length(every, days)}"


def _length(periods: int, days: int) -> str:
    total = periods * days
    number, unit = (total // 7, "week") if total % 7 == 0 else (total, "day")
    return f"{number} {unit}{'' if number == 1 else 's'}"


def _mean(values: Iterable[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else np.nan


def _quotient(part: FloatArray, whole: FloatArray, undefined: float = np.nan) -> FloatArray:
    return np.asarray(np.divide(part, whole, out=np.full(np.shape(part), undefined), where=whole != 0), np.float64)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
