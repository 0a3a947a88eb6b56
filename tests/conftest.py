"""Shared by all tests: a real S3 (MiniStack, in a virtual environment of its own) on a free port, one for the session."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from include.stores.objects import ObjectStore

# Property tests that do not say how many examples they want, because one takes a second, take it from here: few and always the same by default;
# HYPOTHESIS_PROFILE=thorough for many, other ones each time.
settings.register_profile("quick", max_examples=8, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=200, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

ROOT = Path(__file__).parent.parent
_START_WITHIN = 60
_BROKEN_BY_PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


def _ministack_python() -> Path:
    """The interpreter of MiniStack's virtual environment; makes the environment where it is absent. It is made under another name and then
    renamed, so that one which is there is complete."""
    home = ROOT / ".local" / "venvs" / "ministack"
    if not (home / "bin" / "ministack").exists():
        unfinished = home.with_name(f"ministack-{uuid.uuid4().hex[:8]}")
        subprocess.run([sys.executable, "-m", "venv", str(unfinished)], check=True)
        install = [str(unfinished / "bin" / "python"), "-m", "pip", "install", "--quiet", "-r", str(ROOT / "requirements-ministack.txt")]
        subprocess.run(install, check=True)
        try:
            unfinished.rename(home)
        except OSError:  # somebody else was faster
            shutil.rmtree(unfinished)
    return home / "bin" / "python"


@pytest.fixture(scope="session")
def spark() -> Iterator[None]:
    """PySpark can be imported, here and in child processes. It lies in a folder of its own, which is made where it is absent, complete or not at
    all: too much for everybody's environment, and, with no dependency but py4j, importable on top of ours."""
    if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        pytest.skip("no Java: Spark wants Java 17 or later on PATH or in JAVA_HOME")
    home = ROOT / ".local" / "venvs" / "spark"
    if not (home / "pyspark").exists():
        unfinished = home.with_name(f"spark-{uuid.uuid4().hex[:8]}")
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(unfinished), "-r", str(ROOT / "requirements-spark.txt")]
        if subprocess.run(install, check=False).returncode:
            shutil.rmtree(unfinished, ignore_errors=True)
            pytest.skip("requirements-spark.txt could not be installed: no package index?")
        try:
            unfinished.rename(home)
        except OSError:  # somebody else was faster
            shutil.rmtree(unfinished)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(home))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(home), *filter(None, [os.environ.get("PYTHONPATH")])]))
        yield


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(f"{url}/_ministack/health", timeout=1):  # noqa: S310 -- our own loopback address
                return
        except (URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"MiniStack did not start (exit status {process.poll()}):\n{log.read_text(errors='replace')[-2000:]}")


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint URL of a local AWS; the environment points boto3 (here and in child processes) at it for the rest of the session."""
    home = tmp_path_factory.mktemp("ministack")
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {name: value for name, value in os.environ.items() if name not in _BROKEN_BY_PROXIES} | {
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(home / "s3"),
        "STATE_DIR": str(home / "state"),
        "TMPDIR": str(home),
    }
    log = home / "ministack.log"
    with log.open("wb") as output, pytest.MonkeyPatch.context() as patch:
        process = subprocess.Popen(
            [str(_ministack_python()), "-m", "ministack"], env=environment, cwd=home, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _wait_for(url, process, log)
            for name, value in {
                "AWS_ENDPOINT_URL": url,
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_DEFAULT_REGION": "eu-west-1",
                "AWS_EC2_METADATA_DISABLED": "true",
                "NO_PROXY": "127.0.0.1,localhost",
            }.items():
                patch.setenv(name, value)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def bucket(aws: str) -> ObjectStore:
    """A fresh bucket in the local S3."""
    import boto3

    from include.stores.objects import ObjectStore

    name = f"test-{uuid.uuid4().hex}"
    client = boto3.client("s3")
    client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    return ObjectStore(name, client)
