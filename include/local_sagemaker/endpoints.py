"""Endpoints: create, describe, update without downtime, shift weights, delete.

Blue/green, as on AWS: an update starts the new fleet beside the old one, waits until it is healthy, shifts the traffic (all at
once, or in canary or linear steps, watching the CloudWatch alarms of AutoRollbackConfiguration), lets requests in flight
end, and stops the old fleet. An update that fails leaves the old fleet serving: InService, with the old EndpointConfigName and
a FailureReason. Each step is written down before it is visible, so a killed server comes back with the endpoint that was told.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from .endpoint_metrics import VariantStatistics
from .errors import not_supported, validation
from .hosting import DeploymentFailed, Fleet, Route, VariantPlan
from .jobs import REASON_LENGTH, Services
from .models import EndpointConfigs, Models
from .store import AlreadyExists, Document, Missing, Resource, now
from .tags import tag_map

log = logging.getLogger(__name__)

KIND = "endpoint"
_BUSY = {"Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"}
_ALARM_SECONDS = 1.0


class Endpoints:
    """The operations on endpoints, and the fleets behind them."""

    def __init__(self, services: Services, models: Models, configs: EndpointConfigs, loop: asyncio.AbstractEventLoop) -> None:
        self._services = services
        self._models = models
        self._configs = configs
        self._loop = loop
        self._fleets: dict[str, Fleet] = {}
        self._starting: set[Fleet] = set()
        self._closing = threading.Event()
        self.routes: dict[str, Route] = {}  # read on the event loop for every request; entries are replaced whole

    def create(self, request: Document) -> Document:
        """CreateEndpoint."""
        name = request["EndpointName"]
        arn = self._arn(name)
        if self._services.store.exists(KIND, name):
            raise validation(f'Cannot create already existing endpoint "{arn}".')
        _check_deployment(request)
        config = self._configs.find(request["EndpointConfigName"])
        plans = self._plans(config)
        moment = now()
        document: Document = {
            "EndpointName": name,
            "EndpointArn": arn,
            "EndpointConfigName": config["EndpointConfigName"],
            "EndpointStatus": "Creating",
            "CreationTime": moment,
            "LastModifiedTime": moment,
            "PendingDeploymentSummary": _pending(config, plans, moment),
        }
        if "DeploymentConfig" in request:
            document["LastDeploymentConfig"] = request["DeploymentConfig"]
        fleet = self._fleet(name, config["EndpointConfigName"], plans)
        try:
            with self._services.store.transaction():
                self._services.store.create(KIND, name, document, {"Arn": arn, "Active": _stored(fleet)})
                self._services.store.set_tags(arn, tag_map(request))
        except AlreadyExists as error:
            raise validation(f'Cannot create already existing endpoint "{arn}".') from error
        self._in_background(f"create-{name}", lambda: self._bring_up(name, fleet))
        return {"EndpointArn": arn}

    def describe(self, request: Document) -> Document:
        """DescribeEndpoint."""
        return self._find(request["EndpointName"]).document

    def update(self, request: Document) -> Document:
        """UpdateEndpoint."""
        name = request["EndpointName"]
        self._find(name)
        _check_deployment(request)
        excluded = {item["VariantPropertyType"] for item in request.get("ExcludeRetainedVariantProperties", [])}
        if excluded and not request.get("RetainAllVariantProperties"):
            raise validation("ExcludeRetainedVariantProperties is only allowed with RetainAllVariantProperties.")
        config = self._configs.find(request["EndpointConfigName"])
        plans = self._plans(config)

        def begin(resource: Resource) -> None:
            nonlocal plans
            self._check_idle(resource, "update")
            if request.get("RetainAllVariantProperties"):
                plans = [_retained(plan, resource.document, excluded) for plan in plans]
            deployment = request.get("DeploymentConfig")
            if deployment is None and request.get("RetainDeploymentConfig"):
                deployment = resource.document.get("LastDeploymentConfig")
            _check_same_variants(deployment, plans, resource.document)
            moment = now()
            resource.document.pop("FailureReason", None)
            resource.document["EndpointStatus"] = "Updating"
            resource.document["LastModifiedTime"] = moment
            resource.document["PendingDeploymentSummary"] = _pending(config, plans, moment)
            resource.private["Deployment"] = deployment

        deployment = self._services.store.update(KIND, name, begin).private["Deployment"]
        fleet = self._fleet(name, config["EndpointConfigName"], plans)
        self._in_background(f"update-{name}", lambda: self._replace(name, fleet, deployment))
        return {"EndpointArn": self._arn(name)}

    def update_weights(self, request: Document) -> Document:
        """UpdateEndpointWeightsAndCapacities; counts are recorded, a variant stays one process."""
        name = request["EndpointName"]
        self._find(name)
        desired = {item["VariantName"]: item for item in request["DesiredWeightsAndCapacities"]}
        if len(desired) != len(request["DesiredWeightsAndCapacities"]):
            raise validation("Each variant may occur once in DesiredWeightsAndCapacities.")
        for item in desired.values():
            if "ServerlessUpdateConfig" in item:
                raise not_supported("ServerlessUpdateConfig", "serverless variants are not part of it")
            if item.get("DesiredInstanceCount", 1) < 1:
                raise validation(f"DesiredInstanceCount of variant {item['VariantName']} must be at least 1.")

        def begin(resource: Resource) -> None:
            self._check_idle(resource, "update")
            variants = {variant["VariantName"]: variant for variant in resource.document["ProductionVariants"]}
            unknown = sorted(set(desired) - set(variants))
            if unknown:
                raise validation(f'Could not find variants {unknown} of endpoint "{self._arn(name)}".')
            for variant, item in desired.items():
                variants[variant]["DesiredWeight"] = item.get("DesiredWeight", variants[variant]["DesiredWeight"])
                variants[variant]["DesiredInstanceCount"] = item.get("DesiredInstanceCount", variants[variant]["DesiredInstanceCount"])
                variants[variant]["VariantStatus"] = [{"Status": "Updating", "StartTime": now()}]
            if not sum(variant["DesiredWeight"] for variant in variants.values()) > 0:
                raise validation("At least one production variant must have a weight greater than 0.")
            resource.document.pop("FailureReason", None)
            resource.document["EndpointStatus"] = "Updating"
            resource.document["LastModifiedTime"] = now()

        self._services.store.update(KIND, name, begin)
        self._in_background(f"weights-{name}", lambda: self._apply_weights(name))
        return {"EndpointArn": self._arn(name)}

    def delete(self, request: Document) -> Document:
        """DeleteEndpoint."""
        name = request["EndpointName"]
        self._find(name)

        def begin(resource: Resource) -> None:
            self._check_idle(resource, "delete", also_failed=True)
            resource.document["EndpointStatus"] = "Deleting"
            resource.document["LastModifiedTime"] = now()

        self._services.store.update(KIND, name, begin)
        self.routes.pop(name, None)
        self._in_background(f"delete-{name}", lambda: self._take_down(name))
        return {}

    # life of the server

    def recover(self) -> None:
        """Bring every endpoint back as it was told; an update that was under way is given up, the old fleet serves."""
        for resource in list(self._services.store.all(KIND)):
            name, status = resource.name, resource.document["EndpointStatus"]
            if status == "Deleting":
                self._take_down(name)
            elif status != "Failed":
                self._services.store.update(KIND, name, _resume)
                active = self._services.store.get(KIND, name).private["Active"]
                fleet = Fleet(self._services, name, active["Fleet"], active["Config"], [VariantPlan(**plan) for plan in active["Plans"]])
                self._in_background(f"recover-{name}", lambda name=name, fleet=fleet: self._bring_up(name, fleet))

    def close(self, grace_seconds: float) -> None:
        """End the processes of all endpoints; they come back with the next server."""
        self._closing.set()
        self.routes.clear()
        fleets = [*self._fleets.values(), *self._starting]
        threads = [threading.Thread(target=fleet.stop, args=(grace_seconds,), daemon=True) for fleet in fleets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(grace_seconds + 2)

    def statistics(self) -> Iterator[VariantStatistics]:
        """Of every variant that serves."""
        for fleet in [*self._fleets.values(), *self._starting]:
            for server in fleet.servers.values():
                yield server.statistics

    # steps of a deployment, each in a thread of its own

    def _bring_up(self, name: str, fleet: Fleet) -> None:
        try:
            self._start(fleet)
        except DeploymentFailed as error:
            reason = str(error)

            def fail(resource: Resource) -> None:
                resource.document.update(EndpointStatus="Failed", FailureReason=reason[:REASON_LENGTH], LastModifiedTime=now())
                resource.document.pop("PendingDeploymentSummary", None)

            if not self._closing.is_set():
                self._services.store.update(KIND, name, fail)
            return
        self._fleets[name] = fleet
        self._starting.discard(fleet)

        def serve(resource: Resource) -> None:
            _in_service(resource, fleet)

        document = self._services.store.update(KIND, name, serve).document
        self.routes[name] = Route([(fleet, 1.0)], _weights(document))

    def _replace(self, name: str, fleet: Fleet, deployment: Document | None) -> None:
        old = self._fleets[name]
        try:
            self._start(fleet)
        except DeploymentFailed as error:
            self._starting.discard(fleet)
            self._give_up(name, fleet, str(error))
            return
        try:
            self._shift(name, old, fleet, deployment or {})
        except DeploymentFailed as error:
            self.routes[name] = Route([(old, 1.0)], _weights(self._find(name).document))
            fleet.drain(self._loop, self._services.settings.invocation_timeout_seconds)
            fleet.stop(self._services.settings.endpoint_stop_grace_seconds)
            self._starting.discard(fleet)
            self._give_up(name, fleet, str(error))
            return

        def switch(resource: Resource) -> None:
            resource.private["Active"] = _stored(fleet)
            resource.document["EndpointConfigName"] = fleet.config
            resource.document["ProductionVariants"] = _summaries(fleet)
            if deployment is not None:
                resource.document["LastDeploymentConfig"] = deployment

        self._services.store.update(KIND, name, switch)
        self.routes[name] = Route([(fleet, 1.0)], {})
        self._fleets[name] = fleet
        self._starting.discard(fleet)
        self._starting.add(old)  # still ours to stop, until it has ended
        self._closing.wait((deployment or {}).get("BlueGreenUpdatePolicy", {}).get("TerminationWaitInSeconds", 0))
        old.drain(self._loop, self._services.settings.invocation_timeout_seconds)
        old.stop(self._services.settings.endpoint_stop_grace_seconds)
        self._starting.discard(old)
        old.discard()
        self._services.store.update(KIND, name, lambda resource: _in_service(resource, fleet))

    def _give_up(self, name: str, fleet: Fleet, reason: str) -> None:
        """An update failed: the old fleet has served all the while and goes on."""
        fleet.discard()

        def restore(resource: Resource) -> None:
            resource.document.update(EndpointStatus="InService", FailureReason=reason[:REASON_LENGTH], LastModifiedTime=now())
            resource.document.pop("PendingDeploymentSummary", None)

        if not self._closing.is_set():
            self._services.store.update(KIND, name, restore)

    def _start(self, fleet: Fleet) -> None:
        self._starting.add(fleet)
        fleet.start()
        if self._closing.is_set():
            fleet.stop(self._services.settings.shutdown_grace_seconds)
            raise DeploymentFailed("The local SageMaker server ended.")

    def _shift(self, name: str, old: Fleet, new: Fleet, deployment: Document) -> None:
        """Move the traffic in the policy's steps, watching its alarms in each interval."""
        policy = deployment.get("BlueGreenUpdatePolicy", {}).get("TrafficRoutingConfiguration", {"Type": "ALL_AT_ONCE"})
        alarms = [alarm["AlarmName"] for alarm in deployment.get("AutoRollbackConfiguration", {}).get("Alarms", []) if "AlarmName" in alarm]
        wait = policy.get("WaitIntervalInSeconds", 0)
        weights = _weights(self._find(name).document)
        for share in _steps(policy):
            self.routes[name] = Route([(old, 1.0 - share), (new, share)], weights if share < 1.0 else {})
            if alarms or share < 1.0:
                self._bake(alarms, wait)

    def _bake(self, alarms: list[str], seconds: float) -> None:
        client = boto3.client("cloudwatch", region_name=self._services.settings.region, config=Config(connect_timeout=3, read_timeout=5))
        deadline = time.monotonic() + seconds
        while True:
            if alarms:
                try:
                    states = client.describe_alarms(AlarmNames=alarms, AlarmTypes=["MetricAlarm", "CompositeAlarm"])
                except (ClientError, BotoCoreError) as error:  # no news is not good news: a guard that cannot be read has tripped
                    raise DeploymentFailed(f"The alarms {alarms} of AutoRollbackConfiguration cannot be read: {error}") from error
                found: list[Any] = [*states.get("MetricAlarms", []), *states.get("CompositeAlarms", [])]
                tripped = [alarm["AlarmName"] for alarm in found if alarm["StateValue"] == "ALARM"]
                missing = sorted(set(alarms) - {alarm["AlarmName"] for alarm in found})
                if tripped or missing:
                    raise DeploymentFailed(f"One or more alarms tripped during the deployment: {tripped or f'{missing} do not exist'}.")
            if time.monotonic() >= deadline:
                return
            if self._closing.wait(min(_ALARM_SECONDS, max(0.0, deadline - time.monotonic()))):
                raise DeploymentFailed("The local SageMaker server ended.")

    def _apply_weights(self, name: str) -> None:
        def apply(resource: Resource) -> None:
            for variant in resource.document["ProductionVariants"]:
                variant["CurrentWeight"] = variant["DesiredWeight"]
                variant["CurrentInstanceCount"] = variant["DesiredInstanceCount"]
                variant.pop("VariantStatus", None)
            resource.document["EndpointStatus"] = "InService"
            resource.document["LastModifiedTime"] = now()

        document = self._services.store.update(KIND, name, apply).document
        self.routes[name] = Route([(self._fleets[name], 1.0)], _weights(document))

    def _take_down(self, name: str) -> None:
        fleet = self._fleets.pop(name, None)
        if fleet is not None:
            fleet.drain(self._loop, self._services.settings.endpoint_stop_grace_seconds)
            fleet.stop(self._services.settings.endpoint_stop_grace_seconds)
            fleet.discard()
        self._services.store.delete(KIND, name)

    # helpers

    def _in_background(self, name: str, work: Any) -> None:
        def run() -> None:
            try:
                work()
            except Exception:
                log.exception("%s: the local SageMaker failed", name)
                if not self._closing.is_set():
                    raise

        threading.Thread(target=run, name=name, daemon=True).start()

    def _arn(self, name: str) -> str:
        return self._services.settings.arn(f"endpoint/{name}")

    def _find(self, name: str) -> Resource:
        try:
            return self._services.store.get(KIND, name)
        except Missing as error:
            raise validation(f'Could not find endpoint "{self._arn(name)}".') from error

    def _check_idle(self, resource: Resource, verb: str, *, also_failed: bool = False) -> None:
        status = resource.document["EndpointStatus"]
        if status in _BUSY:
            raise validation(f'Cannot {verb} in-progress endpoint "{self._arn(resource.name)}".')
        if status == "Failed" and not also_failed:
            raise validation(f'Cannot {verb} endpoint "{self._arn(resource.name)}" in status Failed. Delete it and create it again.')

    def _fleet(self, endpoint: str, config: str, plans: list[VariantPlan]) -> Fleet:
        return Fleet(self._services, endpoint, uuid.uuid4().hex[:12], config, plans)

    def _plans(self, config: Document) -> list[VariantPlan]:
        plans = []
        for variant in config["ProductionVariants"]:
            container = self._models.container_of(variant["ModelName"])
            plans.append(
                VariantPlan(
                    name=variant["VariantName"],
                    weight=float(variant["InitialVariantWeight"]),
                    instance_count=variant["InitialInstanceCount"],
                    instance_type=variant["InstanceType"],
                    image=container["Image"],
                    model={key: container[key] for key in ("ModelDataUrl", "ModelDataSource", "Environment") if key in container},
                    startup_seconds=float(
                        variant.get("ContainerStartupHealthCheckTimeoutInSeconds", self._services.settings.startup_health_check_seconds)
                    ),
                )
            )
        return plans


