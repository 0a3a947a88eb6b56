"""The HTTP API: routes over ``Service``. Every error has the same body, which says what was wrong and where; see ``/docs``."""

from __future__ import annotations

import asyncio
import gc
import logging
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException

from include import domains
from include.gateway import counts
from include.gateway.guard import Access, Guard
from include.gateway.journal import JournalError
from include.gateway.ledger import Told
from include.gateway.live import NotLive
from include.gateway.schemas import (
    MOST_OUTCOMES,
    CommandAnswer,
    CommandRequest,
    ErrorAnswer,
    Outcome,
    OutcomeAnswer,
    OutcomesAnswer,
    ScoreAnswer,
    ScoreRequest,
)
from include.gateway.scoring import BadRequest, NoAnswer, TooMany, check_id
from include.gateway.service import Options, Service
from include.gateway.shipping import S3_ERRORS, utc_now
from include.lifecycle.as_of import iso
from include.lifecycle.experiment import Command, Experiment
from include.lifecycle.names import digest
from include.lifecycle.rollout import refusal
from include.stores.experiments import ExperimentStore, ExperimentStoreError, Heeded, heed

_log = logging.getLogger(__name__)
_OUTCOMES = TypeAdapter(list[Outcome])
Labels = tuple[tuple[str, str], ...]
_FURTHEST_AHEAD = timedelta(days=366)
_CONFLICT = "another label stands, and is not replaced: a correction comes as a delivery of the labels table"
_SCORE_EXAMPLE = {
    "domain": "card_payments", "event_id": "1780000001", "entity_id": "4711", "event_time": "2026-03-31T14:30:00Z", "amount": 129.9,
    "features": {"amount": 129.9, "transactions_1d": 4, "hour": None}, "reasons": 3,
}  # fmt: skip
_OUTCOME_EXAMPLE = {"domain": "card_payments", "inference_id": "1780000001", "label": 1, "known_at": "2026-04-07T09:00:00Z"}
_ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorAnswer, "description": "no such key"},
    403: {"model": ErrorAnswer, "description": "the key may not do this"},
    404: {"model": ErrorAnswer, "description": "no such domain, or no experiment"},
    413: {"model": ErrorAnswer, "description": "the body is too large"},
    422: {"model": ErrorAnswer, "description": "the body is not what is wanted; `where` says which members"},
    429: {"model": ErrorAnswer, "description": "too many requests: Retry-After says when"},
    503: {"model": ErrorAnswer, "description": "no answer now: Retry-After says when to try again"},
}


class Problem(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, where: list[dict[str, Any]] | None = None) -> None:
        super().__init__(message)
        self.status, self.where = status, where or []


