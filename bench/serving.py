"""One row over HTTP: ``jobs serve`` against MLServer 1.7.1 with the same model file, and what the local SageMaker's InvokeEndpoint adds, without
and with data capture of every request, and with a shadow variant that gets a copy of each, captured, too.

``python -m bench.serving``. 100 trees of depth 6 over 30 features; one keep-alive connection, one request at a time, one worker each; the
client is a socket that writes ready-made bytes, the same for all. Rounds are interleaved, so that what else the machine does meets all
servers alike; the ratio is the median over rounds of the ratio of medians, with the lowest and highest round beside it.

MLServer lives in ``.local/venvs/mlserver``, made on first use (about a minute; a few hundred MB). It serves without its pool of worker
processes (``parallel_workers`` 0), which is the faster way for one connection.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import boto3
import numpy as np
import xgboost
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from bench.report import Figure, publish
from include.jobs import model_file

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".local" / "venvs"
MLSERVER = ("mlserver==1.7.1", "mlserver-xgboost==1.7.1", "xgboost==3.2.0")
FEATURES, TREES, DEPTH = 30, 100, 6
ROUNDS, REQUESTS, WARM_UP = 40, 120, 200
ENDPOINT, CAPTURED, SHADOWED, REGION = "bench", "bench-captured", "bench-shadowed", "us-east-1"
_START_SECONDS = 120


@dataclass
class Connection:
    """One keep-alive connection, and the bytes of a request to be sent over it again and again."""

    request: bytes
    stream: socket.socket

    @classmethod
    def to(cls, port: int, path: str, body: bytes, content_type: str, signed: bool = False) -> Connection:
        """``signed``: with a signature of AWS's, once for all requests (it is good for minutes)."""
        headers = {"Host": f"127.0.0.1:{port}", "Content-Type": content_type, "Content-Length": str(len(body))}
        if signed:
            request = AWSRequest("POST", f"http://127.0.0.1:{port}{path}", headers, body)
            SigV4Auth(Credentials("bench", "bench"), "sagemaker", REGION).add_auth(request)
            headers = dict(request.headers)
        head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
        stream = socket.create_connection(("127.0.0.1", port))
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(head.encode() + body, stream)

    def ask(self) -> bytes:
        """Sends the request and returns the answer's body. RuntimeError for any status but 200."""
        self.stream.sendall(self.request)
        received = self.stream.recv(65_536)
        while b"\r\n\r\n" not in received:
            received += self._more()
        head, _, body = received.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{head.decode()}\n{body.decode(errors='replace')}")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        while len(body) < length:
            body += self._more()
        return body

    def _more(self) -> bytes:
        received = self.stream.recv(65_536)
        if not received:
            raise RuntimeError("the server closed the connection")
        return received

    def milliseconds(self, requests: int) -> np.ndarray:
        taken = np.empty(requests)
        for number in range(requests):
            begun = time.perf_counter()
            self.ask()
            taken[number] = time.perf_counter() - begun
        return taken * 1_000


def make_model(folder: Path) -> tuple[model_file.Matrix, model_file.Model]:
    """A model as the training job leaves it, and one row for it."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(20_000, FEATURES)).astype(np.float32)
    labels = generator.random(20_000) < 1 / (1 + np.exp(3 - 1.5 * rows[:, 0] - rows[:, 1] * rows[:, 2]))
    names = [f"feature_{number}" for number in range(FEATURES)]
    matrix = xgboost.DMatrix(rows, label=labels, feature_names=names)
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": DEPTH, "eta": 0.1, "seed": 0, "nthread": 2}, matrix, TREES)
    description = model_file.ModelDescription(tuple(names), "bench", "2026-01-01T00:00:00Z", {}, TREES, None, {}, {}, {})
    model = model_file.Model(booster, description)
    folder.mkdir(parents=True)
    model_file.save(model, rows[:4], folder)
    return rows[:1], model


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(name: str, command: list[str], environment: dict[str, str], healthy: str, scratch: Path) -> Iterator[float]:
    """A server until the end of the block; yields the seconds it took to answer at ``healthy``."""
    log = scratch / f"{name}.log"
    begun = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=os.environ | environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            while not _answers(healthy):
                if process.poll() is not None or time.perf_counter() - begun > _START_SECONDS:
                    raise RuntimeError(f"{name} does not start:\n{log.read_text(errors='replace')[-3_000:]}")
                time.sleep(0.02)
            yield time.perf_counter() - begun
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as response:  # noqa: S310 our own loopback address
            return response.status == 200
    except (URLError, OSError):
        return False


def mlserver_python() -> Path:
    """The interpreter of MLServer's own virtual environment; makes it where it is absent."""
    home = ENVIRONMENTS / "mlserver"
    if not (home / "complete").exists():
        print(f"making {home} …", flush=True)
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([home / "bin" / "python", "-m", "pip", "install", "--quiet", *MLSERVER], check=True)
        (home / "complete").touch()
    return home / "bin" / "python"


