"""Whether the model has come to decide by other features than at the baseline: Amazon SageMaker Clarify's feature attribution drift.

Features are ranked by their mean absolute contribution. The window's ranking f'₁, f'₂, … is measured against the baseline's f₁, f₂, …, with
a(f) the baseline's contribution of feature f, by the normalised discounted cumulative gain (Järvelin & Kekäläinen 2002; Amazon SageMaker
developer guide, "Feature attribution drift for models in production"):

    NDCG = DCG / iDCG,  DCG = Σᵢ a(f'ᵢ) / log₂(i + 1),  iDCG = Σᵢ a(fᵢ) / log₂(i + 1)

1 is the same order; Clarify finds drift below .90 (``Monitoring.minimum_ndcg``). Contributions of features that are about equally strong change
places by chance, more so in a small window; so drift also has to be significant here, against the order that windows of the same size would
have if nothing had changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.domain import Monitoring
from include.lifecycle.quality_reference import mean_strength

_DRAWS = 20_000


def attribution_drift(
    reference: dict[str, Any],
    features: Sequence[str],
    contributions: ArrayLike,
    days: ArrayLike,
    groups: ArrayLike,
    monitoring: Monitoring,
) -> dict[str, Any]:
    """The section ``attribution_drift`` of a report. contributions: to the log-odds, shape (rows, features), or with the expected value as
    one more column; days and groups of the same rows.

    ``p_value``: how often the NDCG is as low as the window's, in seeded draws of the baseline's mean contributions with the variance that they
    have at the window's size (by rows, or by days, whichever is more) and at the baseline's; 1 / 20,001 at the least.
    ``ranking``: features by what they contribute now; ranks count from 1.
    """
    then = reference["attribution"]
    section: dict[str, Any] = {"ndcg": None, "minimum_ndcg": monitoring.minimum_ndcg, "p_value": None, "drifted": False, "ranking": [], "says": []}
    if then is None:
        return section | {"says": ["The baseline knows no contributions of features: their ranking was not compared."]}
    if sorted(features) != sorted(then["features"]):
        return section | {"says": ["The baseline's features are others than the window's: their ranking was not compared."]}
    columns = [list(features).index(name) for name in then["features"]]
    strength = np.abs(np.asarray(contributions, np.float64)[:, columns])
    usable = np.isfinite(strength).all(axis=1)
    if not usable.any():
        return section | {"says": ["No event of the window was explained: the ranking of features was not compared."]}
    now = mean_strength(strength[usable], np.asarray(groups)[usable], np.asarray(days)[usable])
    before, after = np.array(then["mean_absolute"], np.float64), np.array(now["mean_absolute"], np.float64)
    if not before.sum() > 0:
        return section | {"says": ["At the baseline no feature contributed anything: there is no ranking to compare with."]}
    value = float(ndcg(before, after))
    under_no_change = ndcg(before, _draws(then, now))
    section["ndcg"] = value
    section["p_value"] = float((1 + (under_no_change <= value + 1e-12).sum()) / (1 + _DRAWS))
    section["drifted"] = section["p_value"] <= monitoring.level and value < monitoring.minimum_ndcg
    places, places_before = _ranks(after), _ranks(before)
    section["ranking"] = [
        {
            "feature": then["features"][place],
            "baseline": float(before[place]),
            "current": float(after[place]),
            "baseline_rank": int(places_before[place]),
            "current_rank": int(places[place]),
        }
        for place in np.argsort(places)
    ]
    return section


def ndcg(baseline: FloatArray, current: FloatArray) -> FloatArray:
    """Of the order of ``current``, shape (…, features), with the gains ``baseline``, shape (features,) → (…,). Ties keep the order of the
    features in both."""
    discount = 1 / np.log2(np.arange(baseline.size) + 2)
    gained = baseline[np.argsort(-current, axis=-1, kind="stable")] @ discount
    return np.asarray(gained / (np.sort(baseline)[::-1] @ discount), np.float64)


def _draws(then: dict[str, Any], now: dict[str, Any]) -> FloatArray:
    """Mean contributions of windows in which nothing has changed, shape (draws, features). The baseline's own error counts as well."""
    times = 1 + max(then["rows"] / now["rows"], then["days"] / max(now["days"], 1))
    values, vectors = np.linalg.eigh(np.array(then["covariance"], np.float64) * times)
    spread = vectors * np.sqrt(np.maximum(values, 0))
    noise = np.random.default_rng(0).standard_normal((_DRAWS, values.size)) @ spread.T
    return np.asarray(np.array(then["mean_absolute"]) + noise, np.float64)


def _ranks(strength: FloatArray) -> NDArray[np.intp]:
    ranks = np.empty(strength.size, np.intp)
    ranks[np.argsort(-strength, kind="stable")] = np.arange(strength.size) + 1
    return ranks
