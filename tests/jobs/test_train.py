from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from dataset_parts import FIRST_DAY, events, train_in, without, write_channels, write_hyperparameters

from include.jobs import model_file
from include.jobs.__main__ import main
from include.jobs.dataset_file import DatasetFile
from include.jobs.train import Hyperparameters, train, useful_threads
from include.lifecycle.calibration import expected_calibration_error
from include.lifecycle.metrics import average_precision, roc_auc


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    (tmp_path / "output").mkdir()
    return tmp_path


def failure(root: Path, training: pa.Table, validation: pa.Table) -> str:
    """The reason that SageMaker would show, of a job refused because of its input."""
    write_channels(root, training, validation)
    if not (root / "input" / "config").exists():
        write_hyperparameters(root)
    assert main(["train"]) == 2
    return (root / "output" / "failure").read_text()


def test_learns_what_there_is_to_learn_and_its_scores_are_probabilities(tmp_path: Path) -> None:
    model = model_file.load(train_in(tmp_path, rows=6_000))
    later = DatasetFile("later", events(6_000, 50, first_day=FIRST_DAY + 60))
    scores = model.scores(later.matrix(model.features)).astype(float)
    assert float(roc_auc(later.labels, scores)) > 0.8
    assert float(average_precision(later.labels, scores)) > 3 * later.labels.mean()
    assert float(expected_calibration_error(later.labels, scores)) < 0.02


def test_calibration_undoes_the_weights_of_the_training(tmp_path: Path) -> None:
    model = model_file.load(train_in(tmp_path, rows=6_000, scale_pos_weight=20))
    assert model.description.calibration is not None
    assert model.description.calibration["intercept"] < -1
    later = DatasetFile("later", events(6_000, 50))
    scores = model.scores(later.matrix(model.features)).astype(float)
    assert scores.mean() == pytest.approx(later.labels.mean(), abs=0.02)


