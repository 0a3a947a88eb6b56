"""Starting, signalling and awaiting the processes of jobs and model servers.

The server has threads and so never forks itself. It keeps preload parents (``preload.py``): one without preloaded modules,
which executes any command, and one for each set of modules that an image asks for, which forks ``python -m MODULE``
commands from an already warm interpreter. A parent that cannot be used (an import started a thread, so that a fork
would be unsafe; it died) is passed over: the command is then executed in the plain way, and the log says so.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from .images import Image
from .store import Store

log = logging.getLogger(__name__)

_SCRIPT = Path(__file__).with_name("preload.py")
_OPT_ML = re.compile(r"/opt/ml(?![A-Za-z0-9_.-])")
_READY_SECONDS = 120.0
# Threads that libraries start at import would make a fork unsafe; these settings keep them from starting any.
_SINGLE_THREADED = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}


@dataclass(frozen=True)
class Command:
    """What to run: an argument vector in a directory, with exactly this environment and this ``/opt/ml``."""

    argv: tuple[str, ...]
    working_directory: str
    environment: Mapping[str, str]
    ml: Path
    log: Path


class Process:
    """A started command. ``exit_code`` is None while it runs; 128 + N stands for signal N, as with docker."""

    def __init__(self, identifier: str, parent: _Parent) -> None:
        self.identifier = identifier
        self._parent = parent
        self._done = threading.Event()
        self._callbacks: list[Callable[[int], None]] = []
        self._lock = threading.Lock()
        self.pid: int | None = None
        self.exit_code: int | None = None

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code, or None if it still runs after ``timeout`` seconds."""
        self._done.wait(timeout)
        return self.exit_code

    def terminate(self) -> None:
        """SIGTERM to the command's own process, as ``docker stop`` sends it."""
        self._parent.signal(self.identifier, "TERM")

    def kill(self) -> None:
        """SIGKILL to the command and all that it started."""
        self._parent.signal(self.identifier, "KILL")

    def stop(self, grace_seconds: float) -> int:
        """SIGTERM, then SIGKILL after the grace; returns the exit code."""
        self.terminate()
        if self.wait(grace_seconds) is None:
            self.kill()
        return self.wait() or 0

    def when_ended(self, callback: Callable[[int], None]) -> None:
        """Call back with the exit code, at once if it has ended already."""
        with self._lock:
            if self.exit_code is None:
                self._callbacks.append(callback)
                return
        callback(self.exit_code)

    def ended(self, code: int) -> None:
        """Called by the parent's reader."""
        with self._lock:
            if self.exit_code is not None:
                return
            self.exit_code = code
            callbacks, self._callbacks = self._callbacks, []
        self._done.set()
        for callback in callbacks:
            callback(code)


