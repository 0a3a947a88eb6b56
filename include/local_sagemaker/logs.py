"""Shipping the output of jobs and model servers to CloudWatch Logs.

Each process writes to a local file, which stays; one thread reads what was added and puts it into the documented group
and stream. If CloudWatch Logs cannot be reached, jobs go on: the file is the record, and the server's log says so once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_logs.type_defs import InputLogEventTypeDef

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
# limits of PutLogEvents: 10,000 events and 1,048,576 bytes a call, 26 bytes of overhead an event, 256 kB an event
_MAX_EVENTS, _MAX_BYTES, _EVENT_OVERHEAD, _MAX_EVENT_BYTES = 10_000, 1_000_000, 26, 250_000


@dataclass
class Followed:
    """A file that is being shipped. ``on_line`` sees every whole line, in order."""

    path: Path
    group: str
    stream: str
    on_line: Callable[[str], None] | None = None
    offset: int = 0
    partial: bytes = b""
    stream_made: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class LogShipper:
    """One thread that follows any number of files."""

    def __init__(self, region: str) -> None:
        config = Config(retries={"max_attempts": 2, "mode": "standard"}, connect_timeout=3, read_timeout=10)
        self._client: CloudWatchLogsClient = boto3.client("logs", region_name=region, config=config)
        self._followed: list[Followed] = []
        self._stop = threading.Event()
        self._complained = False
        self._groups_made: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="log-shipper", daemon=True)
        self._thread.start()

    def follow(self, path: Path, group: str, stream: str, on_line: Callable[[str], None] | None = None) -> Followed:
        """Ship what is written to ``path`` from now on."""
        followed = Followed(path, group, stream, on_line, offset=path.stat().st_size if path.exists() else 0)
        self._followed.append(followed)
        return followed

    def finish(self, followed: Followed) -> None:
        """Ship the rest and let go of the file; called when its writer has ended, so that the log is whole before a job's end is told."""
        if followed in self._followed:
            self._followed.remove(followed)
        self._ship(followed, last=True)

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            for followed in list(self._followed):
                self._ship(followed, last=False)

    def _ship(self, followed: Followed, *, last: bool) -> None:
        with followed.lock:
            lines = _new_lines(followed, last=last)
            if followed.on_line is not None:
                for line in lines:
                    followed.on_line(line)
            try:
                self._put(followed, lines)
                self._complained = False
            except (ClientError, BotoCoreError) as error:
                if not self._complained:
                    log.warning(
                        "CloudWatch Logs does not take the output of %s (it stays in %s): %s", followed.stream, followed.path, error
                    )
                self._complained = True

    def _put(self, followed: Followed, lines: list[str]) -> None:
        stamp = int(time.time() * 1000)
        batch: list[InputLogEventTypeDef] = []
        size = 0
        for line in lines:
            text = line.encode()[:_MAX_EVENT_BYTES].decode(errors="ignore") or " "
            cost = len(text.encode()) + _EVENT_OVERHEAD
            if batch and (len(batch) >= _MAX_EVENTS or size + cost > _MAX_BYTES):
                self._put_batch(followed, batch)
                batch, size = [], 0
            batch.append({"timestamp": stamp, "message": text})
            size += cost
        if batch:
            self._put_batch(followed, batch)

    def _put_batch(self, followed: Followed, batch: list[InputLogEventTypeDef]) -> None:
        if not followed.stream_made:
            self._make_stream(followed)
            followed.stream_made = True
        self._client.put_log_events(logGroupName=followed.group, logStreamName=followed.stream, logEvents=batch)

    def _make_stream(self, followed: Followed) -> None:
        exists = self._client.exceptions.ResourceAlreadyExistsException
        if followed.group not in self._groups_made:
            try:
                self._client.create_log_group(logGroupName=followed.group)
            except exists:
                log.debug("log group %s is there already", followed.group)
            self._groups_made.add(followed.group)
        try:
            self._client.create_log_stream(logGroupName=followed.group, logStreamName=followed.stream)
        except exists:
            log.debug("log stream %s is there already", followed.stream)


def _new_lines(followed: Followed, *, last: bool) -> list[str]:
    try:
        with followed.path.open("rb") as file:
            file.seek(followed.offset)
            data = file.read()
    except FileNotFoundError:
        return []
    followed.offset += len(data)
    *whole, followed.partial = (followed.partial + data).split(b"\n")
    if last and followed.partial:
        whole.append(followed.partial)
        followed.partial = b""
    return [line.rstrip(b"\r").decode("utf-8", errors="replace") for line in whole]
