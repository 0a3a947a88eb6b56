"""Data capture: what endpoints write to S3, in the documented format, and what is lost by a kill."""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sagemaker_lab import BUCKET, Server, error_of
from waiting import wait_until

INTERVAL = {"capture-interval": "0.3"}
KEY = re.compile(r"(?P<endpoint>[^/]+)/(?P<variant>[^/]+)/\d{4}/\d\d/\d\d/\d\d/\d\d-\d\d-\d{3}-[0-9a-f-]{36}\.jsonl")


@pytest.fixture(scope="module")
def capturing(aws: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("capturing"), aws, **INTERVAL).start()
    running.put("data/a.csv")
    running.model("captured-model")
    yield running
    running.close()


def settings(prefix: str, **more: Any) -> dict[str, Any]:
    return {
        "EnableCapture": True,
        "InitialSamplingPercentage": 100,
        "DestinationS3Uri": f"s3://{BUCKET}/{prefix}",
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"], "JsonContentTypes": ["application/json"]},
        **more,
    }


def endpoint(server: Server, name: str, capture: dict[str, Any] | None, model: str = "captured-model") -> dict[str, Any]:
    server.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config(server, name, capture, model))
    return server.settled(name)


def config(server: Server, name: str, capture: dict[str, Any] | None, model: str = "captured-model") -> str:
    variant = {"VariantName": "champion", "ModelName": model, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    more = {} if capture is None else {"DataCaptureConfig": capture}
    server.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant], **more)
    return name


def objects(server: Server, prefix: str) -> dict[str, bytes]:
    pages = server.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    return {key.removeprefix(f"{prefix}/"): server.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}


def lines(server: Server, prefix: str) -> list[dict[str, Any]]:
    return [json.loads(line) for content in objects(server, prefix).values() for line in content.splitlines()]


def captured(server: Server, prefix: str, count: int) -> list[dict[str, Any]]:
    """The lines under the prefix, once there are at least so many."""

    def enough() -> Any:
        found = lines(server, prefix)
        return found if len(found) >= count else None

    found: list[dict[str, Any]] = wait_until(enough, what=f"{count} captured requests")
    return found


