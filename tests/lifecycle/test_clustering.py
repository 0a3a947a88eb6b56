"""``include.lifecycle.clustering``: by hand, and against the variance that clustered sums really have."""

from __future__ import annotations

import numpy as np
import pytest

from include.lifecycle.clustering import Clusters


def test_on_one_day_it_is_the_variance_of_the_groups_sums() -> None:
    clusters = Clusters.of(["a", "a", "b", "c"], np.zeros(4, "datetime64[D]"))
    variance, degrees = clusters.variance(np.array([1.0, 2.0, 0.0, -3.0]))  # sums 3, 0, -3
    assert (variance, degrees) == (pytest.approx(18 * 3 / 2), 2)


def test_days_that_vary_count_and_days_that_do_not_leave_the_groups() -> None:
    groups, days = np.arange(12).astype(str), np.repeat(np.arange(4), 3)
    alternating = np.tile([1.0, 0.0, -1.0], 4)  # every day sums to 0
    alone, degrees = Clusters.of(groups, days).variance(alternating)
    assert (alone, degrees) == (pytest.approx(8 * 12 / 11), pytest.approx(11))
    shocks = np.repeat([1.0, 1.0, -1.0, -1.0], 3)
    together, fewer = Clusters.of(groups, days).variance(shocks)
    assert together > 3 * 12
    assert fewer < 4


def test_the_variance_is_that_of_sums_with_group_and_day_effects() -> None:
    rng, sums, found = np.random.default_rng(0), [], []
    for _ in range(300):
        groups, days = rng.integers(0, 200, 1_000), rng.integers(0, 30, 1_000)
        values = rng.normal(size=1_000) + 0.7 * rng.normal(size=200)[groups] + 0.3 * rng.normal(size=30)[days]
        sums.append(values.sum())
        found.append(Clusters.of(groups.astype(str), days).variance(values)[0])
    assert np.mean(found) == pytest.approx(np.var(sums), rel=0.3)


def test_a_covariance_is_positive_whatever_the_clusters() -> None:
    rng = np.random.default_rng(1)
    matrix, _ = Clusters.of(rng.integers(0, 9, 60).astype(str), rng.integers(0, 5, 60)).covariance(rng.normal(size=(60, 4)))
    assert (np.linalg.eigvalsh(matrix) > -1e-9).all()
    assert Clusters.of(np.zeros(0, str), np.zeros(0, "datetime64[D]")).day_count == 0
