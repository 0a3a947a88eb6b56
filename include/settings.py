"""A place, laptop or AWS: every name, role, bucket, instance type, VPC, KMS key, tag and poll interval, read from one TOML file.

``FRAUD_SETTINGS`` names the file (``config/laptop.toml`` without it). Reading it is standard library and quick: safe while DAGs are parsed.
"""

from __future__ import annotations

import functools
import os
import re
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
SETTINGS_VARIABLE = "FRAUD_SETTINGS"
FeaturesEngine = Literal["duckdb", "spark"]
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class SettingsError(ValueError):
    """The settings file cannot be used. The message names the file, the key and the mend."""


@dataclass(frozen=True)
class JobSize:
    instance_type: str
    volume_gb: int
    max_runtime_seconds: int
    instance_count: int = 1
    network_isolation: bool = False


@dataclass(frozen=True)
class EndpointSize:
    instance_type: str
    instance_count: int = 1
    network_isolation: bool = False


@dataclass(frozen=True)
class Network:
    """A VPC's subnets and security groups; both empty: SageMaker's own network."""

    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    encrypt_traffic_between_instances: bool = False

    @property
    def vpc_config(self) -> dict[str, Any]:
        """``{"VpcConfig": …}`` as Create* requests take it, or nothing."""
        if not self.subnets:
            return {}
        return {"VpcConfig": {"Subnets": list(self.subnets), "SecurityGroupIds": list(self.security_groups)}}


@dataclass(frozen=True)
class Encryption:
    kms_key_arn: str | None = None


@dataclass(frozen=True)
class Settings:
    place: str
    aws_conn_id: str
    region: str
    bucket: str
    image_uri: str
    execution_role_arn: str
    alerts_topic_arn: str
    alarms_queue_url: str
    poll_seconds: float
    object_url: str
    experiments_url: str
    """Where the state of rollouts is kept: ``sqlite:///<file>``, or ``dynamodb://<table>``; see ``experiments``."""
    processing: JobSize
    training: JobSize
    endpoint: EndpointSize
    network: Network = field(default_factory=Network)
    encryption: Encryption = field(default_factory=Encryption)
    tags: dict[str, str] = field(default_factory=dict)
    features_engine: FeaturesEngine = "duckdb"
    """What computes features in build-features; spark wants Java and requirements-spark.txt in the image."""

    def __post_init__(self) -> None:
        if self.features_engine not in get_args(FeaturesEngine):
            raise TypeError(f"features_engine is {self.features_engine!r}: wants {' or '.join(get_args(FeaturesEngine))}")

    def tag_list(self, **more: str) -> list[dict[str, str]]:
        """Tags as AWS takes them, sorted by key."""
        return [{"Key": key, "Value": value} for key, value in sorted({**self.tags, **more}.items())]

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    @property
    def experiments(self) -> str:
        """``experiments_url`` with its variables: only what opens the store needs them."""
        return os.path.expandvars(self.experiments_url)

    def browser_url(self, uri: str) -> str:
        """Where a person's browser finds the S3 object ``uri``."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return os.path.expandvars(self.object_url).format(bucket=bucket, key=quote(key, safe="/="))


_SECTIONS: dict[str, type] = {
    "processing": JobSize,
    "training": JobSize,
    "endpoint": EndpointSize,
    "network": Network,
    "encryption": Encryption,
}


def load(path: Path) -> Settings:
    """Reads one settings file. SettingsError for what is missing, unknown, of the wrong type, or a variable that is not set."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"settings file {path}: {error}. {SETTINGS_VARIABLE} names the file to read.") from error
    values = _expanded(values, path)
    for section, kind in _SECTIONS.items():
        if section in values:
            values[section] = _build(kind, values[section], f"{path}, [{section}]")
    settings: Settings = _build(Settings, values, str(path))
    return settings


@functools.cache
def current() -> Settings:
    """The settings in force, read once a process."""
    return load(Path(os.environ.get(SETTINGS_VARIABLE, ROOT / "config" / "laptop.toml")))


def _expanded(value: Any, path: Path) -> Any:
    """``$NAME`` in every string but those whose variables only their readers need: a browser's link, the store of rollouts."""
    if isinstance(value, dict):
        return {key: item if key in {"object_url", "experiments_url"} else _expanded(item, path) for key, item in value.items()}
    if not isinstance(value, str):
        return value

    def of_environment(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise SettingsError(f"{path}: the environment variable {name} is not set")
        return os.environ[name]

    return _VARIABLE.sub(of_environment, value)


def _build(kind: type, values: dict[str, Any], where: str) -> Any:
    known = {item.name for item in fields(kind)}
    if unknown := sorted(set(values) - known):
        raise SettingsError(f"{where}: unknown key {unknown[0]!r}; there are {', '.join(sorted(known))}")
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except TypeError as error:
        raise SettingsError(f"{where}: {error}") from error
