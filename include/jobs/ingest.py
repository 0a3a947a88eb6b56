"""Landing files → schema and expectations → curated partitions and quarantine with reasons → labels.

What lies under ``curated/``, ``labels/`` and ``quarantine/`` afterwards is a function of the set of landed files alone (see
``include/lifecycle/curation.py``): ingesting a file again, or files in another order, gives the same bytes. Every object is written whole.
Of the history a run reads the days that hold keys of the files in hand, and no others (``include/jobs/stored_days.py``).

Before the first write the run leaves a note of the files it has in hand; a run that was killed is finished by the next one, whatever that
one was asked for. Days whose features a change can reach are marked before it is written (``stores/stale_features.py``) and stay so until
they are built. One run at a time per domain.

Rows of reference tables mark no day. A first version holds from the beginning of time, so that a reference file that comes after its events
would have all of history built again, every day on which somebody new comes: features that were built before it keep their unknown values.
Where that matters, run build-features for those days.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
from great_expectations.expectations.expectation import Expectation

from include import domains
from include.jobs.context import JobContext, JobError
from include.jobs.intake import FileInHand, Intake
from include.jobs.quality import QualityChecks
from include.jobs.stored_days import StoredDays, StoredRepeats
from include.lifecycle import curation
from include.lifecycle.as_of import event_effects, label_effects
from include.lifecycle.curation import CuratedTable
from include.lifecycle.delivery import Delivery
from include.lifecycle.domain import LABELS_TABLE, Domain
from include.lifecycle.names import digest
from include.stores.layout import Layout
from include.stores.objects import ObjectNotFoundError, ObjectStore
from include.stores.quarantine import Quarantine
from include.stores.stale_features import StaleFeatures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--manifest", required=True, help="S3 URI of a JSON object that names the landed files and the year")


def run(options: argparse.Namespace, context: JobContext) -> dict[str, Any]:
    try:
        manifest = context.objects.get_json(context.objects.key(options.manifest))
    except (ObjectNotFoundError, ValueError) as error:
        raise JobError(f"--manifest {options.manifest}: {error}") from error
    expectations = domains.part(context.domain.name, "expectations").raw_expectations()
    return ingest(context.domain, context.objects, manifest, expectations)


def ingest(domain: Domain, objects: ObjectStore, manifest: Mapping[str, Any], expectations: Mapping[str, Sequence[Expectation]]) -> dict[str, Any]:
    """Ingests the manifest's files. Result::

        {"tables": {table: {"landed", "curated", "quarantined",             rows of the manifest's files; landed = curated + quarantined
                            "reasons": {reason: rows},                      a row with two reasons is counted under both
                            "warnings": [{"expectation", "column", "unexpected", "share"}],
                            "refused_files": [{"key", "reason"}]}},
         "event_days": [first, last] or None,                               of the event table's new versions from these files
         "stale_features": [[first, last]],                                 event days, both ends included, whose features these files, or
                                                                            earlier ones, can have changed since they were built
         "features_as_of": instant or None,                                 the latest as of which features were built
         "data_docs": URI of index.html}

    JobError for a manifest that makes no sense, a landed file that is gone, or a domain's expression or expectation that does not run; then
    nothing has been written but Data Docs."""
    asked = deliveries_of(domain, manifest)
    with tempfile.TemporaryDirectory(prefix="ingest_") as folder, closing(duckdb.connect(config={"temp_directory": folder})) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return _Ingestion(domain, objects, connection, Path(folder), expectations).run(asked, digest(manifest))


def deliveries_of(domain: Domain, manifest: Mapping[str, Any]) -> list[Delivery]:
    """The manifest's files in the order (delivery day, path), each once. JobError says what is wrong with the manifest."""
    year, files = manifest.get("year"), manifest.get("files")
    if manifest.get("domain") != domain.name or not isinstance(files, list) or not (year is None or (isinstance(year, int) and 1 <= year <= 9999)):
        raise JobError(f"the manifest wants domain {domain.name!r}, a list of files, and a year from 1 to 9999 or null")
    tables = {table.name for table in domain.landing_tables}
    prefix = f"{domain.name}/raw/"
    found = set()
    for file in files:
        try:
            key = file["key"]
            delivery = Delivery(key.removeprefix(prefix), year)
            if not key.startswith(prefix) or delivery.table not in tables or file.get("table", delivery.table) != delivery.table:
                raise ValueError(f"{key!r} does not lie under {prefix}<table>/, table one of {', '.join(sorted(tables))}")
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise JobError(f"the manifest names a file that cannot have landed: {error}") from error
        found.add(delivery)
    return sorted(found, key=lambda delivery: (delivery.day, delivery.path))


