"""Quality on card payments under the protocol of the Fraud Detection Handbook (Le Borgne, Siblini, Lebichot & Bontempi 2022, chapters 4, 5).

A fold tests one week. The model learns from the seven days that end a week before it, because labels come a week late. From a test day d those
cards are removed of which a fraud is known by then: one on the days from the first training day to d - 8 (§5.2, ``get_train_test_set``).
A figure is the mean over the folds. Beside the model of this domain (its ``features.sql``, the parameters and exactly ``num_boost_round``
trees of its ``model.py``):

- ``single_split``: the book's one split alone, training 25 to 31 July and test 8 to 14 August 2018;
- ``published``: the book's XGBoost on its fifteen inputs, as a check of the protocol: 100 trees, eta .1, depth 3 over the folds (published:
  AP .694, CP@100 .304; over other four weeks), and XGBClassifier's defaults on the single split (published: AUC .862, AP .639, CP@100 .273).
  These numbers want the exact method and an intercept of .5, which were XGBoost's defaults then.

The training job stops early and calibrates on validation days after the training part. The protocol has no days for that, so here the number of trees
is fixed and scores are as the booster gives them; the booster is otherwise trained as the job trains it.

``python -m bench.handbook --data FILE [--test-starts 2018-08-08,2018-08-15]`` takes Parquet or CSV with the published columns, in upper or
lower case; TX_FRAUD_SCENARIO is not needed. ``--choose`` compares parameters, lengths of training and features on earlier weeks only, whose last day
lies before the first test week; what it shows decided what stands in ``model.py``. It writes nothing.
"""

# ruff: noqa: S608 -- the statements are put together from paths and from the domain's own names

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd
import xgboost

from bench import reference
from bench.reference import INPUTS
from bench.report import Figure, publish
from include import domains
from include.domains.card_payments.domain import DOMAIN, TRANSACTIONS
from include.domains.card_payments.model import HYPERPARAMETERS
from include.lifecycle.costs import reviewed_for_benefit, savings
from include.lifecycle.features import compute_features, feature_names, open_database
from include.lifecycle.metrics import average_precision, card_precision_at_k, roc_auc

Array = npt.NDArray[Any]

WEEK = timedelta(days=7)
"""Of training, of delay and of test, each."""
CARDS_A_DAY = 100
SINGLE_SPLIT = date(2018, 8, 8)
TEST_STARTS = tuple(SINGLE_SPLIT + week * WEEK for week in range(4))
PUBLISHED = {"objective": "binary:logistic", "tree_method": "exact", "base_score": 0.5}
PUBLISHED_BEST = {**PUBLISHED, "max_depth": 3, "eta": 0.1}
PUBLISHED_DEFAULT = {**PUBLISHED, "max_depth": 6, "eta": 0.3}
PUBLISHED_TREES = 100
GOALS = {"average_precision": 0.70, "roc_auc": 0.87, "card_precision_100": 0.30}
CHOICES: dict[str, dict[str, Any]] = {
    "as in model.py": {},
    "exact": {"tree_method": "exact", "max_bin": None},
    "max_bin 256": {"max_bin": 256},
    "max_bin 4096": {"max_bin": 4096},
    "max_depth 3": {"max_depth": 3},
    "max_depth 5": {"max_depth": 5},
    "eta 0.05": {"eta": 0.05},
    "eta 0.12": {"eta": 0.12},
    "min_child_weight 1": {"min_child_weight": 1},
    "min_child_weight 10": {"min_child_weight": 10},
    "reg_lambda 1": {"reg_lambda": 1},
    "reg_lambda 20": {"reg_lambda": 20},
    "colsample_bytree 0.3": {"colsample_bytree": 0.3},
    "colsample_bytree 0.8": {"colsample_bytree": 0.8},
    "subsample 0.6": {"subsample": 0.6},
    "subsample 1": {"subsample": 1.0},
}
"""What ``--choose`` compares: changes of model.py's parameters, one at a time."""
LEFT_OUT = {
    "without amount features": ("amount_to", "amount_zscore", "largest_", "customer_id_avg_amount_matured", "customer_id_nb_tx_matured"),
    "without terminal runs": ("terminal_id_days_", "terminal_id_matured_", "terminal_id_smallest_"),
}
"""Groups of features, by how their names begin, that ``--choose`` does without."""
EARLIER_WEEKS = 6
TREES = (50, 75, 100, 150, 200)
TRAINING_WEEKS = (2, 3, 4)


