"""Twelve weeks of retraining as a backfill: what two runs at once gain, and what Airflow and the start of jobs cost beyond the jobs' own work.

``python -m bench.backfill [--landing DIR]``: a stack of this bench's own, with card payments of the published size (simulated, or the
files of ``--landing``), ingested once. The same backfill then runs on two copies of that stack, one run at a time and two at once. A job's
own work is from its start to its end as SageMaker tells them; all else that the wall clock shows is overhead.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from bench.report import Figure, publish
from include import domains
from include.laptop.backfill import Backfill
from include.laptop.demo import Demo
from include.laptop.stack import Stack

DOMAIN = "card_payments"
WEEKS = 12
HISTORY = {"days": 157, "events": 1_505_000}
"""The published file, 1 April to 4 September 2018, in size."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.backfill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--landing", type=Path, help="a folder with transactions files of your own")
    parser.add_argument("--weeks", type=int, default=WEEKS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared"
        last_day = _prepare(prepared, options.landing)
        took, worked = {}, {}
        for at_once in (1, 2):
            home = Path(folder) / f"{at_once}_at_once"
            shutil.copytree(prepared, home, symlinks=True)
            took[at_once], worked[at_once] = _backfill(Stack(home), last_day, options.weeks, at_once)
            print(f"{at_once} at once: {took[at_once]:.0f} s, of which jobs {worked[at_once]:.0f} s", flush=True)
            shutil.rmtree(home)
    publish(
        "backfill",
        {
            "speedup_of_two_at_once": Figure(took[1] / took[2], goal=1.6, at_least=True),
            "overhead_share_of_job_work": Figure((took[1] - worked[1]) / worked[1], goal=0.3, at_least=False),
            "seconds_one_at_a_time": Figure(took[1]),
            "seconds_two_at_once": Figure(took[2]),
            "job_seconds_one_at_a_time": Figure(worked[1]),
            "job_seconds_two_at_once": Figure(worked[2]),
        },
    )


def _prepare(home: Path, landing: Path | None) -> date:
    """A stack with ingested history, stopped again. Returns the last day as of which to train: its labels have matured."""
    stack = Stack(home)
    try:
        demo = Demo(stack, domains.get(DOMAIN), landing=landing, history=HISTORY)
        demo.up()
        _, as_of = demo.ingest()
    finally:
        stack.down()
    return as_of.date()


def _backfill(stack: Stack, last_day: date, weeks: int, at_once: int) -> tuple[float, float]:
    """Seconds that the backfill took, and its jobs' own."""
    try:
        stack.up()
        started = time.time()
        runs = Backfill(stack, domains.get(DOMAIN), last_day - timedelta(days=7 * weeks - 1), last_day, at_once).run()
        if len(runs) != weeks:
            raise RuntimeError(f"{len(runs)} runs, where {weeks} weeks were asked for")
        ended = max(datetime.fromisoformat(run["end_date"]).timestamp() for run in runs)
        return ended - started, sum(_own_seconds(stack.client("sagemaker"), started, ended))
    finally:
        stack.down()


def _own_seconds(sagemaker: Any, first: float, last: float) -> list[float]:
    """Of every job that the backfill's runs started (those of what follows it are left out)."""
    found = []
    for page in sagemaker.get_paginator("list_processing_jobs").paginate():
        for job in page["ProcessingJobSummaries"]:
            job = sagemaker.describe_processing_job(ProcessingJobName=job["ProcessingJobName"])
            if first <= job["CreationTime"].timestamp() <= last and job["AppSpecification"]["ContainerArguments"][0] != "history":
                found.append((job["ProcessingEndTime"] - job["ProcessingStartTime"]).total_seconds())
    for page in sagemaker.get_paginator("list_training_jobs").paginate():
        for job in page["TrainingJobSummaries"]:
            job = sagemaker.describe_training_job(TrainingJobName=job["TrainingJobName"])
            if first <= job["CreationTime"].timestamp() <= last:
                found.append((job["TrainingEndTime"] - job["TrainingStartTime"]).total_seconds())
    return found


if __name__ == "__main__":
    main()
