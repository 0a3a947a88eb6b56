"""How a monitoring report says what its thresholds are and where its data come from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from include.jobs.html_page import probability, share, significant, text, threshold
from include.lifecycle.drift import LUCK

Json = Mapping[str, Any]
_COMMON_SHARE = 0.05


def method(report: Json) -> str:
    """Where the data come from, how false alarms became a level, and what the effect floor means."""
    facts = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in _sources(report["subject"]))
    return f'<dl class="facts">{facts}</dl>{_thresholds(report["calibration"])}'


def _sources(subject: Json) -> list[tuple[str, str]]:
    facts = [(name, _side(subject[side])) for name, side in (("this window", "current"), ("baseline", "baseline"))]
    facts += [("model", text(subject["model_package"]))] if subject["model_package"] else []
    return facts + ([("domain", text(subject["domain"]))] if subject["domain"] else [])


def _side(side: Json) -> str:
    days = f", {side['days']:,} days" if side["days"] and side["days"] > 1 else ""
    period = f" from {side['first_day']} to {side['last_day']}" if side["first_day"] else ", without days"
    return f"{text(side['source'])}: {side['rows']:,} rows{days}{period}"


def _thresholds(calibration: Json) -> str:
    level, families = calibration["level"], calibration["families"]
    one_in = f", 1 in {1 / level:,.0f}" if level and math.isfinite(level) else ""
    floor = calibration["minimum_effect"]
    return (
        f"<p>The one number that was set: <b>{threshold(calibration['false_alarms_per_year'])} false alarms a year</b>. Over "
        f"{threshold(calibration['windows_per_year'])} windows a year and {families} kinds of findings, each kind has a chance of "
        f"{probability(level)}{one_in} to be found in a window in which nothing changed. Within a kind, this level is divided by the number of "
        f"tests (Bonferroni), and for columns by {LUCK:g} once more, so that a baseline that is unlucky itself does not alarm in many windows. "
        f"Intervals hold {share(calibration['confidence'])} of the time.</p>"
        "<p>A change is found only if it is significant (its p-value is not above the level) <b>and</b> large enough to matter (its effect is not "
        "below the floor). The effect of a column is the Jensen-Shannon distance between its shares then and now, 0 where they are equal and 1 where "
        "they have nothing in common, less what chance and the usual differences between days make of it. "
        f"The floor is {threshold(floor)}{_in_words(floor)}.</p>"
    )


def _in_words(distance: float | None) -> str:
    if distance is None or not 0 < distance <= 0.3:
        return ""
    return (
        f": about a shift by {significant(normal_shift(distance), 2)} standard deviations, or a level that goes from "
        f"{share(_COMMON_SHARE)} of the rows to {100 * share_after(_COMMON_SHARE, distance):.1f}%"
    )


def normal_shift(distance: float) -> float:
    """By how many of its standard deviations a normal distribution has to move for this Jensen-Shannon distance (base 2), to second order:
    the divergence of a small shift d is its Fisher information over 8, d² / (8 ln 2) bits (Lin 1991, "Divergence measures based on the Shannon
    entropy", relates it to the Kullback-Leibler divergence, which is d² / 2 nats)."""
    return distance * math.sqrt(8 * math.log(2))


def share_after(before: float, distance: float) -> float:
    """The larger share that a level of share ``before`` has to reach for this Jensen-Shannon distance (base 2) of the column; at most 1."""
    low, high = before, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _distance(before, middle) < distance else (low, middle)
    return high


def _distance(first: float, second: float) -> float:
    def entropy(share: float) -> float:
        return -sum(part * math.log2(part) for part in (share, 1 - share) if part > 0)

    return math.sqrt(max(entropy((first + second) / 2) - (entropy(first) + entropy(second)) / 2, 0.0))
