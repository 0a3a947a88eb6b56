"""Data sets in the documented shape, with a known relation between features and label: for tests of training, evaluation and serving."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

FIRST_DAY = np.datetime64("2026-01-01")


def events(rows: int, seed: int, features: int = 8, days: int = 20, first_day: np.datetime64 = FIRST_DAY) -> pa.Table:
    """Rows ordered by time. Fraud (about 7 %) depends on the first three features; a tenth of the cells is missing."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(rows, features))
    odds = -3.6 + 1.6 * values[:, 0] - 1.0 * values[:, 1] + 1.2 * (values[:, 2] > 0.5)
    label = (generator.random(rows) < 1 / (1 + np.exp(-odds))).astype(np.int64)
    values[generator.random(values.shape) < 0.1] = np.nan
    seconds = np.sort(generator.integers(0, days * 86_400, rows))
    columns: dict[str, object] = {
        "event_id": [f"E{seed}-{row}" for row in range(rows)],
        "event_time": pa.array((first_day.astype("datetime64[s]") + seconds).astype("datetime64[us]"), pa.timestamp("us", "UTC")),
        "entity_id": [f"P{row % (rows // 2)}" for row in range(rows)],
        "group_id": [f"P{row % (rows // 2)}" for row in range(rows)],
        "amount": np.round(generator.gamma(2.0, 4_000.0, rows), 2),
        "facet_gender": generator.choice(["Female", "Male", "Other"], rows, p=[0.45, 0.5, 0.05]),
        "facet_age_band": pa.array(np.where(generator.random(rows) < 0.02, None, generator.choice(["18-30", "31-60"], rows)), pa.string()),
    }
    columns |= {f"feature_{number}": pa.array(values[:, number], from_pandas=True) for number in range(features)}
    return pa.table(columns | {"label": label})


def without(table: pa.Table, *columns: str) -> pa.Table:
    return table.drop_columns(list(columns))


def write_channels(root: Path, training: pa.Table, validation: pa.Table) -> None:
    for name, table in (("train", training), ("validation", validation)):
        folder = root / "input" / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / f"{name}.parquet")


def write_hyperparameters(root: Path, **changes: object) -> None:
    """As SageMaker hands them over: every value a string. A change to None takes one away."""
    values: dict[str, object] = {
        "domain": "auto_claims", "as_of": "2026-03-01T00:00:00Z", "num_boost_round": 200, "early_stopping_rounds": 15, "seed": 7,
        "objective": "binary:logistic", "eval_metric": "aucpr", "max_depth": 3, "eta": 0.15, "subsample": 0.8, "tree_method": "hist",
    }  # fmt: skip
    folder = root / "input" / "config"
    folder.mkdir(parents=True, exist_ok=True)
    strings = {name: str(value) for name, value in (values | changes).items() if value is not None}
    (folder / "hyperparameters.json").write_text(json.dumps(strings))


def train_in(root: Path, rows: int = 2_400, features: int = 8, seed: int = 1, **hyperparameters: object) -> Path:
    """Runs the real training job in ``root`` (as /opt/ml), on days before FIRST_DAY + 40, and returns the model's folder."""
    from include.jobs import train

    write_channels(root, events(rows, seed, features), events(rows // 2, seed + 1, features, first_day=FIRST_DAY + 20))
    write_hyperparameters(root, **hyperparameters)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAGEMAKER_BASE_DIR", str(root))
        train.main()
    return root / "model"
