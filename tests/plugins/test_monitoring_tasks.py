"""What the small tasks of monitor_model and receive_alarms decide, on a real bucket and a real queue."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from include import settings as places
from include.domains import catalogue, get
from include.lifecycle.alarm_policy import WindowRecord
from include.stores.alarms import Alarms, MonitoredWindows
from include.stores.layout import Layout
from include.stores.objects import ObjectStore
from include.stores.registry import ModelPackage

DOMAIN = get("auto_claims")
LAYOUT = Layout(DOMAIN.name)
ARN = "arn:aws:sagemaker:us-east-1:000000000000:model-package/auto-claims/3"
BASELINES = {"profile": "s3://b/profile.json", "reference": "s3://b/reference.json"}
FIRST = date(2026, 4, 1)


@pytest.fixture(autouse=True)
def airflow_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))


def plan(monkeypatch: pytest.MonkeyPatch, champion: ModelPackage | None, run_type: str = "scheduled", **params: Any) -> dict[str, Any]:
    from sagemaker_lifecycle import monitoring

    registry = SimpleNamespace(champion=lambda _: champion, package=lambda arn: ModelPackage(arn, 9, "Approved", "s3://b/9", {}, BASELINES))
    monkeypatch.setattr(monitoring, "model_registry", lambda: registry)
    run = SimpleNamespace(
        run_type=run_type, data_interval_end=datetime(2026, 4, 9, 7, tzinfo=UTC), logical_date=None, run_after=datetime(2026, 5, 1, tzinfo=UTC)
    )
    context: Any = {"params": {"as_of": None, "model_package": None, **params}, "dag_run": run}
    return monitoring.plan_monitoring(DOMAIN, context)


def test_the_live_model_is_watched_as_of_the_end_of_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan(monkeypatch, ModelPackage(ARN, 3, "Approved", "s3://b/3", {}, BASELINES))
    assert planned == {
        "as_of": "2026-04-09T07:00:00Z",
        "history": False,
        "model_package": ARN,
        "model": "s3://b/3",
        **BASELINES,
    }


def test_a_backfill_and_a_named_package(monkeypatch: pytest.MonkeyPatch) -> None:
    named = plan(monkeypatch, None, "backfill", model_package="arn:9", as_of="2026-04-02T00:00:00Z")
    assert (named["history"], named["model_package"], named["as_of"]) == (True, "arn:9", "2026-04-02T00:00:00Z")


def test_a_model_that_is_not_live_wakes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    champion = ModelPackage(ARN, 3, "Approved", "s3://b/3", {}, BASELINES)
    assert plan(monkeypatch, champion, model_package="arn:9")["history"] is True
    assert plan(monkeypatch, champion)["history"] is False


def test_nothing_is_watched_where_nothing_is_live(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    with pytest.raises(AirflowSkipException, match="no live endpoint"):
        plan(monkeypatch, None)


def test_a_model_without_baselines_is_no_silent_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    with pytest.raises(AirflowFailException, match="without a baseline"):
        plan(monkeypatch, ModelPackage(ARN, 3, "Approved", "s3://b/3"))


def record(objects: ObjectStore, day: int, *kinds: str, history: bool = False) -> dict[str, Any]:
    """What ``analyse`` leaves of one window."""
    last = FIRST + timedelta(days=day)
    findings = [{"kind": kind, "name": "vehicle_claim", "effect": 0.2} for kind in (*kinds, "bias_drift")]
    report = objects.put_json(f"reports/{day}/report.json", {"findings": findings})
    window = WindowRecord(
        last, datetime.combine(last, time(), UTC) + timedelta(days=3), ARN, {kind: ["vehicle_claim"] for kind in kinds}, FIRST, "it moved", report
    )
    return {"window": MonitoredWindows(objects, LAYOUT, history).put(window)}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, bucket: ObjectStore) -> list[str]:
    """The subjects of what people were told; ``bucket`` is the place's."""
    from airflow.providers.amazon.aws.hooks.sns import SnsHook
    from sagemaker_lifecycle import monitoring

    said: list[str] = []
    monkeypatch.setattr(monitoring, "object_store", lambda: bucket)
    monkeypatch.setattr(SnsHook, "publish_to_target", lambda _, target, message, subject: said.append(f"{subject}: {message}"))
    return said


