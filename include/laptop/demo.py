"""The main job on the local stack: ingest → train → deploy → score, with each task on the terminal as it goes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as TextTable

from include import domains
from include.laptop.airflow_api import AirflowApi, TaskState
from include.laptop.live_days import LiveDays, Plan
from include.laptop.processes import StackError
from include.laptop.rollout_days import GOOD_END, RolloutDays, Scenario
from include.laptop.stack import Stack
from include.lifecycle.as_of import iso
from include.lifecycle.domain import LABELS_TABLE, Domain
from include.lifecycle.features import feature_names
from include.settings import ROOT
from include.stores.layout import Layout
from include.stores.objects import ObjectStore
from include.stores.partitions import Partitions
from include.stores.watermark import Watermark

FIRST_DAY = date(2026, 1, 1)
"""The simulated history is the same on every machine and every day it is run. How much there is, each domain's simulator says (HISTORY)."""
SEED = 7
SCORED_EVENTS = 300
RUN_SECONDS = 1200
STAGES = (
    "ingest_data",
    "train_model",
    "evaluate_history",
    "deploy_model",
    "score_batch",
    "monitor_model",
    "retrain_and_rollout",
    "steer_rollout",
)
SHARED = ("receive_alarms",)
"""The DAGs that serve all domains."""
SHOWN_METRICS = (
    "average_precision",
    "roc_auc",
    "precision_at_capacity",
    "recall_at_capacity",
    "card_precision_at_capacity",
    "savings",
    "expected_calibration_error",
)
_SIGNS = {
    "success": "[green]✓[/]",
    "failed": "[red]✗[/]",
    "skipped": "[dim]–[/]",
    "upstream_failed": "[red]–[/]",
    "up_for_retry": "[yellow]↻[/]",
}


