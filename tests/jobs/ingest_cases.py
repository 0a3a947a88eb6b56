"""A small domain, landing files for it, and a store in memory, for the tests of ``ingest``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import pyarrow as pa

from include.lifecycle.domain import Approval, Column, Costs, Domain, Label, Owner, ReviewCapacity, Table, TrainingWindow
from include.stores.layout import Layout
from include.stores.objects import ObjectInfo, ObjectNotFoundError, ObjectStore
from include.stores.partitions import Partitions
from include.stores.quarantine import Quarantine

PAYMENTS = Table(
    name="payments",
    columns=(
        Column("payment", "integer"),
        Column("card", "string"),
        Column("amount", "float"),
        Column("note", "string", nullable=True),
        Column("at", "timestamp"),
        Column("fraud", "integer", nullable=True),
    ),
    key=("payment",),
    event_time='"at"',
    available_at="event_time + INTERVAL 1 HOUR",
)
CARDS = Table(
    name="cards",
    columns=(Column("card", "string"), Column("country", "string"), Column("limit_eur", "integer", nullable=True)),
    key=("card", "country"),
    kind="reference",
)
DOMAIN = Domain(
    name="small",
    title="A small domain",
    description="For tests.",
    owner=Owner("Tests", "tests@example.com"),
    tables=(PAYMENTS, CARDS),
    event_table="payments",
    event_id="payment",
    entity="card",
    leakage_group="card",
    label=Label(column="fraud", available_at="event_time + INTERVAL 2 DAY", maturity=timedelta(days=2)),
    costs=Costs("EUR", 1.0),
    review=ReviewCapacity(per_day=1),
    training=TrainingWindow(timedelta(days=30)),
    approval=Approval(automatic=True),
)
PAYMENTS_HEADER = "payment,card,amount,note,at,fraud\n"
LAYOUT = Layout(DOMAIN.name)


def expectations() -> dict[str, list[Any]]:
    return {
        "payments": [
            gxe.ExpectColumnValuesToBeBetween(column="amount", min_value=0, severity="critical"),
            gxe.ExpectColumnValuesToBeBetween(column="amount", max_value=1000, severity="warning"),
        ]
    }


class MemoryStore(ObjectStore):
    """Objects in a dictionary, for hundreds of cases in which nothing depends on S3: each put is whole, as S3's are. ``fail_after``: how many
    writes and deletions go through before every further one raises ``Killed``, as in a process that is killed there. ``reads``: the
    keys of what was read, in order."""

    def __init__(self, objects: Mapping[str, bytes] = {}) -> None:
        self.bucket = "memory"
        self.objects = dict(objects)
        self.fail_after: int | None = None
        self.reads: list[str] = []

    def _about_to_write(self) -> None:
        if self.fail_after is not None:
            if self.fail_after <= 0:
                raise Killed
            self.fail_after -= 1

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for key, body in sorted(self.objects.items()):
            if key.startswith(prefix):
                yield ObjectInfo(key, len(body), hashlib.md5(body, usedforsecurity=False).hexdigest())

    def exists(self, key: str) -> bool:
        return key in self.objects

    def get(self, key: str) -> bytes:
        if key not in self.objects:
            raise ObjectNotFoundError(self.uri(key))
        self.reads.append(key)
        return self.objects[key]

    def put(self, key: str, body: bytes, content_type: str = "application/octet-stream") -> str:
        self._about_to_write()
        self.objects[key] = body
        return self.uri(key)

    def delete(self, key: str) -> None:
        self._about_to_write()
        self.objects.pop(key, None)

    def download(self, key: str, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.get(key))
        return path

    def data(self) -> dict[str, bytes]:
        """Everything that ingesting makes, except reports."""
        return {key: body for key, body in self.objects.items() if not key.startswith(("small/raw/", "small/reports/", "small/features/"))}


class Killed(BaseException):
    """The process is gone: nothing catches this."""


def land(objects: ObjectStore, table: str, day: str, file: str, body: bytes | str) -> str:
    key = LAYOUT.landing(table, date.fromisoformat(day), file)
    objects.put(key, body.encode() if isinstance(body, str) else body)
    return key


def manifest(*keys: str, year: int | None = None) -> dict[str, Any]:
    return {"domain": DOMAIN.name, "year": year, "files": [{"key": key} for key in keys]}


def curated(objects: ObjectStore, table: str) -> list[dict[str, Any]]:
    return _rows(Partitions(objects, LAYOUT.curated(table)))


def labels(objects: ObjectStore) -> list[dict[str, Any]]:
    return _rows(Partitions(objects, LAYOUT.labels))


def _rows(partitions: Partitions) -> list[dict[str, Any]]:
    """Rows of all partitions in the order of the days, each with the partition's day as ``dt``."""
    rows = []
    for day in partitions:
        for row in partitions.read(day).to_pylist():
            rows.append({"dt": day.isoformat(), **row})
    return rows


def quarantined(objects: ObjectStore, table: str) -> list[dict[str, Any]]:
    quarantine = Quarantine(objects, LAYOUT)
    from include.lifecycle.delivery import Delivery

    found: list[pa.Table] = [quarantine.read(Delivery(path)) for path in quarantine.versions(table)]
    return [row for rows in found for row in rows.to_pylist()]
