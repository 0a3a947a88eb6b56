"""Training jobs: CreateTrainingJob and what a training container is promised.

Contract (Developer Guide, "How Amazon SageMaker Runs Your Training Image" and "… Provides Training Information"): the image's
command with the argument ``train``, unless ContainerEntrypoint/ContainerArguments say otherwise; hyperparameters, channels
and resources under ``/opt/ml/input/config``; channel data under ``/opt/ml/input/data``; ``/opt/ml/model`` goes to
``S3OutputPath/JOB/output/model.tar.gz`` and ``/opt/ml/output/data`` to ``output.tar.gz`` beside it; the first 1024 characters
of ``/opt/ml/output/failure`` are the FailureReason. One process stands for one instance.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from .errors import JobFailed, not_supported, resource_in_use, resource_not_found, validation
from .images import Image
from .job_metrics import MetricReader, check_definitions, publish_final
from .jobs import REASON_LENGTH, SERVER_ENDED, Job, JobRunner, MirroredDirectory, Services, find_image, refuse
from .process import Command
from .s3 import Location, RemoteFile, pack
from .store import AlreadyExists, Document, Missing, Resource, now
from .tags import tag_map

KIND = "training"
_DEFAULT_RUNTIME = 86_400
_LONGEST_RUNTIME = 28 * 86_400
_FINAL = {"Completed", "Failed", "Stopped"}
_LOCAL_CHECKPOINTS = "/opt/ml/checkpoints"

_UNSUPPORTED = {
    "ServerlessJobConfig": "serverless customization runs models that only AWS has",
    "DebugHookConfig": "SageMaker Debugger is not part of it",
    "DebugRuleConfigurations": "SageMaker Debugger is not part of it",
    "ProfilerRuleConfigurations": "SageMaker Profiler is not part of it",
    "TensorBoardOutputConfig": "write TensorBoard events to /opt/ml/output/data instead",
    "ExperimentConfig": "experiments and trials are not part of it",
    "MlflowConfig": "managed MLflow is not part of it",
    "ModelPackageConfig": "register the model with CreateModelPackage instead",
}
_UNSUPPORTED_CHANNEL = {"ShuffleConfig": "channels are copied whole and in order"}
_UNSUPPORTED_SOURCE = {
    "FileSystemDataSource": "only S3DataSource is available",
    "DatasetSource": "only S3DataSource is available",
}
_UNSUPPORTED_S3_SOURCE = {
    "AttributeNames": "augmented manifests need Pipe mode",
    "InstanceGroupNames": "a job is one process",
    "ModelAccessConfig": "hub content is only on AWS",
    "HubAccessConfig": "hub content is only on AWS",
}


class TrainingJobs:
    """Create, describe and stop."""

    def __init__(self, services: Services, runner: JobRunner) -> None:
        self._services = services
        self._runner = runner

    def create(self, request: Document) -> Document:
        """CreateTrainingJob."""
        _check(request)
        image = find_image(self._services.images, request["AlgorithmSpecification"]["TrainingImage"])
        name = request["TrainingJobName"]
        arn = self._services.settings.arn(f"training-job/{name}")
        taken = resource_in_use(
            f"Training job names must be unique within an AWS account and region, and a training job with this name already exists ({arn})"
        )
        if self._services.store.exists(KIND, name):
            raise taken
        self._check_inputs(request)
        moment = now()
        document: Document = {
            **{key: value for key, value in request.items() if key != "Tags"},
            "TrainingJobArn": arn,
            "ModelArtifacts": {"S3ModelArtifacts": _artifacts(request)},
            "TrainingJobStatus": "InProgress",
            "SecondaryStatus": "Starting",
            "SecondaryStatusTransitions": [{"Status": "Starting", "StartTime": moment, "StatusMessage": "Starting the training job"}],
            "CreationTime": moment,
            "LastModifiedTime": moment,
        }
        document["StoppingCondition"].setdefault("MaxRuntimeInSeconds", _DEFAULT_RUNTIME)
        for switch in ("EnableNetworkIsolation", "EnableInterContainerTrafficEncryption", "EnableManagedSpotTraining"):
            document.setdefault(switch, False)
        try:
            with self._services.store.transaction():
                self._services.store.create(KIND, name, document, {"Arn": arn, "Image": image.uri})
                self._services.store.set_tags(arn, tag_map(request))
        except AlreadyExists as error:
            raise taken from error
        self._runner.submit(TrainingJob(self._services, name))
        return {"TrainingJobArn": arn}

    def describe(self, request: Document) -> Document:
        """DescribeTrainingJob."""
        try:
            return self._services.store.get(KIND, request["TrainingJobName"]).document
        except Missing as error:
            raise validation("Requested resource not found.") from error

    def stop(self, request: Document) -> Document:
        """StopTrainingJob."""
        name = request["TrainingJobName"]

        def change(resource: Resource) -> None:
            status = resource.document["TrainingJobStatus"]
            if status in _FINAL:
                raise validation(f"The request was rejected because the training job is in status {status}.")
            if status != "Stopping":
                transition(resource.document, "Stopping", "Stopping the training job", status="Stopping")

        try:
            self._services.store.update(KIND, name, change)
        except Missing as error:
            raise resource_not_found("Requested resource not found.") from error
        self._runner.stop(KIND, name)
        return {}

    def recover(self) -> None:
        """Give a final status to the jobs that were running when the server was killed."""
        for resource in list(self._services.store.all(KIND)):
            status = resource.document["TrainingJobStatus"]
            if status in _FINAL:
                continue
            self._services.store.update(KIND, resource.name, lambda found: finish(found.document, "Failed", "Failed", SERVER_ENDED))
            if not self._services.settings.keep_job_directories:
                shutil.rmtree(self._services.settings.state / "jobs" / KIND / resource.name / "ml", ignore_errors=True)

    def _check_inputs(self, request: Document) -> None:
        for channel in request.get("InputDataConfig", []):
            source = channel["DataSource"]["S3DataSource"]
            location = Location.parse(source["S3Uri"])
            if not self._services.storage.any_under(location):
                raise validation(
                    f'No S3 objects found under S3 URL "{source["S3Uri"]}" given in input data source. Please ensure that the bucket exists in '
                    f"the selected region ({self._services.settings.region}), that objects exist under that S3 prefix, and that the role "
                    f'"{request["RoleArn"]}" has "s3:ListBucket" permissions on bucket "{location.bucket}".'
                )


class TrainingJob(Job):
    """One training job's course."""

    kind = KIND
    group = "/aws/sagemaker/TrainingJobs"
    status_member = "TrainingJobStatus"

    def __init__(self, services: Services, name: str) -> None:
        super().__init__(services, name)
        self._algorithm: Document = self.request["AlgorithmSpecification"]
        self._metrics = MetricReader(self._algorithm.get("MetricDefinitions", []))
        self._output = Location.parse(self.request["OutputDataConfig"]["S3OutputPath"]).join(name, "output")
        self._checkpoints: MirroredDirectory | None = None

    def prepare(self) -> tuple[Image, Command]:
        """Channels, configuration, checkpoints."""
        self._move("Downloading", "Downloading input data")
        for folder in ("input/config", "input/data", "model", "output/data"):
            (self.ml / folder).mkdir(parents=True)
        for channel in self.request.get("InputDataConfig", []):
            self.check_stop()
            source = channel["DataSource"]["S3DataSource"]
            files = self.services.storage.files_of(source["S3Uri"], source["S3DataType"])
            self.services.storage.download(files, self.ml / "input/data" / channel["ChannelName"])
        self._restore_checkpoints()
        self._write_configuration()
        image = self.services.images[self._algorithm["TrainingImage"]]
        environment = {
            **image.base_environment,
            "HOME": str(self.directory / "home"),
            **self.request.get("Environment", {}),
            "TRAINING_JOB_NAME": self.name,
            "TRAINING_JOB_ARN": self.request["TrainingJobArn"],
            "AWS_REGION": self.services.settings.region,
        }
        (self.directory / "home").mkdir(exist_ok=True)
        entrypoint, arguments = self._algorithm.get("ContainerEntrypoint"), self._algorithm.get("ContainerArguments")
        argv = [*entrypoint, *(arguments or [])] if entrypoint else [*image.command, *(arguments or ["train"])]
        return image, Command(tuple(argv), image.working_directory, environment, self.ml, self.log_file)

    def started(self) -> None:
        """The status Training."""

        def begin(document: Document) -> None:
            document["TrainingStartTime"] = now()
            transition(document, "Training", "Training image download completed. Training in progress.")

        self.change(begin)

    def max_runtime(self) -> float:
        """StoppingCondition.MaxRuntimeInSeconds."""
        return float(self.request["StoppingCondition"].get("MaxRuntimeInSeconds", _DEFAULT_RUNTIME))

    def read_line(self, line: str) -> None:
        """MetricDefinitions."""
        self._metrics.read(line)

    def sync(self) -> None:
        """Checkpoints."""
        if self._checkpoints is not None:
            self._checkpoints.copy()

    def close(self, code: int) -> None:
        """Upload model and output, and write how it ended."""
        model, data = self.ml / "model", self.ml / "output/data"
        succeeded = code == 0 and self.ending is None
        if _has_content(data):
            self._ship(data, "output")
        if succeeded or (self.ending is not None and _has_content(model)):
            self._move("Uploading", "Uploading generated training model")
            self._ship(model, "model")
        publish_final(self.services.settings.region, self.name, self._metrics.final)
        if succeeded:
            self._finish("Completed", "Completed", None)
        elif self.ending == "stop":
            self._finish("Stopped", "Stopped", None)
        elif self.ending == "runtime":
            self._finish("Stopped", "MaxRuntimeExceeded", None)
        else:
            told = (self.text_of("output/failure") or "").strip()
            suffix = f", exit code: {code}"
            raise JobFailed("AlgorithmError: " + told[: REASON_LENGTH - len("AlgorithmError: ") - len(suffix)] + suffix)

    def failed(self, reason: str) -> None:
        """Status Failed."""
        self._finish("Failed", "Failed", reason)

    def stopped(self) -> None:
        """Status Stopped."""
        self._finish("Stopped", "Stopped", None)

    def _move(self, secondary: str, message: str) -> None:
        self.change(lambda document: transition(document, secondary, message))

    def _finish(self, status: str, secondary: str, reason: str | None) -> None:
        def end(document: Document) -> None:
            finish(document, status, secondary, reason)
            if self._metrics.final:
                document["FinalMetricDataList"] = self._metrics.final

        self.change(end)

    def _ship(self, directory: Path, name: str) -> None:
        if self.request["OutputDataConfig"].get("CompressionType") == "NONE":
            self.services.storage.upload_directory(directory, self._output.join(name))
            return
        archive = self.directory / f"{name}.tar.gz"
        pack(directory, archive)
        self.services.storage.upload_file(archive, self._output.join(archive.name))
        archive.unlink()

    def _restore_checkpoints(self) -> None:
        config = self.request.get("CheckpointConfig")
        if not config:
            return
        inside = Path(config.get("LocalPath", _LOCAL_CHECKPOINTS)).relative_to("/opt/ml")
        directory, location = self.ml / inside, Location.parse(config["S3Uri"])
        directory.mkdir(parents=True, exist_ok=True)
        prefix = location.key.rstrip("/") + "/"
        files = [
            RemoteFile(Location(location.bucket, key), key.removeprefix(prefix))
            for key in self.services.storage.keys_under(Location(location.bucket, prefix))
        ]
        self.services.storage.download(files, directory)
        self._checkpoints = MirroredDirectory(directory, location, self.services.storage, deletions=True)
        self._checkpoints.take_as_copied()

    def _write_configuration(self) -> None:
        self.write_json("input/config/hyperparameters.json", self.request.get("HyperParameters", {}))
        channels: dict[str, dict[str, Any]] = {}
        for channel in self.request.get("InputDataConfig", []):
            entry = {
                "TrainingInputMode": channel.get("InputMode", self._algorithm["TrainingInputMode"]),
                "S3DistributionType": channel["DataSource"]["S3DataSource"].get("S3DataDistributionType", "FullyReplicated"),
                "RecordWrapperType": channel.get("RecordWrapperType", "None"),
            }
            if "ContentType" in channel:
                entry["ContentType"] = channel["ContentType"]
            channels[channel["ChannelName"]] = entry
        self.write_json("input/config/inputdataconfig.json", channels)
        instance = self.request["ResourceConfig"].get("InstanceType", "local")
        self.write_json(
            "input/config/resourceconfig.json",
            {
                "current_host": "algo-1",
                "current_instance_type": instance,
                "current_group_name": "homogeneousCluster",
                "hosts": ["algo-1"],
                "instance_groups": [{"instance_group_name": "homogeneousCluster", "instance_type": instance, "hosts": ["algo-1"]}],
                "network_interface_name": "lo",
            },
        )
        if "CheckpointConfig" in self.request:
            self.write_json("input/config/checkpointconfig.json", {"LocalPath": _LOCAL_CHECKPOINTS, **self.request["CheckpointConfig"]})


