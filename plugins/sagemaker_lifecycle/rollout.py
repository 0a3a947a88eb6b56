"""A rollout's tasks: they open the experiment, take it through its stages, and leave the endpoint, the registry and the store in one state.

What is decided, ``include.lifecycle.rollout`` decides, from evidence that a job computed; here it is stored and done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from include import settings as places
from include.lifecycle.as_of import iso, utc
from include.lifecycle.experiment import CHALLENGER, CHAMPION, Command, Contender, Experiment, Stage
from include.lifecycle.names import digest, endpoint_name
from include.lifecycle.rollout import POLICY, Advance, advance, begin_ramp, finish, opening, take_all
from include.stores.layout import Layout
from sagemaker_lifecycle.jobs import DomainProcessingOperator
from sagemaker_lifecycle.retraining import handle_alarms
from sagemaker_lifecycle.tasks import experiment_store, model_registry, object_store
from sagemaker_lifecycle.watermark import WatchingOperator, WatermarkTrigger, watermark_of

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from include.lifecycle.domain import Domain
    from include.stores.experiments import ExperimentStore
    from include.stores.registry import ModelPackage

log = logging.getLogger(__name__)


def experiment_id(context: Context) -> str:
    """Of the run's rollout: a run that is cleared goes on with its own."""
    return digest([context["dag_run"].dag_id, context["dag_run"].run_id])


def open_experiment(domain: Domain, context: Context, run: Mapping[str, Any], challenger: str, endpoint_config: str) -> dict[str, Any]:
    """Begins the rollout, or finds it: from now on what the endpoint is asked is evidence. The alarms are handled by it.

    Returns ``experiment`` (its id) and ``opened``."""
    registry, store, identity = model_registry(), experiment_store(), experiment_id(context)
    present = store.find(identity)
    if present is None:
        now = watermark_of(domain.name)
        if now is None:
            raise AirflowFailException(f"nothing says up to when the deliveries of {domain.name} are ingested: run {domain.name}.ingest_data")
        opened = iso(now)
        packages = {CHAMPION: registry.package(run["champion"]["model_package"]), CHALLENGER: registry.package(challenger)}
        contenders = {slot: _contender(package) for slot, package in packages.items()}
        experiment = Experiment(
            id=identity,
            domain=domain.name,
            endpoint=endpoint_name(domain.name),
            champion=contenders[CHAMPION],
            challenger=contenders[CHALLENGER],
            opened=opened,
            stage_since=opened,
            as_of=opened,
            endpoint_config=endpoint_config,
            step_began=_clock(),
            why=run["why"],
            policy=domain.rollout,
        )
        present = store.create(experiment, [opening(experiment, f"In shadow, because of: {run['why']}")])
    handle_alarms(domain, run, context["dag_run"].run_id, f"rollout {identity} of {challenger}")
    return {"experiment": identity, "opened": present.opened}


def _contender(package: ModelPackage) -> Contender:
    return Contender(package.arn, package.model, float(package.metadata.get("review_threshold", "0")))


def _clock() -> str:
    """Operations time, which only heartbeats are measured in."""
    return iso(datetime.now(UTC))


class RolloutTrigger(WatermarkTrigger):
    """Fires, beside new deliveries, when a person has asked for something, when somebody else has changed the experiment (``version``: the one that
    was seen), and when a guardrail trips: traffic must not wait for a day to end."""

    def __init__(self, domain: str, after: str | None, experiment: str, version: int) -> None:
        super().__init__(domain, after)
        self.experiment = experiment
        self.version = version

    def serialize(self) -> tuple[str, dict[str, Any]]:
        path, arguments = super().serialize()
        return path, {**arguments, "experiment": self.experiment, "version": self.version}

    def look(self) -> str | None:
        store = experiment_store()
        present = store.get(self.experiment)
        if commands := store.commands(self.experiment):
            return f"{commands[0].who} asked to {commands[0].action}"
        if present.version != self.version:
            return f"the experiment is at version {present.version}, and {self.version} was seen"
        if _is_split(present) and (tripped := [reading for reading in readings_of(store, present) if reading.tripped]):
            return f"a guardrail tripped: {tripped[0].says}"
        return super().look()


def _is_split(experiment: Experiment) -> bool:
    """Whether both models decide for somebody: what guardrails are about."""
    return not experiment.ended and 0 < experiment.share < 1