class PaymentsError(ValueError):
    """A file of payments cannot be used. The message says what it lacks."""


@dataclass(frozen=True)
class Fold:
    """Positions of the rows that are learned from and of those that are tested, in the table of events."""

    test_start: date
    training: Array
    test: Array


def read_payments(path: Path) -> pd.DataFrame:
    """The columns of the table ``transactions``, in the order of time; ``tx_datetime`` in UTC, without a zone. PaymentsError for a file that
    cannot be read, lacks a column, or has a null, a label other than 0 and 1, or a transaction_id twice."""
    reader = "read_parquet" if path.suffix.lower() in {".parquet", ".pq"} else "read_csv"
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
    types = {"integer": "BIGINT", "float": "DOUBLE", "timestamp": "TIMESTAMP"}
    wanted = {column.name: types[column.type] for column in TRANSACTIONS.columns}
    source = f"{reader}('{str(path).replace(chr(39), chr(39) * 2)}')"
    try:
        there = {name.lower() for name, *_ in connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}
        if missing := [name for name in wanted if name not in there]:
            raise PaymentsError(f"{path} has no column {', '.join(missing)} (in upper or lower case); it has {', '.join(sorted(there))}")
        chosen = ", ".join(f"CAST({name} AS {type_}) AS {name}" for name, type_ in wanted.items())
        payments = connection.execute(f"SELECT {chosen} FROM {source} ORDER BY tx_datetime, transaction_id").df()
    except duckdb.Error as error:
        raise PaymentsError(f"{path} cannot be read as payments: {error}") from error
    if payments.empty:
        raise PaymentsError(f"{path} has no rows")
    if holes := [name for name in payments if payments[name].isna().any()]:
        raise PaymentsError(f"{path} has empty cells in {', '.join(holes)}; the protocol needs every label and every amount")
    if not payments["tx_fraud"].isin((0, 1)).all():
        raise PaymentsError(f"{path}: tx_fraud must be 0 or 1")
    if len(twice := payments.loc[payments["transaction_id"].duplicated(), "transaction_id"]):
        raise PaymentsError(f"{path}: {len(twice)} rows repeat a transaction_id, such as {twice.iloc[0]}")
    return payments


