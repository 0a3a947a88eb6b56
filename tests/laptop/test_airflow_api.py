from __future__ import annotations

from typing import Any

import httpx
import pytest

from include.laptop import airflow_api
from include.laptop.airflow_api import AirflowApi
from include.laptop.processes import StackError

BUSY = {"detail": {"reason": "Database error", "statement": "hidden"}}


class Airflow:
    """Gives these answers (status and JSON), one a request, and keeps what it was asked."""

    def __init__(self, *answers: tuple[int, Any]) -> None:
        self.answers, self.asked = list(answers), []

    def api(self) -> AirflowApi:
        def answer(request: httpx.Request) -> httpx.Response:
            if request.url.path == "/auth/token":
                return httpx.Response(201, json={"access_token": "token"})
            self.asked.append((request.method, request.url.path, request.content))
            status, text = self.answers.pop(0)
            return httpx.Response(status, json=text)

        return AirflowApi("http://airflow", "admin", "", transport=httpx.MockTransport(answer))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow_api, "_BUSY_WAITS", (0.0, 0.0))


def test_a_request_that_the_database_failed_is_made_again() -> None:
    airflow = Airflow((500, BUSY), (500, BUSY), (200, {"is_paused": False}))
    airflow.api().unpause("a")
    assert airflow.asked == [("PATCH", "/api/v2/dags/a", b'{"is_paused":false}')] * 3


def test_a_database_that_stays_busy_is_an_error_that_says_so() -> None:
    with pytest.raises(StackError, match=r"PATCH /dags/a: 500 .*Database error"):
        Airflow(*[(500, BUSY)] * 3).api().unpause("a")


def test_another_error_is_not_tried_again() -> None:
    for status in (500, 404, 503):
        airflow = Airflow((status, {"detail": "no such DAG"}))
        with pytest.raises(StackError, match=rf"PATCH /dags/a: {status} .*no such DAG"):
            airflow.api().unpause("a")
        assert len(airflow.asked) == 1


def test_a_run_that_was_made_before_its_answer_failed_is_not_made_twice() -> None:
    airflow = Airflow((500, BUSY), (409, {"detail": "the run exists"}))
    run = airflow.api().trigger("a", {})
    assert len(set(airflow.asked)) == 1
    assert run.encode() in airflow.asked[0][2]


def test_a_task_that_returned_nothing_has_no_xcom() -> None:
    assert Airflow((404, {})).api().xcom("a", "run", "task") is None
    assert Airflow((500, BUSY), (200, {"value": 3})).api().xcom("a", "run", "task") == 3
