"""The gateway as a running thing: what it is made of, and what goes on beside the requests."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from include.gateway.counts import Metrics
from include.gateway.endpoint import Endpoints
from include.gateway.guard import Access
from include.gateway.journal import Journal
from include.gateway.ledger import Ledger
from include.gateway.live import Live
from include.gateway.scoring import Scorer
from include.gateway.shipping import S3_ERRORS, Shipper, utc_now
from include.stores.experiments import ExperimentStore, ExperimentStoreError
from include.stores.objects import ObjectStore

_log = logging.getLogger(__name__)
SEARCH_SECONDS = 15.0
SEARCHED_AT_ONCE = 300
"""Objects of other gateways, and days, that one search looks at."""


class StateInUse(Exception):
    """Another gateway works in the directory."""


@dataclass(frozen=True)
class Options:
    """``names``: of the domains served. Times in seconds. ``keep``: how long decisions and outcomes are remembered."""

    bucket: str
    state: Path
    names: tuple[str, ...]
    refresh_every: float = 1.0
    ship_every: float = 10.0
    stale_after: float = 5.0
    challenger_seconds: float = 0.5
    champion_seconds: float = 5.0
    ship_at_bytes: int = 8 * 1024 * 1024
    keep: timedelta = timedelta(days=400)
    kms_key: str | None = None


@contextmanager
def only_gateway(state: Path) -> Iterator[None]:
    """Holds the directory until the end of the block. StateInUse where another process does."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(state / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StateInUse(f"another gateway runs in {state}: give this one a directory of its own") from error
        yield


@dataclass
class Service:
    """To be made in the event loop with ``start``, and ended with ``stop``."""

    options: Options
    store: ExperimentStore
    access: Access
    gateway: str
    """A new one at each start: what a gateway counted before it is another's count."""
    metrics: Metrics
    live: Live
    endpoints: Endpoints
    journal: Journal
    ledger: Ledger
    scorer: Scorer
    shipper: Shipper
    _threads: ThreadPoolExecutor
    began: float = field(default_factory=time.monotonic)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @classmethod
    async def start(cls, options: Options, store: ExperimentStore, access: Access, metrics: Metrics) -> Service:
        """Recovers what an earlier process left, looks at what is live, and goes on looking."""
        gateway = secrets.token_hex(6)
        objects = ObjectStore(options.bucket, kms_key=options.kms_key)
        sagemaker = boto3.client("sagemaker", config=Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 2}))
        live = Live(options.names, store, objects, sagemaker, options.stale_after)
        endpoints = Endpoints()
        journal = Journal(options.state / "decisions", gateway)
        ledger = Ledger(options.state / "ledger.db")
        scorer = Scorer(live, endpoints, journal, metrics, options.challenger_seconds, options.champion_seconds)
        shipper = Shipper(gateway, options.names, journal, ledger, objects, scorer.in_hand, options.keep)
        threads = ThreadPoolExecutor(3 * len(options.names) + 2, "refresh")  # as many as can be under way: none waits for another domain's
        service = cls(options, store, access, gateway, metrics, live, endpoints, journal, ledger, scorer, shipper, threads)
        await shipper.index_segments()  # before any outcome is taken
        beside: list[tuple[Callable[..., Awaitable[object]], tuple[Any, ...]]]
        beside = [(service._refresh_credentials, ()), (service._in_thread, (access.refresh,))]
        for name in options.names:
            beside += [(service._in_thread, (live.refresh_experiment, name)), (service._in_thread, (live.refresh_endpoint, name))]
        await asyncio.gather(*(do(*arguments) for do, arguments in beside))
        beside += [(service._tell_health, (name,)) for name in options.names]
        service._tasks = [
            *(asyncio.create_task(service._every(options.refresh_every, do, *arguments)) for do, arguments in beside),
            asyncio.create_task(service._every(options.ship_every, service._ship)),
            asyncio.create_task(service._every(SEARCH_SECONDS, service._search)),
            asyncio.create_task(service._every(1.0, service._look_at_journal)),
            asyncio.create_task(service._every(3600.0, service._forget)),
        ]
        _log.info("gateway %s serves %s", gateway, ", ".join(options.names))
        return service

    async def stop(self) -> None:
        """Ships what is here; what cannot be shipped stays for the next start. Whatever goes wrong in one step, the others are taken."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for step in (self._ship_the_rest, self._tell_healths, self.journal.close, self.endpoints.close, self.shipper.close):
            try:
                await step()
            except Exception:
                _log.exception("%s failed, and the gateway ends all the same", step.__name__)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ship_the_rest(self) -> None:
        try:
            await self.shipper.ship(utc_now(), thoroughly=False)
        except S3_ERRORS:
            _log.warning("not everything was shipped: the next gateway in %s will", self.options.state)

    def unready(self) -> dict[str, str]:
        """Domain → why it cannot be scored now; empty: all is well."""
        found = {}
        for name in self.options.names:
            try:
                self.live.view(name)
            except Exception as error:
                found[name] = str(error)
        if self.journal.error:
            found |= dict.fromkeys(self.options.names, f"decisions cannot be written down: {self.journal.error}")
        return found

    async def _every(self, seconds: float, do: Callable[..., Awaitable[object]], *arguments: Any) -> None:
        """Whatever goes wrong in one round, there is a next one."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await do(*arguments)
            except Exception:
                _log.exception("%s failed, and is done again", " ".join(getattr(each, "__name__", str(each)) for each in (do, *arguments)))

    async def _in_thread(self, call: Callable[..., object], *arguments: Any) -> None:
        """In a thread of the gateway's own: requests that wait for the store (``asyncio.to_thread``) hold up nothing here."""
        await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)

    async def _refresh_credentials(self) -> None:
        try:
            await self._in_thread(self.endpoints.refresh_credentials)
        except (BotoCoreError, ClientError) as error:
            _log.warning("the AWS credentials were not renewed: %s", error)

    async def _tell_health(self, name: str) -> None:
        counts = self.scorer.step_counts(name)
        if counts is None or self.live.store_is_down(name):
            return
        try:
            await self._in_thread(self.store.put_health, counts.experiment, counts.health(self.gateway, utc_now()))
            self.live.counts_told(name)
        except ExperimentStoreError as error:
            _log.warning("%s: no sign of life was given: %s", name, error)

    async def _tell_healths(self) -> None:
        await asyncio.gather(*(self._tell_health(name) for name in self.options.names))

    async def _ship(self) -> None:
        with suppress(*S3_ERRORS):  # said where it happened
            await self.shipper.ship(utc_now(), thoroughly=False)

    async def _search(self) -> None:
        with suppress(*S3_ERRORS):
            await self.shipper.search(utc_now(), SEARCHED_AT_ONCE)

    async def _look_at_journal(self) -> None:
        await self.journal.try_again()
        if self.journal.size >= self.options.ship_at_bytes:
            await self._ship()

    async def _forget(self) -> None:
        before: datetime = utc_now() - self.options.keep
        while await self.shipper.in_ledger(self.ledger.forget, before):
            await asyncio.sleep(0.05)  # outcomes want the ledger, too

    def log_bytes(self) -> int:
        """Of decisions that are on this disk alone."""
        closed = sum(os.path.getsize(path) for path in self.journal.closed_segments if path.exists())
        return closed + self.journal.size
