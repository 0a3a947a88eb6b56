"""``ingest`` against a model of it in plain Python: any files, in any order and any batches, killed anywhere, give the state that the model says."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingest_cases import DOMAIN, LAYOUT, PAYMENTS_HEADER, Killed, MemoryStore, curated, labels, land, manifest, quarantined

from include.jobs.ingest import ingest
from include.lifecycle.as_of import Days
from include.stores.partitions import Partitions
from include.stores.stale_features import StaleFeatures

PIECES = [b"\n", b"\r\n", b",", b'"', b"1", b"2026-01-01", b"\0", b"\xff", b"c"]
SLOW = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])  # how many examples: tests/conftest.py
DUPLICATE = "duplicate of a curated row"
CONTRADICTION = "contradictory rows for one key"
BAD_AMOUNT = "amount: not a finite number"


HEADERS = {"payments": PAYMENTS_HEADER, "labels": "payment,label,decided_at\n", "cards": "card,country,limit_eur\n"}


@dataclass(frozen=True)
class File:
    table: str
    day: int
    name: str
    rows: tuple[tuple[str, ...], ...]

    @property
    def text(self) -> str:
        return HEADERS[self.table] + "".join(",".join(row) + "\n" for row in self.rows)

    @property
    def path(self) -> str:
        return f"{self.table}/dt=2026-01-{self.day:02d}/{self.name}"

    @property
    def delivered(self) -> datetime:
        return datetime(2026, 1, self.day, tzinfo=UTC) + timedelta(days=1)


KEYS = st.sampled_from(["1", "2"])
DATES = st.sampled_from(["2026-01-01", "2026-01-02"])
PAYMENT = st.tuples(
    KEYS, st.just("c"), st.sampled_from(["1", "2", "x"]), st.sampled_from(["", "n"]), DATES, st.sampled_from(["", "0", "1"])
)
LABEL = st.tuples(KEYS, st.sampled_from(["0", "1"]), DATES)
CARD = st.tuples(KEYS, st.just("DE"), st.sampled_from(["", "1", "2"]))


def files_of(table: str, row: st.SearchStrategy[tuple[str, ...]]) -> st.SearchStrategy[File]:
    rows = st.lists(row, min_size=1, max_size=3).map(tuple)
    return st.builds(File, st.just(table), st.integers(2, 5), st.sampled_from(["a.csv", "b.csv"]), rows)


FILES = st.lists(
    st.one_of(files_of("payments", PAYMENT), files_of("payments", PAYMENT), files_of("labels", LABEL), files_of("cards", CARD)),
    min_size=4,
    max_size=7,
    unique_by=lambda file: file.path,
)


@dataclass
class Model:
    """The rules of the design, row by row."""

    payments: list[tuple[Any, ...]]
    labels: list[tuple[Any, ...]]
    cards: list[tuple[Any, ...]]
    reasons: dict[str, Counter[str]]


def model(files: list[File]) -> Model:
    reasons: dict[str, Counter[str]] = {"payments": Counter(), "labels": Counter(), "cards": Counter()}
    good: list[tuple[File, tuple[str, ...]]] = []
    for file in sorted(files, key=lambda file: (file.delivered, file.path)):
        rows = []
        for row in file.rows:
            if file.table == "payments" and row[2] == "x":
                reasons[file.table][BAD_AMOUNT] += 1
            else:
                rows.append(row)
        width = 2 if file.table == "cards" else 1
        by_key: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for row in rows:
            by_key.setdefault(row[:width], []).append(row)
        for same in by_key.values():
            if len(set(same)) > 1:
                reasons[file.table][CONTRADICTION] += len(same)
            else:
                reasons[file.table][DUPLICATE] += len(same) - 1
                good.append((file, same[0]))

    payments: dict[str, list[tuple[Any, ...]]] = {}
    known: dict[str, list[tuple[Any, ...]]] = {}
    cards: dict[str, list[tuple[Any, ...]]] = {}

    def say(history: list[tuple[Any, ...]], values: tuple[Any, ...], available: datetime, corrected: bool, delivered: datetime) -> bool:
        """Appends a version unless it repeats the last one; True if it was news."""
        if history and history[-1][0] == values:
            return False
        if history or corrected:
            available = max(available, delivered)
        if history:
            available = max(available, history[-1][1])
        history.append((values, available, delivered))
        return True

    for file, row in good:
        if file.table == "payments":
            happened = datetime.fromisoformat(row[4]).replace(tzinfo=UTC)
            history = payments.setdefault(row[0], [])
            first = not history
            news = say(history, (row[1], float(row[2]), row[3] or None, happened), happened + timedelta(hours=1), False, file.delivered)
            if row[5]:
                news |= say(known.setdefault(row[0], []), (int(row[5]), None), happened + timedelta(days=2), not first, file.delivered)
        elif file.table == "labels":
            decided = datetime.fromisoformat(row[2]).replace(tzinfo=UTC)
            news = say(known.setdefault(row[0], []), (int(row[1]), decided), decided, False, file.delivered)
        else:
            news = say(cards.setdefault(row[0], []), (row[2] or None,), datetime(1970, 1, 1, tzinfo=UTC), False, file.delivered)
        if not news:
            reasons[file.table][DUPLICATE] += 1

    def days(key: str) -> set[str]:
        return {values[3].date().isoformat() for values, *_ in payments[key]}

    def happened(key: str, then: datetime) -> datetime:
        known_then = [values[3] for values, available, _ in payments[key] if available <= then]
        return known_then[-1] if known_then else payments[key][0][0][3]

    return Model(
        sorted(
            (day, int(key), *values[:2], values[3], available)
            for key, history in payments.items()
            for values, available, _ in history
            for day in days(key)
        ),
        sorted(
            (day, key, values[0], happened(key, available), available)
            for key, history in known.items()
            if key in payments
            for values, available, _ in history
            for day in days(key)
        ),
        sorted((key, values[0] or "", available) for key, history in cards.items() for values, available, _ in history),
        {table: +count for table, count in reasons.items()},
    )


def landed(files: Sequence[File]) -> tuple[MemoryStore, dict[str, str]]:
    objects = MemoryStore()
    return objects, {file.path: land(objects, file.table, f"2026-01-{file.day:02d}", file.name, file.text) for file in files}


def versions(objects: MemoryStore) -> dict[date, str]:
    return Partitions(objects, LAYOUT.curated("payments")).versions()


def check_against_model(objects: MemoryStore, files: list[File]) -> None:
    expected = model(files)
    rows = curated(objects, "payments")
    assert sorted((r["dt"], r["payment"], r["card"], r["amount"], r["event_time"], r["available_at"]) for r in rows) == expected.payments
    found = sorted((r["dt"], r["event_id"], r["label"], r["event_time"], r["available_at"]) for r in labels(objects))
    assert found == expected.labels
    limits = sorted(
        (r["card"], "" if r["limit_eur"] is None else str(r["limit_eur"]), r["available_at"]) for r in curated(objects, "cards")
    )
    assert limits == expected.cards
    for table, reasons in expected.reasons.items():
        assert Counter(reason for row in quarantined(objects, table) for reason in row["reasons"]) == reasons
    assert all(row["dt"] == row["event_time"].date().isoformat() for row in curated(objects, "labels"))


def harm_the_index(objects: MemoryStore, data: st.DataObject, older: dict[str, bytes]) -> dict[str, bytes]:
    """Whatever happens to the index, which is a cache. ``older``: the index of an earlier state. Returns the index as it was."""
    as_it_is = {key: body for key, body in objects.objects.items() if key.startswith("small/index/")}
    for key, body in as_it_is.items():
        harm = data.draw(st.sampled_from(["none", "gone", "older", "cut", "changed"]))
        position = data.draw(st.integers(0, len(body) - 1))
        if harm == "gone":
            del objects.objects[key]
        elif harm == "older" and key in older:
            objects.objects[key] = older[key]
        elif harm == "cut":
            objects.objects[key] = body[:position]
        elif harm == "changed":
            objects.objects[key] = body[:position] + bytes([body[position] ^ 0x55]) + body[position + 1 :]
    return as_it_is


@SLOW
@given(files=FILES, data=st.data())
def test_the_state_is_a_function_of_the_set_of_files(files: list[File], data: st.DataObject) -> None:
    at_once, keys = landed(files)
    result = ingest(DOMAIN, at_once, manifest(*keys.values()), {})
    for table, counts in result["tables"].items():
        assert counts["landed"] == counts["curated"] + counts["quarantined"] == sum(len(f.rows) for f in files if f.table == table)
    check_against_model(at_once, files)

    shuffled = data.draw(st.permutations(files))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(files) - 1)), max_size=2)))
    step_by_step, keys = landed(files)
    older: dict[str, bytes] = {}
    for start, end in zip([0, *cuts], [*cuts, len(files)], strict=True):
        older = harm_the_index(step_by_step, data, older)
        before = versions(step_by_step)
        result = ingest(DOMAIN, step_by_step, manifest(*(keys[file.path] for file in shuffled[start:end])), {})
        changed = {day for day, _ in before.items() ^ versions(step_by_step).items()}
        stale = [Days(date.fromisoformat(first), date.fromisoformat(last)) for first, last in result["stale_features"]]
        assert all(any(day in days for days in stale) for day in changed)
    assert step_by_step.data() == at_once.data()

    again = data.draw(st.sampled_from(files))
    harm_the_index(step_by_step, data, older)
    ingest(DOMAIN, step_by_step, manifest(keys[again.path]), {})
    assert step_by_step.data() == at_once.data()


A, B = (("1", "c", amount, "", "2026-01-01", "") for amount in ("1", "2"))
MOVED, MOVED_ON = (("1", "c", "1", "", day, "1") for day in ("2026-01-02", "2026-01-03"))
LATE = {
    "a repeat becomes a correction back": [(2, A), (4, A), (3, B)],
    "a version becomes a repeat": [(4, A), (5, B), (2, A)],
    "a first version becomes a correction": [(4, B), (2, A)],
    "a label becomes one of a corrected row": [(4, (*A[:5], "1")), (2, B)],
    "an event moves, late, to a third day": [(2, A), (4, MOVED_ON), (3, MOVED)],
    "a label was said before, in between and after": [(2, (*A[:5], "1")), (5, (*B[:5], "1")), (4, (*A[:5], "0"))],
}


@pytest.mark.parametrize("said", LATE.values(), ids=LATE.keys())
def test_a_late_file_and_a_kill_at_each_of_its_writes(said: list[tuple[int, tuple[str, ...]]]) -> None:
    files = [File("payments", day, "a.csv", (row,)) for day, row in said]
    at_once, keys = landed(files)
    ingest(DOMAIN, at_once, manifest(*keys.values()), {})
    check_against_model(at_once, files)
    before_the_last, keys = landed(files)
    for file in files[:-1]:
        ingest(DOMAIN, before_the_last, manifest(keys[file.path]), {})
    assert before_the_last.data() != at_once.data()
    kill_at_each_write(before_the_last, [keys[file.path] for file in files], at_once)


def test_a_landed_file_that_changed_and_a_kill_at_each_write() -> None:
    """What the file said of its event, and on which days, is gone; what the others say of it stays."""
    others = [File("payments", 2, "a.csv", (A,)), File("labels", 3, "a.csv", (("1", "0", "2026-01-03"), ("2", "1", "2026-01-03")))]
    before = File("payments", 4, "a.csv", (MOVED, ("2", *MOVED_ON[1:])))
    after = dataclasses.replace(before, rows=(("3", "c", "1", "", "2026-01-04", ""),))
    at_once, keys = landed([*others, after])
    ingest(DOMAIN, at_once, manifest(*keys.values()), {})
    check_against_model(at_once, [*others, after])
    objects, keys = landed([*others, before])
    ingest(DOMAIN, objects, manifest(*keys.values()), {})
    assert objects.data() != at_once.data()
    land(objects, after.table, f"2026-01-{after.day:02d}", after.name, after.text)
    kill_at_each_write(objects, [keys[file.path] for file in (*others, after)], at_once)


def kill_at_each_write(before: MemoryStore, keys: Sequence[str], after: MemoryStore) -> None:
    """The last key's ingestion, killed after each of its writes in turn, is finished by the next run. Once there is a note of what was in
    hand, it does not matter what that run was asked for."""
    for writes in range(100):
        objects = MemoryStore(before.objects)
        objects.fail_after = writes
        try:
            ingest(DOMAIN, objects, manifest(keys[-1]), {})
        except Killed:
            objects.fail_after = None
            noted = objects.exists(f"{DOMAIN.name}/curated/unfinished_ingest.json")
            ingest(DOMAIN, objects, manifest(keys[writes % len(keys)] if noted else keys[-1]), {})
            assert objects.data() == after.data(), f"after a kill at write {writes}"
            changed = {day for day, _ in versions(before).items() ^ versions(after).items()}
            stale = StaleFeatures(objects, LAYOUT).days()
            assert all(any(day in days for days in stale) for day in changed), f"after a kill at write {writes}"
        else:
            assert objects.data() == after.data()
            assert writes > 3
            return
    pytest.fail("the run never ended")


@SLOW
@given(files=FILES, data=st.data())
def test_a_run_that_was_killed_is_finished_by_the_next(files: list[File], data: st.DataObject) -> None:
    at_once, keys = landed(files)
    ingest(DOMAIN, at_once, manifest(*keys.values()), {})

    shuffled = data.draw(st.permutations(files))
    cut = data.draw(st.integers(0, len(files) - 1))
    objects, keys = landed(files)
    first, second = [[keys[file.path] for file in part] for part in (shuffled[:cut], shuffled[cut:])]
    ingest(DOMAIN, objects, manifest(*first), {})
    objects.fail_after = data.draw(st.integers(0, 12))
    with contextlib.suppress(Killed):
        ingest(DOMAIN, objects, manifest(*second), {})
    objects.fail_after = None
    if data.draw(st.booleans()):  # an unrelated run comes first: it finishes what was begun, if anything was
        ingest(DOMAIN, objects, manifest(*first), {})
    ingest(DOMAIN, objects, manifest(*second), {})
    assert objects.data() == at_once.data()


@SLOW
@given(st.binary(max_size=300) | st.lists(st.sampled_from(PIECES), max_size=60).map(b"".join))
def test_whatever_bytes_land_every_row_is_accounted_for(rest: bytes) -> None:
    objects = MemoryStore()
    body = PAYMENTS_HEADER.encode() + b"1,c,1,,2026-01-01,\n" + rest
    keys = [land(objects, "payments", "2026-01-02", name, body) for name in ("a.csv", "b.CSV", "c.parquet")]
    result = ingest(DOMAIN, objects, manifest(*keys), {})["tables"]["payments"]
    assert result["landed"] == result["curated"] + result["quarantined"]
    stored = quarantined(objects, "payments")
    assert sum(row["records"] for row in stored) == result["quarantined"]
    assert all(row["reasons"] and row["original"] is not None for row in stored)


@pytest.mark.parametrize("cut", range(0, 260, 19))
def test_a_file_cut_anywhere_loses_nothing_and_invents_nothing(cut: int) -> None:
    rows = [f'{number},"card, {number}",{number}.25,"a\nb",2026-01-01T00:00:0{number}Z,{number % 2}' for number in range(1, 7)]
    whole = (PAYMENTS_HEADER + "".join(f"{row}\n" for row in rows)).encode()
    objects = MemoryStore()
    result = ingest(DOMAIN, objects, manifest(land(objects, "payments", "2026-01-02", "p.csv", whole[:cut])), {})["tables"]["payments"]
    assert result["landed"] == result["curated"] + result["quarantined"]
    kept = curated(objects, "payments")
    assert [(row["payment"], row["card"], row["amount"]) for row in kept] == [(n, f"card, {n}", n + 0.25) for n in range(1, len(kept) + 1)]
    ends = [len(PAYMENTS_HEADER.encode()) + sum(len(row.encode()) + 1 for row in rows[:count]) for count in range(1, len(rows) + 1)]
    assert len(kept) == sum(end <= cut for end in ends)