def application(options: Options, store: ExperimentStore, access: Access) -> FastAPI:
    counted = counts.Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = await Service.start(options, store, access, counted)
        gc.collect()
        gc.freeze()  # what is there now stays: a full collection need not look through it while requests wait
        yield
        await app.state.service.stop()

    app = FastAPI(
        title="Fraud gateway",
        version="1",
        lifespan=lifespan,
        redoc_url=None,
        description="Scores events on the domains' live models, assigns them in a rollout, and takes what became of them. "
        "Send the API key as `X-API-Key`, or as `Authorization: Bearer`.",
    )
    app.add_middleware(Guard, access=access, metrics=counted)
    for handled in (Problem, HTTPException):
        app.add_exception_handler(handled, _answer_problem)
    app.add_exception_handler(Exception, _answer_fault)
    # served by Starlette's route, documented by FastAPI's: what that does in between has nothing to do here, and takes as long as the signature
    app.add_route("/v1/score", score, methods=["POST"], include_in_schema=False)
    add = app.add_api_route
    add("/v1/score", score, methods=["POST"], response_model=ScoreAnswer, responses=_ERRORS, summary="Score one event",
        openapi_extra=_body(ScoreRequest.model_json_schema(), {"an event": _SCORE_EXAMPLE}))  # fmt: skip
    outcome = Outcome.model_json_schema()
    either = {"oneOf": [outcome, {"type": "array", "items": outcome, "minItems": 1, "maxItems": MOST_OUTCOMES}]}
    add("/v1/outcomes", outcomes, methods=["POST"], response_model=OutcomesAnswer | OutcomeAnswer, summary="Tell what became of events",
        responses=_ERRORS | {409: {"model": OutcomeAnswer, "description": "a single outcome that contradicts an earlier one"}},
        openapi_extra=_body(either, {"one": _OUTCOME_EXAMPLE, "several": [_OUTCOME_EXAMPLE]}))  # fmt: skip
    add("/v1/experiments/{domain}", experiment, methods=["GET"], responses=_ERRORS, summary="How a rollout goes")
    add("/v1/experiments/{domain}/commands", command, methods=["POST"], status_code=202, response_model=CommandAnswer,
        responses=_ERRORS | {409: {"model": ErrorAnswer, "description": "it cannot be done as things stand; `error` says how they stand. "
        "So is a command answered that has ended the rollout, when it is sent again; one that was refused because others were faster stays so "
        "under its id"}},
        summary="Stop, promote or roll back a rollout, or move its share", openapi_extra=_body(CommandRequest.model_json_schema(), {
            "stop": {"action": "stop", "why": "the call centre is swamped"},
            "more": {"action": "set_share", "share": 0.1, "why": "agreed with risk", "id": "CHG-1234"}}))  # fmt: skip
    add("/v1/flush", flush, methods=["POST"], responses=_ERRORS, summary="Ship decisions, outcomes and labels now, and answer when they are in S3",
        openapi_extra=_body({"type": "object"}, {"nothing to say": {}}))  # fmt: skip
    add("/healthz", alive, methods=["GET"], summary="The process answers")
    add("/readyz", ready, methods=["GET"], summary="Every domain can be scored", responses={503: {"description": "which cannot, and why"}})
    add("/metrics", metrics, methods=["GET"], summary="For Prometheus", response_class=PlainTextResponse)
    return app


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


# ------------------------------------------------------------------------------------------------------------------------- routes


async def score(request: Request) -> Response:
    """Each request is a decision of its own: an event that is asked about again is decided anew, by the model and share of that moment, and both
    decisions are logged. A rollout's evidence is the first of them, so where an answer did not arrive, ask again with the same event soon, and act
    on the answer that did."""
    asked = _read(ScoreRequest, await request.body())
    if asked.variant is not None and "override" not in request.scope["caller"].rights:
        says = "only a key with the right 'override' chooses its variant"
        raise Problem(403, f"variant: {says}", [{"member": "variant", "says": says}])
    try:
        return JSONResponse(await _service(request).scorer.score(asked))
    except KeyError:
        raise _no_domain(request, asked.domain) from None
    except BadRequest as error:
        raise Problem(422, str(error), [{"member": error.member, "says": error.says}]) from error
    except TooMany as error:
        raise Problem(503, str(error)) from error
    except (NotLive, NoAnswer, JournalError) as error:
        _log.error("event %s of %s was not scored: %s", asked.event_id, asked.domain, error)
        raise Problem(503, str(error)) from error


