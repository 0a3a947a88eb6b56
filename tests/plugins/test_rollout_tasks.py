"""How a rollout's tasks leave the store, the registry and the endpoint, on a real bucket and a real store of experiments."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskAwaitingInput
from botocore.exceptions import ClientError

from include.domains import get
from include.lifecycle.domain import Rollout
from include.lifecycle.experiment import Experiment, GatewayHealth, VariantCounts
from include.stores.alarms import Alarms
from include.stores.experiments import open_store
from include.stores.layout import Layout
from include.stores.objects import ObjectStore
from include.stores.registry import ModelPackage
from include.stores.watermark import Watermark

DOMAIN = get("auto_claims")
LAYOUT = Layout(DOMAIN.name)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
PACKAGES = {
    "arn:champion": ModelPackage("arn:champion", 3, "Approved", "s3://b/3", {"review_threshold": "12.5"}),
    "arn:challenger": ModelPackage("arn:challenger", 4, "PendingManualApproval", "s3://b/4", {"review_threshold": "0"}),
}
RUN = {"as_of": "2026-06-01T00:00:00Z", "history": False, "champion": {"model_package": "arn:champion", "model": "s3://b/3"}, "since": "2026-04-04",
       "alarms": [], "why": "injury_claim moved"}  # fmt: skip


class World(SimpleNamespace):
    store: Any
    packages: dict[str, ModelPackage]
    variants: set[str]
    weights: list[float]
    run_type: str
    kept: dict[str, Any]

    def context(self, run_id: str = "run-1", **tasks: str) -> Any:
        """Of one run; ``tasks``: its tasks' states."""
        dag_id = f"{DOMAIN.name}.retrain_and_rollout"
        run = SimpleNamespace(dag_id=dag_id, run_id=run_id, run_type=self.run_type, triggering_user_name="claims_lead")
        ti = SimpleNamespace(
            xcom_pull=lambda task_ids, key="return_value": self.xcoms.get((task_ids, key)),
            get_task_states=lambda dag_id, run_ids: {run_id: tasks},
        )
        kept = self.kept.setdefault(run_id, {})
        state = SimpleNamespace(get=kept.get, set=lambda key, value, retention: kept.update({key: value}))
        return {"dag_run": run, "ti": ti, "task_state_store": state, "params": {"approval": "as the domain says", **self.params}}

    def decided(self, arn: str, status: str, why: str) -> None:
        self.packages[arn] = replace(self.packages[arn], status=status, decision=why)

    def set_weights(self, endpoint: str, share: float, may_be_single: bool = False) -> bool:
        if self.variants != {"champion", "challenger"}:
            if may_be_single:
                return False
            raise AirflowFailException(f"{endpoint} carries {self.variants}")
        self.weights.append(share)
        return True


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bucket: ObjectStore) -> World:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    from sagemaker_lifecycle import endpoints, retraining, rollout, rollout_end, watermark

    store = open_store(f"sqlite://{tmp_path}/experiments.db")
    store.ensure()
    xcoms = {
        ("create_shadow_config", "return_value"): "shadow-config",
        ("plan", "previous_config"): "previous-config",
        ("wait_for_labels", "return_value"): RUN,
    }
    found = World(
        store=store, packages=dict(PACKAGES), live="arn:champion", variants={"champion", "challenger"}, weights=[], xcoms=xcoms, params={},
        run_type="asset_triggered", kept={},
    )  # fmt: skip
    registry = SimpleNamespace(
        package=found.packages.__getitem__, set_status=found.decided, champion=lambda _: found.live and found.packages[found.live]
    )
    for module in (retraining, rollout, rollout_end):
        monkeypatch.setattr(module, "experiment_store", lambda: store)
    for module in (retraining, rollout):
        monkeypatch.setattr(module, "model_registry", lambda: registry)
    for module in (retraining, rollout, watermark):
        monkeypatch.setattr(module, "object_store", lambda: bucket)
    monkeypatch.setattr(endpoints, "set_weights", found.set_weights)
    Watermark(bucket, LAYOUT).move_to(NOW)
    return found


def begin(world: World) -> Experiment:
    from sagemaker_lifecycle.rollout import open_experiment

    opened = open_experiment(DOMAIN, world.context(), RUN, "arn:challenger", "shadow-config")
    found: Experiment = world.store.get(opened["experiment"])
    return found


