"""Which engine computes the features of a job: DuckDB, or Spark where the environment says ``FEATURES_ENGINE=spark``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from include.jobs.context import JobError
from include.lifecycle.features import Engine
from include.lifecycle.spark_features import SparkEngine, SparkUnavailableError, local_session

ENGINE_VARIABLE = "FEATURES_ENGINE"
_SIZE = re.compile(r"(\d+)\s*([KMGT])i?B", re.IGNORECASE)


@contextmanager
def feature_engine(scratch: Path, memory_limit: str | None) -> Iterator[Engine | None]:
    """What ``materialise_features`` takes as its engine: None for DuckDB. Spark runs in this job, in ``memory_limit`` ("3GB") of Java heap
    or half of the machine's memory, and leaves its files in ``scratch``. JobError for another engine, or where Spark is not installed."""
    name = os.environ.get(ENGINE_VARIABLE, "duckdb")
    if name not in {"duckdb", "spark"}:
        raise JobError(f"the environment variable {ENGINE_VARIABLE} is {name!r}: wants duckdb or spark")
    if name == "duckdb":
        yield None
        return
    try:
        with local_session(scratch, _java_size(memory_limit)) as session:
            yield SparkEngine(session, scratch / "computed")
    except SparkUnavailableError as error:
        raise JobError(f"{ENGINE_VARIABLE} is spark, but {error}") from error


def _java_size(memory_limit: str | None) -> str:
    if memory_limit is None:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2**21}m"
    match = _SIZE.fullmatch(memory_limit.strip())
    if match is None:
        raise JobError(f"--memory-limit {memory_limit!r}: wants a whole number with a unit, such as 3GB")
    return f"{match[1]}{match[2].lower()}"
