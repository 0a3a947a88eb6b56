"""The processes behind endpoints: one model server for each production or shadow variant, kept alive.

Contract (Developer Guide, "Use Your Own Inference Code with Hosting Services"): the image's command with the argument
``serve``, the model's files under ``/opt/ml/model``, the container's Environment; healthy when ``GET /ping`` answers 200. The
server chooses a port and passes it as ``SAGEMAKER_BIND_TO_PORT``, which AWS does for images labelled
``com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true``. Whatever InitialInstanceCount says, a variant is one process:
instance counts are accepted and reported, not multiplied.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
import math
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from .endpoint_metrics import VariantStatistics
from .errors import JobFailed
from .images import Image
from .jobs import Services
from .logs import Followed
from .model_client import ModelClient
from .process import Command, Process
from .s3 import Location, unpack
from .shadow import Copies
from .store import Document

log = logging.getLogger(__name__)

_PING_SECONDS = 2.0  # a container must answer /ping within 2 seconds
_PING_EVERY = 0.05
_START_ATTEMPTS = 3
_BACKOFF_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class DeploymentFailed(Exception):
    """A fleet cannot serve; the text is the endpoint's FailureReason."""


@dataclass(frozen=True)
class VariantPlan:
    """One variant, with its model resolved: everything that is needed to start it, also after a restart."""

    name: str
    weight: float
    instance_count: int
    instance_type: str
    image: str
    model: Document  # ModelDataUrl or ModelDataSource, Environment
    startup_seconds: float
    shadow: bool = False
    """It answers nobody: it gets copies of what the production variant is asked."""

    def to_json(self) -> Document:
        """As it is stored."""
        return dict(vars(self))


class ModelServer:
    """One variant's process. Public attributes are read on the event loop for every request."""

    def __init__(self, services: Services, endpoint: str, plan: VariantPlan, directory: Path, capture: Document | None) -> None:
        self.plan = plan
        self.endpoint = endpoint
        self.ready = False
        self.in_flight = 0  # changed on the event loop only
        self.client: ModelClient | None = None
        self.statistics = VariantStatistics(endpoint, plan.name)
        self.capture = services.captures.variant(endpoint, plan.name, capture)
        self.copies: Copies | None = None  # of its requests, for a shadow
        self._services = services
        self._directory = directory
        self._log_file = directory / "output.log"
        self.log_stream = f"{plan.name}/i-{uuid.uuid4().hex[:17]}"
        self._process: Process | None = None
        self._followed: Followed | None = None
        self._stopping = threading.Event()

    @property
    def log_group(self) -> str:
        """The documented group of an endpoint's logs."""
        return f"/aws/sagemaker/Endpoints/{self.endpoint}"

    @property
    def pid(self) -> int | None:
        """The process of the container, if it runs."""
        return self._process.pid if self._process is not None else None

    def start(self, deadline: float = math.inf) -> None:
        """Prepare the model, start the process and wait until it is healthy; DeploymentFailed if it does not become so in time.

        ``deadline`` is a moment of the monotonic clock; the variant's own startup timeout holds beside it.
        """
        image = self._services.images.get(self.plan.image)
        if image is None:
            raise DeploymentFailed(
                f"The image {self.plan.image} of production variant {self.plan.name} does not exist or cannot be pulled."
            )
        try:
            self._place_model()
        except (JobFailed, ClientError, BotoCoreError) as error:
            raise DeploymentFailed(f"Failed to download model data for production variant {self.plan.name}: {error}") from error
        self._log_file.touch()
        self._followed = self._services.shipper.follow(self._log_file, self.log_group, self.log_stream)
        deadline = min(deadline, time.monotonic() + self.plan.startup_seconds)
        for attempt in range(_START_ATTEMPTS):
            if self._launch(image, deadline):
                return
            if time.monotonic() >= deadline or self._stopping.wait(_BACKOFF_SECONDS[attempt]):
                break
        raise DeploymentFailed(
            f"The primary container for production variant {self.plan.name} did not pass the ping health check. "
            "Please check CloudWatch logs for this endpoint."
        )

    def stop(self, grace_seconds: float) -> None:
        """SIGTERM, SIGKILL after the grace, and the log shipped whole."""
        self._stopping.set()
        self.ready = False
        if self._process is not None:
            self._process.stop(grace_seconds)
        if self._followed is not None:
            self._services.shipper.finish(self._followed)

    def _launch(self, image: Image, deadline: float) -> bool:
        port = free_port()
        home = self._directory / "home"
        home.mkdir(exist_ok=True)
        environment = {
            **image.base_environment,
            "HOME": str(home),
            "AWS_REGION": self._services.settings.region,
            **self.plan.model.get("Environment", {}),
            "SAGEMAKER_BIND_TO_PORT": str(port),
        }
        command = Command((*image.command, "serve"), image.working_directory, environment, self._directory / "ml", self._log_file)
        process = self._services.launcher.start(image, command)
        self._process = process
        while time.monotonic() < deadline and process.exit_code is None and not self._stopping.is_set():
            if ping(port):
                self.client = ModelClient(port)
                self.ready = True
                process.when_ended(lambda code: self._lost(image, code))
                return True
            process.wait(_PING_EVERY)
        if process.exit_code is None:
            process.stop(self._services.settings.endpoint_stop_grace_seconds)
        return False

    def _lost(self, image: Image, code: int) -> None:
        """The process ended by itself: start it again, ever more slowly, until it serves or the variant is stopped."""
        if self._stopping.is_set():
            return
        self.ready = False
        log.warning("endpoint %s, variant %s: the model server ended with code %d; starting it again", self.endpoint, self.plan.name, code)

        def revive() -> None:
            attempt = 0
            while not self._stopping.wait(_BACKOFF_SECONDS[min(attempt, len(_BACKOFF_SECONDS) - 1)]):
                if self._launch(image, time.monotonic() + self.plan.startup_seconds):
                    return
                attempt += 1

        threading.Thread(target=revive, name=f"revive-{self.endpoint}-{self.plan.name}", daemon=True).start()

    def _place_model(self) -> None:
        """Model data under ml/model; kept between restarts of the server, so that an endpoint comes back without S3."""
        done = self._directory / "model-complete"
        if done.exists():
            return
        shutil.rmtree(self._directory, ignore_errors=True)
        target = self._directory / "ml" / "model"
        target.mkdir(parents=True)
        source = self.plan.model.get("ModelDataSource", {}).get("S3DataSource")
        if url := self.plan.model.get("ModelDataUrl"):
            self._unpack(url, target)
        elif source is not None and source["CompressionType"] == "Gzip":
            self._unpack(source["S3Uri"], target)
        elif source is not None:
            self._services.storage.download(self._services.storage.files_of(source["S3Uri"], "S3Prefix"), target)
        done.touch()

    def _unpack(self, url: str, target: Path) -> None:
        archive = self._directory / "model.tar.gz"
        location = Location.parse(url)
        self._services.storage.download_file(location, archive)
        unpack(archive, target)
        archive.unlink()


