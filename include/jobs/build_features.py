"""build-features: one row of features for each event of an interval of days, as of an instant, into ``features/dt=<event day>/``.

Reads only the days from the first minus the domain's feature history to the last, and computes a long interval in parts, each from its own
days and the history before them, which gives the same values in bounded memory. All lies on the job's disk before anything is written, and
the features' expectations come first: a critical one that fails stops the job, and nothing is written; warnings are counted. Each day is
written whole, and the same rows give the same bytes.
A day of the interval that has no event as of the instant keeps no partition: one that an earlier run left is removed. A day with rows that are
there but not available yet as of then stays marked as stale, for the run after they are.

Every partition has the same columns. When ``features.sql`` has changed them since other days were written, the job stops and says so;
``--rebuild`` computes every day that has events or features, whatever the interval.

With ``FEATURES_ENGINE=spark`` in the environment, Spark computes the rows; all else is the same.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from include import domains
from include.jobs.context import JobContext, JobError, instant
from include.jobs.curated import CuratedFiles, download_curated, features_sql, tables_needed
from include.jobs.feature_engine import feature_engine
from include.jobs.quality import QualityChecks
from include.lifecycle.as_of import Days, event_effects, iso, utc
from include.lifecycle.domain import Domain
from include.lifecycle.features import FEATURES, FeatureError, feature_names, fetch, materialise_features, open_database
from include.lifecycle.names import digest
from include.lifecycle.portable_sql import PortableSqlError
from include.stores.partitions import Partitions
from include.stores.stale_features import StaleFeatures

_ROWS_COMPUTED_AT_ONCE = 2_000_000
"""How many events are computed at a time, their history read beside them: whole days of this many events, or one day."""
_ROWS_CHECKED_AT_ONCE = 500_000
"""How many rows Great Expectations and pandas hold at a time: whole days of this many rows, or one day."""
_MEMORY = "2GB"
"""DuckDB's share of memory where ``--memory-limit`` does not say."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--first-day", required=True, type=date.fromisoformat, help="first event day, UTC")
    parser.add_argument("--last-day", required=True, type=date.fromisoformat, help="last event day, UTC, included")
    parser.add_argument("--as-of", required=True, type=instant, help="ISO 8601 instant; nothing that became known later is used")
    parser.add_argument("--rebuild", action="store_true", help="compute every day, after features.sql has changed its columns")
    parser.add_argument(
        "--memory-limit", help=f"the engine's share of memory, such as 3GB; beyond it, it spills to disk (DuckDB: {_MEMORY})"
    )


def run(options: argparse.Namespace, context: JobContext) -> dict[str, Any]:
    domain = context.domain
    stored = Partitions(context.objects, context.layout.features)
    days = _interval(options, context, stored)
    with tempfile.TemporaryDirectory() as scratch:
        sql = features_sql(context)
        try:
            curated = download_curated(context, tables_needed(context, sql), days.first, days.last, Path(scratch) / "curated")
            with feature_engine(Path(scratch) / "spark", options.memory_limit) as engine:
                written: dict[date, Path] = {}
                for part in _parts(domain, curated, days):
                    with open_database(Path(scratch) / "spill", options.memory_limit or _MEMORY) as connection:
                        files = _files(domain, curated, part)
                        columns = materialise_features(connection, domain, sql, files, options.as_of, part.first, part.last, engine)
                        if not written:
                            _check_same_columns(stored, days, columns)
                        written |= _write_files(connection, Path(scratch) / "features")
        except (FeatureError, PortableSqlError) as error:
            raise JobError(str(error)) from error
        counts = {day: pq.read_metadata(path).num_rows for day, path in written.items()}
        identity = digest([days.first.isoformat(), days.last.isoformat(), iso(options.as_of)])
        warnings, data_docs = _check_expectations(written, counts, context, context.layout.report("build-features", identity))
        stored.upload_all(written)
        incomplete = event_effects(_days_with_more_to_come(domain, curated, days, options.as_of), domain.feature_history)
        bytes_read = sum(path.stat().st_size for paths in curated.paths.values() for path in paths)
    for day in stored.versions(days.first, days.last):
        if day not in counts:
            context.objects.delete(stored.key(day))
    StaleFeatures(context.objects, context.layout).built(days, options.as_of, incomplete)
    return {
        "rows": sum(counts.values()),
        "days": len(counts),
        "bytes_read": bytes_read,
        "first_day": min(counts).isoformat() if counts else None,
        "last_day": max(counts).isoformat() if counts else None,
        "as_of": iso(options.as_of),
        "features": feature_names(domain, columns),
        "warnings": warnings,
        "data_docs": data_docs,
    }


def _interval(options: argparse.Namespace, context: JobContext, stored: Partitions) -> Days:
    """The interval asked for; to rebuild, also every day that has events or features."""
    try:
        asked = Days(options.first_day, options.last_day)
    except ValueError as error:
        raise JobError(f"--first-day, --last-day: {error}") from error
    if not options.rebuild:
        return asked
    events = Partitions(context.objects, context.layout.curated(context.domain.event_table))
    every = [asked.first, asked.last, *events, *stored]
    return Days(min(every), max(every))


def _check_same_columns(stored: Partitions, days: Days, columns: Sequence[str]) -> None:
    """Compares with the latest partition that this run leaves alone: all of those have the same columns, because this check saw to it."""
    others = [day for day in stored.versions() if day not in days]
    rows = stored.read(others[-1]) if others else None
    if rows is not None and rows.column_names != list(columns):
        changed = sorted(set(rows.column_names) ^ set(columns)) or ["their order"]
        raise JobError(
            f"features.sql has changed the columns ({', '.join(changed)}) since {others[-1]} was written; nothing was written."
            " Run build-features with --rebuild to compute every day anew"
        )


