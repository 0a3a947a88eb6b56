"""What goes on beside the requests, and goes on though something else does not."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from gateway_lab import DOMAIN, Cloud, Gateway, clock
from waiting import wait_until

from include.gateway.counts import Metrics
from include.gateway.endpoint import Endpoints
from include.gateway.guard import Access, Refused
from include.gateway.journal import read_segment
from include.gateway.keys import add_key
from include.gateway.service import Options, Service
from include.gateway.shipping import utc_now
from include.lifecycle.domain import Guardrails, Rollout
from include.stores.experiments import ExperimentStore, open_store


def serve(folder: Path, use: Callable[[Service], Awaitable[None]], keys: Path | None = None, store: ExperimentStore | None = None) -> None:
    """A service in this process, for the time of ``use``. Nothing is deployed for it."""
    if store is None:
        store = open_store(f"sqlite://{folder / 'experiments.db'}")
        store.ensure()

    async def run() -> None:
        options = Options("gateway", folder / "state", (DOMAIN,), refresh_every=0.1)
        service = await Service.start(options, store, Access(keys, 1000.0), Metrics())
        try:
            await use(service)
        finally:
            await service.stop()

    asyncio.run(run())


async def until(condition: Callable[[], Any], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what)


class _Odd:
    """A store that fails as no store should."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{name} fails")


def test_keys_and_credentials_are_renewed_whatever_else_fails(aws: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, renewed = tmp_path / "keys", []
    key = add_key(keys, "scoring")
    other = add_key(keys, "other")
    monkeypatch.setattr(Endpoints, "refresh_credentials", lambda endpoints: renewed.append(time.monotonic()))
    store: Any = _Odd()

    async def use(service: Service) -> None:
        def may() -> bool:
            try:
                service.access.admit({b"x-api-key": key.encode()}, "score")
            except Refused as error:
                assert error.status == 401  # noqa: PT017 -- which of the refusals it is
                return False
            return True

        assert may()
        keys.write_text("\n".join(line for line in keys.read_text().splitlines() if not line.startswith("scoring:")))
        await until(lambda: not may(), "the key is out of use")
        service.access.admit({b"x-api-key": other.encode()}, "score")
        await until(lambda: len(renewed) > 2, "the credentials are renewed")
        service.live.client = _Odd()
        service.live.look_again(DOMAIN)
        before = len(renewed)
        await until(lambda: len(renewed) > before + 2, "and renewed still")

    serve(tmp_path, use, keys, store)


def test_whatever_fails_at_the_end_the_rest_of_it_is_done(aws: str, tmp_path: Path) -> None:
    held: list[Service] = []

    async def use(service: Service) -> None:
        held.append(service)
        await service.journal.append(b"{}")

        async def ship(*arguments: Any, **more: Any) -> dict[str, int]:
            raise EOFError("odd")

        service.shipper.ship = ship  # type: ignore[method-assign]

    serve(tmp_path, use)
    [service] = held
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        service.ledger.counts(DOMAIN)
    [segment] = service.journal.closed_segments
    assert read_segment(segment) == ([b"{}"], 0)
    assert service.endpoints._http.closed


def test_requests_that_wait_for_a_slow_store_hold_up_nothing_beside_them(aws: str, tmp_path: Path) -> None:
    """They wait in the threads of ``asyncio.to_thread``: all of those are taken here."""
    release = threading.Event()

    async def use(service: Service) -> None:
        waiting = [asyncio.create_task(asyncio.to_thread(release.wait, 20)) for _ in range(64)]
        try:
            for _ in range(20):
                await asyncio.sleep(0.1)
                assert service.live.store_age(DOMAIN) < 1.5
            await asyncio.wait_for(service.shipper.ship(utc_now(), thoroughly=False), 10)
        finally:
            release.set()
            await asyncio.gather(*waiting)

    serve(tmp_path, use)


def test_a_gateway_that_cannot_tell_its_counts_splits_nothing_though_somebody_watches(gateway: Gateway, cloud: Cloud) -> None:
    saved = gateway.rolled_out("ramp", 0.99, policy=Rollout(guardrails=Guardrails(heartbeat=timedelta(seconds=3))))
    refuse = "CREATE TRIGGER refuse BEFORE INSERT ON healths BEGIN SELECT RAISE(ABORT, 'no room'); END"

    def change(statement: str) -> None:
        with closing(sqlite3.connect(gateway.folder / "experiments.db", timeout=10)) as connection, connection:
            connection.execute(statement)

    def fallback(event: str) -> Any:
        gateway.store.note_watched(saved.id, clock())
        return gateway.score(event, entity_id="somebody")["fallback"]

    assert fallback("1") == "challenger_failed", "there is none behind this endpoint, and it was asked"
    change(refuse)
    wait_until(lambda: fallback("2") == "unwatched", "nobody sees what this gateway counts")
    change("DROP TRIGGER refuse")
    wait_until(lambda: fallback("3") == "challenger_failed", "its counts arrive again")
