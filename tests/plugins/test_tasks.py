"""What the small tasks decide."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from include.domains import get
from include.lifecycle.domain import Approval

DOMAIN = get("auto_claims")
AUTOMATIC = replace(DOMAIN, approval=Approval(automatic=True))


@pytest.fixture(autouse=True)
def airflow_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("domain", "asked", "history", "gate_passed", "route"),
    [
        (DOMAIN, "as the domain says", False, True, "ask_for_approval"),
        (AUTOMATIC, "as the domain says", False, True, "approve"),
        (DOMAIN, "automatic", False, True, "approve"),
        (AUTOMATIC, "ask", False, True, "ask_for_approval"),
        (AUTOMATIC, "automatic", False, False, None),
        (AUTOMATIC, "automatic", True, True, None),
    ],
)
def test_approval_route(domain: Any, asked: str, history: bool, gate_passed: bool, route: str | None) -> None:
    from sagemaker_lifecycle.tasks import approval_route

    assert approval_route(domain, asked, history, gate_passed) == route


def test_a_run_keeps_its_first_answer() -> None:
    from sagemaker_lifecycle.tasks import kept_for_the_run

    stored: dict[str, Any] = {}
    store = SimpleNamespace(get=stored.get, set=lambda key, value, retention: stored.update({key: value}))
    context: Any = {"task_state_store": store, "dag_run": SimpleNamespace(run_type="scheduled")}
    assert kept_for_the_run(context, lambda: {"as_of": "first"}) == {"as_of": "first"}
    assert kept_for_the_run(context, lambda: {"as_of": "second"}) == {"as_of": "first"}
    taken_over: Any = context | {"dag_run": SimpleNamespace(run_type="backfill")}
    assert kept_for_the_run(taken_over, lambda: {"as_of": "of the backfill"}) == {"as_of": "of the backfill"}
    assert kept_for_the_run(taken_over, lambda: {"as_of": "second"}) == {"as_of": "of the backfill"}


ARN = "arn:aws:sagemaker:us-east-1:000000000000:model-package/auto-claims/{}"


def package(version: int, status: str = "Approved", arn: str = ARN) -> Any:
    from include.stores.registry import ModelPackage

    return ModelPackage(arn.format(version), version, status, "s3://b/m", {"smoke_test": "s3://b/smoke_test.json"})


def plan(
    monkeypatch: pytest.MonkeyPatch,
    packages: list[Any],
    asked: str | None = None,
    rung: str | None = None,
    live: Any = None,
    rollout: Any = None,
) -> dict[str, Any]:
    from sagemaker_lifecycle import tasks

    known = {each.arn: each for each in packages}
    registry = SimpleNamespace(package=known.__getitem__, newest_approved=lambda _: packages[-1] if packages else None, live=lambda _: live)
    monkeypatch.setattr(tasks, "model_registry", lambda: registry)
    monkeypatch.setattr(tasks, "experiment_store", lambda: SimpleNamespace(current=lambda _: rollout))
    events = {"asset": [SimpleNamespace(extra={"model_package": rung})]} if rung else {}
    context: Any = {"params": {"model_package": asked}, "triggering_asset_events": events}
    return tasks.plan_deployment(DOMAIN, context)


def test_a_deployment_does_not_take_the_endpoint_from_a_rollout_unless_a_person_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    rollout = SimpleNamespace(id="e1", stage="shadow", ended=False)
    with pytest.raises(AirflowSkipException, match="rollout e1 has the endpoint"):
        plan(monkeypatch, [package(3)], rollout=rollout)
    assert plan(monkeypatch, [package(3)], asked=ARN.format(3), rollout=rollout)["model_package"] == ARN.format(3)
    assert plan(monkeypatch, [package(3)], rollout=SimpleNamespace(id="e1", stage="promoted", ended=True))


def test_what_is_deployed_and_what_it_would_return_to(monkeypatch: pytest.MonkeyPatch) -> None:
    from include.stores.registry import LiveEndpoint

    assert plan(monkeypatch, [package(1), package(2)])["model_package"] == ARN.format(2)
    assert plan(monkeypatch, [package(1), package(2)], rung=ARN.format(1))["model_package"] == ARN.format(1)
    assert plan(monkeypatch, [package(1)])["previous_config"] == ""
    for status in ("InService", "SystemUpdating", "Updating", "UpdateRollbackFailed"):
        live = LiveEndpoint("auto-claims-endpoint", status, "config-1", ARN.format(1))
        assert plan(monkeypatch, [package(1), package(2)], live=live)["previous_config"] == "config-1", status


def test_an_old_model_goes_live_only_by_a_persons_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    from include.stores.registry import LiveEndpoint

    live = LiveEndpoint("auto-claims-endpoint", "InService", "config-2", ARN.format(2))
    with pytest.raises(AirflowSkipException, match="is live and newer"):
        plan(monkeypatch, [package(1), package(2)], rung=ARN.format(1), live=live)
    assert plan(monkeypatch, [package(1), package(2)], asked=ARN.format(1), live=live)["model_package"] == ARN.format(1)


@pytest.mark.parametrize(
    ("packages", "message"),
    [
        ([package(1, "PendingManualApproval")], "only an approved package"),
        ([package(1, "Rejected")], "only an approved package"),
        ([package(1, arn=ARN.replace("auto-claims", "card-payments"))], "not one of the models of auto_claims"),
        ([package(1, arn=ARN.replace("auto-claims", "auto-claims-history"))], "not one of the models"),
        ([], "has no approved model package"),
    ],
)
def test_what_is_never_deployed(monkeypatch: pytest.MonkeyPatch, packages: list[Any], message: str) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    with pytest.raises(AirflowFailException, match=message):
        plan(monkeypatch, packages, asked=packages[0].arn if packages else None)


@pytest.mark.parametrize(("answer", "passes"), [("0.1\n0.2\n", True), ("0.9\n0.2\n", False), ("nan\n0.2\n", False), ("0.1\n", False)])
def test_a_smoke_test_passes_only_where_every_score_is_the_one_expected(monkeypatch: pytest.MonkeyPatch, answer: str, passes: bool) -> None:
    from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook
    from airflow.sdk.exceptions import AirflowFailException
    from sagemaker_lifecycle import tasks

    expected = {"rows": [[1.0, None], [2.0, 3.0]], "scores": [0.1, 0.2]}
    monkeypatch.setattr(tasks, "object_store", lambda: SimpleNamespace(key=str, get_json=lambda _: expected))
    sent: list[bytes] = []

    def invoke_endpoint(Body: bytes, **_: Any) -> dict[str, Any]:
        sent.append(Body)
        return {"Body": io.BytesIO(answer.encode()), "InvokedProductionVariant": "champion"}

    monkeypatch.setattr(AwsGenericHook, "conn", SimpleNamespace(invoke_endpoint=invoke_endpoint))
    if passes:
        tasks.run_smoke_test("endpoint", "s3://b/smoke_test.json")
        assert sent == [b"1.0,\n2.0,3.0"]
    else:
        with pytest.raises(AirflowFailException):
            tasks.run_smoke_test("endpoint", "s3://b/smoke_test.json")


@pytest.mark.parametrize(
    ("status", "route", "decision", "now", "message"),
    [
        ("Approved", "ask_for_approval", "", "PendingManualApproval", "nobody has decided"),
        ("Rejected", "ask_for_approval", "", "PendingManualApproval", "nobody has decided"),
        ("Approved", "approve", "", "Rejected", "has been Rejected since"),
    ],
)
def test_marking_a_question_as_done_is_not_an_answer(
    monkeypatch: pytest.MonkeyPatch, status: str, route: str, decision: str, now: str, message: str
) -> None:
    from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
    from airflow.sdk.exceptions import AirflowFailException
    from sagemaker_lifecycle.registry import SetApprovalOperator

    monkeypatch.setattr(SageMakerHook, "conn", SimpleNamespace(describe_model_package=lambda **_: {"ModelApprovalStatus": now}))
    name = {"Approved": "approve", "Rejected": "reject"}[status]
    operator = SetApprovalOperator(task_id=name, model_package=ARN.format(1), status=status, route=route, decision=decision)
    with pytest.raises(AirflowFailException, match=message):
        operator.execute({})
