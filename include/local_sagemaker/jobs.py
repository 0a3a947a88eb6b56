"""What training and processing jobs share: a thread that prepares, runs, stops and closes one job.

The order of things, for both kinds: the input is downloaded, the container's process runs, the output is uploaded, the
log is shipped whole, and only then the final status is written. A stop request or MaxRuntimeInSeconds sends SIGTERM to the
process and SIGKILL after the documented wait. A server that is told to end stops its jobs and records them as Failed;
jobs that were running when it was killed are recorded as Failed when it starts again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import shutil
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from botocore.exceptions import BotoCoreError, ClientError

from .capture import CaptureWriter
from .config import Settings
from .errors import JobFailed, not_supported, validation
from .images import Image
from .logs import LogShipper
from .process import Command, Launcher, Process
from .s3 import Location, Storage, regular_files
from .store import Document, Resource, Store

log = logging.getLogger(__name__)

Ending = Literal["stop", "runtime", "shutdown"]
SYNC_SECONDS = 5.0  # how often checkpoints and Continuous outputs are copied while a job runs
REASON_LENGTH = 1024
SERVER_ENDED = "InternalServerError: The local SageMaker server ended while the job was running. Run the job again."


@dataclass(frozen=True)
class Services:
    """What the parts of the server hand to each other."""

    settings: Settings
    store: Store
    launcher: Launcher
    storage: Storage
    shipper: LogShipper
    captures: CaptureWriter
    images: Mapping[str, Image]


class Stopped(Exception):
    """The job was asked to stop before its process started."""


class Job(ABC):
    """One job, run by a thread of its own."""

    kind: str
    group: str  # of its log
    status_member: str

    def __init__(self, services: Services, name: str) -> None:
        self.services = services
        self.name = name
        self.request = services.store.get(self.kind, name).document
        self.directory = services.settings.state / "jobs" / self.kind / name
        self.ml = self.directory / "ml"
        self.log_file = self.directory / "output.log"
        self.events: queue.Queue[tuple[str, int]] = queue.Queue()
        self.ending: Ending | None = None

    # what the kinds of job differ in

    @abstractmethod
    def prepare(self) -> tuple[Image, Command]:
        """Download the input, write the configuration files, and say what to run."""

    @abstractmethod
    def close(self, code: int) -> None:
        """Upload the output and write the final status, for a process that ended with ``code``."""

    @abstractmethod
    def failed(self, reason: str) -> None:
        """Write the status Failed."""

    @abstractmethod
    def stopped(self) -> None:
        """Write the status Stopped, for a job whose process never started."""

    @abstractmethod
    def max_runtime(self) -> float:
        """Seconds that the process may run."""

    @abstractmethod
    def started(self) -> None:
        """Called when the process is about to start."""

    def read_line(self, line: str) -> None:  # noqa: B027 - only training jobs read their log
        """Called for each line that the job prints."""

    def sync(self) -> None:  # noqa: B027 - not every job has something to copy
        """Called every few seconds while the process runs, and once after it."""

    # the course of a job

    def ask_to_end(self, how: Ending) -> None:
        """Stop the job: at once, wherever it is in its course."""
        self.events.put((how, 0))

    def run(self, slots: threading.Semaphore) -> None:
        """The whole course; leaves the job in a final status whatever happens."""
        if self.services.store.get(self.kind, self.name).document[self.status_member] == "Stopping":
            self.ask_to_end("stop")  # it was asked to before it was known to be running
        try:
            self._wait_for_slot(slots)
            try:
                self._run()
            finally:
                slots.release()
        except Stopped:
            self.failed(SERVER_ENDED) if self.ending == "shutdown" else self.stopped()
        except JobFailed as error:
            self.failed(str(error)[:REASON_LENGTH])
        except (ClientError, BotoCoreError) as error:
            self.failed(f"ClientError: {error}"[:REASON_LENGTH])
        except Exception as error:
            log.exception("%s job %s: the local SageMaker failed", self.kind, self.name)
            self.failed(f"InternalServerError: {type(error).__name__}: {error}"[:REASON_LENGTH])
        finally:
            if not self.services.settings.keep_job_directories:
                shutil.rmtree(self.ml, ignore_errors=True)

    def check_stop(self) -> None:
        """Raise Stopped if the job was asked to end; called between the steps of preparation."""
        with contextlib.suppress(queue.Empty):
            how, _ = self.events.get_nowait()
            self.ending = how  # type: ignore[assignment]
            raise Stopped

    def _wait_for_slot(self, slots: threading.Semaphore) -> None:
        while not slots.acquire(timeout=0.2):
            self.check_stop()
        try:
            self.check_stop()
        except Stopped:
            slots.release()
            raise

    def _run(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.ml.mkdir(parents=True)
        self.log_file.touch()
        image, command = self.prepare()
        self.check_stop()
        stream = f"{self.name}/algo-1-{int(time.time())}"
        followed = self.services.shipper.follow(self.log_file, self.group, stream, self.read_line)
        try:
            self.started()
            process = self.services.launcher.start(image, command)
            try:
                code = self._watch(process)
            finally:
                if process.exit_code is None:  # something went wrong here: the process must not outlive its job
                    process.kill()
            self.sync()
        finally:
            self.services.shipper.finish(followed)
        if self.ending == "shutdown":
            raise JobFailed(SERVER_ENDED)
        self.close(code)

    def _watch(self, process: Process) -> int:
        """Wait for the end of the process, ending it when asked to or when its time is over."""
        process.when_ended(lambda code: self.events.put(("ended", code)))
        deadline = time.monotonic() + self.max_runtime()
        kill_at: float | None = None
        next_sync = time.monotonic() + SYNC_SECONDS
        while True:
            wake = min(next_sync, deadline if self.ending is None else (kill_at or next_sync))
            try:
                event, code = self.events.get(timeout=max(0.0, wake - time.monotonic()))
            except queue.Empty:
                event, code = "time", 0
            if event == "ended":
                return code
            moment = time.monotonic()
            if event == "time" and self.ending is None and moment >= deadline:
                event = "runtime"
            if event in {"stop", "runtime", "shutdown"} and (self.ending is None or event == "shutdown"):
                self.ending = event  # type: ignore[assignment]
                process.terminate()
                settings = self.services.settings
                kill_at = moment + (settings.shutdown_grace_seconds if event == "shutdown" else settings.job_stop_grace_seconds)
            elif kill_at is not None and moment >= kill_at:
                process.kill()
                kill_at = None
            if moment >= next_sync:
                try:
                    self.sync()
                except (JobFailed, ClientError, BotoCoreError) as error:
                    log.warning("%s job %s: what it writes could not be copied yet, trying again: %s", self.kind, self.name, error)
                next_sync = moment + SYNC_SECONDS

    # helpers of both kinds

    def change(self, update: Callable[[Document], None]) -> Document:
        """Change the stored job; returns its document."""

        def apply(resource: Resource) -> None:
            update(resource.document)

        return self.services.store.update(self.kind, self.name, apply).document

    def write_json(self, path: str, content: object) -> None:
        """Write a configuration file below /opt/ml."""
        place = self.ml / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(content), "utf-8")

    def text_of(self, path: str) -> str | None:
        """The text of a file that the job left below /opt/ml, if it did; never through a link out of it."""
        place = self.ml / path
        if place.is_symlink() or not place.is_file():
            return None
        with place.open("rb") as file:
            return file.read(4 * REASON_LENGTH).decode("utf-8", errors="replace")


class MirroredDirectory:
    """A local directory that is copied to S3 while a job runs: new and changed files and, for checkpoints, deletions."""

    def __init__(self, directory: Path, location: Location, storage: Storage, *, deletions: bool = False) -> None:
        self._deletions = deletions
        self._directory = directory
        self._location = location
        self._storage = storage
        self._copied: dict[str, tuple[int, int]] = {}

    def take_as_copied(self) -> None:
        """Everything that is in the directory now came from S3: it is copied again when it changes, deleted there when it vanishes."""
        for path in regular_files(self._directory):
            state = path.stat()
            self._copied[path.relative_to(self._directory).as_posix()] = (state.st_mtime_ns, state.st_size)

    def copy(self) -> None:
        """Copy what changed since the last call; a file that vanishes meanwhile is left for the next."""
        present = set()
        for path in regular_files(self._directory):
            name = path.relative_to(self._directory).as_posix()
            present.add(name)
            with contextlib.suppress(FileNotFoundError):
                state = path.stat()
                version = (state.st_mtime_ns, state.st_size)
                if self._copied.get(name) != version:
                    self._storage.upload_file(path, self._location.join(name))
                    self._copied[name] = version
        if self._deletions:
            for name in sorted(set(self._copied) - present):
                self._storage.delete(self._location.join(name))
                del self._copied[name]


class JobRunner:
    """Runs jobs, a few at a time; the others wait in status InProgress, as they wait for instances on AWS."""

    def __init__(self, concurrency: int) -> None:
        self._slots = threading.Semaphore(concurrency)
        self._jobs: dict[tuple[str, str], tuple[Job, threading.Thread]] = {}
        self._lock = threading.Lock()
        self._closing = False

    def submit(self, job: Job) -> None:
        """Start the job's thread."""

        def run() -> None:
            try:
                job.run(self._slots)
            finally:
                with self._lock:
                    self._jobs.pop((job.kind, job.name), None)

        thread = threading.Thread(target=run, name=f"{job.kind}-{job.name}", daemon=True)
        with self._lock:
            self._jobs[job.kind, job.name] = (job, thread)
            thread.start()
            if self._closing:
                job.ask_to_end("shutdown")

    def stop(self, kind: str, name: str) -> None:
        """Ask a running job to stop; one that has just ended is left as it is."""
        with self._lock:
            entry = self._jobs.get((kind, name))
        if entry is not None:
            entry[0].ask_to_end("stop")

    def running(self) -> int:
        """How many jobs have not ended."""
        with self._lock:
            return len(self._jobs)

    def close(self, timeout: float) -> None:
        """End every job and wait for their final statuses."""
        with self._lock:
            self._closing = True
            entries = list(self._jobs.values())
        for job, _ in entries:
            job.ask_to_end("shutdown")
        deadline = time.monotonic() + timeout
        for _, thread in entries:
            thread.join(max(0.0, deadline - time.monotonic()))


def refuse(request: Mapping[str, Any], members: Mapping[str, str], where: str = "") -> None:
    """Refuse the first of ``members`` that is present (and not empty or false), with the reason given for it."""
    for member, why in members.items():
        if request.get(member):
            raise not_supported(f"{where}{member}", why)


def find_image(images: Mapping[str, Image], uri: str) -> Image:
    """The image, or the answer that AWS gives at creation for an image that is not in its registry."""
    image = images.get(uri)
    if image is None:
        raise validation(
            f"Cannot find the requested image: {uri}. The local SageMaker runs the images of its --images file: {_listed(images)}"
        )
    return image


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "(none)"
