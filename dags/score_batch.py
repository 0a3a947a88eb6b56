"""
### A day's events scored, and the review queue for the analysts

Runs when `ingest_data` has written features, for their last day (and for those of earlier runs that waited meanwhile), or by hand for any days.
Several past days in one run are a backfill of scores; Airflow's own backfill is not for it, because the DAG has no schedule of its own.

1. **plan**: which model (the package asked for, else the live champion, else the newest approved) and which days;
2. **score**: every event of the days gets a score, what a review of it is expected to save, and reasons
   (`predictions/batch/dt=<day>/`). The most worthwhile, as many as the analysts' capacity allows, are the day's review queue
   (`review/dt=<day>/queue.html` and `queue.csv`). *Report*, under the task's Details, opens the queue;
3. **tell_of_queue**: writes into its log how long the queues are, what they are worth and where they lie.

Where events are reported days after they happened, the last day of a history may hold only a few of its events: name the day before it.
Scoring a day again, with the same features and the same model, gives the same bytes; with another model it replaces the day's queue.

### Decisions come back as labels

Analysts fill in `label` (1 or fraud, 0 or genuine; empty is undecided) and, where they like, `decided_at` (UTC), `decided_by` and `note`:

    make job CMD="record-decisions --domain card_payments --queue queue.csv --decided-by ana --decided-at 2026-03-31T16:00:00Z --land"

(`python -m include.jobs record-decisions …` with `FRAUD_BUCKET` set, off the laptop) checks every line, refuses the file whole where one is wrong,
and writes a landing file of labels for the day of the latest decision; without `--land` it only checks. The next run of `ingest_data` over that day
takes it (its schedule looks back a week; for older decisions trigger it by hand).

### Runbook

| The log says | What to do |
|---|---|
| `… has no approved model yet` | The run was skipped. Train and approve a model, then trigger this DAG. |
| `… has no features yet` or `refused: … holds no features from …` | Land that day's events and run `ingest_data`, or name a day that has events. |
| `… scored with features that are older than what was ingested since` | A run of `ingest_data` did not come to its end: run it again, then score the day again. |
| `refused: … lacks … of the model's … features` | `features.sql` has changed since the model was trained. Train a new one, or name a package of the new features. |
| `refused: --as-of … lies before the end of …` | The day is not over as of that instant: choose an earlier day, or a later as-of. |
| `SageMaker job … ended as Failed` | The end of the job's own log stands above it. Clear the task: it starts the next job. |
"""

from datetime import timedelta

from airflow.sdk import Param, dag, get_current_context, task
from sagemaker_lifecycle.defaults import Tag, as_of_param, dag_settings, model_package_param
from sagemaker_lifecycle.jobs import DomainProcessingOperator
from sagemaker_lifecycle.tasks import kept_for_the_run, plan_scoring, tell_of_queues

from include import assets
from include.domains import catalogue
from include.lifecycle.domain import Domain

PARAMS = {
    "first_day": Param(
        None,
        type=["null", "string"],
        format="date",
        title="First event day",
        description="Empty: the last day of the features that triggered the run, or the last day that has features.",
    ),
    "last_day": Param(
        None, type=["null", "string"], format="date", title="Last event day", description="Included. Empty: the first day only."
    ),
    "model_package": model_package_param("The ARN of an approved package. Empty: the live model, or the newest approved where none is live."),
    "as_of": as_of_param("The instant of the scoring (UTC), kept with the scores. Empty: that of the features, or of the run."),
}


def score_batch(domain: Domain) -> None:
    @dag(
        dag_id=f"{domain.name}.score_batch",
        dag_display_name=f"{domain.title}: score batch",
        schedule=[assets.features(domain.name)],
        params=PARAMS,
        max_active_runs=1,  # two runs at once would replace each other's queues
        **dag_settings(domain, Tag.SERVING, __doc__, late_by=timedelta(hours=2)),
    )
    def build() -> None:
        @task(multiple_outputs=True)
        def plan() -> dict[str, str]:
            context = get_current_context()
            return kept_for_the_run(context, lambda: plan_scoring(domain, context))

        planned = plan()
        score = DomainProcessingOperator(
            task_id="score",
            domain=domain.name,
            job="score-batch",
            arguments={
                "day": planned["first_day"],
                "last-day": planned["last_day"],
                "model": planned["model"],
                "model-package": planned["model_package"],
                "as-of": planned["as_of"],
            },
            report="reports.queue",
        )

        @task
        def tell_of_queue(result: dict) -> None:
            tell_of_queues(result)

        tell_of_queue(score.output)

    build()


for each in catalogue().domains.values():
    score_batch(each)
