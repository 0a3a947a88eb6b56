"""Before any route: is the caller known, may it do this, does it ask too often, is the body too large. Behind it: what was answered, and when."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from include.gateway.counts import Metrics
from include.gateway.keys import Caller, Keys, KeysError, TokenBucket

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger(__name__)
LARGEST_BODY = 256 * 1024
LARGEST_OUTCOMES = 1024 * 1024
_OPEN = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})
_LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
_TIMED = frozenset({"/v1/score", "/v1/outcomes"})
LOOPBACK = Caller("loopback")


class Refused(Exception):
    def __init__(self, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


class Access:
    """Whose keys count, read again when the file changes. ``path`` None: no keys; then only this machine is listened to. KeysError for a file that
    nobody could come in by: no gateway is begun for that."""

    def __init__(self, path: Path | None, rate: float) -> None:
        self._path = path
        self._read_at = path.stat().st_mtime_ns if path and path.exists() else None
        self._keys = Keys.read(path) if path else None
        if self._keys is not None and not self._keys.callers:
            raise KeysError(f"{path} holds no key: `python -m include.gateway key NAME --keys {path}` makes one")
        self._buckets = TokenBucket(rate)

    def refresh(self) -> None:
        """A key whose line is gone is out of use, the last one too, and so are all when the file is gone. A file that cannot be used changes nothing,
        and is complained about in the log."""
        if self._path is None:
            return
        try:
            changed = self._path.stat().st_mtime_ns
            if changed != self._read_at:
                self._read_at, self._keys = changed, Keys.read(self._path)
                _log.info("the %d keys of %s count from now on", len(self._keys.callers), self._path)
        except FileNotFoundError:
            if self._read_at is not None:
                self._read_at, self._keys = None, Keys({})
                _log.warning("%s is gone: no key counts any more", self._path)
        except (OSError, KeysError) as error:
            _log.error("the keys were not read again: %s", error)

    def caller(self, headers: dict[bytes, bytes]) -> Caller | None:
        """Who asks; None: nobody that is known here."""
        if self._keys is not None:
            return self._keys.caller(_key(headers))
        return LOOPBACK if _host(headers) in _LOOPBACK_NAMES else None  # a web page can make its own name point here

    def admit(self, headers: dict[bytes, bytes], right: str) -> Caller:
        """Refused with 401, 403 or 429."""
        caller = self.caller(headers)
        if caller is None and self._keys is None:
            raise Refused(403, f"Host {_host(headers)[:100]!r} is not this machine")
        if caller is None:
            raise Refused(401, "no such key: send one as X-API-Key, or as Authorization: Bearer", ((b"www-authenticate", b"Bearer"),))
        if right not in caller.rights:
            raise Refused(403, f"the key of {caller.name} may not do this: it lacks the right {right!r}")
        if (wait := self._buckets.wait(caller.name, time.monotonic())) > 0:
            seconds = str(math.ceil(wait)).encode()
            raise Refused(429, f"{caller.name} asks more often than {self._buckets.rate:g} times a second", ((b"retry-after", seconds),))
        return caller


def _host(headers: dict[bytes, bytes]) -> str:
    """The Host header without the port."""
    host = headers.get(b"host", b"").decode("latin-1").lower()
    name, _, port = host.rpartition(":")
    return name if name and port.isdigit() else host


def _key(headers: dict[bytes, bytes]) -> str:
    if given := headers.get(b"x-api-key"):
        return given.decode("latin-1")
    kind, _, value = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return value.strip() if kind.lower() == "bearer" else ""


def _right(path: str, method: str) -> str:
    if path == "/v1/score":
        return "score"
    if path == "/v1/outcomes":
        return "outcomes"
    return "command" if method == "POST" else "read"


class Guard:
    """ASGI middleware. Puts the caller into ``scope["caller"]``, None where nobody need be one."""

    def __init__(self, app: Application, access: Access, metrics: Metrics) -> None:
        self._app, self._access, self._metrics = app, access, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        begun, path, status = time.perf_counter(), scope["path"], 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(path, scope, receive, noting)
        except Exception:  # Starlette answers 500, outside of this
            status = 500
            raise
        finally:
            if status >= 400:
                self._metrics.refused[str(status),] += 1
            labels = path if path in _TIMED else "other", str(status)
            self._metrics.latencies[labels].observe((time.perf_counter() - begun) * 1000)

    async def _answer(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            method = scope["method"]
            headers = dict(scope["headers"])
            scope["caller"] = self._access.caller(headers) if path in _OPEN else self._access.admit(headers, _right(path, method))
            if method == "POST":
                receive = await self._whole_body(path, headers, receive)
        except Refused as error:
            body = json.dumps({"error": str(error), "where": []}).encode()
            fields = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *error.headers]
            await send({"type": "http.response.start", "status": error.status, "headers": fields})
            await send({"type": "http.response.body", "body": body})
            return
        await self._app(scope, receive, send)

    async def _whole_body(self, path: str, headers: dict[bytes, bytes], receive: Receive) -> Receive:
        """The body, read as far as it may go, as one message."""
        if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
            raise Refused(415, "Content-Type must be application/json")  # which no form on a web page can send, either
        limit = LARGEST_OUTCOMES if path == "/v1/outcomes" else LARGEST_BODY
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > limit:
            raise Refused(413, f"the body is larger than {limit} bytes")
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            body += message.get("body", b"")
            if len(body) > limit:
                raise Refused(413, f"the body is larger than {limit} bytes")
            more = message.get("more_body", False)
        given = False

        async def whole() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        return whole
