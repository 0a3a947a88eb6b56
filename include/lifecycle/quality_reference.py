"""What is kept of the baseline's labelled events, so that later windows can be judged without them: ``reference.json`` beside the profile.

Version 1 of the document (numbers to 7 digits; null where undefined):

- ``version``, ``events``, ``frauds``, ``days``, ``first_day``, ``last_day`` (ISO dates), ``prevalence`` (share of fraud), ``confidence``
- ``metrics``: {metric: {"value", "low", "high" (at the confidence), "standard_error" (on the metric's ``quality_scale``),
  "degrees_of_freedom"}} of ``influence.MEASURES``, and of average precision at this prevalence, which is what two times are compared by
- ``recalibration``: scores to probabilities (``recalibration.Recalibration``), null where there was too little fraud; ``expected_frauds``:
  {"design_effect"} of the number of frauds
- ``estimated``: {metric: {"value": as estimated from the scores of these very events; "events_variance": of that, by which events there were;
  "gap_variance": of measured minus estimated; "gradient": by the values at the knots; "design_effect"}}, all on the metric's scale. A design
  effect is the clustered variance due to labels over that of independent ones (Kish 1965, Survey sampling, §8.2), at least 1
- ``review``: {facet: {"levels": [name], "events": [count], "shares": [share of events reviewed at capacity], "covariance": [[]],
  "degrees_of_freedom"}}, null without a review capacity
- ``attribution``: {"features": [name], "mean_absolute": [contribution], "covariance": [[]], "rows", "days", "degrees_of_freedom"}, or null
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from include.lifecycle import metrics, quality_scale
from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.clustering import Clusters
from include.lifecycle.evaluation import Economics, Events
from include.lifecycle.influence import AT_PREVALENCE, MEASURES, Scored
from include.lifecycle.recalibration import Placed, Recalibration, recalibrate

VERSION = 1
NAMES = (*MEASURES, AT_PREVALENCE)
_DIGITS = 7
_MOST_LEVELS = 50


def quality_reference(
    events: Events,
    scores: FloatArray,
    economics: Economics | None,
    *,
    facets: Mapping[str, ArrayLike] | None = None,
    features: Sequence[str] = (),
    contributions: ArrayLike | None = None,
    explained: ArrayLike | None = None,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """The document of labelled events that the model has not learned from. ValueError where no event has a finite score, or one a label other
    than 0 and 1.

    scores: shape (events,). facets: {name: level of each event, shape (events,), None where unknown}. contributions: to the log-odds, shape
    (explained events, features) or with the expected value as one more column; explained: the rows of ``events`` they are of (all).
    """
    known = np.isfinite(np.asarray(scores, np.float64))
    if not known.any():
        raise ValueError("no event of the baseline has a finite score: there is nothing to judge later windows by")
    if not np.isin(events.labels[known], (0, 1)).all():
        raise ValueError("a label of the baseline is neither 0 nor 1")
    scored, clusters = scored_events(events, scores, economics, known)
    prevalence = scored.frauds / scored.size
    curve = recalibrate(scored.labels, scored.scores, clusters)
    days = np.unique(scored.days)
    document: dict[str, Any] = {
        "version": VERSION,
        "events": scored.size,
        "frauds": round(scored.frauds),
        "days": int(days.size),
        "first_day": str(days[0]),
        "last_day": str(days[-1]),
        "prevalence": prevalence,
        "confidence": confidence,
        "metrics": {name: _measured(scored, clusters, name, prevalence, confidence) for name in NAMES},
        "recalibration": curve.as_json() if curve else None,
        **(_of_estimates(scored, clusters, curve, prevalence) if curve else {"expected_frauds": None, "estimated": None}),
        "review": review_shares(events.days[known], scored.scores, clusters, _levels(facets or {}, known), economics),
        "attribution": _attribution(events, features, contributions, explained),
    }
    return {name: _rounded(value) for name, value in document.items()}


def read_reference(document: Any) -> dict[str, Any]:
    """The document, if it is one of ours; ValueError with what is wrong where it is not."""
    if not isinstance(document, dict) or "metrics" not in document or "prevalence" not in document:
        raise ValueError("this is no quality reference: it has no metrics, or no prevalence")
    if document.get("version") != VERSION:
        raise ValueError(f"this quality reference is of version {document.get('version')!r}, and version {VERSION} is read: make the baseline again")
    return document


def scored_events(
    events: Events, scores: FloatArray, economics: Economics | None, chosen: NDArray[np.bool_], labels: FloatArray | None = None
) -> tuple[Scored, Clusters]:
    """The chosen events, with ``labels`` (of all) in place of their own, if given, and their clusters."""
    taken = np.asarray(events.labels if labels is None else labels, np.float64)[chosen]
    scored = Scored(taken, np.asarray(scores, np.float64)[chosen], np.asarray(events.amounts, np.float64)[chosen], events.days[chosen], economics)
    return scored, Clusters.of(events.groups[chosen], events.days[chosen])


def measured_on_scale(scored: Scored, clusters: Clusters, name: str, prevalence: float) -> quality_scale.Estimate | None:
    """A metric with its standard error; None where it is undefined."""
    found = scored.measure(name, prevalence)
    if np.isnan(found.value):
        return None
    scale = quality_scale.of(name)
    slope = scale.slope(found.value, scored.frauds)
    variance, degrees = clusters.variance(found.influence(scored.labels) * slope)
    return quality_scale.Estimate(found.value, scale.forward(found.value, scored.frauds), float(np.sqrt(variance)), degrees, scored.frauds)


def _measured(scored: Scored, clusters: Clusters, name: str, prevalence: float, confidence: float) -> dict[str, Any]:
    found = measured_on_scale(scored, clusters, name, prevalence)
    if found is None:
        return dict.fromkeys(("value", "low", "high", "standard_error", "degrees_of_freedom"))
    interval = found.interval(quality_scale.of(name), confidence)
    return {**interval.as_json(), "standard_error": found.standard_error, "degrees_of_freedom": found.degrees}


def _of_estimates(scored: Scored, clusters: Clusters, curve: Recalibration, prevalence: float) -> dict[str, Any]:
    placed = curve.place(scored.scores)
    p = placed.probabilities
    guessed = Scored(p, scored.scores, scored.amounts, scored.days, scored.economics)
    return {
        "expected_frauds": {"design_effect": _design_effect(clusters.variance(scored.labels - p)[0], p * (1 - p))},
        "estimated": {name: _estimated(scored, guessed, clusters, curve, placed, name, prevalence) for name in NAMES},
    }


def _estimated(
    scored: Scored, guessed: Scored, clusters: Clusters, curve: Recalibration, placed: Placed, name: str, prevalence: float
) -> dict[str, Any] | None:
    p = guessed.labels
    found, measured = guessed.measure(name, prevalence), scored.measure(name, prevalence)
    if np.isnan(found.value) or np.isnan(measured.value):
        return None
    scale = quality_scale.of(name)
    slope = scale.slope(found.value, scored.frauds)
    sensitive = found.by_probability * slope
    gradient = placed.gradient(sensitive)
    surprise = (scored.labels - p) * sensitive
    variance = clusters.variance(surprise)[0]
    return {
        "value": scale.forward(found.value, scored.frauds),
        "events_variance": clusters.variance(found.influence(p) * slope)[0],
        # what the curve has learned from the same labels is no gap, and of the rest this is on the safe side
        "gap_variance": max(variance - float(gradient @ curve.covariance @ gradient), 0.0),
        "gradient": gradient.tolist(),
        "design_effect": _design_effect(variance, p * (1 - p) * sensitive**2),
    }


def _design_effect(clustered: float, independent: FloatArray) -> float:
    alone = float(independent.sum())
    return max(clustered / alone, 1.0) if alone > 0 else 1.0


def review_shares(
    days: NDArray[np.datetime64], scores: FloatArray, clusters: Clusters, facets: Mapping[str, NDArray[np.str_]], economics: Economics | None
) -> dict[str, Any] | None:
    """The share of events that is reviewed at capacity, by facet and level (of the most frequent ones), with its clustered covariance."""
    if economics is None:
        return None
    reviewed = metrics.reviewed_share(scores, days, economics.review)
    found: dict[str, Any] = {}
    for facet, values in facets.items():
        levels, member, count = np.unique(values, return_inverse=True, return_counts=True)
        kept = np.sort(np.argsort(-count, kind="stable")[:_MOST_LEVELS])
        shares = np.bincount(member, reviewed) / count
        inside = (member[:, None] == kept) * ((reviewed - shares[member]) / count[member])[:, None]
        covariance, degrees = clusters.covariance(inside)
        found[facet] = {
            "levels": levels[kept].tolist(),
            "events": count[kept].tolist(),
            "shares": shares[kept].tolist(),
            "covariance": covariance.tolist(),
            "degrees_of_freedom": degrees,
        }
    return found


def _levels(facets: Mapping[str, ArrayLike], known: NDArray[np.bool_]) -> dict[str, NDArray[np.str_]]:
    return {name: level_names(values)[known] for name, values in facets.items()}


def level_names(values: ArrayLike) -> NDArray[np.str_]:
    """Levels as text, shape (events,); a missing one is the level "" (no facet has a level without a name)."""
    return np.array(["" if value is None else str(value) for value in np.asarray(values, object)], str)


def _attribution(events: Events, features: Sequence[str], contributions: ArrayLike | None, explained: ArrayLike | None) -> dict[str, Any] | None:
    if contributions is None or not len(features):
        return None
    rows = np.arange(events.days.size) if explained is None else np.asarray(explained, np.intp)
    strength = np.abs(np.asarray(contributions, np.float64)[:, : len(features)])
    return {"features": list(features), **mean_strength(strength, events.groups[rows], events.days[rows])}


def mean_strength(strength: FloatArray, groups: ArrayLike, days: ArrayLike) -> dict[str, Any]:
    """Mean |contribution| of each feature, from shape (rows, features), with its clustered covariance."""
    mean = strength.mean(axis=0)
    clusters = Clusters.of(groups, days)
    covariance, degrees = clusters.covariance((strength - mean) / len(strength))
    return {
        "mean_absolute": mean.tolist(),
        "covariance": covariance.tolist(),
        "rows": len(strength),
        "days": clusters.day_count,
        "degrees_of_freedom": degrees,
    }


def _rounded(value: Any) -> Any:
    """Plain JSON: numbers to ``_DIGITS`` digits, NaN as null."""
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    if isinstance(value, float | np.floating):
        return float(f"{float(value):.{_DIGITS}g}") if np.isfinite(value) else None
    return value
