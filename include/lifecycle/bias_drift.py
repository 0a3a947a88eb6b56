"""Whether the model has come to treat groups of people otherwise than at the baseline: who is sent to review.

What is compared is the difference of review shares between a facet's level and its reference level (minus Clarify's DPPL, "difference in
positive proportions in predicted labels", where the positive outcome is not to be reviewed: ``include.lifecycle.bias``). It needs no labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.clustering import Clusters
from include.lifecycle.domain import Monitoring
from include.lifecycle.evaluation import Economics
from include.lifecycle.quality_reference import level_names, review_shares
from include.lifecycle.quality_scale import Estimate, chance_of_less, pooled

METRIC = "review_share_difference"
MINIMUM_EVENTS = 30
"""A level of fewer events, here or at the baseline, is not tested."""


def bias_drift(
    reference: dict[str, Any],
    days: NDArray[np.datetime64],
    groups: ArrayLike,
    scores: FloatArray,
    facets: Mapping[str, ArrayLike],
    references: Mapping[str, str],
    economics: Economics | None,
    monitoring: Monitoring,
) -> dict[str, Any]:
    """The section ``bias_drift`` of a report: a row for each level of each facet but its reference level.

    days, groups, scores and each facet's levels are of shape (events,); ``references``: {facet: reference level}. ``p_value``: two-sided, of a
    t-test of the two differences with clustered standard errors; ``drifted``: significant at the family's level shared by all rows, and changed
    by ``Monitoring.minimum_bias_change`` at least. A missing level has the name "".
    """
    known = np.isfinite(scores)
    clusters = Clusters.of(np.asarray(groups)[known], days[known])
    levels = {name: level_names(values)[known] for name, values in facets.items()}
    then = reference["review"]
    now = review_shares(days[known], scores[known], clusters, levels, economics) if known.any() else None
    if then is None or now is None:
        why = "The review capacity is not known" if economics is None or then is None else "No event has a finite score"
        return {"rows": [], "says": [f"{why}: who is sent to review was not compared."]}
    rows: list[dict[str, Any]] = []
    says: list[str] = []
    for facet, found in now.items():
        base = references.get(facet, "")
        if facet not in then:
            says.append(f"The baseline knows no facet {facet!r}: it was not compared.")
        elif base not in found["levels"] or base not in then[facet]["levels"]:
            says.append(f"Facet {facet!r} has no event of its reference level {base!r}, here or at the baseline: it was not compared.")
        else:
            rows += [_row(facet, level, base, then[facet], found) for level in found["levels"] if level != base]
            gone = sorted(set(then[facet]["levels"]) - set(found["levels"]))
            says += [f"Facet {facet!r}: no event of level {level!r}, which the baseline has." for level in gone]
    tests = sum(row["p_value"] is not None for row in rows)
    for row in rows:
        if row["p_value"] is None:
            where = f"Facet {row['facet']!r}, level {row['level']!r}"
            says.append(f"{where}: too few events, here or at the baseline, to compare ({MINIMUM_EVENTS} are enough).")
        else:
            row["drifted"] = row["p_value"] <= monitoring.level / tests and abs(row["effect"]) >= monitoring.minimum_bias_change
    return {"rows": rows, "says": says}


def _row(facet: str, level: str, base: str, then: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    after, before = _difference(now, level, base), _difference(then, level, base)
    row: dict[str, Any] = {
        "facet": facet,
        "level": level,
        "reference": base,
        "metric": METRIC,
        "baseline": before.value if before else None,
        "current": after.value if after else None,
        "effect": after.value - before.value if after and before else None,
        "p_value": None,
        "drifted": False,
    }
    if after and before and min(after.size, before.size) >= MINIMUM_EVENTS:
        variance, degrees = pooled(after, before)
        row["p_value"] = min(1.0, 2 * chance_of_less(-abs(row["effect"]), variance, degrees))
    return row


def _difference(shares: dict[str, Any], level: str, base: str) -> Estimate | None:
    """Review share of a level minus that of its reference level; ``size``: events of the smaller one of the two."""
    if level not in shares["levels"] or base not in shares["levels"]:
        return None
    one, other = shares["levels"].index(level), shares["levels"].index(base)
    covariance = np.array(shares["covariance"], np.float64)
    variance = covariance[one, one] + covariance[other, other] - 2 * covariance[one, other]
    value = shares["shares"][one] - shares["shares"][other]
    size = min(shares["events"][one], shares["events"][other])
    return Estimate(value, value, float(np.sqrt(max(variance, 0.0))), shares["degrees_of_freedom"], size)
