"""The evaluation job: one model, and the champion beside it, on the latest part of a data set, which no training has seen.

Reads ``test.parquet`` of the data set and the models' archives. Writes below ``--output``:

- ``evaluation.json``: metrics with intervals, the champion's and the paired differences, curves
- ``bias.json``: Clarify's metrics by facet and level, before training (labels) and after (who is sent to review)
- ``explainability.json``: features by mean absolute contribution, and the reasons of the highest scores
- ``gate.json``: whether the model may replace the champion, and why
- ``report.html``: all of it for a person, in one file
- ``smoke_test.json``: the model's own, for whoever deploys it
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from include.jobs import model_file
from include.jobs.context import JobContext, JobError
from include.jobs.dataset_file import DatasetFile
from include.jobs.evaluation_report import html_report
from include.jobs.model_archive import download, open_model
from include.jobs.rollout_events import same_features
from include.lifecycle import bias, calibration, costs, explain, gate, metrics
from include.lifecycle.bootstrap import FloatArray, Interval, Resampled
from include.lifecycle.domain import Domain, ReviewCapacity
from include.lifecycle.evaluation import Economics, Events, compare, resampled

_CURVE_POINTS = 200
_EXPLAINED_ROWS = 5_000
_EXAMPLES = 10
_REASONS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True, help="S3 URI of a data set's folder, with test.parquet in it")
    parser.add_argument("--model", required=True, help="S3 URI of the model's model.tar.gz")
    parser.add_argument("--champion", help="S3 URI of the champion's model.tar.gz; left out where there is none")
    parser.add_argument("--output", required=True, help="S3 URI of the folder that the reports are written to")


def run(options: argparse.Namespace, context: JobContext) -> dict[str, Any]:
    """The metrics, the gate's word and where the reports lie. JobError where an input is missing or does not fit."""
    objects = context.objects
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = f"{options.dataset.rstrip('/')}/test.parquet"
        data = DatasetFile.read(download(objects, source, folder / "test.parquet"), source)
        challenger = open_model(objects, options.model, folder / "challenger", context.domain)
        champion = open_model(objects, options.champion, folder / "champion", context.domain) if options.champion else None
        found = evaluate(context.domain, data, challenger, champion)
        smoke_test = (folder / "challenger" / model_file.SMOKE_TEST_FILE).read_bytes()
    found.evaluation["sources"] = {"dataset": options.dataset, "model": options.model, "champion": options.champion}
    output = objects.key(options.output).rstrip("/")
    reports = {name: objects.put_json(f"{output}/{name}.json", content) for name, content in found.documents().items()}
    page = html_report(context.domain, found.evaluation, found.bias, found.explainability, found.verdict)
    reports["report"] = objects.put(f"{output}/report.html", page.encode(), "text/html; charset=utf-8")
    # beside the reports, so that whoever deploys the model can try its endpoint without opening the archive
    reports["smoke_test"] = objects.put(f"{output}/{model_file.SMOKE_TEST_FILE}", smoke_test, "application/json")
    return {
        "metrics": found.evaluation["metrics"],
        "gate": {"passed": found.verdict.passed, "reasons": list(found.verdict.reasons)},
        "champion": found.evaluation["champion"],
        "review_threshold": found.evaluation["review_threshold"],
        "reports": reports,
    }


@dataclass(frozen=True)
class Evaluation:
    evaluation: dict[str, Any]
    bias: dict[str, Any]
    explainability: dict[str, Any]
    verdict: gate.Verdict

    def documents(self) -> dict[str, Any]:
        return {
            "evaluation": self.evaluation,
            "bias": self.bias,
            "explainability": self.explainability,
            "gate": self.verdict.as_json(),
        }


