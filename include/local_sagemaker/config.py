"""How one server is set up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Fixed for the life of a server. The waits are AWS's own by default; tests shorten them."""

    state: Path
    region: str = "us-east-1"
    account: str = "000000000000"
    job_stop_grace_seconds: float = 120.0  # SIGTERM … SIGKILL, Developer Guide "Stopping a training job"
    endpoint_stop_grace_seconds: float = 30.0  # SIGTERM … SIGKILL for a model server
    shutdown_grace_seconds: float = 3.0  # the same, when the server itself is told to stop
    startup_health_check_seconds: float = 240.0  # ContainerStartupHealthCheckTimeoutInSeconds when the variant names none
    invocation_timeout_seconds: float = 60.0  # a model container must answer within 60 seconds
    metrics_interval_seconds: float = 60.0
    capture_interval_seconds: float = 2.0  # between files of captured requests; AWS takes minutes
    max_concurrent_jobs: int = 8
    keep_job_directories: bool = False
    isolation: str = "auto"  # or one of preload.ISOLATIONS

    def arn(self, resource: str) -> str:
        """The ARN of a SageMaker resource, e.g. ``training-job/NAME``."""
        return f"arn:aws:sagemaker:{self.region}:{self.account}:{resource}"
