"""An experiment's document survives JSON whole: gateways, tasks and pages read the same."""

from __future__ import annotations

import json
from datetime import timedelta

from include.domains import catalogue
from include.lifecycle.domain import Guardrails, Rollout
from include.lifecycle.experiment import Contender, Experiment, VariantCounts


def test_json_and_back() -> None:
    for domain in catalogue().domains.values():
        experiment = Experiment(
            "e", domain.name, "endpoint", Contender("a", "s3://b/a", 1.5), Contender("b", "s3://b/b", 0.0), "2026-04-01T00:00:00Z",
            shadow_scores=(1, 2, 3),
            policy=Rollout(epoch=timedelta(hours=36), caps=(0.1, 0.2), guardrails=Guardrails(heartbeat=timedelta(seconds=7))),
        )  # fmt: skip
        again = Experiment.of_json(json.loads(json.dumps(experiment.as_json())))
        assert again == experiment
        assert hash(again) == hash(experiment)
        from_domain = experiment.but(policy=domain.rollout)
        # what training a retraining did is over when an experiment begins
        assert Experiment.of_json(json.loads(json.dumps(from_domain.as_json()))).policy.caps == domain.rollout.caps


def test_an_experiment_stored_before_reviews_were_drawn_among_disagreements_has_none() -> None:
    stored = Experiment(
        "e", "d", "endpoint", Contender("a", "s3://b/a", 0.0), Contender("b", "s3://b/b", 0.0), "2026-04-01T00:00:00Z"
    ).as_json()
    assert Experiment.of_json(stored).policy == Rollout()
    del stored["policy"]["disagreement_review_share"]
    assert Experiment.of_json(stored).policy == Rollout(disagreement_review_share=0.0)


def test_counts_of_gateways_add() -> None:
    one, other = VariantCounts(3, 1, 1, 2, (1, 2), (0, 3)), VariantCounts(4, 0, 0, 1, (4, 0), (2, 2))
    assert one + other == VariantCounts(7, 1, 1, 3, (5, 2), (2, 5))
    assert VariantCounts() + one == one == one + VariantCounts()
