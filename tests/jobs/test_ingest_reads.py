"""How much of the history ``ingest`` reads: the days that hold something it needs, whatever the keys look like, and no others."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import cache

import pytest
from ingest_cases import DOMAIN, LAYOUT, PAYMENTS, PAYMENTS_HEADER, MemoryStore, land, manifest

from include.jobs.ingest import ingest
from include.lifecycle.as_of import Days
from include.lifecycle.domain import Column, Domain
from include.stores.stale_features import StaleFeatures

DAYS = 20
START = date(2026, 1, 1)
TEXT_KEYS = dataclasses.replace(
    DOMAIN, tables=(dataclasses.replace(PAYMENTS, columns=(Column("payment", "string"), *PAYMENTS.columns[1:])), *DOMAIN.tables[1:])
)
Name = Callable[[int], str]


def hashed(number: int) -> str:
    return hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()


def day_of(number: int) -> date:
    return START + timedelta(days=number // 10)


def payments(numbers: list[int], name: Name, amount: int = 1) -> str:
    """Payment ``number`` happens on day ``number // 10``."""
    return PAYMENTS_HEADER + "".join(f"{name(number)},c,{amount},,{day_of(number)},\n" for number in numbers)


def labelled(day: int, numbers: list[int], name: Name) -> str:
    return "payment,label,decided_at\n" + "".join(f"{name(number)},1,{START + timedelta(days=day)}T12:00:00Z\n" for number in numbers)


def deliver(objects: MemoryStore, domain: Domain, day: int, file: str = "a.csv", **files: str) -> dict:
    """Ingests what was delivered on a day: ``payments``, ``labels``."""
    keys = [land(objects, table, day_of(10 * day).isoformat(), file, text) for table, text in files.items()]
    objects.reads.clear()
    return ingest(domain, objects, manifest(*keys), {})


def read_days(objects: MemoryStore, prefix: str) -> list[int]:
    days = [key.removeprefix(f"{prefix}/dt=")[:10] for key in objects.reads if key.startswith(f"{prefix}/dt=")]
    return sorted((date.fromisoformat(day) - START).days for day in days)


@cache
def stored(domain: Domain, name: Name) -> dict[str, bytes]:
    """``DAYS`` daily deliveries: ten payments, every third day the last of the day before once more, and three labels of four days before."""
    objects = MemoryStore()
    keys = []
    for day in range(DAYS):
        delivered = day_of(10 * day).isoformat()
        keys.append(
            land(objects, "payments", delivered, "a.csv", payments(list(range(10 * day - (day > 0 and day % 3 == 0), 10 * day + 10)), name))
        )
        if day >= 4:
            keys.append(land(objects, "labels", delivered, "a.csv", labelled(day, [10 * (day - 4) + place for place in range(3)], name)))
    ingest(domain, objects, manifest(*keys), {})
    return objects.objects


def history(domain: Domain, name: Name) -> MemoryStore:
    return MemoryStore(stored(domain, name))


KINDS = pytest.mark.parametrize(("domain", "name"), [(DOMAIN, str), (TEXT_KEYS, hashed)], ids=["numbers", "hashes"])


@KINDS
def test_a_day_reads_the_days_that_its_keys_are_on(domain: Domain, name: Name) -> None:
    objects = history(domain, name)
    deliver(objects, domain, DAYS, payments=payments([10 * DAYS, 10 * DAYS + 1], name), labels=labelled(DAYS, [160, 161], name))
    assert read_days(objects, LAYOUT.curated("payments")) == [16], "whose events are labelled"
    assert read_days(objects, LAYOUT.labels) == []
    assert read_days(objects, LAYOUT.curated("labels")) == []
    assert not [read for read in objects.reads if read.startswith("small/quarantine/")]


@KINDS
def test_a_late_correction_brings_back_what_comes_after_it_and_no_more(domain: Domain, name: Name) -> None:
    objects = history(domain, name)
    key = land(objects, "payments", day_of(50).isoformat(), "late.csv", payments([50], name, 2))
    objects.reads.clear()
    assert ingest(domain, objects, manifest(key), {})["tables"]["payments"]["curated"] == 1
    assert read_days(objects, LAYOUT.curated("payments")) == [5], "the day of the corrected payment"
    assert read_days(objects, LAYOUT.labels) == [5]
    assert read_days(objects, LAYOUT.curated("labels")) == [9], "which says that the payment was fraud: that file is read again"
    assert [read for read in objects.reads if "/raw/" in read] == [key, LAYOUT.landing("labels", day_of(90), "a.csv")]
    assert not [read for read in objects.reads if read.startswith("small/quarantine/")]


@KINDS
def test_a_repeat_of_the_key_is_found_in_quarantine(domain: Domain, name: Name) -> None:
    objects = history(domain, name)
    key = land(objects, "payments", day_of(50).isoformat(), "late.csv", payments([59], name, 2))
    objects.reads.clear()
    ingest(domain, objects, manifest(key), {})
    assert [read for read in objects.reads if read.startswith("small/quarantine/")] == [
        LAYOUT.quarantine("payments", day_of(60), "a.csv.parquet")
    ]
    assert LAYOUT.landing("payments", day_of(60), "a.csv") in objects.reads, "what was a repeat corrects the late row now"


def built(objects: MemoryStore) -> None:
    StaleFeatures(objects, LAYOUT).built(Days(START, START + timedelta(days=99)), datetime(2026, 2, 1, tzinfo=UTC))


def test_taking_the_week_again_changes_nothing_and_marks_nothing() -> None:
    objects = history(DOMAIN, str)
    built(objects)
    before = objects.data()
    keys = [f"small/raw/{table}/dt={day_of(10 * day)}/a.csv" for table in ("payments", "labels") for day in range(15, DAYS)]
    objects.reads.clear()
    assert ingest(DOMAIN, objects, manifest(*keys), {})["stale_features"] == []
    assert objects.data() == before
    assert read_days(objects, LAYOUT.curated("payments")) == list(range(11, DAYS)), "from the first that one of these files labels"


def test_a_label_makes_features_stale_from_the_day_on_which_it_was_known() -> None:
    domain = dataclasses.replace(DOMAIN, feature_history=timedelta(days=7))
    objects = history(domain, str)
    built(objects)
    result = deliver(objects, domain, DAYS + 5, labels="payment,label,decided_at\n155,1,2026-01-24\n")
    assert result["stale_features"] == [], "known more than a week after the payment: nobody looks back as far"
    result = deliver(objects, domain, 17, "late.csv", labels=labelled(17, [155], str))
    assert result["stale_features"] == [["2026-01-18", "2026-01-23"]], (
        "known on the 18th; payments until a week after that of the 16th see it"
    )
    built(objects)
    result = deliver(objects, domain, 17, "late.csv", labels=labelled(17, [], str))
    assert result["stale_features"] == [["2026-01-18", "2026-01-23"]], "withdrawn: the file says no more of it"
    result = deliver(objects, domain, DAYS, payments=payments([10 * DAYS], str))
    assert result["stale_features"] == [["2026-01-18", "2026-01-28"]], "what was not built since stays marked"
