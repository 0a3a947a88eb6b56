"""Capture files as SageMaker writes them, made by hand: for tests of what reads them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from claims_store import LAYOUT

from include.stores.captures import ServedModel, put_served_models
from include.stores.objects import ObjectStore

NOON = datetime(2026, 4, 2, 12, tzinfo=UTC)
PACKAGE = "arn:aws:sagemaker:us-east-1:000000000000:model-package/auto-claims/1"


def line(
    values: Sequence[float | None],
    event_id: str | None = "P1",
    score: float = 0.25,
    *,
    attributes: str | None = "event_time=2026-04-02T10:00:00Z",
    asked: datetime = NOON,
    capture_id: str = "",
    **changes: Any,
) -> bytes:
    """One captured request in CSV. ``changes``: members of endpointInput (``input``) and endpointOutput (``output``) put in the place of these."""
    body = ",".join("" if value is None else repr(value) for value in values)
    event: dict[str, Any] = {"eventId": capture_id or str(uuid.uuid4()), "inferenceTime": f"{asked:%Y-%m-%dT%H:%M:%SZ}"}
    if event_id is not None:
        event["inferenceId"] = event_id
    if attributes is not None:
        event["customAttributes"] = [attributes]
    sides = {
        "endpointInput": {"observedContentType": "text/csv", "mode": "INPUT", "data": body, "encoding": "CSV"} | changes.get("input", {}),
        "endpointOutput": {"observedContentType": "text/csv", "mode": "OUTPUT", "data": f"{score!r}\n", "encoding": "CSV"}
        | changes.get("output", {}),
    }
    return json.dumps({"captureData": sides, "eventMetadata": event, "eventVersion": "0"}).encode()


def put_file(
    objects: ObjectStore,
    lines: Iterable[bytes],
    name: str = "00-00-000-a",
    *,
    hour: datetime = NOON,
    variant: str = "champion",
    configuration: str = "c1",
    end: bytes = b"\n",
) -> str:
    """Puts one capture file, and returns its key. ``end``: of the last line."""
    key = f"{LAYOUT.captured(configuration)}/endpoint/{variant}/{hour:%Y/%m/%d/%H}/{name}.jsonl"
    objects.put(key, b"\n".join(lines) + end)
    return key


def serve(objects: ObjectStore, model_key: str, configuration: str = "c1", variants: Iterable[str] = ("champion",)) -> None:
    """Says that the variants serve the model under ``model_key``."""
    model = ServedModel(PACKAGE, objects.uri(model_key))
    put_served_models(objects, LAYOUT.captured(configuration), dict.fromkeys(variants, model))


def seconds(number: int) -> datetime:
    return NOON + timedelta(seconds=number)
