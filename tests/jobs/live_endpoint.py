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
_PACKAGE = "arn:aws:sagemaker:eu-west-1:000000000000:model-package/auto-claims"
PACKAGES = {"champion": f"{_PACKAGE}/1", "challenger": f"{_PACKAGE}/2"}
PACKAGE = PACKAGES["champion"]
CONFIGURATION = "served-1"


@dataclass
class LiveEndpoint:
    """``name``: of the endpoint. ``url``, ``process``: of the local SageMaker."""

    objects: ObjectStore
    name: str
    url: str
    process: subprocess.Popen[bytes]

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
    objects: ObjectStore, folder: Path, name: str = "auto-claims-endpoint", capture_percentage: int = 100, challenger: str = ""
) -> Iterator[LiveEndpoint]:
    """Until the end of the block. ``objects``: as ``scored_claims.prepare`` leaves them. ``challenger``: key of a second model, to be served in the
    champion's shadow, from a package that nobody has approved."""
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
        live = LiveEndpoint(objects, name, json.loads((state / "server.json").read_text())["url"], process)
        _deploy(live, capture_percentage, {"champion": MODEL_KEY, **({"challenger": challenger} if challenger else {})})
        yield live
    finally:
        process.terminate()
        process.wait(30)


def _deploy(live: LiveEndpoint, capture_percentage: int, models: dict[str, str]) -> None:
    sagemaker = live.client("sagemaker")
    sagemaker.create_model_package_group(ModelPackageGroupName="auto-claims")
    for slot, key in models.items():
        container = {"Image": IMAGE, "ModelDataUrl": live.objects.uri(key)}
        package = sagemaker.create_model_package(
            ModelPackageGroupName="auto-claims",
            ModelApprovalStatus="Approved" if slot == "champion" else "PendingManualApproval",
            InferenceSpecification={
                "Containers": [container],
                "SupportedContentTypes": ["text/csv"],
                "SupportedResponseMIMETypes": ["text/csv"],
            },
        )["ModelPackageArn"]
        assert package == PACKAGES[slot], package
        container = {"ModelPackageName": package} if slot == "champion" else container
        sagemaker.create_model(ModelName=slot, ExecutionRoleArn="arn:aws:iam::000000000000:role/jobs", Containers=[container])
    slots = {"ProductionVariants": ["champion"], "ShadowProductionVariants": [slot for slot in models if slot != "champion"]}
    bring_to(live, CONFIGURATION, slots, models, capture_percentage)


def bring_to(
    live: LiveEndpoint, configuration: str, slots: dict[str, list[str]], models: dict[str, str], capture_percentage: int = 100
) -> None:
    """Creates or updates the endpoint with a new configuration, and waits. ``slots``: of each kind of variants, those that it has; ``models``: slot →
    key of its model."""
    objects, sagemaker = live.objects, live.client("sagemaker")
    served = {slot: ServedModel(PACKAGES[slot], objects.uri(models[slot])) for kind in slots.values() for slot in kind}
    put_served_models(objects, LAYOUT.captured(configuration), served)
    variants = {
        kind: [{"VariantName": slot, "ModelName": slot, "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"} for slot in names]
        for kind, names in slots.items()
        if names
    }
    capture = {
        "EnableCapture": True,
        "InitialSamplingPercentage": capture_percentage,
        "DestinationS3Uri": objects.uri(LAYOUT.captured(configuration)),
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"], "JsonContentTypes": ["application/json"]},
    }
    sagemaker.create_endpoint_config(EndpointConfigName=configuration, DataCaptureConfig=capture, **variants)
    change = sagemaker.update_endpoint if sagemaker.list_endpoints(NameContains=live.name)["Endpoints"] else sagemaker.create_endpoint
    change(EndpointName=live.name, EndpointConfigName=configuration)
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=live.name, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
