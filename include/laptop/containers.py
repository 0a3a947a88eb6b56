"""``python -m include.laptop.containers secrets|init|demo``: what docker-compose.yaml's one-shot services run.

``secrets`` makes every password and key on first use. They are kept in ``.env`` beside docker-compose.yaml (mode 0600; what stands there
already is used as it is), and go, as files that only their own user and root can read, into a volume that the other services mount: no
secret is in an image, in an environment or in ``docker inspect``. ``init`` makes Airflow's database, the bucket, topics, queue and table; ``demo``
walks through the main job.
"""

from __future__ import annotations

import argparse
import base64
import configparser
import hashlib
import io
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from include.domains import catalogue
from include.laptop.processes import StackError
from include.laptop.stack import Stack, StackFile
from include.stores.experiments import open_store

AIRFLOW_USER = 50000
GATEWAY_USER = 50001
"""Of the images (see Dockerfile)."""
OPERATOR = "operator"
"""Whose key ``GATEWAY_API_KEY`` is: commands that come with it are recorded under this name."""
_PASSWORD = "AIRFLOW_PASSWORD_"  # noqa: S105 -- the beginning of a variable's name


@dataclass(frozen=True)
class Secrets:
    """``values``: the content of ``.env``, name → secret."""

    values: Mapping[str, str]

    @classmethod
    def complete(cls, known: Mapping[str, str], users: list[str]) -> Secrets:
        """What is known, and fresh ones for what is not."""
        makers: dict[str, Callable[[], str]] = {
            "POSTGRES_PASSWORD": lambda: secrets.token_urlsafe(24),
            "AIRFLOW_FERNET_KEY": lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "AIRFLOW_API_SECRET_KEY": lambda: secrets.token_urlsafe(48),
            "AIRFLOW_JWT_SECRET": lambda: secrets.token_urlsafe(48),
            "GATEWAY_API_KEY": lambda: secrets.token_urlsafe(32),
            **{_PASSWORD + user.upper(): lambda: secrets.token_urlsafe(12) for user in users},
        }
        return cls({**known, **{name: known.get(name) or make() for name, make in makers.items()}})

    def passwords(self, users: list[str]) -> dict[str, str]:
        return {user: self.values[_PASSWORD + user.upper()] for user in users}

    def airflow_configuration(self, users: list[str], passwords_file: Path) -> configparser.RawConfigParser:
        """The part of airflow.cfg that is secret, or follows from the domains; docker-compose.yaml has the rest."""
        password = self.values["POSTGRES_PASSWORD"]
        configuration = configparser.RawConfigParser()
        configuration.read_dict({
            "core": {
                "fernet_key": self.values["AIRFLOW_FERNET_KEY"],
                "simple_auth_manager_users": ",".join(f"{user}:{'admin' if user == 'admin' else 'op'}" for user in users),
                "simple_auth_manager_passwords_file": str(passwords_file),
            },
            "database": {"sql_alchemy_conn": f"postgresql+psycopg2://airflow:{password}@postgres/airflow"},
            "api": {"secret_key": self.values["AIRFLOW_API_SECRET_KEY"]},
            "api_auth": {"jwt_secret": self.values["AIRFLOW_JWT_SECRET"]},
        })
        return configuration


def users() -> list[str]:
    """Airflow's users: an administrator, and everybody who approves models in a domain."""
    return ["admin", *sorted({user for domain in catalogue().domains.values() for user in domain.approval.approvers})]


