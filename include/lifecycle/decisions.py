"""Analysts' decisions, read from a review queue's CSV that they have filled in. Nothing is guessed: what is not plain is an error of its line."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from include.lifecycle.as_of import iso, utc
from include.lifecycle.domain import Domain
from include.lifecycle.review_queue import unguarded

LABELS = {"1": 1, "fraud": 1, "0": 0, "genuine": 0}
_WANTED = ("event_time", "label")
_OPTIONAL = ("decided_at", "decided_by", "note")
_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}.*")
_SHOWN_ERRORS = 20
LONGEST_REVIEW = timedelta(days=366)
"""A decision that comes later than this after its event was scored is taken for a mistyped date."""


class DecisionsError(ValueError):
    """The file cannot be taken. The message names every line at fault (the first twenty of many) and what to do about it."""


@dataclass(frozen=True)
class Decision:
    """``line``: of the file, from 1. Instants are in UTC."""

    line: int
    event_id: str
    event_time: datetime
    label: int
    decided_at: datetime
    decided_by: str
    note: str

    def as_json(self) -> dict[str, str | int]:
        return {
            "event_id": self.event_id,
            "event_time": iso(self.event_time),
            "label": self.label,
            "decided_at": iso(self.decided_at),
            "decided_by": self.decided_by,
            "note": self.note,
        }


def read_decisions(body: bytes, domain: Domain, decided_by: str, decided_at: datetime | None) -> tuple[list[Decision], int]:
    """The decisions in the order of the file, and how many events are undecided (label empty).

    UTF-8 with or without a byte order mark; separated by commas, semicolons or tabs, as the header says: spreadsheets change it. Only the event's
    id, ``event_time`` and ``label`` must be there, in any order. ``decided_by`` and ``decided_at``: for rows whose own cell is empty; None: every
    row must say. Instants without an offset are UTC, as in landing files.

    DecisionsError where the header lacks a column, a cell cannot be read, an event has two decisions, or a decision comes before its event.
    """
    records = _records(body, (domain.event_id, *_WANTED))
    errors: list[str] = []
    found: list[Decision] = []
    undecided = 0
    first_line: dict[str, int] = {}
    for line, record in records:
        if isinstance(record, str):
            errors.append(f"line {line}: {record}")
            continue
        if not record["label"] and not record.get("decided_at"):
            undecided += 1
            continue
        try:
            decision = _decision(line, record, domain, decided_by, decided_at)
        except ValueError as error:
            errors.append(f"line {line}: {error}")
            continue
        if decision.event_id in first_line:
            errors.append(
                f"line {line}: event {decision.event_id} is decided on line {first_line[decision.event_id]} already: keep one of them"
            )
        first_line.setdefault(decision.event_id, line)
        found.append(decision)
    refuse(errors)
    return found, undecided


@dataclass(frozen=True)
class ScoredDay:
    """``event_times``: of every event of a (UTC) day that was scored, or can have been by an endpoint. ``as_of``: the instant of the scoring, the
    day's end where there was none of the whole day."""

    event_times: Mapping[str, datetime]
    as_of: datetime


def check_scored(decisions: Sequence[Decision], scored_day: Callable[[date], ScoredDay | None]) -> None:
    """DecisionsError where a decision's event is not among those scored of the day that the file states, or happened at another instant; or
    where the decision comes more than ``LONGEST_REVIEW`` after the scoring: a label is known from then on, and one of a mistyped year never.

    ``scored_day``: None where nothing was scored of a day. Not of the day's queue alone: that is replaced when the day is scored again, and
    what analysts found in the earlier one stays found."""
    errors = []
    for decision in decisions:
        day = decision.event_time.date()
        scored = scored_day(day)
        mend = "correct the cells, or leave the label empty"
        if scored is None:
            errors.append(f"line {decision.line}: no event of {day} was ever scored: is event_time as it was in the queue? {mend}")
        elif (happened := scored.event_times.get(decision.event_id)) is None:
            events = len(scored.event_times)
            errors.append(f"line {decision.line}: event {decision.event_id} is not among the {events} events scored of {day}: {mend}")
        elif happened != decision.event_time:
            errors.append(
                f"line {decision.line}: event {decision.event_id} happened at {iso(happened)}, the file says"
                f" {iso(decision.event_time)}: was a column sorted without the others? Fill in the queue anew"
            )
        elif decision.decided_at > scored.as_of + LONGEST_REVIEW:
            errors.append(
                f"line {decision.line}: decided at {iso(decision.decided_at)}, more than {LONGEST_REVIEW.days} days after the event was scored"
                f" ({iso(scored.as_of)}): correct decided_at"
            )
    refuse(errors)


