"""The endpoint's container: GET /ping and POST /invocations over the model in ``/opt/ml/model`` (``include.jobs.invocations`` says how).

It listens on the port in SAGEMAKER_BIND_TO_PORT, else 8080. On every interface, as SageMaker's contract wants, unless
SAGEMAKER_BIND_TO_PORT is set, which is where several containers share a host: there on loopback. SAGEMAKER_BIND_TO_HOST overrides both.
One process and one thread: a row takes a tenth of a millisecond, and more processors are used by more instances.

/ping answers 200 once the model is loaded and has answered its smoke test as it did at training; if it does not, the process ends with the
reason instead of serving. SIGTERM ends it after the requests in hand.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from include.jobs.context import JobError, ml_directory

if TYPE_CHECKING:
    from include.jobs.model_file import Model

Message = dict[str, Any]
Application = Callable[[dict[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

PORT_VARIABLE = "SAGEMAKER_BIND_TO_PORT"
HOST_VARIABLE = "SAGEMAKER_BIND_TO_HOST"
BODY_LIMIT = 6_291_456
"""Bytes; what InvokeEndpoint itself lets through."""
_SHUTDOWN_SECONDS = 5


def application(model: Model) -> Application:
    """The ASGI application over one model."""
    from include.jobs.invocations import Answer, RequestError, answer

    def respond(method: str, path: str, headers: dict[bytes, bytes], body: bytes) -> tuple[int, Answer]:
        if path not in {"/ping", "/invocations"}:
            raise RequestError(f"no {path} here: there are GET /ping and POST /invocations", 404)
        if method != ("GET" if path == "/ping" else "POST"):
            raise RequestError(f"{path} does not take {method}", 405)
        if path == "/ping":
            return 200, Answer("application/json", b"{}")
        found = {name: headers.get(name, b"").decode("latin-1") for name in (b"content-type", b"accept", _CUSTOM_ATTRIBUTES)}
        return 200, answer(model, body, *found.values())

    async def app(scope: dict[str, Any], receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
        try:
            body = await _body(receive)
            status, reply = respond(scope["method"], scope["path"], dict(scope["headers"]), body)
        except _ClientLeft:
            return
        except RequestError as error:
            status, reply = error.status, Answer("application/json", json.dumps({"error": str(error)}).encode())
        except Exception:  # the client learns that it is our fault, the log learns what it was
            traceback.print_exc()
            status, reply = 500, Answer("application/json", b'{"error": "the model server failed; its log says why"}')
        headers = [(b"content-type", reply.content_type.encode()), (b"content-length", b"%d" % len(reply.body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def _body(receive: Callable[[], Awaitable[Message]]) -> bytes:
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientLeft
            size += len(message.get("body", b""))
            if size > BODY_LIMIT:
                raise RequestError(f"the body is larger than {BODY_LIMIT} bytes: send fewer events at once", 413)
            chunks.append(message.get("body", b""))
            more = message.get("more_body", False)
        return b"".join(chunks)

    return app


def main() -> None:
    """Serves until SIGTERM. JobError, before it listens, where the model cannot be loaded or the port is no port."""
    started = time.monotonic()
    host, port = address(os.environ)
    with _without_optional_packages():
        from include.jobs import model_file
    folder = ml_directory() / "model"
    model = model_file.load(folder)
    import uvicorn

    config = uvicorn.Config(
        application(model),
        host=host,
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    print(
        f"serving {model.description.domain}, {len(model.features)} features, {model.description.trees} trees, "
        f"on {host}:{port} after {time.monotonic() - started:.1f} s",
        file=sys.stderr,
        flush=True,
    )
    uvicorn.Server(config).run()


def address(environment: os._Environ[str] | dict[str, str]) -> tuple[str, int]:
    """Where to listen. JobError where the port is no port."""
    given = environment.get(PORT_VARIABLE)
    host = environment.get(HOST_VARIABLE) or ("127.0.0.1" if given else "0.0.0.0")  # noqa: S104 SageMaker reaches the container from outside
    if given and not (given.isdecimal() and 0 < int(given) < 65_536):
        raise JobError(f"{PORT_VARIABLE}={given!r} is not a port")
    return host, int(given or 8080)


class _ClientLeft(Exception):
    pass


_CUSTOM_ATTRIBUTES = b"x-amzn-sagemaker-custom-attributes"


@contextmanager
def _without_optional_packages() -> Iterator[None]:
    """XGBoost imports pandas and scikit-learn, where they are installed, for the sake of their users; that is most of an endpoint's start.
    Scoring needs neither: they look absent while XGBoost is imported."""
    hidden = [name for name in ("pandas", "sklearn") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: "not to be found"
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
