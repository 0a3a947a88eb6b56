"""Against a real S3: what the stores promise about whole objects and whole partitions."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from include.stores.objects import ObjectNotFoundError, ObjectStore, split_uri
from include.stores.partitions import Partitions


def test_an_object_comes_back_as_it_was_put(bucket: ObjectStore, tmp_path: Path) -> None:
    assert bucket.put("a/ü b.bin", b"\x00\xff") == f"s3://{bucket.bucket}/a/ü b.bin"
    assert bucket.get("a/ü b.bin") == b"\x00\xff"
    assert bucket.exists("a/ü b.bin")
    assert bucket.download("a/ü b.bin", tmp_path / "deep" / "file").read_bytes() == b"\x00\xff"
    bucket.upload(tmp_path / "deep" / "file", "b")
    assert [info.key for info in bucket.list("")] == ["a/ü b.bin", "b"]
    bucket.delete("b")
    bucket.delete("b")
    assert not bucket.exists("b")


def test_a_missing_object_is_named(bucket: ObjectStore) -> None:
    with pytest.raises(ObjectNotFoundError, match="nowhere"):
        bucket.get("nowhere")


def test_more_objects_than_a_page_are_listed_in_order(bucket: ObjectStore) -> None:
    keys = [f"k/{number:04d}" for number in range(1005)]
    for key in keys:
        bucket.put(key, b"")
    assert [info.key for info in bucket.list("k/")] == keys


def test_equal_values_are_equal_json(bucket: ObjectStore) -> None:
    bucket.put_json("a", {"b": 1, "a": [None, "ü"]})
    bucket.put_json("b", {"a": [None, "ü"], "b": 1})
    assert bucket.get("a") == bucket.get("b")
    assert bucket.get_json("a") == {"a": [None, "ü"], "b": 1}
    with pytest.raises(ValueError, match="JSON"):
        bucket.put_json("c", float("nan"))


@pytest.mark.parametrize("uri", ["http://bucket/key", "s3:///key", "bucket/key"])
def test_only_s3_uris_are_split(uri: str) -> None:
    with pytest.raises(ValueError, match="not an S3 URI"):
        split_uri(uri)


def test_the_key_of_another_bucket_is_refused(bucket: ObjectStore) -> None:
    assert bucket.key(bucket.uri("a/b")) == "a/b"
    with pytest.raises(ValueError, match="outside the bucket"):
        bucket.key("s3://elsewhere/a")


def test_partitions_are_whole_days(bucket: ObjectStore, tmp_path: Path) -> None:
    partitions = Partitions(bucket, "d/curated/t/")
    days = [date(2026, 1, day) for day in (3, 1, 2)]
    partitions.write_all((day, pa.table({"a": [day.day]})) for day in days)
    bucket.put("d/curated/t/dt=2026-01-09/other.parquet", b"not a partition")
    assert list(partitions) == sorted(days)
    assert partitions.versions(date(2026, 1, 2), date(2026, 1, 2)).keys() == {date(2026, 1, 2)}
    assert partitions.read(date(2026, 1, 3)).to_pydict() == {"a": [3]}
    assert partitions.read(date(2026, 2, 1)) is None
    paths = partitions.download(tmp_path, first=date(2026, 1, 2))
    assert [path.name for path in paths] == ["dt=2026-01-02.parquet", "dt=2026-01-03.parquet"]

    before = partitions.versions()
    partitions.write(date(2026, 1, 1), pa.table({"a": [1]}))
    assert partitions.versions() == before
    partitions.write(date(2026, 1, 1), pa.table({"a": [2]}))
    assert partitions.versions() != before
    partitions.delete(date(2026, 1, 1))
    assert date(2026, 1, 1) not in partitions.versions()
