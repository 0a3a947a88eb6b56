"""What the small tasks decide."""

from __future__ import annotations

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
    context: Any = {"task_state_store": SimpleNamespace(get=stored.get, set=stored.__setitem__)}
    assert kept_for_the_run(context, lambda: {"as_of": "first"}) == {"as_of": "first"}
    assert kept_for_the_run(context, lambda: {"as_of": "second"}) == {"as_of": "first"}


@pytest.mark.parametrize(
    ("status", "message"), [("PendingManualApproval", "only an approved package"), ("Rejected", "only an approved package")]
)
def test_only_an_approved_package_is_deployed(monkeypatch: pytest.MonkeyPatch, status: str, message: str) -> None:
    from airflow.sdk.exceptions import AirflowFailException
    from sagemaker_lifecycle import tasks

    from include.stores.registry import ModelPackage

    arn = "arn:aws:sagemaker:us-east-1:000000000000:model-package/auto-claims/1"
    registry = SimpleNamespace(package=lambda _: ModelPackage(arn, 1, status, "s3://b/m"), newest_approved=lambda _: None)
    monkeypatch.setattr(tasks, "_registry", lambda: registry)
    with pytest.raises(AirflowFailException, match=message):
        tasks.plan_deployment(DOMAIN, {"params": {"model_package": arn}})
    with pytest.raises(AirflowFailException, match="has no approved model package"):
        tasks.plan_deployment(DOMAIN, {"params": {"model_package": None}})
