"""``monitor`` and ``profile`` on files: drift found and not found, and every kind of bad input a finding or one clear line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from drift_files import later, monitor, profile, report, rows, write

from include import domains
from include.domains import Catalogue

ROLES = ("--score", "score", "--label", "label", "--time", "day")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``baseline.parquet`` of four weeks, its profile and its CSV."""
    folder = tmp_path_factory.mktemp("drift")
    write(rows(8000, 1), folder / "baseline.parquet")
    write(rows(8000, 1), folder / "baseline.csv")
    assert profile(folder / "baseline.parquet", folder / "profile.json", *ROLES) == 0
    return folder


def changed(table: pa.Table, column: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(column), column, values if isinstance(values, pa.ChunkedArray) else pa.array(values))


def checks(found: dict[str, Any]) -> dict[tuple[str, str | None], dict[str, Any]]:
    """What data quality found, by check and column."""
    return {(check["check"], check["column"]): check for check in found["data_quality"] if check["found"]}


def test_nothing_changed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    current = write(later(2000, 2), tmp_path / "current.parquet")
    assert monitor(folder / "profile.json", current, tmp_path / "report", *ROLES) == 0
    found = report(tmp_path / "report")
    assert found["verdict"]["outcome"] == "no_drift"
    assert found["verdict"]["kinds"] == []
    assert [column["name"] for column in found["features"]] == ["amount", "age", "country", "flag"]
    assert found["score"]["name"] == "score"
    assert found["multivariate"]
    assert found["subject"]["current"] | {"source": ""} == {
        "source": "", "rows": 2000, "days": 7, "first_day": "2026-03-30", "last_day": "2026-04-05"
    }  # fmt: skip
    assert found["quality"]["metrics"]["roc_auc"]["current"]["value"] > 0.7
    assert "No drift in 2,000 rows from 30 March 2026 to 5 April 2026" in capsys.readouterr().out
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert found["verdict"]["headline"] in page


