from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transfers import DAY, DOMAIN, SQL, START, account, at, label, transfer, write

from include.lifecycle.as_of import Days
from include.lifecycle.domain import Column, Domain
from include.lifecycle.features import FeatureError, compute_features, feature_names, open_database

FIRST, LAST = date(2026, 1, 1), date(2026, 1, 31)
MANDATORY = (
    "CAST(transfer_id AS VARCHAR) AS event_id, event_time, account AS entity_id, account AS group_id, money AS amount, 'a' AS facet_segment"
)


def compute(
    tables: dict[str, Iterable[dict[str, Any]]],
    as_of: datetime | None = None,
    first: date = FIRST,
    last: date = LAST,
    sql: str = SQL,
    domain: Domain = DOMAIN,
    known_by: datetime | None = None,
    fetched: Days | None = None,
) -> pa.Table:
    """``fetched``: of the event tables, only these days' partitions are there, as in ``build-features``."""
    with tempfile.TemporaryDirectory() as folder:
        files = write(Path(folder), tables, known_by)
        if fetched:
            for name in files.keys() - {"accounts"}:
                files[name] = [path for path in files[name] if date.fromisoformat(path.stem.removeprefix("dt=")) in fetched]
        with open_database(Path(folder) / "spill") as connection:
            return compute_features(connection, domain, sql, files, as_of or at(31), first, last)


def by_event(table: pa.Table, column: str) -> dict[str, Any]:
    return dict(zip(table["event_id"].to_pylist(), table[column].to_pylist(), strict=True))


def test_windows_joins_and_types() -> None:
    table = compute({
        "transfers": [transfer(1, 0.0, money=10), transfer(2, 2.5, money=5), transfer(3, 5.4, money=2), transfer(4, 5.4, "y", money=7)],
        "accounts": [account("x", 3)],
        "labels": [label(1, 0.0, 1, known=3)],
    })
    assert table.column_names[:6] == ["event_id", "event_time", "entity_id", "group_id", "amount", "facet_segment"]
    assert feature_names(DOMAIN, table.column_names) == ["risk", "money_3d", "transfers_3d", "known_frauds"]
    assert table.schema.field("event_time").type == pa.timestamp("us", "UTC")
    assert all(table.schema.field(name).type == pa.float64() for name in ["amount", *feature_names(DOMAIN, table.column_names)])
    assert table["event_id"].to_pylist() == ["1", "2", "3", "4"]
    assert table["event_time"].to_pylist()[1] == at(2.5)
    assert by_event(table, "money_3d") == {"1": 10, "2": 15, "3": 7, "4": 7}
    assert by_event(table, "risk") == {"1": 3, "2": 3, "3": 3, "4": None}
    assert by_event(table, "known_frauds") == {"1": 0, "2": 0, "3": 1, "4": 0}, "the label became known on day 3"


def test_only_events_of_the_interval_but_history_before_it() -> None:
    transfers = [transfer(1, 0.0), transfer(2, 1.999), transfer(3, 2.0), transfer(4, 2.999), transfer(5, 3.0)]
    table = compute({"transfers": transfers}, first=date(2026, 1, 3), last=date(2026, 1, 3))
    assert by_event(table, "transfers_3d") == {"3": 3, "4": 4}


def test_of_versions_that_became_known_at_the_same_instant_the_last_delivered_counts_then_the_last_source() -> None:
    late = transfer(1, 1.0, money=1, known=9)
    versions = [
        {**late, "money": 4.0, "delivered_at": at(4), "source": "b"},
        {**late, "money": 3.0, "delivered_at": at(4), "source": "a"},
        {**late, "money": 2.0, "delivered_at": at(3), "source": "z"},
    ]
    assert by_event(compute({"transfers": versions}), "amount") == {"1": 4}


def test_a_reference_version_holds_from_when_it_became_known() -> None:
    accounts = [account("x", 1), account("x", 2, known=4), account("x", 3, known=8)]
    transfers = [transfer(1, 3.9), transfer(2, 4.0), transfer(3, 8.5)]
    assert by_event(compute({"transfers": transfers, "accounts": accounts}), "risk") == {"1": 1, "2": 2, "3": 3}
    assert by_event(compute({"transfers": transfers, "accounts": accounts}, as_of=at(8.6)), "risk") == {"1": 1, "2": 2, "3": 3}


