"""Processing jobs: CreateProcessingJob and what a processing container is promised.

Contract (Developer Guide, "Build Your Own Processing Container"): ContainerEntrypoint and ContainerArguments replace the
image's ENTRYPOINT and CMD as docker would; the request is at ``/opt/ml/config/processingjobconfig.json``; inputs are
downloaded to, and outputs uploaded from, places under ``/opt/ml/processing/``; output directories exist before the start;
the exit code decides; ``/opt/ml/output/message`` becomes the ExitMessage. Outputs are uploaded by a job that succeeds.
"""

from __future__ import annotations

import codecs
import shutil
from pathlib import PurePosixPath

from .errors import JobFailed, not_supported, resource_in_use, resource_not_found, validation
from .images import Image
from .jobs import REASON_LENGTH, SERVER_ENDED, Job, JobRunner, MirroredDirectory, Services, find_image, refuse
from .process import Command
from .s3 import Location
from .store import AlreadyExists, Document, Missing, Resource, now
from .tags import tag_map

KIND = "processing"
_DEFAULT_RUNTIME = 86_400
_FINAL = {"Completed", "Failed", "Stopped"}
_ROOT = PurePosixPath("/opt/ml/processing")
_UNSUPPORTED = {"ExperimentConfig": "experiments and trials are not part of it"}


class ProcessingJobs:
    """Create, describe and stop."""

    def __init__(self, services: Services, runner: JobRunner) -> None:
        self._services = services
        self._runner = runner

    def create(self, request: Document) -> Document:
        """CreateProcessingJob."""
        _check(request)
        image = find_image(self._services.images, request["AppSpecification"]["ImageUri"])
        name = request["ProcessingJobName"]
        arn = self._services.settings.arn(f"processing-job/{name}")
        moment = now()
        document: Document = {
            **{key: value for key, value in request.items() if key != "Tags"},
            "ProcessingJobArn": arn,
            "ProcessingJobStatus": "InProgress",
            "CreationTime": moment,
            "LastModifiedTime": moment,
        }
        document.setdefault("StoppingCondition", {"MaxRuntimeInSeconds": _DEFAULT_RUNTIME})
        try:
            with self._services.store.transaction():
                self._services.store.create(KIND, name, document, {"Arn": arn, "Image": image.uri})
                self._services.store.set_tags(arn, tag_map(request))
        except AlreadyExists as error:
            raise resource_in_use(
                f"Job name must be unique within an AWS account and region, and a job with this name already exists ({arn})"
            ) from error
        self._runner.submit(ProcessingJob(self._services, name))
        return {"ProcessingJobArn": arn}

    def describe(self, request: Document) -> Document:
        """DescribeProcessingJob."""
        try:
            return self._services.store.get(KIND, request["ProcessingJobName"]).document
        except Missing as error:
            raise validation(f"Could not find requested job with name: {request['ProcessingJobName']}") from error

    def stop(self, request: Document) -> Document:
        """StopProcessingJob."""
        name = request["ProcessingJobName"]

        def change(resource: Resource) -> None:
            status = resource.document["ProcessingJobStatus"]
            if status in _FINAL:
                raise validation(f"The request was rejected because the processing job is in status {status}.")
            resource.document["ProcessingJobStatus"] = "Stopping"
            resource.document["LastModifiedTime"] = now()

        try:
            self._services.store.update(KIND, name, change)
        except Missing as error:
            raise resource_not_found(f"Could not find requested job with name: {name}") from error
        self._runner.stop(KIND, name)
        return {}

    def recover(self) -> None:
        """Give a final status to the jobs that were running when the server was killed."""
        for resource in list(self._services.store.all(KIND)):
            if resource.document["ProcessingJobStatus"] in _FINAL:
                continue
            self._services.store.update(KIND, resource.name, lambda found: finish(found.document, "Failed", SERVER_ENDED, None))
            if not self._services.settings.keep_job_directories:
                shutil.rmtree(self._services.settings.state / "jobs" / KIND / resource.name / "ml", ignore_errors=True)


