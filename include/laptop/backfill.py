"""A backfill of training on the local stack, followed to its end, and what it says: when retraining would have paid.

What ``airflow backfill create`` makes, through Airflow's API: one run of ``train_model`` for each instant of its schedule between two days.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from include.laptop.airflow_api import AirflowApi
from include.laptop.processes import StackError
from include.laptop.stack import Stack
from include.lifecycle.domain import Domain

_POLL_SECONDS = 1.0
_QUEUED_WITHIN = 60
_RUN_SECONDS = 3600


@dataclass
class Backfill:
    """``again``: run what has run before, too; finished jobs are adopted unless their code or data changed."""

    stack: Stack
    domain: Domain
    first_day: date
    last_day: date
    at_once: int = 2
    again: bool = False
    console: Console = field(default_factory=Console)

    def run(self) -> list[dict[str, Any]]:
        """Makes the backfill, follows it, and returns its runs in the order of their instants. StackError where one failed."""
        self.api = AirflowApi(self.stack.url("airflow"), "admin", self.stack.file.passwords["admin"])
        self.dag_id = f"{self.domain.name}.train_model"
        history = f"{self.domain.name}.evaluate_history"
        self.api.wait_for_dags([self.dag_id, history])
        for dag_id in (self.dag_id, history):
            self.api.unpause(dag_id)
        before = {run["dag_run_id"] for run in self.api.runs(history)}
        backfill = self._create()
        runs = self._follow(backfill)
        if not runs:
            raise StackError(f"{self.dag_id} has run by its schedule on these days: run them again as a backfill with --again (AGAIN=1)")
        if failed := [run for run in runs if run["state"] != "success"]:
            pages = "\n".join(f"{self.stack.browser_url('airflow')}/dags/{self.dag_id}/runs/{run['dag_run_id']}" for run in failed)
            raise StackError(f"{len(failed)} of {len(runs)} runs failed:\n{pages}")
        self._show(runs, history, before)
        return runs

    def _create(self) -> dict[str, Any]:
        wanted = {
            "dag_id": self.dag_id,
            "from_date": f"{self.first_day}T00:00:00Z",
            "to_date": f"{self.last_day}T23:59:59Z",
            "max_active_runs": self.at_once,
            "reprocess_behavior": "completed" if self.again else "failed",
        }
        return self.api.create_backfill(wanted)

    def _follow(self, backfill: dict[str, Any]) -> list[dict[str, Any]]:
        """Until Airflow says that the backfill is complete."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        deadline, ended = time.monotonic() + _RUN_SECONDS, 0
        with Progress(*columns, console=self.console) as progress:
            bar = progress.add_task(f"{self.dag_id}, {self.first_day} to {self.last_day}", total=None)
            while True:
                runs = [run for run in self.api.runs(self.dag_id) if self._is_of(run)]
                done = [run for run in runs if run["state"] in {"success", "failed"}]
                progress.update(bar, total=len(runs) or None, completed=len(done))
                state = self.api.call("GET", f"/backfills/{backfill['id']}")
                if state["completed_at"] and len(done) == len(runs):
                    return sorted(runs, key=lambda run: run["logical_date"])
                if len(done) > ended:
                    deadline, ended = time.monotonic() + _RUN_SECONDS, len(done)
                if time.monotonic() > deadline:
                    page = f"{self.stack.browser_url('airflow')}/dags/{self.dag_id}/runs"
                    raise StackError(f"no run of the backfill has ended within {_RUN_SECONDS} s; Airflow goes on with it: see {page}")
                time.sleep(_POLL_SECONDS)

    def _is_of(self, run: dict[str, Any]) -> bool:
        if run["run_type"] != "backfill" or not run["logical_date"]:
            return False
        return self.first_day <= datetime.fromisoformat(run["logical_date"]).date() <= self.last_day

    def _show(self, runs: list[dict[str, Any]], history: str, before: set[str]) -> None:
        """What the models did on the weeks after, as soon as ``evaluate_history`` has measured it."""
        for run in runs:
            evaluation = self.api.xcom(self.dag_id, run["dag_run_id"], "evaluate")
            metric = evaluation["metrics"]["average_precision"] if evaluation else None
            shown = f"average precision {metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})" if metric else "not evaluated"
            self.console.print(f"  as of {run['logical_date'][:16]}  {shown}", highlight=False)
        try:
            self.api.wait_for_new_run(history, before, _QUEUED_WITHIN)
        except StackError:
            found = None
        else:
            found = self._measured(history, before)
        if found is None:
            self.console.print("No new model: the ageing matrix stands.")
            return
        self.console.print(found["sentence"] or "There are too few models and periods to tell whether it would have paid.", highlight=False)
        if found["reports"]:
            page = found["reports"]["report"].replace("s3://", f"{self.stack.browser_url('ministack')}/")
            self.console.print(page, soft_wrap=True)

    def _measured(self, history: str, before: set[str]) -> dict[str, Any] | None:
        """What the new runs of ``evaluate_history`` found: one measures, those that a later announcement queued find nothing new."""
        found: dict[str, Any] | None = None
        seen = set(before)
        while new := [run["dag_run_id"] for run in reversed(self.api.runs(history)) if run["dag_run_id"] not in seen]:
            for run_id in new:
                if self.api.follow(history, run_id, _RUN_SECONDS, lambda _: None) != "success":
                    failed = [task for task in self.api.tasks(history, run_id) if task.state == "failed"]
                    tails = [self.api.log(history, run_id, task.task_id, task.try_number)[-3000:] for task in failed]
                    page = f"{self.stack.browser_url('airflow')}/dags/{history}/runs/{run_id}"
                    raise StackError("\n".join([f"{history} failed: {page}", *tails]))
                found = self.api.xcom(history, run_id, "history") or found
            seen.update(new)
        return found
