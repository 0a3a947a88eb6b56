from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.stats import norm

from include.lifecycle.confidence_sequence import (
    DAYS_LOST,
    LEAST_DAYS,
    LEAST_DIFFERING,
    LEAST_FRAUDS,
    RESERVE,
    TIGHTEST_AT,
    Sums,
    boundary,
    confidence_sequence,
)

FloatArray = np.ndarray


def sums(differences: FloatArray, stakes: FloatArray | None = None, days: int = 60) -> Sums:
    """Of independent units, (experiments, units), each its own entity, in equal days; looked at daily."""
    experiments, units = differences.shape
    by_day = differences.reshape(experiments, days, -1)
    stake = np.abs(by_day) if stakes is None else stakes.reshape(by_day.shape)
    passed = np.arange(1.0, days + 1) * np.ones((experiments, 1))

    def total(values: FloatArray) -> FloatArray:
        return np.cumsum(values.sum(axis=2), axis=1)

    squares = total(by_day**2)
    return Sums(
        events=passed * units / days,
        days=passed,
        differing=passed * units / days,
        frauds=passed * units / days,
        total=total(by_day),
        event_squares=squares,
        unit_squares=squares,
        entity_squares=squares,
        day_squares=np.cumsum(by_day.sum(axis=2) ** 2, axis=1),
        losses=total(stake),
        losses_squared=total(stake**2),
        gains=total(stake),
        gains_squared=total(stake**2),
    )


def one(**changes: float) -> Sums:
    base = dict.fromkeys((item.name for item in fields(Sums)), 0.0)
    known = {"events": 10_000.0, "days": 20.0, "differing": 500.0, "frauds": 50.0}
    known |= {"event_squares": 4e4, "unit_squares": 4e4, "day_squares": 1e3}
    return Sums(**{name: np.array(value) for name, value in (base | known | changes).items()})


def test_the_boundary_is_that_of_the_half_normal_mixture_and_tightest_where_it_says() -> None:
    counts = np.array([200.0, 500.0, 1_000.0, 2_000.0, 10_000.0])
    found = boundary(counts, 0.05)
    assert found.argmin() == list(counts).index(TIGHTEST_AT)
    assert found.max(initial=0, where=counts >= TIGHTEST_AT / 2) < 1.1 * found.min()
    # the martingale has reached 1/α there: 2 (r + 1)^(-1/2) exp(z²/2) Φ(z) ≥ 20, and hardly more
    level = -2 * np.log(0.1)
    r = (level + np.log1p(level)) / TIGHTEST_AT * counts
    z = found * np.sqrt(r / (r + 1))
    mixture = 2 / np.sqrt(r + 1) * np.exp(z**2 / 2) * norm.cdf(z)
    assert np.all((mixture >= 20) & (mixture <= 22))
    assert boundary(np.array([0.0]), 0.05) == np.inf


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_an_end_is_ever_wrong_in_no_more_experiments_than_it_says(rate: float) -> None:
    rng = np.random.default_rng(1)
    for true in (0.0, 0.1):
        sequence = confidence_sequence(sums(rng.normal(true, 1, (1_000, 3_000))), rate)
        too_low, too_high = (sequence.high < true).any(axis=1).mean(), (sequence.low > true).any(axis=1).mean()
        assert max(too_low, too_high) <= rate + 0.02


def test_a_real_difference_is_found_and_its_interval_shrinks() -> None:
    rng = np.random.default_rng(2)
    sequence = confidence_sequence(sums(rng.normal(-0.2, 1, (200, 6_000))), 0.05)
    assert (sequence.high[:, -1] < 0).mean() == 1
    width = (sequence.high - sequence.low).mean(axis=0)
    assert width[-1] < width[29] / 1.3
    assert sequence.value[:, -1].mean() == pytest.approx(-0.2, abs=0.01)


def test_rare_losses_that_have_not_come_yet_are_reckoned_with() -> None:
    """Saves 1 nearly always, loses 400 once in 401 times: worth nothing, but looks good for long."""
    lost = np.random.default_rng(3).random((1_000, 4_800)) < 1 / 401
    known = sums(np.where(lost, 400.0, -1.0), stakes=np.full(lost.shape, 400.0))
    known = replace(known, frauds=np.cumsum(lost.reshape(1_000, 60, -1).sum(axis=2), axis=1).astype(float))

    def found(known: Sums) -> float:
        return float((confidence_sequence(known, 0.05).high < 0).any(axis=1).mean())

    assert found(known) <= 0.05
    no_burn_in = replace(known, frauds=np.full(known.frauds.shape, 1e9))
    assert found(no_burn_in) > 0.1
    assert found(replace(no_burn_in, losses_squared=0 * known.losses_squared)) > 2 * found(no_burn_in)


def test_days_on_which_everything_goes_wrong_at_once_are_no_evidence() -> None:
    rng = np.random.default_rng(4)
    waves = rng.normal(0, 0.4, (1_000, 60, 1)) + rng.normal(0, 1, (1_000, 60, 100))
    known = sums(waves.reshape(1_000, -1))
    sequence = confidence_sequence(known, 0.05)
    assert (sequence.high < 0).any(axis=1).mean() <= 0.06
    alone = confidence_sequence(replace(known, day_squares=0 * known.day_squares), 0.05)
    assert (alone.high < 0).any(axis=1).mean() > 0.3


