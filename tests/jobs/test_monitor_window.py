"""The baseline that training leaves, and windows compared with it: on claims that go through the real jobs, before and after fraud changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pytest
from claims_store import DOMAIN, LAYOUT, land, run
from dataset_parts import write_channels, write_hyperparameters
from scored_claims import MODEL_KEY, packed

from include import domains
from include.jobs.context import JobError
from include.lifecycle.profile import Profile
from include.stores.objects import ObjectStore
from include.stores.partitions import Partitions

FIRST, CHANGED = date(2026, 1, 1), date(2026, 4, 20)
DAYS, EVENTS, LEARNED_FROM = 124, 18_600, 50
BASELINE_AS_OF, PACKAGE = "2026-04-12T00:00:00Z", "arn:aws:sagemaker:us-east-1:000000000000:model-package/auto-claims/1"


@pytest.fixture(scope="module")
def watched(aws: str, tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    """A bucket with 124 days of claims, fraud changed on the 110th, and a model trained on the first fifty."""
    from include.jobs import train

    client = boto3.client("s3")
    client.create_bucket(Bucket="watched-claims", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    objects, folder = ObjectStore("watched-claims", client), tmp_path_factory.mktemp("watched")
    simulator = domains.part(DOMAIN, "simulator")
    simulation = simulator.simulate(DAYS, EVENTS, FIRST, 5, "staged_collisions", CHANGED)
    last = simulation.last_day
    deliveries = simulator.deliveries(simulation, history_until=last, until=last + timedelta(days=40), damaged_share=0.0)
    land(objects, [(file.table, file.day, file.rows) for file in deliveries])
    run("build_features", objects, "--first-day", str(FIRST), "--last-day", str(last), "--as-of", "2026-06-30T00:00:00Z")
    stored = Partitions(objects, LAYOUT.features)
    truth = dict(zip(simulation.labels["policy_id"].astype(str), simulation.labels["label"], strict=True))
    rows = pa.concat_tables(stored.read(day) for day in stored if day < FIRST + timedelta(days=LEARNED_FROM))
    rows = rows.append_column("label", pa.array([int(truth[event]) for event in rows["event_id"].to_pylist()]))
    write_channels(folder, rows.slice(0, 6000), rows.slice(6000))
    write_hyperparameters(folder, as_of="2026-03-22T00:00:00Z")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAGEMAKER_BASE_DIR", str(folder))
        train.main()
    objects.put(MODEL_KEY, packed(folder / "model"))
    return objects


@pytest.fixture(scope="module")
def baseline(watched: ObjectStore) -> dict[str, Any]:
    output = watched.uri("baseline/")
    return run("baseline", watched, "--model", watched.uri(MODEL_KEY), "--as-of", BASELINE_AS_OF, "--output", output)


def monitor(objects: ObjectStore, baseline: dict[str, Any], as_of: str, output: str = "monitor") -> dict[str, Any]:
    reports = baseline["reports"]
    arguments = ["--as-of", as_of, "--model", objects.uri(MODEL_KEY), "--model-package", PACKAGE]
    arguments += ["--profile", reports["profile"], "--reference", reports["reference"], "--output", objects.uri(f"{output}/{as_of}/")]
    return run("monitor_window", objects, *arguments)


def report_of(objects: ObjectStore, result: dict[str, Any]) -> dict[str, Any]:
    return objects.get_json(objects.key(result["reports"]["report"]))


def test_the_baseline_is_of_all_events_after_those_learned_from(watched: ObjectStore, baseline: dict[str, Any]) -> None:
    profile = Profile.from_json(watched.get_json(watched.key(baseline["reports"]["profile"])))
    stored = Partitions(watched, LAYOUT.features)
    rows = {day.isoformat(): len(stored.read(day)) for day in stored}
    assert profile.days[-1] == "2026-04-09"  # two days are not reported whole at the as-of
    assert dict(zip(profile.days, profile.rows.tolist(), strict=True)) == {day: rows[day] for day in profile.days}
    assert baseline["rows"] == sum(profile.rows)
    assert 0 < baseline["frauds"] < baseline["matured_rows"] < baseline["rows"]


def test_quiet_days_raise_nothing(watched: ObjectStore, baseline: dict[str, Any]) -> None:
    for as_of in ("2026-04-15T00:00:00Z", "2026-04-18T00:00:00Z"):
        result = monitor(watched, baseline, as_of)
        report = report_of(watched, result)
        assert result["verdict"]["severity"] == "none", report["findings"]
        assert result["found"] == {}
        assert report["estimated_quality"]["events"] > 0
        assert report["quality"]["frauds"] > 0


def test_changed_fraud_is_found_with_the_day_it_began(watched: ObjectStore, baseline: dict[str, Any]) -> None:
    result = monitor(watched, baseline, "2026-04-29T00:00:00Z")
    assert result["verdict"]["severity"] == "alarm"
    assert abs((date.fromisoformat(result["verdict"]["began"]) - CHANGED).days) <= 1
    page = watched.get(watched.key(result["reports"]["page"])).decode()
    assert "<script" not in page
    record = watched.get_json(watched.key(result["window"]))
    assert (record["last_day"], record["model_package"]) == ("2026-04-26", PACKAGE)
    assert set(record["found"]) == set(result["found"])


def test_only_what_was_known_at_the_as_of_is_looked_at(watched: ObjectStore, baseline: dict[str, Any]) -> None:
    report = report_of(watched, monitor(watched, baseline, "2026-04-15T00:00:00Z"))
    assert report["subject"]["current"]["last_day"] == "2026-04-12"
    assert report["quality"]["last_day"] <= "2026-03-15"
    again = report_of(watched, monitor(watched, baseline, "2026-04-15T00:00:00Z", "again"))
    assert report == again


def test_what_the_endpoint_was_asked_counts_before_the_feature_store(watched: ObjectStore, baseline: dict[str, Any]) -> None:
    day = date(2026, 4, 14)
    predictions, stored = Partitions(watched, LAYOUT.endpoint_predictions), Partitions(watched, LAYOUT.features).read(day)
    constants = {"model_package": PACKAGE, "variant": "champion"}
    asked = stored.drop_columns([name for name in stored.column_names if name in {"entity_id", "group_id"} or name.startswith("facet_")])
    asked = asked.append_column("score", pa.array(np.full(len(asked), 0.9)))
    for name, value in constants.items():
        asked = asked.append_column(name, pa.array([value] * len(asked)))
    try:
        predictions.write(day, asked)
        result = monitor(watched, baseline, "2026-04-17T00:00:00Z", "asked")
        assert result["sources"]["endpoint"] == [day.isoformat()]
        assert len(result["sources"]["feature_store"]) == 6
        assert "score_drift" in result["found"]  # a seventh of the window has impossible scores

        other = asked.set_column(asked.schema.get_field_index("model_package"), "model_package", pa.array(["another"] * len(asked)))
        predictions.write(day, pa.concat_tables([asked.slice(0, 40), other.slice(40)]))
        assert monitor(watched, baseline, "2026-04-17T00:00:00Z", "shared")["sources"]["endpoint"] == []
    finally:
        predictions.delete(day)


@pytest.mark.parametrize(("percentage", "found"), [(20, False), (100, True)])
def test_a_sample_is_no_loss_of_rows_where_the_domain_asks_for_one(
    watched: ObjectStore, baseline: dict[str, Any], monkeypatch: pytest.MonkeyPatch, percentage: int, found: bool
) -> None:
    domain = domains.get(DOMAIN)
    monkeypatch.setattr(domains, "get", lambda _: replace(domain, monitoring=replace(domain.monitoring, capture_percentage=percentage)))
    predictions, stored = Partitions(watched, LAYOUT.endpoint_predictions), Partitions(watched, LAYOUT.features)
    days = [date(2026, 4, 8) + timedelta(days=number) for number in range(7)]
    try:
        for day in days:
            rows = stored.read(day)
            asked = rows.take(pa.array(range(0, len(rows), 5)))
            for name, value in {"model_package": PACKAGE, "variant": "champion"}.items():
                asked = asked.append_column(name, pa.array([value] * len(asked)))
            predictions.write(day, asked.append_column("score", pa.array(np.full(len(asked), 0.02))))
        report = report_of(watched, monitor(watched, baseline, "2026-04-17T00:00:00Z", f"sample{percentage}"))
        [count] = [check for check in report["data_quality"] if check["check"] == "row_count"]
        assert count["found"] is found, count
    finally:
        for day in days:
            predictions.delete(day)


def test_a_window_without_events_is_no_good_news(watched: ObjectStore, baseline: dict[str, Any]) -> None:
    result = monitor(watched, baseline, "2026-09-01T00:00:00Z")
    assert result["verdict"]["outcome"] == "not_enough_data"
    assert result["rows"] == 0
    assert "row_count" in watched.get_json(watched.key(result["window"]))["found"]["data_quality"]  # a dead feed wakes people, too


def test_bad_baselines_are_refused(watched: ObjectStore, baseline: dict[str, Any]) -> None:
    absent = {"reports": baseline["reports"] | {"profile": watched.uri("nothing.json")}}
    with pytest.raises(JobError, match=r"nothing\.json does not exist"):
        monitor(watched, absent, "2026-04-15T00:00:00Z")
    other = watched.put_json("other.json", {"version": 99})
    with pytest.raises(JobError, match="version"):
        monitor(watched, {"reports": baseline["reports"] | {"profile": other}}, "2026-04-15T00:00:00Z")


def test_a_baseline_wants_events_after_those_learned_from(watched: ObjectStore) -> None:
    arguments = ("--model", watched.uri(MODEL_KEY), "--output", watched.uri("early/"))
    with pytest.raises(JobError, match="after those learned from"):
        run("baseline", watched, *arguments, "--as-of", "2026-02-01T00:00:00Z")
    with pytest.raises(JobError, match="matured label"):
        run("baseline", watched, *arguments, "--as-of", "2026-03-01T00:00:00Z")
