"""Every DAG parses, serializes, carries what people rely on, and is listed in docs/DAGs.md as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
STAGES = {"ingest_data", "train_model", "evaluate_history", "deploy_model", "score_batch", "monitor_model", "retrain_and_rollout", "steer_rollout"}
SHARED = {"receive_alarms"}  # one DAG for all domains


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory):
    os.environ["AIRFLOW_HOME"] = str(tmp_path_factory.mktemp("airflow"))
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    os.environ["AIRFLOW__CORE__PLUGINS_FOLDER"] = str(ROOT / "plugins")
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=str(ROOT / "dags"), bundle_path=ROOT / "dags", bundle_name="testing")
    assert not bag.import_errors
    return bag


def test_inventory(bag) -> None:
    from include.domains import catalogue

    assert not catalogue().failures, "a domain does not load"
    assert set(bag.dags) == {f"{domain}.{stage}" for domain in catalogue().domains for stage in STAGES} | SHARED
    assert {path.stem for path in (ROOT / "dags").glob("*.py")} == STAGES | SHARED


def test_every_dag_serializes_and_comes_back(bag) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    for dag_id, dag in bag.dags.items():
        again = DagSerialization.from_dict(DagSerialization.to_dict(dag))
        assert again.dag_id == dag_id
        assert set(again.task_ids) == set(dag.task_ids)


def test_every_dag_carries_what_people_rely_on(bag) -> None:
    from sagemaker_lifecycle.defaults import Tag

    for dag_id, dag in bag.dags.items():
        domains = set() if dag_id in SHARED else {dag_id.partition(".")[0]}
        assert dag.doc_md, dag_id
        assert "### Runbook" in dag.doc_md, dag_id
        assert {Tag.LIFECYCLE, *domains} < dag.tags, dag_id
        assert dag.tags <= {*(tag.value for tag in Tag), *domains}, dag_id
        assert dag.deadline, dag_id
        assert not dag.catchup, dag_id
        for name in dag.params:
            param = dag.params.get_param(name)
            assert param.description, f"{dag_id}: the form does not explain {name}"
            assert param.schema.get("title"), f"{dag_id}: the form does not name {name}"
        for task in dag.tasks:
            assert task.on_failure_callback, f"{dag_id}.{task.task_id} tells nobody when it fails"
            assert task.owner != "airflow", f"{dag_id}.{task.task_id} has no owner"


def test_jobs_defer_and_outlive_their_polls(bag) -> None:
    """The provider gives up on a deferred job after 60 polls whatever its limit; ours waits as long as the job may run."""
    from sagemaker_lifecycle.jobs import DomainProcessingOperator, DomainTrainingOperator

    from include.settings import current

    jobs = [task for dag in bag.dags.values() for task in dag.tasks if isinstance(task, (DomainProcessingOperator, DomainTrainingOperator))]
    assert jobs
    for task in jobs:
        limit = getattr(current(), task.job_kind.lower()).max_runtime_seconds
        assert task.deferrable
        assert task.max_attempts * task.check_interval >= limit


def test_training_and_monitoring_are_backfillable(bag) -> None:
    from airflow.sdk import CronTriggerTimetable

    for dag_id, dag in bag.dags.items():
        if dag_id.endswith((".train_model", ".monitor_model")):
            assert isinstance(dag.timetable, CronTriggerTimetable), dag_id


def test_whoever_finds_drift_rings_the_same_bell(bag) -> None:
    """The monitor's own alarms and those from outside: whoever waits for the asset hears of both."""
    for dag_id, dag in bag.dags.items():
        if dag_id.endswith(".monitor_model"):
            domain = dag_id.partition(".")[0]
            [bell] = dag.get_task("sound_alarm").outlets
            [other] = bag.dags["receive_alarms"].get_task(f"store_{domain}").outlets
            assert bell.name == other.name == f"{domain}.drift_alarm"


def test_a_backfill_of_monitoring_leaves_captures_alone(bag) -> None:
    for dag_id, dag in bag.dags.items():
        if dag_id.endswith(".monitor_model"):
            assert dag.get_task("choose_collection").downstream_task_ids == {"collect", "analyse"}
            assert dag.get_task("analyse").trigger_rule == "none_failed_min_one_success"


def test_ingestion_tells_scoring_which_days_it_wrote(bag) -> None:
    for dag_id, dag in bag.dags.items():
        if dag_id.endswith(".ingest_data"):
            [asset] = dag.get_task("build_features").outlets
            assert set(dag.get_task("build_features").tells) == {"first_day", "last_day", "as_of"}, dag_id
            scoring = bag.dags[dag_id.replace(".ingest_data", ".score_batch")]
            assert {each.name for each in scoring.timetable.asset_condition.objects} == {asset.name}, dag_id


def test_the_dags_page_is_up_to_date(bag) -> None:
    from include.laptop.dags_page import dags_page

    written = (ROOT / "docs" / "DAGs.md").read_text(encoding="utf-8")
    assert written == dags_page(ROOT / "dags"), "run `make docs`"


def test_no_plugin_error(tmp_path: Path) -> None:
    code = "from airflow import plugins_manager; plugins_manager.ensure_plugins_loaded(); print(dict(plugins_manager.get_import_errors()))"
    ours = {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}",
    }
    run = subprocess.run([sys.executable, "-c", code], env={**os.environ, **ours}, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().splitlines()[-1] == "{}"


def test_a_domain_that_does_not_load_takes_no_other_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from include import domains

    whole = ROOT / "include" / "domains" / "auto_claims"
    (tmp_path / "auto_claims").symlink_to(whole)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "domain.py").write_text("DOMAIN = 1 / 0\n")
    monkeypatch.setattr(domains, "ROOT", tmp_path)
    monkeypatch.setattr(domains, "__path__", [str(tmp_path)])
    domains.catalogue.cache_clear()
    try:
        found = domains.catalogue()
        assert list(found.domains) == ["auto_claims"]
        assert "ZeroDivisionError" in found.failures["broken"]
        with pytest.raises(LookupError, match="does not load"):
            domains.get("broken")
    finally:
        domains.catalogue.cache_clear()
