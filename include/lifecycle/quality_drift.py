"""Whether a model has become worse, measured on matured labels, against the same metrics of the baseline."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from include.lifecycle import quality_scale
from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.domain import Monitoring
from include.lifecycle.estimated_quality import Estimator
from include.lifecycle.evaluation import Economics, Events
from include.lifecycle.influence import AT_PREVALENCE, MEASURES
from include.lifecycle.quality_reference import measured_on_scale, scored_events
from include.lifecycle.quality_scale import Estimate, chance_of_less, pooled
from include.lifecycle.quality_tests import has_drifted, left_out, nothing, too_few, untested, usable

NO_INTERVAL = {"value": None, "low": None, "high": None}


def quality_drift(
    reference: dict[str, Any],
    events: Events,
    scores: FloatArray,
    economics: Economics | None,
    monitoring: Monitoring,
    *,
    unlabelled: int = 0,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """The section ``quality`` of a report: labelled events of a window against the reference (``quality_reference``), their scores of shape
    (events,). ``unlabelled``: how many more events there were whose label is not known. ``over_time`` is left empty.

    Of each metric: ``effect``, how much better (costs and errors: higher, which is worse) it is than at the baseline; ``p_value``, the chance
    of a loss at least this large where nothing changed: one-sided, of a t-test of two independent estimates on the metric's scale, with
    clustered standard errors; ``drifted``: significant at the family's level shared by the metrics of ``Monitoring.minimum_quality_loss``,
    and at least that loss. The p-value of a metric that is not among these is told and decides nothing.

    Average precision rises and falls with the share of fraud, whatever the model does. It is compared at the baseline's share
    (``at_baseline_prevalence``; Siblini et al. 2020), which ``effect`` and ``p_value`` are of.
    """
    known = usable(scores, events.labels)
    scored, clusters = scored_events(events, scores, economics, known)
    frauds = round(scored.frauds)
    says = left_out(events, scored)
    section = nothing(events) | {"frauds": frauds, "unlabelled": unlabelled, "metrics": {}, "over_time": [], "says": says}
    if scored.size == 0:
        return section | {"says": [*says, "No labelled event in this window: its quality was not measured."]}
    section["prevalence"] = {"baseline": reference["prevalence"], "current": scored.frauds / scored.size}
    few = too_few(reference, scored.frauds, scored.size)
    for name in MEASURES:
        tested = AT_PREVALENCE if name == "average_precision" else name
        estimates = {each: measured_on_scale(scored, clusters, each, reference["prevalence"]) for each in {name, tested}}
        section["metrics"][name] = _compared(reference, name, tested, estimates, monitoring, confidence, not few)
    return section | {"says": [*says, *few, *untested(section["metrics"], monitoring)]}


def _compared(
    reference: dict[str, Any],
    name: str,
    tested: str,
    estimates: dict[str, Estimate | None],
    monitoring: Monitoring,
    confidence: float,
    enough: bool,
) -> dict[str, Any]:
    scale, then = quality_scale.of(name), reference["metrics"][name]
    shown, now, before = estimates[name], estimates[tested], of_reference(reference, tested)
    found: dict[str, Any] = {
        "baseline": {bound: then[bound] for bound in NO_INTERVAL},
        "current": _interval(shown, scale, confidence),
        "effect": None,
        "p_value": None,
        "drifted": False,
    }
    if tested != name:
        found["at_baseline_prevalence"] = _interval(now, scale, confidence)
    if now is None or before is None:
        return found
    found["effect"] = now.value - before.value
    if enough:
        variance, degrees = pooled(now, before)
        sign = -1 if name in quality_scale.LOWER_IS_BETTER else 1
        found["p_value"] = chance_of_less(sign * (now.scaled - before.scaled), variance, degrees)
        found["drifted"] = has_drifted(name, found["effect"], found["p_value"], monitoring)
    return found


def of_reference(reference: dict[str, Any], name: str) -> Estimate | None:
    """The baseline's estimate of a metric; None where it is undefined."""
    then = reference["metrics"][name]
    if then["value"] is None:
        return None
    frauds = float(reference["frauds"])
    scaled = quality_scale.of(name).forward(then["value"], frauds)
    return Estimate(then["value"], scaled, then["standard_error"], then["degrees_of_freedom"], frauds)


def _interval(estimate: Estimate | None, scale: quality_scale.Scale, confidence: float) -> dict[str, float | None]:
    return dict(NO_INTERVAL) if estimate is None else estimate.interval(scale, confidence).as_json()


def over_time(
    reference: dict[str, Any],
    events: Events,
    scores: FloatArray,
    known: NDArray[np.bool_],
    economics: Economics | None,
    *,
    days_per_period: int = 7,
    confidence: float = 0.95,
) -> list[dict[str, Any]]:
    """Quality by consecutive periods, counted back from the last day, so that the last one is whole: [{"first_day", "last_day", "events",
    "labelled", "known": {metric: Interval} or null, "estimated": likewise}], the earliest first.

    ``known``: whose label is known, shape (events,); the labels of the others are not looked at. A period is known, from its labelled events,
    when these are half of it at least (a few claims are never decided), but is estimated all the same, from all its events: the gap between the
    two is what concept drift looks like.
    """
    days = events.days.astype("datetime64[D]")
    estimator = Estimator.of(reference, confidence)
    periods = []
    back = (days.max() - days).astype(int) // days_per_period if days.size else np.zeros(0, int)
    for number in np.unique(back)[::-1]:
        inside = (back == number) & usable(scores)
        if not inside.any():
            continue
        measured = None
        labelled = inside & known
        if labelled.sum() >= inside.sum() / 2:
            scored, clusters = scored_events(events, scores, economics, labelled)
            found = {name: measured_on_scale(scored, clusters, name, reference["prevalence"]) for name in MEASURES}
            measured = {name: _interval(estimate, quality_scale.of(name), confidence) for name, estimate in found.items()}
        estimated = None
        if estimator is not None:
            guessed = estimator.window(events, scores, economics, inside)
            estimated = {name: guessed.interval(name).as_json() for name in MEASURES}
        periods.append({
            "first_day": str(days[inside].min()),
            "last_day": str(days[inside].max()),
            "events": int(inside.sum()),
            "labelled": int(labelled.sum()),
            "known": measured,
            "estimated": estimated,
        })  # fmt: skip
    return periods
