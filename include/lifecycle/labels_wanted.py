"""How much truth a retraining waits for."""

from __future__ import annotations

import math

from scipy.stats import norm

from include.lifecycle.domain import Domain

POWER, LEVEL = 0.8, 0.05
_LOSS_OF = "recall_at_capacity"
_DEFAULT_LOSS = 0.05


def wanted_frauds(domain: Domain) -> int:
    """How many matured frauds since a drift began: as many as the domain says (``Rollout.wanted_frauds``), else as many as show a loss of
    recall worth an alarm (``Monitoring.minimum_quality_loss``). Fewer would neither teach the new model the new fraud nor tell whether it
    has learned it."""
    asked = domain.rollout.wanted_frauds
    return asked if asked is not None else frauds_to_see(domain.monitoring.minimum_quality_loss.get(_LOSS_OF, _DEFAULT_LOSS))


def frauds_to_see(loss: float) -> int:
    """Frauds for a test of one share (recall), two-sided at ``LEVEL``, to find a fall from .5 by ``loss`` with probability ``POWER``:
    ((z_{1-level/2} √(r₀(1-r₀)) + z_{power} √(r₁(1-r₁))) / loss)² (Fleiss, Levin & Paik 2003, Statistical Methods for Rates and Proportions,
    chapter 2). From .5 it takes the most. ValueError unless 0 < loss < .5."""
    if not 0 < loss < 0.5:
        raise ValueError(f"a loss of recall to be seen lies between 0 and 0.5, not at {loss}")
    fallen = 0.5 - loss
    deviations = norm.ppf(1 - LEVEL / 2) * 0.5 + norm.ppf(POWER) * math.sqrt(fallen * (1 - fallen))
    return math.ceil(float(deviations / loss) ** 2)