class _Ingestion:
    def __init__(
        self,
        domain: Domain,
        objects: ObjectStore,
        connection: duckdb.DuckDBPyConnection,
        folder: Path,
        expectations: Mapping[str, Sequence[Expectation]],
    ) -> None:
        self._domain, self._objects, self._connection, self._folder = domain, objects, connection, folder
        self._layout = Layout(domain.name)
        self._note = f"{domain.name}/curated/unfinished_ingest.json"
        self._quarantine = Quarantine(objects, self._layout)
        self._tables = curation.curated_tables(domain)
        self._intake = Intake(connection, domain, objects, expectations)
        self._stored: dict[str, StoredDays] = {}
        self._repeats: dict[str, StoredRepeats] = {}
        self._stale = StaleFeatures(objects, self._layout)

    def run(self, asked: Sequence[Delivery], identity: str) -> dict[str, Any]:
        with QualityChecks() as quality:
            self._intake.take(asked, quality)
            print(f"read and checked {len(asked)} files", flush=True)
            data_docs = quality.publish(self._objects, self._layout.report("ingest", identity, "data_docs"))
            warnings = {name: list(found) for name, found in self._intake.warnings.items()}
        self._open_state()
        self._bring_back(asked)
        self._resolve()
        self._write()
        return self._result(asked, warnings, data_docs)

    def _open_state(self) -> None:
        for name, table in self._tables.items():
            curation.create_state(self._connection, table)
            load = partial(curation.load_state, self._connection, table)
            self._stored[name] = self._days(self._layout.curated(name), f"stored_{name}", table.stored_key, load)
            self._repeats[name] = StoredRepeats(self._connection, self._objects, self._layout, table)
        curation.create_known_labels(self._connection)
        load = partial(curation.load_known_labels, self._connection)
        self._labels = self._days(self._layout.labels, "known_labels", "event_id", load)

    def _days(self, prefix: str, rows: str, key: str, load: Callable[[Sequence[Path]], None]) -> StoredDays:
        return StoredDays(self._connection, self._objects, self._layout, prefix, self._folder / rows, rows, key, load)

    def _bring_back(self, asked: Sequence[Delivery]) -> None:
        """Files of a run that did not finish, and files delivered after one in hand which share a key with it, are in hand too."""
        in_hand = {delivery.path for delivery in asked}
        more = {delivery for delivery in self._unfinished() if delivery.path not in in_hand}
        units = [[table] for name, table in self._tables.items() if name not in {self._domain.event_table, LABELS_TABLE}]
        units.append([self._tables[self._domain.event_table], self._tables[LABELS_TABLE]])
        first = min((delivery.day for delivery in (*asked, *more)), default=date.max)
        while True:
            if more:
                print(f"reading again {len(more)} files delivered after these, which share keys with them", flush=True)
                with QualityChecks() as unpublished:
                    self._intake.take(sorted(more, key=lambda delivery: (delivery.day, delivery.path)), unpublished)
                in_hand |= {delivery.path for delivery in more}
            more = set()
            for unit in units:
                self._load_matching(unit, in_hand, first)
                more |= {Delivery.of_source(source) for source in curation.later_sources(self._connection, unit)}
            if not more:
                return

    def _load_matching(self, unit: Sequence[CuratedTable], in_hand: set[str], first: date) -> None:
        """Loads every row that the files in hand can concern: theirs, as they were, and those of the keys of both. ``unit``: tables that
        share their keys."""
        stored = [self._stored[table.name] for table in unit]
        stored += [self._labels] if len(unit) > 1 else []
        while True:
            keys = curation.touched_keys(self._connection, unit)
            if not any(days.load_matching(keys, in_hand) for days in stored):
                break
        for table in unit:
            self._repeats[table.name].load_matching(keys, first)

    def _unfinished(self) -> list[Delivery]:
        try:
            return [Delivery(file["path"], file["year"]) for file in self._objects.get_json(self._note)["files"]]
        except ObjectNotFoundError:
            return []

    def _resolve(self) -> None:
        for name, table in self._tables.items():
            if name == LABELS_TABLE:  # last in the order of the tables
                curation.resolve_inline_labels(self._connection, self._domain)
            curation.resolve(self._connection, table)
        for name in self._tables:
            for index, record, reason, key in curation.repeats(self._connection, self._domain, name):
                self._intake.files[index].add(record, [reason], "", key)

    def _write(self) -> None:
        files = self._intake.files
        note = sorted((file.delivery.path, file.delivery.year) for file in files)
        self._objects.put_json(self._note, {"files": [{"path": path, "year": year} for path, year in note]})
        self._write_quarantine(files)
        # Labels first: which of them the files touch follows from the curated rows as they were, also for the run after one that was killed.
        days = curation.touched_label_days(self._connection, self._domain, self._tables)
        self._labels.load(days)
        self._stale.add(label_effects(curation.label_changes(self._connection), self._domain.feature_history))
        rows = curation.label_rows(self._connection, days)
        self._labels.write(self._labels.changes(days, rows), rows)
        del rows  # as large as all the events of the files
        for name, table in self._tables.items():
            stored = self._stored[name]
            days = curation.curated_days(self._connection, table)
            stored.load(days)
            rows = curation.curated_rows(self._connection, table, days)
            changed = stored.changes(days, rows)
            if table.copied:
                self._stale.add(event_effects([day for day, _ in changed], self._domain.feature_history))
            stored.write(changed, rows)
            del rows, changed
        self._objects.delete(self._note)

    def _write_quarantine(self, files: Sequence[FileInHand]) -> None:
        written: dict[str, list[str]] = {name: [] for name in self._tables}
        repeated: dict[str, list[tuple[str, str]]] = {name: [] for name in self._tables}
        for file in files:
            name, path = file.delivery.table, file.delivery.path
            entries = [file.entries[record] for record in sorted(file.entries)]
            if entries:
                originals = [file.landed.body] if file.landed.refused else file.landed.originals([entry.record for entry in entries])
                self._quarantine.write(file.delivery, file.source, entries, file.landed.header, originals)
            elif path in self._repeats[name]:
                self._quarantine.delete(file.delivery)
            written[name].append(path)
            repeated[name] += [(entry.key, file.source) for entry in entries if entry.key and entry.reasons[0] == curation.REPEATED]
        for name, paths in written.items():
            self._repeats[name].written(paths, repeated[name])

    def _result(self, asked: Sequence[Delivery], warnings: Mapping[str, list[dict[str, Any]]], data_docs: str) -> dict[str, Any]:
        paths = {delivery.path for delivery in asked}
        curated_records = curation.curated_records(self._connection, self._domain)
        tables = {name: _TableResult() for name in self._tables}
        for index, file in enumerate(self._intake.files):
            curated, quarantined = curated_records.get(index, 0), file.quarantined
            if curated + quarantined != file.landed.records:
                raise RuntimeError(f"{file.delivery.path}: {file.landed.records} rows landed, {curated} curated, {quarantined} quarantined")
            if file.delivery.path in paths:
                tables[file.delivery.table].add(file, curated, self._layout)
                refused = f"; refused: {file.landed.refused}" if file.landed.refused else ""
                counts = f"{file.landed.records} landed, {curated} curated, {quarantined} quarantined, read in {file.seconds:.2f} s"
                print(f"{file.delivery.path}: {counts}{refused}", flush=True)
        event_days = curation.event_days(self._connection, self._tables[self._domain.event_table], sorted(paths))
        return {
            "tables": {name: result.as_json(warnings.get(name, ())) for name, result in tables.items()},
            "event_days": [day.isoformat() for day in event_days] or None,
            **self._stale.as_json(),
            "data_docs": data_docs,
        }