class Fleet:
    """The model servers of one endpoint configuration, started and stopped together. ``capture``: its DataCaptureConfig."""

    def __init__(
        self, services: Services, endpoint: str, identifier: str, config: str, plans: list[VariantPlan], capture: Document | None = None
    ) -> None:
        self.identifier = identifier
        self.config = config
        self.capture = capture
        self.directory = services.settings.state / "endpoints" / endpoint / identifier
        self._services = services
        self.servers = {plan.name: ModelServer(services, endpoint, plan, self.directory / plan.name, capture) for plan in plans}
        self.production = {name: server for name, server in self.servers.items() if not server.plan.shadow}
        for shadow in (server for server in self.servers.values() if server.plan.shadow):
            for server in self.production.values():  # one: CreateEndpointConfig sees to it
                server.copies = Copies(shadow, services.settings.invocation_timeout_seconds)
        self.weigh({})

    def start(self, deadline: float = math.inf) -> None:
        """Start all variants at once; DeploymentFailed, with everything stopped again, if one does not become healthy in time."""
        failures: list[BaseException] = []

        def start(server: ModelServer) -> None:
            try:
                server.start(deadline)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=start, args=(server,), daemon=True) for server in self.servers.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            self.stop(self._services.settings.endpoint_stop_grace_seconds)
            raise failures[0]

    def weigh(self, weights: Mapping[str, float]) -> None:
        """Current weights of variants, where they are no longer the plans': what a shadow gets of the requests follows them."""
        for server in self.production.values():
            if server.copies is not None:
                shadow, production = (weights.get(each.plan.name, each.plan.weight) for each in (server.copies.shadow, server))
                server.copies.share = shadow / production if production else 0.0

    def stop(self, grace_seconds: float) -> None:
        """Stop all variants."""
        threads = [threading.Thread(target=server.stop, args=(grace_seconds,), daemon=True) for server in self.servers.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def discard(self) -> None:
        """Remove the models and logs of a stopped fleet."""
        if not self._services.settings.keep_job_directories:
            shutil.rmtree(self.directory, ignore_errors=True)

    def drain(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        """Wait until no request is in flight; for a fleet that gets no new ones."""

        async def in_flight() -> int:
            return sum(server.in_flight for server in self.servers.values())

        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and asyncio.run_coroutine_threadsafe(in_flight(), loop).result():
            time.sleep(0.02)


class Route:
    """How one endpoint's requests are spread: fleets by share (blue/green traffic), variants by weight within a fleet."""

    def __init__(self, traffic: list[tuple[Fleet, float]], weights: Mapping[str, float]) -> None:
        self._traffic = [(fleet, share) for fleet, share in traffic if share > 0]
        self._choices: list[tuple[float, ModelServer]] = []
        edge = 0.0
        for fleet, share in self._traffic:
            total = sum(weights.get(name, server.plan.weight) for name, server in fleet.production.items())
            for name, server in fleet.production.items():
                part = weights.get(name, server.plan.weight) / total * share if total else 0.0
                if part > 0:
                    edge += part
                    self._choices.append((edge, server))
        self._edge = edge

    def choose(self, dice: float) -> ModelServer:
        """The server for a request, ``dice`` in [0, 1)."""
        if len(self._choices) == 1:
            return self._choices[0][1]
        point = dice * self._edge
        for edge, server in self._choices:
            if point < edge:
                return server
        return self._choices[-1][1]

    def named(self, variant: str, dice: float) -> ModelServer | None:
        """The server of a TargetVariant, weight 0 included; None if there is no such production variant."""
        point = dice * sum(share for _, share in self._traffic)
        found: ModelServer | None = None
        edge = 0.0
        for fleet, share in self._traffic:
            edge += share
            found = fleet.production.get(variant) or found
            if found is not None and point < edge:
                break
        return found


def ping(port: int) -> bool:
    """Whether ``GET /ping`` answers 200 within 2 seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PING_SECONDS)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


_given_lock = threading.Lock()
_given: list[int] = []


def free_port() -> int:
    """A loopback port that nothing listens on and that was not given out lately."""
    with _given_lock:
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            if port not in _given:
                _given.append(port)
                del _given[:-200]
                return port
