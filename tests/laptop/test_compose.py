"""docker-compose.yaml hangs together: what no container has to run for to be seen."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from include.gateway import __main__ as gateway
from include.laptop.containers import AIRFLOW_USER, GATEWAY_USER
from include.laptop.stack import Stack
from include.local_sagemaker import __main__ as local_sagemaker
from include.settings import ROOT, load

TEXT = (ROOT / "docker-compose.yaml").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
SETTINGS = load(ROOT / "config" / "compose.toml")


def needed(name: str) -> Iterator[str]:
    """The services that are started with this one: it and all that it depends on."""
    yield name
    for other in SERVICES[name].get("depends_on", {}):
        yield from needed(other)


def mounted(name: str) -> dict[str, str]:
    """Where in the service's container each volume lies; with ``:ro`` where it may only read."""
    return dict(volume.split(":", 1) for volume in SERVICES[name]["volumes"])


def test_the_gateway_understands_its_command_and_serves_the_same_experiments_as_airflow() -> None:
    service = SERVICES["gateway"]
    assert service["entrypoint"][1:] == ["-m", gateway.__package__]
    options = gateway.parse(service["command"])
    airflow = SERVICES["scheduler"]["environment"]
    assert options.store == SETTINGS.experiments == airflow["FRAUD_EXPERIMENTS"]
    assert options.bucket == SETTINGS.bucket == airflow["FRAUD_BUCKET"]
    assert options.state == Path(mounted("gateway")["gateway"]), "on a volume: decisions lie there until S3 has them"
    assert options.keys == Path(mounted("gateway")["secrets"]) / "gateway_keys", "where a key can be added, so not read-only"
    assert service["ports"][0].endswith(f":{options.port}")


def test_the_local_sagemaker_understands_its_command() -> None:
    service = SERVICES["sagemaker"]
    assert service["entrypoint"][1:] == ["-m", local_sagemaker.__package__]
    options = local_sagemaker.parse(service["command"])
    assert options.images == Path(mounted("sagemaker")["./config"].removesuffix(":ro")) / "compose_images.json"
    assert list(json.loads((ROOT / "config" / options.images.name).read_text(encoding="utf-8"))) == [SETTINGS.image_uri]


def test_the_gateway_is_another_user_than_airflow_whose_secrets_lie_beside_its_keys() -> None:
    made = set(re.findall(r"useradd --uid (\d+)", (ROOT / "Dockerfile").read_text(encoding="utf-8")))
    assert made == {str(AIRFLOW_USER), str(GATEWAY_USER)}
    assert AIRFLOW_USER != GATEWAY_USER
    assert SERVICES["gateway"]["user"] == f"{GATEWAY_USER}:{GATEWAY_USER}"


def test_airflow_is_timed_as_on_the_laptop(tmp_path: Path) -> None:
    """What was found out there holds here: a worker that lingers, for one, makes Airflow take a task that resumes meanwhile for lost."""

    def timing(environment: dict[str, str]) -> dict[str, str]:
        parts = tuple(f"AIRFLOW__{part}__" for part in ("SCHEDULER", "WORKERS", "DAG_PROCESSOR"))
        return {name: value for name, value in environment.items() if name.startswith(parts)}

    laptop = timing(Stack(tmp_path).airflow_environment)
    assert "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL" in laptop
    for name in ("api-server", "scheduler", "dag-processor", "triggerer"):
        assert timing(SERVICES[name]["environment"]) == laptop


@pytest.mark.parametrize("name", ["demo", "scheduler"])
def test_the_services_that_airflow_and_the_demo_are_told_of_are_there(name: str) -> None:
    urls = {service: urlsplit(url) for service, url in json.loads(SERVICES[name]["environment"]["SERVICE_URLS"]).items()}
    assert urls.keys() >= {"airflow", "ministack", "sagemaker"}
    for url in urls.values():
        assert url.hostname in SERVICES
        assert f"127.0.0.1:{url.port}/" in SERVICES[url.hostname]["healthcheck"]["test"][-1]
    if name == "demo":
        assert {url.hostname for url in urls.values()} <= set(needed(name)), "`docker compose run demo` starts what is stopped"


def test_each_image_is_built_by_one_service_which_all_others_of_that_image_wait_for() -> None:
    builders: dict[str, list[str]] = {}
    for name, service in SERVICES.items():
        if "build" in service:
            builders.setdefault(service["image"], []).append(name)
    assert [len(names) for names in builders.values()] == [1, 1, 1]
    for name, service in SERVICES.items():
        if service["image"].startswith("fraud-lifecycle-"):
            assert builders[service["image"]][0] in needed(name)


def test_every_port_is_published_on_loopback_and_its_variable_is_told() -> None:
    published = [
        re.fullmatch(r"127\.0\.0\.1:\$\{(\w+):-(\d+)\}:\2", port) for service in SERVICES.values() for port in service.get("ports", ())
    ]
    assert len(published) == 3
    for port in published:
        assert port is not None
        assert port[1] in "".join(TEXT.splitlines()[:2])
        assert f"`{port[1]}`" in (ROOT / "docs" / "docker.md").read_text(encoding="utf-8")