def evaluate(domain: Domain, data: DatasetFile, challenger: model_file.Model, champion: model_file.Model | None) -> Evaluation:
    """Scores each model with its own features and measures both on the same events. JobError where the model cannot be scored on them, or
    has seen them; a champion that cannot be scored is an obstacle that the gate names."""
    if _has_seen(challenger, data):
        raise JobError(
            f"{data.source} begins before the end of the model's own training and validation events: "
            "evaluate it on the test part of its data set, or on later events"
        )
    confidence = domain.gate.confidence
    economics = Economics(domain.costs, domain.review)
    events = Events(
        labels=data.labels,
        amounts=data.numbers("amount"),
        days=data.days(),
        entities=np.array(data.texts("entity_id"), str),
        groups=np.array(data.texts("group_id"), str),
    )
    if unknown := int((~np.isfinite(events.amounts)).sum()):
        raise JobError(f"{data.source}: {unknown} of {data.rows} events have no finite amount, so that what they cost is unknown")
    rows = data.matrix(challenger.features)
    scores = challenger.scores(rows).astype(np.float64)
    ours = resampled(events, scores, economics)
    measured = ours.intervals(confidence)
    comparison, standing = _against(champion, data, events, ours, economics, confidence, challenger.features)
    verdict = gate.decide(domain.gate, measured, events.prevalence, comparison)
    evaluation = {
        "domain": domain.name,
        "events": data.summary() | {"prevalence": events.prevalence},
        "confidence": confidence,
        "metrics": _as_json(measured),
        "champion": standing,
        "gate": {"passed": verdict.passed, "reasons": list(verdict.reasons)},
        "review_threshold": costs.review_threshold(scores, events.amounts, events.days, domain.costs, domain.review),
        "curves": _curves(events, scores, economics),
        "model": asdict(challenger.description),
    }
    reviewed = _sent_to_review(scores, events.days, domain.review)
    return Evaluation(
        evaluation,
        _bias(domain, data, events, rows, reviewed),
        _explainability(data, challenger, rows, scores),
        verdict,
    )


def _against(
    champion: model_file.Model | None,
    data: DatasetFile,
    events: Events,
    ours: Resampled,
    economics: Economics,
    confidence: float,
    features: Sequence[str],
) -> tuple[gate.Comparison | None, dict[str, Any] | None]:
    """The comparison that the gate decides on, and what the report says of the champion."""
    if champion is None:
        return None, None
    standing: dict[str, Any] = {"as_of": champion.description.as_of, "metrics": None, "differences": None, "notes": []}
    standing["other_features"] = same_features(champion.features, features)
    try:
        scores = champion.scores(data.matrix(champion.features)).astype(np.float64)
    except JobError as error:
        standing["notes"].append(str(error))
        return gate.Comparison(obstacle=str(error)), standing
    if _has_seen(champion, data):
        standing["notes"].append("The champion was trained on some of these events, which favours it.")
    theirs = resampled(events, scores, economics)
    comparison, differences = compare(ours, theirs, confidence)
    standing["metrics"] = _as_json(theirs.intervals(confidence))
    standing["differences"] = _as_json(differences)
    return comparison, standing


def _has_seen(model: model_file.Model, data: DatasetFile) -> bool:
    last: str = max(part["last_event"] for part in model.description.training.values())
    return str(data.summary()["first_event"]) < last


def _curves(events: Events, scores: FloatArray, economics: Economics) -> dict[str, Any]:
    precision, recall, _ = metrics.precision_recall_curve(events.labels, scores)
    points = _spread(precision.size)
    order = np.argsort(-costs.expected_benefit(scores, events.amounts, economics.costs), kind="stable")
    loss = events.labels[order] * economics.costs.missed_share * events.amounts[order]
    saved = np.concatenate([[0.0], np.cumsum(loss - economics.costs.review)])
    share = np.linspace(0, 1, saved.size)
    steps = _spread(saved.size)
    lost = float(loss.sum())
    return {
        "precision_recall": {"recall": recall[points].tolist(), "precision": precision[points].tolist()},
        "reliability": calibration.reliability_curve(events.labels, scores),
        # nothing to lose, nothing to save: undefined, like the metric
        "savings": {"share_reviewed": share[steps].tolist(), "savings": (saved[steps] / lost).tolist()} if lost > 0 else None,
    }


