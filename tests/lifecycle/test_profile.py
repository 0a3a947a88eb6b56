from __future__ import annotations

import json
import zlib
from datetime import date, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.lifecycle.profile import MULTIVARIATE, NO_DAY, Counter, Profile, ProfileError, Schema, SchemaSketch
from include.lifecycle.profile_schema import BINS, BUCKETS, LEVELS, SAMPLE, TAILS, Joint, NumericCells, TextCells

ROWS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(0, 4)),
        st.one_of(st.none(), st.floats(-1e6, 1e6), st.sampled_from([np.inf, -np.inf, np.nan])),
        st.one_of(st.none(), st.sampled_from(["Female", "Male", "Other", "new"])),
        st.one_of(st.none(), st.text(max_size=3)),
    ),
    max_size=30,
)
SCHEMA = Schema(
    {
        "amount": NumericCells((-5.0, 0.0, 10.5)),
        "gender": TextCells(("Female", "Male")),
        "merchant": TextCells((), BUCKETS, (("Apex", 3),)),
        "age": NumericCells((1.0,), (0.0, 1.0)),
    },
    Joint({"amount": (-1.5, -0.5, 0.5, 1.5), "age": (-1.0, 1.0)}, ((1.0, 0.5), (0.0, 1.25)), NumericCells((0.7, 2.1))),
)


def batch(rows: list[tuple]) -> tuple[pa.RecordBatch, pa.Array]:
    days, amounts, genders, merchants = zip(*rows, strict=True) if rows else ((), (), (), ())
    columns = {
        "amount": pa.array(amounts, pa.float64()),
        "gender": pa.array(genders, pa.string()),
        "merchant": pa.array(merchants, pa.string()),
        "age": pa.array([None if amount is None or np.isnan(amount) else int(amount > 0) for amount in amounts], pa.int64()),
    }
    dates = pa.array([None if day is None else date(2026, 2, 26) + timedelta(days=day) for day in days], pa.date32())
    return pa.record_batch(columns), dates


def profile(*parts: list[tuple]) -> Profile:
    counter = Counter(SCHEMA)
    for part in parts:
        counter.add(*batch(part))
    return counter.profile()


def table(**columns: object) -> pa.Table:
    return pa.table({name: column if isinstance(column, pa.Array) else pa.array(column) for name, column in columns.items()})


def counted(columns: pa.Table, schema: Schema | None = None) -> Profile:
    return Profile.of(schema or Schema.of({name: columns[name] for name in columns.column_names}), columns)


@settings(max_examples=60, deadline=None)
@given(ROWS, ROWS, ROWS)
def test_merging_is_associative_commutative_and_equals_counting_in_batches_or_at_once(a: list, b: list, c: list) -> None:
    one, two, three = profile(a), profile(b), profile(c)
    left = one.merge(two).merge(three).as_json()
    assert left == one.merge(two.merge(three)).as_json()
    assert left == three.merge(one).merge(two).as_json()
    assert left == profile([*a, *b, *c]).as_json()
    assert left == profile(a, b, c).as_json()


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_every_row_is_counted_once_in_every_column_and_json_keeps_it_all(rows: list) -> None:
    found = profile(rows)
    assert found.rows.sum() == len(rows)
    for name, column in found.columns.items():
        if name != MULTIVARIATE:
            assert (column.counts.sum(axis=1) + column.missing + column.infinite + column.invalid + column.unseen == found.rows).all()
    again = Profile.from_json(json.loads(json.dumps(found.as_json(), allow_nan=False)))
    assert again.schema == found.schema
    assert again.as_json() == found.as_json()
    assert (NO_DAY in found.days) == any(day is None for day, *_ in rows)


def test_cells_by_hand() -> None:
    found = profile([(0, -5.0, "Male", "x"), (0, -5.1, "new", "Apex"), (0, 10.5, None, None), (2, None, "Female", "Apex"), (2, np.inf, "Male", "")])
    assert found.days == ("2026-02-26", "2026-02-28")
    assert found.rows.tolist() == [3, 2]
    amount, gender, merchant = (found.columns[name] for name in ("amount", "gender", "merchant"))
    assert amount.counts.tolist() == [[1, 1, 0, 1], [0] * 4]
    assert (amount.missing.tolist(), amount.infinite.tolist(), amount.minimum, amount.maximum) == ([0, 1], [0, 1], -5.1, 10.5)
    assert gender.counts.tolist() == [[0, 1], [1, 1]]
    assert (gender.missing.tolist(), gender.unseen.tolist()) == ([1, 0], [1, 0])
    assert merchant.counts[1, zlib.crc32(b"Apex") % BUCKETS] == 1
    assert merchant.counts[1, 0] == 1, "the CRC of nothing is 0"
    assert zlib.crc32(b"123456789") == 0xCBF43926, "the standard's check value: what a stored profile was counted by"