def test_metric_lines_match_the_regex_of_a_metric_definition(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train_in(tmp_path)
    printed = capsys.readouterr().out
    description = json.loads((folder / model_file.DESCRIPTION_FILE).read_text())
    for name, value in description["metrics"].items():
        found = re.findall(rf".*{name}=(\S+);", printed)
        assert [float(text) for text in found] == [pytest.approx(value, rel=1e-4)], name
    assert {
        "train-average_precision",
        "validation-average_precision",
        "validation-roc_auc",
        "validation-log_loss",
        "best_iteration",
    } <= set(description["metrics"])
    assert description["trees"] == description["metrics"]["best_iteration"] + 1 < 200
    assert description["features"] == [f"feature_{number}" for number in range(8)]
    assert description["training"]["train"]["rows"] == 2_400
    assert description["training"]["train"]["first_event"].startswith("2026-01-01")


def test_the_same_data_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    folders = [train_in(tmp_path / name) for name in ("one", "again")]
    assert [[path.read_bytes() for path in sorted(folder.iterdir())] for folder in folders[:1]] == [
        [path.read_bytes() for path in sorted(folder.iterdir())] for folder in folders[1:]
    ]


def test_the_number_of_threads_does_not_change_the_model(root: Path) -> None:
    write_hyperparameters(root, num_boost_round=30)
    hyperparameters = Hyperparameters.read(root / "input" / "config" / "hyperparameters.json")
    training, validation = (DatasetFile("channel", events(600, seed)) for seed in (1, 2))
    one, two = (train(hyperparameters, training, validation, threads).model.booster.save_raw("ubj") for threads in (1, 2))
    assert one == two


def test_threads_are_no_more_than_the_data_can_use() -> None:
    assert useful_threads(500_000) == 1
    assert 1 <= useful_threads(10**12) <= (os.cpu_count() or 1)


def test_another_seed_gives_another_model(root: Path) -> None:
    scores = []
    for seed in (7, 8):
        write_channels(root, events(800, 1), events(400, 2))
        write_hyperparameters(root, seed=seed)
        assert main(["train"]) == 0
        scores.append(json.loads((root / "model" / model_file.SMOKE_TEST_FILE).read_text())["scores"])
    assert scores[0] != scores[1]


def test_channels_must_have_the_same_features(root: Path) -> None:
    training = events(300, 1)
    assert "lacks feature_2" in failure(root, training, without(events(300, 2), "feature_2"))
    assert "adds feature_1" in failure(root, without(training, "feature_1"), events(300, 2))
    names = training.column_names
    names[-2], names[-3] = names[-3], names[-2]
    assert "in another order" in failure(root, training, training.select(names))


def test_labels_must_be_of_both_kinds_and_known(root: Path) -> None:
    training = events(300, 1)
    genuine = without(training, "label").append_column("label", pa.array(np.zeros(300, np.int64)))
    assert "channel 'validation': all 300 labels are 0" in failure(root, training, genuine)
    unknown = without(training, "label").append_column("label", pa.array([None, 2, *([0, 1] * 149)], pa.int64()))
    assert "2 of 300 labels are neither 0 nor 1" in failure(root, unknown, training)
    assert "channel 'train' has no column label" in failure(root, without(training, "label"), training)
    assert "channel 'train' has no rows" in failure(root, training.slice(0, 0), training)


def test_features_must_be_finite_numbers(root: Path) -> None:
    training = events(300, 1)
    text = training.append_column("colour", pa.array(["red"] * 300))
    assert "features must be numbers, but colour are not" in failure(root, text, text)
    infinite = training.append_column("ratio", pa.array([np.inf] * 300))
    assert "ratio hold infinite values" in failure(root, infinite, infinite)
    none = without(training, *[name for name in training.column_names if name.startswith("feature_")])
    assert "has no feature" in failure(root, none, none)


def test_channels_must_be_there(root: Path) -> None:
    write_hyperparameters(root)
    assert main(["train"]) == 2
    assert "channel 'train'" in (root / "output" / "failure").read_text()
    assert "must hold exactly one Parquet file; found none" in (root / "output" / "failure").read_text()
    damaged = root / "input" / "data" / "train"
    damaged.mkdir(parents=True)
    (damaged / "train.parquet").write_bytes(b"PAR1 half a file")
    assert main(["train"]) == 2
    assert "cannot be read as Parquet" in (root / "output" / "failure").read_text()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"max_dept": 3}, "unknown hyperparameters max_dept; known: domain, as_of"),
        ({"nthread": 4}, "unknown hyperparameters nthread"),
        ({"seed": None}, "hyperparameters lack seed"),
        ({"num_boost_round": 0}, "num_boost_round: 0 is not a whole number of at least 1"),
        ({"early_stopping_rounds": "soon"}, "early_stopping_rounds: 'soon' is not a whole number"),
        ({"objective": "reg:squarederror"}, "objective 'reg:squarederror'"),
        ({"domain": "nowhere"}, "no domain 'nowhere'"),
        ({"max_depth": -3}, "XGBoost refuses to train"),
        ({"eval_metric": "no_such"}, "XGBoost refuses to train"),
    ],
)
def test_hyperparameters_are_checked(root: Path, changes: dict[str, object], reason: str) -> None:
    write_hyperparameters(root, **changes)
    assert reason in failure(root, events(300, 1), events(300, 2))


def test_hyperparameters_as_the_sdk_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "hyperparameters.json"
    values = {
        "domain": '"auto_claims"',
        "as_of": '"2026-03-01T00:00:00Z"',
        "num_boost_round": "20",
        "early_stopping_rounds": "5",
        "seed": "1",
    }
    path.write_text(json.dumps(values | {"eta": "0.1", "sagemaker_job_name": '"x"', "_tuning_objective_metric": "validation"}))
    read = Hyperparameters.read(path)
    assert (read.domain, read.as_of, read.num_boost_round) == ("auto_claims", "2026-03-01T00:00:00Z", 20)
    assert read.xgboost == {"eta": 0.1, "objective": "binary:logistic", "eval_metric": "aucpr"}