async def outcomes(request: Request) -> Response:
    """At this gateway the first outcome of an event stands. Two gateways that are told different ones both let theirs land, and the later delivery
    counts, as a correction. Always name `known_at`: without it, an outcome that is told again at another gateway is a new version of the label."""
    body, service, now = await request.body(), _service(request), utc_now()
    several = body.lstrip()[:1] == b"["
    told = _read(_OUTCOMES, body) if several else [_read(Outcome, body)]
    if len(told) > MOST_OUTCOMES:
        raise Problem(422, f"{len(told)} outcomes at once: send {MOST_OUTCOMES} at most")
    by_domain: dict[str, list[int]] = {}
    for place, item in enumerate(told):
        if item.domain not in service.options.names:
            raise _no_domain(request, item.domain)
        _check_outcome(item, f"{place}." if several else "", now)
        by_domain.setdefault(item.domain, []).append(place)
    answers: dict[int, dict[str, Any]] = {}
    for domain, places in by_domain.items():
        items = [Told(told[place].inference_id, told[place].label, told[place].known_at or now) for place in places]

        def in_hand(inference_id: str, domain: str = domain) -> bool:
            return (domain, inference_id) in service.scorer.in_hand

        try:
            states = await service.shipper.in_ledger(service.ledger.receive, domain, items, now, request.scope["caller"].name, in_hand)
        except sqlite3.Error as error:
            _log.error("outcomes of %s cannot be written down: %s", domain, error)
            raise Problem(503, f"outcomes cannot be written down: {error}") from error
        for place, state in zip(places, states, strict=True):
            service.metrics.outcomes[domain, state] += 1
            says = _CONFLICT if state == "conflict" else None
            answers[place] = {"inference_id": told[place].inference_id, "state": state, "says": says}
    if several:
        return JSONResponse({"outcomes": [answers[place] for place in range(len(told))]})
    return JSONResponse(answers[0], 409 if answers[0]["state"] == "conflict" else 200)


def _check_outcome(item: Outcome, prefix: str, now: datetime) -> None:
    if item.known_at is not None and item.known_at > now + _FURTHEST_AHEAD:
        says = f"{iso(item.known_at)} is more than a year ahead"
        raise Problem(422, f"{prefix}known_at: {says}", [{"member": f"{prefix}known_at", "says": says}])
    try:
        check_id(domains.get(item.domain), item.inference_id)
    except BadRequest as error:
        raise Problem(422, f"{prefix}inference_id: {error.says}", [{"member": f"{prefix}inference_id", "says": error.says}]) from error


async def experiment(request: Request, domain: str) -> Response:
    """Stage, shares, the evidence last looked at, the whole history, commands not yet heeded, and the outcomes told to this gateway."""
    service = _service(request)
    found = await _current(service, request, domain)
    content: dict[str, Any] = {
        "domain": domain,
        "gateway": service.gateway,
        "experiment": None,
        "history": [],
        "evidence": None,
        "commands": [],
    }
    if found is not None:
        history = await _of_store(service.store.history, found.id)
        commands = await _of_store(service.store.commands, found.id)
        content |= {
            "experiment": found.as_json(),
            "shares": {"champion": 1 - found.share, "challenger": found.share},
            "evidence": next((dict(entry.evidence) for entry in reversed(history) if entry.evidence), None),
            "history": [asdict(entry) for entry in history],
            "commands": [asdict(each) for each in commands],
        }
    content["outcomes"] = await service.shipper.in_ledger(service.ledger.counts, domain)
    return JSONResponse(content)


async def command(request: Request, domain: str) -> Response:
    asked, service = _read(CommandRequest, await request.body()), _service(request)
    if (asked.action == "set_share") != (asked.share is not None):
        raise Problem(
            422, "share: set_share wants one, and nothing else does", [{"member": "share", "says": "with set_share, and only with it"}]
        )
    found = await _current(service, request, domain)
    if found is None:
        raise Problem(404, f"{domain} has no rollout")
    who = request.scope["caller"].name
    given = Command(_command_id(asked), asked.action, who, asked.why, asked.share)
    if refused := refusal(found, given):
        raise Problem(409, f"{given.action} of {found.id} is not done: {refused}")
    heeded: Heeded = await _of_store(heed, service.store, found.id, given, iso(utc_now()))
    if heeded.refused:  # others were faster
        _log.info("%s asks %s of %s, which is refused: %s", who, asked.action, found.id, heeded.refused)
        raise Problem(409, f"{found.id}: {heeded.refused}")
    after = heeded.experiment
    _log.info("%s asks %s of %s (%s now): %s", who, asked.action, found.id, after.stage, asked.why)
    answer = {"id": given.id, "experiment": found.id, "action": given.action, "who": who, "stage": after.stage, "share": after.share}
    return JSONResponse(answer, 202)


def _command_id(asked: CommandRequest) -> str:
    """The same for the same wish under the caller's id; another wish under it (one ticket, two steps) is another command."""
    if asked.id is None:
        return uuid.uuid4().hex
    return digest([asked.id, asked.action, asked.share], 32)