def test_the_second_window_in_a_row_sounds_one_alarm_with_its_evidence(bucket: ObjectStore, told: list[str]) -> None:
    from airflow.sdk.exceptions import AirflowSkipException
    from sagemaker_lifecycle.monitoring import decide_on_alarm, raise_alarm

    first = decide_on_alarm(DOMAIN, False, record(bucket, 0, "score_drift"))
    assert first["alarm"] is None
    with pytest.raises(AirflowSkipException, match="1 of the 2 windows"):
        raise_alarm(DOMAIN, False, **first)
    second = decide_on_alarm(DOMAIN, False, record(bucket, 1, "score_drift"))
    extra = raise_alarm(DOMAIN, False, **second)
    assert extra["kinds"] == ["score_drift"]
    [stored] = Alarms(bucket, LAYOUT).all()
    assert bucket.get_json(bucket.key(extra["alarm"])) == stored
    assert stored["since"] == "2026-04-01"
    assert [finding["kind"] for finding in stored["evidence"]["findings"]] == ["score_drift"]
    assert len(told) == 1
    assert "report.html" in told[0]

    raise_alarm(DOMAIN, False, **decide_on_alarm(DOMAIN, False, record(bucket, 1, "score_drift")))  # cleared, and run again
    assert len(Alarms(bucket, LAYOUT).all()) == 1
    assert len(told) == 1
    assert "none is repeated" in decide_on_alarm(DOMAIN, False, record(bucket, 2, "score_drift"))["why"]


def test_a_backfill_says_what_would_have_been_and_wakes_nobody(bucket: ObjectStore, told: list[str]) -> None:
    from airflow.sdk.exceptions import AirflowSkipException
    from sagemaker_lifecycle.monitoring import decide_on_alarm, raise_alarm

    record(bucket, 0, "quality", history=True)
    decision = decide_on_alarm(DOMAIN, True, record(bucket, 1, "quality", history=True))
    assert decide_on_alarm(DOMAIN, False, record(bucket, 1, "quality"))["alarm"] is None, "a backfilled window is none of a live row"
    with pytest.raises(AirflowSkipException, match="a daily run would have"):
        raise_alarm(DOMAIN, True, **decision)
    assert not told
    assert not Alarms(bucket, LAYOUT).all()


