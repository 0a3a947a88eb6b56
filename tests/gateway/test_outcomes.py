"""What became of events: told over HTTP, landed as labels that the real ingestion takes, and shipped for the audit."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from gateway_lab import DOMAIN, LAYOUT, Cloud, Gateway, landed_labels, shipped
from waiting import wait_until

from include import domains
from include.jobs.ingest import ingest
from include.lifecycle.experiment import Command
from include.stores.layout import Layout
from include.stores.watermark import Watermark

KNOWN = "2026-04-07T09:00:00Z"


def outcome(event: str, label: int = 1, **more: Any) -> dict[str, Any]:
    return {"domain": DOMAIN, "inference_id": event, "label": label, "known_at": KNOWN, **more}


def states(gateway: Gateway, *outcomes: dict[str, Any]) -> list[str]:
    answer = gateway.post("/v1/outcomes", list(outcomes))
    assert answer.status_code == 200, answer.text
    return [each["state"] for each in answer.json()["outcomes"]]


def test_outcomes_of_every_kind(gateway: Gateway, cloud: Cloud) -> None:
    gateway.score("1")
    gateway.score("2")
    assert states(gateway, outcome("1"), outcome("2", 0), outcome("3"), outcome("1"), outcome("2", 1)) == [
        "accepted", "accepted", "pending", "known", "conflict",
    ]  # fmt: skip
    single = gateway.post("/v1/outcomes", outcome("1", 0))
    assert (single.status_code, single.json()["state"]) == (409, "conflict")
    assert "a delivery of the labels table" in single.json()["says"]
    assert gateway.post("/v1/outcomes", outcome("1")).json() == {"inference_id": "1", "state": "known", "says": None}
    assert gateway.flush() == {"decisions": 2, "outcomes": 3, "labels": 2}
    assert gateway.get(f"/v1/experiments/{DOMAIN}").json()["outcomes"] == {"accepted": 2, "pending": 1, "conflicts": 2, "landed": 2}
    assert dict(landed_labels(cloud.objects)) == {"2026-04-07": "2,0,2026-04-07T09:00:00Z"}
    audit = {each["inference_id"]: each for each in shipped(cloud.objects, LAYOUT.shipped_outcomes())}
    assert set(audit) == {"1", "2", "3"}
    assert audit["2"] | {"received_at": ""} == {"inference_id": "2", "label": 0, "known_at": KNOWN, "received_at": "", "by": "loopback"}

    gateway.score("3")  # the decision after its outcome
    assert gateway.flush() == {"decisions": 1, "outcomes": 0, "labels": 1}
    assert sorted(line for _, line in landed_labels(cloud.objects)) == [
        f"{event},{label},{KNOWN}" for event, label in ((1, 1), (2, 0), (3, 1))
    ]
    assert gateway.flush() == {"decisions": 0, "outcomes": 0, "labels": 0}
    assert 'fraud_gateway_outcomes_total{domain="card_payments",state="conflict"} 2' in gateway.get("/metrics").text


def test_labels_land_where_ingestion_will_look_and_it_takes_them(gateway: Gateway, cloud: Cloud) -> None:
    """Known before the watermark: on the first day that is not ingested yet. After it: on its own day."""
    Watermark(cloud.objects, Layout(DOMAIN)).move_to(datetime(2026, 4, 10, tzinfo=UTC))
    for event in ("1", "2", "3"):
        gateway.score(event)
    late = "2026-04-12T23:30:00+02:00"
    assert states(gateway, outcome("1"), outcome("2", 0, known_at=late)) == ["accepted", "accepted"]
    gateway.flush()
    assert set(landed_labels(cloud.objects)) == {("2026-04-10", f"1,1,{KNOWN}"), ("2026-04-12", "2,0,2026-04-12T21:30:00Z")}
    # another gateway was told of the first, too: ingestion counts it once
    cloud.objects.put(LAYOUT.landing("labels", datetime(2026, 4, 10, tzinfo=UTC).date(), "outcomes_other_000001.csv"),
                      f"transaction_id,label,decided_at\n1,1,{KNOWN}\n".encode())  # fmt: skip
    files = [{"table": "labels", "key": info.key} for info in cloud.objects.list(f"{DOMAIN}/raw/labels/")]
    assert len(files) == 3
    result = ingest(domains.get(DOMAIN), cloud.objects, {"domain": DOMAIN, "year": None, "files": files}, {})
    labels = result["tables"]["labels"]
    assert (labels["landed"], labels["curated"], labels["reasons"]) == (3, 2, {"duplicate of a curated row": 1})


def test_a_decision_of_another_gateway_is_found_in_s3(gateway: Gateway, cloud: Cloud) -> None:
    assert states(gateway, outcome("7"), outcome("8")) == ["pending", "pending"]
    assert gateway.flush()["labels"] == 0
    decision = {"inference_id": "7", "decided_at": "2026-04-01T00:00:00Z"}
    today = datetime.now(UTC).date()
    body = gzip.compress(json.dumps(decision).encode() + b"\n")
    cloud.objects.put(LAYOUT.shipped_decisions(today, "other-000001.jsonl.gz"), body)
    assert gateway.flush()["labels"] == 1
    cloud.objects.put(
        LAYOUT.shipped_decisions(today, "other-000002.jsonl.gz"), gzip.compress(b'{"inference_id": "8", "decided_at": "x"}\n')
    )
    assert gateway.flush()["labels"] == 1  # found on a day that was looked through before
    assert states(gateway, outcome("7"), outcome("8")) == ["known", "known"]


def test_outcomes_that_make_no_sense_are_refused_whole(gateway: Gateway) -> None:
    def refused(error: str, *outcomes: dict[str, Any], status: int = 422) -> None:
        answer = gateway.post("/v1/outcomes", list(outcomes))
        assert answer.status_code == status, answer.text
        assert error in answer.json()["error"]

    refused("1.label: Input should be less than or equal to 1", outcome("1"), outcome("2", 2))
    refused("1.known_at: 2999-01-01T00:00:00Z is more than a year ahead", outcome("1"), outcome("2", known_at="2999-01-01T00:00:00Z"))
    refused("1.known_at: Input should have timezone", outcome("1"), outcome("2", known_at="2026-01-01T00:00:00"))
    refused("1.inference_id: 'x' is no whole number", outcome("1"), outcome("x"))
    refused("1.inference_id: '007' is no whole number", outcome("1"), outcome("007"))
    refused("no domain 'x'", outcome("1"), outcome("2", domain="x"), status=404)
    refused("1001 outcomes at once: send 1000 at most", *[outcome(str(number)) for number in range(1001)])
    refused("label: Field required", {"domain": DOMAIN, "inference_id": "1"})
    assert gateway.get(f"/v1/experiments/{DOMAIN}").json()["outcomes"] == {"accepted": 0, "pending": 0, "conflicts": 0, "landed": 0}


def test_the_way_of_a_command(gateway: Gateway) -> None:
    path = f"/v1/experiments/{DOMAIN}"
    empty = gateway.get(path).json()
    assert (empty["experiment"], empty["history"]) == (None, [])
    assert gateway.post(f"{path}/commands", {"action": "stop", "why": "enough"}).status_code == 404
    saved = gateway.rolled_out("ramp", 0.25)
    shown = gateway.get(path).json()
    assert (shown["experiment"]["id"], shown["shares"], shown["experiment"]["stage"]) == (
        "e1", {"champion": 0.75, "challenger": 0.25}, "ramp",
    )  # fmt: skip
    asked = {"action": "set_share", "share": 0.1, "why": "agreed", "id": "CHG-1"}
    given = gateway.post(f"{path}/commands", asked)
    told = {"experiment": "e1", "action": "set_share", "who": "loopback", "stage": "ramp", "share": 0.1}
    assert (given.status_code, given.json()) == (202, told | {"id": given.json()["id"]})
    done = gateway.store.get("e1")
    assert (done.share, done.version, done.step) == (0.1, saved.version + 1, saved.step + 1)
    assert done.step_began > saved.step_began, "it is done by now, though nobody advances this rollout"
    assert gateway.post(f"{path}/commands", asked).json() == given.json()
    assert gateway.store.get("e1") == done, "the same again is the same command"
    assert gateway.get(path).json()["commands"] == []
    wait_until(lambda: gateway.score("1")["share"] == 0.1, "the gateway follows")

    more = gateway.post(f"{path}/commands", asked | {"share": 0.2}).json()
    assert (more["share"], more["id"] == given.json()["id"]) == (0.2, False), "another share under the same ticket is another command"
    for body, error in (
        ({"action": "set_share", "share": 1.0, "why": "x"}, "a share lies between 0 and 1"),
        ({"action": "set_share", "share": 0.0, "why": "x"}, "for the ends there are roll_back and promote"),
    ):
        refused = gateway.post(f"{path}/commands", body)
        assert (refused.status_code, error in refused.json()["error"]) == (409, True), refused.text
    assert len(gateway.get(path).json()["history"]) == 2, "what is refused at once is no history"
    for body, error in (
        ({"action": "set_share", "why": "x"}, "share: set_share wants one"),
        ({"action": "stop", "why": "x", "share": 0.5}, "share: set_share wants one"),
        ({"action": "stop", "why": ""}, "why: String should have at least 1 character"),
        ({"action": "explode", "why": "x"}, "action: Input should be 'stop', 'promote', 'roll_back' or 'set_share'"),
    ):
        refused = gateway.post(f"{path}/commands", body)
        assert (refused.status_code, error in refused.json()["error"]) == (422, True), refused.text
    stopped = gateway.post(f"{path}/commands", {"action": "stop", "why": "x", "id": "CHG-1"})
    assert (stopped.status_code, stopped.json()["stage"], stopped.json()["share"]) == (202, "stopped", 0.0), "by the same ticket"
    assert gateway.store.get("e1").ended
    over = gateway.post(f"{path}/commands", {"action": "promote", "why": "x"})
    assert (over.status_code, over.json()["error"]) == (409, "promote of e1 is not done: the experiment has ended as stopped")
    assert gateway.get("/v1/experiments/nobody").status_code == 404


@pytest.mark.parametrize("wish", [{"action": "promote"}, {"action": "set_share", "share": 0.5}, {"action": "stop"}])
def test_a_command_that_others_were_faster_than_is_refused(gateway: Gateway, wish: dict[str, Any]) -> None:
    """As the gateway looks, it can be done; as it is done, somebody else's stop has come before it."""
    path = f"/v1/experiments/{DOMAIN}"
    saved = gateway.rolled_out("ramp", 0.25)
    gateway.store.give(saved.id, Command("bo", "stop", "bo", "enough"))
    asked = wish | {"why": "go", "id": "CHG-1"}
    refused = gateway.post(f"{path}/commands", asked)
    says = f"e1: Not done ({wish['action']}), the experiment has ended as stopped. Asked for by loopback: go"
    assert (refused.status_code, refused.json()) == (409, {"error": says, "where": []})
    assert gateway.post(f"{path}/commands", asked).status_code == 409
    assert [entry["says"] for entry in gateway.get(path).json()["history"]] == ["Stopped by bo: enough", says.removeprefix("e1: ")]


def test_s3_away_loses_nothing(gateway: Gateway, cloud: Cloud) -> None:
    """The bucket is gone for a while: decisions and outcomes are taken, kept, and shipped afterwards."""
    gateway.terminate()
    gateway.options = ("--ship-every", "3600")
    gateway.start()
    gateway.score("1")
    assert states(gateway, outcome("1")) == ["accepted"]
    gateway.kill()
    real = cloud.objects.bucket
    try:
        cloud.objects.bucket = "no-such-bucket"
        gateway.start()
    finally:
        cloud.objects.bucket = real
    assert "fraud_gateway_shipping_failed 0" in gateway.get("/metrics").text, "nothing was tried yet"
    assert states(gateway, outcome("1"), outcome("2")) == ["known", "pending"]
    answer = gateway.post("/v1/flush", {})
    assert answer.status_code == 503
    assert "S3 does not take it" in answer.json()["error"]
    assert "fraud_gateway_shipping_failed 1" in gateway.get("/metrics").text
    gateway.kill()
    gateway.start()
    assert gateway.flush() == {"decisions": 1, "outcomes": 2, "labels": 1}
    assert {each["inference_id"] for each in shipped(cloud.objects, LAYOUT.shipped_outcomes())} == {"1", "2"}
