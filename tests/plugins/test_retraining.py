"""Why a retraining begins, how much truth it waits for, and what ends it before a rollout, on a real bucket and a real store."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from include.domains import get
from include.lifecycle.domain import Rollout
from include.lifecycle.experiment import Contender, Experiment
from include.stores.alarms import Alarms
from include.stores.experiments import ExperimentStore, open_store
from include.stores.layout import Layout
from include.stores.objects import ObjectStore
from include.stores.registry import LiveEndpoint, ModelPackage
from include.stores.watermark import Watermark

DOMAIN = get("auto_claims")
LAYOUT = Layout(DOMAIN.name)
CHAMPION = ModelPackage("arn:champion", 3, "Approved", "s3://b/3", {"as_of": "2026-04-01T00:00:00Z"})
NOW = datetime(2026, 4, 20, tzinfo=UTC)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bucket: ObjectStore) -> SimpleNamespace:
    """A live champion, deliveries up to NOW, no alarm and no rollout yet."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    from sagemaker_lifecycle import retraining, watermark

    store = open_store(f"sqlite://{tmp_path}/experiments.db")
    store.ensure()
    statuses: dict[str, tuple[str, str]] = {}
    registry = SimpleNamespace(
        champion=lambda _: CHAMPION,
        live=lambda _: LiveEndpoint("endpoint", "InService", "config", CHAMPION.arn),
        package=lambda arn: ModelPackage(arn, 4, "PendingManualApproval", "s3://b/4"),
        set_status=lambda arn, status, why: statuses.update({arn: (status, why)}),
    )
    monkeypatch.setattr(retraining, "model_registry", lambda: registry)
    monkeypatch.setattr(retraining, "experiment_store", lambda: store)
    for module in (retraining, watermark):
        monkeypatch.setattr(module, "object_store", lambda: bucket)
    Watermark(bucket, LAYOUT).move_to(NOW)
    return SimpleNamespace(store=store, alarms=Alarms(bucket, LAYOUT), registry=registry, statuses=statuses, watermark=Watermark(bucket, LAYOUT))


def context(run_type: str = "asset_triggered", rang: bool = True, as_of: str | None = None) -> Any:
    run = SimpleNamespace(
        run_type=run_type, run_id="run-1", dag_id="auto_claims.retrain_and_rollout", data_interval_end=None, logical_date=None, run_after=NOW
    )
    kept: dict[str, Any] = {}
    state = SimpleNamespace(get=kept.get, set=lambda key, value, retention: kept.update({key: value}))
    return {"params": {"as_of": as_of}, "dag_run": run, "task_state_store": state, "triggering_asset_events": {"bell": [1]} if rang else {}}


def alarm(as_of: str = "2026-04-12T00:00:00Z", model: str | None = "arn:champion", since: str | None = "2026-04-04") -> dict[str, Any]:
    return {"domain": DOMAIN.name, "source": "monitor_model", "as_of": as_of, "kinds": ["feature_drift"], "since": since,
            "says": f"injury_claim moved ({as_of})", "model_package": model, "report": None, "evidence": {}}  # fmt: skip


def test_all_open_alarms_are_acted_on_since_the_earliest(world: SimpleNamespace) -> None:
    from sagemaker_lifecycle.retraining import read_alarms

    world.alarms.put(alarm())
    world.alarms.put(alarm("2026-04-26T00:00:00Z", since="2026-04-10"))
    run = read_alarms(DOMAIN, context())
    assert (run["since"], len(run["alarms"]), run["history"]) == ("2026-04-04", 2, False)
    assert run["champion"] == {"model_package": "arn:champion", "model": "s3://b/3"}
    assert run["as_of"] == "2026-04-26T00:00:00Z"  # no earlier than what the alarm knew
    assert run["deadline"] == "2026-07-25T00:00:00Z", "90 days after the last alarm, whenever the run began"