def _spread(size: int) -> NDArray[np.intp]:
    return np.unique(np.linspace(0, size - 1, min(size, _CURVE_POINTS)).astype(np.intp))


def _sent_to_review(scores: FloatArray, days: NDArray[np.datetime64], capacity: ReviewCapacity) -> NDArray[np.bool_]:
    """A decision for each event, where ``metrics.reviewed_share`` says how much of it is reviewed: what is left of the capacity below a whole
    review is carried on to the next day (systematic sampling, of the events by day and score: Madow 1949, On the theory of systematic
    sampling, II). So as many are sent to review as the capacity allows over all days, to half an event, however few a day has."""
    share = metrics.reviewed_share(scores, days, capacity)
    order = np.lexsort((-scores, days))
    carried = np.floor(np.round(np.cumsum(share[order]), 9) + 0.5)  # rounded: a whole number of reviews must stay one
    reviewed = np.zeros(scores.size, bool)
    reviewed[order] = np.diff(carried, prepend=0.0) > 0
    return reviewed


def _bias(domain: Domain, data: DatasetFile, events: Events, rows: model_file.Matrix, reviewed: NDArray[np.bool_]) -> dict[str, Any]:
    """By facet and level, each against the facet's reference. A missing value is the level null."""
    facets: dict[str, Any] = {}
    for facet in domain.facets:
        if facet.column not in data.table.column_names:
            raise JobError(f"{data.source} has no column {facet.column}, which facet {facet.name!r} of domain {domain.name!r} needs")
        values = np.array(data.texts(facet.column), object)
        reference = values == facet.reference
        levels = []
        for level in sorted({value for value in values if value != facet.reference}, key=lambda value: (value is None, value)):
            members = np.array([value == level for value in values])
            levels.append(
                {
                    "level": level,
                    "events": int(members.sum()),
                    "fraud_share": float(events.labels[members].mean()),
                    "reviewed_share": float(reviewed[members].mean()),
                    "pre_training": bias.pre_training(events.labels, reference, members),
                    "post_training": bias.post_training(events.labels, reviewed, reference, members)
                    | {"FT": bias.flip_test(rows, reviewed, reference, members)},
                }
            )
        facets[facet.name] = {
            "reference": {
                "level": facet.reference,
                "events": int(reference.sum()),
                "fraud_share": float(events.labels[reference].mean()) if reference.any() else None,
                "reviewed_share": float(reviewed[reference].mean()) if reference.any() else None,
            },
            "levels": levels,
        }
    return {
        "favourable_label": "genuine",
        "favourable_prediction": "not sent to review at the review capacity",
        "names": bias.NAMES,
        "facets": facets,
    }


def _explainability(data: DatasetFile, model: model_file.Model, rows: model_file.Matrix, scores: FloatArray) -> dict[str, Any]:
    thinned = rows[:: -(-len(rows) // _EXPLAINED_ROWS)]
    contributions = model.contributions(thinned)
    highest = np.argsort(-scores, kind="stable")[:_EXAMPLES]
    why = explain.reasons(model.features, rows[highest], model.contributions(rows[highest]), _REASONS)
    event_ids, labels = data.texts("event_id"), data.labels
    return {
        "method": "path-dependent TreeSHAP, log-odds",
        "rows": len(thinned),
        "expected_log_odds": float(contributions[0, -1]),
        "ranking": explain.ranking(model.features, contributions),
        "highest_scores": [
            {
                "event_id": event_ids[row],
                "score": float(scores[row]),
                "fraud": bool(labels[row]),
                "reasons": [reason.as_json() for reason in reasons],
            }
            for row, reasons in zip(highest, why, strict=True)
        ],
    }


def _as_json(measured: dict[str, Interval]) -> dict[str, Any]:
    return {name: interval.as_json() for name, interval in measured.items()}
