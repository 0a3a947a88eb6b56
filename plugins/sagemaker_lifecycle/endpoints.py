"""Models, endpoint configurations and endpoints that may be created again: names are digests of content, so an existing one is the same one.

A domain's endpoint carries one of three configurations: one model alone; a champion with a challenger in its shadow (SageMaker allows exactly one
production variant beside one shadow variant); or both as production variants, whose weights mirror the share that the experiment store says.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.amazon.aws.operators.sagemaker import (
    SageMakerEndpointConfigOperator,
    SageMakerEndpointOperator,
    SageMakerModelOperator,
)
from airflow.providers.amazon.aws.triggers.sagemaker import SageMakerTrigger
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from botocore.exceptions import ClientError

from include import domains
from include import settings as places
from include.lifecycle.experiment import CHALLENGER, CHAMPION
from include.lifecycle.names import digest, endpoint_name, sagemaker_name
from include.stores.captures import ServedModel, put_served_models
from include.stores.layout import Layout
from sagemaker_lifecycle.jobs import patient
from sagemaker_lifecycle.tasks import model_registry, object_store

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

_WEIGHT_TOLERANCE = 1e-6
"""SageMaker keeps weights in 32 bits."""


def _named(domain: str, field: str, request: dict[str, Any]) -> dict[str, Any]:
    """The request with a name that is the digest of the rest: a changed role, key or network is another model or configuration."""
    return {field: sagemaker_name(domain, digest(request)), **request, "Tags": places.current().tag_list(domain=domain)}


def model_request(domain: str, model_package: str) -> dict[str, Any]:
    """CreateModel, complete. SageMaker takes approved packages only."""
    return _model(domain, {"ModelPackageName": model_package})


def trial_model_request(domain: str, model_package: str) -> dict[str, Any]:
    """CreateModel, complete, of what the package holds: for a challenger, whose approval is what its rollout is about."""
    package = model_registry().package(model_package)
    request = _model(domain, {"Image": package.image, "ModelDataUrl": package.model})
    return request | {"Tags": places.current().tag_list(domain=domain, model_package=model_package)}


def _model(domain: str, container: dict[str, Any]) -> dict[str, Any]:
    place = places.current()
    request = {
        "Containers": [container],
        "ExecutionRoleArn": place.execution_role_arn,
        "EnableNetworkIsolation": place.endpoint.network_isolation,
        **place.network.vpc_config,
    }
    return _named(domain, "ModelName", request)


def endpoint_config_request(domain: str, model_package: str) -> dict[str, Any]:
    """CreateEndpointConfig, complete: one model, in the slot ``champion``, takes all traffic, and requests and answers are captured.

    Where they are captured to is named by the digest of all the rest: what one configuration served lies in one place.
    """
    return _config(domain, {CHAMPION: (model_request(domain, model_package), 1.0)})


def shadow_config_request(domain: str, champion: str, challenger: str) -> dict[str, Any]:
    """CreateEndpointConfig, complete: the champion takes all traffic, and the challenger gets a copy of each request. Both are captured, each under
    the name of its slot. ``champion``, ``challenger``: ARNs of their packages."""
    shadow = {CHALLENGER: (trial_model_request(domain, challenger), 1.0)}
    return _config(domain, {CHAMPION: (model_request(domain, champion), 1.0)}, shadow)


def ramp_config_request(domain: str, champion: str, challenger: str) -> dict[str, Any]:
    """CreateEndpointConfig, complete: both slots are production variants. The challenger begins without weight: who is not sent to it by name
    meets the champion, until ``set_weights``."""
    models = {CHAMPION: (model_request(domain, champion), 1.0), CHALLENGER: (trial_model_request(domain, challenger), 0.0)}
    return _config(domain, models)


def _config(
    domain: str, production: Mapping[str, tuple[dict[str, Any], float]], shadow: Mapping[str, tuple[dict[str, Any], float]] | None = None
) -> dict[str, Any]:
    """``production``, ``shadow``: variant → (the request for its model, its weight)."""
    place = places.current()
    key = place.encryption.kms_key_arn
    kinds = {"ProductionVariants": production, "ShadowProductionVariants": shadow or {}}
    variants = {
        kind: [
            {
                "VariantName": variant,
                "ModelName": model["ModelName"],
                "InitialInstanceCount": place.endpoint.instance_count,
                "InstanceType": place.endpoint.instance_type,
                "InitialVariantWeight": weight,
            }
            for variant, (model, weight) in models.items()
        ]
        for kind, models in kinds.items()
        if models
    }
    capture: dict[str, Any] = {
        "EnableCapture": True,
        # a pair needs both answers, and each variant is sampled by itself: in shadow, all are kept
        "InitialSamplingPercentage": 100 if shadow else domains.get(domain).monitoring.capture_percentage,
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"], "JsonContentTypes": ["application/json", "application/jsonlines"]},
        **({"KmsKeyId": key} if key else {}),
    }
    request = {**variants, "DataCaptureConfig": capture, **({"KmsKeyId": key} if key else {})}
    capture["DestinationS3Uri"] = place.uri(Layout(domain).captured(digest(request)))
    return _named(domain, "EndpointConfigName", request)


def note_served_models(request: dict[str, Any], model_packages: Mapping[str, str]) -> None:
    """Writes which model each variant (name → ARN of its package) of the endpoint configuration ``request`` serves, beside what will be captured:
    whoever reads captured rows must know whose features they are. Called before the configuration is created; the same again changes nothing."""
    registry = model_registry()
    served = {variant: ServedModel(arn, registry.package(arn).model) for variant, arn in model_packages.items()}
    objects = object_store()
    put_served_models(objects, objects.key(request["DataCaptureConfig"]["DestinationS3Uri"]), served)


class ModelFromPackageOperator(SageMakerModelOperator):
    """Creates the model of a registered package, or finds it.

    :param trial: the package is a challenger's, which needs no approval to be tried
    """

    template_fields: Sequence[str] = (*SageMakerModelOperator.template_fields, "model_package")

    def __init__(self, *, domain: str, model_package: str, trial: bool = False, **kwargs: Any) -> None:
        super().__init__(config={}, aws_conn_id=places.current().aws_conn_id, **kwargs)
        self.domain = domain
        self.model_package = model_package
        self.trial = trial

    def execute(self, context: Context) -> str:
        self.config = (trial_model_request if self.trial else model_request)(self.domain, self.model_package)
        name: str = self.config["ModelName"]
        if not self._check_if_resource_exists(name, "model", self.hook.describe_model):
            super().execute(context)
        return name


class _ConfigOperator(SageMakerEndpointConfigOperator):
    """Creates an endpoint configuration, or finds it, and notes which models it serves. Returns its name."""

    def __init__(self, *, domain: str, **kwargs: Any) -> None:
        super().__init__(config={}, aws_conn_id=places.current().aws_conn_id, **kwargs)
        self.domain = domain

    def request(self) -> dict[str, Any]:
        raise NotImplementedError

    def served(self) -> dict[str, str]:
        """Variant → ARN of its package."""
        raise NotImplementedError

    def execute(self, context: Context) -> str:
        self.config = self.request()
        name: str = self.config["EndpointConfigName"]
        note_served_models(self.config, self.served())
        try:
            self.hook.describe_endpoint_config(name)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ValidationException":
                raise
            super().execute(context)
        return name


class SingleVariantConfigOperator(_ConfigOperator):
    """The configuration in which one model, in the slot ``champion``, takes all traffic."""

    template_fields: Sequence[str] = (*SageMakerEndpointConfigOperator.template_fields, "model_package")

    def __init__(self, *, domain: str, model_package: str, **kwargs: Any) -> None:
        super().__init__(domain=domain, **kwargs)
        self.model_package = model_package

    def request(self) -> dict[str, Any]:
        return endpoint_config_request(self.domain, self.model_package)

    def served(self) -> dict[str, str]:
        return {CHAMPION: self.model_package}


class ShadowConfigOperator(_ConfigOperator):
    """The configuration in which ``champion`` (ARN of its package) takes all traffic and ``challenger`` a copy of it. Their models are there."""

    template_fields: Sequence[str] = (*SageMakerEndpointConfigOperator.template_fields, "champion", "challenger")

    def __init__(self, *, domain: str, champion: str, challenger: str, **kwargs: Any) -> None:
        super().__init__(domain=domain, **kwargs)
        self.champion = champion
        self.challenger = challenger

    def request(self) -> dict[str, Any]:
        return shadow_config_request(self.domain, self.champion, self.challenger)

    def served(self) -> dict[str, str]:
        return {CHAMPION: self.champion, CHALLENGER: self.challenger}


class RampConfigOperator(ShadowConfigOperator):
    """The configuration in which both may take traffic, and all of it is the champion's until ``set_weights``."""

    def request(self) -> dict[str, Any]:
        return ramp_config_request(self.domain, self.champion, self.challenger)