def test_the_largest_of_the_three_scatters_decides() -> None:
    ends = {
        name: float(confidence_sequence(one(event_squares=1.6e5, **changes), 0.05).high)
        for name, changes in {
            "units": {},
            "entities": {"entity_squares": 1.6e5},
            "days": {"day_squares": 1.6e5 * (20 - DAYS_LOST) / 20},
        }.items()
    }
    assert ends["entities"] == pytest.approx(2 * ends["units"])
    assert ends["days"] == pytest.approx(ends["entities"])
    mean_of_days = confidence_sequence(one(total=-4e3, day_squares=4e3**2 / 20), 0.05)  # every day the same: no scatter
    assert float(mean_of_days.high) == pytest.approx(-0.4 + ends["units"])


def test_the_reserve_moves_each_end_by_what_could_still_be_lost_there() -> None:
    plain = confidence_sequence(one(), 0.05)
    at_stake = confidence_sequence(one(losses=1e4, losses_squared=4e6), 0.05)
    worst = RESERVE * 4e6 / 1e4
    factor = float(boundary(np.array(500.0), 0.05))
    assert float(at_stake.high) == pytest.approx((worst + factor * np.sqrt(4e4 + worst**2)) / 10_000)
    assert at_stake.low == plain.low == -plain.high


@pytest.mark.parametrize("goes_on", [0.0, 0.5, 2 / 3, 0.9])
def test_the_reserve_is_of_a_whole_run_where_differences_are_repeated(goes_on: float) -> None:
    """Each run of N like events is an entity's: squares of sums are N² an entity, those of events N."""
    lengths = np.arange(1.0, 2_000)
    chance = goes_on ** (lengths - 1) * (1 - goes_on)
    first, second, third = ((chance * lengths**power).sum() for power in (1, 2, 3))
    squares = {"event_squares": 4e4 * first / second, "unit_squares": 4e4 * first / second, "entity_squares": 4e4}
    known = {"differing": 5_000.0, "frauds": 500.0, "losses": 1e4, "losses_squared": 4e6}
    worst = RESERVE * third / second * 4e6 / 1e4
    factor = float(boundary(np.array(5_000.0), 0.05))
    found = confidence_sequence(one(**known, **squares), 0.05)
    assert float(found.high) == pytest.approx((worst + factor * np.sqrt(4e4 + worst**2)) / 10_000)
    within_units = confidence_sequence(one(**known, **squares | {"unit_squares": 4e4}), 0.05)
    assert float(within_units.high) == float(found.high)


def test_losses_that_come_in_runs_are_not_taken_for_many() -> None:
    """Runs of 5 events on average, all of one end: nearly always each saves 1, and once in 101 runs each loses 100."""
    rng = np.random.default_rng(6)
    shape = (1_000, 60, 100)
    length = rng.geometric(0.2, shape).astype(float)
    each = np.where(rng.random(shape) < 1 / 101, 100.0, -1.0)

    def total(values: FloatArray) -> FloatArray:
        return np.cumsum(values.sum(axis=2), axis=1)

    runs = sums((length * each).reshape(shape[0], -1))
    stakes = {"losses": total(100 * length), "losses_squared": total(1e4 * length), "gains": total(length), "gains_squared": total(length)}
    known = replace(runs, event_squares=total(length * each**2), frauds=total(length * (each > 0)), events=total(length), **stakes)

    def found(known: Sums) -> float:
        return float((confidence_sequence(known, 0.05).high < 0).any(axis=1).mean())

    assert found(known) <= 0.05
    assert found(replace(known, event_squares=known.entity_squares)) > 0.1  # as if nothing were repeated


@pytest.mark.parametrize("few", [{"differing": LEAST_DIFFERING - 1.0}, {"frauds": LEAST_FRAUDS - 1.0}, {"days": LEAST_DAYS - 1.0}])
def test_nothing_is_said_of_too_little(few: dict[str, float]) -> None:
    sequence = confidence_sequence(one(total=-1e6, **few), 0.05)
    assert (float(sequence.low), float(sequence.high)) == (-np.inf, np.inf)
    assert float(sequence.value) == -100


@pytest.mark.parametrize("few", [{"differing": 4.0 * LEAST_DIFFERING}, {"frauds": 4.0 * LEAST_FRAUDS}])
def test_what_is_repeated_counts_as_often_as_it_would_without_runs(few: dict[str, float]) -> None:
    enough = {"differing": 1e6, "frauds": 1e6, "total": -1e6} | few
    assert float(confidence_sequence(one(**enough, entity_squares=4.0 * 4e4), 0.05).high) < 0
    assert float(confidence_sequence(one(**enough, entity_squares=4.1 * 4e4), 0.05).high) == np.inf


def test_without_events_there_is_no_value_and_no_warning() -> None:
    nothing = Sums(**{item.name: np.zeros(1) for item in fields(Sums)})
    sequence = confidence_sequence(nothing, 0.05)
    assert np.isnan(sequence.value[0])
    assert (sequence.low[0], sequence.high[0]) == (-np.inf, np.inf)


@pytest.mark.parametrize("rate", [0.0, 0.5, -1.0, float("nan")])
def test_an_error_rate_is_a_chance(rate: float) -> None:
    with pytest.raises(ValueError, match="error rate"):
        confidence_sequence(one(), rate)
