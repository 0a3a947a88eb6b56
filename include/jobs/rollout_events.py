"""The events that a rollout's two models were asked about, with their scores; and what became of these events.

In shadow, both answers were captured by the endpoint, under one inference id. In the ramp one model answered, and both are asked again, about the
features that were sent then.
"""

# ruff: noqa: S608 -- the statements are put together from times and names of our own

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from include.jobs.captured_requests import LineRefused, read_line
from include.jobs.context import JobContext, JobError
from include.jobs.event_times import EventTimes
from include.jobs.model_archive import open_model
from include.jobs.model_file import Model
from include.jobs.shipped_decisions import Decision
from include.lifecycle.as_of import utc
from include.lifecycle.domain import LABELS_TABLE
from include.lifecycle.experiment import CHALLENGER, CHAMPION, Experiment
from include.lifecycle.features import create_views, fetch, open_database
from include.lifecycle.labelled import LABELLED, label_events
from include.stores.captures import Captures
from include.stores.partitions import Partitions

_TIME = pa.timestamp("us", "UTC")
_RESOLUTION = timedelta(microseconds=1)
_AT_ONCE = 16
TRIED = pa.schema([
    ("event_id", pa.string()), ("event_time", _TIME), ("entity_id", pa.string()), ("amount", pa.float64()),
    (CHAMPION, pa.float64()), (CHALLENGER, pa.float64()),
])  # fmt: skip
"""Columns of the events that were asked about: ``champion`` and ``challenger`` are the scores. Of the ramp also ``assigned_challenger``, ``share``
and ``wanted``, as the decision has them."""
_FACTS = pa.schema([TRIED.field(name) for name in ("event_id", "entity_id", "amount")])


class _Answer(NamedTuple):
    """What a line says that is kept: there are many. ``asked``: when, and SageMaker's id of the request."""

    asked: tuple[datetime, str]
    event_time: datetime | None
    score: float


class Contenders(NamedTuple):
    champion: Model
    challenger: Model

    @property
    def features(self) -> tuple[str, ...]:
        return self.champion.features


def same_features(champion: Sequence[str], challenger: Sequence[str]) -> str | None:
    """Why two models cannot be asked with one request, or None: a row in CSV says by position what its values are."""
    if tuple(champion) == tuple(challenger):
        return None
    lacking, added = ([name for name in one if name not in set(other)] for one, other in ((champion, challenger), (challenger, champion)))
    if not lacking and not added:
        return "the challenger wants the champion's features in another order"
    says = [f"lacks {', '.join(lacking)}"] if lacking else []
    says += [f"wants {', '.join(added)} beside them"] if added else []
    return f"the challenger does not want the champion's features: it {' and '.join(says)}"


def open_contenders(context: JobContext, experiment: Experiment, folder: Path) -> Contenders:
    """Both models. JobError where one is not there, or they cannot be asked with one request."""
    models = Contenders(*(
        open_model(context.objects, contender.model, folder / slot, context.domain)
        for slot, contender in ((CHAMPION, experiment.champion), (CHALLENGER, experiment.challenger))
    ))  # fmt: skip
    if why := same_features(models.champion.features, models.challenger.features):
        raise JobError(
            f"{why} ({experiment.champion.model}, {experiment.challenger.model}). Train the challenger on the features of the champion, "
            "or deploy it by deploy_model, without a rollout"
        )
    return models


# -------------------------------------------------------------------------------------------------------------------------- shadow


@dataclass(frozen=True)
class Answered:
    """``table``: see ``TRIED``; in shadow a score is null where that slot's answer is missing. ``left_out``: why → how many lines."""

    table: pa.Table
    left_out: Mapping[str, int]


def shadow_answers(context: JobContext, experiment: Experiment, configuration: str, features: Sequence[str], scratch: Path) -> Answered:
    """What the endpoint's two variants answered under a configuration, of the events since the experiment was opened; of several answers of a slot to
    one event the first. Damaged lines, and lines about no known event, are counted. Amounts and entities are null: no capture says them.

    JobError where the configuration did not serve the experiment's models."""
    captures = Captures(context.objects, context.layout)
    _check_served(captures, experiment, configuration)
    left_out: Counter[str] = Counter(damaged=0, unknown_event=0)
    answers: dict[str, dict[str, _Answer]] = {CHAMPION: {}, CHALLENGER: {}}
    files = [file for file in captures.files(configuration) if file.variant in answers]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for start in range(0, len(files), _AT_ONCE):  # no more in memory than these
            some = files[start : start + _AT_ONCE]
            for file, body in zip(some, pool.map(lambda file: context.objects.get(file.key), some), strict=True):
                for line in body.split(b"\n"):
                    if line.strip():
                        _take(line, features, answers[file.variant], left_out)
    return Answered(_paired(context, answers, experiment, left_out, scratch), dict(left_out))


def _check_served(captures: Captures, experiment: Experiment, configuration: str) -> None:
    try:
        served = captures.served_models(configuration) or {}
    except ValueError as error:
        raise JobError(str(error)) from error
    for slot, contender in ((CHAMPION, experiment.champion), (CHALLENGER, experiment.challenger)):
        found = served[slot].model_package if slot in served else "nothing"
        if found != contender.model_package:
            raise JobError(
                f"configuration {configuration!r} served {found} as {slot}, not {contender.model_package}: --captured wants the place to which "
                f"the configuration of experiment {experiment.id} captures"
            )


