"""Where the reference claims are, and simulated claims that several tests look at."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from bench import reference as published
from include.domains.auto_claims.simulator import Simulation, simulate

FIRST_DAY = date(2026, 1, 1)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of the 5,000 reference claims."""
    folder = published.claims()
    if folder is None:
        pytest.skip("no reference claims: set FRAUD_REFERENCE_DATA or put shared/data beside the repository")
    return folder


@pytest.fixture(scope="session")
def simulation() -> Simulation:
    """90 days, 20,000 claims, no change."""
    return simulate(90, 20_000, FIRST_DAY, seed=5)
