"""build-dataset: train, validation and test as they could have been made at an instant, written with what they were made from.

Into ``--output s3://…/datasets/<id>/``: ``train.parquet``, ``validation.parquet``, ``test.parquet`` (event_id, event_time, entity_id,
group_id, amount, facet_*, the features, label; ordered by event_time, event_id) and, last, ``dataset.json``.

An event is in when it happened in the training window that ends at ``as-of`` minus the label's maturity, and it and its label were known at
``as-of``. Features come from curated rows by the same SQL as everywhere, not from the feature store, whose rows may know
reference rows that came later.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from include.jobs.context import JobContext, JobError, instant
from include.jobs.curated import CuratedFiles, download_curated, features_sql, tables_needed
from include.lifecycle.as_of import iso
from include.lifecycle.domain import LABELS_TABLE, Domain
from include.lifecycle.features import FEATURES, FeatureError, create_views, feature_names, fetch, materialise_features, open_database
from include.lifecycle.portable_sql import PortableSqlError
from include.lifecycle.splits import PARTS, Part, split_by_time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--as-of", required=True, type=instant, help="ISO 8601 instant; nothing that became known later is used")
    parser.add_argument("--output", required=True, help="S3 URI of the data set's folder, ending in /")
    parser.add_argument("--memory-limit", help="DuckDB's share of memory, such as 3GB; beyond it, it spills to disk")


def run(options: argparse.Namespace, context: JobContext) -> dict[str, Any]:
    if not options.output.endswith("/"):
        raise JobError(f"--output {options.output!r} must end in /: it names a folder")
    folder = context.objects.key(options.output)
    domain, as_of = context.domain, options.as_of
    end = as_of - domain.label.maturity
    start = end - domain.training.window
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        sql = features_sql(context)
        try:
            tables = tables_needed(context, sql) | {LABELS_TABLE}
            curated = download_curated(context, tables, start.date(), end.date(), directory / "curated")
            with open_database(directory / "spill", options.memory_limit) as connection:
                materialise_features(connection, domain, sql, curated.paths, as_of, start.date(), end.date())
                rows, unlabelled = _labelled(connection, domain, curated, as_of, start, end)
        except (FeatureError, PortableSqlError) as error:
            raise JobError(str(error)) from error
        description, parts = _split(domain, rows, as_of, start, end)
        description["matured_without_label"] = unlabelled
        for part, table in parts.items():
            path = directory / f"{part}.parquet"
            pq.write_table(table, path, compression="zstd")
            context.objects.put(f"{folder}{part}.parquet", path.read_bytes(), "application/vnd.apache.parquet")
    lineage = {"partitions": curated.versions, "features_sql": hashlib.sha256(sql.encode()).hexdigest()}
    context.objects.put_json(f"{folder}dataset.json", {**description, "lineage": lineage})
    return {**description, "uri": options.output}


def _labelled(
    connection: duckdb.DuckDBPyConnection, domain: Domain, curated: CuratedFiles, as_of: datetime, start: datetime, end: datetime
) -> tuple[pa.Table, int]:
    """The window's events with their labels as known at ``as_of``, in order of time; and how many matured events have no known label."""
    create_views(connection, domain, curated.paths, as_of, {LABELS_TABLE})
    within = f"event_time > TIMESTAMP '{_naive(start)}' AND event_time <= TIMESTAMP '{_naive(end)}'"
    events = f"(SELECT * FROM {FEATURES} WHERE {within})"  # noqa: S608 -- times and names of our own
    known = f"(SELECT event_id, CAST(label AS TINYINT) AS label FROM {LABELS_TABLE} WHERE superseded_at = TIMESTAMP '9999-12-31')"  # noqa: S608
    rows = fetch(connection, f"SELECT * FROM {events} JOIN {known} USING (event_id) ORDER BY event_time, event_id")  # noqa: S608
    [[unlabelled]] = connection.execute(f"SELECT count(*) FROM {events} ANTI JOIN {known} USING (event_id)").fetchall()  # noqa: S608
    return rows, unlabelled


def _split(domain: Domain, rows: pa.Table, as_of: datetime, start: datetime, end: datetime) -> tuple[dict[str, Any], dict[Part, pa.Table]]:
    training = domain.training
    split = split_by_time(rows["event_time"], rows["group_id"], training.validation_share, training.test_share)
    parts = {part: rows.take(split.rows[part]) for part in PARTS}
    events, positives = sum(map(len, parts.values())), sum(map(_positives, parts.values()))
    found = (
        f"of the labelled events after {iso(start)} up to {iso(end)} as known at {iso(as_of)}"
        f" ({sum(split.left_out.values())} more left out: their {domain.leakage_group} occurs in a later part)"
    )
    if events < training.minimum_events or positives < training.minimum_positives:
        raise JobError(
            f"too little truth to train {domain.name}: {events} events with {positives} positives {found}; the domain wants"
            f" {training.minimum_events} with {training.minimum_positives} or more. Ingest more history, choose a later as-of, or lower the"
            " minimums of its TrainingWindow"
        )
    for part, table in parts.items():
        if not 0 < _positives(table) < len(table):
            raise JobError(
                f"the {part} part of {domain.name} wants both classes; it has {len(table)} events with {_positives(table)} positives"
                f" {found}. Ingest more history, or give the part a larger share"
            )
    columns = [name for name in rows.column_names if name != "label"]
    features = feature_names(domain, columns)
    description = {
        "domain": domain.name,
        "as_of": iso(as_of),
        "window": {"after": iso(start), "until": iso(end)},
        "features": features,
        "facets": [facet.column for facet in domain.facets],
        "events": events,
        "positives": positives,
        "parts": {part: _summary(table, split.left_out[part]) for part, table in parts.items()},
    }
    return description, parts


def _summary(table: pa.Table, left_out: int) -> dict[str, Any]:
    times = pc.min_max(table["event_time"]).as_py()
    return {
        "events": len(table),
        "positives": _positives(table),
        "first_event_time": iso(times["min"]),
        "last_event_time": iso(times["max"]),
        "left_out_for_leakage": left_out,
    }


def _positives(table: pa.Table) -> int:
    return int(pc.sum(table["label"]).as_py() or 0)


def _naive(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ")
