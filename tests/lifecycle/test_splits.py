from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import reference
from include.lifecycle.domain import Label, TrainingWindow
from include.lifecycle.labelled import KNOWN_FRAUDS, LABELLED, label_events
from include.lifecycle.splits import PARTS, SPLIT, TimeSplit, split_by_time

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
UNTIL = START + 40 * DAY
INSTANT = pa.timestamp("us")

Row = tuple[int, str]
"""Hours after the start, and the group."""
Fraud = tuple[str, int, int]
"""A group, and from and until how many hours after the start a fraud of it was known."""


@pytest.fixture(scope="module")
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as connection:
        yield connection


def split(
    connection: duckdb.DuckDBPyConnection, rows: Sequence[Row], training: TrainingWindow, frauds: Sequence[Fraud] = ()
) -> tuple[TimeSplit, dict[str | None, list[int]], list[int]]:
    """What was found, the rows kept of each part, and the rows in no part (None: in the delay)."""
    naive = START.replace(tzinfo=None)
    labelled = pa.table({
        "event_id": pa.array([str(number) for number in range(len(rows))], pa.string()),
        "event_time": pa.array([naive + hours * HOUR for hours, _ in rows], INSTANT),
        "group_id": pa.array([group for _, group in rows], pa.string()),
        "label": pa.array([number % 2 for number in range(len(rows))], pa.int8()),
        "label_known_at": pa.nulls(len(rows), INSTANT),
    })
    known = pa.table({
        "group_id": pa.array([group for group, _, _ in frauds], pa.string()),
        "known_from": pa.array([naive + first * HOUR for _, first, _ in frauds], INSTANT),
        "known_until": pa.array([naive + until * HOUR for _, _, until in frauds], INSTANT),
    })
    for name, table in ((LABELLED, labelled), (KNOWN_FRAUDS, known)):
        connection.register("given", table)
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS FROM given")
    found = split_by_time(connection, training, UNTIL)
    placed = connection.execute(f"SELECT part, CAST(event_id AS INTEGER), kept FROM {SPLIT} ORDER BY ALL").fetchall()
    kept = {part: [row for name, row, keep in placed if name == part and keep] for part in PARTS}
    return found, kept, [row for name, row, _ in placed if name is None]


def shares(validation: float = 0.2, test: float = 0.2, **more: object) -> TrainingWindow:
    return TrainingWindow(40 * DAY, validation, test, **more)  # type: ignore[arg-type]


def lengths(validation: int, test: int, delay: int = 0, **more: object) -> TrainingWindow:
    """In hours."""
    return TrainingWindow(40 * DAY, validation * HOUR, test * HOUR, delay * HOUR, **more)  # type: ignore[arg-type]


def alone(hours: Sequence[int]) -> list[Row]:
    return [(hour, f"g{number}") for number, hour in enumerate(hours)]


def test_shares_are_of_events(database: duckdb.DuckDBPyConnection) -> None:
    # The hours are uneven on purpose: shares of the window's time would cut elsewhere.
    found, kept, _ = split(database, alone([0, 1, 2, 3, 4, 5, 6, 100, 200, 900]), shares())
    assert kept == {"train": [0, 1, 2, 3, 4, 5], "validation": [6, 7], "test": [8, 9]}
    assert [part.left_out for part in found.parts.values()] == [0, 0, 0]
    assert (found.events, found.positives) == (10, 5)
    assert found.parts["validation"].first_event_time == START + 6 * HOUR
    assert found.parts["validation"].last_event_time == START + 100 * HOUR


def test_events_of_one_instant_stay_together_on_the_later_side(database: duckdb.DuckDBPyConnection) -> None:
    _, kept, _ = split(database, alone([0, 1, 2, 3, 5, 5, 5, 5, 8, 8]), shares())
    assert kept == {"train": [0, 1, 2, 3], "validation": [4, 5, 6, 7], "test": [8, 9]}


