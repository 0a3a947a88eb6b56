"""The events of some days with what their model said of them: what a baseline is made of, and what monitoring looks at.

For each day, the rows that the endpoint scored with this model (``predictions/endpoint/``, as they were asked and answered), where there are
any; otherwise the day's events of the feature store, scored now. A day on which another model alone answered some events, because a deployment
fell on it, or it had a share of the traffic, is scored now as well: half a day is no day. That a shadow answered the same events changes nothing.

The feature store is read as it is now: of a day long past it holds the events and corrections that came late, too. Labels are those of the as-of.
"""

# ruff: noqa: S608 -- the statements are put together from times and names of our own

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from include.jobs.context import JobContext, JobError
from include.jobs.dataset_file import LABEL_COLUMN, DatasetFile
from include.jobs.model_file import Model
from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.domain import EVENT_COLUMNS, LABELS_TABLE
from include.lifecycle.evaluation import Events
from include.lifecycle.features import create_views, fetch
from include.lifecycle.labelled import LABELLED, label_events
from include.stores.partitions import Partitions

SCORE_COLUMN = "score"
_FACTS = ("entity_id", "group_id", "amount")
_RESOLUTION = timedelta(microseconds=1)


@dataclass(frozen=True)
class ScoredEvents:
    """``data``: event columns, facets, the model's features, ``score`` and, once asked for, ``label``, in the order of time. An event that the
    endpoint scored and that the feature store does not know (yet) has no amount, entity, group and facets. ``days_by_source``: "endpoint" or
    "feature_store" → its days."""

    data: DatasetFile
    days_by_source: Mapping[str, list[date]]

    @cached_property
    def scores(self) -> FloatArray:
        return self.data.numbers(SCORE_COLUMN)

    def of_days(self, first: date, last: date) -> ScoredEvents:
        """Those of ``first`` to ``last``, both included."""
        days = self.data.days()
        chosen = (days >= np.datetime64(first)) & (days <= np.datetime64(last))
        within = {source: [day for day in listed if first <= day <= last] for source, listed in self.days_by_source.items()}
        return ScoredEvents(self.only(chosen).data, within)

    @cached_property
    def labelled(self) -> NDArray[np.bool_]:
        """Whose label is known; see ``with_matured_labels``."""
        return np.isfinite(self.data.labels)

    def only(self, chosen: NDArray[np.bool_]) -> ScoredEvents:
        """Some of the events; ``chosen``: shape (events,)."""
        return ScoredEvents(DatasetFile(self.data.source, self.data.table.filter(pa.array(chosen))), self.days_by_source)

    def events(self) -> Events:
        """For metrics. The label of an event that has none is 0: ask ``labelled``."""
        return Events(
            labels=np.nan_to_num(self.data.labels),
            amounts=self.data.numbers("amount"),
            days=self.data.days(),
            entities=np.array(self.data.texts("entity_id"), str),
            # an event of no known group is one of its own: all of them together would look like one huge cluster
            groups=np.array([group or event for group, event in zip(*map(self.data.texts, ("group_id", "event_id")), strict=True)], str),
        )