def test_alarms_about_an_earlier_model_are_dropped_and_say_so(world: SimpleNamespace) -> None:
    from airflow.sdk.exceptions import AirflowSkipException
    from sagemaker_lifecycle.retraining import read_alarms

    world.alarms.put(alarm(model="arn:earlier"))
    world.alarms.put(alarm("2026-03-20T00:00:00Z", model=None))  # from outside, before what the champion was trained on
    with pytest.raises(AirflowSkipException, match="handled"):
        read_alarms(DOMAIN, context())
    assert world.alarms.open() == []
    assert len(world.alarms.all()) == 2


def test_the_calendar_begins_without_an_alarm_and_asks_for_truth_since_the_training(world: SimpleNamespace) -> None:
    from sagemaker_lifecycle.retraining import read_alarms

    run = read_alarms(DOMAIN, context("scheduled", rang=False))
    assert (run["alarms"], run["since"], run["as_of"]) == ([], "2026-04-01", "2026-04-20T00:00:00Z")


def test_a_backfill_reads_no_alarm_and_has_no_champion(world: SimpleNamespace) -> None:
    from sagemaker_lifecycle.retraining import read_alarms

    world.alarms.put(alarm())
    run = read_alarms(DOMAIN, context("backfill", rang=False, as_of="2026-02-01T00:00:00Z"))
    assert (run["history"], run["champion"], run["as_of"]) == (True, None, "2026-02-01T00:00:00Z")
    assert len(world.alarms.open()) == 1


def test_one_rollout_at_a_time_and_its_alarm_stays_open(world: SimpleNamespace) -> None:
    from airflow.sdk.exceptions import AirflowSkipException
    from sagemaker_lifecycle.retraining import read_alarms

    begin(world.store)
    world.alarms.put(alarm())
    with pytest.raises(AirflowSkipException, match="in its stage 'shadow'"):
        read_alarms(DOMAIN, context())
    assert len(world.alarms.open()) == 1


def begin(store: ExperimentStore) -> Experiment:
    champion, challenger = Contender("arn:champion", "s3://b/3", 0.0), Contender("arn:4", "s3://b/4", 0.0)
    return store.create(Experiment("e1", DOMAIN.name, "endpoint", champion, challenger, "2026-04-20T00:00:00Z"))


def waiting(alarms: list[str]) -> Any:
    from sagemaker_lifecycle.retraining import WaitForLabelsOperator

    run = {"as_of": "2026-04-12T00:00:00Z", "history": False, "champion": None, "since": "2026-04-04", "alarms": alarms,
           "deadline": "2026-07-11T00:00:00Z", "why": "it moved"}  # fmt: skip
    return WaitForLabelsOperator(task_id="wait", domain=DOMAIN.name, run=run)


def test_it_waits_until_enough_frauds_have_matured(world: SimpleNamespace) -> None:
    wait, run = waiting(["a"]), context()
    assert wait.ask(run, NOW) is None, "nothing since 4 April can have matured on the 20th"
    assert wait.conclude(run, None) is None
    later = datetime(2026, 5, 20, tzinfo=UTC)
    assert wait.ask(run, later) == {"since": "2026-04-04", "as-of": "2026-05-20T00:00:00Z"}
    found = {"since": "2026-04-04", "as_of": "2026-05-20T00:00:00Z", "frauds": 499, "events": 3000}
    assert wait.conclude(run, found) is None
    assert wait.trigger().serialize()[1]["after"] == "2026-05-20T00:00:00Z"
    enough = wait.conclude(run, {**found, "frauds": 500})
    assert (enough["as_of"], enough["frauds"], enough["alarms"]) == ("2026-05-20T00:00:00Z", 500, ["a"])


def test_a_wait_that_is_cleared_gives_the_same_as_of_again(world: SimpleNamespace) -> None:
    run = context()
    found = {"since": "2026-04-04", "as_of": "2026-05-20T00:00:00Z", "frauds": 500, "events": 3000}
    first = waiting(["a"]).conclude(run, found)
    world.watermark.move_to(datetime(2026, 9, 1, tzinfo=UTC))
    assert waiting(["a"]).execute(run) == first


