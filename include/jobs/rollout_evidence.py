"""rollout-evidence: whether a rollout's challenger costs less than the champion, from all that is known at an instant.

In shadow both models answered every event, and the endpoint captured both answers. In the ramp gateways logged what they decided; both models are
asked about the features that were sent. Only events whose label has matured at ``--as-of`` count. What is measured, and how sure it is, is said in
``include.lifecycle.rollout_evidence``; what follows from it is not this job's business.

Writes ``evidence.json`` under ``--output``. Where labels are known of reviewed events only, also ``experiments/<id>/reviews.csv``: the reviews that a
lot drew among the events about which the models disagree, young ones too, and that nobody has made yet. Analysts fill it in like a day's queue, and
``record-decisions`` takes it. Nothing depends on a clock: the same experiment, data and as-of give the same bytes.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.jobs.context import JobContext, JobError, instant
from include.jobs.rollout_events import Answered, Contenders, open_contenders, ramp_answers, shadow_answers, with_truth
from include.jobs.rollout_report import put_page
from include.jobs.shipped_decisions import Decision, read_decisions
from include.lifecycle.as_of import iso, utc
from include.lifecycle.assignment import disagreement_review, epoch_of, random_review
from include.lifecycle.costs import expected_benefit
from include.lifecycle.experiment import CHALLENGER, CHAMPION, SCORE_CELLS, Contender, Experiment
from include.lifecycle.review_queue import QueuedEvent, queue_csv
from include.lifecycle.rollout_evidence import Decided, label_chance, ramp_evidence, shadow_evidence
from include.lifecycle.sample_ratio import sample_ratio
from include.stores.objects import ObjectNotFoundError

VERSION = 1
_STAGES = {"shadow": "shadow", "proven": "shadow", "ramp": "ramp", "safe": "ramp"}
"""What is measured in which stage of an experiment."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--experiment", required=True, help="S3 URI of the experiment as JSON, as its store keeps it")
    parser.add_argument(
        "--as-of", required=True, type=instant, help="ISO 8601 instant: what is known then, of events that have matured by then"
    )
    parser.add_argument("--output", required=True, help="S3 URI of the folder for evidence.json")
    parser.add_argument("--captured", help="in shadow: S3 URI to which the endpoint's configuration captures (DataCaptureConfig)")
    parser.add_argument(
        "--decided-since", type=date.fromisoformat, help="in the ramp: first day by the gateways' clocks to read (default: all)"
    )
    parser.add_argument(
        "--history", help="S3 URI of the rollout's history.json: its page is written anew, with what was found now (default: not)"
    )


def run(options: argparse.Namespace, context: JobContext) -> dict[str, Any]:
    """Result: evidence.json without ``over_time``, and {"reports": {"evidence": S3 URI}}, with "reviews" where there is a queue of them;
    "reviews_waiting": how many it holds.

    JobError where the experiment cannot be read, is another domain's or in a stage that measures nothing; where a model is missing or the two want
    different features; and where ``--captured`` is not the place of this experiment's captures."""
    experiment = _experiment(context, options.experiment)
    if experiment.stage not in _STAGES:
        raise JobError(f"experiment {experiment.id} is {experiment.stage}: there is evidence in {', '.join(_STAGES)} only")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        models = open_contenders(context, experiment, scratch)
        if _STAGES[experiment.stage] == "shadow":
            found, waiting = _shadow(context, experiment, _configuration(context, options.captured), models, options.as_of, scratch)
        else:
            decisions = read_decisions(context.objects, context.layout, experiment.id, len(models.features), options.decided_since)
            found, waiting = _ramp(context, experiment, decisions.kept, models, options.as_of, scratch)
            found["left_out"] = {**decisions.left_out, **found["left_out"]}
    evidence = {
        "version": VERSION,
        "experiment": experiment.id,
        "stage": _STAGES[experiment.stage],
        "as_of": iso(options.as_of),
        "reviews_waiting": len(waiting),
        **found,
    }
    reports = {"evidence": context.objects.put_json(f"{context.objects.key(options.output).rstrip('/')}/evidence.json", evidence)}
    if _selective(context):
        key = context.layout.experiment(experiment.id, "reviews.csv")
        reports["reviews"] = context.objects.put(key, queue_csv(context.domain, waiting), "text/csv; charset=utf-8")
    if options.history:
        reports["page"], _ = put_page(context, options.history, {evidence["stage"]: evidence})
    return {name: value for name, value in evidence.items() if name != "over_time"} | {"reports": reports}


