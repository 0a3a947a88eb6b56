"""``ingest`` case by case: what is curated, what is quarantined and why, and that nothing is lost."""

from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime
from pathlib import Path

import great_expectations.expectations as gxe
import ingest_cases as cases
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingest_cases import DOMAIN, LAYOUT, PAYMENTS_HEADER, MemoryStore, curated, expectations, labels, land, manifest, quarantined

from include.jobs.context import JobError
from include.jobs.ingest import ingest
from include.lifecycle.as_of import Days
from include.lifecycle.features import compute_features, open_database
from include.stores.partitions import Partitions
from include.stores.stale_features import StaleFeatures


def payments(*rows: str) -> str:
    return PAYMENTS_HEADER + "".join(f"{row}\n" for row in rows)


def ingested(objects: MemoryStore, *keys: str, year: int | None = None, checks: dict | None = None) -> dict:
    """The result; every table's and every stored row's sum is checked on the way."""
    result = ingest(DOMAIN, objects, manifest(*keys, year=year), expectations() if checks is None else checks)
    for counts in result["tables"].values():
        assert counts["landed"] == counts["curated"] + counts["quarantined"]
    return result


def test_good_rows_are_curated_by_event_day_with_their_times() -> None:
    objects = MemoryStore()
    key = land(
        objects, "payments", "2026-01-02", "p.csv", payments("1,c1,10.5,,2026-01-01T08:00:00Z,", "2,c1,1e2,N/A,2026-01-02 09:30:00+01:00,1")
    )
    result = ingested(objects, key)
    assert result["tables"]["payments"] == {"landed": 2, "curated": 2, "quarantined": 0, "reasons": {}, "warnings": [], "refused_files": []}
    assert result["event_days"] == ["2026-01-01", "2026-01-02"]
    assert result["stale_features"] == [["2026-01-01", "2026-01-02"]]
    first, second = curated(objects, "payments")
    source = first.pop("source")
    assert source.startswith("payments/dt=2026-01-02/p.csv@")
    assert first == {
        "dt": "2026-01-01",
        "payment": 1,
        "card": "c1",
        "amount": 10.5,
        "note": None,
        "at": datetime(2026, 1, 1, 8, tzinfo=UTC),
        "event_time": datetime(2026, 1, 1, 8, tzinfo=UTC),
        "available_at": datetime(2026, 1, 1, 9, tzinfo=UTC),
        "delivered_at": datetime(2026, 1, 3, tzinfo=UTC),
    }
    assert second["note"] == "N/A"
    assert second["event_time"] == datetime(2026, 1, 2, 8, 30, tzinfo=UTC)
    assert labels(objects) == [
        {
            "dt": "2026-01-02",
            "event_id": "2",
            "label": 1,
            "event_time": datetime(2026, 1, 2, 8, 30, tzinfo=UTC),
            "available_at": datetime(2026, 1, 4, 8, 30, tzinfo=UTC),
            "delivered_at": datetime(2026, 1, 3, tzinfo=UTC),
            "source": source,
        }
    ]


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ("x1,c,1,,2026-01-01,", "payment: not an integer", "payment=x1"),
        ("1.0,c,1,,2026-01-01,", "payment: not an integer", "payment=1.0"),
        (" 1,c,1,,2026-01-01,", "payment: not an integer", "payment= 1"),
        ("9223372036854775808,c,1,,2026-01-01,", "payment: not an integer", "payment=9223372036854775808"),
        (",c,1,,2026-01-01,", "payment: empty", ""),
        ("1,,1,,2026-01-01,", "card: empty", ""),
        ("1,c,nan,,2026-01-01,", "amount: not a finite number", "amount=nan"),
        ("1,c,1e999,,2026-01-01,", "amount: not a finite number", "amount=1e999"),
        ("1,c,0x10,,2026-01-01,", "amount: not a finite number", "amount=0x10"),
        ("1,c,,,2026-01-01,", "amount: empty", ""),
        ("1,c,1,,2026-02-30,", "at: not an ISO 8601 timestamp", "at=2026-02-30"),
        ("1,c,1,,01/02/2026,", "at: not an ISO 8601 timestamp", "at=01/02/2026"),
        ("1,c,1,,2026-01-03T00:00:01,", "event_time: after the delivery", ""),
        ("1,c,1,,2026-01-01,2", "fraud: neither 0 nor 1", ""),
        ("1,c,-1,,2026-01-01,", "amount: expect_column_values_to_be_between (min_value 0.0)", ""),
        ("1,c,1,2026-01-01,", "5 fields where the header has 6", ""),
        ("1,c,1,,2026-01-01,,", "7 fields where the header has 6", ""),
        ('1,"c,1,,2026-01-01,', "unbalanced quotes", ""),
        (f"1,c,{'9' * 100}x,,2026-01-01,", "amount: not a finite number", f"amount={'9' * 60}…"),
    ],
)
def test_a_bad_row_goes_to_quarantine_with_its_reason_and_text(row: str, reason: str, detail: str) -> None:
    objects = MemoryStore()
    key = land(objects, "payments", "2026-01-02", "p.csv", payments("7,c,1,,2026-01-01,", row, "8,c,1,,2026-01-01,"))
    result = ingested(objects, key)["tables"]["payments"]
    assert (result["landed"], result["curated"], result["reasons"]) == (3, 2, {reason: 1})
    assert [kept["payment"] for kept in curated(objects, "payments")] == [7, 8]
    (refused,) = quarantined(objects, "payments")
    assert refused["reasons"] == [reason]
    assert refused["detail"] == detail
    assert refused["record"] == 2
    assert refused["original"] == row.encode()
    assert refused["header"] + b"\n" == PAYMENTS_HEADER.encode()