def test_lengths_of_time_are_cut_from_the_end_of_the_window(database: duckdb.DuckDBPyConnection) -> None:
    # until the end: 960; test from 950 (exclusive), delay from 940, validation from 925
    found, kept, delayed = split(database, alone([0, 924, 925, 926, 940, 941, 950, 951, 960]), lengths(15, 10, delay=10))
    assert kept == {"train": [0, 1, 2], "validation": [3, 4], "test": [7, 8]}
    assert delayed == [5, 6]
    assert found.in_test_delay == 2


def test_a_delay_before_a_share(database: duckdb.DuckDBPyConnection) -> None:
    _, kept, delayed = split(database, alone(range(0, 100, 10)), shares(test_delay=20 * HOUR))
    assert kept == {"train": [0, 1, 2, 3], "validation": [4, 5], "test": [8, 9]}
    assert delayed == [6, 7]


def test_a_group_stays_only_in_its_latest_part(database: duckdb.DuckDBPyConnection) -> None:
    #        train                          | validation | test
    groups = ["a", "b", "c", "a", "d", "e", "b", "f", "c", "f"]
    found, kept, _ = split(database, list(enumerate(groups)), shares())
    assert kept == {"train": [0, 3, 4, 5], "validation": [6], "test": [8, 9]}
    assert {name: part.left_out for name, part in found.parts.items()} == {"train": 2, "validation": 1, "test": 0}


def test_a_known_fraud_removes_its_group_from_the_next_midnight_on(database: duckdb.DuckDBPyConnection) -> None:
    training = lengths(15 * 24, 10 * 24, groups="known_fraud_removed")
    midnight = 30 * 24
    rows = [(midnight - 1, "a"), (midnight, "a"), (midnight + 23, "a"), (midnight + 5, "b"), (20, "a"), (midnight + 30, "c"), (midnight + 30, "d")]
    known = [("a", midnight, 10**5), ("b", midnight + 1, 10**5), ("c", 10, midnight + 24), ("d", 10, midnight + 25)]
    found, kept, _ = split(database, rows, training, known)
    assert kept == {"train": [4], "validation": [0], "test": [3, 5]}, "b became known after the midnight, and c was withdrawn by it"
    # the event at the midnight itself is the last instant of the validation part
    assert {name: part.left_out for name, part in found.parts.items()} == {"train": 0, "validation": 1, "test": 2}


def test_no_rows(database: duckdb.DuckDBPyConnection) -> None:
    for training in (shares(), lengths(1, 1)):
        found, kept, delayed = split(database, [], training)
        assert not delayed
        assert not any(kept.values())
        assert (found.events, found.positives, found.in_test_delay) == (0, 0, 0)
        assert found.parts["test"].first_event_time is None


def test_the_handbooks_published_protocol(database: duckdb.DuckDBPyConnection) -> None:
    """Trained on 25 to 31 July 2018, tested on 8 to 14 August: 67,240 payments with 598 frauds and 58,264 with 385 (Le Borgne et al. 2022,
    Fraud Detection Handbook, §5.2)."""
    published = reference.payments()
    if published is None:
        pytest.skip("no published payments: set FRAUD_REFERENCE_DATA or put shared/data beside the repository")
    database.execute(f"""
        CREATE OR REPLACE TEMP TABLE payments AS SELECT CAST(TRANSACTION_ID AS VARCHAR) AS event_id, TX_DATETIME AS event_time,
            CAST(CUSTOMER_ID AS VARCHAR) AS group_id, TX_FRAUD AS label FROM read_parquet('{published}')
    """)
    database.execute("""
        CREATE OR REPLACE TEMP TABLE labels AS SELECT event_id, label, event_time, event_time + INTERVAL 7 DAY AS available_at,
            TIMESTAMP '9999-12-31' AS superseded_at FROM payments
    """)
    # The window's first instant is left out; the handbook has no validation part there.
    training = TrainingWindow(
        21 * DAY, validation=HOUR / 3600, test=7 * DAY, test_delay=7 * DAY, groups="known_fraud_removed"
    )
    until = datetime(2018, 8, 15, tzinfo=UTC) - HOUR / 3600
    label_events(database, Label("label", "event_time", maturity=7 * DAY), until - 21 * DAY, until, "payments")
    parts = split_by_time(database, training, until).parts
    assert parts["train"].events + parts["validation"].events == 67_240
    assert parts["train"].positives + parts["validation"].positives == 598
    assert (parts["test"].events, parts["test"].positives) == (58_264, 385)


