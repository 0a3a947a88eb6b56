"""The as-of instant and the days that follow from it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.lifecycle.as_of import Days, delivery_days, event_effects, feature_days, iso, label_effects, merged, resolve, utc, without

NOON = datetime(2026, 4, 1, 12, tzinfo=UTC)
FOUR = datetime(2026, 4, 1, 4, tzinfo=UTC)


def test_what_a_person_asks_for_comes_first() -> None:
    assert resolve("2026-03-01T00:00:00+02:00", NOON) == datetime(2026, 2, 28, 22, tzinfo=UTC)
    assert resolve(None, None, NOON, FOUR) == NOON
    assert resolve("2026-03-01") == datetime(2026, 3, 1, tzinfo=UTC)
    with pytest.raises(ValueError, match="set the parameter as_of"):
        resolve(None, None)


def test_instants_are_written_one_way() -> None:
    assert iso(utc("2026-03-01T01:00:00+01:00")) == "2026-03-01T00:00:00Z"


def test_a_daily_run_takes_the_day_that_ended() -> None:
    assert delivery_days(None, None, FOUR - timedelta(days=1), FOUR, FOUR) == Days(date(2026, 3, 31), date(2026, 3, 31))
    assert delivery_days(None, None, FOUR - timedelta(days=7), FOUR, FOUR) == Days(date(2026, 3, 25), date(2026, 3, 31))


def test_a_run_looks_back_but_not_when_it_was_told_which_days() -> None:
    week = timedelta(days=7)
    assert delivery_days(None, None, FOUR - timedelta(days=1), FOUR, FOUR, week) == Days(date(2026, 3, 24), date(2026, 3, 31))
    assert delivery_days(None, None, None, None, FOUR, week) == Days(date(2026, 3, 24), date(2026, 3, 31))
    assert delivery_days("2026-01-01", None, None, None, FOUR, week) == Days(date(2026, 1, 1), date(2026, 1, 1))


def test_a_run_by_hand_takes_the_day_before_or_what_was_asked() -> None:
    assert delivery_days(None, None, FOUR, FOUR, FOUR) == Days(date(2026, 3, 31), date(2026, 3, 31))
    assert delivery_days("2026-01-01", "2026-03-31", None, None, FOUR) == Days(date(2026, 1, 1), date(2026, 3, 31))
    assert delivery_days("2026-01-01", None, None, None, FOUR) == Days(date(2026, 1, 1), date(2026, 1, 1))
    with pytest.raises(ValueError, match="lies before the first"):
        delivery_days("2026-02-01", "2026-01-01", None, None, FOUR)


def test_changes_reach_as_far_as_features_look_back() -> None:
    week = timedelta(days=7)
    first, third, last = date(2026, 1, 1), date(2026, 1, 3), date(2026, 1, 20)
    assert event_effects([third, last, first], week) == [Days(first, date(2026, 1, 10)), Days(last, date(2026, 1, 27))]
    assert event_effects([third, first], timedelta(0)) == [Days(first, first), Days(third, third)]
    assert event_effects([], week) == []


def test_labels_reach_no_feature_of_before_they_were_known() -> None:
    week, event = timedelta(days=7), date(2026, 1, 1)
    assert label_effects([(event, date(2026, 1, 6))], week) == [Days(date(2026, 1, 6), date(2026, 1, 8))]
    assert label_effects([(event, date(2026, 1, 9))], week) == [], "no feature looks back as far"
    assert label_effects([(event, event)], timedelta(0)) == [Days(event, event)]


DAY = st.integers(0, 30).map(lambda offset: date(2026, 1, 1) + timedelta(days=offset))
INTERVAL = st.tuples(DAY, DAY).map(lambda pair: Days(min(pair), max(pair)))


def every_day(intervals: list[Days]) -> set[date]:
    return {each.first + timedelta(days=offset) for each in intervals for offset in range((each.last - each.first).days + 1)}


@given(st.lists(INTERVAL, max_size=5), INTERVAL)
def test_intervals_are_sets_of_days(intervals: list[Days], taken: Days) -> None:
    found = merged(intervals)
    assert every_day(found) == every_day(intervals)
    assert all(before.last + timedelta(days=1) < after.first for before, after in pairwise(found)), "in order, and no two that could be one"
    assert every_day(without(found, taken)) == every_day(found) - every_day([taken])


def test_one_run_makes_all_stale_features_good() -> None:
    assert feature_days([["2026-01-05", "2026-01-07"], ["2026-02-01", "2026-02-02"]]) == Days(date(2026, 1, 5), date(2026, 2, 2))
    assert feature_days([]) is None
