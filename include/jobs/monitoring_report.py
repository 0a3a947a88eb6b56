"""``report.html`` of a monitored window, from its ``report.json`` (``include.lifecycle.drift_report`` has the schema): one file without script.

Written for a fraud analyst: what was found and what to do come first, then the evidence, and last how the thresholds came about. What is known
from labels is drawn with filled dots and whole lines, what is estimated from scores with open dots and dashes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from include.jobs import monitoring_columns as columns
from include.jobs import monitoring_model as model
from include.jobs.html_page import P_VALUE, day_in_words, defined, page, probability, sentence, share, significant, table, text, threshold
from include.jobs.monitoring_method import method
from include.lifecycle.domain import FINDING_KINDS
from include.lifecycle.evaluation import METRICS

_STYLE = """
.verdict { border-left: .5rem solid var(--grey); padding: .9rem 1.2rem; margin: 1.2rem 0; background: var(--panel); break-inside: avoid }
.verdict.alarm { border-color: var(--bad) } .verdict.warn { border-color: var(--orange) } .verdict.none { border-color: var(--good) }
.verdict strong { font-size: 1.4em; display: block } .verdict p { margin: .35rem 0 } .verdict .headline { font-size: 1.12em }
.badge { display: inline-block; padding: 0 .5rem; border: 1px solid; border-radius: .7rem; font-size: .85em; white-space: nowrap }
.badge.alarm, .badge.drifted { color: var(--bad) } .badge.warn, .badge.estimated { color: var(--orange) } .badge.note { color: var(--muted) }
.badge.known { color: var(--blue) } .badge.estimated { border-style: dashed }
nav { font-size: .9rem; margin: 1rem 0 } nav a { margin-right: .9rem; white-space: nowrap }
.found { list-style: none; padding: 0 } .found > li { margin: .9rem 0; break-inside: avoid } .found p { margin: .15rem 0 }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .6rem 0 } .facts dt { color: var(--muted) }
.facts dd { margin: 0; overflow-wrap: anywhere }
@media (max-width: 34rem) { .facts { grid-template-columns: 1fr } .facts dd { margin-bottom: .4rem } }
.words td:nth-child(2) { text-align: left; overflow-wrap: anywhere; min-width: 14rem } .nowrap td, .nowrap th { white-space: nowrap }
@media (max-width: 34rem) { body { margin-top: 1rem } th, td { padding: .25rem .4rem } }
@media print { body { font-size: 11px } nav { display: none } th, td { padding: .1rem .4rem }
  .verdict { border: 1px solid; border-left-width: .5rem } }
