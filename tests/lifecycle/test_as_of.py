"""The as-of instant and the days that follow from it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from include.lifecycle.as_of import Days, delivery_days, feature_days, iso, resolve, utc

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


def test_changed_days_reach_as_far_as_features_look_back() -> None:
    week = timedelta(days=7)
    assert feature_days(["2026-01-05", "2026-01-03"], week) == Days(date(2026, 1, 3), date(2026, 1, 12))
    assert feature_days(["2026-03-30"], timedelta(0)) == Days(date(2026, 3, 30), date(2026, 3, 30))
    assert feature_days([], week) is None
