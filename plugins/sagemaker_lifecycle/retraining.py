"""Why to retrain, with how much truth, and whether what came of it is worth a rollout: the first tasks of ``retrain_and_rollout``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from include import domains
from include.lifecycle.as_of import iso, resolve, utc
from include.stores.layout import Layout
from sagemaker_lifecycle.jobs import DomainProcessingOperator
from sagemaker_lifecycle.tasks import experiment_store, is_backfill, keep_answer, kept_answer, model_registry, object_store
from sagemaker_lifecycle.watermark import WatchingOperator, WatermarkTrigger, watermark_of

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from include.lifecycle.domain import Domain
    from include.stores.registry import ModelPackage

log = logging.getLogger(__name__)


def read_alarms(domain: Domain, context: Context) -> dict[str, Any]:
    """Whether there is anything to learn from, and since when.

    Open alarms about another model than the live one, or (from outside) from before the instant the live one was trained as of, are dropped, with
    that as their outcome. Without any left, a run that the calendar began goes on with ``alarms`` empty: ``wait_for_labels`` then asks for new truth
    since the champion's training, and does not wait for it.

    Returns ``as_of``, ``history``, ``champion`` (``model_package``, ``model``; None in a backfill), ``since`` (day), ``alarms`` (their ids),
    ``deadline`` (until when labels are waited for; None without alarms), ``why``. Skips where no model is live, where a rollout is under way, and
    where a bell rang for alarms that are all handled; fails where an earlier rollout has left its second model on the endpoint.
    """
    run = context["dag_run"]
    if is_backfill(context):
        as_of = resolve(context["params"]["as_of"], run.data_interval_end, run.logical_date, run.run_after)
        nothing_live = {"champion": None, "since": None, "alarms": [], "deadline": None, "why": "a backfill: retraining, and no more"}
        return {"as_of": iso(as_of), "history": True, **nothing_live}
    champion = model_registry().champion(domain.name)
    if champion is None:
        raise AirflowSkipException(f"{domain.name} has no live endpoint: train, approve and deploy a first model")
    present = experiment_store().current(domain.name)
    if present and not present.ended:
        raise AirflowSkipException(f"rollout {present.id} is in its stage {present.stage!r}: end it first (docs/rollout.md), or let it end")
    live = model_registry().live(domain.name)
    if live and not live.alone:
        raise AirflowFailException(
            f"{live.name} carries {live.config}, with a second model that an earlier rollout has left there (was its run marked as failed, or "
            f"deleted?): deploy the live model alone, by {domain.name}.deploy_model with {champion.arn}, then trigger this DAG"
        )
    watermark = watermark_of(domain.name)
    as_of = utc(context["params"]["as_of"]) if context["params"]["as_of"] else watermark
    if as_of is None:
        raise AirflowFailException(f"nothing says up to when the deliveries of {domain.name} are ingested: run {domain.name}.ingest_data")
    alarms, dropped = _sorted_out(domain, champion)
    for identity, why in dropped.items():
        _alarms(domain).handle(identity, run.run_id, why)
        log.info("alarm %s is dropped: %s", identity, why)
    if not alarms and context.get("triggering_asset_events"):
        raise AirflowSkipException("the alarms that rang are handled")
    trained_until = utc(champion.metadata["as_of"]).date()
    since = min((alarm["since"] or alarm["as_of"][:10] for alarm in alarms), default=trained_until.isoformat())
    says = "; ".join(alarm["says"] for alarm in alarms) or f"no alarm: the calendar's look at what was learned since {trained_until}"
    log.info("%s", says)
    return {
        "as_of": iso(max([as_of, *(utc(alarm["as_of"]) for alarm in alarms)])),
        "history": False,
        "champion": {"model_package": champion.arn, "model": champion.model},
        "since": since,
        "alarms": [alarm["id"] for alarm in alarms],
        "deadline": iso(max(utc(alarm["as_of"]) for alarm in alarms) + domain.rollout.wait_at_most) if alarms else None,
        "why": says[:2000],
    }


def _sorted_out(domain: Domain, champion: ModelPackage) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The open alarms to act on; and those to drop, id → why."""
    kept: list[dict[str, Any]] = []
    dropped: dict[str, str] = {}
    for alarm in _alarms(domain).open():
        if alarm["model_package"] and alarm["model_package"] != champion.arn:
            dropped[alarm["id"]] = f"it is about {alarm['model_package']}, and {champion.arn} is live"
        elif utc(alarm["as_of"]) <= utc(champion.metadata["as_of"]):
            dropped[alarm["id"]] = f"it is older than what the live model was trained on ({champion.metadata['as_of']})"
        else:
            kept.append(alarm)
    return kept, dropped


def _alarms(domain: Domain) -> Any:
    from include.stores.alarms import Alarms

    return Alarms(object_store(), Layout(domain.name))


def handle_alarms(domain: Domain, run: Mapping[str, Any], by: str, outcome: str) -> None:
    """Notes what became of each alarm that the run acted on, and of those that rang about the same model until the run's as-of: what it learned from
    answers them, too."""
    rang = [alarm for alarm in _alarms(domain).open() if run["champion"] and alarm["model_package"] == run["champion"]["model_package"]]
    for identity in {*run["alarms"], *(alarm["id"] for alarm in rang if utc(alarm["as_of"]) <= utc(run["as_of"]))}:
        _alarms(domain).handle(identity, by, outcome)


def reopen_alarms(domain: Domain, by: str) -> None:
    """A run that failed has answered nothing: what it took up waits for the next one."""
    for identity in _alarms(domain).reopen(by):
        log.info("alarm %s is open again", identity)