def _stored(fleet: Fleet) -> Document:
    return {"Fleet": fleet.identifier, "Config": fleet.config, "Plans": [server.plan.to_json() for server in fleet.servers.values()]}


def _summaries(fleet: Fleet) -> list[Document]:
    moment = now()
    return [
        {
            "VariantName": plan.name,
            "DeployedImages": [{"SpecifiedImage": plan.image, "ResolvedImage": plan.image, "ResolutionTime": moment}],
            "CurrentWeight": plan.weight,
            "DesiredWeight": plan.weight,
            "CurrentInstanceCount": plan.instance_count,
            "DesiredInstanceCount": plan.instance_count,
        }
        for plan in (server.plan for server in fleet.servers.values())
    ]


def _in_service(resource: Resource, fleet: Fleet) -> None:
    """InService; the variants' weights stay as they are if the fleet was only started again."""
    if "ProductionVariants" not in resource.document:
        resource.document["ProductionVariants"] = _summaries(fleet)
    resource.document["EndpointStatus"] = "InService"
    resource.document["LastModifiedTime"] = now()
    resource.document.pop("PendingDeploymentSummary", None)


def _resume(resource: Resource) -> None:
    """The status of an endpoint whose server was killed, while its processes start again."""
    if resource.document["EndpointStatus"] == "Updating" and resource.document.pop("PendingDeploymentSummary", None):
        active = resource.private["Active"]["Config"]
        resource.document["FailureReason"] = f"The local SageMaker server ended during an update; the endpoint serves {active}."
    for variant in resource.document.get("ProductionVariants", []):
        variant["CurrentWeight"] = variant["DesiredWeight"]
        variant["CurrentInstanceCount"] = variant["DesiredInstanceCount"]
        variant.pop("VariantStatus", None)
    if resource.document["EndpointStatus"] != "Creating":
        resource.document["EndpointStatus"] = "SystemUpdating"


