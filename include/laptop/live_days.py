"""Days of live traffic on the local stack: events land, go through the endpoint, and are watched, until fraud changes and the monitor notices."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.laptop.processes import StackError
from include.lifecycle.as_of import iso
from include.settings import ROOT
from include.stores.layout import Layout

if TYPE_CHECKING:
    from include.laptop.demo import Demo


SHOWN_QUALITY = ("savings", "recall_at_capacity", "average_precision")
"""The measured metrics that the story of a rollout is told in."""


@dataclass(frozen=True)
class Plan:
    """``days`` of events after the history, by the last of which the change should be found. ``change``: a name in the simulator's
    CHANGES, which holds from the day ``change_after`` days of usual traffic on. ``rollout_days``: of events after these, for the retraining and its
    rollout to live in; 0: the story ends with the alarm."""

    days: int
    change: str
    change_after: int
    rollout_days: int = 0

    def change_day(self, first: date) -> date:
        return first + timedelta(days=self.change_after)


@dataclass
class LiveDays:
    """``landing``: a folder with the files of these days, as ``simulate`` writes it. ``first``: the first live day."""

    demo: Demo
    plan: Plan
    landing: Path
    first: date
    windows: list[dict[str, Any]] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        """Lets the days pass until the alarm. Returns what the summary says of it; "found" is None where it stayed silent to the end."""
        demo, changed = self.demo, self.plan.change_day(self.first)
        last = self.first + timedelta(days=self.plan.days - 1)
        with demo.stage("live_ingest", f"{demo.domain.name}.ingest_data, the files of {self.first} to {last}"):
            self.ingest(self.first, last)
        found = None
        for number in range(self.plan.days):
            day = self.first + timedelta(days=number)
            usual = "usual traffic" if day < changed else f"{self.plan.change}, day {(day - changed).days + 1}"
            with demo.stage(f"live_{day}", f"{day}, {usual}: requests, then monitor_model"):
                self.ask(day, day, "--wait-for-captures", "60")
                window = self.watch(day)
            if window["alarm"]:
                found = window
                break
        if found and found["last_day"] < changed:
            raise StackError(f"a false alarm before anything changed: {found}")
        return self._summary(changed, found)

    def _dag(self, stage: str) -> str:
        return f"{self.demo.domain.name}.{stage}"

    def ingest(self, first: date, last: date) -> None:
        """Lands what is delivered on these days, and takes it in."""
        layout = Layout(self.demo.domain.name)
        for path in sorted(self.landing.rglob("*.*")):
            table, day = path.parent.parent.name, date.fromisoformat(path.parent.name.removeprefix("dt="))
            if first <= day <= last:
                self.demo.objects.upload(path, layout.landing(table, day, path.name))
        interval = {"first_day": first.isoformat(), "last_day": last.isoformat()}
        self.demo.follow("ingest_data", self.demo.api.trigger(self._dag("ingest_data"), interval), quietly=True)

    def ask(self, first: date, last: date, *options: str) -> float:
        """Sends the events of these days to whoever scores them. Returns how long the slowest answer took, in seconds; StackError where one is not
        answered."""
        sent = self.job("replay", "--first-day", first.isoformat(), "--last-day", last.isoformat(), *options)
        return max((day["longest_seconds"] for day in sent["days"]), default=0.0)

    def job(self, name: str, *options: str) -> dict[str, Any]:
        """One of the jobs' commands on the stack's data: its result. StackError where it fails."""
        done = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "include.jobs", name, "--domain", self.demo.domain.name, *options],
            env=self.demo.stack.job_environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StackError(f"{name} {' '.join(options)} failed; its reason stands above")
        result: dict[str, Any] = json.loads(done.stdout[f"\n{done.stdout}".rindex("\n{") :])
        return result

    def watch(self, day: date) -> dict[str, Any]:
        """One run of monitor_model for the window that ends with the day."""
        demo, dag_id = self.demo, self._dag("monitor_model")
        as_of = datetime.combine(day + timedelta(days=1), time(), UTC) + demo.domain.monitoring.reporting_delay
        run = demo.follow("monitor_model", demo.api.trigger(dag_id, {"as_of": iso(as_of)}), quietly=True)
        analysis = demo.api.xcom(dag_id, run, "analyse")
        alarm = demo.api.xcom(dag_id, run, "sound_alarm")
        sign = "[red]ALARM[/]" if alarm else "[green]✓[/]" if analysis["verdict"]["severity"] == "none" else "[yellow]![/]"
        demo.console.print(f"  {sign} {analysis['verdict']['headline']}", highlight=False, soft_wrap=True)
        self.windows.append({
            "last_day": day,
            "as_of": as_of,
            "severity": analysis["verdict"]["severity"],
            "kinds": analysis["verdict"]["kinds"],
            "alarm": alarm,
            "measured": {name: analysis["metrics"].get(f"Measured.{name}") for name in SHOWN_QUALITY},
            "report": demo.stack_url(analysis["reports"]["page"]),
        })  # fmt: skip
        return self.windows[-1]

    def _summary(self, changed: date, found: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "change": self.plan.change,
            "change_day": changed.isoformat(),
            "began": found["alarm"]["since"] if found else None,
            "found": found["as_of"].date().isoformat() if found else None,
            "days_until_found": (found["as_of"].date() - changed).days if found else None,
            "kinds": found["alarm"]["kinds"] if found else [],
            "report": self.windows[-1]["report"],
            "windows": [
                {**window, "last_day": window["last_day"].isoformat(), "as_of": iso(window["as_of"]), "alarm": bool(window["alarm"])}
                for window in self.windows
            ],
        }
