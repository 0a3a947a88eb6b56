"""``python -m include.jobs NAME …``: the one entry point of the jobs' image.

``train`` and ``serve`` take no arguments: SageMaker passes everything through ``/opt/ml`` and the environment. ``profile`` and ``monitor`` are for
anybody's files: they need no bucket and no domain, and say themselves what their exit status means. Every other name is a processing job or a
command: it takes arguments, and with ``--result s3://…`` writes what it found there as JSON.

Exit status: 0 done; 1 a fault of ours (with a traceback); 2 refused because of what was given (without one). The reason also goes where
SageMaker looks for it: ``/opt/ml/output/failure`` of a training job, ``/opt/ml/output/message`` of a processing job.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from include.jobs.context import JobError, context_for, ml_directory

CONTAINER_COMMANDS = {"train": "include.jobs.train", "serve": "include.jobs.serve"}
JOBS = {
    "ingest": "include.jobs.ingest",
    "build-features": "include.jobs.build_features",
    "build-dataset": "include.jobs.build_dataset",
    "count-labels": "include.jobs.count_labels",
    "evaluate": "include.jobs.evaluate",
    "baseline": "include.jobs.baseline",
    "monitor-window": "include.jobs.monitor_window",
    "history": "include.jobs.history",
    "score-batch": "include.jobs.score_batch",
    "record-decisions": "include.jobs.record_decisions",
    "collect-predictions": "include.jobs.collect_predictions",
    "rollout-evidence": "include.jobs.rollout_evidence",
    "rollout-report": "include.jobs.rollout_report",
    "replay": "include.jobs.replay",
    "simulate": "include.jobs.simulate",
    "steer": "include.jobs.steer",
}
STANDALONE = {"profile": "include.jobs.profile_file", "monitor": "include.jobs.monitor"}
"""``run(options)`` returns the exit status; 3 is a fault of ours, since 1 has a meaning of its own."""
_REASON_BYTES = 1000  # SageMaker keeps the first kilobyte


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = arguments[0] if arguments else ""
    try:
        if name in CONTAINER_COMMANDS:
            importlib.import_module(CONTAINER_COMMANDS[name]).main()
            return 0
        module, options = _parse(arguments)
        if name in STANDALONE:
            return int(module.run(options))
        result = module.run(options, context_for(options.domain))
        _report(options, result)
    except JobError as error:
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        _leave_reason(f"refused: {error}")  # the DAGs' operators know by this word that trying again is useless
        return 2
    except Exception as error:
        traceback.print_exc()
        _leave_reason(f"{type(error).__name__}: {error}")
        return 3 if name in STANDALONE else 1
    return 0


def _parse(arguments: Sequence[str]) -> tuple[Any, argparse.Namespace]:
    """Imports the named job only, so that ``--help`` and one job's start do not pay for the others."""
    parser = argparse.ArgumentParser(
        prog="python -m include.jobs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", choices=[*CONTAINER_COMMANDS, *STANDALONE, *JOBS])
    job = parser.parse_args(arguments[:1]).job
    module = importlib.import_module((STANDALONE | JOBS)[job])
    options = argparse.ArgumentParser(
        prog=f"python -m include.jobs {job}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if job in JOBS:
        options.add_argument("--domain", required=True, help="a folder under include/domains")
        options.add_argument("--result", help="S3 URI that the result is written to, as JSON; without it, it is printed")
    module.add_arguments(options)
    return module, options.parse_args(arguments[1:])


def _report(options: argparse.Namespace, result: dict[str, Any]) -> None:
    if not options.result:
        print(json.dumps(result, indent=1, sort_keys=True, ensure_ascii=False))
        return
    objects = context_for(options.domain).objects
    objects.put_json(objects.key(options.result), result)


def _leave_reason(reason: str) -> None:
    output = ml_directory() / "output"
    if output.is_dir():
        kept = reason.encode(errors="replace")[:_REASON_BYTES].decode(errors="ignore")  # no half of a character at the end
        for name in ("failure", "message"):
            (output / name).write_text(kept, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
