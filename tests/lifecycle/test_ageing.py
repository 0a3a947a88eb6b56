"""The ageing matrix against brute force."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from datetime import UTC, date, datetime, timedelta
from math import exp, factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.lifecycle import ageing, metrics
from include.lifecycle.ageing import (
    Cell,
    Matrix,
    Period,
    age,
    cluster_counts,
    frequency,
    measure_cell,
    periods,
    resampled_average_precision,
)
from include.lifecycle.domain import Costs, ReviewCapacity
from include.lifecycle.evaluation import Economics, Events

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
ECONOMICS = Economics(Costs("EUR", review=5.0, missed_share=0.8), ReviewCapacity(per_day=3))


@given(
    as_of=st.timedeltas(timedelta(0), timedelta(days=60)).map(lambda since: MONDAY + since),
    last=st.dates(date(2026, 1, 1), date(2026, 6, 1)),
    days=st.integers(1, 31),
)
def test_periods_are_whole_consecutive_and_later_than_the_as_of(as_of: datetime, last: date, days: int) -> None:
    found = periods(as_of, last, days)
    assert all((period.last - period.first).days == days - 1 for period in found)
    assert all(b.start == a.end for a, b in itertools.pairwise(found))
    first = found[0].start if found else None
    if first:
        assert timedelta(0) <= first - as_of < timedelta(days=1)
        assert [age(as_of, period, days) for period in found] == list(range(len(found)))
    end = found[-1].last if found else as_of.date()
    assert end <= last or not found
    assert (last - end).days < days + 1, "no whole period is left over"


def test_age_counts_whole_periods_from_the_as_of() -> None:
    period = Period(date(2026, 2, 2), date(2026, 2, 8))
    assert [age(period.start - timedelta(hours=hours), period, 7) for hours in (-1, 0, 1, 167, 168, 169)] == [-1, 0, 0, 0, 1, 1]


def test_counts_are_poisson_and_belong_to_the_name() -> None:
    names = np.array([f"card {number}" for number in range(3_000)])
    codes, counts = cluster_counts(names)
    assert counts.shape == (500, 3_000)
    for k in range(5):
        expected = exp(-1) / factorial(k)
        # five standard errors of a share among independent counts
        assert abs((counts == k).mean() - expected) < 5 * (expected * (1 - expected) / counts.size) ** 0.5
    across = np.corrcoef(counts[:, :60].T.astype(float))[np.triu_indices(60, 1)]
    assert abs(across.mean()) < 0.01, "clusters are independent"
    assert across.std() < 1.2 / 500**0.5
    between = np.corrcoef(counts[:60].astype(float))[np.triu_indices(60, 1)]
    assert abs(between.mean()) < 0.01, "resamples are independent"
    assert between.std() < 1.2 / 3_000**0.5
    some = names[[7, 2_999, 7]]
    fewer_codes, fewer = cluster_counts(some)
    np.testing.assert_array_equal(fewer[:, fewer_codes], counts[:, codes][:, [7, 2_999, 7]])


def test_counts_of_very_many_clusters_take_little_memory_beside_themselves() -> None:
    names = np.array([f"card {number}" for number in range(10_000)])
    tracemalloc.start()
    _, counts = cluster_counts(names)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * counts.nbytes, "as floats they would be eight times as much"


def test_few_resamples_at_once_give_the_same_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    events = random_events(np.random.default_rng(3), 60)
    scores = np.random.default_rng(4).random(60)
    whole = measure_cell(events, scores, ECONOMICS, *cluster_counts(events.groups))
    monkeypatch.setattr(ageing, "_COUNTS_AT_ONCE", 1_000)
    parts = measure_cell(events, scores, ECONOMICS, *cluster_counts(events.groups))
    assert parts.metrics == whole.metrics
    for name, draws in whole.draws.items():
        np.testing.assert_allclose(parts.draws[name], draws, rtol=1e-12)


def random_events(generator: np.random.Generator, size: int, fraud: float = 0.2) -> Events:
    groups = generator.integers(0, max(1, size // 2), size).astype(str)
    return Events(
        labels=(generator.random(size) < fraud).astype(np.float64),
        amounts=np.round(generator.gamma(2.0, 20.0, size), 2),
        days=np.datetime64("2026-02-02") + generator.integers(0, 3, size),
        entities=groups,
        groups=groups,
    )


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 200), ties=st.integers(1, 50), fraud=st.sampled_from([0.0, 0.05, 0.5, 1.0]))
def test_resampled_average_precision_is_that_of_weighted_events(seed: int, size: int, ties: int, fraud: float) -> None:
    generator = np.random.default_rng(seed)
    events, scores = random_events(generator, size, fraud), generator.integers(0, ties, size) / ties
    codes, counts = cluster_counts(events.groups, 40)
    found = resampled_average_precision(events.labels, scores, codes, counts)
    expected = metrics.average_precision(events.labels, scores, counts[:, codes].astype(np.float64))
    np.testing.assert_allclose(found, expected, atol=1e-12)


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 80))
def test_money_of_a_cell_event_by_event(seed: int, size: int) -> None:
    generator = np.random.default_rng(seed)
    events, scores = random_events(generator, size), generator.random(size)
    codes, counts = cluster_counts(events.groups, 20)
    cell = measure_cell(events, scores, ECONOMICS, codes, counts)
    cost, without = np.zeros(size), 0.8 * events.labels * events.amounts
    for day in set(events.days):
        benefit = {row: scores[row] * 0.8 * events.amounts[row] - 5.0 for row in range(size) if events.days[row] == day}
        reviewed = sorted((row for row in benefit if benefit[row] > 0), key=lambda row: -benefit[row])[:3]
        for row in benefit:
            cost[row] = 5.0 if row in reviewed else without[row]
    assert cell.metrics["cost"] == pytest.approx(cost.sum())
    assert cell.metrics["cost_without_model"] == pytest.approx(without.sum())
    drawn = counts[:, codes].astype(np.float64)
    np.testing.assert_allclose(cell.draws["cost"], drawn @ cost)
    np.testing.assert_allclose(cell.draws["cost_without_model"], drawn @ without)
    if without.sum():
        assert cell.metrics["savings_at_capacity"] == pytest.approx(1 - cost.sum() / without.sum())
    assert (cell.events, cell.positives) == (size, int(events.labels.sum()))


def test_a_cell_comes_back_from_json() -> None:
    events = random_events(np.random.default_rng(1), 30, fraud=0.0)  # average precision is undefined
    cell = measure_cell(events, np.linspace(0, 1, 30), ECONOMICS, *cluster_counts(events.groups, 10))
    again = Cell.from_json(json.loads(json.dumps(cell.as_json(), allow_nan=False)))
    assert np.isnan(again.metrics["average_precision"])
    assert np.isnan(again.draws["average_precision"]).all()
    assert json.dumps(again.as_json()) == json.dumps(cell.as_json())


def cell(cost: float, precision: float, noise: np.ndarray) -> Cell:
    draws = {"average_precision": precision + noise / 1e4, "cost": cost + noise, "cost_without_model": 1000 + noise}
    known = {"average_precision": precision, "cost": cost, "cost_without_model": 1000.0, "savings_at_capacity": 1 - cost / 1000}
    return Cell(100, 5, known, draws)


@st.composite
def matrices(draw: st.DrawFn) -> Matrix:
    """As-ofs with gaps, at any hour; some rows blank, some columns without events."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weeks = draw(st.integers(1, 10))
    starts = sorted(draw(st.sets(st.integers(0, weeks), min_size=1)))
    as_ofs = [MONDAY + timedelta(days=7 * start, hours=-draw(st.integers(0, 20))) for start in starts]
    columns = periods(as_ofs[0], (MONDAY + timedelta(days=7 * (weeks + 1) - 1)).date(), 7)
    blank = draw(st.sets(st.sampled_from(range(len(as_ofs))), max_size=len(as_ofs) - 1))
    empty = draw(st.sets(st.sampled_from(range(len(columns))), max_size=len(columns) - 1))
    cells = {
        (row, column): cell(generator.uniform(100, 900), generator.random(), generator.normal(0, 20, 30))
        for row, as_of in enumerate(as_ofs)
        for column, period in enumerate(columns)
        if row not in blank and column not in empty and period.start >= as_of
    }
    return Matrix(as_ofs, columns, 7, cells)


