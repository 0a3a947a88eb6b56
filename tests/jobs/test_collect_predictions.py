"""Capture files into predictions: what becomes a row, what is quarantined and why, and that neither order nor repetition changes anything."""

from __future__ import annotations

import base64
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from capture_files import NOON, PACKAGE, line, put_file, seconds, serve
from claims_store import DOMAIN, LAYOUT, contents, run
from dataset_parts import train_in
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scored_claims import MODEL_KEY, packed

from include import domains
from include.jobs import captured_requests
from include.jobs.collect_predictions import PATIENCE, QUARANTINED, UNKNOWN_EVENT, UNKNOWN_MODEL, first_answers
from include.jobs.context import JobError
from include.jobs.model_archive import open_model
from include.lifecycle.delivery import Delivery
from include.stores.objects import ObjectStore
from include.stores.partitions import Partitions
from include.stores.quarantine import Quarantine

DAY = date(2026, 4, 2)
VALUES = [1.5, None, 0.1, -3.0, 1e-12, 2.0, None, 7.25]
PARTS = ("rows", "duplicates", "already_collected", "quarantined", "pending")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A model of eight features, feature_0 to feature_7."""
    return packed(train_in(tmp_path_factory.mktemp("model"), rows=1_200))


@pytest.fixture
def store(bucket: ObjectStore, archive: bytes) -> ObjectStore:
    bucket.put(MODEL_KEY, archive)
    serve(bucket, MODEL_KEY)
    return bucket


def collect(objects: ObjectStore, *more: str) -> dict[str, Any]:
    result = run("collect_predictions", objects, *more)
    assert result["requests"] == sum(result[part] for part in PARTS), "what came in went somewhere, once"
    assert sum(result["reasons"].values()) == result["quarantined"]
    return result


def stored(objects: ObjectStore, day: date = DAY) -> pa.Table:
    rows = Partitions(objects, LAYOUT.endpoint_predictions).read(day)
    assert rows is not None
    return rows


def predictions(objects: ObjectStore) -> dict[str, bytes]:
    return contents(objects, f"{LAYOUT.endpoint_predictions}/")


def quarantined(objects: ObjectStore, name: str = "00-00-000-a") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (
        Quarantine(objects, LAYOUT).read(Delivery(f"{QUARANTINED}/dt={DAY}/c1/endpoint/champion/12/{name}.jsonl")).to_pylist()
    )
    return rows


def test_a_request_becomes_a_row(store: ObjectStore) -> None:
    put_file(store, [line(VALUES, "P7", 0.125, capture_id="id-1", asked=seconds(3))])
    result = collect(store)
    assert (result["rows"], result["days"], result["first_day"], result["last_day"]) == (1, ["2026-04-02"], "2026-04-02", "2026-04-02")
    [row] = stored(store).to_pylist()
    assert row == {
        "event_id": "P7",
        "event_time": datetime(2026, 4, 2, 10, tzinfo=UTC),
        "score": 0.125,
        "model_package": PACKAGE,
        "model": store.uri(MODEL_KEY),
        "variant": "champion",
        "inference_time": seconds(3),
        "capture_id": "id-1",
    } | {f"feature_{number}": value for number, value in enumerate(VALUES)}


def test_every_way_to_ask_and_answer_is_read(store: ObjectStore) -> None:
    named = {f"feature_{number}": value for number, value in enumerate(VALUES) if value is not None}
    in_json = {"observedContentType": "application/json; charset=utf-8", "encoding": "JSON"}
    explained = json.dumps({"predictions": [{"score": 0.5, "reasons": [{"feature": "feature_0", "value": 1.0, "contribution": 2.0}]}]})
    csv = ",".join("" if value is None else repr(value) for value in VALUES).encode()
    json_lines = {"observedContentType": "application/jsonlines", "encoding": "JSON"}
    put_file(store, [
        line(VALUES, "csv", 0.5),
        line([], "named", input=in_json | {"data": json.dumps({"instances": [named], "reasons": 1})}, output=in_json | {"data": explained}),
        line([], "listed", 0.5, input=in_json | {"data": json.dumps({"instances": [VALUES]})}),
        line([], "lines", input=json_lines | {"data": json.dumps(VALUES) + "\n"}, output=json_lines | {"data": '{"score": 0.5}\n'}),
        line([], "bytes", 0.5, input={"data": base64.b64encode(csv).decode(), "encoding": "BASE64"}),
        line(VALUES, "attributes", 0.5, attributes="reasons=3, event_time=2026-04-02T12:00:00+02:00;x=1"),
    ])  # fmt: skip
    assert collect(store)["rows"] == 6
    rows = stored(store).to_pylist()
    assert {row["event_id"] for row in rows} == {"csv", "named", "listed", "lines", "bytes", "attributes"}
    for row in rows:
        assert row["score"] == 0.5
        assert row["event_time"] == datetime(2026, 4, 2, 10, tzinfo=UTC)
        assert [row[f"feature_{number}"] for number in range(8)] == VALUES, row["event_id"]


def test_what_cannot_be_a_row_is_quarantined_with_its_reason_and_the_rest_is_taken(store: ObjectStore) -> None:
    good = line(VALUES)
    several = {"data": "\n".join([",".join(["1"] * 8)] * 2)}
    bad = [
        (good[: len(good) // 2], captured_requests.NOT_JSON),
        (b"\xff\xfe", captured_requests.NOT_JSON),
        (b"[" * 100_000, captured_requests.NOT_JSON),
        (b"[1]", captured_requests.NOT_CAPTURED),
        (b'{"eventMetadata": {"eventId": "x", "inferenceTime": "yesterday"}, "captureData": {}}', captured_requests.NOT_CAPTURED),
        (line(VALUES, output={"data": None}), captured_requests.NOT_CAPTURED),
        (line(VALUES, input={"data": "%", "encoding": "BASE64"}), captured_requests.NOT_CAPTURED),
        (line(VALUES, input={"encoding": "XML"}), captured_requests.NOT_CAPTURED),
        (line(VALUES, None), captured_requests.NO_INFERENCE_ID),
        (line(VALUES, "P2", input=several, output={"data": "0.1\n0.2\n"}), captured_requests.SEVERAL_EVENTS),
        (line(VALUES[:-1], "P3"), captured_requests.BAD_REQUEST),
        (line(VALUES, "P4", input={"observedContentType": "image/png"}), captured_requests.BAD_REQUEST),
        (line(VALUES, "P5", float("nan")), captured_requests.BAD_ANSWER),
        (line(VALUES, "P6", output={"data": '{"error": 1}', "observedContentType": "application/json"}), captured_requests.BAD_ANSWER),
        (line(VALUES, "P7", output={"data": "0.1\n0.2\n"}), captured_requests.BAD_ANSWER),
        (line(VALUES, "P8", attributes="event_time=2026-04-02T10:00:00"), captured_requests.BAD_EVENT_TIME),
        (line(VALUES, "P9", attributes="event_time=0001-01-01T00:00:00+10:00"), captured_requests.BAD_EVENT_TIME),
    ]
    put_file(store, [good, *(text for text, _ in bad), b"", line(VALUES, "last")])
    result = collect(store)
    assert (result["requests"], result["rows"], result["quarantined"]) == (len(bad) + 2, 2, len(bad))
    entries = quarantined(store)
    assert [(entry["record"], entry["original"], entry["reasons"]) for entry in entries] == [
        (record, text, [reason]) for record, (text, reason) in enumerate(bad, 2)
    ]
    assert [entry["key"] for entry in entries if entry["key"]] == ["P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9"]
    assert "7 values" in entries[10]["detail"]


def test_a_file_that_was_cut_off_gives_what_is_whole(store: ObjectStore) -> None:
    whole, cut = line(VALUES, "whole"), line(VALUES, "cut")
    put_file(store, [whole, cut[:200]], end=b"")
    result = collect(store)
    assert (result["rows"], result["reasons"]) == (1, {captured_requests.NOT_JSON: 1})
    assert collect(store)["requests"] == 0, "it was read to its end"
    put_file(store, [whole, cut])  # the file arrives whole after all
    again = collect(store)
    assert (again["rows"], again["already_collected"]) == (1, 1)
    assert not contents(store, f"{LAYOUT.domain}/quarantine/"), "nothing is wrong with it any more"


def test_of_several_answers_the_first_stands_for_each_variant(store: ObjectStore) -> None:
    serve(store, MODEL_KEY, variants=("champion", "shadow"))
    put_file(store, [line(VALUES, "P1", 0.3, asked=seconds(9)), line(VALUES, "P1", 0.2, asked=seconds(5), capture_id="b")])
    put_file(store, [line(VALUES, "P1", 0.9, asked=seconds(9))], variant="shadow")
    result = collect(store)
    assert (result["rows"], result["duplicates"]) == (2, 1)
    assert {(row["variant"], row["score"]) for row in stored(store).to_pylist()} == {("champion", 0.2), ("shadow", 0.9)}
    put_file(store, [line(VALUES, "P1", 0.1, asked=seconds(1)), line(VALUES, "P2", asked=seconds(1))], "00-00-000-b")
    put_file(store, [line(VALUES, "P1", 0.4, asked=seconds(5), capture_id="a")], "00-00-000-c")
    result = collect(store)
    assert (result["rows"], result["duplicates"], result["days"]) == (1, 2, ["2026-04-02"])
    rows = {(row["event_id"], row["variant"]): row["score"] for row in stored(store).to_pylist()}
    assert rows == {("P1", "champion"): 0.1, ("P1", "shadow"): 0.9, ("P2", "champion"): 0.25}


def test_running_again_changes_nothing_and_a_late_file_adds_to_its_day(store: ObjectStore) -> None:
    put_file(store, [line(VALUES, "P2"), line(VALUES, "P3", attributes="event_time=2026-04-01T23:59:59.999999Z")])
    assert collect(store)["days"] == ["2026-04-01", "2026-04-02"]
    first = contents(store, f"{LAYOUT.domain}/")
    assert collect(store) == {
        **dict.fromkeys(("files", "requests", *PARTS), 0),
        "reasons": {}, "days": [], "first_day": None, "last_day": None, "without_model": [],
    }  # fmt: skip
    assert contents(store, f"{LAYOUT.domain}/") == first
    put_file(store, [line(VALUES, "P1")], "59-59-999-z", hour=NOON + timedelta(days=3))
    assert collect(store)["days"] == ["2026-04-02"]
    assert stored(store)["event_id"].to_pylist() == ["P1", "P2"]
    assert predictions(store)["dt=2026-04-01/data.parquet"] == first["predictions/endpoint/dt=2026-04-01/data.parquet"]


def test_nothing_captured_is_no_error(bucket: ObjectStore) -> None:
    result = collect(bucket)
    assert (result["files"], result["requests"], result["days"], result["first_day"]) == (0, 0, [], None)
    assert not list(bucket.list(""))


def test_captures_of_some_hours(store: ObjectStore) -> None:
    for number in range(3):
        put_file(store, [line(VALUES, f"P{number}")], hour=NOON + timedelta(hours=number))
    assert collect(store, "--since", "2026-04-02T13:00:00Z", "--until", "2026-04-02T14:00:00Z")["rows"] == 1
    assert stored(store)["event_id"].to_pylist() == ["P1"]
    assert collect(store)["rows"] == 2


def test_an_event_without_a_time_waits_until_it_is_curated(own_claims: ObjectStore, tmp_path: Path) -> None:
    serve(own_claims, MODEL_KEY)
    features = Partitions(own_claims, LAYOUT.features).read(DAY)
    assert features is not None
    event, happened = features["event_id"][0].as_py(), features["event_time"][0].as_py()
    values = [0.0] * len(open_model(own_claims, own_claims.uri(MODEL_KEY), tmp_path, domains.get(DOMAIN)).features)
    put_file(own_claims, [line(values, event, attributes="reasons=1"), line(values, "987654321", attributes=None)])
    result = collect(own_claims)
    assert (result["rows"], result["pending"], result["days"]) == (1, 1, [str(DAY)])
    assert stored(own_claims)["event_time"].to_pylist() == [happened]

    rows = Partitions(own_claims, LAYOUT.curated("claims")).read(DAY)
    assert rows is not None
    policy = rows.schema.field("policy_id")
    late = rows.slice(0, 1).set_column(rows.schema.get_field_index("policy_id"), policy, pa.array([987654321], policy.type))
    Partitions(own_claims, LAYOUT.curated("claims")).write(DAY, pa.concat_tables([rows, late]))
    result = collect(own_claims)
    assert (result["rows"], result["already_collected"], result["pending"]) == (1, 1, 0)
    assert set(stored(own_claims)["event_id"].to_pylist()) == {event, "987654321"}
    assert collect(own_claims)["requests"] == 0


def test_nobody_waits_for_ever(store: ObjectStore) -> None:
    """Neither for an event that never comes nor for a configuration that does not say what it serves."""
    put_file(store, [line(VALUES, "never", attributes=None)])
    put_file(store, [line(VALUES, "whose")], configuration="stranger")
    result = collect(store)
    assert (result["pending"], result["quarantined"], result["without_model"]) == (2, 0, ["stranger"])
    put_file(store, [], hour=NOON + PATIENCE)
    assert collect(store)["pending"] == 2
    put_file(store, [], "00-00-000-b", hour=NOON + PATIENCE + timedelta(hours=1))
    result = collect(store)
    assert (result["pending"], result["reasons"]) == (0, {UNKNOWN_EVENT: 1, UNKNOWN_MODEL: 1})
    assert collect(store)["files"] == 0
    assert [entry["key"] for entry in quarantined(store)] == ["never"]


def test_models_of_different_features_share_a_day(store: ObjectStore, tmp_path: Path) -> None:
    store.put("small.tar.gz", packed(train_in(tmp_path, rows=1_200, features=3)))
    serve(store, "small.tar.gz", "c2")
    put_file(store, [line(VALUES, "P1")])
    put_file(store, [line([1.0, 2.0, 3.0], "P2")], configuration="c2")
    assert collect(store)["rows"] == 2
    first, second = stored(store).to_pylist()
    assert [first[f"feature_{number}"] for number in range(8)] == VALUES
    assert [second[f"feature_{number}"] for number in range(8)] == [1.0, 2.0, 3.0, *[None] * 5]


def test_what_is_damaged_beyond_the_captures_is_told(store: ObjectStore) -> None:
    put_file(store, [line(VALUES)])
    store.put(f"{LAYOUT.captured('c1')}/variants.json", b'{"champion": 1}')
    with pytest.raises(JobError, match=r"c1/variants\.json is not"):
        collect(store)
    serve(store, "nowhere.tar.gz")
    with pytest.raises(JobError, match=r"nowhere\.tar\.gz does not exist"):
        collect(store)
    assert not predictions(store)


REQUESTS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["champion", "shadow"]), st.integers(0, 3), st.integers(0, 9), st.booleans()),
    min_size=1,
    max_size=25,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=REQUESTS, data=st.data())
def test_order_repetition_and_division_of_files_change_nothing(store: ObjectStore, requests: list[Any], data: st.DataObject) -> None:
    """Events 0 to 5 on two days, asked about several times and by two variants; some lines are cut off."""
    serve(store, MODEL_KEY, variants=("champion", "shadow"))
    lines = []
    for number, (event, variant, second, score, cut) in enumerate(requests):
        attributes = f"event_time=2026-04-0{1 + event % 2}T0{event}:00:00Z"
        text = line([float(event)] * 8, f"P{event}", score / 10, asked=seconds(second), attributes=attributes, capture_id=f"id-{number}")
        lines.append((variant, text[:100] if cut else text))

    def put(some: list[tuple[str, bytes]], name: str) -> None:
        for variant in ("champion", "shadow"):
            put_file(store, [text for of, text in some if of == variant], name, variant=variant)

    def forget() -> None:
        for prefix in ("captured/c1/endpoint/", "predictions/", "quarantine/"):
            for info in list(store.list(f"{LAYOUT.domain}/{prefix}")):
                store.delete(info.key)

    forget()
    put(lines, "all")
    rows = collect(store)["rows"]
    at_once = predictions(store)
    found = {(row["event_id"], row["variant"]): row["score"] for day in (DAY - timedelta(days=1), DAY) for row in rows_of(store, day)}
    expected: dict[tuple[str, str], list[tuple[int, str, float]]] = {}
    for number, (event, variant, second, score, cut) in enumerate(requests):
        if not cut:
            expected.setdefault((f"P{event}", variant), []).append((second, f"id-{number}", score / 10))
    assert found == {key: min(answers)[2] for key, answers in expected.items()}
    assert rows == len(found)

    forget()
    shuffled = data.draw(st.permutations(lines)) + data.draw(st.lists(st.sampled_from(lines), max_size=5))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(shuffled)), max_size=3)))
    in_parts = 0
    for number, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(shuffled)], strict=True)):
        put(shuffled[start:end], f"part-{9 - number}")
        if data.draw(st.booleans()):
            in_parts += collect(store)["rows"]
    in_parts += collect(store)["rows"]
    assert in_parts == rows
    assert predictions(store) == at_once


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["\ud800", "1e999", "9" * 5000, "CSV"]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=6,
)
PLACES = [
    ("captureData",), ("captureData", "endpointInput"), ("captureData", "endpointOutput"), ("eventMetadata",),
    *(("captureData", side, name) for side in ("endpointInput", "endpointOutput") for name in ("data", "encoding", "observedContentType")),
    *(("eventMetadata", name) for name in ("eventId", "inferenceId", "inferenceTime", "customAttributes")),
]  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(damage=st.lists(st.tuples(st.sampled_from(PLACES), ANYTHING), min_size=1, max_size=3), noise=st.binary(max_size=20))
def test_no_line_makes_the_job_fail(store: ObjectStore, damage: list[tuple[tuple[str, ...], Any]], noise: bytes) -> None:
    content = json.loads(line(VALUES))
    for place, value in damage:
        inner = content
        for name in place[:-1]:
            inner = inner.get(name) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner[place[-1]] = value
    put_file(store, [json.dumps(content).encode(), noise.replace(b"\n", b""), line(VALUES, "good")])
    for info in list(store.list(f"{LAYOUT.domain}/predictions/")):
        store.delete(info.key)
    result = collect(store)
    assert "good" in stored(store)["event_id"].to_pylist()
    assert result["rows"] + result["duplicates"] + result["pending"] + result["quarantined"] == result["requests"]


def rows_of(objects: ObjectStore, day: date) -> list[dict[str, Any]]:
    rows = Partitions(objects, LAYOUT.endpoint_predictions).read(day)
    return [] if rows is None else rows.to_pylist()


def test_first_answers_of_many_rows_quickly() -> None:
    """A day of a hundred thousand events, each answered twice, within seconds."""
    count = 100_000
    times = pa.array(np.full(count, NOON.replace(tzinfo=None), "datetime64[us]"), pa.timestamp("us", "UTC"))
    texts = {name: pa.array([name] * count) for name in ("model_package", "model", "variant")}
    ids = pa.array([f"E{number}" for number in range(count)])
    base = {"event_id": ids, "event_time": times, "score": np.zeros(count), **texts, "inference_time": times}
    one = pa.table(base | {"capture_id": pa.array(["a"] * count), "feature": np.zeros(count)})
    two = pa.table(base | {"capture_id": pa.array(["b"] * count), "feature": np.ones(count)})
    rows = first_answers([two, one])
    assert rows.num_rows == count
    assert set(rows["capture_id"].to_pylist()) == {"a"}
