"""Who decides for whom through the stages of a rollout, and what happens when the challenger, the store or the endpoint fails."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from gateway_lab import DOMAIN, LAYOUT, Cloud, Gateway, clock, model_archive, request, shipped
from waiting import wait_until

from include.lifecycle.assignment import assign, epoch_of
from include.lifecycle.domain import Guardrails, Rollout


@pytest.fixture(scope="module")
def ramp(cloud: Cloud) -> Iterator[None]:
    """The endpoint with both variants."""
    cloud.deploy("ramp", {"champion": "champion", "challenger": "challenger"})
    yield
    cloud.deploy("single-again", {"champion": "champion"})


def test_shadow_counts_the_champion_and_leaves_all_traffic_to_it(gateway: Gateway) -> None:
    saved = gateway.rolled_out("shadow", 0.0)
    answers = [gateway.score(str(number)) for number in range(20)]
    assert {(each["variant"], each["experiment"], each["share"], each["fallback"]) for each in answers} == {("champion", "e1", 0.0, None)}

    def counted() -> bool:
        [health] = gateway.store.healths(saved.id, saved.step)
        return health.champion.requests == 20

    wait_until(counted, "the champion's requests are told")
    [health] = gateway.store.healths(saved.id, saved.step)
    assert (health.challenger.requests, health.champion.errors, sum(health.champion.latencies), sum(health.champion.scores)) == (
        0,
        0,
        20,
        20,
    )
    assert health.champion.reviews == sum(each["reviewed_because"] == "score" for each in answers)


def test_a_ramp_gives_each_entity_its_variant(gateway: Gateway, cloud: Cloud, ramp: None) -> None:
    saved = gateway.rolled_out("ramp", 0.4)
    epoch = epoch_of(datetime(2026, 3, 31, 14, 30, tzinfo=UTC), Rollout().epoch)
    shares = {"champion": 0.6, "challenger": 0.4}
    expected = {f"c{number}": assign("e1", epoch, f"c{number}", shares) for number in range(40)}
    assert {"champion", "challenger"} == set(expected.values())
    for number, (entity, variant) in enumerate(expected.items()):
        for again in (0, 1000):
            answer = gateway.score(str(number + again), entity_id=entity)
            assert (answer["variant"], answer["share"], answer["model_package"]) == (variant, 0.4, cloud.packages[variant])
            assert (answer["score"] > 0.35) == (variant == "challenger")
    forced = gateway.score("5000", variant="challenger", amount=7.0, reasons=1)
    assert (forced["variant"], forced["decision"]) == (
        "challenger",
        "pass",
    )  # 7 × its score is below its threshold of 5 and the review's cost
    gateway.flush()
    decisions = {each["inference_id"]: each for each in shipped(cloud.objects, LAYOUT.shipped_decisions())}
    assert len(decisions) == 81
    logged = decisions["5000"]
    assert (logged["override"], logged["assigned"], logged["threshold"], logged["step"]) == (True, "challenger", 5.0, saved.step)
    assert not any(each["override"] for name, each in decisions.items() if name != "5000")
    for each in decisions.values():
        if not each["override"]:
            assert each["assigned"] == each["answered"] == expected[each["entity_id"]]
            assert each["propensity"] == shares[each["assigned"]]
            assert each["epoch"] == epoch

    def told() -> Any:
        [health] = gateway.store.healths(saved.id, saved.step)
        return health if health.champion.requests + health.challenger.requests >= 80 else None

    health = wait_until(told, "what was counted is told")
    assert health.challenger.requests == 2 * sum(variant == "challenger" for variant in expected.values())
    assert sum(health.challenger.scores[7:]) == health.challenger.requests  # of the model with the higher scores
    moved = gateway.rolled_out("ramp", 0.0)
    assert {gateway.score(str(number), entity_id=entity)["variant"] for number, entity in enumerate(expected)} == {"champion"}
    [health] = gateway.store.healths(moved.id, moved.step)
    assert health.challenger.requests == 0


def test_a_challenger_that_hangs_costs_its_time_limit_and_soon_not_even_that(gateway: Gateway, cloud: Cloud, ramp: None) -> None:
    gateway.close()
    gateway.options = ("--challenger-timeout", "0.000001")  # nothing answers within a microsecond
    gateway.start()
    gateway.rolled_out("ramp", 0.99)
    answers = [gateway.score(str(number)) for number in range(20)]
    assert {each["variant"] for each in answers} == {"champion"}
    assert sum(each["fallback"] == "challenger_failed" for each in answers) >= 15
    assert gateway.get("/readyz").status_code == 200


def test_without_the_store_the_champion_decides_and_the_answer_says_so(gateway: Gateway, cloud: Cloud, ramp: None) -> None:
    gateway.close()
    gateway.options = ("--store-down-after", "1")
    gateway.start()
    gateway.rolled_out("ramp", 0.99)
    assert gateway.score("1", entity_id="somebody")["variant"] == "challenger"
    file = gateway.folder / "experiments.db"
    away = file.with_name("away.db")
    for each in gateway.folder.glob("experiments.db*"):
        with contextlib.suppress(FileNotFoundError):  # SQLite takes its log away when nobody has the file open
            each.rename(each.with_name(each.name.replace("experiments", "away")))
    wait_until(lambda: gateway.score("2", entity_id="somebody")["fallback"], "the store's silence is noticed")
    answer = gateway.score("3", entity_id="somebody")
    assert (answer["variant"], answer["fallback"], answer["share"]) == ("champion", "experiment_store_down", 0.0)
    assert gateway.get("/readyz").json()["experiment_store_down"] == [DOMAIN]
    assert gateway.get(f"/v1/experiments/{DOMAIN}").status_code == 503
    gateway.close()
    gateway.start()  # an outage is no reason not to start
    assert gateway.score("4", entity_id="somebody")["fallback"] == "experiment_store_down"
    for each in gateway.folder.glob("away.db*"):
        each.rename(each.with_name(each.name.replace("away", "experiments")))
    assert not away.exists()
    wait_until(lambda: gateway.score("5", entity_id="somebody")["fallback"] is None, "the store is back")
    assert gateway.score("6", entity_id="somebody")["variant"] == "challenger"


@pytest.mark.parametrize("first", ["store", "endpoint"])
def test_a_promotion_and_the_endpoints_change_lose_no_request(gateway: Gateway, cloud: Cloud, ramp: None, first: str) -> None:
    """Ramp, all traffic to the challenger beside the champion, the new model alone: under traffic all the way, whether the endpoint is changed or
    the promotion stored first."""
    gateway.rolled_out("ramp", 0.25)
    answers: list[dict[str, Any]] = []
    stop = threading.Event()

    def traffic() -> None:
        number = 0
        while not stop.is_set():
            found = gateway.post("/v1/score", request(str(number)))
            answers.append(found.json() | {"status": found.status_code, "at": time.monotonic()})
            number += 1

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        gateway.rolled_out("safe", 1.0)
        if first == "store":
            gateway.rolled_out("promoted", 1.0)
        time.sleep(0.5)
        promoted = time.monotonic()
        cloud.deploy(f"promoted-{first}", {"champion": "challenger"})  # the new model in the champion's slot
        time.sleep(6.5)
        if first == "endpoint":
            assert gateway.store.current(DOMAIN).stage == "safe"
            gateway.rolled_out("promoted", 1.0)
    finally:
        stop.set()
        thread.join()
        cloud.deploy(f"ramp-after-{first}", {"champion": "champion", "challenger": "challenger"})
    assert {each["status"] for each in answers} == {200}
    after = [each for each in answers if each["at"] > promoted]
    assert {each["model_package"] for each in after} == {cloud.packages["challenger"]}
    assert {each["fallback"] for each in after} == {None}
    assert all(each["score"] > 0.35 for each in after)
    assert {each["variant"] for each in after} == {"challenger", "champion"}  # at the end it is the champion
    assert (after[-1]["variant"], after[-1]["experiment"]) == ("champion", None)
    gateway.flush()
    ids = {each["inference_id"] for each in after}
    logged = [each for each in shipped(cloud.objects, LAYOUT.shipped_decisions()) if each["inference_id"] in ids]
    assert {(each["model_package"], each["threshold"], each["wanted"] == (each["score"] > 0)) for each in logged} == {
        (cloud.packages["challenger"], cloud.thresholds["challenger"], True)
    }
    assert {(each["answered"], each["experiment"] is None) for each in logged} == {("challenger", False), ("champion", True)}


def test_after_a_promotion_from_shadow_the_old_model_decides_until_the_endpoint_carries_the_new_one(gateway: Gateway, cloud: Cloud) -> None:
    """The challenger is to have all, and the endpoint carries it as a shadow only: what the old model answers is judged and logged as its own."""
    cloud.deploy("shadow", {"champion": "champion"}, {"challenger": "challenger"})
    try:
        gateway.rolled_out("shadow", 0.0)
        gateway.rolled_out("safe", 0.0)
        saved = gateway.rolled_out("safe", 1.0)
        answers = [gateway.score(str(number), amount=7.0) for number in range(20)]
        forced = gateway.score("100", variant="challenger", amount=7.0)
        wait_until(lambda: gateway.store.healths(saved.id, saved.step)[0].champion.requests == 20, "the champion's requests are told")
        [health] = gateway.store.healths(saved.id, saved.step)
        cloud.deploy("promoted-from-shadow", {"champion": "challenger"})
        wait_until(lambda: gateway.score("200")["experiment"] is None, "the gateway sees what is carried")
        after = gateway.score("201", amount=7.0)
    finally:
        cloud.deploy("single-after-shadow", {"champion": "champion"})
    old = cloud.packages["champion"]
    assert {(each["variant"], each["model_package"], each["fallback"], each["share"], each["experiment"]) for each in answers} == {
        ("champion", old, None, 0.0, saved.id)
    }
    assert (forced["variant"], forced["model_package"], forced["fallback"]) == ("champion", old, "challenger_failed")
    assert (health.challenger.requests, health.challenger.errors, health.challenger.fallbacks, health.champion.errors) == (0, 0, 0, 0)
    gateway.flush()
    logged = {each["inference_id"]: each for each in shipped(cloud.objects, LAYOUT.shipped_decisions())}
    for number in (*range(20), 100):
        each = logged[str(number)]
        assert (each["answered"], each["model_package"], each["threshold"]) == ("champion", old, cloud.thresholds["champion"])
        assert each["override"] or (each["assigned"], each["share"], each["propensity"]) == ("champion", 0.0, 1.0)
    assert (after["variant"], after["model_package"], after["score"] > 0.35) == ("champion", cloud.packages["challenger"], True)
    assert logged["201"]["threshold"] == cloud.thresholds["challenger"]


def test_what_the_endpoint_carries_outweighs_the_store(gateway: Gateway, cloud: Cloud, ramp: None) -> None:
    """In the middle of a ramp somebody deploys another model: it is scored by as what it is, and the rollout hears nothing more."""
    saved = gateway.rolled_out("ramp", 0.4)
    try:
        cloud.deploy("deployed-over-it", {"champion": "challenger"})
        wait_until(lambda: gateway.score("1")["experiment"] is None, "the gateway sees what is carried")
        assert gateway.store.current(DOMAIN).stage == "ramp"
        answers = [gateway.score(str(number), amount=7.0) for number in range(100, 120)]
        assert {(each["variant"], each["model_package"], each["share"], each["fallback"]) for each in answers} == {
            ("champion", cloud.packages["challenger"], 0.0, None)
        }
        assert all(each["score"] > 0.35 and each["reviewed_because"] != "score" for each in answers)  # by its own threshold
        gateway.flush()
        logged = [each for each in shipped(cloud.objects, LAYOUT.shipped_decisions()) if each["inference_id"] in map(str, range(100, 120))]
        assert {(each["threshold"], each["experiment"], each["step"]) for each in logged} == {(cloud.thresholds["challenger"], None, None)}
        time.sleep(0.5)
        [before] = gateway.store.healths(saved.id, saved.step)
        time.sleep(0.8)
        assert gateway.store.healths(saved.id, saved.step) == [before], "no sign of life for it"
    finally:
        cloud.deploy("ramp-after-that", {"champion": "champion", "challenger": "challenger"})
    wait_until(lambda: gateway.score("2")["experiment"] == saved.id, "both are back")


def test_a_split_that_nobody_watches_gives_the_champion_all(gateway: Gateway, cloud: Cloud, ramp: None) -> None:
    policy = Rollout(guardrails=Guardrails(heartbeat=timedelta(seconds=2)))
    saved = gateway.rolled_out("ramp", 0.99, policy=policy)
    assert gateway.score("1", entity_id="somebody")["variant"] == "challenger"
    begun = time.monotonic()
    while time.monotonic() - begun < 3:
        gateway.store.note_watched(saved.id, clock())
        answer = gateway.score("2", entity_id="somebody")
        assert (answer["variant"], answer["fallback"]) == ("challenger", None)
        time.sleep(0.2)
    wait_until(lambda: gateway.score("3", entity_id="somebody")["fallback"], "it is noticed that nobody looks any more")
    answer = gateway.score("4", entity_id="somebody")
    assert (answer["variant"], answer["fallback"], answer["share"], answer["model_package"]) == (
        "champion", "unwatched", 0.0, cloud.packages["champion"],
    )  # fmt: skip
    assert 'variant="champion",decision="review",fallback="unwatched",override="false"} ' in gateway.get("/metrics").text
    wait_until(lambda: gateway.store.healths(saved.id, saved.step)[0].champion.requests >= 2, "the champion's answers are counted")
    gateway.flush()
    logged = {each["inference_id"]: each for each in shipped(cloud.objects, LAYOUT.shipped_decisions())}
    assert (logged["4"]["assigned"], logged["4"]["propensity"], logged["4"]["fallback"]) == ("champion", 1.0, "unwatched")
    gateway.store.note_watched(saved.id, clock())
    wait_until(lambda: gateway.score("5", entity_id="somebody")["variant"] == "challenger", "somebody looks again")
    time.sleep(2.5)
    assert gateway.score("6", entity_id="somebody")["fallback"] == "unwatched"
    gateway.rolled_out("safe", 1.0)
    time.sleep(2.5)
    assert gateway.score("7", entity_id="somebody")["variant"] == "challenger", "what is no split wants nobody's watch"


def test_callers_faults_do_not_speak_against_the_challenger(gateway: Gateway, cloud: Cloud, ramp: None) -> None:
    saved = gateway.rolled_out("ramp", 0.99)
    for number in range(8):
        refused = gateway.post("/v1/score", request(str(number), entity_id="somebody", reasons=4))  # there are three features
        assert refused.status_code == 422
    answer = gateway.score("9", entity_id="somebody")
    assert (answer["variant"], answer["fallback"]) == ("challenger", None)
    wait_until(lambda: gateway.store.healths(saved.id, saved.step)[0].challenger.requests, "it is counted")
    [health] = gateway.store.healths(saved.id, saved.step)
    assert (health.challenger.requests, health.challenger.errors, health.champion.requests) == (1, 0, 0)


def test_a_challenger_with_other_features_is_not_asked(gateway: Gateway, cloud: Cloud, ramp: None) -> None:
    other = cloud.objects.put(f"{LAYOUT.models}other/model.tar.gz", model_archive(0.6, ("a", "b")))
    store = gateway.store
    saved = gateway.rolled_out("ramp", 0.99)
    store.save(saved.but(challenger=type(saved.challenger)("arn:other", other, 0.0), step=saved.step + 1))
    wait_until(lambda: gateway.score("1")["fallback"] == "challenger_failed", "the other model is known")
    assert "wants other features" in gateway.log
    refused = gateway.post("/v1/score", request("2", variant="challenger"))
    assert refused.status_code == 422
    assert "no challenger now" in refused.json()["error"]


def test_the_endpoint_gone_and_back(cloud: Cloud, gateway: Gateway, ramp: None) -> None:
    """Requests wait for as long as they may, then say when to try again, and are counted; when the endpoint is back, so is the answer."""
    gateway.close()
    gateway.options = ("--champion-timeout", "1")
    gateway.start()
    saved = gateway.rolled_out("ramp", 0.99)
    assert gateway.score("1", entity_id="somebody")["variant"] == "challenger"
    cloud.kill()
    begun = time.monotonic()
    refused = gateway.post("/v1/score", request("2", entity_id="somebody"))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert 0.5 < time.monotonic() - begun < 2.5

    def told() -> Any:
        [health] = gateway.store.healths(saved.id, saved.step)
        return health if health.challenger.requests == 2 else None

    health = wait_until(told, "what nobody answered is counted")
    assert (health.challenger.errors, health.challenger.fallbacks) == (1, 0)
    assert (health.champion.requests, health.champion.errors, sum(health.champion.latencies)) == (1, 1, 1)
    assert gateway.post("/v1/score", request("4", entity_id="somebody", variant="champion")).status_code == 503
    time.sleep(0.5)
    assert told().champion == health.champion, "an override is not counted"
    cloud.start()
    wait_until(lambda: gateway.post("/v1/score", request("3")).status_code == 200, "the endpoint is back", 40)
    gateway.flush()
    assert {each["inference_id"] for each in shipped(cloud.objects, LAYOUT.shipped_decisions())} == {"1", "3"}
