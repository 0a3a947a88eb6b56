"""The first half of ``ingest``: landed files are read, typed and checked; each record becomes a candidate or an entry for quarantine."""

# ruff: noqa: S608 -- statements are put together from the domain's checked identifiers

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metadata_types import FailureSeverity

from include.jobs.context import JobError
from include.jobs.quality import QualityChecks, is_about_single_rows
from include.lifecycle import curation, landing, row_checks
from include.lifecycle.delivery import Delivery
from include.lifecycle.domain import Domain, Table
from include.lifecycle.landing import RECORD, LandedFile
from include.stores.layout import Layout
from include.stores.objects import ObjectNotFoundError, ObjectStore
from include.stores.quarantine import QuarantineEntry

_TRANSFERS = 8
_NO_TEXT = pa.array([], pa.string())
_NO_NAME = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass
class FileInHand:
    """A landed file of this run, or one brought back because an earlier row of a key of its own turned up."""

    delivery: Delivery
    source: str
    landed: LandedFile
    seconds: float
    entries: dict[int, QuarantineEntry] = field(default_factory=dict)

    def add(self, record: int, reasons: Sequence[str], detail: str = "", key: str | None = None) -> None:
        self.entries[record] = QuarantineEntry(record, tuple(reasons), detail, key)

    def refuse(self, reason: str) -> None:
        """The file goes to quarantine as a whole, in the place of whatever was known of its rows."""
        self.landed.refused = reason
        self.entries = {0: QuarantineEntry(0, (reason,), records=self.landed.records)}

    @property
    def quarantined(self) -> int:
        return sum(entry.records for entry in self.entries.values())


