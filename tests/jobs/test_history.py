"""The job `history` on real models, and on feature and label partitions like those that ingestion leaves."""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score

from include import domains
from include.jobs import history as job
from include.jobs import model_file, train
from include.jobs.__main__ import main
from include.jobs.context import JobContext, JobError
from include.jobs.dataset_file import DatasetFile
from include.jobs.history_events import HistoryEvents, PeriodEvents
from include.lifecycle.ageing import Period
from include.lifecycle.as_of import iso
from include.stores.layout import Layout
from include.stores.objects import ObjectStore
from include.stores.partitions import Partitions

DOMAIN = domains.get("card_payments")
LAYOUT = Layout(DOMAIN.name)
FIRST, DAYS, A_DAY, CARDS = date(2026, 1, 5), 42, 120, 700
AS_OFS = [datetime(2026, 1, 19, tzinfo=UTC) + timedelta(days=7 * week, hours=-2) for week in range(3)]
LABEL_DELAY = timedelta(days=7)
UNREPORTED = 5
"""Every so many genuine payments have no label at all: only fraud is reported for sure."""


def payments() -> pa.Table:
    """Six weeks in which fraud turns from high values of one feature to those of another."""
    generator = np.random.default_rng(8)
    size = DAYS * A_DAY
    seconds = np.sort(generator.integers(0, DAYS * 86_400, size))
    values = generator.normal(size=(size, 3))
    turned = seconds / (DAYS * 86_400)
    odds = -3.2 + 2.5 * (1 - turned) * values[:, 0] + 2.5 * turned * values[:, 1]
    times = np.datetime64(FIRST, "s") + seconds
    cards = [f"card {number}" for number in generator.integers(0, CARDS, size)]
    return pa.table({
        "event_id": [f"T{number:05}" for number in range(size)],
        "event_time": pa.array(times.astype("datetime64[us]"), pa.timestamp("us", "UTC")),
        "entity_id": cards,
        "group_id": cards,
        "amount": np.round(generator.gamma(2.0, 30.0, size), 2),
        **{f"feature_{number}": values[:, number] for number in range(3)},
        "label": (generator.random(size) < 1 / (1 + np.exp(-odds))).astype(np.int64),
    })


EVENTS = payments()
TIMES = EVENTS["event_time"].to_numpy(zero_copy_only=False)


def between(first: datetime, until: datetime) -> pa.Table:
    inside = (np.datetime64(first.replace(tzinfo=None)) <= TIMES) & (np.datetime64(until.replace(tzinfo=None)) > TIMES)
    return EVENTS.filter(pa.array(inside))


def labels_of(events: pa.Table) -> pa.Table:
    """As ingestion writes them: those that became known, a week after the payment."""
    reported = [bool(label) or int(event[1:]) % UNREPORTED > 0 for event, label in zip(*columns(events, "event_id", "label"), strict=True)]
    events = events.filter(pa.array(reported))
    known = pa.array([when + LABEL_DELAY for when in events["event_time"].to_pylist()], pa.timestamp("us", "UTC"))
    return pa.table({
        "event_id": events["event_id"],
        "label": events["label"].cast(pa.int32()),
        "event_time": events["event_time"],
        "available_at": known,
        "delivered_at": known,
        "source": ["here"] * len(events),
    })


def columns(table: pa.Table, *names: str) -> list[list[Any]]:
    return [table[name].to_pylist() for name in names]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """A model of each as-of, trained by the training job's own code on the fortnight whose labels were known."""
    return [_archive(tmp_path_factory.mktemp("model"), as_of) for as_of in AS_OFS]


def _archive(folder: Path, as_of: datetime, features: tuple[str, ...] = ("feature_0", "feature_1", "feature_2")) -> bytes:
    end = as_of - LABEL_DELAY
    rows = between(end - timedelta(days=14), end).select([*EVENTS.column_names[:5], *features, "label"])
    cut = len(rows) * 2 // 3
    parts = [DatasetFile("train", rows.slice(0, cut)), DatasetFile("validation", rows.slice(cut))]
    parameters = {"objective": "binary:logistic", "eval_metric": "aucpr", "tree_method": "hist", "max_depth": 3, "eta": 0.2}
    wanted = train.Hyperparameters(DOMAIN.name, iso(as_of), num_boost_round=30, early_stopping_rounds=10, seed=1, xgboost=parameters)
    trained = train.train(wanted, *parts, threads=1)
    model_file.save(trained.model, parts[1].matrix(features)[:4], folder)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)
    return content.getvalue()


