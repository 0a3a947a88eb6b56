"""What the small tasks of ``monitor_model`` and ``receive_alarms`` decide: what to look at, what to publish, whether to wake anyone."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from botocore.exceptions import ClientError

from include import settings as places
from include.lifecycle.alarm_policy import decide, record_of
from include.lifecycle.as_of import iso, resolve, utc
from include.lifecycle.names import digest, endpoint_name, sagemaker_name
from include.stores.layout import Layout
from sagemaker_lifecycle.tasks import is_backfill, model_registry, object_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from airflow.sdk.definitions.context import Context

    from include.lifecycle.domain import Domain
    from include.stores.alarms import Alarms

log = logging.getLogger(__name__)

METRIC_NAMESPACE = "FraudLifecycle/Monitoring"
_WINDOWS_LOOKED_BACK_AT = 60
_METRICS_AT_ONCE = 500
_SUBJECT_LIMIT = 100


def plan_monitoring(domain: Domain, context: Context) -> dict[str, Any]:
    """Which model's window to look at, and as of when.

    Returns ``as_of``, ``history`` (a backfill, or a model that is not live: nothing is published, no alarm is raised), ``model_package``, ``model``,
    ``profile`` and ``reference`` (S3 URIs of the baselines registered with the package). Skips where no model is live and none is named.
    """
    params, run = context["params"], context["dag_run"]
    champion, asked = model_registry().champion(domain.name), params["model_package"]
    package = model_registry().package(asked) if asked else champion
    if package is None:
        raise AirflowSkipException(f"{domain.name} has no live endpoint: deploy a model, or name a package in the form")
    profile, reference = package.baselines.get("profile"), package.baselines.get("reference")
    if not profile or not reference:
        raise AirflowFailException(
            f"{package.arn} was registered without a baseline to compare with: train a model with this code, and deploy it"
        )
    as_of = resolve(params["as_of"], run.data_interval_end, run.logical_date, run.run_after)
    return {
        "as_of": iso(as_of),
        "history": is_backfill(context) or champion is None or package.arn != champion.arn,
        "model_package": package.arn,
        "model": package.model,
        "profile": profile,
        "reference": reference,
    }


def publish_metrics(domain: Domain, run: Mapping[str, Any], analysis: Mapping[str, Any]) -> None:
    """The window's figures as CloudWatch metrics of namespace ``METRIC_NAMESPACE``, dimension Domain, at the as-of instant.

    CloudWatch takes no value older than two weeks; those of a run for longer ago are left out, with a line in the log. Skips in a backfill, and for
    a model that is not live.
    """
    if run["history"]:
        raise AirflowSkipException("a backfill publishes nothing, nor does a run for a model that is not live")
    from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook

    client = AwsGenericHook(aws_conn_id=places.current().aws_conn_id, client_type="cloudwatch").conn
    data = [
        {
            "MetricName": name,
            "Dimensions": [{"Name": "Domain", "Value": domain.name}],
            "Timestamp": utc(run["as_of"]),
            "Value": float(value),
        }
        for name, value in analysis["metrics"].items()
        if value is not None
    ]
    for start in range(0, len(data), _METRICS_AT_ONCE):
        try:
            client.put_metric_data(Namespace=METRIC_NAMESPACE, MetricData=data[start : start + _METRICS_AT_ONCE])
        except ClientError as error:
            if error.response["Error"]["Code"] != "InvalidParameterValue":
                raise
            log.warning("CloudWatch refused the metrics as of %s: %s", run["as_of"], error)
    log.info("%s metrics in %s: %s", len(data), METRIC_NAMESPACE, analysis["metrics"])


def decide_on_alarm(domain: Domain, history: bool, analysis: Mapping[str, Any]) -> dict[str, Any]:
    """The policy's word on the window: ``alarm`` (what would be stored, or None) and ``why``. Only alarms about the same model silence it."""
    from include.stores.alarms import MonitoredWindows

    store, layout = object_store(), Layout(domain.name)
    window = record_of(store.get_json(store.key(analysis["window"])))
    raised = [utc(alarm["as_of"]) for alarm in _alarms(domain).all() if alarm["model_package"] == window.model_package]
    most = max(_WINDOWS_LOOKED_BACK_AT, domain.monitoring.windows_in_a_row)
    before = MonitoredWindows(store, layout, history).directly_before(window, most)
    decision = decide(domain.monitoring, window, before, raised)
    log.info("%s", decision.why)
    if not decision.alarm:
        return {"alarm": None, "why": decision.why}
    findings = store.get_json(store.key(window.report))["findings"]
    alarm = {
        "domain": domain.name,
        "source": "monitor_model",
        "as_of": iso(window.as_of),
        "kinds": list(decision.kinds),
        "since": decision.since.isoformat() if decision.since else None,
        "says": window.headline,
        "model_package": window.model_package,
        "report": window.report,
        "evidence": {"why": decision.why, "findings": [finding for finding in findings if finding["kind"] in decision.kinds][:20]},
    }
    return {"alarm": alarm, "why": decision.why}


def raise_alarm(domain: Domain, history: bool, alarm: dict[str, Any] | None, why: str) -> dict[str, Any]:
    """Tells people and stores the alarm; returns what the asset event carries. Skips where there is none, and where ``history`` says so.

    People are told before it is stored: a task that dies between the two tells them twice, never not at all.
    """
    if alarm is None:
        raise AirflowSkipException(f"no alarm: {why}")
    if history:
        raise AirflowSkipException(f"no alarm in a backfill, or about a model that is not live; a daily run would have: {alarm['says']} ({why})")
    return _tell_and_store(domain, alarm)


