"""Airflow's public REST API, as far as the demo needs it: trigger a DAG, follow its tasks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from include.laptop.processes import StackError

_PAGE = 100
_BUSY_WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds between tries where SQLite, the laptop's database of Airflow, is busy."""
_BUSY_SECONDS = 600
_ANSWER_SECONDS = 120
"""Within which Airflow answers: longer than SQLite itself waits for a lock, see ``stack.SQLITE_LOCK_SECONDS``."""
_DATABASE_ERROR = "Database error"
"""Airflow's reason where its database failed a request. The request's session was rolled back then."""
_LOCKED, _RUNNING = "Database is locked", "already a running backfill"
"""What Airflow says where its SQLite was busy when a backfill was to be made, and while one runs."""


@dataclass(frozen=True)
class TaskState:
    task_id: str
    state: str
    seconds: float | None
    try_number: int


class AirflowApi:
    """``url``: the api-server's. Logs in with a user's name and password. ``transport``: another way to it, such as a test's."""

    def __init__(self, url: str, user: str, password: str, transport: httpx.BaseTransport | None = None) -> None:
        self._client = httpx.Client(base_url=url, timeout=_ANSWER_SECONDS, transport=transport)
        answer = self._client.post("/auth/token", json={"username": user, "password": password})
        if answer.is_error:
            raise StackError(f"Airflow at {url} refused the login of {user}: {answer.text}")
        self._client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def call(self, method: str, path: str, **kwargs: Any) -> Any:
        """The answer to a request of Airflow's API v2, as JSON. StackError with its text where it is an error."""
        return self._answer(method, path, **kwargs).json()

    def _answer(self, method: str, path: str, accepted: frozenset[int] = frozenset(), **kwargs: Any) -> httpx.Response:
        """Tries again where the database failed the request, which then did nothing. StackError where the answer is an error that is not
        ``accepted``."""
        for wait in (*_BUSY_WAITS, None):
            answer = self._client.request(method, f"/api/v2{path}", **kwargs)
            if not answer.is_error or answer.status_code in accepted:
                return answer
            if wait is None or answer.status_code != httpx.codes.INTERNAL_SERVER_ERROR or _DATABASE_ERROR not in answer.text:
                break
            time.sleep(wait)
        raise StackError(f"Airflow: {method} {path}: {answer.status_code} {answer.text}")

    def create_backfill(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Makes the backfill; tries again where SQLite refuses a writer that the scheduler overtakes. Then nothing was made, or a backfill without
        all of its runs, which is waited for. StackError where Airflow refuses it for another reason, such as somebody else's that runs."""
        deadline, refused = time.monotonic() + _BUSY_SECONDS, False
        while True:
            try:
                made: dict[str, Any] = self.call("POST", "/backfills", json=wanted)
                return made
            except StackError as error:
                refused = refused or _LOCKED in str(error)
                if not refused or not (_LOCKED in str(error) or _RUNNING in str(error)):
                    raise
                if time.monotonic() > deadline:
                    raise StackError(f"Airflow's SQLite was busy for {_BUSY_SECONDS} s: run the command again") from error
                time.sleep(_BUSY_WAITS[0])

    def wait_for_dags(self, dag_ids: list[str], seconds: float = 120) -> None:
        """Waits until the DAG processor has parsed all of them."""
        deadline = time.monotonic() + seconds
        while True:
            known = {dag["dag_id"] for dag in self.call("GET", "/dags", params={"limit": 500})["dags"]}
            if known.issuperset(dag_ids):
                return
            if time.monotonic() > deadline:
                errors = self.call("GET", "/importErrors")["import_errors"]
                raise StackError(f"Airflow knows no DAG {sorted(set(dag_ids) - known)}; import errors: {errors}")
            time.sleep(0.5)

    def unpause(self, dag_id: str) -> None:
        self.call("PATCH", f"/dags/{dag_id}", json={"is_paused": False})

    def trigger(self, dag_id: str, params: dict[str, Any]) -> str:
        """Starts a run with these parameters; returns its run id. The id is ours: a request that is made again starts it once."""
        run_id = f"manual__{uuid.uuid4()}"
        request = {"logical_date": None, "conf": params, "dag_run_id": run_id}
        self._answer("POST", f"/dags/{dag_id}/dagRuns", frozenset({httpx.codes.CONFLICT}), json=request)
        return run_id

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """The DAG's runs, newest first."""
        found: list[dict[str, Any]] = []
        while True:
            page = {"order_by": "-run_after", "limit": _PAGE, "offset": len(found)}
            runs = self.call("GET", f"/dags/{dag_id}/dagRuns", params=page)["dag_runs"]
            found += runs
            if len(runs) < _PAGE:
                return found

    def wait_for_new_run(self, dag_id: str, known: set[str], seconds: float = 60) -> str:
        """Waits for a run that is not among ``known`` run ids, such as one that an asset triggers."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for run in self.runs(dag_id):
                if run["dag_run_id"] not in known:
                    return str(run["dag_run_id"])
            time.sleep(0.3)
        raise StackError(f"{dag_id} was not triggered within {seconds:.0f} s")

    def tasks(self, dag_id: str, run_id: str) -> list[TaskState]:
        found = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", params={"limit": 200})["task_instances"]
        return [TaskState(task["task_id"], task["state"] or "none", task["duration"], task["try_number"]) for task in found]

    def follow(self, dag_id: str, run_id: str, seconds: float, on_change: Callable[[TaskState], None]) -> str:
        """Calls ``on_change`` for each change of a task's state until the run ends; returns the run's state."""
        deadline = time.monotonic() + seconds
        seen: dict[str, str] = {}
        while True:
            state = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"]
            for task in self.tasks(dag_id, run_id):
                if seen.get(task.task_id) != task.state and task.state != "none":
                    seen[task.task_id] = task.state
                    on_change(task)
            if state in {"success", "failed"}:
                return str(state)
            if time.monotonic() > deadline:
                raise StackError(f"{dag_id}, run {run_id}, is still {state} after {seconds:.0f} s; see Airflow's page")
            time.sleep(0.3)

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """What a task returned; None where it returned nothing."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        answer = self._answer("GET", path, frozenset({httpx.codes.NOT_FOUND}), params={"deserialize": True})
        return None if answer.status_code == httpx.codes.NOT_FOUND else answer.json()["value"]

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int) -> str:
        """The text of a task's log."""
        content = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}")["content"]
        lines = []
        for entry in content:
            lines.append(str(entry.get("event", entry)))
            lines += [f"  {error['exc_type']}: {error['exc_value']}" for error in entry.get("error_detail") or ()]
        return "\n".join(lines)
