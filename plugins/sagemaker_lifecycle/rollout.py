"""A rollout's tasks: they open the experiment, take it through its stages, and leave the endpoint, the registry and the store in one state.

What is decided, ``include.lifecycle.rollout`` decides, from evidence that a job computed; here it is stored and done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.amazon.aws.triggers.sagemaker import SageMakerTrigger
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskAwaitingInput
from asgiref.sync import sync_to_async
from botocore.exceptions import BotoCoreError, ClientError

from include import settings as places
from include.lifecycle.as_of import iso, utc
from include.lifecycle.experiment import CHALLENGER, CHAMPION, Command, Contender, Experiment, Stage
from include.lifecycle.names import digest, endpoint_name
from include.lifecycle.rollout import POLICY, Advance, advance, begin_ramp, finish, opening, take_all
from include.stores.layout import Layout
from sagemaker_lifecycle.jobs import DomainProcessingOperator
from sagemaker_lifecycle.registry import AskForApprovalOperator
from sagemaker_lifecycle.retraining import handle_alarms, other_champion
from sagemaker_lifecycle.tasks import experiment_store, kept_for_the_run, model_registry, object_store
from sagemaker_lifecycle.watermark import WatchingOperator, WatermarkTrigger, watermark_of

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context
    from airflow.triggers.base import BaseTrigger

    from include.lifecycle.domain import Domain
    from include.stores.experiments import ExperimentStore
    from include.stores.registry import ModelPackage

log = logging.getLogger(__name__)

_CLOCKS_DIFFER = timedelta(hours=1)
_LOOKS_EVERY = timedelta(minutes=5)
"""How soon a question notices that its rollout has ended: each look is a worker's for some seconds."""


def experiment_id(context: Context) -> str:
    """Of the run's rollout: a run that is cleared goes on with its own."""
    return digest([context["dag_run"].dag_id, context["dag_run"].run_id])


def open_experiment(domain: Domain, context: Context, run: Mapping[str, Any], challenger: str, endpoint_config: str) -> dict[str, Any]:
    """Begins the rollout, or finds it: from now on what the endpoint is asked is evidence. The alarms are handled by it.

    Returns ``experiment`` (its id), ``opened``, and the ``endpoint_config`` that serves it: the given one in the beginning, that of its ramp where a
    run is cleared that has got so far. Fails where another model than the challenger's opponent is live by now, and where the run,
    cleared and with other code, has made another challenger than the one whose rollout is under way."""
    registry, store, identity = model_registry(), experiment_store(), experiment_id(context)
    present = store.find(identity)
    if present and present.ended:
        raise AirflowSkipException(f"rollout {identity} has ended as {present.stage}: trigger the DAG to begin another")
    if present and present.challenger.model_package != challenger:
        raise AirflowFailException(
            f"rollout {identity} is about {present.challenger.model_package}, and this run has made {challenger} since"
        )
    if present is None:
        if other := other_champion(domain, run):
            raise AirflowFailException(other)
        now = watermark_of(domain.name)
        if now is None:
            raise AirflowFailException(
                f"nothing says up to when the deliveries of {domain.name} are ingested: run {domain.name}.ingest_data"
            )
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
    return {"experiment": identity, "opened": present.opened, "endpoint_config": present.endpoint_config}


def _contender(package: ModelPackage) -> Contender:
    if "review_threshold" not in package.metadata:
        raise AirflowFailException(
            f"{package.arn} says no review_threshold: it was registered by older code. Train and deploy a model with this one"
        )
    return Contender(package.arn, package.model, float(package.metadata["review_threshold"]))


def _clock() -> str:
    """Operations time, which only heartbeats are measured in."""
    return iso(datetime.now(UTC))


