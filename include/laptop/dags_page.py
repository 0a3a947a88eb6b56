"""``docs/DAGs.md``: every DAG's page in one file, written from the DAGs themselves, so that it cannot go stale (a test compares)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_HEAD = """# The DAGs

Written from the DAGs by `make docs`; edit their docstrings, not this page. Each DAG exists once for every domain under `include/domains`;
`receive_alarms` exists once for all of them.
"""


def dags_page(folder: Path) -> str:
    """Markdown: the stages in the order of the lifecycle, each with its DAGs, schedules, form and docstring."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=str(folder), bundle_path=folder, bundle_name="dags-folder")
    if bag.import_errors:
        raise RuntimeError(f"DAGs do not import: {bag.import_errors}")
    stages: dict[str, list[Any]] = {}
    for dag_id, dag in sorted(bag.dags.items()):
        stages.setdefault(dag_id.rpartition(".")[2], []).append(dag)  # without a domain before the dot: of all domains
    order = ["ingest_data", "train_model", "deploy_model", "monitor_model", "receive_alarms", "retrain_and_rollout", "steer_rollout"]
    parts = [_HEAD]
    for stage in sorted(stages, key=lambda name: (order.index(name) if name in order else len(order), name)):
        dags = stages[stage]
        parts.append(f"## {stage}\n\n| DAG | schedule |\n|---|---|\n" + "".join(f"| `{dag.dag_id}` | {_schedule(dag)} |\n" for dag in dags))
        if dags[0].params:
            parameters = "".join(_parameter(name, dags[0].params) for name in dags[0].params)
            parts.append(f"| parameter | default | meaning |\n|---|---|---|\n{parameters}")
        parts.append((dags[0].doc_md or "").strip() + "\n")
    return "\n".join(parts)


def _schedule(dag: Any) -> str:
    timetable = dag.timetable
    cron = getattr(getattr(timetable, "timetable", timetable), "expression", None)
    condition = getattr(timetable, "asset_condition", None)
    assets = sorted(asset.name for asset in condition.objects) if condition else []
    whens = [f"`{cron}` (UTC)"] if cron else []
    whens += [f"when {', '.join(f'`{name}`' for name in assets)} changes"] if assets else []
    return ", and ".join(whens) or "by hand"


def _parameter(name: str, params: Any) -> str:
    param = params.get_param(name)
    choices = f" ({', '.join(param.schema['enum'])})" if "enum" in param.schema else ""
    return f"| `{name}` | {'' if param.value is None else param.value} | {param.schema.get('title', '')}{choices}: {param.description or ''} |\n"