@contextmanager
def serve(model: Path, scratch: Path) -> Iterator[tuple[int, float]]:
    port = free_port()
    environment = {"SAGEMAKER_BASE_DIR": str(model.parent), "SAGEMAKER_BIND_TO_PORT": str(port)}
    with running("serve", [sys.executable, "-m", "include.jobs", "serve"], environment, f"http://127.0.0.1:{port}/ping", scratch) as seconds:
        yield port, seconds


@contextmanager
def mlserver(model: Path, scratch: Path) -> Iterator[tuple[int, float]]:
    folder = scratch / "mlserver"
    folder.mkdir()
    (folder / "model.ubj").write_bytes((model / model_file.BOOSTER_FILE).read_bytes())
    port, grpc, metrics = free_port(), free_port(), free_port()
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": grpc, "metrics_port": metrics, "parallel_workers": 0, "debug": False}
    (folder / "settings.json").write_text(json.dumps(settings))
    implementation = {"name": "bench", "implementation": "mlserver_xgboost.XGBoostModel", "parameters": {"uri": "./model.ubj"}}
    (folder / "model-settings.json").write_text(json.dumps(implementation))
    command = [str(mlserver_python().with_name("mlserver")), "start", str(folder)]
    with running("mlserver", command, {"OMP_NUM_THREADS": "1"}, f"http://127.0.0.1:{port}/v2/models/bench/ready", scratch) as seconds:
        yield port, seconds


