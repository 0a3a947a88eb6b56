"""The main job on the local stack: ingest → train → deploy → score, with each task on the terminal as it goes."""

from __future__ import annotations

import json
import shutil
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

from include.laptop.airflow_api import AirflowApi, TaskState
from include.laptop.processes import StackError
from include.laptop.stack import Stack
from include.lifecycle.as_of import iso
from include.lifecycle.domain import EVENT_COLUMNS, Domain
from include.settings import ROOT
from include.stores.layout import Layout
from include.stores.objects import ObjectStore
from include.stores.partitions import Partitions

FIRST_DAY = date(2026, 1, 1)
"""The simulated history is the same on every machine and every day it is run."""
DAYS = 90
EVENTS = 20_000
SEED = 7
SCORED_EVENTS = 300
RUN_SECONDS = 1200
SHOWN_METRICS = ("average_precision", "roc_auc", "precision_at_capacity", "recall_at_capacity", "savings", "expected_calibration_error")
_SIGNS = {
    "success": "[green]✓[/]",
    "failed": "[red]✗[/]",
    "skipped": "[dim]–[/]",
    "upstream_failed": "[red]–[/]",
    "up_for_retry": "[yellow]↻[/]",
}


@dataclass
class Demo:
    """One walk through the main job. ``landing``: a folder with the user's own ``<table>.csv`` or ``.parquet`` files; None: simulated history.
    ``year``: for sources whose dates carry none."""

    stack: Stack
    domain: Domain
    landing: Path | None = None
    year: int | None = None
    days: int = DAYS
    events: int = EVENTS
    console: Console = field(default_factory=Console)
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """Runs it all and returns the summary (see README). StackError where a run fails."""
        with self._stage("stack", "Bringing up MiniStack, the local SageMaker and Airflow"):
            self.stack.up()
            self.api = AirflowApi(self.stack.url("airflow"), "admin", self.stack.file.passwords["admin"])
            stages = [f"{self.domain.name}.{stage}" for stage in ("ingest_data", "train_model", "deploy_model")]
            self.api.wait_for_dags(stages)
            for dag_id in stages:
                self.api.unpause(dag_id)
        self.objects = ObjectStore(self.stack.settings.bucket, client=self.stack.client("s3"))
        with self._stage("land", "Landing files"):
            delivered = self._land()
        as_of = datetime.combine(delivered + timedelta(days=1), datetime.min.time(), tzinfo=UTC)

        with self._stage("ingest", f"{self.domain.name}.ingest_data, deliveries of {delivered}"):
            params = {"first_day": delivered.isoformat(), "last_day": delivered.isoformat(), "year": self.year}
            ingested = self._follow("ingest_data", self.api.trigger(f"{self.domain.name}.ingest_data", params))
        tables = self.api.xcom(f"{self.domain.name}.ingest_data", ingested, "ingest")["tables"]

        deploys = {run["dag_run_id"] for run in self.api.runs(f"{self.domain.name}.deploy_model")}
        with self._stage("train", f"{self.domain.name}.train_model as of {iso(as_of)}"):
            trained = self._follow(
                "train_model", self.api.trigger(f"{self.domain.name}.train_model", {"as_of": iso(as_of), "approval": "automatic"})
            )
        evaluation = self.api.xcom(f"{self.domain.name}.train_model", trained, "evaluate")
        registered = self.api.xcom(f"{self.domain.name}.train_model", trained, "register")
        if not registered["gate_passed"]:
            raise StackError("the gate refused the model, so nothing was deployed:\n- " + "\n- ".join(evaluation["gate"]["reasons"]))

        with self._stage("deploy", f"{self.domain.name}.deploy_model, triggered by the approval"):
            deployed = self._follow("deploy_model", self.api.wait_for_new_run(f"{self.domain.name}.deploy_model", deploys))
        plan = self.api.xcom(f"{self.domain.name}.deploy_model", deployed, "plan")

        with self._stage("score", f"Scoring events through the endpoint {plan['endpoint']}"):
            scored = self._score(plan["endpoint"])

        summary = {
            "domain": self.domain.name,
            "rows": {count: sum(table[count] for table in tables.values()) for count in ("landed", "curated", "quarantined")},
            "tables": tables,
            "metrics": evaluation["metrics"],
            "model_package": registered["model_package"],
            "endpoint": plan["endpoint"],
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
            "invoke_ms": scored,
            "report": self.stack_url(evaluation["reports"]["report"]),
            "airflow": self.stack.browser_url("airflow"),
        }
        self._show(summary)
        return summary

    def stack_url(self, uri: str) -> str:
        return uri.replace("s3://", f"{self.stack.browser_url('ministack')}/")

    @contextmanager
    def _stage(self, name: str, title: str) -> Iterator[None]:
        self.console.print(f"[bold]{title}[/] …")
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started
        self.console.print(f"  [dim]{self.seconds[name]:.1f} s[/]")

    def _land(self) -> date:
        """Uploads the files under their delivery day, and returns that day."""
        layout = Layout(self.domain.name)
        if self.landing is not None:
            delivered = date(self.year, 12, 31) if self.year else datetime.now(UTC).date() - timedelta(days=1)
            for table in self.domain.landing_tables:
                for path in (self.landing / f"{table.name}.csv", self.landing / f"{table.name}.parquet"):
                    if path.is_file():
                        self._upload(path, layout.landing(table.name, delivered, path.name))
                        break
                else:
                    if table.name in {each.name for each in self.domain.tables}:
                        raise StackError(f"{self.landing} has no {table.name}.csv or {table.name}.parquet: {self.domain.name} needs one")
            return delivered
        folder = Path(tempfile.mkdtemp(prefix="landing-"))
        try:
            command = ["simulate", "--domain", self.domain.name, "--days", self.days, "--events", self.events]
            command += ["--first-day", FIRST_DAY, "--seed", SEED, "--out", folder]
            simulated = subprocess.run(  # noqa: S603 - our own command
                [sys.executable, "-m", "include.jobs", *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False
            )
            if simulated.returncode:
                raise StackError(f"simulating {self.domain.name} failed:\n{simulated.stderr}")
            delivered = FIRST_DAY
            for path in sorted(folder.rglob("*.*")):
                table, day = path.parent.parent.name, date.fromisoformat(path.parent.name.removeprefix("dt="))
                self._upload(path, layout.landing(table, day, path.name))
                delivered = max(delivered, day)
        finally:
            shutil.rmtree(folder)
        return delivered

    def _upload(self, path: Path, key: str) -> None:
        uri = self.objects.upload(path, key)
        self.console.print(f"  {uri}  [dim]{path.stat().st_size:,} bytes[/]", soft_wrap=True)

    def _follow(self, stage: str, run_id: str) -> str:
        dag_id = f"{self.domain.name}.{stage}"
        failed: list[TaskState] = []

        def show(task: TaskState) -> None:
            if task.state in _SIGNS:
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
                names = [name for name in table.column_names if name not in EVENT_COLUMNS and not name.startswith("facet_")]
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
            metric = summary["metrics"][name]
            shown = ["undefined" if metric[bound] is None else f"{metric[bound]:.3f}" for bound in ("value", "low", "high")]
            table.add_row(name.replace("_", " "), f"{shown[0]}  [dim]({shown[1]} to {shown[2]})[/]")
        table.add_row("one score", f"{summary['invoke_ms']['p50']} ms  [dim](p99 {summary['invoke_ms']['p99']} ms)[/]")
        table.add_row("all of it", f"{sum(self.seconds.values()):.0f} s")
        self.console.print(table)
        for name, value in (
            ("model package", summary["model_package"]),
            ("endpoint", summary["endpoint"]),
            ("evaluation", summary["report"]),
            ("Airflow", f"{summary['airflow']}  {self.stack.login}"),
        ):
            self.console.print(f"{name:14} {value}", soft_wrap=True, highlight=False)


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary, indent=1, sort_keys=True))
