"""The gateway as a running thing: what it is made of, and what goes on beside the requests."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

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
        shipper = Shipper(gateway, options.names, journal, ledger, objects, scorer.in_hand)
        service = cls(options, store, access, gateway, metrics, live, endpoints, journal, ledger, scorer, shipper)
        await shipper.index_segments()  # before any outcome is taken
        await asyncio.gather(service._refresh_experiments(), service._refresh_endpoints())
        service._tasks = [
            asyncio.create_task(service._every(options.refresh_every, service._refresh_experiments)),
            asyncio.create_task(service._every(options.refresh_every, service._refresh_endpoints)),
            asyncio.create_task(service._every(options.refresh_every, service._tell_health)),
            asyncio.create_task(service._every(options.ship_every, service._ship)),
            asyncio.create_task(service._every(1.0, service._look_at_journal)),
            asyncio.create_task(service._every(3600.0, service._forget)),
        ]
        _log.info("gateway %s serves %s", gateway, ", ".join(options.names))
        return service

    async def stop(self) -> None:
        """Ships what is here; what cannot be shipped stays for the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self.shipper.ship(utc_now())
        except S3_ERRORS:
            _log.warning("not everything was shipped: the next gateway in %s will", self.options.state)
        await self._tell_health()
        await self.journal.close()
        await self.endpoints.close()
        await self.shipper.in_ledger(self.ledger.close)

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

    async def _every(self, seconds: float, do: Callable[[], Awaitable[object]]) -> None:
        """Whatever goes wrong in one round, there is a next one."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await do()
            except Exception:
                _log.exception("%s failed, and is done again", getattr(do, "__name__", do))

    async def _refresh_experiments(self) -> None:
        await asyncio.to_thread(self.live.refresh_experiments)
        await asyncio.to_thread(self.access.refresh)

    async def _refresh_endpoints(self) -> None:
        await asyncio.to_thread(self.live.refresh_endpoints)
        await self._refresh_credentials()

    async def _refresh_credentials(self) -> None:
        try:
            await asyncio.to_thread(self.endpoints.refresh_credentials)
        except BotoCoreError as error:
            _log.warning("the AWS credentials were not renewed: %s", error)

    async def _tell_health(self) -> None:
        for name in self.options.names:
            counts = self.scorer.step_counts(name)
            if counts is None or self.live.store_is_down(name):
                continue
            health = counts.health(self.gateway, utc_now())
            try:
                await asyncio.to_thread(self.store.put_health, counts.experiment, health)
            except ExperimentStoreError as error:
                _log.warning("%s: no sign of life was given: %s", name, error)

    async def _ship(self) -> None:
        with suppress(*S3_ERRORS):  # said where it happened
            await self.shipper.ship(utc_now(), thoroughly=False)

    async def _look_at_journal(self) -> None:
        await self.journal.try_again()
        if self.journal.size >= self.options.ship_at_bytes:
            await self._ship()

    async def _forget(self) -> None:
        before: datetime = utc_now() - self.options.keep
        await self.shipper.in_ledger(self.ledger.forget, before)

    def log_bytes(self) -> int:
        """Of decisions that are on this disk alone."""
        closed = sum(os.path.getsize(path) for path in self.journal.closed_segments if path.exists())
        return closed + self.journal.size
