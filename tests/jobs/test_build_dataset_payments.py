"""The data set of a domain whose labels come late, whose frauds alone are reported, and whose defrauded cards are blocked."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import boto3
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from include import domains
from include.jobs import build_dataset
from include.jobs.context import JobContext, JobError
from include.jobs.ingest import ingest
from include.lifecycle.domain import TrainingWindow
from include.stores.layout import Layout
from include.stores.objects import ObjectStore
from include.stores.partitions import Partitions

PARTS = ("train", "validation", "test")
LAYOUT = Layout("card_payments")
FIRST_DAY = date(2026, 1, 1)
DAYS = 48
DAY = timedelta(days=1)
WINDOW = TrainingWindow(
    window=28 * DAY,
    validation=6 * DAY,
    test=5 * DAY,
    test_delay=7 * DAY,
    groups="known_fraud_removed",
    minimum_events=500,
    minimum_positives=20,
)
DOMAIN = replace(domains.get("card_payments"), training=WINDOW)
AS_OF = datetime(2026, 2, 14, tzinfo=UTC)
END = AS_OF - 7 * DAY
START = END - 28 * DAY


def payments() -> pd.DataFrame:
    """40 a day of 60 customers, most frauds among twelve of them."""
    generator = np.random.default_rng(3)
    rows = 40 * DAYS
    seconds = np.sort(generator.integers(0, DAYS * 86_400, rows))
    customer = generator.integers(0, 60, rows)
    fraud = generator.random(rows) < np.where(customer < 12, 0.12, 0.02)
    time = pd.Timestamp(FIRST_DAY, tz="UTC") + pd.to_timedelta(seconds, unit="s")
    delay = np.where(generator.random(rows) < 0.2, 20, 5)  # days until the chargeback: some come too late
    return pd.DataFrame({
        "transaction_id": np.arange(rows), "tx_datetime": time, "customer_id": customer, "terminal_id": generator.integers(0, 30, rows),
        "tx_amount": np.round(generator.gamma(2.0, 30.0, rows) + fraud * 100, 2), "fraud": fraud,
        "decided_at": time + pd.to_timedelta(delay, unit="D"),
    })  # fmt: skip


def land(objects: ObjectStore, rows: pd.DataFrame, withdrawn: pd.DataFrame) -> None:
    """Each day's payments, without a label, and each day's chargebacks, as two tables' deliveries."""
    manifest: dict[str, Any] = {"domain": DOMAIN.name, "year": None, "files": []}

    def deliver(table: str, day: date, content: pd.DataFrame) -> None:
        key = LAYOUT.landing(table, day, "file.csv")
        objects.put(key, content.to_csv(index=False, date_format="%Y-%m-%dT%H:%M:%SZ").encode())
        manifest["files"].append({"table": table, "key": key})

    live = rows.drop(columns=["fraud", "decided_at"]).assign(tx_fraud=None)
    for day, content in live.groupby(live["tx_datetime"].dt.date):
        deliver("transactions", day, content)
    reported = rows[rows["fraud"]].assign(label=1)
    labels = pd.concat([reported[["transaction_id", "label", "decided_at"]], withdrawn])
    for day, content in labels.groupby(labels["decided_at"].dt.date):
        deliver("labels", day, content)
    ingest(DOMAIN, objects, manifest, {})


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return payments()


@pytest.fixture(scope="module")
def withdrawn(rows: pd.DataFrame) -> pd.DataFrame:
    """The reports of a few training events, taken back ten days after they were made, when cards had been blocked for them."""
    early = rows[rows["fraud"] & rows["tx_datetime"].between(START, START + 8 * DAY) & (rows["decided_at"] < START + 14 * DAY)]
    assert len(early) >= 3
    return early.assign(label=0, decided_at=early["decided_at"] + pd.Timedelta(days=10))[["transaction_id", "label", "decided_at"]]


