"""How often drift is found where nothing has changed: ours, and the rules of Evidently, NannyML and AWS's sample.

``python -m bench.false_alarms [--quick] [--peers]``. A family is 20 numeric and 5 text columns (2, 10, 50, 1,000 and 10,000 levels). Baselines
have 28 days, each serves windows of the 7 days after it. Data are

- ``undated``: independent rows without a day;
- ``rows``: independent rows with days, so that the days' variance has to be found to be none;
- ``days``: rows whose columns move from day to day (numbers by .1 standard deviations, log shares of levels by .1) and by weekday (as much).

Numbers have no distribution here, only ranks: cells end at quantiles, so that a heavy tail changes no count. Counts by cell are drawn as they
would come out of such rows; ``real`` draws the rows themselves (lognormal with sigma 2, the heavy tail), and profiles them, to show that it is
the same. Sizes ``a_b`` are rows of baseline and window.

Published of each: rates of p-values at most .1, .05, .01, .001 (of all columns), over that value, where 1 is uniform; and the family-wise rate
of the whole rule at the level .05 and at a domain's default, mean, median and 95th percentile over baselines. ``--peers``: the same of other
tools' rules on real rows, and their rules checked against the tools.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.special import ndtr, ndtri

from bench import drift_rules
from bench.report import Figure, publish
from include.lifecycle.day_effects import Days
from include.lifecycle.domain import Monitoring
from include.lifecycle.drift import LUCK, column_days
from include.lifecycle.drift_tests import compare
from include.lifecycle.profile import NO_DAY, Profile, Schema
from include.lifecycle.profile_schema import BINS, BUCKETS, LEVELS

Array = npt.NDArray[np.float64]

NUMERIC, TEXT_LEVELS = 20, (2, 10, 50, 1_000, 10_000)
COLUMNS = NUMERIC + len(TEXT_LEVELS)
BASELINE_DAYS, WINDOW_DAYS = 28, 7
FIRST_DAY = np.datetime64("2026-01-05")
DAY_SD, WEEKDAY_SD = 0.1, 0.1
LEVEL, FLOOR = 0.05, Monitoring().minimum_effect
RATES = (0.1, 0.05, 0.01, 0.001)
SIZES = ((5_000, 500), (20_000, 5_000), (200_000, 100_000), (5_000, 100_000))
KINDS = ("undated", "rows", "days")


@dataclass(frozen=True)
class Found:
    """``p_values`` and ``effects``: (baselines, windows, columns)."""

    p_values: Array
    effects: Array

    def family_rates(self, level: float, floor: float) -> Array:
        """Share of windows in which the rule finds drift in any column, by baseline."""
        drifted = (self.p_values <= level / COLUMNS / LUCK) & (self.effects >= floor)
        rates: Array = drifted.any(axis=2).mean(axis=1)
        return rates


def level_shares(levels: int) -> Array:
    """Some levels are ten times as frequent as others."""
    shares: Array = np.geomspace(1, 0.1, levels)
    shares /= shares.sum()
    return shares


def cell_shares() -> list[Array]:
    """Of each column, the shares of its cells when nothing varies."""
    found = [np.full(BINS, 1 / BINS)] * NUMERIC
    for levels in TEXT_LEVELS:
        shares = level_shares(levels)
        if levels > LEVELS:
            buckets = np.array([zlib.crc32(f"level {level}".encode()) % BUCKETS for level in range(levels)])
            shares = np.asarray(np.bincount(buckets, shares, BUCKETS), np.float64)
        found.append(shares)
    return found


class World:
    """Draws counts by day and cell. The weekdays' effects are those of the world; those of days are drawn with the days."""

    def __init__(self, kind: str, rng: np.random.Generator) -> None:
        self.kind, self.rng, self.shares = kind, rng, cell_shares()
        self.sd = DAY_SD if kind == "days" else 0.0
        self.weekdays = [rng.normal(size=(7, self._effects(place))) * (WEEKDAY_SD if self.sd else 0) for place in range(COLUMNS)]

    def draw(self, rows: int, first: int, days: int) -> list[Days]:
        """Of every column. Days are counted from the world's first."""
        if self.kind == "undated":
            return [Days((NO_DAY,), self.rng.multinomial(rows, shares)[None]) for shares in self.shares]
        dates = tuple(str(FIRST_DAY + first + day) for day in range(days))
        sizes = self.rng.multinomial(rows, np.full(days, 1 / days))
        weekday = (first + np.arange(days)) % 7
        return [Days(dates, self.rng.multinomial(sizes, self._of_days(place, weekday))) for place in range(COLUMNS)]

    def _effects(self, place: int) -> int:
        return 1 if place < NUMERIC else self.shares[place].size

    def _of_days(self, place: int, weekday: npt.NDArray[np.int64]) -> Array:
        """Shape (days, cells)."""
        shares = self.shares[place]
        if not self.sd:
            return np.tile(shares, (weekday.size, 1))
        effect = self.weekdays[place][weekday] + self.sd * self.rng.normal(size=(weekday.size, self._effects(place)))
        if place < NUMERIC:  # the column's mean moves
            edges = ndtri(np.linspace(0, 1, BINS + 1))
            return np.diff(ndtr(edges[None, :] - effect), axis=1)
        moved = shares * np.exp(effect)
        found: Array = moved / moved.sum(axis=1, keepdims=True)
        return found


def simulated(kind: str, baseline_rows: int, window_rows: int, baselines: int, windows: int, seed: int) -> Found:
    return _together(partial(_one_simulated, kind, baseline_rows, window_rows, windows, seed), baselines)


