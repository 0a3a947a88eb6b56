from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2_contingency

from include.lifecycle import day_effects
from include.lifecycle.day_effects import Days, standard_weights
from include.lifecycle.drift import UNSEEN_LABEL, column_drift, column_level, compare_counts, drift, share_drift
from include.lifecycle.drift_tests import cauchy_combination, compare, day_distances, onset
from include.lifecycle.profile import MULTIVARIATE, NO_DAY, Profile, Schema

MONDAY = date(2026, 1, 5)
UNIFORM = np.full(20, 0.05)


def dates(first: int, days: int) -> tuple[str, ...]:
    return tuple(str(MONDAY + timedelta(days=first + day)) for day in range(days))


def undated(rng: np.random.Generator, rows: int, shares: np.ndarray) -> Days:
    return Days((NO_DAY,), rng.multinomial(rows, shares)[None])


def dated(
    rng: np.random.Generator,
    rows: int,
    first: int,
    days: int,
    shares: np.ndarray = UNIFORM,
    effect: Callable[[int], float] = lambda day: 0.0,
) -> Days:
    """A day's effect tilts the shares along the cells, as a moving mean does."""
    direction = np.linspace(-1.7, 1.7, shares.size)
    tilted = [shares * np.exp(effect(first + day) * direction) for day in range(days)]
    counts = [rng.multinomial(rows // days, each / each.sum()) for each in tilted]
    return Days(dates(first, days), np.array(counts))


def autoregression(rng: np.random.Generator, days: int, correlation: float) -> np.ndarray:
    found = [rng.normal()]
    for _ in range(days - 1):
        found.append(correlation * found[-1] + np.sqrt(1 - correlation**2) * rng.normal())
    return np.array(found)


def rejected(p_values: list[float], level: float) -> float:
    return float(np.mean(np.array(p_values) <= level))


@pytest.mark.parametrize(
    ("shares", "baseline", "window"),
    [
        (np.array([0.03, 0.97]), 5_000, 500),
        (UNIFORM, 20_000, 5_000),
        (np.full(64, 1 / 64), 5_000, 500),
        (1 / np.arange(1, 51) / (1 / np.arange(1, 51)).sum(), 5_000, 100_000),
    ],
)
def test_p_values_of_independent_rows_are_uniform(shares: np.ndarray, baseline: int, window: int) -> None:
    rng = np.random.default_rng(1)
    p_values = [compare(undated(rng, baseline, shares), undated(rng, window, shares)).p_value for _ in range(1_500)]
    for level in (0.5, 0.1, 0.05, 0.01):
        spread = np.sqrt(level * (1 - level) / len(p_values))
        assert abs(rejected(p_values, level) - level) < 4 * spread + 0.12 * level, level


def p_values_without_change(kind: str) -> list[float]:
    """Of windows that follow 250 baselines, two each, of days that vary as the kind says."""
    rng = np.random.default_rng(2)
    found = []
    for _ in range(250):
        drawn = {
            "none": np.zeros(60),
            "days": rng.normal(size=60) * 0.1,
            "weekdays": np.tile(rng.normal(size=7) * 0.1, 9),
            "slow": autoregression(rng, 60, 0.7) * 0.1,
        }
        effect = drawn[kind].__getitem__
        baseline = dated(rng, 20_000, 0, 28, effect=effect)
        found += [compare(baseline, dated(rng, 5_000, first, 7, effect=effect), ordered=True).p_value for first in (28, 35)]
    return found


@pytest.mark.parametrize("kind", ["none", "days", "weekdays"])
def test_what_the_baselines_days_show_is_no_drift(kind: str) -> None:
    p_values = p_values_without_change(kind)
    assert rejected(p_values, 0.1) < 0.13
    assert rejected(p_values, 0.01) < 0.025
    assert rejected(p_values, 0.0001) < 0.01


def test_days_that_are_like_the_days_before_count_for_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    # not exact: four weeks in which a slow feature happened to stand still do not tell that it is slow
    p_values = p_values_without_change("slow")
    assert rejected(p_values, 0.1) < 0.13
    assert rejected(p_values, 0.01) < 0.06
    monkeypatch.setattr(day_effects, "_CORRELATIONS", (0.0,))
    day_effects._contrasts.cache_clear()
    assert rejected(p_values_without_change("slow"), 0.01) > 2 * rejected(p_values, 0.01)
    day_effects._contrasts.cache_clear()


def test_days_that_vary_alarm_when_rows_are_taken_as_independent() -> None:
    # so that the test above does not pass because nothing moves
    rng = np.random.default_rng(2)
    p_values = []
    for _ in range(100):
        sides = (dated(rng, rows, first, days, effect=lambda day: 0.1 * rng.normal()) for rows, first, days in ((20_000, 0, 28), (5_000, 28, 7)))
        together = [Days((NO_DAY,), side.counts.sum(axis=0, keepdims=True)) for side in sides]
        p_values.append(compare(*together).p_value)
    assert rejected(p_values, 0.01) > 0.1


def test_agrees_with_pearson_on_many_rows_without_days() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        baseline, window = undated(rng, 50_000, UNIFORM), undated(rng, 50_000, UNIFORM + np.linspace(-0.002, 0.002, 20))
        theirs = chi2_contingency(np.concatenate([baseline.counts, window.counts])).pvalue
        ours = compare(baseline, window).p_value
        # the combination with the single-cell test costs at most a factor of two where the overall one sees more
        assert theirs / 50 < ours < max(2.1 * theirs, 0.6)


@pytest.mark.parametrize("days", [True, False])
def test_finds_a_shift_of_a_fifth_of_a_standard_deviation(days: bool) -> None:
    rng = np.random.default_rng(4)
    found = 0
    for _ in range(40):
        tables, when = [], []
        for shift, rows, first, last in ((0, 20_000, 0, 28), (0.2, 5_000, 28, 35)):
            tables.append(pa.table({"x": rng.normal(shift, 1, rows)}))
            when.append(pa.array(np.sort(rng.integers(first, last, rows)).astype("datetime64[D]")))
        schema = Schema.of({"x": tables[0]["x"]})
        baseline, window = (Profile.of(schema, table, its if days else None) for table, its in zip(tables, when, strict=True))
        found += column_drift(baseline, window, "x", level=column_level(6e-4, 26), minimum_effect=0.03).drifted
    assert found >= 38


@pytest.mark.parametrize("levels", [10, 1_000])
def test_finds_one_level_that_grows_from_5_to_8_percent(levels: int) -> None:
    rng = np.random.default_rng(5)

    def rows(count: int, share: float) -> pa.Table:
        return pa.table({"t": pa.array([f"level {level}" for level in np.where(rng.random(count) < share, 0, rng.integers(1, levels, count))])})

    found = 0
    for _ in range(20):
        reference = rows(20_000, 0.05)
        schema = Schema.of({"t": reference["t"]})
        result = column_drift(
            Profile.of(schema, reference), Profile.of(schema, rows(5_000, 0.08)), "t", level=column_level(6e-4, 26), minimum_effect=0.03
        )
        found += result.drifted
        assert "level 0" in result.says
    assert found >= 19


def test_a_broken_correlation_is_seen_together_and_in_no_column_alone() -> None:
    rng = np.random.default_rng(6)

    def rows(count: int, correlation: float) -> pa.Table:
        x = rng.normal(size=count)
        y = correlation * x + np.sqrt(1 - correlation**2) * rng.normal(size=count)
        return pa.table({"x": x, "y": y, "z": rng.normal(size=count)})

    reference = rows(20_000, 0.8)
    schema = Schema.of({name: reference[name] for name in "xyz"})
    baseline = Profile.of(schema, reference)
    names = ("x", "y", "z", MULTIVARIATE)
    broken = drift(baseline, Profile.of(schema, rows(5_000, 0.0)), names, level=1e-3, minimum_effect=0.03)
    assert [result.drifted for result in broken] == [False, False, False, True]
    assert "unusual" in broken[-1].says
    kept = drift(baseline, Profile.of(schema, rows(5_000, 0.8)), names, level=1e-3, minimum_effect=0.03)
    assert not any(result.drifted for result in kept)


def test_the_effect_is_the_jensen_shannon_distance_where_rows_are_many_and_nothing_where_they_are_few() -> None:
    rng = np.random.default_rng(7)
    moved = UNIFORM * np.exp(0.2 * np.linspace(-1.7, 1.7, 20))
    moved /= moved.sum()
    many = compare(undated(rng, 2_000_000, UNIFORM), undated(rng, 2_000_000, moved))
    assert many.effect == pytest.approx(jensenshannon(UNIFORM, moved, base=2), rel=0.02)
    assert np.median([compare(undated(rng, 2_000, UNIFORM), undated(rng, 500, UNIFORM)).effect for _ in range(50)]) < 0.03
    assert jensenshannon(*(rng.multinomial(rows, UNIFORM) for rows in (2_000, 500)), base=2) > 0.05


def test_a_minimum_effect_keeps_small_certain_changes_quiet() -> None:
    schema = Schema.of({"t": pa.array(["a", "b"])})
    sides = [Profile.of(schema, pa.table({"t": pa.array(["a"] * ones + ["b"] * (400_000 - ones))})) for ones in (200_000, 203_000)]
    result = column_drift(*sides, "t", level=1e-4, minimum_effect=0.03)
    assert result.p_value < 1e-8
    assert 0 < result.effect < 0.03
    assert not result.drifted
    assert column_drift(*sides, "t", level=1e-4, minimum_effect=0.0).drifted


def test_says_what_moved_from_which_day() -> None:
    rng = np.random.default_rng(8)

    def rows(first: int, days: int, of_day: int, changed_from: int | None) -> tuple[pa.Table, pa.Array]:
        day = np.repeat(np.arange(first, first + days), of_day)
        changed = np.zeros(day.size, bool) if changed_from is None else day >= changed_from
        amount = rng.normal(12, 2, day.size) + 6 * changed
        side = np.where(rng.random(day.size) < np.where(changed, 0.31, 0.18), "Rear", "Front")
        return pa.table({"amount": amount, "side": side}), pa.array([MONDAY + timedelta(days=int(each)) for each in day])

    reference, when = rows(0, 28, 800, None)
    schema = Schema.of({name: reference[name] for name in reference.column_names})
    baseline, window = Profile.of(schema, reference, when), Profile.of(schema, *rows(28, 7, 800, 31))
    amount, side = drift(baseline, window, ("amount", "side"), level=1e-3, minimum_effect=0.03)
    assert amount.drifted
    assert side.drifted
    assert amount.began == side.began == str(MONDAY + timedelta(days=31))
    assert amount.says.startswith("median of amount moved from 12")
    # four of seven days changed
    assert side.says == "side: share of 'Front' fell from 82 % to 75 %" or side.says.startswith("side: share of 'Rear' rose from 18 % to 2")
    assert [day.distance > 0.05 for day in amount.days] == [False] * 3 + [True] * 4
    assert side.cells == ("Front", "Rear", UNSEEN_LABEL)
    assert sum(side.current) == pytest.approx(1)
    assert json.loads(json.dumps(amount.as_json(), allow_nan=False))["days"][0] == {"day": dates(28, 1)[0], "distance": amount.days[0].distance}


def test_levels_that_the_baseline_does_not_have_are_drift() -> None:
    schema = Schema.of({"t": pa.array(["a", "b"])})
    baseline = Profile.of(schema, pa.table({"t": ["a", "b"] * 5_000}))
    window = Profile.of(schema, pa.table({"t": ["a", "b"] * 450 + ["c"] * 100}))
    result = column_drift(baseline, window, "t", level=1e-6, minimum_effect=0.03)
    assert result.drifted
    assert result.says == f"t: share of '{UNSEEN_LABEL}' rose from 0 % to 10 %"
    unseen = share_drift(baseline, window, "t", "unseen")
    assert (unseen.baseline, unseen.current, unseen.effect) == (0.0, 0.1, 0.1)
    assert unseen.p_value < 1e-12


def test_shares_of_missing_values_are_compared_like_any_two_cells() -> None:
    schema = Schema.of({"x": pa.array([1.0, 2.0])})
    some = Profile.of(schema, pa.table({"x": pa.array([1.0] * 4_900 + [None] * 100, pa.float64())}))
    more = Profile.of(schema, pa.table({"x": pa.array([1.0] * 900 + [None] * 100, pa.float64())}))
    result = share_drift(some, more, "x", "missing")
    assert (result.baseline, result.current) == (0.02, 0.1)
    assert result.effect == pytest.approx(0.08)
    assert result.p_value < 1e-12
    assert share_drift(some, some, "x", "missing").p_value > 0.9
    few = compare_counts(Days((NO_DAY,), np.array([[0, 20_000]])), Days((NO_DAY,), np.array([[5, 495]])))
    # all five in the window: a fortieth to the power of five, on both sides
    assert few.p_value == pytest.approx((500 / 20_500) ** 5, rel=0.1)


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ([], [1.0]),
        ([1.0], []),
        ([], []),
        ([1.0], [1.0]),
        ([1.0] * 50, [1.0] * 50),
        ([1.0], [2.0]),
        ([None, None], [1.0, 2.0]),
        ([1.0, 2.0, np.inf], [np.nan, -np.inf, None]),
    ],
)
def test_columns_without_values_or_with_one_say_so_and_do_not_alarm(then: list, now: list) -> None:
    schema = Schema.of({"x": pa.array(then, pa.float64())})
    sides = [Profile.of(schema, pa.table({"x": pa.array(values, pa.float64())})) for values in (then, now)]
    result = column_drift(*sides, "x", level=1e-3, minimum_effect=0.03)
    assert not result.drifted
    assert result.p_value > 1e-3
    assert result.says
    json.dumps(result.as_json(), allow_nan=False)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 40), min_size=4, max_size=4), min_size=1, max_size=16),
    st.lists(st.lists(st.integers(0, 40), min_size=4, max_size=4), min_size=1, max_size=9),
    st.booleans(),
)
def test_any_counts_have_a_p_value_and_an_effect(before: list, after: list, ordered: bool) -> None:
    baseline, window = Days(dates(0, len(before)), np.array(before)), Days(dates(len(before), len(after)), np.array(after))
    found = compare(baseline, window, ordered=ordered)
    assert 0 <= found.p_value <= 1
    assert 0 <= found.effect <= 1
    began = onset(baseline, window, ordered=ordered)
    assert began is None or began in window.dates
    assert all(0 <= distance <= 1 for _, distance in day_distances(baseline, window, ordered=ordered))


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(5)), st.integers(0, 1_000))
def test_the_order_of_levels_does_not_matter(order: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(5))
    baseline, window = (Days(dates(first, days), rng.multinomial(300, shares, days)) for first, days in ((0, 14), (14, 7)))
    moved = [Days(side.dates, side.counts[:, order]) for side in (baseline, window)]
    one, other = compare(baseline, window), compare(*moved)
    assert one.p_value == pytest.approx(other.p_value, rel=1e-6)
    assert one.effect == pytest.approx(other.effect, abs=1e-9)


def test_weekdays_are_standardised_where_there_are_enough_of_each() -> None:
    rows = np.ones((28, 2), np.int64) * 50
    monday = Days(dates(28, 1), rows[:1])
    weights = standard_weights(Days(dates(0, 28), rows), monday)
    assert weights.nonzero()[0].tolist() == [0, 7, 14, 21]
    assert weights.sum() == pytest.approx(1)
    assert standard_weights(Days(dates(0, 14), rows[:14]), monday) == pytest.approx(np.full(14, 1 / 14))


def test_combination_of_p_values() -> None:
    assert cauchy_combination(0.3, 0.3) == pytest.approx(0.3)
    assert cauchy_combination(1e-12, 1.0) == pytest.approx(2e-12, rel=1e-3), "one that sees nothing does not drown one that does"
    assert cauchy_combination(1e-250, 0.5) == pytest.approx(2e-250, rel=1e-3)


def test_other_schemas_are_not_compared() -> None:
    one, two = (Profile.of(Schema.of({"x": pa.array(values)}), pa.table({"x": values})) for values in ([1.0, 2.0], [1.0, 3.0]))
    with pytest.raises(ValueError, match="schema"):
        column_drift(one, two, "x", level=0.01, minimum_effect=0.03)
