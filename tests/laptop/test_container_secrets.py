"""The secrets of docker-compose.yaml, made where they may be: as root, because they belong to different users."""

from __future__ import annotations

import configparser
import json
import os
import stat
from pathlib import Path

import pytest

from include.gateway.keys import Keys, add_key
from include.laptop import containers
from include.laptop.containers import OPERATOR, make_secrets, read_variables, users

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as the container that makes them has")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    (tmp_path / "volume").mkdir()
    return tmp_path / "project"


def made(project: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    volume = project.parent / "volume"
    make_secrets(project, volume)
    return read_variables(project / ".env"), {path.name: path.read_bytes() for path in sorted(volume.iterdir())}


def test_made_on_first_use_and_kept(project: Path) -> None:
    variables, files = made(project)
    assert all(len(value) >= 16 for value in variables.values())
    assert len(set(variables.values())) == len(variables), "each its own"
    assert made(project) == (variables, files)

    configuration = configparser.RawConfigParser()
    configuration.read_string(files["airflow.cfg"].decode())
    assert configuration["core"]["fernet_key"] == variables["AIRFLOW_FERNET_KEY"]
    assert f":{variables['POSTGRES_PASSWORD']}@postgres/" in configuration["database"]["sql_alchemy_conn"]
    assert json.loads(files["passwords.json"]) == {user: variables[f"AIRFLOW_PASSWORD_{user.upper()}"] for user in users()}
    named = [entry.split(":")[0] for entry in configuration["core"]["simple_auth_manager_users"].split(",")]
    assert named == users()


def test_two_places_differ(project: Path, tmp_path: Path) -> None:
    (tmp_path / "other" / "project").mkdir(parents=True)
    (tmp_path / "other" / "volume").mkdir()
    one, other = made(project)[0], made(tmp_path / "other" / "project")[0]
    assert not set(one.values()) & set(other.values())


def test_readable_by_their_owners_only(project: Path) -> None:
    made(project)
    owners = {path.name: path.stat().st_uid for path in (project.parent / "volume").iterdir()}
    airflow, gateway = containers.AIRFLOW_USER, containers.GATEWAY_USER
    assert owners == {"env": 0, "postgres_password": 0, "airflow.cfg": airflow, "passwords.json": airflow, "gateway_keys": gateway}
    for path in [project / ".env", *(project.parent / "volume").iterdir()]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_a_person_wrote_is_used_and_kept(project: Path) -> None:
    (project / ".env").write_text("# mine\nAIRFLOW_PORT=9090\nAIRFLOW_PASSWORD_ADMIN='chosen by me'\n")
    variables, files = made(project)
    assert variables["AIRFLOW_PORT"] == "9090"
    assert (project / ".env").read_text().startswith("# mine\nAIRFLOW_PORT=9090\nAIRFLOW_PASSWORD_ADMIN='chosen by me'\n")
    assert json.loads(files["passwords.json"])["admin"] == "chosen by me"


def test_the_gateway_knows_the_key_in_env_and_the_new_one_once_it_is_changed(project: Path) -> None:
    keys = project.parent / "volume" / "gateway_keys"
    first = made(project)[0]["GATEWAY_API_KEY"]
    found = Keys.read(keys).caller(first)
    assert found is not None
    assert found.name == OPERATOR
    assert "command" in found.rights

    (project / ".env").write_text("GATEWAY_API_KEY=another-of-my-own\n")
    made(project)
    assert Keys.read(keys).caller("another-of-my-own") == found
    assert Keys.read(keys).caller(first) is None


def test_keys_that_were_added_outlive_the_next_start(project: Path) -> None:
    operators = made(project)[0]["GATEWAY_API_KEY"]
    keys = project.parent / "volume" / "gateway_keys"
    shop, analyst = add_key(keys, "shop", ("score", "outcomes")), add_key(keys, "analyst", ("read",))
    before = Keys.read(keys)
    made(project)
    assert Keys.read(keys) == before
    assert [caller.name for key in (operators, shop, analyst) if (caller := before.caller(key))] == [OPERATOR, "shop", "analyst"]


def test_a_lost_env_comes_back_from_the_volume(project: Path) -> None:
    variables, files = made(project)
    (project / ".env").unlink()
    assert made(project) == (variables, files), "the database keeps its password"
