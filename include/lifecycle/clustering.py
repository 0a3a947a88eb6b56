"""Variances of sums over events that are not independent: events of one card come together, and so do those of one day."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from include.lifecycle.bootstrap import FloatArray


@dataclass(frozen=True)
class Clusters:
    """The group and the day of each event as numbers from 0 on, shape (events,)."""

    groups: NDArray[np.intp]
    days: NDArray[np.intp]

    @classmethod
    def of(cls, groups: ArrayLike, days: ArrayLike) -> Clusters:
        """``days``: any sortable type; a single day says nothing of how days differ."""
        codes = pa.array(np.asarray(groups)).dictionary_encode().indices.to_numpy(zero_copy_only=False)
        return cls(codes.astype(np.intp), np.unique(np.asarray(days), return_inverse=True)[1])

    @property
    def day_count(self) -> int:
        return int(self.days.max()) + 1 if self.days.size else 0

    @cached_property
    def groups_within_days(self) -> NDArray[np.intp]:
        codes: NDArray[np.intp] = np.unique(self.groups * self.day_count + self.days, return_inverse=True)[1]
        return codes

    def covariance(self, influence: FloatArray) -> tuple[FloatArray, float]:
        """Covariance of Σ over events of ``influence``, shape (events, k) → (k, k), and its degrees of freedom.

        Clustered by group and by day at once: V_groups + V_days - V_groups within days (Cameron, Gelbach & Miller 2011, Robust inference with
        multiway clustering, eq. 2.11), where V_days also counts the covariance of neighbouring days, with Bartlett weights over a block of
        ∛days (Newey & West 1987; the same as a bootstrap of moving blocks: Künsch 1989). Days never make it smaller than groups alone do:
        negative eigenvalues of their part are set to 0. Degrees of freedom: those of V_days, 1.5 · days / block - 1, as far as days have a
        share in the variance; else those of the groups.
        """
        values = influence.reshape(len(influence), -1)
        by_group = _sums(self.groups, values)
        groups = len(by_group)
        group_part = by_group.T @ by_group * _small_sample(groups)
        if self.day_count < 3:
            return group_part, float(max(groups - 1, 1))
        by_both = _sums(self.groups_within_days, values)
        by_day, block = _sums(self.days, values), _block(self.day_count)
        day_part = by_day.T @ by_day
        for lag in range(1, block):
            product = by_day[lag:].T @ by_day[:-lag]
            day_part += (1 - lag / block) * (product + product.T)
        day_part *= _small_sample(self.day_count)
        more = _positive(day_part - by_both.T @ by_both)
        return group_part + more, _degrees(group_part, more, groups, self.day_count)

    def variance(self, influence: FloatArray) -> tuple[float, float]:
        """``covariance`` of one sum, shape (events,): variance and degrees of freedom."""
        covariance, degrees = self.covariance(influence)
        return float(covariance[0, 0]), degrees


def _sums(codes: NDArray[np.intp], values: FloatArray) -> FloatArray:
    """Sums by cluster, less their mean: how many clusters there are is given."""
    sums = np.column_stack([np.bincount(codes, column) for column in values.T])
    return np.asarray(sums - sums.mean(axis=0), np.float64)


def _small_sample(clusters: int) -> float:
    return clusters / (clusters - 1) if clusters > 1 else 1.0


def _block(days: int) -> int:
    return max(1, round(float(np.cbrt(days))))


def _positive(matrix: FloatArray) -> FloatArray:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.maximum(values, 0)) @ vectors.T)


def _degrees(group_part: FloatArray, more: FloatArray, groups: int, days: int) -> float:
    """Satterthwaite's: the parts' variances are a χ² each."""
    of_days = max(1.5 * days / _block(days) - 1, 1.0)
    one, other = float(np.trace(group_part)), float(np.trace(more))
    if one + other <= 0:
        return float(max(groups - 1, 1))
    return (one + other) ** 2 / (one**2 / max(groups - 1, 1) + other**2 / of_days)
