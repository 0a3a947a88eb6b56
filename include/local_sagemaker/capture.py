"""Data capture: requests and answers of endpoints, written to S3 in the documented format.

Key: ``<DestinationS3Uri>/<endpoint>/<variant>/yyyy/mm/dd/hh/<mm-ss-ms-uuid>.jsonl``, UTC, the hour that of the invocations in it. A line::

    {"captureData": {"endpointInput": {"observedContentType": "text/csv", "mode": "INPUT", "data": "1,2", "encoding": "CSV"},
                     "endpointOutput": {…, "mode": "OUTPUT", …}},
     "eventMetadata": {"eventId": uuid, "inferenceId": as sent, "customAttributes": [as sent], "inferenceTime": "2026-02-14T17:25:49Z"},
     "eventVersion": "0"}

``inferenceId`` and ``customAttributes`` are there only where the caller sent them. Bodies of the content types in CaptureContentTypeHeader
are text, all others, and what is not UTF-8, are base64. Each request is captured with the chance InitialSamplingPercentage. (Sources: the
Developer Guide, "Capture data from real-time endpoint"; the API Reference, DataCaptureConfig.) What becomes of failed invocations is not documented;
here only answers of status 2xx are captured, because only they have both sides.

The invocation puts a tuple into memory. A thread appends it to a file in the state directory within a fraction of a second; every few seconds another
puts the file into S3 (AWS takes minutes). What is lost: by ``kill -9`` the last fraction of a second, by a power cut what the operating system had
not written, and everything while the disk is all but full (AWS stops capturing then, too). What S3 does not take stays in the state directory and is
tried again, by the next server if need be, under the same key: delivered at least once, and never half.
"""

from __future__ import annotations

import base64
import json
import logging
import random
import shutil
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from .model_client import Answer
from .s3 import Location
from .store import Document

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger(__name__)

_WRITE_SECONDS, _RETRY_SECONDS = 0.2, 2.0
_MOST_LINES, _MOST_BYTES = 10_000, 16 * 1024 * 1024  # of one file
_MOST_IN_MEMORY = 128 * 1024 * 1024
_LEAST_FREE = 0.05  # of the disk
_UNTYPED = b"application/octet-stream"


def check_capture(config: Document | None) -> None:
    """ValidationException for a DataCaptureConfig whose destination is no place in S3; everything else the service model says."""
    if config is not None:
        Location.parse(config["DestinationS3Uri"])


def is_on(config: Document | None) -> bool:
    """EnableCapture; a DataCaptureConfig without it is enabled (API Reference)."""
    return config is not None and bool(config.get("EnableCapture", True))


def summary(config: Document | None) -> Document:
    """``{"DataCaptureConfig": DataCaptureConfigSummary}`` of DescribeEndpoint, or nothing."""
    if config is None:
        return {}
    on = is_on(config)
    return {
        "DataCaptureConfig": {
            "EnableCapture": on,
            "CaptureStatus": "Started" if on else "Stopped",
            "CurrentSamplingPercentage": config["InitialSamplingPercentage"],
            "DestinationS3Uri": config["DestinationS3Uri"],
            "KmsKeyId": config.get("KmsKeyId", ""),
        }
    }


class _Invocation(NamedTuple):
    variant: VariantCapture
    moment: float
    inference_id: bytes | None
    attributes: bytes | None
    content_type: bytes
    body: bytes
    answer_type: bytes
    answer: bytes


