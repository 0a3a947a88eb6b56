"""
### One day's window of the live model: has the fraud changed, and should anyone wake?

Daily. It looks at the events that the live endpoint scored in the domain's monitoring window, which ends where the as-of says, and compares them
with the baseline that training left with the model, never with the training rows.

1. **plan**: the live model, its baselines, the as-of;
2. **collect**: what SageMaker captured of the endpoint's requests becomes `predictions/endpoint/dt=<event day>/` (not in a backfill);
3. **analyse**: data quality, drift of each feature, of the score and of all together, measured quality on matured labels, estimated quality while they
   are immature, concept, bias and attribution drift. *Report*, under the task's Details, opens the page: the verdict comes first;
4. **publish**: the figures as CloudWatch metrics (namespace `FraudLifecycle/Monitoring`, dimension `Domain`);
5. **decide**: the domain's policy: which findings ring the alarm, in how many windows in a row, and not again within the cool-down;
6. **sound_alarm**: stores the alarm with its evidence (`monitoring/alarms/`), tells people, rings the asset `drift_alarm`, which begins
   `retrain_and_rollout`. Skipped where all is well.

The user sets one number, the false alarms a year (`Monitoring` in the domain's `domain.py`). docs/monitoring.md says how every decision is made.

### Backfill

    airflow backfill create --dag-id auto_claims.monitor_model --from-date 2026-04-01 --to-date 2026-04-30

(on the laptop `make airflow CMD="backfill create …"`)

analyses past windows with the labels known then, under the model that is live now. It publishes nothing and raises no alarm; what a daily run would
have done stands in the log of **sound_alarm**. Days without captured requests are scored from the feature store.

### Runbook

| The log says | What to do |
|---|---|
| `ALARM: …` from **sound_alarm** | `retrain_and_rollout` has begun by itself, whatever was found. Open the report of **analyse**: if fraud has changed, let it do its work. If data are broken, mark its run as failed (once it has a rollout, *stop* by `steer_rollout`), mend the source, and ingest its days again. |
| `… has no live endpoint` from **plan** | Skipped: there is nothing to watch. Approve and deploy a model. |
| `… was registered without a baseline` | The live model is older than monitoring. Train, approve and deploy a new one. |
| `not_enough_data` in the verdict | No or hardly any event was scored in the window. Is the endpoint asked? Does the capture reach S3 (`captured/`)? Did `ingest_data` run? |
| `… of the … windows in a row that an alarm wants` | Found, but not often enough to wake anyone. The next days tell. |
| `CloudWatch refused the metrics` | The as-of is more than two weeks old. Nothing to do: the report holds the figures. |
"""

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, dag, get_current_context, task
from sagemaker_lifecycle.defaults import Tag, as_of_param, dag_settings, model_package_param
from sagemaker_lifecycle.jobs import DomainProcessingOperator
from sagemaker_lifecycle.monitoring import decide_on_alarm, plan_monitoring, publish_metrics, raise_alarm
from sagemaker_lifecycle.tasks import kept_for_the_run

from include import assets
from include.domains import catalogue
from include.lifecycle.domain import Domain

PARAMS = {
    "as_of": as_of_param("Look at the window that ends before this instant (UTC), with the labels known then. Empty: the end of the data interval."),
    "model_package": model_package_param("The ARN of the package to look at; one that is not live raises no alarm. Empty: the one that is live."),
}


def monitor_model(domain: Domain) -> None:
    @dag(
        dag_id=f"{domain.name}.monitor_model",
        dag_display_name=f"{domain.title}: monitor model",
        schedule=CronTriggerTimetable(domain.schedules.monitor, timezone="UTC"),
        params=PARAMS,
        max_active_runs=1,  # a window is judged by those before it
        **dag_settings(domain, Tag.MONITORING, __doc__, late_by=timedelta(hours=2)),
    )
    def build() -> None:
        @task(multiple_outputs=True)
        def plan() -> dict:
            context = get_current_context()
            return kept_for_the_run(context, lambda: plan_monitoring(domain, context))

        run = plan()

        @task.branch
        def choose_collection(history: bool) -> str:
            return "analyse" if history else "collect"  # runs of a backfill go side by side, and captures come to one of them

        collect = DomainProcessingOperator(
            task_id="collect", domain=domain.name, job="collect-predictions", arguments={}, inputs=run["as_of"]
        )
        analyse = DomainProcessingOperator(
            task_id="analyse",
            domain=domain.name,
            job="monitor-window",
            arguments={name.replace("_", "-"): run[name] for name in ("as_of", "model", "model_package", "profile", "reference", "history")},
            inputs="{{ (ti.xcom_pull(task_ids='collect') or {}).get('job', '') }}",
            writes_to="monitor",
            report="reports.page",
            trigger_rule="none_failed_min_one_success",
        )

        @task
        def publish(run: dict, analysis: dict) -> None:
            publish_metrics(domain, run, analysis)

        @task(multiple_outputs=True)
        def decide(run: dict, analysis: dict) -> dict:
            return decide_on_alarm(domain, run["history"], analysis)

        @task(multiple_outputs=True, outlets=[assets.drift_alarm(domain.name)])
        def sound_alarm(run: dict, alarm: dict | None, why: str) -> dict:
            told = raise_alarm(domain, run["history"], alarm, why)
            get_current_context()["outlet_events"][assets.drift_alarm(domain.name)].extra = told
            return told

        route = choose_collection(run["history"])
        route >> [collect, analyse]
        collect >> analyse
        publish(run, analyse.output)
        decided = decide(run, analyse.output)
        sound_alarm(run, decided["alarm"], decided["why"])

    build()


for each in catalogue().domains.values():
    monitor_model(each)