class RolloutTrigger(WatermarkTrigger):
    """Fires, beside new deliveries, when a person has asked for something, when somebody else has changed the experiment (``version``: the one that
    was seen), when a guardrail trips, and when ``job``, a processing job that is waited for, has ended. While there is a job, new deliveries are no
    reason.

    It notes that it watches: gateways return the traffic of a split that nobody watches.
    """

    def __init__(self, domain: str, after: str | None, experiment: str, version: int, job: str | None = None) -> None:
        super().__init__(domain, after)
        self.experiment = experiment
        self.version = version
        self.job = job

    def serialize(self) -> tuple[str, dict[str, Any]]:
        path, arguments = super().serialize()
        return path, {**arguments, "experiment": self.experiment, "version": self.version, "job": self.job}

    def look(self) -> dict[str, Any] | None:
        if why := self._cause():
            self._stop_job()  # what it computes is about a state that is over
            return {"why": why}
        if not self.job:
            return super().look()
        status = processing_hook().describe_processing_job(self.job)["ProcessingJobStatus"]
        if status == "InProgress":
            return None
        return {"why": f"{self.job} is {status}", "job_name": self.job, "status": "success" if status == "Completed" else "error"}

    def _cause(self) -> str | None:
        """Why the experiment itself is to be looked at now."""
        store = experiment_store()
        present = store.get(self.experiment)
        if commands := store.commands(self.experiment):
            return f"{commands[0].who} asked to {commands[0].action}"
        if present.version != self.version:
            return f"the experiment is at version {present.version}, and {self.version} was seen"
        if _is_split(present):
            if tripped := [reading for reading in readings_of(store, present) if reading.tripped]:
                return f"a guardrail tripped: {tripped[0].says}"
            store.note_watched(self.experiment, _clock())
        return None

    def _stop_job(self) -> None:
        if self.job:
            try:
                processing_hook().conn.stop_processing_job(ProcessingJobName=self.job)
            except (ClientError, BotoCoreError) as error:  # it had ended by itself; or SageMaker is away, and traffic does not wait for that
                self.log.info("Could not stop %s: %s", self.job, error)

    async def on_kill(self) -> None:
        """A user's kill of the task stops its job."""
        await sync_to_async(self._stop_job, thread_sensitive=False)()


