"""Every Create* request is what botocore's model of SageMaker accepts, and takes network, keys, isolation and tags from the settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from include import domains
from include import settings as places
from include.stores.captures import Captures, ServedModel
from include.stores.layout import Layout
from include.stores.objects import ObjectStore

ROOT = Path(__file__).resolve().parent.parent.parent
SERVICE = botocore.session.get_session().get_service_model("sagemaker")


@pytest.fixture
def on_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("FRAUD_SETTINGS", str(ROOT / "config" / "aws.toml"))
    places.current.cache_clear()
    yield places.current()
    places.current.cache_clear()


def accepted(operation: str, request: dict[str, Any]) -> dict[str, Any]:
    report = ParamValidator().validate(request, SERVICE.operation_model(operation).input_shape)
    assert not report.has_errors(), report.generate_report()
    return request


class Recorded(Exception):
    """Carries the request that an operator was about to send."""


def sent_by(operator: Any, monkeypatch: pytest.MonkeyPatch, call: str) -> dict[str, Any]:
    """The configuration with which the operator calls the provider's hook."""
    from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
    from botocore.exceptions import ClientError

    def missing(*_: Any) -> dict[str, Any]:
        raise ClientError({"Error": {"Code": "ValidationException", "Message": "Could not find it"}}, "Describe")

    def record(_: Any, config: dict[str, Any], *__: Any, **___: Any) -> None:
        raise Recorded(config)

    monkeypatch.setattr(SageMakerHook, "configure_s3_resources", lambda *_: None)
    for describe in ("describe_processing_job", "describe_training_job", "describe_model", "describe_endpoint_config", "describe_endpoint"):
        monkeypatch.setattr(SageMakerHook, describe, missing)
    monkeypatch.setattr(SageMakerHook, "check_training_config", lambda *_: None)
    monkeypatch.setattr(SageMakerHook, call, record)
    run = SimpleNamespace(dag_id="auto_claims.train_model", run_id="manual__1")
    with pytest.raises(Recorded) as recorded:
        operator.execute({"dag_run": run})
    return recorded.value.args[0]