@dataclass
class Demo:
    """One walk through the main job, and with ``live`` on through days of traffic in which fraud changes.

    ``landing``: a folder with the user's own files, ``<table>.csv`` or ``.parquet`` or several ``<table>_….csv``; None: simulated history, of
    ``history`` (``days``, ``events``) or as much as the domain's simulator says. ``year``: for sources whose dates carry none. ``scenario``: of the
    rollout that follows the alarm; None: the walk ends with the alarm."""

    stack: Stack
    domain: Domain
    landing: Path | None = None
    year: int | None = None
    history: dict[str, int] | None = None
    live: Plan | None = None
    scenario: Scenario | None = "better_challenger"
    console: Console = field(default_factory=Console)
    seconds: dict[str, float] = field(default_factory=dict)
    simulated: tempfile.TemporaryDirectory[str] | None = None

    def run(self) -> dict[str, Any]:
        """Runs it all and returns the summary (see README). StackError where a run fails, and on a stack that has lived through a rollout's story
        already."""
        self.up()
        self.refuse_to_live_twice()
        ingested, as_of = self.ingest()
        tables = ingested["tables"]
        deploys = {run["dag_run_id"] for run in self.api.runs(f"{self.domain.name}.deploy_model")}
        evaluation, registered = self.train(as_of)

        with self.stage("deploy", f"{self.domain.name}.deploy_model, triggered by the approval"):
            deployed = self.follow("deploy_model", self.api.wait_for_new_run(f"{self.domain.name}.deploy_model", deploys))
        plan = self.api.xcom(f"{self.domain.name}.deploy_model", deployed, "plan")

        with self.stage("score", f"Scoring events through the endpoint {plan['endpoint']}"):
            scored = self._score(plan["endpoint"])

        *_, day, _ = Partitions(self.objects, Layout(self.domain.name).features)  # of the last day not everything need have been reported
        with self.stage("review", f"{self.domain.name}.score_batch, the review queue of {day}"):
            batch = self.follow("score_batch", self.api.trigger(f"{self.domain.name}.score_batch", {"first_day": day.isoformat()}))
        queue = self.api.xcom(f"{self.domain.name}.score_batch", batch, "score")

        summary = {
            "domain": self.domain.name,
            "rows": {count: sum(table[count] for table in tables.values()) for count in ("landed", "curated", "quarantined")},
            "tables": tables,
            "as_of": iso(as_of),
            "metrics": evaluation["metrics"],
            "model_package": registered["model_package"],
            "endpoint": plan["endpoint"],
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
            "invoke_ms": scored,
            "report": self.stack_url(evaluation["reports"]["report"]),
            "review_queue": self.stack_url(queue["reports"]["queue"]),
            "airflow": self.stack.browser_url("airflow"),
        }
        if self.live and self.simulated and self.landing is None:
            first = as_of.date()
            self.days = LiveDays(self, self.live, Path(self.simulated.name), first)
            summary["drift"] = self.days.run()
            if self.rolls_out and summary["drift"]["found"]:
                summary["rollout"] = RolloutDays(self.days, self.rolls_out).run()
            summary["seconds"] = {name: round(value, 1) for name, value in self.seconds.items()}
        self._show(summary)
        return summary

    @property
    def rolls_out(self) -> Scenario | None:
        """The scenario of the rollout that the story goes on to; None where it ends before."""
        return self.scenario if self.live and self.live.rollout_days and self.landing is None else None

    def refuse_to_live_twice(self) -> None:
        """StackError where days after the history have passed on this stack before. The data's time does not go back: what waits for it to move would
        wait for ever, and the alarm's run and the rollout that are found would be the old ones."""
        until = Watermark(self.objects, Layout(self.domain.name)).get()
        if self.rolls_out and until and until.date() > self.last_day + timedelta(days=1):
            raise StackError(
                f"this stack has lived through days of the story already, until {until:%d %B %Y}, and its time does not go back:"
                " `make clean` forgets every stack, then `make demo` begins anew"
            )

    def up(self) -> None:
        """The stack, with the domain's DAGs unpaused."""
        with self.stage("stack", "Bringing up MiniStack, the local SageMaker and Airflow"):
            self.stack.up()
            self.api = AirflowApi(self.stack.url("airflow"), "admin", self.stack.file.passwords["admin"])
            stages = [*(f"{self.domain.name}.{stage}" for stage in STAGES), *SHARED]
            self.api.wait_for_dags(stages)
            for dag_id in stages:
                self.api.unpause(dag_id)
        self.objects = ObjectStore(self.stack.settings.bucket, client=self.stack.client("s3"))

    def ingest(self) -> tuple[dict[str, Any], datetime]:
        """Lands the files and ingests them: the job's result, and the instant as of which to train."""
        with self.stage("land", "Landing files"):
            delivered = self._land()
        with self.stage("ingest", f"{self.domain.name}.ingest_data, deliveries of {delivered}"):
            params = {"first_day": delivered.isoformat(), "last_day": delivered.isoformat(), "year": self.year}
            run = self.follow("ingest_data", self.api.trigger(f"{self.domain.name}.ingest_data", params))
        ingested = self.api.xcom(f"{self.domain.name}.ingest_data", run, "ingest")
        return ingested, self._as_of(delivered, ingested["event_days"])

    def train(self, as_of: datetime) -> tuple[dict[str, Any], dict[str, Any]]:
        """Trains and releases a model: what ``evaluate`` and ``register`` say of it. StackError where the gate refuses it."""
        with self.stage("train", f"{self.domain.name}.train_model as of {iso(as_of)}"):
            params = {"as_of": iso(as_of), "approval": "automatic"}
            trained = self.follow("train_model", self.api.trigger(f"{self.domain.name}.train_model", params))
        evaluation, registered = (self.api.xcom(f"{self.domain.name}.train_model", trained, task) for task in ("evaluate", "register"))
        if not registered["gate_passed"]:
            raise StackError("the gate refused the model, so nothing was deployed:\n- " + "\n- ".join(evaluation["gate"]["reasons"]))
        return evaluation, registered

    def stack_url(self, uri: str) -> str:
        return uri.replace("s3://", f"{self.stack.browser_url('ministack')}/")

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """Says what is done now, and how long it took."""
        self.console.print(f"[bold]{title}[/] …", soft_wrap=True)
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started
        self.console.print(f"  [dim]{self.seconds[name]:.1f} s[/]")

    def _as_of(self, delivered: date, event_days: list[str] | None) -> datetime:
        """The midnight after the delivery; for a history that ended long ago, the one by which its last label has matured."""
        if not event_days:
            raise StackError(f"no event of {self.domain.name} was curated: see the reports of ingest_data")
        matured = date.fromisoformat(event_days[1]) + self.domain.label.maturity
        return datetime.combine(min(delivered, matured) + timedelta(days=1), datetime.min.time(), tzinfo=UTC)

    def _land(self) -> date:
        """Uploads the files under their delivery day, and returns the last one."""
        if self.landing is not None:
            return self._land_own(self.landing)
        layout = Layout(self.domain.name)
        self.simulated = tempfile.TemporaryDirectory(prefix="landing-")
        last = self._simulate(Path(self.simulated.name))
        delivered = FIRST_DAY
        for path in sorted(Path(self.simulated.name).rglob("*.*")):
            table, day = path.parent.parent.name, date.fromisoformat(path.parent.name.removeprefix("dt="))
            if day <= last:
                self._upload(path, layout.landing(table, day, path.name))
                delivered = max(delivered, day)
        return delivered

    @property
    def size(self) -> dict[str, int]:
        """Of the simulated history: ``days`` and ``events``."""
        size: dict[str, int] = self.history or domains.part(self.domain.name, "simulator").HISTORY
        return size

    @property
    def last_day(self) -> date:
        """Of the simulated history."""
        return FIRST_DAY + timedelta(days=self.size["days"] - 1)

    def _simulate(self, folder: Path) -> date:
        """The files of the history, and of the live days where there are to be some; returns the last day of the history."""
        size, last = self.size, self.last_day
        live = self.live.days + self.live.rollout_days if self.live else 0
        events = round(size["events"] * (size["days"] + live) / size["days"])
        command = ["simulate", "--domain", self.domain.name, "--days", size["days"] + live, "--events", events]
        command += ["--first-day", FIRST_DAY, "--seed", SEED, "--out", folder, "--history-until", last]
        if self.live:
            command += ["--change", self.live.change, "--change-day", self.live.change_day(last + timedelta(days=1))]
        simulated = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "include.jobs", *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if simulated.returncode:
            raise StackError(f"simulating {self.domain.name} failed:\n{simulated.stderr}")
        return last

    def _land_own(self, landing: Path) -> date:
        layout = Layout(self.domain.name)
        delivered = date(self.year, 12, 31) if self.year else datetime.now(UTC).date() - timedelta(days=1)
        for table in self.domain.landing_tables:
            named = re.compile(rf"{table.name}(_.*)?\.(csv|parquet)", re.IGNORECASE)
            files = sorted(path for path in landing.iterdir() if path.is_file() and named.fullmatch(path.name))
            for path in files:
                self._upload(path, layout.landing(table.name, delivered, path.name))
            if files or table.name == LABELS_TABLE:
                continue
            if table.required:
                raise StackError(f"{landing} has no {table.name}.csv or {table.name}.parquet: {self.domain.name} needs one")
            self.console.print(f"  [dim]no {table.name} file: what the features take from it is unknown[/]")
        return delivered

    def _upload(self, path: Path, key: str) -> None:
        uri = self.objects.upload(path, key)
        self.console.print(f"  {uri}  [dim]{path.stat().st_size:,} bytes[/]", soft_wrap=True)

    def follow(self, stage: str, run_id: str, quietly: bool = False) -> str:
        """Shows each task of the run as it goes (``quietly``: only what fails), and returns the run's id. StackError where the run fails."""
        dag_id = f"{self.domain.name}.{stage}"
        failed: list[TaskState] = []

        def show(task: TaskState) -> None:
            if task.state in _SIGNS and (task.state == "failed" or not quietly):
                took = f"{task.seconds:.1f} s" if task.seconds else ""
                self.console.print(
                    f"  {_SIGNS[task.state]} {task.task_id:24} [dim]{task.state if task.state != 'success' else ''} {took}[/]"
                )
            if task.state == "failed":
                failed.append(task)

        if self.api.follow(dag_id, run_id, RUN_SECONDS, show) != "success":
            tails = [self.api.log(dag_id, run_id, task.task_id, task.try_number)[-3000:] for task in failed[:1]]
            page = f"{self.stack.browser_url('airflow')}/dags/{dag_id}/runs/{run_id}"
            raise StackError("\n".join([f"{dag_id} failed in {', '.join(task.task_id for task in failed)}: {page}", *tails]))
        return run_id

    def _score(self, endpoint: str) -> dict[str, float]:
        """Invokes the endpoint once an event, one after the other, with the latest events' features; milliseconds as a boto3 caller sees them."""
        features = Partitions(self.objects, Layout(self.domain.name).features)
        rows: list[str] = []
        for day in reversed(features.versions()):
            table = features.read(day)
            if table is not None:
                names = feature_names(self.domain, table.column_names)
                values = table.select(names).to_pylist()
                rows += [",".join("" if row[name] is None else repr(row[name]) for name in names) for row in values]
            if len(rows) >= SCORED_EVENTS:
                break
        runtime: Any = self.stack.client("sagemaker-runtime")
        took = []
        for row in rows[:SCORED_EVENTS]:
            started = time.perf_counter()
            answer = runtime.invoke_endpoint(EndpointName=endpoint, ContentType="text/csv", Accept="text/csv", Body=row.encode())
            float(answer["Body"].read())
            took.append(1000 * (time.perf_counter() - started))
        took.sort()
        self.console.print(f"  {len(took)} events scored")
        return {"p50": round(took[len(took) // 2], 2), "p99": round(took[int(len(took) * 0.99)], 2)}

    def _show(self, summary: dict[str, Any]) -> None:
        table = TextTable(title=f"\n{self.domain.title}: live", show_header=False, title_justify="left")
        rows = summary["rows"]
        table.add_row("rows", f"{rows['landed']:,} landed = {rows['curated']:,} curated + {rows['quarantined']:,} quarantined")
        for name in SHOWN_METRICS:
            if name not in summary["metrics"]:
                continue
            metric = summary["metrics"][name]
            shown = ["undefined" if metric[bound] is None else f"{metric[bound]:.3f}" for bound in ("value", "low", "high")]
            table.add_row(name.replace("_", " "), f"{shown[0]}  [dim]({shown[1]} to {shown[2]})[/]")
        table.add_row("one score", f"{summary['invoke_ms']['p50']} ms  [dim](p99 {summary['invoke_ms']['p99']} ms)[/]")
        table.add_row("all of it", f"{sum(self.seconds.values()):.0f} s")
        if drift := summary.get("drift"):
            changed = f"{drift['change']} from {drift['change_day']} on"
            found = f"found on {drift['found']}, {drift['days_until_found']} days later" if drift["found"] else "[red]not found[/]"
            table.add_row(
                "fraud changed", f"{changed}: {found}" + (f". The monitor says: since {drift['began']}" if drift["began"] else "")
            )
        if rollout := summary.get("rollout"):
            add_rollout(table, rollout)
        self.console.print(table)
        for name, value in (
            ("model package", summary["model_package"]),
            ("endpoint", summary["endpoint"]),
            ("evaluation", summary["report"]),
            ("review queue", summary["review_queue"]),
            *([("drift report", summary["drift"]["report"])] if "drift" in summary else []),
            *([("rollout", summary["rollout"]["page"])] if summary.get("rollout") else []),
            ("Airflow", f"{summary['airflow']}  {self.stack.login}"),
        ):
            self.console.print(f"{name:14} {value}", soft_wrap=True, highlight=False)


def add_rollout(table: TextTable, rollout: dict[str, Any]) -> None:
    good = rollout["stage"] == "promoted"
    table.add_row("rollout", f"[{'green' if good else 'yellow'}]{rollout['stage']}[/]: {rollout['why']}")
    if rollout["extra_cost"] is not None:
        events = f"the {rollout['decided']:,} events" if rollout["decided"] is not None else "the events"
        table.add_row(
            "the ramp cost",
            f"{_more(rollout['extra_cost'], rollout)} than the champion would have, on {events} that the challenger decided",
        )
    if rollout["difference"] is not None:
        table.add_row(
            "its decisions",
            f"{_more(rollout['difference'], rollout)} an event than the champion's, on all {rollout['events']:,} of the ramp, whoever decided",
        )
    for name, told in (rollout["recovery"] or {}).items():
        shown = ", ".join(f"{metric.replace('_', ' ')} {value:.3f}" for metric, value in told.items() if value is not None)
        label = {"before": "before the drift", "fell": "after it, old model", "recovered": "after it, new model"}[name]
        table.add_row(label, shown or "not measured")


def _more(spent: float, rollout: dict[str, Any]) -> str:
    return f"{abs(spent):,.0f} {rollout['currency']} {'more' if spent > 0 else 'less'}"


def refuse_another_end(summary: dict[str, Any], scenario: Scenario) -> None:
    """StackError where the story, told in ``Demo.run``'s summary, did not end as it should: the alarm silent, or a rollout that ended otherwise than
    its scenario has it."""
    drift, rollout = summary.get("drift"), summary.get("rollout")
    if drift and not drift["found"]:
        raise StackError(f"{drift['change']} from {drift['change_day']} on was not found: no alarm. The last report: {drift['report']}")
    if rollout and rollout["stage"] != GOOD_END[scenario]:
        raise StackError(
            f"the {scenario.replace('_', ' ')} should have been {GOOD_END[scenario].replace('_', ' ')}, but the rollout ended as"
            f" {rollout['stage']}: {rollout['why']}\nIts page: {rollout['page']}"
        )


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary, indent=1, sort_keys=True))
