"""The parent of all job processes: imports heavy modules once, then forks a "container" for each job.

Run by path with an image's interpreter (``python preload.py CONTROL_FD``), so it uses the standard library only and
imports nothing of its package. The server writes one JSON object a line to the control socket and reads the answers:

    → {"preload": [...], "parent": PID, "probe": bool}            once, first
    ← {"event": "ready", "threads": N, "failed": {...}, "isolation": "..."}
    → {"op": "start", "id", "argv", "module", "cwd", "env", "log", "ml", "isolation"}
    ← {"event": "started", "id", "pid"}       then   ← {"event": "exited", "id", "code"}
    → {"op": "signal", "id", "name": "TERM" | "KILL"}

A container is what docker would make, as far as a process without docker can: a private ``/opt/ml`` (mount namespace), a
process tree that ends whole when its first process ends (PID namespace with a small init, or a subreaper), nothing
inherited but the given environment, and death with the parent (PR_SET_PDEATHSIG at every link of the chain).

It forks only while it has one thread: a fork copies no other thread, and a lock held by one would stay held forever.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

Request = dict[str, Any]

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 2, 4, 8, 4096, 16384, 1 << 18, 2
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LINUX = sys.platform.startswith("linux")
# from the most private to none; the probe takes the first that works here
ISOLATIONS = ("mount+pid", "user+mount+pid", "mount", "user+mount", "none")

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> None:
    """Raise OSError for a failed libc call."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    arguments = [os.fsencode(text) if text is not None else None for text in (source, target, kind)]
    checked(libc.mount(*arguments, ctypes.c_ulong(flags), os.fsencode(data) if data else None), f"mount {target}")


def die_with_parent(number: int, link: int) -> None:
    """Ask the kernel for a signal when the parent ends; ``link`` is a pipe that it holds open while it lives."""
    if LINUX:
        checked(libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(number), 0, 0, 0), "prctl")
    if select.select([link], [], [], 0)[0]:  # it ended before it was asked
        os._exit(137)


def enter_namespaces(isolation: str, ml: str) -> None:
    """Unshare what ``isolation`` names, and put ``ml`` at /opt/ml for this process and its children."""
    flags = CLONE_NEWNS
    if "pid" in isolation:
        flags |= CLONE_NEWPID
    user, group = os.getuid(), os.getgid()
    if "user" in isolation:
        flags |= CLONE_NEWUSER
    checked(libc.unshare(flags), "unshare")
    if "user" in isolation:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    place_opt_ml(ml)


def place_opt_ml(ml: str) -> None:
    """Bind ``ml`` at /opt/ml. Without such a directory, /opt becomes a tmpfs in which all that /opt held is bound back."""
    if not os.path.isdir("/opt/ml"):
        aside = tempfile.mkdtemp(prefix="local-sagemaker-opt-")
        mount("/opt", aside, None, MS_BIND | MS_REC)
        mount("tmpfs", "/opt", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
        for entry in sorted(os.scandir(aside), key=lambda item: item.name):
            place = os.path.join("/opt", entry.name)
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), place)
                continue
            if entry.is_dir():
                os.mkdir(place)
            else:
                open(place, "x").close()
            mount(entry.path, place, None, MS_BIND | MS_REC)
        checked(libc.umount2(os.fsencode(aside), MNT_DETACH), f"umount {aside}")
        os.rmdir(aside)
        os.mkdir("/opt/ml")
    mount(ml, "/opt/ml", None, MS_BIND | MS_REC)


def exit_code(status: int) -> int:
    """The exit code as docker tells it: 128 + the signal's number for a process that a signal ended."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def on_signals(terminate: Callable[[], None], kill: Callable[[], None]) -> None:
    """Handle SIGTERM and SIGUSR1 (which stands for kill), both blocked until now."""
    signal.signal(signal.SIGTERM, lambda *_: terminate())
    signal.signal(signal.SIGUSR1, lambda *_: kill())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGUSR1})


def send(pid: int, number: int) -> None:
    """Signal a process, which may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def wait_for(pid: int, parent: int | None = None) -> int:
    """Reap children until ``pid`` ends; its exit code. ``parent`` is watched where the kernel does not tell of its death."""
    while True:
        try:
            ended, status = os.waitpid(-1, 0 if parent is None else os.WNOHANG)
        except ChildProcessError:
            return 137
        if ended == pid:
            return exit_code(status)
        if parent is not None and ended == 0:
            if os.getppid() != parent:
                signal.raise_signal(signal.SIGUSR1)
            time.sleep(0.02)


