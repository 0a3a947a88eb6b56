"""Requests that AWS would refuse are refused, with AWS's code; so are documented members that cannot be honoured here."""
# ruff: noqa: S108, S310 - paths and addresses are our own

from __future__ import annotations

import base64
import copy
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sagemaker_lab import BUCKET, IMAGE, ROLE, Server, error_of

from include.local_sagemaker.service_model import java_pattern


def call(server: Server, target: str, body: bytes | dict[str, Any], **headers: str) -> tuple[int, dict[str, Any], str]:
    """A raw request: what a client sends that checks nothing itself."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(
        server.url,
        data=data,
        headers={"X-Amz-Target": target, "Authorization": "AWS4-HMAC-SHA256 test", "Content-Type": "application/x-amz-json-1.1", **headers},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.loads(response.read() or b"{}"), response.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()), error.headers["Content-Type"]


def changed(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of one member, by its dotted path; None removes it."""

    def change(request: dict[str, Any]) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        place: Any = request
        for part in parents:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value

    return change


TRAINING: list[tuple[str, Any, str, str]] = [
    ("TrainingJobName", "under_score", "ValidationException", "Member must satisfy regular expression pattern"),
    ("TrainingJobName", "-leading", "ValidationException", "regular expression"),
    ("TrainingJobName", "x" * 64, "ValidationException", "Member must have length less than or equal to 63"),
    ("TrainingJobName", "", "ValidationException", "Member must have length greater than or equal to 1"),
    ("TrainingJobName", None, "ValidationException", "Member must not be null"),
    ("TrainingJobName", 7, "SerializationException", "must be of type String"),
    ("TrainingJobName", "trailing-newline\n", "ValidationException", "regular expression"),
    ("Unknown", 1, "ValidationException", "Unknown member"),
    ("RoleArn", "arn:aws:iam::1:role/x", "ValidationException", "regular expression"),
    ("RoleArn", "short", "ValidationException", "greater than or equal to 20"),
    ("OutputDataConfig.S3OutputPath", "bucket/key", "ValidationException", "regular expression"),
    ("OutputDataConfig", None, "ValidationException", "'outputDataConfig'"),
    ("ResourceConfig.InstanceType", "ml.huge", "ValidationException", "Member must satisfy enum value set"),
    ("ResourceConfig.InstanceCount", 0, "ValidationException", "at least 1"),
    ("ResourceConfig.InstanceCount", 2, "ValidationException", "does not support ResourceConfig.InstanceCount"),
    ("ResourceConfig.InstanceCount", "1", "SerializationException", "Integer"),
    ("ResourceConfig.InstanceCount", True, "SerializationException", "Integer"),
    ("StoppingCondition.MaxRuntimeInSeconds", 0, "ValidationException", "greater than or equal to 1"),
    ("StoppingCondition.MaxRuntimeInSeconds", 29 * 86_400, "ValidationException", "28 days"),
    ("StoppingCondition.MaxWaitTimeInSeconds", 100, "ValidationException", "EnableManagedSpotTraining"),
    ("StoppingCondition", None, "ValidationException", "StoppingCondition is required"),
    ("HyperParameters", {"k": 1}, "SerializationException", "String"),
    ("HyperParameters", {"k": "v" * 2501}, "ValidationException", "Map value must satisfy constraint"),
    ("HyperParameters", {str(n): "v" for n in range(101)}, "ValidationException", "less than or equal to 100"),
    ("Environment", {"1bad": "v"}, "ValidationException", "Map keys must satisfy constraint"),
    ("Tags", [{"Key": "k"}], "ValidationException", "Member must not be null"),
    ("Tags", [{"Key": "k!", "Value": "v"}], "ValidationException", "regular expression"),
    ("Tags", [{"Key": "k", "Value": "1"}, {"Key": "k", "Value": "2"}], "ValidationException", "Duplicate tag keys"),
    ("AlgorithmSpecification.TrainingInputMode", "Pipe", "ValidationException", "does not support"),
    ("AlgorithmSpecification.TrainingInputMode", "Stream", "ValidationException", "enum value set"),
    ("AlgorithmSpecification.TrainingImage", "unknown:1", "ValidationException", "Cannot find the requested image"),
    ("AlgorithmSpecification.MetricDefinitions", [{"Name": "a", "Regex": "("}], "ValidationException", "regex"),
    ("AlgorithmSpecification.MetricDefinitions", [{"Name": "a", "Regex": "a"}], "ValidationException", "capturing group"),
    ("InputDataConfig.0.ChannelName", "a b", "ValidationException", "'inputDataConfig.1.member.channelName'"),
    (
        "InputDataConfig.0.DataSource.S3DataSource.S3Uri",
        f"s3://{BUCKET}/nowhere/",
        "ValidationException",
        "No S3 objects found under S3 URL",
    ),
    ("InputDataConfig.0.DataSource.S3DataSource.S3Uri", "s3://no-such-bucket-here/x", "ValidationException", "No S3 objects found"),
    ("InputDataConfig.0.DataSource.S3DataSource.S3DataType", "AugmentedManifestFile", "ValidationException", "does not support"),
    ("InputDataConfig.0.CompressionType", "Gzip", "ValidationException", "Pipe mode"),
    ("InputDataConfig.0.ShuffleConfig", {"Seed": 1}, "ValidationException", "ShuffleConfig"),
    ("InputDataConfig", [], "ValidationException", "greater than or equal to 1"),
    ("InputDataConfig.0.DataSource.S3DataSource.S3Uri", "https://[", "ValidationException", "is not the address of a place in S3"),
    ("OutputDataConfig.S3OutputPath", "s3://no bucket/out", "ValidationException", "is not the address of a place in S3"),
    ("CheckpointConfig", {"S3Uri": "https://host"}, "ValidationException", "is not the address of a place in S3"),
    ("ExperimentConfig", {"ExperimentName": "e"}, "ValidationException", "does not support ExperimentConfig"),
    ("DebugHookConfig", {"S3OutputPath": "s3://bucket/x"}, "ValidationException", "does not support DebugHookConfig"),
    ("CheckpointConfig", {"S3Uri": "s3://bucket/x", "LocalPath": "/tmp/x"}, "ValidationException", "CheckpointConfig.LocalPath"),
    ("CheckpointConfig", {"S3Uri": "s3://bucket/x", "LocalPath": "/opt/ml/../../tmp"}, "ValidationException", "CheckpointConfig.LocalPath"),
    ("EnableManagedSpotTraining", "yes", "SerializationException", "Boolean"),
]


