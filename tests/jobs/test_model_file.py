from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xgboost
from dataset_parts import events, train_in

from include.jobs import model_file
from include.jobs.context import JobError
from include.jobs.dataset_file import DatasetFile
from include.lifecycle.calibration import Line, log_odds, sigmoid


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_in(tmp_path_factory.mktemp("ml"))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


@pytest.fixture(scope="module")
def rows(folder: Path) -> model_file.Matrix:
    return DatasetFile("test", events(500, 9)).matrix(model_file.load(folder).features)


@pytest.mark.parametrize("base_score", [None, 0.5, 0.003])
@pytest.mark.parametrize("line", [Line(0.37, -1.9), Line(2.5, 0.8), Line(1.0, 0.0)])
def test_a_folded_booster_is_the_line_of_the_margin(line: Line, base_score: float | None, rows: model_file.Matrix) -> None:
    data = DatasetFile("training", events(1_500, 3))
    matrix = xgboost.DMatrix(data.matrix(data.features), label=data.labels, feature_names=list(data.features))
    parameters = {"objective": "binary:logistic", "max_depth": 4, "eta": 0.1, "seed": 1, "nthread": 1, "scale_pos_weight": 5}
    booster = xgboost.train(parameters | ({} if base_score is None else {"base_score": base_score}), matrix, 30)
    folded = model_file.fold_calibration(booster, line)
    margin = booster.inplace_predict(rows, predict_type="margin", validate_features=False)
    expected = line(margin)
    assert folded.inplace_predict(rows, predict_type="margin", validate_features=False) == pytest.approx(expected, rel=1e-5, abs=5e-5)
    scores = folded.inplace_predict(rows, validate_features=False)
    assert scores == pytest.approx(sigmoid(expected), rel=1e-4, abs=1e-9)
    named = xgboost.DMatrix(rows, feature_names=list(data.features))
    contributions = folded.predict(named, pred_contribs=True)
    assert contributions.sum(axis=1) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    before = booster.predict(named, pred_contribs=True)
    assert contributions[:, :-1] == pytest.approx(line.slope * before[:, :-1], rel=1e-4, abs=1e-4)
    # and it survives its file
    again = xgboost.Booster()
    again.load_model(bytearray(folded.save_raw("ubj")))
    assert (again.inplace_predict(rows, validate_features=False) == scores).all()


def test_only_what_can_be_folded_is() -> None:
    matrix = xgboost.DMatrix(np.arange(8.0)[:, None], label=[0, 0, 0, 1, 0, 1, 1, 1])
    with pytest.raises(ValueError, match="gbtree"):
        model_file.fold_calibration(xgboost.train({"booster": "gblinear", "objective": "binary:logistic"}, matrix, 2), Line(1, 1))
    with pytest.raises(ValueError, match="binary:logistic"):
        model_file.fold_calibration(xgboost.train({"objective": "reg:squarederror"}, matrix, 2), Line(1, 1))


def test_a_plain_xgboost_reads_the_file_and_gives_the_calibrated_scores(folder: Path, rows: model_file.Matrix) -> None:
    model = model_file.load(folder)
    booster = xgboost.Booster(model_file=str(folder / model_file.BOOSTER_FILE))
    plain = booster.predict(xgboost.DMatrix(rows), validate_features=False)
    assert plain == pytest.approx(model.scores(rows), abs=1e-7)
    assert model.contributions(rows).sum(axis=1) == pytest.approx(log_odds(plain.astype(float)), abs=1e-3)
    assert b"pickle" not in (folder / model_file.BOOSTER_FILE).read_bytes()[:200]
    assert (folder / model_file.BOOSTER_FILE).read_bytes()[:1] == b"{", "UBJSON begins with an object"


def test_the_smoke_test_is_asked_on_loading(copy: Path) -> None:
    smoke = json.loads((copy / model_file.SMOKE_TEST_FILE).read_text())
    assert len(smoke["rows"]) == len(smoke["scores"]) == 8
    assert smoke["scores"] == sorted(smoke["scores"])
    smoke["scores"][3] += 1e-3
    (copy / model_file.SMOKE_TEST_FILE).write_text(json.dumps(smoke))
    with pytest.raises(JobError, match=r"does not answer its smoke test .* differs by 0\.001"):
        model_file.load(copy)


@pytest.mark.parametrize("name", [model_file.BOOSTER_FILE, model_file.DESCRIPTION_FILE, model_file.SMOKE_TEST_FILE])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(JobError, match=f"no {name} in .*found"):
        model_file.load(copy)


def test_what_is_no_model_is_refused(copy: Path) -> None:
    (copy / model_file.BOOSTER_FILE).write_bytes(b"not a model")
    with pytest.raises(JobError, match="is no XGBoost model"):
        model_file.load(copy)


def test_features_and_trees_must_agree(copy: Path) -> None:
    description = json.loads((copy / model_file.DESCRIPTION_FILE).read_text())
    (copy / model_file.DESCRIPTION_FILE).write_text(json.dumps(description | {"features": description["features"][:-1]}))
    with pytest.raises(JobError, match=r"has 8 features, but model\.json beside it names 7"):
        model_file.load(copy)
    (copy / model_file.DESCRIPTION_FILE).write_text(json.dumps(description | {"format": 99}))
    with pytest.raises(JobError, match="not a model description of format 1"):
        model_file.load(copy)
