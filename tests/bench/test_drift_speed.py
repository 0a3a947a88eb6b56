"""The files that speed is measured on, and our own side of it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench import drift_speed, peers


def test_our_side_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    baseline, window = tmp_path / "baseline.parquet", tmp_path / "window.parquet"
    for path, seed in ((baseline, 1), (window, 2)):
        drift_speed.write_rows(path, 3000, seed)
    table = pq.read_table(window)
    assert table.num_rows == 3000
    assert len(table.column_names) == 1 + drift_speed.NUMERIC + len(drift_speed.LEVELS)
    assert [pc.count_distinct(table[f"text_{levels}"]).as_py() for levels in drift_speed.LEVELS[:3]] == [3, 10, 50]
    assert not table.equals(pq.read_table(baseline))
    size = drift_speed.profiled(baseline, tmp_path / "profile.json", "--time", "day")
    assert size == (tmp_path / "profile.json").stat().st_size
    found = drift_speed.monitored(tmp_path / "profile.json", window, tmp_path / "report", "--time", "day")
    assert found["status"] == 0
    assert 0 < found["seconds"] < 60
    assert found["peak"] > 5e7
    assert (tmp_path / "report" / "report.html").exists()


def test_peers_are_silent_and_know_nothing_of_this_project() -> None:
    environment = peers.environment()
    assert environment["NML_DISABLE_USAGE_LOGGING"] == environment["DO_NOT_TRACK"] == "1"
    assert "PYTHONPATH" not in environment
    assert all("==" in packages[0] for packages in peers.PEERS.values())