class VariantCapture:
    """What is captured of one variant's requests. ``take`` is called on the event loop, the rest by the thread that writes."""

    def __init__(self, writer: CaptureWriter, endpoint: str, variant: str, config: Document) -> None:
        self._writer = writer
        self._share = config["InitialSamplingPercentage"] / 100
        modes = {option["CaptureMode"] for option in config["CaptureOptions"]}
        self._input = bool(modes & {"Input", "InputAndOutput"})
        self._output = bool(modes & {"Output", "InputAndOutput"})
        types = config.get("CaptureContentTypeHeader", {})
        self._encodings = {name.lower(): kind for kind in ("Json", "Csv") for name in types.get(f"{kind}ContentTypes", [])}
        self.prefix = Location.parse(config["DestinationS3Uri"]).join(endpoint, variant)
        self.kms_key: str = config.get("KmsKeyId", "")

    def take(self, headers: list[tuple[bytes, bytes]], body: bytes, answer: Answer) -> None:
        """Remember one invocation, if chance says so."""
        if random.random() >= self._share:  # noqa: S311 - a sample, not a secret
            return
        sent = dict(headers)
        self._writer.put(
            _Invocation(
                self,
                time.time(),
                sent.get(b"x-amzn-sagemaker-inference-id"),
                sent.get(b"x-amzn-sagemaker-custom-attributes"),
                sent.get(b"content-type", _UNTYPED),
                body,
                answer.headers.get(b"content-type", _UNTYPED),
                answer.body,
            )
        )

    def line(self, found: _Invocation) -> bytes:
        """One line of a capture file."""
        data: Document = {}
        if self._input:
            data["endpointInput"] = self._side("INPUT", found.content_type, found.body)
        if self._output:
            data["endpointOutput"] = self._side("OUTPUT", found.answer_type, found.answer)
        event: Document = {"eventId": str(uuid.UUID(int=random.getrandbits(128), version=4))}
        if found.inference_id is not None:
            event["inferenceId"] = found.inference_id.decode("ascii")
        if found.attributes is not None:
            event["customAttributes"] = [found.attributes.decode("ascii")]
        event["inferenceTime"] = f"{datetime.fromtimestamp(found.moment, UTC):%Y-%m-%dT%H:%M:%SZ}"
        return json.dumps({"captureData": data, "eventMetadata": event, "eventVersion": "0"}, separators=(",", ":")).encode() + b"\n"

    def _side(self, mode: str, content_type: bytes, body: bytes) -> Document:
        observed = content_type.decode("latin-1")
        encoding = self._encodings.get(observed.partition(";")[0].strip().lower(), "Base64")
        try:
            text = body.decode("utf-8") if encoding != "Base64" else base64.b64encode(body).decode("ascii")
        except UnicodeDecodeError:
            encoding, text = "Base64", base64.b64encode(body).decode("ascii")
        return {"observedContentType": observed, "mode": mode, "data": text, "encoding": encoding.upper()}


@dataclass
class _File:
    """A file that is being written, ``<name>.part``; ``<name>.json`` says which object it becomes, and is there before it. It is renamed to
    ``<name>.jsonl`` when it is written no more."""

    path: Path
    begun: float
    lines: int = 0
    size: int = 0


