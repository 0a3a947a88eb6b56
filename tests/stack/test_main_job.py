"""The whole main job on the local stack: real Airflow, the provider's operators, real jobs, a live endpoint."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from include.laptop.airflow_api import AirflowApi
from include.laptop.demo import Demo
from include.laptop.processes import StackError
from include.laptop.stack import Stack
from include.stores.layout import Layout
from include.stores.partitions import Partitions
from include.stores.registry import ModelRegistry

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]


def test_rows_in_are_rows_curated_and_rows_quarantined(main_job: Demo) -> None:
    rows = main_job.summary["rows"]
    assert rows["landed"] == rows["curated"] + rows["quarantined"]
    assert rows["landed"] > 30_000
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
        package["DriftCheckBaselines"]["ModelQuality"]["Statistics"]["S3Uri"],
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
    main_job.api.call("POST", f"/dags/{dag_id}/dagRuns/{run}/clear", json={"dry_run": False})
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


def test_a_run_killed_at_every_task_and_cleared_finishes_with_the_same_result(main_job: Demo) -> None:
    """Each task in turn is marked failed while it runs or is deferred, then cleared with what follows. Same as-of, so same data set and model."""
    dag_id = "auto_claims.train_model"
    api = main_job.api
    first = api.runs(dag_id)[0]["dag_run_id"]
    run = api.trigger(dag_id, {"as_of": "2026-03-17T00:00:00Z", "approval": "ask"})
    jobs = {"build_dataset", "train", "evaluate", "baseline"}
    killed: dict[str, str] = {}
    deadline = time.monotonic() + 600
    while not any(task.task_id == "ask_for_approval" and task.state == "awaiting_input" for task in api.tasks(dag_id, run)):
        assert time.monotonic() < deadline, (killed, api.tasks(dag_id, run))
        for task in api.tasks(dag_id, run):
            wanted = "deferred" if task.task_id in jobs else "running"
            if task.task_id not in killed and task.state == wanted:
                job = running_job(main_job.stack.client("sagemaker"), task.task_id) if task.task_id in jobs else None
                api.call("PATCH", f"/dags/{dag_id}/dagRuns/{run}/taskInstances/{task.task_id}", json={"new_state": "failed"})
                killed[task.task_id] = job or ""
                time.sleep(2)  # the worker learns of it with its next heartbeat
                clear(api, dag_id, run, task.task_id)
        time.sleep(0.1)
    assert jobs <= set(killed)
    for task, job in killed.items():
        if job:
            status = wait_until(lambda job=job: status_of(main_job.stack.client("sagemaker"), job), f"{job} is known", 60)
            assert status in {"Stopped", "Stopping", "Completed"}, f"killing {task} left {job} {status}"

    again, before = ({task: api.xcom(dag_id, each, task) for task in ("build_dataset", "train", "evaluate")} for each in (run, first))
    assert again["train"]["metrics"] == before["train"]["metrics"]
    assert again["evaluate"]["metrics"] == before["evaluate"]["metrics"]
    for part in ("train", "validation", "test"):
        one, other = (
            main_job.objects.get(main_job.objects.key(each["build_dataset"]["uri"]) + f"{part}.parquet") for each in (again, before)
        )
        assert one == other

    time.sleep(5)  # no person answers faster; Airflow asks again where an answer overtakes its executor's report that the question was put
    answer = f"/dags/{dag_id}/dagRuns/{run}/taskInstances/ask_for_approval/-1/hitlDetails"
    denied = AirflowApi(main_job.stack.url("airflow"), "admin", main_job.stack.file.passwords["admin"])
    with pytest.raises(StackError, match="403"):
        denied.call("PATCH", answer, json={"chosen_options": ["Reject"], "params_input": {}})
    approver = AirflowApi(main_job.stack.url("airflow"), "claims_lead", main_job.stack.file.passwords["claims_lead"])
    approver.call("PATCH", answer, json={"chosen_options": ["Reject"], "params_input": {"why": "only a test"}})
    assert api.follow(dag_id, run, 120, lambda _: None) == "success"
    arn = api.xcom(dag_id, run, "register")["model_package"]
    package = main_job.stack.client("sagemaker").describe_model_package(ModelPackageName=arn)
    assert package["ModelApprovalStatus"] == "Rejected"
    assert "Rejected by claims_lead (only a test)" in package["ApprovalDescription"]


def test_a_backfill_retrains_history_and_touches_nothing_live(main_job: Demo) -> None:
    dag_id = "auto_claims.train_model"
    sagemaker = main_job.stack.client("sagemaker")
    registry = ModelRegistry(sagemaker)
    live = registry.live("auto_claims")
    command = ["backfill", "create", "--dag-id", dag_id, "--from-date", "2026-03-01", "--to-date", "2026-05-31", "--max-active-runs", "2"]
    said = ""
    for _ in range(40):  # as ``AirflowApi.create_backfill`` does, where SQLite refuses a writer that the scheduler overtakes
        made = subprocess.run(
            [sys.executable, "-m", "airflow", *command],
            env=main_job.stack.airflow_environment,
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
        )
        said += made.stderr
        if made.returncode == 0:
            break
        assert "locked" in said, said
        time.sleep(3)
    assert made.returncode == 0, said
    runs = wait_until(lambda: finished_backfill(main_job, dag_id, 3), "the backfill's end", 600)
    assert {run["state"] for run in runs} == {"success"}
    found = sagemaker.list_model_packages(ModelPackageGroupName="auto-claims-history")["ModelPackageSummaryList"]
    as_of = {registry.package(entry["ModelPackageArn"]).metadata["as_of"] for entry in found}
    assert as_of == {"2026-03-01T06:00:00Z", "2026-04-01T06:00:00Z", "2026-05-01T06:00:00Z"}
    assert registry.live("auto_claims") == live
    for run in runs:
        states = {task.task_id: task.state for task in main_job.api.tasks(dag_id, run["dag_run_id"])}
        assert states["ask_for_approval"] == states["approve"] == states["reject"] == "skipped"


def test_a_deployment_that_fails_its_smoke_test_returns_to_the_previous_model(main_job: Demo) -> None:
    """An approved package whose smoke test expects other scores: the endpoint takes it, fails the test, and goes back."""
    sagemaker = main_job.stack.client("sagemaker")
    registry = ModelRegistry(sagemaker)
    live = registry.live("auto_claims")
    good = sagemaker.describe_model_package(ModelPackageName=main_job.summary["model_package"])
    metadata = dict(good["CustomerMetadataProperties"])
    expected = main_job.objects.get_json(main_job.objects.key(metadata["smoke_test"]))
    wrong = {**expected, "scores": [1 - score for score in expected["scores"]]}
    metadata["smoke_test"] = main_job.objects.put_json("auto_claims/reports/evaluate/wrong/smoke_test.json", wrong)
    arn = sagemaker.create_model_package(
        ModelPackageGroupName="auto-claims",
        InferenceSpecification=good["InferenceSpecification"],
        ModelApprovalStatus="Approved",
        CustomerMetadataProperties=metadata,
    )["ModelPackageArn"]
    told = subscribe_to_alerts(main_job.stack)
    dag_id = "auto_claims.deploy_model"
    run = main_job.api.trigger(dag_id, {"model_package": arn})
    assert main_job.api.follow(dag_id, run, 300, lambda _: None) == "failed"
    states = {task.task_id: task.state for task in main_job.api.tasks(dag_id, run)}
    assert states["smoke_test"] == "failed"
    assert states["return_to_previous"] == "success"
    assert registry.live("auto_claims") == live
    alerts = wait_until(lambda: [text for text in told() if "task smoke_test failed" in text], "the alert")
    assert "scores differ from the trained model's" in alerts[0]
    sagemaker.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Rejected")


def test_everything_is_still_there_after_down_and_up(main_job: Demo) -> None:
    main_job.stack.down()
    assert not [name for name in main_job.stack.processes.names() if main_job.stack.processes.process(name)]
    main_job.stack.up()
    registry = ModelRegistry(main_job.stack.client("sagemaker"))
    live = wait_until(lambda: (found := registry.live("auto_claims")) and found.status == "InService" and found, "the endpoint is back", 60)
    assert live.model_package == main_job.summary["model_package"]
    assert main_job._score("auto-claims-endpoint")["p50"] > 0


def test_no_connection_left_the_machine(main_job: Demo, connection_record) -> None:
    watched = Path(f"{connection_record}.watched").read_text()
    for service in ("ministack", "include.local_sagemaker", "api-server", "scheduler", "dag-processor", "triggerer", "preload"):
        assert service in watched, f"nobody watched {service}"
    assert not connection_record.exists(), connection_record.read_text()


def subscribe_to_alerts(stack: Stack) -> Callable[[], list[str]]:
    """What people were told, by a queue on the alert topic: every message since the last look."""
    sqs, sns = stack.client("sqs"), stack.client("sns")
    url = sqs.create_queue(QueueName="alerts-of-a-test")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=stack.settings.alerts_topic_arn, Protocol="sqs", Endpoint=arn)

    def told() -> list[str]:
        found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
        return [json.loads(message["Body"])["Message"] for message in found]

    return told


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


def running_job(sagemaker: Any, task: str) -> str | None:
    """The job of a task of train_model: two of them may run at once."""
    running = [job["TrainingJobName"] for job in sagemaker.list_training_jobs(StatusEquals="InProgress")["TrainingJobSummaries"]]
    running += [job["ProcessingJobName"] for job in sagemaker.list_processing_jobs(StatusEquals="InProgress")["ProcessingJobSummaries"]]
    return next((str(name) for name in running if f"-{task.replace('_', '-')}-" in name), None)


def clear(api: AirflowApi, dag_id: str, run: str, task: str) -> None:
    what = {
        "dry_run": False,
        "dag_run_id": run,
        "only_failed": False,
        "task_ids": [task],
        "include_downstream": True,
        "reset_dag_runs": True,
    }
    api.call("POST", f"/dags/{dag_id}/clearTaskInstances", json=what)


def finished_backfill(demo: Demo, dag_id: str, count: int) -> list[dict[str, Any]]:
    runs = [run for run in demo.api.runs(dag_id) if run["run_type"] == "backfill" and run["state"] in {"success", "failed"}]
    return runs if len(runs) == count else []


def status_of(sagemaker: Any, name: str) -> str:
    if "-train-" in name:
        return str(sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"])
    return str(sagemaker.describe_processing_job(ProcessingJobName=name)["ProcessingJobStatus"])