def descendants_of(root: int) -> set[int]:
    """All living processes under ``root``, from /proc (empty where there is none)."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc") if LINUX else []:
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
    found: set[int] = set()
    fresh = {root}
    while fresh:
        fresh = {pid for pid, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found


def end_tree(job: int) -> None:
    """Kill the job's process group and all that it left behind, which has become ours (subreaper)."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(job, signal.SIGKILL)
    for _ in range(50):
        left = descendants_of(os.getpid())
        if not left:
            return
        for pid in left:
            send(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def contain(request: Request, alive: int, parent: int) -> None:
    """In a fresh child of the preload parent: build the container. Returns only in the process that is to run the job."""
    isolation = request["isolation"]
    with open(request["log"], "ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if isolation == "none":
        subreaper(alive, parent)
        return
    try:
        enter_namespaces(isolation, request["ml"])
    except OSError as error:
        print(f"local SageMaker: cannot give the job a private /opt/ml: {error}", file=sys.stderr, flush=True)
        os._exit(125)
    if "pid" not in isolation:
        subreaper(alive, parent)
        return
    die_with_parent(signal.SIGKILL, alive)
    link, held = os.pipe()
    init = os.fork()
    if init:
        os.close(link)
        on_signals(lambda: send(init, signal.SIGTERM), lambda: send(init, signal.SIGKILL))
        os._exit(wait_for(init))
    os.close(held)
    os.close(alive)
    die_with_parent(signal.SIGKILL, link)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    inner, inner_held = os.pipe()
    job = os.fork()
    if job:
        os.close(inner)
        on_signals(lambda: send(job, signal.SIGTERM), lambda: os._exit(137))
        os._exit(wait_for(job))
    os.close(inner_held)
    os.close(link)
    die_with_parent(signal.SIGKILL, inner)
    os.close(inner)


def subreaper(alive: int, parent: int) -> None:
    """Without a PID namespace: a process that adopts whatever the job leaves behind, and ends it."""
    if LINUX:
        checked(libc.prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0), "prctl")
    die_with_parent(signal.SIGUSR1, alive)
    link, held = os.pipe()
    job = os.fork()
    if job:
        os.close(link)

        def kill() -> None:
            end_tree(job)
            os._exit(137)

        on_signals(lambda: send(job, signal.SIGTERM), kill)
        code = wait_for(job, None if LINUX else parent)
        end_tree(job)
        os._exit(code)
    os.close(held)
    os.close(alive)
    die_with_parent(signal.SIGKILL, link)
    os.close(link)


def become_job(request: Request) -> None:
    """Session, signals, standard streams, environment and directory of the job's process."""
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])


def execute(request: Request) -> NoReturn:
    """Replace this process by the command."""
    argv = request["argv"]
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, request["env"])  # noqa: S606 - running the caller's command is the purpose
    except OSError as error:
        print(f"local SageMaker: cannot run {argv[0]!r}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def run_module(request: Request) -> NoReturn:
    """``python -m MODULE ARGUMENTS`` in this already warm process; ends it as the interpreter would."""
    environment = request["env"]
    buffered = not environment.get("PYTHONUNBUFFERED")
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115 - open as long as the process
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stdout.reconfigure(write_through=not buffered)
    sys.stderr.reconfigure(line_buffering=True)
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, f"__{name}__", getattr(sys, name))
    extra = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry and entry not in sys.path]
    sys.path[:0] = [request["cwd"], *extra]
    importlib.invalidate_caches()
    time.tzset()
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()  # a fork repeats its parent's sequence: two jobs must not draw the same numbers
    sys.argv = [request["module"], *request["argv"]]
    finish(run_as_main(request["module"]))


