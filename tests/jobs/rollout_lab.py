"""A rollout's two models on the ingested claims of ``scored_claims``: the champion is the trained model, the challenger answers otherwise."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from capture_files import line, put_file
from claims_store import DOMAIN, LAYOUT, land
from live_endpoint import PACKAGES
from scored_claims import FIRST_DAY, LAST_DAY, MODEL_KEY, packed

from include import domains
from include.jobs import model_archive, model_file
from include.jobs.dataset_file import DatasetFile
from include.lifecycle.calibration import Line
from include.lifecycle.domain import Rollout
from include.lifecycle.experiment import CHALLENGER, CHAMPION, Contender, Experiment
from include.stores.captures import ServedModel, put_served_models
from include.stores.objects import ObjectStore
from include.stores.partitions import Partitions

OPENED = date(2026, 3, 30)
AS_OF = "2026-05-20T00:00:00Z"
"""Every event's label has matured."""
CHALLENGER_KEY = f"{LAYOUT.models}challenger/output/model.tar.gz"
CONFIGURATION = "shadow-1"
MODELS = {CHAMPION: MODEL_KEY, CHALLENGER: CHALLENGER_KEY}
_CLOCK = datetime(2026, 11, 23, 12, tzinfo=UTC)


def copy_of(source: ObjectStore, bucket: str, *, decided: bool = True) -> ObjectStore:
    """``scored_claims`` in a bucket of its own, with all labels decided and landed, or with those that came with the events."""
    client = boto3.client("s3")
    client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    objects = ObjectStore(bucket, client)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda info: objects.put(info.key, source.get(info.key)), source.list("")))
    if not decided:
        return objects
    simulator = domains.part(DOMAIN, "simulator")
    simulation = simulator.simulate((LAST_DAY - FIRST_DAY).days + 1, 1300, FIRST_DAY, 5)  # as in scored_claims
    labels = [file for file in simulator.deliveries(simulation, damaged_share=0.0) if file.table == "labels" and file.day > LAST_DAY]
    land(objects, [("labels", labels[-1].day, pd.concat(file.rows for file in labels))])
    return objects


def put_challenger(objects: ObjectStore, folder: Path, slope: float = 1.3, intercept: float = 0.4, features: tuple[str, ...] = ()) -> None:
    """A model whose log-odds are a line of the champion's. ``features``: its names, where they are others."""
    folder.mkdir(parents=True, exist_ok=True)
    champion = model_archive.open_model(objects, objects.uri(MODEL_KEY), folder / "champion", domains.get(DOMAIN))
    description = replace(champion.description, features=features or champion.features)
    challenger = model_file.Model(model_file.fold_calibration(champion.booster, Line(slope, intercept)), description)
    (folder / "challenger").mkdir()
    model_file.save(challenger, np.zeros((2, len(champion.features)), np.float32), folder / "challenger")
    objects.put(CHALLENGER_KEY, packed(folder / "challenger"))


def experiment(objects: ObjectStore, **changes: Any) -> Experiment:
    contenders = {slot: Contender(PACKAGES[slot], objects.uri(MODELS[slot]), 0.0) for slot in (CHAMPION, CHALLENGER)}
    began = Experiment("exp-1", DOMAIN, "e", **contenders, opened=f"{OPENED}T00:00:00Z", policy=Rollout())
    return began.but(**changes)


def put_experiment(objects: ObjectStore, **changes: Any) -> str:
    return objects.put_json(LAYOUT.experiment("exp-1", "experiment.json"), experiment(objects, **changes).as_json())


def serve_both(objects: ObjectStore, configuration: str = CONFIGURATION) -> None:
    served = {slot: ServedModel(PACKAGES[slot], objects.uri(MODELS[slot])) for slot in (CHAMPION, CHALLENGER)}
    put_served_models(objects, LAYOUT.captured(configuration), served)


@dataclass(frozen=True)
class Truth:
    """The events of the experiment, found without the job under test. ``scores``: slot → scores; shapes (events,)."""

    table: pa.Table
    features: tuple[str, ...]
    matrix: np.ndarray
    scores: dict[str, np.ndarray]
    labels: np.ndarray

    @property
    def ids(self) -> list[str]:
        return list(self.table["event_id"].to_pylist())

    @property
    def amounts(self) -> np.ndarray:
        return np.asarray(self.table["amount"].to_numpy(), np.float64)

    def wants(self, slot: str, threshold: float = 0.0) -> np.ndarray:
        costs = domains.get(DOMAIN).costs
        return np.asarray(self.scores[slot] * costs.missed_share * self.amounts - costs.review > threshold)

    def cost(self, reviewed: np.ndarray) -> np.ndarray:
        costs = domains.get(DOMAIN).costs
        return np.where(reviewed, costs.review, self.labels * costs.missed_share * self.amounts)


