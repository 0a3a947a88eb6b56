"""The metrics that a training job prints: MetricDefinitions' expressions, applied to its log."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from .errors import validation
from .store import now

log = logging.getLogger(__name__)


class MetricReader:
    """Keeps the last value of each metric (FinalMetricDataList holds only that).

    A tab is ``#011`` in CloudWatch, and the expressions that AWS documents for its own containers rely on it, so an
    expression that contains ``#011`` is applied to the line in that form.
    """

    def __init__(self, definitions: Sequence[dict[str, str]]) -> None:
        self._expressions = [(entry["Name"], re.compile(entry["Regex"]), "#011" in entry["Regex"]) for entry in definitions]
        self._final: dict[str, dict[str, Any]] = {}

    def read(self, line: str) -> None:
        """Look for metrics in one line of the log."""
        escaped = line.replace("\t", "#011")
        for name, expression, wants_escaped in self._expressions:
            for found in expression.finditer(escaped if wants_escaped else line):
                try:
                    value = float(found.group(1))
                except (TypeError, ValueError):  # the group took no part in the match, or caught no number
                    continue
                self._final[name] = {"MetricName": name, "Value": value, "Timestamp": now()}

    @property
    def final(self) -> list[dict[str, Any]]:
        """FinalMetricDataList, in the order of the definitions."""
        return [self._final[name] for name, _, _ in self._expressions if name in self._final]


def check_definitions(definitions: Sequence[dict[str, str]]) -> None:
    """Refuse expressions that do not compile or capture nothing."""
    for entry in definitions:
        try:
            groups = re.compile(entry["Regex"]).groups
        except re.error as error:
            raise validation(f"Invalid MetricDefinition regex {entry['Regex']!r} of metric {entry['Name']!r}: {error}") from error
        if groups < 1:
            raise validation(f"Invalid MetricDefinition regex {entry['Regex']!r} of metric {entry['Name']!r}: it needs a capturing group")


def publish_final(region: str, job: str, metrics: list[dict[str, Any]]) -> None:
    """Put the final values into CloudWatch (namespace ``/aws/sagemaker/TrainingJobs``); a failure is logged, the job is done."""
    if not metrics:
        return
    client = boto3.client("cloudwatch", region_name=region, config=Config(retries={"max_attempts": 1}, connect_timeout=3, read_timeout=5))
    try:
        client.put_metric_data(
            Namespace="/aws/sagemaker/TrainingJobs",
            MetricData=[
                {
                    "MetricName": entry["MetricName"],
                    "Dimensions": [{"Name": "TrainingJobName", "Value": job}],
                    "Value": entry["Value"],
                    "Timestamp": entry["Timestamp"],
                }
                for entry in metrics
            ],
        )
    except (ClientError, BotoCoreError) as error:
        log.warning("CloudWatch does not take the metrics of training job %s: %s", job, error)
