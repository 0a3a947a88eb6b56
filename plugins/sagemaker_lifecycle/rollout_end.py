"""What follows each stage of a rollout, and its end, whatever happened: one state in the store, the registry, the alarms and the endpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from include import settings as places
from include.lifecycle.rollout import POLICY
from sagemaker_lifecycle.retraining import handle_alarms, reject, reopen_alarms
from sagemaker_lifecycle.rollout import end_rollout, experiment_id, keep_history, mirror_share
from sagemaker_lifecycle.tasks import experiment_store, is_backfill

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from include.lifecycle.domain import Domain
    from include.lifecycle.experiment import Experiment

log = logging.getLogger(__name__)


def next_task(context: Context, domain: Domain, stage: str) -> list[str]:
    """Which task follows a stage that came to ``stage``; ``settle``, which waits for all others, always does."""
    routes = {
        "proven": ("ask_before_ramp", "create_ramp_config", domain.rollout.approve_ramp),
        "ramp": ("", "create_ramp_config", False),  # a run that was cleared goes on where it was
        "safe": ("ask_before_promotion", "take_all_traffic", domain.rollout.approve_promotion),
    }
    if stage not in routes:
        return ["settle"]
    ask, go_on, by_domain = routes[stage]
    if not ask or not (by_domain or context["params"]["approval"] == "ask"):
        return [go_on, "settle"]
    return [ask, *(["watch_while_asked"] if stage == "safe" else []), "settle"]


def released_by(context: Context, ask: str) -> str:
    """Who answered the question ``ask``, and why; empty where nobody was to be asked. Fails where somebody was and has not: marking the question as
    done is not an answer."""
    ti = context["ti"]
    decision: str = ti.xcom_pull(task_ids=ask, key="decision") or ""
    asked = any(ask in (ti.xcom_pull(task_ids=choice) or ()) for choice in ("choose_after_shadow", "choose_after_ramp"))
    if asked and not decision:
        raise AirflowFailException(f"nobody has answered {ask}: the challenger gets no more traffic without it")
    return decision


def settle(domain: Domain, context: Context) -> dict[str, Any]:
    """Whatever happened: the rollout has an end, in the store, in the registry and on its alarms, and says which configuration the endpoint is to
    carry. One that has not ended by itself is rolled back: a task of the run failed.

    Returns ``experiment``, ``version``, ``stage``, ``why``, ``failed``, ``endpoint_config`` (the endpoint's in the end), ``undoing`` (this run's
    other ones: what else the endpoint carries is somebody else's, and left alone) and ``history`` (URI of what the page is made of). Skips where
    there was no rollout, and in a backfill: also in one that has taken over a run that once had a rollout.
    """
    if is_backfill(context):
        raise AirflowSkipException("a backfill touches nothing live")
    store, identity, ti, run_id = experiment_store(), experiment_id(context), context["ti"], context["dag_run"].run_id
    states = ti.get_task_states(dag_id=context["dag_run"].dag_id, run_ids=[run_id]).get(run_id, {})
    failures = {task for task, state in states.items() if state == "failed"}
    present = store.find(identity)
    if present is None and failures:
        raise AirflowFailException(f"{_listed(failures)} failed before a rollout began: nothing live was touched, and the alarms stay open")
    if present is None:
        raise AirflowSkipException("no rollout was begun")
    if not present.ended:
        why = f"{_listed(failures) or 'A task of the run'} failed: the champion has all traffic again."
        present = end_rollout(identity, "rolled_back", why, POLICY)
        _return_traffic(present)
    if present.stage != "promoted":
        why = f"Rejected: rollout {present.id} ended as {present.stage}: {present.why}"
        reject(present.challenger.model_package, why, approved_by=f"rollout {present.id}")
    if failures:
        reopen_alarms(domain, run_id)
    else:
        handle_alarms(domain, ti.xcom_pull(task_ids="wait_for_labels"), run_id, f"rollout {identity}: {present.stage}. {present.why}")
    configs = {name: ti.xcom_pull(task_ids=f"create_{name}_config") for name in ("shadow", "ramp", "single")}
    target = configs["single"] if present.stage == "promoted" else ti.xcom_pull(task_ids="plan", key="previous_config")
    configs["experiment"] = present.endpoint_config  # of an earlier try, if the run was cleared with other code since
    return {
        "experiment": identity,
        "version": present.version,
        "stage": present.stage,
        "why": present.why,
        "failed": bool(failures),
        "endpoint_config": target,
        "undoing": sorted({config for config in configs.values() if config and config != target}),
        "history": keep_history(store, present),
    }


def _listed(tasks: set[str]) -> str:
    return ", ".join(sorted(tasks))


def _return_traffic(experiment: Experiment) -> None:
    """Gateways have it from the store already. Where the endpoint cannot take it now, ``settle_endpoint`` mends the endpoint."""
    try:
        mirror_share(experiment)
    except Exception as error:  # nothing may keep a rollout from its end
        log.warning("the endpoint's weights could not be changed: %r", error)


def tell_of_rollout(domain: Domain, settled: Mapping[str, Any], page: str | None) -> None:
    """Tells people how the rollout ended; fails where a task of the run did."""
    from airflow.providers.amazon.aws.hooks.sns import SnsHook

    place = places.current()
    says = f"{domain.title}: the rollout {settled['experiment']} ended as {settled['stage']}: {settled['why']}"
    shown = place.browser_url(page) if page else "none"
    SnsHook(aws_conn_id=place.aws_conn_id).publish_to_target(
        place.alerts_topic_arn,
        f"{says}\nPage: {shown}\nOwner: {domain.owner.email}",
        subject=f"Rollout {settled['stage']}: {domain.name}"[:100],
    )
    log.info("%s (%s)", says, shown)
    if settled["failed"]:
        raise AirflowFailException(says)