def to(world: World, stage: str, **changes: Any) -> Experiment:
    experiment = begin(world)
    return world.store.save(experiment.but(stage=stage, **changes))


def test_an_experiment_begins_once_with_the_packages_thresholds_and_handles_the_alarms(world: World, bucket: ObjectStore) -> None:
    from sagemaker_lifecycle.rollout import open_experiment

    alarms = Alarms(bucket, LAYOUT)
    alarms.put({"source": "monitor_model", "as_of": "2026-04-12T00:00:00Z", "model_package": "arn:champion", "says": "it moved"})
    run = {**RUN, "alarms": [alarms.all()[0]["id"]]}
    first = open_experiment(DOMAIN, world.context(), run, "arn:challenger", "shadow-config")
    again = open_experiment(DOMAIN, world.context(), run, "arn:challenger", "shadow-config")
    assert first == again
    experiment = world.store.get(first["experiment"])
    assert (experiment.champion.review_threshold, experiment.challenger.review_threshold) == (12.5, 0.0)
    assert (experiment.opened, experiment.stage, experiment.share) == ("2026-06-01T00:00:00Z", "shadow", 0.0)
    assert [entry.says for entry in world.store.history(experiment.id)] == ["In shadow, because of: injury_claim moved"]
    assert alarms.open() == []


def test_the_ramp_begins_with_the_floor_and_the_weights_follow(world: World) -> None:
    from sagemaker_lifecycle.rollout import enter_ramp

    experiment = to(world, "proven")
    enter_ramp(DOMAIN, experiment.id, "ramp-config", "claims_lead (good)")
    enter_ramp(DOMAIN, experiment.id, "ramp-config", "claims_lead (good)")
    present = world.store.get(experiment.id)
    assert (present.stage, present.share, present.endpoint_config) == ("ramp", DOMAIN.rollout.minimum_share, "ramp-config")
    assert world.weights == [DOMAIN.rollout.minimum_share] * 2
    assert [entry.who for entry in world.store.history(experiment.id)][1:] == ["claims_lead (good)"]
    assert present.step_began


def test_promotion_takes_all_traffic_first_and_leaves_nothing_to_return_to(world: World) -> None:
    from sagemaker_lifecycle.rollout import promote, take_all_traffic
    from sagemaker_lifecycle.rollout_end import settle

    experiment = to(world, "safe")
    take_all_traffic(experiment.id, "")
    assert (world.store.get(experiment.id).share, world.weights) == (1.0, [1.0])
    promote(experiment.id)
    world.xcoms["create_single_config", "return_value"] = "single-config"
    settled = settle(DOMAIN, world.context(finish="success"))
    assert (settled["stage"], settled["failed"]) == ("promoted", False)
    assert (settled["endpoint_config"], settled["undoing"]) == ("single-config", ["shadow-config"])
    assert world.packages == PACKAGES


@pytest.mark.parametrize("stage", ["shadow", "proven", "ramp", "safe"])
def test_a_failed_task_returns_all_traffic_to_the_champion(world: World, stage: str) -> None:
    from sagemaker_lifecycle.rollout_end import settle

    share = {"ramp": 0.05, "safe": 0.5}.get(stage, 0.0)
    experiment = to(world, stage, share=share, cap=share)
    settled = settle(DOMAIN, world.context(bring_ramp="failed", run_shadow="success"))
    assert (settled["stage"], settled["failed"]) == ("rolled_back", True)
    assert (settled["endpoint_config"], settled["undoing"]) == ("previous-config", ["shadow-config"])
    assert "bring_ramp failed" in settled["why"]
    assert (world.store.get(experiment.id).share, world.weights) == (0, [0.0])
    assert world.packages["arn:challenger"].status == "Rejected"
    assert settle(DOMAIN, world.context(bring_ramp="failed"))["version"] == settled["version"]


def test_a_person_who_does_not_release_it_stops_it(world: World) -> None:
    from sagemaker_lifecycle.rollout import refuse
    from sagemaker_lifecycle.rollout_end import settle

    experiment = to(world, "safe", share=0.5, cap=0.5)
    refuse(experiment.id, "claims_lead (not before the audit)")
    assert world.weights == [0.0]
    settled = settle(DOMAIN, world.context(run_shadow="success"))
    assert (settled["stage"], settled["failed"]) == ("stopped", False)
    assert "not before the audit" in settled["why"]


