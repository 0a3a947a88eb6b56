"""The whole main job on the local stack: real Airflow, the provider's operators, real jobs, a live endpoint."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from include.laptop.demo import Demo
from include.laptop.stack import Stack
from include.stores.layout import Layout
from include.stores.partitions import Partitions
from include.stores.registry import ModelRegistry

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]


def test_rows_in_are_rows_curated_and_rows_quarantined(main_job: Demo) -> None:
    rows = main_job.summary["rows"]
    assert rows["landed"] == rows["curated"] + rows["quarantined"]
    assert rows["landed"] > 12_000
    assert rows["quarantined"] > 0, "the simulator plants dirty rows, and none was caught"


def test_the_model_is_registered_with_metrics_lineage_and_as_of(main_job: Demo) -> None:
    client = main_job.stack.client("sagemaker")
    package = client.describe_model_package(ModelPackageName=main_job.summary["model_package"])
    assert package["ModelApprovalStatus"] == "Approved"
    assert "automatic approval" in package["ApprovalDescription"]
    metadata = package["CustomerMetadataProperties"]
    assert metadata["as_of"] == "2026-03-17T00:00:00Z"
    assert metadata["dataset"].startswith("s3://")
    assert metadata["code_version"]
    for uri in (
        package["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"],
        package["ModelMetrics"]["Bias"]["Report"]["S3Uri"],
        package["ModelMetrics"]["Explainability"]["Report"]["S3Uri"],
        package["DriftCheckBaselines"]["ModelDataQuality"]["Statistics"]["S3Uri"],
    ):
        assert json.loads(main_job.objects.get(main_job.objects.key(uri)))
    for metric in main_job.summary["metrics"].values():
        assert metric["low"] <= metric["value"] <= metric["high"]
    assert main_job.summary["metrics"]["roc_auc"]["value"] > 0.7


def test_the_endpoint_is_live_with_the_registered_model(main_job: Demo) -> None:
    live = ModelRegistry(main_job.stack.client("sagemaker")).live("auto_claims")
    assert live is not None
    assert live.status == "InService"
    assert live.model_package == main_job.summary["model_package"]
    assert main_job.summary["invoke_ms"]["p50"] < 100


def test_no_data_set_knows_the_future(main_job: Demo) -> None:
    import io

    import pyarrow.parquet as pq

    package = main_job.stack.client("sagemaker").describe_model_package(ModelPackageName=main_job.summary["model_package"])
    folder = main_job.objects.key(package["CustomerMetadataProperties"]["dataset"])
    times = []
    for part in ("train", "validation", "test"):
        table = pq.read_table(io.BytesIO(main_job.objects.get(f"{folder}{part}.parquet")))
        column = table.column("event_time").to_pylist()
        times.append((min(column), max(column)))
        assert table.num_rows
    assert times[0][1] <= times[1][0]
    assert times[1][1] <= times[2][0]
    assert times[2][1].isoformat() < "2026-02-15T00:00:01", "a test event was not yet mature as of 17 March"


def test_a_cleared_run_finishes_with_the_same_result(main_job: Demo) -> None:
    """Clearing a finished run adopts its finished jobs: the same package, the same bytes."""
    dag_id = "auto_claims.train_model"
    run = main_job.api.runs(dag_id)[0]["dag_run_id"]
    before = {task: main_job.api.xcom(dag_id, run, task) for task in ("build_dataset", "train", "evaluate", "register")}
    jobs = len(list_jobs(main_job.stack))
    main_job.api._call("POST", f"/dags/{dag_id}/dagRuns/{run}/clear", json={"dry_run": False})
    time.sleep(1)
    assert main_job.api.follow(dag_id, run, 300, lambda _: None) == "success"
    assert {task: main_job.api.xcom(dag_id, run, task) for task in before} == before
    assert len(list_jobs(main_job.stack)) == jobs


def test_ingesting_the_same_delivery_again_changes_nothing(main_job: Demo) -> None:
    layout = Layout("auto_claims")
    sets = [layout.curated("claims"), layout.curated("customers"), layout.labels, layout.features]
    before = [Partitions(main_job.objects, prefix).versions() for prefix in sets]
    dag_id = "auto_claims.ingest_data"
    day = {"first_day": "2026-03-16", "last_day": "2026-03-16"}
    assert main_job.api.follow(dag_id, main_job.api.trigger(dag_id, day), 300, lambda _: None) == "success"
    assert [Partitions(main_job.objects, prefix).versions() for prefix in sets] == before


def test_a_killed_task_stops_its_job_and_clearing_finishes_the_run(main_job: Demo) -> None:
    """A person marks the deferred training as failed: the job is stopped. Clearing the task starts the next one, and the run ends well."""
    dag_id = "auto_claims.train_model"
    api, sagemaker = main_job.api, main_job.stack.client("sagemaker")
    run = api.trigger(dag_id, {"as_of": "2026-03-16T00:00:00Z", "approval": "ask"})
    name = wait_for(lambda: running_job(sagemaker, known=set()), 120)
    task = next(
        task.task_id
        for task in api.tasks(dag_id, run)
        if task.state in {"running", "deferred", "queued"} and task.task_id in name.replace("-", "_")
    )
    wait_for(lambda: any(each.task_id == task and each.state == "deferred" for each in api.tasks(dag_id, run)), 60)
    api._call("PATCH", f"/dags/{dag_id}/dagRuns/{run}/taskInstances/{task}", json={"new_state": "failed"})
    wait_for(lambda: status_of(sagemaker, name) in {"Stopped", "Completed"}, 60)
    api._call(
        "POST",
        f"/dags/{dag_id}/clearTaskInstances",
        json={"dry_run": False, "dag_run_id": run, "only_failed": False, "task_ids": [task], "include_downstream": True},
    )
    wait_for(lambda: any(each.task_id == "ask_for_approval" and each.state == "awaiting_input" for each in api.tasks(dag_id, run)), 300)
    answer = f"/dags/{dag_id}/dagRuns/{run}/taskInstances/ask_for_approval/-1/hitlDetails"
    api._call("PATCH", answer, json={"chosen_options": ["Reject"], "params_input": {}})
    assert api.follow(dag_id, run, 120, lambda _: None) == "success"
    package = sagemaker.describe_model_package(ModelPackageName=api.xcom(dag_id, run, "register")["model_package"])
    assert package["ModelApprovalStatus"] == "Rejected"
    assert "Rejected by" in package["ApprovalDescription"]


def test_no_connection_left_the_machine(main_job: Demo, connection_record) -> None:
    assert not connection_record.exists(), connection_record.read_text()


def list_jobs(stack: Stack) -> list[str]:
    client = stack.client("sagemaker")
    training = [
        job["TrainingJobName"] for page in client.get_paginator("list_training_jobs").paginate() for job in page["TrainingJobSummaries"]
    ]
    processing = [
        job["ProcessingJobName"]
        for page in client.get_paginator("list_processing_jobs").paginate()
        for job in page["ProcessingJobSummaries"]
    ]
    return training + processing


def running_job(sagemaker: Any, known: set[str]) -> str | None:
    for job in sagemaker.list_training_jobs(StatusEquals="InProgress")["TrainingJobSummaries"]:
        if job["TrainingJobName"] not in known:
            return str(job["TrainingJobName"])
    for job in sagemaker.list_processing_jobs(StatusEquals="InProgress")["ProcessingJobSummaries"]:
        if job["ProcessingJobName"] not in known:
            return str(job["ProcessingJobName"])
    return None


def status_of(sagemaker: Any, name: str) -> str:
    if "-train-" in name:
        return str(sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"])
    return str(sagemaker.describe_processing_job(ProcessingJobName=name)["ProcessingJobStatus"])


def wait_for(condition: Any, seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(f"not so within {seconds} s")
