"""report.json of one monitored window: every result in one document, what was found, and the verdict over all of it.

Version 1::

    {"version": 1,
     "verdict": {"outcome": "no_drift" | "drift" | "not_enough_data", "severity": "none" | "warn" | "alarm", "headline": sentence,
                 "began": day | null, "kinds": [kinds of findings that warn or alarm, worst first]},
     "subject": {"domain", "title", "model_package", "as_of" (text or null), "baseline": Side, "current": Side,
                 "left_out": {column: why it was not looked at}},
     "calibration": {"false_alarms_per_year", "windows_per_year", "families", "level", "minimum_effect", "confidence"},
     "findings": [{"kind", "name", "severity": "alarm" | "warn" | "note", "effect", "minimum_effect", "p_value", "level", "says", "began"}],
     "features": [Column], "score": Column | null, "multivariate": Column | null,
     "data_quality": [Check], "quality", "estimated_quality", "concept_drift", "bias_drift", "attribution_drift": section | null}

``Side``: {"source", "rows", "days" (null where rows carry none), "first_day", "last_day"}. ``Column``: ``include.lifecycle.drift``. ``Check``:
``include.lifecycle.data_quality``. The sections: ``include.lifecycle.quality_drift``, ``estimated_quality``, ``bias_drift`` and
``attribution_drift``. ``level`` is the significance level of one family of tests on one window, that of a finding its share of it; ``p_value`` is
null where nothing was left to chance. Numbers that are not defined are null.

A finding is a result that drifted: significant at its level, and beyond its floor. Whether it alarms, warns, or is only noted is the policy's
word (``domain.Monitoring.alarm_on``, ``warn_on``). ``outcome`` is "drift" where one of them alarms or warns. With fewer than ``MINIMUM_ROWS`` rows
it is "not_enough_data", whatever was found: no verdict on a window is not a good one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from typing import Any

from include.lifecycle.data_quality import Check, Severity, data_quality, severity_of
from include.lifecycle.domain import FINDING_KINDS, FindingKind, Monitoring
from include.lifecycle.drift import drift
from include.lifecycle.evaluation import METRICS
from include.lifecycle.profile import MULTIVARIATE, NO_DAY, Profile

VERSION = 1
MINIMUM_ROWS = 50
"""A window of fewer rows says nothing: a shift has to be larger than half a standard deviation to show in it at the usual levels."""
WINDOWS_PER_YEAR = 365
CONFIDENCE = 0.95
SECTIONS: tuple[FindingKind, ...] = ("quality", "estimated_quality", "concept_drift", "bias_drift", "attribution_drift")
_NAMED = 4

Json = Mapping[str, Any]


def analyse(
    monitoring: Monitoring,
    baseline: Profile,
    window: Profile,
    subject: Json,
    *,
    score: str | None = None,
    apart: Collection[str] = (),
    checks: Sequence[Check] = (),
    absent: Sequence[str] = (),
    days: float | None = None,
    sections: Mapping[str, Json | None] | None = None,
) -> dict[str, Any]:
    """The report of two profiles of one schema: data quality, drift of every column, of the score and of all numeric columns together, and the
    verdict. Everything of ``monitor`` and of the domains' monitoring but the reading of rows.

    :param subject: as in the document; see ``side``
    :param score: the column of the score, a family of its own
    :param apart: columns of the profile that are no features (facets): only their data quality is looked at
    :param checks: what was found beside the profiles (``data_quality.structure``, ``data_quality.labels``)
    :param absent: columns that the window does not have, which are among ``checks`` already
    :param days: how many days the window covers, for the number of rows a day, and less where it is a sample of them; None: from its first
        to its last
    :param sections: results of ``SECTIONS`` by name
    """

    def family(names: Sequence[str]) -> list[dict[str, Any]]:
        found = drift(
            baseline,
            window,
            names,
            level=monitoring.level,
            minimum_effect=monitoring.minimum_effect,
            minimum_effect_of=monitoring.minimum_effect_of,
        )
        return [column.as_json() for column in found]

    features = [name for name in baseline.schema.columns if name != score and name not in apart and name not in absent]
    scores = family([score]) if score is not None and score not in absent else []
    together = family([MULTIVARIATE]) if MULTIVARIATE in baseline.columns else []
    quality = data_quality(monitoring, baseline, window, absent=absent, score=score, days=days)
    return drift_report(
        monitoring,
        subject,
        family(features),
        scores[0] if scores else None,
        together[0] if together else None,
        [*checks, *quality],
        sections or {},
    )


def side(profile: Profile, source: str) -> dict[str, Any]:
    """``Side`` of the document."""
    days = [day for day in profile.days if day != NO_DAY]
    return {
        "source": source,
        "rows": int(profile.rows.sum()),
        "days": len(days) or None,
        "first_day": days[0] if days else None,
        "last_day": days[-1] if days else None,
    }


def drift_report(
    monitoring: Monitoring,
    subject: Json,
    features: Sequence[Json],
    score: Json | None,
    multivariate: Json | None,
    checks: Sequence[Check],
    sections: Mapping[str, Json | None],
) -> dict[str, Any]:
    """The whole document.

    :param subject: as in the document; ``subject["current"]["rows"]`` decides whether there is enough to judge by
    :param features: ``Column`` of each feature; ``score`` and ``multivariate``: likewise, None where there is none
    :param sections: by name of ``SECTIONS``, those that apply. KeyError for another name
    """
    if unknown := set(sections) - set(SECTIONS):
        raise KeyError(f"no section of a drift report: {', '.join(sorted(unknown))}")
    document: dict[str, Any] = {
        "version": VERSION,
        "verdict": None,
        "subject": dict(subject),
        "calibration": {
            "false_alarms_per_year": monitoring.false_alarms_per_year,
            "windows_per_year": WINDOWS_PER_YEAR,
            "families": monitoring.families,
            "level": monitoring.level,
            "minimum_effect": monitoring.minimum_effect,
            "confidence": CONFIDENCE,
        },
        "findings": [],
        "features": list(features),
        "score": score,
        "multivariate": multivariate,
        "data_quality": [check.as_json() for check in checks],
        **{name: sections.get(name) for name in SECTIONS},
    }
    document["findings"] = sorted(_findings(monitoring, document), key=_worst_first)
    document["verdict"] = _verdict(document)
    return {name: _finite(value) for name, value in document.items()}


def _findings(monitoring: Monitoring, document: Json) -> Iterator[dict[str, Any]]:
    def finding(
        kind: FindingKind, name: str, result: Json, minimum: float | None, says: str, severity: Severity | None = None
    ) -> dict[str, Any]:
        return {
            "kind": kind,
            "name": name,
            "severity": severity or severity_of(monitoring, kind),
            "effect": result.get("effect"),
            "minimum_effect": minimum,
            "p_value": result.get("p_value"),
            "level": result.get("level") or monitoring.level,
            "says": says,
            "began": result.get("began"),
        }

    for check in document["data_quality"]:
        if check["found"]:
            name = check["column"] or check["check"]
            yield finding("data_quality", name, check, check["minimum_effect"], check["says"], check["severity"])
    columns: list[tuple[FindingKind, Json]] = [("feature_drift", column) for column in document["features"]]
    columns += [("score_drift", document["score"] or {}), ("multivariate_drift", document["multivariate"] or {})]
    for kind, column in columns:
        if column.get("drifted"):
            yield finding(kind, column["name"], column, column["minimum_effect"], column["says"])
    for kind, then, now in _MEASURED:
        for metric, result in (document[kind] or {}).get("metrics", {}).items():
            if result["drifted"]:
                says = f"{METRICS.get(metric, metric)}: {_value(result[now])} {_NOW[kind]}, against {_value(result[then])} {_THEN[kind]}."
                tested = result | {"level": monitoring.level / len(monitoring.minimum_quality_loss)}
                yield finding(kind, metric, tested, monitoring.minimum_quality_loss.get(metric), says)
    rows = (document["bias_drift"] or {}).get("rows", ())
    tests = max(1, sum(row["p_value"] is not None for row in rows))
    for row in rows:
        if row["drifted"]:
            says = (
                f"{row['facet']}: {row['level']} against {row['reference']}, {row['metric']} is {_value(row['current'])}; "
                f"it was {_value(row['baseline'])}."
            )
            result = {"effect": row["effect"], "p_value": row["p_value"], "level": monitoring.level / tests}
            yield finding("bias_drift", f"{row['facet']}: {row['level']}", result, monitoring.minimum_bias_change, says)
    attribution = document["attribution_drift"]
    if attribution and attribution["drifted"]:
        says = f"Scores rest on other features than at the baseline: the rankings agree to {_value(attribution['ndcg'])} (1: the same)."
        effect = {"effect": attribution["ndcg"], "p_value": attribution["p_value"]}
        yield finding("attribution_drift", "ranking of features", effect, attribution["minimum_ndcg"], says)


_MEASURED: tuple[tuple[FindingKind, str, str], ...] = (
    ("quality", "baseline", "current"),
    ("estimated_quality", "baseline", "estimated"),
    ("concept_drift", "estimated", "realised"),
)
_NOW = {"quality": "on the events whose labels are known", "estimated_quality": "as estimated from the scores", "concept_drift": "measured"}
_THEN = {"quality": "at the baseline", "estimated_quality": "at the baseline", "concept_drift": "expected from the scores"}


def _worst_first(finding: Json) -> tuple[int, int, float]:
    effect = finding["effect"]
    size = abs(effect) / (finding["minimum_effect"] or 1) if isinstance(effect, (int, float)) and not math.isnan(effect) else math.inf
    return ("alarm", "warn", "note").index(finding["severity"]), FINDING_KINDS.index(finding["kind"]), -size


def _verdict(document: Json) -> dict[str, Any]:
    counted = [finding for finding in document["findings"] if finding["severity"] != "note"]
    rows = document["subject"]["current"]["rows"]
    days = [finding["began"] for finding in counted if finding["began"]]
    began = min(days) if days else None
    if rows < MINIMUM_ROWS:
        outcome = "not_enough_data"
        headline = f"Not enough data for a verdict: the window has {_rows(rows)}, and it takes {MINIMUM_ROWS}."
        if quality := _quality_clause(counted):
            headline += f" Still, {quality}."
    elif counted:
        outcome, headline = "drift", _drift_headline(document, counted, began)
    else:
        outcome, headline = "no_drift", _calm_headline(document, rows)
    return {
        "outcome": outcome,
        "severity": counted[0]["severity"] if counted else "none",
        "headline": headline,
        "began": began,
        "kinds": list(dict.fromkeys(finding["kind"] for finding in counted)),
    }


def _drift_headline(document: Json, findings: Sequence[Json], began: str | None) -> str:
    names: dict[str, list[str]] = {}
    for finding in findings:
        names.setdefault(finding["kind"], []).append(finding["name"])
    clauses = []
    moved = []
    if features := names.get("feature_drift"):
        moved.append(f"{len(features)} of {_count(len(document['features']), 'feature')} ({_some(features)})")
    if "score_drift" in names:
        moved.append("the score")
    if "multivariate_drift" in names:
        moved.append("how features go together")
    if moved:
        clauses.append(f"{_and(moved)} moved{f' since {day_in_words(began)}' if began else ''}")
    if quality := _quality_clause(findings):
        clauses.append(quality)
    for kind, words in _LOSSES.items():
        if kind in names:
            clauses.append(f"{words} ({_some([METRICS.get(name, name).lower() for name in names[kind]])})")
    if "attribution_drift" in names:
        clauses.append("scores rest on other features than before")
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}."


_LOSSES = {
    "quality": "the model got measurably worse",
    "estimated_quality": "the model is expected to have got worse",
    "concept_drift": "fraud no longer looks as the model learned it",
    "bias_drift": "groups are reviewed unlike before",
}


def _quality_clause(findings: Sequence[Json]) -> str:
    names = list(dict.fromkeys(finding["name"] for finding in findings if finding["kind"] == "data_quality"))
    return f"the data came in otherwise than at the baseline ({_some([_COUNTED.get(name, name) for name in names])})" if names else ""


_COUNTED = {"row_count": "number of rows", "labels": "labels", "missing_column": "columns"}


def _calm_headline(document: Json, rows: int) -> str:
    looked = [f"none of {_count(len(document['features']), 'feature')}"] if document["features"] else []
    looked += ["not the score"] if document["score"] else []
    current = document["subject"]["current"]
    first, last = current["first_day"], current["last_day"]
    when = (
        f" from {day_in_words(first)} to {day_in_words(last)}"
        if first and last and first != last
        else f" of {day_in_words(first)}"
        if first
        else ""
    )
    return f"No drift in {_rows(rows)}{when}: {', '.join(looked) or 'nothing'} moved."


def day_in_words(day: str) -> str:
    """ "2026-04-02" → "2 April 2026"."""
    parsed = date.fromisoformat(day)
    return f"{parsed.day} {_MONTHS[parsed.month - 1]} {parsed.year}"


_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December")


def _rows(count: int) -> str:
    return _count(count, "row")


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _and(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _value(value: Any) -> str:
    """A number, or an interval with its bounds."""
    if isinstance(value, Mapping):
        low, high = value.get("low"), value.get("high")
        return _value(value["value"]) + (f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else "")
    return "undefined" if value is None else f"{value:.3f}"


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
