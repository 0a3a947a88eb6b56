"""What the tests of the local SageMaker share: a real server process, tiny job scripts, boto3 clients."""
# ruff: noqa: S310 - paths and addresses are our own

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import psutil
from botocore.config import Config
from botocore.exceptions import ClientError
from waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
REGION, ACCOUNT = "us-east-1", "000000000000"
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/tiny:1"
PRELOADED_IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/tiny-preloaded:1"
BROKEN_IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/broken:1"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/jobs"
BUCKET = "sagemaker-tests"

# One module that plays every part; which part, and how badly, it is told by arguments, hyperparameters and environment.
TINY = """
import asyncio, atexit, json, os, pathlib, shutil, signal, subprocess, sys, threading, time

base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])


def train():
    config = base / "input/config"
    hyperparameters = json.loads((config / "hyperparameters.json").read_text())
    act = hyperparameters.get("act", "learn")
    print("acting", act, flush=True)
    if act == "sleep":
        def save(*_):
            (base / "model/saved.txt").write_text("saved on SIGTERM")
            sys.exit(0)
        signal.signal(signal.SIGTERM, save)
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        time.sleep(600)
    if act == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    if act == "tidy":
        shutil.rmtree(base / "model")
        shutil.rmtree(base / "output/data")
        (base / "checkpoints/step-1").unlink()
        return
    if act == "link":
        (base / "model/real").write_text("real")
        (base / "model/link").symlink_to("/etc/hostname")
        return
    if act == "fail":
        (base / "output/failure").write_text("the data are bad" + "!" * 2000)
        sys.exit(3)
    data = base / "input/data"
    files = sorted(str(path.relative_to(data)) for path in data.rglob("*") if path.is_file()) if data.exists() else []
    report = {
        "files": files,
        "config": {path.name: json.loads(path.read_text()) for path in config.iterdir()},
        "environment": dict(os.environ),
        "argv": sys.argv[1:],
        "opt_ml": sorted(os.listdir("/opt/ml")) if os.path.isdir("/opt/ml") else None,
        "checkpoints": sorted(os.listdir(base / "checkpoints")) if (base / "checkpoints").exists() else None,
    }
    (base / "model/report.json").write_text(json.dumps(report))
    (base / "model/answer.txt").write_text(hyperparameters.get("answer", "42"))
    (base / "output/data/notes.txt").write_text("some notes")
    if report["checkpoints"] is not None:
        (base / "checkpoints/step-2").write_text("2")
    print("[1]#train-auc:0.7\\tvalidation-auc:0.81", flush=True)
    print("[2]#train-auc:0.8\\tvalidation-auc:0.93", file=sys.stderr)


def end(how):
    def later():
        time.sleep(0.2)
        print("the thread ended")

    atexit.register(print, "the exit handler ran")
    threading.Thread(target=later).start()
    if how == "raise":
        raise ValueError("seven is not eight")
    if how == "message":
        sys.exit("that is why")
    if how == "number":
        sys.exit(41)


def process(arguments):
    act = arguments[0]
    print("processing", act, flush=True)
    if act == "fail":
        (base / "output/message").write_text("seven rows were bad")
        sys.exit(7)
    if act == "long message":
        (base / "output/message").write_text(arguments[1] * 1000, "utf-8")
        return
    if act == "sleep":
        time.sleep(600)
    out = base / "processing/out"
    inputs = base / "processing/in"
    (out / "sub").mkdir()
    (out / "sub/result.json").write_text(json.dumps({
        "arguments": arguments,
        "inputs": sorted(str(path.relative_to(inputs)) for path in inputs.rglob("*") if path.is_file()),
        "config": json.loads((base / "config/processingjobconfig.json").read_text()),
        "environment": dict(os.environ),
    }))
    (out / "link").symlink_to("/etc/hostname")
    (base / "output/message").write_text("all well")


async def answer(reader, writer):
    model = base / "model"
    name = (model / "answer.txt").read_text() if (model / "answer.txt").exists() else os.environ.get("ANSWER", "none")
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            lines = head.decode().split("\\r\\n")
            headers = {line.split(":", 1)[0].lower(): line.split(":", 1)[1].strip() for line in lines[1:] if ":" in line}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            status, extra, reply = 200, "", b""
            if lines[0].startswith("POST"):
                told = body.decode()
                await asyncio.sleep(float(os.environ.get("DELAY", "0")))
                if "BREAKS" in os.environ:
                    status = 500
                if told.startswith("slow"):
                    await asyncio.sleep(float(told.split()[1]))
                if told == "crash":
                    os._exit(9)
                if told == "bad":
                    status = 400
                if told == "error":
                    status = 500
                if "x-amzn-sagemaker-custom-attributes" in headers:
                    extra = "X-Amzn-SageMaker-Custom-Attributes: seen-" + headers["x-amzn-sagemaker-custom-attributes"] + "\\r\\n"
                reply = json.dumps({"model": name, "body": told[:100], "size": len(body), "pid": os.getpid(), "headers": headers}).encode()
            head = f"HTTP/1.1 {status} X\\r\\nContent-Type: application/json\\r\\n{extra}Content-Length: {len(reply)}\\r\\n\\r\\n"
            writer.write(head.encode() + reply)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def serve():
    if os.environ.get("ACT") == "never healthy":
        sys.exit(1)
    await asyncio.sleep(float(os.environ.get("START_SECONDS", "0")))
    server = await asyncio.start_server(answer, "127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"]))
    print("serving", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "train":
        train()
    elif sys.argv[1] == "end":
        end(sys.argv[2])
    elif sys.argv[1] == "serve":
        asyncio.run(serve())
    else:
        process(sys.argv[1:])
"""


