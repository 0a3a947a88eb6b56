"""Requests to a model and its answers: text and JSON in, rows of floats; scores and reasons in, text and JSON out.

Requests (``Content-Type``):

- ``text/csv``: one event a line, the features in the model's order, no header, an empty cell where a value is missing
- ``application/json``: ``{"instances": [{"feature": 1.5, …} or [1.5, null, …], …], "reasons": 3}``; null or an absent name is missing
- ``application/jsonlines``: one such instance a line

Answers (``Accept``; without one, or with ``*/*``, as the request): one score a line as ``text/csv``,
``{"predictions": [{"score": 0.02, "reasons": […]}]}`` as ``application/json``, one prediction a line as ``application/jsonlines``.
``reasons``, a number from 1 to the number of features, asks for that many features which moved the score most, with their contribution in
log-odds; it may also stand in the header X-Amzn-SageMaker-Custom-Attributes as ``reasons=3``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from include.jobs.model_file import Model
from include.lifecycle.explain import Reason, reasons

CSV, JSON, JSON_LINES = "text/csv", "application/json", "application/jsonlines"
CONTENT_TYPES = (CSV, JSON, JSON_LINES)
_LARGEST = float(np.finfo(np.float32).max)


class RequestError(Exception):
    """A request that cannot be answered. ``status``: the HTTP status; the message says what was wrong, and where."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Answer:
    content_type: str
    body: bytes


def answer(model: Model, body: bytes, content_type: str, accept: str = "", custom_attributes: str = "") -> Answer:
    """Scores what is in the body. RequestError for whatever is wrong with the request."""
    kind = media_type(content_type)
    if kind not in CONTENT_TYPES:
        raise RequestError(f"Content-Type {content_type!r} is not supported; send one of {', '.join(CONTENT_TYPES)}", 415)
    wanted = _wanted_type(accept, kind)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8: {error}") from error
    values, top_of_body = read_rows(text, kind, model.features)
    rows = values.astype(np.float32)
    top = top_of_body if top_of_body is not None else _reasons_asked(custom_attributes)
    if top is not None and not (isinstance(top, int) and not isinstance(top, bool) and 1 <= top <= len(model.features)):
        raise RequestError(f"reasons: {top!r} is not a whole number from 1 to {len(model.features)}, the number of features")
    if top is not None and wanted == CSV:
        raise RequestError(f"reasons do not fit into {CSV}; accept {JSON}")
    scores = model.scores(rows).tolist()
    if wanted == CSV:
        return Answer(CSV, "".join(f"{score:.9g}\n" for score in scores).encode())
    explained = None if top is None else reasons(model.features, rows, model.contributions(rows), top)
    predictions = [_prediction(score, None if explained is None else explained[row]) for row, score in enumerate(scores)]
    if wanted == JSON_LINES:
        return Answer(JSON_LINES, "".join(json.dumps(prediction) + "\n" for prediction in predictions).encode())
    return Answer(JSON, json.dumps({"predictions": predictions}).encode())


def read_rows(text: str, kind: str, features: Sequence[str]) -> tuple[NDArray[np.float64], Any]:
    """The events in a request's body, shape (events, features), NaN where a value is missing, every value within 32 bits' range; and the number
    of reasons that the body asks for, or None. ``kind``: one of CONTENT_TYPES. RequestError for whatever is wrong with the body."""
    if kind == CSV:
        return _rows_of_csv(text, len(features)), None
    instances, reasons_asked = _instances(text, kind)
    return _rows_of_instances(instances, features), reasons_asked


def read_scores(text: str, kind: str) -> list[float]:
    """The scores in an answer's body, as ``answer`` writes them. ValueError for anything else."""
    lines = [line for line in text.splitlines() if line.strip()]
    if kind == CSV:
        return [float(line) for line in lines]
    predictions = [json.loads(line) for line in lines] if kind == JSON_LINES else json.loads(text)["predictions"]
    return [float(prediction["score"]) for prediction in predictions]


