"""
### A model as of an instant: trained, evaluated, gated, registered, approved

Everything the run reads was available at its **as-of** instant: the parameter, or the end of the run's data interval. So a backfill retrains
history as it would have been; its models go to the history group of the registry, nobody is asked, nothing is deployed.

1. **resolve_as_of**: the instant, whether this is a backfill, and the live champion to beat;
2. **build_dataset**: matured labels and features as of then, split by time into train, validation and test;
3. **train**: XGBoost as a Training job, scores calibrated;
4. **evaluate**: metrics with intervals on the latest events, bias by facet, reasons, and the gate: is the model good
   enough, and on the same events not worse than the champion? *Report*, under the task's Details, opens it all on one page. Beside it, **baseline**
   profiles all events after those learned from, up to the as-of: what `monitor_model` will compare with;
5. **register**: a model package with metrics, baseline, lineage and as-of. A model that the gate refused is registered as Rejected;
   **announce_history_model** triggers `evaluate_history` when it is a backfill's;
6. **choose_approval**: the gate's word is enough (**approve**), or a named person is asked (**ask_for_approval**, answered on the task's page),
   as the domain or the form says. An approved package triggers `deploy_model`.

### Backfill

    airflow backfill create --dag-id auto_claims.train_model --from-date 2026-03-01 --to-date 2026-05-31

(on the laptop `make backfill`, which shows its progress, or `make airflow CMD="backfill create …"`)

### Runbook

| The log says | What to do |
|---|---|
| `refused: … events` or `… positives` from **build_dataset** | Too little matured truth as of then. Choose a later as-of, or land more history and labels. |
| `Registered … (Rejected)` from **register**, and **choose_approval** ends the run | The report says which rule failed. The package is registered as Rejected; the champion stays. |
| **ask_for_approval** waits | One of the domain's approvers answers on the task's page (*Required actions*). Without an answer in time it fails; clear it to ask again. |
| `SageMaker job … ended as Failed` | The end of the job's own log stands above it. Clear the task: it starts the next job. |
"""

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException
from sagemaker_lifecycle.defaults import Tag, alert, as_of_param, dag_settings
from sagemaker_lifecycle.registry import AskForApprovalOperator, SetApprovalOperator
from sagemaker_lifecycle.tasks import approval_route, kept_for_the_run, resolve_run
from sagemaker_lifecycle.training import train_and_register

from include import assets
from include.domains import catalogue
from include.lifecycle.domain import Domain

PARAMS = {
    "as_of": as_of_param("Train as if it were this instant (UTC). Empty: the end of the run's data interval."),
    "approval": Param(
        "as the domain says",
        enum=["as the domain says", "automatic", "ask"],
        title="Approval",
        description="automatic: a model that passes the gate is released at once. ask: one of the domain's approvers decides.",
    ),
}


def train_model(domain: Domain) -> None:
    @dag(
        dag_id=f"{domain.name}.train_model",
        dag_display_name=f"{domain.title}: train model",
        schedule=CronTriggerTimetable(domain.schedules.train, timezone="UTC"),
        params=PARAMS,
        max_active_runs=4,
        **dag_settings(domain, Tag.MODEL, __doc__, late_by=timedelta(hours=6)),
    )
    def build() -> None:
        @task(multiple_outputs=True)
        def resolve_as_of() -> dict:
            context = get_current_context()
            return kept_for_the_run(context, lambda: resolve_run(domain, context))

        run = resolve_as_of()

        trained = train_and_register(domain, run)

        @task(outlets=[assets.history_model(domain.name)])
        def announce_history_model(history: bool, as_of: str, model_package: str) -> None:
            if not history:
                raise AirflowSkipException("not a backfill: the model is one of the present")
            extra = {"as_of": as_of, "model_package": model_package}
            get_current_context()["outlet_events"][assets.history_model(domain.name)].extra = extra

        announce_history_model(run["history"], run["as_of"], trained.registered["model_package"])

        @task.branch
        def choose_approval(history: bool, gate_passed: bool) -> str | None:
            context = get_current_context()
            route = approval_route(domain, context["params"]["approval"], history, gate_passed)
            context["ti"].xcom_push(key="route", value=route)  # a branch keeps no return value
            return route

        ask_for_approval = AskForApprovalOperator(
            task_id="ask_for_approval",
            subject=f"Release this model for {domain.title}?",
            body=(
                "{{ ti.xcom_pull(task_ids='register')['model_package'] }}\n\n"
                "{% set found = ti.xcom_pull(task_ids='evaluate') %}"
                "{% for reason in found['gate']['reasons'] %}- {{ reason }}\n{% endfor %}\n"
                "| metric | value | low | high |\n|---|---|---|---|\n"
                "{% for name, metric in found['metrics'].items() if metric['value'] is not none and metric['low'] is not none %}"
                "| {{ name }} | {{ '%.4g' % metric['value'] }} | {{ '%.4g' % metric['low'] }} | {{ '%.4g' % metric['high'] }} |\n{% endfor %}\n"
                "[The whole report]({{ ti.xcom_pull(task_ids='evaluate', key='_link_ReportLink') }})"
            ),
            options=["Approve", "Reject"],
            params={"why": Param("", type="string", title="Why", description="Kept with the model package.")},
            options_mapping={"Approve": "approve", "Reject": "reject"},
            assigned_users=[{"id": user, "name": user} for user in domain.approval.approvers],
            response_timeout=domain.approval.response_within,
            notifiers=[
                alert(
                    f"Approval wanted: {domain.name}",
                    "A model of {{ dag.dag_id }} waits for {{ task.assigned_users | map(attribute='name') | join(', ') or 'approval' }}: {{ ti.log_url }}",
                )
            ],
        )
        route = choose_approval(run["history"], trained.registered["gate_passed"])
        decided = {
            "model_package": trained.registered["model_package"],
            "route": "{{ ti.xcom_pull(task_ids='choose_approval', key='route') }}",
            "decision": "{{ ti.xcom_pull(task_ids='ask_for_approval', key='decision') or '' }}",
        }
        approve = SetApprovalOperator(
            task_id="approve",
            status="Approved",
            asset=assets.approved_model(domain.name),
            trigger_rule="none_failed_min_one_success",
            **decided,
        )
        reject = SetApprovalOperator(task_id="reject", status="Rejected", **decided)

        route >> [ask_for_approval, approve]
        ask_for_approval >> [approve, reject]

    build()


for each in catalogue().domains.values():
    train_model(each)
