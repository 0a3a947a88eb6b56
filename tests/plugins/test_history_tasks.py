"""What the small tasks of evaluate_history decide: when a backfill has ended, and which models there are to measure."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from include.domains import get
from include.stores.objects import ObjectStore
from include.stores.registry import ModelRegistry

DOMAIN = get("auto_claims")


@pytest.fixture(autouse=True)
def airflow_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))


class Runs:
    """Airflow's answers to the two questions, from run → (run's state, state of the announcing task)."""

    def __init__(self, runs: dict[str, tuple[str, str | None]]) -> None:
        self.runs = runs

    def get_task_states(self, dag_id: str, task_ids: list[str]) -> dict[str, dict[str, str | None]]:
        assert (dag_id, task_ids) == ("auto_claims.train_model", ["announce_history_model"])
        return {run: {task_ids[0]: state} for run, (_, state) in self.runs.items()}

    def get_dr_count(self, dag_id: str, run_ids: list[str], states: list[str]) -> int:
        assert run_ids, "an empty list would count every run"
        return sum(state in states for run, (state, _) in self.runs.items() if run in run_ids)


@pytest.mark.parametrize(
    ("runs", "ended"),
    [
        ({}, True),
        ({"backfill__1": ("success", "success"), "backfill__2": ("failed", "upstream_failed")}, True),
        ({"backfill__1": ("success", "success"), "backfill__2": ("queued", None)}, False),
        ({"backfill__1": ("running", "up_for_retry")}, False),
        ({"scheduled__taken_over": ("running", "scheduled")}, False),
        ({"manual__waits_for_approval": ("running", "skipped"), "backfill__1": ("running", "success")}, True),
        ({"backfill__marked_failed": ("failed", None)}, True),
    ],
)
def test_when_a_backfill_has_ended(runs: dict[str, tuple[str, str | None]], ended: bool) -> None:
    from sagemaker_lifecycle.tasks import backfill_has_ended

    context: Any = {"ti": Runs(runs)}
    assert backfill_has_ended(DOMAIN, context) is ended


def test_the_announcing_task_is_one_of_train_model() -> None:
    from pathlib import Path

    from sagemaker_lifecycle.tasks import ANNOUNCES_HISTORY

    source = (Path(__file__).parents[2] / "dags" / "train_model.py").read_text()
    assert f"def {ANNOUNCES_HISTORY}(" in source


class SageMaker:
    """Just enough of the client for ``ModelRegistry``: packages of one group by version."""

    def __init__(self, packages: dict[int, str]) -> None:
        self.packages = packages

    def get_paginator(self, _: str) -> Any:
        def paginate(ModelPackageGroupName: str) -> list[dict[str, Any]]:
            assert ModelPackageGroupName == "auto-claims-history"
            entries = [{"ModelPackageVersion": version, "ModelPackageArn": f"arn:{version}"} for version in self.packages]
            return [{"ModelPackageSummaryList": entries[:1]}, {"ModelPackageSummaryList": entries[1:]}]

        return SimpleNamespace(paginate=paginate)

    def describe_model_package(self, ModelPackageName: str) -> dict[str, Any]:
        version = int(ModelPackageName.removeprefix("arn:"))
        return {
            "ModelPackageArn": ModelPackageName,
            "ModelPackageVersion": version,
            "ModelApprovalStatus": "Rejected",
            "InferenceSpecification": {"Containers": [{"Image": "jobs:1", "ModelDataUrl": f"s3://b/{version}"}]},
            "CustomerMetadataProperties": {"as_of": self.packages[version]},
        }


def listing(
    monkeypatch: pytest.MonkeyPatch, bucket: ObjectStore, packages: dict[int, str], triggered: bool = False, **params: Any
) -> dict[str, Any]:
    from sagemaker_lifecycle import tasks

    monkeypatch.setattr(tasks, "model_registry", lambda: ModelRegistry(SageMaker(packages)))
    monkeypatch.setattr(tasks, "object_store", lambda: bucket)
    events = {"asset": [SimpleNamespace(extra={})]} if triggered else {}
    context: Any = {"params": {"as_of": None, "period_days": 7, **params}, "triggering_asset_events": events}
    return tasks.list_history(DOMAIN, context)


MARCH, APRIL = "2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z"


def test_the_newest_model_of_each_as_of_is_listed(monkeypatch: pytest.MonkeyPatch, bucket: ObjectStore) -> None:
    found = listing(monkeypatch, bucket, {3: MARCH, 1: APRIL, 2: MARCH})
    assert found["count"] == 2
    assert bucket.get_json(bucket.key(found["models"])) == [
        {"as_of": MARCH, "model": "s3://b/3", "model_package": "arn:3"},
        {"as_of": APRIL, "model": "s3://b/1", "model_package": "arn:1"},
    ]
    assert found["models"].startswith(found["output"])
    assert found["output"].endswith("/")
    assert found["as_of"] == ""
    assert listing(monkeypatch, bucket, {1: MARCH}, as_of="2026-04-01T02:00:00+02:00")["as_of"] == APRIL
    for other in ({"period_days": 14}, {"as_of": APRIL}):
        assert listing(monkeypatch, bucket, {1: MARCH}, **other)["output"] != listing(monkeypatch, bucket, {1: MARCH})["output"]


def test_announcements_of_one_backfill_are_answered_once(monkeypatch: pytest.MonkeyPatch, bucket: ObjectStore) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    found = listing(monkeypatch, bucket, {1: MARCH}, triggered=True)
    assert listing(monkeypatch, bucket, {1: MARCH}, triggered=True) == found, "there is no report yet: the run before failed, or runs"
    bucket.put_json(bucket.key(f"{found['output']}ageing.json"), {})
    with pytest.raises(AirflowSkipException, match="these 1 models were measured before"):
        listing(monkeypatch, bucket, {1: MARCH}, triggered=True)
    assert listing(monkeypatch, bucket, {1: MARCH}) == found, "by hand it is measured again"
    assert listing(monkeypatch, bucket, {1: MARCH, 2: APRIL}, triggered=True)["count"] == 2


def test_without_a_backfill_there_is_nothing_to_measure(monkeypatch: pytest.MonkeyPatch, bucket: ObjectStore) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    with pytest.raises(AirflowSkipException, match=r"no model from a backfill: `airflow backfill create --dag-id auto_claims.train_model"):
        listing(monkeypatch, bucket, {})
