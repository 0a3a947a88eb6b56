from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.lifecycle.alarm_policy import WindowRecord, decide, record_as_json, record_of
from include.lifecycle.domain import Monitoring

FIRST = date(2026, 4, 1)
POLICY = Monitoring(windows_in_a_row=2, cool_down=timedelta(days=5))


def window(day: int, *kinds: str, began: int | None = None) -> WindowRecord:
    last = FIRST + timedelta(days=day)
    return WindowRecord(
        last_day=last,
        as_of=datetime.combine(last + timedelta(days=1), time(), UTC),
        model_package="arn:1",
        found={kind: ["amount"] for kind in kinds},
        began=None if began is None else FIRST + timedelta(days=began),
        headline="amount moved",
        report="s3://b/report.json",
    )


def by_day(*windows: WindowRecord) -> dict[date, WindowRecord]:
    return {each.last_day: each for each in windows}


def test_one_window_is_not_enough() -> None:
    decision = decide(POLICY, window(3, "score_drift"), {}, [])
    assert not decision.alarm
    assert "1 of the 2 windows in a row" in decision.why


def test_two_in_a_row_ring_and_say_since_when() -> None:
    decision = decide(POLICY, window(3, "score_drift", began=2), by_day(window(2, "score_drift")), [])
    assert decision.kinds == ("score_drift",)
    assert decision.since == FIRST + timedelta(days=2)


def test_without_a_day_of_the_change_the_row_began_with_its_first_window() -> None:
    row = by_day(window(2, "score_drift"), window(1, "score_drift"))
    assert decide(POLICY, window(3, "score_drift"), row, []).since == FIRST + timedelta(days=1)


def test_a_day_that_was_not_looked_at_breaks_the_row() -> None:
    assert not decide(POLICY, window(3, "score_drift"), by_day(window(1, "score_drift")), []).alarm


def test_the_same_kind_must_be_found_again() -> None:
    assert not decide(POLICY, window(3, "score_drift"), by_day(window(2, "feature_drift")), []).alarm


def test_what_only_warns_rings_nothing() -> None:
    policy = Monitoring(windows_in_a_row=1)
    assert not decide(policy, window(3, "attribution_drift"), {}, []).alarm


def test_no_second_alarm_within_the_cool_down() -> None:
    row = by_day(window(2, "score_drift"))
    now = window(3, "score_drift")
    assert not decide(POLICY, now, row, [now.as_of - timedelta(days=4)]).alarm
    assert decide(POLICY, now, row, [now.as_of - timedelta(days=6)]).alarm


def test_its_own_alarm_of_an_earlier_try_does_not_silence_a_run() -> None:
    now = window(3, "score_drift")
    assert decide(POLICY, now, by_day(window(2, "score_drift")), [now.as_of]).alarm


@given(st.lists(st.booleans(), min_size=1, max_size=25), st.integers(1, 4), st.integers(0, 9))
def test_days_in_order_ring_as_often_as_a_count_by_hand_says(found: list[bool], in_a_row: int, cool_down: int) -> None:
    policy = Monitoring(windows_in_a_row=in_a_row, cool_down=timedelta(days=cool_down))
    windows: dict[date, WindowRecord] = {}
    alarms: list[datetime] = []
    expected, run, last = [], 0, -100
    for day, hit in enumerate(found):
        run = run + 1 if hit else 0
        if run >= in_a_row and day - last > cool_down:
            expected.append(day)
            last = day
        now = window(day, *(["quality"] if hit else []))
        if decide(policy, now, windows, alarms).alarm:
            alarms.append(now.as_of)
        windows[now.last_day] = now
    assert [moment.date() - FIRST - timedelta(days=1) for moment in alarms] == [timedelta(days=day) for day in expected]


@pytest.mark.parametrize("record", [window(2), window(2, "quality", began=1)])
def test_a_record_outlives_json(record: WindowRecord) -> None:
    assert record_of(json.loads(json.dumps(record_as_json(record)))) == record
