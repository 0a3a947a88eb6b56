"""What a request is judged by: the endpoint, the experiment, and what is known of either."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from gateway_lab import DOMAIN, ENDPOINT, OPENED, Cloud, Gateway, model_archive, request
from waiting import wait_until

from include import domains
from include.gateway.counts import Metrics
from include.gateway.endpoint import Invocation, InvocationError
from include.gateway.journal import Journal, read_segment
from include.gateway.live import ENDPOINT_SECONDS, Deployed, Live, Model, NotLive, View, Watched, view_of
from include.gateway.schemas import ScoreRequest
from include.gateway.scoring import NoAnswer, Scorer
from include.lifecycle.as_of import iso
from include.lifecycle.experiment import Contender, Experiment
from include.lifecycle.names import endpoint_name
from include.stores.experiments import ExperimentStore, open_store

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
    missing: str = "",
    watched: str | None = None,
    new: tuple[str, ...] = FEATURES,
    told: datetime | None = None,
    now: datetime = datetime(2026, 4, 1, 13, tzinfo=UTC),
) -> View:
    def model(contender: Contender) -> Model:
        return Model(contender, new)

    carries = Deployed("c", variants or ("champion", "challenger"), Model(carried, FEATURES), missing)
    return view_of(domains.get(DOMAIN), carries, found, model, Watched(watched, told or now + timedelta(days=9_999), now))


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
    assert view(OLD, experiment(), missing="nothing is said").champion.contender.review_threshold == 1.0
    for found in (None, experiment(stage="stopped")):
        with pytest.raises(NotLive, match="nothing is said"):
            view(OLD, found, missing="nothing is said")
    with pytest.raises(NotLive, match="nothing is said"):
        view(OTHER, experiment(), missing="nothing is said")


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


def test_a_look_from_the_future_is_none() -> None:
    """Of a clock that is wrong nobody can say when it last told the time; one that is a little fast is not wrong."""
    beat, now = experiment().policy.guardrails.heartbeat, datetime(2026, 4, 1, 12, 30, tzinfo=UTC)
    began = datetime.fromisoformat(BEGAN)
    for ahead, believed in ((beat, True), (beat + timedelta(seconds=1), False), (timedelta(days=365), False)):
        at = now + ahead
        expected = at + beat if believed else began + beat
        assert view(OLD, experiment(), watched=iso(at), now=now).watched_until == expected
    never = experiment(step_began="2027-04-01T12:00:00Z")
    assert view(OLD, never, watched="2027-04-01T12:00:00Z", now=now).watched_until == datetime.min.replace(tzinfo=UTC)


def test_whoever_looks_sees_nothing_of_a_gateway_whose_counts_do_not_arrive() -> None:
    beat = experiment().policy.guardrails.heartbeat
    now = datetime(2026, 4, 1, 13, tzinfo=UTC)
    told = now - timedelta(seconds=50)
    assert view(OLD, experiment(), watched=iso(now), told=told).watched_until == told + beat
    assert view(OLD, experiment(), watched=iso(now), told=now + beat).watched_until == now + beat


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
        for slot, asked in (("champion", 10), ("challenger", 5)):
            told = counts.slots[slot].frozen()
            assert (told.requests, told.errors, told.fallbacks, sum(told.latencies), sum(told.scores)) == (10, 10, 0, asked, 0)
        return overrides, endpoints.asked - overrides

    assert asyncio.run(asked()) == (10, 5), "after five failures it is left alone for a moment; overrides are none"


class _Single:
    """An endpoint whose only production variant answers. ``asked``: the variants that were named."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []

    async def invoke(self, endpoint: str, variant: str | None, *rest: Any) -> Invocation:
        self.asked.append(variant)
        if variant not in (None, "champion"):
            raise InvocationError("there is none of that name", "no_variant")
        return Invocation(0.5, [], "champion", 1.0)