class ProcessingJob(Job):
    """One processing job's course."""

    kind = KIND
    group = "/aws/sagemaker/ProcessingJobs"
    status_member = "ProcessingJobStatus"

    def __init__(self, services: Services, name: str) -> None:
        super().__init__(services, name)
        self._continuous: list[MirroredDirectory] = []

    def prepare(self) -> tuple[Image, Command]:
        """Inputs, configuration, output directories."""
        for entry in self.request.get("ProcessingInputs", []):
            self.check_stop()
            if not entry.get("AppManaged"):
                self._download(entry["S3Input"])
        for output in _managed_outputs(self.request):
            directory = self.ml / _inside(output["LocalPath"])
            directory.mkdir(parents=True, exist_ok=True)
            if output["S3UploadMode"] == "Continuous":
                self._continuous.append(MirroredDirectory(directory, Location.parse(output["S3Uri"]), self.services.storage))
        (self.ml / "output").mkdir(exist_ok=True)
        request = {
            key: value for key, value in self.request.items() if key not in {"ProcessingJobStatus", "CreationTime", "LastModifiedTime"}
        }
        self.write_json("config/processingjobconfig.json", request)
        self.write_json("config/resourceconfig.json", {"current_host": "algo-1", "hosts": ["algo-1"]})
        application = self.request["AppSpecification"]
        image = self.services.images[application["ImageUri"]]
        home = self.directory / "home"
        home.mkdir(exist_ok=True)
        environment = {
            **image.base_environment,
            "HOME": str(home),
            **self.request.get("Environment", {}),
            "AWS_REGION": self.services.settings.region,
        }
        entrypoint, arguments = application.get("ContainerEntrypoint"), application.get("ContainerArguments", [])
        argv = [*(entrypoint or image.command), *arguments]
        return image, Command(tuple(argv), image.working_directory, environment, self.ml, self.log_file)

    def started(self) -> None:
        """The start time."""

        def begin(document: Document) -> None:
            document["ProcessingStartTime"] = document["LastModifiedTime"] = now()

        self.change(begin)

    def max_runtime(self) -> float:
        """StoppingCondition.MaxRuntimeInSeconds."""
        return float(self.request["StoppingCondition"]["MaxRuntimeInSeconds"])

    def sync(self) -> None:
        """Continuous outputs."""
        for directory in self._continuous:
            directory.copy()

    def close(self, code: int) -> None:
        """Upload the outputs and write how it ended."""
        message = self._exit_message()
        if self.ending is not None:
            reason = "ClientError: The job's runtime exceeded MaxRuntimeInSeconds." if self.ending == "runtime" else None
            self._finish("Stopped", reason, message)
            return
        if code != 0:
            self._finish("Failed", f"AlgorithmError: See job logs for more information, exit code: {code}", message)
            return
        for output in _managed_outputs(self.request):
            if output["S3UploadMode"] == "EndOfJob":
                self.services.storage.upload_directory(self.ml / _inside(output["LocalPath"]), Location.parse(output["S3Uri"]))
        self._finish("Completed", None, message)

    def failed(self, reason: str) -> None:
        """Status Failed."""
        self._finish("Failed", reason, None)

    def stopped(self) -> None:
        """Status Stopped."""
        self._finish("Stopped", None, None)

    def _download(self, source: Document) -> None:
        files = self.services.storage.files_of(source["S3Uri"], source["S3DataType"])
        self.services.storage.download(files, self.ml / _inside(source["LocalPath"]))

    def _exit_message(self) -> str | None:
        place = self.ml / "output/message"
        if place.is_symlink() or not place.is_file():
            return None
        with place.open("rb") as file:
            content = file.read(REASON_LENGTH + 1)
        too_long = len(content) > REASON_LENGTH
        try:  # of a message that is too long, the last character may have been cut
            text = codecs.getincrementaldecoder("utf-8")().decode(content, final=not too_long)
        except UnicodeDecodeError as error:
            raise JobFailed("ClientError: /opt/ml/output/message is not UTF-8") from error
        if too_long:
            raise JobFailed("ClientError: /opt/ml/output/message is larger than 1 KB")
        return text

    def _finish(self, status: str, reason: str | None, message: str | None) -> None:
        self.change(lambda document: finish(document, status, reason, message))