@pytest.mark.parametrize(
    ("path", "value", "code", "message"), TRAINING, ids=[f"{entry[0]}-{index}" for index, entry in enumerate(TRAINING)]
)
def test_training_jobs(server: Server, path: str, value: Any, code: str, message: str) -> None:
    channel = {"ChannelName": "train", "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/data/train"}}}
    request = copy.deepcopy(server.training_request("refused", InputDataConfig=[channel]))
    changed(path, value)(request)
    status, body, kind = call(server, "SageMaker.CreateTrainingJob", request)
    assert (status, body["__type"]) == (400, code), body
    assert message in body["message"]
    assert kind == "application/x-amz-json-1.1"
    assert call(server, "SageMaker.DescribeTrainingJob", {"TrainingJobName": "refused"})[1]["__type"] == "ValidationException"


PROCESSING: list[tuple[str, Any, str]] = [
    ("ProcessingJobName", "a" * 64, "less than or equal to 63"),
    ("AppSpecification.ImageUri", "unknown:1", "Cannot find the requested image"),
    ("AppSpecification.ContainerEntrypoint", [], "greater than or equal to 1"),
    ("AppSpecification.ContainerArguments", ["x" * 257], "less than or equal to 256"),
    ("ProcessingResources.ClusterConfig.InstanceCount", 3, "does not support ClusterConfig.InstanceCount"),
    ("ProcessingResources.ClusterConfig.VolumeSizeInGB", None, "'processingResources.clusterConfig.volumeSizeInGB'"),
    ("ProcessingResources.ClusterConfig.VolumeSizeInGB", 20_000, "less than or equal to 16384"),
    ("ProcessingOutputConfig.Outputs.0.S3Output.LocalPath", "/tmp/out", "must start with /opt/ml/processing/"),
    ("ProcessingOutputConfig.Outputs.0.S3Output.LocalPath", "/opt/ml/processing/../../etc", "must start with /opt/ml/processing/"),
    ("ProcessingOutputConfig.Outputs.0.S3Output.LocalPath", None, "LocalPath is required"),
    ("ProcessingOutputConfig.Outputs.0.S3Output.S3Uri", "https://[/x", "is not the address of a place in S3"),
    (
        "ProcessingInputs",
        [{"InputName": "i", "S3Input": {"S3Uri": "s3://b/x", "LocalPath": "/opt/ml/processing/out/", "S3DataType": "S3Prefix"}}],
        "LocalPath must be unique",
    ),
    ("ProcessingOutputConfig.Outputs.0.S3Output.S3UploadMode", "Sometimes", "enum value set"),
    ("ProcessingOutputConfig.Outputs.0.S3Output", None, "exactly one of S3Output and FeatureStoreOutput"),
    ("ProcessingOutputConfig.Outputs.0", {"OutputName": "o", "FeatureStoreOutput": {"FeatureGroupName": "g"}}, "FeatureStoreOutput"),
    ("ProcessingInputs", [{"InputName": "i"}], "exactly one of S3Input and DatasetDefinition"),
    ("StoppingCondition", {"MaxRuntimeInSeconds": 777_601}, "less than or equal to 777600"),
    ("StoppingCondition", {}, "Member must not be null"),
]


