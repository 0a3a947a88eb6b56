from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from gateway_lab import Cloud, Gateway, model_archive

from include.stores.objects import ObjectStore


@pytest.fixture(scope="session")
def cloud(aws: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """Both models registered, and an endpoint with the champion alone. Tests that bring it elsewhere bring it back."""
    client = boto3.client("s3")
    client.create_bucket(Bucket="gateway", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    running = Cloud(tmp_path_factory.mktemp("cloud"), ObjectStore("gateway", client)).start()
    running.register("champion", model_archive(0.1))
    running.register("challenger", model_archive(0.6))
    running.deploy("single", {"champion": "champion"})
    yield running
    running.close()


@pytest.fixture
def gateway(cloud: Cloud, tmp_path: Path) -> Iterator[Gateway]:
    """Of its own, with an empty store and an empty bucket but for the models."""
    for prefix in ("decisions", "outcomes", "raw", "watermark"):
        for info in cloud.objects.list(f"card_payments/{prefix}"):
            cloud.objects.delete(info.key)
    running = Gateway(cloud, tmp_path / "gateway")
    running.store.ensure()
    running.start()
    yield running
    running.close()
