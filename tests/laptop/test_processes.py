"""The stack's processes outlive the command that starts them, and only those are ever stopped."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from include.laptop.processes import ProcessTable, Service, StackError, clean_environment

_CHILD = "[sys.executable, '-c', 'import time; time.sleep(60)']"
SLEEPER = [sys.executable, "-c", f"import subprocess, sys, time; subprocess.Popen({_CHILD}); time.sleep(60)"]


def service(command: list[str], ready: bool = True) -> Service:
    return Service("sleeper", command, clean_environment(), lambda: ready)


def test_a_service_starts_once_and_stops_with_its_children(tmp_path: Path) -> None:
    table = ProcessTable(tmp_path, tmp_path)
    table.start(service(SLEEPER))
    process = table.process("sleeper")
    assert process is not None
    table.start(service(SLEEPER))
    assert table.process("sleeper") == process
    deadline = time.monotonic() + 20
    while not process.children() and time.monotonic() < deadline:
        time.sleep(0.05)
    family = [process, *process.children(recursive=True)]
    assert len(family) == 2
    table.stop("sleeper")
    assert table.process("sleeper") is None
    assert table.names() == []
    assert not [member for member in family if member.is_running() and member.status() != psutil.STATUS_ZOMBIE]


def test_a_recycled_pid_is_never_taken_for_the_service(tmp_path: Path) -> None:
    table = ProcessTable(tmp_path, tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "sleeper.json").write_text(json.dumps({"pid": os.getpid(), "created": 1.0}))
    assert table.process("sleeper") is None
    table.stop("sleeper")
    assert psutil.pid_exists(os.getpid())


def test_a_service_that_ends_says_so_with_the_end_of_its_log(tmp_path: Path) -> None:
    table = ProcessTable(tmp_path, tmp_path)
    broken = service([sys.executable, "-c", "print('no such port'); raise SystemExit(3)"], ready=False)
    table.start(broken)
    with pytest.raises(StackError, match="sleeper ended") as error:
        table.wait_until_ready(broken, 30)
    assert "no such port" in str(error.value)


def test_what_steers_aws_or_airflow_is_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    assert not [name for name in clean_environment() if name.startswith(("AWS", "AIRFLOW"))]
