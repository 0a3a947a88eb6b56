"""Scoring through a real gateway, endpoint and store."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_lab import DOMAIN, FEATURES, LAYOUT, Cloud, Gateway, request, shipped
from waiting import wait_until

from include.jobs.captured_requests import read_line


def test_the_champion_decides_where_there_is_no_rollout(gateway: Gateway, cloud: Cloud) -> None:
    answer = gateway.score("101", reasons=2)
    assert answer | {"score": None, "reasons": None} == {
        "inference_id": "101",
        "score": None,
        "decision": "review",
        "reviewed_because": "score",
        "reasons": None,
        "variant": "champion",
        "model_package": cloud.packages["champion"],
        "experiment": None,
        "share": 0.0,
        "fallback": None,
    }
    assert 0 < len(answer["reasons"]) <= 2
    calm = gateway.score("102", amount=0.01)
    assert (calm["decision"], calm["reviewed_because"], calm["reasons"]) == ("pass", None, [])
    assert calm["score"] == pytest.approx(answer["score"], abs=1e-6)
    listed = gateway.score("103", features=[0.5, None, 3.0])
    assert listed["score"] == pytest.approx(answer["score"], abs=1e-6)
    assert gateway.flush()["decisions"] == 3
    decisions = {each["inference_id"]: each for each in shipped(cloud.objects, LAYOUT.shipped_decisions())}
    assert set(decisions) == {"101", "102", "103"}
    logged = decisions["102"]
    assert (logged["features"], logged["entity_id"], logged["event_time"]) == ([0.5, None, 3.0], "entity 102", "2026-03-31T14:30:00Z")
    assert (logged["reviewed"], logged["review_propensity"], logged["assigned"], logged["propensity"]) == (False, 0.005, "champion", 1.0)
    assert decisions["101"]["review_propensity"] == 1.0
    assert httpx.get(f"{gateway.url}/readyz").json() == {"ready": True, "unready": {}, "experiment_store_down": []}
    assert (
        gateway.post("/v1/score", request("109", domain="nobody")).json()["error"]
        == f"no domain 'nobody' is served here; there are {DOMAIN}"
    )


def test_a_challenger_that_fails_is_answered_for_by_the_champion(gateway: Gateway, cloud: Cloud) -> None:
    """The endpoint has no such variant."""
    saved = gateway.rolled_out("ramp", 0.99)
    answers = [gateway.score(str(number)) for number in range(30)]
    fell = [each for each in answers if each["fallback"] == "challenger_failed"]
    assert len(fell) >= 25
    assert {each["variant"] for each in answers} == {"champion"}

    def told() -> Any:
        [health] = gateway.store.healths(saved.id, saved.step)
        return health if health.champion.requests + health.challenger.requests == 30 else None

    counts = wait_until(told, "what was counted is told").challenger
    assert counts.requests == counts.errors == counts.fallbacks == len(fell)
    gateway.flush()
    logged = [each for each in shipped(cloud.objects, LAYOUT.shipped_decisions()) if each["fallback"]]
    assert {(each["assigned"], each["answered"], each["propensity"]) for each in logged} == {("challenger", "champion", 0.99)}
    assert 'fallback="challenger_failed"' in gateway.get("/metrics").text


def test_an_event_that_is_scored_again_is_decided_again_as_the_reference_says(gateway: Gateway, cloud: Cloud) -> None:
    answers = [gateway.score("104", amount=amount)["decision"] for amount in (0.01, 1000.0)]
    assert answers == ["pass", "review"]
    gateway.flush()
    logged = shipped(cloud.objects, LAYOUT.shipped_decisions())
    assert [(each["inference_id"], each["amount"]) for each in sorted(logged, key=lambda each: each["decided_at"])] == [
        ("104", 0.01),
        ("104", 1000.0),
    ]
    said = gateway.get("/openapi.json").json()["paths"]["/v1/score"]["post"]["description"]
    assert "decided anew" in said
    assert "evidence is the first" in said


def test_what_cannot_be_scored_says_where_it_is_wrong(gateway: Gateway) -> None:
    def refused(status: int, error: str, member: str = "", **more: Any) -> None:
        answer = gateway.post("/v1/score", request("1") | more)
        assert answer.status_code == status, answer.text
        assert error in answer.json()["error"]
        assert member in [each["member"] for each in answer.json()["where"]] or not member

    refused(422, "no whole number", "event_id", event_id="E1")
    refused(422, "match pattern", "event_id", event_id="x" * 65)
    refused(422, "match pattern", "event_id", event_id="1\n2")
    refused(422, "at most 128", "entity_id", entity_id="x" * 129)
    refused(422, "timezone", "event_time", event_time="2026-03-31T14:30:00")
    refused(422, "valid number", "amount", amount="12")
    refused(422, "not permitted", "amont", amont=1)
    refused(422, "no feature zzz", "features", features={"zzz": 1})
    refused(422, "2 values, but the model has 3", "features", features=[1.0, 2.0])
    refused(422, "features", features={"a": 1e300})
    refused(422, "greater than or equal to 1", "reasons", reasons=0)
    refused(422, "reasons", "features", reasons=4)  # the endpoint's own words: there are three features
    refused(422, "no challenger now", "variant", variant="challenger")
    refused(404, "no domain 'x' is served", domain="x")
    raw = {"content-type": "application/json"}
    for body, error in (
        (b'{"domain": "card_payments", "amount": NaN}', "Field required"),
        (b"[]", "body: Input should be an object"),
        (b"{", "body: Invalid JSON"),
        (b"\xff\xfe", "body: Invalid JSON"),
        (b"", "body: Invalid JSON"),
    ):
        answer = httpx.post(f"{gateway.url}/v1/score", content=body, headers=raw)
        assert answer.status_code == 422
        assert error in answer.json()["error"], (error, answer.json())
    assert gateway.get("/v1/score").status_code == 405
    assert gateway.get("/nowhere").json() == {"error": "Not Found", "where": []}
    assert gateway.flush()["decisions"] == 0


def test_the_documentation_has_examples_that_hold(gateway: Gateway) -> None:
    from include.gateway.schemas import CommandRequest, Outcome, ScoreRequest

    assert gateway.get("/docs").status_code == 200
    paths = gateway.get("/openapi.json").json()["paths"]
    assert {"/v1/score", "/v1/outcomes", "/v1/experiments/{domain}", "/v1/experiments/{domain}/commands", "/metrics"} <= set(paths)

    def examples(path: str) -> list[Any]:
        content = paths[path]["post"]["requestBody"]["content"]["application/json"]
        return [each["value"] for each in content["examples"].values()]

    for example in examples("/v1/score"):
        ScoreRequest.model_validate(example, strict=False)
    one, several = examples("/v1/outcomes")
    for example in (one, *several):
        Outcome.model_validate(example, strict=False)
    for example in examples("/v1/experiments/{domain}/commands"):
        CommandRequest.model_validate(example, strict=False)
    assert set(paths["/v1/score"]["post"]["responses"]) >= {"200", "401", "422", "429", "503"}


def test_the_endpoint_captures_what_monitoring_reads(gateway: Gateway, cloud: Cloud) -> None:
    """Inference id, event time, features and score, with reasons and without."""
    plain, explained = gateway.score("771"), gateway.score("772", reasons=2)

    def captured() -> Any:
        # of whatever configuration the tests before have left
        keys = [info.key for info in cloud.objects.list(LAYOUT.captured("")) if info.key.endswith(".jsonl")]
        lines = [read_line(line, FEATURES) for key in keys for line in cloud.objects.get(key).splitlines()]
        found = {line.event_id: line for line in lines}
        return found if {"771", "772"} <= set(found) else None

    found = wait_until(captured, "both are captured", 90)
    for event, answer in (("771", plain), ("772", explained)):
        assert found[event].score == pytest.approx(answer["score"], abs=1e-6)
        assert found[event].event_time == datetime(2026, 3, 31, 14, 30, tzinfo=UTC)
        assert found[event].values.tolist() == pytest.approx([0.5, float("nan"), 3.0], nan_ok=True)


class OnDynamoDB(Gateway):
    @property
    def store_url(self) -> str:
        return f"dynamodb://gateway-{self.port}?region=eu-west-1"


def test_the_experiments_may_lie_in_dynamodb(cloud: Cloud, tmp_path: Path) -> None:
    gateway = OnDynamoDB(cloud, tmp_path / "gateway")
    gateway.store.ensure()
    gateway.start()
    try:
        saved = gateway.rolled_out("ramp", 0.99)
        answers = [gateway.score(str(number)) for number in range(10)]
        assert {each["experiment"] for each in answers} == {saved.id}
        assert {each["share"] for each in answers} == {0.99}
        assert "challenger_failed" in {each["fallback"] for each in answers}  # the endpoint has no such variant
    finally:
        gateway.close()