@pytest.mark.parametrize(
    ("variants", "asked", "judged"),
    [
        (("champion",), [None], (OLD, "champion", 0.0, None)),
        (("champion", "challenger"), ["challenger", None], (NEW, "challenger", 1.0, None)),
    ],
)
def test_an_endpoint_without_the_variant_that_has_all_carries_the_old_model_unless_it_had_it_a_moment_ago(
    tmp_path: Path, variants: tuple[str, ...], asked: list[str], judged: tuple[Contender, str, float, str | None]
) -> None:
    """Promoted from shadow, the endpoint's only variant is the old model until it is changed; promoted from the ramp, it is the new one once the
    challenger's is gone."""
    endpoints, lines = _Single(), list[dict[str, Any]]()
    live: Any = _Rollout(view(OLD, experiment(stage="safe", share=1.0), *variants))

    async def score() -> None:
        scorer = Scorer(live, endpoints, Journal(tmp_path, "g"), Metrics(), 0.1, 0.01)  # type: ignore[arg-type]
        found = await scorer.score(ScoreRequest.model_validate_json(json.dumps(request("1"))))
        counts = scorer.step_counts(DOMAIN)
        assert counts is not None
        told = {slot: counted.frozen() for slot, counted in counts.slots.items()}
        assert {slot: (each.requests, each.errors, each.fallbacks) for slot, each in told.items()} == {
            slot: (int(slot == judged[1]), 0, 0) for slot in ("champion", "challenger")
        }
        assert (found["model_package"], found["variant"], found["share"], found["fallback"]) == (judged[0].model_package, *judged[1:])
        await scorer.journal.close()
        [segment] = scorer.journal.closed_segments
        lines.extend(json.loads(text) for text in read_segment(segment)[0])

    asyncio.run(score())
    assert endpoints.asked == asked
    [logged] = lines
    assert (logged["model_package"], logged["threshold"], logged["answered"], logged["assigned"], logged["share"], logged["propensity"]) == (
        judged[0].model_package, judged[0].review_threshold, judged[1], judged[1], judged[2], 1.0,
    )  # fmt: skip


class _SageMaker:
    """An endpoint of one champion for each domain, from its package. ``described``: how often one was looked at."""

    def __init__(self, **packages: dict[str, Any]) -> None:
        self.packages = {endpoint_name(name): described for name, described in packages.items()}
        self.status, self.config, self.described = "InService", "c1", 0

    def describe_endpoint(self, EndpointName: str) -> dict[str, Any]:
        self.described += 1
        variants = [{"VariantName": "champion"}]
        config = f"{EndpointName}/{self.config}"
        return {"EndpointName": EndpointName, "EndpointStatus": self.status, "EndpointConfigName": config, "ProductionVariants": variants}

    def describe_endpoint_config(self, EndpointConfigName: str) -> dict[str, Any]:
        return {"ProductionVariants": [{"ModelName": EndpointConfigName.partition("/")[0]}]}

    def describe_model(self, ModelName: str) -> dict[str, Any]:
        return {"PrimaryContainer": {"ModelPackageName": ModelName}}

    def describe_model_package(self, ModelPackageName: str) -> dict[str, Any]:
        return self.packages[ModelPackageName]


class _Archives:
    """A bucket of models; those of the names ``missing`` cannot be read. ``read``: which were asked for, in order."""

    def __init__(self, *missing: str) -> None:
        self.missing, self.read = missing, list[str]()
        self.archive = model_archive(0.1)
        self.hold = threading.Event()
        self.hold.set()

    def key(self, uri: str) -> str:
        return uri.removeprefix("s3://b/")

    def get(self, key: str) -> bytes:
        self.read.append(key)
        assert self.hold.wait(20)
        return b"no archive" if key in self.missing else self.archive


def package(model: str, threshold: str = "5.0", **more: Any) -> dict[str, Any]:
    return {
        "ModelPackageArn": f"arn:{model}",
        "ModelPackageVersion": 1,
        "ModelApprovalStatus": "Approved",
        "CustomerMetadataProperties": {"review_threshold": threshold},
        "InferenceSpecification": {"Containers": [{"Image": "i", "ModelDataUrl": f"s3://b/{model}"}]},
        **more,
    }


OTHER_DOMAIN = "auto_claims"


