"""
### Drift in, a better model carrying the traffic out, or the old one safely back

Runs when the drift alarm rings, and on a calendar. All its waiting is in the time of the data: it looks again when `ingest_data` has moved the
watermark, so a rollout may last months of events, and any crash resumes it. A **backfill** retrains history as it would have been, and touches
nothing live.

1. **read_alarms**: the open alarms, and since when fraud has changed; those about another model than the live one are dropped. Ends early where there
   is nothing new;
2. **wait_for_labels**: until enough fraud since then is known (`Rollout.wanted_frauds`), with a deadline. The instant it was enough is the run's as-of;
3. **build_dataset … register**: the same group of tasks as `train_model`, on the window that the domain sets for retraining;
4. **compare**: on the same later events, paired: a challenger that saves no more than the champion ends here (**close_without_rollout**), with its
   report under **evaluate**;
5. **shadow**: the challenger scores a copy of the live traffic (a shadow variant) and decides nothing. **run_shadow** looks at the paired
   difference in cost of matured events until it is proven, by evidence that is valid at any time;
6. **ramp**: champion and challenger are two production variants; the gateway assigns entities, the bandit moves the share between floor and caps.
   **run_ramp** returns all traffic to the champion at once when a guardrail trips or harm is shown, and ends when the challenger is shown not to be
   worse live;
7. **take_all_traffic → approve → … → finish**: all traffic, the registry, then one variant again; the old model stays for the way back.
   Whatever else happened, **settle** and **settle_endpoint** leave the champion with all traffic. **report** is the rollout's page: every
   decision with its evidence, and the plot. **run_shadow** and **run_ramp** link it too, as of their latest look.

An approver is asked before 6 and before 7 where the domain says so (`Rollout.approve_ramp`, `approve_promotion`) or the form does; meanwhile
**watch_while_asked** goes on watching the split. docs/rollout.md tells how every decision is made.

### Runbook

| The log says | What to do |
|---|---|
| you want it to stop, now | Trigger `steer_rollout` with *stop* (or *roll_back*, *promote*, *set_share*) and why; `make job CMD='steer --domain … --action stop --why "…"'` and `POST /v1/experiments/<domain>/commands` do the same. It is done at once. |
| `… has no live endpoint` from **read_alarms** | Skipped: there is no model to be better than. Train, approve and deploy a first one. |
| `nothing says up to when the deliveries of … are ingested` from **read_alarms** | No delivery was ever ingested here, or `watermark.json` is gone: trigger `ingest_data`, then clear the task. |
| `rollout … is in its stage …` from **read_alarms** | Skipped: one rollout at a time. The alarm stays open for the next run. |
| `… with a second model that an earlier rollout has left there` from **read_alarms** | That rollout's run was marked as failed, or deleted. Trigger `deploy_model` with the package that the message names, then this DAG. |
| `… of … matured frauds since … are known at …` from **wait_for_labels** | It waits for labels. Do deliveries and `ingest_data` go on? The deadline is `Rollout.wait_at_most`. |
| `too little new truth to learn from` from **wait_for_labels** | Skipped: the calendar began the run, and does not wait. Its next one looks again. |
| `given up at the deadline …` from **wait_for_labels** | Skipped, as the domain says (`Rollout.at_deadline`), and its alarms are handled. Want less (`Rollout.wanted_frauds`), or find out where the labels stay, then trigger this DAG. |
| `… ends here: it saves no more than the champion on the same events` from **close_without_rollout** | The retrained model is not better: open the report of **evaluate**. If fraud has changed in a way that no feature shows, that is the work to do. |
| `… ends here: the gate refused it` from **close_without_rollout** | The report of **evaluate** says which rule failed. The package is registered as Rejected; the champion stays. |
| `… ends here: the challenger does not want the champion's features` from **close_without_rollout** | `features.sql` has changed since, and one request cannot serve both models. Release a model of `train_model` instead. |
| `… is live by now, and the challenger was compared with …` from **close_without_rollout** or **begin_shadow** | Somebody has deployed another model meanwhile. Trigger this DAG again. |
| **ask_before_ramp** or **ask_before_promotion** waits | One of the domain's approvers answers on the task's page (*Required actions*); marking the task as done is no answer (`nobody has answered …`). A no, or no answer in time (`Nobody answered … in time`), and the rollout ends as stopped. Marking it as failed is a failure of the run: rolled back. |
| `… so the question is taken back` from **ask_before_ramp** or **ask_before_promotion** | The rollout has ended while it was asked. Nothing to do: **settle** follows. |
| `a guardrail tripped: …` from **run_ramp** | The champion has all traffic again. The page says which limit; mend the cause, then trigger this DAG. |
| `heartbeat` among the guardrails | No gateway gives a sign of life: start it (`make up` on the laptop, `docker compose up -d gateway`, your own service on AWS). Without one nothing assigns entities. |
| `… failed before a rollout began` from **settle** | Nothing live was touched, and the alarms stay open: mend the cause, then clear the task that failed, with what follows it. |
| `… failed: the champion has all traffic again` from **tell** | A task failed after its retries. Mend the cause and trigger the DAG again, for its alarms are open again: a rollout that has ended is not resumed. |
"""

