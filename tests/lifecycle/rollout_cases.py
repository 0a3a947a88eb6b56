"""What the tests of a rollout share: an experiment, what is found out about it day by day, and a tick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from include.lifecycle.as_of import iso, utc
from include.lifecycle.domain import Rollout
from include.lifecycle.experiment import CHALLENGER, CHAMPION, Command, Contender, Experiment
from include.lifecycle.guardrails import NAMES, Reading
from include.lifecycle.rollout import Advance, advance, begin_ramp

OPENED = datetime(2026, 3, 1, tzinfo=UTC)
MATURITY = timedelta(days=10)
POLICY_OF_TESTS = Rollout(
    shadow_at_least=timedelta(days=7),
    shadow_at_most=timedelta(days=30),
    caps=(0.01, 0.05, 0.25),
    epochs_per_step=2,
    ramp_at_least=7,
    ramp_at_most=timedelta(days=40),
    bandit="fixed",  # wants a half, so the share is the cap
)
HEALTHY = tuple(Reading(name, 0.5, 1.0, False, f"{name} is well") for name in NAMES)
TRIPPED = (*HEALTHY[:1], Reading("errors", 0.2, 0.02, True, "the challenger failed 20 of 100 requests."), *HEALTHY[2:])
UNJUDGED = tuple(replace(reading, value=None) if reading.name in ("errors", "scores") else reading for reading in HEALTHY)
BEYOND = (*HEALTHY[:1], replace(HEALTHY[1], value=1.5), *HEALTHY[2:])
STOP = Command("1", "stop", "ann", "the campaign began")


def day(number: float) -> str:
    """Days after the experiment was opened."""
    return iso(OPENED + timedelta(days=number))


def an_experiment(**changes: Any) -> Experiment:
    models = Contender("arn:old", "s3://b/old", 0.0), Contender("arn:new", "s3://b/new", 0.0)
    return Experiment("x1", "claims", "endpoint", *models, day(0), "shadow", day(0), as_of=day(0), policy=POLICY_OF_TESTS).but(**changes)


def in_ramp(**changes: Any) -> Experiment:
    """On its day 20."""
    return begin_ramp(an_experiment(stage="proven", as_of=day(20)), day(20), "both-variants").experiment.but(**changes)


def evidence(as_of: str, stage: str = "ramp", since: float = 0, **changes: Any) -> dict[str, Any]:
    """As of an instant, with every event older than ``MATURITY`` matured."""
    last = (utc(as_of) - MATURITY - timedelta(days=1)).date()
    first = (OPENED + timedelta(days=since)).date()
    known = last >= first
    found = {
        "version": 1,
        "experiment": "x1",
        "stage": stage,
        "as_of": as_of,
        "first_day": first.isoformat() if known else None,
        "last_day": last.isoformat() if known else None,
        "events": 1000,
        "frauds": 30,
        "unmatured": 100,
        "cost": {"champion": 2.0, "challenger": 1.8, "currency": "EUR"},
        "difference": {"value": -0.2, "low": -0.5, "high": 0.1, "error_rate": 0.05},
        "better": False,
        "worse": False,
        "not_worse": False,
        "arms": {slot: [] for slot in (CHAMPION, CHALLENGER)},
        "extra_cost": 12.5,
        "over_time": [{"day": "2026-03-01", "value": 0.0, "low": -1.0, "high": 1.0, "events": 10}] * 400,
    }
    return found | changes


def tick(
    experiment: Experiment,
    at: float,
    found: dict[str, Any] | None = None,
    readings: Sequence[Reading] = HEALTHY,
    commands: Sequence[Command] = (),
) -> Advance:
    return advance(experiment, as_of=day(at), evidence=found, readings=readings, commands=commands)
