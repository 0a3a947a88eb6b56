"""How long Airflow takes to parse the DAG files, beyond importing ``airflow.sdk`` and the providers' parts, which every such DAG pays for.

``python -m bench.dag_parsing``: all files in a fresh interpreter a round, which has imported those before; by the clock, and by the processor.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile

from bench.report import Figure, publish
from include.settings import ROOT

ROUNDS = 5
# airflow.sdk loads its names lazily: importing it means naming what a DAG file names.
_PEER = """
from airflow.sdk import Asset, AssetOrTimeSchedule, AssetWatcher, AsyncCallback, BaseOperatorLink, CronTriggerTimetable, DeadlineAlert, Param
from airflow.sdk import dag, get_current_context, task, task_group
import airflow.providers.amazon.aws.operators.sagemaker, airflow.providers.amazon.aws.notifications.sns
import airflow.providers.standard.operators.hitl, airflow.providers.amazon.aws.hooks.s3, airflow.providers.amazon.aws.triggers.sqs
task.branch, task.sensor
Asset("peer")
"""
_MEASURE = """
import time, runpy, sys
{peer}
started, began = time.perf_counter(), time.process_time()
for path in sys.argv[1:]:
    runpy.run_path(path)
print(time.perf_counter() - started, time.process_time() - began)
"""


def main() -> None:
    files = [str(path) for path in sorted((ROOT / "dags").glob("*.py"))]
    with tempfile.TemporaryDirectory() as home:
        environment = {"AIRFLOW_HOME": home, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}", "PATH": "/usr/bin:/bin"}
        rounds = []
        for _ in range(ROUNDS + 1):
            command = [sys.executable, "-c", _MEASURE.format(peer=_PEER), *files]
            run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
            rounds.append([float(word) for word in run.stdout.split()[-2:]])
    seconds, processor = zip(*rounds[1:], strict=True)  # the first compiled the bytecode
    print(f"{len(files)} files, {ROUNDS} rounds: {min(seconds):.3f} to {max(seconds):.3f} s")
    print(f"of the processor: {min(processor):.3f} to {max(processor):.3f} s")
    figures = {"parse_seconds": Figure(statistics.median(seconds), goal=0.3, at_least=False)}
    # what else the machine does moves this less
    publish("dag_parsing", figures | {"parse_processor_seconds": Figure(statistics.median(processor))})


if __name__ == "__main__":
    main()