def test_tables_without_files_are_empty() -> None:
    assert compute({}).num_rows == 0
    assert by_event(compute({"transfers": [transfer(1, 1)]}), "risk") == {"1": None}


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles"])
def test_days_and_hours_are_utc_wherever_the_machine_is(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    sql = f"SELECT {MANDATORY}, EXTRACT(HOUR FROM event_time) AS hour FROM transfers"
    table = compute({"transfers": [transfer(1, 2.98)]}, first=date(2026, 1, 3), last=date(2026, 1, 3), sql=sql)
    assert by_event(table, "hour") == {"1": 23}


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT event_time FROM transfers", "wants the column.*event_id, entity_id, group_id, amount, facet_segment"),
        (f"SELECT {MANDATORY} FROM transfers", "makes no feature"),
        (f"SELECT {MANDATORY}, money AS m, money AS m FROM transfers", "named twice"),
        (f"SELECT {MANDATORY}, account AS a FROM transfers", "a must be a number, not VARCHAR"),
        (f"SELECT {MANDATORY}, event_time AS e FROM transfers", "e must be a number, not TIMESTAMP"),
        (f"SELECT {MANDATORY.replace(chr(39) + 'a' + chr(39), '1')}, money AS m FROM transfers", "facet_segment must be text"),
        (f"SELECT {MANDATORY}, money AS label FROM transfers", "the label's name"),
        (f"SELECT {MANDATORY}, fraud AS f FROM transfers", "does not run.*fraud"),
        (f"SELECT {MANDATORY}, money AS facet_other FROM transfers", "facet_other: no such facet"),
        (f"SELECT {MANDATORY}, 1 / (money - 1) AS m FROM transfers", r"m is infinite .* in 1 event\(s\), such as 1"),
        (f"SELECT {MANDATORY.replace('account AS entity_id', 'NULLIF(account, account) AS entity_id')}, money AS m FROM transfers",
         r"entity_id is null in 2 event\(s\), such as 1, 2"),
        (f"SELECT {MANDATORY}, money AS m FROM transfers WHERE money > 1", r"no row for an event of transfers .*: 1 event\(s\), such as 1$"),
        (f"SELECT {MANDATORY}, money AS m FROM transfers JOIN accounts USING (account)",
         r"several rows for one event .*: 2 event\(s\), such as 1 \(2 rows\), 2 \(2 rows\)"),
        (f"SELECT {MANDATORY.replace('CAST(transfer_id', 'CAST(transfer_id + 10')}, money AS m FROM transfers", "no row for an event"),
        (f"SELECT {MANDATORY.replace('event_time,', 'event_time + INTERVAL 1 HOUR AS event_time,')}, money AS m FROM transfers",
         r"not at that event_time: 2 event\(s\)"),
        ("SELECT * FROM transfers ASOF JOIN accounts USING (account)", "ASOF"),
        ("SELECT * FROM read_parquet('/etc/passwd')", "something else than a table of the domain"),
    ],
)  # fmt: skip
def test_refuses(sql: str, message: str) -> None:
    tables = {
        "transfers": [transfer(1, 1.0, money=1), transfer(2, 2.0, money=2)],
        "accounts": [account("x", 1), account("x", 2, known=1.5)],
    }
    with pytest.raises(FeatureError, match=message):
        compute(tables, sql=sql)


def test_a_declared_column_that_the_files_lack_is_named() -> None:
    events = DOMAIN.table("transfers")
    wider = dataclasses.replace(events, columns=(*events.columns, Column("channel", "string")))
    domain = dataclasses.replace(DOMAIN, tables=(wider, DOMAIN.table("accounts")))
    with pytest.raises(FeatureError, match=r"transfers\.transfers cannot be read as the domain declares them.*channel"):
        compute({"transfers": [transfer(1, 1.0)]}, domain=domain)


