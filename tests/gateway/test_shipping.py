"""What leaves a gateway's machine, into a real bucket, whatever lies there already and whatever is damaged."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from gateway_lab import DOMAIN, LAYOUT, landed_labels, shipped

from include import domains
from include.gateway.journal import Journal, JournalError
from include.gateway.ledger import Ledger, Told
from include.gateway.shipping import LATE, Shipper
from include.jobs.ingest import ingest
from include.stores.objects import ObjectInfo, ObjectStore

NOW = datetime(2026, 4, 20, 12, tzinfo=UTC)
TODAY = NOW.date()
KNOWN = datetime(2026, 4, 7, 9, tzinfo=UTC)


class Counting(ObjectStore):
    """A real bucket; ``listed`` and ``read``: the prefixes and keys that were asked for."""

    def __init__(self, bucket: str) -> None:
        super().__init__(bucket)
        self.listed: list[str] = []
        self.read: list[str] = []

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self.listed.append(prefix)
        return super().list(prefix)

    def get(self, key: str) -> bytes:
        self.read.append(key)
        return super().get(key)


@pytest.fixture
def objects(aws: str) -> Counting:
    """Empty."""
    client = boto3.client("s3")
    if "shipping" not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket="shipping", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    store = Counting("shipping")
    for info in store.list(""):
        store.delete(info.key)
    store.listed.clear()
    return store


def gateway(
    objects: ObjectStore, folder: Path, use: Callable[[Shipper], Awaitable[None]], name: str = "g1", domains: tuple[str, ...] = (DOMAIN,)
) -> None:
    """What a gateway of that state directory ships with, for the time of ``use``."""

    async def run() -> None:
        journal, ledger = Journal(folder / "decisions", name), Ledger(folder / "ledger.db")
        shipper = Shipper(name, domains, journal, ledger, objects, set())
        await shipper.index_segments()
        try:
            await use(shipper)
        finally:
            await journal.close()
            await shipper.close()

    asyncio.run(run())


def decision(event: str, at: datetime = NOW, domain: str = DOMAIN) -> bytes:
    return json.dumps({"inference_id": event, "domain": domain, "decided_at": at.strftime("%Y-%m-%dT%H:%M:%SZ")}).encode()


async def tell(shipper: Shipper, *told: tuple[str, int], at: datetime = NOW, known_at: datetime = KNOWN) -> list[str]:
    items = [Told(event, label, known_at) for event, label in told]
    return list(await shipper.in_ledger(shipper.ledger.receive, DOMAIN, items, at, "someone"))


def others(objects: ObjectStore, day: date, name: str, *lines: bytes) -> str:
    """An object that another gateway has shipped."""
    body = gzip.compress(b"".join(line + b"\n" for line in lines))
    return objects.key(objects.put(LAYOUT.shipped_decisions(day, f"{name}.jsonl.gz"), body))


def broken(objects: ObjectStore) -> list[str]:
    """One object of each kind of damage, with the decision of event 7 where it can be read."""
    whole = gzip.compress(decision("8") * 50)
    bodies = {
        "cut": whole[:-20],
        "flipped": whole[:20] + bytes([whole[20] ^ 0xFF]) + whole[21:],
        "no-gzip": b"hello",
        "empty": b"",
        "lines": gzip.compress(
            b'{"half\n[]\n{"inference_id": 8}\n{"inference_id": "\\ud800", "decided_at": "x"}\n' + decision("7") + b"\n"
        ),
    }
    return [objects.key(objects.put(LAYOUT.shipped_decisions(TODAY, f"{name}.jsonl.gz"), body)) for name, body in bodies.items()]


def test_what_is_damaged_in_the_bucket_keeps_nothing_here(objects: Counting, tmp_path: Path) -> None:
    """What can be read of it counts, it is read once, and what is here leaves before any of it is looked at."""
    damaged = broken(objects)

    async def use(shipper: Shipper) -> None:
        await shipper.journal.append(decision("1"))
        assert await tell(shipper, ("7", 1), ("8", 1), ("1", 0)) == ["pending"] * 3
        found = await shipper.ship(NOW)
        assert (found, shipper.error) == ({"decisions": 1, "outcomes": 3, "labels": 2}, None)
        assert {line for _, line in landed_labels(objects)} == {"7,1,2026-04-07T09:00:00Z", "1,0,2026-04-07T09:00:00Z"}
        assert sorted(key for key in objects.read if "/decisions/" in key) == sorted(damaged)
        await shipper.ship(NOW)
        assert sorted(key for key in objects.read if "/decisions/" in key) == sorted(damaged)

    gateway(objects, tmp_path, use)


def test_a_round_that_fails_says_so_whatever_it_was(objects: Counting, tmp_path: Path) -> None:
    class Unlisted(Counting):
        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            raise RecursionError("no listing")

    async def use(shipper: Shipper) -> None:
        await shipper.journal.append(decision("1"))
        await tell(shipper, ("1", 1), ("2", 1))
        with pytest.raises(RecursionError):
            await shipper.ship(NOW)
        assert "no listing" in str(shipper.error)
        assert [line[:4] for _, line in landed_labels(objects)] == ["1,1,"], "what is here has left all the same"
        await shipper.ship(NOW, thoroughly=False)
        assert "no listing" in str(shipper.error), "the search has not gone well since"
        shipper.objects = objects
        await shipper.ship(NOW)
        assert shipper.error is None

    gateway(Unlisted("shipping"), tmp_path, use)


def test_a_damaged_segment_is_kept_and_the_rest_of_it_shipped(objects: Counting, tmp_path: Path) -> None:
    async def write(shipper: Shipper) -> None:
        for event in ("1", "2", "3"):
            await shipper.journal.append(decision(event))

    gateway(objects, tmp_path, write)
    [segment] = (tmp_path / "decisions").glob("*.log")
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 4  # in the second of three
    segment.write_bytes(content)

    async def ship(shipper: Shipper) -> None:
        assert (await shipper.ship(NOW))["decisions"] == 2
        assert (shipper.journal.damaged, shipper.journal.closed_segments) == (1, ())
        assert (await shipper.ship(NOW))["decisions"] == 0

    gateway(objects, tmp_path, ship, "g2")
    assert [line["inference_id"] for line in shipped(objects, LAYOUT.shipped_decisions())] == ["1", "3"]
    [kept] = (tmp_path / "decisions").iterdir()
    assert (kept.name, kept.read_bytes()) == (f"{segment.name}.damaged", bytes(content))

    async def start(shipper: Shipper) -> None:
        assert shipper.journal.damaged == 1, "it is there until a person takes it away"
        assert shipper.journal.closed_segments == ()

    gateway(objects, tmp_path, start, "g3")


def test_a_segment_that_a_full_disk_closes_while_others_are_indexed_leaves_only_when_the_ledger_knows_it(
    objects: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No search reads what this machine has shipped: a decision that left unindexed would be known to nobody here, and its label would never land."""

    async def ship(shipper: Shipper) -> None:
        index = shipper._index

        async def while_the_disk_fills(domain: str, decisions: list[dict[str, Any]]) -> None:
            shipper._index = index  # type: ignore[method-assign]
            await shipper.journal.append(decision("2"))
            with monkeypatch.context() as full:
                full.setattr(os, "fdatasync", refuse)
                with pytest.raises(JournalError, match="No space left"):
                    await shipper.journal.append(decision("3"))
            await index(domain, decisions)

        def refuse(file: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        shipper._index = while_the_disk_fills  # type: ignore[method-assign]
        await shipper.journal.append(decision("1"))
        assert (await shipper.ship(NOW))["decisions"] == 1
        assert len(shipper.journal.closed_segments) == 1
        assert (await shipper.ship(NOW))["decisions"] == 1
        assert shipper.journal.closed_segments == ()

    async def restarted(shipper: Shipper) -> None:
        assert await tell(shipper, ("1", 1), ("2", 1)) == ["accepted", "accepted"]
        assert (await shipper.ship(NOW))["labels"] == 2

    gateway(objects, tmp_path, ship)
    gateway(objects, tmp_path, restarted, "g2")
    assert [line["inference_id"] for line in shipped(objects, LAYOUT.shipped_decisions())] == ["1", "2"]


def test_no_search_reads_what_this_machine_has_shipped(objects: Counting, tmp_path: Path) -> None:
    async def ship(shipper: Shipper) -> None:
        await shipper.journal.append(decision("1"))
        await shipper.journal.append(decision("2", NOW - timedelta(days=1)))
        await shipper.ship(NOW)

    async def search(shipper: Shipper) -> None:
        await tell(shipper, ("9", 1))
        await shipper.search(NOW)

    gateway(objects, tmp_path, ship, "g1")
    other = others(objects, TODAY, "other-000001", decision("5"))
    gateway(objects, tmp_path, search, "g2")
    assert objects.read == [other]


def test_an_outcome_without_a_decision_costs_a_start_little(objects: Counting, tmp_path: Path) -> None:
    """All days are looked through once; a start later only those that can have grown; and none for an outcome that has waited too long."""
    days = [TODAY - timedelta(days=ago) for ago in (0, 1, 30, 300)]
    keys = [others(objects, day, "other-000001", decision(f"5{number}")) for number, day in enumerate(days)]

    def looked(at: datetime, name: str) -> tuple[int, list[str]]:
        objects.listed.clear()
        objects.read.clear()

        async def use(shipper: Shipper) -> None:
            await shipper.search(at)
            await shipper.search(at)

        gateway(objects, tmp_path, use, name)
        return len(objects.listed), objects.read

    async def wait(shipper: Shipper) -> None:
        await tell(shipper, ("nobody's", 1))

    gateway(objects, tmp_path, wait)
    listed, read = looked(NOW, "g2")
    assert (listed, sorted(read)) == (401 + 2, sorted(keys)), "400 days before today, and twice today and yesterday"
    late = others(objects, TODAY - timedelta(days=10), "late-000001", decision("6"))
    assert looked(NOW, "g3") == (LATE.days + 1 + 2, [late]), "two weeks: a gateway that was away may have added to them"
    assert looked(NOW + LATE + timedelta(seconds=1), "g4") == (0, []), "nobody searches any more"


def test_a_search_goes_on_where_the_one_before_it_ended(objects: Counting, tmp_path: Path) -> None:
    """So that shipping need not wait while a year is looked through."""
    wanted = [others(objects, TODAY - timedelta(days=20), f"other-{number:06d}", decision(str(number))) for number in range(7)]

    async def use(shipper: Shipper) -> None:
        assert await tell(shipper, ("6", 1)) == ["pending"]
        rounds = 0
        while not await shipper.search(NOW, 5):
            rounds += 1
            assert rounds < 20
        assert sorted(objects.read) == wanted, "each once"
        assert rounds > 5
        assert (await shipper.ship(NOW, thoroughly=False))["labels"] == 1

    gateway(objects, tmp_path, use)


def test_every_hour_the_days_that_a_late_gateway_may_have_added_to_are_searched_again(objects: Counting, tmp_path: Path) -> None:
    async def use(shipper: Shipper) -> None:
        await tell(shipper, ("1", 1), ("2", 1))
        assert await shipper.search(NOW) == 0
        others(objects, TODAY - timedelta(days=9), "late-000001", decision("1"))
        assert await shipper.search(NOW + timedelta(minutes=59)) == 0
        assert await shipper.search(NOW + timedelta(minutes=61)) == 1
        others(objects, TODAY, "other-000001", decision("2"))
        assert await shipper.search(NOW + timedelta(minutes=62)) == 1, "today's at once"

    gateway(objects, tmp_path, use)


@pytest.mark.parametrize("turn", [False, True])
def test_where_two_gateways_contradict_each_other_the_one_that_was_told_later_is_the_correction(
    objects: Counting, tmp_path: Path, turn: bool
) -> None:
    """Whatever the gateways are called. And a retry at another gateway with the same instant says nothing new."""
    names = ("zz", "aa") if turn else ("aa", "zz")
    for number, (name, label) in enumerate(zip(names, (0, 1), strict=True)):

        async def use(shipper: Shipper, label: int = label, at: datetime = NOW + timedelta(seconds=number)) -> None:
            await shipper.journal.append(decision("1"))
            await shipper.journal.append(decision("2"))
            await tell(shipper, ("1", label), ("2", 1))
            assert (await shipper.ship(at))["labels"] == 2

        gateway(objects, tmp_path / name, use, name)
    files = [{"table": "labels", "key": info.key} for info in objects.list(f"{DOMAIN}/raw/labels/")]
    result = ingest(domains.get(DOMAIN), objects, {"domain": DOMAIN, "year": None, "files": files}, {})
    labels: dict[str, Any] = result["tables"]["labels"]
    assert (labels["landed"], labels["curated"], labels["reasons"]) == (4, 3, {"duplicate of a curated row": 1})
    assert curated_labels(objects, tmp_path) == {"1": [0, 1], "2": [1]}


def curated_labels(objects: ObjectStore, folder: Path) -> dict[str, list[int]]:
    """Event → its labels, in the order in which ingestion takes them."""
    import pyarrow.parquet as pq

    rows = []
    for number, info in enumerate(objects.list(f"{LAYOUT.curated('labels')}/")):
        rows += pq.read_table(objects.download(info.key, folder / f"{number}.parquet")).to_pylist()
    found: dict[str, list[int]] = {}
    for row in sorted(rows, key=lambda row: (row["delivered_at"], row["source"])):
        found.setdefault(str(row["transaction_id"]), []).append(row["label"])
    return found
