"""Model packages: registered once a run, with metrics, baselines, lineage and as-of; approved or rejected with who and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.amazon.aws.operators.base_aws import AwsBaseOperator
from airflow.providers.amazon.aws.operators.sagemaker import SageMakerRegisterModelVersionOperator
from airflow.providers.amazon.aws.utils.mixins import aws_template_fields
from airflow.providers.standard.operators.hitl import HITLBranchOperator
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowFailException
from botocore.exceptions import ClientError

from include import settings as places
from include.lifecycle.names import digest, package_group
from include.stores.registry import BASELINES

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

_METADATA_VALUE_LIMIT = 256
_DESCRIPTION_LIMIT = 1024


class RegisterModelOperator(SageMakerRegisterModelVersionOperator):
    """Registers what a training run made. A retry finds the package it registered before (ClientToken).

    A model that the gate refused is registered too, as Rejected with the gate's reasons: what was tried stays on record.

    :param domain: a folder under include/domains
    :param run: ``resolve_as_of``'s answer: ``as_of`` and ``history`` (a backfill's model goes to the history group)
    :param dataset: ``build_dataset``'s result
    :param training: ``train``'s result
    :param evaluation: ``evaluate``'s result
    :param baseline: ``baseline``'s result
    :return: ``model_package`` (ARN), ``group``, ``gate_passed``
    """

    template_fields: Sequence[str] = (
        *SageMakerRegisterModelVersionOperator.template_fields,
        "run",
        "dataset",
        "training",
        "evaluation",
        "baseline",
    )

    def __init__(self, *, domain: str, run: Any, dataset: Any, training: Any, evaluation: Any, baseline: Any, **kwargs: Any) -> None:
        place = places.current()
        super().__init__(
            image_uri=place.image_uri, model_url="", package_group_name="", aws_conn_id=place.aws_conn_id, multiple_outputs=True, **kwargs
        )
        self.domain = domain
        self.run = run
        self.dataset = dataset
        self.training = training
        self.evaluation = evaluation
        self.baseline = baseline

    def execute(self, context: Context) -> dict[str, Any]:
        place = places.current()
        gate = self.evaluation["gate"]
        reports = self.evaluation["reports"]
        group = package_group(self.domain, history=self.run["history"])
        run = context["dag_run"]
        metadata = {
            "domain": self.domain,
            "as_of": self.run["as_of"],
            "dataset": self.dataset["uri"],
            "training_job": self.training["job"],
            "code_version": self.training["code_version"],
            "dag_run": f"{run.dag_id}/{run.run_id}",
            "gate": "passed" if gate["passed"] else "failed",
            "report": reports["report"],
            "smoke_test": reports["smoke_test"],
            "review_threshold": f"{self.evaluation['review_threshold']:.9g}",
            **({"champion": self.run["champion"]["model_package"]} if self.run.get("champion") else {}),
            **{name: f"{metric['value']:.6g}" for name, metric in self.evaluation["metrics"].items() if metric["value"] is not None},
        }
        self.model_url = self.training["model"]
        self.package_group_name = group
        self.package_desc = f"{self.domain} as of {self.run['as_of']}: {'; '.join(gate['reasons'])}"[:_DESCRIPTION_LIMIT]
        self.extras = {
            "ModelApprovalStatus": "PendingManualApproval" if gate["passed"] else "Rejected",
            "CustomerMetadataProperties": {key: str(value)[:_METADATA_VALUE_LIMIT] for key, value in metadata.items()},
            "ModelMetrics": {
                "ModelQuality": {"Statistics": _json(reports["evaluation"])},
                "Bias": {"Report": _json(reports["bias"])},
                "Explainability": {"Report": _json(reports["explainability"])},
            },
            "DriftCheckBaselines": {kind: {"Statistics": _json(self.baseline["reports"][name])} for name, kind in BASELINES.items()},
            "InferenceSpecification": {
                "Containers": [{"Image": place.image_uri, "ModelDataUrl": self.model_url}],
                "SupportedContentTypes": ["text/csv", "application/json", "application/jsonlines"],
                "SupportedResponseMIMETypes": ["text/csv", "application/json"],
            },
        }
        self.extras["ClientToken"] = digest({"dag": run.dag_id, "run": run.run_id, "group": group, "request": self.extras}, length=36)
        self._make_group(group)
        arn = super().execute(context)
        self.log.info("Registered %s (%s).", arn, self.extras["ModelApprovalStatus"])
        return {"model_package": arn, "group": group, "gate_passed": gate["passed"]}

    def _make_group(self, group: str) -> None:
        """With tags, which the provider's operator would not give it; a versioned package takes none of its own."""
        tags = places.current().tag_list(domain=self.domain)
        try:
            self.hook.conn.create_model_package_group(
                ModelPackageGroupName=group, ModelPackageGroupDescription=f"{self.domain} models", Tags=tags
            )
        except ClientError as error:
            if "already exists" not in error.response["Error"]["Message"]:
                raise