def events_of(payments: pd.DataFrame) -> pd.DataFrame:
    """The features of every payment, with the columns ``label``, ``card`` (text) and ``day`` (its midnight), in the order of time.

    Curated as ingestion would: frauds alone are reported, each when the domain says that a label becomes known."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        connection = open_database(folder)
        connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        connection.register("payments", payments)
        timed = (
            f"SELECT *, ({TRANSACTIONS.available_at})::TIMESTAMPTZ AS available_at, ({DOMAIN.label.available_at})::TIMESTAMPTZ AS known_at"
            f" FROM (SELECT *, ({TRANSACTIONS.event_time})::TIMESTAMP AS event_time FROM payments)"
        )
        delivered = "available_at AS delivered_at, 'file' AS source"
        parts = {
            "transactions": f"SELECT * REPLACE (event_time::TIMESTAMPTZ AS event_time), {delivered} FROM ({timed})",
            "labels": "SELECT CAST(transaction_id AS VARCHAR) AS event_id, tx_fraud AS label, event_time::TIMESTAMPTZ AS event_time,"
            f" known_at AS available_at, known_at AS delivered_at, 'file' AS source FROM ({timed}) WHERE tx_fraud = 1",
        }
        for name, query in parts.items():
            connection.execute(f"COPY ({query}) TO '{folder / name}.parquet' (FORMAT parquet)")
        connection.unregister("payments")
        first, last = (payments["tx_datetime"].iloc[place].date() for place in (0, -1))
        table = compute_features(
            connection,
            DOMAIN,
            domains.features_sql(DOMAIN.name),
            {name: [folder / f"{name}.parquet"] for name in parts},
            datetime(9999, 1, 1, tzinfo=UTC),
            first,
            last,
        )
        connection.close()
    events = table.select(["event_id", "event_time", "amount"]).to_pandas()
    for name in feature_names(DOMAIN, table.column_names):
        events[name] = table[name].to_numpy().astype(np.float32)
    labels = payments.set_index(payments["transaction_id"].astype(str))
    events["label"] = labels["tx_fraud"].reindex(events["event_id"]).to_numpy()
    events["card"] = table["entity_id"].to_pandas().to_numpy()
    events["day"] = table["event_time"].to_numpy().astype("datetime64[D]").astype("datetime64[s]")
    return events


def model_features(events: pd.DataFrame) -> list[str]:
    return feature_names(DOMAIN, [name for name in events.columns if name not in {"label", "card", "day"}])


def check_days(first: date, last: date, test_start: date, training: timedelta = WEEK) -> None:
    """PaymentsError where a file that holds ``first`` to ``last`` lacks a day of the test week or of its training."""
    train_start, test_end = test_start - WEEK - training, test_start + WEEK - timedelta(days=1)
    if train_start < first or test_end > last:
        raise PaymentsError(
            f"the test week from {test_start} on wants payments from {train_start}, the first day of training, to {test_end}; the file holds"
            f" {first} to {last}. (Features look back {DOMAIN.feature_history.days} days more: fewer do, at a loss of quality)"
        )


def split(events: pd.DataFrame, test_start: date, training: timedelta = WEEK) -> Fold:
    """The protocol's fold that tests the week from ``test_start`` on. A longer ``training`` begins earlier; which cards are known to be
    defrauded stays the same, so that folds of one week are comparable. PaymentsError where the file does not hold the days, or no fraud."""
    day = events["day"].to_numpy()
    check_days(events["day"].iloc[0].date(), events["day"].iloc[-1].date(), test_start, training)
    test_day, known_from = np.datetime64(test_start, "D"), np.datetime64(test_start - 2 * WEEK, "D")
    train_end = np.datetime64(test_start - WEEK, "D")
    train_start = train_end - np.timedelta64(training.days, "D")
    fraud = events["label"].to_numpy() == 1
    learned = (day >= train_start) & (day < train_end)
    tested = (day >= test_day) & (day < test_day + 7)
    frauds = fraud & (day >= known_from) & (day < test_day)
    first_fraud = events.loc[frauds].groupby("card")["day"].min()
    first = events.loc[tested, "card"].map(first_fraud).to_numpy().astype("datetime64[D]")
    tested[np.flatnonzero(tested)[first <= day[tested] - np.timedelta64(8, "D")]] = False  # no fraud is NaT, which is never smaller
    for name, rows in (("training", learned), ("test", tested)):
        if not 0 < fraud[rows].sum() < rows.sum():
            raise PaymentsError(f"the week from {test_start} on: the {name} days hold no fraud, or no genuine payment")
    return Fold(test_start, np.flatnonzero(learned), np.flatnonzero(tested))


def fit(events: pd.DataFrame, fold: Fold, features: Sequence[str], parameters: dict[str, Any], trees: int) -> tuple[xgboost.Booster, Array]:
    """The booster of a fold's training rows, and the matrix of its test rows."""
    columns = events[list(features)]
    training = xgboost.DMatrix(columns.iloc[fold.training].to_numpy(), label=events["label"].to_numpy()[fold.training], nthread=1)
    booster = xgboost.train({**parameters, "nthread": 1}, training, trees)
    return booster, columns.iloc[fold.test].to_numpy()


