"""A gateway as it runs: a process of its own, in front of real endpoints of the local SageMaker, with S3 from MiniStack and a store on disk."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import httpx
import numpy as np
import xgboost
from waiting import wait_until

from include.jobs import model_file
from include.lifecycle.as_of import iso
from include.lifecycle.experiment import Contender, Experiment, Stage
from include.lifecycle.names import endpoint_name, package_group
from include.stores.experiments import ExperimentStore, open_store
from include.stores.layout import Layout
from include.stores.objects import ObjectStore

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "000000000000.dkr.ecr.us-east-1.amazonaws.com/jobs:1"
ROLE = "arn:aws:iam::000000000000:role/jobs"
DOMAIN = "card_payments"
LAYOUT = Layout(DOMAIN)
ENDPOINT = endpoint_name(DOMAIN)
FEATURES = ("a", "b", "c")
OPENED = "2026-03-01T00:00:00Z"


def model_archive(score: float, features: Sequence[str] = FEATURES) -> bytes:
    """model.tar.gz of a trained model whose scores lie around ``score``."""
    import tempfile

    generator = np.random.default_rng(round(score * 1000))
    rows = generator.normal(size=(600, len(features))).astype(np.float32)
    labels = generator.random(600) < np.clip(score + 0.05 * rows[:, 0], 0.01, 0.99)
    matrix = xgboost.DMatrix(rows, label=labels, feature_names=list(features))
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 2, "eta": 0.2, "seed": 0, "nthread": 1}, matrix, 5)
    description = model_file.ModelDescription(tuple(features), DOMAIN, OPENED, {}, 5, None, {}, {}, {})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model_file.save(model_file.Model(booster, description), rows[:3], folder)
        buffer = BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for path in sorted(folder.iterdir()):
                archive.add(path, path.name)
    return buffer.getvalue()


def clock() -> str:
    return iso(datetime.now(UTC))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Cloud:
    """The local SageMaker with two registered models of ``DOMAIN`` and an endpoint of the first. ``thresholds``: of both, money."""

    folder: Path
    objects: ObjectStore
    process: subprocess.Popen[bytes] | None = None
    url: str = ""
    packages: dict[str, str] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=lambda: {"champion": 0.0, "challenger": 5.0})

    def start(self) -> Cloud:
        images = self.folder / "images.json"
        images.write_text(json.dumps({IMAGE: {"command": [sys.executable, "-m", "include.jobs"], "working_directory": str(ROOT)}}))
        state = self.folder / "sagemaker"
        (state / "server.json").unlink(missing_ok=True)
        port = self.url.rpartition(":")[2] or str(free_port())
        command = [sys.executable, "-m", "include.local_sagemaker", "--state", str(state), "--images", str(images), "--port", port]
        command += ["--endpoint-stop-grace", "1", "--capture-interval", "0.5"]
        with (self.folder / "sagemaker.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=log, stderr=log)
        wait_until((state / "server.json").exists, "the local SageMaker starts", 40)
        self.url = json.loads((state / "server.json").read_text())["url"]
        return self

    @property
    def sagemaker(self) -> Any:
        return boto3.client("sagemaker", endpoint_url=self.url)

    def register(self, slot: str, archive: bytes) -> None:
        """A package of the model, and a SageMaker model of the package, called as the slot. What has no threshold in ``thresholds`` says none."""
        self.models[slot] = self.objects.put(f"{LAYOUT.models}{slot}/model.tar.gz", archive)
        group = package_group(DOMAIN)
        if not self.packages:
            self.sagemaker.create_model_package_group(ModelPackageGroupName=group)
        self.packages[slot] = self.sagemaker.create_model_package(
            ModelPackageGroupName=group,
            ModelApprovalStatus="Approved",
            CustomerMetadataProperties={"as_of": OPENED}
            | ({"review_threshold": str(self.thresholds[slot])} if slot in self.thresholds else {}),
            InferenceSpecification={
                "Containers": [{"Image": IMAGE, "ModelDataUrl": self.models[slot]}],
                "SupportedContentTypes": ["text/csv"],
                "SupportedResponseMIMETypes": ["text/csv"],
            },
        )["ModelPackageArn"]
        self.sagemaker.create_model(ModelName=slot, ExecutionRoleArn=ROLE, Containers=[{"ModelPackageName": self.packages[slot]}])

    def deploy(self, name: str, variants: Mapping[str, str], shadow: Mapping[str, str] | None = None) -> None:
        """Brings the endpoint to a configuration of ``variants``: production variant → SageMaker model; waits. ``shadow``: the same for the shadow
        variant."""
        machine = {"InstanceType": "ml.m5.large"}
        production, shadows = (
            [
                {"VariantName": slot, "ModelName": model, "InitialVariantWeight": 1.0, "InitialInstanceCount": 1, **machine}
                for slot, model in of.items()
            ]
            for of in (variants, shadow or {})
        )
        capture = {
            "EnableCapture": True,
            "InitialSamplingPercentage": 100,
            "DestinationS3Uri": self.objects.uri(LAYOUT.captured(name)),
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"], "JsonContentTypes": ["application/json"]},
        }
        sagemaker = self.sagemaker
        more = {"ShadowProductionVariants": shadows} if shadows else {}
        sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=production, DataCaptureConfig=capture, **more)
        there = sagemaker.list_endpoints(NameContains=ENDPOINT)["Endpoints"]
        (sagemaker.update_endpoint if there else sagemaker.create_endpoint)(EndpointName=ENDPOINT, EndpointConfigName=name)
        sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=ENDPOINT, WaiterConfig={"Delay": 1, "MaxAttempts": 60})

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)


@dataclass
class Gateway:
    """``start`` may be called again after ``kill`` or ``terminate``: it goes on with the same state."""

    cloud: Cloud
    folder: Path
    options: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None
    port: int = field(default_factory=free_port)

    @property
    def store_url(self) -> str:
        return f"sqlite://{self.folder / 'experiments.db'}"

    @property
    def store(self) -> ExperimentStore:
        return open_store(self.store_url)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "gateway.log").read_text()

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "include.gateway", "--port", str(self.port), "--store", self.store_url, "--domains", DOMAIN),
            *("--bucket", self.cloud.objects.bucket, "--state", str(self.folder / "state"), "--refresh-every", "0.2", *self.options),
        ]

    def environment(self) -> dict[str, str]:
        urls = {f"AWS_ENDPOINT_URL_SAGEMAKER{more}": self.cloud.url for more in ("", "_RUNTIME")}
        return os.environ | urls | {"PYTHONPATH": str(ROOT)}

    def start(self) -> Gateway:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "gateway.log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), cwd=ROOT, env=self.environment(), stdout=log, stderr=log)
        process = self.process

        def answers() -> bool:
            assert process.poll() is None, self.log
            try:
                return httpx.get(f"{self.url}/healthz", timeout=1).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(answers, "the gateway starts", 30)
        return self

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def terminate(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(30)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, headers=headers, timeout=30)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", headers=headers, timeout=30)

    def score(self, event: str, **more: Any) -> dict[str, Any]:
        answer = self.post("/v1/score", request(event, **more))
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def flush(self) -> dict[str, int]:
        answer = self.post("/v1/flush", {})
        assert answer.status_code == 200, answer.text
        found: dict[str, int] = answer.json()
        return found

    def rolled_out(self, stage: Stage, share: float, seconds: float = 10.0, **more: Any) -> Experiment:
        """The experiment of both models in a stage that has begun just now, known to the gateway."""
        store, cloud = self.store, self.cloud
        store.ensure()
        present = store.current(DOMAIN)
        if present is None or present.ended:
            slots = {
                slot: Contender(cloud.packages[slot], cloud.models[slot], cloud.thresholds[slot]) for slot in ("champion", "challenger")
            }
            fields: dict[str, Any] = {"opened": OPENED, "stage_since": OPENED, "as_of": OPENED, **slots}
            present = store.create(Experiment("e1" if present is None else f"{present.id}1", DOMAIN, ENDPOINT, **fields))
        saved = store.save(present.but(**{"stage": stage, "share": share, "step": present.step + 1, "step_began": clock(), **more}))

        def followed() -> bool:
            healths = store.healths(saved.id, saved.step)
            return bool(healths) or saved.ended

        wait_until(followed, "the gateway follows the store", seconds)
        if saved.ended:
            time.sleep(0.8)  # ended experiments get no sign of life
        return saved


def request(event: str, **more: Any) -> dict[str, Any]:
    return {
        "domain": DOMAIN,
        "event_id": event,
        "entity_id": f"entity {event}",
        "event_time": "2026-03-31T14:30:00Z",
        "amount": 100.0,
        "features": {"a": 0.5, "b": None, "c": 3},
        **more,
    }


def shipped(objects: ObjectStore, prefix: str) -> list[dict[str, Any]]:
    """All lines of the objects under the prefix."""
    return [json.loads(line) for info in objects.list(prefix) for line in gzip.decompress(objects.get(info.key)).splitlines()]


def landed_labels(objects: ObjectStore) -> Iterator[tuple[str, str]]:
    """(day, line) of every landed label."""
    for info in objects.list(f"{DOMAIN}/raw/labels/"):
        day = info.key.split("dt=")[1][:10]
        for line in objects.get(info.key).decode().splitlines()[1:]:
            yield day, line
