"""What a request is judged by: the endpoint, the experiment, and what is known of either."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from gateway_lab import DOMAIN, ENDPOINT, OPENED, Cloud, Gateway, model_archive, request, wait_until

from include import domains
from include.gateway.counts import Metrics
from include.gateway.endpoint import InvocationError
from include.gateway.journal import Journal
from include.gateway.live import Carried, Model, NotLive, View, view_of
from include.gateway.scoring import NoAnswer, Scorer
from include.gateway.words import ScoreRequest
from include.lifecycle.experiment import Contender, Experiment

FEATURES = ("a", "b", "c")
OLD, NEW, OTHER = (
    Contender(f"arn:{name}", f"s3://b/{name}", threshold) for name, threshold in (("old", 1.0), ("new", 2.0), ("other", 3.0))
)
BEGAN = "2026-04-01T12:00:00Z"


def experiment(**changes: Any) -> Experiment:
    fields: dict[str, Any] = {"stage": "ramp", "share": 0.4, "step": 3, "step_began": BEGAN, **changes}
    return Experiment("e1", DOMAIN, ENDPOINT, OLD, NEW, OPENED, **fields)


def view(
    carried: Contender,
    found: Experiment | None,
    *variants: str,
    lacking: str = "",
    watched: str | None = None,
    new: tuple[str, ...] = FEATURES,
) -> View:
    def model(contender: Contender) -> Model:
        return Model(contender, new)

    carries = Carried("c", variants or ("champion", "challenger"), Model(carried, FEATURES), lacking)
    return view_of(domains.get(DOMAIN), carries, found, model, watched)


def test_an_experiment_counts_for_as_long_as_its_champion_is_carried() -> None:
    def contenders(of: View) -> tuple[str, str | None, str | None]:
        challenger = of.challenger.contender.model_package if of.challenger else None
        return of.champion.contender.model_package, challenger, of.experiment and of.experiment.stage

    assert contenders(view(OLD, None)) == ("arn:old", None, None)
    assert contenders(view(OLD, experiment())) == ("arn:old", "arn:new", "ramp")
    assert contenders(view(OLD, experiment(stage="promoted", share=1.0))) == ("arn:old", "arn:new", "promoted")
    assert contenders(view(OLD, experiment(stage="promoted", share=1.0), "champion")) == ("arn:old", None, None)
    assert contenders(view(OLD, experiment(stage="stopped", share=0.0))) == ("arn:old", None, None)
    for stage, share in (("shadow", 0.0), ("ramp", 0.4), ("safe", 1.0), ("promoted", 1.0)):
        for variants in (("champion",), ("champion", "challenger")):
            for carried in (NEW, OTHER):
                found = view(carried, experiment(stage=stage, share=share), *variants)
                assert contenders(found) == (carried.model_package, None, None)
                assert found.champion.contender.review_threshold == carried.review_threshold
    unusable = view(OLD, experiment(), new=("a",))
    assert (contenders(unusable), unusable.problem) == (("arn:old", None, "ramp"), "the challenger wants other features than the champion")


def test_what_says_no_threshold_is_scored_by_an_experiments_alone() -> None:
    assert view(OLD, experiment(), lacking="nothing is said").champion.contender.review_threshold == 1.0
    for found in (None, experiment(stage="stopped")):
        with pytest.raises(NotLive, match="nothing is said"):
            view(OLD, found, lacking="nothing is said")
    with pytest.raises(NotLive, match="nothing is said"):
        view(OTHER, experiment(), lacking="nothing is said")


def test_a_split_is_watched_for_a_heartbeat_after_the_last_look() -> None:
    beat = experiment().policy.guardrails.heartbeat
    began = datetime.fromisoformat(BEGAN)
    later = "2026-04-01T12:30:00Z"
    assert view(OLD, experiment()).watched_until == began + beat
    assert view(OLD, experiment(), watched=later).watched_until == began + timedelta(minutes=30) + beat
    assert view(OLD, experiment(stage="safe"), watched="2026-04-01T11:00:00Z").watched_until == began + beat, "a step has just begun"
    assert view(OLD, experiment(step_began="")).watched_until == datetime.min.replace(tzinfo=UTC), "nobody has ever looked"
    for stage, share in (("shadow", 0.0), ("proven", 0.0), ("ramp", 0.0), ("safe", 1.0), ("promoted", 1.0)):
        assert view(OLD, experiment(stage=stage, share=share)).watched_until is None
    assert view(NEW, experiment()).watched_until is None


class _Rollout:
    """``Live`` of one view."""

    def __init__(self, found: View) -> None:
        self._view = found

    def view(self, domain: str) -> View:
        return self._view

    def store_is_down(self, domain: str) -> bool:
        return False

    def look_again(self, domain: str) -> None: ...


class _Silent:
    """Endpoints that answer nothing."""

    asked = 0

    async def invoke(self, endpoint: str, variant: str | None, *rest: Any) -> Any:
        self.asked += variant == "challenger"
        raise InvocationError("silent")


def test_only_assigned_requests_open_the_breaker_and_are_counted(tmp_path: Path) -> None:
    found = view(OLD, experiment(stage="safe", share=1.0))
    endpoints: Any = _Silent()
    live: Any = _Rollout(found)

    async def asked() -> tuple[int, int]:
        scorer = Scorer(live, endpoints, Journal(tmp_path, "g"), Metrics(), 0.1, 0.01)

        async def ask(**more: Any) -> None:
            with pytest.raises(NoAnswer, match="silent"):
                await scorer.score(
                    ScoreRequest.model_validate_json(ScoreRequest(**request("1") | {"event_time": EVENT, **more}).model_dump_json())
                )

        for _ in range(10):
            await ask(variant="challenger")
        overrides = endpoints.asked
        counts = scorer.step_counts(DOMAIN)
        assert counts is not None
        assert (counts.slots["challenger"].requests, counts.slots["champion"].requests) == (0, 0)
        for _ in range(10):
            await ask()
        for slot in ("champion", "challenger"):
            told = counts.slots[slot].frozen()
            assert (told.requests, told.errors, told.fallbacks, sum(told.latencies), sum(told.scores)) == (10, 10, 0, 10, 0)
        return overrides, endpoints.asked - overrides

    assert asyncio.run(asked()) == (10, 5), "after five failures it is left alone for a moment; overrides are none"


EVENT = datetime(2026, 3, 31, 14, 30, tzinfo=UTC)


def test_a_model_from_before_rollouts_is_not_scored_by_a_threshold_that_nobody_chose(gateway: Gateway, cloud: Cloud) -> None:
    cloud.register("old", model_archive(0.2))
    gateway.rolled_out("stopped", 0.0)
    try:
        cloud.deploy("old", {"champion": "old"})
        wait_until(lambda: gateway.get("/readyz").status_code == 503, "the gateway sees it")
        refused = gateway.post("/v1/score", request("1"))
        assert (refused.status_code, "registered before rollouts: train it again" in refused.json()["error"]) == (503, True)
        assert cloud.packages["old"] in refused.json()["error"]
        champion = Contender(cloud.packages["old"], cloud.models["old"], 4.0)
        made = gateway.store.create(Experiment("e2", DOMAIN, ENDPOINT, champion, OTHER, OPENED))
        wait_until(lambda: gateway.get("/readyz").status_code == 200, "its experiment says one")
        assert gateway.score("2")["experiment"] == "e2"
        gateway.flush()
        gateway.store.save(made.but(stage="stopped"))
        wait_until(lambda: gateway.get("/readyz").status_code == 503, "and the experiment is over")
    finally:
        cloud.deploy("single-after-old", {"champion": "champion"})
    wait_until(lambda: gateway.get("/readyz").status_code == 200, "one that says a threshold")
    assert gateway.score("3")["model_package"] == cloud.packages["champion"]