class Question(SimpleNamespace):
    """A question about the rollout's ramp, asked of claims_lead for a day."""

    operator: Any
    chosen: list[Any]

    def asked(self, context: Any) -> TaskAwaitingInput:
        with pytest.raises(TaskAwaitingInput) as waiting:
            self.operator.execute(context)
        return waiting.value

    def answered(self, context: Any, until: str, event: dict[str, Any]) -> Any:
        return self.operator.execute_complete(context, event=event, until=until)


NO_ANSWER = {"error": "no response", "error_type": "timeout"}
YES = {"chosen_options": ["Approve"], "params_input": {"why": "looks good"}, "responded_at": NOW, "responded_by_user": {"name": "claims_lead"}}


@pytest.fixture
def question(world: World, monkeypatch: pytest.MonkeyPatch) -> Question:
    from airflow.providers.standard.operators import hitl
    from sagemaker_lifecycle.rollout import AskAboutRolloutOperator

    operator = AskAboutRolloutOperator(
        task_id="ask_before_ramp", subject="Begin?", options=["Approve", "Reject"], response_timeout=timedelta(days=1),
        params={"why": Param("", type="string")}, options_mapping={"Approve": "create_ramp_config", "Reject": "refuse_ramp"},
    )  # fmt: skip
    chosen: list[Any] = []
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **_: None)
    monkeypatch.setattr(AskAboutRolloutOperator, "do_branch", lambda self, context, branches_to_execute: chosen.append(branches_to_execute))
    return Question(operator=operator, chosen=chosen)


def context_of_a_question(world: World) -> Any:
    context = world.context()
    context["ti"].xcom_push = lambda key, value: world.xcoms.update({("ask_before_ramp", key): value})
    return context | {"task_instance": SimpleNamespace(id="1")}


def test_an_answer_in_time_is_followed_and_remembered(world: World, question: Question) -> None:
    to(world, "proven")
    context = context_of_a_question(world)
    waiting = question.asked(context)
    assert timedelta(0) < waiting.timeout <= timedelta(minutes=5)
    with pytest.raises(TaskAwaitingInput) as again:  # nobody yet, and the rollout goes on
        question.answered(context, waiting.kwargs["until"], NO_ANSWER)
    assert again.value.kwargs == waiting.kwargs
    question.answered(context, waiting.kwargs["until"], YES)
    assert [list(branches) for branches in question.chosen] == [["create_ramp_config"]]
    assert world.xcoms["ask_before_ramp", "decision"] == "claims_lead (looks good)"


@pytest.mark.parametrize("event", [NO_ANSWER, YES])
def test_a_question_about_a_rollout_that_has_ended_is_taken_back(world: World, question: Question, event: dict[str, Any]) -> None:
    experiment = to(world, "proven")
    context = context_of_a_question(world)
    until = question.asked(context).kwargs["until"]
    world.store.save(world.store.get(experiment.id).but(stage="stopped", why="claims_lead asked to stop"))
    assert question.answered(context, until, event) is None
    assert question.chosen == [None]  # nothing that it would have chosen
    assert ("ask_before_ramp", "decision") not in world.xcoms


def test_a_question_that_nobody_answered_stops_it_and_is_no_failure(world: World, question: Question) -> None:
    from sagemaker_lifecycle.rollout_end import settle

    to(world, "proven")
    assert question.answered(context_of_a_question(world), "2026-06-01T00:00:00Z", NO_ANSWER) is None
    assert question.chosen == [None]
    settled = settle(DOMAIN, world.context(ask_before_ramp="success"))
    assert (settled["stage"], settled["failed"]) == ("stopped", False)
    assert "Nobody answered ask_before_ramp" in settled["why"]


def test_a_promotion_goes_no_further_where_somebody_has_stopped_it(world: World) -> None:
    from sagemaker_lifecycle.rollout import end_rollout, take_all_traffic, unless_ended

    unless_ended(world.context())  # nothing to be ended
    experiment = to(world, "safe", share=0.5, cap=0.5)
    take_all_traffic(experiment.id, "")
    unless_ended(world.context())
    end_rollout(experiment.id, "stopped", "complaints", "claims_lead")
    with pytest.raises(AirflowSkipException, match="ended as stopped: complaints"):
        unless_ended(world.context())


