"""The provider's SageMaker job operators, made safe to retry, kill and clear.

A job's name is a digest of the DAG run, the task and the request (the code's version in it), plus an ordinal. So a retry finds the job that
an earlier try left behind and adopts it, running or completed; a failed or stopped one gets the next ordinal; changed code or input is a
new name. A killed task stops its job, while it runs in a worker and while it is deferred.
"""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.amazon.aws.operators.sagemaker import SageMakerProcessingOperator, SageMakerTrainingOperator
from airflow.providers.amazon.aws.triggers.sagemaker import SageMakerTrigger
from airflow.sdk import BaseOperatorLink
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.triggers.base import BaseTrigger, TriggerEvent
from botocore.exceptions import ClientError

from include import settings as places
from include.code_version import code_version
from include.lifecycle.names import digest, job_name
from include.stores.layout import Layout

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

ALIVE_OR_DONE = {"InProgress", "Completed"}
REFUSED = "refused: "
"""How a job's reason begins when its input was at fault, and trying again is useless (see include.jobs)."""
_POLLS_BEYOND_RUNTIME = 60
_LOG_LINES = 40
_REPORTED_WITHIN = 1.0


_STOPPED_BY = {"processing": ("stop_processing_job", "ProcessingJobName"), "training": ("stop_training_job", "TrainingJobName")}


class StoppingSageMakerTrigger(SageMakerTrigger):
    """The provider's trigger; a user's kill of the deferred task (mark failed, mark success, clear) also stops the job.

    It looks for the first time after one polling interval, but not within a second: Airflow fails a task that resumes before its executor has
    reported that the first part ended (seen with jobs of a second on a loaded machine).
    """

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await asyncio.sleep(max(_REPORTED_WITHIN, self.waiter_delay))
        async for event in super().run():
            yield event

    async def on_kill(self) -> None:
        if self.job_type.lower() not in _STOPPED_BY:
            return  # an endpoint's update goes on: what it becomes is for the next task to see
        stop, name = _STOPPED_BY[self.job_type.lower()]
        async with await self.hook().get_async_conn() as client:
            try:
                await getattr(client, stop)(**{name: self.job_name})
                self.log.info("Asked SageMaker to stop %s, because its task was killed.", self.job_name)
            except ClientError as error:
                self.log.info("Could not stop %s: %s", self.job_name, error)  # it had ended by itself


def patient(trigger: SageMakerTrigger) -> StoppingSageMakerTrigger:
    """The same wait, through our trigger."""
    return StoppingSageMakerTrigger(**trigger.serialize()[1])


class ReportLink(BaseOperatorLink):
    """The button on the task's page that opens what its job reported: Data Docs or the evaluation."""

    name = "Report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return getattr(operator, "report_url", "") or ""


