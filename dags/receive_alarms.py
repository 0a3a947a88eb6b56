"""
### CloudWatch alarms from outside, stored as drift alarms of the domain they belong to

A CloudWatch alarm (on a metric of `FraudLifecycle/Monitoring`, or of your own) tells an SNS topic, the topic a
queue, and the queue this DAG, through an asset watcher. One DAG for all domains, because they share the queue. **Each alarm begins `retrain_and_rollout`**
of its domain: let only those about drift come here, and the others go to whoever is on call.

1. **read**: which messages are alarms, and whose. An alarm belongs to the domain that its dimension `Domain` or `EndpointName` names, or whose name
   its own begins with (`auto-claims-…`);
2. **store**, one for each domain: stores its alarms (`monitoring/alarms/`), tells people, rings the domain's asset `drift_alarm`. Skipped where there is none;
3. **forget**: takes the messages off the queue. Until then they come back by themselves after a quarter of an hour, so nothing is lost when a run dies.

### Runbook

| The log says | What to do |
|---|---|
| `the CloudWatch alarm … names no domain` | Give the alarm a dimension `Domain`, or a name that begins with the domain's. The message was taken off the queue; the log holds the alarm's name. |
| `not a CloudWatch alarm` | Something else publishes to the topic. Its text is in the log. |
| Nothing arrives | Is the alarm's action the topic, is the queue subscribed to it, does `alarms_queue_url` of the settings name the queue? Does the triggerer run? |
"""

from datetime import timedelta

from airflow.sdk import dag, get_current_context, task
from sagemaker_lifecycle.defaults import Tag, shared_dag_settings
from sagemaker_lifecycle.monitoring import cloudwatch_alarms, forget_messages, store_cloudwatch_alarms

from include import assets, settings
from include.domains import catalogue
from include.lifecycle.domain import Domain

DOMAINS = catalogue().domains


@dag(
    dag_id="receive_alarms",
    dag_display_name="Receive CloudWatch alarms",
    schedule=[assets.cloudwatch_alarms()],
    max_active_runs=1,
    **shared_dag_settings(Tag.MONITORING, __doc__, late_by=timedelta(hours=1)),
)
def receive_alarms() -> None:
    @task(multiple_outputs=True)
    def read() -> dict:
        return cloudwatch_alarms(DOMAINS.values(), get_current_context())

    found = read()

    def store_for(domain: Domain):
        @task(task_id=f"store_{domain.name}", outlets=[assets.drift_alarm(domain.name)])
        def store(alarms: list) -> None:
            extra = store_cloudwatch_alarms(domain, alarms)
            get_current_context()["outlet_events"][assets.drift_alarm(domain.name)].extra = extra

        return store(found[domain.name])

    @task(trigger_rule="none_failed")
    def forget(messages: list) -> None:
        forget_messages(settings.current().alarms_queue_url, messages)

    [store_for(domain) for domain in DOMAINS.values()] >> forget(found["messages"])


receive_alarms()
