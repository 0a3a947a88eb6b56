"""Which operation does what: the control plane, from a target and a JSON body to a JSON answer."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from botocore.exceptions import BotoCoreError, ClientError

from .endpoints import KIND as ENDPOINT
from .endpoints import Endpoints
from .errors import ServiceError, validation
from .jobs import JobRunner, Services, refuse
from .listing import answer, page
from .models import CONFIG, MODEL, EndpointConfigs, Models
from .processing import KIND as PROCESSING
from .processing import ProcessingJobs
from .registry import ModelPackageGroups, ModelPackages
from .service_model import Operations
from .store import Document
from .tags import Tags
from .training import KIND as TRAINING
from .training import TrainingJobs

log = logging.getLogger(__name__)

Handler = Callable[[Document], Document]


class ControlPlane:
    """The SageMaker API: checks every request against the service model, then hands it to its operation."""

    def __init__(
        self,
        services: Services,
        runner: JobRunner,
        models: Models,
        configs: EndpointConfigs,
        endpoints: Endpoints,
        packages: tuple[ModelPackageGroups, ModelPackages],
    ) -> None:
        self._services = services
        self._operations = Operations("sagemaker")
        self.training = TrainingJobs(services, runner)
        self.processing = ProcessingJobs(services, runner)
        groups, versions = packages
        tags = Tags(services.settings, services.store)
        self._handlers: dict[str, Handler] = {
            "CreateTrainingJob": self.training.create,
            "DescribeTrainingJob": self.training.describe,
            "ListTrainingJobs": self._list_training_jobs,
            "StopTrainingJob": self.training.stop,
            "CreateProcessingJob": self.processing.create,
            "DescribeProcessingJob": self.processing.describe,
            "ListProcessingJobs": self._list_processing_jobs,
            "StopProcessingJob": self.processing.stop,
            "CreateModel": models.create,
            "DescribeModel": models.describe,
            "ListModels": self._list_models,
            "DeleteModel": models.delete,
            "CreateEndpointConfig": configs.create,
            "DescribeEndpointConfig": configs.describe,
            "ListEndpointConfigs": self._list_endpoint_configs,
            "DeleteEndpointConfig": configs.delete,
            "CreateEndpoint": endpoints.create,
            "DescribeEndpoint": endpoints.describe,
            "ListEndpoints": self._list_endpoints,
            "UpdateEndpoint": endpoints.update,
            "UpdateEndpointWeightsAndCapacities": endpoints.update_weights,
            "DeleteEndpoint": endpoints.delete,
            "CreateModelPackageGroup": groups.create,
            "DescribeModelPackageGroup": groups.describe,
            "ListModelPackageGroups": groups.list,
            "DeleteModelPackageGroup": groups.delete,
            "CreateModelPackage": versions.create,
            "DescribeModelPackage": versions.describe,
            "ListModelPackages": versions.list,
            "UpdateModelPackage": versions.update,
            "DeleteModelPackage": versions.delete,
            "AddTags": tags.add,
            "ListTags": tags.list,
            "DeleteTags": tags.delete,
        }

    def warm(self) -> None:
        """Compile the slow patterns (those of tags) ahead of the first request that needs them."""
        self._operations.check("AddTags", {"ResourceArn": self._services.settings.arn("model/m"), "Tags": [{"Key": "k", "Value": "v"}]})

    def handle(self, target: str, body: bytes) -> tuple[int, Document]:
        """The HTTP status and JSON document that answer a request; never raises."""
        try:
            return 200, self._run(target, body)
        except ServiceError as error:
            return error.status, error.body()
        except ClientError as error:
            return 400, validation(f"Could not access the data that the request names: {error}").body()
        except BotoCoreError as error:
            message = f"The local SageMaker cannot reach S3 (see AWS_ENDPOINT_URL in its environment): {error}"
            return 503, ServiceError("ServiceUnavailable", message, 503).body()
        except Exception:
            log.exception("%s: the local SageMaker failed", target)
            message = "The local SageMaker failed; its log says why. This is a bug in it, not in the request."
            return 500, ServiceError("InternalFailure", message, 500).body()

    def _run(self, target: str, body: bytes) -> Document:
        prefix, _, operation = target.partition(".")
        if prefix != self._operations.target_prefix or operation not in self._operations.names:
            raise ServiceError("UnknownOperationException", f"SageMaker has no operation {target!r}.")
        handler = self._handlers.get(operation)
        if handler is None:
            raise ServiceError(
                "UnknownOperationException",
                f"The local SageMaker does not implement {operation}. It implements: {', '.join(sorted(self._handlers))}.",
            )
        try:
            request = json.loads(body or b"{}", parse_constant=_no_number)
        except (ValueError, RecursionError) as error:  # RecursionError: nested deeper than any request
            raise ServiceError("SerializationException", f"The request body is not JSON: {error}") from error
        found = handler(self._operations.check(operation, request))
        return self._operations.project(operation, found)

    def _list_training_jobs(self, request: Document) -> Document:
        refuse(request, {"WarmPoolStatusEquals": "there are no warm pools", "TrainingPlanArnEquals": "there are no training plans"})
        items = (resource.document for resource in self._services.store.all(TRAINING))
        found = page(request, items, name="TrainingJobName", status="TrainingJobStatus")
        return answer("TrainingJobSummaries", found, self._operations.members("TrainingJobSummary"))

    def _list_processing_jobs(self, request: Document) -> Document:
        items = (resource.document for resource in self._services.store.all(PROCESSING))
        found = page(request, items, name="ProcessingJobName", status="ProcessingJobStatus")
        return answer("ProcessingJobSummaries", found, self._operations.members("ProcessingJobSummary"))

    def _list_models(self, request: Document) -> Document:
        items = (resource.document for resource in self._services.store.all(MODEL))
        return answer("Models", page(request, items, name="ModelName", descending=True), self._operations.members("ModelSummary"))

    def _list_endpoint_configs(self, request: Document) -> Document:
        items = (resource.document for resource in self._services.store.all(CONFIG))
        found = page(request, items, name="EndpointConfigName", descending=True)
        return answer("EndpointConfigs", found, self._operations.members("EndpointConfigSummary"))

    def _list_endpoints(self, request: Document) -> Document:
        items = (resource.document for resource in self._services.store.all(ENDPOINT))
        found = page(request, items, name="EndpointName", status="EndpointStatus", descending=True)
        return answer("Endpoints", found, self._operations.members("EndpointSummary"))


def _no_number(constant: str) -> None:
    """NaN and Infinity, which Python's parser would take."""
    raise ValueError(f"{constant} is no JSON number")