class _AdoptsItsJob:
    """What processing and training share. Comes before the provider's operator among the bases."""

    operator_extra_links = (ReportLink(),)
    job_kind: str
    name_field: str
    status_field: str
    report_url: str | None = None
    _started_job: str | None = None

    def _place(self, *, domain: str, check_interval: float | None = None, **kwargs: Any) -> None:
        place = places.current()
        size = getattr(place, self.job_kind.lower())
        interval = check_interval or place.poll_seconds
        self.domain = domain
        super().__init__(  # type: ignore[call-arg]
            config={},
            aws_conn_id=place.aws_conn_id,
            deferrable=True,
            print_log=False,
            check_interval=interval,
            max_attempts=int(size.max_runtime_seconds / interval) + _POLLS_BEYOND_RUNTIME,
            action_if_job_exists="fail",
            multiple_outputs=True,
            **kwargs,
        )

    def request(self, context: Context, identity: str) -> dict[str, Any]:
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any]:
        """What, beside run and task, tells this job from another."""
        raise NotImplementedError

    def completed(self, context: Context, description: dict[str, Any], identity: str) -> dict[str, Any]:
        """The task's small XCom."""
        raise NotImplementedError

    def _describe(self, name: str) -> dict[str, Any] | None:
        try:
            describe: Callable[[str], dict[str, Any]] = getattr(self.hook, f"describe_{self.job_kind.lower()}_job")  # type: ignore[attr-defined]
            return describe(name)
        except ClientError as error:
            if error.response["Error"]["Code"] == "ValidationException":
                return None
            raise

    def _identity(self, context: Context) -> str:
        run = context["dag_run"]
        return digest({"dag": run.dag_id, "run": run.run_id, "task": self.task_id, **self.fingerprint()})  # type: ignore[attr-defined]

    def execute(self, context: Context) -> dict[str, Any]:
        self.code_version = code_version(self.domain)
        identity = self._identity(context)
        ordinal = 1
        while True:
            name = job_name(self.domain, self.task_id.rpartition(".")[2], identity, ordinal)  # type: ignore[attr-defined]
            description = self._describe(name)
            if description is None:
                break
            status = description[self.status_field]
            if status in ALIVE_OR_DONE:
                self._started_job = name
                self.log.info("Found %s of an earlier try: %s. Adopting it.", name, status)  # type: ignore[attr-defined]
                if status == "Completed":
                    return self.completed(context, description, identity)
                self._wait_for(name)
            ordinal += 1
        self.config = {self.name_field: name, **self.request(context, identity)}
        self._started_job = name
        super().execute(context)  # type: ignore[misc]  # creates the job and defers; returns only when it was done at once
        return self.completed(context, self._described(name), identity)

    def _described(self, name: str) -> dict[str, Any]:
        description = self._describe(name)
        if description is None:
            raise AirflowException(f"SageMaker no longer knows the job {name}")
        return description

    def _wait_for(self, name: str) -> None:
        self.defer(
            trigger=SageMakerTrigger(
                job_name=name,
                job_type=self.job_kind,
                waiter_delay=self.check_interval,  # type: ignore[attr-defined]
                waiter_max_attempts=self.max_attempts,  # type: ignore[attr-defined]
                aws_conn_id=self.aws_conn_id,  # type: ignore[attr-defined]
            ),
            method_name="execute_complete",
        )

    def defer(self, *, trigger: BaseTrigger, method_name: str, timeout: datetime.timedelta | None = None, **kwargs: Any) -> None:
        """Every wait for the job goes through the trigger that stops it when the task is killed."""
        waiting = patient(trigger) if isinstance(trigger, SageMakerTrigger) else trigger
        super().defer(trigger=waiting, method_name=method_name, timeout=timeout, **kwargs)  # type: ignore[misc]

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        name = (event or {}).get("job_name")
        if event is None or name is None:
            raise AirflowException(f"the trigger ended without naming its job: {event}")
        description = self._described(name)
        status = description[self.status_field]
        if status == "Completed":
            return self.completed(context, description, name.rsplit("-", 2)[1])
        if status == "InProgress":
            self._started_job = name
            self.on_kill()
            raise AirflowException(f"{name} was still running after its time limit and was stopped ({event.get('message')})")
        self._show_log(name)
        reason = description.get("ExitMessage") or description.get("FailureReason") or event.get("message")
        failure = f"SageMaker job {name} ended as {status}: {reason}"
        if REFUSED in str(reason):
            raise AirflowFailException(failure)
        raise AirflowException(failure)

    def on_kill(self) -> None:
        """Stops the job that this task started or adopted, when the task is killed in a worker."""
        if self._started_job:
            try:
                getattr(self.hook.conn, _STOPPED_BY[self.job_kind.lower()][0])(**{self.name_field: self._started_job})  # type: ignore[attr-defined]
            except ClientError as error:
                self.log.info("Could not stop %s: %s", self._started_job, error)  # type: ignore[attr-defined]

    def _show_log(self, name: str) -> None:
        """The end of the job's own log in the task's log: where a person looks first."""
        group = f"/aws/sagemaker/{self.job_kind}Jobs"
        logs = self.hook.logs_hook.conn  # type: ignore[attr-defined]
        try:
            for stream in logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{name}/")["logStreams"]:
                tail = {"logGroupName": group, "logStreamName": stream["logStreamName"], "limit": _LOG_LINES, "startFromHead": False}
                for line in logs.get_log_events(**tail)["events"]:
                    self.log.error("%s | %s", name, line["message"])  # type: ignore[attr-defined]
        except ClientError as error:
            self.log.info("No log of %s in %s: %s", name, group, error)  # type: ignore[attr-defined]

    def _environment(self) -> dict[str, str]:
        place = places.current()
        environment = {
            "AWS_DEFAULT_REGION": place.region,  # SageMaker sets AWS_REGION, which boto3 does not read
            "FRAUD_BUCKET": place.bucket,
            "FRAUD_CODE_VERSION": self.code_version,
            "FEATURES_ENGINE": place.features_engine,
            "GX_ANALYTICS_ENABLED": "false",
            "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait do not spin: on a busy machine that is most of a training's time
        }
        return environment | ({"FRAUD_KMS_KEY": place.encryption.kms_key_arn} if place.encryption.kms_key_arn else {})