def test_a_promotion_that_is_done_may_be_cleared(world: World) -> None:
    from sagemaker_lifecycle.rollout import promote, take_all_traffic, unless_ended

    experiment = to(world, "safe")
    take_all_traffic(experiment.id, "")
    promote(experiment.id)
    unless_ended(world.context())


def test_a_run_that_is_cleared_in_its_ramp_finds_the_ramps_configuration(world: World) -> None:
    from sagemaker_lifecycle.rollout import open_experiment

    experiment = to(world, "proven")
    world.store.save(world.store.get(experiment.id).but(stage="ramp", endpoint_config="ramp-config"))
    again = open_experiment(DOMAIN, world.context(), RUN, "arn:challenger", "shadow-config")
    assert again == {"experiment": experiment.id, "opened": experiment.opened, "endpoint_config": "ramp-config"}


def test_a_failure_is_not_forgotten_when_settling_is_tried_again(world: World) -> None:
    from sagemaker_lifecycle.rollout_end import settle

    to(world, "ramp")
    for _ in range(2):
        assert settle(DOMAIN, world.context(run_ramp="failed"))["failed"] is True


def test_the_alarms_say_how_it_ended(world: World, bucket: ObjectStore) -> None:
    from sagemaker_lifecycle.rollout_end import settle

    to(world, "undecided", why="Neither better nor worse")
    world.xcoms["wait_for_labels", "return_value"] = {**RUN, "alarms": ["a1"]}
    settle(DOMAIN, world.context())
    assert "undecided. Neither better nor worse" in bucket.get_json(LAYOUT.handled_alarm("a1.json"))["outcome"]


def test_a_rollout_that_has_ended_is_not_begun_again(world: World) -> None:
    from sagemaker_lifecycle.rollout import open_experiment

    to(world, "promoted", share=1.0)
    with pytest.raises(AirflowSkipException, match="has ended as promoted"):
        open_experiment(DOMAIN, world.context(), RUN, "arn:challenger", "shadow-config")


def test_without_a_rollout_there_is_nothing_to_settle_but_a_failure_is_one(world: World) -> None:
    from sagemaker_lifecycle.rollout_end import settle

    with pytest.raises(AirflowSkipException, match="no rollout was begun"):
        settle(DOMAIN, world.context(train="success"))
    with pytest.raises(AirflowFailException, match="train failed before a rollout began"):
        settle(DOMAIN, world.context(train="failed"))


@pytest.mark.parametrize(
    ("stage", "asked", "policy", "then"),
    [
        ("proven", "as the domain says", Rollout(), "create_ramp_config"),
        ("proven", "as the domain says", Rollout(approve_ramp=True), "ask_before_ramp"),
        ("ramp", "as the domain says", Rollout(approve_ramp=True), "create_ramp_config"),  # cleared: it goes on
        ("proven", "ask", Rollout(), "ask_before_ramp"),
        ("safe", "as the domain says", Rollout(approve_ramp=True), "take_all_traffic"),
        ("safe", "as the domain says", Rollout(approve_promotion=True), "ask_before_promotion watch_while_asked"),
        ("rolled_back", "ask", Rollout(), None),
        ("undecided", "ask", Rollout(), None),
    ],
)
def test_what_follows_a_stage(world: World, stage: str, asked: str, policy: Rollout, then: str | None) -> None:
    from sagemaker_lifecycle.rollout_end import next_task

    world.params["approval"] = asked
    assert next_task(world.context(), replace(DOMAIN, rollout=policy), stage) == [*(then or "").split(), "settle"]


def trigger(world: World, after: str = "2026-06-01T00:00:00Z") -> Any:
    from sagemaker_lifecycle.rollout import RolloutTrigger

    present = world.store.current(DOMAIN.name)
    return RolloutTrigger(DOMAIN.name, after, present.id, present.version)


