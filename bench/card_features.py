"""Features of card payments: how fast against the pandas of the Fraud Detection Handbook, how equal, and in how much memory.

``python -m bench.card_features [--data FILE] [--million N]``: ``FILE`` has the published columns; without it, the published simulation's
parameters (5,000 customers, 10,000 terminals, 183 days) are simulated. Every measurement is a process of its own, from reading Parquet files to
the whole table of features:

- **ours**: ``features.sql`` by the function that every job uses, its checks among the time, on every processor as in a job; the fifteen
  published inputs alone, and all;
- **pandas**: the fifteen inputs as the book's text makes them (Le Borgne et al. 2022, Fraud Detection Handbook, §3.3: apply on weekend and
  night; group by customer, and by terminal, and roll time windows over each group), written for this comparison. It runs in our
  environment, as pandas is ours already, on one processor, as pandas does;
- **the job**: ``build-features`` itself over ten million simulated payments, from S3 (MiniStack) to S3 with its expectations and its default
  share of memory for DuckDB; then the run of one day after all this history. Its peak memory is its own high-water mark.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from bench.reference import INPUTS
from bench.report import Figure, publish
from include.laptop.stack import READY_SECONDS, Stack
from include.settings import ROOT

DOMAIN = "card_payments"
FIRST_DAY = date(2018, 4, 1)
DAYS = 183
CUSTOMERS, TERMINALS = 5_000, 10_000
SEED = 0
WINDOWS = (1, 7, 30)
DELAY = 7
ROUNDS = 3


# What is measured: each function runs in a process of its own and prints one line of JSON


def prepare(folder: Path, source: str) -> dict[str, Any]:
    """Writes ``folder/payments.parquet`` (the published columns) and the same as ``ingest`` leaves it: ``folder/curated/<table>/dt=…``.
    ``source``: a file, or a number of times the published customers and terminals to simulate."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    from include.domains.card_payments.simulator import simulate_population

    if Path(source).is_file():
        payments = pd.read_parquet(source).rename(columns=str.lower)
        payments["tx_datetime"] = payments["tx_datetime"].astype("datetime64[us]").dt.tz_localize("UTC")
    else:
        size = float(source)
        payments = simulate_population(round(size * CUSTOMERS), round(size * TERMINALS), DAYS, FIRST_DAY, SEED).transactions
    payments = payments[["transaction_id", "tx_datetime", "customer_id", "terminal_id", "tx_amount", "tx_fraud"]]
    payments = payments.sort_values(["tx_datetime", "transaction_id"], kind="stable")
    payments.to_parquet(folder / "payments.parquet", index=False)
    known_after = pd.Timedelta(days=DELAY)
    frauds = payments[payments["tx_fraud"] == 1]
    labels = pd.DataFrame({
        "event_id": frauds["transaction_id"].astype(str), "label": 1, "event_time": frauds["tx_datetime"],
        "available_at": frauds["tx_datetime"] + known_after, "delivered_at": frauds["tx_datetime"].dt.normalize() + known_after,
        "source": "labels",
    })  # fmt: skip
    times = {"event_time": payments["tx_datetime"], "available_at": payments["tx_datetime"]}
    delivered = payments["tx_datetime"].dt.normalize() + pd.Timedelta(days=1)
    events = payments.assign(tx_fraud=pd.array([None] * len(payments), "Int64"), **times, delivered_at=delivered, source="transactions")
    for table, rows in (("transactions", events), ("labels", labels)):
        (folder / "curated" / table).mkdir(parents=True)
        for day, found in rows.groupby(rows["event_time"].dt.date):
            path = folder / "curated" / table / f"dt={day}.parquet"
            pq.write_table(pa.Table.from_pandas(found, preserve_index=False), path, compression="zstd")
    days = payments["tx_datetime"].dt.date
    return {"rows": len(payments), "first_day": str(days.min()), "last_day": str(days.max())}


def ours(folder: Path, which: str) -> dict[str, Any]:
    """``which``: "inputs" or "all". Leaves ``folder/ours.parquet`` with the fifteen inputs by transaction."""
    import pyarrow.parquet as pq

    from include import domains
    from include.lifecycle import portable_sql
    from include.lifecycle.features import FEATURES, feature_names, fetch, materialise_features, open_database

    domain, sql = domains.get(DOMAIN), domains.features_sql(DOMAIN)
    if which == "inputs":
        everything = portable_sql.parse(sql, [table.name for table in domain.landing_tables]).sql("duckdb")
        sql = f"SELECT event_id, event_time, entity_id, group_id, amount, {', '.join(INPUTS)} FROM ({everything}) AS everything"  # noqa: S608
    tables = ["transactions", "labels"]
    files = {table: sorted((folder / "curated" / table).glob("*.parquet")) for table in tables}
    with tempfile.TemporaryDirectory() as scratch, open_database(Path(scratch)) as connection:
        started, worked = time.perf_counter(), time.process_time()
        columns = materialise_features(connection, domain, sql, files, datetime(2100, 1, 1, tzinfo=UTC), date(2000, 1, 1), date(2099, 12, 31))
        found = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - worked}
        chosen = ", ".join(["CAST(event_id AS BIGINT) AS transaction_id", "event_time", *INPUTS])
        pq.write_table(fetch(connection, f"SELECT {chosen} FROM {FEATURES} ORDER BY transaction_id"), folder / "ours.parquet")  # noqa: S608
    return {**found, "features": len(feature_names(domain, columns)), "memory": _peak_memory()}