class DomainProcessingOperator(_AdoptsItsJob, SageMakerProcessingOperator):
    """Runs ``python -m include.jobs <job>`` for a domain as a SageMaker Processing job, and returns what the job reports.

    :param domain: a folder under include/domains
    :param job: a name that ``python -m include.jobs`` knows
    :param arguments: option → value, templated; an option whose value is None, False or empty is left out, one whose value is
        True is a flag
    :param writes_to: the stage under ``reports/`` or ``datasets`` that is passed as ``--output``; None: no such option
    :param inputs: whatever else, templated, makes this a new job when it changes (such as the job that made what this one reads)
    :param report: the key of the job's result that names the report a person should see (an S3 URI)
    :param tells: keys of the job's result that the events of the task's asset outlets carry as their extra
    :return: the job's result (JSON) plus ``job`` (its name) and ``result_uri``
    """

    template_fields: Sequence[str] = (*SageMakerProcessingOperator.template_fields, "arguments", "inputs")
    job_kind = "Processing"
    name_field = "ProcessingJobName"
    status_field = "ProcessingJobStatus"

    def __init__(
        self,
        *,
        domain: str,
        job: str,
        arguments: dict[str, Any],
        inputs: Any = None,
        writes_to: str | None = None,
        report: str | None = None,
        tells: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        self._place(domain=domain, **kwargs)
        self.job = job
        self.arguments = arguments
        self.inputs = inputs
        self.writes_to = writes_to
        self.report = report
        self.tells = tells

    def fingerprint(self) -> dict[str, Any]:
        return {
            "code": self.code_version,
            "image": places.current().image_uri,
            "job": self.job,
            "arguments": self.arguments,
            "inputs": self.inputs,
        }

    def _result_key(self, identity: str) -> str:
        return Layout(self.domain).report(self.job, identity, "result.json")

    def request(self, context: Context, identity: str) -> dict[str, Any]:
        place = places.current()
        layout = Layout(self.domain)
        options: dict[str, Any] = {"domain": self.domain, **self.arguments}
        if self.writes_to:
            folder = layout.dataset(identity) if self.writes_to == "datasets" else layout.report(self.writes_to, identity)
            options["output"] = place.uri(folder)
        options["result"] = place.uri(self._result_key(identity))
        words = [self.job]
        for option, value in options.items():
            if value is True:
                words.append(f"--{option}")
            elif value not in (None, False, ""):
                words += [f"--{option}", str(value)]
        network: dict[str, Any] = {**place.network.vpc_config}
        if place.processing.network_isolation:
            network["EnableNetworkIsolation"] = True
        if place.network.encrypt_traffic_between_instances:
            network["EnableInterContainerTrafficEncryption"] = True
        key = place.encryption.kms_key_arn
        return {
            "AppSpecification": {
                "ImageUri": place.image_uri,
                "ContainerEntrypoint": ["python", "-m", "include.jobs"],
                "ContainerArguments": words,
            },
            "Environment": self._environment(),
            "ProcessingResources": {
                "ClusterConfig": {
                    "InstanceCount": place.processing.instance_count,
                    "InstanceType": place.processing.instance_type,
                    "VolumeSizeInGB": place.processing.volume_gb,
                    **({"VolumeKmsKeyId": key} if key else {}),
                }
            },
            "StoppingCondition": {"MaxRuntimeInSeconds": place.processing.max_runtime_seconds},
            "RoleArn": place.execution_role_arn,
            "Tags": place.tag_list(domain=self.domain),
            **({"NetworkConfig": network} if network else {}),
        }

    def completed(self, context: Context, description: dict[str, Any], identity: str) -> dict[str, Any]:
        place = places.current()
        key = self._result_key(identity)
        text = S3Hook(aws_conn_id=place.aws_conn_id).read_key(key, place.bucket)
        result: dict[str, Any] = json.loads(text)
        report = result
        for step in (self.report or "").split("."):
            report = report.get(step, {}) if step else {}
        if isinstance(report, str):
            self.report_url = place.browser_url(report)
            self.log.info("Report: %s", self.report_url)
        self.log.info("%s", json.dumps(result, indent=1, ensure_ascii=False))
        if self.tells:
            for asset in self.outlets:
                context["outlet_events"][asset].extra = {key: result[key] for key in self.tells}
        return {**result, "job": description["ProcessingJobName"], "result_uri": place.uri(key)}


class DomainTrainingOperator(_AdoptsItsJob, SageMakerTrainingOperator):
    """Trains a domain's model as a SageMaker Training job on the files of a data set that ``build-dataset`` wrote.

    :param domain: a folder under include/domains
    :param dataset: S3 URI of the data set's folder, templated
    :param as_of: the run's as-of instant, templated
    :return: ``job``, ``model`` (S3 URI of model.tar.gz), ``metrics`` (final values by name), ``code_version``, ``seconds``
    """

    template_fields: Sequence[str] = (*SageMakerTrainingOperator.template_fields, "dataset", "as_of")
    job_kind = "Training"
    name_field = "TrainingJobName"
    status_field = "TrainingJobStatus"
    metrics = ("train-average_precision", "validation-average_precision", "validation-roc_auc", "validation-log_loss", "best_iteration")

    def __init__(self, *, domain: str, dataset: str, as_of: str, **kwargs: Any) -> None:
        self._place(domain=domain, **kwargs)
        self.dataset = dataset
        self.as_of = as_of

    def _hyperparameters(self) -> dict[str, str]:
        from include.domains import part

        chosen: dict[str, Any] = part(self.domain, "model").HYPERPARAMETERS
        return {"domain": self.domain, "as_of": self.as_of, **{name: str(value) for name, value in chosen.items()}}

    def fingerprint(self) -> dict[str, Any]:
        return {
            "code": self.code_version,
            "image": places.current().image_uri,
            "dataset": self.dataset,
            "hyperparameters": self._hyperparameters(),
        }

    def request(self, context: Context, identity: str) -> dict[str, Any]:
        place = places.current()
        key = place.encryption.kms_key_arn

        def channel(name: str) -> dict[str, Any]:
            source = {"S3DataType": "S3Prefix", "S3Uri": f"{self.dataset}{name}.parquet", "S3DataDistributionType": "FullyReplicated"}
            return {"ChannelName": name, "ContentType": "application/x-parquet", "DataSource": {"S3DataSource": source}}

        return {
            "AlgorithmSpecification": {
                "TrainingImage": place.image_uri,
                "TrainingInputMode": "File",
                "MetricDefinitions": [{"Name": name, "Regex": f"{name}=([-+0-9.eE]+);"} for name in self.metrics],
            },
            "HyperParameters": self._hyperparameters(),
            "Environment": self._environment(),
            "InputDataConfig": [channel("train"), channel("validation")],
            "OutputDataConfig": {"S3OutputPath": place.uri(Layout(self.domain).models), **({"KmsKeyId": key} if key else {})},
            "ResourceConfig": {
                "InstanceCount": place.training.instance_count,
                "InstanceType": place.training.instance_type,
                "VolumeSizeInGB": place.training.volume_gb,
                **({"VolumeKmsKeyId": key} if key else {}),
            },
            "StoppingCondition": {"MaxRuntimeInSeconds": place.training.max_runtime_seconds},
            "RoleArn": place.execution_role_arn,
            "EnableNetworkIsolation": place.training.network_isolation,
            "EnableInterContainerTrafficEncryption": place.network.encrypt_traffic_between_instances,
            "Tags": place.tag_list(domain=self.domain),
            **place.network.vpc_config,
        }

    def completed(self, context: Context, description: dict[str, Any], identity: str) -> dict[str, Any]:
        metrics = {metric["MetricName"]: metric["Value"] for metric in description.get("FinalMetricDataList", ())}
        self.log.info("Trained %s: %s", description["TrainingJobName"], metrics)
        return {
            "job": description["TrainingJobName"],
            "model": description["ModelArtifacts"]["S3ModelArtifacts"],
            "metrics": metrics,
            "code_version": description["Environment"]["FRAUD_CODE_VERSION"],
            "seconds": (description["TrainingEndTime"] - description["TrainingStartTime"]).total_seconds(),
        }