from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable, Param, dag, get_current_context, task
from sagemaker_lifecycle import retraining, rollout, rollout_end
from sagemaker_lifecycle.defaults import Tag, alert, as_of_param, dag_settings
from sagemaker_lifecycle.endpoints import (
    BringEndpointToOperator,
    ModelFromPackageOperator,
    RampConfigOperator,
    ShadowConfigOperator,
    SingleVariantConfigOperator,
)
from sagemaker_lifecycle.jobs import DomainProcessingOperator
from sagemaker_lifecycle.registry import SetApprovalOperator
from sagemaker_lifecycle.tasks import kept_for_the_run, plan_deployment_of, run_smoke_test
from sagemaker_lifecycle.training import train_and_register

from include import assets
from include.domains import catalogue
from include.lifecycle.domain import Domain

PARAMS = {
    "as_of": as_of_param(
        "Retrain with what was known at this instant (UTC), or later. Empty: what is ingested now; in a backfill its interval's end."
    ),
    "approval": Param(
        "as the domain says",
        enum=["as the domain says", "ask"],
        title="Approval",
        description="ask: one of the domain's approvers releases the ramp, and the promotion, also where the domain would let the evidence be enough.",
    ),
}


def retrain_and_rollout(domain: Domain) -> None:
    @dag(
        dag_id=f"{domain.name}.retrain_and_rollout",
        dag_display_name=f"{domain.title}: retrain and roll out",
        schedule=AssetOrTimeSchedule(
            timetable=CronTriggerTimetable(domain.schedules.retrain, timezone="UTC"), assets=[assets.drift_alarm(domain.name)]
        ),
        params=PARAMS,
        max_active_runs=1,  # an endpoint has one rollout at a time
        **dag_settings(domain, Tag.ROLLOUT, __doc__, late_by=domain.rollout.wait_at_most + domain.rollout.ramp_at_most),
    )
    def build() -> None:
        @task(multiple_outputs=True)
        def read_alarms() -> dict:
            context = get_current_context()
            return kept_for_the_run(context, lambda: retraining.read_alarms(domain, context))

        wait_for_labels = retraining.WaitForLabelsOperator(task_id="wait_for_labels", domain=domain.name, run=read_alarms())
        run = wait_for_labels.output
        trained = train_and_register(domain, run, retraining=True)
        challenger = trained.registered["model_package"]

        @task.branch
        def compare(run: dict, evaluation: dict, gate_passed: bool) -> str:
            why = retraining.offline_verdict(domain, run, evaluation, gate_passed)
            get_current_context()["ti"].xcom_push(key="why", value=why)
            return "close_without_rollout" if why else "plan"

        @task
        def close_without_rollout(run: dict, model_package: str) -> None:
            why = get_current_context()["ti"].xcom_pull(task_ids="compare", key="why")
            retraining.close_without_rollout(domain, get_current_context(), run, model_package, why)

        @task(multiple_outputs=True)
        def plan(model_package: str) -> dict[str, str]:
            return kept_for_the_run(get_current_context(), lambda: plan_deployment_of(domain, model_package))

        compared = compare(run, trained.evaluation, trained.registered["gate_passed"])
        planned = plan(challenger)
        champion = "{{ ti.xcom_pull(task_ids='wait_for_labels', key='champion')['model_package'] }}"

        # shadow
        both = {"champion": champion, "challenger": challenger}
        create_champion_model = ModelFromPackageOperator(task_id="create_champion_model", domain=domain.name, model_package=champion)
        create_challenger_model = ModelFromPackageOperator(
            task_id="create_challenger_model", domain=domain.name, model_package=challenger, trial=True
        )
        create_shadow_config = ShadowConfigOperator(task_id="create_shadow_config", domain=domain.name, **both)

        @task(multiple_outputs=True)
        def begin_shadow(run: dict, model_package: str, endpoint_config: str) -> dict:
            return rollout.open_experiment(domain, get_current_context(), run, model_package, endpoint_config)

        begun = begin_shadow(run, challenger, create_shadow_config.output)
        bring_shadow = BringEndpointToOperator(
            task_id="bring_shadow",
            domain=domain.name,
            endpoint_config=begun["endpoint_config"],
            replaces=[planned["previous_config"], *(_config(name) for name in ("ramp", "single"))],  # of this run, if it was cleared
        )
        run_shadow = rollout.RolloutStageOperator(task_id="run_shadow", domain=domain.name, experiment=begun["experiment"], stage="shadow")

        @task.branch
        def choose_after_shadow(stage: str) -> list[str]:
            return rollout_end.next_task(get_current_context(), domain, stage)

        # ramp
        ask_before_ramp = _ask(
            domain, "ask_before_ramp", "Let the challenger decide for some of the traffic", "create_ramp_config", "refuse_ramp"
        )
        create_ramp_config = RampConfigOperator(
            task_id="create_ramp_config", domain=domain.name, trigger_rule="none_failed_min_one_success", **both
        )
        bring_ramp = BringEndpointToOperator(
            task_id="bring_ramp", domain=domain.name, endpoint_config=create_ramp_config.output, replaces=[begun["endpoint_config"]]
        )

        @task
        def begin_ramp(experiment: str, endpoint_config: str) -> None:
            rollout.enter_ramp(domain, experiment, endpoint_config, rollout_end.released_by(get_current_context(), "ask_before_ramp"))

        run_ramp = rollout.RolloutStageOperator(task_id="run_ramp", domain=domain.name, experiment=begun["experiment"], stage="ramp")

        @task.branch
        def choose_after_ramp(stage: str) -> list[str]:
            return rollout_end.next_task(get_current_context(), domain, stage)

        # promotion
        ask_before_promotion = _ask(
            domain, "ask_before_promotion", "Give the challenger all the traffic", "take_all_traffic", "refuse_promotion"
        )

        watch_while_asked = rollout.RolloutStageOperator(
            task_id="watch_while_asked",
            domain=domain.name,
            experiment=begun["experiment"],
            stage="safe",
            trigger_rule="none_failed_min_one_success",
        )

        @task
        def refuse_ramp(experiment: str) -> None:
            rollout.refuse(experiment, rollout_end.released_by(get_current_context(), "ask_before_ramp"))

        @task
        def refuse_promotion(experiment: str) -> None:
            rollout.refuse(experiment, rollout_end.released_by(get_current_context(), "ask_before_promotion"))

        @task(trigger_rule="none_failed_min_one_success", multiple_outputs=True)
        def take_all_traffic(experiment: str) -> dict:
            return rollout.take_all_traffic(experiment, rollout_end.released_by(get_current_context(), "ask_before_promotion"))

        taken = take_all_traffic(begun["experiment"])
        approve = SetApprovalOperator(
            task_id="approve",
            status="Approved",
            model_package=challenger,
            route="approve",
            decision="rollout {{ ti.xcom_pull(task_ids='begin_shadow')['experiment'] }} ({{ ti.xcom_pull(task_ids='ask_before_promotion', key='decision') or 'nobody was asked' }}): {{ ti.xcom_pull(task_ids='take_all_traffic')['why'] }}",
            pre_execute=rollout.unless_ended,
        )
        create_promoted_model = ModelFromPackageOperator(task_id="create_promoted_model", domain=domain.name, model_package=challenger)
        create_single_config = SingleVariantConfigOperator(task_id="create_single_config", domain=domain.name, model_package=challenger)
        bring_single = BringEndpointToOperator(
            task_id="bring_single",
            domain=domain.name,
            endpoint_config=create_single_config.output,
            replaces=[_config("ramp"), begun["endpoint_config"]],  # the shadow's where a person promoted from there
            pre_execute=rollout.unless_ended,
        )

        @task(outlets=[assets.live_model(domain.name)])
        def finish(experiment: str, planned: dict, model_package: str) -> None:
            run_smoke_test(planned["endpoint"], planned["smoke_test"])
            rollout.promote(experiment)
            extra = {"endpoint": planned["endpoint"], "model_package": model_package}
            get_current_context()["outlet_events"][assets.live_model(domain.name)].extra = extra

        finished = finish(begun["experiment"], planned, challenger)

        # the end, whatever happened
        @task(trigger_rule="all_done", multiple_outputs=True)
        def settle() -> dict:
            return rollout_end.settle(domain, get_current_context())

        settled = settle()
        settle_endpoint = BringEndpointToOperator(
            task_id="settle_endpoint", domain=domain.name, endpoint_config=settled["endpoint_config"], undoing=settled["undoing"]
        )
        report = DomainProcessingOperator(
            task_id="report",
            domain=domain.name,
            job="rollout-report",
            arguments={"history": settled["history"]},
            inputs=settled["version"],
            report="reports.page",
            trigger_rule="none_failed_min_one_success",
        )

        @task(retries=0, trigger_rule="none_failed_min_one_success")
        def tell(settled: dict) -> None:
            page = get_current_context()["ti"].xcom_pull(task_ids="report", key="reports")
            rollout_end.tell_of_rollout(domain, settled, page and page["page"])

        compared >> [close_without_rollout(run, challenger), planned]
        planned >> [create_champion_model, create_challenger_model] >> create_shadow_config >> begun >> bring_shadow >> run_shadow
        after_shadow = choose_after_shadow(run_shadow.output["stage"])
        after_shadow >> [ask_before_ramp, create_ramp_config, ask_before_promotion, watch_while_asked, taken]
        # whoever says no to the ramp is not asked about the promotion
        ask_before_ramp >> [create_ramp_config, ask_before_promotion, watch_while_asked, taken]
        ask_before_ramp >> refuse_ramp(begun["experiment"]) >> settled
        create_ramp_config >> bring_ramp >> begin_ramp(begun["experiment"], create_ramp_config.output) >> run_ramp
        after_ramp = choose_after_ramp(run_ramp.output["stage"])
        after_ramp >> [ask_before_promotion, watch_while_asked, taken]
        ask_before_promotion >> refuse_promotion(begun["experiment"]) >> settled
        ask_before_promotion >> taken >> approve >> create_promoted_model >> create_single_config >> bring_single >> finished
        [after_shadow, after_ramp, finished] >> settled  # not watch_while_asked: what is settled ends that, too
        settled >> settle_endpoint >> report >> tell(settled)
        settled >> report

    build()