def test_a_quarantined_row_can_be_mended_and_landed_again() -> None:
    objects = MemoryStore()
    ingested(objects, land(objects, "payments", "2026-01-02", "p.csv", payments("1,c,1O,,2026-01-01,")))
    (refused,) = quarantined(objects, "payments")
    mended = refused["header"] + b"\n" + refused["original"].replace(b"1O", b"10") + b"\n"
    ingested(objects, land(objects, "payments", "2026-01-03", "mended.csv", mended))
    assert [row["amount"] for row in curated(objects, "payments")] == [10.0]


def test_all_reasons_of_a_row_are_named() -> None:
    objects = MemoryStore()
    result = ingested(objects, land(objects, "payments", "2026-01-02", "p.csv", payments("x,,y,,z,")))
    assert result["tables"]["payments"]["reasons"] == dict.fromkeys(
        ["payment: not an integer", "card: empty", "amount: not a finite number", "at: not an ISO 8601 timestamp"], 1
    )
    assert quarantined(objects, "payments")[0]["detail"] == "payment=x; amount=y; at=z"


def test_a_ten_million_character_cell_harms_its_own_row_only() -> None:
    objects = MemoryStore()
    huge = "x" * 10_000_000
    key = land(
        objects, "payments", "2026-01-02", "p.csv", payments(f"1,c,1,{huge},2026-01-01,", f"2,c,{huge},,2026-01-01,", "3,c,1,,2026-01-01,")
    )
    result = ingested(objects, key)["tables"]["payments"]
    assert result["reasons"] == {"amount: longer than 65536 characters": 1, "note: longer than 65536 characters": 1}
    assert [row["payment"] for row in curated(objects, "payments")] == [3]
    assert [len(row["original"]) for row in quarantined(objects, "payments")] == [10_000_000 + 18, 10_000_000 + 17]


