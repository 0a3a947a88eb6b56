from __future__ import annotations

import csv
import io
from dataclasses import replace
from datetime import UTC, datetime
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include import domains
from include.lifecycle import landing
from include.lifecycle.costs import expected_benefit
from include.lifecycle.domain import Costs, ReviewCapacity
from include.lifecycle.explain import Reason
from include.lifecycle.metrics import reviewed_share
from include.lifecycle.review_queue import (
    QueuedEvent,
    guarded,
    in_words,
    most_worthwhile,
    queue_columns,
    queue_csv,
    reviews_of_a_day,
    unguarded,
)

DOMAIN = domains.get("auto_claims")
EVENT = QueuedEvent(
    rank=1,
    event_id="17",
    event_time=datetime(2026, 3, 31, 8, 30, tzinfo=UTC),
    entity_id="17",
    amount=12_500.0,
    score=0.25,
    expected_benefit=562.5,
    reasons=(Reason("claims_past_year", 3.0, 1.2), Reason("auto_year", None, -0.5)),
    known_fraud_since=None,
)
# few values, so that ties are common; on both sides of 0
BENEFITS = st.lists(st.sampled_from([-3.0, -0.5, 0.0, 0.5, 2.0, 7.25]), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("capacity", "events", "reviews"),
    [
        (ReviewCapacity(per_day=100), 10_000, 100),
        (ReviewCapacity(per_day=100), 40, 40),
        (ReviewCapacity(share=0.05), 10_000, 500),
        (ReviewCapacity(share=0.05), 20, 1),
        (ReviewCapacity(share=0.05), 21, 2),
        (ReviewCapacity(share=0.05), 3, 1),
        (ReviewCapacity(share=0.1), 30, 3),  # 0.1 · 30 is a little more than 3 in floating point
        (ReviewCapacity(share=0.05), 0, 0),
    ],
)
def test_reviews_of_a_day(capacity: ReviewCapacity, events: int, reviews: int) -> None:
    assert reviews_of_a_day(capacity, events) == reviews


@given(BENEFITS, st.integers(1, 9), st.randoms(use_true_random=False))
def test_no_other_choice_within_the_capacity_saves_more_and_the_order_of_rows_does_not_matter(
    benefits: list[float], per_day: int, random: object
) -> None:
    ids = [f"E{row}" for row in range(len(benefits))]
    chosen = most_worthwhile(ids, benefits, ReviewCapacity(per_day=per_day))
    best = max(sum(each) for size in range(per_day + 1) for each in combinations(benefits, size))
    assert sum(benefits[row] for row in chosen) == best
    assert len(chosen) <= per_day
    assert all(benefits[row] > 0 for row in chosen)
    ranked = sorted((row for row in range(len(ids)) if benefits[row] > 0), key=lambda row: (-benefits[row], ids[row]))
    assert chosen.tolist() == ranked[:per_day]

    shuffled = list(range(len(ids)))
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = most_worthwhile([ids[row] for row in shuffled], [benefits[row] for row in shuffled], ReviewCapacity(per_day=per_day))
    assert [ids[shuffled[row]] for row in again] == [ids[row] for row in chosen]


def test_the_queue_is_what_the_evaluation_counts_as_reviewed() -> None:
    """``savings_at_capacity`` is measured with ``reviewed_share``; analysts get the same events, as long as nothing is tied."""
    random = np.random.default_rng(3)
    scores, amounts = random.random(400) ** 6, random.gamma(2.0, 50.0, 400)
    benefit = expected_benefit(scores, amounts, Costs("EUR", review=5.0))
    for capacity in (ReviewCapacity(per_day=30), ReviewCapacity(share=0.05), ReviewCapacity(per_day=400)):
        share = reviewed_share(np.where(benefit > 0, benefit, -np.inf), np.zeros(400), capacity)
        chosen = most_worthwhile([str(row) for row in range(400)], benefit, capacity)
        assert sorted(chosen) == np.flatnonzero(share).tolist()
        assert benefit[chosen].tolist() == sorted(benefit[chosen], reverse=True)


@given(st.text())
def test_a_sources_text_comes_back_and_never_begins_like_a_formula(text: str) -> None:
    assert unguarded(guarded(text)) == text
    assert not guarded(text).startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"))


def test_only_texts_that_begin_like_a_formula_are_changed() -> None:
    assert [guarded(text) for text in ("17", "C-17", "a=b", "", "Ünal")] == ["17", "C-17", "a=b", "", "Ünal"]
    assert guarded("=HYPERLINK(1)") == "'=HYPERLINK(1)"


def test_the_csv_is_one_that_spreadsheets_and_the_landing_rules_read() -> None:
    queue = [EVENT, replace(EVENT, rank=2, event_id="=1+1", entity_id='@x,"y', known_fraud_since=datetime(2026, 3, 30, tzinfo=UTC))]
    body = queue_csv(DOMAIN, queue)
    rows = list(csv.DictReader(io.StringIO(body.decode("utf-8-sig"), newline="")))
    assert list(rows[0]) == list(queue_columns(DOMAIN))
    assert {name: rows[0][name] for name in ("rank", "policy_id", "event_time", "amount", "currency", "score", "known_fraud_since")} == {
        "rank": "1", "policy_id": "17", "event_time": "2026-03-31T08:30:00Z", "amount": "12500.00", "currency": "USD", "score": "0.250000",
        "known_fraud_since": "",
    }  # fmt: skip
    assert rows[0]["reasons"] == "claims past year = 3 raises the odds 3.32-fold; auto year is unknown, which lowers the odds 1.65-fold"
    assert (rows[1]["policy_id"], rows[1]["entity_id"], rows[1]["known_fraud_since"]) == ("'=1+1", "'@x,\"y", "2026-03-30T00:00:00Z")
    assert [rows[0][name] for name in ("label", "decided_at", "decided_by", "note")] == ["", "", "", ""]
    read = landing.read(body, "queue.csv", DOMAIN.labels_table)
    assert (read.refused, read.records, read.damaged) == (None, 2, [])


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (Reason("amount_30d", 812.5, 1.1631), "amount 30d = 812.5 raises the odds 3.2-fold"),
        (Reason("amount_30d", 1_234_567.8, -0.0953), "amount 30d = 1,234,568 lowers the odds 1.1-fold"),
        (Reason("x", 0.0, 9.0), "x = 0 raises the odds 8,103-fold"),
        (Reason("x", None, 0.6931), "x is unknown, which raises the odds 2-fold"),
        (Reason("x", -1.0, 900.0), "x = -1 raises the odds more than 1,000,000-fold"),
    ],
)
def test_reasons_in_words(reason: Reason, words: str) -> None:
    assert in_words(reason) == words
    assert words.isascii()


def test_why_an_event_is_in_the_queue_is_said_before_what_moved_its_score() -> None:
    for reasons, told in ((EVENT.reasons, "because; claims past year = 3 "), ((), "because")):
        text = queue_csv(DOMAIN, [replace(EVENT, reasons=reasons, why="because")]).decode("utf-8-sig")
        [row] = csv.DictReader(io.StringIO(text, newline=""))
        assert row["reasons"].startswith(told)
        assert row["reasons"].count(";") == len(reasons)