@pytest.mark.parametrize(("path", "value", "message"), PROCESSING, ids=[f"{entry[0]}-{index}" for index, entry in enumerate(PROCESSING)])
def test_processing_jobs(server: Server, path: str, value: Any, message: str) -> None:
    request = copy.deepcopy(server.processing_request("refused", ["x"]))
    changed(path, value)(request)
    status, body, _ = call(server, "SageMaker.CreateProcessingJob", request)
    assert (status, body["__type"]) == (400, "ValidationException"), body
    assert message in body["message"]


def test_models_and_endpoints(server: Server) -> None:
    sagemaker = server.client("sagemaker", parameter_validation=False)
    server.model("strict")
    server.config("strict", {"AllTraffic": ("strict", 1)})
    variant = {"VariantName": "v", "ModelName": "strict", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    other = {**variant, "VariantName": "w"}

    def model(**container: Any) -> Callable[[], Any]:
        return lambda: sagemaker.create_model(ModelName="other", ExecutionRoleArn=ROLE, PrimaryContainer=container)

    def config(*variants: dict[str, Any], **more: Any) -> Callable[[], Any]:
        return lambda: sagemaker.create_endpoint_config(EndpointConfigName="other", ProductionVariants=list(variants), **more)

    capture = {
        "EnableCapture": True,
        "InitialSamplingPercentage": 100,
        "DestinationS3Uri": "s3://b%/x",
        "CaptureOptions": [{"CaptureMode": "Input"}],
    }
    serverless = {"VariantName": "v", "ModelName": "strict", "ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 1}}
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: server.model("strict"), "Cannot create already existing model"),
        (model(Image="unknown:1"), "Requested image unknown:1 not found."),
        (model(Image=IMAGE, ModelDataUrl=f"s3://{BUCKET}/nowhere.tar.gz"), "Could not find model data at"),
        (model(Image=IMAGE, Mode="MultiModel"), "does not support"),
        (model(ModelPackageName="arn:aws:sagemaker:us-east-1:000000000000:model-package/none/1"), "does not exist"),
        (model(), "exactly one of Image and ModelPackageName"),
        (lambda: sagemaker.create_model(ModelName="other", ExecutionRoleArn=ROLE), "exactly one of PrimaryContainer and Containers"),
        (lambda: sagemaker.create_model(ModelName="other", PrimaryContainer={"Image": IMAGE}), "ExecutionRoleArn is required"),
        (lambda: sagemaker.describe_model(ModelName="none"), 'Could not find model "arn:aws:sagemaker:us-east-1:000000000000:model/none".'),
        (lambda: sagemaker.delete_model(ModelName="none"), "Could not find model"),
        (lambda: server.config("strict", {"AllTraffic": ("strict", 1)}), "Cannot create already existing endpoint configuration"),
        (config({**variant, "ModelName": "none"}), "Could not find model"),
        (config({**variant, "InstanceType": "ml.huge"}), "enum value set"),
        (config({**variant, "InitialVariantWeight": -1.0}), "greater than or equal to 0"),
        (config({**variant, "InitialVariantWeight": 0.0}), "greater than 0"),
        (config(variant, variant), "must be unique"),
        (config(serverless), "ServerlessConfig"),
        (config({"VariantName": "v", "ModelName": "strict"}), "InstanceType and InitialInstanceCount are required"),
        (config(variant, ShadowProductionVariants=[variant]), "must be unique"),
        (config(variant, other, ShadowProductionVariants=[{**variant, "VariantName": "shadow"}]), "can only specify one variant"),
        (config(variant, ShadowProductionVariants=[other, {**variant, "VariantName": "shadow"}]), "can only specify one variant"),
        (config(variant, ShadowProductionVariants=[]), "'shadowProductionVariants' failed to satisfy constraint"),
        (config(variant, ShadowProductionVariants=[{**other, "ModelName": "none"}]), "Could not find model"),
        (config(variant, ShadowProductionVariants=[{"VariantName": "w", "ModelName": "strict"}]), "InstanceType and InitialInstanceCount"),
        (config(variant, DataCaptureConfig=capture), "'s3://b%/x' is not the address of a place in S3"),
        (lambda: sagemaker.describe_endpoint_config(EndpointConfigName="none"), "Could not find endpoint configuration"),
        (lambda: sagemaker.create_endpoint(EndpointName="other", EndpointConfigName="none"), "Could not find endpoint configuration"),
        (lambda: sagemaker.create_endpoint(EndpointName="a_b", EndpointConfigName="strict"), "regular expression"),
        (lambda: sagemaker.describe_endpoint(EndpointName="none"), "Could not find endpoint"),
        (lambda: sagemaker.update_endpoint(EndpointName="none", EndpointConfigName="strict"), "Could not find endpoint"),
        (lambda: sagemaker.delete_endpoint(EndpointName="none"), "Could not find endpoint"),
        (lambda: sagemaker.describe_training_job(TrainingJobName="none"), "Requested resource not found."),
        (lambda: sagemaker.describe_processing_job(ProcessingJobName="none"), "Could not find requested job"),
        (lambda: sagemaker.list_tags(ResourceArn="arn:aws:sagemaker:us-east-1:000000000000:model/none"), "Could not find resource"),
    ]
    for make, message in cases:
        code, told = error_of(make)
        assert code == "ValidationException", told
        assert message in told
    assert error_of(lambda: sagemaker.stop_training_job(TrainingJobName="none"))[0] == "ResourceNotFound"
    assert error_of(lambda: sagemaker.stop_processing_job(ProcessingJobName="none"))[0] == "ResourceNotFound"
    rolling = {"RollingUpdatePolicy": {"MaximumBatchSize": {"Type": "CAPACITY_PERCENT", "Value": 50}, "WaitIntervalInSeconds": 0}}
    request = {"EndpointName": "other", "EndpointConfigName": "strict", "DeploymentConfig": rolling}
    assert "RollingUpdatePolicy" in error_of(lambda: sagemaker.create_endpoint(**request))[1]


