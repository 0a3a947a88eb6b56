from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
import scored_claims

from include.stores.objects import ObjectStore


@pytest.fixture(scope="session")
def trained_claims(aws: str, tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    """Ingested claims with features and a model (``scored_claims``). Made once: tests that change labels or features copy it."""
    client = boto3.client("s3")
    client.create_bucket(Bucket="trained-claims", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    objects = ObjectStore("trained-claims", client)
    scored_claims.prepare(objects, tmp_path_factory.mktemp("trained_claims"))
    return objects


@pytest.fixture
def own_claims(bucket: ObjectStore, trained_claims: ObjectStore) -> ObjectStore:
    """A copy of ``trained_claims`` that a test may change."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda info: bucket.put(info.key, trained_claims.get(info.key)), trained_claims.list("")))
    return bucket
