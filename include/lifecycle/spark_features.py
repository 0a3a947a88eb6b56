"""Features computed by Spark: the same ``features.sql`` and the same views as DuckDB's, translated by SQLGlot.

For a history that has outgrown one machine's memory and disk, or one core. Spark reads, joins and windows the rows; its answer, the rows of
the interval asked for, is checked and written like DuckDB's (``include.lifecycle.features``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlglot import exp

from include.lifecycle import portable_sql
from include.lifecycle.as_of_views import CURATED, View
from include.lifecycle.features import FeatureError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SETTINGS = {
    # what the portable subset of SQL promises: times are UTC and have no zone; what cannot be computed is an error and no silent null
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.timestampType": "TIMESTAMP_NTZ",
    "spark.sql.ansi.enabled": "true",
    # curated files that were written before a column was declared lack it
    "spark.sql.parquet.mergeSchema": "true",
}
"""What a session needs for the statements to mean the same as in DuckDB."""


class SparkUnavailableError(RuntimeError):
    """There is no PySpark or no Java here. The message says which."""


@contextmanager
def local_session(scratch: Path, memory: str) -> Iterator[SparkSession]:
    """Spark on all cores of this machine, in ``memory`` ("3g") of Java heap, spilling into ``scratch``; stopped at the end. It talks to itself
    over loopback only. SparkUnavailableError without PySpark or Java."""
    try:
        from pyspark.errors import PySparkRuntimeError
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise SparkUnavailableError("this environment has no pyspark: install requirements-spark.txt on top of it") from error
    builder = SparkSession.builder.master("local[*]").appName("features")
    local = {
        "spark.driver.memory": memory,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.shuffle.partitions": str(4 * (os.cpu_count() or 1)),  # 200 by default: a cluster's
        "spark.local.dir": str(scratch / "local"),
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    for name, value in (SETTINGS | local).items():
        builder = builder.config(name, value)
    try:
        session = builder.getOrCreate()
    except PySparkRuntimeError as error:
        raise SparkUnavailableError(f"Spark does not start (it wants Java 17 or later, on PATH or in JAVA_HOME): {error}") from error
    session.sparkContext.setLogLevel("ERROR")
    try:
        yield session
    finally:
        session.stop()


class SparkEngine:
    """Computes features in ``session`` (which has ``SETTINGS``) and leaves them under ``output``. An ``Engine`` of ``features``."""

    def __init__(self, session: SparkSession, output: Path) -> None:
        self._session = session
        self._output = output

    def compute(self, files: Mapping[str, Sequence[Path]], views: Sequence[View], statement: exp.Select) -> Path:
        from pyspark.errors import PySparkException

        session = self._session
        try:
            for table, paths in files.items():
                if paths:
                    session.read.parquet(*map(str, paths)).createOrReplaceTempView(f"{CURATED}{table}")
            for view in views:
                rows = session.sql(portable_sql.to_spark(view.select))
                (rows.cache() if view.small else rows).createOrReplaceTempView(view.name)
            session.sql(portable_sql.to_spark(statement)).write.mode("overwrite").parquet(str(self._output))
        except PySparkException as error:
            raise FeatureError(f"Spark cannot compute the features: {_first_lines(error)}") from error
        finally:
            session.catalog.clearCache()
        return self._output


def _first_lines(error: Exception) -> str:
    """What Spark says before it prints its plan."""
    return re.split(r"\n\s*(?:at |==|'?\w+ ?\[)", str(error), maxsplit=1)[0].strip()
