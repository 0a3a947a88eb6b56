"""The drift rules of other tools, re-implemented from their sources so that they can be asked thousands of times, and checked against the tools
themselves (``check``, which needs their environments).

- Evidently 0.7.23, a column's default (``legacy/calculations/stattests/registry.py`` and beside it): above 1,000 reference rows, numbers by the
  Wasserstein distance over the reference's standard deviation, text (and numbers of at most five values) by the Jensen-Shannon distance (base e);
  drift from .1 on. At 1,000 rows or fewer, Kolmogorov-Smirnov or chi-square, p < .05.
- NannyML 0.13.1, univariate drift by Jensen-Shannon distance (base 2; numbers in Doane's bins of the reference), a window alerted above the mean
  plus three standard deviations of ten parts of the reference.
- The rule of AWS's drift sample: population stability index of ten bins of .2 or more, or Kolmogorov-Smirnov p < .05; text by the index alone.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2_contingency, ks_2samp, wasserstein_distance

from bench import peers

Values = npt.NDArray[np.float64]
"""Of a numeric column the numbers, of a text column each row's level as a number."""
Rule = Callable[[Values, Values, bool], bool]
"""(reference, window, whether numeric) → whether the tool says drift."""
CHUNKS = 10


def evidently_distance(reference: Values, window: Values, numeric: bool) -> float:
    """Its statistic above 1,000 reference rows."""
    if numeric and np.unique(reference).size > 5:
        return float(wasserstein_distance(reference, window) / max(float(np.std(reference)), 0.001))
    return float(jensenshannon(*_level_shares(reference, window)))


def evidently(reference: Values, window: Values, numeric: bool) -> bool:
    if reference.size > 1000:
        return evidently_distance(reference, window, numeric) >= 0.1
    if numeric and np.unique(reference).size > 5:
        return bool(ks_2samp(reference, window).pvalue < 0.05)
    shares = _level_shares(reference, window)
    return bool(chi2_contingency(np.stack([shares[0] * reference.size, shares[1] * window.size])).pvalue < 0.05)


def nannyml_distance(reference: Values, window: Values, numeric: bool) -> float:
    if not numeric:
        return float(jensenshannon(*_level_shares(reference, window), base=2))
    bins = np.histogram_bin_edges(reference, bins="doane")
    before, after = (np.histogram(values, bins)[0] / values.size for values in (reference, window))
    if (outside := 1 - after.sum()) > 0:
        before, after = np.append(before, 0.0), np.append(after, outside)
    return float(jensenshannon(before, after, base=2))


def nannyml_threshold(reference: Values, numeric: bool) -> float:
    parts = [nannyml_distance(reference, part, numeric) for part in np.array_split(reference, CHUNKS)]
    return float(np.mean(parts) + 3 * np.std(parts))


def nannyml(reference: Values, window: Values, numeric: bool) -> bool:
    return nannyml_distance(reference, window, numeric) > nannyml_threshold(reference, numeric)


def psi_or_ks(reference: Values, window: Values, numeric: bool) -> bool:
    if numeric:
        edges = np.unique(np.quantile(reference, np.linspace(0, 1, 11)[1:-1]))
        cells = (np.searchsorted(edges, values, "right") for values in (reference, window))
        before, after = (np.bincount(cell, minlength=edges.size + 1) / cell.size for cell in cells)
    else:
        before, after = _level_shares(reference, window)
    before, after = np.maximum(before, 1e-4), np.maximum(after, 1e-4)
    index = float(((after - before) * np.log(after / before)).sum())
    return index >= 0.2 or (numeric and bool(ks_2samp(reference, window, method="asymp").pvalue < 0.05))


RULES: dict[str, Rule] = {"evidently": evidently, "nannyml": nannyml, "psi_or_ks": psi_or_ks}


def _level_shares(reference: Values, window: Values) -> tuple[Values, Values]:
    levels = np.unique(np.concatenate([reference, window]))
    shares = [np.bincount(np.searchsorted(levels, values), minlength=levels.size) / values.size for values in (reference, window)]
    return shares[0], shares[1]


_EVIDENTLY = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import pandas as pd
from evidently.legacy.calculations.stattests import jensenshannon_stat_test, wasserstein_stat_test
from evidently.legacy.core import ColumnType
one, two = (pd.read_parquet(f"{sys.argv[1]}/{name}.parquet") for name in ("reference", "window"))
found = {}
for name in one:
    test, kind = (jensenshannon_stat_test, ColumnType.Categorical) if name == "text" else (wasserstein_stat_test, ColumnType.Numerical)
    found[name] = float(test(one[name], two[name], kind, None).drift_score)
print(json.dumps(found))
"""
_NANNYML = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import nannyml, pandas as pd
one, two = (pd.read_parquet(f"{sys.argv[1]}/{name}.parquet") for name in ("reference", "window"))
calculator = nannyml.UnivariateDriftCalculator(
    column_names=list(one), treat_as_categorical=["text"], continuous_methods=["jensen_shannon"], categorical_methods=["jensen_shannon"],
    chunk_number=10,
).fit(one)
found = {}
result = calculator.calculate(two).filter(period="analysis").to_df()
for name in one:
    found[name] = float(result[(name, "jensen_shannon", "value")].iloc[0])
    found[name + "_threshold"] = float(result[(name, "jensen_shannon", "upper_threshold")].iloc[0])
print(json.dumps(found))
"""


def check() -> dict[str, float]:
    """The largest difference between the rules' numbers and those of the tools themselves, by tool, on one sample."""
    rng = np.random.default_rng(7)
    one, two = ({"number": rng.lognormal(size=rows), "text": rng.zipf(1.6, rows).clip(max=40).astype(float)} for rows in (5_000, 3_000))
    two["number"] *= 1.1
    with tempfile.TemporaryDirectory() as folder:
        for name, columns in (("reference", one), ("window", {name: values[:300] for name, values in two.items()})):
            frame = pd.DataFrame(columns)
            frame.assign(text=frame["text"].astype(int).astype(str)).to_parquet(Path(folder) / f"{name}.parquet", index=False)
        theirs = {"evidently": peers.ask("evidently", _EVIDENTLY, [folder]), "nannyml": peers.ask("nannyml", _NANNYML, [folder])}
    window = {name: values[:300] for name, values in two.items()}
    ours = {
        "evidently": {name: evidently_distance(one[name], window[name], name == "number") for name in one},
        "nannyml": {name: nannyml_distance(one[name], window[name][:30], name == "number") for name in one}
        | {f"{name}_threshold": nannyml_threshold(one[name], name == "number") for name in one},
    }
    print(json.dumps({"ours": ours, "theirs": theirs}, indent=1))
    return {tool: max(abs(ours[tool][name] - theirs[tool][name]) for name in ours[tool]) for tool in ours}