def transition(document: Document, secondary: str, message: str, status: str | None = None) -> None:
    """Move a job to a secondary status; the last StatusMessage changes with each (Airflow prints by that)."""
    moment = now()
    transitions = document["SecondaryStatusTransitions"]
    if document["TrainingJobStatus"] == "Stopping" and secondary not in {
        "Uploading",
        "Stopped",
        "MaxRuntimeExceeded",
        "Completed",
        "Failed",
    }:
        return  # a stop was asked for meanwhile: what it told stays the last word until the job has ended
    transitions[-1].setdefault("EndTime", moment)
    transitions.append({"Status": secondary, "StartTime": moment, "StatusMessage": message})
    document["SecondaryStatus"] = secondary
    document["LastModifiedTime"] = moment
    if status is not None:
        document["TrainingJobStatus"] = status


def finish(document: Document, status: str, secondary: str, reason: str | None) -> None:
    """Write a final status."""
    messages = {
        "Completed": "Training job completed",
        "Failed": "Training job failed",
        "Stopped": "Training job stopped",
        "MaxRuntimeExceeded": "Training job runtime exceeded MaxRuntimeInSeconds provided",
    }
    transition(document, secondary, messages[secondary], status=status)
    moment = document["LastModifiedTime"]
    document["SecondaryStatusTransitions"][-1]["EndTime"] = moment
    document.setdefault("TrainingStartTime", moment)
    document["TrainingEndTime"] = moment
    seconds = max(1, math.ceil(moment - document["TrainingStartTime"]))
    document["TrainingTimeInSeconds"] = seconds
    document["BillableTimeInSeconds"] = seconds * document["ResourceConfig"].get("InstanceCount", 1)
    if reason is not None:
        document["FailureReason"] = reason