def test_members_without_local_meaning_are_accepted_and_described(server: Server) -> None:
    network = {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]}
    request = server.training_request(
        "secured",
        VpcConfig=network,
        EnableNetworkIsolation=True,
        EnableInterContainerTrafficEncryption=True,
        OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/out", "KmsKeyId": "alias/key"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 5, "VolumeKmsKeyId": "alias/key"},
        EnableManagedSpotTraining=True,
        StoppingCondition={"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 120},
        RetryStrategy={"MaximumRetryAttempts": 2},
    )
    server.sagemaker.create_training_job(**request)
    job = server.training_end("secured")
    assert {key: job[key] for key in request} == request


def test_unknown_operations_are_refused_politely(server: Server) -> None:
    output = {"S3OutputPath": "s3://b/x"}
    source = {"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://b/x"}}}
    resources = {"InstanceType": "ml.m5.large", "InstanceCount": 1}
    transform = {
        "TransformJobName": "t",
        "ModelName": "m",
        "TransformInput": source,
        "TransformOutput": output,
        "TransformResources": resources,
    }
    code, message = error_of(lambda: server.sagemaker.create_transform_job(**transform))
    assert code == "UnknownOperationException"
    assert "does not implement CreateTransformJob" in message
    notebook = {"NotebookInstanceName": "n", "InstanceType": "ml.t3.medium", "RoleArn": ROLE}
    assert error_of(lambda: server.sagemaker.create_notebook_instance(**notebook))[0] == "UnknownOperationException"
    for target in ("SageMaker.NoSuchThing", "Elsewhere.ListModels", ""):
        status, body, kind = call(server, target, {})
        assert (status, body["__type"], kind) == (400, "UnknownOperationException", "application/x-amz-json-1.1")
    assert call(server, "SageMaker.ListModels", b"{not json")[1]["__type"] == "SerializationException"
    assert call(server, "SageMaker.ListModels", b"[]")[1]["__type"] == "SerializationException"
    assert call(server, "SageMaker.ListModels", b"")[0] == 200


