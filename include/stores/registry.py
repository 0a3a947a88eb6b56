"""What the registry and the endpoint know: which model is live, which packages there are. Writes no more than a package's approval."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from include.lifecycle.as_of import utc
from include.lifecycle.names import endpoint_name, package_group

BASELINES = {"profile": "ModelDataQuality", "reference": "ModelQuality"}
"""The baselines of a package, and where among its DriftCheckBaselines each one stands."""


@dataclass(frozen=True)
class ModelPackage:
    """A registered model. ``metadata``: the package's CustomerMetadataProperties (as_of, dataset, metrics, … as text)."""

    arn: str
    version: int
    status: str
    model: str
    """S3 URI of its model.tar.gz."""
    metadata: dict[str, str] = field(default_factory=dict)
    baselines: dict[str, str] = field(default_factory=dict)
    """What monitoring compares with, S3 URIs: ``profile`` (of features and score) and ``reference`` (of quality, bias and attribution)."""
    image: str = ""
    """The container that serves it."""
    decision: str = ""
    """Who approved or rejected it, and why."""


@dataclass(frozen=True)
class LiveEndpoint:
    name: str
    status: str
    config: str
    model_package: str | None
    """ARN of the package behind the first production variant; None where the model was not made from a package."""
    alone: bool = True
    """Whether its configuration has that variant only: no second one, and no shadow."""


class ModelRegistry:
    """``client``: boto3's ``sagemaker`` client."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def package(self, arn: str) -> ModelPackage:
        found = self._client.describe_model_package(ModelPackageName=arn)
        container = found["InferenceSpecification"]["Containers"][0]
        return ModelPackage(
            arn=found["ModelPackageArn"],
            version=found["ModelPackageVersion"],
            status=found["ModelApprovalStatus"],
            model=container["ModelDataUrl"],
            metadata=found.get("CustomerMetadataProperties", {}),
            baselines={
                name: found["DriftCheckBaselines"][kind]["Statistics"]["S3Uri"]
                for name, kind in BASELINES.items()
                if kind in found.get("DriftCheckBaselines", {})
            },
            image=container["Image"],
            decision=found.get("ApprovalDescription", ""),
        )

    def newest_approved(self, domain: str) -> ModelPackage | None:
        """The domain's approved package with the highest version, or None."""
        arns = self._arns(package_group(domain), ModelApprovalStatus="Approved")
        return self.package(arns[max(arns)]) if arns else None

    def history(self, domain: str) -> list[ModelPackage]:
        """What backfills have registered, in the order of the as-ofs: the newest package of each as-of, whatever the gate said of it."""
        arns = self._arns(package_group(domain, history=True))
        packages = [self.package(arns[version]) for version in sorted(arns)]
        newest = {utc(package.metadata["as_of"]): package for package in packages}
        return [newest[as_of] for as_of in sorted(newest)]

    def _arns(self, group: str, **filters: str) -> dict[int, str]:
        """Version → ARN of a group's packages; nothing where the group does not exist, because no model was ever registered in it."""
        try:
            pages = self._client.get_paginator("list_model_packages").paginate(ModelPackageGroupName=group, **filters)
            return {entry["ModelPackageVersion"]: entry["ModelPackageArn"] for page in pages for entry in page["ModelPackageSummaryList"]}
        except ClientError as error:
            if error.response["Error"]["Code"] == "ValidationException":
                return {}
            raise

    def live(self, domain: str) -> LiveEndpoint | None:
        """The domain's endpoint and the package behind it, or None where there is no endpoint."""
        try:
            endpoint = self._client.describe_endpoint(EndpointName=endpoint_name(domain))
        except ClientError as error:
            if error.response["Error"]["Code"] == "ValidationException":
                return None
            raise
        config = self._client.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
        model = self._client.describe_model(ModelName=config["ProductionVariants"][0]["ModelName"])
        containers = model.get("Containers") or [model["PrimaryContainer"]]
        return LiveEndpoint(
            name=endpoint["EndpointName"],
            status=endpoint["EndpointStatus"],
            config=endpoint["EndpointConfigName"],
            model_package=containers[0].get("ModelPackageName"),
            alone=len(config["ProductionVariants"]) == 1 and not config.get("ShadowProductionVariants"),
        )

    def set_status(self, arn: str, status: str, why: str) -> None:
        """Approved or Rejected, with who and why (1,024 characters at most)."""
        self._client.update_model_package(ModelPackageArn=arn, ModelApprovalStatus=status, ApprovalDescription=why)

    def champion(self, domain: str) -> ModelPackage | None:
        """The package that carries the domain's live traffic: what is deployed, not what was approved."""
        live = self.live(domain)
        return self.package(live.model_package) if live and live.model_package else None
