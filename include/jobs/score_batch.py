"""score-batch: a model's scores for every event of a day or several, and each day's review queue, within the analysts' capacity.

Reads ``features/dt=<day>/`` and the model's archive, and writes for each day, every object whole:

- ``predictions/batch/dt=<day>/data.parquet``: one row an event, ordered by event_time, event_id: event_id, event_time, entity_id, amount,
  score (calibrated probability), expected_benefit (of a review, in money), review_rank (null: not in the queue), reasons (the features that
  moved the score most: feature, value, contribution in log-odds; on a day of more than 50,000 events null outside of the queue), model (URI),
  model_package (null where none was named), as_of
- ``review/dt=<day>/queue.csv`` and ``queue.html``: the events most worth a review, ranked by expected benefit. Analysts fill in the CSV's
  last columns, and ``record-decisions`` makes labels of it.

An entity one of whose frauds was known at the midnight that ends the day is marked in the queue: of frauds within the domain's training
window before that. The same features, labels and model give the same bytes. Scoring a day again replaces what is there.

A day whose features are older than what was ingested since is scored all the same, for analysts cannot wait; the result, the page and the log
say so, because events may be missing.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from include.jobs.context import JobContext, JobError, instant
from include.jobs.dataset_file import DatasetFile
from include.jobs.model_archive import open_model
from include.jobs.model_file import Matrix, Model
from include.jobs.review_page import queue_page
from include.lifecycle.as_of import Days, iso
from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.costs import expected_benefit
from include.lifecycle.domain import LABELS_TABLE
from include.lifecycle.explain import reasons
from include.lifecycle.features import create_views, open_database
from include.lifecycle.review_queue import QueuedEvent, most_worthwhile, queue_csv, reviews_of_a_day
from include.stores.partitions import Partitions
from include.stores.stale_features import StaleFeatures

REASONS = 4
EXPLAINED_ROWS = 50_000
"""A day of more events has reasons for its queue only: contributions take up to a millisecond an event."""
_QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
_REASON_TYPE = pa.struct([("feature", pa.string()), ("value", pa.float64()), ("contribution", pa.float64())])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--day", required=True, type=date.fromisoformat, help="event day, UTC")
    parser.add_argument("--last-day", type=date.fromisoformat, help="last event day, UTC, included (default: one day)")
    parser.add_argument("--model", required=True, help="S3 URI of the model's model.tar.gz")
    parser.add_argument("--model-package", help="the registry's name of that model, kept with the scores")
    parser.add_argument("--as-of", required=True, type=instant, help="ISO 8601 instant of the scoring; the days must be over by then")


def run(options: argparse.Namespace, context: JobContext) -> dict[str, Any]:
    """Result: {"days": [what ``_Batch.score`` returns], "rows", "queued", "expected_benefit" (sums over the days), "currency",
    "days_without_features", "days_with_stale_features", "model", "model_package", "as_of", "reports": {"queue": URI of the last day's queue for
    a person}}.

    JobError where none of the days has features, the model lacks one of its features there, or an input is damaged."""
    try:
        days = Days(options.day, options.last_day or options.day)
    except ValueError as error:
        raise JobError(f"--day, --last-day: {error}") from error
    if options.as_of < _end_of(days.last):
        raise JobError(f"--as-of {iso(options.as_of)} lies before the end of {days.last}: score a day when it is over")
    features = Partitions(context.objects, context.layout.features)
    scored = list(features.versions(days.first, days.last))
    if not scored:
        raise JobError(
            f"{context.objects.uri(context.layout.features)} holds no features from {days.first} to {days.last}: land that day's events and run"
            " ingest_data (or build-features for events that are curated), or choose a day whose events are known already"
        )
    with tempfile.TemporaryDirectory() as scratch, open_database(Path(scratch) / "spill") as connection:
        model = open_model(context.objects, options.model, Path(scratch) / "model", context.domain)
        known = KnownFrauds(context, connection, Days(scored[0], scored[-1]), Path(scratch))
        batch = _Batch(context, features, model, options, known, StaleFeatures(context.objects, context.layout).days())
        found = [batch.score(day) for day in scored]
    every = [days.first + timedelta(days=number) for number in range((days.last - days.first).days + 1)]
    return {
        "days": found,
        "rows": sum(day["rows"] for day in found),
        "queued": sum(day["queued"] for day in found),
        "expected_benefit": sum(day["expected_benefit"] for day in found),
        "currency": context.domain.costs.currency,
        "days_without_features": [day.isoformat() for day in every if day not in scored],
        "days_with_stale_features": [day["day"] for day in found if day["features_are_stale"]],
        "model": options.model,
        "model_package": options.model_package,
        "as_of": iso(options.as_of),
        "reports": {"queue": found[-1]["queue_page"]},
    }


@dataclass(frozen=True)
class _Batch:
    context: JobContext
    features: Partitions
    model: Model
    options: argparse.Namespace
    known: KnownFrauds
    stale: Sequence[Days]

    def score(self, day: date) -> dict[str, Any]:
        """Writes one day. Returns {"day", "rows", "score_quantiles", "capacity" (reviews), "queued", "expected_benefit" (of the queue),
        "model_has_seen_the_day", "features_are_stale", and the URIs "predictions", "queue_csv", "queue_page"}."""
        domain, objects, layout = self.context.domain, self.context.objects, self.context.layout
        data = DatasetFile(objects.uri(self.features.key(day)), self.features.read(day))
        rows = data.matrix(self.model.features)
        amounts = data.numbers("amount")
        if unknown := int((~np.isfinite(amounts)).sum()):
            raise JobError(f"{data.source}: {unknown} of {data.rows} events have no finite amount, so that what they cost is unknown")
        scores = self.model.scores(rows).astype(np.float64)
        benefit = expected_benefit(scores, amounts, domain.costs)
        chosen = most_worthwhile(data.texts("event_id"), benefit, domain.review)  # type: ignore[arg-type]  # the feature store has no null there
        queue = self._queue(day, data, rows, scores, benefit, chosen)

        predictions = Partitions(objects, layout.batch_predictions)
        predictions.write(day, self._predictions(data, rows, scores, benefit, chosen))
        found = {
            "day": day.isoformat(),
            "rows": data.rows,
            "score_quantiles": {f"{q:g}": float(value) for q, value in zip(_QUANTILES, np.quantile(scores, _QUANTILES), strict=True)},
            "capacity": reviews_of_a_day(domain.review, data.rows),
            "queued": len(queue),
            "expected_benefit": float(benefit[chosen].sum()),
            "model_has_seen_the_day": self._has_seen(day),
            "features_are_stale": any(day in days for days in self.stale),
            "predictions": objects.uri(predictions.key(day)),
        }
        page = queue_page(domain, queue, found, self.options.model_package or self.options.model, self.model.description.as_of)
        csv_key, page_key = (layout.review_queue(day, name) for name in ("queue.csv", "queue.html"))
        found["queue_csv"] = objects.put(csv_key, queue_csv(domain, queue), "text/csv; charset=utf-8")
        found["queue_page"] = objects.put(page_key, page.encode(), "text/html; charset=utf-8")
        print(f"{day}: {data.rows:,} events scored, {len(queue)} to review, expected to save {found['expected_benefit']:,.0f}", flush=True)
        if found["features_are_stale"]:
            print(f"{day}: its features are older than what was ingested since: run build-features, and score the day again", flush=True)
        return found

    def _queue(
        self, day: date, data: DatasetFile, rows: Matrix, scores: FloatArray, benefit: FloatArray, chosen: np.ndarray[Any, Any]
    ) -> list[QueuedEvent]:
        events = data.table.select(["event_id", "event_time", "entity_id", "amount"]).take(pa.array(chosen)).to_pylist()
        known = self.known.at_the_end_of(day, {event["entity_id"] for event in events})
        why = reasons(self.model.features, rows[chosen], self.model.contributions(rows[chosen]), REASONS) if events else []
        return [
            QueuedEvent(rank, **event, score=score, expected_benefit=gain, reasons=because, known_fraud_since=known.get(event["entity_id"]))
            for rank, (event, score, gain, because) in enumerate(
                zip(events, scores[chosen].tolist(), benefit[chosen].tolist(), why, strict=True), start=1
            )
        ]

    def _predictions(
        self, data: DatasetFile, rows: Matrix, scores: FloatArray, benefit: FloatArray, chosen: np.ndarray[Any, Any]
    ) -> pa.Table:
        ranks = np.zeros(data.rows, np.int32)
        ranks[chosen] = np.arange(1, len(chosen) + 1)
        constant = {
            "model": pa.scalar(self.options.model, pa.string()),
            "model_package": pa.scalar(self.options.model_package, pa.string()),
            "as_of": pa.scalar(self.options.as_of, pa.timestamp("us", "UTC")),
        }
        return pa.table(
            {name: data.table[name] for name in ("event_id", "event_time", "entity_id", "amount")}
            | {"score": scores, "expected_benefit": benefit, "review_rank": pa.array(ranks, mask=ranks == 0)}
            | {"reasons": self._reasons(rows, chosen)}
            | {name: pa.repeat(value, data.rows) for name, value in constant.items()}
        )

    def _reasons(self, rows: Matrix, chosen: np.ndarray[Any, Any]) -> pa.Array:
        """What ``explain.reasons`` says, as a column of lists: made without an object for each row, for days of many rows."""
        explained = np.arange(len(rows)) if len(rows) <= EXPLAINED_ROWS else np.sort(chosen)
        added = self.model.contributions(rows[explained])[:, :-1].astype(np.float64)
        order = np.argsort(-np.abs(added), axis=1, kind="stable")[:, :REASONS]
        contribution = np.take_along_axis(added, order, axis=1)
        given = contribution != 0
        value = np.take_along_axis(rows[explained], order, axis=1).astype(np.float64)[given]
        names = pa.DictionaryArray.from_arrays(order[given].astype(np.int32), pa.array(self.model.features, pa.string()))
        fields = [names.cast(pa.string()), pa.array(value, mask=np.isnan(value)), pa.array(contribution[given])]
        offsets = np.concatenate([[0], np.cumsum(given.sum(axis=1))]).astype(np.int32)
        lists = pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(fields, fields=list(_REASON_TYPE)))
        place = np.full(len(rows), -1)
        place[explained] = np.arange(len(explained))
        return lists.take(pa.array(place, mask=place < 0))

    def _has_seen(self, day: date) -> bool:
        return day.isoformat() <= max(part["last_event"] for part in self.model.description.training.values())[:10]


class KnownFrauds:
    """Which entities' frauds were known at the end of a day: from the curated events and labels of the training window before it."""

    def __init__(self, context: JobContext, connection: duckdb.DuckDBPyConnection, days: Days, folder: Path) -> None:
        self._domain, self._connection = context.domain, connection
        first = days.first - self._domain.training.window
        prefixes = {LABELS_TABLE: context.layout.labels, self._domain.event_table: context.layout.curated(self._domain.event_table)}
        self._files = {
            table: Partitions(context.objects, prefix).download(folder / table, first, days.last) for table, prefix in prefixes.items()
        }

    def at_the_end_of(self, day: date, entities: Collection[str]) -> dict[str, datetime]:
        """Entity → when its first fraud of the window became known; those without are left out."""
        domain, end = self._domain, _end_of(day)
        if not entities:
            return {}
        create_views(self._connection, domain, self._files, end, set(self._files))
        rows = self._connection.execute(
            f"""
            SELECT CAST(e."{domain.entity}" AS VARCHAR) AS entity_id, min(l.available_at)
            FROM {LABELS_TABLE} AS l JOIN {domain.event_table} AS e ON CAST(e."{domain.event_id}" AS VARCHAR) = l.event_id
            WHERE l.label = 1 AND l.superseded_at = TIMESTAMP '9999-12-31' AND l.event_time >= $first
              AND CAST(e."{domain.entity}" AS VARCHAR) IN (SELECT unnest($entities))
            GROUP BY entity_id
            """,  # noqa: S608 -- the domain's checked identifiers
            {"first": (end - domain.training.window).replace(tzinfo=None), "entities": sorted(entities)},
        ).fetchall()
        return {entity: known.replace(tzinfo=UTC) for entity, known in rows}


def _end_of(day: date) -> datetime:
    return datetime.combine(day + timedelta(days=1), time(), UTC)
