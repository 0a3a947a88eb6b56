"""``python -m include.jobs simulate``: landing files on disk, the same every time."""

from __future__ import annotations

import functools
import json
from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from include import domains
from include.domains.auto_claims.domain import DOMAIN
from include.domains.auto_claims.fraud import CHANGES
from include.jobs import simulate as job
from include.jobs.__main__ import main
from include.jobs.ingest import ingest
from include.lifecycle import landing
from include.stores.layout import Layout
from include.stores.objects import ObjectStore

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


def test_another_simulation_of_the_day_replaces_the_file_whatever_its_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def landed() -> list[str]:
        return sorted(path.name for path in (tmp_path / "claims").rglob("claims.*"))

    simulate(tmp_path, capsys)
    assert landed() == ["claims.csv"]
    monkeypatch.setattr(job, "PARQUET_ROWS", 500)
    simulate(tmp_path, capsys)
    assert landed() == ["claims.parquet"], "two files of one day would be ingested as contradictions and corrections"
    monkeypatch.undo()
    simulate(tmp_path, capsys)
    assert landed() == ["claims.csv"]


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


@pytest.mark.parametrize(("domain", "events"), [("auto_claims", 4_000), ("card_payments", 8_000)])
def test_large_files_are_parquet_and_say_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, domain: str, events: int
) -> None:
    simulator = domains.part(domain, "simulator")
    monkeypatch.setattr(simulator, "deliveries", functools.partial(simulator.deliveries, damaged_share=0.02))
    arguments = ["simulate", "--domain", domain, "--days", "40", "--events", str(events), "--first-day", "2026-01-01", "--seed", "3"]
    assert main([*arguments, "--out", str(tmp_path / "csv")]) == 0
    monkeypatch.setattr(job, "PARQUET_ROWS", 100)
    assert main([*arguments, "--out", str(tmp_path / "parquet")]) == 0
    result = json.loads(capsys.readouterr().out.split("\n}\n", 1)[1])
    compared = 0
    for table in domains.get(domain).landing_tables:
        folder = Path(table.name) / "dt=2026-02-09"
        rows = result["tables"][table.name]["rows"]
        suffix = "parquet" if rows > 100 else "csv"
        assert [path.name for path in (tmp_path / "parquet" / folder).iterdir()] == [f"{table.name}.{suffix}"]
        paths = (tmp_path / "csv" / folder / f"{table.name}.csv", tmp_path / "parquet" / folder / f"{table.name}.{suffix}")
        one, other = (landing.read(path.read_bytes(), path.name, table) for path in paths)
        assert one.records == other.records == rows
        assert one.cells is not None
        assert other.cells is not None
        for column in table.columns:
            texts = [file.cells.column(column.name).to_pandas() for file in (one, other)]
            if column.type == "timestamp":
                texts = [pd.to_datetime(text, utc=True, format="ISO8601") for text in texts]
            elif column.type == "float":
                texts = [pd.to_numeric(text, errors="coerce") for text in texts]
            pd.testing.assert_series_equal(*texts)
        compared += suffix == "parquet"
    assert compared >= 2


def test_the_events_that_there_are_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--domain", "card_payments", "--days", "20", "--events", "5000", "--first-day", "2026-01-01", "--seed", "3"]
    assert main(["simulate", *arguments, "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result["events"] == result["tables"]["transactions"]["rows"] != 5000
    assert 0 < result["tables"]["labels"]["rows"] < result["positives"]
    assert f"simulate: {result['events']:,} events from 2026-01-01 to 2026-01-20, {result['positives']:,} of them fraud" in shown.err


def test_what_is_damaged_is_what_ingestion_refuses(
    bucket: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = domains.get("card_payments")
    monkeypatch.setattr(job, "PARQUET_ROWS", 100)
    simulator = domains.part(domain.name, "simulator")
    monkeypatch.setattr(simulator, "deliveries", functools.partial(simulator.deliveries, damaged_share=0.02))
    arguments = ["--domain", domain.name, "--days", "10", "--events", "4000", "--first-day", "2026-01-01", "--seed", "3"]
    assert main(["simulate", *arguments, "--out", str(tmp_path)]) == 0
    rows = json.loads(capsys.readouterr().out)["tables"]["transactions"]["rows"]
    layout, day = Layout(domain.name), date(2026, 1, 10)
    manifest: dict[str, object] = {"domain": domain.name, "year": None, "files": []}
    for path in sorted(tmp_path.rglob("*.*")):
        key = layout.landing(path.parts[-3], day, path.name)
        bucket.put(key, path.read_bytes())
        manifest["files"] += [{"table": path.parts[-3], "key": key}]
    tables = ingest(domain, bucket, manifest, domains.part(domain.name, "expectations").raw_expectations())["tables"]
    found = tables.pop("transactions")
    assert found["landed"] == rows
    assert 0.013 * rows < found["quarantined"] < 0.027 * rows
    assert {reason.split(":")[0] for reason in found["reasons"]} == {"tx_amount", "customer_id", "terminal_id", "event_time"}
    assert (found["warnings"], found["refused_files"]) == ([], [])
    for table in tables.values():
        assert table["quarantined"] == 0
        assert table["curated"] == table["landed"] > 0
