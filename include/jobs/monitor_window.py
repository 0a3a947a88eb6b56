"""monitor-window: one window of a model's scored events against the baseline that training left with the model.

Reads the events up to the as-of, those that the endpoint scored (``predictions/endpoint/``), else those of the feature store, scored now; their
labels as known at the as-of; and the model's ``profile.json`` and ``reference.json``. Writes below ``--output``:

- ``report.json``: all that was found (``include.lifecycle.drift_report``), and ``report.html``: the same for a person
- ``profile.json``: the window's own profile, which merges with others of the same model

and what the window was found to be under ``monitoring/windows/``, which the windows after it are judged by.

The window ends a reporting delay before the as-of; measured quality is of the events whose labels have matured, estimated quality of those since.
No training row is read: the cost follows the window.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb

from include.jobs.baseline import explained_rows, last_whole_day, profile_of
from include.jobs.context import JobContext, JobError, instant
from include.jobs.model_archive import open_model
from include.jobs.model_file import Model
from include.jobs.monitoring_report import html_report
from include.jobs.scored_events import SCORE_COLUMN, ScoredEvents, ScoredEventsReader, with_matured_labels
from include.lifecycle.alarm_policy import WindowRecord
from include.lifecycle.as_of import iso
from include.lifecycle.attribution_drift import attribution_drift
from include.lifecycle.bias_drift import bias_drift
from include.lifecycle.domain import ReviewCapacity
from include.lifecycle.drift_report import analyse, side
from include.lifecycle.estimated_quality import concept_drift, estimated_quality
from include.lifecycle.evaluation import Economics
from include.lifecycle.features import open_database
from include.lifecycle.profile import Counter, Profile, ProfileError
from include.lifecycle.quality_drift import over_time, quality_drift
from include.lifecycle.quality_reference import read_reference
from include.stores.alarms import MonitoredWindows
from include.stores.objects import ObjectNotFoundError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--as-of", required=True, type=instant, help="ISO 8601 instant: only days before it, and labels known then, are looked at")
    parser.add_argument("--model", required=True, help="S3 URI of the model's model.tar.gz")
    parser.add_argument("--model-package", required=True, help="the registry's name of that model, by which captured requests name it")
    parser.add_argument("--profile", required=True, help="S3 URI of the baseline profile that training left")
    parser.add_argument("--reference", required=True, help="S3 URI of the quality reference that training left")
    parser.add_argument("--history", action="store_true", help="a window of the past, looked at again: live windows do not count it")
    parser.add_argument("--output", required=True, help="S3 URI of the folder that the reports are written to")


def run(options: argparse.Namespace, context: JobContext) -> dict[str, Any]:
    """Result: {"verdict" (as in the report), "found" (kind → names), "rows", "first_day", "last_day", "sources" (days by source), "metrics" (name →
    number or null, for CloudWatch), "window" (URI of what later windows are judged by), "reports": {"report", "page", "profile"}}.

    JobError where a baseline is missing, of another version, or of another model."""
    objects = context.objects
    baseline, reference = _baselines(options, context)
    window = _Window.ending(options, context)
    with tempfile.TemporaryDirectory() as scratch, open_database(Path(scratch) / "spill") as connection:
        model = open_model(objects, options.model, Path(scratch) / "model", context.domain)
        if missing := [name for name in (*model.features, SCORE_COLUMN) if name not in baseline.columns]:
            raise JobError(f"{options.profile} has no column {', '.join(missing)}: is it the baseline of another model?")
        found = ScoredEventsReader(context, model, options.model_package).read(min(window.first, window.matured_from), window.last)
        analysis = _Analysis(options, context, model, baseline, reference, window, found)
        report, profile = analysis.report(connection, Path(scratch))
    return _write(options, context, window, report, profile)


@dataclass(frozen=True)
class _Window:
    """``first`` to ``last``: the days looked at. ``matured_from``: where measured quality begins."""

    first: date
    last: date
    matured_from: date

    @classmethod
    def ending(cls, options: argparse.Namespace, context: JobContext) -> _Window:
        domain, policy = context.domain, context.domain.monitoring
        last = last_whole_day(options.as_of - policy.reporting_delay)
        first = last - policy.window + timedelta(days=1)
        matured_until = last_whole_day(options.as_of - domain.label.maturity)
        return cls(first, last, matured_until - policy.quality_window + timedelta(days=1))


@dataclass(frozen=True)
class _Analysis:
    options: argparse.Namespace
    context: JobContext
    model: Model
    baseline: Profile
    reference: dict[str, Any]
    window: _Window
    found: ScoredEvents | None

    @property
    def confidence(self) -> float:
        return self.context.domain.gate.confidence

    def report(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> tuple[dict[str, Any], Profile]:
        """The report, and the window's own profile."""
        window, domain = self.window, self.context.domain
        seen = self.found.of_days(window.first, window.last) if self.found else None
        profile = profile_of(seen, self.model.features, self.baseline.schema) if seen else Counter(self.baseline.schema).profile()
        source = (
            "events that the endpoint scored" if seen and seen.days_by_source["endpoint"] else "events of the feature store, scored now"
        )
        subject = {
            "domain": domain.name,
            "title": domain.title,
            "model_package": self.options.model_package,
            "as_of": iso(self.options.as_of),
            "currency": domain.costs.currency,
            "baseline": side(self.baseline, self.options.profile),
            "current": side(profile, source) | {"first_day": window.first.isoformat(), "last_day": window.last.isoformat()},
            "sources": {name: [day.isoformat() for day in days] for name, days in (seen.days_by_source if seen else {}).items()},
        }
        sections = self._sections(connection, scratch, self.found) if self.found else {}
        policy = domain.monitoring
        days = policy.window.days * (self._kept(seen) if seen else 1.0)
        return analyse(policy, self.baseline, profile, subject, score=SCORE_COLUMN, days=days, sections=sections), profile

    def _kept(self, found: ScoredEvents) -> float:
        """The share of the events that is at hand: of captured days it is the domain's ``capture_percentage``, of the others all."""
        captured, whole = (len(found.days_by_source[source]) for source in ("endpoint", "feature_store"))
        return (captured * self.context.domain.monitoring.capture_percentage / 100 + whole) / max(captured + whole, 1)

    def _economics(self, found: ScoredEvents) -> Economics:
        """Analysts review as many of a sample as the sample is of the whole."""
        costs, review = self.context.domain.costs, self.context.domain.review
        if review.per_day is not None:
            review = ReviewCapacity(per_day=max(1, round(review.per_day * self._kept(found))))
        return Economics(costs, review)

    def _sections(self, connection: duckdb.DuckDBPyConnection, scratch: Path, found: ScoredEvents) -> dict[str, Any]:
        """What rests on labels, money, facets and contributions."""
        domain, policy, as_of = self.context.domain, self.context.domain.monitoring, self.options.as_of
        known = with_matured_labels(self.context, connection, found, as_of, scratch)
        until = last_whole_day(as_of - domain.label.maturity)
        mature, young = known.of_days(self.window.matured_from, until), known.of_days(until + timedelta(days=1), self.window.last)
        measured = mature.only(mature.labelled)
        whole = known.of_days(self.window.matured_from, self.window.last)
        sections: dict[str, Any] = {}
        if measured.data.rows:
            arguments = (self.reference, measured.events(), measured.scores, self._economics(measured), policy)
            unlabelled = mature.data.rows - measured.data.rows
            sections["quality"] = quality_drift(*arguments, unlabelled=unlabelled, confidence=self.confidence)
            sections["quality"]["over_time"] = over_time(
                self.reference, whole.events(), whole.scores, whole.labelled, self._economics(whole), confidence=self.confidence
            )
            sections["concept_drift"] = concept_drift(*arguments, confidence=self.confidence)
        if young.data.rows:
            arguments = (self.reference, young.events(), young.scores, self._economics(young), policy)
            sections["estimated_quality"] = estimated_quality(*arguments, confidence=self.confidence)
        seen = known.of_days(self.window.first, self.window.last)
        if seen.data.rows:
            sections |= self._of_window(seen)
        return sections

    def _of_window(self, seen: ScoredEvents) -> dict[str, Any]:
        domain, policy, events = self.context.domain, self.context.domain.monitoring, seen.events()
        rows = explained_rows(seen.data.rows)
        contributions = self.model.contributions(seen.data.matrix(self.model.features)[rows])
        sections: dict[str, Any] = {
            "attribution_drift": attribution_drift(
                self.reference, self.model.features, contributions, events.days[rows], events.groups[rows], policy
            )
        }
        if domain.facets:
            facets = {facet.name: seen.data.texts(facet.column) for facet in domain.facets}
            levels = {facet.name: facet.reference for facet in domain.facets}
            sections["bias_drift"] = bias_drift(
                self.reference, events.days, events.groups, seen.scores, facets, levels, self._economics(seen), policy
            )
        return sections