def test_the_wait_ends_for_deliveries_a_persons_wish_or_a_guardrail(world: World, bucket: ObjectStore) -> None:
    from sagemaker_lifecycle.rollout import steer

    experiment = begin(world)
    assert trigger(world).look() is None
    assert "are ingested" in trigger(world, "2026-05-31T00:00:00Z").look()["why"]
    waiting = trigger(world)
    world.params |= {"action": "stop", "share": None, "why": "the audit"}
    steer(DOMAIN, world.context())
    present = world.store.get(experiment.id)
    assert (present.stage, world.store.history(experiment.id)[-1].who) == ("stopped", "claims_lead"), "done at once"
    assert len(world.store.history(experiment.id)) == 2
    assert "version 2" in waiting.look()["why"]


def test_a_refused_steer_that_is_cleared_is_refused_again(world: World) -> None:
    """Whatever others have written since; and one that was done is done once, and goes well again."""
    from sagemaker_lifecycle.rollout import steer

    experiment = begin(world)
    world.params |= {"action": "set_share", "share": 0.2, "why": "more"}
    for _ in range(2):
        with pytest.raises(AirflowFailException, match=r"Not done \(set_share\), a share can be set in the ramp only"):
            steer(DOMAIN, world.context("early"))
    assert len(world.store.history(experiment.id)) == 2
    world.params |= {"action": "stop", "share": None, "why": "the audit"}
    stopped = steer(DOMAIN, world.context("stops"))
    assert stopped["stage"] == "stopped"
    assert steer(DOMAIN, world.context("stops")) == stopped
    world.params |= {"action": "set_share", "share": 0.2, "why": "more"}
    with pytest.raises(AirflowFailException, match="the stage is shadow"):
        steer(DOMAIN, world.context("early"))
    assert len(world.store.history(experiment.id)) == 3


def test_a_ramp_without_a_sign_of_life_from_a_gateway_is_looked_at_at_once(world: World) -> None:
    experiment = to(world, "ramp", share=0.05, cap=0.05, step=1, step_began="2026-01-01T00:00:00Z")
    assert "guardrail" in trigger(world).look()["why"]
    healthy = VariantCounts(200, 0, 0, 4, (200, *[0] * 18), (200, *[0] * 19))
    now = datetime.now(UTC).isoformat()
    world.store.put_health(experiment.id, GatewayHealth("g", 1, now, healthy, healthy))
    world.store.save(experiment.but(shadow_scores=(200, *[0] * 19)))
    assert trigger(world).look() is None
    assert world.store.watched(experiment.id), "gateways return the traffic of a split that nobody watches"


def test_what_a_person_asked_while_it_waited_is_done_before_the_next_step(world: World) -> None:
    from sagemaker_lifecycle.rollout import enter_ramp, promote, steer, take_all_traffic
    from sagemaker_lifecycle.rollout_end import settle

    experiment = to(world, "proven")
    world.params |= {"action": "stop", "share": None, "why": "the audit"}
    steer(DOMAIN, world.context())
    assert enter_ramp(DOMAIN, experiment.id, "ramp-config", "claims_lead (good)") == {"stage": "stopped", "share": 0.0}
    with pytest.raises(AirflowSkipException, match="stopped"):
        take_all_traffic(experiment.id, "")
    with pytest.raises(AirflowSkipException, match="stopped"):
        promote(experiment.id)
    assert settle(DOMAIN, world.context())["stage"] == "stopped"


def test_a_change_by_somebody_else_ends_the_wait(world: World) -> None:
    experiment = begin(world)
    waiting = trigger(world)
    world.store.save(experiment.but(why="changed"))
    assert "version 2" in waiting.look()["why"]


def test_steering_without_a_rollout_says_so(world: World) -> None:
    from sagemaker_lifecycle.rollout import steer

    world.params |= {"action": "set_share", "share": None, "why": "more"}
    with pytest.raises(AirflowFailException, match="no rollout of auto_claims is under way"):
        steer(DOMAIN, world.context())
    begin(world)
    with pytest.raises(AirflowFailException, match="wants a share"):
        steer(DOMAIN, world.context())


def test_a_challenger_that_was_compared_with_a_model_that_is_not_live_any_more_gets_no_rollout(world: World) -> None:
    world.packages["arn:other"] = replace(PACKAGES["arn:champion"], arn="arn:other")
    world.live = "arn:other"
    with pytest.raises(AirflowFailException, match="arn:other is live by now, and the challenger was compared with arn:champion"):
        begin(world)
    assert world.store.current(DOMAIN.name) is None