@pytest.mark.parametrize(
    ("file", "body", "records", "reason"),
    [
        ("p.csv", b"", 0, "the file is empty (0 bytes)"),
        ("p.csv", b"\n\n", 0, "the file has no header line"),
        ("p.csv", b"payment,card\n1,c\n2,c\n", 2, "missing columns: amount, note, at, fraud"),
        ("p.csv", b"payment,card,amount,note,at,fraud,card\n1,c\n", 1, "columns that occur twice: card"),
        ("p.csv", payments("1,c,1,,2026-01-01,").encode("utf-16"), 1, "UTF-16 text: files must be UTF-8"),
        ("p.csv", payments("1,c,1,,2026-01-01,").encode("utf-16-le"), 1, "the header line holds NUL bytes"),
        ("p.csv", bytes(1000), 0, "the header line holds NUL bytes"),
        ("p.xlsx", b"PK", 0, "the name ends neither in .csv nor in .parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_whole(file: str, body: bytes, records: int, reason: str) -> None:
    objects = MemoryStore()
    good = land(objects, "payments", "2026-01-02", "good.csv", payments("1,c,1,,2026-01-01,"))
    bad = land(objects, "payments", "2026-01-02", file, body)
    result = ingested(objects, good, bad)["tables"]["payments"]
    assert result["refused_files"] == [{"key": bad, "reason": reason}]
    assert (result["landed"], result["curated"], result["quarantined"]) == (1 + records, 1, records)
    (refused,) = quarantined(objects, "payments")
    assert (refused["original"], refused["record"], refused["records"], refused["reasons"]) == (body, 0, records, [reason])


def test_a_header_alone_is_an_empty_delivery() -> None:
    objects = MemoryStore()
    result = ingested(objects, land(objects, "payments", "2026-01-02", "p.csv", PAYMENTS_HEADER))
    assert result["tables"]["payments"]["landed"] == 0
    assert result["tables"]["payments"]["refused_files"] == []
    assert result["event_days"] is None
    assert cases.quarantined(objects, "payments") == []


def test_an_extra_column_is_a_warning() -> None:
    objects = MemoryStore()
    body = "payment,card,amount,note,at,fraud,colour\n1,c,1,,2026-01-01,,red\n"
    result = ingested(objects, land(objects, "payments", "2026-01-02", "p.csv", body))["tables"]["payments"]
    assert result["curated"] == 1
    assert result["warnings"] == [{"expectation": "declared_columns", "column": "colour", "unexpected": 1, "share": 1.0}]
    assert "colour" not in curated(objects, "payments")[0]


def test_encodings_harm_their_own_row_only() -> None:
    objects = MemoryStore()
    rows = [b"1,M\xfcller,1,,2026-01-01,", "2,Müller,1,,2026-01-01,".encode(), b"3,c\0,1,,2026-01-01,"]
    key = land(objects, "payments", "2026-01-02", "p.csv", b"\xef\xbb\xbf" + PAYMENTS_HEADER.encode() + b"\n".join(rows) + b"\n")
    result = ingested(objects, key)["tables"]["payments"]
    assert result["reasons"] == {"holds NUL bytes": 1, "is not UTF-8 (byte 0xfc)": 1}
    assert curated(objects, "payments")[0]["card"] == "Müller"


def test_repeats_and_contradictions_within_a_file() -> None:
    objects = MemoryStore()
    said = ["1,c,1", "1,c,1.0", "2,c,1", "2,c,2", "2,c,1", "3,c,x", "3,c,3"]
    body = payments(*(f"{row},,2026-01-01," for row in said))
    result = ingested(objects, land(objects, "payments", "2026-01-02", "p.csv", body))["tables"]["payments"]
    assert result["reasons"] == {"amount: not a finite number": 1, "contradictory rows for one key": 3, "duplicate of a curated row": 1}
    assert [(row["payment"], row["amount"]) for row in curated(objects, "payments")] == [(1, 1.0), (3, 3.0)]


def test_the_same_file_under_another_name_or_day_is_all_duplicates() -> None:
    objects = MemoryStore()
    body = payments("1,c,1,,2026-01-01,0", "2,c,1,,2026-01-01,")
    ingested(objects, land(objects, "payments", "2026-01-02", "a.csv", body))
    before = objects.data()
    for day, name in (("2026-01-02", "b.csv"), ("2026-01-05", "a.csv")):
        result = ingested(objects, land(objects, "payments", day, name, body))["tables"]["payments"]
        assert result["reasons"] == {"duplicate of a curated row": 2}
    assert {key: body for key, body in objects.data().items() if "/quarantine/" not in key} == before


def test_a_correction_is_appended_and_known_from_its_delivery() -> None:
    objects = MemoryStore()
    ingested(objects, land(objects, "payments", "2026-01-02", "p.csv", payments("1,c,1,,2026-01-01,")))
    ingested(objects, land(objects, "payments", "2026-01-05", "p.csv", payments("1,c,2,,2026-01-01,1")))
    ingested(objects, land(objects, "payments", "2026-01-07", "p.csv", payments("1,c,1,,2026-01-01,1")))
    assert [(row["amount"], row["available_at"].isoformat()) for row in curated(objects, "payments")] == [
        (1.0, "2026-01-01T01:00:00+00:00"),
        (2.0, "2026-01-06T00:00:00+00:00"),
        (1.0, "2026-01-08T00:00:00+00:00"),
    ]
    assert [(row["label"], row["available_at"].isoformat()) for row in labels(objects)] == [(1, "2026-01-06T00:00:00+00:00")]


def test_a_correction_that_moves_an_event_is_seen_from_both_days(tmp_path: Path) -> None:
    objects = MemoryStore()
    ingested(objects, land(objects, "payments", "2026-01-02", "p.csv", payments("1,c,1,,2026-01-01,1", "2,c,5,,2026-01-01,")))
    result = ingested(objects, land(objects, "payments", "2026-01-05", "p.csv", payments("1,c,2,,2026-01-03,1")))
    assert (result["tables"]["payments"]["landed"], result["tables"]["payments"]["curated"]) == (1, 1)
    assert result["event_days"] == ["2026-01-03", "2026-01-03"]
    assert result["stale_features"] == [["2026-01-01", "2026-01-01"], ["2026-01-03", "2026-01-03"]]
    assert [row["dt"] for row in labels(objects)] == ["2026-01-01", "2026-01-03"]
    StaleFeatures(objects, LAYOUT).built(Days(date(2026, 1, 1), date(2026, 1, 3)), datetime(2026, 1, 6, tzinfo=UTC))
    other = ingested(objects, land(objects, "payments", "2026-01-06", "p.csv", payments("3,c,7,,2026-01-01,0")))
    assert other["stale_features"] == [["2026-01-01", "2026-01-01"]], "which keeps what it knows of the event that left it"

    sql = """
        SELECT CAST(p.payment AS VARCHAR) AS event_id, p.event_time, card AS entity_id, card AS group_id, amount,
            l.label + 1 AS fraud_plus_one FROM payments AS p LEFT JOIN labels AS l ON l.event_id = CAST(p.payment AS VARCHAR)
    """
    found = {}
    for day in (date(2026, 1, 1), date(2026, 1, 3)):
        files = {}
        for table, prefix in (("payments", LAYOUT.curated("payments")), ("labels", LAYOUT.labels)):
            files[table] = Partitions(objects, prefix).download(tmp_path / table / str(day), day, day)
        for as_of in (datetime(2026, 1, 4, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC)):
            with open_database(tmp_path / "spill") as connection:
                rows = compute_features(connection, DOMAIN, sql, files, as_of, day, day).to_pylist()
            found[day.day, as_of.day] = [(row["event_id"], row["amount"], row["fraud_plus_one"]) for row in rows]
    assert found == {
        (1, 4): [("1", 1, 2), ("2", 5, None), ("3", 7, 1)],
        (1, 6): [("1", 1, 2), ("2", 5, None), ("3", 7, 1)],
        (3, 4): [],
        (3, 6): [],
    }, "features see the event as it was first known: both days must say so"


def test_a_label_alone_makes_a_row_worth_keeping() -> None:
    objects = MemoryStore()
    ingested(objects, land(objects, "payments", "2026-01-02", "p.csv", payments("1,c,1,,2026-01-01,")))
    result = ingested(objects, land(objects, "payments", "2026-01-09", "p.csv", payments("1,c,1,,2026-01-01,1")))["tables"]["payments"]
    assert (result["curated"], result["reasons"]) == (1, {})
    assert len(curated(objects, "payments")) == 1
    assert [row["label"] for row in labels(objects)] == [1]


def test_a_late_label_waits_for_its_event() -> None:
    objects = MemoryStore()
    decided = "payment,label,decided_at\n1,1,2026-01-03T10:00:00Z\n"
    result = ingested(objects, land(objects, "labels", "2026-01-03", "l.csv", decided))
    assert result["tables"]["labels"]["curated"] == 1
    assert labels(objects) == []
    ingested(objects, land(objects, "payments", "2026-01-04", "p.csv", payments("1,c,1,,2026-01-01,")))
    (label,) = labels(objects)
    assert (label["dt"], label["event_id"], label["label"]) == ("2026-01-01", "1", 1)
    assert label["available_at"] == datetime(2026, 1, 3, 10, tzinfo=UTC)
    ingested(objects, land(objects, "labels", "2026-01-08", "l.csv", "payment,label,decided_at\n1,0,2026-01-07\n"))
    assert [(row["label"], row["available_at"].day) for row in labels(objects)] == [(1, 3), (0, 9)]


def test_reference_rows_hold_from_the_beginning_and_corrections_from_their_delivery() -> None:
    objects = MemoryStore()
    header = "card,country,limit_eur\n"
    first = land(objects, "cards", "2026-01-02", "c.csv", header + "c1,DE,5\nc1,FR,\n")
    second = land(objects, "cards", "2026-01-04", "c.csv", header + "c1,DE,9\nc1,FR,\n")
    result = ingested(objects, first, second)["tables"]["cards"]
    assert (result["curated"], result["reasons"]) == (3, {"duplicate of a curated row": 1})
    assert [(row["dt"], row["country"], row["limit_eur"], row["available_at"].isoformat()) for row in curated(objects, "cards")] == [
        ("2026-01-02", "DE", 5, "1970-01-01T00:00:00+00:00"),
        ("2026-01-02", "FR", None, "1970-01-01T00:00:00+00:00"),
        ("2026-01-04", "DE", 9, "2026-01-05T00:00:00+00:00"),
    ]


def test_parquet_lands_like_csv() -> None:
    objects = MemoryStore()
    columns = {
        "payment": pa.array([1.0, 2.0, 3.5, None]),
        "card": pa.array(["c", "c", "c", "c"]).dictionary_encode(),
        "amount": pa.array([1, 2, 3, 4]),
        "note": pa.array([None, "", "x", "y"]),
        "at": pa.array([datetime(2026, 1, 1, 1, tzinfo=UTC)] * 4, pa.timestamp("ns", tz="Europe/Berlin")),
        "fraud": pa.array([None, 1, 0, None], pa.int8()),
    }
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    key = land(objects, "payments", "2026-01-02", "p.parquet", stream.getvalue())
    result = ingested(objects, key)["tables"]["payments"]
    assert (result["curated"], result["reasons"]) == (2, {"payment: empty": 1, "payment: not an integer": 1})
    assert [(row["payment"], row["note"], row["event_time"].hour) for row in curated(objects, "payments")] == [(1, None, 1), (2, None, 1)]
    assert json.loads(quarantined(objects, "payments")[0]["original"])["payment"] == 3.5


def test_a_corrupt_parquet_file_is_refused_whole() -> None:
    objects = MemoryStore()
    stream = io.BytesIO()
    pq.write_table(pa.table({"payment": [1]}), stream)
    missing = land(objects, "payments", "2026-01-02", "missing.parquet", stream.getvalue())
    cut = land(objects, "payments", "2026-01-02", "cut.parquet", stream.getvalue()[:-20])
    result = ingested(objects, missing, cut)["tables"]["payments"]
    assert (result["landed"], result["quarantined"]) == (1, 1)
    assert [refused["key"] for refused in result["refused_files"]] == [cut, missing]
    assert "not a readable Parquet file" in result["refused_files"][0]["reason"]


def test_a_critical_expectation_on_the_file_refuses_that_file() -> None:
    objects = MemoryStore()
    checks = {"payments": [gxe.ExpectTableRowCountToBeBetween(min_value=2, severity="critical")]}
    short = land(objects, "payments", "2026-01-01", "p.csv", payments("1,c,1,,2026-01-01,"))
    long = land(objects, "payments", "2026-01-02", "p.csv", payments("2,c,1,,2026-01-01,", "3,c,1,,2026-01-01,"))
    result = ingested(objects, short, long, checks=checks)["tables"]["payments"]
    assert result["refused_files"] == [{"key": short, "reason": "expect_table_row_count_to_be_between (min_value 2): observed 1"}]
    assert [row["payment"] for row in curated(objects, "payments")] == [2, 3]


def test_an_expectation_that_cannot_be_evaluated_stops_the_run_before_it_writes() -> None:
    objects = MemoryStore()
    key = land(objects, "payments", "2026-01-01", "p.csv", payments("1,c,1,,2026-01-01,"))
    with pytest.raises(JobError, match=r"no_such_column.*expectations\.py"):
        ingested(objects, key, checks={"payments": [gxe.ExpectColumnValuesToNotBeNull(column="no_such_column", severity="critical")]})
    assert objects.data() == {}


def test_warnings_are_counted() -> None:
    objects = MemoryStore()
    key = land(objects, "payments", "2026-01-02", "p.csv", payments("1,c,5000,,2026-01-01,", "2,c,1,,2026-01-01,"))
    result = ingested(objects, key)
    assert result["tables"]["payments"]["warnings"] == [
        {"expectation": "expect_column_values_to_be_between", "column": "amount", "unexpected": 1, "share": 0.5}
    ]
    page = objects.get(objects.key(result["data_docs"])).decode()
    assert "payments" in page


def test_the_year_is_part_of_the_source() -> None:
    objects = MemoryStore()
    key = land(objects, "payments", "2026-01-02", "p.csv", payments("1,c,1,,2026-01-01,"))
    ingested(objects, key, year=2026)
    assert curated(objects, "payments")[0]["source"].endswith("?year=2026")


def test_a_landed_file_that_changed_replaces_what_it_said() -> None:
    objects = MemoryStore()
    key = land(objects, "payments", "2026-01-02", "p.csv", payments("1,c,1,,2026-01-01,1", "x,c,1,,2026-01-01,1"))
    ingested(objects, key)
    later = land(objects, "payments", "2026-01-03", "p.csv", payments("1,c,1,,2026-01-01,1"))
    ingested(objects, later)
    land(objects, "payments", "2026-01-02", "p.csv", payments("2,c,1,,2026-01-01,"))
    ingested(objects, key)
    assert [(row["payment"], row["source"][:22]) for row in curated(objects, "payments")] == [(1, later[10:32]), (2, key[10:32])]
    assert quarantined(objects, "payments") == []
    assert [row["event_id"] for row in labels(objects)] == ["1"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"domain": "other", "files": [], "year": None},
        {"domain": "small", "files": None, "year": None},
        {"domain": "small", "files": [], "year": "2026"},
        {"domain": "small", "files": [{"key": "small/raw/nothing/dt=2026-01-01/a.csv"}], "year": None},
        {"domain": "small", "files": [{"key": "other/raw/payments/dt=2026-01-01/a.csv"}], "year": None},
        {"domain": "small", "files": [{"key": "small/raw/payments/dt=2026-13-01/a.csv"}], "year": None},
        {"domain": "small", "files": [{"key": "small/raw/payments/dt=2026-01-01/gone.csv"}], "year": None},
        {"domain": "small", "files": [{}], "year": None},
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(wrong: dict) -> None:
    objects = MemoryStore()
    with pytest.raises(JobError):
        ingest(DOMAIN, objects, wrong, {})
    assert objects.objects == {}
