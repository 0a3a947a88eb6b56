"""Every way through retrain_and_rollout, by Airflow's rules of triggering and skipping: each ends in ``settle``, and none waits for ever."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def dag(tmp_path_factory: pytest.TempPathFactory) -> Any:
    os.environ["AIRFLOW_HOME"] = str(tmp_path_factory.mktemp("airflow"))
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=str(ROOT / "dags" / "retrain_and_rollout.py"), bundle_path=ROOT / "dags", bundle_name="testing")
    return bag.dags["auto_claims.retrain_and_rollout"]


def walk(dag: Any, choices: dict[str, list[str]], failing: frozenset[str] = frozenset()) -> dict[str, str]:
    """Task → "success", "skipped", "failed" or "upstream_failed". ``choices``: branching task → the tasks it follows."""
    states: dict[str, str] = {}
    skipped: set[str] = set()
    waiting = list(dag.topological_sort())
    for task in waiting:
        before = [states[name] for name in task.upstream_task_ids]
        states[task.task_id] = state = "skipped" if task.task_id in skipped else _state(task.trigger_rule.value, before)
        if state == "success" and task.task_id in failing:
            states[task.task_id] = "failed"
        elif state == "success" and task.task_id in choices:
            followed = set(choices[task.task_id])
            for name in choices[task.task_id]:
                followed |= set(dag.get_task(name).get_flat_relative_ids(upstream=False))
            skipped |= task.downstream_task_ids - followed
    return states


def _state(rule: str, before: list[str]) -> str:
    if rule == "all_done" or not before:
        return "success"
    if {"failed", "upstream_failed"} & set(before):
        return "upstream_failed"
    if rule == "none_failed_min_one_success":
        return "success" if "success" in before else "skipped"
    assert rule == "all_success", rule
    return "skipped" if "skipped" in before else "success"


GO = {"compare": ["plan"]}
TO_RAMP = {"choose_after_shadow": ["create_ramp_config", "settle"]}
ASK_RAMP = {"choose_after_shadow": ["ask_before_ramp", "settle"]}
ASK_PROMOTION = {"choose_after_ramp": ["ask_before_promotion", "watch_while_asked", "settle"]}
PROMOTE = {"choose_after_ramp": ["take_all_traffic", "settle"]}
YES_RAMP, NO_RAMP = {"ask_before_ramp": ["create_ramp_config"]}, {"ask_before_ramp": ["refuse_ramp"]}
YES, NO = {"ask_before_promotion": ["take_all_traffic"]}, {"ask_before_promotion": ["refuse_promotion"]}
TAKEN_BACK_RAMP: dict[str, list[str]] = {"ask_before_ramp": []}
TAKEN_BACK: dict[str, list[str]] = {"ask_before_promotion": []}
ASKED = {"ask_before_ramp", "ask_before_promotion", "watch_while_asked"}
ENDED = {"choose_after_ramp": ["settle"]}


@pytest.mark.parametrize(
    ("choices", "run", "skipped"),
    [
        (GO | TO_RAMP | PROMOTE, {"run_ramp", "take_all_traffic", "finish"}, {*ASKED, "refuse_ramp", "refuse_promotion"}),
        (GO | ASK_RAMP | YES_RAMP | ASK_PROMOTION | YES, {*ASKED, "run_ramp", "finish"}, {"refuse_ramp", "refuse_promotion"}),
        (GO | TO_RAMP | ASK_PROMOTION | YES, {"watch_while_asked", "finish"}, {"ask_before_ramp", "refuse_ramp", "refuse_promotion"}),
        (GO | ASK_RAMP | YES_RAMP | PROMOTE, {"run_ramp", "finish"}, {"refuse_ramp", "ask_before_promotion", "refuse_promotion"}),
        (GO | ASK_RAMP | NO_RAMP, {"refuse_ramp"}, {"run_ramp", "ask_before_promotion", "watch_while_asked", "take_all_traffic"}),
        (GO | TO_RAMP | ASK_PROMOTION | NO, {"refuse_promotion"}, {"take_all_traffic", "approve", "finish", "refuse_ramp"}),
        (GO | ASK_RAMP | TAKEN_BACK_RAMP, {"ask_before_ramp"}, {"create_ramp_config", "refuse_ramp", "watch_while_asked", "take_all_traffic"}),
        (GO | TO_RAMP | ASK_PROMOTION | TAKEN_BACK, {"watch_while_asked"}, {"refuse_promotion", "take_all_traffic", "approve", "finish"}),
        (GO | TO_RAMP | ENDED, {"run_ramp"}, {*ASKED, "take_all_traffic", "refuse_ramp", "refuse_promotion"}),
        (GO | {"choose_after_shadow": ["settle"]}, {"run_shadow"}, {*ASKED, "create_ramp_config", "run_ramp", "take_all_traffic"}),
        (GO | {"choose_after_shadow": ["take_all_traffic", "settle"]}, {"take_all_traffic", "finish"}, {"create_ramp_config", "run_ramp"}),
        ({"compare": ["close_without_rollout"]}, {"close_without_rollout"}, {"plan", "begin_shadow", "run_shadow", "finish"}),
    ],
)
def test_paths(dag: Any, choices: dict[str, list[str]], run: set[str], skipped: set[str]) -> None:
    states = walk(dag, choices)
    assert {name for name in run if states[name] != "success"} == set()
    assert {name for name in skipped if states[name] != "skipped"} == set()
    assert states["settle"] == "success"
    assert set(states.values()) == {"success", "skipped"}  # else Airflow calls the run failed


FAILING = ["bring_shadow", "run_shadow", "bring_ramp", "run_ramp", "take_all_traffic", "bring_single", "finish", "ask_before_promotion"]


@pytest.mark.parametrize("failing", FAILING)
def test_whatever_fails_is_settled_and_told(dag: Any, failing: str) -> None:
    states = walk(dag, GO | TO_RAMP | ASK_PROMOTION | YES, frozenset({failing}))
    assert states[failing] == "failed"
    assert states["settle"] == states["settle_endpoint"] == states["tell"] == "success"


def test_a_promotion_asks_whether_it_goes_on_before_it_changes_anything(dag: Any) -> None:
    from sagemaker_lifecycle.rollout import unless_ended

    assert [name for name in dag.task_ids if dag.get_task(name)._pre_execute_hook is unless_ended] == ["approve", "bring_single"]


def test_settling_waits_for_no_task_that_only_settling_ends(dag: Any) -> None:
    assert "watch_while_asked" not in dag.get_task("settle").upstream_task_ids
    assert "settle" not in dag.get_task("watch_while_asked").get_flat_relative_ids(upstream=True)


def test_only_what_this_rollout_left_is_replaced(dag: Any) -> None:
    for name in ("bring_shadow", "bring_ramp", "bring_single"):
        assert dag.get_task(name).replaces, name
        assert not dag.get_task(name).undoes
    assert dag.get_task("settle_endpoint").undoes
