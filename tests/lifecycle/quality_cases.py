"""Scored events for the tests of monitoring's quality sections: scores whose probabilities of fraud are known."""

from __future__ import annotations

from typing import Any

import numpy as np

from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.calibration import sigmoid
from include.lifecycle.domain import Costs, Monitoring, ReviewCapacity
from include.lifecycle.evaluation import Economics, Events
from include.lifecycle.quality_reference import quality_reference

ECONOMICS = Economics(Costs("EUR", 5.0, 1.0), ReviewCapacity(share=0.03))
POLICY = Monitoring()


def events_of(labels: FloatArray, days: int = 14, per_group: int = 4, seed: int = 0, amounts: FloatArray | None = None) -> Events:
    rng = np.random.default_rng([seed, 1])
    size = labels.size
    money = rng.lognormal(3.5, 1.0, size) if amounts is None else amounts
    groups = rng.integers(0, max(size // per_group, 1), size).astype(str)
    when = np.datetime64("2026-01-05") + np.sort(rng.integers(0, days, size))
    return Events(np.asarray(labels, float), money, when, groups, groups)


def sample(size: int, seed: int, days: int = 14, shift: float = 0.0) -> tuple[Events, FloatArray]:
    """Events with about 4 % of fraud, and scores that rank as well as anybody can but are not calibrated. ``shift``: of the log-odds."""
    rng = np.random.default_rng([seed, 0])
    odds = rng.normal(-4.5 + shift, 1.7, size)
    labels = (rng.random(size) < sigmoid(odds)).astype(float)
    return events_of(labels, days, seed=seed), sigmoid(1.2 * odds + 0.5)


def a_reference(size: int = 12_000, seed: int = 100, **more: Any) -> dict[str, Any]:
    events, scores = sample(size, seed)
    return quality_reference(events, scores, ECONOMICS, **more)