def _pending(config: Document, plans: list[VariantPlan], moment: float) -> Document:
    return {
        "EndpointConfigName": config["EndpointConfigName"],
        "StartTime": moment,
        "ProductionVariants": [
            {
                "VariantName": plan.name,
                "DeployedImages": [{"SpecifiedImage": plan.image, "ResolvedImage": plan.image, "ResolutionTime": moment}],
                "CurrentWeight": 0.0,
                "DesiredWeight": plan.weight,
                "CurrentInstanceCount": 0,
                "DesiredInstanceCount": plan.instance_count,
                "InstanceType": plan.instance_type,
                "VariantStatus": [{"Status": "Creating", "StartTime": moment}],
            }
            for plan in plans
        ],
    }


def _weights(document: Document) -> dict[str, float]:
    return {variant["VariantName"]: variant["CurrentWeight"] for variant in document.get("ProductionVariants", [])}


def _retained(plan: VariantPlan, document: Document, excluded: set[str]) -> VariantPlan:
    """The plan with the running variant's weight and count, as RetainAllVariantProperties asks."""
    running = next((variant for variant in document["ProductionVariants"] if variant["VariantName"] == plan.name), None)
    if running is None:
        return plan
    weight = plan.weight if "DesiredWeight" in excluded else running["DesiredWeight"]
    count = plan.instance_count if "DesiredInstanceCount" in excluded else running["DesiredInstanceCount"]
    return VariantPlan(**{**plan.to_json(), "weight": weight, "instance_count": count})


