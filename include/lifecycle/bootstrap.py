"""Confidence intervals by resampling whole clusters of events: one mechanism for every metric, for differences of two models too.

A resample of the clusters, drawn with replacement, is nothing but a weight for every event (how often its cluster was drawn). So metrics
are functions of event weights, all resamples are one array operation, and two models weighed alike are compared on the same events (a
paired comparison).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Measure = Callable[[FloatArray], Mapping[str, FloatArray]]
"""Event weights, shape (resamples, events) → each metric's values, shape (resamples,); NaN where a resample leaves it undefined."""

_WEIGHTS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A value measured on all events, and the bounds of its confidence interval (NaN where it is undefined)."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float | None]:
        return {name: None if np.isnan(number) else number for name, number in vars(self).items()}


@dataclass(frozen=True)
class Resampled:
    """Every metric's value on all events, and its values on each resample, shape (resamples,). Two of the same clusters and seed are on the
    same resamples: their difference is paired."""

    values: dict[str, float]
    draws: dict[str, FloatArray]

    def intervals(self, confidence: float = 0.95) -> dict[str, Interval]:
        """The percentile interval (Efron & Tibshirani 1993, An Introduction to the Bootstrap, §13.3) of every metric. Resamples on which a
        metric is undefined (no fraud drawn) are left out of it."""
        return {name: percentile_interval(value, self.draws[name], confidence) for name, value in self.values.items()}

    def __sub__(self, other: Resampled) -> Resampled:
        return Resampled(
            {name: value - other.values[name] for name, value in self.values.items()},
            {name: draws - other.draws[name] for name, draws in self.draws.items()},
        )


def bootstrap(measure: Measure, clusters: ArrayLike, *, resamples: int = 500, seed: int = 0) -> Resampled:
    """Every metric on all events and on resamples of the clusters.

    clusters: shape (events,); events of one cluster (a leakage group, a card) are drawn together, because they are not independent
    (Davison & Hinkley 1997, Bootstrap Methods and their Application, §3.8). Resamples are not stratified by label: that the share of fraud
    itself varies is part of what the interval has to tell. ValueError without events.
    """
    codes = np.unique(np.asarray(clusters), return_inverse=True)[1]
    if codes.size == 0:
        raise ValueError("no events to resample")
    values = {name: float(value[0]) for name, value in measure(np.ones((1, codes.size))).items()}
    count = int(codes.max()) + 1
    generator = np.random.default_rng(seed)
    draws: dict[str, list[FloatArray]] = {name: [] for name in values}
    step = max(1, _WEIGHTS_AT_ONCE // codes.size)
    for first in range(0, resamples, step):
        rows = min(step, resamples - first)
        drawn = generator.integers(0, count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)
        for name, sample in measure(times[:, codes]).items():
            draws[name].append(sample)
    return Resampled(values, {name: np.concatenate(samples) for name, samples in draws.items()})


def percentile_interval(value: float, sample: FloatArray, confidence: float) -> Interval:
    """The value with the percentiles of a metric's resamples, shape (resamples,); those on which it is undefined (NaN) are left out."""
    defined = sample[~np.isnan(sample)]
    if not defined.size:
        return Interval(value, np.nan, np.nan)
    low, high = np.quantile(defined, ((1 - confidence) / 2, (1 + confidence) / 2))
    return Interval(value, float(low), float(high))
