"""What leaves this machine, beside the requests: decisions and outcomes to S3, accepted outcomes as landing files of labels.

At least once, under names that say which, so that what leaves twice is one object: a segment of the journal is one file a domain and day, a batch
of the ledger another. Nothing is removed here before it is there.
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
import logging
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from include import domains
from include.gateway.journal import Journal, read_segment
from include.gateway.ledger import Batch, Ledger, LedgerRow
from include.lifecycle.as_of import utc
from include.lifecycle.domain import LABELS_TABLE
from include.stores.layout import Layout
from include.stores.objects import ObjectNotFoundError, ObjectStore
from include.stores.watermark import Watermark

_log = logging.getLogger(__name__)
_Found = TypeVar("_Found")
LATE = timedelta(days=14)
"""For so long an outcome's decision is searched for among other gateways', and after so long away one may still ship what it had decided."""
_DEEP_EVERY = timedelta(hours=1)
S3_ERRORS = (ClientError, BotoCoreError, OSError)


@dataclass
class _Search:
    """How far back the days of a domain have been looked through, the latest first: ``day`` is next, ``last`` the last one. ``begun``: when."""

    day: date
    last: date
    begun: datetime


@dataclass
class Shipper:
    """``gateway``: of this process, unique. ``in_hand``: see ``Scorer``; decisions leave it once the ledger knows them. ``keep``: for how long the
    ledger remembers decisions."""

    gateway: str
    names: tuple[str, ...]
    journal: Journal
    ledger: Ledger
    objects: ObjectStore
    in_hand: set[tuple[str, str]]
    keep: timedelta = timedelta(days=400)
    _errors: dict[str, str] = field(default_factory=dict)
    _ledger_thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "ledger"))
    _s3_threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "shipping"))  # a round, and a search beside it
    _round: asyncio.Lock = field(default_factory=asyncio.Lock)
    _searching: asyncio.Lock = field(default_factory=asyncio.Lock)
    _searches: dict[str, _Search] = field(default_factory=dict)
    _indexed: set[Path] = field(default_factory=set)

    @property
    def error(self) -> str | None:
        """Why the last round, or the last search for other gateways' decisions, failed; None where neither did."""
        return next(iter(self._errors.values()), None)

    async def in_ledger(self, call: Callable[..., _Found], *arguments: Any) -> _Found:
        """The call in the one thread that the ledger is for."""
        return await asyncio.get_running_loop().run_in_executor(self._ledger_thread, call, *arguments)

    async def _in_thread(self, call: Callable[..., _Found], *arguments: Any) -> _Found:
        return await asyncio.get_running_loop().run_in_executor(self._s3_threads, call, *arguments)

    async def close(self) -> None:
        """Closes the ledger."""
        await self.in_ledger(self.ledger.close)
        self._ledger_thread.shutdown()
        self._s3_threads.shutdown(wait=False, cancel_futures=True)

    async def ship(self, now: datetime, thoroughly: bool = True) -> dict[str, int]:
        """All that is here: {"decisions", "outcomes" (for the audit), "labels" (landed)}. An error ends the round; the next one goes on.
        ``thoroughly``: find all decisions of other gateways that outcomes wait for, too."""
        async with self._round, self._told("shipping"):
            await self.journal.roll()
            found = {"decisions": 0, "outcomes": 0, "labels": 0}
            for segment in await self.index_segments():
                found["decisions"] += await self._ship_segment(segment)
            for name in self.names:
                found["outcomes"] += await self._ship_outcomes(name, now)
                found["labels"] += await self._land_labels(name, now)
        if thoroughly and await self.search(now):
            async with self._round, self._told("shipping"):
                for name in self.names:
                    found["labels"] += await self._land_labels(name, now)
        return found

    @asynccontextmanager
    async def _told(self, what: str) -> AsyncIterator[None]:
        """Whatever fails here stands in ``error`` until the same goes well."""
        try:
            yield
            self._errors.pop(what, None)
        except Exception as error:
            self._errors[what] = f"{type(error).__name__}: {error}"
            _log.error("the %s failed, and is done again later: %s", what, self._errors[what])
            raise

    async def index_segments(self) -> tuple[Path, ...]:
        """The ledger gets to know the decisions of closed segments, whether or not they can leave. Which segments those are: one that a full disk
        closes meanwhile is not among them, and must not leave before the next round, as no search would ever tell the ledger of it."""
        segments = self.journal.closed_segments
        for segment in segments:
            if segment not in self._indexed:
                lines, _ = await self._in_thread(_decisions, segment)
                for domain, rows in _by_domain(lines).items():
                    await self._index(domain, rows)
                self._indexed.add(segment)
        return segments

    async def _ship_segment(self, segment: Path) -> int:
        lines, damaged = await self._in_thread(_decisions, segment)
        files: dict[tuple[str, date], list[bytes]] = {}
        for text, decision in lines:
            files.setdefault((decision["domain"], utc(decision["decided_at"]).date()), []).append(text)
        for (domain, day), texts in sorted(files.items()):
            key = Layout(domain).shipped_decisions(day, f"{segment.stem}.jsonl.gz")
            await self._in_thread(self.objects.put, key, gzipped_lines(texts), "application/gzip")
            await self.in_ledger(self.ledger.index, domain, (), (day, key))  # so that no search reads it
        if damaged:
            kept = self.journal.set_aside(segment)
            _log.error(
                "%s: %d lines are damaged, and with them decisions that were answered may be lost; the rest is shipped", kept, damaged
            )
        else:
            self.journal.remove(segment)
        self._indexed.discard(segment)
        return len(lines)

    async def _index(self, domain: str, decisions: list[dict[str, Any]]) -> None:
        rows = [(decision["inference_id"], decision["decided_at"]) for decision in decisions]
        await self.in_ledger(self.ledger.index, domain, rows)
        self.in_hand.difference_update((domain, inference_id) for inference_id, _ in rows)

    def _made(self, now: datetime) -> str:
        """See ``Batch``."""
        return f"{now:%Y%m%dT%H%M%S.%fZ}-{self.gateway}"

    async def _ship_outcomes(self, name: str, now: datetime) -> int:
        for batch in (batches := await self.in_ledger(self.ledger.open_batches, "outcomes", name, self._made(now), _received_on)):
            lines = [
                json.dumps({
                    "inference_id": row.inference_id,
                    "label": row.label,
                    "known_at": row.known_at,
                    "received_at": row.received_at,
                    "by": row.said_by,
                }).encode()
                for row in batch.rows
            ]
            key = Layout(name).shipped_outcomes(batch.day, f"{batch.made}-{batch.number:06d}.jsonl.gz")
            await self._in_thread(self.objects.put, key, gzipped_lines(lines), "application/gzip")
            await self.in_ledger(self.ledger.batch_left, batch)
        return sum(len(batch.rows) for batch in batches)

    async def _land_labels(self, name: str, now: datetime) -> int:
        """Under the day on which the label became known, or, where deliveries up to a later one were ingested already, under the first that was
        not: nobody would look for it under a day that is over."""
        layout, day_of = Layout(name), None
        if await self.in_ledger(self.ledger.has_new_labels, name):
            ingested = await self._in_thread(Watermark(self.objects, layout).get)
            day_of = partial(_lands_on, ingested.date() if ingested else date.min)
        for batch in (batches := await self.in_ledger(self.ledger.open_batches, "labels", name, self._made(now), day_of)):
            key = layout.landing(LABELS_TABLE, batch.day, f"outcomes_{batch.made}_{batch.number:06d}.csv")
            await self._in_thread(self.objects.put, key, labels_file(name, batch), "text/csv; charset=utf-8")
            await self.in_ledger(self.ledger.batch_left, batch)
        return sum(len(batch.rows) for batch in batches)

    async def search(self, now: datetime, at_most: int = sys.maxsize) -> int:
        """Reads what other gateways have shipped, for the domains in which an outcome waits for a decision and was told no longer than ``LATE`` ago.
        How many outcomes are accepted now. ``at_most``: objects and days to look at; the next search goes on from there.

        Today and yesterday are looked through every time. All days before, as far back as decisions are remembered, once; then, every hour, those
        of ``LATE``, which a gateway that was away may have added to."""
        async with self._searching, self._told("search"):
            accepted = 0
            for name in self.names:
                if await self.in_ledger(self.ledger.pending, name, now - LATE):
                    accepted += await self._search_domain(name, now, at_most)
            return accepted

    async def _search_domain(self, name: str, now: datetime, at_most: int) -> int:
        today = now.date()
        search = self._searches.get(name)
        if search is None or (search.day < search.last and now - search.begun >= _DEEP_EVERY):
            searched = await self.in_ledger(self.ledger.searched, name)
            last = min(searched, today) - LATE if searched else (now - self.keep).date()
            search = self._searches[name] = _Search(today - timedelta(days=2), last, now)
        accepted = 0
        for day in (today, today - timedelta(days=1)):
            found, at_most = await self._search_day(name, day, at_most)
            accepted += found
        while search.day >= search.last and at_most > 0:
            found, at_most = await self._search_day(name, search.day, at_most)
            accepted += found
            if at_most > 0:  # it was looked through
                search.day -= timedelta(days=1)
                if search.day < search.last:
                    await self.in_ledger(self.ledger.note_searched, name, search.begun.date())
        return accepted

    async def _search_day(self, name: str, day: date, at_most: int) -> tuple[int, int]:
        """(outcomes accepted now, what is left of ``at_most``: 0 where the day may hold more)."""
        prefix = Layout(name).shipped_decisions(day)
        keys = await self._in_thread(lambda: [info.key for info in self.objects.list(prefix)])
        known = await self.in_ledger(self.ledger.shipments_known, name, day)
        accepted, at_most = 0, at_most - 1
        for key in (key for key in keys if key not in known):
            if at_most <= 0:
                return accepted, 0
            at_most -= 1
            try:
                body = await self._in_thread(self.objects.get, key)
            except ObjectNotFoundError:
                continue
            rows, damaged = _shipped_decisions(body)
            if damaged:
                _log.error("%s: %d damaged lines, and outcomes of their events go on waiting", self.objects.uri(key), damaged)
            accepted += await self.in_ledger(self.ledger.index, name, rows, (day, key))
        return accepted, at_most


