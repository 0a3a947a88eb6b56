"""Data quality of two profiles: what is found, how large it is, and that chance alone finds nothing more often than it may."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest

from include.lifecycle.data_quality import Check, data_quality, labels, structure, without_day
from include.lifecycle.domain import Monitoring
from include.lifecycle.profile import Counter, Profile, Schema

POLICY = Monitoring()


def table(rows: int, seed: int, missing: float = 0.0) -> pa.Table:
    generator = np.random.default_rng(seed)
    amount = np.exp(generator.normal(size=rows))
    return pa.table({
        "amount": pa.array(amount, mask=generator.random(rows) < missing),
        "count": generator.integers(1, 6, rows),
        "country": np.array(["DE", "FR", "ES"])[generator.choice(3, rows, p=[0.6, 0.3, 0.1])],
    })  # fmt: skip


def days_of(rows: int, first: date, days: int) -> pa.Array:
    return pa.array([first + timedelta(days=place * days // rows) for place in range(rows)], pa.date32())


def profiles(baseline: pa.Table, window: pa.Table, dated: bool = False) -> tuple[Profile, Profile]:
    schema = Schema.of({name: baseline[name] for name in baseline.column_names})
    if not dated:
        return Profile.of(schema, baseline), Profile.of(schema, window)
    first = date(2026, 3, 2)
    return (
        Profile.of(schema, baseline, days_of(baseline.num_rows, first, 28)),
        Profile.of(schema, window, days_of(window.num_rows, first + timedelta(days=28), 7)),
    )


def found(checks: list[Check]) -> dict[tuple[str, str | None], Check]:
    return {(check.check, check.column): check for check in checks if check.found}


def replaced(window: pa.Table, column: str, values: object) -> pa.Table:
    return window.set_column(window.column_names.index(column), column, pa.array(values))


def test_a_share_of_missing_cells_wants_significance_and_size() -> None:
    for now, rows, expected in ((0.02, 20_000, False), (0.045, 20_000, True), (0.1, 20, False)):
        checks = data_quality(POLICY, *profiles(table(20_000, 1, 0.015), table(rows, 2, now)))
        assert (("missing", "amount") in found(checks)) == expected
    baseline, window = profiles(table(20_000, 1, 0.015), table(20_000, 2, 0.045))
    check = found(data_quality(POLICY, baseline, window))["missing", "amount"]
    assert check.baseline == pytest.approx(0.015, abs=0.003)
    assert check.effect == pytest.approx(0.03, abs=0.005)
    assert check.p_value is not None
    assert check.p_value < 1e-10
    assert check.severity == "alarm"
    deaf = replace(POLICY, minimum_missing=0.05, warn_on=("data_quality",), alarm_on=("quality",))
    assert not found(data_quality(deaf, baseline, window))
    warned = replace(deaf, minimum_missing=0.01)
    assert found(data_quality(warned, baseline, window))["missing", "amount"].severity == "warn"


def test_chance_alone_finds_as_little_as_it_may() -> None:
    """400 pairs of one distribution without the floors: the family finds something in at most the share that its level says (here 20 %)."""
    open_ears = replace(POLICY, minimum_missing=0.0, false_alarms_per_year=0.2 * 365 * POLICY.families)
    alarms = 0
    for seed in range(400):
        checks = data_quality(open_ears, *profiles(table(1500, 2 * seed, 0.05), table(700, 2 * seed + 1, 0.05)))
        alarms += any(
            check.found and check.check in {"missing", "unseen_level", "infinite", "not_a_number", "constant"} for check in checks
        )
    assert alarms <= 0.2 * 400 + 3 * np.sqrt(400 * 0.2 * 0.8)


def test_values_out_of_range() -> None:
    baseline = table(5000, 1)
    window = table(2000, 2)
    cents = replaced(window, "amount", np.asarray(window["amount"]) * 1e4)
    assert found(data_quality(POLICY, *profiles(baseline, cents)))["out_of_range", "amount"].effect == 1
    some = replaced(window, "amount", np.where(np.arange(2000) % 20 == 0, -1e6, window["amount"]))
    check = found(data_quality(POLICY, *profiles(baseline, some)))["out_of_range", "amount"]
    assert "values below" in check.says
    assert "now -1e+06" in check.says
    one = replaced(window, "amount", np.append(np.asarray(window["amount"])[1:], 1e9))
    assert not found(data_quality(POLICY, *profiles(baseline, one))), "a single extreme of 2,000 rows is not a finding"
    six = replaced(window, "count", np.append(np.asarray(window["count"])[1:], 6))
    assert found(data_quality(POLICY, *profiles(baseline, six)))["out_of_range", "count"].severity == "note"
    single = table(1, 3)
    largest = float(np.max(np.asarray(baseline["amount"])))
    assert not found(data_quality(POLICY, *profiles(baseline, replaced(single, "amount", [largest * 1.01])))), (
        "one row in 5,001 is the largest"
    )


def test_a_column_that_was_constant_and_no_longer_is() -> None:
    baseline = replaced(table(5000, 1), "count", np.zeros(5000))
    for values, severity in ((np.full(2000, 7), "alarm"), (np.arange(2000) % 2, "note")):
        check = found(data_quality(POLICY, *profiles(baseline, replaced(table(2000, 2), "count", values))))["out_of_range", "count"]
        assert check.severity == severity


def test_a_column_that_became_constant() -> None:
    baseline = table(5000, 1)
    window = replaced(replaced(table(200, 2), "country", ["DE"] * 200), "amount", np.ones(200))
    checks = found(data_quality(POLICY, *profiles(baseline, window)))
    assert "every row has the value DE; at the baseline" in checks["constant", "country"].says
    assert "every row has the value 1;" in checks["constant", "amount"].says
    few = replaced(table(10, 2), "country", ["DE"] * 10)
    assert ("constant", "country") not in found(data_quality(POLICY, *profiles(baseline, few))), ".6 to the power of 10 happens"


def test_the_number_of_rows_a_day() -> None:
    baseline = table(28_000, 1)
    for rows, days, expected in ((7000, 7, False), (2500, 7, True), (21_000, 7, True), (4000, 7, False), (4000, 14, True), (0, 7, True)):
        checks = data_quality(POLICY, *profiles(baseline, table(rows, 2), dated=True), days=days)
        row_count = next(check for check in checks if check.check == "row_count")
        assert row_count.found == expected
        assert row_count.baseline == pytest.approx(1000)
        assert row_count.current == pytest.approx(rows / days)
        unlimited = data_quality(replace(POLICY, minimum_row_count_ratio=0.0), *profiles(baseline, table(rows, 2), dated=True), days=days)
        assert next(check for check in unlimited if check.check == "row_count").found == (rows == 0), "a floor of 0 finds only what is gone"
    undated = data_quality(POLICY, *profiles(baseline, table(300, 2)))
    assert not next(check for check in undated if check.check == "row_count").found, "without days, files may be of any size"


def test_an_empty_window_is_found_and_nothing_else() -> None:
    baseline, _ = profiles(table(5000, 1), table(10, 2))
    checks = data_quality(POLICY, baseline, Counter(baseline.schema).profile(), score="amount")
    assert set(found(checks)) == {("row_count", None)}


def test_scores_beyond_a_probability() -> None:
    baseline, window = profiles(table(5000, 1), table(500, 2))
    assert ("score_range", "amount") in found(data_quality(POLICY, baseline, window, score="amount"))
    inside = replaced(table(500, 2), "amount", np.linspace(0, 1, 500))
    assert ("score_range", "amount") not in found(data_quality(POLICY, *profiles(inside, inside), score="amount"))


def test_structure_labels_and_days() -> None:
    checks = found(structure(POLICY, ["gone"], ["new"], {"age": ("numeric", "text")}))
    assert [checks[key].severity for key in (("missing_column", "gone"), ("type", "age"), ("extra_column", "new"))] == [
        "alarm",
        "alarm",
        "note",
    ]
    assert not labels(POLICY, "label", 100, 0, 0).found
    assert not labels(POLICY, "label", 0, 0, None).found
    assert labels(POLICY, "label", 100, 3, None).current == pytest.approx(0.03)
    assert "2 ids are labelled both" in labels(POLICY, "label", 100, 0, 2).says
    assert without_day(POLICY, "day", 1, 999).severity == "note"
    assert without_day(POLICY, "day", 100, 900).severity == "alarm"
