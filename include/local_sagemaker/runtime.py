"""InvokeEndpoint: choose a variant, pass the request to its model server, pass the answer back.

This is the one path that must be quick, so it works on the ASGI messages directly. Sources: the SageMaker Runtime API
reference (headers, errors) and the Developer Guide (a container answers within 60 seconds; requests up to 6,291,456 bytes).
"""

from __future__ import annotations

import json
import random
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote

from .config import Settings
from .errors import RuntimeServiceError
from .hosting import ModelServer, Route
from .model_client import Answer, Broken, TimedOut, Unreachable

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LARGEST_BODY = 6_291_456
_ATTRIBUTES = b"x-amzn-sagemaker-custom-attributes"
_TARGET_VARIANT = b"x-amzn-sagemaker-target-variant"
_INFERENCE_ID = b"x-amzn-sagemaker-inference-id"
_FORWARDED = {b"content-type", b"accept", _ATTRIBUTES, _TARGET_VARIANT, _INFERENCE_ID}
_UNSUPPORTED = {
    b"x-amzn-sagemaker-target-model": "TargetModel (multi-model endpoints)",
    b"x-amzn-sagemaker-target-container-hostname": "TargetContainerHostname (multi-container endpoints)",
    b"x-amzn-sagemaker-inference-component": "InferenceComponentName",
    b"x-amzn-sagemaker-session-id": "SessionId (stateful sessions)",
    b"x-amzn-sagemaker-enable-explanations": "EnableExplanations (Clarify online explanations)",
}
_PRINTABLE_ID = re.compile(rb"[\x21-\x7e][\x20-\x7e]{0,63}")
_LONGEST_ATTRIBUTES = 1024


