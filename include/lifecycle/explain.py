"""Why a score is what it is: the features that moved it, from the model's own additive contributions in log-odds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Reason:
    """``contribution``: what the feature's value added to the log-odds of fraud (below 0: it speaks against fraud).
    ``value``: None where it is missing."""

    feature: str
    value: float | None
    contribution: float

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


def reasons(features: Sequence[str], rows: ArrayLike, contributions: ArrayLike, top: int) -> list[tuple[Reason, ...]]:
    """For each row the ``top`` features of the greatest absolute contribution, the greatest first; those that add nothing are left out.

    rows: shape (rows, features), NaN is missing. contributions: shape (rows, features + 1), the last column (the expected value) ignored,
    or (rows, features).
    """
    values = np.asarray(rows, np.float64)
    added = np.asarray(contributions, np.float64)[:, : len(features)]
    order = np.argsort(-np.abs(added), axis=1, kind="stable")[:, :top]
    return [
        tuple(
            Reason(features[place], None if np.isnan(value[place]) else float(value[place]), float(row[place]))
            for place in places
            if row[place] != 0
        )
        for value, row, places in zip(values, added, order, strict=True)
    ]


def ranking(features: Sequence[str], contributions: ArrayLike) -> list[dict[str, Any]]:
    """The features by mean absolute contribution over the rows, the greatest first (Lundberg & Lee 2017, A unified approach to interpreting
    model predictions): [{"feature", "mean_absolute_contribution", "mean_contribution", "share"}], the shares summing to 1."""
    added = np.asarray(contributions, np.float64)[:, : len(features)]
    strength = np.abs(added).mean(axis=0)
    total = strength.sum() or 1.0
    return [
        {
            "feature": features[place],
            "mean_absolute_contribution": float(strength[place]),
            "mean_contribution": float(added[:, place].mean()),
            "share": float(strength[place] / total),
        }
        for place in np.argsort(-strength, kind="stable")
    ]
