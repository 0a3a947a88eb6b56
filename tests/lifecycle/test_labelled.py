from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
import transfers
from transfers import DOMAIN, at

from include.lifecycle.domain import LABELS_TABLE, Label
from include.lifecycle.features import create_views
from include.lifecycle.labelled import KNOWN_FRAUDS, LABELLED, group_was_blocked, label_events

EVENTS = [transfers.transfer(number, number, "xy"[number % 2]) for number in range(1, 7)]
LABELS = [
    transfers.label(1, 1, 0, known=2), transfers.label(1, 1, 1, known=5),  # reported late
    transfers.label(2, 2, 1, known=3), transfers.label(2, 2, 0, known=6),  # withdrawn
    transfers.label(3, 3, 0, known=4),
    transfers.label(4, 4, 1, known=9),
]  # fmt: skip


def known_at(folder: Path, days: float, after: float = 0, until: float = 5, **label: Any) -> tuple[dict[int, tuple[int, Any]], list[Any], int]:
    """Event → (label, the day it became known); the known frauds; how many had no label."""
    files = transfers.write(folder, {"transfers": EVENTS, "labels": LABELS})
    with duckdb.connect(config={"threads": 1}) as connection:
        create_views(connection, DOMAIN, files, at(days), {LABELS_TABLE, "transfers"})
        connection.execute(
            "CREATE TEMP TABLE events AS SELECT CAST(transfer_id AS VARCHAR) AS event_id, event_time, account AS group_id FROM transfers"
        )
        declared = Label("fraud", "event_time", maturity=timedelta(days=7), **label)
        unlabelled = label_events(connection, declared, at(after), at(until), "events")
        day = "date_diff('day', TIMESTAMP '2026-01-01', label_known_at)"
        rows = connection.execute(f"SELECT CAST(event_id AS INTEGER), label, {day} FROM {LABELLED} ORDER BY ALL").fetchall()
        blocked = connection.execute(
            f"SELECT CAST(event_id AS INTEGER) FROM events AS e WHERE {group_was_blocked('e')} ORDER BY ALL"
        ).fetchall()
        assert connection.execute(f"SELECT count(*) FROM {KNOWN_FRAUDS} WHERE known_from > ?", [at(days).replace(tzinfo=None)]).fetchall() == [(0,)]
    return {event: (value, known) for event, value, known in rows}, [event for (event,) in blocked], unlabelled


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        (3.5, {1: (0, 2), 2: (1, 3)}),
        (5, {1: (1, 5), 2: (1, 3), 3: (0, 4)}),
        (20, {1: (1, 5), 2: (0, 6), 3: (0, 4), 4: (1, 9)}),
    ],
)
def test_an_event_has_the_label_that_was_known_at_the_instant(tmp_path: Path, days: float, expected: dict[int, Any]) -> None:
    found, _, unlabelled = known_at(tmp_path, days)
    assert found == expected
    # events are known as they happen, and the fifth ends the interval
    assert unlabelled == min(int(days), 5) - len(expected)


def test_what_nobody_reported_is_genuine_where_only_fraud_is_reported(tmp_path: Path) -> None:
    found, _, unlabelled = known_at(tmp_path, 5, unreported_is_genuine=True)
    assert found == {1: (1, 5), 2: (1, 3), 3: (0, 4), 4: (0, None), 5: (0, None)}
    assert unlabelled == 2


def test_the_interval_begins_after_its_first_instant(tmp_path: Path) -> None:
    assert set(known_at(tmp_path, 20, after=2, until=4)[0]) == {3, 4}


def test_groups_are_blocked_while_a_fraud_of_the_interval_is_known(tmp_path: Path) -> None:
    # x has the even events, y the odd. Fraud 2 is known from the third day to the sixth, fraud 4 from the ninth; fraud 1 from the fifth.
    assert known_at(tmp_path, 20)[1] == [4, 5]
    assert known_at(tmp_path, 20, after=1)[1] == [4], "fraud 1 is not of the interval"
    assert known_at(tmp_path, 4)[1] == [4]
