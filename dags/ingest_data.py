"""
### Landed files become checked, versioned data

One run takes the deliveries of an interval of days (any interval by hand; on schedule the day before and the week before that, so that late
files and the days of an outage are made up for: taking a file again changes nothing) through

1. **list_landed_files**: which files lie under `raw/<table>/dt=<delivery day>/`; their names and ETags are the run's manifest, so that a file
   that lands later is a new job and the same files are the same job;
2. **ingest**: schema, types, keys, times, then the domain's Great Expectations. A row that breaks a critical expectation goes to `quarantine/`
   with its reasons, a file that cannot be trusted goes there whole, warnings are counted. Rows landed = rows curated + rows quarantined, always.
   A corrected row is appended with the time it became known; nothing is overwritten. *Report*, under the task's Details, opens the Data Docs;
3. **report_quality**: tells people when files were refused or many rows quarantined;
4. **choose_feature_days**, **build_features**: features of the days that a changed event or label can reach, those left over from runs that
   failed too, checked before they are written;
5. **move_watermark**: `watermark.json` now says that deliveries up to the end of the run's last day are in. Rollouts live in this time: they look
   again when it moves.

Files land as CSV (UTF-8, header) or Parquet. Every task may be cleared, killed or run again: the same files give the same bytes.

### Runbook

| The log says | What to do |
|---|---|
| `no file landed for …` | The run was skipped: nothing under `raw/` for those days. Check the delivery, then trigger the DAG with those days. |
| `refused: …` from **ingest** or **build_features** | The input is at fault, and the message says where. Mend it, land it again, trigger the DAG for the delivery's day. |
| an alert "Quarantined: …" | Open *Report* under **ingest**'s Details, look at the reasons, fetch the rows from `quarantine/<table>/dt=…`, land the corrected rows as a new file. |
| `SageMaker job … ended as Failed` | The end of the job's own log stands above it. Clear the task: it starts the next job. |
"""

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException
from sagemaker_lifecycle.defaults import Tag, dag_settings
from sagemaker_lifecycle.jobs import DomainProcessingOperator
from sagemaker_lifecycle.tasks import list_landing, move_watermark_to, tell_of_quarantine

from include import assets
from include.domains import catalogue
from include.lifecycle.as_of import feature_days, iso, utc
from include.lifecycle.domain import Domain

PARAMS = {
    "first_day": Param(
        None, type=["null", "string"], format="date", title="First delivery day", description="Empty: the run's own interval."
    ),
    "last_day": Param(
        None, type=["null", "string"], format="date", title="Last delivery day", description="Included. Empty: the first day only."
    ),
    "year": Param(
        None,
        type=["null", "integer"],
        minimum=1990,
        maximum=2100,
        title="Year of the events",
        description="For sources whose dates carry no year. Empty: the latest year in which an event is not after its delivery.",
    ),
}


def ingest_data(domain: Domain) -> None:
    @dag(
        dag_id=f"{domain.name}.ingest_data",
        dag_display_name=f"{domain.title}: ingest data",
        schedule=CronTriggerTimetable(domain.schedules.ingest, timezone="UTC", interval=timedelta(days=1))
        if domain.schedules.ingest
        else None,
        params=PARAMS,
        # Two runs at once would rewrite the same partitions, and a backfill does not heed max_active_runs. A run by hand takes any interval.
        max_active_runs=1,
        allowed_run_types=["manual", "scheduled", "asset_triggered", "asset_materialization"],
        **dag_settings(domain, Tag.DATA, __doc__, late_by=timedelta(hours=3)),
    )
    def build() -> None:
        @task(multiple_outputs=True)
        def list_landed_files() -> dict[str, str | int]:
            return list_landing(domain, get_current_context())

        landed = list_landed_files()

        ingest = DomainProcessingOperator(
            task_id="ingest", domain=domain.name, job="ingest", arguments={"manifest": landed["manifest"]}, report="data_docs"
        )

        @task
        def report_quality(result: dict) -> None:
            tell_of_quarantine(domain, result)

        @task(multiple_outputs=True)
        def choose_feature_days(result: dict, as_of: str) -> dict[str, str]:
            days = feature_days(result["stale_features"])
            if days is None:
                raise AirflowSkipException("nothing changed that features are made from: they stand")
            # Days that an earlier run built are built again with all that it knew, also by a run of deliveries of long ago.
            latest = max(utc(as_of), utc(result["features_as_of"] or as_of))
            return {"first": days.first.isoformat(), "last": days.last.isoformat(), "as_of": iso(latest)}

        days = choose_feature_days(ingest.output, landed["as_of"])

        build_features = DomainProcessingOperator(
            task_id="build_features",
            domain=domain.name,
            job="build-features",
            arguments={"first-day": days["first"], "last-day": days["last"], "as-of": days["as_of"]},
            inputs=ingest.output["job"],
            report="data_docs",
            outlets=[assets.features(domain.name)],
            tells=("first_day", "last_day", "as_of"),
        )

        @task(trigger_rule="none_failed_min_one_success")
        def move_watermark(as_of: str) -> None:
            move_watermark_to(domain, as_of)

        report_quality(ingest.output)
        days >> build_features
        [ingest, build_features] >> move_watermark(landed["as_of"])

    build()


for each in catalogue().domains.values():
    ingest_data(each)
