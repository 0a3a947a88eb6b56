"""build-dataset: train, validation and test as they could have been made at an instant, written with what they were made from.

Into ``--output s3://…/datasets/<id>/``: ``train.parquet``, ``validation.parquet``, ``test.parquet`` (event_id, event_time, entity_id,
group_id, amount, facet_*, the features, label; ordered by event_time, event_id) and, last, ``dataset.json``.

An event is in when it happened in the training window that ends at ``as-of`` minus the label's maturity, and it and its label were known at
``as-of`` (without a label: where the domain says that only fraud is reported). The domain's ``TrainingWindow`` says how the window is split,
and what is left out; ``dataset.json`` counts it by reason. Features come from curated rows by the same SQL as everywhere, not from the feature
store, whose rows may know reference rows that came later.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from include.jobs.context import JobContext, JobError, instant
from include.jobs.curated import download_curated, features_sql, tables_needed
from include.jobs.feature_engine import feature_engine
from include.lifecycle.as_of import iso
from include.lifecycle.domain import LABELS_TABLE, Domain, TrainingWindow
from include.lifecycle.features import FEATURES, FeatureError, create_views, feature_names, materialise_features, open_database
from include.lifecycle.labelled import label_events
from include.lifecycle.portable_sql import PortableSqlError
from include.lifecycle.splits import PARTS, SPLIT, Part, PartSummary, TimeSplit, split_by_time

_ROWS_AT_ONCE = 250_000
"""How many rows are in memory outside of DuckDB's share of it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--as-of", required=True, type=instant, help="ISO 8601 instant; nothing that became known later is used")
    parser.add_argument("--retraining", action="store_true", help="with the window and the parts of the domain's Rollout.training")
    parser.add_argument("--output", required=True, help="S3 URI of the data set's folder, ending in /")
    parser.add_argument("--memory-limit", help="DuckDB's share of memory, such as 3GB; beyond it, it spills to disk")


def run(options: argparse.Namespace, context: JobContext) -> dict[str, Any]:
    if not options.output.endswith("/"):
        raise JobError(f"--output {options.output!r} must end in /: it names a folder")
    folder = context.objects.key(options.output)
    domain, as_of = context.domain, options.as_of
    end = as_of - domain.label.maturity
    training = (domain.rollout.training if options.retraining else None) or domain.training
    start = end - training.window
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        sql = features_sql(context)
        try:
            tables = tables_needed(context, sql) | {LABELS_TABLE}
            curated = download_curated(context, tables, start.date(), end.date(), directory / "curated")
            with open_database(directory / "spill", options.memory_limit) as connection:
                with feature_engine(directory / "spark", options.memory_limit) as engine:
                    columns = materialise_features(connection, domain, sql, curated.paths, as_of, start.date(), end.date(), engine)
                create_views(connection, domain, curated.paths, as_of, {LABELS_TABLE})
                unlabelled = label_events(connection, domain.label, start, end)
                split = split_by_time(connection, training, end)
                _check_enough_truth(domain, training, split, as_of, start, end)
                for part in PARTS:
                    _write_part(connection, columns, part, directory / f"{part}.parquet")
        except (FeatureError, PortableSqlError) as error:
            raise JobError(str(error)) from error
        for part in PARTS:
            context.objects.upload(directory / f"{part}.parquet", f"{folder}{part}.parquet")
    description = {
        "domain": domain.name,
        "as_of": iso(as_of),
        "window": {"after": iso(start), "until": iso(end)},
        "features": feature_names(domain, columns),
        "facets": [facet.column for facet in domain.facets],
        "events": split.events,
        "positives": split.positives,
        "parts": {part: _summary(split.parts[part]) for part in PARTS},
        "left_out_in_test_delay": split.in_test_delay,
        "matured_without_label": unlabelled,
        "without_label": "genuine" if domain.label.unreported_is_genuine else "left out",
    }
    lineage = {"partitions": curated.versions, "features_sql": hashlib.sha256(sql.encode()).hexdigest()}
    context.objects.put_json(f"{folder}dataset.json", {**description, "lineage": lineage})
    return {**description, "uri": options.output}


def _check_enough_truth(
    domain: Domain, training: TrainingWindow, split: TimeSplit, as_of: datetime, start: datetime, end: datetime
) -> None:
    left_out = sum(part.left_out for part in split.parts.values())
    why = {"in_one_part": "occurs in a later part", "known_fraud_removed": "had a known fraud before"}[training.groups]
    found = f"of the labelled events after {iso(start)} up to {iso(end)} as known at {iso(as_of)}"
    found += f" ({left_out} more left out: their {domain.leakage_group} {why}"
    found += f"; and {split.in_test_delay} in the {training.test_delay} before the test part)" if training.test_delay else ")"
    if split.events < training.minimum_events or split.positives < training.minimum_positives:
        raise JobError(
            f"too little truth to train {domain.name}: {split.events} events with {split.positives} positives {found}; the domain wants"
            f" {training.minimum_events} with {training.minimum_positives} or more. Ingest more history, choose a later as-of, or lower the"
            " minimums of its TrainingWindow"
        )
    for name, part in split.parts.items():
        if not 0 < part.positives < part.events:
            raise JobError(
                f"the {name} part of {domain.name} wants both classes; it has {part.events} events with {part.positives} positives"
                f" {found}. Ingest more history, or give the part a larger share"
            )


def _write_part(connection: duckdb.DuckDBPyConnection, columns: Sequence[str], part: Part, path: Path) -> None:
    """A row group at a time, while DuckDB keeps on disk what does not fit in memory; in one order, so that equal rows are equal bytes."""
    chosen = ", ".join("CAST(f.event_time AS TIMESTAMPTZ) AS event_time" if name == "event_time" else f'f."{name}"' for name in columns)
    rows = f"FROM {FEATURES} AS f JOIN {SPLIT} AS s USING (event_id) WHERE s.part = '{part}' AND s.kept"
    query = f"SELECT {chosen}, s.label {rows} ORDER BY f.event_time, f.event_id"
    batches = connection.sql(query).to_arrow_reader(_ROWS_AT_ONCE)
    with pq.ParquetWriter(path, batches.schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)


def _summary(part: PartSummary) -> dict[str, Any]:
    return {
        "events": part.events,
        "positives": part.positives,
        "first_event_time": part.first_event_time and iso(part.first_event_time),
        "last_event_time": part.last_event_time and iso(part.last_event_time),
        "left_out_for_leakage": part.left_out,
    }