def _take(line: bytes, features: Sequence[str], answers: dict[str, _Answer], left_out: Counter[str]) -> None:
    try:
        found = read_line(line, features)
    except LineRefused:
        left_out["damaged"] += 1
        return
    present, asked = answers.get(found.event_id), (found.inference_time, found.capture_id)
    if present is None or asked < present.asked:
        answers[found.event_id] = _Answer(asked, found.event_time, found.score)


def _paired(
    context: JobContext, answers: Mapping[str, Mapping[str, _Answer]], experiment: Experiment, left_out: Counter[str], scratch: Path
) -> pa.Table:
    times = {event: found.event_time for each in answers.values() for event, found in each.items()}
    unknown = {event for event, time in times.items() if time is None}
    if unknown:
        known = EventTimes(context, scratch / "curated").of(unknown)
        left_out["unknown_event"] += len(unknown - set(known))
        times |= known
    opened = utc(experiment.opened)
    events = [event for event, time in times.items() if time is not None and time >= opened]
    scores = [[answers[slot][event].score if event in answers[slot] else None for event in events] for slot in (CHAMPION, CHALLENGER)]
    columns: list[Any] = [events, [times[event] for event in events], [None] * len(events), [None] * len(events), *scores]
    return pa.table([pa.array(values, kind) for values, kind in zip(columns, TRIED.types, strict=True)], schema=TRIED)


# ---------------------------------------------------------------------------------------------------------------------------- ramp


def ramp_answers(decisions: Sequence[Decision], models: Contenders) -> Answered:
    """The ramp's decisions, each with both models' scores of the features that were sent. Those that no lot assigned, for the challenger's share was
    0 or all, are counted and left out. An event may be older than the ramp: it is decided about when it is reported."""
    kept = [each for each in decisions if 0 < each.share < 1]
    matrix = np.stack([each.features for each in kept]) if kept else np.empty((0, len(models.features)), np.float32)
    scores = [model.scores(matrix).astype(np.float64) if kept else [] for model in models]
    columns: list[Any] = [[getattr(each, name) for each in kept] for name in ("inference_id", "event_time", "entity_id", "amount")]
    table = pa.table([pa.array(values, kind) for values, kind in zip([*columns, *scores], TRIED.types, strict=True)], schema=TRIED)
    for name, kind in (("assigned_challenger", pa.bool_()), ("share", pa.float64()), ("wanted", pa.bool_())):
        table = table.append_column(name, pa.array([getattr(each, name) for each in kept], kind))
    return Answered(table, {"no_lot": len(decisions) - len(kept)})


# --------------------------------------------------------------------------------------------------------------------------- truth


def with_truth(context: JobContext, tried: pa.Table, as_of: datetime, until: datetime, scratch: Path) -> pa.Table:
    """The events up to ``until``, in the order of time, with ``label`` (1, 0, null: not known) as of ``as_of``. Amounts are the feature store's
    where it knows the event, entities where nothing else says one; an event of no known entity is one of its own. Where only reviewed events
    get a label, one without is never taken for genuine."""
    label = context.domain.label
    if label.known_for == "reviewed_events":
        label = replace(label, unreported_is_genuine=False)
    asked = tried.filter(pc.less_equal(tried["event_time"], pa.scalar(until, _TIME)))
    if not len(asked):
        return asked.append_column("label", pa.nulls(0, pa.float64()))
    times = [moment.astimezone(UTC) for moment in pc.min_max(asked["event_time"]).as_py().values()]
    first, last = (moment.date() for moment in times)
    features = Partitions(context.objects, context.layout.features).download(scratch / "features", first, last)
    facts = [pq.read_table(path, columns=_FACTS.names, partitioning=None) for path in features]
    labels = Partitions(context.objects, context.layout.labels).download(scratch / "labels", first, last)
    with open_database(scratch / "spill") as connection:
        create_views(connection, context.domain, {LABELS_TABLE: labels}, as_of, {LABELS_TABLE})
        at = asked.schema.get_field_index("event_time")
        events = asked.set_column(at, "event_time", asked["event_time"].cast(pa.timestamp("us")))
        connection.register("tried_events", events.append_column("group_id", events["entity_id"]))
        connection.register("facts", pa.concat_tables(facts) if facts else _FACTS.empty_table())
        label_events(connection, label, times[0] - _RESOLUTION, until, "tried_events")
        return fetch(
            connection,
            f"""SELECT t.* EXCLUDE (group_id) REPLACE (
                    coalesce(f.amount, t.amount) AS amount,
                    coalesce(t.entity_id, f.entity_id, t.event_id) AS entity_id  -- a decision's is the one that the lot was drawn for
                ), CAST(l.label AS DOUBLE) AS label
            FROM tried_events AS t
            LEFT JOIN (SELECT event_id, any_value(entity_id) AS entity_id, any_value(amount) AS amount FROM facts GROUP BY event_id) AS f
                USING (event_id)
            LEFT JOIN {LABELLED} AS l USING (event_id)
            ORDER BY t.event_time, t.event_id""",
        )
