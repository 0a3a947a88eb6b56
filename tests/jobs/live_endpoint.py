"""A real endpoint in front of a trained model: the local SageMaker as a process of its own, capturing into the test's bucket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from claims_store import LAYOUT
from scored_claims import MODEL_KEY

from include.stores.captures import Captures, ServedModel, put_served_models
from include.stores.objects import ObjectStore

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "000000000000.dkr.ecr.us-east-1.amazonaws.com/jobs:1"
PACKAGE = "arn:aws:sagemaker:us-east-1:000000000000:model-package/auto-claims/1"
CONFIGURATION = "served-1"


@dataclass
class LiveEndpoint:
    """``name``: of the endpoint. ``url``: of the local SageMaker."""

    objects: ObjectStore
    name: str
    url: str

    def client(self, service: str) -> Any:
        return boto3.client(service, endpoint_url=self.url)  # type: ignore[call-overload]

    def captured(self, lines: int, seconds: float = 20) -> int:
        """Waits until so many requests were captured, and returns how many there are."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            count = sum(self.objects.get(file.key).count(b"\n") for file in Captures(self.objects, LAYOUT).files())
            if count >= lines:
                return count
            time.sleep(0.1)
        raise AssertionError(f"{lines} requests were not captured within {seconds} seconds")


@contextmanager
def live_endpoint(
    objects: ObjectStore, folder: Path, name: str = "auto-claims-endpoint", capture_percentage: int = 100
) -> Iterator[LiveEndpoint]:
    """Until the end of the block. ``objects``: as ``scored_claims.prepare`` leaves them."""
    images = folder / "images.json"
    images.write_text(json.dumps({IMAGE: {"command": [sys.executable, "-m", "include.jobs"], "working_directory": str(ROOT)}}))
    state = folder / "sagemaker"
    command = [sys.executable, "-m", "include.local_sagemaker", "--state", str(state), "--images", str(images), "--capture-interval", "0.5"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        while not (state / "server.json").exists():
            assert process.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.05)
        live = LiveEndpoint(objects, name, json.loads((state / "server.json").read_text())["url"])
        _deploy(live, capture_percentage)
        yield live
    finally:
        process.terminate()
        process.wait(30)


def _deploy(live: LiveEndpoint, capture_percentage: int) -> None:
    objects, sagemaker = live.objects, live.client("sagemaker")
    put_served_models(objects, LAYOUT.captured(CONFIGURATION), {"champion": ServedModel(PACKAGE, objects.uri(MODEL_KEY))})
    container = {"Image": IMAGE, "ModelDataUrl": objects.uri(MODEL_KEY)}
    sagemaker.create_model(ModelName="m", ExecutionRoleArn="arn:aws:iam::000000000000:role/jobs", PrimaryContainer=container)
    variant = {"VariantName": "champion", "ModelName": "m", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    capture = {
        "EnableCapture": True,
        "InitialSamplingPercentage": capture_percentage,
        "DestinationS3Uri": objects.uri(LAYOUT.captured(CONFIGURATION)),
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"], "JsonContentTypes": ["application/json"]},
    }
    sagemaker.create_endpoint_config(EndpointConfigName="c", ProductionVariants=[variant], DataCaptureConfig=capture)
    sagemaker.create_endpoint(EndpointName=live.name, EndpointConfigName="c")
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=live.name, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
