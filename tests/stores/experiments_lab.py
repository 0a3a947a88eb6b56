"""Experiments and entries for the tests of their stores."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from include.lifecycle.domain import Guardrails, Rollout
from include.lifecycle.experiment import Contender, Entry, Experiment, VariantCounts

ROOT = Path(__file__).parents[2]
OLD = Contender("arn:aws:sagemaker:eu-west-1:1:model-package/d/1", "s3://b/old.tar.gz", 0.1)
NEW = Contender("arn:aws:sagemaker:eu-west-1:1:model-package/d/2", "s3://b/new.tar.gz", 1 / 3)
COUNTS = VariantCounts(12, 1, 1, 4, (3, 9) + (0,) * 17, (0,) * 19 + (12,))

NOW = "2026-11-01T10:00:00Z"


def an_experiment(identity: str = "first", domain: str = "claims") -> Experiment:
    policy = Rollout(caps=(0.1, 0.3), epoch=timedelta(hours=6), guardrails=Guardrails(minimum_requests=7, heartbeat=timedelta(seconds=30)))
    return Experiment(identity, domain, "an-endpoint", OLD, NEW, "2026-03-01T00:00:00Z", policy=policy)


def an_entry(says: str = "nothing new", **evidence: object) -> Entry:
    return Entry(0, "2026-03-02T00:00:00Z", "shadow", 0.1 + 0.2, 1e-17, says, "Zoë", evidence)