def pandas(folder: Path) -> dict[str, Any]:
    """Leaves ``folder/pandas.parquet`` with the fifteen inputs by transaction."""
    import pandas as pd

    started, worked = time.perf_counter(), time.process_time()
    payments = pd.read_parquet(folder / "payments.parquet")
    payments["tx_datetime"] = payments["tx_datetime"].dt.tz_localize(None)
    payments["tx_during_weekend"] = payments["tx_datetime"].apply(lambda moment: int(moment.weekday() >= 5))
    payments["tx_during_night"] = payments["tx_datetime"].apply(lambda moment: int(moment.hour <= 6))

    def spending(rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows.sort_values("tx_datetime", kind="stable").set_index("tx_datetime", drop=False)
        for days in WINDOWS:
            rolling = rows["tx_amount"].rolling(f"{days}D")
            total, count = rolling.sum(), rolling.count()
            rows[f"customer_id_nb_tx_{days}day_window"] = count
            rows[f"customer_id_avg_amount_{days}day_window"] = total / count
        return rows.set_index("transaction_id", drop=False)

    def risk(rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows.sort_values("tx_datetime", kind="stable").set_index("tx_datetime", drop=False)
        unknown = rows["tx_fraud"].rolling(f"{DELAY}D")
        frauds_unknown, count_unknown = unknown.sum(), unknown.count()
        for days in WINDOWS:
            rolling = rows["tx_fraud"].rolling(f"{DELAY + days}D")
            frauds, count = rolling.sum() - frauds_unknown, rolling.count() - count_unknown
            rows[f"terminal_id_nb_tx_{days}day_window"] = count
            rows[f"terminal_id_risk_{days}day_window"] = (frauds / count).fillna(0)
        return rows.set_index("transaction_id", drop=False)

    for group, transformation in (("customer_id", spending), ("terminal_id", risk)):
        payments = payments.groupby(group)[list(payments.columns)].apply(transformation)
        payments = payments.sort_values("tx_datetime", kind="stable").reset_index(drop=True)
    found = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - worked}
    payments = payments.sort_values("transaction_id")
    payments[["transaction_id", *INPUTS]].to_parquet(folder / "pandas.parquet", index=False)
    return {**found, "memory": _peak_memory()}


def compare(folder: Path) -> dict[str, Any]:
    """The largest absolute difference between the two, over all inputs and transactions."""
    import numpy as np
    import pandas as pd

    mine, theirs = pd.read_parquet(folder / "ours.parquet"), pd.read_parquet(folder / "pandas.parquet")
    if not np.array_equal(mine["transaction_id"], theirs["transaction_id"]):
        raise RuntimeError("the two do not have the same transactions")
    differences = {name: float(np.max(np.abs(mine[name].to_numpy() - theirs[name].to_numpy(dtype=float)))) for name in INPUTS}
    return {"largest": max(differences.values()), "worst": max(differences, key=differences.__getitem__)}


def upload(folder: Path) -> dict[str, Any]:
    """The curated files of ``folder`` into the bucket of FRAUD_BUCKET."""
    from include.stores.layout import Layout
    from include.stores.objects import ObjectStore

    objects, layout = ObjectStore(os.environ["FRAUD_BUCKET"]), Layout(DOMAIN)
    for table, prefix in (("transactions", layout.curated("transactions")), ("labels", layout.labels)):
        for path in sorted((folder / "curated" / table).glob("*.parquet")):
            objects.upload(path, f"{prefix}/{path.stem}/data.parquet")
    return {}


def build(folder: Path, first_day: str, last_day: str) -> dict[str, Any]:
    """The job ``build-features``, by its command line."""
    from include.jobs.__main__ import main as jobs_main

    started = time.perf_counter()
    result_uri = f"s3://{os.environ['FRAUD_BUCKET']}/result.json"
    as_of = f"{date.fromisoformat(last_day) + timedelta(days=1)}T00:00:00Z"
    options = {"domain": DOMAIN, "first-day": first_day, "last-day": last_day, "as-of": as_of, "result": result_uri}
    status = jobs_main(["build-features", *(word for name, value in options.items() for word in (f"--{name}", value))])
    if status:
        raise RuntimeError(f"build-features ended with {status}")
    seconds = time.perf_counter() - started
    from include.stores.objects import ObjectStore

    result = ObjectStore(os.environ["FRAUD_BUCKET"]).get_json("result.json")
    return {"seconds": seconds, "rows": result["rows"], "bytes_read": result["bytes_read"], "memory": _peak_memory()}


MEASUREMENTS = {"prepare": prepare, "ours": ours, "pandas": pandas, "compare": compare, "upload": upload, "build": build}


def _peak_memory() -> float:
    """This process's high-water mark of resident memory, GB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e6


def run(name: str, folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """One measurement in a new process: what it returned."""
    command = [sys.executable, "-m", "bench.card_features", "measure", name, str(folder), *arguments]
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **single, **(environment or {})}, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name} {' '.join(arguments)}: {json.dumps(found)}", flush=True)
    return found


def against_pandas(folder: Path, source: str) -> dict[str, Figure]:
    run("prepare", folder, source)
    rounds = [(run("ours", folder, "all"), run("ours", folder, "inputs"))]
    book = run("pandas", folder)
    difference = run("compare", folder)
    rounds += [(run("ours", folder, "all"), run("ours", folder, "inputs")) for _ in range(ROUNDS - 1)]

    def median(which: int, what: str) -> float:
        return float(sorted(found[which][what] for found in rounds)[len(rounds) // 2])

    seconds = [found[1]["seconds"] for found in rounds]
    print(f"{ROUNDS} rounds of ours, {min(seconds):.1f} to {max(seconds):.1f} s for the inputs; pandas once")
    return {
        "speedup_15_inputs": Figure(book["seconds"] / median(1, "seconds"), goal=20, at_least=True),
        "speedup_15_inputs_processor_time": Figure(book["cpu_seconds"] / median(1, "cpu_seconds")),
        "speedup_all_features": Figure(book["seconds"] / median(0, "seconds")),
        "features": Figure(rounds[0][0]["features"]),
        "seconds_15_inputs": Figure(median(1, "seconds")),
        "seconds_all_features": Figure(median(0, "seconds")),
        "seconds_pandas": Figure(book["seconds"]),
        "largest_difference": Figure(difference["largest"], goal=1e-9, at_least=False),
        "memory_gb": Figure(median(0, "memory")),
        "memory_gb_pandas": Figure(book["memory"]),
    }


def through_the_job(folder: Path, million: float) -> dict[str, Figure]:
    # The published population makes 1.75 million payments in as many days.
    days = run("prepare", folder, str(million / 1.75))
    with _s3(folder) as environment:
        run("upload", folder, environment=environment)
        whole = run("build", folder, days["first_day"], days["last_day"], environment=environment)
        one = run("build", folder, days["last_day"], days["last_day"], environment=environment)
    curated = sum(path.stat().st_size for path in (folder / "curated").rglob("*.parquet"))
    return {
        "job_million_rows": Figure(whole["rows"] / 1e6),
        "job_seconds": Figure(whole["seconds"]),
        "job_memory_gb": Figure(whole["memory"], goal=4, at_least=False),
        "one_day_seconds": Figure(one["seconds"]),
        "one_day_rows": Figure(one["rows"]),
        "one_day_megabytes_read": Figure(one["bytes_read"] / 1e6),
        "history_megabytes": Figure(curated / 1e6),
        "one_day_memory_gb": Figure(one["memory"]),
    }


@contextmanager
def _s3(folder: Path) -> Iterator[dict[str, str]]:
    """A MiniStack of this bench's own with an empty bucket: the environment in which jobs find it."""
    stack = Stack(folder / "stack")
    [service] = [service for service in stack.services if service.name == "ministack"]
    stack.write_files()
    try:
        stack.processes.start(service)
        stack.processes.wait_until_ready(service, READY_SECONDS)
        stack.client("s3").create_bucket(Bucket=stack.settings.bucket)  # type: ignore[attr-defined]
        yield stack.job_environment
    finally:
        stack.down()


def main() -> None:
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(MEASUREMENTS[sys.argv[2]](Path(sys.argv[3]), *sys.argv[4:])))
        return
    options = argparse.ArgumentParser(prog="python -m bench.card_features", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, help="payments of the published shape; without it, they are simulated")
    options.add_argument("--million", type=float, default=10, help="rows of the job's run, in millions (0: leave it out)")
    asked = options.parse_args()
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as folder:
        figures |= against_pandas(Path(folder), str(asked.data or 1))
    if asked.million:
        with tempfile.TemporaryDirectory() as folder:
            figures |= through_the_job(Path(folder), asked.million)
    publish("card_features", figures)


if __name__ == "__main__":
    main()
