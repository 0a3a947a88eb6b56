"""Who decides for whom through the stages of a rollout, and what happens when the challenger, the store or the endpoint fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from gateway_lab import DOMAIN, LAYOUT, Cloud, Gateway, request, shipped, wait_until

from include.lifecycle.assignment import assign, epoch_of
from include.lifecycle.domain import Rollout


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


def test_a_promotion_and_the_endpoints_change_lose_no_request(gateway: Gateway, cloud: Cloud, ramp: None) -> None:
    """Ramp, promoted with both variants, promoted with the new model alone: under traffic all the way."""
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
        gateway.rolled_out("promoted", 1.0)
        time.sleep(0.5)
        promoted = time.monotonic()
        cloud.deploy("promoted", {"champion": "challenger"})  # the new model in the champion's slot
        time.sleep(6.5)
    finally:
        stop.set()
        thread.join()
        cloud.deploy("ramp-again", {"champion": "champion", "challenger": "challenger"})
    assert {each["status"] for each in answers} == {200}
    after = [each for each in answers if each["at"] > promoted]
    assert {each["model_package"] for each in after} == {cloud.packages["challenger"]}
    assert {each["fallback"] for each in after} == {None}
    assert all(each["score"] > 0.35 for each in after)
    assert {each["variant"] for each in after} == {"challenger", "champion"}  # at the end it is the champion
    assert after[-1]["variant"] == "champion"


def test_a_challenger_with_other_features_is_not_asked(gateway: Gateway, cloud: Cloud, ramp: None) -> None:
    from gateway_lab import model_archive

    other = cloud.objects.put(f"{LAYOUT.models}other/model.tar.gz", model_archive(0.6, ("a", "b")))
    store = gateway.store
    saved = gateway.rolled_out("ramp", 0.99)
    store.save(saved.but(challenger=type(saved.challenger)("arn:other", other, 0.0), step=saved.step + 1))
    wait_until(lambda: gateway.score("1")["fallback"] == "challenger_failed", "the other model is known")
    assert "wants other features" in gateway.log
    refused = gateway.post("/v1/score", request("2", variant="challenger"))
    assert refused.status_code == 422
    assert "no challenger now" in refused.json()["error"]


def test_the_endpoint_gone_and_back(cloud: Cloud, gateway: Gateway, tmp_path: Path) -> None:
    """Requests wait for as long as they may, then say when to try again; when the endpoint is back, so is the answer."""
    gateway.close()
    gateway.options = ("--champion-timeout", "1")
    gateway.start()
    assert gateway.score("1")["variant"] == "champion"
    cloud.kill()
    begun = time.monotonic()
    refused = gateway.post("/v1/score", request("2"))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert 0.5 < time.monotonic() - begun < 2.5
    cloud.start()
    wait_until(lambda: gateway.post("/v1/score", request("3")).status_code == 200, "the endpoint is back", 40)
    gateway.flush()
    assert {each["inference_id"] for each in shipped(cloud.objects, LAYOUT.shipped_decisions())} == {"1", "3"}