class Intake:
    """Fills ``candidates_t`` of every landing table (see ``curation``), and ``inline_labels``: the event table's rows that bring one."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, domain: Domain, objects: ObjectStore, expectations: Mapping[str, Sequence[Expectation]]
    ) -> None:
        self._connection = connection
        self._domain = domain
        self._objects = objects
        self._curated = curation.curated_tables(domain)
        self._expectations = expectations
        self.files: list[FileInHand] = []
        self.warnings: dict[str, list[dict[str, Any]]] = defaultdict(list)
        connection.execute(f"CREATE TEMP TABLE {curation.PROCESSED} (_path VARCHAR)")

    def take(self, deliveries: Iterable[Delivery], quality: QualityChecks) -> None:
        """Reads and checks these files; ``quality`` keeps what its suites found. JobError where a file is not there."""
        deliveries = list(deliveries)
        first_call = not self.files
        for table in self._domain.landing_tables:
            mine = [delivery for delivery in deliveries if delivery.table == table.name]
            if mine or first_call:  # which makes the tables that the later steps read, with or without rows
                self._check(table, self._read(table, mine), quality)
        if deliveries:
            self._connection.executemany(f"INSERT INTO {curation.PROCESSED} VALUES (?)", [[delivery.path] for delivery in deliveries])

    def _read(self, table: Table, deliveries: Sequence[Delivery]) -> list[tuple[int, FileInHand]]:
        first = len(self.files)
        with ThreadPoolExecutor(_TRANSFERS) as pool:
            for delivery, body in zip(deliveries, pool.map(self._fetch, deliveries), strict=True):
                start = time.perf_counter()
                landed = landing.read(body, delivery.file, table)
                file = FileInHand(delivery, delivery.source(body), landed, time.perf_counter() - start)
                for damaged in landed.damaged:
                    file.add(damaged.record, [damaged.reason], damaged.detail)
                if landed.refused:
                    file.refuse(landed.refused)
                self.files.append(file)
        return list(enumerate(self.files))[first:]

    def _fetch(self, delivery: Delivery) -> bytes:
        key = Layout(self._domain.name).landing(delivery.table, delivery.day, delivery.file)
        try:
            return self._objects.get(key)
        except ObjectNotFoundError as error:
            raise JobError(
                f"{self._objects.uri(key)} is not there. Landed files must stay: a late file makes those after it be read again"
            ) from error

    def _check(self, table: Table, files: list[tuple[int, FileInHand]], quality: QualityChecks) -> None:
        inline = self._domain.label if table.name == self._domain.event_table else None
        cells = [pa.table({"_file": pa.array([], pa.int32()), RECORD: pa.array([], pa.int64())} | dict.fromkeys(table.column_names, _NO_TEXT))]
        for index, file in files:
            if file.landed.cells is not None:
                cells.append(file.landed.cells.append_column("_file", pa.repeat(pa.scalar(index, pa.int32()), file.landed.cells.num_rows)))
        self._connection.register("landed", pa.concat_tables(cells, promote_options="default"))
        self._connection.register("landed_files", _described(files))
        try:
            row_checks.check_rows(self._connection, table, inline, "landed", "landed_files", "checked")
        except duckdb.Error as error:
            raise JobError(f"an expression of table {table.name!r} in domain {self._domain.name!r} does not run: {error}") from error
        for _, file in files:
            file.landed.cells = None  # typed now, and as large as all else together
        self._connection.unregister("landed")

        bad = f"SELECT _file, {RECORD}, _key, _reasons, _detail FROM checked WHERE len(_reasons) > 0"
        for index, record, key, reasons, detail in self._connection.execute(bad).fetchall():
            self.files[index].add(record, reasons, detail, key)
        self._connection.execute("DELETE FROM checked WHERE len(_reasons) > 0")
        self._expect(table, quality)
        for index, record, reason, key in curation.take_contradictions(self._connection, table, "checked"):
            self.files[index].add(record, [reason], "", key)
        self._accept(table)

    def _expect(self, table: Table, quality: QualityChecks) -> None:
        """Great Expectations. What concerns single rows is asked of all files at once; a critical expectation on a file as a whole is asked
        of each file by itself, so that it does not matter which files are ingested together."""
        expectations = self._expectations.get(table.name, ())
        whole = [e for e in expectations if e.severity == FailureSeverity.CRITICAL and not is_about_single_rows(e)]
        if whole:
            for (index,) in self._connection.execute("SELECT DISTINCT _file FROM checked ORDER BY _file").fetchall():
                self._expect_of_rows(table, whole, quality, f"_file = {index}", index)
        self._expect_of_rows(table, [e for e in expectations if e not in whole], quality, "true", None)

    def _expect_of_rows(
        self, table: Table, expectations: Sequence[Expectation], quality: QualityChecks, where: str, index: int | None
    ) -> None:
        """Checks the rows ``where``; ``index``: the one file whose they are, which table failures then refuse."""
        rows = self._connection.sql(f"SELECT * FROM checked WHERE {where} ORDER BY _file, {RECORD}").to_arrow_table()
        if not expectations or rows.num_rows == 0:
            return
        suite = table.name if index is None else f"{index}_{_NO_NAME.sub('_', self.files[index].delivery.path)}"
        found = quality.check(_frame(rows.select(table.column_names)), suite, expectations)
        if found.errors:
            raise JobError(
                f"expectations of table {table.name!r} cannot be evaluated: {'; '.join(found.errors)}. "
                f"Mend include/domains/{self._domain.name}/expectations.py"
            )
        if index is None:
            self.warnings[table.name] += found.warnings
        elif found.table_failures:
            self.files[index].refuse("; ".join(found.table_failures))
            self._connection.execute(f"DELETE FROM checked WHERE {where}")
            return
        failing = rows.select(["_file", RECORD, "_key"]).take(pa.array(list(found.row_failures), pa.int64())).to_pylist()
        for row, reasons in zip(failing, found.row_failures.values(), strict=True):
            self.files[row["_file"]].add(row[RECORD], reasons, "", row["_key"])
        self._connection.register("failing", pa.Table.from_pylist(failing, rows.select(["_file", RECORD, "_key"]).schema))
        self._connection.execute(f"DELETE FROM checked WHERE (_file, {RECORD}) IN (SELECT (_file, {RECORD}) FROM failing)")
        self._connection.unregister("failing")

    def _accept(self, table: Table) -> None:
        """What is left in ``checked`` are candidates. The files of one run may come in several calls of ``take``."""
        curated = self._curated[table.name]
        columns = f"_file, {RECORD}, _key, {curated.quoted}, event_time, available_at, delivered_at, source"
        kept = [(f"candidates_{table.name}", columns, "true")]
        if table.name == self._domain.event_table:
            label = self._domain.label.column
            kept.append((curation.INLINE_LABELS, f'_file, {RECORD}, _key, "{label}", _decided_at', f'"{label}" IS NOT NULL'))
        for name, selected, where in kept:
            self._connection.execute(f"CREATE TEMP TABLE IF NOT EXISTS {name} AS SELECT {selected} FROM checked WHERE false")
            self._connection.execute(f"INSERT INTO {name} SELECT {selected} FROM checked WHERE {where}")


def _described(files: Sequence[tuple[int, FileInHand]]) -> pa.Table:
    """One row a file: what its rows take from the delivery."""
    return pa.table({
        "_file": pa.array([index for index, _ in files], pa.int32()),
        "source": pa.array([file.source for _, file in files], pa.string()),
        "delivered_at": pa.array([file.delivery.delivered_at.replace(tzinfo=None) for _, file in files], pa.timestamp("us")),
        "delivery_year": pa.array([file.delivery.year for _, file in files], pa.int32()),
    })


def _frame(rows: pa.Table) -> pd.DataFrame:
    """As pandas for Great Expectations. Integers stay integers where some are null."""
    return rows.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