def _config(name: str) -> str:
    """Template of the endpoint configuration of this name that the run has made; it renders as None where there is none yet."""
    return f"{{{{ ti.xcom_pull(task_ids='create_{name}_config') }}}}"


def _ask(domain: Domain, task_id: str, question: str, then: str, otherwise: str) -> rollout.AskAboutRolloutOperator:
    return rollout.AskAboutRolloutOperator(
        task_id=task_id,
        subject=f"{question}? ({domain.title})",
        body="{% set found = ti.xcom_pull(task_ids='run_ramp') or ti.xcom_pull(task_ids='run_shadow') %}Rollout {{ found['experiment'] }}: {{ found['why'] }}\n\n"
        "Challenger: {{ ti.xcom_pull(task_ids='register')['model_package'] }}",
        options=["Approve", "Reject"],
        params={"why": Param("", type="string", maxLength=500, title="Why", description="Kept with the rollout and the model package.")},
        options_mapping={"Approve": then, "Reject": otherwise},
        assigned_users=[{"id": user, "name": user} for user in domain.approval.approvers],
        response_timeout=domain.approval.response_within,
        trigger_rule="none_failed_min_one_success",
        notifiers=[
            alert(
                f"Release wanted: {domain.name}",
                "{{ dag.dag_id }} waits for {{ task.assigned_users | map(attribute='name') | join(', ') or 'a release' }}: {{ ti.log_url }}",
            )
        ],
    )


for each in catalogue().domains.values():
    retrain_and_rollout(each)