def _decisions(segment: Path) -> tuple[list[tuple[bytes, dict[str, Any]]], int]:
    """Each as text and as what it says; and how many lines are damaged."""
    texts, damaged = read_segment(segment)
    return [(text, json.loads(text)) for text in texts], damaged


def _shipped_decisions(body: bytes) -> tuple[list[tuple[str, str]], int]:
    """(inference id, decided at) of the decisions of an object, as far as it can be read; how many lines, or whole objects, cannot."""
    try:
        lines = gzip.decompress(body).splitlines()
    except (OSError, EOFError, zlib.error):
        return [], 1
    rows, damaged = [], 0
    for line in lines:
        try:
            decision = json.loads(line)
            inference_id, decided_at = decision["inference_id"], decision["decided_at"]
            f"{inference_id + decided_at}".encode()  # both are text, and of whole characters
            rows.append((inference_id, decided_at))
        except (ValueError, KeyError, TypeError, RecursionError):
            damaged += 1
    return rows, damaged


def _by_domain(lines: Iterable[tuple[bytes, dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for _, decision in lines:
        found.setdefault(decision["domain"], []).append(decision)
    return found


def _received_on(row: LedgerRow) -> date:
    return utc(row.received_at).date()


def _lands_on(first: date, row: LedgerRow) -> date:
    return max(utc(row.known_at).date(), first)


def gzipped_lines(lines: Iterable[bytes]) -> bytes:
    """The same bytes for the same lines: no time stands in it."""
    return gzip.compress(b"".join(line + b"\n" for line in lines), 6, mtime=0)


def labels_file(domain: str, batch: Batch) -> bytes:
    """A file of the domain's labels table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(domains.get(domain).labels_table.column_names)
    writer.writerows((row.inference_id, row.label, row.known_at) for row in batch.rows)
    return text.getvalue().encode()


def utc_now() -> datetime:
    return datetime.now(UTC)
