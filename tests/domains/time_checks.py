"""Two checks of any ``features.sql``: no feature knows the future, and none looks back further than the domain says."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from small_history import History

from include.lifecycle.features import compute_features, open_database


def leaks(history: History, sql: str, instants: Iterable[datetime], scratch: Path) -> dict[str, str]:
    """Column → one event whose value, computed when the event was known, differs from the one computed at the end of the history.

    Every event known at one of the ``instants`` is compared, in every column. A feature that uses labels before they are available, a later
    event, or an aggregate without a frame, comes out with another value once more is known.
    """
    days = history.event_days
    at_the_end = _computed(history, sql, history.whole, history.end, days[0], days[-1], scratch)
    found: dict[str, str] = {}
    for instant in instants:
        then = _computed(history, sql, history.whole, instant, days[0], days[-1], scratch)
        for column, event in _differences(then, at_the_end.loc[then.index]).items():
            found.setdefault(column, f"event {event} as of {instant}: {then[column][event]}, at the end {at_the_end[column][event]}")
    return found


def looks_back_too_far(history: History, sql: str, days: Iterable[date], scratch: Path) -> dict[str, str]:
    """Column → one event whose value, computed from the days that a job fetches for its day alone, differs from the one computed from all."""
    every = history.event_days
    whole = _computed(history, sql, history.whole, history.end, every[0], every[-1], scratch)
    found: dict[str, str] = {}
    for day in days:
        fetched = history.paths(day - history.domain.feature_history, day)
        alone = _computed(history, sql, fetched, history.end, day, day, scratch)
        same = whole[whole["event_time"].dt.date == day]
        if sorted(alone.index) != sorted(same.index):
            raise AssertionError(f"{day} alone has other events than in the whole")
        for column, event in _differences(alone, same.loc[alone.index]).items():
            found.setdefault(column, f"event {event}: {alone[column][event]} from {day} alone, {same[column][event]} from all")
    return found


def _computed(
    history: History, sql: str, files: dict[str, list[Path]], as_of: datetime, first: date, last: date, scratch: Path
) -> pd.DataFrame:
    with open_database(scratch) as connection:
        return compute_features(connection, history.domain, sql, files, as_of, first, last).to_pandas().set_index("event_id")


def _differences(left: pd.DataFrame, right: pd.DataFrame) -> dict[str, str]:
    """Column → the first event in which the two differ. Floats may differ by rounding: by 1e-9 of themselves."""
    found = {}
    for column in left.columns:
        if pd.api.types.is_float_dtype(left[column]):
            same = np.isclose(left[column], right[column], rtol=1e-9, atol=1e-9, equal_nan=True)
        else:
            same = (left[column] == right[column]).to_numpy()
        if not same.all():
            found[column] = str(left.index[~same][0])
    return found