def _has_content(directory: Path) -> bool:
    """Whether there is anything to upload: a container may have removed its directory, or put a link in its place."""
    return directory.is_dir() and not directory.is_symlink() and any(directory.iterdir())


def _artifacts(request: Document) -> str:
    place = Location.parse(request["OutputDataConfig"]["S3OutputPath"]).join(request["TrainingJobName"], "output")
    return f"{place.join('model')}/" if request["OutputDataConfig"].get("CompressionType") == "NONE" else str(place.join("model.tar.gz"))


def _check(request: Document) -> None:
    refuse(request, _UNSUPPORTED)
    for member in ("AlgorithmSpecification", "ResourceConfig", "StoppingCondition"):
        if member not in request:
            raise validation(f"{member} is required for a training job that is not serverless.")
    if request.get("ProfilerConfig") and not request["ProfilerConfig"].get("DisableProfiler"):
        raise not_supported("ProfilerConfig", "SageMaker Profiler is not part of it; set DisableProfiler")
    if request.get("RemoteDebugConfig", {}).get("EnableRemoteDebug"):
        raise not_supported("RemoteDebugConfig.EnableRemoteDebug", "AWS Systems Manager is not part of it")
    _check_algorithm(request["AlgorithmSpecification"])
    _check_resources(request["ResourceConfig"])
    _check_stopping(request)
    names = [channel["ChannelName"] for channel in request.get("InputDataConfig", [])]
    if len(set(names)) != len(names):
        raise validation(f"Channel names must be unique, but the request has {names}")
    for channel in request.get("InputDataConfig", []):
        _check_channel(channel)
    if "CheckpointConfig" in request:
        Location.parse(request["CheckpointConfig"]["S3Uri"])
    checkpoints = request.get("CheckpointConfig", {}).get("LocalPath", _LOCAL_CHECKPOINTS)
    if not checkpoints.startswith("/opt/ml/") or ".." in Path(checkpoints).parts:
        raise not_supported("CheckpointConfig.LocalPath", f"{checkpoints} lies outside of /opt/ml")


