"""Tags: AddTags, ListTags, DeleteTags, and the tags given at creation."""

from __future__ import annotations

from collections.abc import Sequence

from .config import Settings
from .errors import validation
from .store import Document, Store

_LIMIT = 50
# the resource part of an ARN -> the kind under which the resource is stored
KINDS = {
    "training-job": "training",
    "processing-job": "processing",
    "model": "model",
    "endpoint-config": "endpoint-config",
    "endpoint": "endpoint",
    "model-package-group": "model-package-group",
    "model-package": "model-package",
}


def tag_map(request: Document) -> dict[str, str]:
    """The request's Tags by key; a key that occurs twice is refused."""
    tags = {tag["Key"]: tag["Value"] for tag in request.get("Tags", [])}
    if len(tags) != len(request.get("Tags", [])):
        raise validation("Duplicate tag keys found in the request. Please ensure that tag keys are unique.")
    reserved = [key for key in tags if key.lower().startswith("aws:")]
    if reserved:
        raise validation(f"Tag keys that begin with 'aws:' are reserved: {reserved}")
    return tags


class Tags:
    """The tag operations on any resource."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store

    def add(self, request: Document) -> Document:
        """AddTags."""
        kind, name = self._check(request["ResourceArn"])
        if kind == "model-package" and "/" in name:
            raise validation("A versioned model package uses the tags of its model package group: tag the group.")
        with self._store.transaction():
            self._store.set_tags(request["ResourceArn"], tag_map(request))
            if len(self._store.tags(request["ResourceArn"])) > _LIMIT:
                raise validation(f"A resource can have at most {_LIMIT} tags.")
        return {"Tags": self._listed(request["ResourceArn"])}

    def list(self, request: Document) -> Document:
        """ListTags; always one page, a resource has at most 50 tags."""
        self._check(request["ResourceArn"])
        return {"Tags": self._listed(request["ResourceArn"])}

    def delete(self, request: Document) -> Document:
        """DeleteTags."""
        self._check(request["ResourceArn"])
        self._store.remove_tags(request["ResourceArn"], request["TagKeys"])
        return {}

    def _listed(self, arn: str) -> Sequence[dict[str, str]]:
        return [{"Key": key, "Value": value} for key, value in self._store.tags(arn).items()]

    def _check(self, arn: str) -> tuple[str, str]:
        """The kind and name of an existing resource."""
        prefix = self._settings.arn("")
        resource, _, name = arn.removeprefix(prefix).partition("/")
        kind = KINDS.get(resource)
        if not arn.startswith(prefix) or kind is None or not self._store.exists(kind, name):
            raise validation(f"Could not find resource with ARN {arn}.")
        return kind, name