def test_metrics_reach_cloudwatch_but_those_of_a_backfill_do_not(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook
    from airflow.sdk.exceptions import AirflowSkipException
    from sagemaker_lifecycle.monitoring import METRIC_NAMESPACE, publish_metrics

    client = boto3.client("cloudwatch")
    monkeypatch.setattr(AwsGenericHook, "conn", client)
    yesterday = datetime.now(UTC) - timedelta(days=1)  # CloudWatch lists nothing older than two weeks
    run = {"history": False, "as_of": yesterday.isoformat()}
    publish_metrics(DOMAIN, run, {"metrics": {"ScoreEffect": 0.12, "Measured.roc_auc": None}})
    listed = client.list_metrics(Namespace=METRIC_NAMESPACE)["Metrics"]
    assert {metric["MetricName"] for metric in listed} == {"ScoreEffect"}
    assert listed[0]["Dimensions"] == [{"Name": "Domain", "Value": DOMAIN.name}]
    with pytest.raises(AirflowSkipException):
        publish_metrics(DOMAIN, run | {"history": True}, {"metrics": {"ScoreEffect": 1.0}})


def message(name: str, state: str = "ALARM", dimensions: dict[str, str] | None = None) -> dict[str, str]:
    """As SQS hands over what SNS delivered of a CloudWatch alarm."""
    body = {
        "AlarmName": name,
        "AlarmArn": f"arn:aws:cloudwatch:us-east-1:000000000000:alarm:{name}",
        "NewStateValue": state,
        "NewStateReason": "Threshold Crossed",
        "StateChangeTime": "2026-04-09T10:20:30.123+0000",
        "Trigger": {"Dimensions": [{"name": key, "value": value} for key, value in (dimensions or {}).items()]},
    }
    return {"MessageId": name, "ReceiptHandle": f"handle of {name}", "Body": json.dumps({"Type": "Notification", "Message": json.dumps(body)})}


def received(*messages: dict[str, str]) -> dict[str, Any]:
    from sagemaker_lifecycle.monitoring import cloudwatch_alarms

    event = SimpleNamespace(extra={"payload": {"message_batch": list(messages)}})
    context: Any = {"triggering_asset_events": {"cloudwatch_alarms": [event]}}
    return cloudwatch_alarms(catalogue().domains.values(), context)


@pytest.mark.parametrize(
    ("sent", "owner"),
    [
        (message("auto-claims-latency"), "auto_claims"),
        (message("latency", dimensions={"Domain": "card_payments"}), "card_payments"),
        (message("errors", dimensions={"EndpointName": "card-payments-endpoint"}), "card_payments"),
        (message("auto-claims-latency", dimensions={"Domain": "card_payments"}), "card_payments"),
        (message("auto-claims-latency", state="OK"), None),
        (message("somebody-elses"), None),
        ({"MessageId": "1", "ReceiptHandle": "1", "Body": "hello"}, None),
        ({"MessageId": "1", "ReceiptHandle": "1", "Body": "[]"}, None),
        ({"MessageId": "1", "ReceiptHandle": "1", "Body": '{"AlarmName": "auto-claims-x", "NewStateValue": "ALARM"}'}, None),
    ],
)
def test_whose_alarm_a_message_is(sent: dict[str, str], owner: str | None) -> None:
    found = received(sent)
    assert [item["handle"] for item in found.pop("messages")] == [sent["ReceiptHandle"]]
    assert [name for name, alarms in found.items() if alarms] == ([owner] if owner else [])


def test_an_alarm_from_outside_is_stored_once_and_told(bucket: ObjectStore, told: list[str]) -> None:
    from airflow.sdk.exceptions import AirflowSkipException
    from sagemaker_lifecycle.monitoring import store_cloudwatch_alarms

    found = received(message("auto-claims-latency"), message("auto-claims-latency"))
    extra = store_cloudwatch_alarms(DOMAIN, found[DOMAIN.name])
    [stored] = Alarms(bucket, LAYOUT).all()
    assert bucket.uri(LAYOUT.alarm(f"2026-04-09-{stored['id']}.json")) == extra["alarm"]
    assert (stored["source"], stored["as_of"]) == ("cloudwatch", "2026-04-09T10:20:30.123000Z")
    assert len(told) == 1
    with pytest.raises(AirflowSkipException):
        store_cloudwatch_alarms(get("card_payments"), found["card_payments"])


def test_messages_leave_the_queue_only_when_told(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.providers.amazon.aws.hooks.sqs import SqsHook
    from sagemaker_lifecycle.monitoring import forget_messages

    client = boto3.client("sqs")
    monkeypatch.setattr(SqsHook, "get_conn", lambda _: client)
    queue = client.create_queue(QueueName=places.current().alarms_queue_url.rpartition("/")[2])["QueueUrl"]
    client.send_message(QueueUrl=queue, MessageBody="{}")
    [held] = client.receive_message(QueueUrl=queue, VisibilityTimeout=0)["Messages"]
    forget_messages(places.current().alarms_queue_url, [{"handle": held["ReceiptHandle"], "id": held["MessageId"]}])
    assert "Messages" not in client.receive_message(QueueUrl=queue)