def _experiment(context: JobContext, uri: str) -> Experiment:
    try:
        experiment = Experiment.of_json(context.objects.get_json(context.objects.key(uri)))
        utc(experiment.opened)
    except ObjectNotFoundError as error:
        raise JobError(f"--experiment: {uri} does not exist") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise JobError(f"--experiment: {uri} is no experiment as its store keeps it: {type(error).__name__}: {error}") from error
    if experiment.domain != context.domain.name:
        raise JobError(f"experiment {experiment.id} is one of domain {experiment.domain!r}, not {context.domain.name!r}")
    if _selective(context) and not experiment.policy.random_review_share > 0:
        raise JobError(
            f"experiment {experiment.id}: labels of {context.domain.name} are known of reviewed events only, and its random_review_share is 0: "
            "what no model flags would never be known, and nothing could be said about it"
        )
    return experiment


def _selective(context: JobContext) -> bool:
    return context.domain.label.known_for == "reviewed_events"


def _configuration(context: JobContext, captured: str | None) -> str:
    """Its name under ``captured/``."""
    root = context.objects.uri(context.layout.captured(""))
    if not captured or not captured.startswith(root) or not captured.removeprefix(root).strip("/"):
        raise JobError(
            f"--captured is {captured!r}: in shadow it names the place under {root} that the endpoint's configuration captures to"
        )
    return captured.removeprefix(root).strip("/")


def _shadow(
    context: JobContext, experiment: Experiment, configuration: str, models: Contenders, as_of: datetime, scratch: Path
) -> tuple[dict[str, Any], list[QueuedEvent]]:
    answered = shadow_answers(context, experiment, configuration, models.features, scratch)
    both = np.isfinite(_numbers(answered.table, CHAMPION)) & np.isfinite(_numbers(answered.table, CHALLENGER))
    old = _matured(context, answered.table, as_of)
    decided, waiting = _decided(context, experiment, answered.table.filter(pa.array(both)), as_of, scratch)
    return {
        **shadow_evidence(decided, experiment.policy, context.domain.costs),
        "unmatured": int((both & ~old).sum()),
        "unpaired": int((~both & old).sum()),
        "left_out": dict(answered.left_out),
        "sample_ratio": None,
        "shadow_scores": _cells(_numbers(answered.table, CHALLENGER)),
    }, waiting


def _ramp(
    context: JobContext, experiment: Experiment, decisions: list[Decision], models: Contenders, as_of: datetime, scratch: Path
) -> tuple[dict[str, Any], list[QueuedEvent]]:
    answered = ramp_answers(decisions, models)
    decided, waiting = _decided(context, experiment, answered.table, as_of, scratch)
    return {
        **ramp_evidence(decided, experiment.policy, context.domain.costs),
        "unmatured": len(answered.table) - len(decided.days),
        "unpaired": 0,
        "left_out": dict(answered.left_out),
        "sample_ratio": _sample_ratio(experiment, answered),
        "shadow_scores": None,
    }, waiting


# ------------------------------------------------------------------------------------------------------------------ what was decided


def _decided(
    context: JobContext, experiment: Experiment, tried: pa.Table, as_of: datetime, scratch: Path
) -> tuple[Decided, list[QueuedEvent]]:
    """The matured ones of the events, and the reviews by lot that wait, of young ones too."""
    selective = _selective(context)
    events = with_truth(context, tried, as_of, as_of if selective else as_of - context.domain.label.maturity, scratch)
    ramp = "share" in events.column_names
    decided = Decided(
        days=events["event_time"].to_numpy(zero_copy_only=False).astype("datetime64[D]"),
        entities=np.array(events["entity_id"].to_pylist(), np.str_),
        epochs=_epochs(events, experiment.policy.epoch),
        labels=_numbers(events, "label"),
        amounts=_numbers(events, "amount"),
        observed=np.ones(len(events)),
        champion_wants=_wants(context, experiment.champion, events, CHAMPION),
        challenger_wants=_wants(context, experiment.challenger, events, CHALLENGER),
        **({name: _column(events, of) for name, of in _OF_RAMP.items()} if ramp else {}),
    )
    waiting = []
    if selective:
        decided = _reviewed(context, experiment, events, decided)
        waiting = _waiting(context, events, decided)
    return decided.where(_matured(context, events, as_of)), waiting


