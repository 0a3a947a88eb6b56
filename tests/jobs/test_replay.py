"""Days of stored events through a real endpoint, captured by it, and collected into predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from claims_store import DOMAIN, LAYOUT, contents, run
from live_endpoint import CONFIGURATION, PACKAGE, LiveEndpoint, live_endpoint
from scored_claims import MODEL_KEY

from include import domains
from include.jobs import model_archive, replay
from include.jobs.context import JobError
from include.jobs.dataset_file import DatasetFile
from include.jobs.replay_targets import EndpointTarget, Event
from include.stores.objects import ObjectStore
from include.stores.partitions import Partitions

FIRST, LAST = date(2026, 4, 1), date(2026, 4, 3)


@pytest.fixture
def live(own_claims: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveEndpoint]:
    with live_endpoint(own_claims, tmp_path) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", endpoint.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", endpoint.url)
        yield endpoint


def sent(objects: ObjectStore, *more: str, first: date = FIRST, last: date = LAST) -> dict[str, Any]:
    return run("replay", objects, "--first-day", str(first), "--last-day", str(last), *more)


def events_of(objects: ObjectStore, day: date) -> int:
    rows = Partitions(objects, LAYOUT.features).read(day)
    assert rows is not None
    return int(rows.num_rows)


def test_days_go_through_the_endpoint_and_become_predictions(
    live: LiveEndpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = live.objects
    counts = {FIRST + timedelta(days=number): events_of(objects, FIRST + timedelta(days=number)) for number in range(3)}
    result = sent(objects, "--wait-for-captures", "30")
    assert result["captured"] == result["events"]
    assert [(day["day"], day["events"]) for day in result["days"]] == [(str(day), count) for day, count in counts.items()]
    assert (result["endpoint"], result["configuration"]) == ("auto-claims-endpoint", CONFIGURATION)
    assert result["events"] == sum(counts.values())
    assert "2026-04-02: " in capsys.readouterr().err
    assert live.captured(0) == result["events"]

    collected = run("collect_predictions", objects)
    assert collected["rows"] == collected["requests"] == result["events"]
    assert collected["days"] == [str(day) for day in counts]
    for day in counts:
        features = Partitions(objects, LAYOUT.features).read(day)
        found = Partitions(objects, LAYOUT.endpoint_predictions).read(day)
        model = model_archive.open_model(objects, objects.uri(MODEL_KEY), tmp_path / str(day), domains.get(DOMAIN))
        for name in ("event_id", "event_time"):
            assert found[name].to_pylist() == features.sort_by("event_time")[name].to_pylist()
        stored = DatasetFile("features", features.sort_by("event_time"))
        for name in model.features:
            np.testing.assert_array_equal(DatasetFile("found", found).numbers(name), stored.numbers(name), name)
        np.testing.assert_allclose(found["score"].to_numpy(), model.scores(stored.matrix(model.features)), rtol=1e-6)
        assert set(found["model_package"].to_pylist()) == {PACKAGE}
        assert set(found["variant"].to_pylist()) == {"champion"}

    before = contents(objects, f"{LAYOUT.domain}/predictions")
    again = sent(objects)
    assert again["captured"] is None
    assert (again["events"], again["skipped_days"]) == (0, [str(day) for day in counts])
    assert sent(objects, "--again", "--percentage", "50", last=FIRST)["events"] < counts[FIRST]
    live.captured(result["events"] + 1)
    repeated = run("collect_predictions", objects)
    assert repeated["rows"] == 0
    assert repeated["duplicates"] == repeated["requests"] > 0
    after = contents(objects, f"{LAYOUT.domain}/predictions")
    assert {key: after[key] for key in before if "/endpoint/" in key} == {key: before[key] for key in before if "/endpoint/" in key}


def test_a_feature_that_broke_is_missing_from_every_request(live: LiveEndpoint) -> None:
    objects = live.objects
    assert sent(objects, "--missing", "injury_claim", "--missing", "vehicle_claim", "--wait-for-captures", "30", last=FIRST)["events"] > 0
    run("collect_predictions", objects)
    found = Partitions(objects, LAYOUT.endpoint_predictions).read(FIRST)
    assert found is not None
    assert found["injury_claim"].null_count == found["vehicle_claim"].null_count == len(found)
    assert found["claim_to_premium"].null_count < len(found)


def test_labels_are_delivered_as_days_pass_and_all_files_when_asked(live: LiveEndpoint, tmp_path: Path) -> None:
    objects, folder = live.objects, tmp_path / "landing"
    for table in ("claims", "customers", "labels"):
        for number in range(-1, 4):
            day = FIRST + timedelta(days=number)
            (folder / table / f"dt={day}").mkdir(parents=True)
            (folder / table / f"dt={day}" / "late.csv").write_text(f"{table} {day}\n")

    def landed() -> set[str]:
        keys = (info.key.removeprefix(f"{LAYOUT.domain}/raw/") for info in objects.list(f"{LAYOUT.domain}/raw/"))
        return {key for key in keys if key.endswith("late.csv")}

    result = sent(objects, "--landing", str(folder), "--percentage", "20", last=FIRST + timedelta(days=1))
    assert landed() == {f"labels/dt={day}/late.csv" for day in ("2026-04-01", "2026-04-02")}
    assert result["landed"] == [objects.uri(f"{LAYOUT.domain}/raw/{key}") for key in sorted(landed())]
    assert objects.get(LAYOUT.landing("labels", FIRST, "late.csv")) == b"labels 2026-04-01\n"
    calm = sent(objects, "--landing", str(folder), "--land", "all", "--only-land")
    assert (calm["events"], len(calm["landed"])) == (0, 9)
    assert landed() == {
        f"{table}/dt={FIRST + timedelta(days=day)}/late.csv" for table in ("claims", "customers", "labels") for day in range(3)
    }


def test_a_day_that_changed_or_went_through_in_part_is_sent_again(live: LiveEndpoint) -> None:
    objects = live.objects
    part = sent(objects, "--percentage", "30", last=FIRST)["events"]
    assert sent(objects, "--percentage", "20", last=FIRST)["skipped_days"] == [str(FIRST)]
    whole = sent(objects, last=FIRST)["events"]
    assert 0 < part < whole == events_of(objects, FIRST)
    features = Partitions(objects, LAYOUT.features)
    rows = features.read(FIRST)
    assert rows is not None
    features.write(FIRST, rows.slice(1))
    assert sent(objects, last=FIRST)["events"] == whole - 1
    assert sent(objects, first=date(2031, 1, 1), last=date(2031, 1, 2))["days_without_features"] == ["2031-01-01", "2031-01-02"]


def test_the_rate_is_kept(live: LiveEndpoint) -> None:
    result = sent(live.objects, "--rate", "40", "--connections", "8", last=FIRST)
    expected = (result["events"] - 1) / 40
    assert expected <= result["seconds"] < expected + 1.5


def test_what_cannot_be_replayed_says_why(live: LiveEndpoint) -> None:
    objects, sagemaker = live.objects, live.client("sagemaker")

    def refused(message: str, *more: str) -> None:
        with pytest.raises(JobError, match=message):
            sent(objects, *more)

    refused("there is no endpoint nobody: deploy", "--endpoint", "nobody")
    refused("--rate wants", "--rate", "0")
    refused("--percentage wants", "--percentage", "101")
    refused("--connections wants", "--connections", "0")
    refused("--only-land wants --landing", "--only-land")
    refused("--api-key-file is for a --gateway", "--api-key-file", "key")
    refused("--missing no_such: the model of auto-claims-endpoint has no such feature; it has ", "--missing", "no_such")
    refused("is no address: http", "--gateway", "ftp://here")
    refused("--api-key-file /no/such/file cannot be read", "--gateway", "http://127.0.0.1:1", "--api-key-file", "/no/such/file")
    refused("is not a folder", "--landing", "/no/such/folder")
    with pytest.raises(JobError, match="lies before the first"):
        sent(objects, first=LAST, last=FIRST)

    features = Partitions(objects, LAYOUT.features)
    rows = features.read(FIRST)
    assert rows is not None
    features.write(FIRST, rows.drop_columns(["injury_claim"]))
    refused("dt=2026-04-01/data.parquet lacks 1 of the model's .* features: injury_claim")
    ids = pa.array(["é", *rows["event_id"].to_pylist()[1:]])
    features.write(FIRST, rows.set_column(rows.schema.get_field_index("event_id"), "event_id", ids))
    refused("1 event ids cannot be inference ids, .*: 'é'")
    features.write(FIRST, rows)
    objects.delete(f"{LAYOUT.captured(CONFIGURATION)}/variants.json")
    refused(r"variants\.json is missing")

    variant = {"VariantName": "champion", "ModelName": "champion", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(EndpointConfigName="silent", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="silent", EndpointConfigName="silent")
    refused("is Creating", "--endpoint", "silent")
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="silent", WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    refused("captures nothing under s3://", "--endpoint", "silent")


class Flaky:
    """A runtime whose answers are as told, then good ones."""

    def __init__(self, *answers: Exception) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def invoke_endpoint(self, **request: Any) -> dict[str, Any]:
        self.asked.append(request["InferenceId"])
        if self.answers:
            raise self.answers.pop(0)
        return {"Body": BytesIO(b"0.5\n")}


def error(code: str, status: int, original: int | None = None) -> ClientError:
    response: dict[str, Any] = {"Error": {"Code": code, "Message": "why"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response | ({"OriginalStatusCode": original} if original else {}), "InvokeEndpoint")  # type: ignore[arg-type]


def test_what_may_pass_is_tried_again_and_what_will_not_ends_the_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_WAITS", (0.2, 0.0))
    moment = datetime(2026, 4, 1, tzinfo=UTC)
    events = [Event(f"E{number}", moment, None, 1.0, (0.5, math.nan)) for number in range(3)]

    def asked(*answers: Exception) -> list[str]:
        runtime = Flaky(*answers)
        count: list[int] = []
        longest = replay.Sender(EndpointTarget(runtime, "e"), connections=1).send(events, lambda: count.append(1))
        assert len(count) == 3
        assert longest >= 0.2 * (len(runtime.asked) > 3), "the wait before another try is a part of it"
        return runtime.asked

    assert asked() == ["E0", "E1", "E2"]
    assert asked(error("ServiceUnavailable", 503), EndpointConnectionError(endpoint_url="x")) == ["E0", "E0", "E0", "E1", "E2"]
    assert asked(error("ModelError", 424, 500), error("ThrottlingException", 400)) == ["E0", "E0", "E0", "E1", "E2"]
    for answers in ([error("ModelError", 424, 400)], [error("ValidationError", 400)], [error("ServiceUnavailable", 503)] * 3):
        runtime = Flaky(*answers)
        with pytest.raises(JobError, match=r"event E0: e did not answer: .*why"):
            replay.Sender(EndpointTarget(runtime, "e"), connections=1).send(events, lambda: None)
        assert runtime.asked == ["E0"] * len(answers)
