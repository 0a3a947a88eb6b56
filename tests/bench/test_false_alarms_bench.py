from __future__ import annotations

import numpy as np
import pytest

from bench import drift_rules, false_alarms


def test_counts_that_are_drawn_agree_with_rows_that_are_counted() -> None:
    # the share of small p-values over all columns, of few windows: roughly uniform in both
    for found in (false_alarms.simulated("undated", 2_000, 500, 4, 10, seed=1), false_alarms.real(2_000, 500, 4, 10, seed=1)):
        assert found.p_values.shape == (4, 10, false_alarms.COLUMNS)
        assert (found.p_values <= 0.1).mean() == pytest.approx(0.1, abs=0.04)
        assert found.family_rates(0.05, 0.0).mean() <= 0.1


def test_days_of_the_simulated_world_vary_more_than_rows_do() -> None:
    world = false_alarms.World("days", np.random.default_rng(3))
    counts = world.draw(2_000_000, 0, 28)[0].counts
    spread = counts[:, -1].std() / np.sqrt(counts[:, -1].mean())
    assert spread > 5


@pytest.mark.parametrize("rule", drift_rules.RULES.values(), ids=drift_rules.RULES)
def test_rules_of_other_tools_find_what_is_large_and_not_what_is_the_same(rule: drift_rules.Rule) -> None:
    rng = np.random.default_rng(5)
    reference = rng.normal(size=5_000)
    assert rule(reference, rng.normal(2, 1, 5_000), True)
    assert not rule(reference, reference, True)
    levels = rng.integers(0, 5, 5_000).astype(float)
    assert rule(levels, np.zeros(5_000), False)
    assert not rule(levels, levels, False)