class CaptureWriter:
    """One thread that writes down what was captured, and one that ships it, so that a slow S3 holds up no writing."""

    def __init__(self, directory: Path, region: str, interval_seconds: float) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        for part in directory.glob("*.part"):  # an earlier server was killed
            part.rename(part.with_suffix(".jsonl"))
        for target in directory.glob("*.json"):
            if not target.with_suffix(".jsonl").exists():
                target.unlink()
        config = Config(retries={"max_attempts": 2, "mode": "standard"}, connect_timeout=3, read_timeout=30)
        self._client: S3Client = boto3.client("s3", region_name=region, config=config)
        self._interval = interval_seconds
        self._waiting: deque[_Invocation] = deque()
        self._put_bytes = 0  # by the event loop
        self._written_bytes = 0  # by the thread
        self._open: dict[tuple[str, str, str], _File] = {}  # by destination, key and hour
        self._complained: set[str] = set()
        self._stop = threading.Event()
        self._writing = threading.Thread(target=self._write_on, name="capture", daemon=True)
        self._shipping = threading.Thread(target=self._ship_on, name="capture-shipping", daemon=True)
        self._writing.start()
        self._shipping.start()

    def variant(self, endpoint: str, variant: str, config: Document | None) -> VariantCapture | None:
        """What captures a variant's requests; None where capture is off."""
        return VariantCapture(self, endpoint, variant, config) if config is not None and is_on(config) else None

    def put(self, found: _Invocation) -> None:
        """Take an invocation over; on the event loop."""
        size = len(found.body) + len(found.answer)
        if self._put_bytes - self._written_bytes > _MOST_IN_MEMORY:
            self._complain("memory", "captured requests are dropped: they come faster than they can be written to the state directory")
            return
        self._put_bytes += size
        self._waiting.append(found)

    def close(self) -> None:
        """Write down and ship what is left; what S3 does not take now, the next server ships."""
        self._stop.set()
        self._writing.join(timeout=10)
        self._shipping.join(timeout=40)

    def _write_on(self) -> None:
        while not self._stop.wait(_WRITE_SECONDS):
            self._guarded(self._write)
        self._guarded(self._write)
        self._guarded(lambda: self._finish(list(self._open)))

    def _ship_on(self) -> None:
        wait = _WRITE_SECONDS
        while not self._stop.wait(wait):
            wait = _WRITE_SECONDS if self._guarded(self._ship) else _RETRY_SECONDS
        self._writing.join(timeout=10)
        self._guarded(self._ship)

    def _guarded(self, step: Callable[[], bool | None]) -> bool:
        """Whatever happens, the threads are needed for as long as the server runs. Whether the step was done."""
        try:
            return step() is not False
        except Exception as error:
            self._complain(repr(error), f"captured requests could not be written down or shipped: {error!r}")
            return False

    def _write(self) -> None:
        if self._waiting:
            self._write_waiting()
        moment = time.monotonic()
        self._finish([
            place
            for place, file in self._open.items()
            if moment - file.begun >= self._interval or file.lines >= _MOST_LINES or file.size >= _MOST_BYTES
        ])  # fmt: skip

    def _write_waiting(self) -> None:
        usage = shutil.disk_usage(self._directory)
        full = usage.free < usage.total * _LEAST_FREE
        if full:
            self._complain("disk", f"captured requests are dropped: the disk of {self._directory} is all but full")
        lines: dict[tuple[str, str, str], list[bytes]] = {}
        for _ in range(len(self._waiting)):
            found = self._waiting.popleft()
            self._written_bytes += len(found.body) + len(found.answer)
            if not full:
                hour = f"{datetime.fromtimestamp(found.moment, UTC):%Y/%m/%d/%H}"
                variant = found.variant
                lines.setdefault((str(variant.prefix), variant.kms_key, hour), []).append(variant.line(found))
        for place, content in lines.items():
            self._append(place, content)

    def _append(self, place: tuple[str, str, str], lines: list[bytes]) -> None:
        file = self._open.get(place)
        if file is None:
            prefix, kms_key, hour = place
            name = f"{datetime.now(UTC):%M-%S-%f}"[:9] + f"-{uuid.uuid4()}"
            target = {"uri": f"{prefix}/{hour}/{name}.jsonl", "kms_key": kms_key}
            file = self._open[place] = _File(self._directory / f"{name}.part", time.monotonic())
            file.path.with_suffix(".json").write_text(json.dumps(target), "utf-8")
        with file.path.open("ab") as stream:
            stream.write(b"".join(lines))
        file.lines += len(lines)
        file.size += sum(map(len, lines))

    def _finish(self, places: list[tuple[str, str, str]]) -> None:
        """Files that are old or large enough are written no more."""
        for place in places:
            file = self._open.pop(place)
            file.path.rename(file.path.with_suffix(".jsonl"))

    def _ship(self) -> bool:
        """Whether S3 took all there was."""
        refused: set[str] = set()  # buckets; a destination that is gone must not hold up the others
        for path in sorted(self._directory.glob("*.jsonl")):
            try:
                target = json.loads(path.with_suffix(".json").read_text("utf-8"))
            except (OSError, ValueError) as error:  # of a power cut
                self._complain(path.name, f"captured requests stay in {path}: nothing says where they belong: {error}")
                continue
            place = Location.parse(target["uri"])
            if place.bucket in refused:
                continue
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]  # of a line that a killed server was writing, nothing
            try:
                if whole:
                    self._put_object(place, whole, target["kms_key"])
                path.unlink()
                path.with_suffix(".json").unlink()
                self._complained.discard(place.bucket)
            except (ClientError, BotoCoreError) as error:
                refused.add(place.bucket)
                self._complain(place.bucket, f"S3 does not take captured requests ({place}; they stay in {self._directory}): {error}")
        return not refused

    def _put_object(self, place: Location, content: bytes, kms_key: str) -> None:
        if kms_key:
            self._client.put_object(Bucket=place.bucket, Key=place.key, Body=content, ServerSideEncryption="aws:kms", SSEKMSKeyId=kms_key)
        else:
            self._client.put_object(Bucket=place.bucket, Key=place.key, Body=content)

    def _complain(self, about: str, text: str) -> None:
        if about not in self._complained:
            self._complained.add(about)
            log.warning("%s", text)