def test_after_the_deadline_the_domain_says_what_happens(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.exceptions import AirflowSkipException
    from sagemaker_lifecycle import retraining

    world.alarms.put(alarm())
    identity = world.alarms.all()[0]["id"]
    late = {"since": "2026-04-04", "as_of": "2026-07-20T00:00:00Z", "frauds": 3, "events": 40}
    assert waiting([identity]).conclude(context(), late)["frauds"] == 3
    gives_up = replace(DOMAIN, rollout=Rollout(at_deadline="give_up"))
    monkeypatch.setattr(retraining.domains, "get", lambda _: gives_up)
    with pytest.raises(AirflowSkipException, match="given up"):
        waiting([identity]).conclude(context(), late)
    assert world.alarms.open() == []


def test_the_calendar_does_not_wait(world: SimpleNamespace) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    with pytest.raises(AirflowSkipException, match="too little new truth"):
        waiting([]).conclude(context(), {"since": "2026-04-01", "as_of": "2026-04-20T00:00:00Z", "frauds": 3, "events": 40})


def compared(value: float | None) -> dict[str, Any]:
    difference = {"value": value, "low": -0.1, "high": 0.3}
    return {"gate": {"reasons": ["too few frauds"]}, "champion": {"differences": {"savings": difference}}}


@pytest.mark.parametrize(
    ("evaluation", "gate_passed", "history", "why"),
    [
        (compared(0.02), True, False, None),
        (compared(0.0), True, False, "saves no more"),
        (compared(-0.02), True, False, "saves no more"),
        (compared(None), True, False, "could not be compared"),
        ({"gate": {"reasons": []}, "champion": None}, True, False, "could not be compared"),
        (compared(0.5), False, False, "too few frauds"),
        ({**compared(0.5), "champion": {"other_features": "the challenger lacks amount"}}, True, False, "lacks amount: no copy"),
        (compared(0.5), True, True, "a backfill"),
    ],
)
def test_a_challenger_that_is_not_better_ends_offline(
    world: SimpleNamespace, evaluation: Any, gate_passed: bool, history: bool, why: str | None
) -> None:
    from sagemaker_lifecycle.retraining import offline_verdict

    run = {"history": history, "champion": None if history else {"model_package": CHAMPION.arn}}
    verdict = offline_verdict(DOMAIN, run, evaluation, gate_passed)
    assert verdict is None if why is None else why in (verdict or "")


def test_a_challenger_that_was_compared_with_a_model_of_the_past_ends_offline(world: SimpleNamespace) -> None:
    from sagemaker_lifecycle.retraining import offline_verdict

    run = {"history": False, "champion": {"model_package": "arn:earlier"}}
    assert "arn:champion is live by now" in str(offline_verdict(DOMAIN, run, compared(0.5), True))


def test_a_second_model_that_was_left_on_the_endpoint_is_no_ground_to_begin_on(world: SimpleNamespace) -> None:
    from airflow.sdk.exceptions import AirflowFailException
    from sagemaker_lifecycle.retraining import read_alarms

    world.registry.live = lambda _: LiveEndpoint("endpoint", "InService", "shadow-config", CHAMPION.arn, alone=False)
    world.alarms.put(alarm())
    with pytest.raises(AirflowFailException, match=r"carries shadow-config.*deploy_model with arn:champion"):
        read_alarms(DOMAIN, context())
    assert len(world.alarms.open()) == 1


def test_ending_offline_rejects_the_package_and_handles_the_alarms(world: SimpleNamespace) -> None:
    from sagemaker_lifecycle.retraining import close_without_rollout

    world.alarms.put(alarm())
    run = {"history": False, "champion": None, "alarms": [world.alarms.all()[0]["id"]], "as_of": "2026-05-20T00:00:00Z"}
    close_without_rollout(DOMAIN, context(), run, "arn:4", "it saves no more than the champion")
    assert world.statuses["arn:4"] == ("Rejected", "Rejected: it saves no more than the champion")
    assert world.alarms.open() == []
