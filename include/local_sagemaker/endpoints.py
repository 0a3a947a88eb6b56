"""Endpoints: create, describe, update without downtime, shift weights, delete.

Blue/green, as on AWS: an update starts the new fleet beside the old one, waits until it is healthy, shifts the traffic (all at
once, or in canary or linear steps, watching the CloudWatch alarms of AutoRollbackConfiguration), lets requests in flight
end, and stops the old fleet. An update that fails leaves the old fleet serving: InService, with the old EndpointConfigName and
a FailureReason. Each step is written down before it is visible, so a killed server comes back with the endpoint that was told.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from .deployments import (
    Deadline,
    all_variants,
    check_deployment,
    check_same_variants,
    in_service,
    pending,
    resume,
    retained,
    show_capture,
    show_variants,
    stored,
    traffic_steps,
    weights_of,
)
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
        self._lock = threading.Lock()
        self._fleets: dict[str, Fleet] = {}  # that serve, by endpoint
        self._others: set[Fleet] = set()  # that start or end
        self._closing = threading.Event()
        self.routes: dict[str, Route] = {}  # read on the event loop for every request; entries are replaced whole

    def create(self, request: Document) -> Document:
        """CreateEndpoint."""
        name = request["EndpointName"]
        arn = self._arn(name)
        if self._services.store.exists(KIND, name):
            raise validation(f'Cannot create already existing endpoint "{arn}".')
        check_deployment(request)
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
            "PendingDeploymentSummary": pending(config, plans, moment),
        }
        if "DeploymentConfig" in request:
            document["LastDeploymentConfig"] = request["DeploymentConfig"]
        fleet = self._fleet(name, config, plans)
        try:
            with self._services.store.transaction():
                self._services.store.create(KIND, name, document, {"Arn": arn, "Active": stored(fleet)})
                self._services.store.set_tags(arn, tag_map(request))
        except AlreadyExists as error:
            raise validation(f'Cannot create already existing endpoint "{arn}".') from error
        self._in_background("create", name, lambda: self._bring_up(name, fleet))
        return {"EndpointArn": arn}

    def describe(self, request: Document) -> Document:
        """DescribeEndpoint."""
        return self._find(request["EndpointName"]).document

    def update(self, request: Document) -> Document:
        """UpdateEndpoint."""
        name = request["EndpointName"]
        self._find(name)
        check_deployment(request)
        excluded = {item["VariantPropertyType"] for item in request.get("ExcludeRetainedVariantProperties", [])}
        if excluded and not request.get("RetainAllVariantProperties"):
            raise validation("ExcludeRetainedVariantProperties is only allowed with RetainAllVariantProperties.")
        config = self._configs.find(request["EndpointConfigName"])
        plans = self._plans(config)

        def begin(resource: Resource) -> None:
            nonlocal plans
            self._check_idle(resource, "update")
            if request.get("RetainAllVariantProperties"):
                plans = [retained(plan, resource.document, excluded) for plan in plans]
            deployment = request.get("DeploymentConfig")
            if deployment is None and request.get("RetainDeploymentConfig"):
                deployment = resource.document.get("LastDeploymentConfig")
            check_same_variants(deployment, plans, resource.document)
            moment = now()
            resource.document.pop("FailureReason", None)
            resource.document["EndpointStatus"] = "Updating"
            resource.document["LastModifiedTime"] = moment
            resource.document["PendingDeploymentSummary"] = pending(config, plans, moment)
            resource.private["Deployment"] = deployment

        deployment = self._services.store.update(KIND, name, begin).private["Deployment"]
        fleet = self._fleet(name, config, plans)
        self._in_background("update", name, lambda: self._replace(name, fleet, deployment))
        return {"EndpointArn": self._arn(name)}

    def update_weights(self, request: Document) -> Document:
        """UpdateEndpointWeightsAndCapacities; counts are recorded, a variant stays one process. A shadow's says how much it gets a copy of."""
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
            variants = {variant["VariantName"]: variant for variant in all_variants(resource.document)}
            unknown = sorted(set(desired) - set(variants))
            if unknown:
                raise validation(f'Could not find variants {unknown} of endpoint "{self._arn(name)}".')
            for variant, item in desired.items():
                variants[variant]["DesiredWeight"] = item.get("DesiredWeight", variants[variant]["DesiredWeight"])
                variants[variant]["DesiredInstanceCount"] = item.get("DesiredInstanceCount", variants[variant]["DesiredInstanceCount"])
                variants[variant]["VariantStatus"] = [{"Status": "Updating", "StartTime": now()}]
            if not sum(variant["DesiredWeight"] for variant in resource.document["ProductionVariants"]) > 0:
                raise validation("At least one production variant must have a weight greater than 0.")
            resource.document.pop("FailureReason", None)
            resource.document["EndpointStatus"] = "Updating"
            resource.document["LastModifiedTime"] = now()

        self._services.store.update(KIND, name, begin)
        self._in_background("shift the weights of", name, lambda: self._apply_weights(name))
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
        self._in_background("delete", name, lambda: self._take_down(name))
        return {}

    # life of the server

    def recover(self) -> None:
        """Bring every endpoint back as it was told; an update that was under way is given up, the old fleet serves."""
        for resource in list(self._services.store.all(KIND)):
            name, status = resource.name, resource.document["EndpointStatus"]
            if status == "Deleting":
                self._take_down(name)
            elif status != "Failed":
                self._services.store.update(KIND, name, resume)
                active = self._services.store.get(KIND, name).private["Active"]
                plans = [VariantPlan(**plan) for plan in active["Plans"]]
                fleet = Fleet(self._services, name, active["Fleet"], active["Config"], plans, active.get("Capture"))
                self._in_background("bring back", name, functools.partial(self._bring_up, name, fleet))
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        """Directories of fleets that no endpoint has any more."""
        kept = {(resource.name, resource.private["Active"]["Fleet"]) for resource in self._services.store.all(KIND)}
        for directory in (self._services.settings.state / "endpoints").glob("*/*"):
            if (directory.parent.name, directory.name) not in kept:
                shutil.rmtree(directory, ignore_errors=True)

    def close(self, grace_seconds: float) -> None:
        """End the processes of all endpoints; they come back with the next server."""
        self._closing.set()
        self.routes.clear()
        fleets = self._all_fleets()
        threads = [threading.Thread(target=fleet.stop, args=(grace_seconds,), daemon=True) for fleet in fleets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(grace_seconds + 2)

    def statistics(self) -> Iterator[VariantStatistics]:
        """Of every variant that serves."""
        for fleet in self._all_fleets():
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
        self._now_serves(name, fleet)
        document = self._services.store.update(KIND, name, lambda resource: in_service(resource, fleet)).document
        fleet.weigh(weights_of(document))
        self.routes[name] = Route([(fleet, 1.0)], weights_of(document))

    def _replace(self, name: str, fleet: Fleet, deployment: Document | None) -> None:
        old = self._fleets[name]
        deadline = Deadline(deployment)
        try:
            self._start(fleet, deadline.moment)
        except DeploymentFailed as error:
            self._give_up(name, str(error))
            return
        try:
            self._shift(name, old, fleet, deployment or {}, deadline)
        except DeploymentFailed as error:
            self.routes[name] = Route([(old, 1.0)], weights_of(self._find(name).document))
            fleet.drain(self._loop, self._services.settings.invocation_timeout_seconds)
            fleet.stop(self._services.settings.endpoint_stop_grace_seconds)
            self._forget(fleet)
            fleet.discard()
            self._give_up(name, str(error))
            return

        def switch(resource: Resource) -> None:
            resource.private["Active"] = stored(fleet)
            resource.document["EndpointConfigName"] = fleet.config
            show_variants(resource, fleet)
            show_capture(resource, fleet)
            if deployment is not None:
                resource.document["LastDeploymentConfig"] = deployment

        self._services.store.update(KIND, name, switch)
        self.routes[name] = Route([(fleet, 1.0)], {})
        self._now_serves(name, fleet)
        self._closing.wait((deployment or {}).get("BlueGreenUpdatePolicy", {}).get("TerminationWaitInSeconds", 0))
        old.drain(self._loop, self._services.settings.invocation_timeout_seconds)
        old.stop(self._services.settings.endpoint_stop_grace_seconds)
        self._forget(old)
        old.discard()
        self._services.store.update(KIND, name, lambda resource: in_service(resource, fleet))

    def _give_up(self, name: str, reason: str) -> None:
        """An update failed: the old fleet has served all the while and goes on."""

        def restore(resource: Resource) -> None:
            resource.document.update(EndpointStatus="InService", FailureReason=reason[:REASON_LENGTH], LastModifiedTime=now())
            resource.document.pop("PendingDeploymentSummary", None)

        if not self._closing.is_set():
            self._services.store.update(KIND, name, restore)

    def _start(self, fleet: Fleet, deadline: float = math.inf) -> None:
        with self._lock:
            self._others.add(fleet)
        try:
            fleet.start(deadline)
        except BaseException:
            self._forget(fleet)
            if not self._closing.is_set():  # else the endpoint comes back with the next server, from these files
                fleet.discard()
            raise
        if self._closing.is_set():
            fleet.stop(self._services.settings.shutdown_grace_seconds)
            raise DeploymentFailed("The local SageMaker server ended.")

    def _shift(self, name: str, old: Fleet, new: Fleet, deployment: Document, deadline: Deadline) -> None:
        """Move the traffic in the policy's steps, watching its alarms in each interval."""
        policy = deployment.get("BlueGreenUpdatePolicy", {}).get("TrafficRoutingConfiguration", {"Type": "ALL_AT_ONCE"})
        alarms = [alarm["AlarmName"] for alarm in deployment.get("AutoRollbackConfiguration", {}).get("Alarms", []) if "AlarmName" in alarm]
        wait = policy.get("WaitIntervalInSeconds", 0)
        weights = weights_of(self._find(name).document)
        for share in traffic_steps(policy):
            deadline.check()
            self.routes[name] = Route([(old, 1.0 - share), (new, share)], weights if share < 1.0 else {})
            if alarms or share < 1.0:
                self._bake(alarms, wait, deadline)

    def _bake(self, alarms: list[str], seconds: float, deadline: Deadline) -> None:
        client = boto3.client("cloudwatch", region_name=self._services.settings.region, config=Config(connect_timeout=3, read_timeout=5))
        done = time.monotonic() + seconds
        while True:
            deadline.check()
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
            if time.monotonic() >= done:
                return
            if self._closing.wait(min(_ALARM_SECONDS, max(0.0, done - time.monotonic()))):
                raise DeploymentFailed("The local SageMaker server ended.")

    def _apply_weights(self, name: str) -> None:
        def apply(resource: Resource) -> None:
            for variant in all_variants(resource.document):
                variant["CurrentWeight"] = variant["DesiredWeight"]
                variant["CurrentInstanceCount"] = variant["DesiredInstanceCount"]
                variant.pop("VariantStatus", None)
            resource.document["EndpointStatus"] = "InService"
            resource.document["LastModifiedTime"] = now()

        document = self._services.store.update(KIND, name, apply).document
        self._fleets[name].weigh(weights_of(document))
        self.routes[name] = Route([(self._fleets[name], 1.0)], weights_of(document))

    def _take_down(self, name: str) -> None:
        with self._lock:
            fleet = self._fleets.pop(name, None)
        if fleet is not None:
            fleet.drain(self._loop, self._services.settings.endpoint_stop_grace_seconds)
            fleet.stop(self._services.settings.endpoint_stop_grace_seconds)
            fleet.discard()
        self._services.store.delete(KIND, name)

    # helpers

    def _in_background(self, step: str, name: str, work: Callable[[], None]) -> None:
        """Carry out a step in a thread; whatever happens, the endpoint does not stay in a status that nobody ends."""

        def run() -> None:
            try:
                work()
            except Exception as error:
                if self._closing.is_set():
                    return
                log.exception("endpoint %s: the local SageMaker failed to %s it", name, step)
                reason = f"InternalServerError: {type(error).__name__}: {error}"[:REASON_LENGTH]
                status = "InService" if name in self.routes else "Failed"
                self._services.store.update(
                    KIND,
                    name,
                    lambda resource: resource.document.update(EndpointStatus=status, FailureReason=reason, LastModifiedTime=now()),
                )

        threading.Thread(target=run, name=f"{step}-{name}", daemon=True).start()

    def _all_fleets(self) -> list[Fleet]:
        with self._lock:
            return [*self._fleets.values(), *self._others]

    def _now_serves(self, name: str, fleet: Fleet) -> None:
        """The fleet takes the endpoint over; its predecessor is still ours to end."""
        with self._lock:
            self._others.discard(fleet)
            old = self._fleets.get(name)
            if old is not None:
                self._others.add(old)
            self._fleets[name] = fleet

    def _forget(self, fleet: Fleet) -> None:
        with self._lock:
            self._others.discard(fleet)

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

    def _fleet(self, endpoint: str, config: Document, plans: list[VariantPlan]) -> Fleet:
        identifier = uuid.uuid4().hex[:12]
        return Fleet(self._services, endpoint, identifier, config["EndpointConfigName"], plans, config.get("DataCaptureConfig"))

    def _plans(self, config: Document) -> list[VariantPlan]:
        plans = []
        shadows = config.get("ShadowProductionVariants", [])
        for variant in (*config["ProductionVariants"], *shadows):
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
                    shadow=variant in shadows,
                )
            )
        return plans