def finish(document: Document, status: str, reason: str | None, message: str | None) -> None:
    """Write a final status."""
    moment = now()
    document["ProcessingJobStatus"] = status
    document["LastModifiedTime"] = moment
    document["ProcessingEndTime"] = moment
    if reason is not None:
        document["FailureReason"] = reason[:REASON_LENGTH]
    if message is not None:
        document["ExitMessage"] = message


def _managed_outputs(request: Document) -> list[Document]:
    outputs = request.get("ProcessingOutputConfig", {}).get("Outputs", [])
    return [output["S3Output"] for output in outputs if not output.get("AppManaged")]


def _inside(local_path: str) -> PurePosixPath:
    """The place below the ml directory of a path below /opt/ml."""
    return PurePosixPath(local_path).relative_to("/opt/ml")


def _check(request: Document) -> None:
    refuse(request, _UNSUPPORTED)
    cluster = request["ProcessingResources"]["ClusterConfig"]
    if cluster.get("InstancePreferences"):
        raise not_supported("ProcessingResources.ClusterConfig.InstancePreferences", "give InstanceType and InstanceCount")
    if not cluster.get("InstanceType") or "InstanceCount" not in cluster:
        raise validation("ProcessingResources.ClusterConfig must have InstanceType and InstanceCount.")
    if cluster["InstanceCount"] > 1:
        raise not_supported(f"ClusterConfig.InstanceCount {cluster['InstanceCount']}", "a job is one process on one machine; use 1")
    inputs = request.get("ProcessingInputs", [])
    outputs = request.get("ProcessingOutputConfig", {}).get("Outputs", [])
    for what, names in (("input", [item["InputName"] for item in inputs]), ("output", [item["OutputName"] for item in outputs])):
        if len(set(names)) != len(names):
            raise validation(f"Processing {what} names must be unique, but the request has {names}")
    for item in inputs:
        _check_input(item)
    for item in outputs:
        _check_output(item)
    places = [item["S3Input"]["LocalPath"] for item in inputs if not item.get("AppManaged")]
    places += [output["LocalPath"] for output in _managed_outputs(request)]
    if len({PurePosixPath(place) for place in places}) != len(places):
        raise validation(f"LocalPath must be unique among processing inputs and outputs, but the request has {places}")


def _check_input(item: Document) -> None:
    where = f"ProcessingInput {item['InputName']!r}: "
    if ("S3Input" in item) == ("DatasetDefinition" in item):
        raise validation(f"{where}exactly one of S3Input and DatasetDefinition must be given.")
    if item.get("AppManaged"):
        return
    refuse(item, {"DatasetDefinition": "Athena and Redshift are only on AWS"}, where)
    source = item["S3Input"]
    Location.parse(source["S3Uri"])
    _check_local_path(where, source.get("LocalPath"))
    if source.get("S3InputMode", "File") == "Pipe":
        raise not_supported(f"{where}S3InputMode Pipe", "use File")
    if source.get("S3CompressionType", "None") != "None":
        raise validation(f"{where}S3CompressionType Gzip is only for S3InputMode Pipe.")


def _check_output(item: Document) -> None:
    where = f"ProcessingOutput {item['OutputName']!r}: "
    if ("S3Output" in item) == ("FeatureStoreOutput" in item):
        raise validation(f"{where}exactly one of S3Output and FeatureStoreOutput must be given.")
    refuse(item, {"FeatureStoreOutput": "the feature store is not part of it"}, where)
    if not item.get("AppManaged"):
        Location.parse(item["S3Output"]["S3Uri"])
        _check_local_path(where, item["S3Output"].get("LocalPath"))


def _check_local_path(where: str, path: str | None) -> None:
    if not path:
        raise validation(f"{where}LocalPath is required unless AppManaged is True.")
    parts = PurePosixPath(path)
    if not parts.is_relative_to(_ROOT) or parts == _ROOT or ".." in parts.parts:
        raise validation(f"{where}LocalPath {path} must start with /opt/ml/processing/.")