def test_requests_and_answers_are_written_as_documented(capturing: Server) -> None:
    described = endpoint(capturing, "documented", settings("documented/place/"))
    assert described["DataCaptureConfig"] == {
        "EnableCapture": True,
        "CaptureStatus": "Started",
        "CurrentSamplingPercentage": 100,
        "DestinationS3Uri": f"s3://{BUCKET}/documented/place/",
        "KmsKeyId": "",
    }
    invoke = capturing.runtime.invoke_endpoint
    before = datetime.now(UTC).replace(microsecond=0)
    first = invoke(
        EndpointName="documented", Body=b"1,,x", ContentType="text/csv; charset=utf-8", InferenceId="e 1", CustomAttributes="a=1;b=2"
    )
    answer = first["Body"].read().decode()
    invoke(EndpointName="documented", Body='{"q": "é"}'.encode(), ContentType="application/json")
    invoke(EndpointName="documented", Body=b"\x00\x01", ContentType="application/x-other")
    invoke(EndpointName="documented", Body=b"", ContentType="text/csv")
    after = datetime.now(UTC)
    found = captured(capturing, "documented/place", 4)
    assert [set(line) for line in found] == [{"captureData", "eventMetadata", "eventVersion"}] * 4
    assert found[0]["captureData"] == {
        "endpointInput": {"observedContentType": "text/csv; charset=utf-8", "mode": "INPUT", "data": "1,,x", "encoding": "CSV"},
        "endpointOutput": {"observedContentType": "application/json", "mode": "OUTPUT", "data": answer, "encoding": "JSON"},
    }
    event = found[0]["eventMetadata"]
    assert (event["inferenceId"], event["customAttributes"]) == ("e 1", ["a=1;b=2"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", event["inferenceTime"])
    assert before <= datetime.fromisoformat(event["inferenceTime"]) <= after
    assert [set(line["eventMetadata"]) for line in found[1:]] == [{"eventId", "inferenceTime"}] * 3
    assert len({uuid.UUID(line["eventMetadata"]["eventId"]) for line in found}) == 4
    inputs = [line["captureData"]["endpointInput"] for line in found[1:]]
    assert [(side["data"], side["encoding"]) for side in inputs] == [
        ('{"q": "é"}', "JSON"),
        (base64.b64encode(b"\x00\x01").decode(), "BASE64"),
        ("", "CSV"),
    ]
    for key in objects(capturing, "documented/place"):
        match = KEY.fullmatch(key)
        assert match
        assert (match["endpoint"], match["variant"]) == ("documented", "champion")
        hour = datetime.strptime("/".join(key.split("/")[2:6]) + "+0000", "%Y/%m/%d/%H%z")
        assert hour <= before + timedelta(seconds=1)
        assert after < hour + timedelta(hours=1, minutes=1)


def test_what_is_left_out_and_what_becomes_base64(capturing: Server) -> None:
    """No content types: everything is base64. Bytes that are not the text their type promises are base64, too. Failures are not captured."""
    bare = {key: value for key, value in settings("untyped").items() if key not in {"CaptureContentTypeHeader", "EnableCapture"}}
    endpoint(capturing, "untyped", {**bare, "CaptureOptions": [{"CaptureMode": "Output"}]})
    endpoint(capturing, "only-input", settings("only-input", CaptureOptions=[{"CaptureMode": "Input"}]))
    answer = capturing.invoke("untyped", b"1")["response"]
    error_of(lambda: capturing.invoke("only-input", b"bad"))
    error_of(lambda: capturing.invoke("only-input", b"error"))
    capturing.invoke("only-input", b"2")
    [line] = captured(capturing, "untyped", 1)
    assert list(line["captureData"]) == ["endpointOutput"]
    assert line["captureData"]["endpointOutput"]["encoding"] == "BASE64"
    assert base64.b64decode(line["captureData"]["endpointOutput"]["data"]).startswith(b'{"model"')
    assert answer["ContentType"] == "application/json"
    [line] = captured(capturing, "only-input", 1)
    assert list(line["captureData"]) == ["endpointInput"]
    assert line["captureData"]["endpointInput"]["data"] == "2"


def test_a_share_of_the_requests_is_sampled(capturing: Server) -> None:
    described = endpoint(capturing, "sampled", settings("sampled", InitialSamplingPercentage=10))
    assert described["DataCaptureConfig"]["CurrentSamplingPercentage"] == 10
    endpoint(capturing, "never", settings("never", InitialSamplingPercentage=0))
    for number in range(1000):
        capturing.invoke("sampled", b"%d" % number)
    for _ in range(50):
        capturing.invoke("never")
    capturing.terminate()  # ships what is left
    capturing.start()
    assert 60 <= len(lines(capturing, "sampled")) <= 140, "100 are expected, the standard deviation is 9.5"
    assert not objects(capturing, "never")


def test_capture_follows_the_configuration_that_serves(capturing: Server) -> None:
    described = endpoint(capturing, "changing", None)
    assert "DataCaptureConfig" not in described
    capturing.invoke("changing", b"before")
    update = capturing.sagemaker.update_endpoint
    update(EndpointName="changing", EndpointConfigName=config(capturing, "changing-on", settings("changing")))
    assert capturing.settled("changing")["DataCaptureConfig"]["CaptureStatus"] == "Started"
    capturing.invoke("changing", b"while")
    off = settings("changing", EnableCapture=False)
    update(EndpointName="changing", EndpointConfigName=config(capturing, "changing-off", off))
    assert capturing.settled("changing")["DataCaptureConfig"]["CaptureStatus"] == "Stopped"
    capturing.invoke("changing", b"after")
    found = captured(capturing, "changing", 1)
    assert [line["captureData"]["endpointInput"]["data"] for line in found] == ["while"]
    asked = capturing.sagemaker.describe_endpoint_config(EndpointConfigName="changing-on")
    assert asked["DataCaptureConfig"] == settings("changing")


def test_what_was_answered_outlives_a_killed_server_and_a_missing_bucket(own_server: Server) -> None:
    own_server.options |= {"capture-interval": "60"}
    own_server.terminate()
    own_server.start()
    own_server.model("killed-model")
    endpoint(own_server, "killed", settings("killed"), "killed-model")
    lost = {**settings("x"), "DestinationS3Uri": "s3://no-such-bucket-here/x"}
    endpoint(own_server, "nowhere", lost, "killed-model")
    for number in range(20):
        own_server.invoke("killed", b"%d" % number, InferenceId=f"{number}")
    own_server.invoke("nowhere")
    spool = own_server.state / "captures"
    wait_until(lambda: sum(path.read_bytes().count(b"\n") for path in spool.iterdir()) == 21, what="the lines on disk")
    own_server.kill()
    assert not objects(own_server, "killed")
    [torn] = [path for path in spool.glob("*.part") if path.read_bytes().count(b"\n") == 20]
    with torn.open("ab") as file:
        file.write(b'{"captureData":{"endp')
    own_server.options |= INTERVAL
    own_server.start()
    found = captured(own_server, "killed", 20)
    assert [line["eventMetadata"]["inferenceId"] for line in found] == [f"{number}" for number in range(20)]
    assert own_server.settled("killed")["DataCaptureConfig"]["CaptureStatus"] == "Started"
    own_server.invoke("killed", InferenceId="after the restart")
    captured(own_server, "killed", 21)
    [left] = spool.glob("*.jsonl")
    assert b"hello" in left.read_bytes(), "what S3 does not take is kept"
    assert own_server.terminate() == 0
    log = Path(own_server.log_file).read_text()
    assert log.count("S3 does not take captured requests") == 1, "it says so once"


def test_what_aws_refuses(capturing: Server) -> None:
    def code(**more: Any) -> str:
        return error_of(lambda: config(capturing, f"refused-{uuid.uuid4().hex}", settings("x", **more)))[0]

    assert code(InitialSamplingPercentage=101) == "ValidationException"
    assert code(CaptureOptions=[{"CaptureMode": "Both"}]) == "ValidationException"
    assert code(DestinationS3Uri="/no/bucket") == "ValidationException"
    assert code(DestinationS3Uri="s3:///key") == "ValidationException"
    assert code(CaptureContentTypeHeader={"CsvContentTypes": ["csv"]}) == "ValidationException"