def truth(objects: ObjectStore, folder: Path, first: date = OPENED, last: date = LAST_DAY) -> Truth:
    stored = Partitions(objects, LAYOUT.features)
    rows = pa.concat_tables(stored.read(day) for day in stored if first <= day <= last).sort_by("event_time")
    labels = pa.concat_tables(
        table for day in Partitions(objects, LAYOUT.labels) if (table := Partitions(objects, LAYOUT.labels).read(day))
    )
    known = dict(zip(labels["event_id"].cast(pa.string()).to_pylist(), labels["label"].to_pylist(), strict=True))
    models = {
        slot: model_archive.open_model(objects, objects.uri(key), folder / f"t-{slot}", domains.get(DOMAIN)) for slot, key in MODELS.items()
    }
    features = models[CHAMPION].features
    matrix = DatasetFile("features", rows).matrix(features)
    scores = {slot: model.scores(matrix).astype(np.float64) for slot, model in models.items()}
    return Truth(rows, features, matrix, scores, np.array([float(known[event]) for event in rows["event_id"].to_pylist()]))


def capture_all(objects: ObjectStore, found: Truth, configuration: str = CONFIGURATION) -> None:
    """Both slots' answers to every event, as the endpoint would have captured them."""
    serve_both(objects, configuration)
    times = found.table["event_time"].to_pylist()
    for slot in (CHAMPION, CHALLENGER):
        lines = [
            line(
                [None if np.isnan(value) else float(value) for value in row],
                event,
                float(score),
                attributes=f"event_time={moment.isoformat()}",
                asked=moment,
            )
            for row, event, score, moment in zip(found.matrix, found.ids, found.scores[slot], times, strict=True)
        ]
        put_file(objects, lines, variant=slot, configuration=configuration)


def decisions(found: Truth, share: float = 0.3, seed: int = 5, **changes: Any) -> list[dict[str, Any]]:
    """What a gateway would have logged of the events, half a minute apart; whoever was drawn answered."""
    from include.lifecycle.assignment import assign

    rows = []
    for number, (event, moment, entity, amount) in enumerate(
        zip(*(found.table[name].to_pylist() for name in ("event_id", "event_time", "entity_id", "amount")), strict=True)
    ):
        epoch = moment.toordinal()
        slot = assign("exp-1", epoch, entity, {CHAMPION: 1 - share, CHALLENGER: share})
        wanted = bool(found.wants(slot)[number])
        rows.append(
            {
                "inference_id": event,
                "domain": DOMAIN,
                "experiment": "exp-1",
                "step": 3,
                "entity_id": entity,
                "event_time": moment.isoformat(),
                "epoch": epoch,
                "amount": amount,
                "features": [None if np.isnan(value) else float(value) for value in found.matrix[number]],
                "assigned": slot,
                "answered": slot,
                "model_package": PACKAGES[slot],
                "share": share,
                "propensity": share if slot == CHALLENGER else 1 - share,
                "score": float(found.scores[slot][number]),
                "threshold": 0.0,
                "wanted": wanted,
                "random_review": False,
                "reviewed": wanted,
                "review_propensity": 1.0 if wanted else 0.005,
                "override": False,
                "fallback": None,
                "reasons": [],
                "latency_ms": 3.0,
                "decided_at": (_CLOCK + timedelta(seconds=30 * number)).isoformat(),
            }
            | changes
        )
    return rows


def ship(
    objects: ObjectStore, rows: Iterable[dict[str, Any]], name: str = "gateway-1", *, day: date = date(2026, 11, 23), tail: bytes = b""
) -> str:
    body = b"".join(json.dumps(row).encode() + b"\n" for row in rows) + tail
    key = LAYOUT.shipped_decisions(day, f"{name}.jsonl.gz")
    objects.put(key, gzip.compress(body))
    return key


def only(found: Truth, chosen: np.ndarray) -> Truth:
    rows = pa.array(chosen)
    scores = {slot: values[chosen] for slot, values in found.scores.items()}
    return Truth(found.table.filter(pc.fill_null(rows, False)), found.features, found.matrix[chosen], scores, found.labels[chosen])
