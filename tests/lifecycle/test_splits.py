from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.lifecycle.splits import PARTS, TimeSplit, split_by_time

START = datetime(2026, 1, 1, tzinfo=UTC)


def split(hours: list[int], groups: list[str], validation: float = 0.2, test: float = 0.2) -> TimeSplit:
    times = pa.array([START + timedelta(hours=hour) for hour in hours], pa.timestamp("us", "UTC"))
    return split_by_time(pa.chunked_array([times]), pa.chunked_array([pa.array(groups, pa.string())]), validation, test)


def test_shares_of_events() -> None:
    # The hours are uneven on purpose: shares of the window's time would cut elsewhere.
    found = split([0, 1, 2, 3, 4, 5, 6, 100, 200, 900], [str(n) for n in range(10)])
    assert {part: rows.tolist() for part, rows in found.rows.items()} == {"train": [0, 1, 2, 3, 4, 5], "validation": [6, 7], "test": [8, 9]}
    assert found.left_out == {"train": 0, "validation": 0, "test": 0}


def test_events_of_one_instant_stay_together_on_the_later_side() -> None:
    found = split([0, 1, 2, 3, 5, 5, 5, 5, 8, 8], [str(n) for n in range(10)])
    assert [found.rows[part].tolist() for part in PARTS] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_group_stays_only_in_its_latest_part() -> None:
    #        train                          | validation | test
    groups = ["a", "b", "c", "a", "d", "e", "b", "f", "c", "f"]
    found = split(list(range(10)), groups)
    assert [found.rows[part].tolist() for part in PARTS] == [[0, 3, 4, 5], [6], [8, 9]]
    assert found.left_out == {"train": 2, "validation": 1, "test": 0}


def test_no_rows() -> None:
    found = split([], [])
    assert all(len(found.rows[part]) == 0 for part in PARTS)


def test_refuses_disorder_and_nulls() -> None:
    with pytest.raises(ValueError, match="ascend"):
        split([1, 0], ["a", "b"])
    with pytest.raises(ValueError, match="no nulls"):
        split([0, 1], ["a", None])  # type: ignore[list-item]


@given(
    rows=st.lists(st.tuples(st.integers(0, 50), st.sampled_from("abcdefghijklmnop")), min_size=1, max_size=60),
    validation=st.floats(0.05, 0.4),
    test=st.floats(0.05, 0.4),
)
def test_every_split(rows: list[tuple[int, str]], validation: float, test: float) -> None:
    rows = sorted(rows)
    hours, groups = np.array([hour for hour, _ in rows]), np.array([group for _, group in rows])
    found = split(hours.tolist(), groups.tolist(), validation, test)
    taken = np.concatenate([found.rows[part] for part in PARTS])
    assert len(set(taken)) == len(taken)
    assert len(taken) + sum(found.left_out.values()) == len(rows)
    for earlier, later in (("train", "validation"), ("validation", "test"), ("train", "test")):
        before, after = found.rows[earlier], found.rows[later]
        assert not set(groups[before]) & set(groups[after])
        assert len(before) == 0 or len(after) == 0 or hours[before].max() < hours[after].min()
    assert found.left_out["test"] == 0
    size = len(found.rows["test"])
    assert size >= round(len(rows) * test), "ties may only make the later part larger"