class ScoredEventsReader:
    """``model_package``: the registry's name of ``model``, by which the endpoint's rows name it."""

    def __init__(self, context: JobContext, model: Model, model_package: str) -> None:
        self._context, self._model, self._model_package = context, model, model_package
        self._features = Partitions(context.objects, context.layout.features)
        self._endpoint = Partitions(context.objects, context.layout.endpoint_predictions)

    def read(self, first: date, last: date) -> ScoredEvents | None:
        """The events of ``first`` to ``last``, both included; None where there are none. JobError where the model lacks a feature."""
        tables: list[pa.Table] = []
        sources: dict[str, list[date]] = {"endpoint": [], "feature_store": []}
        stored, answered = self._features.versions(first, last), self._endpoint.versions(first, last)
        for day in sorted({*stored, *answered}):
            facts = self._features.read(day) if day in stored else None
            asked = self._asked(day) if day in answered else None
            if asked is not None:
                tables.append(self._with_facts(asked, facts))
                sources["endpoint"].append(day)
            elif facts is not None:
                tables.append(self._scored_now(day, facts))
                sources["feature_store"].append(day)
        if not any(table.num_rows for table in tables):
            return None
        whole = pa.concat_tables(tables).sort_by([("event_time", "ascending"), ("event_id", "ascending")])
        return ScoredEvents(DatasetFile(f"events of {first} to {last}", whole), sources)

    def _asked(self, day: date) -> pa.Table | None:
        """What the endpoint was asked and answered for the model that day, an event once; None where another model answered events that it did
        not."""
        rows = self._endpoint.read(day)
        if rows is None:
            return None
        is_ours = pc.equal(rows["model_package"], self._model_package)
        ours, others = rows.filter(is_ours), rows.filter(pc.invert(is_ours))
        if not len(ours) or not pc.all(pc.is_in(others["event_id"], ours["event_id"].combine_chunks()), min_count=0).as_py():
            return None
        if pc.count_distinct(ours["event_id"]).as_py() == len(ours):
            return ours
        ours = ours.sort_by([("inference_time", "ascending"), ("capture_id", "ascending")])  # in both slots, before its promotion and after
        _, first = np.unique(ours["event_id"].to_numpy(zero_copy_only=False).astype(np.str_), return_index=True)
        return ours.take(pa.array(first))

    def _with_facts(self, asked: pa.Table, facts: pa.Table | None) -> pa.Table:
        """The endpoint's rows, with what the feature store knows of their events beside the features."""
        names = [*_FACTS, *(facet.column for facet in self._context.domain.facets)]
        if facts is None:
            joined = asked
            for name in [name for name in names if name not in asked.column_names]:
                joined = joined.append_column(name, pa.nulls(len(asked), pa.float64() if name == "amount" else pa.string()))
        else:
            taken = [name for name in names if name in asked.column_names]  # amount may be a feature: the store's is money, and the same
            joined = asked.drop_columns(taken).join(facts.select(["event_id", *names]), "event_id", join_type="left outer")
        return self._in_order(joined)

    def _scored_now(self, day: date, facts: pa.Table) -> pa.Table:
        data = DatasetFile(self._context.objects.uri(self._features.key(day)), facts)
        scores = self._model.scores(data.matrix(self._model.features)).astype(np.float64)
        return self._in_order(facts.append_column(SCORE_COLUMN, pa.array(scores)))

    def _in_order(self, rows: pa.Table) -> pa.Table:
        texts = ["event_id", "entity_id", "group_id", *(facet.column for facet in self._context.domain.facets)]
        types = {name: pa.string() for name in texts} | {"event_time": pa.timestamp("us", "UTC")}
        names = [*EVENT_COLUMNS, *(facet.column for facet in self._context.domain.facets), *self._model.features, SCORE_COLUMN]
        if lacking := [name for name in names if name not in rows.column_names]:
            raise JobError(
                f"scored events of {self._context.domain.name} lack {', '.join(lacking)}: were they of another model or older code?"
            )
        return pa.table({name: rows[name].cast(types.get(name, pa.float64())) for name in dict.fromkeys(names)})


def with_matured_labels(
    context: JobContext, connection: duckdb.DuckDBPyConnection, found: ScoredEvents, as_of: datetime, scratch: Path
) -> ScoredEvents:
    """The events with their ``label`` where it is final at ``as_of``: of those that happened a maturity before it, and have one (where only fraud
    is reported, an event without a report is genuine). Events whose amount is not known are left out: what they cost is unknown.

    No group is left out for a known fraud: live traffic has it too."""
    domain, data = context.domain, found.data
    days = data.days()
    first, last = days.min().astype(date), days.max().astype(date)
    labels = Partitions(context.objects, context.layout.labels).download(scratch / "labels", first, last)
    create_views(connection, domain, {LABELS_TABLE: labels}, as_of, {LABELS_TABLE})
    events = data.table.filter(pc.is_finite(pc.fill_null(data.table["amount"], float("nan"))))
    connection.register("scored_events", events.set_column(1, "event_time", events["event_time"].cast(pa.timestamp("us"))))
    try:
        start = datetime.combine(first, time(), UTC) - _RESOLUTION
        label_events(connection, domain.label, start, as_of - domain.label.maturity, "scored_events")
        rows = fetch(
            connection,
            f"SELECT e.*, CAST(l.label AS DOUBLE) AS {LABEL_COLUMN} FROM scored_events AS e LEFT JOIN {LABELLED} AS l USING (event_id)"
            " ORDER BY e.event_time, e.event_id",
        )
    finally:
        connection.unregister("scored_events")
    return ScoredEvents(DatasetFile(data.source, rows), found.days_by_source)
