"""What ``make backfill`` prints of the ageing matrix, whichever run of ``evaluate_history`` has measured it."""

from __future__ import annotations

import io
from datetime import date
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from include import domains
from include.laptop import airflow_api
from include.laptop import backfill as module
from include.laptop.airflow_api import AirflowApi, TaskState
from include.laptop.backfill import Backfill
from include.laptop.processes import StackError

HISTORY = "card_payments.evaluate_history"
FOUND = {"sentence": "Retraining would have paid.", "reports": {"report": "s3://bucket/report.html"}}


class Airflow:
    """Runs of evaluate_history, newest first, with what each task ``history`` returned."""

    def __init__(self, runs: dict[str, dict[str, Any] | None], state: str = "success") -> None:
        self._runs, self._state = runs, state
        self.followed: list[str] = []

    def runs(self, _: str) -> list[dict[str, Any]]:
        return [{"dag_run_id": run} for run in self._runs]

    def wait_for_new_run(self, _: str, known: set[str], __: float) -> str:
        new = [run for run in self._runs if run not in known]
        if not new:
            raise StackError("not triggered")
        return new[0]

    def follow(self, _: str, run: str, *__: object) -> str:
        self.followed.append(run)
        return self._state

    def tasks(self, _: str, __: str) -> list[TaskState]:
        return [TaskState("list_models", "success", 1.0, 1), TaskState("history", "failed", 1.0, 3)]

    def log(self, _: str, __: str, task: str, try_number: int) -> str:
        return f"try {try_number} of {task}: refused: no whole period"

    def xcom(self, _: str, run: str, task: str) -> dict[str, Any] | None:
        assert task == "history"
        return self._runs[run]


def shown(api: Airflow, before: set[str]) -> str:
    stack: Any = SimpleNamespace(browser_url=lambda service: f"http://{service}")
    console = Console(record=True, width=200, file=io.StringIO())
    backfill = Backfill(stack, domains.get("card_payments"), date(2026, 3, 4), date(2026, 3, 25), console=console)
    backfill.api, backfill.dag_id = api, "card_payments.train_model"  # type: ignore[assignment]
    backfill._show([], HISTORY, before)
    return console.export_text()


def test_a_later_run_that_found_nothing_new_hides_nothing() -> None:
    api = Airflow({"third": None, "second": FOUND, "first": {**FOUND, "sentence": "of long ago"}})
    text = shown(api, {"first"})
    assert text.split("\n")[:2] == ["Retraining would have paid.", "http://ministack/bucket/report.html"]
    assert api.followed == ["second", "third"]


def test_no_run_or_none_that_measured_says_that_the_matrix_stands() -> None:
    assert "No new model: the ageing matrix stands." in shown(Airflow({"first": FOUND}), {"first"})
    assert "No new model: the ageing matrix stands." in shown(Airflow({"second": None, "first": FOUND}), {"first"})


def test_too_few_models_say_so_and_a_failed_run_is_an_error() -> None:
    assert "too few models" in shown(Airflow({"first": {**FOUND, "sentence": None}}), set())
    with pytest.raises(
        StackError, match=f"{HISTORY} failed: http://airflow/dags/{HISTORY}/runs/first\ntry 3 of history: refused: no whole period"
    ):
        shown(Airflow({"first": None}, "failed"), set())


def test_days_that_ran_by_the_schedule_are_no_backfill(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    api = SimpleNamespace(wait_for_dags=lambda _: None, unpause=calls.append, runs=lambda _: [])
    monkeypatch.setattr(module, "AirflowApi", lambda *_: api)
    monkeypatch.setattr(Backfill, "_create", lambda _: {"id": 1})
    monkeypatch.setattr(Backfill, "_follow", lambda *_: [])
    stack: Any = SimpleNamespace(url=str, file=SimpleNamespace(passwords={"admin": ""}))
    with pytest.raises(StackError, match="AGAIN=1"):
        Backfill(stack, domains.get("card_payments"), date(2026, 3, 4), date(2026, 3, 25)).run()
    assert calls == ["card_payments.train_model", HISTORY]


def test_a_busy_database_is_tried_again_until_what_it_half_made_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [StackError("503 Database is locked. …"), StackError("409 There is already a running backfill for dag …"), {"id": 2}]

    def call(self: AirflowApi, method: str, path: str, json: dict[str, Any]) -> dict[str, Any]:
        answer = answers.pop(0)
        if isinstance(answer, StackError):
            raise answer
        return answer

    monkeypatch.setattr(airflow_api, "_BUSY_WAITS", (0.0,))
    monkeypatch.setattr(AirflowApi, "call", call)
    api = AirflowApi.__new__(AirflowApi)  # without a server there is no login
    assert api.create_backfill({}) == {"id": 2}
    answers.append(StackError("409 There is already a running backfill for dag …"))
    with pytest.raises(StackError, match="409"):  # somebody else's
        api.create_backfill({})
