"""The whole of retrain_and_rollout on the local stack, months of events in minutes, with everything it rests on killed on the way."""

from __future__ import annotations

import gzip
import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import psutil
import pytest
from waiting import wait_until

from include.laptop.demo import Demo
from include.laptop.rollout_days import RolloutDays
from include.lifecycle.features import feature_names
from include.stores.alarms import Alarms
from include.stores.experiments import open_store
from include.stores.layout import Layout
from include.stores.partitions import Partitions

pytestmark = [pytest.mark.stack, pytest.mark.timeout(2400)]
NAME = "auto_claims"
LAYOUT = Layout(NAME)
DAG = f"{NAME}.retrain_and_rollout"
ASKED_AGAIN = 60
"""Entities that are asked about before and after a kill of the gateway."""


class Killer:
    """Kills what the rollout rests on in each of its phases, one thing at a time, and brings it up again, as a supervisor would."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        self.plan = {
            "none": [["scheduler"], ["triggerer"]],  # while labels are waited for
            "retraining": [["sagemaker", "scheduler", "triggerer"]],  # the first with the jobs in it
            "shadow": [["gateway"], ["sagemaker"], ["triggerer"]],
            "ramp": [["scheduler"], ["gateway"], ["triggerer"], ["sagemaker"]],
            "end": [["scheduler", "sagemaker"]],
        }
        """Phase → what is killed each time that it is announced."""
        self.down: dict[tuple[str, str], float] = {}
        """(stage, what) → seconds from the kill until it was up again."""
        self.pool = ThreadPoolExecutor(1)
        self.under_way: Future[None] | None = None

    def __call__(self, stage: str) -> None:
        self.finish()
        if self.plan.get(stage):
            self.under_way = self.pool.submit(self._kill_all, stage, self.plan[stage].pop(0))

    def finish(self) -> None:
        """Until what was killed is up again; with what went wrong then."""
        if self.under_way is not None:
            self.under_way.result(300)

    def _kill_all(self, stage: str, names: list[str]) -> None:
        for name in names:
            time.sleep(4)
            self._kill(stage, name)

    def _kill(self, stage: str, name: str) -> None:
        process = self.demo.stack.processes.process(name)
        assert process is not None, name
        asks = (stage, name) == ("ramp", "gateway")
        if asks:
            self._ask_about_the_same()
        begun = time.monotonic()
        for each in [process, *process.children(recursive=True)]:  # the scheduler's are its workers, with the tasks in them
            with suppress(psutil.NoSuchProcess):  # a task may end by itself meanwhile
                each.kill()
        process.wait(10)
        self.demo.stack.up()
        self.down[stage, name] = time.monotonic() - begun
        if asks:
            self._ask_about_the_same()

    def _ask_about_the_same(self) -> None:
        """The same entities at the same time of the data, each time that this is called."""
        day = self.demo.days.first
        rows = Partitions(self.demo.objects, LAYOUT.features).read(day).slice(0, ASKED_AGAIN)
        names = feature_names(self.demo.domain, rows.column_names)
        with httpx.Client(base_url=self.demo.stack.url("gateway"), timeout=30) as gateway:
            for number, row in enumerate(rows.select(names).to_pylist()):
                policy = str(990_000_000 + number)  # which nothing is known of
                event = {"domain": NAME, "event_id": policy, "entity_id": policy, "event_time": f"{day}T12:00:00Z", "amount": 1000.0}
                answer = gateway.post("/v1/score", json=event | {"features": {key: row[key] for key in names}})
                assert answer.status_code == httpx.codes.OK, answer.text


@pytest.fixture(scope="module")
def killer(main_job: Demo) -> Killer:
    return Killer(main_job)


@pytest.fixture(scope="module")
def days(main_job: Demo, killer: Killer) -> RolloutDays:
    return RolloutDays(main_job.days, between=killer)


@pytest.fixture(scope="module")
def rollout(days: RolloutDays, killer: Killer) -> dict[str, Any]:
    told = days.run()
    killer.finish()
    return told


def get(demo: Demo, path: str) -> Any:
    answer = httpx.get(f"{demo.stack.url('gateway')}{path}", timeout=10)
    assert answer.status_code == httpx.codes.OK, answer.text
    return answer.json()


def test_the_retrained_model_is_promoted_although_everything_was_killed(main_job: Demo, rollout: dict[str, Any], killer: Killer) -> None:
    assert rollout["stage"] == "promoted", rollout
    assert set(killer.down) >= {
        ("none", "scheduler"),
        *(("retraining", name) for name in ("sagemaker", "scheduler", "triggerer")),
        *(("shadow", name) for name in ("gateway", "sagemaker")),
        *(("ramp", name) for name in ("scheduler", "gateway")),
        *(("end", name) for name in ("scheduler", "sagemaker")),
    }
    registry = main_job.stack.client("sagemaker")
    described: Any = registry.describe_model_package(ModelPackageName=rollout["challenger"])
    assert described["ModelApprovalStatus"] == "Approved"
    assert rollout["experiment"] in described["ApprovalDescription"]
    endpoint: Any = registry.describe_endpoint(EndpointName="auto-claims-endpoint")
    assert [variant["VariantName"] for variant in endpoint["ProductionVariants"]] == ["champion"]
    assert not endpoint.get("ShadowProductionVariants")


def test_no_request_was_unanswered_for_longer_than_the_restart_of_what_was_killed(
    days: RolloutDays, rollout: dict[str, Any], killer: Killer
) -> None:
    longest = max(seconds for (_, name), seconds in killer.down.items() if name in {"gateway", "sagemaker"})
    until_models_are_loaded = 10.0  # after the server is up; and it is tried again every second
    assert days.longest_seconds <= longest + until_models_are_loaded, (days.longest_seconds, killer.down)


def test_the_share_grew_step_by_step_within_its_caps(main_job: Demo, rollout: dict[str, Any]) -> None:
    entries = open_store(main_job.stack.experiments_url).history(rollout["experiment"])
    stages = [entry.stage for entry in entries]
    assert [stage for number, stage in enumerate(stages) if stage not in stages[:number]] == ["shadow", "proven", "ramp", "safe", "promoted"]
    ramp = [entry for entry in entries if entry.stage == "ramp"]
    assert [entry.cap for entry in ramp] == sorted(entry.cap for entry in ramp)
    assert {entry.cap for entry in ramp} >= set(main_job.domain.rollout.caps)
    assert all(main_job.domain.rollout.minimum_share <= entry.share <= entry.cap for entry in ramp)
    assert entries[-1].share == 1.0


def test_what_fell_has_recovered(rollout: dict[str, Any]) -> None:
    """In the metrics that the monitor measures: what the drift took from the old model, the new one has."""
    told = rollout["recovery"]
    assert told["fell"]["recall_at_capacity"] < told["before"]["recall_at_capacity"] - 0.03
    assert told["recovered"]["savings"] > told["fell"]["savings"]
    assert told["recovered"]["average_precision"] > told["fell"]["average_precision"] + 0.1


def test_an_entity_keeps_its_variant_within_an_epoch_however_often_the_gateway_was_killed(main_job: Demo, rollout: dict[str, Any]) -> None:
    lines = [
        json.loads(line)
        for info in main_job.objects.list(LAYOUT.shipped_decisions())
        for line in gzip.decompress(main_job.objects.get(info.key)).decode().splitlines()
    ]
    ramp = [line for line in lines if line["experiment"] == rollout["experiment"] and line["share"] > 0]
    assert {line["assigned"] for line in ramp} == {"champion", "challenger"}
    answers: dict[tuple[str, int], list[tuple[float, str]]] = {}
    for line in ramp:
        answers.setdefault((line["entity_id"], line["epoch"]), []).append((line["share"], line["assigned"]))
    assert sum(len(asked) > 1 for asked in answers.values()) >= ASKED_AGAIN
    for asked in answers.values():  # who moves within an epoch follows a share that has grown
        without = [share for share, assigned in asked if assigned == "champion"]
        assert all(share > max(without, default=0) for share, assigned in asked if assigned == "challenger"), asked


def test_the_alarm_is_handled_by_the_rollout_and_the_page_tells_its_story(main_job: Demo, rollout: dict[str, Any]) -> None:
    alarms = Alarms(main_job.objects, LAYOUT)
    first = next(alarm for alarm in alarms.all() if alarm["source"] == "monitor_model")
    handled = main_job.objects.get_json(LAYOUT.handled_alarm(f"{first['id']}.json"))
    assert rollout["experiment"] in handled["outcome"]
    key = rollout["page"].partition("/fraud-lifecycle/")[2]
    page = main_job.objects.get(key).decode()
    assert rollout["experiment"] in page
    assert "<svg" in page


def test_the_gateway_tells_where_it_is(main_job: Demo, rollout: dict[str, Any]) -> None:
    told = get(main_job, f"/v1/experiments/{NAME}")
    assert rollout["experiment"] in str(told)
    assert "promoted" in str(told)


def test_a_backfill_retrains_history_and_touches_nothing_live(main_job: Demo, rollout: dict[str, Any]) -> None:
    before: Any = main_job.stack.client("sagemaker").describe_endpoint(EndpointName="auto-claims-endpoint")
    store = open_store(main_job.stack.experiments_url)
    experiment = store.current(NAME)
    wanted = {"dag_id": DAG, "from_date": "2026-05-10T00:00:00Z", "to_date": "2026-05-20T00:00:00Z", "max_active_runs": 1}
    main_job.api.create_backfill(wanted | {"reprocess_behavior": "failed"})
    run = wait_until(lambda: next((run for run in main_job.api.runs(DAG) if run["run_type"] == "backfill"), None), "the backfill's run", 120)
    assert main_job.api.follow(DAG, run["dag_run_id"], 300, lambda _: None) == "success"
    states = {task.task_id: task.state for task in main_job.api.tasks(DAG, run["dag_run_id"])}
    assert states["register"] == "success"
    assert states["close_without_rollout"] == states["bring_shadow"] == states["settle"] == "skipped"
    package = main_job.api.xcom(DAG, run["dag_run_id"], "register")["model_package"]
    assert "-history/" in package
    after: Any = main_job.stack.client("sagemaker").describe_endpoint(EndpointName="auto-claims-endpoint")
    assert after["EndpointConfigName"] == before["EndpointConfigName"]
    assert store.current(NAME) == experiment
