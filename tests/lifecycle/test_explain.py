from __future__ import annotations

import numpy as np
import pytest

from include.lifecycle.explain import Reason, ranking, reasons

FEATURES = ("age", "witnesses", "amount")
CONTRIBUTIONS = np.array([[0.5, -2.0, 0.0, -3.0], [-0.1, 0.0, 0.2, -3.0]])


def test_the_strongest_reasons_come_first_and_those_without_effect_not_at_all() -> None:
    found = reasons(FEATURES, [[40, np.nan, 10], [30, 1, 20]], CONTRIBUTIONS, 3)
    assert found == [
        (Reason("witnesses", None, -2.0), Reason("age", 40.0, 0.5)),
        (Reason("amount", 20.0, 0.2), Reason("age", 30.0, -0.1)),
    ]
    assert [len(row) for row in reasons(FEATURES, np.zeros((2, 3)), CONTRIBUTIONS, 1)] == [1, 1]


def test_ranking_is_by_mean_absolute_contribution() -> None:
    found = ranking(FEATURES, CONTRIBUTIONS)
    assert [row["feature"] for row in found] == ["witnesses", "age", "amount"]
    assert [row["mean_absolute_contribution"] for row in found] == pytest.approx([1.0, 0.3, 0.1])
    assert found[1]["mean_contribution"] == pytest.approx(0.2)
    assert sum(row["share"] for row in found) == pytest.approx(1)
