"""Per-variant counts and latencies of invocations, put into CloudWatch now and then, off the request path.

Namespace, names, dimensions and units are AWS's: ``AWS/SageMaker``, EndpointName and VariantName, latencies in microseconds.
Values are sent with their counts, so percentiles are exact up to the rounding of a latency to three digits.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_cloudwatch.literals import StandardUnitType
    from mypy_boto3_cloudwatch.type_defs import MetricDatumTypeDef

log = logging.getLogger(__name__)

_VALUES_A_DATUM = 150  # limit of PutMetricData
_MOST_KEPT = 200_000  # invocations kept between two flushes; beyond it only counts go on


class VariantStatistics:
    """What one variant's requests took since the last flush. Written on the event loop, taken by the publisher's thread."""

    def __init__(self, endpoint: str, variant: str) -> None:
        self.dimensions = (("EndpointName", endpoint), ("VariantName", variant))
        self._reset()

    def _reset(self) -> None:
        self.invocations = 0
        self.model: list[float] = []
        self.overhead: list[float] = []
        self.client_errors = 0
        self.server_errors = 0

    def record(self, status: int, model_seconds: float, overhead_seconds: float) -> None:
        """Count one request that reached the model server; ``status`` is what the server answered (0: nothing)."""
        self.invocations += 1
        if len(self.model) < _MOST_KEPT:
            self.model.append(model_seconds)
            self.overhead.append(overhead_seconds)
        if 400 <= status < 500:
            self.client_errors += 1
        elif not 200 <= status < 400:
            self.server_errors += 1

    def take(self) -> list[MetricDatumTypeDef]:
        """The metric data since the last call; empty without invocations."""
        invocations, model, overhead = self.invocations, self.model, self.overhead
        client_errors, server_errors = self.client_errors, self.server_errors
        if not invocations:
            return []
        self._reset()
        return [
            self._datum("Invocations", "None", [1.0], [float(invocations)]),
            self._datum("InvocationsPerInstance", "None", [1.0], [float(invocations)]),
            self._datum("Invocation4XXErrors", "None", *_ones_and_zeros(client_errors, invocations)),
            self._datum("Invocation5XXErrors", "None", *_ones_and_zeros(server_errors, invocations)),
            *self._latencies("ModelLatency", model),
            *self._latencies("OverheadLatency", overhead),
        ]

    def _latencies(self, name: str, seconds: Iterable[float]) -> list[MetricDatumTypeDef]:
        counts = Counter(float(f"{value * 1e6:.3g}") for value in seconds)
        items = sorted(counts.items())
        return [
            self._datum(name, "Microseconds", [value for value, _ in part], [float(count) for _, count in part])
            for part in (items[start : start + _VALUES_A_DATUM] for start in range(0, len(items), _VALUES_A_DATUM))
        ]

    def _datum(self, name: str, unit: StandardUnitType, values: list[float], counts: list[float]) -> MetricDatumTypeDef:
        return {
            "MetricName": name,
            "Dimensions": [{"Name": key, "Value": value} for key, value in self.dimensions],
            "Timestamp": datetime.now(UTC),
            "Values": values,
            "Counts": counts,
            "Unit": unit,
        }


class MetricsPublisher:
    """A thread that flushes every variant's statistics each interval."""

    def __init__(self, region: str, interval_seconds: float, statistics: Callable[[], Iterable[VariantStatistics]]) -> None:
        config = Config(retries={"max_attempts": 2, "mode": "standard"}, connect_timeout=3, read_timeout=10)
        self._client: CloudWatchClient = boto3.client("cloudwatch", region_name=region, config=config)
        self._interval = interval_seconds
        self._statistics = statistics
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def flush(self, statistics: Iterable[VariantStatistics]) -> None:
        """Publish now; a failure is logged and the data of this interval are lost, as metrics may be."""
        data = [datum for variant in statistics for datum in variant.take()]
        try:
            for start in range(0, len(data), 500):
                self._client.put_metric_data(Namespace="AWS/SageMaker", MetricData=data[start : start + 500])
        except (ClientError, BotoCoreError) as error:
            log.warning("CloudWatch does not take the endpoints' metrics: %s", error)

    def close(self) -> None:
        """Publish what is left and stop."""
        self._stop.set()
        self._thread.join(timeout=5)
        self.flush(self._statistics())

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self.flush(self._statistics())


def _ones_and_zeros(ones: int, total: int) -> tuple[list[float], list[float]]:
    pairs = [(1.0, float(ones)), (0.0, float(total - ones))]
    kept = [(value, count) for value, count in pairs if count]
    return [value for value, _ in kept], [count for _, count in kept]
