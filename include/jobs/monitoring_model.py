"""The model in a monitoring report: how good it is known and estimated to be, whether a score still means what it meant, whom it treats
otherwise than before, and what it decides by. Each function takes its section of report.json, null where it does not apply."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from include.jobs.html_page import (
    ABSENT,
    P_VALUE,
    day_in_words,
    is_share,
    metric_value,
    probability,
    sentence,
    significant,
    table,
    text,
    threshold,
)
from include.jobs.svg import Bounded, Intervals, bar, interval_chart, minus
from include.lifecycle.evaluation import METRICS

STYLE = """
.known-part, .estimated-part { border-left: 4px solid var(--blue); padding-left: .9rem; margin: 1rem 0 }
.estimated-part { border-left: 4px dashed var(--orange) }
.charts { grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)) } .charts svg { max-width: 30rem }
.charts figcaption b { color: var(--ink) }
.whiskers line { stroke-width: 1.6 } .whiskers.main line, .whiskers.main circle { stroke: var(--blue) } .whiskers.main circle { fill: var(--blue) }
.whiskers.other line, .whiskers.other circle { stroke: var(--orange) } .whiskers.other circle { fill: var(--paper); stroke-width: 1.6 }
.whiskers.other line { stroke-dasharray: 3 2 } rect.band { fill: var(--grey); opacity: .22 }
.charts line.floor { stroke: var(--grey); stroke-dasharray: none }
.dot-known { color: var(--blue) } .dot-estimated { color: var(--orange) }
.ranking .bar { width: 6rem } .up { color: var(--bad) }
"""
_RANKED = 15

Json = Mapping[str, Any]


def quality(report: Json) -> str:
    """Both ``quality`` and ``estimated_quality`` of the report, each marked as what it is."""
    known, estimated = report["quality"], report["estimated_quality"]
    if not known and not estimated:
        return ""
    currency, parts = report["subject"].get("currency") or "", []
    if known:
        unlabelled = f" {known['unlabelled']:,} others have no label and are not counted." if known["unlabelled"] else ""
        parts.append(
            f'<div class="known-part"><p><span class="badge known">known</span> Measured on {known["events"]:,} events{_period(known)} whose '
            f"labels are known, {_count(known['frauds'])} of them fraud.{unlabelled}</p>{_metrics(known, 'current', 'Now', currency)}</div>"
        )
    if estimated:
        parts.append(
            '<div class="estimated-part"><p><span class="badge estimated">estimated</span> From the scores alone, without a look at any label, of '
            f"{estimated['events']:,} events{_period(estimated)}. If scores still mean what they meant, "
            f"{significant(estimated['expected_frauds'])} of these are fraud, and the model is as good as this:</p>"
            f"{_metrics(estimated, 'estimated', 'Estimate', currency)}</div>"
        )
    return "".join(parts) + (_over_time(known) if known else "")


def _period(section: Json) -> str:
    if not section["first_day"]:
        return ""
    first, last = day_in_words(section["first_day"]), day_in_words(section["last_day"])
    return f" of {first}" if first == last else f" of {first} to {last}"


def _says(section: Json) -> str:
    """What was left out of a section, and why."""
    said = " ".join(sentence(each) for each in section.get("says") or ())
    return f'<p class="note">{said}</p>' if said else ""


def _metrics(section: Json, now: str, now_head: str, currency: str) -> str:
    metrics = section["metrics"]
    if not metrics:
        return _says(section)
    rows = [
        [
            f"{_metric(name, currency)}{_drifted(found['drifted'])}", *_interval(name, found["baseline"]), *_interval(name, found[now]),
            _change(name, found["effect"]), probability(found["p_value"]),
        ]
        for name, found in metrics.items() if found["baseline"]["value"] is not None or found[now]["value"] is not None
    ]  # fmt: skip
    heads = ["", "Baseline", "interval", now_head, "interval", "Change", P_VALUE]
    prevalence = [
        f'<p class="note">{_metric(name, "")} rises and falls with the share of fraud. Its change is told at the share of fraud that the '
        f"baseline had, at which it is {' now, '.join(_interval(name, found['at_baseline_prevalence']))}.</p>"
        for name, found in metrics.items()
        if (found.get("at_baseline_prevalence") or {}).get("value") is not None
    ]
    return f'<div class="scroll">{table(heads, rows, "nowrap")}</div>{"".join(prevalence)}{_says(section)}'


def _metric(name: str, currency: str) -> str:
    money = f", {text(currency)}" if name == "expected_cost" and currency else ""
    return (METRICS.get(name) or text(name.replace("_", " "))) + money


def _interval(name: str, interval: Json | None) -> tuple[str, str]:
    if interval is None:
        return ABSENT, ""
    bounds = "" if interval["low"] is None else f"{_value(name, interval['low'])} to {_value(name, interval['high'])}"
    return _value(name, interval["value"]), bounds


def _value(name: str, value: float | None, sign: str = "") -> str:
    return metric_value(name, value, sign) if is_share(name) else significant(value, sign=sign)


def _change(name: str, value: float | None) -> str:
    return _value(name, value, "+").replace("%", " points")


def _count(value: float | None) -> str:
    return f"{value:,}" if isinstance(value, int) else significant(value)


def _drifted(drifted: bool) -> str:
    return ' <span class="badge drifted">worse</span>' if drifted else ""


def _over_time(quality: Json) -> str:
    periods = quality["over_time"]
    names = [name for name in METRICS if any(name in (period[kind] or {}) for period in periods for kind in ("known", "estimated"))]
    if len(periods) < 2 or not names:
        return ""
    days = [date.fromisoformat(period["first_day"]) for period in periods]
    figures = []
    for name in names:
        series = [
            Intervals("known", [_bounded((period["known"] or {}).get(name)) for period in periods]),
            Intervals("estimated", [_bounded((period["estimated"] or {}).get(name)) for period in periods], "other"),
        ]
        band = _bounded(quality["metrics"][name]["baseline"]) if name in quality["metrics"] else None
        if any(each for line in series for each in line.values):
            chart = interval_chart(series, days, f"{METRICS[name]} over time", band=band, as_percent=is_share(name))
            figures.append(f"<figure>{chart}<figcaption><b>{METRICS[name]}</b></figcaption></figure>")
    return (
        '<h3>Over time</h3><p><span class="dot-known">●</span> <b>known</b>, measured on labels; <span class="dot-estimated">○</span> '
        "<b>estimated</b> from scores alone, before any label is known. Whiskers: intervals. Grey line and band: the baseline and its interval. "
        f'Each dot is a period that begins on the day below it.</p><div class="charts">{"".join(figures)}</div>'
    )


def _bounded(interval: Json | None) -> Bounded | None:
    if interval is None or interval["value"] is None:
        return None
    return interval["value"], interval["low"], interval["high"]


def concept(found: Json | None) -> str:
    if not found:
        return ""
    rows = [
        [
            f"{_metric(name, '')}{_drifted(metric['drifted'])}", *_interval(name, metric["estimated"]), _value(name, metric["realised"]),
            _change(name, metric["effect"]), probability(metric["p_value"]),
        ]
        for name, metric in found["metrics"].items() if metric["estimated"]["value"] is not None or metric["realised"] is not None
    ]  # fmt: skip
    heads = ["", "Expected", "interval", "Turned out", "Difference", P_VALUE]
    chance = f" ({P_VALUE} {probability(found['frauds_p_value'])})" if found.get("frauds_p_value") is not None else ""
    shown = f'<div class="scroll">{table(heads, rows, "nowrap")}</div>' if rows else ""
    return (
        f"<p>Of {found['events']:,} events{_period(found)} the scores promised "
        f"{significant(found['expected_frauds'])} frauds; {_count(found['frauds'])} turned out to be{chance}.</p>{shown}"
        '<p class="note">Expected: how good the model would be if a score meant what it meant at the baseline. A gap is a change in what events '
        f"mean, whatever they look like.</p>{_says(found)}"
    )


def bias(found: Json | None) -> str:
    if not found:
        return ""
    rows = [
        [
            text(row["facet"]), text(row["level"] or "(missing)"), text(row["reference"] or "(missing)"), text(str(row["metric"]).replace("_", " ")),
            _points(row["baseline"]), _points(row["current"]), _points(row["effect"]), probability(row["p_value"]),
            '<span class="badge drifted">changed</span>' if row["drifted"] else "",
        ]
        for row in sorted(found["rows"], key=lambda row: not row["drifted"])
    ]  # fmt: skip
    heads = ["Facet", "Group", "against", "Metric", "Then", "Now", "Change", P_VALUE, ""]
    shown = f'<div class="scroll">{table(heads, rows, "nowrap")}</div>' if rows else ""
    note = '<p class="note">In percentage points: by how much more of the group than of the one it is compared with is sent to review.</p>'
    return f"{shown}{note if rows else ''}{_says(found)}"


def _points(value: float | None) -> str:
    return ABSENT if value is None else minus(f"{100 * value:+.1f}")


def attribution(found: Json | None) -> str:
    if not found:
        return ""
    if not found["ranking"]:
        return _says(found)
    ranking = sorted(found["ranking"], key=lambda row: row["baseline_rank"])
    kept = [row for row in ranking if min(row["baseline_rank"], row["current_rank"]) <= _RANKED]
    largest = max((value for row in kept for value in (row["baseline"], row["current"]) if value), default=0.0) or 1.0
    rows = [
        [
            text(row["feature"]), bar((row["baseline"] or 0.0) / largest), significant(row["baseline"]), str(row["baseline_rank"]),
            bar((row["current"] or 0.0) / largest), significant(row["current"]), _rank(row),
        ]
        for row in kept
    ]  # fmt: skip
    word = "has changed" if found["drifted"] else "is as it was"
    chance = f", {P_VALUE} {probability(found['p_value'])}" if found["p_value"] is not None else ""
    return (
        f"<p>The order of features {word}: normalised discounted cumulative gain {significant(found['ndcg'])} (1: the same order; a change is found "
        f"below {threshold(found['minimum_ndcg'])}{chance}).</p>"
        f'<div class="scroll">{table(["Feature", "", "Then", "rank", "", "Now", "rank"], rows, "ranking")}</div>'
        f'<p class="note">Mean absolute contribution to the log-odds of fraud.</p>{_says(found)}'
    )


def _rank(row: Json) -> str:
    moved = row["baseline_rank"] - row["current_rank"]
    return f"{row['current_rank']} {f'<b>▲{moved}</b>' if moved > 0 else f'▼{-moved}' if moved < 0 else '='}"
