"""Training as one group of tasks: what ``train_model`` and ``retrain_and_rollout`` share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow.sdk import task_group

from sagemaker_lifecycle.jobs import DomainProcessingOperator, DomainTrainingOperator
from sagemaker_lifecycle.registry import RegisterModelOperator

if TYPE_CHECKING:
    from airflow.sdk import XComArg

    from include.lifecycle.domain import Domain


@dataclass(frozen=True)
class Training:
    """The tasks' outputs that others need. ``evaluation``: metrics, the gate's word, the paired comparison. ``registered``: ``model_package``,
    ``gate_passed``."""

    evaluation: XComArg
    registered: XComArg


def train_and_register(domain: Domain, run: XComArg, retraining: bool = False) -> Training:
    """build_dataset → train → evaluate and baseline → register, as of ``run["as_of"]``.

    :param run: the output of the task that found the run's as-of; its task pushes ``as_of``, ``history`` and ``champion`` each by its key
    :param retraining: train on the window and the parts of ``Domain.rollout.training``
    """
    found: list[Training] = []

    @task_group(group_id="training", prefix_group_id=False)
    def training() -> None:
        build_dataset = DomainProcessingOperator(
            task_id="build_dataset",
            domain=domain.name,
            job="build-dataset",
            arguments={"as-of": run["as_of"], "retraining": retraining},
            writes_to="datasets",
        )
        train = DomainTrainingOperator(task_id="train", domain=domain.name, dataset=build_dataset.output["uri"], as_of=run["as_of"])
        champion = f"{{{{ (ti.xcom_pull(task_ids='{run.operator.task_id}', key='champion') or {{}}).get('model', '') }}}}"
        evaluate = DomainProcessingOperator(
            task_id="evaluate",
            domain=domain.name,
            job="evaluate",
            arguments={"dataset": build_dataset.output["uri"], "model": train.output["model"], "champion": champion},
            writes_to="evaluate",
            report="reports.report",
        )
        baseline = DomainProcessingOperator(
            task_id="baseline",
            domain=domain.name,
            job="baseline",
            arguments={"model": train.output["model"], "as-of": run["as_of"]},
            writes_to="baseline",
        )
        register = RegisterModelOperator(
            task_id="register",
            domain=domain.name,
            run=run,
            dataset=build_dataset.output,
            training=train.output,
            evaluation=evaluate.output,
            baseline=baseline.output,
        )
        found.append(Training(evaluate.output, register.output))

    training()
    return found[0]
