"""What gateways decided, as they shipped it: the decisions of one experiment that are evidence.

A decision that was shipped twice, or made twice, is one: the first by ``decided_at`` stands. What a person overrode is no evidence.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from include.lifecycle.as_of import utc
from include.lifecycle.experiment import CHALLENGER, CHAMPION
from include.stores.layout import Layout
from include.stores.objects import ObjectStore

_AT_ONCE = 16
_NOT_READ = ("another_experiment", "overridden", "repeated")


class Decision(NamedTuple):
    inference_id: str
    decided_at: datetime
    event_time: datetime
    entity_id: str
    amount: float
    features: NDArray[np.float32]
    """Shape (features,), in the champion's order, NaN where missing."""
    assigned_challenger: bool
    share: float
    """The challenger's, of the entities, when it was decided."""
    wanted: bool
    """Whether the model that answered asked for a review."""


@dataclass(frozen=True)
class Decisions:
    """``kept``: one an event, in the order of event time and id. ``left_out``: why → how many lines: "damaged" (also a whole file that cannot be
    unpacked), "another_experiment", "overridden", "repeated"."""

    kept: list[Decision]
    left_out: Mapping[str, int]


def read_decisions(objects: ObjectStore, layout: Layout, experiment: str, features: int, since: date | None = None) -> Decisions:
    """The decisions of ``experiment`` about events with so many ``features``. ``since``: by the gateways' clocks, the first day whose files are
    read (None: all)."""
    first: dict[str, Decision] = {}
    left_out: Counter[str] = Counter({"damaged": 0, **dict.fromkeys(_NOT_READ, 0)})
    for line in _lines(objects, layout, since, left_out):
        try:
            content = json.loads(line)
            if content["experiment"] != experiment:
                left_out["another_experiment"] += 1
            elif content["override"]:
                left_out["overridden"] += 1
            else:
                found = _decision(content, features)
                present = first.get(found.inference_id)
                left_out["repeated"] += present is not None
                if present is None or found.decided_at < present.decided_at:
                    first[found.inference_id] = found
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            left_out["damaged"] += 1
    return Decisions(sorted(first.values(), key=lambda each: (each.event_time, each.inference_id)), dict(left_out))


def _lines(objects: ObjectStore, layout: Layout, since: date | None, left_out: Counter[str]) -> Iterator[bytes]:
    root = layout.shipped_decisions()
    keys = [info.key for info in objects.list(root) if since is None or info.key.removeprefix(root)[:10] >= since.isoformat()]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for start in range(0, len(keys), _AT_ONCE):  # no more in memory than these
            for body in pool.map(objects.get, keys[start : start + _AT_ONCE]):
                try:
                    content = gzip.decompress(body)
                except (OSError, EOFError, zlib.error):
                    left_out["damaged"] += 1
                    continue
                yield from (line for line in content.split(b"\n") if line.strip())


def _decision(content: Mapping[str, Any], features: int) -> Decision:
    """ValueError, KeyError or TypeError for what no gateway wrote."""
    with np.errstate(over="ignore"):  # what 32 bits do not hold becomes infinite, and is refused
        row = np.array([math.nan if value is None else float(value) for value in content["features"]], np.float32)
    amount, share = float(content["amount"]), float(content["share"])
    if row.shape != (features,) or np.isinf(row).any() or not math.isfinite(amount) or not 0 <= share <= 1:
        raise ValueError(f"features, amount or share of {content['inference_id']!r} make no sense")
    if content["assigned"] not in {CHAMPION, CHALLENGER}:
        raise ValueError(f"assigned to {content['assigned']!r}")
    return Decision(
        inference_id=_text(content["inference_id"]),
        decided_at=utc(_text(content["decided_at"])),
        event_time=utc(_text(content["event_time"])),
        entity_id=_text(content["entity_id"]),
        amount=amount,
        features=row,
        assigned_challenger=content["assigned"] == CHALLENGER,
        share=share,
        wanted=_truth(content["wanted"]),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"text expected, {value!r} found")
    value.encode()  # ValueError for half of a surrogate pair, which JSON can hold and UTF-8 cannot
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"true or false expected, {value!r} found")
    return value