ROWS = st.lists(st.tuples(st.integers(1, 960), st.sampled_from("abcdefghijklmnop")), max_size=50)
FRAUDS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 960), st.integers(1, 900)), max_size=6)
RULES = st.sampled_from(["in_one_part", "known_fraud_removed"])


def places_by_shares(rows: Sequence[Row], validation: float, test: float, delay: int) -> list[int | None]:
    hours = sorted(hour for hour, _ in rows)
    cut = round(len(hours) * (1 - test))
    first_tested = hours[cut] if cut < len(hours) else 10**6
    delayed = [hour for hour in hours if first_tested - delay <= hour < first_tested]
    cut = max(round(len(hours) * (1 - validation - test)) - len(delayed), 0)
    first_validated = hours[cut] if cut < len(hours) else 10**6

    def place(hour: int) -> int | None:
        if hour >= first_tested:
            return 2
        return None if hour in delayed else int(hour >= first_validated)

    return [place(hour) for hour, _ in rows]


def places_by_lengths(rows: Sequence[Row], validation: int, test: int, delay: int) -> list[int | None]:
    def place(hour: int) -> int | None:
        age = 960 - hour
        if age < test:
            return 2
        return None if age < test + delay else int(age < test + delay + validation)

    return [place(hour) for hour, _ in rows]


def kept_of(rows: Sequence[Row], places: Sequence[int | None], frauds: Sequence[Fraud], rule: str) -> dict[str, list[int]]:
    def keep(row: int) -> bool:
        hour, group = rows[row]
        place = places[row]
        if place is None:
            return False
        if rule == "in_one_part":
            return all(other is None or other <= place for other, (_, name) in zip(places, rows, strict=True) if name == group)
        midnight = hour // 24 * 24
        return place == 0 or not any(name == group and first <= midnight < until for name, first, until in frauds)

    return {part: [row for row in range(len(rows)) if places[row] == number and keep(row)] for number, part in enumerate(PARTS)}


def check(database: duckdb.DuckDBPyConnection, rows: list[Row], training: TrainingWindow, frauds: list[Fraud], places: list[int | None]) -> None:
    frauds = [(group, first, first + lasting) for group, first, lasting in frauds]
    found, kept, delayed = split(database, rows, training, frauds)
    expected = kept_of(rows, places, frauds, training.groups)
    assert {part: sorted(numbers) for part, numbers in kept.items()} == expected
    assert found.in_test_delay == len(delayed) == places.count(None)
    for number, part in enumerate(PARTS):
        summary = found.parts[part]
        times = [START + rows[row][0] * HOUR for row in expected[part]]
        assert (summary.events, summary.left_out) == (len(times), places.count(number) - len(times))
        assert summary.positives == sum(row % 2 for row in expected[part])
        assert (summary.first_event_time, summary.last_event_time) == (min(times, default=None), max(times, default=None))


@given(ROWS, FRAUDS, st.floats(0.05, 0.45), st.floats(0.05, 0.45), st.sampled_from([0, 0, 5, 100]), RULES)
def test_every_split_by_shares(
    database: duckdb.DuckDBPyConnection, rows: list[Row], frauds: list[Fraud], validation: float, test: float, delay: int, rule: str
) -> None:
    training = shares(validation, test, test_delay=delay * HOUR, groups=rule)
    check(database, rows, training, frauds, places_by_shares(rows, validation, test, delay))


@given(ROWS, FRAUDS, st.integers(1, 400), st.integers(1, 400), st.sampled_from([0, 24, 100]), RULES)
def test_every_split_by_lengths(
    database: duckdb.DuckDBPyConnection, rows: list[Row], frauds: list[Fraud], validation: int, test: int, delay: int, rule: str
) -> None:
    training = lengths(validation, test, delay, groups=rule)
    check(database, rows, training, frauds, places_by_lengths(rows, validation, test, delay))
