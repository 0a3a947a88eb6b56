"""The training job: channels ``train`` and ``validation`` in, a calibrated XGBoost model out (see ``include.jobs.model_file``).

Hyperparameters: ``domain``, ``as_of``, ``num_boost_round``, ``early_stopping_rounds``, ``seed``, and XGBoost's own for a gbtree with
objective binary:logistic. The best iteration on the validation channel is kept (by ``eval_metric``, average precision unless told
otherwise), and its margin calibrated there (Platt scaling), at the natural share of fraud, whatever weights the training used.

It prints ``name=value;`` for each metric: ``.*validation-average_precision=(\\S+);`` is the regex of a SageMaker metric definition.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from include.jobs import model_file
from include.jobs.context import JobError, context_for, ml_directory
from include.jobs.dataset_file import DatasetFile
from include.lifecycle.calibration import log_loss, platt_scaling_if_better
from include.lifecycle.metrics import average_precision, roc_auc
from include.lifecycle.processors import usable_processors

OBJECTIVE = "binary:logistic"
XGBOOST_PARAMETERS = frozenset({
    "objective", "eval_metric", "base_score", "scale_pos_weight",
    "tree_method", "grow_policy", "max_depth", "max_leaves", "max_bin", "num_parallel_tree", "refresh_leaf", "max_cached_hist_node",
    "eta", "learning_rate", "gamma", "min_split_loss", "min_child_weight", "max_delta_step", "lambda", "reg_lambda", "alpha", "reg_alpha",
    "subsample", "sampling_method", "colsample_bytree", "colsample_bylevel", "colsample_bynode",
    "monotone_constraints", "interaction_constraints",
})  # fmt: skip
_OF_SAGEMAKER = ("sagemaker_", "_tuning_objective_metric")
_SMOKE_ROWS = 8
_CELLS_A_THREAD = 1_000_000


@dataclass(frozen=True)
class Hyperparameters:
    domain: str
    as_of: str
    num_boost_round: int
    early_stopping_rounds: int
    seed: int
    xgboost: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Hyperparameters:
        """SageMaker hands every value over as a string, the Python SDK as JSON in a string: both are understood. JobError for an unknown
        name, for one that is missing, and for a value that is no integer where one belongs."""
        try:
            given = {name: _value(text) for name, text in json.loads(path.read_text(encoding="utf-8")).items()}
        except FileNotFoundError as error:
            raise JobError(f"no hyperparameters at {path}: is this a training job?") from error
        given = {name: value for name, value in given.items() if not name.startswith(_OF_SAGEMAKER)}
        own = [name for name in cls.__dataclass_fields__ if name != "xgboost"]
        if missing := [name for name in own if name not in given]:
            raise JobError(f"hyperparameters lack {', '.join(missing)}")
        parameters = {name: value for name, value in given.items() if name not in own}
        if unknown := sorted(set(parameters) - XGBOOST_PARAMETERS):
            raise JobError(f"unknown hyperparameters {', '.join(unknown)}; known: {', '.join([*own, *sorted(XGBOOST_PARAMETERS)])}")
        if parameters.setdefault("objective", OBJECTIVE) != OBJECTIVE:
            raise JobError(f"objective {parameters['objective']!r}: the scores must be probabilities of fraud, which {OBJECTIVE} gives")
        parameters.setdefault("eval_metric", "aucpr")
        whole = {name: _whole(name, given[name], minimum) for name, minimum in _WHOLE_NUMBERS.items()}
        context_for(str(given["domain"]))
        return cls(domain=str(given["domain"]), as_of=str(given["as_of"]), xgboost=parameters, **whole)


_WHOLE_NUMBERS = {"num_boost_round": 1, "early_stopping_rounds": 1, "seed": 0}


@dataclass(frozen=True)
class Trained:
    model: model_file.Model
    metrics: dict[str, float]


def train(hyperparameters: Hyperparameters, training: DatasetFile, validation: DatasetFile, threads: int) -> Trained:
    """Fits, stops early, calibrates. The same data and seed give the same model. JobError where the channels do not fit together or XGBoost
    refuses a value."""
    _check_same_features(training, validation)
    features = training.features
    matrices = {
        name: xgboost.DMatrix(data.matrix(features), label=data.labels, feature_names=list(features), nthread=threads)
        for name, data in (("train", training), ("validation", validation))
    }
    parameters = {**hyperparameters.xgboost, "seed": hyperparameters.seed, "nthread": threads}
    try:
        booster = xgboost.train(
            parameters,
            matrices["train"],
            num_boost_round=hyperparameters.num_boost_round,
            evals=[(matrices["validation"], "validation")],
            early_stopping_rounds=hyperparameters.early_stopping_rounds,
            verbose_eval=False,
        )
    except (xgboost.core.XGBoostError, ValueError) as error:
        raise JobError(f"XGBoost refuses to train: {_first_line(error)}") from error
    trees = booster.best_iteration + 1
    best = booster[:trees]
    line = platt_scaling_if_better(validation.labels, best.predict(matrices["validation"], output_margin=True))
    if line is not None:
        best = model_file.fold_calibration(best, line)
    best.set_param({"nthread": threads})
    metrics: dict[str, float] = {}
    for name, data in (("train", training), ("validation", validation)):
        scores = best.predict(matrices[name])
        metrics[f"{name}-average_precision"] = float(average_precision(data.labels, scores))
        metrics[f"{name}-roc_auc"] = float(roc_auc(data.labels, scores))
        metrics[f"{name}-log_loss"] = float(log_loss(data.labels, scores))
    metrics["best_iteration"] = float(booster.best_iteration)
    description = model_file.ModelDescription(
        features=features,
        domain=hyperparameters.domain,
        as_of=hyperparameters.as_of,
        hyperparameters={
            **hyperparameters.xgboost,
            **{name: getattr(hyperparameters, name) for name in _WHOLE_NUMBERS},
        },
        trees=trees,
        calibration=None if line is None else {"slope": line.slope, "intercept": line.intercept},
        training={"train": training.summary(), "validation": validation.summary()},
        metrics=metrics,
        versions={"python": platform.python_version(), "xgboost": xgboost.__version__, "numpy": np.__version__},
    )
    return Trained(model_file.Model(best, description), metrics)


def main() -> None:
    """Runs in ``/opt/ml``. What goes wrong because of the input is a JobError, which the dispatcher leaves in ``output/failure``."""
    root = ml_directory()
    hyperparameters = Hyperparameters.read(root / "input" / "config" / "hyperparameters.json")
    channels = {name: _channel(root / "input" / "data" / name) for name in ("train", "validation")}
    training = channels["train"]
    trained = train(hyperparameters, training, channels["validation"], useful_threads(training.rows * len(training.features)))
    smoke_rows = _smoke_rows(channels["validation"], trained.model)
    target = root / "model"
    target.mkdir(parents=True, exist_ok=True)
    model_file.save(trained.model, smoke_rows, target)
    for name, value in trained.metrics.items():
        print(f"{name}={value:.6g};", flush=True)


def useful_threads(cells: int) -> int:
    """As many threads as there are processors for this process, but one for each million cells of training data at most: with fewer, OpenMP's
    threads wait for each other longer than they work, and spin while they wait (13,000 x 40 beside other processes on two processors:
    1.7 s with one thread, 18 s with two). The number does not change the model."""
    return max(1, min(usable_processors(), cells // _CELLS_A_THREAD))


def _channel(folder: Path) -> DatasetFile:
    files = sorted(folder.glob("**/*.parquet"))
    if len(files) != 1:
        found = ", ".join(path.name for path in files) or "none"
        raise JobError(f"channel {folder.name!r} ({folder}) must hold exactly one Parquet file; found {found}")
    return DatasetFile.read(files[0], f"channel {folder.name!r}")


def _check_same_features(training: DatasetFile, validation: DatasetFile) -> None:
    if training.features == validation.features:
        return
    lost = [name for name in training.features if name not in validation.features]
    new = [name for name in validation.features if name not in training.features]
    difference = "; ".join(f"{text} {', '.join(names)}" for text, names in (("lacks", lost), ("adds", new)) if names)
    raise JobError(
        f"{validation.source} has not the features of {training.source}: it {difference or 'has them in another order'}. "
        "Both must come from one data set"
    )


def _smoke_rows(data: DatasetFile, model: model_file.Model) -> NDArray[np.float32]:
    """Rows spread over the range of the scores, lowest and highest among them."""
    rows = data.matrix(model.features)
    order = np.argsort(model.scores(rows), kind="stable")
    return rows[order[np.linspace(0, len(order) - 1, min(_SMOKE_ROWS, len(order))).astype(int)]]


def _value(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text


def _whole(name: str, value: Any, minimum: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise JobError(f"hyperparameter {name}: {value!r} is not a whole number of at least {minimum}")
    return value


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
