"""What an analysis costs: one window of 20 numeric and 5 text columns against a baseline, beside Evidently and NannyML on the same files.

``python -m bench.drift_speed [--rows 1000000] [--no-peers]``. Ours is ``python -m include.jobs monitor`` as anybody runs it, in a process of its own:
from the profile and the Parquet file to the written report, without the imports. The peers have their data in memory before their clock starts
(they need the baseline's rows beside the window's), and each runs in a virtual environment of its own (``bench.peers``): Evidently 0.7.23's
DataDriftPreset; NannyML 0.13.1's UnivariateDriftCalculator with its default methods, fitted on the baseline, ten chunks each. Nothing drifted in
these rows.

Memory is a process's largest resident set, imports and all; with ten times the rows it must stay what it is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench import peers
from bench.report import Figure, publish

NUMERIC = 20
LEVELS = (3, 10, 50, 200, 1000)
DAYS = 30
ROUNDS = 3
ROW_GROUP = 250_000
MEGABYTE = 1e6

OURS = """
import argparse, json, sys, time
from pathlib import Path
from bench.peers import peak_bytes
from include.jobs import monitor, monitoring_report
parser = argparse.ArgumentParser()
monitor.add_arguments(parser)
options = parser.parse_args(sys.argv[1:])

started = time.perf_counter()
status = monitor.run(options)
seconds = time.perf_counter() - started
print(json.dumps({"seconds": seconds, "peak": peak_bytes(), "status": status}))
"""
EVIDENTLY = """
import json, sys, time
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset
baseline, window = (pd.read_parquet(path).drop(columns="day") for path in sys.argv[1:3])
numeric = [name for name in baseline if name.startswith("number")]
text = [name for name in baseline if name.startswith("text")]
started = time.perf_counter()
definition = DataDefinition(numerical_columns=numeric, categorical_columns=text)
sets = [Dataset.from_pandas(frame, data_definition=definition) for frame in (window, baseline)]
found = Report([DataDriftPreset()]).run(*sets)
seconds = time.perf_counter() - started
columns = len(found.dict()["metrics"]) - 1
print(json.dumps({"seconds": seconds, "peak": peak_bytes(), "columns": columns}))
"""
NANNYML = """
import json, sys, time
import pandas as pd
import nannyml
baseline, window = (pd.read_parquet(path).drop(columns="day") for path in sys.argv[1:3])
started = time.perf_counter()
found = nannyml.UnivariateDriftCalculator(column_names=list(baseline), chunk_number=10).fit(baseline).calculate(window)
frame = found.to_df()
seconds = time.perf_counter() - started
columns = len({name for name, *_ in frame.columns if name != "chunk"})
print(json.dumps({"seconds": seconds, "peak": peak_bytes(), "columns": columns}))
"""


def write_rows(path: Path, rows: int, seed: int) -> None:
    """Independent rows: half of the numeric columns normal, half log-normal; the share of a text's level falls with the root of its rank."""
    generator = np.random.default_rng(seed)
    days = pa.array([date(2026, 3, 1) + timedelta(days=day) for day in range(DAYS)], pa.date32())
    writer = None
    for start in range(0, rows, ROW_GROUP):
        count = min(ROW_GROUP, rows - start)
        columns: dict[str, Any] = {"day": days.take(pa.array(generator.integers(0, DAYS, count)))}
        for number in range(NUMERIC):
            values = generator.normal(size=count)
            columns[f"number_{number}"] = values if number % 2 else np.exp(values)
        for levels in LEVELS:
            shares = 1 / np.sqrt(np.arange(1, levels + 1))
            places = pa.array(generator.choice(levels, count, p=shares / shares.sum()).astype(np.int32))
            names = pa.array([f"level {level}" for level in range(levels)])
            columns[f"text_{levels}"] = pa.DictionaryArray.from_arrays(places, names).dictionary_decode()
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def monitored(profile: Path, window: Path, out: Path, *more: str) -> dict[str, Any]:
    """One analysis in a process of its own: {"seconds", "peak" (bytes), "status"}."""
    command = [sys.executable, "-c", OURS, "--baseline", str(profile), "--current", str(window), "--out", str(out), *more]
    ended = subprocess.run(command, cwd=peers.ROOT, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found


def profiled(rows: Path, out: Path, *more: str) -> int:
    """The profile's bytes."""
    command = [sys.executable, "-m", "include.jobs", "profile", str(rows), "--out", str(out), *more]
    subprocess.run(command, cwd=peers.ROOT, check=True, stdout=subprocess.DEVNULL)
    return out.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the baseline and of the window (default: 1,000,000)")
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        baseline, window, large = folder / "baseline.parquet", folder / "window.parquet", folder / "large.parquet"
        for path, rows, seed in ((baseline, options.rows, 1), (window, options.rows, 2), (large, 10 * options.rows, 3)):
            write_rows(path, rows, seed)
        plain, daily = folder / "profile.json", folder / "daily.json"
        sizes = {"profile": profiled(baseline, plain, "--ignore", "day"), "daily": profiled(baseline, daily, "--time", "day")}
        ours = [monitored(plain, window, folder / "report", "--ignore", "day") for _ in range(ROUNDS)]
        by_day = [monitored(daily, window, folder / "report", "--time", "day") for _ in range(ROUNDS)]
        ten_times = monitored(plain, large, folder / "report", "--ignore", "day")
        large.unlink()
        tools = {}
        if not options.no_peers:
            tools = {tool: peers.ask(tool, program, [str(baseline), str(window)]) for tool, program in _PEERS.items()}
    figures = _figures(ours, by_day, ten_times, sizes)
    seconds = statistics.median(run["seconds"] for run in ours)
    for tool, found in tools.items():
        if found["columns"] != NUMERIC + len(LEVELS):
            raise RuntimeError(f"{tool} looked at {found['columns']} columns, not {NUMERIC + len(LEVELS)}")
        figures[f"{tool}_seconds"] = Figure(found["seconds"])
        figures[f"{tool}_peak_megabytes"] = Figure(found["peak"] / MEGABYTE)
        figures[f"{tool}_times_ours"] = Figure(found["seconds"] / seconds, _FASTER[tool], at_least=True)
    print(f"{options.rows:,} rows, {NUMERIC} numeric and {len(LEVELS)} text columns; medians of {ROUNDS} runs of ours, one of each peer")
    publish("drift_speed", figures)


_PEERS = {"evidently": EVIDENTLY, "nannyml": NANNYML}
_FASTER = {"evidently": 60.0, "nannyml": 8.0}


def _figures(
    ours: list[dict[str, Any]], by_day: list[dict[str, Any]], ten_times: dict[str, Any], sizes: dict[str, int]
) -> dict[str, Figure]:
    peak = max(run["peak"] for run in ours)
    return {
        "seconds": Figure(statistics.median(run["seconds"] for run in ours), 2.0, at_least=False),
        "seconds_by_day": Figure(statistics.median(run["seconds"] for run in by_day), 2.0, at_least=False),
        "seconds_ten_times_the_rows": Figure(ten_times["seconds"]),
        "peak_megabytes": Figure(peak / MEGABYTE, 1000.0, at_least=False),
        "peak_of_ten_times_the_rows": Figure(ten_times["peak"] / peak, 1.2, at_least=False),
        "profile_kilobytes": Figure(sizes["profile"] / 1e3, 150.0, at_least=False),
        "profile_of_30_days_kilobytes": Figure(sizes["daily"] / 1e3, 150.0, at_least=False),
    }


if __name__ == "__main__":
    main()
