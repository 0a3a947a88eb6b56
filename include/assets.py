"""Every asset of the lifecycle: what one DAG leaves and another waits for. Cheap to import."""

from __future__ import annotations

from airflow.providers.amazon.aws.triggers.sqs import SqsSensorTrigger
from airflow.sdk import Asset, AssetWatcher

from include import settings as places


def features(domain: str) -> Asset:
    """A domain's feature partitions, as ``ingest_data`` leaves them. Each event's extra: ``first_day`` and ``last_day`` of the features that
    were written (None where there were none), and the instant ``as_of`` which they were written."""
    return Asset(f"{domain}.features", uri=f"fraud://{domain}/features", group="features")


def approved_model(domain: str) -> Asset:
    """An approved model package. Each event's extra: ``model_package`` (its ARN)."""
    return Asset(f"{domain}.approved_model", uri=f"fraud://{domain}/approved_model", group="model")


def live_model(domain: str) -> Asset:
    """The model package that carries the traffic. Each event's extra: ``model_package``, ``endpoint``."""
    return Asset(f"{domain}.live_model", uri=f"fraud://{domain}/live_model", group="model")


def history_model(domain: str) -> Asset:
    """The models of the past that backfills leave in the registry's history group. Each event's extra: ``model_package``, ``as_of``."""
    return Asset(f"{domain}.history_model", uri=f"fraud://{domain}/history_model", group="model")


def drift_alarm(domain: str) -> Asset:
    """The bell of a domain's drift alarms, which are stored under ``monitoring/alarms/``: read them there, events coalesce. Each event's extra:
    ``alarm`` (URI), ``kinds``, ``since``."""
    return Asset(f"{domain}.drift_alarm", uri=f"fraud://{domain}/drift_alarm", group="monitoring")


def cloudwatch_alarms() -> Asset:
    """CloudWatch alarms from outside of Airflow, as they arrive in the place's queue (SNS → SQS). Messages stay in the queue until
    ``receive_alarms`` has stored what they say; meanwhile they are invisible to the watcher."""
    place = places.current()
    trigger = SqsSensorTrigger(
        sqs_queue=place.alarms_queue_url,
        aws_conn_id=place.aws_conn_id,
        max_messages=10,
        visibility_timeout=900,
        delete_message_on_reception=False,
        waiter_delay=max(5, round(20 * place.poll_seconds)),
        region_name=place.region,
    )
    return Asset("cloudwatch_alarms", uri="fraud://cloudwatch_alarms", group="monitoring", watchers=[AssetWatcher(name="queue", trigger=trigger)])