def test_edges_cut_the_whole_into_cells_of_about_equal_size() -> None:
    values = np.random.default_rng(0).lognormal(size=10_000)
    counts = counted(table(amount=values)).columns["amount"].counts
    assert counts.shape == (1, BINS + len(TAILS))
    assert (abs(counts[0, 3:-3] - 10_000 / BINS) <= 1).all()
    assert counts[0, :3] == pytest.approx([10, 90, 400], abs=2)
    assert counts[0, -3:] == pytest.approx([400, 90, 10], abs=2)


def test_edges_of_a_sample_cut_many_rows_nearly_as_well() -> None:
    values = np.random.default_rng(0).lognormal(size=5 * SAMPLE)
    sketch = SchemaSketch()
    for part in np.array_split(values, 7):
        sketch.add(pa.record_batch({"amount": part}))
    assert len(sketch._numbers["amount"][0]) <= 2 * SAMPLE
    counts = counted(table(amount=values), sketch.schema()).columns["amount"].counts
    assert abs(counts[0, 3:-3] / values.size * BINS - 1).max() < 0.1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([np.nan, np.nan], [0]),
        ([3.0, 3.0, 3.0], [3]),
        ([0.0, 1.0, 1.0, np.nan], [1, 2]),
        ([0.0] * 900 + [float(v) for v in range(1, 101)], [900, 50, 40, 9, 1]),
    ],
)
def test_columns_of_few_or_heavy_values_keep_them_apart(values: list[float], expected: list[int]) -> None:
    counts = counted(table(x=values)).columns["x"].counts
    assert counts.reshape(-1).tolist() == expected


def test_a_heavy_value_in_the_middle_has_a_cell_of_its_own() -> None:
    values = np.concatenate([np.random.default_rng(1).normal(size=1000), np.zeros(700)])
    found = counted(table(x=values))
    assert 700 in found.columns["x"].counts[0]
    assert len(found.columns["x"].counts[0]) <= 2 * BINS


def test_text_of_many_levels_is_counted_by_hash_and_explained_by_its_most_frequent_levels() -> None:
    texts = [f"merchant {number % (LEVELS + 1)}" for number in range(600)] + ["merchant 7"] * 50
    found = counted(table(merchant=texts))
    cells = found.schema.columns["merchant"]
    assert isinstance(cells, TextCells)
    assert cells.frequent[0] == ("merchant 7", 62)
    assert found.columns["merchant"].counts.shape == (1, BUCKETS)
    assert found.columns["merchant"].counts.sum() == 650
    assert any(label.startswith("merchant 7") for label in cells.labels)


def test_text_in_a_numeric_column_is_read_as_numbers_and_what_is_none_is_invalid() -> None:
    schema = Schema.of({"x": pa.array([1.0, 2.0, 3.0])})
    found = counted(table(x=["1", " 2.0 ", "three", "", None, "inf", "nan", "1_0"]), schema).columns["x"]
    assert found.counts.tolist() == [[1, 1, 0]]
    assert [found.missing[0], found.invalid[0], found.infinite[0]] == [3, 2, 1]
    same = counted(table(x=pa.array(["1", " 2.0 ", "three", "", None, "inf", "nan", "1_0"]).dictionary_encode()), schema)
    assert same.as_json() == counted(table(x=["1", " 2.0 ", "three", "", None, "inf", "nan", "1_0"]), schema).as_json()


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 2, None, 2], pa.int16()),
        pa.array([1.0, 2.0, None, 2.0], pa.float32()),
        pa.array([Decimal("1"), Decimal("2"), None, Decimal("2")]),
        pa.array([1, 2, None, 2]).dictionary_encode(),
        pa.array([1.0, 2.0, np.nan, 2.0]),
    ],
)
def test_every_type_of_number_counts_alike(column: pa.Array) -> None:
    found = counted(pa.table({"x": column})).columns["x"]
    assert found.counts.tolist() == [[1, 2]]
    assert found.missing.tolist() == [1]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", "b", None, "b"], pa.large_string()),
        pa.array(["a", "b", None, "b"]).dictionary_encode(),
        pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 1], pa.uint8()), pa.array(["a", "b", None])),
        pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 1], pa.int8()), pa.array(["a", "b"])),
    ],
)
def test_every_type_of_text_counts_alike(column: pa.Array) -> None:
    found = counted(pa.table({"x": column})).columns["x"]
    assert found.counts.tolist() == [[1, 2]]
    assert found.missing.tolist() == [1]


def test_truth_values_are_text_and_numbers_in_a_text_column_are_read_as_text() -> None:
    schema = Schema.of({"flag": pa.array([True, False]), "code": pa.array(["1", "2"])})
    found = counted(table(flag=[True, None], code=[2, 3]), schema)
    assert schema.columns["flag"] == TextCells(("false", "true"))
    assert found.columns["flag"].counts.tolist() == [[0, 1]]
    assert found.columns["code"].counts.tolist() == [[0, 1]]
    assert found.columns["code"].unseen.tolist() == [1]