def measures(events: pd.DataFrame, fold: Fold, scores: Array) -> dict[str, float]:
    """Of one fold's test rows: the protocol's three, and what the model saves if every payment is reviewed that is worth it (no capacity)."""
    test = events.iloc[fold.test]
    labels, amounts = test["label"].to_numpy(dtype=float), test["amount"].to_numpy()
    return {
        "average_precision": float(average_precision(labels, scores)),
        "roc_auc": float(roc_auc(labels, scores)),
        "card_precision_100": float(card_precision_at_k(labels, scores, test["day"].to_numpy(), test["card"].to_numpy(), CARDS_A_DAY)),
        "savings": float(savings(labels, amounts, reviewed_for_benefit(scores, amounts, DOMAIN.costs), DOMAIN.costs)),
    }


def own_parameters() -> tuple[dict[str, Any], int]:
    """model.py's parameters as XGBoost takes them, and its number of trees."""
    parameters = {name: value for name, value in HYPERPARAMETERS.items() if name not in {"num_boost_round", "early_stopping_rounds"}}
    return parameters, int(HYPERPARAMETERS["num_boost_round"])


def measure_fold(
    events: pd.DataFrame, fold: Fold, features: Sequence[str], parameters: dict[str, Any], trees: int
) -> dict[str, float]:
    booster, test = fit(events, fold, features, parameters, trees)
    return measures(events, fold, booster.predict(xgboost.DMatrix(test, nthread=1)))


def default_test_starts(first: date, last: date) -> list[date]:
    """The book's four weeks if the file holds them with their training, or else the last four weeks that fit."""
    if first <= TEST_STARTS[0] - 2 * WEEK and TEST_STARTS[-1] + WEEK <= last + timedelta(days=1):
        return list(TEST_STARTS)
    starts = [last + timedelta(days=1) - week * WEEK for week in range(len(TEST_STARTS), 0, -1)]
    fitting = [start for start in starts if start - 2 * WEEK >= first]
    if not fitting:
        raise PaymentsError(f"the file holds {first} to {last}: a test week wants seven days of training and seven of delay before it")
    return fitting


def measure(events: pd.DataFrame, test_starts: Sequence[date]) -> tuple[dict[str, Figure], pd.DataFrame]:
    """Every figure, and the model's measures on each fold, one row a test week."""
    features, (parameters, trees) = model_features(events), own_parameters()
    folds = [split(events, start) for start in test_starts]
    own = pd.DataFrame([measure_fold(events, fold, features, parameters, trees) for fold in folds], index=[fold.test_start for fold in folds])
    published = pd.DataFrame([measure_fold(events, fold, INPUTS, PUBLISHED_BEST, PUBLISHED_TREES) for fold in folds])
    figures = {name: Figure(float(own[name].mean()), *((GOALS[name], True) if name in GOALS else ())) for name in own}
    figures |= {f"{name}_deviation": Figure(float(own[name].std(ddof=1))) for name in own}
    figures |= {f"published.{name}": Figure(float(published[name].mean())) for name in published}
    if SINGLE_SPLIT in test_starts:
        fold = folds[list(test_starts).index(SINGLE_SPLIT)]
        figures |= {f"single_split.{name}": Figure(float(value)) for name, value in own.loc[SINGLE_SPLIT].items()}
        default = measure_fold(events, fold, INPUTS, PUBLISHED_DEFAULT, PUBLISHED_TREES)
        figures |= {f"published.single_split.{name}": Figure(value) for name, value in default.items()}
    return figures, own


def earlier_weeks(first: date, first_test: date) -> list[date]:
    """The last EARLIER_WEEKS test weeks before ``first_test``, of those whose training has all the history that features look back on."""
    starts: list[date] = []
    start = first_test - WEEK
    while start - 2 * WEEK - DOMAIN.feature_history >= first and len(starts) < EARLIER_WEEKS:
        starts.append(start)
        start -= WEEK
    return starts[::-1]


