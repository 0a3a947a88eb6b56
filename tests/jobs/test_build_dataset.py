from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import boto3
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from claims_store import LAYOUT, contents, copy_known_by, land, run, simulated

from include.jobs.context import JobError
from include.stores.objects import ObjectStore

FIRST_DAY = date(2026, 1, 1)
AS_OF = "2026-03-20T00:00:00Z"
INSTANT = datetime(2026, 3, 20, tzinfo=UTC)
MUCH_LATER = "2026-03-25T00:00:00Z"


@pytest.fixture(scope="module")
def history() -> list[tuple[str, date, pd.DataFrame]]:
    return simulated(days=80, events=3000, first_day=FIRST_DAY)


@pytest.fixture(scope="module")
def new_bucket(aws: str) -> Callable[[str], ObjectStore]:
    def make(name: str) -> ObjectStore:
        client = boto3.client("s3")
        client.create_bucket(Bucket=f"dataset-{name}", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        return ObjectStore(f"dataset-{name}", client)

    return make


@pytest.fixture(scope="module")
def store(new_bucket: Callable[[str], ObjectStore], history: list[tuple[str, date, pd.DataFrame]]) -> ObjectStore:
    objects = new_bucket("history")
    land(objects, history)
    return objects


def build(objects: ObjectStore, identity: str, as_of: str = AS_OF) -> tuple[dict, dict[str, bytes]]:
    result = run("build_dataset", objects, "--as-of", as_of, "--output", objects.uri(LAYOUT.dataset(identity)))
    return result, contents(objects, LAYOUT.dataset(identity))


def rows_of(files: dict[str, bytes], part: str) -> pa.Table:
    return pq.read_table(io.BytesIO(files[f"{part}.parquet"]))


def every_event(files: dict[str, bytes]) -> pd.DataFrame:
    return pa.concat_tables([rows_of(files, part) for part in ("train", "validation", "test")]).to_pandas().set_index("event_id")


def parquet(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: body for name, body in files.items() if name.endswith(".parquet")}


def test_parts_hold_matured_labelled_events_split_by_time(store: ObjectStore) -> None:
    result, files = build(store, "first")
    assert sorted(files) == ["dataset.json", "test.parquet", "train.parquet", "validation.parquet"]
    parts = {name: rows_of(files, name) for name in ("train", "validation", "test")}
    table = pa.concat_tables(parts.values()).to_pandas()

    ends = INSTANT - timedelta(days=30)
    assert table["event_time"].max() <= ends
    assert table["event_time"].max() > ends - timedelta(days=1), "the latest matured events are there"
    assert result["events"] == len(table) > 1000
    assert result["positives"] == table["label"].sum() > 30
    assert set(table["label"]) == {0, 1}
    bounds = [(part["event_time"].to_pylist()[0], part["event_time"].to_pylist()[-1]) for part in parts.values()]
    assert bounds[0][1] < bounds[1][0] <= bounds[1][1] < bounds[2][0]
    assert abs(len(parts["test"]) / len(table) - 0.2) < 0.01
    groups = [set(part["group_id"].to_pylist()) for part in parts.values()]
    assert not groups[0] & groups[1]
    assert not groups[1] & groups[2]
    assert not groups[0] & groups[2]

    described = json.loads(files["dataset.json"])
    for name, part in parts.items():
        assert described["parts"][name]["events"] == len(part)
        assert described["parts"][name]["positives"] == sum(part["label"].to_pylist())
        assert part.column_names == [
            "event_id",
            "event_time",
            "entity_id",
            "group_id",
            "amount",
            *described["facets"],
            *described["features"],
            "label",
        ]
        times = part.select(["event_time", "event_id"]).to_pylist()
        assert times == sorted(times, key=lambda row: (row["event_time"], row["event_id"]))
    lineage = described.pop("lineage")
    assert result == {**described, "uri": store.uri(LAYOUT.dataset("first"))}
    etags = {info.key: info.etag for info in store.list("auto_claims/")}
    assert lineage["partitions"]["claims"]["2026-02-10"] == etags["auto_claims/curated/claims/dt=2026-02-10/data.parquet"]
    assert set(lineage["partitions"]) == {"claims", "customers", "labels"}


def test_labels_are_those_that_were_decided(store: ObjectStore, history: list[tuple[str, date, pd.DataFrame]]) -> None:
    _, files = build(store, "labels")
    truth = {str(row.policy_id): row.label for table, _, rows in history if table == "labels" for row in rows.itertuples()}
    test = rows_of(files, "test").to_pylist()
    assert {row["event_id"]: row["label"] for row in test} == {row["event_id"]: truth[row["event_id"]] for row in test}


def test_again_gives_the_same_bytes(store: ObjectStore) -> None:
    assert build(store, "again")[1] == build(store, "and-again")[1]


def test_equals_the_data_set_of_the_store_truncated_at_the_instant(store: ObjectStore, new_bucket: Callable[[str], ObjectStore]) -> None:
    as_of = "2026-03-12T00:00:00Z"
    then = new_bucket("truncated")
    copy_known_by(store, then, datetime(2026, 3, 12, tzinfo=UTC))
    assert len(contents(then, "auto_claims/labels/")) < len(contents(store, "auto_claims/labels/")), "there is something to truncate"
    assert parquet(build(store, "today", as_of)[1]) == parquet(build(then, "then", as_of)[1])


def test_only_what_became_known_before_the_instant_matters(
    new_bucket: Callable[[str], ObjectStore], history: list[tuple[str, date, pd.DataFrame]]
) -> None:
    objects = new_bucket("corrections")
    land(objects, history)
    result, before = build(objects, "before")
    uncorrected = every_event(build(objects, "uncorrected", MUCH_LATER)[1])
    claims = next(rows for table, _, rows in history if table == "claims")
    in_test = rows_of(before, "test").to_pandas().set_index("event_id")
    wrong = claims[claims["policy_id"].astype(str).isin(in_test.index)].head(5)
    corrected = wrong.assign(num_witnesses=77)
    decided = INSTANT + timedelta(days=3)
    reversed_labels = pd.DataFrame({
        "policy_id": wrong["policy_id"],
        "label": [1 - in_test.loc[str(policy), "label"] for policy in wrong["policy_id"]],
        "decided_at": [decided.isoformat()] * 5,
    })
    late = INSTANT.date() + timedelta(days=3)
    customers = next(rows for table, _, rows in history if table == "customers")
    land(
        objects,
        [("claims", late, corrected), ("labels", late, reversed_labels), ("customers", late, customers.assign(customer_age=18))],
        "later.csv",
    )
    later_result, after = build(objects, "after")
    assert parquet(after) == parquet(before)
    assert {**later_result, "uri": None} == {**result, "uri": None}

    seen_later = every_event(build(objects, "seen-later", MUCH_LATER)[1])
    ids = wrong["policy_id"].astype(str)
    assert (seen_later.loc[ids, "label"] == 1 - uncorrected.loc[ids, "label"]).all(), "a corrected label counts once it is known"
    seen_later.loc[ids, "label"] = uncorrected.loc[ids, "label"]
    pd.testing.assert_frame_equal(seen_later, uncorrected)  # nothing else: the claims were scored before they were corrected


def test_too_little_truth(store: ObjectStore, bucket: ObjectStore) -> None:
    with pytest.raises(
        JobError, match=r"too little truth to train auto_claims: \d+ events with \d+ positives .* wants 1000 with 30 or more"
    ):
        build(store, "early", "2026-02-10T00:00:00Z")
    with pytest.raises(JobError, match="0 events with 0 positives"):
        build(bucket, "empty")
    assert not contents(bucket, LAYOUT.dataset("empty"))
    with pytest.raises(JobError, match="must end in /"):
        run("build_dataset", store, "--as-of", AS_OF, "--output", store.uri("x"))
