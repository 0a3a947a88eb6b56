from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_parts import FIRST_DAY, events, train_in, without
from sklearn.metrics import average_precision_score

from include import domains
from include.jobs import evaluate as job
from include.jobs import model_file
from include.jobs.__main__ import main
from include.jobs.context import JobError
from include.jobs.dataset_file import DatasetFile
from include.lifecycle.bias import NAMES
from include.lifecycle.domain import ReviewCapacity
from include.lifecycle.evaluation import METRICS
from include.lifecycle.metrics import reviewed_share
from include.stores.objects import ObjectStore

DOMAIN = domains.get("auto_claims")
TEST_DAY = FIRST_DAY + 40


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A good model, one of other features, and one that has learned next to nothing."""
    root = tmp_path_factory.mktemp("models")
    return {
        "good": train_in(root / "good", rows=4_000),
        "narrow": train_in(root / "narrow", rows=4_000, features=6),
        "weak": train_in(root / "weak", rows=1_000, num_boost_round=1, max_depth=1),
    }


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, model_file.Model]:
    return {name: model_file.load(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def test_events() -> pa.Table:
    return events(2_500, 77, first_day=TEST_DAY)


@pytest.fixture(scope="module")
def data(test_events: pa.Table) -> DatasetFile:
    return DatasetFile("test.parquet", test_events)


@pytest.fixture(scope="module")
def alone(models: dict[str, model_file.Model], data: DatasetFile) -> job.Evaluation:
    return job.evaluate(DOMAIN, data, models["good"], None)


def test_metrics_are_those_of_the_model_on_the_events(
    alone: job.Evaluation, models: dict[str, model_file.Model], data: DatasetFile
) -> None:
    measured = alone.evaluation["metrics"]
    scores = models["good"].scores(data.matrix(models["good"].features))
    assert measured["average_precision"]["value"] == pytest.approx(average_precision_score(data.labels, scores))
    assert set(measured) == set(METRICS) - {"card_precision_at_capacity"}
    for name, interval in measured.items():
        assert interval["low"] < interval["high"], name
    assert measured["recall_at_capacity"]["value"] > 3 * 0.05, "a twentieth of the events holds far more than a twentieth of the fraud"
    assert alone.verdict.passed
    assert alone.evaluation["champion"] is None


def test_a_second_evaluation_gives_the_same(alone: job.Evaluation, models: dict[str, model_file.Model], data: DatasetFile) -> None:
    again = job.evaluate(DOMAIN, data, models["good"], None)
    assert json.dumps(again.documents(), sort_keys=True) == json.dumps(alone.documents(), sort_keys=True)


def test_a_better_challenger_passes_and_a_worse_one_does_not(models: dict[str, model_file.Model], data: DatasetFile) -> None:
    better = job.evaluate(DOMAIN, data, models["good"], models["weak"])
    assert better.verdict.passed
    assert better.evaluation["champion"]["differences"]["average_precision"]["low"] > 0
    worse = job.evaluate(DOMAIN, data, models["weak"], models["good"])
    assert not worse.verdict.passed
    assert any(reason.startswith("Average precision differs") and reason.endswith(": worse.") for reason in worse.verdict.reasons)


def test_models_of_different_features_are_each_scored_with_their_own(models: dict[str, model_file.Model], data: DatasetFile) -> None:
    found = job.evaluate(DOMAIN, data, models["good"], models["narrow"]).evaluation["champion"]
    narrow = models["narrow"].scores(data.matrix(models["narrow"].features))
    assert found["metrics"]["average_precision"]["value"] == pytest.approx(average_precision_score(data.labels, narrow))


def test_a_champion_whose_features_are_gone_stops_the_challenger_with_the_reason(
    models: dict[str, model_file.Model], test_events: pa.Table
) -> None:
    reduced = DatasetFile("test.parquet", without(test_events, "feature_6", "feature_7"))
    found = job.evaluate(DOMAIN, reduced, models["narrow"], models["good"])
    assert not found.verdict.passed
    assert "test.parquet lacks 2 of the model's 8 features: feature_6, feature_7" in found.verdict.reasons[0]
    assert found.evaluation["champion"]["metrics"] is None
    assert "feature_6, feature_7" in job.html_report(DOMAIN, found.evaluation, found.bias, found.explainability, found.verdict)
    with pytest.raises(JobError, match="lacks 2 of the model's 8 features"):
        job.evaluate(DOMAIN, reduced, models["good"], None)


def test_events_that_the_model_has_seen_are_refused(models: dict[str, model_file.Model]) -> None:
    seen = DatasetFile("test.parquet", events(500, 5, first_day=FIRST_DAY + 30))
    with pytest.raises(JobError, match="begins before the end of the model's own training and validation events"):
        job.evaluate(DOMAIN, seen, models["good"], None)


def test_an_unknown_amount_is_refused(models: dict[str, model_file.Model], test_events: pa.Table) -> None:
    amounts = [None, float("inf"), *test_events["amount"].to_pylist()[2:]]
    table = test_events.set_column(test_events.column_names.index("amount"), "amount", pa.array(amounts))
    with pytest.raises(JobError, match="2 of 2500 events have no finite amount"):
        job.evaluate(DOMAIN, DatasetFile("test.parquet", table), models["good"], None)


def test_bias_by_facet(alone: job.Evaluation, data: DatasetFile) -> None:
    gender = alone.bias["facets"]["gender"]
    assert gender["reference"]["level"] == "Male"
    assert [level["level"] for level in gender["levels"]] == ["Female", "Other"]
    for level in gender["levels"]:
        assert set(level["pre_training"] | level["post_training"]) == set(NAMES)
    genders = np.array(data.texts("facet_gender"))
    female, male = (genders == name for name in ("Female", "Male"))
    imbalance = (male.sum() - female.sum()) / (male.sum() + female.sum())
    assert gender["levels"][0]["pre_training"]["CI"] == pytest.approx(imbalance)
    assert gender["levels"][0]["post_training"]["DI"] == pytest.approx(
        (1 - gender["levels"][0]["reviewed_share"]) / (1 - gender["reference"]["reviewed_share"])
    )
    assert alone.bias["facets"]["age_band"]["levels"][-1]["level"] is None, "a missing facet is a group of its own"
    assert alone.bias["facets"]["age_band"]["reference"]["events"] == 0, "the reference 30-44 does not occur in these events"


@pytest.mark.parametrize("a_day", [5, 8, 9, 14])
def test_as_many_are_reviewed_as_the_capacity_allows_however_few_a_day_has(a_day: int) -> None:
    generator = np.random.default_rng(a_day)
    days = np.repeat(np.datetime64("2026-01-01") + np.arange(200), a_day)
    shuffled = generator.permutation(days.size)
    scores = generator.random(days.size).round(2)  # with ties
    reviewed = job._sent_to_review(scores[shuffled], days[shuffled], ReviewCapacity(share=0.05))
    assert reviewed.sum() == 200 * a_day * 0.05
    for day in np.unique(days):
        today = days[shuffled] == day
        assert reviewed[today].sum() <= 1
        assert (scores[shuffled][today & reviewed] == scores[shuffled][today].max()).all(), "the day's highest score"


def test_a_capacity_of_whole_reviews_takes_each_days_highest_scores() -> None:
    days = np.repeat(np.datetime64("2026-01-01") + np.arange(30), 7)
    scores = np.random.default_rng(0).random(days.size)
    reviewed = job._sent_to_review(scores, days, ReviewCapacity(per_day=3))
    assert (reviewed == (reviewed_share(scores, days, ReviewCapacity(per_day=3)) == 1)).all()
    assert job._sent_to_review(scores, days, ReviewCapacity(per_day=9)).all()


def test_the_bias_report_reviews_the_capacity_where_days_are_small(models: dict[str, model_file.Model]) -> None:
    few_a_day = DatasetFile("test.parquet", events(720, 3, days=90, first_day=TEST_DAY))
    facet = job.evaluate(DOMAIN, few_a_day, models["good"], None).bias["facets"]["gender"]
    groups = [facet["reference"], *facet["levels"]]
    assert sum(group["reviewed_share"] * group["events"] for group in groups) == pytest.approx(0.05 * 720, abs=0.5)
    assert facet["levels"][0]["post_training"]["DPPL"] != 0


def test_frauds_that_cost_nothing_leave_the_savings_undefined(models: dict[str, model_file.Model], test_events: pa.Table) -> None:
    place = test_events.column_names.index("amount")
    lost = np.where(test_events["label"].to_numpy() > 0, 0.0, test_events["amount"].to_numpy())
    table = test_events.set_column(place, "amount", pa.array(lost))
    found = job.evaluate(DOMAIN, DatasetFile("test.parquet", table), models["good"], None)
    assert found.evaluation["curves"]["savings"] is None
    assert found.evaluation["metrics"]["savings"] == {"value": None, "low": None, "high": None}
    assert [check.name for check in found.verdict.checks if not check.passed] == ["savings"]
    page = job.html_report(DOMAIN, found.evaluation, found.bias, found.explainability, found.verdict)
    assert page.count("<svg viewBox") == 2


def test_a_missing_facet_column_is_refused(models: dict[str, model_file.Model], test_events: pa.Table) -> None:
    with pytest.raises(JobError, match="no column facet_gender, which facet 'gender'"):
        job.evaluate(DOMAIN, DatasetFile("test.parquet", without(test_events, "facet_gender")), models["good"], None)


def test_reasons_name_the_features_that_matter(alone: job.Evaluation) -> None:
    assert [row["feature"] for row in alone.explainability["ranking"]][:3] == ["feature_0", "feature_1", "feature_2"]
    scores = [example["score"] for example in alone.explainability["highest_scores"]]
    assert scores == sorted(scores, reverse=True)
    assert all(example["reasons"] for example in alone.explainability["highest_scores"])


def test_text_from_data_is_escaped_in_the_page(models: dict[str, model_file.Model], test_events: pa.Table) -> None:
    place = test_events.column_names.index("event_id")
    hostile = test_events.set_column(place, "event_id", pa.array(["<script>alert(1)</script>"] * test_events.num_rows))
    place = test_events.column_names.index("facet_gender")
    hostile = hostile.set_column(place, "facet_gender", pa.array(['"><img src=x>'] * test_events.num_rows))
    found = job.evaluate(DOMAIN, DatasetFile("test.parquet", hostile), models["good"], None)
    page = job.html_report(DOMAIN, found.evaluation, found.bias, found.explainability, found.verdict)
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page


def packed(folder: Path, *left_out: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path in sorted(folder.iterdir()):
            if path.name not in left_out:
                archive.add(path, path.name)
    return buffer.getvalue()


def parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def evaluated(bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch, **changes: str) -> int:
    monkeypatch.setenv("FRAUD_BUCKET", bucket.bucket)
    options = {"domain": "auto_claims", "dataset": bucket.uri("d/1/"), "model": bucket.uri("m/model.tar.gz"), "output": bucket.uri("r/1/")}
    arguments = [
        part for name, value in (options | {"result": bucket.uri("r/1/result.json")} | changes).items() for part in (f"--{name}", value)
    ]
    return main(["evaluate", *arguments])


def test_the_job_from_bucket_to_bucket(
    bucket: ObjectStore, folders: dict[str, Path], test_events: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("d/1/test.parquet", parquet(test_events))
    bucket.put("m/model.tar.gz", packed(folders["good"]))
    bucket.put("m/champion.tar.gz", packed(folders["weak"]))
    assert evaluated(bucket, monkeypatch, champion=bucket.uri("m/champion.tar.gz")) == 0
    result: dict[str, Any] = bucket.get_json("r/1/result.json")
    assert result["gate"]["passed"] is True
    assert result["champion"]["differences"]["average_precision"]["value"] > 0
    assert set(result["metrics"]["savings"]) == {"value", "low", "high"}
    assert set(result["reports"]) == {"evaluation", "bias", "explainability", "gate", "report", "smoke_test"}
    for name, uri in result["reports"].items():
        content = bucket.get(bucket.key(uri))
        if name == "report":
            page = content.decode()
            assert page.index("The gate is passed.") < page.index("How good it is")
            assert (page.count("<svg viewBox"), page.count('<svg class="bar"')) == (3, 8)
            assert "http://" not in page.replace("http://www.w3.org/", "")
            assert "https://" not in page
        else:
            json.loads(content)
    assert bucket.get_json("r/1/evaluation.json")["sources"]["champion"] == bucket.uri("m/champion.tar.gz")


def test_what_is_missing_or_damaged_is_named(
    bucket: ObjectStore,
    folders: dict[str, Path],
    test_events: pa.Table,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(**changes: str) -> str:
        assert evaluated(bucket, monkeypatch, **changes) == 2
        assert not bucket.exists("r/1/result.json")
        return capsys.readouterr().err

    assert "d/1/test.parquet does not exist" in refused()
    bucket.put("d/1/test.parquet", parquet(test_events))
    assert "m/model.tar.gz does not exist" in refused()
    bucket.put("m/model.tar.gz", b"no archive")
    assert "m/model.tar.gz cannot be unpacked" in refused()
    bucket.put("m/model.tar.gz", packed(folders["good"])[:-2_000])
    assert "m/model.tar.gz" in refused()
    whole = packed(folders["good"])
    checksum = bytes([whole[-8] ^ 1])
    for place, damage in [(len(whole) // 2, b"\xff" * 200), (-8, checksum)]:  # in the middle of the trees; in gzip's checksum alone
        at = place % len(whole)
        bucket.put("m/model.tar.gz", whole[:at] + damage + whole[at + len(damage) :])
        reason = refused()
        assert "m/model.tar.gz cannot be unpacked" in reason
        assert "Traceback" not in reason
    bucket.put("m/model.tar.gz", packed(folders["good"], "model.json"))
    assert "no model.json in" in refused()
    assert "lies outside the bucket" in refused(model="s3://elsewhere/model.tar.gz")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo("../../outside.txt")
        archive.addfile(entry, io.BytesIO(b""))
    bucket.put("m/model.tar.gz", buffer.getvalue())
    assert "m/model.tar.gz cannot be unpacked" in refused()
