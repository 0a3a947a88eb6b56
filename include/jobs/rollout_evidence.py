"""rollout-evidence: whether a rollout's challenger costs less than the champion, from all that is known at an instant.

In shadow both models answered every event, and the endpoint captured both answers. In the ramp gateways logged what they decided; both models are
asked about the features that were sent. Only events whose label has matured at ``--as-of`` count. What is measured, and how sure it is, is said in
``include.lifecycle.rollout_evidence``; what follows from it is not this job's business.

Writes ``evidence.json`` under ``--output``. Nothing in it depends on a clock: the same experiment, data and as-of give the same bytes.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.jobs.context import JobContext, JobError, instant
from include.jobs.rollout_events import Answered, Contenders, open_contenders, ramp_answers, shadow_answers, with_truth
from include.jobs.shipped_decisions import Decision, read_decisions
from include.lifecycle.as_of import iso, utc
from include.lifecycle.assignment import epoch_of
from include.lifecycle.costs import expected_benefit
from include.lifecycle.experiment import CHALLENGER, CHAMPION, SCORE_CELLS, Contender, Experiment
from include.lifecycle.rollout_evidence import Decided, ramp_evidence, shadow_evidence
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


def run(options: argparse.Namespace, context: JobContext) -> dict[str, Any]:
    """Result: evidence.json without ``over_time``, and {"reports": {"evidence": S3 URI}}.

    JobError where the experiment cannot be read, is another domain's or in a stage that measures nothing; where a model is missing or the two want
    different features; and where ``--captured`` is not the place of this experiment's captures."""
    experiment = _experiment(context, options.experiment)
    if experiment.stage not in _STAGES:
        raise JobError(f"experiment {experiment.id} is {experiment.stage}: there is evidence in {', '.join(_STAGES)} only")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        models = open_contenders(context, experiment, scratch)
        if _STAGES[experiment.stage] == "shadow":
            found = _shadow(context, experiment, _configuration(context, options.captured), models, options.as_of, scratch)
        else:
            decisions = read_decisions(context.objects, context.layout, experiment.id, len(models.features), options.decided_since)
            found = _ramp(context, experiment, decisions.kept, models, options.as_of, scratch)
            found["left_out"] = {**decisions.left_out, **found["left_out"]}
    evidence = {
        "version": VERSION,
        "experiment": experiment.id,
        "stage": _STAGES[experiment.stage],
        "as_of": iso(options.as_of),
        **found,
    }
    uri = context.objects.put_json(f"{context.objects.key(options.output).rstrip('/')}/evidence.json", evidence)
    return {name: value for name, value in evidence.items() if name != "over_time"} | {"reports": {"evidence": uri}}


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
    if context.domain.label.known_for == "reviewed_events" and not experiment.policy.random_review_share > 0:
        raise JobError(
            f"experiment {experiment.id}: labels of {context.domain.name} are known of reviewed events only, and its random_review_share is 0: "
            "what no model flags would never be known, and nothing could be said about it"
        )
    return experiment


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
) -> dict[str, Any]:
    answered = shadow_answers(context, experiment, configuration, models.features, scratch)
    both = np.isfinite(_numbers(answered.table, CHAMPION)) & np.isfinite(_numbers(answered.table, CHALLENGER))
    paired = answered.table.filter(pa.array(both))
    matured = with_truth(context, paired, as_of, scratch)
    until = np.datetime64((as_of - context.domain.label.maturity).replace(tzinfo=None), "us")
    times = answered.table["event_time"].to_numpy(zero_copy_only=False).astype("datetime64[us]")
    decided = _decided(context, experiment, matured, _observed_in_shadow(context, experiment, matured))
    return {
        **shadow_evidence(decided, experiment.policy, context.domain.costs),
        "unmatured": int((both & (times > until)).sum()),
        "unpaired": int((~both & (times <= until)).sum()),
        "left_out": dict(answered.left_out),
        "sample_ratio": None,
        "shadow_scores": _cells(_numbers(answered.table, CHALLENGER)),
    }


def _ramp(
    context: JobContext, experiment: Experiment, decisions: list[Decision], models: Contenders, as_of: datetime, scratch: Path
) -> dict[str, Any]:
    answered = ramp_answers(decisions, models)
    matured = with_truth(context, answered.table, as_of, scratch)
    decided = _decided(context, experiment, matured, _observed_in_ramp(context, experiment, matured))
    return {
        **ramp_evidence(decided, experiment.policy, context.domain.costs),
        "unmatured": len(answered.table) - len(matured),
        "unpaired": 0,
        "left_out": dict(answered.left_out),
        "sample_ratio": _sample_ratio(experiment, answered),
        "shadow_scores": None,
    }


# ------------------------------------------------------------------------------------------------------------------ what was decided


def _decided(context: JobContext, experiment: Experiment, events: pa.Table, observed: NDArray[np.float64]) -> Decided:
    """``events``: as ``with_truth`` returns them."""
    ramp = "share" in events.column_names
    return Decided(
        days=events["event_time"].to_numpy(zero_copy_only=False).astype("datetime64[D]"),
        entities=np.array(events["entity_id"].to_pylist(), np.str_),
        epochs=_epochs(events, experiment.policy.epoch),
        labels=_numbers(events, "label"),
        amounts=_numbers(events, "amount"),
        observed=observed,
        champion_wants=_wants(context, experiment.champion, events, CHAMPION),
        challenger_wants=_wants(context, experiment.challenger, events, CHALLENGER),
        **({name: _column(events, of) for name, of in _OF_RAMP.items()} if ramp else {}),
    )


_OF_RAMP = {"live_reviewed": "wanted", "assigned_challenger": "assigned_challenger", "share": "share"}


def _wants(context: JobContext, contender: Contender, events: pa.Table, slot: str) -> NDArray[np.bool_]:
    """Whether the model asks for a review of each event."""
    return expected_benefit(_numbers(events, slot), _numbers(events, "amount"), context.domain.costs) > contender.review_threshold


def _observed_in_shadow(context: JobContext, experiment: Experiment, events: pa.Table) -> NDArray[np.float64]:
    """The chance that each event's label was to become known: the champion decides, and beside it a lot."""
    if context.domain.label.known_for == "every_event":
        return np.ones(len(events))
    return np.where(_wants(context, experiment.champion, events, CHAMPION), 1.0, experiment.policy.random_review_share)


def _observed_in_ramp(context: JobContext, experiment: Experiment, events: pa.Table) -> NDArray[np.float64]:
    """The same before the lot of the assignment was drawn: either model may decide."""
    if context.domain.label.known_for == "every_event":
        return np.ones(len(events))
    share, by_lot = _numbers(events, "share"), experiment.policy.random_review_share
    champion, challenger = (
        np.where(_wants(context, contender, events, slot), 1.0, by_lot)
        for slot, contender in ((CHAMPION, experiment.champion), (CHALLENGER, experiment.challenger))
    )
    return np.asarray(share * challenger + (1 - share) * champion, np.float64)


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