def test_a_column_that_is_not_there_is_missing_in_every_row() -> None:
    schema = Schema.of({"x": pa.array([1.0, 2.0]), "t": pa.array(["a", "b"])})
    found = counted(table(other=[1, 2, 3]), schema)
    assert found.columns["x"].missing.tolist() == [3]
    assert found.columns["t"].missing.tolist() == [3]


def test_what_cannot_be_profiled_is_refused_in_words() -> None:
    times = pa.array([0], pa.timestamp("us"))
    with pytest.raises(ProfileError, match="column 'at' is timestamp"):
        Schema.of({"at": times})
    schema = Schema.of({"x": pa.array([1.0])})
    with pytest.raises(ProfileError, match="column 'x' is timestamp"):
        counted(pa.table({"x": times}), schema)
    with pytest.raises(ProfileError, match="rename it"):
        Schema.of({MULTIVARIATE: pa.array([1.0])})
    with pytest.raises(ProfileError, match="2 days for 1 rows"):
        Profile.of(schema, table(x=[1.0]), pa.array([0, 1], pa.date32()))
    with pytest.raises(ProfileError, match="int64"):
        Profile.of(schema, table(x=[1.0]), pa.array([0]))
    with pytest.raises(ProfileError, match="merged"):
        counted(table(x=[1.0]), schema).merge(counted(table(x=[2.0])))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"rows": "-1"},
        {"rows": "1 2"},
        {"columns": {"x": {"type": "numeric"}}},
        {"days": None},
        {"columns": []},
    ],
)
def test_json_that_is_no_profile_is_refused(change: dict) -> None:
    with pytest.raises(ProfileError, match="version"):
        Profile.from_json(counted(table(x=[1.0, 2.0])).as_json() | change)


def test_one_row_no_row_and_no_value() -> None:
    one = counted(table(x=[5.0], t=["a"], nothing=pa.nulls(1)))
    assert one.columns["x"].counts.tolist() == [[1]]
    assert one.columns["nothing"].missing.tolist() == [1]
    none = counted(table(x=pa.array([], pa.float64()), t=pa.array([], pa.string())))
    assert none.days == ()
    assert none.columns["x"].counts.shape == (0, 1)
    assert Profile.from_json(none.as_json()).as_json() == none.as_json()


def correlated(rows: int, seed: int, correlation: float = 0.9) -> pa.Table:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows)
    return table(x=x, y=correlation * x + np.sqrt(1 - correlation**2) * rng.normal(size=rows), z=rng.normal(size=rows))


def test_distances_of_the_baseline_are_not_flattered_by_the_fit() -> None:
    # 30 columns and 600 rows: fitted and measured on the same rows, the correlation would make the baseline's distances much shorter
    rng = np.random.default_rng(4)
    columns = {f"x{number}": rng.normal(size=600) for number in range(30)}
    schema = Schema.of({name: pa.array(values) for name, values in columns.items()})
    ours, others = (
        counted(table(**{name: source.normal(size=rows) if source else columns[name] for name in columns}), schema).columns[MULTIVARIATE].counts[0]
        for source, rows in ((None, 600), (rng, 20_000))
    )
    assert 200 < ours.sum() < 400
    far = others[-2:].sum() / others.sum()
    assert far == pytest.approx(ours[-2:].sum() / ours.sum(), abs=0.05)


def test_the_multivariate_check_is_left_out_where_it_means_nothing() -> None:
    assert Schema.of({"x": pa.array(np.arange(100.0)), "t": pa.array(["a"] * 100)}).joint is None
    assert Schema.of({"x": pa.array(np.arange(100.0)), "constant": pa.array([1.0] * 100)}).joint is None
    both = correlated(500, 1)
    assert Schema.of({name: both[name] for name in both.column_names}, apart=("x", "y")).joint is None
    joint = Schema.of({name: both[name] for name in both.column_names}, apart=("z",)).joint
    assert joint is not None
    assert list(joint.scores) == ["x", "y"]


def test_a_profile_of_25_columns_and_30_days_is_at_most_150_kb_as_the_store_writes_it() -> None:
    rng = np.random.default_rng(3)
    rows = 60_000
    columns: dict[str, object] = {f"number_{number}": rng.normal(size=rows) for number in range(20)}
    columns |= {f"text_{levels}": pa.array([f"level {level}" for level in rng.integers(0, levels, rows)]) for levels in (3, 10, 50, 200, 1000)}
    days = pa.array(np.datetime64("2026-01-01") + rng.integers(0, 30, rows))
    rows_of = table(**columns)
    found = Profile.of(Schema.of({name: rows_of[name] for name in columns}), rows_of, days)
    assert len(json.dumps(found.as_json(), sort_keys=True, indent=1, ensure_ascii=False)) <= 150_000