class WaitForLabelsOperator(WatchingOperator):
    """Waits for enough matured truth since a drift began, and gives the run its as-of: the watermark at which there was enough.

    With alarms it waits until ``Rollout.wait_at_most`` after the last of them, then trains with what there is or gives up, as the domain says.
    Without (the calendar began the run) it looks once, and skips where there is too little. In a backfill it asks nothing. Cleared, it gives the
    same answer again: a run has one as-of, and so one challenger.

    :param run: ``read_alarms``' answer, templated
    :return: ``run`` with the new ``as_of``, and ``frauds`` (matured ones since then; None in a backfill)
    """

    template_fields: Sequence[str] = (*DomainProcessingOperator.template_fields, "run")

    def __init__(self, *, run: Any, **kwargs: Any) -> None:
        super().__init__(job="count-labels", arguments={}, **kwargs)
        self.run = run

    def execute(self, context: Context) -> dict[str, Any]:
        return kept_answer(context) or super().execute(context)

    def ask(self, context: Context, watermark: datetime | None) -> dict[str, Any] | None:
        if self.run["history"]:
            return None
        as_of = max(utc(self.run["as_of"]), watermark or utc(self.run["as_of"]))
        self.looked_at = iso(as_of)
        if self._waits_at(as_of) and utc(self.run["since"]) + domains.get(self.domain).label.maturity >= as_of:
            return None  # nothing that happened since then can have matured
        return {"since": self.run["since"], "as-of": iso(as_of)}

    def conclude(self, context: Context, found: dict[str, Any] | None) -> dict[str, Any] | None:
        if found is None:
            return keep_answer(context, {**self.run, "frauds": None}) if self.run["history"] else None
        from include.lifecycle.labels_wanted import wanted_frauds

        domain = domains.get(self.domain)
        policy, wanted = domain.rollout, wanted_frauds(domain)
        known = f"{found['frauds']} of {wanted} matured frauds since {found['since']} are known at {found['as_of']}"
        self.log.info("%s (%s events)", known, found["events"])
        enough = {**self.run, "as_of": found["as_of"], "frauds": found["frauds"]}
        if found["frauds"] >= wanted:
            return keep_answer(context, enough)
        if not self.run["alarms"]:
            raise AirflowSkipException(f"too little new truth to learn from: {known}")
        if self._waits_at(utc(found["as_of"])):
            self.looked_at = found["as_of"]  # the worker that reads the answer is not the one that asked
            return None
        deadline = self.run["deadline"]
        if policy.at_deadline == "train":
            self.log.warning("%s: the deadline %s has passed, and the domain says to train with what there is", known, deadline)
            return keep_answer(context, enough)
        handle_alarms(domain, self.run, context["dag_run"].run_id, f"given up at {deadline}: {known}")
        raise AirflowSkipException(f"given up at the deadline {deadline}: {known}")

    def _waits_at(self, as_of: datetime) -> bool:
        return bool(self.run["alarms"]) and as_of < utc(self.run["deadline"])

    def trigger(self) -> WatermarkTrigger:
        return WatermarkTrigger(self.domain, self.looked_at)


def offline_verdict(domain: Domain, run: Mapping[str, Any], evaluation: Mapping[str, Any], gate_passed: bool) -> str | None:
    """Why the challenger ends here, or None: it passed the gate, and on the same later events it saved more than the champion."""
    if run["history"]:
        return "a backfill: its model is in the registry's history group, and nothing live is touched"
    if not gate_passed:
        return "the gate refused it: " + " ".join(evaluation["gate"]["reasons"])
    if other := other_champion(domain, run):
        return other
    champion = evaluation["champion"] or {}
    if champion.get("other_features"):
        return (
            f"{champion['other_features']}: no copy of a live request means the same to both. Deploy it by train_model's approval instead"
        )
    difference = (champion.get("differences") or {}).get("savings")
    if difference is None or difference["value"] is None:
        return "it could not be compared with the champion on the same events"
    shown = f"{difference['value']:+.3f} of the cost without a model ({difference['low']:+.3f} to {difference['high']:+.3f})"
    log.info("savings against the champion on the same events: %s", shown)
    return None if difference["value"] > 0 else f"it saves no more than the champion on the same events: {shown}"


def other_champion(domain: Domain, run: Mapping[str, Any]) -> str | None:
    """What the run's champion is no longer, where another model was deployed while it waited for labels; None where it is the live one."""
    live, known = model_registry().champion(domain.name), run["champion"]["model_package"]
    if live and live.arn == known:
        return None
    return f"{live.arn if live else 'no model'} is live by now, and the challenger was compared with {known}: trigger the DAG again"


def close_without_rollout(domain: Domain, context: Context, run: Mapping[str, Any], model_package: str, why: str) -> None:
    """The challenger ends here: its package says why, and so do the alarms that asked for it."""
    if run["history"]:
        raise AirflowSkipException(why)
    log.info("%s ends here: %s", model_package, why)
    reject(model_package, f"Rejected: {why}")
    handle_alarms(domain, run, context["dag_run"].run_id, f"retrained as of {run['as_of']}: {model_package}; {why}")


def reject(model_package: str, why: str, approved_by: str | None = None) -> None:
    """Rejects a package that nobody has decided about since it was registered; and one whose approval names ``approved_by``. What a person has said
    later stands."""
    package = model_registry().package(model_package)
    if package.status == "PendingManualApproval" or (package.status == "Approved" and approved_by and approved_by in package.decision):
        model_registry().set_status(model_package, "Rejected", why[:1024])
    else:
        log.info("%s stays %s (%s)", model_package, package.status, package.decision)