class Runtime:
    """The runtime's operations on the endpoints' routes."""

    def __init__(self, settings: Settings, routes: dict[str, Route]) -> None:
        self._settings = settings
        self._routes = routes

    async def invoke(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one InvokeEndpoint request."""
        started = time.perf_counter()
        try:
            server, headers = self._accept(name, scope)
            server.in_flight += 1  # no await since the route was read: a draining fleet cannot miss this request
            try:
                body = await _body(receive)
                if body is None:
                    return  # the caller went away
                try:
                    answer = await self._ask(server, headers, body, started)
                finally:
                    if server.copies is not None:
                        server.copies.take(headers, body)
            finally:
                server.in_flight -= 1
        except RuntimeServiceError as error:
            await send_error(send, error)
            return
        reply = [
            (b"content-type", answer.headers.get(b"content-type", b"application/octet-stream")),
            (b"content-length", str(len(answer.body)).encode()),
            (b"x-amzn-invoked-production-variant", server.plan.name.encode()),
            (b"x-amzn-requestid", str(uuid.UUID(int=random.getrandbits(128), version=4)).encode()),
        ]
        if _ATTRIBUTES in answer.headers:
            reply.append((_ATTRIBUTES, answer.headers[_ATTRIBUTES]))
        await send({"type": "http.response.start", "status": 200, "headers": reply})
        await send({"type": "http.response.body", "body": answer.body})
        if server.capture is not None:
            server.capture.take(headers, body, answer)

    def _accept(self, name: str, scope: Scope) -> tuple[ModelServer, list[tuple[bytes, bytes]]]:
        headers: list[tuple[bytes, bytes]] = []
        target: bytes | None = None
        signed = False
        for key, value in scope["headers"]:
            if key in _FORWARDED:
                headers.append((key, value))
                if key == _TARGET_VARIANT:
                    target = value
                elif not _well_formed(key, value):
                    raise RuntimeServiceError("ValidationError", f"The value of {key.decode()} is too long or not printable ASCII.", 400)
            elif key == b"authorization":
                signed = True
            elif key == b"content-length" and value.isdigit() and int(value) > LARGEST_BODY:
                raise RuntimeServiceError("", f"HTTP content length exceeded {LARGEST_BODY} bytes.", 413)
            elif key in _UNSUPPORTED:
                raise RuntimeServiceError("ValidationError", f"The local SageMaker does not support {_UNSUPPORTED[key]}.", 400)
        if not signed:
            raise RuntimeServiceError("MissingAuthenticationTokenException", "Missing Authentication Token", 403)
        route = self._routes.get(name)
        if route is None:
            raise RuntimeServiceError("ValidationError", f"Endpoint {name} of account {self._settings.account} not found.", 400)
        dice = random.random()  # noqa: S311 - a traffic split, not a secret
        server = route.choose(dice) if target is None else route.named(target.decode("latin-1"), dice)
        if server is None:
            shown = (target or b"").decode("latin-1")
            raise RuntimeServiceError(
                "ValidationError", f"Variant {shown} of endpoint {name} of account {self._settings.account} not found.", 400
            )
        return server, headers

    async def _ask(self, server: ModelServer, headers: list[tuple[bytes, bytes]], body: bytes, started: float) -> Answer:
        client = server.client
        if not server.ready or client is None:
            server.statistics.record(503, 0.0, time.perf_counter() - started)
            raise RuntimeServiceError(
                "ServiceUnavailable", f"The container of variant {server.plan.name} is being started again. Try again.", 503
            )
        asked = time.perf_counter()
        try:
            answer = await client.post(headers, body, self._settings.invocation_timeout_seconds)
        except Unreachable as error:
            server.statistics.record(503, 0.0, time.perf_counter() - started)
            message = f"The container of variant {server.plan.name} cannot be reached. Try again."
            raise RuntimeServiceError("ServiceUnavailable", message, 503) from error
        except (Broken, TimedOut) as error:
            server.statistics.record(0, time.perf_counter() - asked, asked - started)
            told = (
                "Your invocation timed out while waiting for a response from container primary. Review the latency metrics for each "
                "container in Amazon CloudWatch, resolve the issue, and try again."
                if isinstance(error, TimedOut)
                else "The container closed the connection before it had answered."
            )
            raise self._model_error(server, 0, told) from error
        ended = time.perf_counter()
        server.statistics.record(answer.status, ended - asked, asked - started)
        if not 200 <= answer.status < 300:
            raise self._model_error(server, answer.status, answer.body[:1024].decode("utf-8", errors="replace"))
        return answer

    def _model_error(self, server: ModelServer, status: int, told: str) -> RuntimeServiceError:
        region, account = self._settings.region, self._settings.account
        side = "client" if 400 <= status < 500 else "server"
        console = f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}#logEventViewer:group={quote(server.log_group, safe='/')}"
        message = (
            f'Received {side} error ({status}) from primary with message "{told}". See {console} in account {account} for more information.'
        )
        stream = f"arn:aws:logs:{region}:{account}:log-group:{server.log_group}:log-stream:{server.log_stream}"
        return RuntimeServiceError(
            "ModelError", message, 424, {"OriginalStatusCode": status, "OriginalMessage": told, "LogStreamArn": stream}
        )


def _well_formed(key: bytes, value: bytes) -> bool:
    if key == _INFERENCE_ID:
        return _PRINTABLE_ID.fullmatch(value) is not None
    return key != _ATTRIBUTES or (len(value) <= _LONGEST_ATTRIBUTES and value.isascii())


async def _body(receive: Receive) -> bytes | None:
    message = await receive()
    if message["type"] == "http.disconnect":
        return None
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        return body
    chunks, size = [body], len(body)
    while message.get("more_body", False):
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > LARGEST_BODY:
            raise RuntimeServiceError("", f"HTTP content length exceeded {LARGEST_BODY} bytes.", 413)
    return b"".join(chunks)


async def send_error(send: Send, error: RuntimeServiceError) -> None:
    """An error in REST-JSON."""
    body = json.dumps(error.body()).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-amzn-requestid", str(uuid.uuid4()).encode()),
    ]
    if error.code:
        headers.append((b"x-amzn-errortype", error.code.encode()))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