def refuse(errors: Sequence[str]) -> None:
    """DecisionsError with these, where there are any."""
    if errors:
        more = [f"and {len(errors) - _SHOWN_ERRORS} more"] if len(errors) > _SHOWN_ERRORS else []
        raise DecisionsError("nothing was recorded:\n  " + "\n  ".join([*errors[:_SHOWN_ERRORS], *more]))


def _records(body: bytes, wanted: Sequence[str]) -> list[tuple[int, dict[str, str] | str]]:
    """(first line, cells by column, or what is wrong with the record). Records without any text are left out."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise DecisionsError(f"nothing was recorded: line {line} is not UTF-8: save the file as “CSV UTF-8”") from error
    header_line = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header_line.count), strict=True)
    records: list[tuple[int, dict[str, str] | str]] = []
    header: list[str] = []
    line = 1
    try:
        for cells in reader:
            written = any(cell.strip() for cell in cells)
            if not header:
                header = [cell.strip() for cell in cells]
                _check_header(header, wanted)
            elif written and len(cells) != len(header):
                records.append((line, f"{len(cells)} cells where the header has {len(header)}: was a cell split or cut off?"))
            elif written:
                records.append((line, _stripped(dict(zip(header, cells, strict=True)))))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DecisionsError(f"nothing was recorded: from line {line} on this is no CSV ({error}): save the file as “CSV UTF-8”") from error
    if not header:
        raise DecisionsError("nothing was recorded: the file is empty")
    return records


def _stripped(record: dict[str, str]) -> dict[str, str]:
    """What people write; an event's id stays as it is."""
    return {name: cell.strip() if name in (*_WANTED, *_OPTIONAL) else cell for name, cell in record.items()}


def _check_header(header: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in header]
    twice = [name for name in (*wanted, *_OPTIONAL) if header.count(name) > 1]
    if missing or twice:
        fault = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(twice)} twice"
        raise DecisionsError(
            f"nothing was recorded: the header {fault}; it is {', '.join(header)}. Fill in a queue.csv as score-batch wrote it"
        )


def _decision(line: int, record: Mapping[str, str], domain: Domain, decided_by: str, decided_at: datetime | None) -> Decision:
    """ValueError says what is wrong with the row."""
    event_id = unguarded(record[domain.event_id])
    if not event_id:
        raise ValueError(f"{domain.event_id} is empty")
    if domain.table(domain.event_table).column(domain.event_id).type == "integer" and not re.fullmatch(r"[+-]?\d+", event_id):
        raise ValueError(f"{domain.event_id} {event_id!r} is no whole number: did a spreadsheet shorten it? Format the column as text")
    label = LABELS.get(record["label"].casefold())
    if label is None:
        said = f"label {record['label']!r} is unknown" if record["label"] else "decided_at is filled in, and label is empty"
        raise ValueError(f"{said}: write 1 or fraud, 0 or genuine, and nothing where the event is undecided")
    event_time = _instant("event_time", record["event_time"])
    decided = _instant("decided_at", record["decided_at"]) if record.get("decided_at") else decided_at
    if decided is None:
        raise ValueError("decided_at is empty: fill it in (2026-03-31T14:30Z), or give one for all rows with --decided-at")
    if decided < event_time:
        raise ValueError(
            f"decided at {iso(decided)}, before the event, which happened at {iso(event_time)}: correct decided_at (it is in UTC)"
        )
    return Decision(line, event_id, event_time, label, decided, record.get("decided_by") or decided_by, record.get("note", ""))


def _instant(name: str, text: str) -> datetime:
    try:
        if not _INSTANT.fullmatch(text):
            raise ValueError
        return utc(text)
    except ValueError as error:
        raise ValueError(f"{name} {text!r} is no date and time of the form 2026-03-31T14:30:00Z (UTC)") from error
