"""What deployments write down and check: an endpoint's document through its states, and the policies of updates."""

from __future__ import annotations

import math
import time

from .capture import summary
from .errors import not_supported, validation
from .hosting import DeploymentFailed, Fleet, VariantPlan
from .store import Document, Resource, now

_PRODUCTION, _SHADOWS = "ProductionVariants", "ShadowProductionVariants"


def stored(fleet: Fleet) -> Document:
    """What is needed to start the fleet again."""
    plans = [server.plan.to_json() for server in fleet.servers.values()]
    return {"Fleet": fleet.identifier, "Config": fleet.config, "Plans": plans, "Capture": fleet.capture}


def all_variants(document: Document) -> list[Document]:
    """The summaries of production and shadow variants in an endpoint's document."""
    return [*document.get(_PRODUCTION, []), *document.get(_SHADOWS, [])]


def show_variants(resource: Resource, fleet: Fleet) -> None:
    """ProductionVariants and ShadowProductionVariants of DescribeEndpoint, for a fleet that begins to serve."""
    moment = now()
    resource.document.pop(_SHADOWS, None)
    resource.document |= _by_kind([
        (plan, {
            "VariantName": plan.name,
            "DeployedImages": [{"SpecifiedImage": plan.image, "ResolvedImage": plan.image, "ResolutionTime": moment}],
            "CurrentWeight": plan.weight,
            "DesiredWeight": plan.weight,
            "CurrentInstanceCount": plan.instance_count,
            "DesiredInstanceCount": plan.instance_count,
        })
        for plan in (server.plan for server in fleet.servers.values())
    ])  # fmt: skip


def _by_kind(described: list[tuple[VariantPlan, Document]]) -> Document:
    """The members of an answer that list variants; that of shadows only where there are any, for it has at least one element."""
    lists = {
        _PRODUCTION: [found for plan, found in described if not plan.shadow],
        _SHADOWS: [found for plan, found in described if plan.shadow],
    }
    return {member: found for member, found in lists.items() if found}


def in_service(resource: Resource, fleet: Fleet) -> None:
    """InService; the variants' weights stay as they are if the fleet was only started again."""
    if _PRODUCTION not in resource.document:
        show_variants(resource, fleet)
    show_capture(resource, fleet)
    resource.document["EndpointStatus"] = "InService"
    resource.document["LastModifiedTime"] = now()
    resource.document.pop("PendingDeploymentSummary", None)


def show_capture(resource: Resource, fleet: Fleet) -> None:
    """DataCaptureConfig of DescribeEndpoint: of the fleet that serves."""
    resource.document.pop("DataCaptureConfig", None)
    resource.document.update(summary(fleet.capture))


def resume(resource: Resource) -> None:
    """The status of an endpoint whose server was killed, while its processes start again."""
    if resource.document["EndpointStatus"] == "Updating" and resource.document.pop("PendingDeploymentSummary", None):
        active = resource.private["Active"]["Config"]
        resource.document["FailureReason"] = f"The local SageMaker server ended during an update; the endpoint serves {active}."
    for variant in all_variants(resource.document):
        variant["CurrentWeight"] = variant["DesiredWeight"]
        variant["CurrentInstanceCount"] = variant["DesiredInstanceCount"]
        variant.pop("VariantStatus", None)
    if resource.document["EndpointStatus"] != "Creating":
        resource.document["EndpointStatus"] = "SystemUpdating"


def pending(config: Document, plans: list[VariantPlan], moment: float) -> Document:
    """PendingDeploymentSummary, while a fleet starts."""
    return {
        "EndpointConfigName": config["EndpointConfigName"],
        "StartTime": moment,
        **_by_kind([
            (plan, {
                "VariantName": plan.name,
                "DeployedImages": [{"SpecifiedImage": plan.image, "ResolvedImage": plan.image, "ResolutionTime": moment}],
                "CurrentWeight": 0.0,
                "DesiredWeight": plan.weight,
                "CurrentInstanceCount": 0,
                "DesiredInstanceCount": plan.instance_count,
                "InstanceType": plan.instance_type,
                "VariantStatus": [{"Status": "Creating", "StartTime": moment}],
            })
            for plan in plans
        ]),
    }  # fmt: skip


