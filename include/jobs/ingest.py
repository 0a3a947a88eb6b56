"""Landing files → schema and expectations → curated partitions and quarantine with reasons → labels.

What lies under ``curated/``, ``labels/`` and ``quarantine/`` afterwards is a function of the set of landed files alone (see
``include/lifecycle/curation.py``): ingesting a file again, or files in another order, gives the same bytes. Every object is written whole.
Before the first write the run leaves a note of the files it has in hand; a run that was killed is finished by the next one, whatever that
one was asked for. One run at a time per domain.
"""



from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from great_expectations.expectations.expectation import Expectation

from include import domains
from include.jobs.context import JobContext, JobError
from include.jobs.intake import FileInHand, Intake
from include.jobs.quality import QualityChecks
from include.lifecycle import curation
from include.lifecycle.delivery import Delivery
from include.lifecycle.domain import LABELS_TABLE, Domain
from include.lifecycle.names import digest
from include.stores.layout import Layout
from include.stores.objects import ObjectNotFoundError, ObjectStore
from include.stores.partitions import Partitions
from include.stores.quarantine import Quarantine


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
         "changed_event_days": [day],                                       event partitions that the files touch: those that an event left too
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


@dataclass(frozen=True)
class _Stored:
    """Partitions as they lie in S3, and their copies on disk."""

    partitions: Partitions
    copies: dict[date, Path]


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
        self._stored: dict[str, _Stored] = {}
        self._changed_event_days: set[date] = set()

    def run(self, asked: Sequence[Delivery], identity: str) -> dict[str, Any]:
        with QualityChecks() as quality:
            self._intake.take(asked, quality)
            print(f"read and checked {len(asked)} files", flush=True)
            data_docs = quality.publish(self._objects, self._layout.report("ingest", identity, "data_docs"))
            warnings = {name: list(found) for name, found in self._intake.warnings.items()}
        self._load_state()
        self._bring_back(asked)
        self._resolve()
        self._write()
        return self._result(asked, warnings, data_docs)

    def _load_state(self) -> None:
        for name, table in self._tables.items():
            self._stored[name] = self._download(name, self._layout.curated(name))
            curation.load_state(self._connection, table, list(self._stored[name].copies.values()))
        known = self._stored["known_labels"] = self._download("known_labels", self._layout.labels)
        curation.load_known_labels(self._connection, list(known.copies.values()))

    def _download(self, name: str, prefix: str) -> _Stored:
        partitions = Partitions(self._objects, prefix)
        copies = partitions.download(self._folder / name)
        return _Stored(partitions, {date.fromisoformat(path.stem.removeprefix("dt=")): path for path in copies})

    def _bring_back(self, asked: Sequence[Delivery]) -> None:
        """Files of a run that did not finish, and files delivered after one in hand which share a key with it, are in hand too."""
        in_hand = {delivery.path for delivery in asked}
        more = {delivery for delivery in self._unfinished() if delivery.path not in in_hand}
        units = [[table] for name, table in self._tables.items() if name not in {self._domain.event_table, LABELS_TABLE}]
        units.append([self._tables[self._domain.event_table], self._tables[LABELS_TABLE]])
        first = min((delivery.day for delivery in (*asked, *more)), default=None)
        while True:
            if more:
                print(f"reading again {len(more)} files delivered after these, which share keys with them", flush=True)
                with QualityChecks() as unpublished:
                    self._intake.take(sorted(more, key=lambda delivery: (delivery.day, delivery.path)), unpublished)
                in_hand |= {delivery.path for delivery in more}
            for name in self._tables:
                paths = [path for path in self._quarantine.paths(name, first) if path not in in_hand] if first else []
                curation.load_repeats(self._connection, name, list(self._quarantine.rows_for_reason(paths, curation.REPEATED)))
            sources = {source for unit in units for source in curation.later_sources(self._connection, unit)}
            more = {Delivery.of_source(source) for source in sources}
            if not more:
                return

    def _unfinished(self) -> list[Delivery]:
        try:
            return [Delivery(file["path"], file["year"]) for file in self._objects.get_json(self._note)["files"]]
        except ObjectNotFoundError:
            return []

    def _resolve(self) -> None:
        for name, table in self._tables.items():
            if name == LABELS_TABLE:  # last in the order of the tables
                curation.inline_labels(self._connection, self._domain, f"accepted_{self._domain.event_table}")
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
        self._write_days(self._stored["known_labels"], *curation.label_rows(self._connection, self._domain, self._tables))
        for name, table in self._tables.items():
            days, rows = curation.curated_rows(self._connection, table)
            self._write_days(self._stored[name], days, rows)
            if table.copied:
                self._changed_event_days |= days
        self._objects.delete(self._note)

    def _write_quarantine(self, files: Sequence[FileInHand]) -> None:
        there = {path for name in self._tables for path in self._quarantine.paths(name)}
        for file in files:
            if file.entries:
                entries = [file.entries[record] for record in sorted(file.entries)]
                originals = [file.landed.body] if file.landed.refused else file.landed.originals([entry.record for entry in entries])
                self._quarantine.write(file.delivery, file.source, entries, file.landed.header, originals)
            elif file.delivery.path in there:
                self._quarantine.delete(file.delivery)

    def _write_days(self, stored: _Stored, days: set[date], rows: pa.Table) -> None:
        """Replaces the partitions of ``days`` by ``rows`` (sorted by ``_day``), except those that would not change."""
        counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(rows["_day"]).to_pylist()}
        changed: list[tuple[date, pa.Table]] = []
        offset = 0
        for day in sorted(days):
            content = rows.slice(offset, counts.get(day, 0)).drop_columns("_day")
            offset += content.num_rows
            before = pq.read_table(stored.copies[day], partitioning=None) if day in stored.copies else None
            if content.num_rows == 0:
                stored.partitions.delete(day)
            elif before is None or not content.combine_chunks().equals(before.combine_chunks()):
                changed.append((day, content))
        stored.partitions.write_all(changed)

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
            "changed_event_days": sorted(day.isoformat() for day in self._changed_event_days),
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
