"""A bucket with ingested claims, their features, and a model trained on them by the real jobs: for tests of what comes after training."""

from __future__ import annotations

import csv
import io
import tarfile
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from claims_store import DOMAIN, LAYOUT, land, run
from dataset_parts import write_channels, write_hyperparameters

from include import domains
from include.stores.objects import ObjectStore
from include.stores.partitions import Partitions

FIRST_DAY, TRAINED_UNTIL, LAST_DAY = date(2026, 3, 1), date(2026, 3, 28), date(2026, 4, 6)
AS_OF = "2026-04-20T00:00:00Z"
MODEL_KEY = f"{LAYOUT.models}job/output/model.tar.gz"


def prepare(objects: ObjectStore, folder: Path) -> None:
    """Lands, ingests, computes features, trains in ``folder`` on the days up to TRAINED_UNTIL, and puts the model's archive under MODEL_KEY."""
    from include.jobs import train

    simulator = domains.part(DOMAIN, "simulator")
    simulation = simulator.simulate((LAST_DAY - FIRST_DAY).days + 1, 1300, FIRST_DAY, 5)
    deliveries = simulator.deliveries(simulation, history_until=LAST_DAY, until=LAST_DAY, damaged_share=0.0)
    land(objects, [(file.table, file.day, file.rows) for file in deliveries])
    run("build_features", objects, "--first-day", str(FIRST_DAY), "--last-day", str(LAST_DAY), "--as-of", AS_OF)
    stored = Partitions(objects, LAYOUT.features)
    truth = dict(zip(simulation.labels["policy_id"].astype(str), simulation.labels["label"], strict=True))
    rows = pa.concat_tables(stored.read(day) for day in stored if day <= TRAINED_UNTIL)
    rows = rows.append_column("label", pa.array([int(truth[event]) for event in rows["event_id"].to_pylist()]))
    write_channels(folder, rows.slice(0, 700), rows.slice(700))
    write_hyperparameters(folder, as_of=f"{TRAINED_UNTIL}T00:00:00Z")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAGEMAKER_BASE_DIR", str(folder))
        train.main()
    objects.put(MODEL_KEY, packed(folder / "model"))


def packed(folder: Path) -> bytes:
    """A model's files as model.tar.gz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, arcname=file.name)
    return buffer.getvalue()


def score(objects: ObjectStore, day: date | str, *more: str) -> dict[str, Any]:
    return run("score_batch", objects, "--day", str(day), "--model", objects.uri(MODEL_KEY), "--as-of", AS_OF, *more)


def predictions(objects: ObjectStore, day: date) -> pa.Table:
    rows = Partitions(objects, LAYOUT.batch_predictions).read(day)
    assert rows is not None
    return rows


def queue(objects: ObjectStore, day: date) -> list[dict[str, str]]:
    text = objects.get(LAYOUT.review_queue(day, "queue.csv")).decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))
