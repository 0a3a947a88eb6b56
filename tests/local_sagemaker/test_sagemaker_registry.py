"""The model registry, and tags."""

from __future__ import annotations

import concurrent.futures
from typing import Any

import pytest
from sagemaker_lab import BUCKET, IMAGE, ROLE, Server, error_of

from include.lifecycle.names import package_group
from include.stores.registry import ModelRegistry

SPECIFICATION = {
    "Containers": [{"Image": IMAGE, "ModelDataUrl": f"s3://{BUCKET}/registry/a.tar.gz"}],
    "SupportedContentTypes": ["text/csv"],
    "SupportedResponseMIMETypes": ["application/json"],
}


@pytest.fixture(scope="module", autouse=True)
def model_data(server: Server) -> None:
    server.put("registry/a.tar.gz")


def register(server: Server, group: str, **more: Any) -> str:
    arn: str = server.sagemaker.create_model_package(ModelPackageGroupName=group, InferenceSpecification=SPECIFICATION, **more)[
        "ModelPackageArn"
    ]
    return arn


def test_groups(server: Server) -> None:
    sagemaker = server.sagemaker
    arn = sagemaker.create_model_package_group(ModelPackageGroupName="claims", ModelPackageGroupDescription="Auto claims")[
        "ModelPackageGroupArn"
    ]
    assert arn == "arn:aws:sagemaker:us-east-1:000000000000:model-package-group/claims"
    code, message = error_of(lambda: sagemaker.create_model_package_group(ModelPackageGroupName="claims"))
    assert code == "ValidationException"
    assert message.startswith("Model Package Group already exists")
    described = sagemaker.describe_model_package_group(ModelPackageGroupName=arn)
    assert described["ModelPackageGroupDescription"] == "Auto claims"
    assert described["ModelPackageGroupStatus"] == "Completed"
    register(server, "claims")
    assert error_of(lambda: sagemaker.delete_model_package_group(ModelPackageGroupName="claims"))[0] == "ConflictException"
    sagemaker.delete_model_package(ModelPackageName=f"{arn.replace('-group', '')}/1")
    assert register(server, "claims").endswith("model-package/claims/2")  # a version number is not used again
    sagemaker.delete_model_package(ModelPackageName="claims/2")
    sagemaker.delete_model_package_group(ModelPackageGroupName="claims")
    assert error_of(lambda: sagemaker.describe_model_package_group(ModelPackageGroupName="claims"))[0] == "ValidationException"
    assert error_of(lambda: register(server, "claims"))[0] == "ValidationException"
    assert sagemaker.list_model_package_groups(NameContains="claims")["ModelPackageGroupSummaryList"] == []


