"""The one instant a run lives in. No code reads a clock: what a run may know follows from this instant alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def event_effects(changed: Iterable[date], history: timedelta) -> list[Days]:
    """Which days' features a change of events on these days can reach: up to ``history``, how far features look back, after them."""
    return merged(Days(day, day + history) for day in changed)


def label_effects(changed: Iterable[tuple[date, date]], history: timedelta) -> list[Days]:
    """The same of changed labels: (the event's day, the first day on which one of them was available). Features of events before that
    instant do not see it, and features of events more than ``history`` after the labelled one do not look back as far."""
    return merged(Days(available, day + history) for day, available in changed if available <= day + history)


def merged(days: Iterable[Days]) -> list[Days]:
    """The same days in as few intervals as there can be, in order."""
    found: list[Days] = []
    for each in sorted(days, key=lambda days: days.first):
        if found and each.first <= found[-1].last + timedelta(days=1):
            found[-1] = Days(found[-1].first, max(found[-1].last, each.last))
        else:
            found.append(each)
    return found


def without(days: Iterable[Days], taken: Days) -> list[Days]:
    """``days`` but for those of ``taken``."""
    one = timedelta(days=1)
    parts = [part for each in days for part in ((each.first, min(each.last, taken.first - one)), (max(each.first, taken.last + one), each.last))]
    return [Days(first, last) for first, last in parts if first <= last]


def feature_days(stale: Sequence[Sequence[str]]) -> Days | None:
    """The interval of event days that one run computes to make stale features good, from ``stale_features`` in ingest's result; None where
    there are none. Days without events cost nothing."""
    if not stale:
        return None
    return Days(date.fromisoformat(min(first for first, _ in stale)), date.fromisoformat(max(last for _, last in stale)))
