"""Copies of a production variant's requests, for the shadow variant beside it.

Of the requests that the production variant is asked, the shadow gets a sample: its weight over the production variant's, at most all
(Developer Guide, "Testing models with shadow variants": equal weights copy everything). A copy leaves when the production variant has answered,
so that on a small machine the caller does not wait while the shadow computes; the caller sees neither its answer nor its failure. The shadow's
latencies and errors are in its own metrics, its requests and answers in its own captures, with the caller's inference id.

A shadow that cannot keep up gets ``_MOST_WAITING`` copies, or ``_MOST_BYTES``, to catch up with; what comes beyond is dropped, and counted among
its Invocation5XXErrors like the copies that reach it while its process is started again. A server that ends loses what waits.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from typing import TYPE_CHECKING

from .model_client import Broken, TimedOut, Unreachable

if TYPE_CHECKING:
    from .hosting import ModelServer

log = logging.getLogger(__name__)

_AT_ONCE = 4
_MOST_WAITING = 2_000
_MOST_BYTES = 64 * 1024 * 1024
_COMPLAIN_EVERY = 60.0


class Copies:
    """The requests on their way to one shadow. Used on the event loop, but for ``share``, which is set from elsewhere."""

    def __init__(self, shadow: ModelServer, timeout_seconds: float) -> None:
        self.shadow = shadow
        self.share = 1.0
        self.dropped = 0
        self._timeout = timeout_seconds
        self._waiting: deque[tuple[list[tuple[bytes, bytes]], bytes, float]] = deque()
        self._bytes = 0
        self._senders: set[asyncio.Task[None]] = set()
        self._complained = -_COMPLAIN_EVERY

    def take(self, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Remember a request, if chance says so; never waits, never fails."""
        if self.share < 1.0 and random.random() >= self.share:  # noqa: S311 - a sample, not a secret
            return
        if len(self._waiting) >= _MOST_WAITING or self._bytes + len(body) > _MOST_BYTES:
            self._drop()
            return
        self._waiting.append((headers, body, time.perf_counter()))
        self._bytes += len(body)
        self.shadow.in_flight += 1  # a fleet that is replaced gets the time to answer its copies
        if len(self._senders) < _AT_ONCE:
            sender = asyncio.get_running_loop().create_task(self._send_all())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)

    async def _send_all(self) -> None:
        while self._waiting:
            headers, body, taken = self._waiting.popleft()
            self._bytes -= len(body)
            try:
                await self._send(headers, body, taken)
            finally:
                self.shadow.in_flight -= 1

    async def _send(self, headers: list[tuple[bytes, bytes]], body: bytes, taken: float) -> None:
        shadow, client = self.shadow, self.shadow.client
        asked = time.perf_counter()
        if not shadow.ready or client is None:
            shadow.statistics.record(503, 0.0, asked - taken)
            return
        try:
            answer = await client.post(headers, body, self._timeout)
        except Unreachable:
            shadow.statistics.record(503, 0.0, time.perf_counter() - taken)
            return
        except (Broken, TimedOut):
            shadow.statistics.record(0, time.perf_counter() - asked, asked - taken)
            return
        shadow.statistics.record(answer.status, time.perf_counter() - asked, asked - taken)
        if shadow.capture is not None and 200 <= answer.status < 300:
            shadow.capture.take(headers, body, answer)

    def _drop(self) -> None:
        self.dropped += 1
        self.shadow.statistics.record(503, 0.0, 0.0)
        if time.monotonic() - self._complained >= _COMPLAIN_EVERY:
            self._complained = time.monotonic()
            log.warning(
                "endpoint %s: the shadow variant %s cannot keep up; %d copies of requests were dropped so far",
                self.shadow.endpoint,
                self.shadow.plan.name,
                self.dropped,
            )
