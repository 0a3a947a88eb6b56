"""How long Airflow takes to parse the DAG files, beyond importing ``airflow.sdk`` and the provider's operators, which every such DAG pays for.

``python -m bench.dag_parsing``: each file in a fresh interpreter per round, against a peer interpreter that only imports those.
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
from airflow.sdk import Asset, AsyncCallback, BaseOperatorLink, CronTriggerTimetable, DeadlineAlert, Param, dag, get_current_context, task
import airflow.providers.amazon.aws.operators.sagemaker, airflow.providers.amazon.aws.notifications.sns
import airflow.providers.standard.operators.hitl, airflow.providers.amazon.aws.hooks.s3
task.branch
Asset("peer")
"""
_MEASURE = """
import time, runpy, sys
{peer}
started = time.perf_counter()
for path in sys.argv[1:]:
    runpy.run_path(path)
print(time.perf_counter() - started)
"""


def main() -> None:
    files = [str(path) for path in sorted((ROOT / "dags").glob("*.py"))]
    with tempfile.TemporaryDirectory() as home:
        environment = {"AIRFLOW_HOME": home, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}", "PATH": "/usr/bin:/bin"}
        seconds = []
        for _ in range(ROUNDS + 1):
            command = [sys.executable, "-c", _MEASURE.format(peer=_PEER), *files]
            run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
            seconds.append(float(run.stdout.split()[-1]))
    seconds = seconds[1:]  # the first compiled the bytecode
    print(f"{len(files)} files, {ROUNDS} rounds: {min(seconds):.3f} to {max(seconds):.3f} s")
    publish("dag_parsing", {"parse_seconds": Figure(statistics.median(seconds), goal=0.3, at_least=False)})


if __name__ == "__main__":
    main()