@pytest.fixture
def store(bucket: ObjectStore, archives: list[bytes]) -> ObjectStore:
    features, labels = Partitions(bucket, LAYOUT.features), Partitions(bucket, LAYOUT.labels)
    for number in range(DAYS):
        day = FIRST + timedelta(days=number)
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        rows = between(start, start + timedelta(days=1))
        features.write(day, rows.drop_columns(["label"]))
        labels.write(day, labels_of(rows))
    for number, content in enumerate(archives):
        bucket.put(f"{LAYOUT.models}m{number}/output/model.tar.gz", content)
    return bucket


def listed(objects: ObjectStore, rows: list[int]) -> list[dict[str, Any]]:
    return [
        {"as_of": iso(AS_OFS[row]), "model": objects.uri(f"{LAYOUT.models}m{row}/output/model.tar.gz"), "model_package": f"arn:{row}"}
        for row in rows
    ]


def run(objects: ObjectStore, models: list[dict[str, Any]], *arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The job's result, and ageing.json."""
    result = result_of(objects, models, *arguments)
    return result, objects.get_json(objects.key(result["reports"]["ageing"]))


def result_of(objects: ObjectStore, models: list[dict[str, Any]], *arguments: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    job.add_arguments(parser)
    context = JobContext(DOMAIN)
    context.__dict__["objects"] = objects
    manifest = objects.put_json(f"{DOMAIN.name}/models.json", models)
    return job.run(parser.parse_args(["--models", manifest, *arguments]), context)


def test_every_cell_is_what_its_model_does_on_its_week(store: ObjectStore, archives: list[bytes], tmp_path: Path) -> None:
    result, content = run(store, listed(store, [0, 1, 2]))
    assert [period["first_day"] for period in content["periods"]] == ["2026-01-19", "2026-01-26", "2026-02-02"], (
        "the last of the six weeks has no labels yet"
    )
    assert result["cells"] == result["cells_measured_now"] == 6
    frauds = [
        (card, when, when + LABEL_DELAY)
        for card, when, label in zip(*columns(EVENTS, "group_id", "event_time", "label"), strict=True)
        if label
    ]
    for cell in content["cells"]:
        row = [iso(as_of) for as_of in AS_OFS].index(cell["as_of"])
        start = datetime.fromisoformat(cell["first_day"]).replace(tzinfo=UTC)
        assert cell["age"] == (start - AS_OFS[row]).days // 7
        week = between(start, start + timedelta(days=7))
        kept = []
        for card, when in zip(*columns(week, "group_id", "event_time"), strict=True):
            midnight = when.replace(hour=0, minute=0, second=0, microsecond=0)
            since = start - DOMAIN.training.window
            kept.append(not any(other == card and happened >= since and known <= midnight for other, happened, known in frauds))
        assert not all(kept), "some cards were blocked"
        week = week.filter(pa.array(kept))
        folder = tmp_path / f"model-{row}"
        folder.mkdir(exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(archives[row]), mode="r:gz") as archive:
            archive.extractall(folder)  # noqa: S202 -- our own
        model = model_file.load(folder)
        scores = model.scores(DatasetFile("week", week).matrix(model.features))
        expected = average_precision_score(week["label"].to_numpy(), scores)
        found = cell["metrics"]["average_precision"]
        assert found["value"] == pytest.approx(expected)
        assert found["low"] < found["value"] < found["high"]
        [period] = [period for period in content["periods"] if period["first_day"] == cell["first_day"]]
        assert (period["events"], period["positives"]) == (len(week), int(week["label"].to_numpy().sum()))
        assert period["left_out"] == {"known_fraud": len(kept) - sum(kept), "without_label": 0}
    assert "interval" in result["sentence"]


def test_the_older_model_is_the_worse_one_where_fraud_moves(store: ObjectStore) -> None:
    _, content = run(store, listed(store, [0, 1, 2]))
    oldest = content["by_age"][-1]
    assert (oldest["age"], oldest["cells"]) == (2, 1)
    assert oldest["versus_freshest"]["average_precision"]["high"] < 0
    assert [policy["retraining"] for policy in content["policies"]] == ["every week", "every 2 weeks", "never"]
    assert content["policies"][-1]["models"] == 1


def test_one_model_more_costs_its_own_row(store: ObjectStore) -> None:
    _, before = run(store, listed(store, [0, 1]))
    result, content = run(store, listed(store, [0, 1, 2]))
    assert (result["cells_measured_now"], result["cells"]) == (1, 6)
    assert [cell["metrics"] for cell in content["cells"][:5]] == [cell["metrics"] for cell in before["cells"]]


def test_the_same_inputs_give_the_same_bytes_measured_or_kept(store: ObjectStore) -> None:
    def reports() -> dict[str, bytes]:
        return {name: store.get(store.key(uri)) for name, uri in result["reports"].items()}

    result, _ = run(store, listed(store, [0, 1, 2]))
    first = reports()
    result, _ = run(store, listed(store, [0, 1, 2]))
    assert result["cells_measured_now"] == 0
    assert reports() == first
    for info in list(store.list(LAYOUT.report("history", "cells"))):
        store.delete(info.key)
    result, _ = run(store, listed(store, [2, 0, 1]), "--output", store.uri(f"{DOMAIN.name}/elsewhere/"))
    assert result["cells_measured_now"] == 6
    assert reports() == first


def test_changed_labels_measure_their_weeks_again(store: ObjectStore) -> None:
    run(store, listed(store, [0, 1, 2]))
    labels = Partitions(store, LAYOUT.labels)
    rows = labels.read(date(2026, 2, 5))
    assert rows is not None
    labels.write(date(2026, 2, 5), rows.slice(1))
    result, _ = run(store, listed(store, [0, 1, 2]))
    assert result["cells_measured_now"] == 3, "the three cells of the week from 2 February; no label of it reaches the earlier ones"


def test_what_is_written_meanwhile_is_not_kept_under_the_name_of_what_was_there(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_after_reading(self: HistoryEvents, period: Period) -> PeriodEvents | None:
        found = read(self, period)
        features = Partitions(store, LAYOUT.features)
        rows = features.read(period.first)
        assert rows is not None
        features.write(period.first, rows.slice(1))
        return found

    read = HistoryEvents.read
    with monkeypatch.context() as patch:
        patch.setattr(HistoryEvents, "read", write_after_reading)
        with pytest.raises(JobError, match="written while they were read: run the job again"):
            run(store, listed(store, [0]))
    assert not list(store.list(LAYOUT.report("history", "cells")))
    assert run(store, listed(store, [0]))[0]["cells_measured_now"] == 3


def test_what_became_known_later_than_the_as_of_does_not_count(store: ObjectStore) -> None:
    _, content = run(store, listed(store, [0]), "--as-of", "2026-02-02T00:00:00Z")
    assert [period["first_day"] for period in content["periods"]] == ["2026-01-19"]
    _, later = run(store, listed(store, [0]))
    assert content["cells"] == later["cells"][:1]
    corrected = Partitions(store, LAYOUT.labels)
    rows = corrected.read(date(2026, 1, 20))
    assert rows is not None
    afterwards = pa.array([datetime(2026, 2, 3, tzinfo=UTC)] * len(rows), pa.timestamp("us", "UTC"))
    names = rows.column_names
    denied = rows.set_column(names.index("label"), "label", pa.array([0] * len(rows), pa.int32()))
    denied = denied.set_column(names.index("available_at"), "available_at", afterwards)
    corrected.write(date(2026, 1, 20), pa.concat_tables([rows, denied]))
    _, unchanged = run(store, listed(store, [0]), "--as-of", "2026-02-02T00:00:00Z")
    assert unchanged["periods"][0] == content["periods"][0]
    _, after = run(store, listed(store, [0]), "--as-of", "2026-02-04T00:00:00Z")
    assert after["periods"][0]["positives"] < content["periods"][0]["positives"]


def test_a_model_that_cannot_be_measured_leaves_its_row_blank(store: ObjectStore, tmp_path: Path) -> None:
    models = listed(store, [0, 1])
    models.append({"as_of": "2026-01-20T00:00:00Z", "model": store.uri(f"{LAYOUT.models}gone/model.tar.gz"), "model_package": None})
    models.append({"as_of": "2026-02-20T00:00:00Z", "model": models[0]["model"], "model_package": None})
    other = Partitions(store, LAYOUT.features)
    for day in list(other):
        rows = other.read(day)
        assert rows is not None
        other.write(day, rows.rename_columns([name.replace("feature_1", "feature_9") for name in rows.column_names]))
    store.put(f"{LAYOUT.models}new/model.tar.gz", _archive(tmp_path, AS_OFS[2], ("feature_0", "feature_2")))
    models.append({"as_of": iso(AS_OFS[2]), "model": store.uri(f"{LAYOUT.models}new/model.tar.gz"), "model_package": None})
    result, content = run(store, models)
    assert {cell["as_of"] for cell in content["cells"]} == {iso(AS_OFS[2])}
    notes = {each["as_of"]: each["note"] for each in content["as_ofs"]}
    assert "lacks 1 of the model's 3 features: feature_1" in notes[iso(AS_OFS[0])]
    assert "does not exist" in notes["2026-01-20T00:00:00Z"]
    assert notes["2026-02-20T00:00:00Z"] == "no later period whose labels have matured"
    assert notes[iso(AS_OFS[2])] is None
    assert result["notes"] == {as_of: note for as_of, note in notes.items() if note}
    page = store.get(store.key(result["reports"]["report"])).decode()
    assert "feature_1" in page


def test_a_model_of_a_later_instant_is_not_measured_on_what_it_has_seen(store: ObjectStore) -> None:
    models = [{**listed(store, [2])[0], "as_of": iso(AS_OFS[0])}]
    with pytest.raises(JobError, match=r"nothing could be measured: .* later than .* may have seen"):
        run(store, models)


@pytest.mark.parametrize(
    ("models", "arguments", "message"),
    [
        ([], (), r"no model of card_payments from a backfill: make some with `airflow backfill create --dag-id card_payments.train_model"),
        ([{"as_of": "2026-01-19T00:00:00Z"}], (), r"is not a list of models with as_of and model: KeyError\('model'\)"),
        ([{"as_of": "2026-01-19T00:00:00Z", "model": "s3://b/m"}], (), "lies outside the bucket"),
        ([{"as_of": "2026-01-19T00:00:00Z", "model": "s3://b/m"}] * 2, (), "several models as of 2026-01-19T00:00:00Z"),
        ([{"as_of": "2026-01-19T00:00:00Z", "model": "s3://b/m"}], ("--period-days", "0"), "a period has at least one day"),
        ([{"as_of": "2026-01-19T00:00:00Z", "model": "s3://b/m"}], ("--output", "s3://b/o"), "must end in /"),
    ],
)
def test_what_is_refused(bucket: ObjectStore, models: list[dict[str, Any]], arguments: tuple[str, ...], message: str) -> None:
    last = EVENTS.slice(len(EVENTS) - 1).drop_columns(["label"])
    Partitions(bucket, LAYOUT.features).write(FIRST + timedelta(days=DAYS - 1), last)
    with pytest.raises(JobError, match=message):
        run(bucket, models, *arguments)


def test_models_that_are_too_young_are_no_failure(bucket: ObjectStore) -> None:
    last = EVENTS.slice(len(EVENTS) - 1).drop_columns(["label"])
    Partitions(bucket, LAYOUT.features).write(FIRST + timedelta(days=DAYS - 1), last)
    found = result_of(bucket, [{"as_of": "2026-02-16T00:00:00Z", "model": "s3://b/m"}])
    assert "no whole period of 7 days lies between" in found["sentence"]
    assert (found["periods"], found["reports"]) == (0, {})


def test_without_features_there_is_nothing_to_measure_on(bucket: ObjectStore) -> None:
    with pytest.raises(JobError, match=r"has no features: run card_payments.ingest_data first"):
        run(bucket, listed(bucket, [0]))


def test_by_its_command_line(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FRAUD_BUCKET", store.bucket)
    manifest = store.put_json(f"{DOMAIN.name}/models.json", listed(store, [0, 1, 2]))
    assert main(["history", "--domain", DOMAIN.name, "--models", manifest, "--out", str(tmp_path / "here"), "--period-days", "7"]) == 0
    output = capsys.readouterr()
    result = json.loads(output.out)
    assert result["models"] == result["periods"] == 3
    assert result["sentence"] in output.err
    lines = [line for line in output.err.splitlines() if line.startswith("2026-01-")]
    assert [len(line.split()) for line in lines] == [2 + 3, 2 + 2], "date, hour, and a value for each later week"
    rows = (tmp_path / "here" / "ageing.csv").read_text().splitlines()
    assert len(rows) == 1 + 6
    assert len({row.count(",") for row in rows}) == 1
    page = (tmp_path / "here" / "report.html").read_text()
    assert page.encode() == store.get(store.key(result["reports"]["report"]))
    assert result["sentence"].split("(")[0] in page
    assert "<script" not in page
    assert "http" not in page, "the page asks the network for nothing"
    assert page.count("<svg") >= 6
