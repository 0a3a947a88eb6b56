"""``include.lifecycle.assignment``: shares are met, entities stay, and nothing but the arguments decides."""

from __future__ import annotations

import subprocess
import sys
import timeit
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from math import sqrt
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.lifecycle.assignment import assign, disagreement_review, epoch_of, random_review

ROOT = Path(__file__).resolve().parents[2]
ENTITIES = [f"card {number}" for number in range(20_000)]
SHARES = st.dictionaries(st.sampled_from(["champion", "challenger", "third"]), st.floats(0.001, 1), min_size=2)


def test_epochs_are_counted_in_utc_from_1970_whatever_the_time_zone() -> None:
    day = timedelta(days=1)
    assert epoch_of(datetime(1970, 1, 1, 23, 59, tzinfo=UTC), day) == 0
    assert epoch_of(datetime(1970, 1, 2, tzinfo=UTC), day) == 1
    assert epoch_of(datetime(1969, 12, 31, 23, tzinfo=UTC), day) == -1
    assert epoch_of(datetime(2026, 3, 1, 5), day) == epoch_of(datetime(2026, 3, 1, 5, tzinfo=UTC), day) == 20_513  # noqa: DTZ001
    assert epoch_of(datetime(2026, 3, 1, 1, tzinfo=timezone(timedelta(hours=2))), day) == 20_512
    assert epoch_of(datetime(1970, 1, 1, 7, tzinfo=UTC), timedelta(hours=6)) == 1


@pytest.mark.parametrize("share", [0.001, 0.01, 0.25, 0.5, 0.9])
def test_shares_are_met_within_binomial_noise(share: float) -> None:
    shares = {"champion": 1 - share, "challenger": share}
    hits = sum(assign("fraud-7", 20_000, entity, shares) == "challenger" for entity in ENTITIES)
    assert abs(hits - share * len(ENTITIES)) < 4 * sqrt(share * (1 - share) * len(ENTITIES))


def test_three_variants_get_shares_relative_to_their_sum() -> None:
    shares = {"a": 2.0, "b": 1.0, "c": 1.0}
    counts = Counter(assign("e", 1, entity, shares) for entity in ENTITIES)
    assert [counts[name] / len(ENTITIES) for name in shares] == pytest.approx([0.5, 0.25, 0.25], abs=0.015)


@settings(max_examples=60, deadline=None)
@given(SHARES, st.floats(1.01, 50), st.integers(0, 30_000), st.data())
def test_entities_only_move_into_the_variant_whose_share_grew(
    shares: dict[str, float], factor: float, epoch: int, data: st.DataObject
) -> None:
    grown = data.draw(st.sampled_from(sorted(shares)))
    more = shares | {grown: shares[grown] * factor}
    moved = 0
    for entity in ENTITIES[:400]:
        before, after = assign("e", epoch, entity, shares), assign("e", epoch, entity, more)
        assert after in {before, grown}
        moved += before != after
    expected = more[grown] / sum(more.values()) - shares[grown] / sum(shares.values())  # no more than it takes
    assert moved / 400 <= expected + 4 * sqrt(expected * (1 - expected) / 400) + 0.01


@given(st.text(max_size=30), st.integers(-5, 30_000), st.text(max_size=30))
def test_a_share_of_nought_never_wins_and_the_order_of_shares_is_nothing(experiment: str, epoch: int, entity: str) -> None:
    assert assign(experiment, epoch, entity, {"champion": 1.0, "challenger": 0.0}) == "champion"
    assert assign(experiment, epoch, entity, {"champion": 0.0, "challenger": 0.2}) == "challenger"
    assert assign(experiment, epoch, entity, {"a": 0.4, "b": 0.6}) == assign(experiment, epoch, entity, {"b": 0.6, "a": 0.4})


