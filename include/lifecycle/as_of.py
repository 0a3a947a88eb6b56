"""The one instant a run lives in. No code reads a clock: what a run may know follows from this instant alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta


def utc(value: datetime | str) -> datetime:
    """An instant in UTC, from a datetime or ISO 8601 text. A date alone means its first instant; a time without an offset is UTC."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def iso(instant: datetime) -> str:
    """``2026-03-31T00:00:00Z``: the way instants are written into requests, names and files."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def resolve(asked: str | None, *candidates: datetime | None) -> datetime:
    """The run's as-of instant: what a person asked for, or the first candidate there is (partition, end of the data interval, run-after).

    ValueError where there is none.
    """
    if asked:
        return utc(asked)
    for candidate in candidates:
        if candidate is not None:
            return utc(candidate)
    raise ValueError("a run needs an as-of instant: set the parameter as_of")


@dataclass(frozen=True)
class Days:
    """A run of whole UTC days, both ends included."""

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ValueError(f"the last day, {self.last}, lies before the first, {self.first}")

    def __contains__(self, day: date) -> bool:
        return self.first <= day <= self.last


def delivery_days(
    first: str | None,
    last: str | None,
    interval_start: datetime | None,
    interval_end: datetime | None,
    run_after: datetime,
    lookback: timedelta = timedelta(0),
) -> Days:
    """Which days' deliveries a run of ``ingest_data`` takes: exactly those a person asked for; or those that ended in its data interval, or
    the day before it ran, and ``lookback`` before them. ValueError where the first day asked for lies after the last."""
    if first or last:
        return Days(date.fromisoformat(first or last or ""), date.fromisoformat(last or first or ""))
    if interval_start is not None and interval_end is not None and utc(interval_end).date() > utc(interval_start).date():
        return Days(utc(interval_start).date() - lookback, utc(interval_end).date() - timedelta(days=1))
    day = utc(run_after).date() - timedelta(days=1)
    return Days(day - lookback, day)


def feature_days(changed: Sequence[str], history: timedelta) -> Days | None:
    """Which days' features a change of these event days can reach: up to ``history`` after them. Days without events cost nothing."""
    if not changed:
        return None
    return Days(date.fromisoformat(min(changed)), date.fromisoformat(max(changed)) + history)
