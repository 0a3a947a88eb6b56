"""What the tests of measured and of estimated quality share: when they are made, and what is said where they are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.domain import Monitoring
from include.lifecycle.evaluation import METRICS, Events
from include.lifecycle.influence import MEASURES, Scored
from include.lifecycle.quality_scale import LOWER_IS_BETTER

MINIMUM_FRAUDS = 10
"""With fewer frauds, or genuine events, no test is made: its p-value would be one of the normal distribution in name only."""


def has_drifted(name: str, effect: float, p_value: float, monitoring: Monitoring) -> bool:
    """Whether a metric's loss is significant at the family's level, shared by its tests (Bonferroni: one for each metric that has a minimum
    loss), and is that minimum at least."""
    if name not in monitoring.minimum_quality_loss:
        return False
    loss = effect if name in LOWER_IS_BETTER else -effect
    level = monitoring.level / len(monitoring.minimum_quality_loss)
    return p_value <= level and loss >= monitoring.minimum_quality_loss[name]


def too_few(reference: Mapping[str, Any], frauds: float, events: int) -> list[str]:
    """In words, that no test is made of so few frauds (or genuine events), in the window or at the baseline; empty if there are enough."""
    found = {"in this window": (frauds, events), "at the baseline": (reference["frauds"], reference["events"])}
    return [
        f"{some:.3g} frauds among {of} events {where}: too few to tell a loss of quality from chance ({MINIMUM_FRAUDS} of either kind are enough)."
        for where, (some, of) in found.items()
        if min(some, of - some) < MINIMUM_FRAUDS
    ]


def nothing(events: Events) -> dict[str, Any]:
    """The beginning of a section: its days and how many events it has."""
    days = events.days.astype("datetime64[D]")
    first, last = (str(days.min()), str(days.max())) if days.size else (None, None)
    return {"first_day": first, "last_day": last, "events": int(days.size)}


def usable(scores: FloatArray, labels: FloatArray | None = None) -> NDArray[np.bool_]:
    """Which events have a finite score and, if ``labels`` are given, a label that is 0 or 1. Shape (events,)."""
    known = np.isfinite(np.asarray(scores, np.float64))
    return known if labels is None else known & np.isin(labels, (0, 1))


def left_out(events: Events, scored: Scored) -> list[str]:
    """What was not used of the events, in words."""
    says = []
    if fewer := events.days.size - scored.size:
        says.append(f"{fewer} events without a finite score, or with a label other than 0 and 1, were left out.")
    if scored.economics is None:
        says.append("Costs and review capacity are not known: metrics that need them were not measured.")
    elif without_amount := int((~scored.priced).sum()):
        says.append(f"{without_amount} events without a finite amount were left out of costs and savings.")
    return says


def untested(metrics: Mapping[str, Mapping[str, Any]], monitoring: Monitoring) -> list[str]:
    """Which metrics have a minimum loss and no p-value, in words."""
    says = []
    for name in monitoring.minimum_quality_loss:
        if name not in MEASURES:
            says.append(f"{METRICS.get(name, name)} has a minimum loss, but no test: its minimum loss finds nothing.")
        elif metrics[name]["p_value"] is None:
            says.append(f"{METRICS[name]} was not tested: it is undefined here or at the baseline, or there is too little fraud.")
    return says
