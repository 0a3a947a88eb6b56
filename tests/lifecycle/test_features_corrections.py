"""Time rule 4: a feature of an event uses only what was available at that event. A correction that came later is not among it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transfers import DOMAIN, SQL, account, at, label, transfer, write

from include.lifecycle.as_of import Days
from include.lifecycle.features import compute_features, open_database

JANUARY = Days(date(2026, 1, 1), date(2026, 1, 31))


def compute(tables: dict[str, Iterable[dict[str, Any]]], as_of: float, days: Days = JANUARY, fetched: Days = JANUARY) -> pa.Table:
    """``fetched``: of the event tables, only these days' partitions are there, as in ``build-features``."""
    with tempfile.TemporaryDirectory() as folder, open_database(Path(folder) / "spill") as connection:
        files = write(Path(folder), tables)
        for name in files.keys() - {"accounts"}:
            files[name] = [path for path in files[name] if date.fromisoformat(path.stem.removeprefix("dt=")) in fetched]
        return compute_features(connection, DOMAIN, SQL, files, at(as_of), days.first, days.last)


def rows(table: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["event_id"]: row for row in table.to_pylist()}


def test_a_correction_after_the_first_version_changes_no_feature() -> None:
    claimed = [transfer(1, 1.0, money=900, known=4), transfer(2, 2.0, money=50)]
    after_the_investigation = transfer(1, 1.0, "nobody", money=0, known=20)
    labels = [label(1, 1.0, 1, known=20)]
    scored = compute({"transfers": claimed, "labels": labels}, 4)
    assert rows(scored)["1"]["amount"] == 900
    for as_of in (4, 19.9, 20, 25, 400):
        assert compute({"transfers": [*claimed, after_the_investigation], "labels": labels}, as_of).equals(scored)


def test_it_changes_no_feature_of_later_events_of_the_same_history_either() -> None:
    transfers = [transfer(1, 1.0, money=10), transfer(2, 3.0, money=5)]
    corrected = [*transfers, transfer(1, 1.0, money=7, known=2)]
    assert rows(compute({"transfers": corrected}, 9))["2"]["money_3d"] == 15
    assert compute({"transfers": corrected}, 9).equals(compute({"transfers": transfers}, 9))


def test_what_was_mended_before_the_event_became_known_counts() -> None:
    """Claims land before the instant from which they count as known: what was scored then is the mended row."""
    typed_wrong, mended = transfer(1, 1.0, money=9000, known=4), transfer(1, 1.0, money=900, known=4)
    versions = [{**typed_wrong, "delivered_at": at(2)}, {**mended, "delivered_at": at(3)}, transfer(1, 1.0, money=0, known=4.001)]
    for as_of in (4, 30):
        assert rows(compute({"transfers": versions}, as_of))["1"]["amount"] == 900
    assert compute({"transfers": versions}, 3.9).num_rows == 0


def test_labels_and_reference_tables_keep_their_corrections() -> None:
    tables = {
        "transfers": [transfer(1, 1.0), transfer(2, 6.0), transfer(3, 9.0)],
        "accounts": [account("x", 1), account("x", 2, known=5)],
        "labels": [label(1, 1.0, 1, known=3), label(1, 1.0, 0, known=8)],
    }
    found = rows(compute(tables, 30))
    assert [found[event]["risk"] for event in "123"] == [1, 2, 2]
    assert [found[event]["known_frauds"] for event in "123"] == [0, 1, 0]


@pytest.mark.parametrize("day", [2, 7])
def test_an_event_that_a_correction_moved_stays_on_the_day_on_which_it_was_scored(day: int) -> None:
    tables = {"transfers": [transfer(1, 1.0), transfer(1, 6.0, known=9)], "labels": [label(1, 1.0, 1, known=4)]}
    wanted = Days(date(2026, 1, day), date(2026, 1, day))
    for as_of in (8, 9):
        assert compute(tables, as_of, wanted, fetched=wanted).num_rows == (1 if day == 2 else 0)


moments = st.integers(0, 40).map(lambda quarter: quarter / 4)
versions = st.lists(st.tuples(st.integers(1, 6), moments, st.sampled_from("xy"), st.floats(0.01, 1e6), moments), max_size=20).map(
    lambda found: [transfer(i, days, a, m, known=days + lag, source=f"f{n:02}") for n, (i, days, a, m, lag) in enumerate(found)]
)


@settings(max_examples=25, deadline=None)
@given(transfers=versions, as_of=moments)
def test_corrections_known_by_any_later_instant_leave_a_data_set_as_it_was(transfers: list[dict[str, Any]], as_of: float) -> None:
    first = {row["transfer_id"]: row["available_at"] for row in sorted(transfers, key=lambda row: row["available_at"], reverse=True)}
    uncorrected = [row for row in transfers if row["available_at"] == first[row["transfer_id"]]]
    assert compute({"transfers": transfers}, as_of).equals(compute({"transfers": uncorrected}, as_of))