@pytest.fixture(scope="module")
def new_bucket(aws: str) -> Callable[[str], ObjectStore]:
    def make(name: str) -> ObjectStore:
        client = boto3.client("s3")
        client.create_bucket(Bucket=f"payments-{name}", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        return ObjectStore(f"payments-{name}", client)

    return make


@pytest.fixture(scope="module")
def store(new_bucket: Callable[[str], ObjectStore], rows: pd.DataFrame, withdrawn: pd.DataFrame) -> ObjectStore:
    objects = new_bucket("history")
    land(objects, rows, withdrawn)
    return objects


def build(
    objects: ObjectStore, identity: str, as_of: datetime = AS_OF, training: TrainingWindow = WINDOW
) -> tuple[dict, dict[str, pa.Table]]:
    parser = argparse.ArgumentParser()
    build_dataset.add_arguments(parser)
    context = JobContext(replace(DOMAIN, training=training))
    context.__dict__["objects"] = objects  # what the cached property would make of FRAUD_BUCKET
    folder = LAYOUT.dataset(identity)
    result = build_dataset.run(parser.parse_args(["--as-of", as_of.isoformat(), "--output", objects.uri(folder)]), context)
    return result, {part: pq.read_table(io.BytesIO(objects.get(f"{folder}{part}.parquet"))) for part in PARTS}


def expected(rows: pd.DataFrame, withdrawn: pd.DataFrame, as_of: datetime) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """By the rules' words, event by event: part → event → label; and what was left out of each part's time."""
    taken_back = dict(zip(withdrawn["transaction_id"], withdrawn["decided_at"], strict=True))
    end = as_of - 7 * DAY
    test_from, start = end - 5 * DAY, end - 28 * DAY
    inside = rows[(rows["tx_datetime"] > start) & (rows["tx_datetime"] <= end)]

    def known_fraud(row: Any, instant: datetime) -> bool:
        return (
            row.fraud and row.decided_at <= instant and not (row.transaction_id in taken_back and taken_back[row.transaction_id] <= instant)
        )

    frauds = [row for row in inside.itertuples() if row.fraud]
    parts: dict[str, dict[str, int]] = {part: {} for part in PARTS}
    left_out = dict.fromkeys((*PARTS, "delay"), 0)
    for row in inside.itertuples():
        time = row.tx_datetime
        if time > test_from:
            part = "test"
        elif time > test_from - 7 * DAY:
            left_out["delay"] += 1
            continue
        else:
            part = "validation" if time > test_from - 13 * DAY else "train"
        midnight = time.normalize()
        if part != "train" and any(other.customer_id == row.customer_id and known_fraud(other, midnight) for other in frauds):
            left_out[part] += 1
        else:
            parts[part][str(row.transaction_id)] = int(known_fraud(row, as_of))
    return parts, left_out


@pytest.mark.parametrize("as_of", [AS_OF, AS_OF + 2 * DAY])
def test_every_event_is_where_the_rules_put_it(store: ObjectStore, rows: pd.DataFrame, withdrawn: pd.DataFrame, as_of: datetime) -> None:
    result, parts = build(store, f"rules-{as_of:%d}", as_of)
    wanted, left_out = expected(rows, withdrawn, as_of)
    found = {part: dict(zip(*(table[name].to_pylist() for name in ("event_id", "label")), strict=True)) for part, table in parts.items()}
    assert found == wanted
    assert {part: result["parts"][part]["left_out_for_leakage"] for part in PARTS} | {"delay": result["left_out_in_test_delay"]} == left_out
    assert left_out["test"] > 10
    assert left_out["train"] == 0
    assert left_out["delay"] > 100
    assert result["parts"]["test"]["positives"] == sum(wanted["test"].values()) > 0


def test_a_report_counts_from_the_instant_it_is_known(store: ObjectStore, rows: pd.DataFrame) -> None:
    """A chargeback after twenty days: genuine in a data set of the time before, fraud in one of the time after."""
    labels = []
    for instant in (AS_OF, AS_OF + 8 * DAY):
        parts = build(store, f"reports-{instant:%d}", instant, replace(WINDOW, test_delay=timedelta(0)))[1].values()
        labels.append(pa.concat_tables(parts).to_pandas().set_index("event_id")["label"])
    between = rows[rows["fraud"] & (rows["decided_at"] > AS_OF) & (rows["decided_at"] <= AS_OF + 8 * DAY)]
    both = [str(number) for number in between["transaction_id"] if all(str(number) in known.index for known in labels)]
    assert len(both) > 1
    assert [set(known[both]) for known in labels] == [{0}, {1}]


def test_parts_keep_their_schema(store: ObjectStore) -> None:
    result, parts = build(store, "schema")
    for table in parts.values():
        assert table.schema.names == ["event_id", "event_time", "entity_id", "group_id", "amount", *result["features"], "label"]
        assert table.schema.field("event_time").type == pa.timestamp("us", "UTC")
        assert table.schema.field("label").type == pa.int8()
        assert {table.schema.field(name).type for name in ("amount", *result["features"])} == {pa.float64()}
        times = table.select(["event_time", "event_id"]).to_pylist()
        assert times == sorted(times, key=lambda row: (row["event_time"], row["event_id"]))


def test_the_same_bytes_again_and_from_a_store_that_knows_no_more(
    store: ObjectStore, new_bucket: Callable[[str], ObjectStore], rows: pd.DataFrame
) -> None:
    then = new_bucket("truncated")
    lost = 0
    for prefix in (LAYOUT.curated("transactions"), LAYOUT.labels):
        for info in store.list(f"{prefix}/dt="):
            table = pq.read_table(io.BytesIO(store.get(info.key)))
            known = table.filter(pc.less_equal(table["available_at"], AS_OF))
            lost += len(table) - len(known)
            if len(known):
                Partitions(then, prefix).write(date.fromisoformat(info.key.split("dt=")[1][:10]), known)
    assert lost > 100
    for objects, identity in ((store, "one"), (store, "same"), (then, "known")):
        build(objects, identity)
    for part in PARTS:
        bodies = {
            objects.get(f"{LAYOUT.dataset(identity)}{part}.parquet")
            for objects, identity in ((store, "one"), (store, "same"), (then, "known"))
        }
        assert len(bodies) == 1, part


def test_what_was_left_out_is_written_down(store: ObjectStore, rows: pd.DataFrame) -> None:
    result, _ = build(store, "described")
    described = json.loads(store.get(f"{LAYOUT.dataset('described')}dataset.json"))
    described.pop("lineage")
    assert {**described, "uri": result["uri"]} == result
    inside = rows[rows["tx_datetime"].between(START, END)]
    silent = inside[~(inside["fraud"] & (inside["decided_at"] <= AS_OF))]
    assert described["matured_without_label"] == len(silent)
    assert described["without_label"] == "genuine"
    parts = described["parts"].values()
    assert sum(part["events"] + part["left_out_for_leakage"] for part in parts) + described["left_out_in_test_delay"] == len(inside)


def test_too_little_truth_names_what_was_left_out(store: ObjectStore) -> None:
    with pytest.raises(
        JobError, match=r"too little truth .* more left out: their customer_id had a known fraud before; and \d+ in the 7 days"
    ):
        build(store, "little", training=replace(WINDOW, minimum_events=10**6))
