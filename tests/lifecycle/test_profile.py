from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.lifecycle.profile import BINS, Profile, ProfileError, Schema

ROWS = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.one_of(st.none(), st.floats(-1e6, 1e6)),
        st.one_of(st.none(), st.sampled_from(["Female", "Male", "Other", "new"])),
    ),
    max_size=30,
)
SCHEMA = Schema({"amount": (-5.0, 0.0, 10.5)}, {"gender": ("Female", "Male")})


def profile(rows: list[tuple[int, float | None, str | None]]) -> Profile:
    days = np.array([np.datetime64("2026-02-26") + day for day, _, _ in rows], "datetime64[D]")
    amounts = np.array([np.nan if amount is None else amount for _, amount, _ in rows])
    return Profile.of(SCHEMA, days, {"amount": amounts}, {"gender": [gender for _, _, gender in rows]})


@settings(max_examples=80, deadline=None)
@given(ROWS, ROWS, ROWS)
def test_merging_is_associative_commutative_and_equals_profiling_all_at_once(a: list, b: list, c: list) -> None:
    one, two, three = profile(a), profile(b), profile(c)
    left = one.merge(two).merge(three).as_json()
    assert left == one.merge(two.merge(three)).as_json()
    assert left == three.merge(one).merge(two).as_json()
    assert left == profile([*a, *b, *c]).as_json()


@settings(max_examples=30, deadline=None)
@given(ROWS)
def test_every_row_is_counted_once_and_json_keeps_it_all(rows: list) -> None:
    found = profile(rows)
    assert (found.numeric["amount"].counts.sum(axis=1) + found.numeric["amount"].missing == found.rows).all()
    gender = found.category["gender"]
    assert (gender.counts.sum(axis=1) + gender.other + gender.missing == found.rows).all()
    assert Profile.from_json(json.loads(json.dumps(found.as_json(), allow_nan=False))).as_json() == found.as_json()


def test_bins_and_levels_by_hand() -> None:
    found = profile([(0, -5.0, "Male"), (0, -5.1, "new"), (0, 10.5, None), (2, None, "Female")]).as_json()
    assert found["days"] == ["2026-02-26", "2026-02-28"]
    assert found["rows"] == [3, 1]
    amount = {"edges": [-5, 0, 10.5], "counts": [[1, 1, 0, 1], [0] * 4], "missing": [0, 1], "minimum": [-5.1, None], "maximum": [10.5, None]}
    assert found["numeric"]["amount"] == amount
    assert found["category"]["gender"] == {"levels": ["Female", "Male"], "counts": [[0, 1], [1, 0]], "other": [1, 0], "missing": [1, 0]}


def test_edges_cut_the_whole_into_bins_of_about_equal_size() -> None:
    values = np.random.default_rng(0).lognormal(size=10_000)
    schema = Schema.of({"amount": values}, {})
    counts = Profile.of(schema, np.full(10_000, np.datetime64("2026-01-01")), {"amount": values}, {}).numeric["amount"].counts
    assert counts.shape == (1, BINS)
    assert (abs(counts - 10_000 / BINS) <= 1).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([np.nan, np.nan], [0]),
        ([3.0, 3.0, 3.0], [3]),
        ([0.0, 1.0, 1.0, np.nan], [1, 2]),
        ([0.0] * 900 + [float(v) for v in range(1, 101)], [900] + [50] * 2),
    ],
)
def test_columns_of_few_or_heavy_values_keep_them_apart(values: list[float], expected: list[int]) -> None:
    schema = Schema.of({"x": values}, {})
    day = np.full(len(values), np.datetime64("2026-01-01"))
    counts = Profile.of(schema, day, {"x": values}, {}).numeric["x"].counts[0]
    assert counts.sum() == sum(expected)
    assert counts[0] == expected[0], "the heavy value has a bin of its own"
    assert len(counts) == len(expected) or len(set(values)) > BINS


def test_only_the_most_frequent_levels_are_kept() -> None:
    texts = ["a"] * 3 + ["b"] * 2 + ["c", None]
    schema = Schema.of({}, {"state": texts}, levels=2)
    assert schema.levels == {"state": ("a", "b")}


def test_a_month_of_a_column_is_a_few_kilobytes() -> None:
    generator = np.random.default_rng(1)
    values, days = generator.normal(size=9_000), np.datetime64("2026-01-01") + np.arange(9_000) % 30
    found = Profile.of(Schema.of({"x": values}, {}), days, {"x": values}, {})
    assert len(json.dumps(found.as_json())) < 5_000


def test_what_does_not_fit_together_is_refused() -> None:
    other = Profile.of(Schema({"amount": (0.0,)}, {}), np.array([], "datetime64[D]"), {"amount": []}, {})
    with pytest.raises(ProfileError, match="cannot be merged"):
        profile([]).merge(other)
    with pytest.raises(ProfileError, match="are not the schema's"):
        Profile.of(SCHEMA, np.array([], "datetime64[D]"), {"age": []}, {"gender": []})
    with pytest.raises(ProfileError, match="version 2"):
        Profile.from_json(profile([]).as_json() | {"version": 2})