class _Parent:
    """The server's end of one preload parent."""

    def __init__(
        self, interpreter: str, modules: tuple[str, ...], directory: str, environment: Mapping[str, str], log_file: Path, probe: bool
    ):
        ours, theirs = socket.socketpair()
        with log_file.open("ab") as output, theirs:
            self._process = subprocess.Popen(  # noqa: S603 - the interpreter of the user's own --images file
                [interpreter, str(_SCRIPT), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=directory,
                env=dict(environment),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._control = ours
        self._write = threading.Lock()
        self._processes: dict[str, Process] = {}
        self._ready = threading.Event()
        self.answer: dict[str, object] | None = None
        self.pid = self._process.pid
        self.send({"preload": list(modules), "parent": os.getpid(), "probe": probe})
        threading.Thread(target=self._read, name=f"preload-{self.pid}", daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ready(self) -> dict[str, object] | None:
        """What it reported after its imports; None if it has died or takes too long."""
        self._ready.wait(_READY_SECONDS)
        return self.answer

    def send(self, message: dict[str, object]) -> None:
        with self._write:
            self._control.sendall(json.dumps(message).encode() + b"\n")

    def start(self, process: Process, request: dict[str, object]) -> None:
        self._processes[process.identifier] = process
        try:
            self.send(request)
        except OSError:
            process.ended(137)

    def signal(self, identifier: str, name: str) -> None:
        try:
            self.send({"op": "signal", "id": identifier, "name": name})
        except OSError:  # the parent is gone, and with it everything that it started
            log.debug("the preload parent %d is gone; nothing to signal", self.pid)

    def close(self) -> None:
        """End it and all that it started."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        try:
            with self._control.makefile("rb") as lines:
                for line in lines:
                    self._handle(json.loads(line))
        except OSError:
            log.debug("the control socket of preload parent %d broke", self.pid)
        self._ready.set()
        for process in list(self._processes.values()):
            process.ended(137)

    def _handle(self, event: dict[str, Any]) -> None:
        if event["event"] == "ready":
            self.answer = event
            self._ready.set()
            for module, why in event["failed"].items():
                log.warning("module %s cannot be preloaded: %s", module, why)
        elif event["event"] == "started":
            self._processes[event["id"]].pid = event["pid"]
        else:
            self._processes.pop(event["id"]).ended(event["code"])


class Launcher:
    """Starts commands of images in containers of their own, under the most private isolation that works here."""

    def __init__(self, state: Path, store: Store, isolation: str = "auto") -> None:
        self._state = state
        self._store = store
        self._parents: dict[tuple[object, ...], _Parent] = {}
        self._lock = threading.Lock()
        # PR_SET_PDEATHSIG follows the thread that started a process: this one lives as long as the server
        self._spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")
        (state / "logs").mkdir(parents=True, exist_ok=True)
        answer = self._plain().ready()
        if answer is None:
            raise RuntimeError(f"the process parent did not start; see {state / 'logs' / 'preload.log'}")
        self.isolation = str(answer["isolation"]) if isolation == "auto" else isolation

    @property
    def private_opt_ml(self) -> bool:
        """Whether every job sees its own /opt/ml."""
        return self.isolation != "none"

    def warm(self, image: Image) -> None:
        """Start the preload parent of an image ahead of its first job; returns at once."""
        if image.preload and image.interpreter:
            self._parent_for(image, image.interpreter)

    def start(self, image: Image, command: Command) -> Process:
        """Start the command. Its exit code, not an exception, tells of a command that cannot be run (127, 126, 125)."""
        argv = list(command.argv)
        if argv[0] in {"python", "python3"} and image.interpreter:
            argv[0] = image.interpreter
        environment = dict(command.environment)
        if self.private_opt_ml:
            environment["SAGEMAKER_BASE_DIR"] = "/opt/ml"
        else:
            argv = [_OPT_ML.sub(lambda _: str(command.ml), text) for text in argv]
            environment = {name: _OPT_ML.sub(lambda _: str(command.ml), text) for name, text in environment.items()}
            environment["SAGEMAKER_BASE_DIR"] = str(command.ml)
        module = argv[2] if len(argv) > 2 and argv[0] == image.interpreter and argv[1] == "-m" else None
        parent = self._warm_parent(image) if module else None
        if parent is None:
            parent, module = self._plain(), None
        process = Process(uuid.uuid4().hex, parent)
        parent.start(
            process,
            {
                "op": "start",
                "id": process.identifier,
                "argv": argv[3:] if module else argv,
                "module": module,
                "cwd": command.working_directory,
                "env": environment,
                "log": str(command.log),
                "ml": str(command.ml),
                "isolation": self.isolation,
            },
        )
        return process

    def close(self) -> None:
        """End every parent, and with them whatever still runs."""
        with self._lock:
            parents = list(self._parents.values())
        for parent in parents:
            parent.close()
            self._store.forget_process(parent.pid)
        self._spawner.shutdown()

    def _plain(self) -> _Parent:
        environment = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        return self._parent(("plain",), sys.executable, (), "/", environment, probe=True)

    def _parent_for(self, image: Image, interpreter: str) -> _Parent:
        environment = {**image.base_environment, **_SINGLE_THREADED}
        key = (interpreter, image.preload, image.working_directory, tuple(sorted(environment.items())))
        return self._parent(key, interpreter, image.preload, image.working_directory, environment, probe=False)

    def _warm_parent(self, image: Image) -> _Parent | None:
        """The image's preload parent, if it has one and a fork of it is safe."""
        if not image.preload or image.interpreter is None:
            return None
        parent = self._parent_for(image, image.interpreter)
        answer = parent.ready()
        if answer is None:
            log.warning("image %s: its preload parent did not start; jobs are executed cold (see logs/preload.log)", image.uri)
            return None
        if answer["threads"] != 1:
            log.warning("image %s: its preloaded modules started threads, so forking is unsafe; jobs are executed cold", image.uri)
            return None
        return parent

    def _parent(
        self,
        key: tuple[object, ...],
        interpreter: str,
        modules: tuple[str, ...],
        directory: str,
        environment: Mapping[str, str],
        *,
        probe: bool,
    ) -> _Parent:
        with self._lock:
            parent = self._parents.get(key)
            if parent is not None and parent.alive:
                return parent
            if parent is not None:
                self._store.forget_process(parent.pid)
            log_file = self._state / "logs" / "preload.log"
            parent = self._spawner.submit(_Parent, interpreter, modules, directory, environment, log_file, probe).result()
            self._parents[key] = parent
            self._store.record_process(parent.pid, psutil.Process(parent.pid).create_time(), f"preload parent of {interpreter}")
            return parent


def reap_leftovers(store: Store, state: Path) -> int:
    """End what an earlier server on this state directory left behind; how many processes that was.

    On Linux the kernel has ended them with it (PR_SET_PDEATHSIG); this is for where it could not. A process is ours if its
    pid and start time are the recorded ones, or if its SAGEMAKER_BASE_DIR lies in the state directory.
    """
    leftovers: dict[int, psutil.Process] = {}
    for pid, started, _ in store.processes():
        try:
            process = psutil.Process(pid)
            if abs(process.create_time() - started) < 1.0:
                leftovers[pid] = process
        except psutil.NoSuchProcess:
            pass
        store.forget_process(pid)
    prefix = str(state) + os.sep
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("SAGEMAKER_BASE_DIR", "").startswith(prefix):
                leftovers[process.pid] = process
        except (psutil.Error, OSError):
            continue
    ended = list(leftovers.values())
    for process in list(leftovers.values()):
        try:
            ended.extend(process.children(recursive=True))
            process.kill()
        except psutil.NoSuchProcess:
            continue
    for process in ended:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(ended, timeout=5)
    return len(leftovers)