def set_weights(endpoint: str, share: float, may_be_single: bool = False) -> bool:
    """Makes the weights of the endpoint's production variants mirror the challenger's share, 0 to 1. Returns whether there was anything to change.

    What gateways decide does not hang on it: they send each request to a variant by name. So SageMaker is asked, and not waited for (a minute or two
    on AWS): whoever changes the endpoint next waits for it. ``may_be_single``: where the endpoint carries one variant, there is nothing to mirror.
    AirflowFailException where it does not carry both otherwise; ValueError for a share that is none."""
    if not 0 <= share <= 1:
        raise ValueError(f"the challenger's share is {share!r}: a number from 0 to 1 was expected")
    place = places.current()
    client = SageMakerHook(aws_conn_id=place.aws_conn_id).conn
    wanted = {CHAMPION: 1.0 - share, CHALLENGER: share}
    if _weights(client, endpoint) is None:  # an earlier look's change, or AWS's own
        waiting = {"Delay": place.poll_seconds, "MaxAttempts": math.ceil(1800 / place.poll_seconds)}
        client.get_waiter("endpoint_in_service").wait(EndpointName=endpoint, WaiterConfig=waiting)
    present = _weights(client, endpoint) or {}
    if may_be_single and set(present) == {CHAMPION}:
        return False
    if set(present) != set(wanted):
        raise AirflowFailException(
            f"the endpoint {endpoint} carries {', '.join(sorted(present)) or 'no variant'}, not {CHAMPION} and {CHALLENGER}: "
            "its weights can mirror no share"
        )
    if all(math.isclose(present[variant], weight, abs_tol=_WEIGHT_TOLERANCE) for variant, weight in wanted.items()):
        return False
    desired = [{"VariantName": variant, "DesiredWeight": weight} for variant, weight in wanted.items()]
    client.update_endpoint_weights_and_capacities(EndpointName=endpoint, DesiredWeightsAndCapacities=desired)
    return True