def _check_deployment(request: Document) -> None:
    deployment = request.get("DeploymentConfig")
    if deployment is None:
        return
    if "RollingUpdatePolicy" in deployment:
        raise not_supported("DeploymentConfig.RollingUpdatePolicy", "a variant is one process, which cannot be replaced in batches")
    policy = deployment.get("BlueGreenUpdatePolicy")
    if policy is None:
        return
    routing = policy["TrafficRoutingConfiguration"]
    kind = routing["Type"]
    for needed, member in (("CANARY", "CanarySize"), ("LINEAR", "LinearStepSize")):
        if (kind == needed) != (member in routing):
            raise validation(f"TrafficRoutingConfiguration.{member} must be given with Type {needed}, and only with it.")
    size = routing.get("CanarySize") or routing.get("LinearStepSize")
    if size is None:
        return
    if size["Type"] != "CAPACITY_PERCENT":
        raise not_supported("CapacitySize.Type INSTANCE_COUNT", "a variant is one process; use CAPACITY_PERCENT")
    smallest, largest = (1, 50) if kind == "CANARY" else (10, 50)
    if not smallest <= size["Value"] <= largest:
        raise validation(f"The size of a {kind} step must be between {smallest} and {largest} percent, not {size['Value']}.")


def _check_same_variants(deployment: Document | None, plans: list[VariantPlan], document: Document) -> None:
    """Deployment guardrails need the same variant names before and after (Developer Guide, "Exclusions")."""
    if not deployment:
        return
    old = {variant["VariantName"] for variant in document["ProductionVariants"]}
    new = {plan.name for plan in plans}
    if old != new:
        raise validation(
            f"With a DeploymentConfig the variant names must stay the same; the endpoint has {sorted(old)}, the update {sorted(new)}."
        )


def _steps(policy: Document) -> list[float]:
    """The new fleet's share of the traffic, step by step."""
    if policy["Type"] == "CANARY":
        return [policy["CanarySize"]["Value"] / 100, 1.0]
    if policy["Type"] == "LINEAR":
        step = policy["LinearStepSize"]["Value"]
        return [share / 100 for share in range(step, 100, step)] + [1.0]
    return [1.0]