def _check_algorithm(algorithm: Document) -> None:
    if algorithm.get("AlgorithmName"):
        raise not_supported("AlgorithmSpecification.AlgorithmName", "give a TrainingImage of the --images file")
    if not algorithm.get("TrainingImage"):
        raise validation("AlgorithmSpecification must have exactly one of TrainingImage and AlgorithmName.")
    if algorithm["TrainingInputMode"] == "Pipe":
        raise not_supported("AlgorithmSpecification.TrainingInputMode Pipe", "use File or FastFile")
    check_definitions(algorithm.get("MetricDefinitions", []))


def _check_resources(resources: Document) -> None:
    if resources.get("InstanceGroups") or resources.get("InstancePreferences"):
        raise not_supported(
            "ResourceConfig.InstanceGroups and InstancePreferences", "a job is one process; give InstanceType and InstanceCount"
        )
    if not resources.get("InstanceType") or "InstanceCount" not in resources:
        raise validation("ResourceConfig must have InstanceType and InstanceCount.")
    if resources["InstanceCount"] < 1:
        raise validation("ResourceConfig.InstanceCount must be at least 1.")
    if resources["InstanceCount"] > 1:
        raise not_supported(f"ResourceConfig.InstanceCount {resources['InstanceCount']}", "a job is one process on one machine; use 1")
    if resources.get("VolumeSizeInGB", 1) < 1:
        raise validation("ResourceConfig.VolumeSizeInGB must be at least 1.")


