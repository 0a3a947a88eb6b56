from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from include.lifecycle.domain import ReviewCapacity
from include.lifecycle.metrics import (
    average_precision,
    card_precision_at_k,
    precision_recall_at_capacity,
    precision_recall_curve,
    reviewed_share,
    roc_auc,
)

EVENTS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 3)), min_size=2, max_size=40).filter(
    lambda rows: 0 < sum(label for label, _, _ in rows) < len(rows)
)


@settings(max_examples=60, deadline=None)
@given(EVENTS)
def test_agrees_with_scikit_learn_with_ties_and_weights(rows: list[tuple[int, int, int]]) -> None:
    labels, scores, weights = (np.array(column) for column in zip(*rows, strict=True))
    assert float(average_precision(labels, scores)) == pytest.approx(average_precision_score(labels, scores))
    assert float(roc_auc(labels, scores)) == pytest.approx(roc_auc_score(labels, scores))
    if 0 < (weights * labels).sum() < weights.sum():
        both = average_precision(labels, scores, np.stack([weights, np.ones_like(weights)]))
        assert both.shape == (2,)
        assert both[0] == pytest.approx(average_precision_score(labels, scores, sample_weight=weights))
        assert both[1] == pytest.approx(average_precision_score(labels, scores))
        assert float(roc_auc(labels, scores, weights)) == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights))


def test_undefined_without_fraud_or_without_genuine_events() -> None:
    assert np.isnan(average_precision([0, 0], [0.1, 0.2]))
    assert np.isnan(roc_auc([0, 0], [0.1, 0.2]))
    assert np.isnan(roc_auc([1, 1], [0.1, 0.2]))


def test_curve_ends_at_full_recall_with_the_share_of_fraud() -> None:
    precision, recall, thresholds = precision_recall_curve([1, 0, 1, 0], [0.9, 0.5, 0.5, 0.1])
    assert precision.tolist() == pytest.approx([1, 2 / 3, 1 / 2])
    assert recall.tolist() == [0.5, 1, 1]
    assert thresholds.tolist() == [0.9, 0.5, 0.1]


def test_capacity_is_spent_day_by_day() -> None:
    days = ["mon", "mon", "mon", "tue", "tue", "tue"]
    labels = [1, 0, 0, 0, 0, 1]
    scores = [0.2, 0.9, 0.1, 0.5, 0.4, 0.3]
    precision, recall = precision_recall_at_capacity(labels, scores, days, ReviewCapacity(per_day=2))
    assert reviewed_share(scores, days, ReviewCapacity(per_day=2)).tolist() == [1, 1, 0, 1, 1, 0]
    assert float(precision) == 1 / 4
    assert float(recall) == 1 / 2


def test_ties_share_what_is_left_of_the_capacity() -> None:
    assert reviewed_share([0.9, 0.5, 0.5, 0.5], [1, 1, 1, 1], ReviewCapacity(per_day=2)).tolist() == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3])
    assert reviewed_share([3, 2, 1], [1, 1, 1], ReviewCapacity(share=0.5)).tolist() == [1, 0.5, 0]
    assert reviewed_share([3, -np.inf, -np.inf], [1, 1, 1], ReviewCapacity(per_day=3)).tolist() == [1, 0, 0]


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.integers(1, 5), st.randoms())
def test_reviews_fill_the_capacity_and_no_more_in_any_order_of_rows(rows: list[tuple[int, int, int]], per_day: int, random: object) -> None:
    _, scores, days = (np.array(column) for column in zip(*rows, strict=True))
    capacity = ReviewCapacity(per_day=per_day)
    share = reviewed_share(scores, days, capacity)
    for day in np.unique(days):
        assert share[days == day].sum() == pytest.approx(min(per_day, (days == day).sum()))
    order = np.arange(len(rows))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert reviewed_share(scores[order], days[order], capacity) == pytest.approx(share[order])


@settings(max_examples=40, deadline=None)
@given(EVENTS)
def test_a_weight_of_two_is_an_event_that_came_twice(rows: list[tuple[int, int, int]]) -> None:
    labels, scores, days = (np.array(column) for column in zip(*rows, strict=True))
    weights = np.arange(len(rows)) % 3
    if not (weights * labels).sum():
        return
    repeated = [np.repeat(column, weights) for column in (labels, scores, days)]
    for capacity in (ReviewCapacity(per_day=2), ReviewCapacity(share=0.3)):
        by_weight = precision_recall_at_capacity(labels, scores, days, capacity, weights)
        by_rows = precision_recall_at_capacity(*repeated, capacity)
        assert [float(value) for value in by_weight] == pytest.approx([float(value) for value in by_rows])