async def flush(request: Request) -> Response:
    try:
        return JSONResponse(await _service(request).shipper.ship(utc_now()))
    except S3_ERRORS as error:
        raise Problem(503, f"S3 does not take it: {error}") from error


async def alive(request: Request) -> Response:
    service = _service(request)
    return JSONResponse({"alive": True, "gateway": service.gateway, "seconds": round(time.monotonic() - service.began, 1)})


async def ready(request: Request) -> Response:
    service = _service(request)
    unready = service.unready()
    down = [name for name in service.options.names if service.live.store_is_down(name)]
    if (caller := request.scope["caller"]) is None or "read" not in caller.rights:
        unready = dict.fromkeys(unready, "a key that may read is told why")
    return JSONResponse({"ready": not unready, "unready": unready, "experiment_store_down": down}, 503 if unready else 200)


async def metrics(request: Request) -> Response:
    service = _service(request)
    ages: dict[Labels, float] = {(("domain", name),): service.live.store_age(name) for name in service.options.names}
    ready_now: dict[Labels, float] = {(("domain", name),): float(name not in service.unready()) for name in service.options.names}
    pending: dict[Labels, float] = {
        (("domain", name), ("state", state)): float(count)
        for name in service.options.names
        for state, count in (await service.shipper.in_ledger(service.ledger.counts, name)).items()
    }
    gauges: dict[str, tuple[str, Mapping[Labels, float]]] = {
        "log_bytes": ("Decisions on this disk that are not in S3 yet.", {(): float(service.log_bytes())}),
        "log_damaged": ("Files of decisions kept aside, because lines in their middle are damaged.", {(): float(service.journal.damaged)}),
        "shipping_failed": ("1: the last attempt to ship failed.", {(): float(service.shipper.error is not None)}),
        "store_age_seconds": ("Since the experiment store last answered.", ages),
        "ready": ("1: the domain can be scored.", ready_now),
        "ledger_outcomes": ("Outcomes in the ledger.", pending),
    }
    return PlainTextResponse(counts.exposition(service.metrics, gauges), media_type="text/plain; version=0.0.4; charset=utf-8")


# ------------------------------------------------------------------------------------------------------------------------ helpers


def _read(kind: Any, body: bytes) -> Any:
    """The body as what it should be. Problem 422 names each member at fault."""
    try:
        return kind.validate_json(body) if isinstance(kind, TypeAdapter) else kind.model_validate_json(body)
    except ValidationError as error:
        where = [
            {"member": ".".join(map(str, each["loc"])) or "body", "says": each["msg"]}
            for each in error.errors(include_url=False, include_input=False, include_context=False)[:20]
        ]
        raise Problem(422, "; ".join(f"{each['member']}: {each['says']}" for each in where[:3]), where) from None


def _no_domain(request: Request, name: str) -> Problem:
    return Problem(404, f"no domain {name!r} is served here; there are {', '.join(_service(request).options.names)}")


async def _current(service: Service, request: Request, domain: str) -> Experiment | None:
    if domain not in service.options.names:
        raise _no_domain(request, domain)
    found: Experiment | None = await _of_store(service.store.current, domain)
    return found


async def _of_store(call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return await asyncio.to_thread(call, *arguments)
    except ExperimentStoreError as error:
        raise Problem(503, f"the experiment store: {error}") from error


def _body(schema: dict[str, Any], examples: dict[str, Any]) -> dict[str, Any]:
    shown = {name: {"value": value} for name, value in examples.items()}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "examples": shown}}}}


async def _answer_problem(request: Request, error: Exception) -> Response:
    if isinstance(error, Problem):
        headers = {"Retry-After": "1"} if error.status == 503 else None
        return JSONResponse({"error": str(error), "where": error.where}, error.status, headers)
    assert isinstance(error, HTTPException)  # noqa: S101 -- for mypy
    return JSONResponse({"error": str(error.detail), "where": []}, error.status_code, error.headers)


async def _answer_fault(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the gateway failed; its log says why", "where": []}, 500)
