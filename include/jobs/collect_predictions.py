"""collect-predictions: what the endpoint was asked and answered, from SageMaker's capture files into one row an event.

Reads ``captured/`` (every configuration's, each with its ``variants.json``) and writes, through whole objects:

- ``predictions/endpoint/dt=<event day>/data.parquet``: one row for each event and variant, ordered by event_time, event_id, variant: event_id
  (the inference id), event_time, score, model_package, model (URI of its model.tar.gz), variant, inference_time, capture_id (SageMaker's eventId),
  and the features by name, as they were sent: of all models that scored events of that day, null where missing or not the model's
- ``quarantine/captures/dt=<capture day>/…``: lines that cannot be read or attributed, each with its reason
- ``predictions/collected/dt=<capture day>/``: which capture files (key and ETag) need not be read again

The event time is what the caller sent as ``event_time=…`` in the custom attributes; otherwise that of the curated event of this id. An event that is
not curated yet is pending: its file is read again by later runs, and quarantined once captures of PATIENCE later are there. SageMaker
delivers a line at least once, and callers ask again: of several answers about one event (of one day, by one variant) the first by
inference time stands, so that neither the order of files nor running again changes a byte.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.jobs.captured_requests import LineRefused, ScoredRequest, read_line
from include.jobs.context import JobContext, JobError, instant
from include.jobs.event_times import EventTimes
from include.jobs.model_archive import open_model
from include.lifecycle.delivery import Delivery
from include.stores.captures import CaptureFile, Captures, ServedModel
from include.stores.partitions import Partitions
from include.stores.quarantine import Quarantine, QuarantineEntry

QUARANTINED = "captures"
"""The place of a table's name in the quarantine."""
PATIENCE = timedelta(days=14)
UNKNOWN_EVENT = f"no curated event has this id, {PATIENCE.days} days of captures later"
UNKNOWN_MODEL = "variants.json of the configuration does not say which model the variant served"
_TIME = pa.timestamp("us", "UTC")
_FIXED = pa.schema([
    ("event_id", pa.string()), ("event_time", _TIME), ("score", pa.float64()), ("model_package", pa.string()), ("model", pa.string()),
    ("variant", pa.string()), ("inference_time", _TIME), ("capture_id", pa.string()),
])  # fmt: skip
_COUNTS = ("files", "requests", "rows", "duplicates", "already_collected", "quarantined", "pending")
_BATCH_BYTES = 64 << 20  # of capture files that are in memory at once
_TRANSFERS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--since", type=instant, help="ISO 8601 instant: only captures of hours that begin then or later (default: all)")
    parser.add_argument("--until", type=instant, help="ISO 8601 instant: only captures of hours that begin before it (default: all)")


def run(options: argparse.Namespace, context: JobContext) -> dict[str, Any]:
    """Result: {"files" (read), "requests" (lines in them), "rows" (new), "duplicates", "already_collected" (of a file that was read before),
    "quarantined", "pending", "reasons": {reason: lines}, "days": [event days whose rows changed], "first_day", "last_day" (of these, or
    null), "without_model": [configurations whose variants.json is missing or lacks a variant]}. requests = rows + duplicates +
    already_collected + quarantined + pending.

    JobError where a model's archive is missing or damaged, or a variants.json is."""
    captures = Captures(context.objects, context.layout)
    every = captures.files()
    newest = every[-1].hour if every else None
    collected = CollectedFiles(context)
    asked = [file for file in every if (not options.since or options.since <= file.hour) and (not options.until or file.hour < options.until)]
    files = [file for file in asked if file not in collected]
    found = Counter(dict.fromkeys(_COUNTS, 0))
    reasons: Counter[str] = Counter()
    days: set[date] = set()
    with tempfile.TemporaryDirectory() as scratch:
        collector = _Collector(context, captures, Path(scratch), newest)
        for batch in _batches(files):
            collector.take(batch, found, reasons, days)
            collected.add([file for file in batch if file.key not in collector.unfinished])
    touched = sorted(day.isoformat() for day in days)
    return {
        **found,
        "reasons": dict(sorted(reasons.items())),
        "days": touched,
        "first_day": touched[0] if touched else None,
        "last_day": touched[-1] if touched else None,
        "without_model": sorted(collector.without_model),
    }


def _batches(files: Sequence[CaptureFile]) -> Iterator[list[CaptureFile]]:
    batch: list[CaptureFile] = []
    size = 0
    for file in files:
        if batch and size + file.size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.size
    if batch:
        yield batch


