"""Train, validation and test: split by time, and no leakage group on both sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class TimeSplit:
    """``rows``: the indices of each part's rows, ascending. ``left_out``: how many rows each part gave up because their group occurs in a
    later part."""

    rows: dict[Part, npt.NDArray[np.int64]]
    left_out: dict[Part, int]


def split_by_time(event_time: pa.ChunkedArray, group_id: pa.ChunkedArray, validation_share: float, test_share: float) -> TimeSplit:
    """Cuts rows that are ordered by ``event_time`` into an earlier train, a later validation and a last test part.

    The shares are of events, not of the window's days: the parts that measure then have the number of events, and the confidence intervals
    the width, that the domain asked for, whether traffic grew or paused. Events of one instant stay together, on the later side of a cut.

    A leakage group (a customer, a policy) that occurs in a later part gives up its rows in the earlier ones. The other way round, dropping
    known groups from validation and test, would leave these without returning customers, and calibration, baselines and metrics are meant
    for events at natural prevalence.

    ``event_time``: timestamps, ascending, without nulls. ``group_id``: text of the same length, without nulls. ValueError otherwise.
    """
    times = np.asarray(pc.cast(event_time, pa.int64()))
    if len(times) != len(group_id) or event_time.null_count or group_id.null_count:
        raise ValueError("event_time and group_id want the same length and no nulls")
    if np.any(times[1:] < times[:-1]):
        raise ValueError("event_time must ascend")
    count = len(times)
    part = np.zeros(count, dtype=np.int64)
    for cut in (round(count * (1 - validation_share - test_share)), round(count * (1 - test_share))):
        if cut < count:
            part[np.searchsorted(times, times[cut], side="left") :] += 1
    groups = np.asarray(pc.dictionary_encode(group_id.combine_chunks()).indices)
    last_part = np.zeros(int(groups.max()) + 1 if count else 0, dtype=np.int64)
    np.maximum.at(last_part, groups, part)
    kept = part == last_part[groups]
    return TimeSplit(
        rows={name: np.flatnonzero(kept & (part == number)) for number, name in enumerate(PARTS)},
        left_out={name: int(np.count_nonzero(~kept & (part == number))) for number, name in enumerate(PARTS)},
    )
