"""``python -m include.jobs simulate``: landing files on disk, the same every time."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from include.domains.auto_claims.domain import DOMAIN
from include.domains.auto_claims.fraud import CHANGES
from include.jobs.__main__ import main

ARGUMENTS = ["simulate", "--domain", "auto_claims", "--days", "40", "--events", "600", "--first-day", "2026-01-01", "--seed", "3"]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.csv"))}


def simulate(out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, object]:
    assert main([*ARGUMENTS, "--out", str(out), *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_history_lands_as_one_file_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = simulate(tmp_path, capsys)
    written = files(tmp_path)
    assert set(written) == {f"{table}/dt=2026-02-09/{table}.csv" for table in ("claims", "customers", "labels")}
    for table in DOMAIN.landing_tables:
        landed = pd.read_csv(tmp_path / table.name / "dt=2026-02-09" / f"{table.name}.csv", keep_default_na=False)
        assert tuple(landed.columns) == table.column_names
        assert len(landed) == result["tables"][table.name]["rows"]
        assert written[f"{table.name}/dt=2026-02-09/{table.name}.csv"].endswith(b"\n")
    assert result["tables"]["claims"]["rows"] == result["events"] == 600
    assert 0 < result["tables"]["labels"]["rows"] < 600
    assert (result["first_day"], result["last_day"]) == ("2026-01-01", "2026-02-09")


def test_equal_arguments_write_equal_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(tmp_path / "a", capsys)
    simulate(tmp_path / "b", capsys)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_day_by_day_until_the_last_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = simulate(tmp_path, capsys, "--daily", "--until", "2026-03-12")
    assert result["tables"]["claims"]["files"] > 30
    assert result["tables"]["claims"]["last_delivery"] == "2026-02-09"
    assert result["tables"]["labels"]["rows"] == 600
    assert (tmp_path / "claims" / "dt=2026-01-01" / "claims.csv").is_file()


def test_history_and_then_days(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = simulate(tmp_path, capsys, "--history-until", "2026-01-31")
    assert result["tables"]["claims"]["first_delivery"] == "2026-01-31"
    assert result["tables"]["claims"]["files"] == 10
    assert result["tables"]["claims"]["rows"] == 600


def test_events_can_be_numbered_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(tmp_path, capsys, "--first-id", "1001")
    landed = pd.read_csv(tmp_path / "claims" / "dt=2026-02-09" / "claims.csv")
    assert landed["policy_id"].tolist() == list(range(1001, 1601))


def test_changes_are_listed_with_what_they_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(tmp_path / "none", capsys, "--change", "list")["changes"] == CHANGES
    assert not (tmp_path / "none").exists()


def test_a_change_changes_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(tmp_path / "same", capsys)
    simulate(tmp_path / "changed", capsys, "--change", "staged_collisions", "--change-day", "2026-01-20")
    assert files(tmp_path / "same") != files(tmp_path / "changed")


def test_an_unknown_change_is_refused_with_the_names_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGUMENTS, "--out", str(tmp_path), "--change", "aliens", "--change-day", "2026-01-20"]) == 2
    error = capsys.readouterr().err
    assert "no change is named 'aliens'" in error
    assert "moved_fraud" in error
    assert "Traceback" not in error
