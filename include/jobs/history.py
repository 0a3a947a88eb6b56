"""history: the ageing matrix of the models that backfills left: how the models of each as-of did on each later period, and whether training
them more often would have paid.

Which models: those of ``--models``, a JSON list of {"as_of", "model" (S3 URI of model.tar.gz), "model_package"}; without it, the newest
package of each as-of in the registry's history group. Which events: those of whole periods of ``--period-days`` days from the first as-of on
whose labels have matured at ``--as-of``. See ``include.lifecycle.ageing`` for what is measured, and how.

Into ``--output`` (default ``reports/history/<digest of the models and the options>/``), and into ``--out`` on this machine:

- ``ageing.csv``: one row a cell: as_of, first_day, last_day, age, events, positives, then each metric with its bounds
- ``report.html``: heat maps and tables, in one file without script
- ``ageing.json``::

    domain, currency, as_of, period_days, confidence, resamples
    sentence      whether training more often would have paid, in words; null where the models cannot tell
    as_ofs[]      as_of, model, model_package, note (why its row is blank, or null)
    periods[]     first_day, last_day, events, positives, cost_without_model,
                  left_out {known_fraud: events of groups with a known fraud, without_label: events}
    cells[]       as_of, first_day, age (whole periods), metrics {name: {value, low, high}},
                  versus_freshest {name: {value, low, high}}: minus the newest model's on the same period
    by_age[]      age, cells, mean {name: value}, versus_freshest {name: {value, low, high}} (mean over the cells of that age),
                  cheaper_than_freshest_in (cells)
    policies[]    every (periods; null: never again), retraining (in words), models (different ones in use), cost {value, low, high},
                  saved_by_most_frequent {value, low, high}, each_retraining (that, divided by the additional models)

  Money is in the domain's currency: of a period in cells and by_age, of all periods in policies. low and high are null where a metric is not
  resampled.

A cell, once measured, is kept under ``reports/history/cells/``, named by a digest of all it depends on: the model, the period's features and
labels, the code. So one more model costs its own row only, and the same inputs give the same bytes.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from include.code_version import code_version
from include.jobs.ageing_report import csv_table, html_report, text_table
from include.jobs.context import JobContext, JobError, instant
from include.jobs.history_events import HistoryEvents, PeriodEvents
from include.jobs.model_archive import open_model
from include.jobs.model_file import Model
from include.lifecycle.ageing import RESAMPLED, RESAMPLES, Cell, Matrix, Period, age, cluster_counts, frequency, measure_cell, periods
from include.lifecycle.as_of import iso, utc
from include.lifecycle.domain import Domain
from include.lifecycle.evaluation import Economics, Events
from include.lifecycle.features import FeatureError, open_database
from include.lifecycle.names import digest
from include.stores.objects import ObjectNotFoundError, ObjectStore
from include.stores.partitions import Partitions

_READS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", help="S3 URI of the list of models (JSON); without it, the registry's history group")
    parser.add_argument(
        "--as-of", type=instant, help="ISO 8601 instant; labels known then count. Default: the end of the last day with features"
    )
    parser.add_argument("--period-days", type=int, default=7, help="length of a period, in days (default: 7)")
    parser.add_argument("--output", help="S3 URI of the folder that the reports are written to, ending in /")
    parser.add_argument("--out", type=Path, help="a folder on this machine that the reports are written to as well")
    parser.add_argument("--memory-limit", help="DuckDB's share of memory, such as 3GB; beyond it, it spills to disk")


def run(options: argparse.Namespace, context: JobContext) -> dict[str, Any]:
    """The sentence, how many models and periods there are, and where the reports lie (none where the models are too young for any period)."""
    if options.period_days < 1:
        raise JobError(f"--period-days {options.period_days}: a period has at least one day")
    _ = context.objects  # without a bucket there is no asking the registry either, and this says what is missing
    models = _models(options, context)
    folder = _output(options, context, models)
    as_of, last_day = _known(options, context)
    columns = periods(models[0].as_of, last_day, options.period_days)
    if not columns:  # no fault of anybody: a backfill up to today has such models
        sentence = (
            f"The models are too young to tell: no whole period of {options.period_days} days lies between the first as-of,"
            f" {iso(models[0].as_of)}, and {last_day}, the last day whose labels have matured at {iso(as_of)}."
        )
        return {"sentence": sentence, "models": len(models), "periods": 0, "cells": 0, "cells_measured_now": 0, "notes": {}, "reports": {}}
    with tempfile.TemporaryDirectory() as scratch, open_database(Path(scratch) / "spill", options.memory_limit) as connection:
        try:
            events = HistoryEvents(context, connection, columns, as_of, Path(scratch))
            found = _measure(context, models, columns, events, options.period_days, Path(scratch))
        except FeatureError as error:
            raise JobError(str(error)) from error
    matrix = Matrix([model.as_of for model in models], columns, options.period_days, found.cells, context.domain.gate.confidence)
    content = {
        "domain": context.domain.name,
        "currency": context.domain.costs.currency,
        "as_of": iso(as_of),
        "period_days": options.period_days,
        "confidence": matrix.confidence,
        "resamples": RESAMPLES,
        **_content(matrix, models, found.notes, context.domain.costs.currency),
    }
    print(text_table(context.domain, content), file=sys.stderr)
    return {
        "sentence": content["sentence"],
        "models": len(models),
        "periods": len(columns),
        "cells": len(found.cells),
        "cells_measured_now": found.measured_now,
        "notes": {iso(models[row].as_of): note for row, note in found.notes.items()},
        "reports": _write(context, content, folder, options.out),
    }


@dataclass(frozen=True)
class HistoryModel:
    as_of: datetime
    uri: str
    package: str | None

    def as_json(self) -> dict[str, Any]:
        return {"as_of": iso(self.as_of), "model": self.uri, "model_package": self.package}


def _models(options: argparse.Namespace, context: JobContext) -> list[HistoryModel]:
    """In the order of their as-ofs, one of each."""
    if options.models:
        try:
            listed = context.objects.get_json(context.objects.key(options.models))
            models = [HistoryModel(utc(each["as_of"]), each["model"], each.get("model_package")) for each in listed]
        except ObjectNotFoundError as error:
            raise JobError(f"--models {options.models} does not exist") from error
        except (ValueError, TypeError, KeyError) as error:
            raise JobError(f"--models {options.models} is not a list of models with as_of and model: {error!r}") from error
    else:
        models = _registered(context.domain)
    if not models:
        raise JobError(
            f"no model of {context.domain.name} from a backfill: make some with `airflow backfill create --dag-id"
            f" {context.domain.name}.train_model --from-date … --to-date …`, whose runs register theirs in the history group"
        )
    models.sort(key=lambda model: model.as_of)
    if twice := [iso(a.as_of) for a, b in itertools.pairwise(models) if a.as_of == b.as_of]:
        raise JobError(f"--models {options.models} lists several models as of {', '.join(twice)}: one as-of has one model")
    return models


def _registered(domain: Domain) -> list[HistoryModel]:
    import boto3

    from include.stores.registry import ModelRegistry

    packages = ModelRegistry(boto3.client("sagemaker")).history(domain.name)
    return [HistoryModel(utc(package.metadata["as_of"]), package.model, package.arn) for package in packages]


def _output(options: argparse.Namespace, context: JobContext, models: Sequence[HistoryModel]) -> str:
    if options.output:
        if not options.output.endswith("/"):
            raise JobError(f"--output {options.output!r} must end in /: it names a folder")
        return context.objects.key(options.output)
    asked = {
        "models": [model.as_json() for model in models],
        "as_of": options.as_of and iso(options.as_of),
        "period_days": options.period_days,
    }
    return context.layout.report("history", digest(asked))


def _known(options: argparse.Namespace, context: JobContext) -> tuple[datetime, date]:
    """The as-of instant, and the last day with features whose labels have all matured then."""
    days = list(Partitions(context.objects, context.layout.features))
    if not days:
        raise JobError(f"{context.objects.uri(context.layout.features)} has no features: run {context.domain.name}.ingest_data first")
    as_of = options.as_of or datetime.combine(days[-1] + timedelta(days=1), time(), UTC)
    matured = (as_of - context.domain.label.maturity).date() - timedelta(days=1)
    return as_of, min(matured, days[-1])


@dataclass(frozen=True)
class Found:
    """``cells``: as in ``Matrix``. ``notes``: row → why nothing of it could be measured. ``measured_now``: cells that no earlier run left."""

    cells: dict[tuple[int, int], Cell]
    notes: dict[int, str]
    measured_now: int


def _measure(
    context: JobContext, models: Sequence[HistoryModel], columns: Sequence[Period], events: HistoryEvents, days: int, scratch: Path
) -> Found:
    """Every cell: as an earlier run left it, or measured now, a period after the other."""
    objects = context.objects
    wanted = [
        (row, column) for row, model in enumerate(models) for column, period in enumerate(columns) if age(model.as_of, period, days) >= 0
    ]
    keys = _keys(context, models, columns, events, wanted)
    with ThreadPoolExecutor(_READS) as pool:
        kept = pool.map(lambda at: _kept(objects, keys[at]), wanted)
        cells = {at: cell for at, cell in zip(wanted, kept, strict=True) if cell is not None}
    opened: dict[int, Model] = {}
    notes: dict[int, str] = {}
    measured_now = 0
    for column, period in enumerate(columns):
        missing = [row for row, at in wanted if at == column and (row, at) not in cells and row not in notes]
        read = events.read(period) if missing else None
        if read is None:
            continue
        measure = _prepared(context.domain, read)
        for row in missing:
            try:
                model = opened[row] = opened.get(row) or _open(context, models[row], scratch / f"model-{row}")
                cells[row, column] = measure(model)
            except JobError as error:
                notes[row] = str(error)
                continue
            measured_now += 1
        events.check_unchanged()
        for row in missing:
            if (row, column) in cells:
                objects.put_json(keys[row, column], cells[row, column].as_json())
    if not cells:
        why = "; ".join(notes.values()) or f"the store has no labelled events from {columns[0].first} to {columns[-1].last}"
        raise JobError(f"nothing could be measured: {why}")
    for row in sorted(set(range(len(models))) - {row for row, _ in cells} - set(notes)):
        notes[row] = "no later period whose labels have matured"
    return Found(cells, notes, measured_now)


def _keys(
    context: JobContext, models: Sequence[HistoryModel], columns: Sequence[Period], events: HistoryEvents, wanted: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], str]:
    """Where each cell is kept: the digest of all it depends on."""
    code = code_version(context.domain.name)
    contents = [_content_of(context.objects, model.uri) for model in models]
    periods_read = [events.identity(period) for period in columns]
    return {
        (row, column): context.layout.report("history", "cells", f"{digest([contents[row], periods_read[column], code], length=32)}.json")
        for row, column in wanted
    }


def _content_of(objects: ObjectStore, uri: str) -> list[str | None]:
    """A URI with the ETag of what lies there (None: nothing). JobError for a URI of another place."""
    try:
        key = objects.key(uri)
    except ValueError as error:
        raise JobError(str(error)) from error
    return [uri, next((info.etag for info in objects.list(key) if info.key == key), None)]


def _kept(objects: ObjectStore, key: str) -> Cell | None:
    try:
        return Cell.from_json(objects.get_json(key))
    except ObjectNotFoundError:
        return None


def _open(context: JobContext, model: HistoryModel, folder: Path) -> Model:
    found = open_model(context.objects, model.uri, folder, context.domain)
    if utc(found.description.as_of) > model.as_of:
        raise JobError(
            f"{model.uri} says of itself that it is as of {found.description.as_of}, later than {iso(model.as_of)}: it may have seen events"
            " that it would be measured on"
        )
    return found


def _prepared(domain: Domain, read: PeriodEvents) -> Callable[[Model], Cell]:
    """How any model does on the period: what does not depend on the model is done once. JobError for a model that wants other features."""
    data = read.data
    events = Events(
        labels=data.labels,
        amounts=data.numbers("amount"),
        days=data.days(),
        entities=np.array(data.texts("entity_id"), str),
        groups=np.array(data.texts("group_id"), str),
    )
    economics = Economics(domain.costs, domain.review)
    clusters, counts = cluster_counts(events.groups)
    rows = functools.cache(data.matrix)

    def measure(model: Model) -> Cell:
        scores = model.scores(rows(model.features)).astype(np.float64)
        return replace(measure_cell(events, scores, economics, clusters, counts), left_out=read.left_out)

    return measure


def _content(matrix: Matrix, models: Sequence[HistoryModel], notes: Mapping[int, str], currency: str) -> dict[str, Any]:
    """The parts of ageing.json that come from the matrix (see the module's text)."""
    of_column = {column: cell for (_, column), cell in matrix.cells.items()}  # any: events and labels are the same for all models
    return {
        "sentence": matrix.sentence(currency),
        "as_ofs": [{**model.as_json(), "note": notes.get(row)} for row, model in enumerate(models)],
        "periods": [
            {
                "first_day": period.first.isoformat(),
                "last_day": period.last.isoformat(),
                "events": of_column[column].events if column in of_column else 0,
                "positives": of_column[column].positives if column in of_column else 0,
                "left_out": of_column[column].left_out if column in of_column else {},
                "cost_without_model": of_column[column].metrics["cost_without_model"] if column in of_column else None,
            }
            for column, period in enumerate(matrix.periods)
        ],
        "cells": [_cell(matrix, row, column, models[row]) for row, column in sorted(matrix.cells)],
        "by_age": matrix.by_age(),
        "policies": _policies(matrix),
    }


def _cell(matrix: Matrix, row: int, column: int, model: HistoryModel) -> dict[str, Any]:
    freshest = matrix.freshest(column)
    return {
        "as_of": iso(model.as_of),
        "first_day": matrix.periods[column].first.isoformat(),
        "age": matrix.age(row, column),
        "metrics": {name: matrix.interval(row, column, name).as_json() for name in matrix.cells[row, column].metrics},
        "versus_freshest": {name: matrix.difference(name, [(row, freshest, column)]).as_json() for name in RESAMPLED},
    }


def _policies(matrix: Matrix) -> list[dict[str, Any]]:
    policies = matrix.policies()
    against_most_frequent = [matrix.compare(policies[0], policy) for policy in policies]
    return [
        {
            "every": verdict.seldom.every,
            "retraining": frequency(verdict.seldom.every, matrix.days),
            "models": verdict.seldom.models,
            "cost": matrix.cost(verdict.seldom).as_json(),
            "saved_by_most_frequent": verdict.saved.as_json(),
            "each_retraining": None if np.isnan(verdict.each_retraining) else verdict.each_retraining,
        }
        for verdict in against_most_frequent
    ]


def _write(context: JobContext, content: Mapping[str, Any], folder: str, out: Path | None) -> dict[str, str]:
    """Each report's URI by its name."""
    files = {
        "cells": ("ageing.csv", csv_table(content), "text/csv; charset=utf-8"),
        "report": ("report.html", html_report(context.domain, content), "text/html; charset=utf-8"),
        # last: where it is, all are
        "ageing": ("ageing.json", json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False), "application/json"),
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, text, _ in files.values():
            (out / name).write_text(text, encoding="utf-8")
    return {key: context.objects.put(f"{folder}{name}", text.encode(), kind) for key, (name, text, kind) in files.items()}
