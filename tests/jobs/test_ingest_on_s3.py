"""``ingest`` as it runs: a process of its own, against a real S3; killed in the middle, and on the real 5,000 claims."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include import domains
from include.jobs.ingest import ingest
from include.stores.objects import ObjectStore
from include.stores.partitions import Partitions

ROOT = Path(__file__).parents[2]
REFERENCE_DATA = Path(os.environ.get("FRAUD_REFERENCE_DATA", ROOT.parent / "shared" / "data"))
REFERENCE = REFERENCE_DATA / "auto_claims"
PUBLISHED = REFERENCE_DATA / "card_payments" / "transactions_2018-04-01_2018-09-04.parquet"
needs_reference_data = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference claims are not here (FRAUD_REFERENCE_DATA)")
RAW = "auto_claims/raw"
DERIVED = ("auto_claims/curated/", "auto_claims/labels/", "auto_claims/quarantine/")


def job(bucket: ObjectStore, manifest: dict) -> subprocess.Popen[str]:
    bucket.put_json("manifest.json", manifest)
    command = [sys.executable, "-m", "include.jobs", "ingest", "--domain", "auto_claims"]
    command += ["--manifest", bucket.uri("manifest.json"), "--result", bucket.uri("result.json")]
    environment = {**os.environ, "FRAUD_BUCKET": bucket.bucket, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def derived(bucket: ObjectStore) -> dict[str, str]:
    return {info.key: info.etag for prefix in DERIVED for info in bucket.list(prefix)}


@needs_reference_data
def test_the_real_claims_are_all_there_again_after_a_kill(bucket: ObjectStore) -> None:
    keys = []
    for table in ("claims", "customers"):
        keys.append(f"{RAW}/{table}/dt=2026-01-01/{table}.csv")
        bucket.put(keys[-1], (REFERENCE / f"{table}.csv").read_bytes())
    manifest = {"domain": "auto_claims", "year": 2025, "files": [{"key": key} for key in keys]}

    killed = job(bucket, manifest)
    while killed.poll() is None and len(derived(bucket)) < 20:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert bucket.exists("auto_claims/curated/unfinished_ingest.json")

    output = finished(job(bucket, manifest))
    assert "claims/dt=2026-01-01/claims.csv: 5000 landed, 5000 curated, 0 quarantined" in output
    result = bucket.get_json("result.json")
    assert {name: (counts["landed"], counts["curated"], counts["quarantined"]) for name, counts in result["tables"].items()} == {
        "claims": (5000, 5000, 0),
        "customers": (5000, 5000, 0),
        "labels": (0, 0, 0),
    }
    warnings = {(warning["expectation"], warning["unexpected"]) for warning in result["tables"]["claims"]["warnings"]}
    assert ("no injury_claim where num_injuries is 0", 3371) in warnings
    assert result["event_days"] == ["2025-01-01", "2025-12-31"]
    assert not bucket.exists("auto_claims/curated/unfinished_ingest.json")
    assert bucket.exists(bucket.key(result["data_docs"]))
    claims = Partitions(bucket, "auto_claims/curated/claims")
    rows = [row for day in claims for row in claims.read(day).to_pylist()]
    assert sorted(row["policy_id"] for row in rows) == list(range(1, 5001))
    assert {row["authorities_contacted"] for row in rows} == {"Police", "Ambulance", "Fire", "None"}
    assert "fraud" not in rows[0]
    labels = Partitions(bucket, "auto_claims/labels")
    assert sum(row["label"] for day in labels for row in labels.read(day).to_pylist()) == 164

    before = derived(bucket)
    finished(job(bucket, manifest))
    assert derived(bucket) == before


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published card payments are not here (FRAUD_REFERENCE_DATA)")
def test_the_published_card_payments_land_with_their_own_column_names(bucket: ObjectStore) -> None:
    """Two of its days, otherwise as published: typed columns, names in upper case, labels inline, a column that nobody declared."""
    rows = pq.read_table(PUBLISHED, filters=[("TX_DATETIME", "<", datetime.fromisoformat("2018-04-03"))])
    stream = pa.BufferOutputStream()
    pq.write_table(rows, stream)
    key = bucket.key(bucket.put(f"card_payments/raw/transactions/dt=2018-04-02/{PUBLISHED.name}", stream.getvalue().to_pybytes()))
    result = ingest(domains.get("card_payments"), bucket, {"domain": "card_payments", "year": None, "files": [{"key": key}]}, {})
    found = result["tables"]["transactions"]
    assert (found["landed"], found["curated"], found["reasons"], found["refused_files"]) == (rows.num_rows, rows.num_rows, {}, [])
    assert found["warnings"] == [
        {"expectation": "declared_columns", "column": "TX_FRAUD_SCENARIO", "unexpected": rows.num_rows, "share": 1.0},
    ]
    kept = pa.concat_tables([Partitions(bucket, "card_payments/curated/transactions").read(date(2018, 4, day)) for day in (1, 2)])
    names = ("TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT")
    assert [sorted(kept[name.lower()].to_pylist()) for name in names if name != "TX_DATETIME"] == [
        sorted(rows[name].cast(pa.float64() if name == "TX_AMOUNT" else pa.int64()).to_pylist()) for name in names if name != "TX_DATETIME"
    ]
    by_id = {row["TRANSACTION_ID"]: row for row in rows.to_pylist()}
    assert all(row["tx_datetime"].replace(tzinfo=None) == by_id[row["transaction_id"]]["TX_DATETIME"] for row in kept.to_pylist())
    labels = [row for day in (1, 2) for row in Partitions(bucket, "card_payments/labels").read(date(2018, 4, day)).to_pylist()]
    assert {int(row["event_id"]): row["label"] for row in labels} == {number: row["TX_FRAUD"] for number, row in by_id.items()}
    assert result["stale_features"] == [["2018-04-01", "2018-05-10"]], "and the 38 days after, which look back"


def test_damaged_files_end_in_a_result_and_not_in_a_traceback(bucket: ObjectStore) -> None:
    key = f"{RAW}/claims/dt=2026-01-01/claims.csv"
    bucket.put(key, b"\xff\xfe" + b"\0" * 100)
    output = finished(job(bucket, {"domain": "auto_claims", "year": None, "files": [{"key": key}]}))
    assert "Traceback" not in output
    assert bucket.get_json("result.json")["tables"]["claims"]["refused_files"][0]["key"] == key


def test_a_wrong_manifest_is_refused_with_a_reason(bucket: ObjectStore) -> None:
    process = job(bucket, {"domain": "auto_claims", "year": None, "files": [{"key": f"{RAW}/claims/dt=2026-01-01/gone.csv"}]})
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "gone.csv is not there" in output
    assert "Traceback" not in output
    assert not bucket.exists("result.json")
    assert json.dumps(derived(bucket)) == "{}"
