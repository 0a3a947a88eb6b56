"""What every DAG of the lifecycle has: owner, retries, who is told of a failure, and a deadline."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.notifications.sns import SnsNotifier
from airflow.sdk import AsyncCallback, DeadlineAlert, DeadlineReference, Param

from include import settings as places
from include.domains import catalogue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from include.lifecycle.domain import Domain, Owner


class Tag(StrEnum):
    """The tags there are; a test refuses others. A domain's name is a tag too."""

    LIFECYCLE = "fraud-lifecycle"
    DATA = "stage:data"
    MODEL = "stage:model"
    SERVING = "stage:serving"
    MONITORING = "stage:monitoring"
    ROLLOUT = "stage:rollout"


def alert(subject: str, message: str) -> SnsNotifier:
    """Tells the place's alert topic. Both texts are templated with the task's context."""
    place = places.current()
    return SnsNotifier(aws_conn_id=place.aws_conn_id, target_arn=place.alerts_topic_arn, subject=subject, message=message)


def as_of_param(description: str) -> Param:
    """The form's instant; empty: as ``description`` says."""
    return Param(None, type=["null", "string"], format="date-time", title="As of", description=description)


def model_package_param(description: str) -> Param:
    """The form's registered model; empty: as ``description`` says."""
    pattern = "^arn:[a-z0-9-]+:sagemaker:.*:model-package/.+$"
    return Param(None, type=["null", "string"], pattern=pattern, title="Model package", description=description)


def dag_settings(domain: Domain, stage: Tag, doc: str | None, late_by: timedelta) -> dict[str, Any]:
    """Keyword arguments of ``@dag`` that all DAGs of a domain share. ``late_by``: people are told when a run takes this much longer than the last
    ten did."""
    return _settings(domain.name, [domain.owner], [Tag.LIFECYCLE, stage, domain.name], doc, late_by)


def shared_dag_settings(stage: Tag, doc: str | None, late_by: timedelta) -> dict[str, Any]:
    """The same of a DAG that serves all domains: it is every owner's."""
    domains = catalogue().domains.values()
    return _settings("all domains", [domain.owner for domain in domains], [Tag.LIFECYCLE, stage], doc, late_by)


def _settings(whose: str, owners: Sequence[Owner], tags: list[str], doc: str | None, late_by: timedelta) -> dict[str, Any]:
    place = places.current()
    late = {
        "aws_conn_id": place.aws_conn_id,
        "target_arn": place.alerts_topic_arn,
        "subject": f"Late: {whose}",
        "message": f"A run of a DAG of {whose} ({tags[1]}) takes {late_by} longer than usual. Owner: {', '.join(o.email for o in owners)}.",
    }
    return {
        "doc_md": doc,
        "tags": tags,
        "owner_links": {owner.name: f"mailto:{owner.email}" for owner in owners},
        "catchup": False,
        "max_active_tasks": 16,
        # not DAGRUN_QUEUED_AT: in Airflow 3.3.2 clearing a task of a run that has such a deadline fails (apache/airflow#70368)
        "deadline": DeadlineAlert(
            reference=DeadlineReference.AVERAGE_RUNTIME(max_runs=10, min_runs=1),
            interval=late_by,
            callback=AsyncCallback(SnsNotifier, kwargs=late),
        ),
        "default_args": {
            "owner": ", ".join(owner.name for owner in owners),
            "retries": 2,
            "retry_delay": timedelta(seconds=max(10, 10 * place.poll_seconds)),
            "on_failure_callback": alert(
                "Failed: {{ dag.dag_id }} {{ ti.task_id }}",
                "{{ dag.dag_id }}, run {{ run_id }}, task {{ ti.task_id }} failed after {{ ti.try_number }} tries: {{ exception }}\n{{ ti.log_url }}",
            ),
        },
    }
