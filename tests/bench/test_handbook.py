"""The protocol against itself written out day by day, and the bench on a small simulated file."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench import handbook, report
from bench.handbook import PaymentsError, default_test_starts, earlier_weeks, read_payments, run, split
from include.domains.card_payments.simulator import simulate

FIRST = date(2018, 6, 1)
TEST = date(2018, 6, 29)


def events(seed: int, days: int = 45) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    count = days * 40
    return pd.DataFrame({
        "day": np.sort(pd.Timestamp(FIRST) + pd.to_timedelta(rng.integers(0, days, count), "D")),
        "card": rng.integers(0, 120, count).astype(str),
        "label": (rng.random(count) < 0.08).astype(int),
    })  # fmt: skip


def rows_the_book_tests(rows: pd.DataFrame, start: date) -> list[int]:
    """§5.2: the cards defrauded in training, and for each test day those of the day a delay of seven days and one more before it."""
    day_after = lambda days: pd.Timestamp(start) + timedelta(days=days)  # noqa: E731
    training = rows[(rows["day"] >= day_after(-14)) & (rows["day"] < day_after(-7))]
    known = set(training.loc[training["label"] == 1, "card"])
    kept: list[int] = []
    for day in range(7):
        known |= set(rows.loc[(rows["day"] == day_after(day - 8)) & (rows["label"] == 1), "card"])
        today = rows[rows["day"] == day_after(day)]
        kept += today.index[~today["card"].isin(known)].tolist()
    return kept


@pytest.mark.parametrize("seed", range(5))
def test_a_fold_is_the_books(seed: int) -> None:
    rows = events(seed)
    fold = split(rows, TEST)
    assert set(rows["day"].iloc[fold.training].dt.date) == {TEST - timedelta(days=days) for days in range(8, 15)}
    assert len(fold.training) == rows["day"].between("2018-06-15", "2018-06-21").sum()
    expected = rows_the_book_tests(rows, TEST)
    assert fold.test.tolist() == expected
    assert 0 < len(expected) < rows["day"].between("2018-06-29", "2018-07-05").sum()


def test_longer_training_begins_earlier_and_tests_the_same() -> None:
    rows = events(7)
    week, three = split(rows, TEST), split(rows, TEST, timedelta(days=21))
    assert three.test.tolist() == week.test.tolist()
    assert rows["day"].iloc[three.training].min() == pd.Timestamp("2018-06-01")
    assert rows["day"].iloc[three.training].max() == pd.Timestamp("2018-06-21")


@pytest.mark.parametrize("start", [date(2018, 6, 14), date(2018, 7, 10)])
def test_a_week_that_the_file_does_not_hold_is_refused(start: date) -> None:
    with pytest.raises(PaymentsError, match=r"the file holds 2018-06-01 to 2018-07-15"):
        split(events(1), start)


def test_which_weeks_are_tested_and_which_decide() -> None:
    book = default_test_starts(date(2018, 4, 1), date(2018, 9, 4))
    assert [str(start) for start in book] == ["2018-08-08", "2018-08-15", "2018-08-22", "2018-08-29"]
    assert default_test_starts(date(2018, 4, 1), date(2018, 9, 3))[-1] == date(2018, 8, 28)
    assert default_test_starts(date(2026, 1, 1), date(2026, 1, 31)) == [date(2026, 1, 18), date(2026, 1, 25)]
    with pytest.raises(PaymentsError, match="seven days of training"):
        default_test_starts(date(2026, 1, 1), date(2026, 1, 20))
    weeks = earlier_weeks(date(2018, 4, 1), book[0])
    assert weeks[-1] + timedelta(days=7) == book[0]
    assert weeks[0] >= date(2018, 4, 1) + timedelta(days=52)
    assert len(weeks) == 6
    assert earlier_weeks(date(2018, 4, 1), date(2018, 5, 30)) == [date(2018, 5, 23)]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV in lower case, without the scenario: 35 days, about 14,000 payments."""
    path = tmp_path_factory.mktemp("payments") / "payments.csv"
    simulate(35, 14_000, FIRST, seed=3).transactions.sample(frac=1, random_state=0).to_csv(path, index=False)
    return path


def test_a_small_file_is_measured(
    simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    code = run(simulated, [date(2018, 6, 22), date(2018, 6, 29)], choosing=False)
    figures = json.loads((tmp_path / "handbook.json").read_text())
    assert {"average_precision", "roc_auc", "card_precision_100", "published.average_precision"} <= set(figures)
    assert not any(name.startswith(("single_split", "published.single_split")) for name in figures)
    assert code == int(not all(figures[name]["met"] for name in handbook.GOALS))
    assert 0.1 < figures["average_precision"]["value"] <= 1  # where fraud is some 1 % of payments
    assert figures["roc_auc"]["value"] > 0.6
    shown = capsys.readouterr().out
    assert "has less" in shown
    assert "2018-06-29" in shown


def test_columns_are_found_in_either_case_and_rows_put_in_order(simulated: Path, tmp_path: Path) -> None:
    payments = read_payments(simulated)
    assert payments["tx_datetime"].is_monotonic_increasing
    payments.rename(columns=str.upper).to_parquet(tmp_path / "payments.parquet")
    pd.testing.assert_frame_equal(read_payments(tmp_path / "payments.parquet"), payments, check_dtype=False)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("terminal_id", None, "no column terminal_id"),
        ("tx_amount", np.nan, "empty cells in tx_amount"),
        ("tx_fraud", 2, "must be 0 or 1"),
        ("transaction_id", 7, "repeat a transaction_id, such as 7"),
        ("tx_datetime", "yesterday", "cannot be read as payments"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(simulated: Path, tmp_path: Path, column: str, value: object, message: str) -> None:
    rows = pd.read_csv(simulated).head(50)
    broken = rows.drop(columns=column) if value is None else rows.assign(**{column: value})
    broken.to_csv(tmp_path / "broken.csv", index=False)
    with pytest.raises(PaymentsError, match=message):
        read_payments(tmp_path / "broken.csv")


def test_a_week_outside_of_the_file_ends_in_a_message(simulated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["handbook", "--data", str(simulated), "--test-starts", "2018-08-08"])
    with pytest.raises(SystemExit) as ended:
        handbook.main()
    assert ended.value.code == 2
    assert "the test week from 2018-08-08 on wants payments from 2018-07-25" in capsys.readouterr().err
