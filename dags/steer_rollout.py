"""
### A person's hand on a rollout: stop it, promote it, roll it back, or set the challenger's share

Trigger it with an action and a reason; who triggered it is recorded with both in the rollout's history. It is done at once: gateways see it within a second
or two, and the run of `retrain_and_rollout` changes the endpoint and the registry. What makes no sense in a stage is refused, with the reason.

- **stop**: the challenger gets no traffic any more; the rollout ends as stopped;
- **roll_back**: the same, as a judgement on the challenger;
- **promote**: what is not proven, or not safe, yet is promoted by your word (the approval before a promotion is still asked, where the domain wants it);
- **set_share**: in the ramp only; the cap follows, and the bandit goes on from there.

### Runbook

| The log says | What to do |
|---|---|
| `no rollout of … is under way` | There is nothing to steer. To go back to an earlier model, trigger `deploy_model` with its package. |
| the endpoint still carries both models | Does `retrain_and_rollout` run, and the triggerer? They take the second variant away; gateways do not send anybody to it any more. |
| this DAG cannot run, because Airflow is down | `make job CMD='steer --domain … --action stop --why "…"'` (`python -m include.jobs steer …` with `FRAUD_EXPERIMENTS` set, off the laptop), or the gateway's `POST /v1/experiments/<domain>/commands`: neither needs Airflow. |
"""

from datetime import timedelta

from airflow.sdk import Param, dag, get_current_context, task
from sagemaker_lifecycle import rollout
from sagemaker_lifecycle.defaults import Tag, dag_settings

from include.domains import catalogue
from include.lifecycle.domain import Domain
from include.lifecycle.experiment import ACTIONS

PARAMS = {
    "action": Param("stop", enum=list(ACTIONS), title="Action", description="What the rollout is to do, at once."),
    "share": Param(
        None, type=["null", "number"], exclusiveMinimum=0, exclusiveMaximum=1, title="Share", description="For set_share: of the entities, 0 to 1."
    ),
    "why": Param("", type="string", minLength=3, title="Why", description="Kept in the rollout's history, with your name."),
}


def steer_rollout(domain: Domain) -> None:
    @dag(
        dag_id=f"{domain.name}.steer_rollout",
        dag_display_name=f"{domain.title}: steer rollout",
        schedule=None,
        params=PARAMS,
        **dag_settings(domain, Tag.ROLLOUT, __doc__, late_by=timedelta(minutes=10)),
    )
    def build() -> None:
        @task(multiple_outputs=True)
        def give_command() -> dict:
            return rollout.steer(domain, get_current_context())

        give_command()

    build()


for each in catalogue().domains.values():
    steer_rollout(each)