class CollectedFiles:
    """Which capture files were read to the end, with every line a row or in quarantine. Kept by capture day."""

    def __init__(self, context: JobContext) -> None:
        self._partitions = Partitions(context.objects, context.layout.collected_captures)
        self._days: dict[date, dict[str, str]] = {}

    def __contains__(self, file: CaptureFile) -> bool:
        return self._of(file.day).get(file.key) == file.etag

    def _of(self, day: date) -> dict[str, str]:
        if day not in self._days:
            rows = self._partitions.read(day)
            self._days[day] = {} if rows is None else dict(zip(rows["key"].to_pylist(), rows["etag"].to_pylist(), strict=True))
        return self._days[day]

    def add(self, files: Sequence[CaptureFile]) -> None:
        for day in sorted({file.day for file in files}):
            known = self._of(day)
            known |= {file.key: file.etag for file in files if file.day == day}
            columns = {"key": sorted(known), "etag": [known[key] for key in sorted(known)]}
            self._partitions.write(day, pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}))


@dataclass
class _FileInHand:
    file: CaptureFile
    model: ServedModel | None
    features: tuple[str, ...]
    lines: list[tuple[int, bytes]]
    """(record, line): from 1 in the order of the file, blank lines left out."""
    rows: list[tuple[int, ScoredRequest]] = field(default_factory=list)
    refused: list[tuple[QuarantineEntry, bytes]] = field(default_factory=list)

    def refuse(self, record: int, line: bytes, reason: str, detail: str = "", key: str | None = None) -> None:
        self.refused.append((QuarantineEntry(record, (reason,), detail, key), line))


class _Collector:
    """``newest``: the last hour of which there are captures; events are waited for until it is PATIENCE after their capture."""

    def __init__(self, context: JobContext, captures: Captures, folder: Path, newest: datetime | None) -> None:
        self._context, self._captures, self._folder, self._newest = context, captures, folder, newest
        self._predictions = Partitions(context.objects, context.layout.endpoint_predictions)
        self._quarantine = Quarantine(context.objects, context.layout)
        self._served: dict[str, dict[str, ServedModel]] = {}
        self._features: dict[str, tuple[str, ...]] = {}
        self._event_times: EventTimes | None = None
        self.unfinished: set[str] = set()
        """Keys of files with pending lines."""
        self.without_model: set[str] = set()

    def take(self, files: Sequence[CaptureFile], found: Counter[str], reasons: Counter[str], days: set[date]) -> None:
        """Reads these files; writes partitions, then quarantine. Adds to the counters and to the days that changed."""
        with ThreadPoolExecutor(_TRANSFERS) as pool:
            bodies = list(pool.map(lambda file: self._context.objects.get(file.key), files))
        in_hand = [self._read(file, body) for file, body in zip(files, bodies, strict=True)]
        rows = self._rows(in_hand)
        for day, tables in rows.items():
            self._merge(day, tables, found, days)
        quarantined = self._quarantine.versions(QUARANTINED) if in_hand else {}
        for hand in in_hand:
            found.update(files=1, requests=len(hand.lines), quarantined=len(hand.refused))
            found["pending"] += len(hand.lines) - len(hand.rows) - len(hand.refused)
            reasons.update(entry.reasons[0] for entry, _ in hand.refused)
            self._write_quarantine(hand, quarantined)

    def _read(self, file: CaptureFile, body: bytes) -> _FileInHand:
        lines = [(record, line) for record, line in enumerate(body.split(b"\n"), 1) if line.strip()]
        model = self._model(file)
        hand = _FileInHand(file, model, self._features_of(model) if model else (), lines)
        for record, line in lines if model else []:
            try:
                hand.rows.append((record, read_line(line, hand.features)))
            except LineRefused as refused:
                hand.refuse(record, line, refused.reason, refused.detail, refused.key)
        return hand

    def _rows(self, in_hand: Sequence[_FileInHand]) -> dict[date, list[pa.Table]]:
        """By event day. Rows whose event is unknown are taken out: they are pending, or refused."""
        unknown = {row.event_id for hand in in_hand for _, row in hand.rows if row.event_time is None}
        times = self._times(unknown)
        tables: dict[date, list[pa.Table]] = {}
        for hand in in_hand:
            waits = self._newest is not None and self._newest - hand.file.hour <= PATIENCE
            lines = dict(hand.lines)
            kept: list[tuple[int, ScoredRequest]] = []
            for record, row in hand.rows:
                happened = row.event_time or times.get(row.event_id)
                if happened is not None:
                    kept.append((record, row._replace(event_time=happened)))
                elif not waits:
                    hand.refuse(record, lines[record], UNKNOWN_EVENT, key=row.event_id)
            if hand.model is None and not waits:
                for record, line in hand.lines:
                    hand.refuse(record, line, UNKNOWN_MODEL, f"{hand.file.configuration}, {hand.file.variant}")
            hand.rows = kept
            if len(kept) + len(hand.refused) < len(hand.lines):
                self.unfinished.add(hand.file.key)
            for day, table in _tables(hand):
                tables.setdefault(day, []).append(table)
        return tables

    def _times(self, event_ids: set[str]) -> Mapping[str, datetime]:
        if event_ids and self._event_times is None:
            self._event_times = EventTimes(self._context, self._folder / "curated")
        return self._event_times.of(event_ids) if self._event_times is not None else {}

    def _merge(self, day: date, tables: Sequence[pa.Table], found: Counter[str], days: set[date]) -> None:
        stored = self._predictions.read(day)
        before = stored.num_rows if stored is not None else 0
        after = first_answers([*tables, *([stored] if stored is not None else [])])
        lines = sum(table.num_rows for table in tables)
        new, known = after.num_rows - before, 0
        if stored is not None:
            present = set(_identities(stored))
            known = sum(identity in present for table in tables for identity in _identities(table))
        found.update(rows=new, already_collected=known, duplicates=lines - new - known)
        if stored is None or not after.equals(stored.combine_chunks()):
            self._predictions.write(day, after)
            days.add(day)

    def _write_quarantine(self, hand: _FileInHand, present: Mapping[str, str]) -> None:
        file = hand.file
        delivery = Delivery(f"{QUARANTINED}/dt={file.day.isoformat()}/{file.path}")
        refused = sorted(hand.refused, key=lambda each: each[0].record)
        if refused:
            self._quarantine.write(delivery, f"{file.key}@{file.etag}", [entry for entry, _ in refused], b"", [line for _, line in refused])
        elif delivery.path in present:
            self._quarantine.delete(delivery)

    def _model(self, file: CaptureFile) -> ServedModel | None:
        if file.configuration not in self._served:
            try:
                self._served[file.configuration] = self._captures.served_models(file.configuration) or {}
            except ValueError as error:
                raise JobError(f"{error}. Deploying the model again writes it") from error
        model = self._served[file.configuration].get(file.variant)
        if model is None:
            self.without_model.add(file.configuration)
        return model

    def _features_of(self, model: ServedModel) -> tuple[str, ...]:
        if model.model not in self._features:
            folder = self._folder / f"model-{len(self._features)}"
            features = open_model(self._context.objects, model.model, folder, self._context.domain).features
            if taken := sorted(set(features) & set(_FIXED.names)):
                raise JobError(f"{model.model}: a feature must not be called {', '.join(taken)}, as a column of predictions is")
            self._features[model.model] = features
        return self._features[model.model]


