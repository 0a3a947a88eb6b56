"""What the DAGs' small Python tasks decide. Rows are never touched here: that is a job's work."""

from __future__ import annotations

import logging
from datetime import date
from typing import TYPE_CHECKING, Any

from airflow.sdk import NEVER_EXPIRE
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from include import settings as places
from include.lifecycle.as_of import delivery_days, iso, resolve, utc
from include.lifecycle.names import digest, endpoint_name, package_group
from include.stores.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk.definitions.context import Context

    from include.lifecycle.domain import Domain
    from include.stores.experiments import ExperimentStore
    from include.stores.objects import ObjectStore
    from include.stores.registry import ModelPackage, ModelRegistry

log = logging.getLogger(__name__)

QUARANTINE_ALERT_SHARE = 0.05
"""People are told when more than this share of a table's landed rows was quarantined, and whenever a file was refused whole."""

SMOKE_TEST_TOLERANCE = 1e-4
"""An endpoint rounds a score when it writes it; a wrong model or a wrong order of features is off by far more."""


def object_store() -> ObjectStore:
    """The place's bucket."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    from include.stores.objects import ObjectStore

    place = places.current()
    return ObjectStore(place.bucket, client=S3Hook(aws_conn_id=place.aws_conn_id).conn, kms_key=place.encryption.kms_key_arn)


def model_registry() -> ModelRegistry:
    """What the place's SageMaker knows of models and endpoints."""
    from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook

    from include.stores.registry import ModelRegistry

    return ModelRegistry(SageMakerHook(aws_conn_id=places.current().aws_conn_id).conn)


def experiment_store() -> ExperimentStore:
    """The place's store of rollouts."""
    from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook
    from botocore.config import Config

    from include.stores.experiments import open_store

    place = places.current()
    if not place.experiments.startswith("dynamodb:"):
        return open_store(place.experiments)
    patient = Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 3})  # no request of a customer waits for it
    return open_store(place.experiments, client=AwsGenericHook(aws_conn_id=place.aws_conn_id, client_type="dynamodb", config=patient).conn)


