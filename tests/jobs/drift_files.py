"""Seeded rows of a small fraud problem as tables, and the standalone commands run on files."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from include.jobs.__main__ import main

COUNTRIES = np.array(["DE", "FR", "ES", "IT", "PL"])


def rows(count: int, seed: int, *, first: date = date(2026, 3, 2), days: int = 28, shift: float = 0.0) -> pa.Table:
    """``amount`` (log-normal, moved by ``shift`` of its standard deviations), ``age`` (whole), ``country``, ``flag``, ``score``, ``label`` (fraud as
    likely as the score says), ``day``."""
    generator = np.random.default_rng(seed)
    risk = generator.normal(size=count)
    score = 1 / (1 + np.exp(2.5 - 1.5 * risk))
    day = np.array([first], "datetime64[D]") + np.sort(generator.integers(0, days, count))
    return pa.table({
        "amount": np.exp(3 + 0.8 * (generator.normal(size=count) + shift)),
        "age": generator.integers(18, 90, count),
        "country": COUNTRIES[generator.choice(5, count, p=[0.4, 0.25, 0.15, 0.15, 0.05])],
        "flag": generator.random(count) < 0.2,
        "score": score,
        "label": (generator.random(count) < score).astype(np.int64),
        "day": pa.array(day.astype(object).tolist(), pa.date32()),
    })  # fmt: skip


def later(count: int, seed: int, *, days: int = 7, shift: float = 0.0) -> pa.Table:
    """The days after those of ``rows``; 2,000 a week are as many a day as 8,000 of it."""
    return rows(count, seed, first=date(2026, 3, 2) + timedelta(days=28), days=days, shift=shift)


def write(table: pa.Table, path: Path) -> Path:
    if path.suffix == ".csv":
        pacsv.write_csv(table, path)
    else:
        pq.write_table(table, path, row_group_size=1500)
    return path


def profile(file: Path, out: Path, *more: str) -> int:
    return main(["profile", str(file), "--out", str(out), *more])


def monitor(baseline: Path, current: Path, out: Path, *more: str) -> int:
    return main(["monitor", "--baseline", str(baseline), "--current", str(current), "--out", str(out), *more])


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return found
