"""record-decisions: the CSV of a review queue, a day's or a rollout's, filled in by analysts, becomes a landing file of labels.

Without ``--land`` the file is only checked. With it, ``raw/labels/dt=<day of the latest decision>/decisions_<digest>.csv`` is written (the
event's id, label, decided_at), which ``ingest_data`` takes like any delivery; and before it ``review/decisions/decisions_<digest>.json``,
which keeps who decided, with the notes. (Daily runs look back for some days only, ``Schedules.lookback``: where the latest decision is older,
run ``ingest_data`` by hand for its day.) A first decision on an event is known from decided_at on; one that corrects a label, from the end of
that delivery's day, as every correction is. The same file with the same options is the same two objects. A file with any error is refused
whole, each line named.

With ``--out DIR`` the landing file goes below that folder (``labels/dt=…/``) and the record beside it, without S3; then nobody checks whether
the events were ever scored, and when.
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import json
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from include.jobs.context import JobContext, JobError, instant
from include.lifecycle.as_of import iso, utc
from include.lifecycle.decisions import Decision, DecisionsError, ScoredDay, check_scored, read_decisions
from include.lifecycle.domain import LABELS_TABLE, Domain
from include.lifecycle.names import digest
from include.stores.layout import Layout
from include.stores.partitions import Partitions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--queue", required=True, type=Path, help="queue.csv of a day or reviews.csv of a rollout, with the column label filled in"
    )
    parser.add_argument("--decided-by", required=True, help="who decided, for rows whose column decided_by is empty")
    parser.add_argument("--decided-at", type=instant, help="ISO 8601 instant, for rows whose column decided_at is empty")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--land", action="store_true", help="write the landing file and the record; without it, only check")
    where.add_argument("--out", type=Path, help="write both below this folder instead, without S3")


def run(options: argparse.Namespace, context: JobContext) -> dict[str, Any]:
    """Result: {"decisions", "fraud", "undecided", "first_decided_at", "last_decided_at", "landed", "record"}; the last two are URIs or
    paths, None where the file was only checked. JobError names every line at fault."""
    try:
        body = options.queue.read_bytes()
    except OSError as error:
        raise JobError(f"--queue {options.queue}: {error.strerror}") from error
    try:
        decisions, undecided = read_decisions(body, context.domain, options.decided_by, options.decided_at)
        if options.out is None:
            check_scored(decisions, _scored_days(context))
    except DecisionsError as error:
        raise JobError(f"{options.queue}: {error}") from error
    if not decisions:
        raise JobError(f"{options.queue}: nothing was recorded: the label of all {undecided} events is empty")
    landed, record = _write(decisions, options, context) if options.land or options.out else (None, None)
    times = sorted(decision.decided_at for decision in decisions)
    return {
        "decisions": len(decisions),
        "fraud": sum(decision.label for decision in decisions),
        "undecided": undecided,
        "first_decided_at": iso(times[0]),
        "last_decided_at": iso(times[-1]),
        "landed": landed,
        "record": record,
    }


def _scored_days(context: JobContext) -> Callable[[date], ScoredDay | None]:
    """Day → what can have been scored of it, each day read once: the events of the batch predictions, and those of the feature store, among which
    are all that a rollout wants reviewed. None where neither has the day."""
    stores = [Partitions(context.objects, prefix) for prefix in (context.layout.features, context.layout.batch_predictions)]

    @functools.cache
    def scored_day(day: date) -> ScoredDay | None:
        known, predicted = (store.read(day) for store in stores)
        times = {}
        for rows in (known, predicted):
            if rows:
                times |= dict(zip(rows["event_id"].to_pylist(), map(utc, rows["event_time"].to_pylist()), strict=True))
        if not times:
            return None
        end = datetime.combine(day + timedelta(days=1), time(), UTC)
        return ScoredDay(times, predicted["as_of"][0].as_py() if predicted else end)

    return scored_day


def _write(decisions: Sequence[Decision], options: argparse.Namespace, context: JobContext) -> tuple[str, str]:
    """Landing file and record. The record first: a label that is in landing is always accounted for."""
    ordered = sorted(decisions, key=lambda decision: (decision.decided_at, decision.event_id))
    record = {"domain": context.domain.name, "decisions": [decision.as_json() for decision in ordered]}
    name = f"decisions_{digest(record)}"
    day = ordered[-1].decided_at.date()
    layout = Layout(context.domain.name)
    content = landing_csv(context.domain, ordered)
    if options.out is None:
        kept = context.objects.put_json(layout.decisions(f"{name}.json"), record)
        return context.objects.put(layout.landing(LABELS_TABLE, day, f"{name}.csv"), content, "text/csv; charset=utf-8"), kept
    file = options.out / LABELS_TABLE / f"dt={day.isoformat()}" / f"{name}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    kept_file = options.out / f"{name}.json"
    kept_file.write_text(json.dumps(record, sort_keys=True, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    file.write_bytes(content)
    return str(file), str(kept_file)


def landing_csv(domain: Domain, decisions: Sequence[Decision]) -> bytes:
    """A file of the domain's labels table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(domain.labels_table.column_names)
    writer.writerows((decision.event_id, decision.label, iso(decision.decided_at)) for decision in decisions)
    return text.getvalue().encode()