def test_processing_job(on_aws: places.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from sagemaker_lifecycle.jobs import DomainProcessingOperator

    arguments = {"as-of": "2026-04-01T00:00:00Z", "champion": "", "rebuild": True, "absent": None}
    operator = DomainProcessingOperator(task_id="evaluate", domain="auto_claims", job="evaluate", arguments=arguments, writes_to="evaluate")
    request = accepted("CreateProcessingJob", sent_by(operator, monkeypatch, "create_processing_job"))
    assert request["NetworkConfig"]["VpcConfig"]["Subnets"] == list(on_aws.network.subnets)
    assert request["NetworkConfig"]["EnableInterContainerTrafficEncryption"] is True
    assert request["ProcessingResources"]["ClusterConfig"]["VolumeKmsKeyId"] == on_aws.encryption.kms_key_arn
    assert request["Environment"]["FRAUD_KMS_KEY"] == on_aws.encryption.kms_key_arn
    assert {"Key": "domain", "Value": "auto_claims"} in request["Tags"]
    words = request["AppSpecification"]["ContainerArguments"]
    assert words[:5] == ["evaluate", "--domain", "auto_claims", "--as-of", "2026-04-01T00:00:00Z"]
    assert "--rebuild" in words
    assert "--champion" not in words
    assert "--absent" not in words
    name = request["ProcessingJobName"]
    output = words[words.index("--output") + 1]
    assert name.endswith("-1")
    assert name.rsplit("-", 2)[1] in output


def test_the_same_request_has_the_same_name_and_another_has_another(on_aws: places.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from sagemaker_lifecycle.jobs import DomainProcessingOperator

    def name(**arguments: Any) -> str:
        operator = DomainProcessingOperator(task_id="ingest", domain="auto_claims", job="ingest", arguments=arguments)
        return str(sent_by(operator, monkeypatch, "create_processing_job")["ProcessingJobName"])

    assert name(manifest="s3://b/1") == name(manifest="s3://b/1")
    assert name(manifest="s3://b/1") != name(manifest="s3://b/2")


def test_training_job(on_aws: places.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from sagemaker_lifecycle.jobs import DomainTrainingOperator

    operator = DomainTrainingOperator(task_id="train", domain="auto_claims", dataset="s3://b/datasets/1/", as_of="2026-04-01T00:00:00Z")
    request = accepted("CreateTrainingJob", sent_by(operator, monkeypatch, "create_training_job"))
    assert request["VpcConfig"]["SecurityGroupIds"] == list(on_aws.network.security_groups)
    assert request["EnableNetworkIsolation"] is True
    assert request["EnableInterContainerTrafficEncryption"] is True
    assert request["OutputDataConfig"]["KmsKeyId"] == on_aws.encryption.kms_key_arn
    assert request["ResourceConfig"]["VolumeKmsKeyId"] == on_aws.encryption.kms_key_arn
    assert [channel["ChannelName"] for channel in request["InputDataConfig"]] == ["train", "validation"]
    assert all(isinstance(value, str) for value in request["HyperParameters"].values())
    assert {"Key": "domain", "Value": "auto_claims"} in request["Tags"]


def test_model_and_endpoint_configuration(on_aws: places.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from sagemaker_lifecycle.endpoints import ModelFromPackageOperator, SingleVariantConfigOperator, model_request

    package = "arn:aws:sagemaker:eu-west-1:111122223333:model-package/auto-claims/1"
    model = accepted(
        "CreateModel",
        sent_by(ModelFromPackageOperator(task_id="m", domain="auto_claims", model_package=package), monkeypatch, "create_model"),
    )
    assert model["VpcConfig"]["Subnets"] == list(on_aws.network.subnets)
    assert model["EnableNetworkIsolation"] is True
    assert model["Tags"]
    noted: list[tuple[str, dict[str, str]]] = []
    monkeypatch.setattr(
        "sagemaker_lifecycle.endpoints.note_served_models",
        lambda request, packages: noted.append((request["EndpointConfigName"], dict(packages))),
    )
    operator = SingleVariantConfigOperator(task_id="c", domain="auto_claims", model_package=package)
    config = accepted("CreateEndpointConfig", sent_by(operator, monkeypatch, "create_endpoint_config"))
    assert config["KmsKeyId"] == on_aws.encryption.kms_key_arn
    assert config["ProductionVariants"][0]["ModelName"] == model["ModelName"] == model_request("auto_claims", package)["ModelName"]
    assert config["ProductionVariants"][0]["InitialInstanceCount"] == on_aws.endpoint.instance_count
    assert config["Tags"]
    assert noted == [(config["EndpointConfigName"], {"champion": package})], "before the configuration is created"
    capture = config["DataCaptureConfig"]
    assert capture["EnableCapture"] is True
    assert capture["InitialSamplingPercentage"] == domains.get("auto_claims").monitoring.capture_percentage
    assert [option["CaptureMode"] for option in capture["CaptureOptions"]] == ["Input", "Output"]
    assert set(capture["CaptureContentTypeHeader"]["CsvContentTypes"]) == {"text/csv"}
    assert "application/json" in capture["CaptureContentTypeHeader"]["JsonContentTypes"]
    assert capture["KmsKeyId"] == on_aws.encryption.kms_key_arn
    assert capture["DestinationS3Uri"].startswith(f"s3://{on_aws.bucket}/auto_claims/captured/")


def test_each_configuration_captures_to_a_place_of_its_own_that_says_what_it_serves(
    on_aws: places.Settings, monkeypatch: pytest.MonkeyPatch, bucket: ObjectStore
) -> None:
    from sagemaker_lifecycle import endpoints

    def destination(package: str) -> str:
        return str(endpoints.endpoint_config_request("auto_claims", package)["DataCaptureConfig"]["DestinationS3Uri"])

    assert destination("arn:1") == destination("arn:1")
    assert destination("arn:1") != destination("arn:2")
    registry = SimpleNamespace(package=lambda arn: SimpleNamespace(model=f"s3://b/models/{arn[-1]}/model.tar.gz"))
    monkeypatch.setattr(endpoints, "model_registry", lambda: registry)
    monkeypatch.setattr(endpoints, "object_store", lambda: bucket)
    with monkeypatch.context() as patch:
        patch.setattr(places, "current", lambda: replace(on_aws, bucket=bucket.bucket))
        request = endpoints.endpoint_config_request("auto_claims", "arn:1")
    for _ in range(2):
        endpoints.note_served_models(request, {"champion": "arn:1", "challenger": "arn:2"})
    key = bucket.key(request["DataCaptureConfig"]["DestinationS3Uri"])
    assert [info.key for info in bucket.list("")] == [f"{key}/variants.json"]
    assert Captures(bucket, Layout("auto_claims")).served_models(key.rpartition("/")[2]) == {
        "champion": ServedModel("arn:1", "s3://b/models/1/model.tar.gz"),
        "challenger": ServedModel("arn:2", "s3://b/models/2/model.tar.gz"),
    }


def test_settings_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    good = (ROOT / "config" / "laptop.toml").read_text()
    for text, message in [
        (good + "\n[endpoints]\n", "unknown key 'endpoints'"),
        (good.replace('instance_type = "ml.m5.large"', "instance = 1"), r"\[endpoint\]: unknown key 'instance'"),
        (good.replace('bucket = "fraud-lifecycle"', ""), "bucket"),
        (good.replace('"fraud-lifecycle"', '"${NO_SUCH_VARIABLE}"'), "NO_SUCH_VARIABLE is not set"),
        (good.replace('"duckdb"', '"pandas"'), "features_engine is 'pandas': wants duckdb or spark"),
        ("not toml", "settings file"),
    ]:
        path = tmp_path / "place.toml"
        path.write_text(text)
        with pytest.raises(places.SettingsError, match=message):
            places.load(path)


def test_names_change_with_what_they_name(on_aws: places.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed role, key or isolation must not find the old model and use that."""
    from sagemaker_lifecycle.endpoints import endpoint_config_request, model_request

    def names(**changes: Any) -> tuple[str, str]:
        with monkeypatch.context() as patch:
            patch.setattr(places, "current", lambda: replace(on_aws, **changes))
            return model_request("auto_claims", "arn")["ModelName"], endpoint_config_request("auto_claims", "arn")["EndpointConfigName"]

    first = names()
    assert names() == first
    assert names(tags={"other": "tags"}) == first
    assert names(execution_role_arn="arn:aws:iam::111122223333:role/other")[0] != first[0]
    assert names(endpoint=replace(on_aws.endpoint, network_isolation=False))[0] != first[0]
    assert names(encryption=places.Encryption("arn:aws:kms:eu-west-1:111122223333:key/other"))[1] != first[1]


def test_endpoint(on_aws: places.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from sagemaker_lifecycle.endpoints import BringEndpointToOperator

    operator = BringEndpointToOperator(task_id="e", domain="auto_claims", endpoint_config="config")
    request = accepted("CreateEndpoint", sent_by(operator, monkeypatch, "create_endpoint"))
    assert request["EndpointConfigName"] == "config"
    assert {"Key": "domain", "Value": "auto_claims"} in request["Tags"]


def test_model_package_and_its_group(on_aws: places.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
    from sagemaker_lifecycle.registry import RegisterModelOperator

    sent: dict[str, dict[str, Any]] = {}

    class Client:
        def create_model_package_group(self, **request: Any) -> dict[str, Any]:
            sent.setdefault("CreateModelPackageGroup", request)
            return {"ModelPackageGroupArn": "arn", "ResponseMetadata": {"HTTPStatusCode": 200}}

        def create_model_package(self, **request: Any) -> dict[str, Any]:
            sent["CreateModelPackage"] = request
            return {"ModelPackageArn": "arn"}

    monkeypatch.setattr(SageMakerHook, "conn", Client())
    names = ("report", "smoke_test", "evaluation", "bias", "explainability")
    evaluation = {
        "gate": {"passed": True, "reasons": ["good"]},
        "review_threshold": 12.5,
        "reports": {name: f"s3://b/{name}" for name in names},
        "metrics": {"roc_auc": {"value": 0.8, "low": 0.7, "high": 0.9}},
    }
    baseline = {"reports": {name: f"s3://b/{name}.json" for name in ("profile", "reference")}}
    training = {"job": "job", "model": "s3://b/model.tar.gz", "code_version": "0123456789ab"}
    operator = RegisterModelOperator(
        task_id="register",
        domain="auto_claims",
        run={"as_of": "2026-04-01T00:00:00Z", "history": False, "champion": None},
        dataset={"uri": "s3://b/datasets/1/"},
        training=training,
        evaluation=evaluation,
        baseline=baseline,
    )
    context: Any = {"dag_run": SimpleNamespace(dag_id="auto_claims.train_model", run_id="manual__1")}
    assert operator.execute(context)["gate_passed"] is True
    group = accepted("CreateModelPackageGroup", sent["CreateModelPackageGroup"])
    assert group["Tags"] == on_aws.tag_list(domain="auto_claims")
    package = accepted("CreateModelPackage", sent["CreateModelPackage"])
    assert "Tags" not in package, "AWS refuses tags on a versioned package"
    assert package["CustomerMetadataProperties"]["code_version"] == "0123456789ab"
    assert package["DriftCheckBaselines"]["ModelDataQuality"]["Statistics"]["S3Uri"] == "s3://b/profile.json"
    assert package["DriftCheckBaselines"]["ModelQuality"]["Statistics"]["S3Uri"] == "s3://b/reference.json"
    first = package["ClientToken"]
    operator.execute(context)
    assert sent["CreateModelPackage"]["ClientToken"] == first
    evaluation["gate"] = {"passed": False, "reasons": ["bad"]}
    operator.execute(context)
    assert sent["CreateModelPackage"]["ModelApprovalStatus"] == "Rejected"
    assert sent["CreateModelPackage"]["ClientToken"] != first


@pytest.mark.parametrize(
    ("undoing", "carried", "previous", "outcome"),
    [
        ("ours", "ours", "before", "update"),
        ("ours", "ours", "", "delete"),
        ("ours", "somebody-elses", "before", "skip"),
        ("ours", "somebody-elses", "", "skip"),
        ("", "ours", "before", "skip"),
        ("ours", None, "", "skip"),
    ],
)
def test_undoing_touches_only_what_this_run_deployed(
    on_aws: places.Settings, monkeypatch: pytest.MonkeyPatch, undoing: str, carried: str | None, previous: str, outcome: str
) -> None:
    from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
    from airflow.sdk.exceptions import AirflowSkipException
    from sagemaker_lifecycle.endpoints import BringEndpointToOperator

    deleted: list[str] = []

    def update(_: Any, config: dict[str, Any], **__: Any) -> None:
        raise Recorded(config)

    present = {"EndpointName": "e", "EndpointStatus": "InService", "EndpointConfigName": carried} if carried else None
    monkeypatch.setattr(BringEndpointToOperator, "_described", lambda *_: present)
    monkeypatch.setattr(SageMakerHook, "update_endpoint", update)
    monkeypatch.setattr(SageMakerHook, "conn", SimpleNamespace(delete_endpoint=lambda EndpointName: deleted.append(EndpointName)))
    operator = BringEndpointToOperator(task_id="return_to_previous", domain="auto_claims", endpoint_config=previous, undoing=undoing)
    if outcome == "skip":
        with pytest.raises(AirflowSkipException, match="left alone"):
            operator.execute({})
    elif outcome == "update":
        with pytest.raises(Recorded) as recorded:
            operator.execute({})
        assert recorded.value.args[0]["EndpointConfigName"] == previous
    else:
        assert operator.execute({})["deleted"]
    assert deleted == (["auto-claims-endpoint"] if outcome == "delete" else [])


@pytest.mark.parametrize(
    ("carried", "outcome"),
    [("previous", "update"), ("ramp-of-this-run", "update"), ("shadow", "stays"), ("of-somebody-else", "fails"), (None, "fails")],
)
def test_only_what_this_run_found_or_left_is_replaced(
    on_aws: places.Settings, monkeypatch: pytest.MonkeyPatch, carried: str | None, outcome: str
) -> None:
    from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
    from airflow.sdk.exceptions import AirflowFailException
    from sagemaker_lifecycle.endpoints import BringEndpointToOperator

    def update(_: Any, config: dict[str, Any], **__: Any) -> None:
        raise Recorded(config)

    present = {"EndpointName": "e", "EndpointStatus": "InService", "EndpointConfigName": carried, "EndpointArn": "arn:e"} if carried else None
    monkeypatch.setattr(BringEndpointToOperator, "_described", lambda *_: present)
    monkeypatch.setattr(SageMakerHook, "update_endpoint", update)
    operator = BringEndpointToOperator(
        task_id="bring_shadow", domain="auto_claims", endpoint_config="shadow", replaces=["previous", "ramp-of-this-run", "None"]
    )
    if outcome == "fails":
        with pytest.raises(AirflowFailException, match="somebody else has deployed since"):
            operator.execute({})
    elif outcome == "update":
        with pytest.raises(Recorded) as recorded:
            operator.execute({})
        assert recorded.value.args[0]["EndpointConfigName"] == "shadow"
    else:
        assert operator.execute({})["endpoint_config"] == "shadow"