def test_a_version_says_everything_that_it_was_registered_with(server: Server) -> None:
    sagemaker = server.sagemaker
    sagemaker.create_model_package_group(ModelPackageGroupName="told")
    source = {"ContentType": "application/json", "S3Uri": "s3://reports/r.json"}
    request: dict[str, Any] = {
        "ModelPackageDescription": "Versuch № 1",
        "ModelMetrics": {"ModelQuality": {"Statistics": source}, "Bias": {"Report": source}},
        "DriftCheckBaselines": {"ModelDataQuality": {"Statistics": source}, "Bias": {"ConfigFile": {"S3Uri": "s3://reports/c.json"}}},
        "CustomerMetadataProperties": {"as_of": "2026-01-31T00:00:00Z", "code": "abc123"},
        "MetadataProperties": {"CommitId": "abc123"},
        "ModelApprovalStatus": "PendingManualApproval",
        "SkipModelValidation": "All",
    }
    arn = register(server, "told", **request)
    described = sagemaker.describe_model_package(ModelPackageName=arn)
    assert {key: described[key] for key in request} == request
    assert described["InferenceSpecification"] == SPECIFICATION
    assert (described["ModelPackageGroupName"], described["ModelPackageVersion"]) == ("told", 1)
    assert described["ModelPackageStatus"] == "Completed"
    sagemaker.update_model_package(
        ModelPackageArn=arn,
        ModelApprovalStatus="Approved",
        ApprovalDescription="Better by 3 %",
        CustomerMetadataProperties={"approved_by": "ana"},
        CustomerMetadataPropertiesToRemove=["code"],
    )
    described = sagemaker.describe_model_package(ModelPackageName=arn)
    assert described["ModelApprovalStatus"] == "Approved"
    assert described["ApprovalDescription"] == "Better by 3 %"
    assert described["CustomerMetadataProperties"] == {"as_of": "2026-01-31T00:00:00Z", "approved_by": "ana"}
    assert described["LastModifiedTime"] > described["CreationTime"]
    assert error_of(lambda: sagemaker.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Maybe"))[0] == "ValidationException"
    assert error_of(lambda: sagemaker.describe_model_package(ModelPackageName="told/9"))[0] == "ValidationException"


def test_client_tokens_make_registration_repeatable(server: Server) -> None:
    server.sagemaker.create_model_package_group(ModelPackageGroupName="repeated")
    arn = register(server, "repeated", ClientToken="token-1")
    assert register(server, "repeated", ClientToken="token-1") == arn
    assert register(server, "repeated", ClientToken="token-2") != arn
    assert error_of(lambda: register(server, "repeated", ClientToken="token-1", ModelPackageDescription="other"))[0] == "ConflictException"


def test_versions_registered_at_once_are_numbered_without_gaps(server: Server) -> None:
    server.sagemaker.create_model_package_group(ModelPackageGroupName="crowd")
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        arns = list(pool.map(lambda _: register(server, "crowd"), range(10)))
    assert sorted(int(arn.rpartition("/")[2]) for arn in arns) == list(range(1, 11))


def test_versions_are_listed_by_group_approval_and_time(server: Server) -> None:
    sagemaker = server.sagemaker
    sagemaker.create_model_package_group(ModelPackageGroupName="listed")
    arns = [register(server, "listed", ModelApprovalStatus="Approved" if number % 2 else "Rejected") for number in range(12)]

    def versions(**request: Any) -> list[int]:
        pages = sagemaker.get_paginator("list_model_packages").paginate(ModelPackageGroupName="listed", **request)
        return [item["ModelPackageVersion"] for page in pages for item in page["ModelPackageSummaryList"]]

    assert versions() == list(range(1, 13))
    assert versions(SortBy="CreationTime", SortOrder="Descending", PaginationConfig={"PageSize": 5}) == list(range(12, 0, -1))
    assert versions(SortBy="Name", PaginationConfig={"PageSize": 5}) == list(range(1, 13))
    assert versions(ModelApprovalStatus="Approved") == [2, 4, 6, 8, 10, 12]
    first = sagemaker.list_model_packages(
        ModelPackageGroupName="listed", ModelApprovalStatus="Approved", SortBy="CreationTime", SortOrder="Descending", MaxResults=1
    )
    assert first["ModelPackageSummaryList"][0]["ModelPackageArn"] == arns[-1]
    assert "NextToken" in first
    sixth = sagemaker.describe_model_package(ModelPackageName=arns[5])["CreationTime"]
    assert versions(CreationTimeAfter=sixth) == list(range(7, 13))
    assert sagemaker.list_model_packages(NameContains="listed")["ModelPackageSummaryList"] == []  # without a group: the unversioned ones
    assert (
        len(sagemaker.list_model_packages(NameContains="listed", ModelPackageType="Versioned", MaxResults=100)["ModelPackageSummaryList"])
        == 12
    )


def test_unversioned_packages(server: Server) -> None:
    sagemaker = server.sagemaker
    sagemaker.create_model_package(ModelPackageName="single", InferenceSpecification=SPECIFICATION)
    assert sagemaker.describe_model_package(ModelPackageName="single")["ModelPackageName"] == "single"
    assert [item["ModelPackageName"] for item in sagemaker.list_model_packages(NameContains="single")["ModelPackageSummaryList"]] == [
        "single"
    ]
    create = sagemaker.create_model_package
    assert error_of(lambda: create(ModelPackageName="single", InferenceSpecification=SPECIFICATION))[0] == "ConflictException"
    assert error_of(lambda: create(InferenceSpecification=SPECIFICATION))[0] == "ValidationException"


def test_model_data_must_exist(server: Server) -> None:
    sagemaker = server.sagemaker
    sagemaker.create_model_package_group(ModelPackageGroupName="data")
    nowhere = f"s3://{BUCKET}/registry/nowhere.tar.gz"
    missing = {**SPECIFICATION, "Containers": [{"Image": IMAGE, "ModelDataUrl": nowhere}]}
    create = sagemaker.create_model_package
    refused = ("ValidationException", f"Could not find model data at {nowhere}.")
    assert error_of(lambda: create(ModelPackageGroupName="data", InferenceSpecification=missing)) == refused
    arn = register(server, "data")
    assert arn.endswith("/1")  # a refused request takes no number
    update = sagemaker.update_model_package
    assert error_of(lambda: update(ModelPackageArn=arn, InferenceSpecification=missing)) == refused
    for url in ("s3://no-such-bucket-here/a.tar.gz", f"s3://{BUCKET}/"):
        specification = {**SPECIFICATION, "Containers": [{"Image": IMAGE, "ModelDataUrl": url}]}
        code, _ = error_of(lambda specification=specification: create(ModelPackageGroupName="data", InferenceSpecification=specification))  # type: ignore[misc]
        assert code == "ValidationException"


def test_a_model_keeps_what_its_package_said(server: Server) -> None:
    """A deployment that returns to an earlier configuration must not fail because the package was rejected since."""
    server.put("registry/loose/answer.txt", b"kept")
    source = {"S3Uri": f"s3://{BUCKET}/registry/loose/", "S3DataType": "S3Prefix", "CompressionType": "None"}
    specification = {**SPECIFICATION, "Containers": [{"Image": IMAGE, "ModelDataSource": {"S3DataSource": source}}]}
    server.sagemaker.create_model_package_group(ModelPackageGroupName="kept")
    arn = server.sagemaker.create_model_package(
        ModelPackageGroupName="kept", ModelApprovalStatus="Approved", InferenceSpecification=specification
    )["ModelPackageArn"]
    server.sagemaker.create_model(ModelName="kept", ExecutionRoleArn=ROLE, Containers=[{"ModelPackageName": arn}])
    server.sagemaker.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Rejected")
    assert server.endpoint("kept", {"AllTraffic": ("kept", 1)})["EndpointStatus"] == "InService"
    assert server.invoke("kept")["model"] == "kept"
    server.sagemaker.delete_endpoint(EndpointName="kept")


def test_versions_have_the_tags_of_their_group(server: Server) -> None:
    server.sagemaker.create_model_package_group(ModelPackageGroupName="group-tags")
    tags = [{"Key": "team", "Value": "fraud"}]
    code, message = error_of(lambda: register(server, "group-tags", Tags=tags))
    assert code == "ValidationException"
    assert "tags of its group" in message
    arn = register(server, "group-tags")
    code, message = error_of(lambda: server.sagemaker.add_tags(ResourceArn=arn, Tags=tags))
    assert code == "ValidationException"
    assert "tag the group" in message
    arn = server.sagemaker.create_model_package(ModelPackageName="own-tags", InferenceSpecification=SPECIFICATION, Tags=tags)[
        "ModelPackageArn"
    ]
    assert server.sagemaker.list_tags(ResourceArn=arn)["Tags"] == tags


def test_tags(server: Server) -> None:
    sagemaker = server.sagemaker
    arn = sagemaker.create_model_package_group(ModelPackageGroupName="tagged", Tags=[{"Key": "team", "Value": "fraud"}])[
        "ModelPackageGroupArn"
    ]
    sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "team", "Value": "claims"}, {"Key": "stage", "Value": ""}])
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "stage", "Value": ""}, {"Key": "team", "Value": "claims"}]
    sagemaker.delete_tags(ResourceArn=arn, TagKeys=["team", "never there"])
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "stage", "Value": ""}]
    too_many = [{"Key": f"k{number}", "Value": "v"} for number in range(50)]
    assert error_of(lambda: sagemaker.add_tags(ResourceArn=arn, Tags=too_many))[0] == "ValidationException"
    assert len(sagemaker.list_tags(ResourceArn=arn)["Tags"]) == 1  # refused whole
    sagemaker.delete_model_package_group(ModelPackageGroupName="tagged")
    sagemaker.create_model_package_group(ModelPackageGroupName="tagged")
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == []  # tags go with their resource


def test_the_models_of_history_are_the_newest_of_each_as_of(server: Server) -> None:
    registry = ModelRegistry(server.sagemaker)
    assert registry.history("past_claims") == [], "no group: no model was ever registered"
    group = package_group("past_claims", history=True)
    server.sagemaker.create_model_package_group(ModelPackageGroupName=group)
    may, june = "2026-05-01T06:00:00Z", "2026-06-01T06:00:00Z"
    for as_of, status in ((june, "Rejected"), (may, "PendingManualApproval"), (june, "PendingManualApproval"), (may, "Rejected")):
        register(server, group, ModelApprovalStatus=status, CustomerMetadataProperties={"as_of": as_of})
    found = registry.history("past_claims")
    assert [(package.metadata["as_of"], package.version, package.status) for package in found] == [
        (may, 4, "Rejected"),
        (june, 3, "PendingManualApproval"),
    ]
    assert {package.model for package in found} == {f"s3://{BUCKET}/registry/a.tar.gz"}
    assert registry.newest_approved("past_claims") is None
