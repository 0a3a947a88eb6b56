"""The labelled events of a period, with their features, out of the feature store: what the models of history are measured on.

Labels are those known at the as-of instant. Where the domain removes groups with a known fraud (``TrainingWindow.groups``), an event is left
out when at the midnight before it a fraud of its group was known, of the training window's length before the period or of the period itself.
"""

# ruff: noqa: S608 -- the statements are put together from paths, times and names of our own

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.compute as pc
import pyarrow.parquet as pq

from include.jobs.context import JobContext, JobError
from include.jobs.dataset_file import DatasetFile
from include.lifecycle.ageing import Period
from include.lifecycle.domain import LABELS_TABLE
from include.lifecycle.features import create_views, fetch
from include.lifecycle.labelled import LABELLED, group_was_blocked, label_events
from include.stores.partitions import Partitions

_RESOLUTION = timedelta(microseconds=1)
_KNOWN_LABELS = "known_labels"


@dataclass(frozen=True)
class PeriodEvents:
    """``data``: the events with features and labels. ``left_out``: why → how many."""

    data: DatasetFile
    left_out: dict[str, int]


class HistoryEvents:
    """``scratch``: an empty folder on disk. ``connection``: a database of its own, in which the labels as of the instant are kept."""

    def __init__(
        self, context: JobContext, connection: duckdb.DuckDBPyConnection, periods: Sequence[Period], as_of: datetime, scratch: Path
    ) -> None:
        self._domain = context.domain
        self._connection = connection
        self._scratch = scratch
        self._features = Partitions(context.objects, context.layout.features)
        self._labels = labels = Partitions(context.objects, context.layout.labels)
        training = context.domain.training
        self._lookback = training.window if training.groups == "known_fraud_removed" else timedelta(0)
        self._first_day, self._last_day = self._from(periods[0]).date(), periods[-1].last
        self._feature_versions, self._label_versions = self._versions()
        paths = labels.download(scratch / "labels", self._first_day, self._last_day)
        create_views(connection, context.domain, {LABELS_TABLE: paths}, as_of, {LABELS_TABLE})
        # once for all periods: the view ranks the versions of every label each time it is asked
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {_KNOWN_LABELS} AS SELECT * FROM {LABELS_TABLE}")
        connection.execute(f"CREATE OR REPLACE TEMP VIEW {LABELS_TABLE} AS SELECT * FROM {_KNOWN_LABELS}")

    def identity(self, period: Period) -> dict[str, Any]:
        """All that ``read`` depends on beside the code: two equal ones stand for equal events, features and labels."""
        first = self._from(period)
        [[known]] = self._connection.execute(
            f"SELECT max(available_at) FROM {LABELS_TABLE} WHERE event_time >= ? AND event_time < ?",
            [first.replace(tzinfo=None), period.end.replace(tzinfo=None)],
        ).fetchall()

        def within(versions: dict[date, str]) -> dict[str, str]:
            return {day.isoformat(): etag for day, etag in versions.items() if first.date() <= day <= period.last}

        return {
            "period": [period.first.isoformat(), period.last.isoformat()],
            "features": within(self._feature_versions),
            "labels": within(self._label_versions),
            "last_label_known_at": None if known is None else known.isoformat(),
        }

    def read(self, period: Period) -> PeriodEvents | None:
        """The period's events in the order of time; None where there are none with a label."""
        first = self._from(period).date()
        files = {day: path for day, path in self._files.items() if first <= day <= period.last}
        of_period = [path for day, path in files.items() if day >= period.first]
        if not of_period:
            return None
        label_events(
            self._connection,
            self._domain.label,
            self._from(period) - _RESOLUTION,
            period.end - _RESOLUTION,
            f"(SELECT event_id, CAST(event_time AS TIMESTAMP) AS event_time, group_id FROM {_parquet(files.values())})",
        )
        blocked = group_was_blocked("e") if self._lookback else "false"
        labelled = f"(SELECT e.event_id, e.label, {blocked} AS blocked FROM {LABELLED} AS e)"
        rows = fetch(
            self._connection,
            f"SELECT f.*, l.label, l.blocked FROM {_parquet(of_period)} AS f JOIN {labelled} AS l USING (event_id) ORDER BY f.event_time, f.event_id",
        )
        kept = rows.filter(pc.invert(rows["blocked"])).drop_columns(["blocked"])
        if not len(kept):
            return None
        source = f"the features of {period.first} to {period.last}"
        events = sum(pq.read_metadata(path).num_rows for path in of_period)
        return PeriodEvents(DatasetFile(source, kept), {"known_fraud": len(rows) - len(kept), "without_label": events - len(rows)})

    def check_unchanged(self) -> None:
        """JobError where somebody has written features or labels since ``identity`` looked: what was read may not be what it says."""
        if self._versions() != (self._feature_versions, self._label_versions):
            raise JobError("features or labels were written while they were read: run the job again when ingestion has ended")

    def _versions(self) -> tuple[dict[date, str], dict[date, str]]:
        return self._features.versions(self._first_day, self._last_day), self._labels.versions(self._first_day, self._last_day)

    @cached_property
    def _files(self) -> dict[date, Path]:
        """The feature partitions on disk: fetched when the first period is read, because often none is."""
        paths = self._features.download(self._scratch / "features", self._first_day, self._last_day)
        return {date.fromisoformat(path.stem.removeprefix("dt=")): path for path in paths}

    def _from(self, period: Period) -> datetime:
        return period.start - self._lookback


def _parquet(paths: Iterable[Path]) -> str:
    listed = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths)
    return f"read_parquet([{listed}], union_by_name = true, hive_partitioning = false)"