"""

Json = Mapping[str, Any]

_OUTCOMES = {"drift": {"alarm": "Alarm: something changed", "warn": "Warning: something changed", "none": "Something changed"}}
_KINDS: dict[str, tuple[str, str, str]] = {
    "data_quality": (
        "The data are not what they were", "data",
        "Ask whoever delivers these data, before you judge the model: a broken delivery looks like drift everywhere else. Once it is "
        "mended, score those days again."),
    "feature_drift": (
        "What comes in has changed", "columns",
        "Find out why, the worst column first: a new product, form, region or supplier, or fraudsters who changed their ways? A model knows "
        "only what it learned from. If the change stays, train again once there are labels of it."),
    "score_drift": (
        "The scores have changed", "score",
        "Check how many events now go to review, and look through the highest scores of these days: more fraud, or genuine events "
        "that the model takes for fraud?"),
    "multivariate_drift": (
        "Columns go together differently than before", "multivariate",
        "No single column has to move for this. Look for combinations that were rare and are now common."),
    "quality": (
        "The model has become worse: labels prove it", "quality",
        "Train again on recent events, and release the new model only after the usual comparison."),
    "estimated_quality": (
        "The model has probably become worse", "quality",
        "This is estimated from the scores; no label confirms it yet. Have a sample of recent events reviewed. If they confirm it, train again."),
    "concept_drift": (
        "The same score no longer means the same risk", "concept",
        "Events look as before, and turn out otherwise. Train again on the newest final labels; until then, trust the scores less."),
    "bias_drift": (
        "Groups are treated differently than before", "bias",
        "Show it to whoever answers for fair treatment, before the next release."),
    "attribution_drift": (
        "The model decides by other features than before", "attribution",
        "Check whether the features that rose are ones you would decide by; if not, look at how they are filled."),
}  # fmt: skip
_CHECKS = {
    "missing_column": "column missing", "extra_column": "column not expected", "type": "type of column", "missing": "missing values",
    "not_a_number": "text instead of a number", "infinite": "infinite values", "out_of_range": "out of range", "unseen_level": "levels never seen",
    "constant": "always the same value", "row_count": "rows a day", "score_range": "score outside 0 to 1", "labels": "labels",
}  # fmt: skip
_SHARE_CHECKS = {"missing", "not_a_number", "infinite", "out_of_range", "unseen_level", "constant", "labels"}
_ABSENT_BECAUSE = {
    "score": "the score: no score column was given",
    "multivariate": "columns taken together: there are not enough columns or rows for it",
    "quality": "measured quality: no final labels of scored events were given",
    "estimated_quality": "estimated quality: it takes scores, and a reference that says how far they can be trusted",
    "concept_drift": "concept drift: it takes an estimate and final labels of the same events",
    "bias_drift": "bias: no facet, or nobody was sent to review",
    "attribution_drift": "attribution: the model itself was not at hand",
}
_QUALITY_FINDINGS = 60
_NAMED = 8


def html_report(report: Mapping[str, Any]) -> str:
    """The page, from the contents of report.json, version 1."""
    report = defined(report)
    subject = report["subject"]
    name = text(subject["title"] or subject["domain"] or subject["current"]["source"])
    sections = [
        ("found", "What was found", _findings(report)),
        ("data", "Are the data sound?", _data_quality(report["data_quality"])),
        ("columns", "Columns that moved", _columns(report["features"])),
        ("score", "The score", columns.card(report["score"]) if report["score"] else ""),
        ("multivariate", "Columns taken together", _together(report["multivariate"]) if report["multivariate"] else ""),
        ("quality", "How good the model is", model.quality(report)),
        ("concept", "Does a score still mean what it meant?", model.concept(report["concept_drift"])),
        ("bias", "Bias by facet", model.bias(report["bias_drift"])),
        ("attribution", "What the model decides by", model.attribution(report["attribution_drift"])),
        ("all", "Every column", columns.all_columns(report["features"]) if report["features"] else ""),
        ("method", "How this was decided", method(report) + _left_out(report)),
    ]
    shown = [(anchor, title, html) for anchor, title, html in sections if html]
    links = " ".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in shown)
    body = [
        f"<h1>{name}: monitoring</h1>",
        f'<p class="note">{_window(subject)}</p>',
        _verdict(report),
        f"<nav>{links}</nav>",
        *(f'<section id="{anchor}"><h2>{title}</h2>\n{html}</section>' for anchor, title, html in shown),
    ]
    title = f"Monitoring: {subject['title'] or subject['domain'] or subject['current']['source']}"
    return page(title, body, columns.STYLE + model.STYLE + _STYLE)


def _window(subject: Json) -> str:
    current = subject["current"]
    parts = [f"{current['rows']:,} rows{_from_to(current)}"]
    if subject["as_of"]:
        parts.append(f"as known at {text(subject['as_of'])}")
    if subject["model_package"]:
        parts.append(f"model {text(subject['model_package'])}")
    return ", ".join(parts) + "."


def _from_to(side: Json) -> str:
    if not side["first_day"]:
        return ""
    first, last = day_in_words(side["first_day"]), day_in_words(side["last_day"])
    return f" of {first}" if first == last else f", {first} to {last}"


def _verdict(report: Json) -> str:
    verdict = report["verdict"]
    outcome, severity = verdict["outcome"], verdict["severity"]
    if outcome == "drift":
        word, style = _OUTCOMES["drift"][severity], severity
        action = _KINDS[verdict["kinds"][0]][2] if verdict["kinds"] else "Read on."
    elif outcome == "no_drift":
        word, style, action = "No drift", "none", "Nothing. The model may go on as it is."
    else:
        word, style = "Not enough data for a verdict", "warn"
        action = "Wait for more rows, or find out why there are so few. This is not an all-clear."
    return (
        f'<div class="verdict {style}"><strong>{word}</strong><p class="headline">{text(verdict["headline"])}</p>{_when(report)}'
        f"<p><b>What to do.</b> {action}</p></div>"
    )


def _when(report: Json) -> str:
    verdict, subject = report["verdict"], report["subject"]
    if verdict["outcome"] != "drift":
        return ""
    found = (subject["as_of"] or subject["current"]["last_day"] or "")[:10]
    if not verdict["began"]:
        began = "The day it began cannot be told" + ("." if subject["current"]["first_day"] else ": the rows carry no days.")
        if "quality" in verdict["kinds"] and (report["quality"] or {}).get("over_time"):
            began += ' <a href="#quality">How good the model is</a> shows it by week.'
        return f"<p>{began}{f' It was found on {day_in_words(found, True)}.' if found else ''}</p>"
    began = f"It began on <b>{day_in_words(verdict['began'], True)}</b>"
    if not found:
        return f"<p>{began}.</p>"
    days = (date.fromisoformat(found) - date.fromisoformat(verdict["began"][:10])).days
    later = "" if days < 1 else f", {days} day{'' if days == 1 else 's'} later"
    where = "was found on" if subject["as_of"] else "is found in data up to"
    return f"<p>{began} and {where} <b>{day_in_words(found, True)}</b>{later}.</p>"


def _findings(report: Json) -> str:
    by_kind: dict[str, list[Json]] = {}
    for finding in report["findings"]:
        by_kind.setdefault(finding["kind"], []).append(finding)
    if not by_kind:
        return ""
    order = ("alarm", "warn", "note")
    items = []
    for kind in sorted(by_kind, key=lambda kind: (min(order.index(f["severity"]) for f in by_kind[kind]), FINDING_KINDS.index(kind))):
        found = sorted(by_kind[kind], key=lambda f: order.index(f["severity"]))
        title, anchor, action = _KINDS[kind]
        severity = found[0]["severity"]
        others = [(METRICS | _CHECKS).get(finding["name"]) or text(finding["name"]) for finding in found[1:]]
        hidden = f" and {len(others) - _NAMED:,} more" if len(others) > _NAMED else ""
        more = f" So also: {', '.join(others[:_NAMED])}{hidden}." if others else ""
        items.append(
            f'<li><span class="badge {severity}">{_SEVERITIES[severity]}</span> <b><a href="#{anchor}">{title}</a></b>'
            f'<p>{sentence(found[0]["says"])}{more}</p><p class="note">{action}</p></li>'
        )
    return f'<ul class="found">{"".join(items)}</ul>'


_SEVERITIES = {"alarm": "alarm", "warn": "warning", "note": "noted only"}


def _data_quality(checks: Sequence[Json]) -> str:
    if not checks:
        return ""
    found, passed = [check for check in checks if check["found"]], sum(not check["found"] for check in checks)
    if not found:
        return f"<p>Yes: all {passed:,} checks passed (columns, types, missing and unusable values, ranges, levels, rows a day).</p>"
    rows = [
        [
            f'<span class="badge {check["severity"]}">{_SEVERITIES[check["severity"]]}</span>', sentence(check["says"]),
            _CHECKS.get(check["check"]) or text(check["check"]), _check_value(check, "baseline"), _check_value(check, "current"),
            probability(check["p_value"]),
        ]
        for check in sorted(found, key=lambda check: ("alarm", "warn", "note").index(check["severity"]))[:_QUALITY_FINDINGS]
    ]  # fmt: skip
    more = f'<p class="note">And {len(found) - _QUALITY_FINDINGS:,} more; report.json has them all.</p>' if len(found) > _QUALITY_FINDINGS else ""
    shown = table(["", "", "Check", "Then", "Now", P_VALUE], rows, "words")
    return f'<div class="scroll">{shown}</div>{more}<p class="note">{passed:,} other checks passed.</p>'


def _check_value(check: Json, side: str) -> str:
    return share(check[side]) if check["check"] in _SHARE_CHECKS else significant(check[side])


def _columns(features: Sequence[Json]) -> str:
    if not features:
        return ""
    ordered = columns.worst_first(features)
    moved = [column for column in ordered if column["drifted"]]
    if not moved:
        nearest = ordered[0]
        said = f"None of {len(features)}." if len(features) > 1 else "It did not."
        if columns.size(nearest):
            said += (
                f" The largest change is that of {text(nearest['name'])}: effect {significant(nearest['effect'])} (floor "
                f"{threshold(nearest['minimum_effect'])}), {P_VALUE} {probability(nearest['p_value'])} (level {probability(nearest['level'])}); "
                "it takes both."
            )
        return f"<p>{said}</p>"
    said = f"<p>{len(moved)} of {len(features)}, worst first.</p>"
    more = len(moved) - columns.PICTURED
    rest = f'<p class="note">The other {more} that moved are in the table of <a href="#all">every column</a>.</p>' if more > 0 else ""
    return said + "\n".join(columns.card(column) for column in moved[: columns.PICTURED]) + rest


def _together(column: Json) -> str:
    note = (
        '<p class="note">Every row has one number: how unusual its values are together, as a squared Mahalanobis distance from the middle of the '
        "baseline. The larger, the more unusual.</p>"
    )
    return columns.card(column, "All columns at once", "Unusualness of a row") + note


def _left_out(report: Json) -> str:
    absent = [why for name, why in _ABSENT_BECAUSE.items() if report[name] is None]
    columns_out = [f"column {text(name)}: {text(why)}" for name, why in (report["subject"].get("left_out") or {}).items()]
    items = "".join(f"<li>{item}</li>" for item in [*absent, *columns_out])
    return f"<h3>Not looked at</h3><ul>{items}</ul>" if items else ""
