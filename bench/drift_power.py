"""How surely drift is found, and how soon: ours, and the rules of Evidently, NannyML and AWS's sample beside it.

``python -m bench.drift_power [--windows N]``. First, on rows with days (7 of the window, 5,000 rows; 28 of the baseline, and 84, of as many
rows a day), at the level and the floor of a domain's default, in a family of 26 columns: a shift of a numeric column by .2 standard deviations,
and a level that rises from 5 % to 8 %, among 10 levels and among 1,000.

Then the changes that the simulators plant: windows of the last 7 days, one a day, from the change on, against the 28 days before it. Of each
change, the days until the first window in which a rule finds drift in any feature (NaN: in none of 14 days; a change of who commits fraud, and
not of what is scored, cannot be seen here), and, of each domain, the share of windows without a change in which it does, from 8 days before it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from bench import auto_claims, drift_rules, simulation
from bench.report import Figure, publish
from include.domains.auto_claims import simulator as claims
from include.domains.auto_claims.domain import DOMAIN as CLAIMS
from include.domains.card_payments import simulator as payments
from include.domains.card_payments.domain import DOMAIN as PAYMENTS
from include.lifecycle.domain import Domain, Monitoring
from include.lifecycle.drift import column_drift, column_level, drift
from include.lifecycle.features import feature_names
from include.lifecycle.profile import MULTIVARIATE, Profile, Schema

FAMILY = 26
BASELINES, WINDOW = (28, 84), (7, 5_000)
ROWS_A_DAY = WINDOW[1] // WINDOW[0]
FIRST_DAY = date(2024, 1, 1)
CHANGE_AT, DAYS_AFTER, DAYS_BEFORE = 77, 14, 8
"""Day of the change; how long a rule is given; and how many windows before it."""
CLAIMS_A_DAY = 220
POPULATION, RADIUS, FEATURES_FROM, SEED = (1_500, 3_000), 8.0, 35, 20_261_122

Rows = Callable[[np.random.Generator, int, bool], npt.NDArray[Any]]


def _normal(rng: np.random.Generator, rows: int, changed: bool) -> npt.NDArray[Any]:
    return rng.normal(0.2 if changed else 0.0, 1.0, rows)


def _category(levels: int) -> Rows:
    def draw(rng: np.random.Generator, rows: int, changed: bool) -> npt.NDArray[Any]:
        share = 0.08 if changed else 0.05
        others = rng.integers(1, levels, rows)
        return np.char.add("level ", np.where(rng.random(rows) < share, 0, others).astype(str))

    return draw


PLANTED: dict[str, Rows] = {"shift_of_.2_sd": _normal, "5%_to_8%_of_10_levels": _category(10), "5%_to_8%_of_1000_levels": _category(1_000)}


def power(draw: Rows, days: int, windows: int) -> Iterator[tuple[str, float]]:
    """Share of windows in which each rule finds the change; a new baseline every ten windows."""
    monitoring = Monitoring()
    level = column_level(monitoring.level, FAMILY)
    found: dict[str, list[bool]] = {"ours": [], **{tool: [] for tool in drift_rules.RULES}}
    for number in range(windows // 10):
        rng = np.random.default_rng([SEED, number])
        reference, its_days = draw(rng, days * ROWS_A_DAY, False), _days(rng, 0, days, days * ROWS_A_DAY)
        schema = Schema.of({"column": pa.array(reference)})
        baseline = Profile.of(schema, pa.table({"column": reference}), its_days)
        for _ in range(10):
            values = draw(rng, WINDOW[1], True)
            window = Profile.of(schema, pa.table({"column": values}), _days(rng, days, *WINDOW))
            result = column_drift(baseline, window, "column", level=level, minimum_effect=monitoring.minimum_effect)
            found["ours"].append(result.drifted)
            numeric = values.dtype.kind == "f"
            one, two = (reference, values) if numeric else _coded(reference, values)
            for tool, rule in drift_rules.RULES.items():
                found[tool].append(rule(one, two, numeric))
    return ((tool, float(np.mean(flags))) for tool, flags in found.items())


def _days(rng: np.random.Generator, first: int, days: int, rows: int) -> pa.Array:
    return pa.array(np.datetime64(FIRST_DAY) + np.sort(rng.integers(first, first + days, rows)))


def _coded(one: npt.NDArray[Any], two: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Levels as numbers."""
    codes = np.unique(np.concatenate([one, two]), return_inverse=True)[1].astype(float)
    return codes[: one.size], codes[one.size :]


