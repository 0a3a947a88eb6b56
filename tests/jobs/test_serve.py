"""The endpoint's container as SageMaker runs it: a process, a port, /ping and /invocations."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from dataset_parts import train_in

from include.jobs.context import JobError
from include.jobs.serve import BODY_LIMIT, address

ROOT = Path(__file__).parents[2]
ROW = b"1.5,-0.5,,0,0"


@dataclass(frozen=True)
class Server:
    port: int
    process: subprocess.Popen[str]

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def call(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        connection = self.connect()
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        answered = response.status, response.read()
        connection.close()
        return answered


def start(base: Path) -> Server:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"SAGEMAKER_BASE_DIR": str(base), "SAGEMAKER_BIND_TO_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "include.jobs", "serve"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    return Server(port, process)


def wait_until_healthy(server: Server) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if server.call("GET", "/ping")[0] == 200:
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"not healthy: {server.process.communicate()[1] if server.process.poll() is not None else 'no answer'}")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ml")
    train_in(root, rows=800, features=5)
    return root


@pytest.fixture(scope="module")
def server(base: Path) -> Iterator[Server]:
    running = start(base)
    try:
        wait_until_healthy(running)
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


def test_scores_over_http(server: Server) -> None:
    status, body = server.call("POST", "/invocations", ROW + b"\n" + ROW, content_type="text/csv")
    assert status == 200
    first, second = body.decode().splitlines()
    assert 0 < float(first) < 1
    assert first == second
    header = {"content_type": "text/csv", "accept": "application/json", "X_Amzn_SageMaker_Custom_Attributes": "reasons=2"}
    [prediction] = json.loads(server.call("POST", "/invocations", ROW, **header)[1])["predictions"]
    assert prediction["score"] == pytest.approx(float(first), abs=1e-8)
    assert len(prediction["reasons"]) == 2
    assert prediction["reasons"][0]["feature"] == "feature_0"


def test_a_connection_is_kept_after_good_and_bad_requests(server: Server) -> None:
    connection = server.connect()
    connection.connect()
    its_socket = connection.sock
    for body, expected in ((ROW, 200), (b"1,2", 400), (ROW, 200), (b"", 400), (ROW, 200)):
        connection.request("POST", "/invocations", body, {"Content-Type": "text/csv"})
        response = connection.getresponse()
        response.read()
        assert response.status == expected
        assert connection.sock is its_socket
    connection.close()


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("POST", "/ping", 405, "/ping does not take POST"),
        ("GET", "/invocations", 405, "/invocations does not take GET"),
        ("GET", "/", 404, "there are GET /ping and POST /invocations"),
        ("GET", "/ping/../etc", 404, "there are GET /ping"),
    ],
)
def test_other_requests_are_refused_in_json(server: Server, method: str, path: str, status: int, message: str) -> None:
    answered, body = server.call(method, path)
    assert answered == status
    assert message in json.loads(body)["error"]


def test_a_body_beyond_the_limit_is_refused(server: Server) -> None:
    status, body = server.call("POST", "/invocations", b"1" * (BODY_LIMIT + 1), content_type="text/csv")
    assert status == 413
    assert "larger than 6291456 bytes" in json.loads(body)["error"]


def test_half_a_request_hurts_nobody_else(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as half:
        half.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\nContent-Length: 50\r\n\r\n1,2")
        assert server.call("POST", "/invocations", ROW, content_type="text/csv")[0] == 200
    assert server.call("POST", "/invocations", ROW, content_type="text/csv")[0] == 200


def test_sigterm_ends_it_at_once_with_a_connection_open(base: Path) -> None:
    running = start(base)
    try:
        wait_until_healthy(running)
        idle = running.connect()
        idle.request("GET", "/ping")
        idle.getresponse().read()
        begun = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(10)
        assert time.monotonic() - begun < 2
        idle.close()
        with pytest.raises(OSError, match="refused"):
            running.call("GET", "/ping")
    finally:
        running.process.kill()
        log = running.process.communicate()[1]
    assert "serving auto_claims, 5 features" in log
    assert "Traceback" not in log


def test_a_model_that_does_not_load_is_never_healthy_and_says_why(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base / "model", tmp_path / "model")
    (tmp_path / "model" / "xgboost-model").write_bytes(b"\x00" * 100)
    running = start(tmp_path)
    _, log = running.process.communicate(timeout=60)
    assert running.process.returncode == 2
    assert "is no XGBoost model" in log
    assert "Traceback" not in log


def test_neither_pandas_nor_scikit_learn_delays_the_start() -> None:
    program = (
        "import sys; from include.jobs import serve\n"
        "with serve._without_optional_packages():\n    from include.jobs import model_file, invocations\n"
        "import numpy; assert not {'pandas', 'sklearn', 'pyarrow'} & {name.partition('.')[0] for name in sys.modules}\n"
        "import pandas, sklearn  # and whoever needs them later still gets them"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ("0.0.0.0", 8080)),  # noqa: S104
        ({"SAGEMAKER_BIND_TO_PORT": "9001"}, ("127.0.0.1", 9001)),
        ({"SAGEMAKER_BIND_TO_PORT": "9001", "SAGEMAKER_BIND_TO_HOST": "10.0.0.7"}, ("10.0.0.7", 9001)),
        ({"SAGEMAKER_BIND_TO_HOST": "127.0.0.1"}, ("127.0.0.1", 8080)),
    ],
)
def test_where_it_listens(environment: dict[str, str], expected: tuple[str, int]) -> None:
    assert address(environment) == expected


@pytest.mark.parametrize("port", ["http", "0", "65536", "-1"])
def test_what_is_no_port_is_refused(port: str) -> None:
    with pytest.raises(JobError, match="is not a port"):
        address({"SAGEMAKER_BIND_TO_PORT": port})
