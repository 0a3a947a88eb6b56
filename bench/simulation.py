"""How fast card payments are simulated, in how much memory, and how near they are to the published ones.

``python -m bench.simulation``: the published size (5,000 customers, 10,000 terminals, 183 days: 1.75 million payments) and 10 million
payments, the most on one machine that the project promises; each in a process of its own, so that its peak memory is its own: payments,
truth, labels and the frames of the landing files. The published generator takes 145 s for the former (70 s for the payments, 75 s for the
fraud), by its authors' account.

Where the published payments are (``--data FILE``, or card_payments in the folder that FRAUD_REFERENCE_DATA names), their shares are compared
with those of simulations of as many days: the mean over seeds, as a ratio to the published value.

``--changes``, in its place: what each planted change does to a model that was trained before it, and what a model trained after it reaches on
the same later payments. Features are the domain's; the number of rounds is fixed, no card is left out, nothing is chosen.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import xgboost

from bench import reference
from bench.report import Figure, publish
from include import domains
from include.domains.card_payments import fraud
from include.domains.card_payments.domain import DOMAIN
from include.domains.card_payments.model import HYPERPARAMETERS
from include.domains.card_payments.simulator import CHANGES, Simulation, deliveries, simulate_population
from include.lifecycle.features import compute_features, feature_names, open_database
from include.lifecycle.metrics import average_precision
from include.settings import ROOT

FIRST_DAY = date(2018, 4, 1)
SIZES = {"1_75m": (5_000, 10_000, 183), "10m": (28_600, 57_200, 183)}
"""Customers, terminals, days."""
SEEDS = range(5)

# Of --changes: days are counted from the first one; models learn from whole days, those of labels that are known.
CHANGE_SIZE, CHANGE_RADIUS, CHANGE_SEED = (2_000, 4_000, 160), 8.0, 21
CHANGE_AT = 100
OLD_DAYS, NEW_DAYS, TEST_FROM = (51, 93), (100, 125), 132
CHANGE_ROUNDS = 100
REVIEWED_A_DAY = 40


def measure(customers: int, terminals: int, days: int) -> dict[str, float]:
    """Seconds of simulation and of landing frames, rows, and the peak memory of this process in GB."""
    started = time.perf_counter()
    simulation = simulate_population(customers, terminals, days, FIRST_DAY, seed=1)
    simulated = time.perf_counter()
    landed = sum(len(file.rows) for file in deliveries(simulation, simulation.last_day) if file.table == "transactions")
    assert landed == len(simulation.transactions)
    return {
        "seconds": simulated - started,
        "landing_seconds": time.perf_counter() - simulated,
        "rows": landed,
        "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _speed() -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for name, size in SIZES.items():
        command = [sys.executable, "-m", "bench.simulation", "--measure", *map(str, size)]
        found = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
        figures[f"rows_{name}"] = Figure(found["rows"])
        figures[f"seconds_{name}"] = Figure(found["seconds"], *((120.0, False) if name == "10m" else (None, None)))
        figures[f"landing_seconds_{name}"] = Figure(found["landing_seconds"])
        figures[f"peak_gb_{name}"] = Figure(found["gb"], *((4.0, False) if name == "10m" else (None, None)))
    return figures


def shares(transactions: pd.DataFrame, scenario: npt.NDArray[np.int8]) -> dict[str, float]:
    """What is compared: payments, shares of fraud and of its scenarios, frauds and defrauded cards a day once all windows are full."""
    times = transactions["tx_datetime"]
    day = times.dt.normalize()
    settled = (transactions["tx_fraud"] == 1) & (day >= day.min() + pd.Timedelta(days=28))
    frauds = transactions[settled].groupby(day[settled])
    return {
        "payments": len(transactions),
        "fraud_share": transactions["tx_fraud"].mean(),
        **{f"scenario_{number}_share": (scenario == number).mean() for number in (1, 2, 3)},
        "over_220_share": (transactions["tx_amount"] > 220).mean(),
        "mean_amount": transactions["tx_amount"].mean(),
        "night_share": (times.dt.hour <= 6).mean(),
        "frauds_a_day": frauds.size().mean(),
        "cards_a_day": frauds["customer_id"].nunique().mean(),
    }


def _likeness(data: Path) -> dict[str, Figure]:
    published = pd.read_parquet(data).rename(columns=str.lower)
    theirs = shares(published, published["tx_fraud_scenario"].to_numpy())
    days = (published["tx_datetime"].max().date() - FIRST_DAY).days + 1
    ours = [shares(found.transactions, found.scenario) for found in _simulations(days)]
    figures = {}
    for name, value in theirs.items():
        values = [each[name] for each in ours]
        print(f"{name:18} published {value:12.6g}   simulated {statistics.mean(values):12.6g} ± {statistics.stdev(values):.2g}")
        figures[f"{name}_ratio"] = Figure(statistics.mean(values) / value)
    return figures


def _simulations(days: int) -> Iterable[Simulation]:
    for seed in SEEDS:
        yield simulate_population(*SIZES["1_75m"][:2], days, FIRST_DAY, seed)


def payment_features(simulation: Simulation, first_day: date) -> pd.DataFrame:
    """The domain's features of the payments from ``first_day`` on, each as of its payment, with ``label`` and ``scenario``."""
    transactions, origin = simulation.transactions, pd.Timestamp(0, tz="UTC")
    paid_at = transactions["tx_datetime"].iloc[simulation.labels["transaction_id"] - 1].reset_index(drop=True)
    known_at = simulation.labels["decided_at"]
    frames = {
        "transactions": transactions.assign(
            tx_fraud=pd.array([None] * len(transactions), "Int64"), event_time=transactions["tx_datetime"], available_at=transactions["tx_datetime"]
        ),
        "labels": pd.DataFrame({
            "event_id": simulation.labels["transaction_id"].astype(str), "label": 1, "event_time": paid_at, "available_at": known_at,
        }),
        "customers": simulation.customers.assign(event_time=origin, available_at=origin),
        "terminals": simulation.terminals.assign(event_time=origin, available_at=origin),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, open_database(Path(folder)) as connection:
        files = {table: [Path(folder) / f"{table}.parquet"] for table in frames}
        for table, frame in frames.items():
            frame.assign(delivered_at=frame["available_at"], source=table).to_parquet(files[table][0], index=False, coerce_timestamps="us")
        as_of = datetime.combine(simulation.last_day + DOMAIN.label.maturity, datetime.min.time(), tzinfo=UTC)
        sql = domains.features_sql(DOMAIN.name)
        found: pd.DataFrame = compute_features(connection, DOMAIN, sql, files, as_of, first_day, simulation.last_day).to_pandas()
    row = found["event_id"].astype(int).to_numpy() - 1
    return found.assign(label=transactions["tx_fraud"].to_numpy()[row], scenario=simulation.scenario[row])


def _change(name: str) -> dict[str, float]:
    """Fraud's share of the last days' payments; average precision and recall of the most suspicious each day there, of the model trained
    before the change day (``old``) and of the one trained after it (``new``)."""
    change, change_day = (None, None) if name == "none" else (name, FIRST_DAY + timedelta(days=CHANGE_AT))
    simulation = simulate_population(*CHANGE_SIZE, FIRST_DAY, CHANGE_SEED, change, change_day, radius=CHANGE_RADIUS)
    features = payment_features(simulation, FIRST_DAY + timedelta(days=OLD_DAYS[0]))
    day = ((features["event_time"] - pd.Timestamp(FIRST_DAY, tz="UTC")) // pd.Timedelta(days=1)).to_numpy()
    names = feature_names(DOMAIN, [column for column in features.columns if column not in {"label", "scenario"}])
    label, tested = features["label"].to_numpy(), day >= TEST_FROM
    parameters = {key: value for key, value in HYPERPARAMETERS.items() if key not in {"num_boost_round", "early_stopping_rounds"}}
    figures = {"fraud_share": label[tested].mean()}
    for model, (first, end) in (("old", OLD_DAYS), ("new", NEW_DAYS)):
        learned = (day >= first) & (day < end)
        booster = xgboost.train(parameters, xgboost.DMatrix(features.loc[learned, names], label[learned]), CHANGE_ROUNDS)
        scores = booster.predict(xgboost.DMatrix(features.loc[tested, names]))
        reviewed = pd.Series(scores).groupby(day[tested]).rank(ascending=False, method="first") <= REVIEWED_A_DAY
        figures[f"average_precision_{model}"] = float(average_precision(label[tested], scores.astype(float)))
        figures[f"recall_{model}"] = label[tested][reviewed].sum() / label[tested].sum()
        newest = features["scenario"].to_numpy()[tested] > fraud.COMPROMISED_CUSTOMER
        if newest.any():
            figures[f"recall_of_new_scenario_{model}"] = reviewed[newest].mean()
    return figures


def _changes() -> None:
    found = {}
    for name in ("none", *CHANGES):
        found[name] = _change(name)
        print(f"{name:18} " + "  ".join(f"{figure} {value:.3f}" for figure, value in found[name].items()), flush=True)
    usual = found["none"]["average_precision_old"]
    goals = {"moved_fraud": (0.75, False), "distant_terminals": (0.75, False), "busy_season": (0.9, True)}
    figures = {f"{name}_{figure}": Figure(value) for name, values in found.items() for figure, value in values.items()}
    kept = {
        f"{name}_kept_of_average_precision": Figure(found[name]["average_precision_old"] / usual, *goals.get(name, (None, None)))
        for name in CHANGES
    }
    publish("simulation_changes", figures | kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=reference.payments(), help="the published payments, a Parquet file")
    parser.add_argument(
        "--measure", nargs=3, type=int, metavar=("CUSTOMERS", "TERMINALS", "DAYS"), help="one size, in this process; prints JSON"
    )
    parser.add_argument("--changes", action="store_true", help="what the planted changes do to a model, in place of speed and likeness")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    if options.changes:
        _changes()
        return
    if options.data is None:
        print("no published payments to compare with: give --data")
    publish("simulation", {**_speed(), **(_likeness(options.data) if options.data else {})})


if __name__ == "__main__":
    main()
