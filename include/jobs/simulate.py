"""Simulates a domain's events and writes them as landing files: ``OUT/<table>/dt=<delivery day>/<table>.csv``, large ones as ``.parquet``.

By default history: everything known by the end of the last day lands on that day, as one file a table. With ``--daily`` the files of each
day land on that day; ``--until`` says how long the labels of the last events are waited for.

A domain's ``simulator.py`` offers ``CHANGES`` (name → description), ``HISTORY`` (``days`` and ``events`` of a demonstration),
``LIVE`` (the ``days`` after it, and the ``change`` that holds after ``change_after`` of them; ``rollout_days``, of events after those for a
retraining and its rollout, may be left out: the story then ends with the alarm), ``BROKEN_FEATURES`` (names of features that requests lack
in the scenario bad_challenger, which a simulator without it does not have),
``simulate(days, events, first_day, seed, change, change_day, first_event)`` (ValueError for what it cannot do; the result has the frames
``labels`` and that of the event table, by its name, ``first_day`` and ``last_day``) and ``deliveries(simulation, history_until, until)``, the
landing files: objects with ``table``, ``day`` and ``rows`` (a pandas frame).
"""

from __future__ import annotations

import argparse
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include import domains
from include.jobs.context import JobContext, JobError

if TYPE_CHECKING:
    import pandas as pd

PARQUET_ROWS = 200_000
"""A file of more rows than this is written as Parquet: several times faster to write than CSV, and less than half its size."""
FILES_PER_LINE = 30
"""Of small files, so many of a table are written before progress is shown."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--days", type=int, required=True, help="days of events")
    parser.add_argument("--events", type=int, required=True, help="events, all days together; some simulators keep to it on average only")
    parser.add_argument("--first-day", type=date.fromisoformat, required=True, help="the first day of events, YYYY-MM-DD, UTC")
    parser.add_argument("--seed", type=int, required=True, help="equal seeds give equal files")
    parser.add_argument("--out", type=Path, required=True, help="folder the landing files are written under; made if missing")
    parser.add_argument("--change", help="how fraud or the data change from --change-day on; --change list names what there is")
    parser.add_argument("--change-day", type=date.fromisoformat, help="the first day of the change, YYYY-MM-DD")
    parser.add_argument(
        "--first-id", type=int, default=1, help="the first event's number, so that simulations can follow each other (default: 1)"
    )
    parser.add_argument(
        "--history-until", type=date.fromisoformat, help="deliver what is known by that day as one delivery (default: the last day)"
    )
    parser.add_argument("--daily", action="store_true", help="no history: each day's files on that day")
    parser.add_argument("--until", type=date.fromisoformat, help="the last day of deliveries (default: the last day of events)")


def run(options: argparse.Namespace, context: JobContext) -> dict[str, Any]:
    """Result: {"events", "positives", "first_day", "last_day", "out", "tables": {table: {"files", "rows", "first_delivery", "last_delivery"}}}."""
    simulator = domains.part(context.domain.name, "simulator")
    if options.change == "list":
        return {"changes": simulator.CHANGES}
    try:
        simulation = simulator.simulate(
            options.days,
            options.events,
            options.first_day,
            options.seed,
            change=options.change,
            change_day=options.change_day,
            first_event=options.first_id,
        )
    except ValueError as error:
        raise JobError(f"cannot simulate {context.domain.name}: {error}") from error
    events = len(getattr(simulation, context.domain.event_table))
    _say(f"{events:,} events from {simulation.first_day} to {simulation.last_day}, {int(simulation.labels['label'].sum()):,} of them fraud")
    history_until = None if options.daily else options.history_until or simulation.last_day
    tables: dict[str, dict[str, Any]] = {}
    for delivery in simulator.deliveries(simulation, history_until=history_until, until=options.until or simulation.last_day):
        folder = options.out / delivery.table / f"dt={delivery.day.isoformat()}"
        folder.mkdir(parents=True, exist_ok=True)
        _write(delivery.rows, folder, delivery.table)
        written = tables.setdefault(delivery.table, {"files": 0, "rows": 0, "first_delivery": delivery.day.isoformat()})
        written["files"] += 1
        written["rows"] += len(delivery.rows)
        written["last_delivery"] = delivery.day.isoformat()
        if len(delivery.rows) > PARQUET_ROWS or written["files"] % FILES_PER_LINE == 0:
            _say(f"{delivery.table}: {written['rows']:,} rows in {written['files']} files until {delivery.day}")
    return {
        "events": events,
        "positives": int(simulation.labels["label"].sum()),
        "first_day": simulation.first_day.isoformat(),
        "last_day": simulation.last_day.isoformat(),
        "out": str(options.out),
        "tables": tables,
    }


def _write(rows: pd.DataFrame, folder: Path, table: str) -> None:
    """One landing file, in the place of one that an earlier simulation left there. Both kinds hold the same values: instants are UTC to the
    second, and what is text in a CSV is text in Parquet."""
    from pandas.api.types import is_object_dtype

    as_csv, as_parquet = folder / f"{table}.csv", folder / f"{table}.parquet"
    small = len(rows) <= PARQUET_ROWS
    (as_parquet if small else as_csv).unlink(missing_ok=True)
    if small:
        rows.to_csv(as_csv, index=False, date_format="%Y-%m-%dT%H:%M:%SZ")
        return
    mixed = [column for column in rows.columns if is_object_dtype(rows[column])]  # damaged: numbers, and among them text
    rows.astype(dict.fromkeys(mixed, str)).to_parquet(as_parquet, index=False)


def _say(text: str) -> None:
    """Progress, beside the result on standard output."""
    print(f"simulate: {text}", file=sys.stderr, flush=True)