def _weights(client: Any, endpoint: str) -> dict[str, float] | None:
    """Variant → its current weight; None while the endpoint is changing. AirflowFailException where it serves nothing."""
    described = client.describe_endpoint(EndpointName=endpoint)
    if described["EndpointStatus"] in _CHANGING:
        return None
    if described["EndpointStatus"] != "InService":
        raise AirflowFailException(f"the endpoint {endpoint} is {described['EndpointStatus']}: {described.get('FailureReason')}")
    return {variant["VariantName"]: variant["CurrentWeight"] for variant in described["ProductionVariants"]}


_CHANGING = {"Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"}


class BringEndpointToOperator(SageMakerEndpointOperator):
    """Brings the domain's endpoint to a configuration: creates or updates it, waits, and fails when SageMaker rolled the update back.

    :param endpoint_config: the configuration's name, templated; empty: there was none before, so the endpoint is deleted
    :param undoing: the configuration that is being undone, or several, templated. Where the endpoint carries another one, it is left alone: this run
        never got that far, or somebody has changed it since. None: nothing is undone
    :param replaces: the configurations that may be replaced, templated; an endpoint that carries another one was changed by somebody else, and the
        task fails. None: bring the endpoint there whatever it carries
    """

    template_fields: Sequence[str] = (*SageMakerEndpointOperator.template_fields, "endpoint_config", "undoing", "replaces")

    def __init__(
        self,
        *,
        domain: str,
        endpoint_config: str,
        undoing: str | Sequence[str] | None = None,
        replaces: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        place = places.current()
        super().__init__(config={}, aws_conn_id=place.aws_conn_id, check_interval=place.poll_seconds, deferrable=True, **kwargs)
        self.domain = domain
        self.endpoint_config = endpoint_config
        self.undoing = undoing
        self.replaces = replaces
        self.undoes = undoing is not None

    def execute(self, context: Context) -> dict[str, Any]:
        name = endpoint_name(self.domain)
        present = self._described(name)
        if present is not None and present["EndpointStatus"] in _CHANGING - {"Deleting"}:
            self._wait()  # an earlier try's change, or AWS's own
        carried = present["EndpointConfigName"] if present is not None else None
        if self.undoes and carried not in self._undone():
            raise AirflowSkipException(f"{name} does not carry what this run deployed ({self.undoing}) but {carried}: left alone")
        if self.replaces is not None and carried not in {*self.replaces, self.endpoint_config}:
            raise AirflowFailException(
                f"{name} carries {carried}, which somebody else has deployed since: this run replaces {', '.join(map(str, self.replaces))} only"
            )
        if not self.endpoint_config:
            if not self.undoes:
                raise AirflowFailException("no configuration to bring the endpoint to")
            self.hook.conn.delete_endpoint(EndpointName=name)
            return {"endpoint": name, "endpoint_config": "", "deleted": True}
        if present is not None and present["EndpointStatus"] == "InService" and carried == self.endpoint_config:
            return self._answer(present)
        if present is not None and present["EndpointStatus"] in {"Failed", "Deleting"}:
            if present["EndpointStatus"] == "Failed":
                self.log.warning("The endpoint %s is Failed (%s): deleting it first.", name, present.get("FailureReason"))
                self.hook.conn.delete_endpoint(EndpointName=name)
            self.hook.conn.get_waiter("endpoint_deleted").wait(
                EndpointName=name, WaiterConfig={"Delay": self.check_interval, "MaxAttempts": 300}
            )
            present = None
        self.operation = "create" if present is None else "update"
        self.config = {
            "EndpointName": name,
            "EndpointConfigName": self.endpoint_config,
            **({"Tags": places.current().tag_list(domain=self.domain)} if present is None else {}),
        }
        super().execute(context)
        raise AirflowException("unreachable: the provider's operator defers")

    def defer(self, *, trigger: SageMakerTrigger, **kwargs: Any) -> None:
        super().defer(trigger=patient(trigger), **kwargs)

    def _undone(self) -> set[str]:
        named = [self.undoing] if isinstance(self.undoing, str) else self.undoing or []
        return {config for config in named if config}

    def _wait(self) -> None:
        self.defer(
            trigger=SageMakerTrigger(
                job_name=endpoint_name(self.domain), job_type="endpoint", waiter_delay=self.check_interval, aws_conn_id=self.aws_conn_id
            ),
            method_name="execute_complete",
            timeout=datetime.timedelta(seconds=self.max_ingestion_time),
        )

    def _described(self, name: str) -> dict[str, Any] | None:
        try:
            return self.hook.describe_endpoint(name)
        except ClientError as error:
            if error.response["Error"]["Code"] == "ValidationException":
                return None
            raise

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        name = endpoint_name(self.domain)
        present = self._described(name)
        if present is None or event is None:
            raise AirflowException(f"the endpoint {name} was deleted while it was waited for")
        if event["status"] != "success":
            raise AirflowFailException(f"the endpoint {name} is {present['EndpointStatus']}: {present.get('FailureReason') or event}")
        if present["EndpointConfigName"] == self.endpoint_config:
            return self._answer(present)
        if present.get("FailureReason"):
            # what failed may have been the very change that is being undone: then another try is worth it
            final = AirflowException if self.undoes else AirflowFailException
            raise final(f"SageMaker returned {name} to {present['EndpointConfigName']}: {present['FailureReason']}")
        return self.execute(context)  # what was waited for was another change

    def _answer(self, endpoint: dict[str, Any]) -> dict[str, Any]:
        self.log.info("%s is %s with %s.", endpoint["EndpointName"], endpoint["EndpointStatus"], endpoint["EndpointConfigName"])
        return {"endpoint": endpoint["EndpointName"], "endpoint_config": endpoint["EndpointConfigName"], "deleted": False}
