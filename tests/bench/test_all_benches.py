"""``python -m bench``."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench import __main__ as every
from bench import reference


def test_it_runs_every_bench_and_leaves_out_what_wants_absent_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(every.__file__).parent
    assert set(every.BENCHES) == {path.stem for path in folder.glob("*.py")} - {
        "__init__",
        "__main__",
        "drift_rules",
        "peers",
        "reference",
        "report",
        "rollout_peers",
        "rollout_world",
    }
    ran: list[list[str]] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        ran.append(command[2:])
        return subprocess.CompletedProcess(command, int(command[2] == "bench.jobs"))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("FRAUD_REFERENCE_DATA", str(tmp_path))
    assert every.main() == 1
    shown = capsys.readouterr().out
    for line in ("handbook: left out", "auto_claims: left out", "failed: jobs"):
        assert line in shown
    assert [command[0] for command in ran] == [f"bench.{name}" for name in every.BENCHES if name not in {"auto_claims", "handbook"}]

    (tmp_path / "auto_claims").mkdir()
    (tmp_path / "auto_claims" / "claims.csv").touch()
    (tmp_path / "card_payments").mkdir()
    payments = tmp_path / "card_payments" / "transactions_2018.parquet"
    payments.touch()
    assert (reference.claims(), reference.payments()) == (tmp_path / "auto_claims", payments)
    ran.clear()
    every.main()
    assert [command[0] for command in ran] == [f"bench.{name}" for name in every.BENCHES]
    assert ["bench.card_features", "--data", str(payments)] in ran
