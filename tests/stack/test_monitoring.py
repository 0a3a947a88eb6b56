"""Monitoring on the local stack: days of traffic through the endpoint, without drift and with it, past windows again, and an alarm from outside."""

from __future__ import annotations

import json
import time
from datetime import date, timedelta
from typing import Any

import pytest

from include.laptop.demo import Demo
from include.laptop.stack import CLOUDWATCH_TOPIC
from include.stores.alarms import Alarms
from include.stores.layout import Layout
from include.stores.partitions import Partitions

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]
NAME = "auto_claims"
LAYOUT = Layout(NAME)
DAG = f"{NAME}.monitor_model"
CHANGED = date(2026, 3, 18)


def alarms(demo: Demo) -> list[dict[str, Any]]:
    return Alarms(demo.objects, LAYOUT).all()


def test_usual_days_pass_in_silence_and_the_change_is_found(main_job: Demo) -> None:
    drift = main_job.summary["drift"]
    before = [window for window in drift["windows"] if window["last_day"] < CHANGED.isoformat()]
    assert before
    assert {window["severity"] for window in before} == {"none"}
    assert drift["change_day"] == CHANGED.isoformat()
    assert drift["found"], drift["windows"]
    assert abs((date.fromisoformat(drift["began"]) - CHANGED).days) <= 1
    assert "feature_drift" in drift["kinds"]


def test_the_alarm_is_stored_with_its_evidence_and_rang_the_bell(main_job: Demo) -> None:
    stored = next(alarm for alarm in alarms(main_job) if alarm["source"] == "monitor_model")
    assert stored["model_package"] == main_job.summary["model_package"]
    assert stored["evidence"]["findings"]
    report = main_job.objects.get_json(main_job.objects.key(stored["report"]))
    assert report["verdict"]["severity"] == "alarm"
    assert {"name", "drifted", "effect", "p_value"} <= set(report["features"][0])
    page = main_job.objects.get(main_job.objects.key(stored["report"]).replace("report.json", "report.html")).decode()
    assert report["verdict"]["headline"].split(":")[0] in page
    events = main_job.api.call("GET", "/assets/events", params={"source_dag_id": DAG})["asset_events"]
    assert [event["extra"]["kinds"] for event in events] == [stored["kinds"]]


def test_what_the_endpoint_was_asked_became_predictions(main_job: Demo) -> None:
    features, asked = Partitions(main_job.objects, LAYOUT.features), Partitions(main_job.objects, LAYOUT.endpoint_predictions)
    days = [date.fromisoformat(window["last_day"]) for window in main_job.summary["drift"]["windows"]]
    for day in days:
        rows = asked.read(day)
        assert rows is not None, day
        assert sorted(rows["event_id"].to_pylist()) == sorted(features.read(day)["event_id"].to_pylist())
        assert set(rows["model_package"].to_pylist()) == {main_job.summary["model_package"]}


def test_the_figures_go_to_cloudwatch(main_job: Demo) -> None:
    """Which keeps nothing older than two weeks, like AWS, so that these are not listed; tests/plugins has one that is."""
    for run in main_job.api.runs(DAG):
        if run["run_type"] == "manual":
            figures = main_job.api.xcom(DAG, run["dag_run_id"], "analyse")["metrics"]
            assert {"Rows", "Severity", "ScoreEffect", "Measured.average_precision", "Estimated.roc_auc"} <= set(figures)
            assert {task.task_id: task.state for task in main_job.api.tasks(DAG, run["dag_run_id"])}["publish"] == "success"


def test_past_windows_can_be_looked_at_again_and_wake_nobody(main_job: Demo) -> None:
    known = alarms(main_job)
    last = date.fromisoformat(main_job.summary["drift"]["found"]) + timedelta(days=3)
    wanted = {"dag_id": DAG, "from_date": f"{last - timedelta(days=1)}T00:00:00Z", "to_date": f"{last}T23:59:59Z", "max_active_runs": 1}
    main_job.api.create_backfill(wanted | {"reprocess_behavior": "failed"})
    deadline = time.monotonic() + 300
    while True:
        runs = [run for run in main_job.api.runs(DAG) if run["run_type"] == "backfill"]
        if len(runs) == 2 and all(run["state"] in {"success", "failed"} for run in runs):
            break
        assert time.monotonic() < deadline, runs
        time.sleep(1)
    for run in runs:
        states = {task.task_id: task.state for task in main_job.api.tasks(DAG, run["dag_run_id"])}
        assert states["analyse"] == "success"
        assert states["collect"] == states["publish"] == states["sound_alarm"] == "skipped"
        assert main_job.api.xcom(DAG, run["dag_run_id"], "analyse")["verdict"]["severity"] == "alarm"
    assert alarms(main_job) == known


def test_an_alarm_of_cloudwatch_from_outside_is_stored_and_rings_the_same(main_job: Demo) -> None:
    sns = main_job.stack.client("sns")
    topic = sns.create_topic(Name=CLOUDWATCH_TOPIC)["TopicArn"]
    body = {
        "AlarmName": "auto-claims-latency",
        "NewStateValue": "ALARM",
        "NewStateReason": "Threshold Crossed: p99 above 500 ms",
        "StateChangeTime": "2026-03-30T10:20:30.123+0000",
        "Trigger": {"Dimensions": []},
    }
    sns.publish(TopicArn=topic, Subject="ALARM", Message=json.dumps(body))
    deadline = time.monotonic() + 120
    while not (found := [alarm for alarm in alarms(main_job) if alarm["source"] == "cloudwatch"]):
        assert time.monotonic() < deadline, main_job.api.runs("receive_alarms")
        time.sleep(1)
    assert "p99 above 500 ms" in found[0]["says"]
    [run] = main_job.api.runs("receive_alarms")
    assert main_job.api.follow("receive_alarms", run["dag_run_id"], 60, lambda _: None) == "success"
    events = main_job.api.call("GET", "/assets/events", params={"source_dag_id": "receive_alarms"})["asset_events"]
    assert [event["extra"]["kinds"] for event in events] == [["cloudwatch"]]
    queue = main_job.stack.settings.alarms_queue_url
    left = main_job.stack.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    assert left["ApproximateNumberOfMessages"] == left["ApproximateNumberOfMessagesNotVisible"] == "0"
