"""The configurations of a rollout: what is asked of SageMaker, and when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import botocore.session
import pytest
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator

from include import domains
from include import settings as places
from include.lifecycle.experiment import CHALLENGER, CHAMPION

ROOT = Path(__file__).resolve().parent.parent.parent
SERVICE = botocore.session.get_session().get_service_model("sagemaker")
DOMAIN = "auto_claims"
OLD, NEW = (f"arn:aws:sagemaker:eu-west-1:111122223333:model-package/auto-claims/{version}" for version in (1, 2))


@pytest.fixture
def on_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[places.Settings]:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("FRAUD_SETTINGS", str(ROOT / "config" / "aws.toml"))
    places.current.cache_clear()
    from sagemaker_lifecycle import endpoints

    def package(arn: str) -> Any:
        return SimpleNamespace(image="repository/image:1", model=f"s3://b/models/{arn[-1]}/model.tar.gz")

    monkeypatch.setattr(endpoints, "model_registry", lambda: SimpleNamespace(package=package))
    yield places.current()
    places.current.cache_clear()


def accepted(operation: str, request: dict[str, Any]) -> dict[str, Any]:
    report = ParamValidator().validate(request, SERVICE.operation_model(operation).input_shape)
    assert not report.has_errors(), report.generate_report()
    return request


def test_the_challengers_model_is_made_of_what_its_package_holds(on_aws: places.Settings) -> None:
    from sagemaker_lifecycle.endpoints import model_request, trial_model_request

    trial = accepted("CreateModel", trial_model_request(DOMAIN, NEW))
    assert trial["Containers"] == [{"Image": "repository/image:1", "ModelDataUrl": "s3://b/models/2/model.tar.gz"}]
    assert trial["VpcConfig"]["Subnets"] == list(on_aws.network.subnets)
    assert trial["EnableNetworkIsolation"] is True
    assert {"Key": "model_package", "Value": NEW} in trial["Tags"]
    assert {"Key": "domain", "Value": DOMAIN} in trial["Tags"]
    assert trial["ModelName"] not in {trial_model_request(DOMAIN, OLD)["ModelName"], model_request(DOMAIN, NEW)["ModelName"]}


@pytest.mark.parametrize("kind", ["shadow", "ramp"])
def test_both_models_have_their_slots(on_aws: places.Settings, kind: str) -> None:
    from sagemaker_lifecycle import endpoints

    make = {"shadow": endpoints.shadow_config_request, "ramp": endpoints.ramp_config_request}[kind]
    request = accepted("CreateEndpointConfig", make(DOMAIN, OLD, NEW))
    production = request["ProductionVariants"]
    shadows = request.get("ShadowProductionVariants", [])
    assert [variant["VariantName"] for variant in (*production, *shadows)] == [CHAMPION, CHALLENGER]
    assert len(shadows) == (1 if kind == "shadow" else 0)
    assert [variant["InitialVariantWeight"] for variant in (*production, *shadows)] == ([1.0, 1.0] if kind == "shadow" else [1.0, 0.0])
    wanted = [endpoints.model_request(DOMAIN, OLD)["ModelName"], endpoints.trial_model_request(DOMAIN, NEW)["ModelName"]]
    assert [variant["ModelName"] for variant in (*production, *shadows)] == wanted
    assert request["KmsKeyId"] == request["DataCaptureConfig"]["KmsKeyId"] == on_aws.encryption.kms_key_arn
    assert {"Key": "domain", "Value": DOMAIN} in request["Tags"]


def test_a_domain_that_keeps_a_sample_of_the_requests_keeps_all_in_shadow(on_aws: places.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from sagemaker_lifecycle import endpoints

    domain = domains.get(DOMAIN)
    sampled = replace(domain, monitoring=replace(domain.monitoring, capture_percentage=20))
    monkeypatch.setattr(domains, "get", lambda _: sampled)
    kept = [
        request["DataCaptureConfig"]["InitialSamplingPercentage"]
        for request in (
            endpoints.endpoint_config_request(DOMAIN, OLD),
            endpoints.shadow_config_request(DOMAIN, OLD, NEW),
            endpoints.ramp_config_request(DOMAIN, OLD, NEW),
        )
    ]
    assert kept == [20, 100, 20]


def test_each_configuration_has_a_name_and_a_place_of_captures_of_its_own(on_aws: places.Settings) -> None:
    from sagemaker_lifecycle import endpoints

    requests = [
        endpoints.endpoint_config_request(DOMAIN, OLD),
        endpoints.shadow_config_request(DOMAIN, OLD, NEW),
        endpoints.shadow_config_request(DOMAIN, NEW, OLD),
        endpoints.ramp_config_request(DOMAIN, OLD, NEW),
    ]
    assert len({request["EndpointConfigName"] for request in requests}) == 4
    assert len({request["DataCaptureConfig"]["DestinationS3Uri"] for request in requests}) == 4
    assert endpoints.ramp_config_request(DOMAIN, OLD, NEW) == requests[3]


@pytest.mark.parametrize("present", [True, False])
@pytest.mark.parametrize("kind", ["shadow", "ramp"])
def test_a_configuration_is_created_once_and_says_first_what_it_serves(
    on_aws: places.Settings, monkeypatch: pytest.MonkeyPatch, kind: str, present: bool
) -> None:
    from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
    from sagemaker_lifecycle import endpoints

    happened: list[Any] = []

    def describe(_: Any, name: str) -> dict[str, Any]:
        if present or ("created", name) in happened:
            return {"EndpointConfigName": name}
        raise ClientError({"Error": {"Code": "ValidationException", "Message": "Could not find it"}}, "Describe")

    def create(_: Any, config: dict[str, Any]) -> dict[str, Any]:
        happened.append(("created", accepted("CreateEndpointConfig", config)["EndpointConfigName"]))
        return {"ResponseMetadata": {"HTTPStatusCode": 200}}

    monkeypatch.setattr(endpoints, "note_served_models", lambda request, served: happened.append((request["EndpointConfigName"], served)))
    monkeypatch.setattr(SageMakerHook, "describe_endpoint_config", describe)
    monkeypatch.setattr(SageMakerHook, "create_endpoint_config", create)
    make = {"shadow": endpoints.ShadowConfigOperator, "ramp": endpoints.RampConfigOperator}[kind]
    operator = make(task_id="config", domain=DOMAIN, champion=OLD, challenger=NEW)
    assert {"champion", "challenger"} <= set(operator.template_fields)
    name = operator.execute({})
    assert name == getattr(endpoints, f"{kind}_config_request")(DOMAIN, OLD, NEW)["EndpointConfigName"]
    assert happened[0] == (name, {CHAMPION: OLD, CHALLENGER: NEW})
    assert happened[1:] == ([] if present else [("created", name)])


class Endpoint:
    """Of SageMaker's client what ``set_weights`` calls: an endpoint that changes its weights when it is waited for."""

    def __init__(self, weights: dict[str, float], status: str = "InService") -> None:
        self.weights, self.status = weights, status
        self.asked: list[dict[str, float]] = []

    def describe_endpoint(self, EndpointName: str) -> dict[str, Any]:
        variants = [{"VariantName": variant, "CurrentWeight": weight} for variant, weight in self.weights.items()]
        return {"EndpointStatus": self.status, "ProductionVariants": variants, "FailureReason": "its reason"}

    def get_waiter(self, name: str) -> Any:
        assert name == "endpoint_in_service"
        return SimpleNamespace(wait=self._wait)

    def _wait(self, EndpointName: str, WaiterConfig: dict[str, Any]) -> None:
        self.status = "InService"

    def update_endpoint_weights_and_capacities(self, EndpointName: str, DesiredWeightsAndCapacities: list[dict[str, Any]]) -> None:
        assert self.status == "InService", "SageMaker refuses a change of an endpoint that is changing"
        self.weights = {item["VariantName"]: item["DesiredWeight"] for item in DesiredWeightsAndCapacities}
        self.asked.append(self.weights)
        self.status = "Updating"


