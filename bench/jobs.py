"""What a job costs beyond its own work: from the request until SageMaker says Completed, less what the job itself took.

``python -m bench.jobs``: processing jobs on a local SageMaker of this bench's own, beside the same module as a plain new process (the peer:
what a start without the pre-loaded parent would cost). The job imports what the real jobs import and then works for half a second.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.report import Figure, publish
from include.laptop.stack import READY_SECONDS, Stack
from include.settings import ROOT

ROUNDS = 12
WORK_SECONDS = 0.5


def work() -> None:
    """The job: what it did itself, in seconds, is its exit message."""
    started = time.perf_counter()
    import duckdb  # noqa: F401
    import pandas  # noqa: F401
    import xgboost  # noqa: F401

    time.sleep(WORK_SECONDS)
    message = Path("/opt/ml/output/message")
    if message.parent.is_dir():
        message.write_text(json.dumps(time.perf_counter() - started))


def _job(sagemaker: Any, image: str, name: str) -> float:
    """Seconds that the job took beyond its own work."""
    started = time.perf_counter()
    sagemaker.create_processing_job(
        ProcessingJobName=name,
        AppSpecification={"ImageUri": image, "ContainerEntrypoint": ["python", "-m", "bench.jobs"], "ContainerArguments": ["work"]},
        ProcessingResources={"ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}},
        RoleArn="arn:aws:iam::000000000000:role/bench",
    )
    while True:
        found = sagemaker.describe_processing_job(ProcessingJobName=name)
        if found["ProcessingJobStatus"] not in {"InProgress", "Stopping"}:
            break
        time.sleep(0.02)
    took = time.perf_counter() - started
    if found["ProcessingJobStatus"] != "Completed":
        raise RuntimeError(f"{name}: {found['ProcessingJobStatus']}: {found.get('FailureReason')}")
    return took - float(found["ExitMessage"])


def _plain() -> float:
    """The same, as a process of its own without a pre-loaded parent."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "bench.jobs", "work"], cwd=ROOT, check=True)
    return time.perf_counter() - started - WORK_SECONDS


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder))
        services = [service for service in stack.services if service.name in {"ministack", "sagemaker"}]
        stack.write_files()
        try:
            for service in services:
                stack.processes.start(service)
            for service in services:
                stack.processes.wait_until_ready(service, READY_SECONDS)
            sagemaker, image = stack.client("sagemaker"), stack.settings.image_uri
            _job(sagemaker, image, "bench-warm-up")
            ours, peer = [], []
            for number in range(ROUNDS):
                ours.append(_job(sagemaker, image, f"bench-{number}"))
                peer.append(_plain())
        finally:
            stack.down()
    print(f"{ROUNDS} rounds; a job's start {min(ours):.2f} to {max(ours):.2f} s, a plain process {min(peer):.2f} to {max(peer):.2f} s")
    publish(
        "jobs",
        {
            "job_start_seconds": Figure(statistics.median(ours), goal=1.0, at_least=False),
            "plain_process_seconds": Figure(statistics.median(peer)),
        },
    )


if __name__ == "__main__":
    work() if sys.argv[1:] == ["work"] else main()
