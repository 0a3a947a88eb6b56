"""A bucket with ingested automobile claims, and the jobs run on it as SageMaker would: by their command line, in this process."""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterable
from datetime import date, datetime
from importlib import import_module
from typing import Any

import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq

from include import domains
from include.jobs.context import JobContext
from include.jobs.ingest import ingest
from include.stores.layout import Layout
from include.stores.objects import ObjectStore
from include.stores.partitions import Partitions

DOMAIN = "auto_claims"
LAYOUT = Layout(DOMAIN)


def land(
    objects: ObjectStore, files: Iterable[tuple[str, date, pd.DataFrame]], name: str = "file.csv", year: int | None = None
) -> dict[str, Any]:
    """Lands the files (table, delivery day, rows) and ingests them; returns ingest's result."""
    manifest: dict[str, Any] = {"domain": DOMAIN, "year": year, "files": []}
    for table, day, rows in files:
        key = LAYOUT.landing(table, day, name)
        objects.put(key, rows.to_csv(index=False).encode())
        manifest["files"].append({"table": table, "key": key})
    return ingest(domains.get(DOMAIN), objects, manifest, {})


def simulated(days: int, events: int, first_day: date) -> list[tuple[str, date, pd.DataFrame]]:
    simulator = domains.part(DOMAIN, "simulator")
    simulation = simulator.simulate(days, events, first_day, 5)
    last = simulation.last_day
    return [
        (file.table, file.day, file.rows) for file in simulator.deliveries(simulation, history_until=last, until=last, damaged_share=0.0)
    ]


def run(job: str, objects: ObjectStore, *arguments: str) -> dict[str, Any]:
    """The job's result. Exceptions as the job raises them."""
    module = import_module(f"include.jobs.{job}")
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    context = JobContext(domains.get(DOMAIN))
    context.__dict__["objects"] = objects  # what the cached property would make of FRAUD_BUCKET
    result: dict[str, Any] = module.run(parser.parse_args(arguments), context)
    return result


def contents(objects: ObjectStore, prefix: str) -> dict[str, bytes]:
    return {info.key.removeprefix(prefix): objects.get(info.key) for info in objects.list(prefix)}


def copy_known_by(source: ObjectStore, target: ObjectStore, instant: datetime) -> None:
    """The curated store as it was at the instant: every partition without the rows that became available later."""
    for prefix in (LAYOUT.curated("claims"), LAYOUT.curated("customers"), LAYOUT.labels):
        for info in source.list(f"{prefix}/dt="):
            rows = pq.read_table(io.BytesIO(source.get(info.key)))
            known = rows.filter(pc.less_equal(rows["available_at"], instant))
            if len(known):
                Partitions(target, prefix).write(date.fromisoformat(info.key.split("dt=")[1][:10]), known)