def _json(uri: str) -> dict[str, str]:
    return {"ContentType": "application/json", "S3Uri": uri}


class AskForApprovalOperator(HITLBranchOperator):
    """Asks a person and remembers who answered and why (XCom ``decision``), which the provider's branch operator forgets."""

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        person = (event.get("responded_by_user") or {}).get("name")
        if person:  # there is none where the time ran out
            why = (event.get("params_input") or {}).get("why") or "no reason given"
            context["ti"].xcom_push(key="decision", value=f"{person} ({why})")
        return super().execute_complete(context, event)

    def process_trigger_event_error(self, event: dict[str, Any]) -> None:
        if event["error_type"] == "timeout":  # a question that ran out of time is not asked again by itself
            raise AirflowFailException(f"nobody answered within {self.response_timeout}: clear this task to ask again")
        super().process_trigger_event_error(event)


class SetApprovalOperator(AwsBaseOperator[SageMakerHook]):
    """Approves or rejects a model package, with who decided and why on the package itself.

    :param model_package: ARN, templated
    :param status: ``Approved`` or ``Rejected``
    :param route: what ``choose_approval`` chose, templated
    :param decision: who answered ``ask_for_approval`` and why, templated; empty where nobody was asked. Without one, a run that was to ask
        fails: marking the question as done is not an answer
    :param asset: rung with the package's ARN when it is approved
    """

    aws_hook_class = SageMakerHook
    template_fields: Sequence[str] = aws_template_fields("model_package", "route", "decision")

    def __init__(self, *, model_package: str, status: str, route: str, decision: str, asset: Asset | None = None, **kwargs: Any) -> None:
        super().__init__(aws_conn_id=places.current().aws_conn_id, outlets=[asset] if asset else [], **kwargs)
        self.model_package = model_package
        self.status = status
        self.route = route
        self.decision = decision
        self.asset = asset

    def execute(self, context: Context) -> str:
        if not self.decision and self.route != self.task_id:
            raise AirflowFailException(f"nobody has decided about {self.model_package} : clear ask_for_approval, and answer it there")
        found = self.hook.conn.describe_model_package(ModelPackageName=self.model_package)
        if found["ModelApprovalStatus"] not in {"PendingManualApproval", self.status}:
            status, why = found["ModelApprovalStatus"], found.get("ApprovalDescription")
            raise AirflowFailException(f"{self.model_package} has been {status} since ({why}): this run does not change that")
        reason = f"{self.status} by {self.decision or 'the gate (automatic approval)'}, run {context['dag_run'].run_id}"
        self.hook.conn.update_model_package(
            ModelPackageArn=self.model_package, ModelApprovalStatus=self.status, ApprovalDescription=reason[:_DESCRIPTION_LIMIT]
        )
        self.log.info("%s is %s: %s", self.model_package, self.status, reason)
        if self.asset:
            context["outlet_events"][self.asset].extra = {"model_package": self.model_package}
        return self.model_package
