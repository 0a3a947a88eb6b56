"""``include.lifecycle.guardrails``: every kind of harm trips its guardrail, healthy traffic trips none, and silence is no health."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.lifecycle.domain import Guardrails
from include.lifecycle.experiment import LATENCY_BOUNDS_MS, SCORE_CELLS, GatewayHealth, VariantCounts
from include.lifecycle.guardrails import NAMES, Reading, exceeds, judge, p99

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
LIMITS = Guardrails()
FAIR: dict[str, Any] = {"expected": 0.1, "observed": 0.11, "p_value": 0.4}


@dataclass(frozen=True)
class Model:
    """How a variant behaves in truth: chances of an error and of a review, milliseconds (median and spread of their logarithm), scores."""

    errors: float = 0.002
    reviews: float = 0.03
    median: float = 4.0
    spread: float = 0.5
    scores: tuple[float, float] = (0.4, 6.0)

    def counts(self, rng: np.random.Generator, requests: int) -> VariantCounts:
        failed = int(rng.binomial(requests, self.errors))
        took = np.searchsorted(LATENCY_BOUNDS_MS, self.median * np.exp(self.spread * rng.normal(size=requests)))
        return VariantCounts(
            requests,
            failed,
            failed,
            int(rng.binomial(requests - failed, self.reviews)),
            tuple(np.bincount(took, minlength=len(LATENCY_BOUNDS_MS) + 1).tolist()),
            self.score_counts(rng, requests - failed),
        )

    def score_counts(self, rng: np.random.Generator, requests: int) -> tuple[int, ...]:
        cells = np.minimum((rng.beta(*self.scores, requests) * SCORE_CELLS).astype(int), SCORE_CELLS - 1)
        return tuple(np.bincount(cells, minlength=SCORE_CELLS).tolist())


def health(champion: VariantCounts, challenger: VariantCounts, age: float = 5, step: int = 3, gateway: str = "g1") -> GatewayHealth:
    return GatewayHealth(gateway, step, (NOW - timedelta(seconds=age)).isoformat(), champion, challenger)


def read(
    healths: list[GatewayHealth], shadow: tuple[int, ...] = (), ratio: dict[str, Any] | None = FAIR, began: float | None = 600
) -> dict[str, Reading]:
    since = None if began is None else NOW - timedelta(seconds=began)
    found = judge(LIMITS, 3, healths, shadow, ratio, NOW, since)
    assert [reading.name for reading in found] == list(NAMES)
    json.dumps([dataclasses.asdict(reading) for reading in found], allow_nan=False)
    assert all(reading.says[0].isupper() and reading.says.endswith(".") for reading in found)
    return {reading.name: reading for reading in found}


def looks(champion: Model, challenger: Model, share: float, seed: int, requests: int, every: int) -> Iterator[dict[str, Reading]]:
    """What is read while a step's counts grow, each time the challenger has had so many more requests."""
    rng = np.random.default_rng(seed)
    shadow = Model(scores=challenger.scores).score_counts(rng, 5_000)
    mine = theirs = VariantCounts()
    for _ in range(requests // every):
        mine += challenger.counts(rng, every)
        theirs += champion.counts(rng, int(rng.binomial(round(every / share), 1 - share)))
        yield read([health(theirs, mine)], shadow)


def tripped(readings: dict[str, Reading]) -> list[str]:
    return [name for name, reading in readings.items() if reading.tripped]


@pytest.mark.parametrize("share", [0.01, 0.5])
@pytest.mark.parametrize(
    "challenger", [Model(), Model(errors=0.006, reviews=0.05, median=6.0), Model(reviews=0.012)], ids=["same", "more", "less"]
)
def test_healthy_traffic_trips_nothing_however_often_one_looks(share: float, challenger: Model) -> None:
    # 12 steps of 40 looks; the same with 1,500 steps at each of the six: none tripped (upper end of the 95 % interval: .25 % of steps)
    false = [tripped(each) for seed in range(12) for each in looks(Model(), challenger, share, seed, requests=4_000, every=100)]
    assert false == [[]] * (12 * 40)


HARM = {
    "fails": (Model(errors=0.10), "errors", 1_000),
    "always fails": (Model(errors=1.0), "errors", 100),
    "slow": (Model(median=400.0), "latency", 100),
    "slow tail": (Model(median=60.0, spread=1.2), "latency", 500),
    "flood": (Model(reviews=0.4), "reviews", 500),
    "silence": (Model(reviews=0.0), "reviews", 2_000),
}


@pytest.mark.parametrize("share", [0.05, 0.5])
@pytest.mark.parametrize("harm", HARM)
def test_each_kind_of_harm_trips_its_guardrail(harm: str, share: float) -> None:
    challenger, name, within = HARM[harm]
    for seed in range(5):
        assert any(name in tripped(each) for each in looks(Model(), challenger, share, seed, requests=within, every=100)), seed


def test_scores_that_are_not_those_of_the_shadow_trip() -> None:
    rng = np.random.default_rng(1)
    shadow, usual = Model().score_counts(rng, 5_000), Model().counts(rng, 2_000)
    other = Model(scores=(6.0, 2.0)).counts(rng, 150)
    constant = dataclasses.replace(usual, scores=(0,) * 10 + (2_000,) + (0,) * 9)
    assert tripped(read([health(usual, other)], shadow)) == ["scores"]
    assert tripped(read([health(usual, constant)], shadow)) == ["scores"]
    assert read([health(usual, usual)])["scores"].value is None  # nothing of the shadow: nothing to compare with


def test_a_split_that_is_off_trips() -> None:
    counts = Model().counts(np.random.default_rng(1), 500)
    assert tripped(read([health(counts, counts)], ratio={**FAIR, "p_value": 1e-4})) == ["sample_ratio"]
    assert tripped(read([health(counts, counts)], ratio={**FAIR, "p_value": 0.002})) == []
    assert read([health(counts, counts)], ratio=None)["sample_ratio"].value is None


def test_silence_is_no_health() -> None:
    counts = Model().counts(np.random.default_rng(1), 500)
    assert tripped(read([])) == tripped(read([], began=None)) == tripped(read([health(counts, counts, step=2)])) == ["heartbeat"]
    assert tripped(read([health(counts, counts, age=121)])) == ["heartbeat"]
    assert tripped(read([health(counts, counts, age=-121)])) == ["heartbeat"]  # a clock that is wrong
    assert tripped(read([health(counts, counts, age=119)])) == []
    assert tripped(read([health(counts, counts, age=500), health(counts, counts, age=3, gateway="g2")])) == []
    just_begun = read([health(counts, counts, step=2)], began=30)
    assert tripped(just_begun) == []
    assert just_begun["heartbeat"].value is None  # so that no share grows on it


def test_too_few_requests_are_not_judged_and_counts_of_gateways_add() -> None:
    broken = VariantCounts(60, 60, 60, 0, (*[0] * 18, 60), (0,) * SCORE_CELLS)
    fine = Model().counts(np.random.default_rng(1), 2_000)
    one = read([health(fine, broken)], shadow=fine.scores)
    assert tripped(one) == []
    assert [one[name].value for name in ("errors", "latency", "reviews", "scores")] == [None] * 4
    assert "60 requests of the challenger, and it takes 100" in one["errors"].says
    two = read([health(fine, broken), health(fine, broken, gateway="g2")], shadow=fine.scores)
    assert {"errors", "latency"} <= set(tripped(two))


def test_a_slow_challenger_beside_a_slow_champion_is_not_the_challengers_fault() -> None:
    rng = np.random.default_rng(2)
    slow, slower, quick, tripled = (Model(median=median, spread=0.1).counts(rng, 1_000) for median in (300.0, 400.0, 2.0, 8.0))
    assert tripped(read([health(slow, slower)])) == []
    assert tripped(read([health(quick, tripled)])) == []
    assert tripped(read([health(quick, slower)])) == ["latency"]


def took(*milliseconds: float) -> VariantCounts:
    """1,000 requests that took so long, in equal parts."""
    cells = np.searchsorted(LATENCY_BOUNDS_MS, np.resize(milliseconds, 1_000))
    fine = Model().counts(np.random.default_rng(1), 1_000)
    return dataclasses.replace(fine, latencies=tuple(np.bincount(cells, minlength=len(LATENCY_BOUNDS_MS) + 1).tolist()))


@pytest.mark.parametrize("champion", [90.0, 120.0, 240.0, 400.0, 900.0])
def test_no_latency_below_the_limit_trips_wherever_its_cell_ends(champion: float) -> None:
    bound = next(each for each in LATENCY_BOUNDS_MS if champion <= each)
    limit = max(LIMITS.maximum_p99_latency_ms, LIMITS.maximum_p99_latency_ratio * bound)
    within = read([health(took(champion), took(*[5.0] * 9, 0.9 * limit))])["latency"]
    assert (within.tripped, within.beyond) == (False, False), within
    assert within.limit >= limit
    assert read([health(took(champion), took(*[5.0] * 9, 1.01 * within.limit))])["latency"].tripped


def test_what_lies_beyond_the_last_bound_is_not_judged_by_it() -> None:
    stalled, fine = took(6_000.0), took(4.0)
    for champion, challenger in ((stalled, fine), (stalled, stalled), (took(2_000.0), stalled)):
        reading = read([health(champion, challenger)])["latency"]
        assert (reading.value, reading.tripped) == (None, False), "no share grows on it"
        assert "Not judged" in reading.says
    assert read([health(took(2_000.0), fine)])["latency"].value == 5.0
    assert tripped(read([health(took(900.0), stalled)])) == ["latency"]


def test_a_value_beyond_its_limit_that_may_be_chance_says_so() -> None:
    fine = Model(errors=0.0).counts(np.random.default_rng(1), 1_000)
    unlucky = dataclasses.replace(Model(errors=0.0).counts(np.random.default_rng(2), 100), errors=3, fallbacks=3)
    reading = read([health(fine, unlucky)])["errors"]
    assert (reading.value, reading.tripped, reading.beyond) == (pytest.approx(0.03), False, True)
    assert "may be chance" in reading.says


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 400), min_size=19, max_size=19))
def test_p99_is_the_bound_that_99_of_100_keep_to(cells: list[int]) -> None:
    bounds, found = (*LATENCY_BOUNDS_MS, float("inf")), p99(cells)
    if not sum(cells):
        assert found is None
        return
    place, slower = bounds.index(found), max(1, sum(cells) // 100)
    assert sum(cells[place + 1 :]) <= slower
    assert not sum(cells[:place]) or sum(cells[place:]) > slower


def test_one_slow_request_is_no_percentile() -> None:
    cells = [0] * 19
    cells[4], cells[17] = 30, 1
    assert p99(cells) == LATENCY_BOUNDS_MS[4]
    cells[17] = 2
    assert p99(cells) == LATENCY_BOUNDS_MS[17]
    assert p99([0] * 18 + [1]) == float("inf")


@pytest.mark.parametrize("chance", [0.01, 0.2, 0.8])
def test_at_the_limit_the_test_is_wrong_as_rarely_as_it_says_at_any_look(chance: float) -> None:
    rng, level, runs = np.random.default_rng(4), 0.05, 400
    ever = 0
    for _ in range(runs):
        bad = (rng.random(2_000) < chance).cumsum()
        ever += any(exceeds(float(bad[n - 1]), n, chance, level) for n in range(10, 2_001, 10))
    assert ever / runs <= level + 3 * (level * (1 - level) / runs) ** 0.5
    assert ever  # at a level as large as this, it does happen


def test_the_mixture_is_the_integral_of_the_docstring() -> None:
    p = np.linspace(0.1, 1, 200_001)[1:-1]
    ratio = np.exp(7 * np.log(p / 0.1) + 13 * np.log((1 - p) / 0.9)).mean()
    assert exceeds(7, 20, 0.1, level=1.001 / ratio)
    assert not exceeds(7, 20, 0.1, level=0.999 / ratio)
