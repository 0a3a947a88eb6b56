from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench import report
from bench.report import Figure, publish


def test_a_goal_is_met_on_its_side() -> None:
    assert Figure(0.5, 0.5, at_least=False).met is True
    assert Figure(0.51, 0.5, at_least=False).met is False
    assert Figure(0.5, 0.5, at_least=True).met is True
    assert Figure(0.49, 0.5, at_least=True).met is False
    assert Figure(math.nan, 0.5, at_least=True).met is False
    assert Figure(3.0).met is None
    with pytest.raises(ValueError, match="neither"):
        Figure(3.0, 0.5)


def test_figures_are_shown_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(report, "FOLDER", tmp_path / "bench")
    publish("serving", {"ratio": Figure(0.25, 0.5, at_least=False), "p50_ms": Figure(math.nan), "recall": Figure(0.1, 0.2, at_least=True)})
    assert json.loads((tmp_path / "bench" / "serving.json").read_text()) == {
        "ratio": {"value": 0.25, "goal": 0.5, "met": True},
        "p50_ms": {"value": None, "goal": None, "met": None},
        "recall": {"value": 0.1, "goal": 0.2, "met": False},
    }
    shown = capsys.readouterr().out
    assert "≤ 0.5  yes" in shown
    assert "≥ 0.2  NO" in shown
