"""Capture files are found by their keys, and a configuration says which models it serves."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from include.stores.captures import Captures, ServedModel, put_served_models
from include.stores.layout import Layout
from include.stores.objects import ObjectStore

LAYOUT = Layout("d")


def test_files_are_found_in_the_order_of_their_hours(bucket: ObjectStore) -> None:
    def put(path: str) -> str:
        bucket.put(f"d/captured/{path}", b"12345")
        return f"d/captured/{path}"

    late = put("a/endpoint/champion/2026/03/02/07/00-00-000-x.jsonl")
    early = put("z/endpoint/shadow-1/2026/03/01/23/59-59-999-y.jsonl")
    for other in (
        "a/variants.json",
        "a/endpoint/champion/2026/03/02/07/x.json",
        "a/endpoint/champion/2026/02/31/07/x.jsonl",
        "a/endpoint/champion/2026/03/02/24/x.jsonl",
        "a/endpoint/2026/03/02/07/x.jsonl",
        "x.jsonl",
    ):
        put(other)
    bucket.put("d2/captured/a/endpoint/champion/2026/03/02/07/x.jsonl", b"")
    assert [file.key for file in Captures(bucket, LAYOUT).files("a")] == [late]
    assert Captures(bucket, LAYOUT).files("nowhere") == []
    first, second = Captures(bucket, LAYOUT).files()
    assert (first.key, second.key) == (early, late)
    assert (first.configuration, first.variant, first.hour) == ("z", "shadow-1", datetime(2026, 3, 1, 23, tzinfo=UTC))
    assert (second.size, second.day.isoformat(), second.path) == (5, "2026-03-02", "a/endpoint/champion/07/00-00-000-x.jsonl")


def test_what_a_configuration_serves(bucket: ObjectStore) -> None:
    captures = Captures(bucket, LAYOUT)
    assert captures.served_models("c") is None
    served = {"champion": ServedModel("arn:1", "s3://b/1"), "challenger": ServedModel("arn:2", "s3://b/2")}
    uri = put_served_models(bucket, LAYOUT.captured("c"), served)
    assert uri == bucket.uri("d/captured/c/variants.json")
    assert captures.served_models("c") == served
    first = bucket.get(bucket.key(uri))
    put_served_models(bucket, LAYOUT.captured("c"), dict(reversed(served.items())))
    assert bucket.get(bucket.key(uri)) == first
    for content in (b"", b"[]", b'{"champion": {"model": "s3://b/1"}}', b'{"champion": {"model": "m", "model_package": "p", "more": 1}}'):
        bucket.put(bucket.key(uri), content)
        with pytest.raises(ValueError, match=r"c/variants\.json is not"):
            captures.served_models("c")