def claims_rows(change: str | None) -> pd.DataFrame:
    """Features and ``day`` of the claims, by the domain's own SQL."""
    days = CHANGE_AT + DAYS_AFTER
    found = claims.simulate(days, CLAIMS_A_DAY * days, FIRST_DAY, SEED, change, FIRST_DAY + timedelta(days=CHANGE_AT) if change else None)
    with tempfile.TemporaryDirectory() as scratch:
        for name, table in (("claims", found.claims), ("customers", found.customers)):
            table.to_csv(Path(scratch) / f"{name}.csv", index=False)
        rows = auto_claims.reference_features(Path(scratch), year=FIRST_DAY.year)
    rows["day"] = found.event_times.dt.tz_localize(None).to_numpy().astype("datetime64[D]")[rows.index - 1]
    return rows.assign(event_id=rows.index)


def payments_rows(change: str | None) -> pd.DataFrame:
    """Features and ``day`` of the payments, by the domain's own SQL."""
    changed = FIRST_DAY + timedelta(days=CHANGE_AT) if change else None
    found = payments.simulate_population(*POPULATION, CHANGE_AT + DAYS_AFTER, FIRST_DAY, SEED, change, changed, radius=RADIUS)
    rows = simulation.payment_features(found, FIRST_DAY + timedelta(days=FEATURES_FROM))
    rows["day"] = rows["event_time"].dt.tz_localize(None).to_numpy().astype("datetime64[D]")
    return rows.sort_values(["event_time", "event_id"], ignore_index=True)


DOMAINS: dict[str, tuple[Domain, Any, Callable[[str | None], pd.DataFrame]]] = {
    "claims": (CLAIMS, claims, claims_rows),
    "payments": (PAYMENTS, payments, payments_rows),
}


def drifted(domain: Domain, rows: pd.DataFrame, last_days: range, baseline_end: int) -> dict[str, list[bool]]:
    """By rule, whether the 7 days up to and with each of the last days drifted from the 28 days before ``baseline_end``. Days are counted from
    the first."""
    names = feature_names(domain, [name for name in rows.columns if name not in {"label", "scenario", "day"}])
    day = (rows["day"] - pd.Timestamp(FIRST_DAY)).dt.days.to_numpy()
    reference = rows[(day >= baseline_end - BASELINES[0]) & (day < baseline_end)]
    schema = Schema.of(dict(zip(names, (pa.array(reference[name].to_numpy(float)) for name in names), strict=True)))
    baseline = _profile(schema, reference, names)
    family, monitoring = [*names, MULTIVARIATE], domain.monitoring
    found: dict[str, list[bool]] = {"ours": [], **{tool: [] for tool in drift_rules.RULES}}
    for last in last_days:
        part = rows[(day > last - WINDOW[0]) & (day <= last)]
        window = _profile(schema, part, names)
        results = drift(baseline, window, family, level=monitoring.level, minimum_effect=monitoring.minimum_effect)
        found["ours"].append(any(result.drifted for result in results))
        if moved := [result for result in results if result.drifted]:
            print(f"  day {last}:", *(f"{result.name} (since {result.began})" for result in moved), flush=True)
        for tool, rule in drift_rules.RULES.items():
            found[tool].append(any(_flagged(rule, reference[name].to_numpy(float), part[name].to_numpy(float)) for name in names))
    return found


def _profile(schema: Schema, rows: pd.DataFrame, names: list[str]) -> Profile:
    table = pa.table({name: rows[name].to_numpy(float) for name in names})
    return Profile.of(schema, table, pa.array(rows["day"].to_numpy().astype("datetime64[D]")))


def _flagged(rule: drift_rules.Rule, reference: npt.NDArray[np.float64], window: npt.NDArray[np.float64]) -> bool:
    one, two = (values[np.isfinite(values)] for values in (reference, window))
    return bool(min(one.size, two.size)) and rule(one, two, True)


def days_until_found(name: str) -> Iterator[tuple[str, Figure]]:
    domain, simulator, rows_of = DOMAINS[name]
    print(f"{name}, no change", flush=True)
    rows = rows_of(None)
    quiet = drifted(domain, rows, range(CHANGE_AT - 1, CHANGE_AT + DAYS_AFTER), CHANGE_AT - DAYS_BEFORE)
    for rule, flags in quiet.items():
        yield f"{name}_no_change_{rule}_windows", Figure(float(np.mean(flags)))
    for change in simulator.CHANGES:
        print(f"{name}, {change}", flush=True)
        changed = drifted(domain, rows_of(change), range(CHANGE_AT, CHANGE_AT + DAYS_AFTER), CHANGE_AT)
        for rule, flags in changed.items():
            yield f"{name}_{change}_{rule}_days", Figure(float(np.argmax(flags) + 1) if any(flags) else np.nan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=400, help="of each planted size")
    options = parser.parse_args()
    published: dict[str, Figure] = {}
    for name, draw in PLANTED.items():
        for days in BASELINES:
            for rule, share in power(draw, days, options.windows):
                published[f"{name}_{days}_days_{rule}"] = Figure(share, *((0.95, True) if rule == "ours" else (None, None)))
    for name in DOMAINS:
        published |= dict(days_until_found(name))
    publish("drift_power", published)


if __name__ == "__main__":
    main()
