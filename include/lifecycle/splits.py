"""Train, validation and test: split by time, as a domain's ``TrainingWindow`` says."""

# ruff: noqa: S608 -- the statements are put together from times and from names of our own

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, cast

import duckdb

from include.lifecycle.domain import TrainingWindow
from include.lifecycle.labelled import LABELLED, group_was_blocked, sql_timestamp

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")

SPLIT = "split_events"
"""Temporary table: ``event_id``, ``event_time``, ``label``, ``part`` (null: in the delay before the test part) and ``kept`` (false: left out)."""

_RESOLUTION = timedelta(microseconds=1)


@dataclass(frozen=True)
class PartSummary:
    """``left_out``: how many events of the part's time are not in it because of their leakage group. The times are None without events."""

    events: int
    positives: int
    first_event_time: datetime | None
    last_event_time: datetime | None
    left_out: int


@dataclass(frozen=True)
class TimeSplit:
    parts: dict[Part, PartSummary]
    in_test_delay: int
    """How many events lie in ``TrainingWindow.test_delay``, and are in no part."""

    @property
    def events(self) -> int:
        return sum(part.events for part in self.parts.values())

    @property
    def positives(self) -> int:
        return sum(part.positives for part in self.parts.values())


def split_by_time(connection: duckdb.DuckDBPyConnection, training: TrainingWindow, until: datetime) -> TimeSplit:
    """Leaves ``SPLIT``: where each event of ``LABELLED`` (an interval that ends at ``until``, included) belongs.

    Shares are of events, not of the window's days: the parts that measure then have the number of events, and the confidence intervals the
    width, that the domain asked for, whether traffic grew or paused. Events of one instant stay together, on the later side of a cut.
    Lengths of time are cut from the window's end, test first.

    groups "in_one_part": a leakage group that occurs in a later part gives up its rows in the earlier ones. The other way round, dropping known
    groups from validation and test, would leave these without returning customers, and calibration, baselines and metrics are meant for
    events at natural prevalence. "known_fraud_removed": see ``labelled.group_was_blocked``; of ``KNOWN_FRAUDS`` those of the whole interval.
    """
    bounds = _bounds(connection, training, until)
    place = (
        f"CASE WHEN event_time >= {sql_timestamp(bounds.test)} THEN 2 WHEN event_time >= {sql_timestamp(bounds.delay)} THEN NULL"
        f" WHEN event_time >= {sql_timestamp(bounds.validation)} THEN 1 ELSE 0 END"
    )
    kept = {
        "in_one_part": "place = last_place",
        "known_fraud_removed": f"place IS NOT NULL AND (place = 0 OR NOT {group_was_blocked('placed')})",
    }[training.groups]
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE {SPLIT} AS
        WITH located AS (SELECT *, {place} AS place FROM {LABELLED}),
        placed AS (SELECT * FROM located JOIN (SELECT group_id, max(place) AS last_place FROM located GROUP BY group_id) USING (group_id))
        SELECT event_id, event_time, label, {list(PARTS)}[place + 1] AS part, coalesce({kept}, false) AS kept FROM placed
    """)
    rows = connection.execute(f"""
        SELECT part, count_if(kept), count_if(kept AND label = 1), min(event_time) FILTER (kept), max(event_time) FILTER (kept),
            count_if(NOT kept) FROM {SPLIT} GROUP BY part
    """).fetchall()
    found = {part: (events, positives, _utc(first), _utc(last), left_out) for part, events, positives, first, last, left_out in rows}
    nothing = (0, 0, None, None, 0)
    return TimeSplit({part: PartSummary(*found.get(part, nothing)) for part in PARTS}, in_test_delay=found.get(None, nothing)[-1])


@dataclass(frozen=True)
class _Bounds:
    """The first instants of the validation part, of the delay before the test part, and of the test part."""

    validation: datetime
    delay: datetime
    test: datetime


def _bounds(connection: duckdb.DuckDBPyConnection, training: TrainingWindow, until: datetime) -> _Bounds:
    after_the_last = until + _RESOLUTION
    if isinstance(training.validation, timedelta) and isinstance(training.test, timedelta):
        test = after_the_last - training.test
        return _Bounds(test - training.test_delay - training.validation, test - training.test_delay, test)
    validation_share, test_share = cast("float", training.validation), cast("float", training.test)  # both alike: the domain has checked it

    def count(condition: str) -> int:
        return int(connection.execute(f"SELECT count(*) FROM {LABELLED} WHERE {condition}").fetchall()[0][0])

    def time_of(position: int) -> datetime:
        found = connection.execute(f"SELECT event_time FROM {LABELLED} ORDER BY event_time LIMIT 1 OFFSET {max(position, 0)}").fetchall()
        return _utc(found[0][0]) or after_the_last if found else after_the_last

    events = count("true")
    test = time_of(round(events * (1 - test_share)))
    delay = test - training.test_delay
    delayed = count(f"event_time >= {sql_timestamp(delay)} AND event_time < {sql_timestamp(test)}")
    return _Bounds(time_of(round(events * (1 - validation_share - test_share)) - delayed), delay, test)


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
