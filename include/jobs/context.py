"""What every job is handed: its domain, its bucket, where ``/opt/ml`` lies, and how it reports."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from include import domains
from include.code_version import code_version
from include.lifecycle.domain import Domain
from include.stores.layout import Layout

if TYPE_CHECKING:
    from include.stores.objects import ObjectStore

BUCKET_VARIABLE = "FRAUD_BUCKET"
CODE_VERSION_VARIABLE = "FRAUD_CODE_VERSION"
KMS_KEY_VARIABLE = "FRAUD_KMS_KEY"


class JobError(Exception):
    """A job cannot go on because of what it was given. The message says what was wrong, where, and what to do; it becomes the job's
    failure reason, without a traceback."""


def ml_directory() -> Path:
    """``/opt/ml`` on AWS. ``SAGEMAKER_BASE_DIR`` names another place where a job has no ``/opt/ml`` of its own."""
    return Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))


@dataclass(frozen=True)
class JobContext:
    domain: Domain

    @cached_property
    def objects(self) -> ObjectStore:
        from include.stores.objects import ObjectStore  # boto3: an endpoint starts without it

        bucket = os.environ.get(BUCKET_VARIABLE)
        if not bucket:
            raise JobError(f"the environment variable {BUCKET_VARIABLE} is not set: it names the bucket the job reads and writes")
        return ObjectStore(bucket, kms_key=os.environ.get(KMS_KEY_VARIABLE) or None)

    @property
    def layout(self) -> Layout:
        return Layout(self.domain.name)


def context_for(domain_name: str) -> JobContext:
    """The job's context. JobError for an unknown domain, and for an image that holds other code than the one that asked for the job."""
    try:
        context = JobContext(domains.get(domain_name))
    except LookupError as error:
        raise JobError(str(error)) from error
    wanted, present = os.environ.get(CODE_VERSION_VARIABLE), code_version(domain_name)
    if wanted and wanted != present:
        raise JobError(f"Airflow asked for code {wanted}, and this image holds {present}: build the image of this checkout, or settle the change")
    return context


def instant(text: str) -> datetime:
    """An ISO 8601 instant with an offset ("2026-03-31T00:00:00Z") in UTC. ValueError without an offset: a naive time is ambiguous."""
    value = datetime.fromisoformat(text)
    if value.tzinfo is None:
        raise ValueError(f"{text!r} has no UTC offset")
    return value.astimezone(UTC)
