"""
### An approved model takes the traffic, or everything stays as it was

Runs when `train_model` approves a package, or by hand for any approved package (a way back to an earlier model, too).
While a rollout lasts (`retrain_and_rollout`), the endpoint is the rollout's, and this is skipped unless the form names a package.

1. **plan**: which package, and to which configuration to return if it fails;
2. **create_model**, **create_endpoint_config**: under names that are digests of their content, so trying again finds them;
3. **bring_endpoint**: creates the endpoint or updates it without downtime, and fails when SageMaker rolled the update back;
4. **smoke_test**: rows that training left with the model must get the scores that training gave them;
5. **return_to_previous**, only when 2, 3 or 4 failed and the endpoint carries what this run deployed: it goes back to its previous configuration
   (a first deployment's endpoint is deleted); **report_failure** then fails the run.

### Runbook

| The log says | What to do |
|---|---|
| `… has no approved model package` | Train and approve one, then trigger this DAG. |
| `… is PendingManualApproval: only an approved package is deployed` | Answer **ask_for_approval** of its training run, or name another package in the form. |
| `rollout … has the endpoint (stage …)` | Skipped. Let the rollout end, or stop it by `steer_rollout`; then trigger this DAG. To deploy all the same, name the package in its form. |
| `SageMaker returned … to …: … did not pass the ping health check` | The model's server did not start; its log is in `/aws/sagemaker/Endpoints/<endpoint>`. Traffic is on the old model. |
| `scores differ from the trained model's` | The image that serves is not the one that trained, or the model file is damaged. The endpoint was returned to the previous model. |
"""

from datetime import timedelta

from airflow.sdk import dag, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException
from sagemaker_lifecycle.defaults import Tag, dag_settings, model_package_param
from sagemaker_lifecycle.endpoints import BringEndpointToOperator, ModelFromPackageOperator, SingleVariantConfigOperator
from sagemaker_lifecycle.tasks import kept_for_the_run, plan_deployment, run_smoke_test

from include import assets
from include.domains import catalogue
from include.lifecycle.domain import Domain

PARAMS = {
    "model_package": model_package_param("The ARN of an approved package. Empty: the package whose approval triggered the run, or the newest approved."),
}


def deploy_model(domain: Domain) -> None:
    @dag(
        dag_id=f"{domain.name}.deploy_model",
        dag_display_name=f"{domain.title}: deploy model",
        schedule=[assets.approved_model(domain.name)],
        params=PARAMS,
        max_active_runs=1,  # an endpoint takes one change at a time
        **dag_settings(domain, Tag.SERVING, __doc__, late_by=timedelta(hours=1)),
    )
    def build() -> None:
        @task(multiple_outputs=True)
        def plan() -> dict[str, str]:
            context = get_current_context()
            return kept_for_the_run(context, lambda: plan_deployment(domain, context))

        planned = plan()
        create_model = ModelFromPackageOperator(task_id="create_model", domain=domain.name, model_package=planned["model_package"])
        create_endpoint_config = SingleVariantConfigOperator(
            task_id="create_endpoint_config", domain=domain.name, model_package=planned["model_package"]
        )
        bring_endpoint = BringEndpointToOperator(
            task_id="bring_endpoint", domain=domain.name, endpoint_config=create_endpoint_config.output
        )

        @task(outlets=[assets.live_model(domain.name)])
        def smoke_test(endpoint: str, rows: str, model_package: str) -> None:
            run_smoke_test(endpoint, rows)
            extra = {"endpoint": endpoint, "model_package": model_package}
            get_current_context()["outlet_events"][assets.live_model(domain.name)].extra = extra

        tested = smoke_test(planned["endpoint"], planned["smoke_test"], planned["model_package"])

        return_to_previous = BringEndpointToOperator(
            task_id="return_to_previous",
            domain=domain.name,
            endpoint_config=planned["previous_config"],
            undoing="{{ ti.xcom_pull(task_ids='create_endpoint_config') or '' }}",
            trigger_rule="one_failed",
        )

        @task(retries=0)
        def report_failure(returned_to: str) -> None:
            raise AirflowFailException(
                f"the deployment failed; the endpoint was returned to {returned_to or 'nothing (it was new, and is deleted)'}"
            )

        create_model >> create_endpoint_config >> bring_endpoint >> tested
        [create_model, create_endpoint_config, bring_endpoint, tested] >> return_to_previous
        return_to_previous >> report_failure(planned["previous_config"])

    build()


for each in catalogue().domains.values():
    deploy_model(each)