_OF_RAMP = {"live_reviewed": "wanted", "assigned_challenger": "assigned_challenger", "share": "share"}


def _matured(context: JobContext, events: pa.Table, as_of: datetime) -> NDArray[np.bool_]:
    until = np.datetime64((as_of - context.domain.label.maturity).replace(tzinfo=None), "us")
    return np.asarray(events["event_time"].to_numpy(zero_copy_only=False).astype("datetime64[us]") <= until)


def _wants(context: JobContext, contender: Contender, events: pa.Table, slot: str) -> NDArray[np.bool_]:
    """Whether the model asks for a review of each event."""
    return expected_benefit(_numbers(events, slot), _numbers(events, "amount"), context.domain.costs) > contender.review_threshold


def _reviewed(context: JobContext, experiment: Experiment, events: pa.Table, decided: Decided) -> Decided:
    """The same with the chance that a review was to tell each event's truth (in shadow the champion decides), and without the labels that came about
    otherwise."""
    policy, ids = experiment.policy, events["event_id"].to_pylist()
    live = decided.live_reviewed if decided.share.size else decided.champion_wants
    wanted = decided.champion_wants | decided.challenger_wants
    drawn = np.array([random_review(context.domain.name, event, policy.random_review_share) for event in ids], bool)
    drawn |= wanted & np.array([disagreement_review(experiment.id, event, policy.disagreement_review_share) for event in ids], bool)
    return replace(
        decided,
        observed=label_chance(policy, live, wanted),
        labels=np.where(live | drawn, decided.labels, np.nan),
        due=drawn & wanted & ~live,
    )


def _waiting(context: JobContext, events: pa.Table, decided: Decided) -> list[QueuedEvent]:
    """The oldest first, whose labels are wanted first: all of them are wanted, so what a review is worth is no order."""
    places = np.flatnonzero(decided.due & np.isnan(decided.labels))
    queue = []
    for rank, row in enumerate(events.take(pa.array(places, pa.int64())).to_pylist(), start=1):
        asks = CHALLENGER if decided.challenger_wants[places[rank - 1]] else CHAMPION
        benefit = float(expected_benefit(row[asks], row["amount"], context.domain.costs))
        moment = row["event_time"].replace(tzinfo=UTC)
        why = f"only the {asks} asks for a review"
        queue.append(QueuedEvent(rank, row["event_id"], moment, row["entity_id"], row["amount"], row[asks], benefit, (), None, why))
    return queue


def _sample_ratio(experiment: Experiment, answered: Answered) -> dict[str, Any] | None:
    """Of the units, each with the share at its first event: their labels do not matter, so young ones count, too."""
    events = answered.table.sort_by([("event_time", "ascending"), ("event_id", "ascending")])
    units: dict[tuple[str, int], int] = {}
    for place, unit in enumerate(zip(events["entity_id"].to_pylist(), _epochs(events, experiment.policy.epoch).tolist(), strict=True)):
        units.setdefault(unit, place)
    first = events.take(pa.array(list(units.values()), pa.int64()))
    level = experiment.policy.guardrails.sample_ratio_level
    found = sample_ratio(_column(first, "share"), _column(first, "assigned_challenger"), level)
    return asdict(found) if found else None


def _epochs(events: pa.Table, epoch: timedelta) -> NDArray[np.int64]:
    times: list[datetime] = events["event_time"].to_pylist()
    return np.array([epoch_of(time, epoch) for time in times], np.int64)


def _cells(scores: NDArray[np.float64]) -> list[int]:
    """Counts by twentieths of [0, 1]."""
    return [int(count) for count in np.histogram(scores[np.isfinite(scores)], bins=SCORE_CELLS, range=(0.0, 1.0))[0]]


def _numbers(events: pa.Table, name: str) -> NDArray[np.float64]:
    """Null as NaN."""
    return np.asarray(events[name].cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _column(events: pa.Table, name: str) -> NDArray[Any]:
    return np.asarray(events[name].to_numpy(zero_copy_only=False))