def readings_of(store: ExperimentStore, experiment: Experiment, sample_ratio: Mapping[str, Any] | None = None) -> list[Any]:
    """What the guardrails say of the step that the experiment is in, now."""
    from include.lifecycle.guardrails import judge

    return judge(
        experiment.policy.guardrails,
        experiment.step,
        store.healths(experiment.id, experiment.step),
        experiment.shadow_scores,
        sample_ratio,
        now=datetime.now(UTC),
        step_began=utc(experiment.step_began) if experiment.step_began else None,
    )


class RolloutStageOperator(WatchingOperator):
    """Takes an experiment through one stage: for each watermark the evidence by a job, then ``advance``, then the endpoint's weights.

    :param experiment: its id, templated
    :param stage: "shadow", "ramp", or "safe": while a person is asked about the promotion; that ends when the challenger has all traffic, too
    :return: ``experiment``, ``stage`` (what it came to), ``share``, ``as_of``, ``why``
    """

    template_fields: Sequence[str] = (*DomainProcessingOperator.template_fields, "experiment")

    def __init__(self, *, experiment: str, stage: Stage, **kwargs: Any) -> None:
        super().__init__(job="rollout-evidence", arguments={}, writes_to="rollout", **kwargs)
        self.experiment = experiment
        self.stage = stage

    def ask(self, context: Context, watermark: datetime | None) -> dict[str, Any] | None:
        present = experiment_store().get(self.experiment)
        if present.stage != self.stage or watermark is None or watermark <= utc(present.as_of):
            return None
        content = present.as_json()
        objects, layout = object_store(), Layout(self.domain)
        described = objects.put_json(layout.experiment(present.id, f"states/{digest(content)}.json"), content)
        return {"experiment": described, "as-of": iso(watermark), **self._captured(present)}

    def _captured(self, experiment: Experiment) -> dict[str, str]:
        """Where the endpoint's configuration of this stage captures to."""
        if self.stage != "shadow":
            return {}
        config = self.hook.describe_endpoint_config(experiment.endpoint_config)
        return {"captured": config["DataCaptureConfig"]["DestinationS3Uri"]}

    def conclude(self, context: Context, found: dict[str, Any] | None) -> dict[str, Any] | None:
        from include.stores.experiments import VersionConflict

        for _ in range(5):
            try:
                present = self._advanced(found)
                break
            except VersionConflict as conflict:  # somebody else has written: look at what
                self.log.info("%s", conflict)
        else:
            raise AirflowException(f"the state of rollout {self.experiment} changed five times in a row while it was looked at")
        self.looked_at, self.version = present.as_of, present.version
        if present.stage == self.stage and present.share < 1:
            return None
        self.log.info("%s: %s", present.stage, present.why)
        return {"experiment": present.id, "stage": present.stage, "share": present.share, "as_of": present.as_of, "why": present.why}

    def _advanced(self, found: dict[str, Any] | None) -> Experiment:
        """The experiment after this look, stored, with the endpoint's weights like its share."""

        store = experiment_store()
        present = store.get(self.experiment)
        commands = store.commands(self.experiment)
        if present.stage == self.stage:
            readings = readings_of(store, present, (found or {}).get("sample_ratio")) if _is_split(present) else []
            if found is not None:
                self._keep(found)
            after = advance(
                present, as_of=found["as_of"] if found else present.as_of, evidence=found, readings=readings, commands=commands
            )
            for entry in after.entries:
                self.log.info("%s, as of %s, share %.3g (cap %.3g): %s", entry.stage, entry.as_of, entry.share, entry.cap, entry.says)
            if after.entries:
                present = store.save(_stamped(present, after.experiment), after.entries, after.done)
        if self.stage == "ramp" or (present.ended and _has_both(present)):
            mirror_share(present)
        return present

    def _keep(self, found: Mapping[str, Any]) -> None:
        """The stage's latest evidence, for the page."""
        objects, layout = object_store(), Layout(self.domain)
        whole = objects.get_json(objects.key(found["reports"]["evidence"]))
        objects.put_json(layout.experiment(self.experiment, f"{self.stage}_evidence.json"), whole)

    def trigger(self) -> RolloutTrigger:
        return RolloutTrigger(self.domain, self.looked_at, self.experiment, self.version)


def _has_both(experiment: Experiment) -> bool:
    """Whether the endpoint carries both models as production variants: it does from the ramp on, and not where a person promoted from shadow."""
    return model_registry().variants(experiment.endpoint) >= {CHAMPION, CHALLENGER}


def mirror_share(experiment: Experiment) -> None:
    """Makes the endpoint's weights what the experiment's share is, for callers that do not go through the gateway."""
    from sagemaker_lifecycle.endpoints import set_weights

    set_weights(experiment.endpoint, experiment.share)


