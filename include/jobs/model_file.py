"""A model as files, the content of ``model.tar.gz``: written by the training job, read by the evaluation and the endpoint.

::

    xgboost-model      the booster, UBJSON. Its predictions are the calibrated probabilities: AWS's own XGBoost container can serve it
    model.json         ModelDescription: the features in order, domain, as-of, versions, how it was trained
    smoke_test.json    {"rows": [[…]], "scores": […]}: a few rows (null: missing) and what the model must answer to them

Nothing is pickled. The imports are few, because an endpoint's start waits for them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from include.jobs.context import JobError
from include.lifecycle.calibration import Line, log_odds, sigmoid

BOOSTER_FILE = "xgboost-model"
DESCRIPTION_FILE = "model.json"
SMOKE_TEST_FILE = "smoke_test.json"
FORMAT = 1
SMOKE_TEST_TOLERANCE = 1e-5
"""Between a score at training and at serving: other processors add floats in another order."""

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class ModelDescription:
    """What is known about a booster beside its trees."""

    features: tuple[str, ...]
    domain: str
    as_of: str
    hyperparameters: dict[str, Any]
    trees: int
    calibration: dict[str, float] | None
    """Slope and intercept of the Platt scaling that was folded into the trees; None where it did not lower the log loss."""
    training: dict[str, Any]
    """Rows, positives and time bounds of the channels."""
    metrics: dict[str, float]
    versions: dict[str, str]
    format: int = FORMAT


@dataclass(frozen=True)
class Model:
    booster: xgboost.Booster
    description: ModelDescription

    @property
    def features(self) -> tuple[str, ...]:
        return self.description.features

    def scores(self, rows: Matrix) -> NDArray[np.float32]:
        """Calibrated probabilities, shape (rows,). ``rows``: shape (rows, features), in the order of ``features``; NaN is missing."""
        return self.booster.inplace_predict(rows, validate_features=False)

    def contributions(self, rows: Matrix) -> NDArray[np.float32]:
        """What each feature adds to the log-odds of the score, shape (rows, features + 1), the last column being what is expected before
        any feature is known; a row sums to the log-odds. (Path-dependent TreeSHAP; Lundberg et al. 2020, From local explanations to
        global understanding with explainable AI for trees, algorithm 2.)"""
        matrix = xgboost.DMatrix(rows, feature_names=list(self.features), nthread=1)
        return self.booster.predict(matrix, pred_contribs=True)


def fold_calibration(booster: xgboost.Booster, line: Line) -> xgboost.Booster:
    """A booster whose margin is ``line`` of the given one's: every leaf is scaled by the slope, the base score moved.

    The result is a plain XGBoost model, so that whoever serves it, or asks it for contributions, meets calibrated log-odds. Only for
    binary:logistic on gbtree. Equal to ``line`` of the margin within float32 rounding.
    """
    content = json.loads(bytes(booster.save_raw("json")))
    learner = content["learner"]
    if learner["objective"]["name"] != "binary:logistic" or learner["gradient_booster"]["name"] != "gbtree":
        raise ValueError("calibration can be folded into a gbtree with objective binary:logistic only")
    for tree in learner["gradient_booster"]["model"]["trees"]:
        leaf = [left == -1 for left in tree["left_children"]]
        # a leaf's value lies where an inner node keeps its threshold
        tree["split_conditions"] = [v * line.slope if is_leaf else v for v, is_leaf in zip(tree["split_conditions"], leaf, strict=True)]
        tree["base_weights"] = [v * line.slope for v in tree["base_weights"]]
    parameters = learner["learner_model_param"]
    [base_score] = np.atleast_1d(json.loads(parameters["base_score"]))
    moved = float(sigmoid(line(log_odds(base_score))))
    parameters["base_score"] = f"[{moved!r}]" if parameters["base_score"].startswith("[") else repr(moved)
    folded = xgboost.Booster()
    folded.load_model(bytearray(json.dumps(content).encode()))
    return folded


def save(model: Model, smoke_rows: Matrix, folder: Path) -> None:
    """Writes the three files. ``smoke_rows``: some rows to be scored again wherever the model is loaded."""
    (folder / BOOSTER_FILE).write_bytes(bytes(model.booster.save_raw("ubj")))
    _write_json(folder / DESCRIPTION_FILE, asdict(model.description))
    rows = [[None if np.isnan(value) else float(value) for value in row] for row in smoke_rows]
    _write_json(folder / SMOKE_TEST_FILE, {"rows": rows, "scores": [float(score) for score in model.scores(smoke_rows)]})


def load(folder: Path, threads: int = 1) -> Model:
    """The model in ``folder``, after it has answered its smoke test as it did when it was trained. JobError says what is wrong with it."""
    description = _description(_read_json(folder / DESCRIPTION_FILE), folder)
    booster = xgboost.Booster({"nthread": threads})
    try:
        booster.load_model(bytearray(_read(folder / BOOSTER_FILE)))
    except xgboost.core.XGBoostError as error:
        raise JobError(f"{folder / BOOSTER_FILE} is no XGBoost model: {str(error).splitlines()[0]}") from error
    if booster.num_features() != len(description.features):
        named = len(description.features)
        raise JobError(f"{folder / BOOSTER_FILE} has {booster.num_features()} features, but {DESCRIPTION_FILE} beside it names {named}")
    model = Model(booster, description)
    _check(model, _read_json(folder / SMOKE_TEST_FILE), folder)
    return model


def _check(model: Model, smoke_test: Any, folder: Path) -> None:
    rows = np.array([[np.nan if value is None else value for value in row] for row in smoke_test["rows"]], np.float32)
    expected = np.array(smoke_test["scores"])
    worst = float(np.abs(model.scores(rows) - expected).max(initial=0))
    if not worst <= SMOKE_TEST_TOLERANCE:
        raise JobError(
            f"the model in {folder} does not answer its smoke test as it did when it was trained: a score differs by {worst:.2g} "
            f"(tolerance {SMOKE_TEST_TOLERANCE:g}); the files do not belong together, or XGBoost {xgboost.__version__} reads them otherwise"
        )


def _description(content: Any, folder: Path) -> ModelDescription:
    names = {field.name for field in fields(ModelDescription)}
    if not isinstance(content, dict) or set(content) != names or content["format"] != FORMAT:
        raise JobError(f"{folder / DESCRIPTION_FILE} is not a model description of format {FORMAT}")
    return ModelDescription(**{**content, "features": tuple(content["features"])})


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        found = ", ".join(sorted(p.name for p in path.parent.glob("*"))) or "nothing"
        raise JobError(f"no {path.name} in {path.parent} (found {found}): is this a model of this project's training job?") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read(path))
    except ValueError as error:
        raise JobError(f"{path} is not JSON: {error}") from error


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
