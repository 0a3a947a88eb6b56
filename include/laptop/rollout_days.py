"""What follows the alarm on the local stack: days of traffic in which ``retrain_and_rollout`` does its work by itself. Here only time passes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from include import domains
from include.laptop.processes import StackError
from include.lifecycle.as_of import iso, utc
from include.lifecycle.domain import Domain
from include.lifecycle.experiment import Experiment, Stage
from include.lifecycle.labels_wanted import wanted_frauds
from include.stores.experiments import open_store
from include.stores.layout import Layout

if TYPE_CHECKING:
    from include.laptop.airflow_api import TaskState
    from include.laptop.live_days import LiveDays, Plan

Scenario = Literal["better_challenger", "bad_challenger"]
"""bad_challenger: once it has live traffic, the requests lack what the simulator's BROKEN_FEATURES name: offline, and in shadow, they were there."""
GOOD_END: dict[Scenario, Stage] = {"better_challenger": "promoted", "bad_challenger": "rolled_back"}
"""The stage in which the rollout of each scenario ought to end."""

_DAYS_AT_ONCE = 3
_LOOK_SECONDS = 300
_POLL_SECONDS = 0.5
_DONE = {"success", "skipped", "failed", "upstream_failed"}


def check_scenario(domain: Domain, plan: Plan | None, scenario: Scenario) -> None:
    """StackError where the story has no rollout that could go as the scenario says. ``plan``: None where nothing is simulated."""
    simulator = f"include/domains/{domain.name}/simulator.py"
    if plan is None:
        raise StackError("a scenario is of a simulated rollout: what happens after your own files (LANDING) is yours to say")
    if not plan.rollout_days:
        raise StackError(
            f"the story of {domain.name} ends with the alarm, so there is no {scenario}: LIVE in {simulator} has no rollout_days"
        )
    if scenario == "bad_challenger" and not broken_features(domain):
        raise StackError(f"nothing says what makes a challenger of {domain.name} bad: {simulator} has no BROKEN_FEATURES")


def broken_features(domain: Domain) -> tuple[str, ...]:
    """What requests lack in the scenario bad_challenger; empty where the domain's simulator does not say."""
    return tuple(getattr(domains.part(domain.name, "simulator"), "BROKEN_FEATURES", ()))