def weights_of(document: Document) -> dict[str, float]:
    """The variants' current weights."""
    return {variant["VariantName"]: variant["CurrentWeight"] for variant in all_variants(document)}


def retained(plan: VariantPlan, document: Document, excluded: set[str]) -> VariantPlan:
    """The plan with the running variant's weight and count, as RetainAllVariantProperties asks."""
    running = next(
        (variant for variant in document.get(_SHADOWS if plan.shadow else _PRODUCTION, []) if variant["VariantName"] == plan.name), None
    )
    if running is None:
        return plan
    weight = plan.weight if "DesiredWeight" in excluded else running["DesiredWeight"]
    count = plan.instance_count if "DesiredInstanceCount" in excluded else running["DesiredInstanceCount"]
    return VariantPlan(**{**plan.to_json(), "weight": weight, "instance_count": count})


def check_deployment(request: Document) -> None:
    """Refuse a DeploymentConfig that AWS would refuse, or that cannot be carried out here."""
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
    if size is not None:
        if size["Type"] != "CAPACITY_PERCENT":
            raise not_supported("CapacitySize.Type INSTANCE_COUNT", "a variant is one process; use CAPACITY_PERCENT")
        smallest, largest = (1, 50) if kind == "CANARY" else (10, 50)
        if not smallest <= size["Value"] <= largest:
            raise validation(f"The size of a {kind} step must be between {smallest} and {largest} percent, not {size['Value']}.")
    _check_timeout(policy)


def _check_timeout(policy: Document) -> None:
    """The documented rule: the time allowed must be larger than all the waiting that the policy itself asks for."""
    allowed = policy.get("MaximumExecutionTimeoutInSeconds")
    if allowed is None:
        return
    routing = policy["TrafficRoutingConfiguration"]
    waits = len(traffic_steps(routing)) * routing["WaitIntervalInSeconds"] + policy.get("TerminationWaitInSeconds", 0)
    if allowed <= waits:
        raise validation(
            f"MaximumExecutionTimeoutInSeconds {allowed} must be larger than the waiting that the policy asks for, {waits} seconds "
            "(WaitIntervalInSeconds after each step of the traffic, and TerminationWaitInSeconds)."
        )


class Deadline:
    """The moment by which an update must have moved all traffic, MaximumExecutionTimeoutInSeconds after its start."""

    def __init__(self, deployment: Document | None) -> None:
        self._allowed: float = (deployment or {}).get("BlueGreenUpdatePolicy", {}).get("MaximumExecutionTimeoutInSeconds", math.inf)
        self.moment = time.monotonic() + self._allowed

    def check(self) -> None:
        """DeploymentFailed once it is past."""
        if time.monotonic() >= self.moment:
            raise DeploymentFailed(f"The deployment did not end within its MaximumExecutionTimeoutInSeconds of {self._allowed:g}.")


def check_same_variants(deployment: Document | None, plans: list[VariantPlan], document: Document) -> None:
    """Deployment guardrails need the same variant names before and after (Developer Guide, "Exclusions")."""
    if not deployment:
        return
    old = {variant["VariantName"] for variant in all_variants(document)}
    new = {plan.name for plan in plans}
    if old != new:
        raise validation(
            f"With a DeploymentConfig the variant names must stay the same; the endpoint has {sorted(old)}, the update {sorted(new)}."
        )


def traffic_steps(policy: Document) -> list[float]:
    """The new fleet's share of the traffic, step by step."""
    if policy["Type"] == "CANARY":
        return [policy["CanarySize"]["Value"] / 100, 1.0]
    if policy["Type"] == "LINEAR":
        step = policy["LinearStepSize"]["Value"]
        return [share / 100 for share in range(step, 100, step)] + [1.0]
    return [1.0]
