"""
### How the models of the past aged, and whether training more often would have paid

Runs after a backfill of `train_model`, or by hand (also where it was paused during the backfill: Airflow starts nothing for what was announced then).
The models of a backfill lie in the registry's history group, one for each as-of. Each is measured on every later period (week) with the labels that
have matured since: the **ageing matrix**.

1. **wait_for_backfill**: until no run of `train_model` that is queued or running may yet register a model of the past;
2. **list_models**: the newest model of each as-of. Announcements of one backfill may queue several runs; those that find nothing new are skipped;
3. **history**: measures what was not measured before (a model more is a row more) and writes the matrix. *Report*, under the task's Details,
   opens it: heat maps by metric, what a week more of age costs, and what retraining every 1, 2, 4, 8 weeks or never would have cost. The log
   ends with the answer in one sentence; beside the report lie `ageing.json` and `ageing.csv`.

Nothing live is touched. The same without Airflow: `make job CMD="history --domain card_payments"` (`python -m include.jobs history …` with
`FRAUD_BUCKET` set, elsewhere).

### Runbook

| The log says | What to do |
|---|---|
| `… has no model from a backfill` | The run was skipped. `airflow backfill create --dag-id <domain>.train_model --from-date … --to-date …`; on the laptop `make backfill`. |
| `these … models were measured before` | The run was skipped: nothing new. Trigger the DAG by hand to measure again, on later labels. |
| **wait_for_backfill** keeps waiting | Runs of `train_model` are queued or running: is that DAG, or the backfill, paused? After two days the task fails; clear it when they have ended. |
| `The models are too young to tell` | Labels have not matured since. There is no report yet: make a backfill over earlier dates, or trigger the DAG later, or with shorter periods. |
| `refused: nothing could be measured: … lacks … features` | `features.sql` has changed since these models were trained: make the backfill again, which trains with today's. |
| notes in the result | These models' rows are blank, for the reason given; the others stand. |
"""

from datetime import timedelta

from airflow.sdk import Param, dag, get_current_context, task
from sagemaker_lifecycle.defaults import Tag, as_of_param, dag_settings
from sagemaker_lifecycle.jobs import DomainProcessingOperator
from sagemaker_lifecycle.tasks import backfill_has_ended, kept_for_the_run, list_history

from include import assets, settings
from include.domains import catalogue
from include.lifecycle.domain import Domain

PARAMS = {
    "as_of": as_of_param("Labels known at this instant (UTC) count, and the events that have matured then. Empty: the end of the last day with features."),
    "period_days": Param(
        7, type="integer", minimum=1, title="Days of a period", description="The matrix's columns are periods of this length: 7 for weeks."
    ),
}


def evaluate_history(domain: Domain) -> None:
    @dag(
        dag_id=f"{domain.name}.evaluate_history",
        dag_display_name=f"{domain.title}: evaluate history",
        schedule=[assets.history_model(domain.name)],
        params=PARAMS,
        max_active_runs=1,  # so that runs that one backfill queued find each other's report
        **dag_settings(domain, Tag.MODEL, __doc__, late_by=timedelta(hours=6)),
    )
    def build() -> None:
        @task.sensor(mode="reschedule", poke_interval=max(5, 5 * settings.current().poll_seconds), timeout=timedelta(days=2))
        def wait_for_backfill() -> bool:
            return backfill_has_ended(domain, get_current_context())

        @task(multiple_outputs=True)
        def list_models() -> dict:
            context = get_current_context()
            return kept_for_the_run(context, lambda: list_history(domain, context))

        listed = list_models()
        history = DomainProcessingOperator(
            task_id="history",
            domain=domain.name,
            job="history",
            arguments={
                "models": listed["models"],
                "output": listed["output"],
                "as-of": listed["as_of"],
                "period-days": "{{ params.period_days }}",
            },
            report="reports.report",
        )
        wait_for_backfill() >> listed >> history

    build()


for each in catalogue().domains.values():
    evaluate_history(each)
