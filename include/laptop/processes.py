"""Processes that outlive the command that started them: a record each (pid and start time, so that a recycled pid is never killed) and a log."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_TAIL_LINES = 20


class StackError(RuntimeError):
    """The stack, or a run in it, cannot go on. The message says what, where its log is, and what to do."""


@dataclass(frozen=True)
class Service:
    """One process of the stack. ``ready``: whether it answers yet."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: Callable[[], bool]
    port: int | None = None


class ProcessTable:
    """The processes of one stack, under ``home``: ``run/<name>.json`` and ``logs/<name>.log``."""

    def __init__(self, home: Path, working_directory: Path) -> None:
        self._run = home / "run"
        self._logs = home / "logs"
        self._working_directory = working_directory

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def process(self, name: str) -> psutil.Process | None:
        """The running process of that name, or None."""
        try:
            record = json.loads((self._run / f"{name}.json").read_text())
            process = psutil.Process(record["pid"])
            alive = process.create_time() == record["created"] and process.status() != psutil.STATUS_ZOMBIE
        except (FileNotFoundError, psutil.NoSuchProcess):
            return None
        return process if alive else None

    def start(self, service: Service) -> None:
        """Starts the service in a session of its own, unless it runs already."""
        if self.process(service.name):
            return
        if service.port is not None and _is_taken(service.port):
            raise StackError(f"port {service.port}, which {service.name} of this stack uses, is taken by another program: stop that first")
        for folder in (self._run, self._logs):
            folder.mkdir(parents=True, exist_ok=True)
        with self.log(service.name).open("ab") as log:
            child = subprocess.Popen(  # noqa: S603 - our own commands
                list(service.command),
                env=dict(service.environment),
                cwd=self._working_directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        record = {"pid": child.pid, "created": psutil.Process(child.pid).create_time()}
        (self._run / f"{service.name}.json").write_text(json.dumps(record))

    def wait_until_ready(self, service: Service, seconds: float) -> None:
        """Waits for the service to answer. StackError, with the end of its log, when it ends or takes too long."""
        deadline = time.monotonic() + seconds
        while not service.ready():
            if not self.process(service.name) or time.monotonic() > deadline:
                what = "did not start in time" if self.process(service.name) else "ended"
                lines = self.log(service.name).read_text(errors="replace").splitlines()[-_TAIL_LINES:]
                raise StackError("\n".join([f"{service.name} {what}. The end of {self.log(service.name)}:", *lines]))
            time.sleep(0.2)

    def names(self) -> list[str]:
        """Every service there is a record of, running or not."""
        return sorted(path.stem for path in self._run.glob("*.json"))

    def stop(self, name: str, seconds: float = 15) -> None:
        """SIGTERM to the service, then SIGKILL to whatever of its session is left."""
        process = self.process(name)
        if process:
            session = [process, *process.children(recursive=True)]
            process.send_signal(signal.SIGTERM)
            _, alive = psutil.wait_procs([process], timeout=seconds)
            _, alive = psutil.wait_procs([other for other in session if other.is_running()], timeout=2)
            for other in alive:
                try:
                    other.kill()
                except psutil.NoSuchProcess:
                    continue
            psutil.wait_procs(alive, timeout=5)
        (self._run / f"{name}.json").unlink(missing_ok=True)


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def clean_environment() -> dict[str, str]:
    """What a service inherits of this shell: where programs, home and temporary files are, and nothing that could steer AWS or Airflow."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "USER", "SSL_CERT_FILE", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ}
