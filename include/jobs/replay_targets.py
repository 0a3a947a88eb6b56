"""Whom ``replay`` asks about events: the endpoint itself, or a gateway in front of it; and which captures there are of it."""

from __future__ import annotations

import json
import math
import re
import tempfile
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import urllib3
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnection

from include.jobs.context import JobContext, JobError
from include.jobs.model_archive import open_model
from include.lifecycle.as_of import iso
from include.stores.captures import CaptureFile, Captures

_POLL_SECONDS = 0.5
_SERVES = {"InService", "Updating", "SystemUpdating", "RollingBack"}
_SHOWN = 300


class Event(NamedTuple):
    event_id: str
    event_time: datetime
    entity_id: str | None
    amount: float
    """NaN where it is not known."""
    values: tuple[float, ...]
    """The model's features in its order, NaN where missing."""


class MayPass(Exception):
    """No answer now; the same request may be answered a little later."""


class Target(Protocol):
    @property
    def name(self) -> str:
        """As it is called in messages."""
        ...

    def ask(self, event: Event) -> None:
        """Returns once it was answered. MayPass or JobError where it was not."""
        ...


@dataclass(frozen=True)
class LiveEndpoint:
    """An endpoint in service. ``configuration``: the name under ``captured/``; ``features``: what its variants' models want, in order; ``sampled``:
    the share of the requests that is captured; ``shadows``: how many shadow variants capture a copy of each."""

    name: str
    configuration: str
    features: tuple[str, ...]
    sampled: float = 1.0
    shadows: int = 0

    @classmethod
    def find(cls, context: JobContext, sagemaker: Any, name: str, changing: bool = False) -> LiveEndpoint:
        """JobError where it cannot be replayed through. ``changing``: it may be changing now, and serve all the while."""
        try:
            described = sagemaker.describe_endpoint(EndpointName=name)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ValidationException":
                raise
            raise JobError(f"there is no endpoint {name}: deploy a model of {context.domain.name} first") from error
        if described["EndpointStatus"] not in (_SERVES if changing else {"InService"}):
            why = described.get("FailureReason", "no reason given")
            raise JobError(f"the endpoint {name} is {described['EndpointStatus']} ({why}), not InService")
        capture = described.get("DataCaptureConfig", {})
        root = context.objects.uri(context.layout.captured(""))
        if not capture.get("EnableCapture") or not capture["DestinationS3Uri"].startswith(root):
            raise JobError(
                f"the endpoint {name} captures nothing under {root}: what is replayed through it would be lost. Deploy the model again"
            )
        configuration = capture["DestinationS3Uri"].removeprefix(root).strip("/")
        served = Captures(context.objects, context.layout).served_models(configuration)
        if not served:
            raise JobError(
                f"{capture['DestinationS3Uri']}/variants.json is missing: nothing says which model {name} serves. Deploy it again"
            )
        wanted: dict[tuple[str, ...], str] = {}
        for number, model in enumerate(sorted({model.model for model in served.values()})):
            with tempfile.TemporaryDirectory() as folder:
                wanted[open_model(context.objects, model, Path(folder) / str(number), context.domain).features] = model
        if len(wanted) > 1:
            raise JobError(f"the variants of {name} want different features: {', '.join(wanted.values())}; one request cannot serve both")
        sampled, shadows = capture["CurrentSamplingPercentage"] / 100, len(described.get("ShadowProductionVariants", []))
        return cls(name, configuration, next(iter(wanted)), sampled, shadows)


class NewCaptures:
    """Capture files that were not there yet; of any configuration, for in a rollout it may change meanwhile."""

    def __init__(self, context: JobContext, live: LiveEndpoint) -> None:
        self._objects, self._captures, self._live = context.objects, Captures(context.objects, context.layout), live
        self._before = {file.key for file in self._files()}
        self._lines: dict[str, int] = {}

    def _files(self) -> list[CaptureFile]:
        return self._captures.files()

    def wait(self, requests: int, seconds: float) -> int:
        """How many lines there are, once there is one of each variant that is asked for each of ``requests``, or after ``seconds`` (where only a
        share is captured: always)."""
        expected = requests * (1 + self._live.shadows) if self._live.sampled == 1 else None  # how many a sample has is left to chance
        deadline = time.monotonic() + seconds
        while True:
            for key in {file.key for file in self._files()} - self._before - self._lines.keys():
                self._lines[key] = self._objects.get(key).count(b"\n")
            found = sum(self._lines.values())
            if (expected is not None and found >= expected) or time.monotonic() >= deadline:
                return found
            time.sleep(_POLL_SECONDS)


