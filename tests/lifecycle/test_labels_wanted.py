"""How much truth a retraining waits for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from include.domains import get
from include.lifecycle.domain import Rollout
from include.lifecycle.labels_wanted import frauds_to_see, wanted_frauds

DOMAIN = get("auto_claims")


def test_the_domains_number_counts_else_the_power_calculation() -> None:
    assert wanted_frauds(replace(DOMAIN, rollout=Rollout(wanted_frauds=7))) == 7
    assert wanted_frauds(replace(DOMAIN, rollout=Rollout(wanted_frauds=None))) == frauds_to_see(0.05)


@pytest.mark.parametrize("loss", [0.05, 0.1, 0.2])
def test_as_many_frauds_find_the_loss_with_the_power_they_promise(loss: float) -> None:
    frauds = frauds_to_see(loss)
    rng = np.random.default_rng(3)
    found = rng.binomial(frauds, 0.5 - loss, 20_000) / frauds
    rejected = np.abs(found - 0.5) / np.sqrt(0.25 / frauds) > 1.96
    assert 0.78 <= rejected.mean() <= 0.84


def test_smaller_losses_take_more() -> None:
    assert frauds_to_see(0.05) > frauds_to_see(0.1) > frauds_to_see(0.2)
    with pytest.raises(ValueError, match="lies between 0 and"):
        frauds_to_see(0.5)
