"""``python -m bench.estimated_quality``: windows lie after the baseline, estimates are compared with what came true, figures add up."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from bench import estimated_quality as bench
from include.domains.auto_claims.domain import DOMAIN
from include.lifecycle.calibration import sigmoid


def a_case(name: str = "claims", rows: int = 16_000, baseline: int = 5_000) -> bench.Case:
    rng = np.random.default_rng(0)
    odds = rng.normal(-4.2, 1.6, rows)
    frame = pd.DataFrame({
        "label": (rng.random(rows) < sigmoid(odds)).astype(float),
        "score": sigmoid(1.3 * odds),
        "amount": rng.lognormal(8, 1, rows),
        "day": np.datetime64("2026-01-01", "s") + np.arange(rows) * 40 // rows * np.timedelta64(1, "D"),
        "group": np.arange(rows).astype(str),
    })  # fmt: skip
    return bench.Case(name, DOMAIN, frame, baseline)


def test_windows_lie_after_the_baseline_and_one_after_the_other() -> None:
    found = list(a_case().windows())
    assert {size for size, _ in found} == {500, 2_000, 10_000}
    assert all(place.start >= 5_000 and place.stop <= 16_000 and place.stop - place.start == size for size, place in found)
    small = [place for size, place in found if size == 500]
    assert len(small) == 22
    assert all(before.stop <= after.start for before, after in itertools.pairwise(small))


def test_estimates_are_near_and_figures_leave_concept_drift_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "nannyml", lambda cases: {
        case.name: [{"roc_auc": 0.5, "average_precision": 0.0} for _ in case.windows()] for case in cases
    })  # fmt: skip
    windows = bench.measured([a_case(), a_case("claims_moved_fraud")], with_peers=True)
    found = bench.figures(windows)
    assert found["all.windows"].value == found["concept.windows"].value == found["claims.windows"].value
    assert found["windows_of_10000.error.roc_auc"].value < 0.03
    assert found["all.coverage.roc_auc"].value > 0.85
    assert found["all.found"].value == 0
    expected = windows.loc[windows["case"] == "claims", "realised.roc_auc"].mean() - 0.5
    assert found["all.error_nannyml.roc_auc"].value == pytest.approx(expected)
    assert found["all.error.roc_auc"].goal == pytest.approx(expected)
    assert found["all.error.roc_auc"].met
    assert "claims_moved_fraud.windows" not in found


def test_without_peers_there_is_no_goal() -> None:
    found = bench.figures(bench.measured([a_case(rows=8_000)], with_peers=False))
    assert all(figure.goal is None for figure in found.values())
    assert not any("nannyml" in name for name in found)