def _stamped(before: Experiment, after: Experiment) -> Experiment:
    """With the clock's instant of a new step: gateways get to know of it after that."""
    return after if after.step == before.step else after.but(step_began=_clock())


def _change(identity: str, change: Callable[[Experiment], Advance]) -> Experiment:
    """Stores what ``change`` makes of the experiment; the same again changes nothing. What a person has asked for meanwhile is done first, so
    ``change`` may find the experiment in any stage."""
    from include.stores.experiments import VersionConflict

    store = experiment_store()
    for _ in range(5):
        present = store.get(identity)
        try:
            if commands := store.commands(identity):
                heeded = advance(present, as_of=present.as_of, evidence=None, readings=(), commands=commands)
                present = store.save(_stamped(present, heeded.experiment), heeded.entries, heeded.done)
            after = change(present)
            return store.save(_stamped(present, after.experiment), after.entries) if after.entries else present
        except VersionConflict as conflict:
            log.info("%s", conflict)
    raise AirflowException(f"the state of rollout {identity} changed five times in a row while it was written")


def enter_ramp(domain: Domain, identity: str, endpoint_config: str, decision: str) -> dict[str, Any]:
    """The challenger's first live traffic. ``decision``: who released it and why; empty: nobody was asked. A rollout that a person has ended, or has
    promoted, meanwhile is left as it is."""
    present = watermark_of(domain.name)
    as_of = iso(present) if present else ""

    def begun(experiment: Experiment) -> Advance:
        if experiment.stage not in {"proven", "ramp"}:
            return Advance(experiment)
        return begin_ramp(experiment, as_of or experiment.as_of, endpoint_config, decision or POLICY)

    present = _change(identity, begun)
    mirror_share(present)
    return {"stage": present.stage, "share": present.share}


def take_all_traffic(identity: str, decision: str) -> dict[str, Any]:
    """The challenger decides for everyone; the endpoint is changed after this, so that nobody meets half a change. Skips where the rollout has ended
    while somebody was asked."""

    def taken(experiment: Experiment) -> Advance:
        return Advance(experiment) if experiment.ended else take_all(experiment, decision or POLICY)

    present = _change(identity, taken)
    if present.ended:
        raise AirflowSkipException(f"the rollout has ended as {present.stage}: {present.why}")
    if _has_both(present):
        mirror_share(present)
    return {"stage": present.stage, "share": present.share}


def end_rollout(identity: str, stage: Stage, why: str, who: str) -> Experiment:
    """Ends it as ``stage``, unless it has ended."""

    def ended(experiment: Experiment) -> Advance:
        return Advance(experiment) if experiment.ended else finish(experiment, stage, experiment.as_of, why, who)

    return _change(identity, ended)


def next_task(context: Context, domain: Domain, stage: str) -> list[str]:
    """Which task follows a stage that came to ``stage``; ``settle``, which waits for all others, always does."""
    asked = context["params"]["approval"]
    routes = {
        "proven": ("ask_before_ramp", "create_ramp_config", domain.rollout.approve_ramp),
        "safe": ("ask_before_promotion", "take_all_traffic", domain.rollout.approve_promotion),
    }
    if stage not in routes:
        return ["settle"]
    ask, go_on, by_domain = routes[stage]
    wanted = by_domain if asked == "as the domain says" else asked == "ask"
    if not wanted:
        return [go_on, "settle"]
    return [ask, *(["watch_while_asked"] if stage == "safe" else []), "settle"]


def promote(identity: str) -> None:
    """The rollout's good end: the endpoint carries the challenger's model alone. Skips where a person has ended it at the last moment."""
    present = end_rollout(identity, "promoted", "The challenger is the champion now.", POLICY)
    if present.stage != "promoted":
        raise AirflowSkipException(f"the rollout has ended as {present.stage}: {present.why}")