def _one_simulated(kind: str, baseline_rows: int, window_rows: int, windows: int, seed: int, number: int) -> Array:
    """p-values and effects of one baseline: (windows, columns, 2)."""
    world = World(kind, np.random.default_rng([seed, number]))
    baseline = world.draw(baseline_rows, 0, BASELINE_DAYS)
    found = np.empty((windows, COLUMNS, 2))
    for later in range(windows):
        for place, (then, now) in enumerate(zip(baseline, world.draw(window_rows, BASELINE_DAYS, WINDOW_DAYS), strict=True)):
            compared = compare(then, now, ordered=place < NUMERIC)
            found[later, place] = compared.p_value, compared.effect
    return found


def _together(one: Callable[[int], Array], baselines: int) -> Found:
    with ProcessPoolExecutor() as pool:
        both = np.stack(list(pool.map(one, range(baselines))))
    return Found(both[..., 0], both[..., 1])


def real_rows(rng: np.random.Generator, rows: int) -> dict[str, Array]:
    """Independent rows with a heavy tail. Text as level numbers."""
    numbers = {f"number_{column}": rng.lognormal(sigma=2, size=rows) for column in range(NUMERIC)}
    return numbers | {f"text_{levels}": rng.choice(levels, rows, p=level_shares(levels)).astype(float) for levels in TEXT_LEVELS}


def real(baseline_rows: int, window_rows: int, baselines: int, windows: int, seed: int) -> Found:
    """The same as ``simulated``, undated, from rows through Schema and Counter."""
    return _together(partial(_one_real, baseline_rows, window_rows, windows, seed), baselines)


def _one_real(baseline_rows: int, window_rows: int, windows: int, seed: int, number: int) -> Array:
    rng = np.random.default_rng([seed, number])
    table = _table(real_rows(rng, baseline_rows))
    schema = Schema.of({name: table[name] for name in table.column_names}, apart=table.column_names)
    baseline = Profile.of(schema, table)
    found = []
    for _ in range(windows):
        window = Profile.of(schema, _table(real_rows(rng, window_rows)))
        sides = ((column_days(baseline, name), column_days(window, name), name.startswith("number")) for name in baseline.columns)
        compared = [compare(then, now, ordered=ordered) for then, now, ordered in sides]
        found.append([(each.p_value, each.effect) for each in compared])
    return np.array(found)


def _table(columns: dict[str, Array]) -> pa.Table:
    texts = {name: pa.array([f"level {level:.0f}" for level in values]) for name, values in columns.items() if name.startswith("text")}
    return pa.table({name: texts.get(name, values) for name, values in columns.items()})


def figures(name: str, found: Found) -> Iterator[tuple[str, Figure]]:
    for rate in RATES:
        yield f"{name}_uniform_{rate:g}", Figure(float((found.p_values <= rate).mean() / rate))
    default = Monitoring().level
    for label, level, floor in (("5%", LEVEL, FLOOR), ("5%_no_floor", LEVEL, 0.0), ("default", default, FLOOR), ("default_no_floor", default, 0.0)):
        rates = found.family_rates(level, floor)
        goal = (level, False) if floor else (None, None)
        yield f"{name}_family_{label}_mean", Figure(float(rates.mean()))
        yield f"{name}_family_{label}_median", Figure(float(np.median(rates)), *goal)
        yield f"{name}_family_{label}_p95", Figure(float(np.quantile(rates, 0.95)), *goal)


def peers_figures(baselines: int, windows: int, seed: int) -> Iterator[tuple[str, Figure]]:
    """Share of windows in which a rule flags any column, and in which it flags a given column, on rows with no change."""
    for tool, difference in drift_rules.check().items():
        yield f"{tool}_difference_from_the_tool", Figure(difference, 1e-6, False)
    for before, after in SIZES[:2]:
        flagged: dict[str, list[list[bool]]] = {tool: [] for tool in drift_rules.RULES}
        for number in range(baselines):
            rng = np.random.default_rng([seed, number])
            reference = real_rows(rng, before)
            for _ in range(windows):
                window = real_rows(rng, after)
                for tool, rule in drift_rules.RULES.items():
                    flagged[tool].append([rule(values, window[name], name.startswith("number")) for name, values in reference.items()])
        for tool, flags in flagged.items():
            every = np.array(flags)
            yield f"{tool}_{before}_{after}_any_column", Figure(float(every.any(axis=1).mean()))
            yield f"{tool}_{before}_{after}_numeric", Figure(float(every[:, :NUMERIC].mean()))
            for place, levels in enumerate(TEXT_LEVELS):
                yield f"{tool}_{before}_{after}_{levels}_levels", Figure(float(every[:, NUMERIC + place].mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of it")
    parser.add_argument("--peers", action="store_true", help="other tools' rules, in place of ours")
    parser.add_argument("--only", nargs="*", metavar="KIND", choices=(*KINDS, "real"), default=(*KINDS, "real"), help="these kinds of data only")
    options = parser.parse_args()
    baselines, windows = (40, 25) if options.quick else (200, 50)
    if options.peers:
        publish("false_alarms_peers", dict(peers_figures(*((3, 5) if options.quick else (20, 10)), seed=3)))
        return
    published: dict[str, Figure] = {}
    for kind in [kind for kind in KINDS if kind in options.only]:
        for sizes in SIZES:
            name = f"{kind}_{sizes[0]}_{sizes[1]}"
            found = dict(figures(name, simulated(kind, *sizes, baselines, windows, seed=1)))
            print(name, *(f"{key.removeprefix(name)[1:]} {figure.value:.3g}" for key, figure in found.items()), flush=True)
            published |= found
    if "real" in options.only:
        published |= dict(figures("real_5000_500", real(5_000, 500, 20 if options.quick else 200, 50, seed=2)))
    publish("false_alarms", published)


if __name__ == "__main__":
    main()
