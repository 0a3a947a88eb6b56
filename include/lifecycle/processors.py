"""How many processors a job may use."""

from __future__ import annotations

import os

VARIABLE = "FRAUD_JOB_PROCESSORS"
"""An upper limit, for a machine on which several jobs run at once."""


def usable_processors() -> int:
    """Those that this process may run on, and no more than ``FRAUD_JOB_PROCESSORS`` says; at least 1."""
    present = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(present, int(os.environ.get(VARIABLE) or present)))