def run_as_main(module: str) -> int:
    """Run the module as ``__main__``; the exit code that the interpreter would give, with what it would print."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return (ended.code or 0) & 0xFF
        print(ended.code, file=sys.stderr)
        return 1
    except BaseException as error:
        trace = error.__traceback__.tb_next if error.__traceback__ else None  # without this function's own frame
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def finish(code: int) -> NoReturn:
    """End the process as multiprocessing ends its forks: threads, exit handlers, streams, and then at once.

    Tearing down an interpreter that was inherited warm would touch, and so copy, every page of its parent: more than a second
    for a process that has nothing left to do.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def probe() -> str:
    """The most private isolation that works here, found by trying each in a child."""
    for isolation in ISOLATIONS[:-1] if LINUX else ():
        place = tempfile.mkdtemp(prefix="local-sagemaker-probe-")
        open(os.path.join(place, "seen"), "x").close()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                enter_namespaces(isolation, place)
                inner = os.fork()
                if inner == 0:
                    if "pid" in isolation:
                        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
                    os._exit(0 if os.path.exists("/opt/ml/seen") and os.path.exists("/proc/self/stat") else 1)
                code = exit_code(os.waitpid(inner, 0)[1])
            except OSError:
                code = 1
            finally:
                os._exit(code)
        works = os.waitpid(child, 0)[1] == 0
        shutil.rmtree(place, ignore_errors=True)
        if works:
            return isolation
    return "none"


def threads() -> int:
    """How many threads this process has (1 where /proc does not tell: there the caller's word is taken)."""
    if not LINUX:
        return 1
    return len(os.listdir("/proc/self/task"))


def preload(modules: Iterable[str]) -> dict[str, str]:
    """Import each module; what could not be imported, and why."""
    failed = {}
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a library raises at import, the job will meet it itself
            failed[name] = f"{type(error).__name__}: {error}"
    return failed


class Parent:
    """The loop of the preload parent."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.pending = b""
        self.containers: dict[str, int] = {}
        self.wakeup, self.waker = os.pipe()
        os.set_blocking(self.waker, False)
        os.set_blocking(self.wakeup, False)
        self.alive, self.held = os.pipe()  # children see its end close when this process ends

    def tell(self, **event: object) -> None:
        """Send one event to the server."""
        self.control.sendall(json.dumps(event).encode() + b"\n")

    def lines(self) -> list[Request]:
        """The requests that have arrived whole; an empty read means that the server is gone."""
        data = self.control.recv(1 << 16)
        if not data:
            sys.exit(0)
        *whole, self.pending = (self.pending + data).split(b"\n")
        return [json.loads(line) for line in whole]

    def serve(self) -> Request:
        """Until the server goes away. Returns a request in a child that is to run a module."""
        signal.set_wakeup_fd(self.waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            ready = set(select.select([self.control.fileno(), self.wakeup], [], [])[0])
            if self.wakeup in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.wakeup, 4096)
                self.reap()
            if self.control.fileno() in ready:
                for request in self.lines():
                    job = self.handle(request)
                    if job is not None:
                        return job

    def reap(self) -> None:
        """Tell of every container that has ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                for identifier, container in list(self.containers.items()):
                    if container == pid:
                        del self.containers[identifier]
                        self.tell(event="exited", id=identifier, code=exit_code(status))

    def handle(self, request: Request) -> Request | None:
        """Serve one request; returns it in the forked process that is to run the job."""
        if request["op"] == "signal":
            pid = self.containers.get(request["id"])
            if pid is not None:
                send(pid, signal.SIGTERM if request["name"] == "TERM" else signal.SIGUSR1)
            return None
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGUSR1})
            self.containers[request["id"]] = pid
            self.tell(event="started", id=request["id"], pid=pid)
            return None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in (self.wakeup, self.waker, self.held):
            os.close(descriptor)
        self.control.close()
        contain(request, self.alive, parent)
        return request


def main() -> None:
    """Serve; in a forked child, run its job."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    parent = Parent(socket.socket(fileno=int(sys.argv[1])))
    arrived: list[Request] = []
    while not arrived:
        arrived = parent.lines()
    settings = arrived[0]
    if LINUX:
        checked(libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0), "prctl")
    if os.getppid() != settings["parent"]:
        sys.exit(0)
    sys.path.insert(0, os.getcwd())
    failed = preload(settings["preload"])
    sys.path.remove(os.getcwd())
    isolation = probe() if settings["probe"] else None
    gc.collect()
    gc.freeze()
    parent.tell(event="ready", threads=threads(), failed=failed, isolation=isolation)
    job = parent.serve()
    try:
        become_job(job)
    except OSError as error:
        print(f"local SageMaker: cannot start the job: {error}", file=sys.stderr, flush=True)
        os._exit(126)
    if job["module"] is None:
        execute(job)
    run_module(job)


if __name__ == "__main__":
    main()