def token(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"MaxResults": 1e400}', "SerializationException"),
        (b'{"MaxResults": NaN}', "SerializationException"),
        (b'{"MaxResults": 1.5}', "SerializationException"),
        (b'{"MaxResults": 3000000000}', "SerializationException"),
        (b'{"MaxResults": 1' + b"0" * 5000 + b"}", "SerializationException"),
        (b'{"CreationTimeAfter": -Infinity}', "SerializationException"),
        (b'{"CreationTimeAfter": 1e400}', "SerializationException"),
        (b"[" * 100_000, "SerializationException"),
        (b'{"NextToken": "NQ=="}', "ValidationException"),
        (json.dumps({"NextToken": token(["CreationTime", "yesterday", "m"])}).encode(), "ValidationException"),
        (json.dumps({"NextToken": token(["CreationTime", 1.5, 7])}).encode(), "ValidationException"),
        (json.dumps({"NextToken": token(["Name", "m", "m"])}).encode(), "ValidationException"),
        (json.dumps({"NextToken": base64.b64encode(b"[" * 5000).decode()}).encode(), "ValidationException"),
    ],
    ids=lambda value: value[:40].decode() if isinstance(value, bytes) else None,
)
def test_odd_requests_are_refused_not_failed(server: Server, body: bytes, code: str) -> None:
    status, answer, _ = call(server, "SageMaker.ListModels", body)
    assert (status, answer["__type"]) == (400, code)


def test_null_members_are_absent_and_whole_numbers_are_integers(server: Server) -> None:
    body = b'{"CreationTimeAfter": null, "NameContains": null, "NextToken": null, "MaxResults": 1.0}'
    status, answer, _ = call(server, "SageMaker.ListModels", body)
    assert status == 200
    assert len(answer["Models"]) <= 1
    request = server.training_request("with-nulls", InputDataConfig=None, Tags=None)
    request["ResourceConfig"] |= {"InstanceCount": 1.0, "VolumeKmsKeyId": None}
    assert call(server, "SageMaker.CreateTrainingJob", request)[0] == 200
    described = server.training_end("with-nulls")
    assert described["TrainingJobStatus"] == "Completed"
    assert "VolumeKmsKeyId" not in described["ResourceConfig"]


@pytest.mark.parametrize("weight", ["1e400", "NaN", "1e39"])
def test_weights_that_no_float_can_hold_are_refused(server: Server, weight: str) -> None:
    body = f'{{"EndpointName": "e", "DesiredWeightsAndCapacities": [{{"VariantName": "v", "DesiredWeight": {weight}}}]}}'
    status, answer, _ = call(server, "SageMaker.UpdateEndpointWeightsAndCapacities", body.encode())
    assert (status, answer["__type"]) == (400, "SerializationException")


def test_unsigned_requests_and_other_paths_are_refused(server: Server) -> None:
    request = urllib.request.Request(server.url, data=b"{}", headers={"X-Amz-Target": "SageMaker.ListModels"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=5)
    assert caught.value.code == 403
    assert json.loads(caught.value.read())["__type"] == "MissingAuthenticationTokenException"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{server.url}/other", timeout=5)
    assert caught.value.code == 404
    assert json.loads(caught.value.read())["__type"] == "UnknownOperationException"


@pytest.mark.parametrize(
    ("pattern", "accepted", "refused"),
    [
        (r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)", ["", "Änderung 7", "a_b.c:d/e=f+g-h@i", "日本"], ["a!", "tab\t", "#"]),
        (r"\A\S[\p{Print}]*\z", ["a", "a b~"], ["", " a", "a\n", "é é"]),
        (r"\p{ASCII}*", ["", "a~"], ["é"]),
        (r"[\u0020-\uD7FF\uE000-\uFFFD\uD800\uDC00-\uDBFF\uDFFF\t]*", ["a\t", "😀"], ["\n"]),
        (r"([\p{L}\p{Z}\p{N}_.:\/=+\-@]*)${1,128}", ["stage", "a/b"], ["a|b"]),
        (r"(?!\s*$).+", ["x"], [" "]),
        (r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", ["a", "a-b", "a--b"], ["a-", "-a", "a_b", "a\n"]),
    ],
)
def test_java_patterns(pattern: str, accepted: list[str], refused: list[str]) -> None:
    compiled = java_pattern(pattern)
    assert all(compiled.fullmatch(text) for text in accepted)
    assert not any(compiled.fullmatch(text) for text in refused)


@settings(max_examples=50, deadline=None)
@given(st.text(st.sampled_from("ab-_Z9é\n "), max_size=63))
def test_names_are_what_the_pattern_says(text: str) -> None:
    letters = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
    expected = bool(text) and text[0] in letters and text[-1] in letters and set(text) <= letters | {"-"}
    assert bool(java_pattern(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}").fullmatch(text)) == expected
