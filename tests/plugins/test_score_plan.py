"""What a run of ``score_batch`` scores, and how ``ingest_data`` tells it."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from include import domains
from include.stores.layout import Layout
from include.stores.objects import ObjectStore
from include.stores.registry import ModelPackage

DOMAIN = domains.get("auto_claims")
ARN = "arn:aws:sagemaker:us-east-1:000000000000:model-package/{}/{}"
RUN_AFTER = datetime(2026, 5, 1, 4, tzinfo=UTC)
TOLD = {"first_day": "2026-03-01", "last_day": "2026-03-30", "as_of": "2026-04-02T00:00:00Z"}


def package(version: int, status: str = "Approved", group: str = "auto-claims") -> ModelPackage:
    return ModelPackage(ARN.format(group, version), version, status, f"s3://b/{version}/model.tar.gz")


def planned(
    monkeypatch: pytest.MonkeyPatch,
    packages: list[ModelPackage],
    champion: ModelPackage | None = None,
    told: list[dict[str, Any]] | None = None,
    **params: str,
) -> dict[str, Any]:
    from sagemaker_lifecycle import tasks

    known = {each.arn: each for each in packages}
    approved = [each for each in packages if each.status == "Approved"]
    registry = SimpleNamespace(
        package=known.__getitem__, newest_approved=lambda _: approved[-1] if approved else None, champion=lambda _: champion
    )
    monkeypatch.setattr(tasks, "model_registry", lambda: registry)
    context: Any = {
        "params": {"first_day": None, "last_day": None, "model_package": None, "as_of": None, **params},
        "dag_run": SimpleNamespace(data_interval_end=None, logical_date=None, run_after=RUN_AFTER),
        "triggering_asset_events": {"features": [SimpleNamespace(extra=extra) for extra in told or ()]},
    }
    return tasks.plan_scoring(DOMAIN, context)


def test_the_live_model_scores_the_last_day_that_ingestion_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    live = package(1)
    assert planned(monkeypatch, [live, package(2)], champion=live, told=[TOLD]) == {
        "model_package": live.arn,
        "model": "s3://b/1/model.tar.gz",
        "first_day": "2026-03-30",
        "last_day": "2026-03-30",
        "as_of": "2026-04-02T00:00:00Z",
    }
    assert planned(monkeypatch, [live, package(2)], told=[TOLD])["model_package"] == package(2).arn, "nothing is live: the newest approved"
    later = {**TOLD, "last_day": "2026-03-31", "as_of": "2026-04-03T00:00:00Z"}
    nothing = {**TOLD, "first_day": None, "last_day": None}
    several = planned(monkeypatch, [live], told=[later, TOLD, nothing, {}])
    assert (several["first_day"], several["last_day"], several["as_of"]) == ("2026-03-30", "2026-03-31", "2026-04-03T00:00:00Z"), (
        "the days of all runs that came meanwhile"
    )
    long_ago = {**TOLD, "last_day": "2026-01-31"}
    assert planned(monkeypatch, [live], told=[long_ago, TOLD])["first_day"] == "2026-03-30", "no further back than ingestion's lookback"


def test_a_person_names_days_model_and_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = [package(1), package(2)]
    found = planned(monkeypatch, packages, champion=packages[1], first_day="2026-03-01", last_day="2026-03-07", model_package=packages[0].arn)
    assert (found["model_package"], found["first_day"], found["last_day"]) == (packages[0].arn, "2026-03-01", "2026-03-07")
    assert found["as_of"] == "2026-05-01T04:00:00Z", "the run's own instant"
    assert planned(monkeypatch, packages, first_day="2026-03-01", as_of="2026-03-05T00:00:00Z")["as_of"] == "2026-03-05T00:00:00Z"
    only_last = planned(monkeypatch, packages, last_day="2026-03-07")
    assert (only_last["first_day"], only_last["last_day"]) == ("2026-03-07", "2026-03-07")
    assert planned(monkeypatch, packages, told=[TOLD], first_day="2026-02-01")["as_of"] == "2026-05-01T04:00:00Z", "asked for: not of those features"


def test_by_hand_without_a_day_it_is_the_last_that_has_features(monkeypatch: pytest.MonkeyPatch, bucket: ObjectStore) -> None:
    from airflow.sdk.exceptions import AirflowSkipException
    from sagemaker_lifecycle import tasks

    monkeypatch.setattr(tasks, "object_store", lambda: bucket)
    with pytest.raises(AirflowSkipException, match="auto_claims has no features yet under s3://"):
        planned(monkeypatch, [package(1)])
    for day in (date(2026, 3, 9), date(2026, 3, 11), date(2026, 3, 10)):
        bucket.put(f"{Layout(DOMAIN.name).features}/dt={day}/data.parquet", b"")
    assert planned(monkeypatch, [package(1)])["first_day"] == "2026-03-11"


def test_without_a_model_the_run_is_skipped_and_an_unapproved_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

    with pytest.raises(AirflowSkipException, match="auto_claims has no approved model yet"):
        planned(monkeypatch, [package(1, "PendingManualApproval")], told=[TOLD])
    for unfit, message in (
        (package(1, "Rejected"), "is Rejected: only an approved package"),
        (package(1, group="card-payments"), "is not one of the models of auto_claims"),
        (package(1, group="auto-claims-history"), "is not one of the models of auto_claims"),
    ):
        with pytest.raises(AirflowFailException, match=message):
            planned(monkeypatch, [unfit], told=[TOLD], model_package=unfit.arn)


def test_ingestions_asset_event_carries_what_its_features_job_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook
    from airflow.sdk.execution_time.context import OutletEventAccessors
    from sagemaker_lifecycle.jobs import DomainProcessingOperator

    from include import assets

    monkeypatch.setattr(S3Hook, "read_key", lambda *_: json.dumps({**TOLD, "rows": 10}))
    asset = assets.features(DOMAIN.name)
    operator = DomainProcessingOperator(
        task_id="build_features", domain=DOMAIN.name, job="build-features", arguments={}, outlets=[asset], tells=tuple(TOLD)
    )
    events = OutletEventAccessors()
    context: Any = {"outlet_events": events}
    result = operator.completed(context, {"ProcessingJobName": "auto-claims-build-features-1"}, "1")
    assert events[asset].extra == TOLD
    assert result["rows"] == 10
