from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing

import httpx
import pytest

from include.laptop import airflow_api
from include.laptop.airflow_api import AirflowApi
from include.laptop.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

DAG = "auto_claims.evaluate_history"
LOCKED_SECONDS = 8
"""Longer than Python lets SQLite wait of its own accord."""


def test_another_transaction_makes_airflow_slow_not_wrong(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.up()
    api = AirflowApi(stack.url("airflow"), "admin", stack.file.passwords["admin"])
    api.wait_for_dags([DAG])
    monkeypatch.setattr(airflow_api, "_BUSY_WAITS", ())  # the first answer counts
    with closing(sqlite3.connect(stack.home / "airflow" / "airflow.db", timeout=60, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(LOCKED_SECONDS, other.execute, ["ROLLBACK"])
        release.start()
        started = time.monotonic()
        api.unpause(DAG)
        assert time.monotonic() - started > LOCKED_SECONDS - 1, "the request did not wait: the transaction locked nothing"
        release.join()


def test_tasks_and_persons_are_answered_by_different_processes(stack: Stack) -> None:
    """In one process a person's request would block the loop that a task's request needs to end its transaction."""
    stack.up()
    answers = {service: "healthy" in httpx.get(f"{stack.url(service)}/execution/health").text for service in ("airflow", "execution-api")}
    assert answers == {"airflow": False, "execution-api": True}
