"""Models and endpoint configurations: create, describe, delete; and what a model's container really is.

A model names its image and its data, or a model package of the registry that does (its InferenceSpecification). One container
a model: inference pipelines and multi-model containers are refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from .capture import check_capture
from .errors import not_supported, validation
from .images import Image
from .jobs import Services, refuse
from .model_data import check_model_data
from .registry import ModelPackages
from .store import AlreadyExists, Document, Missing, Resource, now
from .tags import tag_map

MODEL = "model"
CONFIG = "endpoint-config"

_UNSUPPORTED_CONTAINER = {
    "MultiModelConfig": "multi-model containers are not part of it",
    "AdditionalModelDataSources": "a model has one data source",
    "InferenceSpecificationName": "additional inference specifications are not part of it",
    "ContainerMetricsConfig": "container metrics are not scraped",
}
_UNSUPPORTED_CONFIG = {
    "AsyncInferenceConfig": "asynchronous inference is not part of it",
    "ExplainerConfig": "Clarify online explanations are not part of it",
    "MetricsConfig": "enhanced metrics are not part of it",
}
_UNSUPPORTED_VARIANT = {
    "ServerlessConfig": "a variant is one process that stays up; give InstanceType and InitialInstanceCount",
    "InstancePools": "a variant is one process",
    "CoreDumpConfig": "core dumps are not collected",
    "ManagedInstanceScaling": "a variant is one process and does not scale",
}


class Models:
    """CreateModel, DescribeModel, DeleteModel."""

    def __init__(self, services: Services, packages: ModelPackages) -> None:
        self._services = services
        self._packages = packages

    def create(self, request: Document) -> Document:
        """CreateModel."""
        name = request["ModelName"]
        arn = self._services.settings.arn(f"model/{name}")
        if self._services.store.exists(MODEL, name):
            raise validation(f'Cannot create already existing model "{arn}".')
        container = resolve(self._container(request), self._packages)
        find_hosting_image(self._services.images, container["Image"])
        check_model_data(container, self._services.storage)
        document: Document = {
            **{key: value for key, value in request.items() if key != "Tags"},
            "ModelArn": arn,
            "CreationTime": now(),
        }
        document.setdefault("EnableNetworkIsolation", False)
        # what a package says is taken once: a model that was deployed can be deployed again, whatever became of its package
        private = {"Arn": arn, "Container": container}
        _create(self._services, MODEL, name, document, private, request, "model")
        return {"ModelArn": arn}

    def describe(self, request: Document) -> Document:
        """DescribeModel."""
        return self._find(request["ModelName"]).document

    def delete(self, request: Document) -> Document:
        """DeleteModel; endpoints that use it go on, as on AWS."""
        try:
            self._services.store.delete(MODEL, request["ModelName"])
        except Missing as error:
            raise _missing("model", self._services.settings.arn(f"model/{request['ModelName']}")) from error
        return {}

    def container_of(self, name: str) -> Document:
        """The container of a stored model as it was resolved at its creation: Image, ModelDataUrl or ModelDataSource, Environment."""
        model = self._find(name)
        if "Container" in model.private:
            container: Document = model.private["Container"]
            return container
        # a model of a state directory from before containers were kept
        return resolve(model.document.get("PrimaryContainer") or model.document["Containers"][0], self._packages)

    def _find(self, name: str) -> Resource:
        try:
            return self._services.store.get(MODEL, name)
        except Missing as error:
            raise _missing("model", self._services.settings.arn(f"model/{name}")) from error

    def _container(self, request: Document) -> Document:
        primary, several = request.get("PrimaryContainer"), request.get("Containers")
        if (primary is None) == (not several):
            raise validation("CreateModel must have exactly one of PrimaryContainer and Containers.")
        if several and len(several) > 1:
            raise not_supported("inference pipelines (several Containers)", "give one container")
        container: Document = primary if primary is not None else (several or [])[0]
        if "ExecutionRoleArn" not in request:
            raise validation("ExecutionRoleArn is required.")
        refuse(container, _UNSUPPORTED_CONTAINER, "ContainerDefinition.")
        if container.get("Mode", "SingleModel") != "SingleModel":
            raise not_supported("ContainerDefinition.Mode MultiModel", "a container serves one model")
        if request.get("InferenceExecutionConfig", {}).get("Mode") == "Direct":
            raise not_supported("InferenceExecutionConfig.Mode Direct", "a model has one container")
        if ("Image" in container) == ("ModelPackageName" in container):
            raise validation("ContainerDefinition must have exactly one of Image and ModelPackageName.")
        return container


def resolve(container: Document, packages: ModelPackages) -> Document:
    """The container with its model package, if it names one, replaced by what the package specifies."""
    package_name = container.get("ModelPackageName")
    if package_name is None:
        return {key: container[key] for key in ("Image", "ModelDataUrl", "ModelDataSource", "Environment") if key in container}
    package = packages.find(package_name)
    if "ModelPackageVersion" in package and package.get("ModelApprovalStatus") != "Approved":
        raise validation(
            f"Model package {package['ModelPackageArn']} has ModelApprovalStatus {package.get('ModelApprovalStatus')}; "
            "a versioned model package must be Approved to be deployed."
        )
    containers = package.get("InferenceSpecification", {}).get("Containers", [])
    if len(containers) != 1:
        raise not_supported(f"model package {package['ModelPackageArn']}", f"it has {len(containers)} containers; a model has one here")
    specified = containers[0]
    resolved = {key: specified[key] for key in ("Image", "ModelDataUrl", "ModelDataSource") if key in specified}
    resolved["Environment"] = {**specified.get("Environment", {}), **container.get("Environment", {})}
    if "Image" not in resolved:
        raise validation(f"Model package {package['ModelPackageArn']} names no image.")
    return resolved


def find_hosting_image(images: Mapping[str, Image], uri: str) -> Image:
    """The image, or the answer that CreateModel gives for one that is not in the registry."""
    image = images.get(uri)
    if image is None:
        raise validation(f"Requested image {uri} not found. The local SageMaker hosts the images of its --images file.")
    return image


class EndpointConfigs:
    """CreateEndpointConfig, DescribeEndpointConfig, DeleteEndpointConfig."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def create(self, request: Document) -> Document:
        """CreateEndpointConfig."""
        refuse(request, _UNSUPPORTED_CONFIG)
        check_capture(request.get("DataCaptureConfig"))
        name = request["EndpointConfigName"]
        arn = self._services.settings.arn(f"endpoint-config/{name}")
        variants = request["ProductionVariants"]
        shadows = request.get("ShadowProductionVariants", [])
        if shadows and (len(variants), len(shadows)) != (1, 1):
            raise validation(
                "With ShadowProductionVariants you can only specify one variant for it and one variant for ProductionVariants."
            )
        names = [variant["VariantName"] for variant in (*variants, *shadows)]
        if len(set(names)) != len(names):
            raise validation(f"Production variant names must be unique, but the request has {names}")
        for variant in (*variants, *shadows):
            self._check_variant(variant)
        if not sum(variant.get("InitialVariantWeight", 1.0) for variant in variants) > 0:
            raise validation("At least one production variant must have an InitialVariantWeight greater than 0.")
        document: Document = {
            **{key: value for key, value in request.items() if key != "Tags"},
            **{
                field: [{"InitialVariantWeight": 1.0, **variant} for variant in request[field]]
                for field in ("ProductionVariants", "ShadowProductionVariants")
                if field in request
            },
            "EndpointConfigArn": arn,
            "CreationTime": now(),
        }
        _create(self._services, CONFIG, name, document, {"Arn": arn}, request, "endpoint configuration")
        return {"EndpointConfigArn": arn}

    def describe(self, request: Document) -> Document:
        """DescribeEndpointConfig."""
        return self.find(request["EndpointConfigName"])

    def delete(self, request: Document) -> Document:
        """DeleteEndpointConfig; endpoints that use it go on, as on AWS."""
        try:
            self._services.store.delete(CONFIG, request["EndpointConfigName"])
        except Missing as error:
            raise self._not_found(request["EndpointConfigName"]) from error
        return {}

    def find(self, name: str) -> Document:
        """The stored configuration."""
        try:
            return self._services.store.get(CONFIG, name).document
        except Missing as error:
            raise self._not_found(name) from error

    def _not_found(self, name: str) -> Exception:
        return _missing("endpoint configuration", self._services.settings.arn(f"endpoint-config/{name}"))

    def _check_variant(self, variant: Document) -> None:
        where = f"ProductionVariant {variant['VariantName']!r}: "
        refuse(variant, _UNSUPPORTED_VARIANT, where)
        if not variant.get("ModelName"):
            raise not_supported(f"{where}no ModelName", "inference components are not part of it")
        if not variant.get("InstanceType") or not variant.get("InitialInstanceCount"):
            raise validation(f"{where}InstanceType and InitialInstanceCount are required.")
        if not self._services.store.exists(MODEL, variant["ModelName"]):
            raise _missing("model", self._services.settings.arn(f"model/{variant['ModelName']}"))


def _create(services: Services, kind: str, name: str, document: Document, private: Document, request: Document, noun: str) -> None:
    try:
        with services.store.transaction():
            services.store.create(kind, name, document, private)
            services.store.set_tags(private["Arn"], tag_map(request))
    except AlreadyExists as error:
        raise validation(f'Cannot create already existing {noun} "{private["Arn"]}".') from error


def _missing(noun: str, arn: str) -> Exception:
    return validation(f'Could not find {noun} "{arn}".')
