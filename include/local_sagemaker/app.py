"""The HTTP front: one ASGI application for the control plane, the runtime and ``GET /health``."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from concurrent.futures import Executor
from urllib.parse import unquote

from .control import ControlPlane
from .errors import RuntimeServiceError, ServiceError
from .runtime import Receive, Runtime, Scope, Send, send_error
from .store import Document

_JSON = b"application/x-amz-json-1.1"
_LARGEST_REQUEST = 10 * 1024 * 1024
_PREFIX, _SUFFIX = "/endpoints/", "/invocations"


class Application:
    """ASGI 3: ``POST /`` is SageMaker (JSON 1.1), ``POST /endpoints/NAME/invocations`` is SageMaker Runtime (REST-JSON)."""

    def __init__(self, control: ControlPlane, runtime: Runtime, workers: Executor, health: Callable[[], Document]) -> None:
        self._control = control
        self._runtime = runtime
        self._workers = workers
        self._health = health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        if path.startswith(_PREFIX):
            await self._runtime_request(path, scope, receive, send)
        elif path == "/health" and scope["method"] == "GET":
            await _send_json(send, 200, self._health(), b"application/json")
        elif path == "/" and scope["method"] == "POST":
            await self._control_request(scope, receive, send)
        else:
            error = ServiceError("UnknownOperationException", f"The local SageMaker does not serve {scope['method']} {path}.", 404)
            await _send_json(send, error.status, error.body(), _JSON)

    async def _runtime_request(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if path.endswith(_SUFFIX) and scope["method"] == "POST":
            name = path[len(_PREFIX) : -len(_SUFFIX)]
            await self._runtime.invoke(unquote(name) if "%" in name else name, scope, receive, send)
            return
        what = {"async-invocations": "InvokeEndpointAsync", "invocations-response-stream": "InvokeEndpointWithResponseStream"}
        operation = what.get(path.rpartition("/")[2], f"{scope['method']} {path}")
        await send_error(
            send, RuntimeServiceError("UnknownOperationException", f"The local SageMaker does not implement {operation}.", 400)
        )

    async def _control_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            more = message.get("more_body", False)
            if size > _LARGEST_REQUEST:
                await _send_error(
                    send, ServiceError("RequestEntityTooLargeException", f"The request exceeds {_LARGEST_REQUEST} bytes.", 413)
                )
                return
        if b"authorization" not in headers:  # also keeps web pages out: a browser cannot send it across origins unasked
            await _send_error(send, ServiceError("MissingAuthenticationTokenException", "Missing Authentication Token", 403))
            return
        target = headers.get(b"x-amz-target", b"").decode("latin-1")
        loop = asyncio.get_running_loop()
        status, document = await loop.run_in_executor(self._workers, self._control.handle, target, b"".join(chunks))
        await _send_json(send, status, document, _JSON)


async def _send_error(send: Send, error: ServiceError) -> None:
    await _send_json(send, error.status, error.body(), _JSON)


async def _send_json(send: Send, status: int, document: Document | dict[str, str], kind: bytes) -> None:
    body = json.dumps(document).encode()
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(body)).encode()),
        (b"x-amzn-requestid", str(uuid.uuid4()).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