def live_of(tmp_path: Path, client: Any, archives: Any) -> tuple[Live, ExperimentStore]:
    store = open_store(f"sqlite://{tmp_path / 'experiments.db'}")
    store.ensure()
    return Live((DOMAIN, OTHER_DOMAIN), store, archives, client, 5.0), store


def why(live: Live, name: str = DOMAIN) -> str:
    with pytest.raises(NotLive) as raised:
        live.view(name)
    return str(raised.value)


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (package("m", "5,00"), "says the review_threshold '5,00', which is no number"),
        (package("m", "nan"), "says the review_threshold 'nan', which is no number"),
        (package("m", "inf"), "says the review_threshold 'inf', which is no number"),
        (package("m", InferenceSpecification={"Containers": []}), "what its endpoint carries cannot be understood: IndexError"),
        ({"ModelPackageArn": "arn:m"}, "what its endpoint carries cannot be understood: KeyError('InferenceSpecification')"),
    ],
)
def test_an_odd_package_is_its_domains_alone(tmp_path: Path, odd: dict[str, Any], says: str) -> None:
    live, _ = live_of(tmp_path, _SageMaker(card_payments=odd, auto_claims=package("good")), _Archives())
    for name in live.names:
        live.refresh_endpoint(name)
        live.refresh_experiment(name)
    assert says in why(live)
    assert live.view(OTHER_DOMAIN).champion.contender == Contender("arn:good", "s3://b/good", 5.0)


def test_an_odd_experiment_is_its_domains_alone(tmp_path: Path) -> None:
    live, store = live_of(tmp_path, _SageMaker(card_payments=package("old"), auto_claims=package("good")), _Archives())
    store.create(experiment(step_began="yesterday"))
    for name in live.names:
        live.refresh_endpoint(name)
        live.refresh_experiment(name)
    assert "its experiment cannot be understood: ValueError" in why(live)
    assert live.view(OTHER_DOMAIN).champion.contender.model_package == "arn:good"


def test_an_endpoint_that_is_changing_is_looked_at_every_time(tmp_path: Path) -> None:
    client = _SageMaker(card_payments=package("old"))
    live, _ = live_of(tmp_path, client, _Archives())

    def looks() -> int:
        before = client.described
        for _ in range(3):
            live.refresh_endpoint(DOMAIN)
        return client.described - before

    assert looks() == 2, "once to see it, once to know its package"
    for status, times in (("Updating", 3), ("InService", 1), ("RollingBack", 3), ("InService", 1)):
        live.look_again(DOMAIN)
        client.status = status
        assert looks() == times
    live.look_again(DOMAIN)
    client.status = "Updating"
    looks()
    client.status, client.config, client.packages[endpoint_name(DOMAIN)] = "InService", "c2", package("new", "7.0")
    looks()
    assert live.view(DOMAIN).champion.contender == Contender("arn:new", "s3://b/new", 7.0), f"no {ENDPOINT_SECONDS} s later"


def test_a_challenger_that_cannot_be_read_is_not_read_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives = _Archives("new")
    live, store = live_of(tmp_path, _SageMaker(card_payments=package("old")), archives)
    store.create(experiment())
    clock = time.monotonic()
    monkeypatch.setattr("include.gateway.live.time.monotonic", lambda: clock)
    live.refresh_endpoint(DOMAIN)
    for _ in range(300):
        live.refresh_experiment(DOMAIN)
        clock += 1.0
    problem = live.view(DOMAIN).problem
    assert "s3://b/new is no model's archive" in problem
    assert 7 < archives.read.count("new") <= 11, "after 1, 2, 4, … and at last every 60 seconds"
    archives.missing = ()
    clock += 60.0
    live.refresh_experiment(DOMAIN)
    assert (live.view(DOMAIN).problem, live.view(DOMAIN).challenger is not None) == ("", True)