def _prediction(score: float, explained: Sequence[Reason] | None) -> dict[str, Any]:
    prediction: dict[str, Any] = {"score": score}
    if explained is not None:
        prediction["reasons"] = [reason.as_json() for reason in explained]
    return prediction


def _rows_of_csv(text: str, columns: int) -> NDArray[np.float64]:
    lines = text.splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise RequestError("the body is empty: send one event a line")
    values: list[float] = []
    for number, line in enumerate(lines, 1):
        cells = line.split(",")
        if len(cells) != columns:
            raise RequestError(f"line {number} has {len(cells)} values, but the model has {columns} features")
        for column, cell in enumerate(cells, 1):
            stripped = cell.strip()
            values.append(_number_of_text(stripped, f"line {number}, value {column}") if stripped else math.nan)
    return np.array(values).reshape(len(lines), columns)


def _number_of_text(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise RequestError(f"{where}: {_shown(text)} is not a number") from None
    if "_" in text or math.isnan(value):
        raise RequestError(f"{where}: {_shown(text)} is not a number; leave a missing value empty")
    return _within_range(value, where)


def _instances(text: str, kind: str) -> tuple[list[Any], Any]:
    """The instances, and the number of reasons that the body asks for."""
    if not text.strip():
        raise RequestError("the body is empty: send at least one instance")
    if kind == JSON_LINES:
        return [_parse(line, f"line {number}: ") for number, line in enumerate(text.splitlines(), 1) if line.strip()], None
    content = _parse(text, "")
    if not isinstance(content, dict) or not isinstance(content.get("instances"), list) or not content["instances"]:
        raise RequestError('the body must be {"instances": […]} with at least one instance')
    if unknown := sorted(set(content) - {"instances", "reasons"}):
        raise RequestError(f"unknown members {', '.join(map(_shown, unknown))} beside instances and reasons")
    return content["instances"], content.get("reasons")


def _rows_of_instances(instances: list[Any], features: Sequence[str]) -> NDArray[np.float64]:
    places = {name: place for place, name in enumerate(features)}
    rows = np.full((len(instances), len(features)), np.nan)
    for number, instance in enumerate(instances, 1):
        if isinstance(instance, dict):
            if unknown := [name for name in instance if name not in places]:
                raise RequestError(f"instance {number}: the model has no feature {', '.join(map(_shown, unknown))}")
            values: Iterable[tuple[str, Any]] = instance.items()
        elif isinstance(instance, list):
            if len(instance) != len(features):
                raise RequestError(f"instance {number} has {len(instance)} values, but the model has {len(features)} features")
            values = zip(features, instance, strict=True)
        else:
            raise RequestError(f"instance {number} must be an object of features, or a list of their values in order")
        row = rows[number - 1]
        for name, value in values:
            if value is None:
                continue
            if type(value) not in {int, float}:
                raise RequestError(f"instance {number}, {name}: {_shown(value)} is not a number")
            row[places[name]] = _within_range(value, f"instance {number}, {name}")
    return rows


def _within_range(value: float, where: str) -> float:
    if not -_LARGEST <= value <= _LARGEST:  # NaN fails this too
        raise RequestError(f"{where}: {_shown(value)} is not a finite number of 32 bits")
    return float(value)


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{where}not JSON: {error}") from error


def _reasons_asked(custom_attributes: str) -> Any:
    for attribute in custom_attributes.replace(";", ",").split(","):
        name, _, value = attribute.partition("=")
        if name.strip() == "reasons":
            return int(value) if value.strip().isdecimal() else value.strip()
    return None


def _wanted_type(accept: str, request_type: str) -> str:
    types = [media_type(part) for part in accept.split(",") if part.strip()]
    for wanted in types or ["*/*"]:
        if wanted in CONTENT_TYPES:
            return wanted
        if wanted == "*/*":
            return request_type
    raise RequestError(f"Accept {accept!r} is not supported; accept one of {', '.join(CONTENT_TYPES)}", 406)


def media_type(header: str) -> str:
    """A Content-Type without its parameters, in lower case."""
    return header.partition(";")[0].strip().lower()


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
