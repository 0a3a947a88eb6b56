"""Fetching what features are computed from: the curated partitions that an interval of event days needs, onto the job's disk."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from include import domains
from include.jobs.context import JobContext
from include.lifecycle import portable_sql
from include.lifecycle.domain import LABELS_TABLE
from include.stores.partitions import Partitions


@dataclass(frozen=True)
class CuratedFiles:
    """``paths``: table → its files on disk, in the order of their days. ``versions``: table → day → the partition's ETag, for lineage."""

    paths: dict[str, list[Path]]
    versions: dict[str, dict[str, str]]


def tables_needed(context: JobContext, sql: str) -> set[str]:
    """The tables that ``features.sql`` reads, and the event table. PortableSqlError for SQL outside the portable subset."""
    names = [table.name for table in context.domain.landing_tables]
    return portable_sql.tables_read(portable_sql.parse(sql, names)) | {context.domain.event_table}


def download_curated(context: JobContext, tables: set[str], first_day: date, last_day: date, into: Path) -> CuratedFiles:
    """Event tables and labels: the days from ``first_day`` minus the domain's feature history to ``last_day``. Reference tables: every day,
    because the version that holds at an event may have been delivered long before, and a first version later."""
    domain = context.domain
    paths: dict[str, list[Path]] = {}
    versions: dict[str, dict[str, str]] = {}
    for name in sorted(tables):
        prefix = context.layout.labels if name == LABELS_TABLE else context.layout.curated(name)
        partitions = Partitions(context.objects, prefix)
        bounds = (first_day - domain.feature_history, last_day) if domain.table(name).kind == "event" else (None, None)
        versions[name] = {day.isoformat(): etag for day, etag in partitions.versions(*bounds).items()}
        paths[name] = partitions.download(into / name, *bounds)
    return CuratedFiles(paths, versions)


def features_sql(context: JobContext) -> str:
    return domains.features_sql(context.domain.name)
