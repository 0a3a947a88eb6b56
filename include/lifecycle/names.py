"""Names that SageMaker accepts. One place makes them, because SageMaker allows neither ``_`` nor ``.`` and cuts at 63 characters."""

from __future__ import annotations

import hashlib
import json
from typing import Any

SAGEMAKER_NAME_LIMIT = 63


def digest(value: Any, length: int = 12) -> str:
    """Hexadecimal SHA-256 of a JSON value (keys sorted, so that equal values have equal digests), cut to ``length`` characters."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]


def sagemaker_name(*parts: str) -> str:
    """``auto_claims``, ``train`` → ``auto-claims-train``. ValueError where nothing valid, or more than 63 characters, would come out."""
    name = "-".join("".join(c if c.isascii() and c.isalnum() else "-" for c in part).strip("-") for part in parts)
    if not name or name.startswith("-") or len(name) > SAGEMAKER_NAME_LIMIT:
        raise ValueError(f"{name!r} (from {parts}) is not a SageMaker name: 1 to {SAGEMAKER_NAME_LIMIT} letters, digits and hyphens")
    return name


def job_name(domain: str, stage: str, request_digest: str, ordinal: int) -> str:
    """A job's name: the same run, task and request give the same digest; a failed or stopped job gets the next ordinal (from 1)."""
    return sagemaker_name(domain, stage, request_digest, str(ordinal))


def endpoint_name(domain: str) -> str:
    return sagemaker_name(domain, "endpoint")


def package_group(domain: str, history: bool = False) -> str:
    """The registry group of a domain's models; a backfill's models go to the history group and never meet the live ones, those of another
    domain neither: no domain's name ends in ``_history`` (``Domain``)."""
    return sagemaker_name(domain, "history") if history else sagemaker_name(domain)
