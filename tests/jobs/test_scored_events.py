"""Which days are taken as the endpoint answered them, and which are scored now."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from claims_store import DOMAIN, LAYOUT
from scored_claims import MODEL_KEY

from include import domains
from include.jobs.context import JobContext
from include.jobs.model_archive import open_model
from include.jobs.scored_events import ScoredEvents, ScoredEventsReader
from include.stores.objects import ObjectStore
from include.stores.partitions import Partitions

DAY = date(2026, 4, 1)
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
OURS, OTHER = "arn:ours", "arn:other"


class Day:
    """The stored events of ``DAY``, some of which the endpoint has answered."""

    def __init__(self, objects: ObjectStore, folder: Path) -> None:
        context = JobContext(domains.get(DOMAIN))
        context.__dict__["objects"] = objects
        self.model = open_model(objects, objects.uri(MODEL_KEY), folder, context.domain)
        self.reader = ScoredEventsReader(context, self.model, OURS)
        rows = Partitions(objects, LAYOUT.features).read(DAY)
        assert rows is not None
        self.rows: pa.Table = rows
        self.ids: list[str] = self.rows["event_id"].to_pylist()
        self._predictions = Partitions(objects, LAYOUT.endpoint_predictions)

    def answered(self, *answers: tuple[str, str, Iterable[str], float]) -> ScoredEvents:
        """What is read after these answers: (package, variant, events, score), a minute apart."""
        tables = []
        for number, (package, variant, events, score) in enumerate(answers):
            chosen = self.rows.filter(pa.array([event in set(events) for event in self.ids]))
            moment = NOON + timedelta(minutes=number)
            columns = {
                "event_id": chosen["event_id"],
                "event_time": chosen["event_time"],
                "score": pa.array([score] * len(chosen)),
                "model_package": pa.array([package] * len(chosen), pa.string()),
                "model": pa.array(["s3://b/m"] * len(chosen), pa.string()),
                "variant": pa.array([variant] * len(chosen), pa.string()),
                "inference_time": pa.array([moment] * len(chosen), pa.timestamp("us", "UTC")),
                "capture_id": pa.array([f"{number}-{event}" for event in chosen["event_id"].to_pylist()], pa.string()),
            }
            tables.append(pa.table(columns | {name: chosen[name].cast(pa.float64()) for name in self.model.features}))
        self._predictions.write(DAY, pa.concat_tables(tables))
        found = self.reader.read(DAY, DAY)
        assert found is not None
        return found

    def source(self, *answers: tuple[str, str, Iterable[str], float]) -> str:
        found = self.answered(*answers)
        [source] = [source for source, days in found.days_by_source.items() if days]
        return source


@pytest.fixture
def day(own_claims: ObjectStore, tmp_path: Path) -> Day:
    return Day(own_claims, tmp_path)


def test_a_day_counts_as_answered_where_nobody_else_answered_alone(day: Day) -> None:
    every, half = day.ids, day.ids[: len(day.ids) // 2]
    rest = day.ids[len(day.ids) // 2 :]
    assert day.source((OURS, "champion", every, 0.2)) == "endpoint"
    assert day.source((OURS, "champion", half, 0.2)) == "endpoint", "of the rest nothing is captured"
    # a challenger in the champion's shadow answers the same events
    assert day.source((OURS, "champion", every, 0.2), (OTHER, "challenger", every, 0.9)) == "endpoint"
    assert day.source((OTHER, "champion", every, 0.9), (OURS, "challenger", every, 0.2)) == "endpoint"
    # a ramp, by entity; a shadow that missed some; a deployment at noon
    assert day.source((OURS, "champion", half, 0.2), (OTHER, "challenger", rest, 0.9)) == "feature_store"
    assert day.source((OTHER, "champion", every, 0.9), (OURS, "challenger", half, 0.2)) == "feature_store"
    assert day.source((OURS, "champion", half, 0.2), (OTHER, "champion", rest, 0.9)) == "feature_store"
    assert day.source((OURS, "champion", half, 0.2), (OTHER, "champion", every, 0.9)) == "feature_store"
    assert day.source((OTHER, "champion", every, 0.9)) == "feature_store"


def test_the_answers_are_those_of_the_model_an_event_once(day: Day) -> None:
    found = day.answered((OTHER, "champion", day.ids, 0.9), (OURS, "challenger", day.ids, 0.2), (OURS, "champion", day.ids[:5], 0.3))
    assert sorted(found.data.table["event_id"].to_pylist()) == sorted(day.ids)
    assert set(found.scores.tolist()) == {0.2}, "the first answer stands"