def read_variables(path: Path) -> dict[str, str]:
    """``NAME=value`` lines of a file; empty where there is none."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = [line.partition("=") for line in map(str.strip, lines) if line and not line.startswith("#")]
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}


def make_secrets(project: Path, volume: Path) -> None:
    """Completes ``project/.env`` and writes the volume's files. A lost ``.env`` is restored from the volume, because the database keeps its
    password."""
    variables = project / ".env"
    written = read_variables(variables)
    made = Secrets.complete({**read_variables(volume / "env"), **written}, users())
    if more := {name: value for name, value in made.values.items() if written.get(name) != value}:
        before = variables.read_text(encoding="utf-8").rstrip("\n") + "\n" if variables.is_file() else ""
        owner = project.stat()
        _write(variables, before + _lines(more), owner.st_uid, owner.st_gid)
        print("secrets made: they are in .env, Airflow's passwords as AIRFLOW_PASSWORD_<USER>", flush=True)
    passwords_file = volume / "passwords.json"
    configuration = io.StringIO()
    made.airflow_configuration(users(), passwords_file).write(configuration)
    os.chown(volume, 0, 0)
    _write(volume / "env", _lines(made.values), 0, 0)
    _write(volume / "postgres_password", made.values["POSTGRES_PASSWORD"], 0, 0)
    _write(volume / "airflow.cfg", configuration.getvalue(), AIRFLOW_USER, AIRFLOW_USER)
    _write(passwords_file, json.dumps(made.passwords(users())), AIRFLOW_USER, AIRFLOW_USER)
    keys = volume / "gateway_keys"
    _write(keys, _gateway_keys(keys, made.values["GATEWAY_API_KEY"]), GATEWAY_USER, GATEWAY_USER)


def _gateway_keys(path: Path, key: str) -> str:
    """The operator's key, which is ``.env``'s, and after it those that persons have added to the file."""
    lines = path.read_text(encoding="ascii").splitlines() if path.is_file() else []
    added = [line for line in lines if line.partition(":")[0].strip() != OPERATOR]
    return "\n".join([f"{OPERATOR}: {hashlib.sha256(key.encode()).hexdigest()}", *added, ""])


def _lines(variables: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in variables.items())


def _write(path: Path, text: str, user: int, group: int) -> None:
    """Whole or not at all, readable by its owner only."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    os.chown(unfinished, user, group)
    unfinished.replace(path)


class ContainerStack(Stack):
    """The same stack as ``docker compose up`` runs it: the services are other containers, found under the names that compose gives them.

    ``SERVICE_URLS`` (JSON, service → URL) says where, ``BROWSER_URLS`` where the host sees them; ``passwords_file`` is the one that
    ``secrets`` made.
    """

    def __init__(self, home: Path, passwords_file: Path) -> None:
        from include.settings import current

        super().__init__(home)
        self.settings = current()
        self._passwords_file = passwords_file

    def url(self, service: str) -> str:
        found: str = json.loads(os.environ["SERVICE_URLS"])[service]
        return found

    def browser_url(self, service: str) -> str:
        found: str = json.loads(os.environ["BROWSER_URLS"])[service]
        return found

    @property
    def login(self) -> str:
        return f"user admin, password in .env ({_PASSWORD}ADMIN)"

    @property
    def file(self) -> StackFile:
        empty = StackFile(ports={}, fernet_key="", jwt_secret="", api_secret="", passwords={})
        return replace(empty, passwords=json.loads(self._passwords_file.read_text(encoding="utf-8")))

    def up(self) -> None:
        """Compose has started everything that this service depends on."""

    def init(self) -> None:
        """Airflow's database, made or brought up to date; the bucket, topics, queue and table. StackError where the database cannot be migrated."""
        migrated = subprocess.run(["airflow", "db", "migrate"], check=False)  # noqa: S607 -- the image's own
        if migrated.returncode:
            raise StackError("`airflow db migrate` failed, see above")
        self._make_bucket_topics_and_queue()
        open_store(self.experiments_url).ensure()

    @property
    def experiments_url(self) -> str:
        return self.settings.experiments


def _demo(stack: ContainerStack, name: str, landing: Path | None, year: int | None) -> dict[str, Any]:
    from include import domains
    from include.laptop.demo import Demo, write_summary

    try:
        domain = domains.get(name)
    except LookupError as error:
        raise StackError(str(error)) from error
    summary = Demo(stack, domain, landing=landing, year=year).run()
    write_summary(stack.home / "summary.json", summary)
    return summary


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m include.laptop.containers", description=__doc__)
    parser.add_argument("--volume", type=Path, default=Path("/secrets"), help="where the secrets' files lie")
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("secrets")
    making.add_argument("--project", type=Path, default=Path("/project"), help="the folder of .env")
    commands.add_parser("init")
    demo = commands.add_parser("demo")
    demo.add_argument("--domain", default="auto_claims")
    demo.add_argument("--landing", type=Path, help="a mounted folder with <table>.csv or <table>.parquet files")
    demo.add_argument("--year", type=int, help="the year of the events, where their dates carry none")
    options = parser.parse_args()
    try:
        if options.command == "secrets":
            make_secrets(options.project, options.volume)
            return 0
        stack = ContainerStack(Path(os.environ.get("AIRFLOW_HOME", "/state")), options.volume / "passwords.json")
        if options.command == "init":
            stack.init()
        else:
            _demo(stack, options.domain, options.landing, options.year)
    except StackError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
