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
from sagemaker_lifecycle.tasks import experiment_store, is_backfill, model_registry, object_store
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

    Returns ``as_of``, ``history``, ``champion`` (``model_package``, ``model``; None in a backfill), ``since`` (day), ``alarms`` (their ids), ``why``.
    Skips where no model is live, where a rollout is under way, and where a bell rang for alarms that are all handled.
    """
    run = context["dag_run"]
    if is_backfill(context):
        as_of = resolve(context["params"]["as_of"], run.data_interval_end, run.logical_date, run.run_after)
        return {"as_of": iso(as_of), "history": True, "champion": None, "since": None, "alarms": [], "why": "a backfill: retraining, and no more"}
    champion = model_registry().champion(domain.name)
    if champion is None:
        raise AirflowSkipException(f"{domain.name} has no live endpoint: train, approve and deploy a first model")
    present = experiment_store().current(domain.name)
    if present and not present.ended:
        raise AirflowSkipException(f"rollout {present.id} is in its stage {present.stage!r}: end it first (docs/rollout.md), or let it end")
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
    """Notes on each alarm that the run acted on what became of it."""
    for identity in run["alarms"]:
        _alarms(domain).handle(identity, by, outcome)


class WaitForLabelsOperator(WatchingOperator):
    """Waits for enough matured truth since a drift began, and gives the run its as-of: the watermark at which there was enough.

    With alarms it waits until ``Rollout.wait_at_most`` after the alarm, then trains with what there is or gives up, as the domain says. Without (the
    calendar began the run) it looks once, and skips where there is too little. In a backfill it asks nothing.

    :param run: ``read_alarms``' answer, templated
    :return: ``run`` with the new ``as_of``, and ``frauds`` (matured ones since then; None in a backfill)
    """

    template_fields: Sequence[str] = (*DomainProcessingOperator.template_fields, "run")

    def __init__(self, *, run: Any, **kwargs: Any) -> None:
        super().__init__(job="count-labels", arguments={}, **kwargs)
        self.run = run

    def ask(self, context: Context, watermark: datetime | None) -> dict[str, Any] | None:
        if self.run["history"]:
            return None
        as_of = max(utc(self.run["as_of"]), watermark or utc(self.run["as_of"]))
        self.looked_at = iso(as_of)
        domain = domains.get(self.domain)
        deadline = utc(self.run["as_of"]) + domain.rollout.wait_at_most
        if self.run["alarms"] and utc(self.run["since"]) + domain.label.maturity >= as_of and as_of < deadline:
            return None  # nothing that happened since then can have matured
        return {"since": self.run["since"], "as-of": iso(as_of)}

    def conclude(self, context: Context, found: dict[str, Any] | None) -> dict[str, Any] | None:
        if found is None:
            return {**self.run, "frauds": None} if self.run["history"] else None
        from include.lifecycle.labels_wanted import wanted_frauds

        domain = domains.get(self.domain)
        policy, wanted = domain.rollout, wanted_frauds(domain)
        known = f"{found['frauds']} of {wanted} matured frauds since {found['since']} are known at {found['as_of']}"
        self.log.info("%s (%s events)", known, found["events"])
        enough = {**self.run, "as_of": found["as_of"], "frauds": found["frauds"]}
        if found["frauds"] >= wanted:
            return enough
        if not self.run["alarms"]:
            raise AirflowSkipException(f"too little new truth to learn from: {known}")
        deadline = utc(self.run["as_of"]) + policy.wait_at_most
        if utc(found["as_of"]) < deadline:
            self.looked_at = found["as_of"]  # the worker that reads the answer is not the one that asked
            return None
        if policy.at_deadline == "train":
            self.log.warning("%s: the deadline %s has passed, and the domain says to train with what there is", known, iso(deadline))
            return enough
        handle_alarms(domain, self.run, context["dag_run"].run_id, f"given up at {iso(deadline)}: {known}")
        raise AirflowSkipException(f"given up at the deadline {iso(deadline)}: {known}")

    def trigger(self) -> WatermarkTrigger:
        return WatermarkTrigger(self.domain, self.looked_at)


def offline_verdict(domain: Domain, run: Mapping[str, Any], evaluation: Mapping[str, Any], gate_passed: bool) -> str | None:
    """Why the challenger ends here, or None: it passed the gate, and on the same later events it saved more than the champion."""
    if run["history"]:
        return "a backfill: its model is in the registry's history group, and nothing live is touched"
    if not gate_passed:
        return "the gate refused it: " + " ".join(evaluation["gate"]["reasons"])
    champion = evaluation["champion"] or {}
    if champion.get("other_features"):
        return f"{champion['other_features']}: no copy of a live request means the same to both. Deploy it by train_model's approval instead"
    difference = (champion.get("differences") or {}).get("savings")
    if difference is None or difference["value"] is None:
        return "it could not be compared with the champion on the same events"
    shown = f"{difference['value']:+.3f} of the cost without a model ({difference['low']:+.3f} to {difference['high']:+.3f})"
    log.info("savings against the champion on the same events: %s", shown)
    return None if difference["value"] > 0 else f"it saves no more than the champion on the same events: {shown}"


def close_without_rollout(domain: Domain, context: Context, run: Mapping[str, Any], model_package: str, why: str) -> None:
    """The challenger ends here: its package says why, and so do the alarms that asked for it."""
    if run["history"]:
        raise AirflowSkipException(why)
    log.info("%s ends here: %s", model_package, why)
    model_registry().set_status(model_package, "Rejected", f"Rejected: {why}"[:1024])
    handle_alarms(domain, run, context["dag_run"].run_id, f"retrained as of {run['as_of']}: {model_package}; {why}")
