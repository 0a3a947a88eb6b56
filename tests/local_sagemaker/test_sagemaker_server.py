"""The server itself: what survives it, what it leaves behind (nothing), and whom it lets in."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from sagemaker_lab import BUCKET, ROOT, Server, error_of
from waiting import wait_until


def started_job(server: Server, name: str) -> None:
    """A training job in the middle of a long sleep, with a process of its own that left its session."""
    server.sagemaker.create_training_job(**server.training_request(name, HyperParameters={"act": "sleep"}))
    log = server.state / f"jobs/training/{name}/output.log"
    wait_until(lambda: log.exists() and "acting" in log.read_text(), what="the job's first words")
    wait_until(lambda: any(process.name() == "sleep" for process in server.descendants()), what="the job's own process")


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if _runs(process)]


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:  # ended between the two questions
        return False


@pytest.mark.parametrize("isolation", ["auto", "none"])
def test_nothing_is_lost_and_nothing_is_left_after_a_kill(own_server: Server, isolation: str) -> None:
    server = own_server
    if isolation != "auto":
        server.terminate()
        server.options["isolation"] = isolation
        server.start()
    channel = {"ChannelName": "train", "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/data/train"}}}
    done = server.train("done", InputDataConfig=[channel])
    server.model("first")
    server.model("second")
    server.model("late", START_SECONDS="60")
    server.endpoint("live", {"champion": ("first", 1), "challenger": ("second", 1)})
    weights = [{"VariantName": "champion", "DesiredWeight": 9.0}, {"VariantName": "challenger", "DesiredWeight": 0.0}]
    server.sagemaker.update_endpoint_weights_and_capacities(EndpointName="live", DesiredWeightsAndCapacities=weights)
    server.settled("live")
    started_job(server, "cut-short")
    server.sagemaker.create_processing_job(**server.processing_request("cut-short", ["sleep"]))
    server.config("late", {"champion": ("late", 1), "challenger": ("late", 1)})
    server.sagemaker.update_endpoint(EndpointName="live", EndpointConfigName="late")
    time.sleep(0.5)
    processes = server.descendants()
    ports = {connection.laddr.port for process in processes for connection in listening(process)}
    assert len(processes) > 5
    assert ports

    server.kill()
    wait_until(lambda: not alive(processes), "the end of every process")
    assert not [port for port in ports if accepts(port)]

    server.start()
    again = server.sagemaker.describe_training_job(TrainingJobName="done")
    assert {**again, "ResponseMetadata": None} == {**done, "ResponseMetadata": None}
    cut_short = server.sagemaker.describe_training_job(TrainingJobName="cut-short")
    assert cut_short["TrainingJobStatus"] == "Failed"
    assert "server ended" in cut_short["FailureReason"]
    assert cut_short["SecondaryStatusTransitions"][-1]["Status"] == "Failed"
    processing = server.sagemaker.describe_processing_job(ProcessingJobName="cut-short")
    assert (processing["ProcessingJobStatus"], "server ended" in processing["FailureReason"]) == ("Failed", True)
    live = server.settled("live")
    assert live["EndpointStatus"] == "InService"
    assert live["EndpointConfigName"] == "live-config"
    assert "late" not in json.dumps(live, default=str).replace("late;", "")
    assert {variant["VariantName"]: variant["CurrentWeight"] for variant in live["ProductionVariants"]} == {
        "champion": 9.0,
        "challenger": 0.0,
    }
    assert {server.invoke("live")["model"] for _ in range(10)} == {"first"}
    assert server.invoke("live", TargetVariant="challenger")["model"] == "second"
    assert server.health()["counts"]["training"] == 2
    assert error_of(lambda: server.train("done"))[0] == "ResourceInUse"


def listening(process: psutil.Process) -> list[psutil._common.pconn]:
    try:
        return [connection for connection in process.net_connections("tcp") if connection.status == psutil.CONN_LISTEN]
    except psutil.Error:
        return []


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_without_namespaces_jobs_find_their_directory_by_variable(aws: str, tmp_path: Path) -> None:
    server = Server(tmp_path, aws, isolation="none").start()
    try:
        server.put("data/train/a.csv")
        health = server.health()
        assert (health["isolation"], health["private_opt_ml"]) == ("none", False)
        script = (
            "import os, sys, pathlib; pathlib.Path(sys.argv[1]).write_text(os.environ['WHERE'] + ' ' + os.environ['SAGEMAKER_BASE_DIR'])"
        )
        algorithm = {**server.training_request("x")["AlgorithmSpecification"], "ContainerEntrypoint": ["python", "-c", script]}
        algorithm["ContainerArguments"] = ["/opt/ml/model/said.txt"]
        output = {"S3OutputPath": f"s3://{BUCKET}/bare", "CompressionType": "NONE"}
        job = server.train(
            "bare", AlgorithmSpecification=algorithm, OutputDataConfig=output, Environment={"WHERE": "in /opt/ml/input, not /opt/mlx"}
        )
        assert job["TrainingJobStatus"] == "Completed", job
        said = server.s3.get_object(Bucket=BUCKET, Key="bare/bare/output/model/said.txt")["Body"].read().decode()
        base = server.state / "jobs/training/bare/ml"
        assert said == f"in {base}/input, not /opt/mlx {base}"
        started_job(server, "bare-stop")
        server.sagemaker.stop_training_job(TrainingJobName="bare-stop")
        assert server.training_end("bare-stop")["TrainingJobStatus"] == "Stopped"
        wait_until(lambda: not any(process.name() == "sleep" for process in server.descendants()), what="the end of what the job started")
    finally:
        server.close()


def test_sigterm_ends_everything_in_order(own_server: Server) -> None:
    server = own_server
    server.model("served")
    server.endpoint("served", {"AllTraffic": ("served", 1)})
    started_job(server, "interrupted")
    processes = server.descendants()
    started = time.monotonic()
    assert server.terminate() == 0
    assert time.monotonic() - started < 8
    assert not alive(processes)
    assert not (server.state / "server.json").exists()
    server.start()
    job = server.sagemaker.describe_training_job(TrainingJobName="interrupted")
    assert job["TrainingJobStatus"] == "Failed"
    assert "server ended" in job["FailureReason"]
    assert server.settled("served")["EndpointStatus"] == "InService"
    assert server.invoke("served")["model"] == "served"


def test_a_second_server_on_one_state_directory_is_refused(own_server: Server) -> None:
    found = subprocess.run(own_server.command(), cwd=ROOT, env=own_server.environment(), capture_output=True, text=True, timeout=30)
    assert found.returncode == 1
    assert "another local SageMaker uses" in found.stderr
    assert own_server.health()["ok"]


def test_only_loopback_unless_told_otherwise(aws: str, tmp_path: Path) -> None:
    server = Server(tmp_path, aws)
    everywhere = "0.0.0.0"  # noqa: S104 - that is what must be refused
    found = subprocess.run(
        server.command("--host", everywhere), cwd=ROOT, env=server.environment(), capture_output=True, text=True, timeout=30
    )
    assert found.returncode == 2
    assert "--allow-non-loopback" in found.stderr


@pytest.mark.parametrize(
    ("images", "told"),
    [
        ("{", "cannot be read as JSON"),
        ('{"a:1": {"command": []}}', "'command' must be a non-empty list"),
        ('{"a:1": {"command": ["x"], "working_directory": "/no/such"}}', "is not a directory"),
        ('{"a:1": {"command": ["x"], "environment": {"A": 1}}}', "'environment' must map names to strings"),
        ('{"a:1": {"command": ["x"], "comand": ["y"]}}', "members among"),
    ],
)
def test_a_wrong_images_file_is_explained(aws: str, tmp_path: Path, images: str, told: str) -> None:
    server = Server(tmp_path, aws)
    server.images.write_text(images)
    found = subprocess.run(server.command(), cwd=ROOT, env=server.environment(), capture_output=True, text=True, timeout=30)
    assert found.returncode == 2
    assert told in found.stderr


def test_recorded_leftovers_are_ended(tmp_path: Path) -> None:
    """Where the kernel does not end a server's processes with it, the next server does: by pid and start time, or by their directory."""
    from include.local_sagemaker.process import reap_leftovers
    from include.local_sagemaker.store import Store

    store = Store(tmp_path / "state.sqlite3")
    sleep = ["sleep", "60"]
    recorded, reused = subprocess.Popen(sleep), subprocess.Popen(sleep)
    marked = subprocess.Popen(sleep, env={"PATH": os.environ["PATH"], "SAGEMAKER_BASE_DIR": f"{tmp_path}/jobs/training/x/ml"})
    store.record_process(recorded.pid, psutil.Process(recorded.pid).create_time(), "recorded")
    store.record_process(reused.pid, psutil.Process(reused.pid).create_time() - 1000, "a pid that now belongs to somebody else")
    time.sleep(0.1)
    assert reap_leftovers(store, tmp_path) == 2
    assert not psutil.pid_exists(recorded.pid)
    assert not psutil.pid_exists(marked.pid)
    assert reused.poll() is None
    assert store.processes() == []
    reused.kill()
    reused.wait()
    store.close()
