"""Both stores of experiments: a SQLite file, and a real DynamoDB API (MiniStack's)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from include.stores import experiments_dynamodb
from include.stores.experiments import ExperimentStore, open_store


@pytest.fixture(params=["sqlite", "dynamodb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path}/some folder/experiments.db"
        return
    request.getfixturevalue("aws")
    experiments_dynamodb._client.cache_clear()
    yield f"dynamodb://experiments-{uuid.uuid4().hex}?region=eu-west-1"


@pytest.fixture
def store(url: str) -> ExperimentStore:
    opened = open_store(url)
    opened.ensure()
    return opened
