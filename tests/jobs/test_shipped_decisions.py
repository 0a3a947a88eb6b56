"""However gateways ship their decisions, in whatever order and how often, the same ones are found."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from claims_store import LAYOUT
from rollout_lab import ship

from include.jobs.shipped_decisions import read_decisions
from include.lifecycle.experiment import CHALLENGER, CHAMPION
from include.stores.objects import ObjectStore

BEGAN = datetime(2026, 4, 1, tzinfo=UTC)


def decision(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "inference_id": f"E{number}",
        "experiment": "exp-1",
        "override": False,
        "entity_id": f"P{number % 7}",
        "event_time": (BEGAN + timedelta(hours=number)).isoformat(),
        "amount": 10.0 * number,
        "features": [float(number), None],
        "assigned": CHALLENGER if number % 3 else CHAMPION,
        "share": 0.25,
        "wanted": number % 2 == 0,
        "decided_at": (BEGAN + timedelta(days=200, seconds=number)).isoformat(),
    } | changes


@pytest.mark.parametrize("seed", range(5))
def test_order_repetition_and_files_do_not_matter(bucket: ObjectStore, seed: int) -> None:
    first = [decision(number) for number in range(40)]
    again = [row | {"decided_at": "2027-01-01T00:00:00Z", "assigned": CHAMPION, "wanted": True} for row in first[::4]]
    generator = random.Random(seed)
    lines = [*first, *again, *generator.choices(first, k=30)]
    generator.shuffle(lines)
    files = generator.randint(1, 6)
    for number in range(files):
        ship(bucket, lines[number::files], f"g{generator.randint(0, 1)}-{number}", day=date(2026, 11, 20 + number % 3))
    found = read_decisions(bucket, LAYOUT, "exp-1", 2)
    assert [each.inference_id for each in found.kept] == [f"E{number}" for number in range(40)]
    assert [each.wanted for each in found.kept] == [row["wanted"] for row in first]
    assert [each.assigned_challenger for each in found.kept] == [row["assigned"] == CHALLENGER for row in first]
    assert found.left_out == {"damaged": 0, "another_experiment": 0, "overridden": 0, "repeated": 40}
    np.testing.assert_array_equal(found.kept[3].features, np.array([3.0, np.nan], np.float32))


def test_only_the_days_that_are_asked_for_are_read(bucket: ObjectStore) -> None:
    for number, day in enumerate((date(2026, 11, 20), date(2026, 11, 21), date(2026, 12, 1))):
        ship(bucket, [decision(number)], day=day)
    assert [each.inference_id for each in read_decisions(bucket, LAYOUT, "exp-1", 2, date(2026, 11, 21)).kept] == ["E1", "E2"]
    assert len(read_decisions(bucket, LAYOUT, "exp-1", 2).kept) == 3
    assert read_decisions(bucket, LAYOUT, "exp-2", 2).left_out["another_experiment"] == 3


def test_infinite_features_and_shares_that_are_none_are_damage(bucket: ObjectStore) -> None:
    wrong: list[dict[str, Any]] = [
        {"features": [1e39, None]},
        {"features": ["a", None]},
        {"share": 1.5},
        {"share": None},
        {"entity_id": ""},
    ]
    ship(bucket, [decision(number, **changes) for number, changes in enumerate(wrong)])
    found = read_decisions(bucket, LAYOUT, "exp-1", 2)
    assert (found.kept, found.left_out["damaged"]) == ([], len(wrong))
