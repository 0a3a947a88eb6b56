"""A day's review queue: which events analysts look at, in which order, and the CSV they fill in."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import ArrayLike, NDArray

from include.lifecycle.as_of import iso
from include.lifecycle.domain import Domain, ReviewCapacity
from include.lifecycle.explain import Reason

ANSWER_COLUMNS = ("label", "decided_at", "decided_by", "note")
"""The last columns of the CSV, empty for the analyst."""
_EXECUTED = tuple("=+-@\t\r\n＝＋－＠")
_GUARD = "'"


@dataclass(frozen=True)
class QueuedEvent:
    """``rank``: from 1. ``known_fraud_since``: when a fraud of the same entity became known, None where none is. ``why``: plain text, said before
    the reasons, where it is not for the score alone that the event is in the queue."""

    rank: int
    event_id: str
    event_time: datetime
    entity_id: str
    amount: float
    score: float
    expected_benefit: float
    reasons: tuple[Reason, ...]
    known_fraud_since: datetime | None
    why: str = ""


def most_worthwhile(event_ids: Sequence[str], benefit: ArrayLike, capacity: ReviewCapacity) -> NDArray[np.intp]:
    """The rows of one day's events to review, the first to be reviewed first: those of the greatest expected benefit, as many as the capacity
    allows, none whose benefit is not above 0. Events of equal benefit come in the order of their ids.

    event_ids: each once, so that the order of the rows does not matter. benefit: shape (events,), in money
    (``costs.expected_benefit``), finite.
    """
    gain = np.asarray(benefit, np.float64)
    worth = np.flatnonzero(gain > 0)
    order = np.lexsort((np.array(event_ids, str)[worth], -gain[worth]))
    return worth[order][: reviews_of_a_day(capacity, gain.size)]


def reviews_of_a_day(capacity: ReviewCapacity, events: int) -> int:
    """How many of a day's events can be reviewed. A share is rounded up to whole reviews, so that a day of few events has one, too."""
    if capacity.share is None:
        return min(events, capacity.per_day or 0)
    return min(events, math.ceil(round(capacity.share * events, 9)))  # rounded: 5 % of 20 must stay one review


def in_words(reason: Reason) -> str:
    """``amount 30d = 812.5 raises the odds 3.2-fold``: contributions to log-odds are factors of the odds. ASCII, so that no spreadsheet
    changes it."""
    which = ", which" if reason.value is None else ""
    direction = "raises" if reason.contribution > 0 else "lowers"
    return f"{value_in_words(reason)}{which} {direction} the odds {odds_factor(reason)}-fold"


def value_in_words(reason: Reason) -> str:
    """``amount 30d = 812.5``, or ``amount 30d is unknown``."""
    return f"{reason.feature.replace('_', ' ')} {'is unknown' if reason.value is None else f'= {_short(reason.value)}'}"


def odds_factor(reason: Reason) -> str:
    """By what the value multiplies the odds of fraud, or divides them where it speaks against fraud: at least 1."""
    strength = abs(reason.contribution)
    return _short(math.exp(strength), 3) if strength < math.log(1e6) else "more than 1,000,000"


def _short(value: float, digits: int = 4) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def queue_columns(domain: Domain) -> tuple[str, ...]:
    """The CSV's columns. The event's id stands under its own name, so that the file, filled in, is a file of labels."""
    told = (domain.event_id, "event_time", "entity_id", "amount", "currency", "score", "expected_benefit", "known_fraud_since", "reasons")
    return ("rank", *told, *ANSWER_COLUMNS)


def queue_csv(domain: Domain, queue: Sequence[QueuedEvent]) -> bytes:
    """The queue for a spreadsheet: RFC 4180, UTF-8 with a byte order mark (Excel takes it for another code without one), times as
    2026-03-31T08:30:00Z (which spreadsheets leave alone), no cell that a spreadsheet would execute."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(queue_columns(domain))
    for event in queue:
        writer.writerow([
            event.rank,
            guarded(event.event_id),
            iso(event.event_time),
            guarded(event.entity_id),
            f"{event.amount:.2f}",
            domain.costs.currency,
            f"{event.score:.6f}",
            f"{event.expected_benefit:.2f}",
            iso(event.known_fraud_since) if event.known_fraud_since else "",
            "; ".join([*([event.why] if event.why else []), *map(in_words, event.reasons)]),
            *("" for _ in ANSWER_COLUMNS),
        ])
    return text.getvalue().encode("utf-8-sig")


def guarded(text: str) -> str:
    """A source's text that no spreadsheet takes for a formula: with an apostrophe before it where it begins like one (OWASP, CSV injection),
    or begins with an apostrophe itself, so that ``unguarded`` gives every text back."""
    return _GUARD + text if text.startswith((*_EXECUTED, _GUARD)) else text


def unguarded(cell: str) -> str:
    return cell.removeprefix(_GUARD)