@dataclass
class _TableResult:
    """What the run found in one table's files."""

    landed: int = 0
    curated: int = 0
    quarantined: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    refused_files: list[dict[str, str]] = field(default_factory=list)
    undeclared: Counter[str] = field(default_factory=Counter)

    def add(self, file: FileInHand, curated: int, layout: Layout) -> None:
        self.landed += file.landed.records
        self.curated += curated
        self.quarantined += file.quarantined
        for entry in file.entries.values():
            self.reasons.update(dict.fromkeys(entry.reasons, entry.records))
        for column in file.landed.extra_columns:
            self.undeclared[column] += file.landed.records
        if file.landed.refused:
            key = layout.landing(file.delivery.table, file.delivery.day, file.delivery.file)
            self.refused_files.append({"key": key, "reason": file.landed.refused})

    def as_json(self, warnings: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """``reasons`` counts rows; a row with two reasons is counted under both."""
        undeclared = [
            {"expectation": "declared_columns", "column": column, "unexpected": rows, "share": round(rows / max(1, self.landed), 6)}
            for column, rows in sorted(self.undeclared.items())
        ]
        return {
            "landed": self.landed,
            "curated": self.curated,
            "quarantined": self.quarantined,
            "reasons": dict(sorted(self.reasons.items())),
            "warnings": [*undeclared, *warnings],
            "refused_files": self.refused_files,
        }
