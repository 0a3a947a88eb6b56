"""What the gateway makes of an endpoint that answers nonsense, or not at all: a server of HTTP stands for InvokeEndpoint, the rest is real."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from gateway_lab import DOMAIN, ENDPOINT, FEATURES, OPENED, clock, request

from include import domains
from include.gateway import scoring
from include.gateway.counts import Metrics
from include.gateway.endpoint import Endpoints
from include.gateway.journal import Journal
from include.gateway.live import Model, View
from include.gateway.schemas import ScoreRequest
from include.gateway.scoring import Scorer, TooMany
from include.lifecycle.experiment import Contender, Experiment

REASON = {"feature": "a", "value": None, "contribution": -0.25}


@dataclass
class Answers:
    """``content``: what each variant answers. ``asked``: how often it was. ``keys``: whose signatures came. Answers wait for ``go``."""

    content: dict[str, bytes]
    asked: Counter[str] = field(default_factory=Counter)
    keys: list[str] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answers]:
    told = Answers({"champion": b"0.25"})
    told.go.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            variant = self.headers["X-Amzn-SageMaker-Target-Variant"]
            told.asked[variant] += 1
            told.keys.append(self.headers["Authorization"].partition("Credential=")[2].partition("/")[0])
            told.go.wait(20)
            self.send_response(200)
            self.send_header("x-Amzn-Invoked-Production-Variant", variant)
            self.send_header("Content-Length", str(len(told.content[variant])))
            self.end_headers()
            self.wfile.write(told.content[variant])

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", f"http://127.0.0.1:{server.server_port}")
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION"):
        monkeypatch.setenv(f"AWS_{name}", "test-1")
    yield told
    told.go.set()
    server.shutdown()
    thread.join()
    server.server_close()


class _Live:
    """``Live`` of one view, in which the challenger decides for all."""

    def __init__(self) -> None:
        old, new = (Contender(f"arn:{name}", f"s3://b/{name}", 0.0) for name in ("old", "new"))
        found = Experiment("e1", DOMAIN, ENDPOINT, old, new, OPENED, stage="safe", share=1.0, step=3, step_began=clock())
        both = ("champion", "challenger")
        self._view = View(domains.get(DOMAIN), ENDPOINT, both, Model(old, FEATURES), Model(new, FEATURES), found)

    def view(self, domain: str) -> View:
        return self._view

    def store_is_down(self, domain: str) -> bool:
        return False


def scored(event: str, **more: Any) -> ScoreRequest:
    return ScoreRequest.model_validate_json(json.dumps(request(event, **more)))


def with_scorer(folder: Path, do: Callable[[Scorer], Awaitable[None]]) -> None:
    async def run() -> None:
        live: Any = _Live()
        endpoints, journal = Endpoints(), Journal(folder, "g")
        endpoints.refresh_credentials()
        await do(Scorer(live, endpoints, journal, Metrics(), 5.0, 5.0))
        await journal.close()
        await endpoints.close()

    asyncio.run(run())


def explained(score: Any, *reasons: Any) -> bytes:
    return json.dumps({"predictions": [{"score": score, "reasons": list(reasons)}]}).encode()


NO_SCORES = (b"37.2", b"-4", b"1.0000001", b"nan", b"inf", b"1e999", b"", b"\xff", b"0.1,0.2")
NO_REASONS = (
    explained(0.5, REASON | {"contribution": float("nan")}),
    explained(0.5, REASON | {"value": float("inf")}),
    explained(0.5, REASON | {"contribution": "much"}),
    explained(0.5, REASON | {"feature": 7}),
    explained(0.5, {"feature": "a"}),
    explained(0.5, "a"),
    explained(1.5, REASON),
    explained(float("nan"), REASON),
    b'{"predictions": [{"score": 0.5, "reasons": [{"feature": "a", "value": 1, "contribution": 1e999}]}]}',
    b'{"predictions": []}',
    b"[" * 100_000,
)


@pytest.mark.parametrize(("contents", "reasons"), [(NO_SCORES, None), (NO_REASONS, 1)], ids=["scores", "reasons"])
def test_what_is_no_score_decides_nothing_and_is_a_failure(
    answers: Answers, tmp_path: Path, contents: tuple[bytes, ...], reasons: int | None
) -> None:
    answers.content["champion"] = explained(0.25, REASON) if reasons else b"0.25"

    async def do(scorer: Scorer) -> None:
        for number, content in enumerate(contents):
            answers.content["challenger"] = content
            scorer = replace(scorer, steps={}, _breakers={})
            answer = await scorer.score(scored(str(number), reasons=reasons))
            assert (answer["variant"], answer["score"], answer["fallback"]) == ("champion", 0.25, "challenger_failed"), content
            assert answer["reasons"] == ([REASON] if reasons else [])
            counts = scorer.step_counts(DOMAIN)
            assert counts is not None
            slot = counts.slots["challenger"]
            assert (slot.requests, slot.errors, slot.fallbacks) == (1, 1, 1), "the guardrail of errors hears of it"

    with_scorer(tmp_path, do)
    [segment] = tmp_path.glob("*.log")
    lines = segment.read_bytes().rstrip(b"\0").splitlines()
    assert [json.loads(line.partition(b" ")[2])["score"] for line in lines] == [0.25] * len(contents)


def test_the_ends_of_a_probability_are_scores(answers: Answers, tmp_path: Path) -> None:
    async def do(scorer: Scorer) -> None:
        for score in (0.0, 1.0, 0.5):
            for reasons, content in ((None, str(score).encode()), (1, explained(score, REASON))):
                answers.content["challenger"] = content
                answer = await scorer.score(scored("1", reasons=reasons))
                assert (answer["variant"], answer["score"]) == ("challenger", score)

    with_scorer(tmp_path, do)


def test_a_challenger_that_is_not_asked_has_no_latency(answers: Answers, tmp_path: Path) -> None:
    answers.content["challenger"] = b"nonsense"

    async def do(scorer: Scorer) -> None:
        for number in range(20):
            await scorer.score(scored(str(number)))
        counts = scorer.step_counts(DOMAIN)
        assert counts is not None
        slot = counts.slots["challenger"]
        assert (slot.requests, slot.errors) == (20, 20)
        assert sum(slot.latencies) == answers.asked["challenger"] < 20

    with_scorer(tmp_path, do)


def test_what_an_endpoint_that_stalls_cannot_take_is_refused_at_once(
    answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "MOST_AT_ONCE", 3)
    answers.content["challenger"] = b"0.5"
    answers.go.clear()

    async def do(scorer: Scorer) -> None:
        waiting = [asyncio.create_task(scorer.score(scored(str(number)))) for number in range(3)]
        while answers.asked["challenger"] < 3:
            await asyncio.sleep(0.01)
        for number in range(100):
            with pytest.raises(TooMany, match="3 requests of card_payments are under way"):
                await scorer.score(scored(str(number)))
        assert answers.asked["challenger"] == 3
        assert not any(task.done() for task in waiting)
        waiting.pop().cancel()  # a caller who went away leaves its place
        await asyncio.sleep(0.01)
        waiting.append(asyncio.create_task(scorer.score(scored("4"))))
        answers.go.set()
        assert {answer["variant"] for answer in await asyncio.gather(*waiting)} == {"challenger"}
        assert (await scorer.score(scored("5")))["variant"] == "challenger"

    with_scorer(tmp_path, do)


def test_renewed_credentials_sign_what_comes_after(answers: Answers, tmp_path: Path) -> None:
    answers.content["challenger"] = b"0.5"

    async def do(scorer: Scorer) -> None:
        await scorer.score(scored("1"))
        scorer.endpoints._session.set_credentials("renewed", "secret", "token")
        await scorer.score(scored("2"))
        scorer.endpoints.refresh_credentials()
        await scorer.score(scored("3"))

    with_scorer(tmp_path, do)
    assert answers.keys == ["test-1", "test-1", "renewed"]
