"""The errors that AWS clients see, in the two forms that SageMaker speaks.

The control plane answers in JSON 1.1 (``__type`` and ``message`` in the body); the runtime answers in REST-JSON (the
code in the ``x-amzn-errortype`` header, ``Message`` and modelled members in the body).
"""

from __future__ import annotations

from collections.abc import Mapping


class ServiceError(Exception):
    """An error to hand to the caller of the control plane. ``code`` is what boto3 shows as ``Error.Code``."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status

    def body(self) -> dict[str, str]:
        """The JSON 1.1 error document."""
        return {"__type": self.code, "message": self.message, "Message": self.message}


def validation(message: str) -> ServiceError:
    """SageMaker's answer to nearly every request that it does not accept, missing resources included."""
    return ServiceError("ValidationException", message)


def not_supported(where: str, why: str) -> ServiceError:
    """Refuse a documented member or value which AWS would honour and this server cannot."""
    return validation(f"The local SageMaker does not support {where}: {why}")


def resource_in_use(message: str) -> ServiceError:
    """A name that is taken (jobs)."""
    return ServiceError("ResourceInUse", message)


def resource_not_found(message: str) -> ServiceError:
    """A resource that the operation documents as ResourceNotFound."""
    return ServiceError("ResourceNotFound", message)


def conflict(message: str) -> ServiceError:
    """A model package or group whose state forbids the operation."""
    return ServiceError("ConflictException", message)


class RuntimeServiceError(Exception):
    """An error to hand to the caller of InvokeEndpoint. ``members`` are the modelled members beside ``Message``."""

    def __init__(self, code: str, message: str, status: int, members: Mapping[str, str | int] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.members = dict(members or {})

    def body(self) -> dict[str, str | int]:
        """The REST-JSON error document."""
        return {"Message": self.message, **self.members}


class JobFailed(Exception):
    """A job cannot go on; the text is its FailureReason as AWS would word it (ClientError: …, AlgorithmError: …)."""
