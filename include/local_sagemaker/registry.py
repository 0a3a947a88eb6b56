"""The model registry: groups, and model packages as numbered versions of a group (or unversioned, by name)."""

from __future__ import annotations

from .errors import conflict, not_supported, validation
from .jobs import Services
from .listing import answer, page
from .model_data import check_model_data
from .store import AlreadyExists, Document, Missing, Resource, now
from .tags import tag_map

GROUP = "model-package-group"
PACKAGE = "model-package"
_MOST_METADATA = 50

_UNSUPPORTED_PACKAGE = {
    "SourceAlgorithmSpecification": "algorithms are not part of it; give an InferenceSpecification",
    "ValidationSpecification": "batch transform validation is not part of it",
    "CertifyForMarketplace": "AWS Marketplace is not part of it",
    "ModelCard": "model cards are not part of it",
    "ManagedStorageType": "managed storage is only on AWS",
}


class ModelPackageGroups:
    """Create, describe, list and delete."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def create(self, request: Document) -> Document:
        """CreateModelPackageGroup."""
        if request.get("ManagedConfiguration"):
            raise not_supported("ManagedConfiguration", "managed storage is only on AWS")
        name = request["ModelPackageGroupName"]
        arn = self._services.settings.arn(f"model-package-group/{name}")
        document: Document = {
            **{key: value for key, value in request.items() if key != "Tags"},
            "ModelPackageGroupArn": arn,
            "CreationTime": now(),
            "CreatedBy": {},
            "ModelPackageGroupStatus": "Completed",
        }
        try:
            with self._services.store.transaction():
                self._services.store.create(GROUP, name, document, {"Arn": arn})
                self._services.store.set_tags(arn, tag_map(request))
        except AlreadyExists as error:
            raise validation(f"Model Package Group already exists: {arn}") from error
        return {"ModelPackageGroupArn": arn}

    def describe(self, request: Document) -> Document:
        """DescribeModelPackageGroup."""
        name = self.name_of(request["ModelPackageGroupName"])
        return self._services.store.get(GROUP, name).document

    def list(self, request: Document) -> Document:
        """ListModelPackageGroups."""
        if request.get("CrossAccountFilterOption") == "CrossAccount":
            return {"ModelPackageGroupSummaryList": []}
        groups = (group.document for group in self._services.store.all(GROUP))
        members = (
            "ModelPackageGroupName",
            "ModelPackageGroupArn",
            "ModelPackageGroupDescription",
            "CreationTime",
            "ModelPackageGroupStatus",
        )
        return answer("ModelPackageGroupSummaryList", page(request, groups, name="ModelPackageGroupName"), members)

    def delete(self, request: Document) -> Document:
        """DeleteModelPackageGroup; refused while it has versions."""
        name = self.name_of(request["ModelPackageGroupName"])
        with self._services.store.transaction():
            if any(package.document.get("ModelPackageGroupName") == name for package in self._services.store.all(PACKAGE)):
                raise conflict(f"Model Package Group {name} cannot be deleted: it has model packages. Delete them first.")
            self._services.store.delete(GROUP, name)
        return {}

    def name_of(self, name_or_arn: str) -> str:
        """The name of an existing group, given by name or ARN."""
        prefix = self._services.settings.arn("model-package-group/")
        name = name_or_arn.removeprefix(prefix)
        if not self._services.store.exists(GROUP, name):
            raise validation(f"ModelPackageGroup {prefix}{name.rpartition('/')[2]} does not exist.")
        return name


class ModelPackages:
    """Create, describe, list, update and delete."""

    def __init__(self, services: Services, groups: ModelPackageGroups) -> None:
        self._services = services
        self._groups = groups

    def create(self, request: Document) -> Document:
        """CreateModelPackage; a repeated ClientToken returns what the first request made."""
        for member, why in _UNSUPPORTED_PACKAGE.items():
            if request.get(member):
                raise not_supported(member, why)
        if ("ModelPackageGroupName" in request) == ("ModelPackageName" in request):
            raise validation(
                "CreateModelPackage must have exactly one of ModelPackageGroupName (versioned) and ModelPackageName (unversioned)."
            )
        if "InferenceSpecification" not in request and request.get("ModelPackageRegistrationType") != "Logged":
            raise validation("InferenceSpecification is required.")
        if "ModelPackageGroupName" in request and request.get("Tags"):
            raise validation(
                "A versioned model package uses the tags of its group: CreateModelPackage cannot have Tags with ModelPackageGroupName."
            )
        token = request.get("ClientToken")
        if (arn := self._made_before(token, request)) is not None:
            return {"ModelPackageArn": arn}
        self._check_data(request)  # asks S3, so not within the transaction
        with self._services.store.transaction():
            if (arn := self._made_before(token, request)) is not None:
                return {"ModelPackageArn": arn}
            document = self._new(request)
            arn = document["ModelPackageArn"]
            private = {"Arn": arn, "ClientToken": token, "Request": _without(request, "ClientToken")}
            try:
                self._services.store.create(PACKAGE, arn.split(":model-package/", 1)[1], document, private)
            except AlreadyExists as error:
                raise conflict(f"Model package already exists: {arn}") from error
            self._services.store.set_tags(arn, tag_map(request))
        return {"ModelPackageArn": arn}

    def describe(self, request: Document) -> Document:
        """DescribeModelPackage."""
        return self.find(request["ModelPackageName"])

    def find(self, name_or_arn: str) -> Document:
        """A package by name, ``group/version`` or ARN."""
        return self._get(name_or_arn).document

    def list(self, request: Document) -> Document:
        """ListModelPackages."""
        group = self._groups.name_of(request["ModelPackageGroupName"]) if "ModelPackageGroupName" in request else None
        kind = request.get("ModelPackageType", "Unversioned" if group is None else "Versioned")
        approval = request.get("ModelApprovalStatus")

        def matches(item: Document) -> bool:
            versioned = "ModelPackageVersion" in item
            return (
                (group is None or item.get("ModelPackageGroupName") == group)
                and (kind == "Both" or versioned == (kind == "Versioned"))
                and (approval is None or item.get("ModelApprovalStatus") == approval)
            )

        # versions of a group share its name, so they are sorted by their unique ARN with the number padded
        packages = ({**found.document, "_order": _order(found.document)} for found in self._services.store.all(PACKAGE))
        members = (
            "ModelPackageName",
            "ModelPackageGroupName",
            "ModelPackageVersion",
            "ModelPackageArn",
            "ModelPackageDescription",
            "CreationTime",
            "ModelPackageStatus",
            "ModelApprovalStatus",
            "ModelPackageRegistrationType",
            "ModelLifeCycle",
        )
        return answer("ModelPackageSummaryList", page(request, packages, name="_order", matches=matches), members)

    def update(self, request: Document) -> Document:
        """UpdateModelPackage: approval, its description, metadata, and the other members that it documents."""
        for member in ("ModelCard", "AdditionalInferenceSpecificationsToAdd"):
            if request.get(member):
                raise not_supported(member, "it is not part of the local registry")
        self._check_data(request)
        remove = request.get("CustomerMetadataPropertiesToRemove", [])

        def change(resource: Resource) -> None:
            document = resource.document
            if "ModelApprovalStatus" in request and "ModelPackageVersion" not in document:
                raise validation("ModelApprovalStatus applies to versioned model packages only.")
            for member in (
                "ModelApprovalStatus",
                "ApprovalDescription",
                "SourceUri",
                "InferenceSpecification",
                "ModelLifeCycle",
                "ModelPackageRegistrationType",
            ):
                if member in request:
                    document[member] = request[member]
            metadata = {**document.get("CustomerMetadataProperties", {}), **request.get("CustomerMetadataProperties", {})}
            metadata = {key: value for key, value in metadata.items() if key not in remove}
            if len(metadata) > _MOST_METADATA:
                raise validation(f"A model package can have at most {_MOST_METADATA} CustomerMetadataProperties.")
            document["CustomerMetadataProperties"] = metadata
            if not metadata:
                del document["CustomerMetadataProperties"]
            document["LastModifiedTime"] = now()
            document["LastModifiedBy"] = {}

        found = self._get(request["ModelPackageArn"])
        self._services.store.update(PACKAGE, found.name, change)
        return {"ModelPackageArn": request["ModelPackageArn"]}

    def delete(self, request: Document) -> Document:
        """DeleteModelPackage; its version number is not used again."""
        self._services.store.delete(PACKAGE, self._get(request["ModelPackageName"]).name)
        return {}

    def _made_before(self, token: str | None, request: Document) -> str | None:
        """The ARN of what an earlier request with this ClientToken made."""
        if token is None:
            return None
        made = next((found for found in self._services.store.all(PACKAGE) if found.private.get("ClientToken") == token), None)
        if made is None:
            return None
        if made.private["Request"] != _without(request, "ClientToken"):
            raise conflict(f"ClientToken {token} was used by a request with other parameters.")
        return str(made.document["ModelPackageArn"])

    def _check_data(self, request: Document) -> None:
        for container in request.get("InferenceSpecification", {}).get("Containers", []):
            check_model_data(container, self._services.storage)

    def _get(self, name_or_arn: str) -> Resource:
        prefix = self._services.settings.arn("model-package/")
        name = name_or_arn.removeprefix(prefix)
        if name.startswith("arn:"):
            raise validation(f"ModelPackage {name_or_arn} does not exist: the local SageMaker is {prefix}…")
        try:
            return self._services.store.get(PACKAGE, name)
        except Missing as error:
            raise validation(f"ModelPackage {prefix}{name} does not exist.") from error

    def _new(self, request: Document) -> Document:
        moment = now()
        document: Document = {
            **_without(request, "Tags", "ClientToken"),
            "CreationTime": moment,
            "LastModifiedTime": moment,
            "CreatedBy": {},
            "ModelPackageStatus": "Completed",
            "ModelPackageStatusDetails": {"ValidationStatuses": []},
            "CertifyForMarketplace": False,
        }
        document.setdefault("ModelPackageRegistrationType", "Registered")
        if "ModelPackageGroupName" in request:
            group = self._groups.name_of(request["ModelPackageGroupName"])
            version = self._services.store.next_number(f"model-package-group/{self._created(group)}/{group}")
            document["ModelPackageGroupName"] = group
            document["ModelPackageVersion"] = version
            document["ModelPackageArn"] = self._services.settings.arn(f"model-package/{group}/{version}")
            document.setdefault("ModelApprovalStatus", "PendingManualApproval")
        else:
            if "ModelApprovalStatus" in request:
                raise validation("ModelApprovalStatus applies to versioned model packages only.")
            document["ModelPackageArn"] = self._services.settings.arn(f"model-package/{request['ModelPackageName']}")
        return document

    def _created(self, group: str) -> float:
        """When a group was made: one that is deleted and made again counts from 1."""
        return float(self._services.store.get(GROUP, group).document["CreationTime"])


def _without(request: Document, *members: str) -> Document:
    return {key: value for key, value in request.items() if key not in members}


def _order(document: Document) -> str:
    name = document.get("ModelPackageGroupName") or document["ModelPackageName"]
    return f"{name}/{document.get('ModelPackageVersion', 0):09d}"