@dataclass
class RolloutDays:
    """``days``: the live days that ended with the alarm. ``between``: called with the rollout's stage whenever days begin to pass, with
    ``retraining`` and with ``end`` when these begin."""

    days: LiveDays
    scenario: Scenario = "better_challenger"
    between: Callable[[str], None] = lambda stage: None
    fell: dict[str, float | None] = field(default_factory=dict)
    longest_seconds: float = 0.0  # that an event of the rollout waited for its answer
    seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.demo = self.days.demo
        self.domain = self.demo.domain
        self.dag_id = f"{self.domain.name}.retrain_and_rollout"
        self.store = open_store(self.demo.stack.experiments_url)
        self.yesterday = self.days.first + timedelta(days=self.days.plan.days - 1)
        self.last = self.yesterday + timedelta(days=self.days.plan.rollout_days)

    def run(self) -> dict[str, Any]:
        """Lets days pass until the rollout has ended, and then until what the new champion does is known. Returns what the summary says of it."""
        demo, policy, maturity = self.demo, self.domain.rollout, self.domain.label.maturity
        self.run_id = self._run_of_the_alarm()
        with demo.stage("rollout_labels", f"{self.dag_id}: waiting for {wanted_frauds(self.domain)} matured frauds since the drift began"):
            self._pass_until(lambda: self._task("wait_for_labels") in _DONE, first=maturity.days + 21, asked=False)
            self.fell = self._measured()
        with demo.stage("rollout_retrain", f"{self.dag_id}: retraining, and the comparison on the same later events"):
            self.between("retraining")
            self._wait(lambda: self._task("bring_shadow") in _DONE, 900)
        if self._experiment() is None:
            raise StackError(f"the retrained model was not better offline, so there is no rollout: see {self.dag_id}, run {self.run_id}")
        with demo.stage("rollout_shadow", f"{self.dag_id}: the challenger scores a copy of the traffic"):
            self._pass_until(lambda: self._stage() != "shadow", first=(maturity + 3 * policy.shadow_at_least).days)
        with demo.stage("rollout_ramp", f"{self.dag_id}: the challenger's share grows"):
            self._wait(lambda: self._stage() not in {"shadow", "proven"} or self._ended(), 120)
            self._ramp()
        with demo.stage("rollout_end", f"{self.dag_id}: the endpoint and the registry"):
            self.between("end")
            state = demo.api.follow(self.dag_id, self.run_id, 600, self._show)
        if state != "success":
            raise StackError(f"{self.dag_id} failed: {demo.stack.browser_url('airflow')}/dags/{self.dag_id}/runs/{self.run_id}")
        return self._summary()

    def _ramp(self) -> None:
        policy = self.domain.rollout
        lacking = broken_features(self.domain) if self.scenario == "bad_challenger" else ()
        broken = [word for name in lacking for word in ("--missing", name)]
        while self._stage() == "ramp" and self._cap() < policy.caps[-1]:
            self._pass(max(1, round(policy.epoch / timedelta(days=1))), True, *broken)
        self._pass_until(
            lambda: self._stage() != "ramp", (self.domain.label.maturity + policy.ramp_at_least * policy.epoch).days, True, *broken
        )

    # time

    def _pass_until(self, done: Callable[[], bool], first: int, asked: bool = True, *options: str) -> None:
        """Days pass, ``first`` of them and then a few at a time, until ``done``. StackError where the simulated days are over before."""
        number = first
        while not done():
            self._pass(number, asked, *options)
            number = _DAYS_AT_ONCE

    def _pass(self, number: int, asked: bool, *options: str) -> None:
        """Some days: what they deliver is ingested, their events are asked about, and the rollout has looked at them."""
        if self.yesterday >= self.last:
            raise StackError(f"{self.days.plan.rollout_days} simulated days were not enough: {self._state()}")
        first, self.yesterday = self.yesterday + timedelta(days=1), min(self.yesterday + timedelta(days=number), self.last)
        self.between(self._stage())
        self.days.ingest(first, self.yesterday)
        if asked:  # what happened on a day is all known, and asked about, a reporting delay after it
            late = self.domain.monitoring.reporting_delay + timedelta(days=1)
            waited = self.days.ask(first - late, self.yesterday - late, "--gateway", self.demo.stack.url("gateway"), *options)
            self.longest_seconds = max(self.longest_seconds, waited)
        self._wait(self._has_looked, _LOOK_SECONDS)
        self.demo.console.print(f"  {self.yesterday}  {self._state()}", highlight=False, soft_wrap=True)

    def _has_looked(self) -> bool:
        """Whether the rollout has looked at all that was ingested, or is not looking at any more."""
        experiment = self._experiment()
        midnight = datetime.combine(self.yesterday + timedelta(days=1), datetime.min.time(), UTC)
        if experiment is not None:
            return experiment.ended or experiment.stage in {"proven", "safe"} or utc(experiment.as_of) >= midnight
        looked_at = self.demo.api.xcom(self.dag_id, self.run_id, "wait_for_labels", "looked_at")
        state = self._task("wait_for_labels")  # asked after it: what is deferred now has looked
        return state in _DONE or (state == "deferred" and looked_at is not None and utc(looked_at) >= midnight)

    def _wait(self, done: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            failed = [task.task_id for task in self.demo.api.tasks(self.dag_id, self.run_id) if task.state == "failed"]
            if failed or time.monotonic() > deadline:
                page = f"{self.demo.stack.browser_url('airflow')}/dags/{self.dag_id}/runs/{self.run_id}"
                raise StackError(
                    f"{', '.join(failed) or 'the rollout'} {'failed' if failed else f'did nothing for {seconds:.0f} s'}: {page}"
                )
            time.sleep(_POLL_SECONDS)

    # what there is

    def _run_of_the_alarm(self) -> str:
        """The run that the alarm's bell began."""
        deadline = time.monotonic() + 60
        while True:
            for run in self.demo.api.runs(self.dag_id):
                if run["run_type"] == "asset_triggered" and run["state"] in {"queued", "running"}:
                    return str(run["dag_run_id"])
            if time.monotonic() > deadline:
                raise StackError(f"the alarm did not begin a run of {self.dag_id} within a minute")
            time.sleep(_POLL_SECONDS)

    def _task(self, task_id: str) -> str:
        return {task.task_id: task.state for task in self.demo.api.tasks(self.dag_id, self.run_id)}.get(task_id, "none")

    def _experiment(self) -> Experiment | None:
        found = self.store.current(self.domain.name)
        return found if found and utc(found.opened).date() > self.days.first else None

    def _stage(self) -> str:
        experiment = self._experiment()
        return experiment.stage if experiment else "none"

    def _cap(self) -> float:
        experiment = self._experiment()
        return experiment.cap if experiment else 0.0

    def _ended(self) -> bool:
        experiment = self._experiment()
        return experiment is not None and experiment.ended

    def _state(self) -> str:
        experiment = self._experiment()
        if experiment is None:
            return f"wait_for_labels: {self._task('wait_for_labels')}"
        entries = self.store.history(experiment.id)
        return f"{experiment.stage}, share {experiment.share:.1%}: {entries[-1].says if entries else experiment.why}"

    def _show(self, task: TaskState) -> None:
        if task.state == "failed" and task.task_id not in self.seen:
            self.seen.add(task.task_id)
            self.demo.console.print(f"  [red]✗[/] {task.task_id}")

    # the end

    def _summary(self) -> dict[str, Any]:
        experiment = self._experiment()
        assert experiment is not None  # noqa: S101 -- for mypy: run() refuses it
        entries = self.store.history(experiment.id)
        spent = [entry.evidence["extra_cost"] for entry in entries if entry.evidence.get("extra_cost") is not None]
        page = self.demo.api.xcom(self.dag_id, self.run_id, "report", "reports")
        summary = {
            "experiment": experiment.id,
            "stage": experiment.stage,
            "why": experiment.why,
            "as_of": experiment.as_of,
            "challenger": experiment.challenger.model_package,
            "extra_cost": spent[-1] if spent else None,
            "decided": None,
            "difference": None,
            "events": None,
            "currency": self.domain.costs.currency,
            "page": self.demo.stack_url(page["page"]) if page else None,
        }
        if experiment.stage != "promoted" and any(entry.stage == "ramp" for entry in entries):
            summary |= self._cost_of_the_ramp(experiment)
        return summary | {"recovery": self._recovery() if experiment.stage == "promoted" else None}

    def _cost_of_the_ramp(self, experiment: Experiment) -> dict[str, Any]:
        """What the challenger's decisions cost above the champion's, once the truth about all of them is known: those that it made, and, as these are
        few and one fraud outweighs many, the mean of what it would have decided on every event of the ramp, whoever did."""
        with self.demo.stage("cost", "rollout-evidence: what the ramp cost, once the truth about it has matured"):
            first, more = self.yesterday + timedelta(days=1), self.domain.label.maturity
            self.yesterday = min(self.yesterday + more, self.last)
            self.days.ingest(first, self.yesterday)
            layout, objects = Layout(self.domain.name), self.demo.objects
            output = layout.experiment(experiment.id, "cost")
            as_of = iso(datetime.combine(self.yesterday + timedelta(days=1), datetime.min.time(), UTC))
            ramp = objects.uri(layout.experiment(experiment.id, "ramp.json"))
            self.days.job("rollout-evidence", "--experiment", ramp, "--as-of", as_of, "--output", objects.uri(output))
            evidence = objects.get_json(f"{output}/evidence.json")
            decided = sum(day["events"] for day in evidence["arms"]["challenger"])
            return {
                "extra_cost": evidence["extra_cost"],
                "decided": decided,
                "difference": evidence["difference"]["value"],
                "events": evidence["events"],
            }

    def _recovery(self) -> dict[str, Any]:
        """The measured quality of the live model before the drift, after it, and of the new champion, in the same metrics."""
        more = self.domain.monitoring.quality_window + self.domain.label.maturity
        with self.demo.stage(
            "recovery", f"{self.domain.name}.monitor_model, once {self.domain.monitoring.quality_window.days} days have matured"
        ):
            self.days.ingest(self.yesterday + timedelta(days=1), min(self.yesterday + more, self.last))
            self.yesterday = min(self.yesterday + more, self.last)
            recovered = self._measured()
        return {"before": self.days.windows[0]["measured"], "fell": self.fell, "recovered": recovered}

    def _measured(self) -> dict[str, float | None]:
        """What monitor_model measures now of the model that is live now."""
        window = self.days.watch(self.yesterday - self.domain.monitoring.reporting_delay)
        measured: dict[str, float | None] = window["measured"]
        return measured