def error_of(call: Callable[[], Any]) -> tuple[str, str]:
    """The code and message with which AWS's client refuses a call."""
    try:
        call()
    except ClientError as error:
        return error.response["Error"]["Code"], error.response["Error"]["Message"]
    raise AssertionError("the call was accepted")


class Server:
    """One local SageMaker: the process and clients of it. ``start`` may be called again after ``kill`` or ``terminate``."""

    def __init__(self, directory: Path, aws_url: str, **options: str) -> None:
        self.state = directory / "state"
        self.aws_url = aws_url
        work = directory / "work"
        work.mkdir(parents=True, exist_ok=True)
        (work / "tiny.py").write_text(TINY)
        image = {
            "command": [sys.executable, "-m", "tiny"],
            "working_directory": str(work),
            "environment": {"FROM_IMAGE": "yes", "OVERRIDDEN": "by the image"},
        }
        self.images = directory / "images.json"
        images = {
            IMAGE: image,
            PRELOADED_IMAGE: {**image, "preload": ["json", "sqlite3", "email.message"]},
            BROKEN_IMAGE: {**image, "command": ["/no/such/program"]},
        }
        self.images.write_text(json.dumps(images))
        self.options = {"job-stop-grace": "1", "endpoint-stop-grace": "1", "startup-health-check": "20", "metrics-interval": "1", **options}
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.log_file = directory / "server.log"

    def command(self, *more: str) -> list[str]:
        options = [text for name, value in self.options.items() for text in (f"--{name}", value)]
        return [sys.executable, "-m", "include.local_sagemaker", "--state", str(self.state), "--images", str(self.images), *options, *more]

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "AWS_ENDPOINT_URL": self.aws_url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": REGION,
            "SECRET_OF_THE_SERVER": "must not reach a job",
        }

    def start(self) -> Server:
        announced = self.state / "server.json"
        announced.unlink(missing_ok=True)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), cwd=ROOT, env=self.environment(), stdout=log, stderr=log, start_new_session=True
            )
        process = self.process

        def ready() -> bool:
            if process.poll() is not None:
                raise AssertionError(self.log_file.read_text())
            return announced.exists()

        wait_until(ready, "the local SageMaker")
        self.url = json.loads(announced.read_text())["url"]
        self.sagemaker = self.client("sagemaker")
        self.runtime = self.client("sagemaker-runtime")
        self.s3 = self.client("s3")
        self.logs = self.client("logs")
        self.cloudwatch = self.client("cloudwatch")
        return self

    def client(self, service: str, **config: Any) -> Any:
        """A real boto3 client: of this server, or of MiniStack for everything else."""
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.url if service.startswith("sagemaker") else self.aws_url,
            config=Config(retries={"max_attempts": 0}, max_pool_connections=64, read_timeout=70, **config),
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def terminate(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def close(self) -> None:
        """End the server if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.terminate()

    def health(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/health", timeout=5) as response:
            found: dict[str, Any] = json.loads(response.read())
            return found

    def descendants(self) -> list[psutil.Process]:
        """Every process under the server."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    # shorthands

    def put(self, key: str, body: bytes = b"x") -> str:
        with contextlib.suppress(ClientError):
            self.s3.create_bucket(Bucket=BUCKET)
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=body)
        return f"s3://{BUCKET}/{key}"

    def training_request(self, name: str, **more: Any) -> dict[str, Any]:
        return {
            "TrainingJobName": name,
            "AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "File"},
            "RoleArn": ROLE,
            "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/out"},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 5},
            "StoppingCondition": {"MaxRuntimeInSeconds": 60},
            **more,
        }

    def train(self, name: str, **more: Any) -> dict[str, Any]:
        self.sagemaker.create_training_job(**self.training_request(name, **more))
        return self.training_end(name)

    def training_end(self, name: str) -> dict[str, Any]:
        def ended() -> Any:
            found = self.sagemaker.describe_training_job(TrainingJobName=name)
            return found if found["TrainingJobStatus"] not in {"InProgress", "Stopping"} else None

        found: dict[str, Any] = wait_until(ended, what=f"the end of training job {name}")
        return found

    def processing_request(self, name: str, arguments: list[str], **more: Any) -> dict[str, Any]:
        return {
            "ProcessingJobName": name,
            "RoleArn": ROLE,
            "AppSpecification": {"ImageUri": IMAGE, "ContainerEntrypoint": ["python", "-m", "tiny"], "ContainerArguments": arguments},
            "ProcessingResources": {"ClusterConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 5}},
            "ProcessingOutputConfig": {"Outputs": [processing_output(name)]},
            **more,
        }

    def processing_end(self, name: str) -> dict[str, Any]:
        def ended() -> Any:
            found = self.sagemaker.describe_processing_job(ProcessingJobName=name)
            return found if found["ProcessingJobStatus"] not in {"InProgress", "Stopping"} else None

        found: dict[str, Any] = wait_until(ended, what=f"the end of processing job {name}")
        return found

    def model(self, name: str, answer: str = "", **environment: str) -> str:
        container = {"Image": IMAGE, "Environment": {"ANSWER": answer or name, **environment}}
        self.sagemaker.create_model(ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer=container)
        return name

    def config(self, name: str, variants: dict[str, tuple[str, float]], **more: Any) -> str:
        self.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=variants_of(variants), **more)
        return name

    def endpoint(self, name: str, variants: dict[str, tuple[str, float]]) -> dict[str, Any]:
        self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=self.config(f"{name}-config", variants))
        return self.settled(name)

    def settled(self, name: str) -> dict[str, Any]:
        """The endpoint's description once it is not changing."""

        def idle() -> Any:
            found = self.sagemaker.describe_endpoint(EndpointName=name)
            return found if found["EndpointStatus"] in {"InService", "Failed", "OutOfService"} else None

        found: dict[str, Any] = wait_until(idle, f"endpoint {name}")
        return found

    def invoke(self, name: str, body: bytes = b"hello", **more: Any) -> dict[str, Any]:
        response = self.runtime.invoke_endpoint(EndpointName=name, Body=body, ContentType="text/csv", **more)
        return {**json.loads(response["Body"].read()), "variant": response["InvokedProductionVariant"], "response": response}


def variants_of(models: dict[str, tuple[str, float]]) -> list[dict[str, Any]]:
    """``ProductionVariant`` of each {variant: (model, weight)}."""
    size = {"InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    return [{"VariantName": name, "ModelName": model, "InitialVariantWeight": weight, **size} for name, (model, weight) in models.items()]


def processing_output(name: str, **more: Any) -> dict[str, Any]:
    target = {"S3Uri": f"s3://{BUCKET}/processed/{name}", "LocalPath": "/opt/ml/processing/out", "S3UploadMode": "EndOfJob", **more}
    return {"OutputName": "out", "S3Output": target}
