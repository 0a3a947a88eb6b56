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
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
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
from include.stores.objects import ObjectStore
from include.stores.watermark import Watermark

_log = logging.getLogger(__name__)
_Found = TypeVar("_Found")
_LOOK_EVERY = timedelta(seconds=15)
S3_ERRORS = (ClientError, BotoCoreError, OSError)


@dataclass
class Shipper:
    """``gateway``: of this process, unique. ``in_hand``: see ``Scorer``; decisions leave it once the ledger knows them."""

    gateway: str
    names: tuple[str, ...]
    journal: Journal
    ledger: Ledger
    objects: ObjectStore
    in_hand: set[tuple[str, str]]
    error: str | None = None
    """Why the last round failed; None after one that did not."""
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "ledger"))
    _round: asyncio.Lock = field(default_factory=asyncio.Lock)
    _listed: dict[str, date] = field(default_factory=dict)
    _looked: datetime | None = None
    _indexed: set[Path] = field(default_factory=set)

    async def in_ledger(self, call: Callable[..., _Found], *arguments: Any) -> _Found:
        """The call in the one thread that the ledger is for."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    async def ship(self, now: datetime, thoroughly: bool = True) -> dict[str, int]:
        """All that is here: {"decisions", "outcomes" (for the audit), "labels" (landed)}. An S3 error ends the round; the next one goes on.
        ``thoroughly``: look for the decisions of other gateways however lately that was done."""
        async with self._round:
            found = {"decisions": 0, "outcomes": 0, "labels": 0}
            try:
                await self.journal.roll()
                await self.index_segments()
                for segment in self.journal.closed_segments:
                    found["decisions"] += await self._ship_segment(segment)
                if thoroughly or self._looked is None or now - self._looked >= _LOOK_EVERY:
                    self._looked = now
                    for name in self.names:
                        await self._find_decisions_of_others(name, now)
                for name in self.names:
                    found["outcomes"] += await self._ship_outcomes(name)
                    found["labels"] += await self._land_labels(name)
                self.error = None
            except S3_ERRORS as error:
                self.error = f"{type(error).__name__}: {error}"
                _log.error("not shipped, tried again later: %s", self.error)
                raise
            return found

    async def index_segments(self) -> None:
        """The ledger gets to know the decisions of closed segments, whether or not they can leave."""
        for segment in self.journal.closed_segments:
            if segment not in self._indexed:
                for domain, rows in _by_domain(await asyncio.to_thread(_decisions, segment)).items():
                    await self._index(domain, rows)
                self._indexed.add(segment)

    async def _ship_segment(self, segment: Path) -> int:
        lines = await asyncio.to_thread(_decisions, segment)
        files: dict[str, list[bytes]] = {}
        for text, decision in lines:
            day = utc(decision["decided_at"]).date()
            files.setdefault(Layout(decision["domain"]).shipped_decisions(day, f"{segment.stem}.jsonl.gz"), []).append(text)
        for key, texts in sorted(files.items()):
            await asyncio.to_thread(self.objects.put, key, gzipped_lines(texts), "application/gzip")
        self.journal.remove(segment)
        self._indexed.discard(segment)
        return len(lines)

    async def _index(self, domain: str, decisions: list[dict[str, Any]]) -> None:
        rows = [(decision["inference_id"], decision["decided_at"]) for decision in decisions]
        await self.in_ledger(self.ledger.index, domain, rows)
        self.in_hand.difference_update((domain, inference_id) for inference_id, _ in rows)

    async def _ship_outcomes(self, name: str) -> int:
        for batch in (batches := await self.in_ledger(self.ledger.open_batches, "outcomes", name, self.gateway, _received_on)):
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
            key = Layout(name).shipped_outcomes(batch.day, f"{batch.gateway}-{batch.number:06d}.jsonl.gz")
            await asyncio.to_thread(self.objects.put, key, gzipped_lines(lines), "application/gzip")
            await self.in_ledger(self.ledger.batch_left, batch)
        return sum(len(batch.rows) for batch in batches)

    async def _land_labels(self, name: str) -> int:
        """Under the day on which the label became known, or, where deliveries up to a later one were ingested already, under the first that was
        not: nobody would look for it under a day that is over."""
        layout, day_of = Layout(name), None
        if await self.in_ledger(self.ledger.has_new_labels, name):
            ingested = await asyncio.to_thread(Watermark(self.objects, layout).get)
            day_of = partial(_lands_on, ingested.date() if ingested else date.min)
        for batch in (batches := await self.in_ledger(self.ledger.open_batches, "labels", name, self.gateway, day_of)):
            key = layout.landing(LABELS_TABLE, batch.day, f"outcomes_{batch.gateway}_{batch.number:06d}.csv")
            await asyncio.to_thread(self.objects.put, key, labels_file(name, batch), "text/csv; charset=utf-8")
            await self.in_ledger(self.ledger.batch_left, batch)
        return sum(len(batch.rows) for batch in batches)

    async def _find_decisions_of_others(self, name: str, now: datetime) -> None:
        """Reads what other gateways have shipped, while an outcome waits for a decision. All days are looked through once, then those that can have
        grown since."""
        if not await self.in_ledger(self.ledger.pending, name):
            return
        layout, today = Layout(name), now.date()
        since = self._listed.get(name)
        prefixes = [layout.shipped_decisions()]
        if since is not None:
            prefixes = [layout.shipped_decisions(since + timedelta(days=more)) for more in range((today - since).days + 1)]
        keys = [info.key for prefix in prefixes for info in await asyncio.to_thread(lambda at: list(self.objects.list(at)), prefix)]
        keys = [key for key in keys if f"/{self.gateway}-" not in key]
        known = await self.in_ledger(self.ledger.were_read, keys)
        for key in (key for key in keys if key not in known):
            body = await asyncio.to_thread(self.objects.get, key)
            rows = [(decision["inference_id"], decision["decided_at"]) for decision in map(json.loads, gzip.decompress(body).splitlines())]
            await self.in_ledger(self.ledger.index, name, rows, key)
        self._listed[name] = today - timedelta(days=1)


def _decisions(segment: Path) -> list[tuple[bytes, dict[str, Any]]]:
    return [(text, json.loads(text)) for text in read_segment(segment)]


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