@pytest.fixture
def endpoint(on_aws: places.Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook

    def make(weights: dict[str, float], status: str = "InService") -> Endpoint:
        made = Endpoint(weights, status)
        monkeypatch.setattr(SageMakerHook, "conn", made)
        return made

    return make


def test_weights_mirror_the_share_and_are_set_once(endpoint: Any) -> None:
    from sagemaker_lifecycle.endpoints import set_weights

    live = endpoint({CHAMPION: 1.0, CHALLENGER: 0.0})
    assert set_weights("e", 0.05) is True
    assert live.asked == [{CHAMPION: 0.95, CHALLENGER: 0.05}]
    assert live.status == "Updating", "it is not waited for: no look at a split may take minutes"
    live.weights = {CHAMPION: 0.949999988079071, CHALLENGER: 0.05000000074505806}  # 32 bits, as SageMaker returns them
    assert set_weights("e", 0.05) is False
    assert len(live.asked) == 1
    assert set_weights("e", 0.0) is True
    assert set_weights("e", 1.0) is True
    assert live.weights == {CHAMPION: 0.0, CHALLENGER: 1.0}


def test_a_change_that_is_under_way_is_waited_for(endpoint: Any) -> None:
    from sagemaker_lifecycle.endpoints import set_weights

    live = endpoint({CHAMPION: 1.0, CHALLENGER: 0.0}, "Updating")
    assert set_weights("e", 0.5) is True
    assert live.weights == {CHAMPION: 0.5, CHALLENGER: 0.5}


def test_weights_of_an_endpoint_without_both_variants_are_left_alone(endpoint: Any) -> None:
    from airflow.sdk.exceptions import AirflowFailException
    from sagemaker_lifecycle.endpoints import set_weights

    live = endpoint({CHAMPION: 1.0})
    with pytest.raises(AirflowFailException, match="carries champion, not champion and challenger"):
        set_weights("e", 0.5)
    assert set_weights("e", 0.0, may_be_single=True) is False
    failed = endpoint({CHAMPION: 1.0, CHALLENGER: 0.0}, "Failed")
    with pytest.raises(AirflowFailException, match="is Failed: its reason"):
        set_weights("e", 0.5)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="a number from 0 to 1"):
            set_weights("e", share)
    assert live.asked == failed.asked == []