def test_a_feature_moves(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    current = write(later(2000, 3, shift=0.5), tmp_path / "current.parquet")
    assert monitor(folder / "profile.json", current, tmp_path / "report", *ROLES) == 1
    found = report(tmp_path / "report")
    assert [column["name"] for column in found["features"] if column["drifted"]] == ["amount"]
    assert found["verdict"]["severity"] == "alarm"
    assert found["verdict"]["kinds"][0] == "feature_drift"
    assert found["verdict"]["began"] == "2026-03-30"
    assert found["findings"][0]["name"] == "amount"
    assert found["findings"][0]["p_value"] < found["findings"][0]["level"]
    assert "1 of 4 features (amount)" in capsys.readouterr().out


def test_the_day_it_began(folder: Path, tmp_path: Path) -> None:
    calm, moved = later(2500, 4), later(2500, 5, shift=0.6)
    third = pc.less(calm["day"], pa.scalar("2026-04-02").cast(pa.date32()))
    table = pa.concat_tables([calm.filter(third), moved.filter(pc.greater_equal(moved["day"], pa.scalar("2026-04-02").cast(pa.date32())))])
    assert monitor(folder / "profile.json", write(table, tmp_path / "current.parquet"), tmp_path / "report", *ROLES) == 1
    verdict = report(tmp_path / "report")["verdict"]
    assert verdict["began"] == "2026-04-02"
    assert "since 2 April 2026" in verdict["headline"]


def test_labels_turn_while_columns_stay(folder: Path, tmp_path: Path) -> None:
    """Fraud that the score no longer sees: nothing but quality can tell."""
    table = later(4000, 6, days=14)
    current = write(changed(table, "label", np.roll(table["label"].to_numpy(), 1)), tmp_path / "current.parquet")
    assert monitor(folder / "profile.json", current, tmp_path / "report", *ROLES) == 1
    found = report(tmp_path / "report")
    assert found["verdict"]["kinds"] == ["quality", "concept_drift"]
    assert "Average precision" in "".join(finding["says"] for finding in found["findings"])


def test_labels_that_are_not_there_yet_are_estimated(folder: Path, tmp_path: Path) -> None:
    table = later(3000, 7, days=10)
    known = np.arange(3000) < 1000
    for name, labels in (("some", pa.array(table["label"].to_numpy(), mask=~known)), ("none", None)):
        current = table.drop_columns(["label"]) if labels is None else changed(table, "label", labels)
        assert monitor(folder / "profile.json", write(current, tmp_path / f"{name}.parquet"), tmp_path / name, *ROLES) == 0
        found = report(tmp_path / name)
        assert found["estimated_quality"]["events"] == (3000 if labels is None else 2000)
        assert (found["quality"] or {}).get("events", 0) == (0 if labels is None else 1000)
    assert report(tmp_path / "some")["quality"]["unlabelled"] == 2000


def test_profile_and_file_and_csv_give_the_same_report(folder: Path, tmp_path: Path) -> None:
    table = later(2000, 8, shift=0.3)
    parquet, csv = write(table, tmp_path / "current.parquet"), write(table, tmp_path / "current.csv")
    found = []
    for number, (baseline, current) in enumerate([
        (folder / "profile.json", parquet), (folder / "baseline.parquet", parquet), (folder / "baseline.csv", csv), (folder / "profile.json", csv)
    ]):  # fmt: skip
        assert monitor(baseline, current, tmp_path / str(number), *ROLES) == 1
        found.append(report(tmp_path / str(number)))
        found[-1].pop("subject")
    assert found[0] == found[1] == found[2] == found[3]


def test_a_profile_says_itself_what_columns_are(folder: Path, tmp_path: Path) -> None:
    current = write(later(2000, 8), tmp_path / "current.parquet")
    assert monitor(folder / "profile.json", current, tmp_path / "named", *ROLES) == 0
    assert monitor(folder / "profile.json", current, tmp_path / "unnamed") == 0
    assert report(tmp_path / "named") == report(tmp_path / "unnamed")


def test_the_domains_thresholds_decide(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    current = write(later(2000, 3, shift=0.5), tmp_path / "current.parquet")
    domain = next(iter(domains.catalogue().domains.values()))
    deaf = replace(domain, monitoring=replace(domain.monitoring, minimum_effect_of={"amount": 0.9}))
    quiet = replace(domain, monitoring=replace(domain.monitoring, alarm_on=("quality",), warn_on=("feature_drift",)))
    for found, status, severity in ((domain, 1, "alarm"), (deaf, 0, "none"), (quiet, 1, "warn")):
        monkeypatch.setattr(domains, "catalogue", lambda found=found: Catalogue({domain.name: found}, {}))
        assert monitor(folder / "profile.json", current, tmp_path / "report", *ROLES, "--domain", domain.name) == status
        assert report(tmp_path / "report")["verdict"]["severity"] == severity
        assert report(tmp_path / "report")["subject"]["title"] == domain.title
    monkeypatch.undo()
    assert monitor(folder / "profile.json", current, tmp_path / "report", "--domain", "none_such") == 2


def test_false_alarms_a_year_set_the_level(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    current = write(later(2000, 9), tmp_path / "current.parquet")
    assert monitor(folder / "profile.json", current, tmp_path / "report", "--false-alarms-per-year", "73") == 0
    calibration = report(tmp_path / "report")["calibration"]
    assert calibration["level"] == pytest.approx(73 / 365 / calibration["families"])
    for wrong in ("0", "-1", "400", "nan"):
        assert monitor(folder / "profile.json", current, tmp_path / "report", "--false-alarms-per-year", wrong) == 2
    assert "--false-alarms-per-year" in capsys.readouterr().err


def test_ids_times_and_what_is_to_be_ignored_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def with_ids(table: pa.Table, first: int) -> pa.Table:
        count = table.num_rows
        number = np.arange(first, first + count)
        return (
            table
            .append_column("number", pa.array(number))
            .append_column("reference", pa.array([f"T{each}" for each in number]))
            .append_column("entry", pa.array(number, pa.timestamp("s")))
            .append_column("batch", pa.array(np.full(count, first)))
        )

    baseline = write(with_ids(rows(8000, 1), 1), tmp_path / "baseline.parquet")
    current = write(with_ids(later(2000, 2), 9000), tmp_path / "current.csv")
    assert monitor(baseline, current, tmp_path / "report", *ROLES, "--ignore", "batch") == 0
    found = report(tmp_path / "report")
    assert set(found["subject"]["left_out"]) == {"number", "reference", "entry", "batch", "label", "day"}
    assert [column["name"] for column in found["features"]] == ["amount", "age", "country", "flag"]
    assert profile(baseline, tmp_path / "profile.json", "--ignore", "batch") == 0
    assert "left out: reference, nearly every row has a text of its own" in capsys.readouterr().out


# What arrives damaged, and what is found of it: (change of the window, check, column, severity)
DAMAGED: dict[str, tuple[Callable[[pa.Table], pa.Table], str, str | None, str]] = {
    "missing column": (lambda t: t.drop_columns(["age"]), "missing_column", "age", "alarm"),
    "extra column": (lambda t: t.append_column("more", t["age"]), "extra_column", "more", "note"),
    "missing score": (lambda t: t.drop_columns(["score"]), "missing_column", "score", "alarm"),
    "all null": (lambda t: changed(t, "age", pa.nulls(len(t), pa.int64())), "missing", "age", "alarm"),
    "untyped nulls": (lambda t: changed(t, "age", pa.nulls(len(t))), "missing", "age", "alarm"),
    "constant": (lambda t: changed(t, "age", np.full(len(t), 40)), "constant", "age", "alarm"),
    "constant text": (lambda t: changed(t, "country", ["DE"] * len(t)), "constant", "country", "alarm"),
    "infinities": (lambda t: changed(t, "amount", np.where(np.arange(len(t)) % 20, t["amount"], np.inf)), "infinite", "amount", "alarm"),
    "another unit": (lambda t: changed(t, "age", np.asarray(t["age"]) * 365), "out_of_range", "age", "alarm"),
    "new level": (lambda t: changed(t, "country", ["XX"] * 100 + t["country"].to_pylist()[100:]), "unseen_level", "country", "alarm"),
    "numbers as text": (
        lambda t: changed(t, "age", ["ten" if age < 30 else str(age) for age in t["age"].to_pylist()]), "not_a_number", "age", "alarm"
    ),
    "type": (lambda t: changed(t, "age", t["age"].cast(pa.string())), "type", "age", "alarm"),
    "times for numbers": (lambda t: changed(t, "age", t["age"].cast(pa.timestamp("s"))), "type", "age", "alarm"),
    "lists for text": (lambda t: changed(t, "country", [[value] for value in t["country"].to_pylist()]), "type", "country", "alarm"),
    "score beyond 1": (lambda t: changed(t, "score", np.append(np.asarray(t["score"])[1:], 1.3)), "score_range", "score", "alarm"),
    "score below 0": (lambda t: changed(t, "score", np.append(np.asarray(t["score"])[1:], -0.1)), "score_range", "score", "alarm"),
    "labels of 2": (lambda t: changed(t, "label", np.append(np.asarray(t["label"])[1:], 2)), "labels", "label", "alarm"),
    "fewer rows": (lambda t: t.take(np.arange(0, len(t), 8)), "row_count", None, "alarm"),
    "no day": (lambda t: changed(t, "day", pa.array(t["day"].to_pylist()[:-100] + [None] * 100, pa.date32())), "missing", "day", "alarm"),
}  # fmt: skip


OF_TYPED_FILES = {"lists for text", "times for numbers", "type"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for kind in ("parquet", "csv") for name in DAMAGED if kind == "parquet" or name not in OF_TYPED_FILES],
)
def test_damaged_data_are_a_finding(name: str, kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, check, column, severity = DAMAGED[name]
    current = write(change(later(2000, 10)), tmp_path / f"current.{kind}")
    status = monitor(folder / "profile.json", current, tmp_path / "report", *ROLES)
    found = checks(report(tmp_path / "report"))
    assert (check, column) in found
    assert found[check, column]["severity"] == severity
    assert status == (0 if severity == "note" else 1)
    assert "Traceback" not in capsys.readouterr().err


def test_a_window_without_damage_has_no_data_quality_finding(folder: Path, tmp_path: Path) -> None:
    assert monitor(folder / "profile.json", write(later(2000, 10), tmp_path / "current.csv"), tmp_path / "report", *ROLES) == 0
    assert not checks(report(tmp_path / "report"))


@pytest.mark.parametrize("count", [0, 1, 49])
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_too_few_rows_are_no_verdict(count: int, kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    current = write(later(2000, 11).slice(0, count), tmp_path / f"current.{kind}")
    assert monitor(folder / "profile.json", current, tmp_path / "report", *ROLES) == 2
    document = report(tmp_path / "report")
    assert document["verdict"]["outcome"] == "not_enough_data"
    assert ("row_count", None) in checks(document)
    error = capsys.readouterr().err
    assert f"the window has {count} row" in error
    assert "Traceback" not in error


def test_contradicting_labels_of_one_event(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def with_ids(table: pa.Table) -> pa.Table:
        return table.append_column("event", pa.array(np.arange(len(table)) // 2))

    twice = later(2000, 12)
    baseline = write(with_ids(rows(4000, 1)).take(np.arange(0, 4000, 2)), tmp_path / "baseline.parquet")
    for kind in ("parquet", "csv"):
        current = write(with_ids(twice), tmp_path / f"current.{kind}")
        assert monitor(baseline, current, tmp_path / kind, *ROLES, "--id", "event") == 1
        found = report(tmp_path / kind)
        labels = np.asarray(twice["label"]).reshape(-1, 2)
        contradicting = int((labels[:, 0] != labels[:, 1]).sum())
        assert f"{contradicting} ids are labelled both" in checks(found)["labels", "label"]["says"]
        assert found["quality"]["events"] == 2000 - 2 * contradicting
    assert profile(write(with_ids(rows(4000, 1)), tmp_path / "twice.parquet"), tmp_path / "p.json", *ROLES, "--id", "event") == 2
    assert "are labelled both 0 and 1" in capsys.readouterr().err


def _damage(path: Path, kind: str) -> Path:
    """A file that cannot be read, or makes no baseline."""
    table = rows(500, 1)
    if kind == "truncated":
        whole = write(table, path.with_suffix(".parquet")).read_bytes()
        path.with_suffix(".parquet").write_bytes(whole[: len(whole) // 2])
        return path.with_suffix(".parquet")
    if kind == "torn inside":
        whole = bytearray(write(table, path.with_suffix(".parquet")).read_bytes())
        whole[4:2000] = bytes(1996)
        path.with_suffix(".parquet").write_bytes(whole)
        return path.with_suffix(".parquet")
    if kind == "nested":
        return write(table.append_column("basket", pa.array([[1.0]] * 500)), path.with_suffix(".parquet"))
    if kind == "duplicate columns in Parquet":
        return write(pa.Table.from_arrays([table["amount"], table["amount"]], names=["amount", "amount"]), path.with_suffix(".parquet"))
    content = {
        "empty": b"",
        "no Parquet": b"PAR1 this is none",
        "binary": bytes(range(256)) * 10,
        "Latin-1": "größe,wert\n1,2\n".encode("latin-1"),
        "ragged": b"amount,age\n" + b"1,2\n" * 100 + b"1,2,3\n" + b"1,2\n" * 100,
        "duplicate columns": b"amount,amount\n" + b"1,2\n" * 100,
        "nameless column": b"amount,,age\n" + b"1,2,3\n" * 100,
        "names only": b"amount,age\n",
        "one row": b"amount,age\n1,2\n",
        "ids only": b"reference\n" + b"".join(b"T%d\n" % number for number in range(200)),
    }[kind]
    path.write_bytes(content)
    return path


UNREADABLE = {
    "truncated": "cannot be read", "torn inside": "cannot be read", "nested": "--ignore basket", "duplicate columns in Parquet": "more than once",
    "empty": "the file is empty", "no Parquet": "cannot be read", "binary": "neither Parquet nor a CSV", "Latin-1": "neither Parquet nor a CSV",
    "ragged": "Row #102", "duplicate columns": "'amount' comes more than once", "nameless column": "must name every column",
    "names only": "0 rows are too few", "one row": "1 rows are too few", "ids only": "no column is left",
}  # fmt: skip


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_one_clear_line(kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = _damage(tmp_path / "bad.csv", kind)
    assert profile(bad, tmp_path / "profile.json") == 2
    assert monitor(bad, folder / "baseline.parquet", tmp_path / "report") == 2
    first, second = capsys.readouterr().err.splitlines()
    assert str(bad) in first
    assert UNREADABLE[kind] in first
    assert second.removeprefix("monitor: ") == first.removeprefix("profile: ")
    assert not (tmp_path / "profile.json").exists()
    assert not (tmp_path / "report").exists()
    if kind not in {"nested", "names only", "one row", "ids only"}:  # as a window, these are findings
        assert monitor(folder / "profile.json", bad, tmp_path / "report") == 2
        assert UNREADABLE[kind] in capsys.readouterr().err
        assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--score", "none"), "no column 'none' (--score)"),
        (("--time", "none"), "no column 'none' (--time)"),
        (("--label", "none"), "no column 'none' (--label)"),
        (("--score", "country"), "a probability is a number"),
        (("--score", "amount"), "between 0 and 1"),
        (("--label", "age"), "labels in 'age' are neither 0 nor 1"),
        (("--time", "country"), "have no date in 'country'"),
        (("--score", "score", "--ignore", "score"), "more than one"),
    ],
)
def test_parts_that_columns_cannot_play(
    arguments: tuple[str, ...], says: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert profile(folder / "baseline.parquet", tmp_path / "profile.json", *arguments) == 2
    assert monitor(folder / "baseline.parquet", folder / "baseline.parquet", tmp_path / "report", *arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "content", ["{", "{}", '{"version": 1}', '{"version": 2}', '{"version": 2, "days": [], "rows": "", "columns": []}']
)
def test_what_is_no_profile(content: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "profile.json"
    path.write_text(content)
    assert monitor(path, folder / "baseline.parquet", tmp_path / "report") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"monitor: {path}: ")
    assert len(error.splitlines()) == 1


def test_what_stands_beside_a_profile(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The profile of a model has nothing beside it; what was changed by hand is refused."""
    content = json.loads((folder / "profile.json").read_text(encoding="utf-8"))
    path, current = tmp_path / "profile.json", write(later(2000, 8), tmp_path / "current.parquet")
    for beside, status in (({}, 0), ({"file": [1]}, 2), ({"quality": {"version": 0}}, 2), ({"quality": 3}, 2)):
        path.write_text(json.dumps({name: content[name] for name in content if name not in {"file", "quality"}} | beside))
        assert monitor(path, current, tmp_path / "report", *ROLES) == status
    assert len(capsys.readouterr().err.splitlines()) == 3
    assert report(tmp_path / "report")["quality"] is None


def test_a_column_of_the_profile_can_be_ignored(folder: Path, tmp_path: Path) -> None:
    current = write(later(2000, 3, shift=0.5).drop_columns(["country"]), tmp_path / "current.parquet")
    assert monitor(folder / "profile.json", current, tmp_path / "report", "--ignore", "amount", "--ignore", "country") == 0
    found = report(tmp_path / "report")
    assert [column["name"] for column in found["features"]] == ["age", "flag"]
    assert {"amount", "country"} < set(found["subject"]["left_out"])
    assert not checks(found)


def test_what_cannot_be_written(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("")
    assert monitor(folder / "profile.json", folder / "baseline.parquet", tmp_path / "taken") == 2
    assert profile(folder / "baseline.parquet", tmp_path) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_csv_with_mixed_cells_is_counted_and_not_refused(tmp_path: Path) -> None:
    """Missing spelled as people spell it, numbers in quotes, other delimiters, a byte-order mark, and texts among numbers."""
    generator = np.random.default_rng(5)
    values = [f"{value:.3f}" for value in generator.normal(size=1000)]
    cells = ["NA" if place % 10 == 0 else "" if place % 10 == 1 else f" {value} " if place % 10 == 2 else f'"{value}"'
             for place, value in enumerate(values)]  # fmt: skip
    truth = np.where(generator.random(1000) < 0.3, "True", "False")
    lines = ["value;flag", *(f"{cell};{flag}" for cell, flag in zip(cells, truth, strict=True))]
    baseline = tmp_path / "baseline.csv"
    baseline.write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    assert profile(baseline, tmp_path / "profile.json") == 0
    columns = json.loads((tmp_path / "profile.json").read_text())["columns"]
    assert columns["value"]["type"] == "numeric"
    assert (columns["value"]["missing"], columns["value"]["invalid"]) == ("200", "0")
    assert columns["flag"]["levels"] == ["false", "true"]
    lines[500:560] = ["oops;True"] * 60
    (tmp_path / "current.csv").write_text("\n".join(lines))
    assert monitor(tmp_path / "profile.json", tmp_path / "current.csv", tmp_path / "report") == 1
    check = checks(report(tmp_path / "report"))["not_a_number", "value"]
    assert check["current"] == pytest.approx(0.06)


def test_as_a_command_the_exit_status_is_the_verdict(folder: Path, tmp_path: Path) -> None:
    """In a process of its own, with no bucket in its environment."""
    still, moved = write(later(2000, 2), tmp_path / "still.parquet"), write(later(2000, 2, shift=1), tmp_path / "moved.parquet")
    for current, status in ((still, 0), (moved, 1), (tmp_path / "none.parquet", 2)):
        command = [sys.executable, "-m", "include.jobs", "monitor", "--baseline", str(folder / "profile.json"), "--current", str(current)]
        ended = subprocess.run([*command, "--out", str(tmp_path / "report")], capture_output=True, text=True, check=False)
        assert ended.returncode == status, ended.stderr
        assert "Traceback" not in ended.stderr
    assert ended.stderr == f"monitor: {tmp_path / 'none.parquet'}: there is no such file\n"