moments = st.integers(0, 40).map(lambda quarter: quarter / 4)
money = st.floats(0.01, 1e6, allow_nan=False)
stores = st.fixed_dictionaries({
    "transfers": st.lists(st.tuples(st.integers(1, 12), moments, st.sampled_from("xyz"), money, moments), max_size=25).map(
        lambda rows: [transfer(i, days, a, m, known=days + lag, source=f"f{n:02}") for n, (i, days, a, m, lag) in enumerate(rows)]
    ),
    "accounts": st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 9), st.none() | moments), max_size=8).map(
        lambda rows: [{**account(*row), "source": f"f{n:02}"} for n, row in enumerate(rows)]
    ),
    "labels": st.lists(st.tuples(st.integers(1, 12), moments, st.integers(0, 1), moments), max_size=15).map(
        lambda rows: [{**label(i, days, value, days + lag), "source": f"f{n:02}"} for n, (i, days, value, lag) in enumerate(rows)]
    ),
})


@settings(max_examples=25, deadline=None)
@given(tables=stores, as_of=moments)
def test_what_became_known_later_changes_nothing(tables: dict[str, list[dict[str, Any]]], as_of: float) -> None:
    """The rule of time: computed today as of T equals computed at T, bit for bit."""
    today = compute(tables, as_of=at(as_of))
    then = compute(tables, as_of=at(as_of), known_by=at(as_of))
    assert today.equals(then)


@settings(max_examples=25, deadline=None)
@given(tables=stores, day=st.integers(0, 10), as_of=moments)
def test_a_day_alone_equals_the_day_of_a_longer_run(tables: dict[str, list[dict[str, Any]]], day: int, as_of: float) -> None:
    """What makes build-features incremental: the days within the feature history are all that a day needs."""
    wanted = (START + day * DAY).date()
    recent = "earlier.event_time < t.event_time AND earlier.event_time >= t.event_time - INTERVAL 3 DAY"
    sql = SQL.replace("earlier.event_time < t.event_time", recent)
    fetched = Days(wanted - DOMAIN.feature_history, wanted)
    alone = compute(tables, at(as_of), first=wanted, last=wanted, sql=sql, fetched=fetched)
    whole = compute(tables, at(as_of), sql=sql)
    inside = [time.date() == wanted for time in whole["event_time"].to_pylist()]
    assert alone.equals(whole.filter(pa.array(inside, pa.bool_())))


def test_a_label_counts_once_though_it_lies_in_several_days() -> None:
    tables = {"transfers": [transfer(1, 1.0), transfer(1, 2.0, known=3), transfer(2, 6.0)], "labels": [label(1, 1.0, 1, known=4)]}
    sql = f"SELECT t.*, n.labels FROM (SELECT {MANDATORY} FROM transfers) AS t CROSS JOIN (SELECT COUNT(*) AS labels FROM labels) AS n"
    assert by_event(compute(tables, sql=sql), "labels") == {"1": 1, "2": 1}


def test_spills_to_disk_beyond_the_memory_limit(tmp_path: Path) -> None:
    import numpy as np
    import pyarrow.parquet as pq

    rows = 400_000
    rng = np.random.default_rng(1)
    times = pa.array(np.sort(rng.integers(0, 30 * 86400, rows)) * 1_000_000 + int(START.timestamp()) * 1_000_000).cast(
        pa.timestamp("us", "UTC")
    )
    table = pa.table({
        "transfer_id": pa.array(np.arange(rows)),
        "account": pa.array([f"account {n}" for n in rng.integers(0, 5000, rows)]),
        "money": pa.array(rng.gamma(2, 50, rows)),
        "event_time": times,
        "available_at": times,
        "delivered_at": times,
        "source": pa.array(["f"] * rows),
    })
    pq.write_table(table, tmp_path / "transfers.parquet")
    past = "OVER (PARTITION BY account ORDER BY event_time RANGE BETWEEN INTERVAL 3 DAY PRECEDING AND CURRENT ROW)"
    sql = f"SELECT {MANDATORY}, SUM(money) {past} AS money_3d, COUNT(*) {past} AS n FROM transfers"
    results = []
    for limit in ("120MB", "4GB"):
        with open_database(tmp_path / limit, limit) as connection:
            files = {"transfers": [tmp_path / "transfers.parquet"]}
            results.append(compute_features(connection, DOMAIN, sql, files, at(40), FIRST, FIRST + timedelta(days=40)))
    assert results[0].num_rows == rows
    assert results[0].equals(results[1])