def choose(events: pd.DataFrame, weeks: Sequence[date]) -> Iterator[dict[str, Any]]:
    """The means over ``weeks`` of every choice, for several numbers of trees: the published configuration, features left
    out, the parameters, and longer training where the file reaches back that far."""
    features, (own, _) = model_features(events), own_parameters()
    folds = [split(events, week) for week in weeks]

    def compared(name: str, folds: Sequence[Fold], features: Sequence[str], parameters: dict[str, Any]) -> Iterator[dict[str, Any]]:
        rows = []
        for fold in folds:
            booster, test = fit(events, fold, features, parameters, TREES[-1])
            matrix = xgboost.DMatrix(test, nthread=1)
            for trees in TREES:
                rows.append({"trees": trees, **measures(events, fold, booster.predict(matrix, iteration_range=(0, trees)))})
        for trees, means in pd.DataFrame(rows).groupby("trees").mean().iterrows():
            yield {"choice": name, "trees": trees, **means}

    yield from compared("published: 15 inputs", folds, INPUTS, PUBLISHED_BEST)
    yield from compared("15 inputs", folds, INPUTS, own)
    for name, prefixes in LEFT_OUT.items():
        yield from compared(name, folds, [feature for feature in features if not feature.startswith(prefixes)], own)
    for name, change in CHOICES.items():
        yield from compared(name, folds, features, {key: value for key, value in {**own, **change}.items() if value is not None})
    first = events["day"].iloc[0].date()
    for length in TRAINING_WEEKS:
        if weeks[0] - (1 + length) * WEEK >= first:
            longer = [split(events, week, length * WEEK) for week in weeks]
            yield from compared(f"training of {length} weeks", longer, features, own)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.handbook", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=reference.payments(), help="Parquet or CSV with the published columns")
    parser.add_argument("--test-starts", type=_dates, help="first days of test weeks, separated by commas (default: the book's, or the last four)")
    parser.add_argument("--choose", action="store_true", help="compare choices on the weeks before the first test week; writes nothing")
    options = parser.parse_args()
    if options.data is None:
        parser.error("no payments: give --data, a file with the published columns, or set FRAUD_REFERENCE_DATA")
    if not options.data.is_file():
        parser.error(f"--data {options.data}: no such file")
    try:
        return run(options.data, options.test_starts, options.choose)
    except PaymentsError as error:
        parser.error(str(error))


def run(data: Path, test_starts: Sequence[date] | None, choosing: bool) -> int:
    """0: measured and the goals met, or only chosen; 1: a goal missed."""
    payments = read_payments(data)
    first, last = (payments["tx_datetime"].iloc[place].date() for place in (0, -1))
    starts = sorted(set(test_starts)) if test_starts else default_test_starts(first, last)
    if short := [start for start in starts if start - 2 * WEEK - DOMAIN.feature_history < first]:
        print(
            f"features look back {DOMAIN.feature_history.days} days before the training; for the week(s) from {', '.join(map(str, short))} on the"
            f" file, which begins on {first}, has less"
        )
    if choosing:
        weeks = earlier_weeks(first, starts[0])
        if not weeks:
            raise PaymentsError(f"no week before {starts[0]} has {(2 * WEEK + DOMAIN.feature_history).days} days of history in the file")
        events = events_of(payments)
        print(f"means over the test weeks from {', '.join(map(str, weeks))} on")
        for row in choose(events, weeks):
            print("  ".join(f"{value:>18.4f}" if isinstance(value, float) else f"{value!s:>22}" for value in row.values()), flush=True)
        return 0
    for start in starts:  # before the minutes that features take
        check_days(first, last, start)
    figures, folds = measure(events_of(payments), starts)
    print(folds.rename_axis("test week").round(4).to_string())
    publish("handbook", figures)
    return 1 if any(figure.met is False for figure in figures.values()) else 0


def _dates(text: str) -> list[date]:
    try:
        return [date.fromisoformat(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: dates look like 2018-08-08,2018-08-15") from error


if __name__ == "__main__":
    raise SystemExit(main())
