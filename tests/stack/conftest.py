"""One whole local stack for these tests, in a folder of its own, with the connections that its Python processes open on record."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from include import domains
from include.laptop.demo import Demo
from include.laptop.live_days import Plan
from include.laptop.stack import Stack

# Python imports sitecustomize by itself; this one writes down every address outside this machine that a process turns to.
_RECORDER = """
import ipaddress, os, sys

def _outside(address):
    host = address[0] if isinstance(address, tuple) else address
    if not isinstance(host, (str, bytes)):
        return False
    host = host.decode() if isinstance(host, bytes) else host
    if host in ("", "localhost", "ip6-localhost") or "/" in host or host.startswith("\\0"):
        return False
    try:
        return not ipaddress.ip_address(host.partition("%")[0]).is_loopback and not ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host != os.uname().nodename

def _record(event, arguments):
    if event in ("socket.connect", "socket.sendto") and _outside(arguments[1]):
        what = arguments[1]
    elif event == "socket.getaddrinfo" and arguments[0] and _outside(arguments[0]):
        what = arguments[0]
    else:
        return
    with open(os.environ["CONNECTION_RECORD"], "a") as file:
        file.write(f"{event} {what!r} {sys.argv}\\n")

if "CONNECTION_RECORD" in os.environ:
    sys.addaudithook(_record)
    with open(os.environ["CONNECTION_RECORD"] + ".watched", "a") as file:
        file.write(" ".join(sys.orig_argv) + "\\n")
"""


@pytest.fixture(scope="session")
def connection_record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("connections") / "record.txt"


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, connection_record: Path) -> Iterator[Stack]:
    recorder = tmp_path_factory.mktemp("recorder")
    (recorder / "sitecustomize.py").write_text(_RECORDER)
    home = tmp_path_factory.mktemp("stack")
    stack = Stack(home, extra={"PYTHONPATH": str(recorder), "CONNECTION_RECORD": str(connection_record)})
    try:
        yield stack
    finally:
        stack.down()


@pytest.fixture(scope="session")
def main_job(stack: Stack) -> Demo:
    """The main job and the days of traffic after it until the alarm, once: what `make demo` does, on less history."""
    os.environ.pop("AIRFLOW_HOME", None)
    # with less history there are fewer frauds, and the gate rightly doubts that reviewing pays
    live = Plan(days=16, change="staged_collisions", change_after=1, rollout_days=215)
    demo = Demo(stack, domains.get("auto_claims"), history={"days": 75, "events": 15_000}, live=live, scenario=None)
    demo.summary = demo.run()
    return demo
