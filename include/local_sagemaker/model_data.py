"""Where a container's model data are: checked when a model or a model package names them, not first when it is deployed."""

from __future__ import annotations

from .errors import validation
from .jobs import refuse
from .s3 import Location, Storage
from .store import Document


def check_model_data(container: Document, storage: Storage) -> None:
    """Refuse a container whose ModelDataUrl or ModelDataSource is contradictory, cannot be used here or does not exist."""
    if "ModelDataUrl" in container and "ModelDataSource" in container:
        raise validation("ContainerDefinition must not have both ModelDataUrl and ModelDataSource.")
    url = container.get("ModelDataUrl")
    if url and not storage.exists(Location.parse(url)):
        raise validation(f"Could not find model data at {url}.")
    source = container.get("ModelDataSource", {}).get("S3DataSource")
    if source is None:
        return
    refuse(
        source,
        {"ManifestS3Uri": "list the files under one prefix", "HubAccessConfig": "hub content is only on AWS"},
        "S3DataSource.",
    )
    if source["S3DataType"] == "S3Prefix" and source["CompressionType"] == "Gzip":
        raise validation("ModelDataSource with S3DataType S3Prefix must have CompressionType None.")
    location = Location.parse(source["S3Uri"])
    found = storage.any_under(location) if source["S3DataType"] == "S3Prefix" else storage.exists(location)
    if not found:
        raise validation(f"Could not find model data at {source['S3Uri']}.")
