"""From what windows were found to be to one alarm, or none: how many in a row, and not again too soon.

Pure functions of records that are kept as JSON (``stores.alarms``), so that a run which is cleared and run again decides the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from include.lifecycle.as_of import iso, utc
from include.lifecycle.domain import Monitoring


@dataclass(frozen=True)
class WindowRecord:
    """What one window was found to be, under one model.

    ``last_day``: the window's last event day. ``found``: kind of finding → the names it was found of (columns, metrics); those alone that can
    alarm. ``began``: the first day that differed, where it could be told. ``report``: URI of report.json.
    """

    last_day: date
    as_of: datetime
    model_package: str
    found: Mapping[str, Sequence[str]]
    began: date | None
    headline: str
    report: str


@dataclass(frozen=True)
class Decision:
    """``kinds``: the findings that ring the alarm, none where it stays silent. ``since``: the last day of the first window of the row that led
    here, or the day the change began where that is known. ``why``: one sentence for the log."""

    kinds: tuple[str, ...]
    since: date | None
    why: str

    @property
    def alarm(self) -> bool:
        return bool(self.kinds)


def decide(policy: Monitoring, window: WindowRecord, before: Mapping[date, WindowRecord], alarms: Sequence[datetime]) -> Decision:
    """Whether ``window`` raises an alarm.

    :param before: earlier windows under the same model, by last day. A day without one breaks the row: what was not looked at was not found
    :param alarms: as-of instants of the alarms that were raised already; only those before this window's as-of count
    """
    kinds = [kind for kind in policy.alarm_on if window.found.get(kind)]
    if not kinds:
        return Decision((), None, f"nothing that rings the alarm was found in the window to {window.last_day}")
    rows = {kind: _row(kind, window, before) for kind in kinds}
    long_enough = tuple(kind for kind in kinds if len(rows[kind]) >= policy.windows_in_a_row)
    if not long_enough:
        longest = max(len(row) for row in rows.values())
        return Decision((), None, f"{', '.join(kinds)}: {longest} of the {policy.windows_in_a_row} windows in a row that an alarm wants")
    recent = [moment for moment in alarms if window.as_of - policy.cool_down <= moment < window.as_of]
    if recent:
        until = max(recent) + policy.cool_down
        return Decision((), None, f"{', '.join(long_enough)}: an alarm was raised as of {max(recent)}; none is repeated before {until}")
    row = max((rows[kind] for kind in long_enough), key=len)
    days = [record.began for record in row if record.began]
    since = min(days) if days else row[-1].last_day
    return Decision(long_enough, since, f"{', '.join(long_enough)}: found in {len(row)} windows in a row")


def _row(kind: str, window: WindowRecord, before: Mapping[date, WindowRecord]) -> list[WindowRecord]:
    """The window and those directly before it, a day apart, that found the same kind; the latest first."""
    row = [window]
    while (earlier := before.get(row[-1].last_day - timedelta(days=1))) and earlier.found.get(kind):
        row.append(earlier)
    return row


def record_as_json(record: WindowRecord) -> dict[str, Any]:
    """The inverse of ``record_of``."""
    return {
        "last_day": record.last_day.isoformat(),
        "as_of": iso(record.as_of),
        "model_package": record.model_package,
        "found": {kind: list(names) for kind, names in record.found.items()},
        "began": record.began.isoformat() if record.began else None,
        "headline": record.headline,
        "report": record.report,
    }


def record_of(content: Mapping[str, Any]) -> WindowRecord:
    """KeyError, ValueError where the content is not a record's."""
    return WindowRecord(
        last_day=date.fromisoformat(content["last_day"]),
        as_of=utc(content["as_of"]),
        model_package=content["model_package"],
        found=content["found"],
        began=date.fromisoformat(content["began"]) if content["began"] else None,
        headline=content["headline"],
        report=content["report"],
    )
