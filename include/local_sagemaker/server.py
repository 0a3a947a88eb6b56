"""One server: assembled, started, recovered, and ended in order."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn

from . import __version__
from .app import Application
from .capture import CaptureWriter
from .config import Settings
from .control import ControlPlane
from .endpoint_metrics import MetricsPublisher
from .endpoints import Endpoints
from .images import Image
from .jobs import JobRunner, Services
from .logs import LogShipper
from .models import EndpointConfigs, Models
from .process import Launcher, reap_leftovers
from .registry import ModelPackageGroups, ModelPackages
from .runtime import Runtime
from .s3 import Storage
from .store import Document, Store

log = logging.getLogger(__name__)

_CONTROL_WORKERS = 8
_SWITCH_INTERVAL = 0.001  # how long a job's thread may hold the interpreter while an invocation waits


class AlreadyRunning(Exception):
    """Another server uses the state directory."""


@contextlib.contextmanager
def only_server(state: Path) -> Iterator[None]:
    """Hold the state directory's lock; the kernel lets go of it when the process ends, however it ends."""
    with (state / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunning(f"another local SageMaker uses {state}; stop it, or give another --state directory") from error
        yield


class LocalSageMaker:
    """All parts of a running server."""

    def __init__(self, settings: Settings, images: Mapping[str, Image], loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings
        self._store = Store(settings.state / "state.sqlite3")
        reaped = reap_leftovers(self._store, settings.state)
        if reaped:
            log.warning("ended %d processes that an earlier server had left behind", reaped)
        self._launcher = Launcher(settings.state, self._store, settings.isolation)
        log.info("isolation of jobs: %s%s", self._launcher.isolation, "" if self._launcher.private_opt_ml else " (SAGEMAKER_BASE_DIR)")
        shipper = LogShipper(settings.region)
        captures = CaptureWriter(settings.state / "captures", settings.region, settings.capture_interval_seconds)
        self._services = Services(settings, self._store, self._launcher, Storage(settings.region), shipper, captures, images)
        self._runner = JobRunner(settings.max_concurrent_jobs)
        groups = ModelPackageGroups(self._services)
        packages = ModelPackages(self._services, groups)
        models, configs = Models(self._services, packages), EndpointConfigs(self._services)
        self._endpoints = Endpoints(self._services, models, configs, loop)
        self._control = ControlPlane(self._services, self._runner, models, configs, self._endpoints, (groups, packages))
        self._workers = ThreadPoolExecutor(_CONTROL_WORKERS, thread_name_prefix="control")
        self._metrics = MetricsPublisher(settings.region, settings.metrics_interval_seconds, self._endpoints.statistics)
        self.application = Application(self._control, Runtime(settings, self._endpoints.routes), self._workers, self.health)

    def start(self) -> None:
        """Give the jobs of a killed server their final status, bring its endpoints back, warm the images."""
        self._control.training.recover()
        self._control.processing.recover()
        self._endpoints.recover()
        self._workers.submit(self._control.warm)
        for image in self._services.images.values():
            self._workers.submit(self._launcher.warm, image)

    def close(self) -> None:
        """End jobs and endpoints, ship what is left, close the store."""
        grace = self.settings.shutdown_grace_seconds
        self._metrics.close()
        ending = threading.Thread(target=self._endpoints.close, args=(grace,))
        ending.start()
        self._runner.close(grace + 5)
        ending.join()
        self._services.captures.close()
        self._services.shipper.close()
        self._workers.shutdown(wait=True)
        self._launcher.close()
        self._store.close()

    def health(self) -> Document:
        """What ``GET /health`` answers."""
        kinds = ("training", "processing", "model", "endpoint-config", "endpoint", "model-package-group", "model-package")
        return {
            "ok": True,
            "version": __version__,
            "isolation": self._launcher.isolation,
            "private_opt_ml": self._launcher.private_opt_ml,
            "region": self.settings.region,
            "account": self.settings.account,
            "images": sorted(self._services.images),
            "running_jobs": self._runner.running(),
            "counts": {kind: self._store.count(kind) for kind in kinds},
        }


class _Uvicorn(uvicorn.Server):
    """uvicorn, ended by the owner's signal handlers: its own would end the process by the signal instead of with exit code 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings, images: Mapping[str, Image], host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        server = LocalSageMaker(settings, images, loop)
        config = uvicorn.Config(
            server.application,
            http="httptools",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=2,
            server_header=False,
            date_header=False,
        )
        web = _Uvicorn(config)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _stop, web)
        announced = settings.state / "server.json"
        try:
            await loop.run_in_executor(None, server.start)
            serving = asyncio.ensure_future(web.serve(sockets=[listener]))
            while not web.started and not serving.done():
                await asyncio.sleep(0.005)
            announce(announced, host, listener.getsockname()[1])
            log.info("listening on %s", json.loads(announced.read_text())["url"])
            await serving
        finally:
            announced.unlink(missing_ok=True)
            await loop.run_in_executor(None, server.close)


def _stop(web: uvicorn.Server) -> None:
    web.should_exit = True


def announce(path: Path, host: str, port: int) -> None:
    """Write ``server.json`` at once and whole: the pid, and an address at which this machine reaches the server."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - translated, not listened on
    address = f"[{host}]" if ":" in host else host
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"pid": os.getpid(), "url": f"http://{address}:{port}"}), "utf-8")
    temporary.replace(path)