@given(matrix=matrices())
def test_by_age_against_brute_force(matrix: Matrix) -> None:
    pairs: dict[int, list[tuple[Cell, Cell]]] = {}
    for (row, column), found in matrix.cells.items():
        weeks = int((matrix.periods[column].start - matrix.as_ofs[row]).total_seconds() // (7 * 86_400))
        newest = [matrix.cells[other, column] for other in range(len(matrix.as_ofs)) if (other, column) in matrix.cells][-1]
        pairs.setdefault(weeks, []).append((found, newest))
    by_age = matrix.by_age()
    assert [each["age"] for each in by_age] == sorted(pairs)
    for each in by_age:
        its = pairs[each["age"]]
        assert each["cells"] == len(its)
        assert each["cheaper_than_freshest_in"] == sum(a.metrics["cost"] < b.metrics["cost"] for a, b in its)
        for name in ("cost", "average_precision"):
            assert each["mean"][name] == pytest.approx(np.mean([a.metrics[name] for a, _ in its]))
            differences = [a.metrics[name] - b.metrics[name] for a, b in its]
            draws = np.mean([a.draws[name] - b.draws[name] for a, b in its], axis=0)
            found = each["versus_freshest"][name]
            assert found["value"] == pytest.approx(np.mean(differences))
            assert [found["low"], found["high"]] == pytest.approx(np.quantile(draws, [0.025, 0.975]))


@given(matrix=matrices())
def test_policies_against_a_walk_through_time(matrix: Matrix) -> None:
    walked = {}
    measured = sorted({column for _, column in matrix.cells})
    for policy in matrix.policies():
        in_use, since, cost, draws = -1, None, 0.0, np.zeros(30)
        for column in range(measured[0], len(matrix.periods)):
            scored = [row for row in range(len(matrix.as_ofs)) if (row, column) in matrix.cells]
            if since is None or (policy.every is not None and column - since >= policy.every):
                since = column
                in_use = max(row for row in range(len(matrix.as_ofs)) if matrix.as_ofs[row] <= matrix.periods[column].start)
            if scored:
                usable = [row for row in scored if row <= in_use]
                row = usable[-1] if usable else scored[0]
                assert policy.used[column] == row
                cost += matrix.cells[row, column].metrics["cost"]
                draws += matrix.cells[row, column].draws["cost"]
        assert policy.cost == pytest.approx(cost)
        found = matrix.cost(policy)
        assert [found.low, found.high] == pytest.approx(np.quantile(draws, [0.025, 0.975]))
        walked[policy.every] = (cost, draws)
    often, *others = matrix.policies()
    for other in others:
        saved = matrix.compare(often, other).saved
        assert saved.value == pytest.approx(walked[other.every][0] - walked[often.every][0], abs=1e-6)
        bounds = np.quantile(walked[other.every][1] - walked[often.every][1], [0.025, 0.975])
        assert [saved.low, saved.high] == pytest.approx(bounds, abs=1e-6)


def weekly(cost_of_age: float, noise: float, weeks: int = 9, spacing: int = 1) -> Matrix:
    """A model every ``spacing`` weeks; each week of age costs ``cost_of_age``, up to ``noise``."""
    as_ofs = [MONDAY + timedelta(days=7 * week) for week in range(0, weeks, spacing)]
    columns = periods(MONDAY, (MONDAY + timedelta(days=7 * weeks - 1)).date(), 7)
    generator = np.random.default_rng(3)
    cells = {
        (row, column): cell(500 + cost_of_age * age(as_of, period, 7), 0.5, generator.normal(0, noise, 200))
        for row, as_of in enumerate(as_ofs)
        for column, period in enumerate(columns)
        if period.start >= as_of
    }
    return Matrix(as_ofs, columns, 7, cells)


def test_the_sentence_says_whether_it_would_have_paid() -> None:
    # ages of 0, 1, 2, 3 weeks in turn, and 0 in the ninth week: 2 x 6 weeks of age, at 10 EUR each
    paid = weekly(10.0, noise=1.0).sentence("EUR")
    assert paid
    assert paid.startswith("Retraining every week instead of every 4 weeks would have saved 120 EUR over 9 weeks (95% interval 1")
    assert "20 EUR for each of the 6 additional models. Retraining every week instead of never would have saved 360 EUR" in paid
    worse = weekly(-10.0, noise=1.0).sentence("EUR")
    assert worse
    assert "would not have paid: it would have cost 120 EUR more over 9 weeks" in worse
    unclear = weekly(1.0, noise=100.0).sentence("EUR")
    assert unclear
    assert "would not have made a difference that can be told from chance: 12 EUR saved over 9 weeks" in unclear


def test_models_that_come_seldom_tell_nothing_about_training_often() -> None:
    matrix = weekly(10.0, noise=1.0, weeks=12, spacing=4)
    assert [policy.every for policy in matrix.policies()] == [4, 8, None]
    assert [frequency(policy.every, 7) for policy in matrix.policies()] == ["every 4 weeks", "every 8 weeks", "never"]
    assert weekly(10.0, noise=1.0, weeks=1).sentence("EUR") is None, "one model in one week can tell nothing"
    assert (frequency(1, 7), frequency(2, 10), frequency(1, 1)) == ("every week", "every 20 days", "every 1 day")