def settle(domain: Domain, context: Context, previous_config: str | None) -> dict[str, Any]:
    """Whatever happened: the rollout has an end, in the store and in the registry, and says which configuration the endpoint is to carry.

    A rollout that has not ended by itself was refused by the person who was asked (then it is stopped, by them), or a task of the run failed (then
    traffic returns to the champion).

    Returns ``experiment``, ``version``, ``stage``, ``why``, ``failed``, ``endpoint_config`` (to return to), ``undoing`` (what the endpoint carries of
    this run's; empty: leave it as it is) and ``history`` (URI of what the page is made of). Skips where there was none.
    """
    store, identity, ti = experiment_store(), experiment_id(context), context["ti"]
    run_id = context["dag_run"].run_id
    states = ti.get_task_states(dag_id=context["dag_run"].dag_id, run_ids=[run_id]).get(run_id, {})
    failures = sorted(task for task, state in states.items() if state == "failed")
    present = store.find(identity)
    if present is None and failures:
        raise AirflowFailException(f"{', '.join(failures)} failed before a rollout began: nothing live was touched, and the alarms stay open")
    if present is None:
        raise AirflowSkipException("no rollout was begun")
    failed = False
    if not present.ended:
        answers = [ti.xcom_pull(task_ids=task, key="decision") for task in ("ask_before_promotion", "ask_before_ramp")]
        who = next((answer for answer in answers if answer), None)
        failed = bool(failures) or who is None
        if failed:
            why = f"{', '.join(failures) or 'a task of the run'} failed: the champion has all traffic again"
            present = end_rollout(identity, "rolled_back", why, POLICY)
        else:
            present = end_rollout(identity, "stopped", f"Not released by {who}", who)
    if present.stage != "promoted":
        _reject(present)
    live = model_registry().live(domain.name)
    ours = [ti.xcom_pull(task_ids=f"create_{name}_config") for name in ("shadow", "ramp", "single")]
    return {
        "experiment": identity,
        "version": present.version,
        "stage": present.stage,
        "why": present.why,
        "failed": failed,
        "endpoint_config": previous_config or "",
        "undoing": live.config if live and live.config in ours and present.stage != "promoted" else "",
        "history": keep_history(domain, store, present),
    }


def _reject(experiment: Experiment) -> None:
    reason = f"Rejected: rollout {experiment.id} ended as {experiment.stage}: {experiment.why}"
    model_registry().set_status(experiment.challenger.model_package, "Rejected", reason[:1024])


def keep_history(domain: Domain, store: ExperimentStore, experiment: Experiment) -> str:
    """Puts the rollout's whole history beside the models, for the page and for whoever asks later; returns its URI. ``ramp.json`` beside it is the
    experiment as it was in its ramp: what ``rollout-evidence`` wants to say, once all labels are known, what the ramp cost."""
    objects, layout = object_store(), Layout(domain.name)
    evidence: dict[str, Any] = {}
    for stage in ("shadow", "ramp"):
        key = layout.experiment(experiment.id, f"{stage}_evidence.json")
        evidence[stage] = objects.get_json(key) if objects.exists(key) else None
    entries = store.history(experiment.id)
    content = {"experiment": experiment.as_json(), "entries": [asdict(entry) for entry in entries], "evidence": evidence}
    if any(entry.stage == "ramp" for entry in entries):
        objects.put_json(layout.experiment(experiment.id, "ramp.json"), experiment.but(stage="ramp").as_json())
    return objects.put_json(layout.experiment(experiment.id, "history.json"), content)


def tell_of_rollout(domain: Domain, settled: Mapping[str, Any], page: str | None) -> None:
    """Tells people how the rollout ended; fails where a task of the run did."""
    from airflow.providers.amazon.aws.hooks.sns import SnsHook

    place = places.current()
    says = f"{domain.title}: the rollout {settled['experiment']} ended as {settled['stage']}: {settled['why']}"
    shown = place.browser_url(page) if page else "none"
    SnsHook(aws_conn_id=place.aws_conn_id).publish_to_target(
        place.alerts_topic_arn, f"{says}\nPage: {shown}\nOwner: {domain.owner.email}", subject=f"Rollout {settled['stage']}: {domain.name}"[:100]
    )
    log.info("%s (%s)", says, shown)
    if settled["failed"]:
        raise AirflowFailException(says)


def steer(domain: Domain, context: Context) -> dict[str, Any]:
    """Hands a person's wish to the rollout that is under way; it is done at its next look, within a poll interval."""
    params, run = context["params"], context["dag_run"]
    store = experiment_store()
    present = store.current(domain.name)
    if present is None or present.ended:
        raise AirflowFailException(f"no rollout of {domain.name} is under way" + (f": {present.id} is {present.stage}" if present else ""))
    if params["action"] == "set_share" and params["share"] is None:
        raise AirflowFailException("set_share wants a share between 0 and 1")
    who = getattr(run, "triggering_user_name", None) or "unknown"
    command = Command(
        id=digest([run.dag_id, run.run_id]),
        action=params["action"],
        who=who,
        why=params["why"],
        share=params["share"] if params["action"] == "set_share" else None,
    )
    store.give(present.id, command)
    log.info("%s asked rollout %s (%s) to %s: %s", who, present.id, present.stage, command.action, command.why)
    return {"experiment": present.id, "action": command.action, "who": who}