def test_a_slow_download_of_one_domains_model_holds_up_no_other(tmp_path: Path) -> None:
    archives = _Archives()
    live, store = live_of(tmp_path, _SageMaker(card_payments=package("old"), auto_claims=package("good")), archives)
    for name in live.names:
        live.refresh_endpoint(name)
        live.refresh_experiment(name)
    store.create(experiment())
    archives.hold.clear()
    slow = threading.Thread(target=live.refresh_experiment, args=(DOMAIN,))
    slow.start()
    wait_until(lambda: "new" in archives.read, "the download begins")
    asked = time.monotonic()
    for name in live.names:
        live.refresh_endpoint(name)
    live.refresh_experiment(OTHER_DOMAIN)
    assert live.store_age(OTHER_DOMAIN) < time.monotonic() - asked + 0.001
    assert live.view(DOMAIN).experiment is None, "it is not known before its models are"
    archives.hold.set()
    slow.join(20)
    challenger = live.view(DOMAIN).challenger
    assert (live.view(DOMAIN).problem, challenger and challenger.features) == ("", FEATURES)


def test_an_older_view_never_takes_the_place_of_a_newer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that looks at the endpoint is held up between reading what it makes a view of and showing the view."""
    live, store = live_of(tmp_path, _SageMaker(card_payments=package("old")), _Archives())
    present = store.create(experiment())
    live.refresh_endpoint(DOMAIN)
    live.refresh_experiment(DOMAIN)
    reached, go_on = threading.Event(), threading.Event()

    def held_up(*arguments: Any) -> View:
        made = view_of(*arguments)
        if threading.current_thread() is endpoint:
            reached.set()
            go_on.wait(1)
        return made

    monkeypatch.setattr("include.gateway.live.view_of", held_up)
    live.look_again(DOMAIN)
    endpoint = threading.Thread(target=live.refresh_endpoint, args=(DOMAIN,))
    endpoint.start()
    assert reached.wait(20)
    newer = store.save(present.but(step=present.step + 1))
    live.refresh_experiment(DOMAIN)
    go_on.set()
    endpoint.join(20)
    shown = live.view(DOMAIN).experiment
    assert shown is not None
    assert (shown.version, shown.step) == (newer.version, newer.step)


def test_a_gateway_whose_counts_do_not_arrive_splits_no_longer_than_a_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live, store = live_of(tmp_path, _SageMaker(card_payments=package("old")), _Archives())
    found = store.create(experiment())
    beat = found.policy.guardrails.heartbeat
    clock = time.monotonic()
    monkeypatch.setattr("include.gateway.live.time.monotonic", lambda: clock)
    live.refresh_endpoint(DOMAIN)

    def left() -> float:
        """Seconds for which it may go on splitting, though somebody looks all the time."""
        store.note_watched(found.id, iso(datetime.now(UTC)))
        live.refresh_experiment(DOMAIN)
        until = live.view(DOMAIN).watched_until
        assert until is not None
        return (until - datetime.now(UTC)).total_seconds()

    whole = beat.total_seconds()
    assert left() == pytest.approx(whole, abs=2), "it has had no time to tell anything"
    clock += whole - 10
    assert left() == pytest.approx(10, abs=2)
    clock += 20
    assert left() < 0
    live.counts_told(DOMAIN)
    assert left() == pytest.approx(whole, abs=2)


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


@pytest.mark.timeout(120)
def test_a_package_that_makes_no_sense_neither_ends_a_gateway_nor_keeps_one_from_starting(gateway: Gateway, cloud: Cloud) -> None:
    thresholds, cloud.thresholds = cloud.thresholds, {"odd": "5.00 EUR"}  # type: ignore[dict-item]  # that is what is odd
    try:
        cloud.register("odd", model_archive(0.3))
    finally:
        cloud.thresholds = thresholds
    try:
        cloud.deploy("odd", {"champion": "odd"})
        wait_until(lambda: gateway.get("/readyz").status_code == 503, "the gateway sees it")
        gateway.terminate()
        gateway.start()
        says = wait_until(lambda: gateway.get("/readyz").json()["unready"], "it says so")
        assert "says the review_threshold '5.00 EUR', which is no number" in says[DOMAIN]
        assert gateway.get("/readyz").json()["experiment_store_down"] == []
    finally:
        cloud.deploy("single-after-odd", {"champion": "champion"})
    wait_until(lambda: gateway.get("/readyz").status_code == 200, "one that makes sense")
