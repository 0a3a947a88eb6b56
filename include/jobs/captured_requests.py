"""One line of a capture file: which event was asked about, when, with which features, and what the model answered.

A line that cannot be attributed to one event, or whose request or answer cannot be read, is refused with a reason, whatever its bytes are.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from include.jobs.invocations import CONTENT_TYPES, RequestError, media_type, read_rows, read_scores

NOT_JSON = "not JSON: the line is damaged or cut off"
NOT_CAPTURED = "not a captured request with its answer"
NO_INFERENCE_ID = "no inference id: nothing says which event was scored"
SEVERAL_EVENTS = "several events in one request: an inference id names one"
BAD_REQUEST = "the request's features cannot be read"
BAD_ANSWER = "the answer's score cannot be read"
BAD_EVENT_TIME = "event_time in the custom attributes is no instant with an offset"
EVENT_TIME = "event_time"
_ENCODINGS = {"CSV", "JSON", "BASE64"}
_SHOWN = 200


class LineRefused(ValueError):
    """A line that becomes no row. ``reason``: one of the above; ``key``: the inference id, where there is one."""

    def __init__(self, reason: str, detail: str = "", key: str | None = None) -> None:
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason, self.key = reason, key
        self.detail = detail[:_SHOWN].encode(errors="backslashreplace").decode()  # half of a surrogate pair is no text that can be stored


class ScoredRequest(NamedTuple):
    event_id: str
    event_time: datetime | None
    """As the caller sent it; None where it did not."""
    score: float
    values: NDArray[np.float64]
    """The features in the model's order, shape (features,), NaN where missing: as they were sent, in 64 bits."""
    inference_time: datetime
    capture_id: str
    """SageMaker's own id of the request: the same where a line was delivered twice, another where a caller asked again."""


def read_line(line: bytes, features: Sequence[str]) -> ScoredRequest:
    """LineRefused for everything that is no request about one event with one score."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise LineRefused(NOT_JSON, str(error)) from error
    try:
        event = content["eventMetadata"]
        capture_id, inference_time = _text(event["eventId"]), _instant(event["inferenceTime"])
        asked, answered = (_body(content["captureData"][side]) for side in ("endpointInput", "endpointOutput"))
        key = event.get("inferenceId")
        attributes = event.get("customAttributes") or []
        attributes = [_text(each) for each in ([attributes] if isinstance(attributes, str) else attributes)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LineRefused(NOT_CAPTURED, f"{type(error).__name__}: {error}") from error
    if not isinstance(key, str) or not key:
        raise LineRefused(NO_INFERENCE_ID)
    if not key.isascii():
        raise LineRefused(NO_INFERENCE_ID, f"not ASCII: {key!r}")
    rows, scores = _rows(*asked, features, key), _scores(*answered, key)
    if len(rows) != 1:
        raise LineRefused(SEVERAL_EVENTS, f"{len(rows)} events", key)
    if len(scores) != 1 or not math.isfinite(scores[0]):
        raise LineRefused(BAD_ANSWER, f"{len(scores)} scores: {scores[:3]}", key)
    return ScoredRequest(key, _event_time(attributes, key), scores[0], rows[0], inference_time, capture_id)


def _rows(text: str, kind: str, features: Sequence[str], key: str) -> NDArray[np.float64]:
    if kind not in CONTENT_TYPES:
        raise LineRefused(BAD_REQUEST, f"content type {kind!r}", key)
    try:
        return read_rows(text, kind, features)[0]
    except RequestError as error:
        raise LineRefused(BAD_REQUEST, str(error), key) from error


def _scores(text: str, kind: str, key: str) -> list[float]:
    if kind not in CONTENT_TYPES:
        raise LineRefused(BAD_ANSWER, f"content type {kind!r}", key)
    try:
        return read_scores(text, kind)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise LineRefused(BAD_ANSWER, f"{type(error).__name__}: {error}", key) from error


def _body(side: dict[str, Any]) -> tuple[str, str]:
    """The text of a side, and its media type."""
    data, encoding = _text(side["data"]), side["encoding"]
    if encoding not in _ENCODINGS:
        raise ValueError(f"encoding {encoding!r}")
    if encoding == "BASE64":
        try:
            data = base64.b64decode(data, validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise ValueError(f"not text: {error}") from error
    return data, media_type(_text(side["observedContentType"]))


def _event_time(attributes: Sequence[str], key: str) -> datetime | None:
    """``event_time=2026-03-01T10:00:00Z``, alone or among others (``reasons=3``), separated by commas or semicolons."""
    for attribute in ";".join(attributes).replace(",", ";").split(";"):
        name, _, value = attribute.partition("=")
        if name.strip() == EVENT_TIME:
            try:
                return _instant(value.strip())
            except ValueError as error:
                raise LineRefused(BAD_EVENT_TIME, value.strip(), key) from error
    return None


def _instant(text: str) -> datetime:
    value = datetime.fromisoformat(text)
    if value.tzinfo is None:
        raise ValueError(f"{text!r} has no UTC offset")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{text!r} lies outside of time") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, {type(value).__name__} found")
    value.encode()  # UnicodeEncodeError, a ValueError, for half of a surrogate pair, which JSON can hold and UTF-8 cannot
    return value