@pytest.mark.parametrize(("one", "other"), [(("e", 5), ("e", 6)), (("e", 5), ("f", 5)), (("e1", 1), ("e", 11))])
def test_epochs_and_experiments_are_independent(one: tuple[str, int], other: tuple[str, int]) -> None:
    shares = {"champion": 0.7, "challenger": 0.3}
    both = sum(assign(*one, entity, shares) == assign(*other, entity, shares) == "challenger" for entity in ENTITIES)
    assert abs(both / len(ENTITIES) - 0.09) < 4 * sqrt(0.09 * 0.91 / len(ENTITIES))


def test_reviews_by_lot_have_their_share_and_nothing_to_do_with_the_assignment() -> None:
    drawn = [random_review("card_payments", entity, 0.2) for entity in ENTITIES]
    assert abs(sum(drawn) / len(ENTITIES) - 0.2) < 4 * sqrt(0.16 / len(ENTITIES))
    mine = [lot for lot, entity in zip(drawn, ENTITIES, strict=True) if assign("card_payments", 1, entity, {"a": 0.5, "b": 0.5}) == "a"]
    assert abs(sum(mine) / len(mine) - 0.2) < 4 * sqrt(0.16 / len(mine))
    assert [random_review("d", entity, 0.0) for entity in ENTITIES[:100]] == [False] * 100
    assert [random_review("d", entity, 1.0) for entity in ENTITIES[:100]] == [True] * 100
    smaller = {entity for entity in ENTITIES if random_review("d", entity, 0.01)}
    assert smaller <= {entity for entity in ENTITIES if random_review("d", entity, 0.05)}  # a larger share keeps whom a smaller one drew


def test_the_lot_among_disagreements_has_its_share_of_whatever_the_other_lots_drew() -> None:
    drawn = [disagreement_review("fraud-7", entity, 0.2) for entity in ENTITIES]
    assert abs(sum(drawn) / len(ENTITIES) - 0.2) < 4 * sqrt(0.16 / len(ENTITIES))
    others = (
        [random_review("fraud-7", entity, 0.5) for entity in ENTITIES],  # the same name, too
        [disagreement_review("fraud-8", entity, 0.5) for entity in ENTITIES],
        [assign("fraud-7", 1, entity, {"a": 0.5, "b": 0.5}) == "a" for entity in ENTITIES],
    )
    for other in others:
        mine = [lot for lot, chosen in zip(drawn, other, strict=True) if chosen]
        assert abs(sum(mine) / len(mine) - 0.2) < 4 * sqrt(0.16 / len(mine))
    assert not any(disagreement_review("e", entity, 0.0) for entity in ENTITIES[:100])


def test_another_process_answers_the_same() -> None:
    script = (
        "from include.lifecycle.assignment import assign, random_review\n"
        "shares = {'champion': .8, 'challenger': .2}\n"
        "print(''.join(assign('fraud-7', 20000, f'card {n}', shares)[3] + str(int(random_review('d', f'{n}', .1))) for n in range(300)))"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    shares = {"champion": 0.8, "challenger": 0.2}
    here = "".join(assign("fraud-7", 20_000, f"card {n}", shares)[3] + str(int(random_review("d", f"{n}", 0.1))) for n in range(300))
    assert answers == {here + "\n"}


def test_the_answers_of_today_are_those_of_tomorrow() -> None:
    # a change of the hash would hand entities to the other model in the middle of every ramp
    shares = {"champion": 0.5, "challenger": 0.5}
    assert "".join(assign("fraud-7", 20_000, f"card {n}", shares)[3] for n in range(24)) == PINNED


@pytest.mark.parametrize("shares", [{}, {"a": 0.0}, {"a": -0.1, "b": 1.1}, {"a": float("nan"), "b": 1.0}, {"a": float("inf"), "b": 1.0}])
def test_shares_that_are_none_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="experiment 'e'"):
        assign("e", 1, "card", shares)


def test_it_is_fast_enough_for_a_request() -> None:
    shares = {"champion": 0.9, "challenger": 0.1}
    assert min(timeit.repeat(lambda: assign("fraud-7", 20_000, "card 12345", shares), number=2_000, repeat=5)) / 2_000 < 50e-6


PINNED = "mlmlllmlmllllllllmllllmm"
