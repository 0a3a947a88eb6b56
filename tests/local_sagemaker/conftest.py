from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sagemaker_lab import Server


@pytest.fixture(scope="session")
def server(aws: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that most tests share; each uses names of its own."""
    running = Server(tmp_path_factory.mktemp("shared"), aws).start()
    running.put("data/train/a.csv", b"1,2\n")
    running.put("data/train/deep/b.csv", b"3,4\n")
    running.put("data/trainer.csv", b"5,6\n")
    yield running
    running.close()


@pytest.fixture
def own_server(aws: str, tmp_path: Path) -> Iterator[Server]:
    """A server for one test, to be killed or told to end."""
    running = Server(tmp_path, aws).start()
    running.put("data/train/a.csv", b"1,2\n")
    yield running
    running.close()