def _identities(rows: pa.Table) -> Iterator[tuple[str, str, str]]:
    return zip(*(rows[name].to_pylist() for name in ("event_id", "variant", "capture_id")), strict=True)


def _tables(hand: _FileInHand) -> Iterator[tuple[date, pa.Table]]:
    """A file's rows by event day."""
    by_day: dict[date, list[ScoredRequest]] = {}
    for _, row in hand.rows:
        assert row.event_time is not None and hand.model is not None  # noqa: S101, PT018 -- for mypy: rows without are taken out before
        by_day.setdefault(row.event_time.date(), []).append(row)
    for day, rows in by_day.items():
        model = hand.model
        columns: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in _FIXED.names if name in ScoredRequest._fields}
        constant = {"model_package": model.model_package, "model": model.model, "variant": hand.file.variant} if model else {}
        columns |= {name: [value] * len(rows) for name, value in constant.items()}
        values = np.stack([row.values for row in rows])
        fixed = [pa.array(columns[name], kind) for name, kind in zip(_FIXED.names, _FIXED.types, strict=True)]
        features = [pa.array(column, pa.float64(), from_pandas=True) for column in values.T]
        yield day, pa.table([*fixed, *features], names=[*_FIXED.names, *hand.features])


def first_answers(tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of all tables, of each event and variant only the first by inference time (the lowest capture id, where that is the same).
    Columns and rows are in one order, whatever that of the tables."""
    rows = pa.concat_tables(tables, promote_options="default")
    features = sorted(set(rows.column_names) - set(_FIXED.names))
    rows = rows.select([*_FIXED.names, *features])
    rows = rows.sort_by([(name, "ascending") for name in ("event_id", "variant", "inference_time", "capture_id", "score")]).combine_chunks()
    if rows.num_rows > 1:
        repeated = [pc.equal(rows[name].slice(1), rows[name].slice(0, rows.num_rows - 1)) for name in ("event_id", "variant")]
        first = np.concatenate([[True], ~pc.and_(*repeated).to_numpy()])
        rows = rows.filter(pa.array(first))
    return rows.sort_by([(name, "ascending") for name in ("event_time", "event_id", "variant")]).combine_chunks()