def _check_stopping(request: Document) -> None:
    condition = request["StoppingCondition"]
    runtime = condition.get("MaxRuntimeInSeconds", _DEFAULT_RUNTIME)
    if runtime > _LONGEST_RUNTIME:
        raise validation(f"MaxRuntimeInSeconds {runtime} is longer than the maximum of 28 days ({_LONGEST_RUNTIME}).")
    waiting = condition.get("MaxWaitTimeInSeconds")
    if waiting is not None and not request.get("EnableManagedSpotTraining"):
        raise validation("MaxWaitTimeInSeconds is only for training jobs with EnableManagedSpotTraining.")
    if request.get("EnableManagedSpotTraining") and (waiting is None or waiting < runtime):
        raise validation("With EnableManagedSpotTraining, MaxWaitTimeInSeconds must be present and at least MaxRuntimeInSeconds.")


def _check_channel(channel: Document) -> None:
    where = f"InputDataConfig channel {channel['ChannelName']!r}: "
    refuse(channel, _UNSUPPORTED_CHANNEL, where)
    refuse(channel["DataSource"], _UNSUPPORTED_SOURCE, where)
    source = channel["DataSource"].get("S3DataSource")
    if source is None:
        raise validation(f"{where}DataSource must have S3DataSource.")
    refuse(source, _UNSUPPORTED_S3_SOURCE, where)
    if source["S3DataType"] not in {"S3Prefix", "ManifestFile"}:
        raise not_supported(f"{where}S3DataType {source['S3DataType']}", "use S3Prefix or ManifestFile")
    if channel.get("InputMode") == "Pipe":
        raise not_supported(f"{where}InputMode Pipe", "use File or FastFile")
    if channel.get("CompressionType", "None") != "None":
        raise validation(f"{where}CompressionType is used only in Pipe mode; leave it unset or None.")
    if channel.get("RecordWrapperType", "None") != "None":
        raise not_supported(f"{where}RecordWrapperType {channel['RecordWrapperType']}", "records are not wrapped in File mode here")