def test_a_run_that_was_cleared_and_made_another_challenger_leaves_nothing_of_the_first_behind(world: World) -> None:
    from sagemaker_lifecycle.rollout import open_experiment
    from sagemaker_lifecycle.rollout_end import settle

    begin(world)
    with pytest.raises(AirflowFailException, match="is about arn:challenger, and this run has made arn:champion since"):
        open_experiment(DOMAIN, world.context(), RUN, "arn:champion", "other-config")
    world.xcoms["create_shadow_config", "return_value"] = "other-config"
    settled = settle(DOMAIN, world.context(begin_shadow="failed"))
    assert settled["undoing"] == ["other-config", "shadow-config"], "the endpoint carries the first one's"


def test_an_endpoint_that_is_out_of_order_keeps_no_rollout_from_its_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from sagemaker_lifecycle import endpoints
    from sagemaker_lifecycle.rollout_end import settle

    def refused(*_: Any, **__: Any) -> None:
        asked.append(True)
        raise ClientError({"Error": {"Code": "ValidationException"}}, "UpdateEndpointWeightsAndCapacities")

    asked: list[bool] = []
    monkeypatch.setattr(endpoints, "set_weights", refused)
    to(world, "ramp", share=0.05, cap=0.05)
    settled = settle(DOMAIN, world.context(run_ramp="failed"))
    assert asked
    assert (settled["stage"], world.packages["arn:challenger"].status) == ("rolled_back", "Rejected")


def test_a_backfill_that_takes_a_run_over_leaves_its_rollout_alone(world: World) -> None:
    from sagemaker_lifecycle.rollout_end import settle

    experiment = to(world, "ramp", share=0.05, cap=0.05)
    world.run_type = "backfill"
    with pytest.raises(AirflowSkipException, match="a backfill touches nothing live"):
        settle(DOMAIN, world.context())
    assert (world.store.get(experiment.id), world.weights) == (world.store.current(DOMAIN.name), [])


def test_a_run_that_failed_has_answered_no_alarm(world: World, bucket: ObjectStore) -> None:
    from sagemaker_lifecycle.rollout import open_experiment
    from sagemaker_lifecycle.rollout_end import settle

    alarms = Alarms(bucket, LAYOUT)
    alarms.put({"source": "monitor_model", "as_of": "2026-04-12T00:00:00Z", "model_package": "arn:champion", "says": "it moved"})
    alarms.handle("another", "another run", "dropped")
    run = {**RUN, "alarms": [alarms.all()[0]["id"]]}
    open_experiment(DOMAIN, world.context(), run, "arn:challenger", "shadow-config")
    assert alarms.open() == []
    settle(DOMAIN, world.context(bring_shadow="failed"))
    assert [alarm["id"] for alarm in alarms.open()] == run["alarms"]
    assert bucket.exists(LAYOUT.handled_alarm("another.json"))


def test_what_rang_about_the_same_model_until_the_as_of_is_answered_too(world: World, bucket: ObjectStore) -> None:
    alarms = Alarms(bucket, LAYOUT)
    for as_of, model in (("2026-05-20", "arn:champion"), ("2026-06-02", "arn:champion"), ("2026-05-20", "arn:other")):
        alarms.put({"source": "monitor_model", "as_of": f"{as_of}T00:00:00Z", "model_package": model, "says": "it moved"})
    begin(world)
    assert [(alarm["as_of"][:10], alarm["model_package"]) for alarm in alarms.open()] == [
        ("2026-05-20", "arn:other"),
        ("2026-06-02", "arn:champion"),
    ]


@pytest.mark.parametrize(
    ("status", "decision", "after"),
    [
        ("PendingManualApproval", "", "Rejected"),
        ("Approved", "Approved by the rollout: rollout {id}, safe", "Rejected"),
        ("Approved", "Approved by claims_lead (it is good)", "Approved"),
    ],
)
def test_a_persons_word_on_the_package_stands(world: World, status: str, decision: str, after: str) -> None:
    from sagemaker_lifecycle.rollout_end import settle

    experiment = to(world, "safe", share=1.0, cap=1.0)
    world.decided("arn:challenger", status, decision.format(id=experiment.id))
    settle(DOMAIN, world.context(bring_single="failed"))
    assert world.packages["arn:challenger"].status == after