def _baselines(options: argparse.Namespace, context: JobContext) -> tuple[Profile, dict[str, Any]]:
    try:
        profile, reference = (context.objects.get_json(context.objects.key(uri)) for uri in (options.profile, options.reference))
        return Profile.from_json(profile), read_reference(reference)
    except ObjectNotFoundError as error:
        raise JobError(f"{error.args[0]} does not exist: train a model again, its baselines are written beside its evaluation") from error
    except (ProfileError, ValueError) as error:
        raise JobError(f"{options.profile}, {options.reference}: {error}") from error


def _write(options: argparse.Namespace, context: JobContext, window: _Window, report: dict[str, Any], profile: Profile) -> dict[str, Any]:
    objects, output = context.objects, context.objects.key(options.output).rstrip("/")
    reports = {
        "report": objects.put_json(f"{output}/report.json", report),
        "page": objects.put(f"{output}/report.html", html_report(report).encode(), "text/html; charset=utf-8"),
        "profile": objects.put_json(f"{output}/profile.json", profile.as_json()),
    }
    found: dict[str, list[str]] = {}
    for finding in report["findings"]:
        if finding["severity"] == "alarm":
            found.setdefault(finding["kind"], []).append(finding["name"])
    verdict = report["verdict"]
    if verdict["outcome"] == "not_enough_data":  # says nothing of drift, but that the events stay away does wake people
        found = {kind: names for kind, names in found.items() if kind == "data_quality"}
    record = WindowRecord(
        last_day=window.last,
        as_of=options.as_of,
        model_package=options.model_package,
        found=found,
        began=date.fromisoformat(verdict["began"]) if verdict["began"] else None,
        headline=verdict["headline"],
        report=reports["report"],
    )
    print(verdict["headline"], flush=True)
    return {
        "verdict": verdict,
        "found": found,
        "rows": report["subject"]["current"]["rows"],
        "first_day": window.first.isoformat(),
        "last_day": window.last.isoformat(),
        "sources": report["subject"]["sources"],
        "metrics": metrics_of(report),
        "window": MonitoredWindows(objects, context.layout, options.history).put(record),
        "reports": reports,
    }


def metrics_of(report: Mapping[str, Any]) -> dict[str, float | None]:
    """What a dashboard follows from day to day; null where it was not measured."""
    columns = [report["score"], report["multivariate"], *report["features"]]
    figures: dict[str, float | None] = {
        "Rows": report["subject"]["current"]["rows"],
        "Severity": ("none", "warn", "alarm").index(report["verdict"]["severity"]),
        "DriftedFeatures": sum(column["drifted"] for column in report["features"]),
        "LargestFeatureEffect": max((column["effect"] for column in report["features"]), default=None),
        "DataQualityFindings": sum(check["found"] for check in report["data_quality"]),
    }
    for name, column in zip(("ScoreEffect", "MultivariateEffect"), columns, strict=False):
        figures[name] = column["effect"] if column else None
    for section, bound, prefix in (("quality", "current", "Measured"), ("estimated_quality", "estimated", "Estimated")):
        for metric, measured in ((report[section] or {}).get("metrics") or {}).items():
            figures[f"{prefix}.{metric}"] = measured[bound]["value"]
    return figures