def _tell_and_store(domain: Domain, alarm: dict[str, Any]) -> dict[str, Any]:
    from airflow.providers.amazon.aws.hooks.sns import SnsHook

    place, alarms = places.current(), _alarms(domain)
    if not alarms.knows(alarm):
        page = place.browser_url(alarm["report"].replace("report.json", "report.html")) if alarm["report"] else "none"
        found = f"Since: {alarm['since'] or 'unknown'}\nFound: {', '.join(alarm['kinds'])}"
        message = f"{alarm['says']}\n\n{found}\nReport: {page}\nOwner: {domain.owner.email}"
        subject = f"Drift alarm: {domain.name}"[:_SUBJECT_LIMIT]
        SnsHook(aws_conn_id=place.aws_conn_id).publish_to_target(place.alerts_topic_arn, message, subject=subject)
    uri = alarms.put(alarm)
    log.warning("ALARM: %s (%s)", alarm["says"], uri)
    return {"alarm": uri, "kinds": alarm["kinds"], "since": alarm["since"]}


def _alarms(domain: Domain) -> Alarms:
    from include.stores.alarms import Alarms

    return Alarms(object_store(), Layout(domain.name))


def cloudwatch_alarms(domains: Iterable[Domain], context: Context) -> dict[str, list[dict[str, Any]]]:
    """Domain → its alarms among the messages that rang, ready to be stored; and under ``messages``, which these were: id and handle.

    A message is an SNS notification of a CloudWatch alarm's change of state. It belongs to the domain that one of the alarm's dimensions names
    (Domain, or EndpointName), or whose name its own begins with. A return to OK is no alarm. One that belongs to nobody is logged as an error.
    """
    events = [event for events in (context.get("triggering_asset_events") or {}).values() for event in events]
    messages = [message for event in events for message in _messages(event.extra)]
    domains = list(domains)
    found: dict[str, list[dict[str, Any]]] = {"messages": [], **{domain.name: [] for domain in domains}}
    for message in messages:
        found["messages"].append({"handle": message.get("ReceiptHandle"), "id": message.get("MessageId")})
        try:
            body = json.loads(message["Body"])
            body = json.loads(body["Message"]) if "Message" in body else body
            name, state, _ = body["AlarmName"], body["NewStateValue"], _changed_at(body)
        except (ValueError, KeyError, TypeError) as error:
            log.error("not a CloudWatch alarm (%r): %.500s", error, message.get("Body"))
            continue
        if state != "ALARM":
            log.info("%s is %s", name, state)
            continue
        owner = _owner(domains, body)
        if owner is None:
            log.error("the CloudWatch alarm %s names no domain: give it a dimension Domain, or a name that begins with one's", name)
            continue
        found[owner.name].append(_from_cloudwatch(owner, body))
    return found


def _messages(extra: Any) -> Sequence[dict[str, Any]]:
    """Of an asset event that ``SqsSensorTrigger`` rang: its payload is {"message_batch": [SQS messages]}."""
    payload = extra.get("payload", extra) if isinstance(extra, dict) else {}
    return payload.get("message_batch", ()) if isinstance(payload, dict) else ()


def _owner(domains: Sequence[Domain], body: Mapping[str, Any]) -> Domain | None:
    """A dimension says more than a name; of two names that fit, the longer one."""
    dimensions = {item.get("name"): item.get("value") for item in (body.get("Trigger") or {}).get("Dimensions") or ()}
    for domain in domains:
        if dimensions.get("Domain") == domain.name or dimensions.get("EndpointName") == endpoint_name(domain.name):
            return domain
    named = [domain for domain in domains if str(body["AlarmName"]).startswith(f"{sagemaker_name(domain.name)}-")]
    return max(named, key=lambda domain: len(domain.name), default=None)


def _from_cloudwatch(domain: Domain, body: Mapping[str, Any]) -> dict[str, Any]:
    moment = _changed_at(body)
    return {
        "domain": domain.name,
        "source": "cloudwatch",
        "as_of": iso(moment),
        "kinds": ["cloudwatch"],
        "since": moment.date().isoformat(),
        "says": f"CloudWatch alarm {body['AlarmName']}: {body.get('NewStateReason', 'no reason given')}"[:1000],
        "model_package": None,
        "report": None,
        "evidence": {"alarm": body["AlarmName"], "arn": body.get("AlarmArn"), "trigger": body.get("Trigger")},
    }


def _changed_at(body: Mapping[str, Any]) -> datetime:
    return utc(str(body["StateChangeTime"]).replace("+0000", "+00:00"))


def store_cloudwatch_alarms(domain: Domain, alarms: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stores and tells of the domain's alarms; returns what the asset event carries, that of the latest. Skips where there is none."""
    if not alarms:
        raise AirflowSkipException(f"no alarm of {domain.name}")
    return [_tell_and_store(domain, alarm) for alarm in sorted(alarms, key=lambda alarm: alarm["as_of"])][-1]


def forget_messages(queue_url: str, handles: Sequence[Mapping[str, str]]) -> None:
    """Takes messages off the queue, once what they said is stored."""
    from airflow.providers.amazon.aws.hooks.sqs import SqsHook

    client = SqsHook(aws_conn_id=places.current().aws_conn_id).get_conn()
    for message in handles:
        client.delete_message(QueueUrl=queue_url, ReceiptHandle=message["handle"])
    log.info("%s messages off the queue (%s)", len(handles), digest([message["id"] for message in handles]))
