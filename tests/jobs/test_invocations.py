from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from dataset_parts import events, train_in
from hypothesis import given, settings
from hypothesis import strategies as st

from include.jobs import model_file
from include.jobs.dataset_file import DatasetFile
from include.jobs.invocations import CSV, JSON, JSON_LINES, RequestError, answer
from include.lifecycle.calibration import log_odds

FEATURES = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> model_file.Model:
    return model_file.load(train_in(tmp_path_factory.mktemp("ml"), rows=800, features=FEATURES))


@pytest.fixture(scope="module")
def rows(model: model_file.Model) -> model_file.Matrix:
    return DatasetFile("test", events(20, 9, FEATURES)).matrix(model.features)


def as_csv(rows: model_file.Matrix) -> bytes:
    return "\n".join(",".join("" if np.isnan(value) else repr(float(value)) for value in row) for row in rows).encode()


def as_instances(model: model_file.Model, rows: model_file.Matrix) -> list[dict[str, float]]:
    return [{name: float(v) for name, v in zip(model.features, row, strict=True) if not np.isnan(v)} for row in rows]


def test_every_form_of_the_same_rows_gets_the_same_scores(model: model_file.Model, rows: model_file.Matrix) -> None:
    expected = model.scores(rows).tolist()
    named = as_instances(model, rows)
    listed = [[None if np.isnan(value) else float(value) for value in row] for row in rows]
    for body, content_type in (
        (as_csv(rows), CSV),
        (as_csv(rows) + b"\r\n", "text/csv; charset=utf-8"),
        (json.dumps({"instances": named}).encode(), JSON),
        (json.dumps({"instances": listed}).encode(), JSON),
        ("\n".join(map(json.dumps, named)).encode(), JSON_LINES),
        ("\n".join(map(json.dumps, listed)).encode() + b"\n\n", JSON_LINES),
    ):
        as_text = answer(model, body, content_type, CSV)
        assert as_text.content_type == CSV
        assert [float(line) for line in as_text.body.decode().splitlines()] == pytest.approx(expected, abs=1e-9)
        in_json = json.loads(answer(model, body, content_type, JSON).body)
        assert in_json == {"predictions": [{"score": score} for score in expected]}
        lines = answer(model, body, content_type, JSON_LINES).body.decode().splitlines()
        assert [json.loads(line)["score"] for line in lines] == expected


def test_without_accept_the_answer_is_of_the_request_s_type(model: model_file.Model, rows: model_file.Matrix) -> None:
    for body, content_type in ((as_csv(rows), CSV), (json.dumps({"instances": as_instances(model, rows)}).encode(), JSON)):
        assert answer(model, body, content_type).content_type == content_type
        assert answer(model, body, content_type, "*/*").content_type == content_type
        assert answer(model, body, content_type, "text/html, application/json;q=0.9").content_type == JSON


def test_reasons_are_the_strongest_contributions_and_sum_to_the_score(model: model_file.Model, rows: model_file.Matrix) -> None:
    instances = as_instances(model, rows[:3])
    [first, *_] = json.loads(answer(model, json.dumps({"instances": instances, "reasons": FEATURES}).encode(), JSON).body)["predictions"]
    bias = model.contributions(rows[:1])[0, -1]
    assert sum(reason["contribution"] for reason in first["reasons"]) + bias == pytest.approx(float(log_odds(first["score"])), abs=1e-3)
    by_header = answer(model, as_csv(rows[:1]), CSV, JSON, "trace=7;reasons=2")
    assert json.loads(by_header.body)["predictions"] == [{"score": first["score"], "reasons": first["reasons"][:2]}]
    strengths = [abs(reason["contribution"]) for reason in first["reasons"]]
    assert strengths == sorted(strengths, reverse=True)
    missing = [reason["value"] for reason in first["reasons"] if reason["feature"] not in instances[0]]
    assert set(missing) <= {None}