def processing_hook() -> SageMakerHook:
    return SageMakerHook(aws_conn_id=places.current().aws_conn_id)


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

    def render_template_fields(self, *args: Any, **kwargs: Any) -> None:
        super().render_template_fields(*args, **kwargs)  # then the experiment is known
        page = Layout(self.domain).experiment(self.experiment, "rollout.html")
        self.report_url = places.current().browser_url(places.current().uri(page))  # of the latest look, also while this one goes on

    def look_again(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        if event and event.get("job_name"):
            return self.execute_complete(context, event)
        return super().look_again(context, event)

    def ask(self, context: Context, watermark: datetime | None) -> dict[str, Any] | None:
        present = self._advanced(None)  # what a person wants, and what guardrails say, waits for no job
        if self._is_over(present) or watermark is None or watermark <= utc(present.as_of):
            return None
        self.looked_at, self.version = present.as_of, present.version
        content = (present.but(stage="ramp") if present.stage == "safe" else present).as_json()
        objects, layout = object_store(), Layout(self.domain)
        described = objects.put_json(layout.experiment(present.id, f"states/{digest(content)}.json"), content)
        history = keep_history(experiment_store(), present)
        return {"experiment": described, "as-of": iso(watermark), "history": history, **self._source(present)}

    def _is_over(self, experiment: Experiment) -> bool:
        return experiment.stage != self.stage or experiment.share == 1

    def defer(self, *, trigger: BaseTrigger, method_name: str, **kwargs: Any) -> None:
        """While the evidence is computed, the split is watched too."""
        if isinstance(trigger, SageMakerTrigger):
            watching = RolloutTrigger(self.domain, self.looked_at, self.experiment, self.version, trigger.job_name)
            super().defer(trigger=watching, method_name="look_again", **kwargs)
        super().defer(trigger=trigger, method_name=method_name, **kwargs)

    def _source(self, experiment: Experiment) -> dict[str, str]:
        """Where to the endpoint's configuration of shadow captures; and since which day gateways ship the ramp's decisions."""
        if self.stage == "shadow":
            config = self.hook.describe_endpoint_config(experiment.endpoint_config)
            return {"captured": config["DataCaptureConfig"]["DestinationS3Uri"]}
        if not experiment.ramp_began:
            return {}
        return {"decided-since": (utc(experiment.ramp_began) - _CLOCKS_DIFFER).date().isoformat()}

    def conclude(self, context: Context, found: dict[str, Any] | None) -> dict[str, Any] | None:
        # without evidence, ``ask`` has looked just now
        present = experiment_store().get(self.experiment) if found is None else self._advanced(found)
        self.looked_at, self.version = present.as_of, present.version
        if not self._is_over(present):
            return None
        self.log.info("%s: %s", present.stage, present.why)
        return {"experiment": present.id, "stage": present.stage, "share": present.share, "as_of": present.as_of, "why": present.why}

    def _advanced(self, found: dict[str, Any] | None) -> Experiment:
        """The experiment after a look, stored, with the endpoint's weights like its share."""
        from include.stores.experiments import change

        if found is not None:
            self._keep(found)
        store = experiment_store()
        present = change(store, self.experiment, lambda present: self._decided(store, present, found), _clock())
        if self.stage == "ramp" or present.ended:
            mirror_share(present)
        return present

    def _decided(self, store: ExperimentStore, present: Experiment, found: dict[str, Any] | None) -> Advance:
        if present.stage != self.stage:
            return Advance(present)
        commands = store.commands(self.experiment)
        readings = readings_of(store, present, (found or {}).get("sample_ratio")) if _is_split(present) else []
        after = advance(present, as_of=found["as_of"] if found else present.as_of, evidence=found, readings=readings, commands=commands)
        store.note_watched(self.experiment, _clock())
        for entry in after.entries:
            self.log.info("%s, as of %s, share %.3g (cap %.3g): %s", entry.stage, entry.as_of, entry.share, entry.cap, entry.says)
        return after

    def _keep(self, found: Mapping[str, Any]) -> None:
        """The stage's latest evidence, for the page."""
        objects, layout = object_store(), Layout(self.domain)
        whole = objects.get_json(objects.key(found["reports"]["evidence"]))
        stage = "shadow" if self.stage == "shadow" else "ramp"
        objects.put_json(layout.experiment(self.experiment, f"{stage}_evidence.json"), whole)

    def trigger(self) -> RolloutTrigger:
        return RolloutTrigger(self.domain, self.looked_at, self.experiment, self.version)


class AskAboutRolloutOperator(AskForApprovalOperator):
    """Asks a person about a rollout that is under way. Where nobody answers in time, the rollout ends as stopped; where it has ended otherwise
    meanwhile, the question is taken back within some minutes. In both cases nothing follows that the answer would have chosen."""

    def execute(self, context: Context) -> Any:
        until = datetime.now(UTC) + self.response_timeout
        try:
            return super().execute(context)
        except TaskAwaitingInput:
            self._wait(until)

    def execute_complete(self, context: Context, event: dict[str, Any], until: str) -> Any:
        unanswered, identity = event.get("error_type") == "timeout", experiment_id(context)
        if unanswered and datetime.now(UTC) >= utc(until):
            end_rollout(identity, "stopped", f"Nobody answered {self.task_id} in time.", POLICY)
        present = experiment_store().get(identity)
        if present.ended:
            self.log.info("The rollout has ended as %s, so the question is taken back: %s", present.stage, present.why)
            return self.do_branch(context, None)
        if unanswered:
            self._wait(utc(until))
        return super().execute_complete(context, event)

    def _wait(self, until: datetime) -> None:
        """For an answer, or until it is time to look whether the rollout goes on. An answer that comes while this looks counts at the next look."""
        left = max(timedelta(seconds=1), until - datetime.now(UTC))
        raise TaskAwaitingInput(method_name="execute_complete", kwargs={"until": iso(until)}, timeout=min(left, _LOOKS_EVERY))


def keep_history(store: ExperimentStore, experiment: Experiment) -> str:
    """Puts the rollout's whole history so far beside the models, for the page and for whoever asks later; returns its URI. ``ramp.json`` beside it
    is the experiment as it was in its ramp: what ``rollout-evidence`` wants to say, once all labels are known, what the ramp cost."""
    objects, layout = object_store(), Layout(experiment.domain)
    evidence: dict[str, Any] = {}
    for stage in ("shadow", "ramp"):
        key = layout.experiment(experiment.id, f"{stage}_evidence.json")
        evidence[stage] = objects.get_json(key) if objects.exists(key) else None
    entries = store.history(experiment.id)
    content = {"experiment": experiment.as_json(), "entries": [asdict(entry) for entry in entries], "evidence": evidence}
    if any(entry.stage == "ramp" for entry in entries):
        objects.put_json(layout.experiment(experiment.id, "ramp.json"), experiment.but(stage="ramp").as_json())
    return objects.put_json(layout.experiment(experiment.id, "history.json"), content)


def mirror_share(experiment: Experiment) -> None:
    """Makes the endpoint's weights what the experiment's share is, for callers that do not go through the gateway. In the ramp the endpoint carries
    both variants; before it, where a person promoted from shadow, and after the end, it may carry the champion's alone."""
    from sagemaker_lifecycle.endpoints import set_weights

    set_weights(experiment.endpoint, experiment.share, may_be_single=experiment.stage != "ramp")


def _change(identity: str, decide: Callable[[Experiment], Advance]) -> Experiment:
    """Stores what ``decide`` makes of the experiment; the same again changes nothing. What a person has asked for meanwhile is done first, so
    ``decide`` may find the experiment in any stage."""
    from include.stores.experiments import change, heed

    store = experiment_store()
    heed(store, identity, None, _clock())
    return change(store, identity, decide, _clock())


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
    _skip_without_promotion(present)
    mirror_share(present)
    return {"stage": present.stage, "share": present.share, "why": present.why}


def refuse(identity: str, decision: str) -> None:
    """Somebody who was asked said no: nothing of the challenger stays."""
    mirror_share(end_rollout(identity, "stopped", f"Not released by {decision}", decision))


def end_rollout(identity: str, stage: Stage, why: str, who: str) -> Experiment:
    """Ends it as ``stage``, unless it has ended."""

    def ended(experiment: Experiment) -> Advance:
        return Advance(experiment) if experiment.ended else finish(experiment, stage, experiment.as_of, why, who)

    return _change(identity, ended)


def promote(identity: str) -> None:
    """The rollout's good end: the endpoint carries the challenger's model alone. Skips where a person has ended it at the last moment."""
    _skip_without_promotion(end_rollout(identity, "promoted", "The challenger is the champion now.", POLICY))


def unless_ended(context: Context) -> None:
    """What the tasks of a promotion ask before they begin: they skip where the rollout has ended otherwise since all traffic was given."""
    if present := experiment_store().find(experiment_id(context)):
        _skip_without_promotion(present)


def _skip_without_promotion(present: Experiment) -> None:
    if present.ended and present.stage != "promoted":
        raise AirflowSkipException(f"the rollout has ended as {present.stage}: {present.why}")


def steer(domain: Domain, context: Context) -> dict[str, Any]:
    """Does at once what a person wants of the rollout that is under way: gateways see it within a second or two, and the run does the rest. Tried
    again or cleared, it is the same command to the same rollout, done once. Fails where it makes no sense in the rollout's stage: what was refused
    stays refused, however often it is tried."""
    from include.stores.experiments import heed

    params, run = context["params"], context["dag_run"]
    store = experiment_store()
    present = store.get(kept_for_the_run(context, lambda: {"experiment": _under_way(store, domain)})["experiment"])
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
    heeded = heed(store, present.id, command, _clock())
    if heeded.refused:
        raise AirflowFailException(heeded.refused)
    done, says = heeded.experiment, heeded.entry.says if heeded.entry else "done before"
    log.info("%s asked rollout %s (%s) to %s: %s", who, present.id, present.stage, command.action, command.why)
    log.info("It is in the stage %s now, with a share of %.1f %%: %s", done.stage, 100 * done.share, says)
    return {"experiment": present.id, "action": command.action, "who": who, "stage": done.stage, "share": done.share}


def _under_way(store: ExperimentStore, domain: Domain) -> str:
    present = store.current(domain.name)
    if present is None or present.ended:
        raise AirflowFailException(f"no rollout of {domain.name} is under way" + (f": {present.id} is {present.stage}" if present else ""))
    return present.id