@dataclass(frozen=True)
class EndpointTarget:
    """InvokeEndpoint. ``runtime``: boto3's ``sagemaker-runtime`` client, whose own retries are off."""

    runtime: Any
    name: str

    def ask(self, event: Event) -> None:
        try:
            self.runtime.invoke_endpoint(
                EndpointName=self.name,
                InferenceId=event.event_id,
                CustomAttributes=f"event_time={iso(event.event_time)}",
                ContentType="text/csv",
                Accept="text/csv",
                Body=",".join("" if math.isnan(value) else repr(value) for value in event.values).encode(),
            )["Body"].read()
        except (ClientError, HTTPClientError, NoConnection) as error:
            if _may_pass(error):
                raise MayPass(str(error)) from error
            raise JobError(f"event {event.event_id}: {self.name} did not answer: {error}") from error
        except BotoCoreError as error:  # an id or a time that no request can carry
            raise JobError(f"event {event.event_id} cannot be sent: {error}") from error


def _may_pass(error: Exception) -> bool:
    """Whether the same request may be answered a little later."""
    if not isinstance(error, ClientError):
        return True
    details: Any = error.response
    status = details.get("OriginalStatusCode") or details["ResponseMetadata"]["HTTPStatusCode"]
    return bool(status >= 500 or status == 429 or "Throttl" in error.response["Error"]["Code"])


@dataclass(frozen=True)
class GatewayTarget:
    """``POST /v1/score`` of a gateway. An event may be sent again: its id says that it is the same. ``features``: names, in the order of an event's
    values; a missing value is left out. ``key``: an API key with the right to score; empty: the gateway listens to this machine only."""

    url: str
    domain: str
    features: tuple[str, ...]
    connections: int
    key: str = field(default="", repr=False)
    _pool: urllib3.PoolManager = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise JobError(f"--gateway {self.url!r} is no address: http://127.0.0.1:8090 was expected")
        timeout = urllib3.Timeout(connect=5, read=70)
        object.__setattr__(self, "_pool", urllib3.PoolManager(maxsize=self.connections, block=True, retries=False, timeout=timeout))

    @property
    def name(self) -> str:
        return f"the gateway at {self.url}"

    def ask(self, event: Event) -> None:
        body = {
            "domain": self.domain,
            "event_id": event.event_id,
            "entity_id": event.entity_id,
            "event_time": iso(event.event_time),
            "amount": event.amount,
            "features": {name: value for name, value in zip(self.features, event.values, strict=True) if not math.isnan(value)},
        }
        headers = {"Content-Type": "application/json", **({"X-API-Key": self.key} if self.key else {})}
        try:
            answer = self._pool.request("POST", f"{self.url.rstrip('/')}/v1/score", body=json.dumps(body, allow_nan=False), headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise MayPass(str(error)) from error
        if answer.status >= 500 or answer.status == 429:
            raise MayPass(f"{answer.status}: {answer.data[:_SHOWN].decode(errors='replace')}")
        if answer.status != 200:
            raise JobError(
                f"event {event.event_id}: {self.name} refused it with {answer.status}: {answer.data[:_SHOWN].decode(errors='replace')}"
            )


def read_key(path: Path | None) -> str:
    """The API key in a file, the only thing in it; empty without a file. JobError where it cannot be read."""
    if path is None:
        return ""
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"--api-key-file {path} cannot be read: {error}") from error
    if not re.fullmatch(r"[!-~]+", key):
        raise JobError(f"--api-key-file {path} holds no key: one line of printable characters was expected")
    return key