BAD = [
    (b"", CSV, "the body is empty", 400),
    (b" \n", CSV, "the body is empty", 400),
    (b"1,2,3", CSV, "line 1 has 3 values, but the model has 5 features", 400),
    (b"1,2,3,4,5\n1,2,3,4,5,6", CSV, "line 2 has 6 values", 400),
    (b"1,2,x,4,5", CSV, "line 1, value 3: 'x' is not a number", 400),
    (b"feature_0,feature_1,feature_2,feature_3,feature_4\n1,2,3,4,5", CSV, "line 1, value 1: 'feature_0' is not a number", 400),
    (b"1,2,inf,4,5", CSV, "line 1, value 3: inf is not a finite number", 400),
    (b"1,2,nan,4,5", CSV, "leave a missing value empty", 400),
    (b"1,2,1_0,4,5", CSV, "'1_0' is not a number", 400),
    (b"1,2,1e39,4,5", CSV, "1e+39 is not a finite number of 32 bits", 400),
    (b"\xff\xfe", CSV, "not UTF-8", 400),
    (b"", JSON, "the body is empty", 400),
    (b"{", JSON, "not JSON", 400),
    (b"[" * 100_000, JSON, "not JSON", 400),
    (b"[]", JSON, '{"instances": [', 400),
    (b'{"instances": []}', JSON, "at least one instance", 400),
    (b'{"instances": [{}], "model": 1}', JSON, "unknown members 'model'", 400),
    (b'{"instances": [{"witnesses": 1}]}', JSON, "instance 1: the model has no feature 'witnesses'", 400),
    (b'{"instances": [[1, 2]]}', JSON, "instance 1 has 2 values", 400),
    (b'{"instances": [5]}', JSON, "instance 1 must be an object", 400),
    (b'{"instances": [{"feature_0": "1"}]}', JSON, "instance 1, feature_0: '1' is not a number", 400),
    (b'{"instances": [{"feature_0": true}]}', JSON, "True is not a number", 400),
    (b'{"instances": [{"feature_0": NaN}]}', JSON, "nan is not a finite number", 400),
    (b'{"instances": [{"feature_0": -Infinity}]}', JSON, "-inf is not a finite number", 400),
    (b'{"instances": [{"feature_0": 1' + b"0" * 400 + b"}]}", JSON, "is not a finite number", 400),
    (b'{"instances": [{"feature_0": 1}], "reasons": 0}', JSON, "reasons: 0 is not a whole number from 1 to 5", 400),
    (b'{"instances": [{"feature_0": 1}], "reasons": true}', JSON, "reasons: True is not", 400),
    (b'{"feature_0": 1}\n{"feature_0": }', JSON_LINES, "line 2: not JSON", 400),
    (b"1,2,3,4,5", "application/x-recordio-protobuf", "Content-Type 'application/x-recordio-protobuf' is not supported", 415),
    (b"1,2,3,4,5", "", "Content-Type '' is not supported", 415),
]


@pytest.mark.parametrize(("body", "content_type", "message", "status"), BAD)
def test_what_cannot_be_answered_is_refused_with_the_reason(
    model: model_file.Model, body: bytes, content_type: str, message: str, status: int
) -> None:
    with pytest.raises(RequestError) as refused:
        answer(model, body, content_type)
    assert message in str(refused.value)
    assert refused.value.status == status
    assert len(str(refused.value)) < 300


def test_answers_that_do_not_exist_are_refused(model: model_file.Model) -> None:
    with pytest.raises(RequestError, match="accept one of text/csv") as refused:
        answer(model, b"1,2,3,4,5", CSV, "text/html")
    assert refused.value.status == 406
    with pytest.raises(RequestError, match="do not fit into text/csv"):
        answer(model, b"1,2,3,4,5", CSV, CSV, "reasons=2")
    for header in ("reasons=0", "reasons=6", "reasons=many", "reasons="):
        with pytest.raises(RequestError, match="whole number from 1 to 5"):
            answer(model, b"1,2,3,4,5", CSV, JSON, header)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([CSV, JSON, JSON_LINES]))
def test_no_body_brings_it_down(model: model_file.Model, body: bytes, content_type: str) -> None:
    with contextlib.suppress(RequestError):
        answer(model, body, content_type)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="0123456789+-.eEnaif_,\n ", max_size=40))
def test_no_number_is_taken_for_another(model: model_file.Model, text: str) -> None:
    """Whatever is accepted is read as float() reads it, and nothing infinite or undefined is."""
    body = f"{text.replace(',', '').replace(chr(10), '')},2,3,4,5"
    try:
        given_score = float(answer(model, body.encode(), CSV).body)
    except RequestError:
        return
    cell = body.split(",")[0].strip()
    row = np.array([[float(cell) if cell else np.nan, 2, 3, 4, 5]], np.float32)
    assert np.isfinite(row[0, 0]) or not cell
    assert given_score == pytest.approx(float(model.scores(row)[0]), abs=1e-8)