def test_marking_a_question_as_done_is_no_answer(world: World) -> None:
    from sagemaker_lifecycle.rollout_end import released_by

    assert released_by(world.context(), "ask_before_promotion") == ""
    world.xcoms["choose_after_ramp", "return_value"] = ["ask_before_promotion", "watch_while_asked", "settle"]
    with pytest.raises(AirflowFailException, match="nobody has answered ask_before_promotion"):
        released_by(world.context(), "ask_before_promotion")
    assert released_by(world.context(), "ask_before_ramp") == ""
    world.xcoms["ask_before_promotion", "decision"] = "claims_lead (good)"
    assert released_by(world.context(), "ask_before_promotion") == "claims_lead (good)"


def test_a_command_is_for_the_rollout_that_it_was_given_to(world: World) -> None:
    from sagemaker_lifecycle.rollout import steer
    from sagemaker_lifecycle.rollout_end import settle

    first = begin(world)
    world.params |= {"action": "stop", "share": None, "why": "the audit"}
    steer(DOMAIN, world.context("steering"))
    settle(DOMAIN, world.context())
    second = world.store.create(replace(first, id="second", stage="shadow", share=0.0))
    assert steer(DOMAIN, world.context("steering"))["experiment"] == first.id, "cleared weeks later"
    assert world.store.get("second") == second


def test_a_command_that_makes_no_sense_fails_with_the_reason(world: World) -> None:
    from sagemaker_lifecycle.rollout import steer

    begin(world)
    world.params |= {"action": "set_share", "share": 0.2, "why": "more"}
    with pytest.raises(AirflowFailException, match="a share can be set in the ramp only, and the stage is shadow"):
        steer(DOMAIN, world.context())


def stage_operator(world: World, stage: str) -> Any:
    from sagemaker_lifecycle.rollout import RolloutStageOperator

    identity = world.store.current(DOMAIN.name).id
    return RolloutStageOperator(task_id=f"run_{stage}", domain=DOMAIN.name, experiment=identity, stage=stage)


def test_a_look_at_the_ramp_mirrors_its_share_and_reads_its_own_days_only(world: World, bucket: ObjectStore) -> None:
    from sagemaker_lifecycle.rollout import enter_ramp

    experiment = to(world, "proven")
    enter_ramp(DOMAIN, experiment.id, "ramp-config", "")
    world.weights.clear()
    look = stage_operator(world, "ramp")
    asked = look.ask(world.context(), datetime(2026, 6, 9, tzinfo=UTC))
    assert world.weights == [DOMAIN.rollout.minimum_share]
    began = datetime.fromisoformat(world.store.get(experiment.id).ramp_began)
    assert (began.date() - datetime.fromisoformat(asked["decided-since"]).date()).days in (0, 1)
    assert Experiment.of_json(bucket.get_json(bucket.key(asked["experiment"]))).stage == "ramp"
    assert [entry["stage"] for entry in bucket.get_json(bucket.key(asked["history"]))["entries"]] == ["shadow", "ramp"]
    assert look.ask(world.context(), NOW) is None, "up to then it was looked at"


def test_an_endpoint_that_somebody_has_changed_in_the_ramp_is_a_failure(world: World) -> None:
    to(world, "ramp", share=0.05, cap=0.05, step_began=datetime.now(UTC).isoformat())
    world.variants = {"champion"}
    with pytest.raises(AirflowFailException, match="carries"):
        stage_operator(world, "ramp").ask(world.context(), NOW)


@pytest.mark.parametrize("watched", ["ramp", "safe"])
def test_a_look_after_the_end_finds_the_endpoint_settled_and_is_content(world: World, watched: str) -> None:
    experiment = to(world, watched, share=0.05, cap=0.05)
    look = stage_operator(world, watched)
    world.store.save(experiment.but(stage="stopped", share=0.0, why="Not released"))
    world.variants = {"champion"}
    assert look.ask(world.context(), NOW) is None
    assert look.conclude(world.context(), None)["stage"] == "stopped"
