"""Estimated against realised quality over windows whose labels are hidden, beside NannyML's CBPE on the same windows.

``python -m bench.estimated_quality [--no-peers]``. Each case has a model of a domain (its features and the parameters of its ``model.py``,
stopped and calibrated on later validation days as the training job does it), a baseline of still later events, and then windows of 500 to
50,000 events, in the order of time. Both estimators see the baseline's labels and scores, and the windows' scores:

- ``claims`` and ``payments``: the domains' simulators, without a change; ``claims_storm_season`` and ``payments_busy_season``: with a change
  of who comes, not of who commits fraud (covariate shift), from the first window on;
- ``published``: the published card payments, where they are (FRAUD_REFERENCE_DATA), by consecutive folds of time.

``error.*`` is the mean over windows of |estimated - realised|, windows without fraud left out; ``coverage.*`` is how often the realised value
lies in our 95 % interval. ``claims_moved_fraud`` and ``payments_moved_fraud`` are measured as well and stand under ``concept``: fraud moves
among events that stay as they are, which no estimate from scores can see; ``concept.found`` is in how many of their windows of 10,000 events
and more ``concept_drift`` finds that once labels are there, and ``all.found`` in how many of the others.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xgboost

from bench import auto_claims, handbook, peers, reference, simulation
from bench.report import Figure, publish
from include.domains.auto_claims import model as claims_model
from include.domains.auto_claims import simulator as claims
from include.domains.auto_claims.domain import DOMAIN as CLAIMS
from include.domains.card_payments import model as payments_model
from include.domains.card_payments import simulator as payments
from include.domains.card_payments.domain import DOMAIN as PAYMENTS
from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.calibration import platt_scaling_if_better, sigmoid
from include.lifecycle.domain import Domain
from include.lifecycle.estimated_quality import Estimator, concept_drift
from include.lifecycle.evaluation import Economics, Events
from include.lifecycle.features import feature_names
from include.lifecycle.metrics import average_precision, roc_auc
from include.lifecycle.quality_reference import quality_reference

METRICS = {"roc_auc": roc_auc, "average_precision": average_precision}
SIZES = (500, 2_000, 10_000, 50_000)
WINDOWS_OF_A_SIZE = 30
TESTED_FROM = 10_000
SEED = 5
FIRST_DAY = date(2024, 1, 1)

# Claims: so many on so many days; shares of them, in the order of time, to learn from, to calibrate on, and for the baseline.
CLAIM_COUNT, CLAIM_DAYS = 50_000, 1_000
CLAIM_PARTS = (0.25, 0.08, 0.12)
# Payments: population and days; days to learn from, to calibrate on, of the baseline, and of the windows.
POPULATION, RADIUS = (1_500, 3_000, 140), 8.0
PAYMENT_DAYS = ((35, 65), (65, 72), (79, 100), (100, 140))
# Published payments: weeks of a fold's parts; a fold begins so many weeks after the one before.
WEEKS, FOLD_STEP = (3, 1, 1, 2, 5), 3
"""Learning, calibration, delay, baseline, windows."""

NANNYML = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import nannyml, pandas as pd
found = {}
for case in sys.argv[2:]:
    rows = pd.read_parquet(f"{sys.argv[1]}/{case}.parquet")
    estimator = nannyml.CBPE(problem_type="classification_binary", y_true="label", y_pred_proba="score", metrics=["roc_auc", "average_precision"])
    estimator.fit(rows[rows["window"] == -1])
    found[case] = []
    for number, window in rows[rows["window"] >= 0].groupby("window"):
        one = nannyml.chunk.CountBasedChunker(1)
        estimator.chunker = one
        for metric in estimator.metrics:
            metric.chunker = one
        result = estimator.estimate(window.drop(columns=["label", "window"]).reset_index(drop=True)).to_df()
        result = result[result[("chunk", "period")] == "analysis"]
        found[case].append({metric: float(result[(metric, "value")].iloc[0]) for metric in ("roc_auc", "average_precision")})
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Case:
    """``rows``: label, score, amount, day, group, in the order of time, of the baseline and, after it, of the windows."""

    name: str
    domain: Domain
    rows: pd.DataFrame
    baseline: int

    def windows(self) -> Iterator[tuple[int, slice]]:
        """Size, and where it lies: consecutive ones, spread over all that comes after the baseline where there are more than are wanted."""
        later = len(self.rows) - self.baseline
        for size in SIZES:
            count = min(later // size, WINDOWS_OF_A_SIZE)
            for start in np.linspace(0, later - size, count).astype(int) if count else ():
                yield size, slice(self.baseline + int(start), self.baseline + int(start) + size)


def scored(rows: pd.DataFrame, names: list[str], learned: npt.NDArray[Any], validated: npt.NDArray[Any], parameters: dict[str, Any]) -> FloatArray:
    """Scores of all rows by a model of the learned ones, stopped and calibrated on the validated ones as the training job does it. Boolean
    masks of shape (rows,)."""
    fixed = {name: value for name, value in parameters.items() if name not in {"num_boost_round", "early_stopping_rounds"}}
    labels = rows["label"].to_numpy(float)
    training, validation = (
        xgboost.DMatrix(rows.loc[part, names].to_numpy(np.float32), label=labels[part], nthread=1) for part in (learned, validated)
    )
    booster = xgboost.train(
        fixed | {"nthread": 1}, training, int(parameters["num_boost_round"]),
        evals=[(validation, "validation")], early_stopping_rounds=int(parameters["early_stopping_rounds"]), verbose_eval=False,
    )  # fmt: skip
    every = xgboost.DMatrix(rows[names].to_numpy(np.float32), nthread=1)
    margins = booster.predict(every, output_margin=True, iteration_range=(0, booster.best_iteration + 1)).astype(float)
    line = platt_scaling_if_better(labels[validated], margins[validated])
    return sigmoid(line(margins) if line else margins)


def claims_case(change: str | None) -> Case:
    parts = np.cumsum([int(share * CLAIM_COUNT) for share in CLAIM_PARTS])
    from_day = FIRST_DAY + timedelta(days=int(CLAIM_DAYS * sum(CLAIM_PARTS)))
    found = claims.simulate(CLAIM_DAYS, CLAIM_COUNT, FIRST_DAY, SEED, change, from_day if change else None)
    with tempfile.TemporaryDirectory() as scratch:
        for name, table in (("claims", found.claims), ("customers", found.customers)):
            table.to_csv(Path(scratch) / f"{name}.csv", index=False)
        rows = auto_claims.reference_features(Path(scratch), year=FIRST_DAY.year)
    names = feature_names(CLAIMS, [name for name in rows.columns if name != "label"] + ["event_id"])
    rows["day"] = found.event_times.dt.tz_localize(None).to_numpy().astype("datetime64[D]")[rows.index - 1]
    place = np.arange(len(rows))
    rows["score"] = scored(rows, names, place < parts[0], (place >= parts[0]) & (place < parts[1]), claims_model.HYPERPARAMETERS)
    return _case(f"claims_{change}" if change else "claims", CLAIMS, rows.iloc[parts[1] :], int(parts[2] - parts[1]))


def payments_case(change: str | None) -> Case:
    learning, calibration, baseline, windows = PAYMENT_DAYS
    from_day = FIRST_DAY + timedelta(days=windows[0])
    found = payments.simulate_population(*POPULATION, FIRST_DAY, SEED, change, from_day if change else None, radius=RADIUS)
    rows = simulation.payment_features(found, FIRST_DAY + timedelta(days=learning[0]))
    names = feature_names(PAYMENTS, [name for name in rows.columns if name not in {"label", "scenario"}])
    rows["day"] = rows["event_time"].dt.tz_localize(None).to_numpy().astype("datetime64[D]")
    rows = rows.sort_values(["event_time", "event_id"], ignore_index=True)
    day = (rows["day"] - pd.Timestamp(FIRST_DAY)).dt.days.to_numpy()
    learned, validated = ((day >= first) & (day < end) for first, end in (learning, calibration))
    rows["score"] = scored(rows, names, learned, validated, payments_model.HYPERPARAMETERS)
    name = f"payments_{change}" if change else "payments"
    return _case(name, PAYMENTS, rows[day >= baseline[0]], int(((day >= baseline[0]) & (day < baseline[1])).sum()))


def published_cases(data: Path) -> Iterator[Case]:
    events = handbook.events_of(handbook.read_payments(data)).rename(columns={"card": "group_id"})
    names = handbook.model_features(events.rename(columns={"group_id": "card"}))
    week = ((events["day"] - events["day"].min()).dt.days // 7).to_numpy()
    ends = np.cumsum(WEEKS)
    for number, first in enumerate(range(4, int(week.max()) + 2 - int(ends[-1]), FOLD_STEP)):
        part = np.searchsorted(ends, week - first, side="right")
        part[week < first] = len(WEEKS)
        rows = events[part < len(WEEKS)].copy()
        part = part[part < len(WEEKS)]
        rows["score"] = scored(rows, names, part == 0, part == 1, payments_model.HYPERPARAMETERS)
        yield _case(f"published_{number}", PAYMENTS, rows[part >= 3], int((part == 3).sum()))


def _case(name: str, domain: Domain, rows: pd.DataFrame, baseline: int) -> Case:
    kept = rows[["label", "score", "amount", "day", "group_id"]].rename(columns={"group_id": "group"}).reset_index(drop=True)
    return Case(name, domain, kept, baseline)


def _events(rows: pd.DataFrame, labels: FloatArray) -> Events:
    groups = rows["group"].to_numpy(str)
    return Events(labels, rows["amount"].to_numpy(float), rows["day"].to_numpy().astype("datetime64[D]"), groups, groups)


def ours(case: Case) -> list[dict[str, float]]:
    """A row a window: its size, and of each metric what is realised, estimated, and whether the former lies in the interval."""
    economics = Economics(case.domain.costs, case.domain.review)
    baseline = case.rows.iloc[: case.baseline]
    document = quality_reference(_events(baseline, baseline["label"].to_numpy(float)), baseline["score"].to_numpy(float), economics)
    estimator = Estimator.of(document, 0.95)
    if estimator is None:
        raise RuntimeError(f"{case.name}: the baseline has too little fraud")
    found = []
    for size, place in case.windows():
        rows = case.rows.iloc[place]
        labels, scores = rows["label"].to_numpy(float), rows["score"].to_numpy(float)
        window = estimator.window(_events(rows, np.zeros(size)), scores, economics, np.ones(size, bool))
        row: dict[str, float] = {"size": size, "frauds": labels.sum(), "found": np.nan}
        if size >= TESTED_FROM:
            section = concept_drift(document, _events(rows, labels), scores, economics, case.domain.monitoring)
            row["found"] = any(metric["drifted"] for metric in section["metrics"].values())
        for name, metric in METRICS.items():
            interval = window.interval(name)
            row |= {f"realised.{name}": float(metric(labels, scores)), f"ours.{name}": interval.value}
            row[f"covered.{name}"] = interval.low <= row[f"realised.{name}"] <= interval.high
        found.append(row)
    return found


def nannyml(cases: list[Case]) -> dict[str, list[dict[str, float]]]:
    with tempfile.TemporaryDirectory() as scratch:
        for case in cases:
            parts = [(-1, slice(0, case.baseline)), *((number, place) for number, (_, place) in enumerate(case.windows()))]
            frames = [case.rows.iloc[place][["label", "score"]].assign(window=number) for number, place in parts]
            pd.concat(frames, ignore_index=True).to_parquet(Path(scratch) / f"{case.name}.parquet")
        found: dict[str, list[dict[str, float]]] = peers.ask("nannyml", NANNYML, [scratch, *(case.name for case in cases)])
    return found


def measured(cases: list[Case], with_peers: bool) -> pd.DataFrame:
    """A row a window, of all cases; windows without fraud are left out."""
    theirs = nannyml(cases) if with_peers else {}
    frames = []
    for case in cases:
        frame = pd.DataFrame(ours(case))
        for name in METRICS:
            frame[f"nannyml.{name}"] = [window[name] for window in theirs[case.name]] if with_peers else np.nan
        frames.append(frame.assign(case=case.name))
    windows = pd.concat(frames, ignore_index=True)
    return windows[windows["frauds"] > 0]


def figures(windows: pd.DataFrame) -> dict[str, Figure]:
    """Errors by kind of case, by size, and over all; ours may be no larger than NannyML's over all windows but those of ``concept``."""
    kind = windows["case"].str.replace(r"_\d+$", "", regex=True)
    concept = kind.str.endswith("moved_fraud")
    groups = {"all": ~concept, "concept": concept}
    groups |= {name: kind == name for name in kind[~concept].unique()}
    groups |= {f"windows_of_{size}": ~concept & (windows["size"] == size) for size in SIZES}
    found: dict[str, Figure] = {}
    for group, rows in groups.items():
        chosen = windows[rows]
        if not len(chosen):
            continue
        found[f"{group}.windows"] = Figure(len(chosen))
        if group in ("all", "concept"):
            found[f"{group}.found"] = Figure(float(chosen["found"].astype(float).mean()))
        for name in METRICS:
            error, peer = ((chosen[f"{who}.{name}"] - chosen[f"realised.{name}"]).abs().mean() for who in ("ours", "nannyml"))
            goal = (float(peer), False) if group == "all" and not np.isnan(peer) else (None, None)
            found[f"{group}.error.{name}"] = Figure(float(error), *goal)
            if not np.isnan(peer):
                found[f"{group}.error_nannyml.{name}"] = Figure(float(peer))
            found[f"{group}.coverage.{name}"] = Figure(float(chosen[f"covered.{name}"].mean()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=reference.payments(), help="the published payments, a Parquet file")
    parser.add_argument("--no-peers", action="store_true", help="without NannyML")
    options = parser.parse_args()
    cases = [claims_case(change) for change in (None, "storm_season", "moved_fraud")]
    cases += [payments_case(change) for change in (None, "busy_season", "moved_fraud")]
    cases += list(published_cases(options.data)) if options.data else []
    publish("estimated_quality", figures(measured(cases, not options.no_peers)))


if __name__ == "__main__":
    main()