def kept_for_the_run(context: Context, decide: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the task decided the first time, even when it is cleared weeks later and the world has changed: a run has one answer.

    A backfill that takes a scheduled run over makes another run of it, which decides anew: it must not touch anything live.
    """
    answer = kept_answer(context)
    if answer is None:
        answer = keep_answer(context, decide())
    log.info("%s", answer)
    return answer


def kept_answer(context: Context) -> dict[str, Any] | None:
    """What ``keep_answer`` kept of an earlier try of this task; None at first."""
    answer: dict[str, Any] | None = context["task_state_store"].get(_kept_under(context))
    return answer


def keep_answer(context: Context, answer: dict[str, Any]) -> dict[str, Any]:
    """For a task that decides after it was deferred: see ``kept_for_the_run``. Returns the answer."""
    context["task_state_store"].set(_kept_under(context), answer, retention=NEVER_EXPIRE)
    return answer


def _kept_under(context: Context) -> str:
    return "decided_for_history" if is_backfill(context) else "decided"


def is_backfill(context: Context) -> bool:
    """Whether the run is one of a backfill: it touches nothing live."""
    return str(context["dag_run"].run_type).rpartition(".")[2].lower().startswith("backfill")


def list_landing(domain: Domain, context: Context) -> dict[str, Any]:
    """Finds the landed files of the run's days and writes their manifest, under a name that is the digest of its content.

    Returns ``manifest`` (S3 URI), ``files`` (how many), ``first_day``, ``last_day``, ``as_of`` (the instant the last day ends).
    Skips where nothing landed.
    """
    from datetime import datetime, timedelta

    params, run = context["params"], context["dag_run"]
    interval = (run.data_interval_start, run.data_interval_end)
    days = delivery_days(params["first_day"], params["last_day"], *interval, run.run_after, domain.schedules.lookback)
    objects, layout = object_store(), Layout(domain.name)
    files = []
    for table in domain.landing_tables:
        root = f"{domain.name}/raw/{table.name}/dt="
        for info in objects.list(root):
            day, _, name = info.key.removeprefix(root).partition("/")
            if name and not name.startswith((".", "_")) and datetime.fromisoformat(day).date() in days:
                files.append({"table": table.name, "key": info.key, "etag": info.etag, "size": info.size})
    if not files:
        raise AirflowSkipException(
            f"no file landed for {domain.name} from {days.first} to {days.last} under {objects.uri(f'{domain.name}/raw/')}"
        )
    files.sort(key=lambda file: (file["key"].split("/dt=")[1][:10], file["key"]))
    manifest = {"domain": domain.name, "year": params["year"], "files": files}
    key = layout.report("ingest", digest(manifest), "manifest.json")
    as_of = datetime.combine(days.last + timedelta(days=1), datetime.min.time())
    for file in files:
        log.info("%s  %s bytes", file["key"], file["size"])
    return {
        "manifest": objects.put_json(key, manifest),
        "files": len(files),
        "first_day": days.first.isoformat(),
        "last_day": days.last.isoformat(),
        "as_of": iso(utc(as_of)),
    }


def move_watermark_to(domain: Domain, as_of: str) -> None:
    """Notes that all deliveries before the instant are ingested; a run for earlier days changes nothing."""
    from include.stores.watermark import Watermark

    Watermark(object_store(), Layout(domain.name)).move_to(utc(as_of))
    log.info("deliveries up to %s are ingested", as_of)


def tell_of_quarantine(domain: Domain, result: dict[str, Any]) -> None:
    """Logs what was quarantined and why; tells people where it is more than a few rows."""
    from airflow.providers.amazon.aws.hooks.sns import SnsHook

    place = places.current()
    worth_telling = []
    for name, table in result["tables"].items():
        log.info("%s: %s landed, %s curated, %s quarantined", name, table["landed"], table["curated"], table["quarantined"])
        for reason, count in table["reasons"].items():
            log.warning("%s: %s rows quarantined: %s", name, count, reason)
        for warning in table["warnings"]:
            log.warning("%s: %s", name, warning)
        for refused in table["refused_files"]:
            worth_telling.append(f"file refused: {refused['key']}: {refused['reason']}")
        if table["landed"] and table["quarantined"] / table["landed"] > QUARANTINE_ALERT_SHARE:
            worth_telling.append(f"{name}: {table['quarantined']} of {table['landed']} rows quarantined")
    if worth_telling:
        message = "\n".join([*worth_telling, f"Data Docs: {place.browser_url(result['data_docs'])}", f"Owner: {domain.owner.email}"])
        log.warning("%s", message)
        SnsHook(aws_conn_id=place.aws_conn_id).publish_to_target(place.alerts_topic_arn, message, subject=f"Quarantined: {domain.name}")


def resolve_run(domain: Domain, context: Context) -> dict[str, Any]:
    """The run's as-of instant, whether it is a backfill (``history``), and the live champion it has to beat (never for a backfill).

    Returns ``as_of``, ``history`` and ``champion`` (None, or ``model_package`` and ``model``).
    """
    run = context["dag_run"]
    as_of = resolve(context["params"]["as_of"], run.data_interval_end, run.logical_date, run.run_after)
    history = is_backfill(context)
    champion = None if history else model_registry().champion(domain.name)
    return {
        "as_of": iso(as_of),
        "history": history,
        "champion": {"model_package": champion.arn, "model": champion.model} if champion else None,
    }


def approval_route(domain: Domain, asked: str, history: bool, gate_passed: bool) -> str | None:
    """Which task decides about the model: ``approve``, ``ask_for_approval``, or none (a backfill's model, or one the gate refused)."""
    if history or not gate_passed:
        return None
    automatic = domain.approval.automatic if asked == "as the domain says" else asked == "automatic"
    return "approve" if automatic else "ask_for_approval"


def plan_deployment(domain: Domain, context: Context) -> dict[str, Any]:
    """Which package to deploy: the one asked for, the one whose approval triggered the run, or the newest approved; and what to return to.

    Returns ``model_package``, ``endpoint``, ``previous_config`` (empty where there is no endpoint yet), ``smoke_test`` (S3 URI).
    Refuses a package that is not approved, or not one of this domain's live models. Skips one that was approved again although a newer one
    is live (its training run was cleared): going back is for a person, by the form.
    """
    registry = model_registry()
    events = [event for events in (context.get("triggering_asset_events") or {}).values() for event in events]
    arn = context["params"]["model_package"] or (events[-1].extra.get("model_package") if events else None)
    package = registry.package(arn) if arn else registry.newest_approved(domain.name)
    if package is None:
        raise AirflowFailException(
            f"{domain.name} has no approved model package: run {domain.name}.train_model and approve its model first"
        )
    _refuse_unless_approved(domain, package)
    rollout = experiment_store().current(domain.name)
    if rollout and not rollout.ended and not context["params"]["model_package"]:
        raise AirflowSkipException(
            f"rollout {rollout.id} has the endpoint (stage {rollout.stage}): to deploy {package.arn} all the same, name it in the form"
        )
    live = registry.live(domain.name)
    if not context["params"]["model_package"] and live and live.model_package:
        champion = registry.package(live.model_package)
        if champion.version > package.version:
            raise AirflowSkipException(f"{champion.arn} is live and newer than {package.arn}; to go back to that, name it in the form")
    return plan_deployment_of(domain, package.arn)


def plan_deployment_of(domain: Domain, model_package: str) -> dict[str, str]:
    """What deploying the package takes: see ``plan_deployment``."""
    from include.stores.objects import split_uri

    registry = model_registry()
    package, live = registry.package(model_package), registry.live(domain.name)
    smoke_test = package.metadata.get("smoke_test", "")
    split_uri(smoke_test)
    return {
        "model_package": package.arn,
        "endpoint": endpoint_name(domain.name),
        "previous_config": live.config if live else "",
        "smoke_test": smoke_test,
    }


def plan_scoring(domain: Domain, context: Context) -> dict[str, Any]:
    """Which model scores which days, as of which instant.

    The model: the approved package asked for, else the live champion, else the newest approved; skips where there is none. The days: those
    asked for, else the last day of the features that the triggering run wrote, else the last day that has features. Where several runs of
    ``ingest_data`` wait for one of this (it was paused, or busy), from the earliest of their last days on, but no more days back than
    ``ingest_data`` itself makes up for.

    Returns ``model_package``, ``model`` (S3 URI), ``first_day``, ``last_day``, ``as_of``.
    """
    params, run, registry = context["params"], context["dag_run"], model_registry()
    asked = params["model_package"]
    package = registry.package(asked) if asked else registry.champion(domain.name) or registry.newest_approved(domain.name)
    if package is None:
        raise AirflowSkipException(f"{domain.name} has no approved model yet: run {domain.name}.train_model and approve its model first")
    if asked:
        _refuse_unless_approved(domain, package)
    first, last, told = params["first_day"] or params["last_day"], params["last_day"], {}
    if not first:
        events = [event for events in (context.get("triggering_asset_events") or {}).values() for event in events]
        written = sorted((event.extra for event in events if event.extra.get("last_day")), key=lambda extra: extra["last_day"])
        told = written[-1] if written else {}
        last = told.get("last_day") or _last_feature_day(domain)
        earliest = (date.fromisoformat(last) - domain.schedules.lookback).isoformat()
        first = min((extra["last_day"] for extra in written if extra["last_day"] >= earliest), default=last)
    as_of = resolve(params["as_of"] or told.get("as_of"), run.data_interval_end, run.logical_date, run.run_after)
    return {
        "model_package": package.arn,
        "model": package.model,
        "first_day": first,
        "last_day": last or first,
        "as_of": iso(as_of),
    }


def _last_feature_day(domain: Domain) -> str:
    objects, root = object_store(), f"{Layout(domain.name).features}/dt="
    days = [info.key.removeprefix(root)[:10] for info in objects.list(root)]
    if not days:
        raise AirflowSkipException(f"{domain.name} has no features yet under {objects.uri(root)}: run {domain.name}.ingest_data first")
    return max(days)


def _refuse_unless_approved(domain: Domain, package: ModelPackage) -> None:
    if package.status != "Approved":
        raise AirflowFailException(f"{package.arn} is {package.status}: only an approved package is deployed, or scores for analysts")
    group = package_group(domain.name)
    if f":model-package/{group}/" not in package.arn:
        raise AirflowFailException(f"{package.arn} is not one of the models of {domain.name} (group {group})")


def tell_of_queues(result: dict[str, Any]) -> None:
    """Logs each day's review queue: how long it is, what it is worth, and where analysts find it."""
    place = places.current()
    for day in result["days"]:
        log.info(
            "%s: %s of %s events to review (capacity %s), expected to save %.0f %s: %s and %s",
            *(day[fact] for fact in ("day", "queued", "rows", "capacity", "expected_benefit")),
            result["currency"],
            place.browser_url(day["queue_page"]),
            place.browser_url(day["queue_csv"]),
        )
        if day["features_are_stale"]:
            log.warning("%s: scored with features that are older than what was ingested since: its queue may lack events", day["day"])


def run_smoke_test(endpoint: str, smoke_test: str) -> None:
    """Sends the rows that training left with the model to the endpoint and compares every score with the one expected.

    Fails without a retry where a score differs by more than ``SMOKE_TEST_TOLERANCE``.
    """
    from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook

    objects = object_store()
    expected = objects.get_json(objects.key(smoke_test))
    runtime = AwsGenericHook(aws_conn_id=places.current().aws_conn_id, client_type="sagemaker-runtime").conn
    rows = "\n".join(",".join("" if value is None else repr(float(value)) for value in row) for row in expected["rows"])
    response = runtime.invoke_endpoint(EndpointName=endpoint, ContentType="text/csv", Accept="text/csv", Body=rows.encode())
    scores = [float(line) for line in response["Body"].read().decode().split()]
    if len(scores) != len(expected["scores"]):
        raise AirflowFailException(f"{endpoint} answered {len(scores)} scores for {len(expected['scores'])} rows")
    differences = [abs(score - wanted) for score, wanted in zip(scores, expected["scores"], strict=True)]
    log.info("%s rows scored by %s, differences %s", len(scores), response["InvokedProductionVariant"], differences)
    if not all(difference <= SMOKE_TEST_TOLERANCE for difference in differences):  # so that NaN does not pass
        raise AirflowFailException(f"{endpoint} scores differ from the trained model's: {differences} (allowed: {SMOKE_TEST_TOLERANCE:g})")


ANNOUNCES_HISTORY = "announce_history_model"
"""The task of ``train_model`` after which a run, whichever, has no more to say about models of the past."""

_ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


def backfill_has_ended(domain: Domain, context: Context) -> bool:
    """Whether no run of ``train_model`` that is queued or running may yet register a model of the past.

    The task SDK tells no run's type, so every run counts until it has passed ``ANNOUNCES_HISTORY``: a backfill's run announces there, any
    other passes it before its model waits for a person's approval.
    """
    ti, dag_id = context["ti"], f"{domain.name}.train_model"
    states = ti.get_task_states(dag_id=dag_id, task_ids=[ANNOUNCES_HISTORY])
    before_it = sorted(run_id for run_id, tasks in states.items() if tasks.get(ANNOUNCES_HISTORY) not in _ENDED)
    waiting = ti.get_dr_count(dag_id=dag_id, run_ids=before_it, states=["queued", "running"]) if before_it else 0
    log.info("%s runs of %s may still register a model of the past", waiting, dag_id)
    return not waiting


def list_history(domain: Domain, context: Context) -> dict[str, Any]:
    """Writes the list of the models that backfills have left, under a name that is the digest of what is asked about them.

    Returns ``models`` (the list's S3 URI), ``output`` (its folder, where the report goes), ``as_of`` (empty: the job takes it from the data) and
    ``count``. Skips where there is none, and, in a run
    that an announcement triggered, where that report is there already: announcements of one backfill may queue several runs.
    """
    params = context["params"]
    packages = model_registry().history(domain.name)
    if not packages:
        raise AirflowSkipException(
            f"{domain.name} has no model from a backfill: `airflow backfill create --dag-id {domain.name}.train_model …`"
        )
    models = [{"as_of": package.metadata["as_of"], "model": package.model, "model_package": package.arn} for package in packages]
    as_of = iso(utc(params["as_of"])) if params["as_of"] else ""
    identity = digest({"models": models, "as_of": as_of, "period_days": params["period_days"]})
    objects, layout = object_store(), Layout(domain.name)
    report = layout.report("history", identity, "ageing.json")
    if context.get("triggering_asset_events") and objects.exists(report):
        raise AirflowSkipException(
            f"these {len(models)} models were measured before: {objects.uri(report)}. To measure again, trigger by hand"
        )
    return {
        "models": objects.put_json(layout.report("history", identity, "models.json"), models),
        "output": objects.uri(layout.report("history", identity)),
        "as_of": as_of,
        "count": len(models),
    }