@contextmanager
def local_endpoint(model: Path, scratch: Path) -> Iterator[tuple[int, float]]:
    """The same model behind the local SageMaker's InvokeEndpoint, its archive in MiniStack's S3: as ENDPOINT, as CAPTURED with capture, and as
    SHADOWED with capture and itself in its shadow."""
    s3_port, port = free_port(), free_port()
    aws = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}", "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    ministack = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(s3_port), "S3_PERSIST": "1", "S3_DATA_DIR": str(scratch / "s3")}
    images = scratch / "images.json"
    image = f"000000000000.dkr.ecr.{REGION}.amazonaws.com/bench:1"
    images.write_text(json.dumps({image: {"command": [sys.executable, "-m", "include.jobs"], "working_directory": str(ROOT)}}))
    archive = scratch / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as content:
        for path in sorted(model.iterdir()):
            content.add(path, path.name)
    python = str(ENVIRONMENTS / "ministack" / "bin" / "python")
    server = [sys.executable, "-m", "include.local_sagemaker", "--state", str(scratch / "sagemaker"), "--images", str(images)]
    with ExitStack() as stack:
        health = f"http://127.0.0.1:{s3_port}/_ministack/health"
        stack.enter_context(running("ministack", [python, "-m", "ministack"], ministack, health, scratch))
        keys = {"region_name": REGION, "aws_access_key_id": "bench", "aws_secret_access_key": "bench"}
        s3 = boto3.client("s3", endpoint_url=aws["AWS_ENDPOINT_URL"], **keys)
        s3.create_bucket(Bucket="bench")
        s3.upload_file(str(archive), "bench", "model.tar.gz")
        health = f"http://127.0.0.1:{port}/health"
        seconds = stack.enter_context(running("sagemaker", [*server, "--port", str(port)], aws, health, scratch))
        sagemaker = boto3.client("sagemaker", endpoint_url=f"http://127.0.0.1:{port}", **keys)
        role = "arn:aws:iam::000000000000:role/bench"
        container = {"Image": image, "ModelDataUrl": "s3://bench/model.tar.gz"}
        sagemaker.create_model(ModelName=ENDPOINT, ExecutionRoleArn=role, PrimaryContainer=container)
        variant = {"VariantName": "champion", "ModelName": ENDPOINT, "InitialInstanceCount": 1, "InstanceType": "ml.t2.medium"}
        capture = {
            "InitialSamplingPercentage": 100,
            "DestinationS3Uri": "s3://bench/captured",
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"]},
        }
        waiter = sagemaker.get_waiter("endpoint_in_service")
        captured = {"DataCaptureConfig": capture}
        shadowed = {**captured, "ShadowProductionVariants": [{**variant, "VariantName": "challenger"}]}
        for name, more in ((ENDPOINT, {}), (CAPTURED, captured), (SHADOWED, shadowed)):
            sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant], **more)
            sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
            waiter.wait(EndpointName=name, WaiterConfig={"Delay": 1, "MaxAttempts": _START_SECONDS})
        yield port, seconds


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
        scratch = Path(folder)
        row, model = make_model(scratch / "ml" / "model")
        expected = float(model.scores(row)[0])
        csv = ",".join(repr(float(value)) for value in row[0]).encode()
        tensor = {"name": "rows", "shape": list(row.shape), "datatype": "FP32", "data": [float(value) for value in row[0]]}
        v2 = json.dumps({"inputs": [tensor]}).encode()
        port, start_seconds = servers.enter_context(serve(scratch / "ml" / "model", scratch))
        connections = {"serve": Connection.to(port, "/invocations", csv, "text/csv")}
        port, _ = servers.enter_context(mlserver(scratch / "ml" / "model", scratch))
        connections["mlserver"] = Connection.to(port, "/v2/models/bench/infer", v2, "application/json")
        port, _ = servers.enter_context(local_endpoint(scratch / "ml" / "model", scratch))
        for key, name in (("endpoint", ENDPOINT), ("endpoint_with_capture", CAPTURED), ("endpoint_with_shadow", SHADOWED)):
            connections[key] = Connection.to(port, f"/endpoints/{name}/invocations", csv, "text/csv", signed=True)

        answers = {name: connection.ask() for name, connection in connections.items()}
        ours = [float(answers[name]) for name in ("serve", "endpoint", "endpoint_with_capture", "endpoint_with_shadow")]
        scores = [*ours, json.loads(answers["mlserver"])["outputs"][0]["data"][0]]
        if not np.allclose(scores, expected, atol=1e-6):
            raise RuntimeError(f"the servers disagree: {scores}, expected {expected}")
        for connection in connections.values():
            connection.milliseconds(WARM_UP)
        rounds = [{name: connection.milliseconds(REQUESTS) for name, connection in connections.items()} for _ in range(ROUNDS)]

    medians = {name: np.array([np.median(one[name]) for one in rounds]) for name in connections}
    everything = {name: np.concatenate([one[name] for one in rounds]) for name in connections}
    ratio = medians["serve"] / medians["mlserver"]
    added = medians["endpoint"] - medians["serve"]
    capturing = medians["endpoint_with_capture"] - medians["endpoint"]
    shadowing = medians["endpoint_with_shadow"] - medians["endpoint_with_capture"]
    figures = {f"{name}_p{q}_ms": Figure(float(np.percentile(taken, q))) for name, taken in everything.items() for q in (50, 99)}
    figures |= {
        "ratio": Figure(float(np.median(ratio)), 0.5, at_least=False),
        "ratio_lowest_round": Figure(float(ratio.min())),
        "ratio_highest_round": Figure(float(ratio.max())),
        "invoke_endpoint_added_p50_ms": Figure(float(np.median(added)), 1.0, at_least=False),
        "invoke_endpoint_added_highest_round_ms": Figure(float(added.max())),
        "capture_added_p50_ms": Figure(float(np.median(capturing)), 0.5, at_least=False),
        "capture_added_highest_round_ms": Figure(float(capturing.max())),
        "shadow_added_p50_ms": Figure(float(np.median(shadowing))),
        "shadow_added_highest_round_ms": Figure(float(shadowing.max())),
        "serve_start_seconds": Figure(start_seconds),
    }
    publish("serving", figures)


if __name__ == "__main__":
    main()
