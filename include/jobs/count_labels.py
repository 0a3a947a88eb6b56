"""count-labels: how much truth there is about the events of some days as of an instant: what retraining waits for.

Counts the events from ``--since`` on whose labels have matured at ``--as-of``, as the data set of that instant would have them.
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from include.jobs.context import JobContext, instant
from include.lifecycle.as_of import iso
from include.lifecycle.domain import LABELS_TABLE
from include.lifecycle.features import create_views, open_database
from include.lifecycle.labelled import LABELLED, label_events
from include.stores.partitions import Partitions

_RESOLUTION = timedelta(microseconds=1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--since", required=True, type=date.fromisoformat, help="first event day, UTC")
    parser.add_argument("--as-of", required=True, type=instant, help="ISO 8601 instant: what is known then, of events that have matured by then")


def run(options: argparse.Namespace, context: JobContext) -> dict[str, Any]:
    """Result: {"since", "as_of", "matured_until", "events" (with a label), "frauds", "unlabelled"}."""
    domain, as_of = context.domain, options.as_of
    until = as_of - domain.label.maturity
    start = datetime.combine(options.since, time(), UTC) - _RESOLUTION
    found = {"since": options.since.isoformat(), "as_of": iso(as_of), "matured_until": iso(until), "events": 0, "frauds": 0, "unlabelled": 0}
    if until <= start:
        return found
    with tempfile.TemporaryDirectory() as scratch, open_database(Path(scratch) / "spill") as connection:
        features = Partitions(context.objects, context.layout.features).download(Path(scratch) / "features", options.since, until.date())
        labels = Partitions(context.objects, context.layout.labels).download(Path(scratch) / "labels", options.since, until.date())
        if not features:
            return found
        create_views(connection, domain, {LABELS_TABLE: labels}, as_of, {LABELS_TABLE})
        rows = connection.read_parquet([str(path) for path in features])
        rows.project("event_id, make_timestamp(epoch_us(event_time)) AS event_time, group_id").create("stored_events")
        found["unlabelled"] = label_events(connection, domain.label, start, until, "stored_events")
        [(events, frauds)] = connection.execute(f"SELECT count(*), coalesce(sum(label), 0) FROM {LABELLED}").fetchall()  # noqa: S608
    return found | {"events": int(events), "frauds": int(frauds)}
