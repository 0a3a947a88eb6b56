"""Every asset of the lifecycle: what one DAG leaves and another waits for. Airflow only; nothing else is imported."""

from __future__ import annotations

from airflow.sdk import Asset


def features(domain: str) -> Asset:
    """A domain's feature partitions, as ``ingest_data`` leaves them. Each event's extra: ``first_day`` and ``last_day`` of the features that
    were written (None where there were none), and the instant ``as_of`` which they were written."""
    return Asset(f"{domain}.features", uri=f"fraud://{domain}/features", group="features")


def approved_model(domain: str) -> Asset:
    """An approved model package. Each event's extra: ``model_package`` (its ARN)."""
    return Asset(f"{domain}.approved_model", uri=f"fraud://{domain}/approved_model", group="model")


def live_model(domain: str) -> Asset:
    """The model package that carries the traffic. Each event's extra: ``model_package``, ``endpoint``."""
    return Asset(f"{domain}.live_model", uri=f"fraud://{domain}/live_model", group="model")


def history_model(domain: str) -> Asset:
    """The models of the past that backfills leave in the registry's history group. Each event's extra: ``model_package``, ``as_of``."""
    return Asset(f"{domain}.history_model", uri=f"fraud://{domain}/history_model", group="model")