def test_a_detected_card_does_not_come_again() -> None:
    #        day 1: a found, b not      day 2: a is blocked, so c takes its place
    labels = [1, 0, 0, 1, 1, 0]
    scores = [0.9, 0.8, 0.1, 0.9, 0.5, 0.4]
    days = [1, 1, 1, 2, 2, 2]
    cards = ["a", "b", "c", "a", "c", "b"]
    assert float(card_precision_at_k(labels, scores, days, cards, 1)) == 1.0
    assert float(card_precision_at_k(labels, scores, days, cards, 2)) == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_a_card_counts_once_a_day_by_its_highest_score() -> None:
    assert float(card_precision_at_k([0, 1, 0], [0.9, 0.1, 0.5], [1, 1, 1], ["a", "a", "b"], 1)) == 1.0


def test_cards_that_were_not_drawn_do_not_count() -> None:
    labels, scores, days, cards = [1, 0, 1], [0.9, 0.8, 0.7], [1, 1, 1], ["a", "b", "c"]
    weights = np.array([[1, 1, 1], [0, 1, 1], [2, 0, 0]])
    assert card_precision_at_k(labels, scores, days, cards, 1, weights).tolist() == [1, 0, 1]
    assert card_precision_at_k(labels, scores, days, cards, 2, weights).tolist() == [0.5, 0.5, 1]


WEIGHTED = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(WEIGHTED, st.integers(1, 6))
def test_capacity_on_every_resample_as_if_event_by_event(rows: list[tuple[int, int, int]], per_day: int) -> None:
    """Days of many times the capacity, ties, and resamples that leave out the highest: only the first few events are looked at, and that
    must not show."""
    scores, days, drawn = (np.array(column) for column in zip(*rows, strict=True))
    weights = np.stack([np.ones_like(drawn), drawn, np.where(scores > np.median(scores), 0, 1)]).astype(float)
    share = reviewed_share(scores, days, ReviewCapacity(per_day=per_day), weights)
    for resample, weight in enumerate(weights):
        for day in np.unique(days):
            room = float(per_day)
            for score in sorted(set(scores[days == day]), reverse=True):
                tied = (days == day) & (scores == score)
                whole = weight[tied].sum()
                part = min(1.0, room / whole) if whole else 0.0
                assert share[resample, tied] == pytest.approx(np.full(tied.sum(), part))
                room -= part * whole


def card_precision_by_hand(rows: list[tuple[int, int, int, int]], k: int, copies: dict[int, int]) -> float:
    """Each copy of a card is a card of its own, as in the resamples; no two scores are alike."""
    blocked: set[tuple[int, int]] = set()
    shares = []
    for day in sorted({day for _, _, day, _ in rows}):
        best: dict[int, tuple[int, int]] = {}
        for label, score, when, card in rows:
            if when == day:
                highest, defrauded = best.get(card, (-1, 0))
                best[card] = (max(score, highest), max(label, defrauded))
        queue = [
            (score, card, copy, defrauded)
            for card, (score, defrauded) in best.items()
            for copy in range(copies[card])
            if (card, copy) not in blocked
        ]
        found = [(card, copy) for _, card, copy, defrauded in sorted(queue, reverse=True)[:k] if defrauded]
        blocked |= set(found)
        shares.append(len(found) / k)
    return float(np.mean(shares))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 9)), min_size=1, max_size=60),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_card_precision_day_by_day_and_card_by_card(drawn: list[tuple[int, int, int]], k: int, random: object) -> None:
    scores = random.sample(range(len(drawn)), len(drawn))  # type: ignore[attr-defined]
    rows = [(label, score, day, card) for (label, day, card), score in zip(drawn, scores, strict=True)]
    labels, _, days, cards = (np.array(column) for column in zip(*rows, strict=True))
    weights = np.stack([np.ones(len(rows)), cards % 2]).astype(float)
    found = card_precision_at_k(labels, np.array(scores, float), days, cards, k, weights)
    by_hand = [card_precision_by_hand(rows, k, copies) for copies in (dict.fromkeys(range(10), 1), {card: card % 2 for card in range(10)})]
    assert found.tolist() == pytest.approx(by_hand)
