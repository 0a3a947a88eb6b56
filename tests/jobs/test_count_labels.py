"""What retraining waits for: matured frauds since a day, as of an instant, against the simulator's own truth."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from claims_store import DOMAIN, land, run

from include import domains
from include.stores.objects import ObjectStore

FIRST = date(2026, 3, 1)
DAYS = 20


@pytest.fixture
def truth(bucket: ObjectStore) -> dict[date, list[int]]:
    """Event day → labels, of a bucket with all of them landed."""
    simulator = domains.part(DOMAIN, "simulator")
    simulation = simulator.simulate(DAYS, 600, FIRST, 5)
    land(bucket, [(file.table, file.day, file.rows) for file in simulator.deliveries(simulation, damaged_share=0.0)])
    last = FIRST + timedelta(days=DAYS)
    run("build_features", bucket, "--first-day", str(FIRST), "--last-day", str(last), "--as-of", "2026-06-01T00:00:00Z")
    found: dict[date, list[int]] = {}
    for event_time, label in zip(simulation.event_times, simulation.labels["label"], strict=True):
        found.setdefault(event_time.date(), []).append(int(label))
    return found


def test_only_what_happened_since_and_has_matured_counts(bucket: ObjectStore, truth: dict[date, list[int]]) -> None:
    since = date(2026, 3, 8)
    until = date(2026, 4, 11) - domains.get(DOMAIN).label.maturity  # its first instant is the last that has matured
    found = run("count_labels", bucket, "--since", str(since), "--as-of", "2026-04-11T00:00:00Z")
    wanted = [label for day, labels in truth.items() if since <= day < until for label in labels]
    midnight = len(truth.get(until, []))
    assert len(wanted) <= found["events"] <= len(wanted) + midnight
    assert abs(found["frauds"] - sum(wanted)) <= midnight
    assert found["events"] > 50
    assert found["unlabelled"] == 0


def test_before_anything_has_matured_there_is_nothing(bucket: ObjectStore, truth: dict[date, list[int]]) -> None:
    found = run("count_labels", bucket, "--since", "2026-03-08", "--as-of", "2026-03-20T00:00:00Z")
    assert (found["events"], found["frauds"]) == (0, 0)