def _event_days(curated: CuratedFiles, table: str) -> dict[date, Path]:
    """The table's files by their days, in order."""
    return dict(zip(map(date.fromisoformat, curated.versions[table]), curated.paths[table], strict=True))


def _days_with_more_to_come(domain: Domain, curated: CuratedFiles, days: Days, as_of: datetime) -> list[date]:
    """Of ``days``, those with rows of an event table that become available after the as-of: landed already, and known to no feature yet."""
    tables = [name for name in curated.paths if domain.table(name).kind == "event"]
    files = [(day, path) for name in tables for day, path in _event_days(curated, name).items() if day in days]
    return sorted({day for day, path in files if _latest(path, "available_at") > as_of})


def _latest(path: Path, column: str) -> datetime:
    """The largest value of an instants' column, from the file's statistics where it has them."""
    file = pq.ParquetFile(path)
    place = file.schema_arrow.get_field_index(column)
    groups = [file.metadata.row_group(number).column(place) for number in range(file.metadata.num_row_groups)]
    if groups and all(group.is_stats_set and group.statistics.has_min_max for group in groups):
        return max(utc(group.statistics.max) for group in groups)
    found = pc.max(pq.read_table(path, columns=[column])[column]).as_py()
    return utc(found) if found is not None else datetime.min.replace(tzinfo=UTC)


def _parts(domain: Domain, curated: CuratedFiles, days: Days) -> list[Days]:
    """The days that have events in parts of ``_ROWS_COMPUTED_AT_ONCE``; without events the interval as it is, for its columns."""
    files = _event_days(curated, domain.event_table)
    counts = {day: pq.read_metadata(path).num_rows for day, path in files.items() if day in days}
    return [Days(first, last) for first, last in _batches(counts, _ROWS_COMPUTED_AT_ONCE)] or [days]


def _files(domain: Domain, curated: CuratedFiles, part: Days) -> dict[str, list[Path]]:
    """What the part's features are computed from: of event tables and labels its days and the history before them, of other tables all."""
    first = part.first - domain.feature_history
    return {
        name: [path for day, path in _event_days(curated, name).items() if domain.table(name).kind != "event" or first <= day <= part.last]
        for name in curated.paths
    }


def _write_files(connection: duckdb.DuckDBPyConnection, folder: Path) -> dict[date, Path]:
    """The computed rows as a Parquet file for each event day, in order: equal rows become equal bytes."""
    folder.mkdir(exist_ok=True)
    days = connection.execute(f"SELECT DISTINCT CAST(event_time AS DATE) AS day FROM {FEATURES} ORDER BY day").fetchall()  # noqa: S608 -- a constant
    files = {day: folder / f"dt={day}.parquet" for (day,) in days}
    for day, path in files.items():
        within = f"event_time >= TIMESTAMP '{day}' AND event_time < TIMESTAMP '{day + timedelta(days=1)}'"
        rows = fetch(connection, f"SELECT * FROM {FEATURES} WHERE {within} ORDER BY event_time, event_id")  # noqa: S608 -- a date
        pq.write_table(rows, path, compression="zstd")
    return files


def _check_expectations(
    files: dict[date, Path], counts: dict[date, int], context: JobContext, prefix: str
) -> tuple[list[dict[str, Any]], str | None]:
    """The warnings, each with the days it was seen in where there are several frames, and the Data Docs' URI (None without rows).
    JobError for a critical failure."""
    expectations = domains.part(context.domain.name, "expectations").feature_expectations()
    warnings: list[dict[str, Any]] = []
    failures: list[str] = []
    if not counts:
        return warnings, None
    with QualityChecks() as checks:
        for first, last in _batches(counts, _ROWS_CHECKED_AT_ONCE):
            frame = pa.concat_tables(pq.read_table(files[day]) for day in files if first <= day <= last).to_pandas()
            result = checks.check(frame, f"features {first} to {last}", expectations)
            warnings += [{**warning, "first_day": str(first), "last_day": str(last)} for warning in result.warnings]
            failures += [f"{first} to {last}: {failure}" for failure in result.table_failures]
            failures += _row_failures(frame["event_id"].tolist(), result.row_failures)
        data_docs = checks.publish(context.objects, prefix)
    if failures:
        raise JobError(
            f"features of {context.domain.name} fail critical expectations; nothing was written. {'; '.join(failures[:5])}"
            f"{f' and {len(failures) - 5} more' if len(failures) > 5 else ''}. See {data_docs}"
        )
    return warnings, data_docs


def _row_failures(event_ids: Sequence[str], found: dict[int, tuple[str, ...]]) -> list[str]:
    """Expectation by expectation: in how many rows it fails, and one of them."""
    by_expectation: dict[str, list[str]] = {}
    for position, reasons in found.items():
        for reason in reasons:
            by_expectation.setdefault(reason, []).append(event_ids[position])
    return [f"{reason}: {len(ids)} row(s), such as event {ids[0]}" for reason, ids in sorted(by_expectation.items())]


def _batches(counts: dict[date, int], at_once: int) -> Iterator[tuple[date, date]]:
    """Runs of days of ``at_once`` rows at most, or of one day."""
    first: date | None = None
    last, size = date.min, 0
    for day, rows in counts.items():
        if first is not None and size + rows > at_once:
            yield first, last
            first, size = None, 0
        first, last, size = first or day, day, size + rows
    if first is not None:
        yield first, last
