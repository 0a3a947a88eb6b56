"""baseline: what monitoring will compare a model's future with, from all the events that it did not learn from.

Reads ``features/`` and ``labels/`` from the day after the model's last training event up to the as-of, scores the events, and writes below
``--output``:

- ``profile.json``: what each feature, the score and all of them together look like, day by day (``include.lifecycle.profile``)
- ``reference.json``: measured quality on the events whose labels have matured, the shares reviewed by facet, and the ranking of features by
  contribution (``include.lifecycle.quality_reference``)

No event is left out for a known fraud of its group, as the test part of a data set may do: live traffic has those too. Early stopping and calibration
have seen the validation part, so quality is measured after it.
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.jobs.context import JobContext, JobError, instant
from include.jobs.model_archive import open_model
from include.jobs.model_file import Model
from include.jobs.scored_events import SCORE_COLUMN, ScoredEvents, ScoredEventsReader, with_matured_labels
from include.lifecycle.as_of import iso
from include.lifecycle.domain import Domain
from include.lifecycle.evaluation import Economics
from include.lifecycle.features import open_database
from include.lifecycle.profile import Counter, Profile, Schema
from include.lifecycle.quality_reference import quality_reference

_EXPLAINED_ROWS = 5_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="S3 URI of the model's model.tar.gz")
    parser.add_argument("--as-of", required=True, type=instant, help="ISO 8601 instant of the training")
    parser.add_argument("--output", required=True, help="S3 URI of the folder that the baselines are written to")


def run(options: argparse.Namespace, context: JobContext) -> dict[str, Any]:
    """Result: {"first_day", "last_day", "rows", "matured_rows", "frauds", "reports": {"profile", "reference"}}.

    JobError where no event came after those the model learned from, or none of them has a matured label."""
    objects = context.objects
    with tempfile.TemporaryDirectory() as scratch, open_database(Path(scratch) / "spill") as connection:
        model = open_model(objects, options.model, Path(scratch) / "model", context.domain)
        learned, chosen = (_day(model.description.training[part]["last_event"]) for part in ("train", "validation"))
        last = last_whole_day(options.as_of - context.domain.monitoring.reporting_delay)
        first = learned + timedelta(days=1)
        found = ScoredEventsReader(context, model, "").read(first, last) if first <= last else None
        if found is None:
            raise JobError(
                f"no event from {first} to {last} in {objects.uri(context.layout.features)}: a baseline is of events after those learned from;"
                " train as of a later instant, or ingest later days"
            )
        known = with_matured_labels(context, connection, found, options.as_of, Path(scratch)).of_days(chosen + timedelta(days=1), last)
        known = known.only(known.labelled)
        if not known.data.rows:
            raise JobError(f"no event after {chosen} has a matured label as of {iso(options.as_of)}: quality has no baseline")
    output = objects.key(options.output).rstrip("/")
    reference = _reference(context.domain, model, known)
    return {
        "first_day": first.isoformat(),
        "last_day": last.isoformat(),
        "rows": found.data.rows,
        "matured_rows": known.data.rows,
        "frauds": int(known.data.labels.sum()),
        "reports": {
            "profile": objects.put_json(f"{output}/profile.json", profile_of(found, model.features).as_json()),
            "reference": objects.put_json(f"{output}/reference.json", reference),
        },
    }


def profile_of(found: ScoredEvents, features: tuple[str, ...], schema: Schema | None = None) -> Profile:
    """The profile of the model's features and the score; under ``schema``, or under one that these events fix."""
    columns = found.data.table.select([*features, SCORE_COLUMN])
    if schema is None:
        schema = Schema.of({name: columns[name] for name in columns.column_names}, apart=(SCORE_COLUMN,))
    counter = Counter(schema)
    counter.add(columns, found.data.table["event_time"].cast(pa.date32()))
    return counter.profile()


def last_whole_day(moment: datetime) -> date:
    """The last UTC day that had ended by then."""
    return moment.date() - timedelta(days=1)


def explained_rows(rows: int) -> NDArray[np.intp]:
    """Some rows, evenly spread: contributions take up to a millisecond an event."""
    return np.arange(0, rows, -(-rows // _EXPLAINED_ROWS))


def _reference(domain: Domain, model: Model, known: ScoredEvents) -> dict[str, Any]:
    explained = explained_rows(known.data.rows)
    return quality_reference(
        known.events(),
        known.scores,
        Economics(domain.costs, domain.review),
        facets={facet.name: known.data.texts(facet.column) for facet in domain.facets},
        features=model.features,
        contributions=model.contributions(known.data.matrix(model.features)[explained]),
        explained=explained,
        confidence=domain.gate.confidence,
    )


def _day(moment: str) -> date:
    return date.fromisoformat(moment[:10])
