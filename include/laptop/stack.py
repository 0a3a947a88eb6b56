"""The local stack, under one home folder: MiniStack, the local SageMaker, the gateway, and Airflow's four components on SQLite.

Everything listens on loopback. Ports and secrets are made on first use and kept in ``stack.json`` (mode 0600), so that ``down`` and ``up``
bring back the same stack with everything still in it.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
import subprocess
import sys
import urllib.request
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.error import URLError

from include.domains import catalogue
from include.laptop.processes import ProcessTable, Service, StackError, clean_environment
from include.lifecycle.processors import VARIABLE, usable_processors
from include.settings import ROOT, load
from include.stores.experiments import open_store

PREFERRED_PORTS = {"airflow": 8080, "ministack": 4566, "sagemaker": 4580, "gateway": 8090, "execution-api": 8091}
PRELOADED = ("numpy", "pandas", "pyarrow.parquet", "duckdb", "xgboost", "scipy.stats", "sklearn.metrics", "boto3", "great_expectations")
"""What the jobs' parent process imports once, so that a job starts in milliseconds."""
READY_SECONDS = 180
SQLITE_LOCK_SECONDS = 20
"""How long a component of Airflow waits for another's transaction. Python's five seconds can be too few where the DAG processor stores all DAGs on a
busy machine."""

CLOUDWATCH_TOPIC = "fraud-lifecycle-cloudwatch-alarms"
"""What a CloudWatch alarm on this stack names as its action, for ``receive_alarms`` to hear of it."""


@dataclass(frozen=True)
class StackFile:
    """What a stack keeps between ``down`` and ``up``."""

    ports: dict[str, int]
    fernet_key: str
    jwt_secret: str
    api_secret: str
    passwords: dict[str, str]


def _free_port(preferred: int) -> int:
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise StackError("no free port on 127.0.0.1")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - loopback
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def _write_secret(path: Path, content: object) -> None:
    """For the owner's eyes only, and never half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file, indent=1)
    unfinished.replace(path)


class Stack:
    """``home``: where all state lies (``.local`` of the checkout for ``make demo``). ``extra``: more environment for every Python process."""

    def __init__(self, home: Path, extra: dict[str, str] | None = None) -> None:
        self.home = home.resolve()
        self.processes = ProcessTable(self.home, ROOT)
        self.settings = load(ROOT / "config" / "laptop.toml")
        self._extra = extra or {}
        self._file: StackFile | None = None

    # what the stack is

    @property
    def file(self) -> StackFile:
        """The kept ports and secrets, made on first use. What a newer version or domain brings gets its port or
        password then."""
        path = self.home / "stack.json"
        if self._file is None:
            users = ["admin", *sorted({user for domain in catalogue().domains.values() for user in domain.approval.approvers})]
            if path.exists():
                kept = StackFile(**json.loads(path.read_text()))
            else:
                kept = StackFile(
                    ports={name: _free_port(port) for name, port in PREFERRED_PORTS.items()},
                    fernet_key=base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
                    jwt_secret=secrets.token_urlsafe(48),
                    api_secret=secrets.token_urlsafe(48),
                    passwords={},
                )
            ports = {name: _free_port(port) for name, port in PREFERRED_PORTS.items() if name not in kept.ports}  # of a newer version
            missing = [user for user in users if user not in kept.passwords]
            if missing or ports:
                passwords = {user: secrets.token_urlsafe(12) for user in missing}
                kept = replace(kept, passwords={**kept.passwords, **passwords}, ports={**kept.ports, **ports})
                _write_secret(path, asdict(kept))
            self._file = kept
        return self._file

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.file.ports[service]}"

    def browser_url(self, service: str) -> str:
        """The same for a person's browser."""
        return self.url(service)

    @property
    def login(self) -> str:
        """Where a person finds the password."""
        return f"user admin, password in {self.home}/airflow/passwords.json"

    @property
    def aws_environment(self) -> dict[str, str]:
        """How boto3 finds this stack instead of AWS."""
        sagemaker = self.url("sagemaker")
        return {
            "AWS_ENDPOINT_URL": self.url("ministack"),
            "AWS_ENDPOINT_URL_SAGEMAKER": sagemaker,
            "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": sagemaker,
            "AWS_DEFAULT_REGION": self.settings.region,
            "AWS_REGION": self.settings.region,
            "AWS_ACCESS_KEY_ID": "laptop",
            "AWS_SECRET_ACCESS_KEY": "laptop",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def _python_environment(self) -> dict[str, str]:
        paths = [str(ROOT), str(ROOT / "plugins"), *([self._extra["PYTHONPATH"]] if "PYTHONPATH" in self._extra else [])]
        if self.settings.features_engine == "spark":  # only then: Great Expectations imports PySpark wherever it finds it
            paths.append(str(ROOT / ".local" / "venvs" / "spark"))
        quiet = {"GX_ANALYTICS_ENABLED": "false", "SCARF_NO_ANALYTICS": "true", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
        return {**clean_environment(), **self.aws_environment, **quiet, **self._extra, "PYTHONPATH": os.pathsep.join(paths)}

    @property
    def job_environment(self) -> dict[str, str]:
        """What a job needs that a person starts in a terminal instead of SageMaker."""
        return {**self._python_environment, "FRAUD_BUCKET": self.settings.bucket, "FRAUD_EXPERIMENTS": self.experiments_url}

    @property
    def experiments_url(self) -> str:
        """Where rollouts keep their state: a file, which outlives every kill."""
        return f"sqlite://{self.home / 'experiments.db'}"

    @property
    def airflow_environment(self) -> dict[str, str]:
        """The whole of Airflow's configuration. ``airflow`` commands run in it reach this stack."""
        home = self.home / "airflow"
        ministack, sagemaker = self.url("ministack"), self.url("sagemaker")
        connection = {
            "conn_type": "aws",
            "login": "laptop",
            "password": "laptop",
            "extra": {
                "region_name": self.settings.region,
                "endpoint_url": ministack,
                "service_config": {
                    "sagemaker": {"endpoint_url": sagemaker},
                    "sagemaker-runtime": {"endpoint_url": sagemaker},
                    "sts": {"endpoint_url": ministack},
                },
            },
        }
        options = {
            "CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "CORE__LOAD_EXAMPLES": "False",
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__PARALLELISM": "6",
            "CORE__FERNET_KEY": self.file.fernet_key,
            "CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{user}:{'admin' if user == 'admin' else 'op'}" for user in self.file.passwords),
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url('execution-api')}/execution/",
            "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}?timeout={SQLITE_LOCK_SECONDS}",
            # A session that SQLite refused may leave its connection in an old snapshot: from a pool, every later write would be refused, too.
            "DATABASE__SQL_ALCHEMY_POOL_ENABLED": "False",
            "API__HOST": "127.0.0.1",
            "API__PORT": str(self.file.ports["airflow"]),
            "API__BASE_URL": self.url("airflow"),
            "API__WORKERS": "1",
            "API__SECRET_KEY": self.file.api_secret,
            "API__EXPOSE_CONFIG": "False",
            "API_AUTH__JWT_SECRET": self.file.jwt_secret,
            "API_AUTH__JWT_LEEWAY": "30",
            "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
            "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "60",  # what a killed scheduler had queued waits so long
            "WORKERS__MIN_HEARTBEAT_INTERVAL": "1",  # how long a finished task may keep its worker
            "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",
            "DAG_PROCESSOR__REFRESH_INTERVAL": "60",
            "DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "LOGGING__BASE_LOG_FOLDER": str(self.home / "logs" / "tasks"),
            "USAGE_DATA_COLLECTION__ENABLED": "False",
        }
        return {
            **self._python_environment,
            "AIRFLOW_HOME": str(home),
            "FRAUD_SETTINGS": str(ROOT / "config" / "laptop.toml"),
            "FRAUD_EXPERIMENTS": self.experiments_url,
            "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(connection),
            **{f"AIRFLOW__{name}": value for name, value in options.items()},
        }

    @property
    def services(self) -> list[Service]:
        python = sys.executable
        airflow = [python, "-m", "airflow"]
        environment = self.airflow_environment
        # with what its tasks would import again and again, see there
        scheduler_environment = environment | {
            "PYTHONPATH": os.pathsep.join([environment["PYTHONPATH"], str(ROOT / "config" / "scheduler")])
        }
        api = f"{self.url('airflow')}/api/v2/monitor/health"
        ministack_environment = {
            **clean_environment(),
            **self._extra,
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.file.ports["ministack"]),
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(self.home / "ministack" / "s3"),
            "PERSIST_STATE": "1",
            "STATE_DIR": str(self.home / "ministack" / "state"),
            "LOG_LEVEL": "WARNING",
        }
        return [
            Service(
                "ministack",
                [str(self._ministack_python), "-m", "ministack"],
                ministack_environment,
                lambda: _answers(f"{self.url('ministack')}/_ministack/health"),
                self.file.ports["ministack"],
            ),
            Service(
                "sagemaker",
                [
                    *(
                        python,
                        "-m",
                        "include.local_sagemaker",
                        "--state",
                        str(self.home / "sagemaker"),
                        "--images",
                        str(self.home / "images.json"),
                    ),
                    *("--port", str(self.file.ports["sagemaker"]), "--region", self.settings.region),
                ],
                {**self._python_environment},
                lambda: _answers(f"{self.url('sagemaker')}/health"),
                self.file.ports["sagemaker"],
            ),
            Service(
                "gateway",
                [
                    *(python, "-m", "include.gateway", "--port", str(self.file.ports["gateway"]), "--store", self.experiments_url),
                    *("--bucket", self.settings.bucket, "--state", str(self.home / "gateway"), "--ship-every", "2"),
                ],
                {**self._python_environment},
                lambda: _answers(f"{self.url('gateway')}/healthz"),
                self.file.ports["gateway"],
            ),
            # Two servers, for one would wait for itself: Airflow's audit log blocks its event loop until SQLite is free, and where a task's request
            # is in its transaction, that needs the loop to end it.
            Service("api-server", [*airflow, "api-server", "--apps", "core"], environment, lambda: _answers(api), self.file.ports["airflow"]),
            Service(
                "execution-api",
                [*airflow, "api-server", "--apps", "execution", "--port", str(self.file.ports["execution-api"])],
                environment,
                lambda: _answers(f"{self.url('execution-api')}/execution/health"),
                self.file.ports["execution-api"],
            ),
            Service("scheduler", [*airflow, "scheduler", "--skip-serve-logs"], scheduler_environment, lambda: self._healthy("scheduler")),
            Service("dag-processor", [*airflow, "dag-processor"], environment, lambda: self._healthy("dag_processor")),
            Service("triggerer", [*airflow, "triggerer", "--skip-serve-logs"], environment, lambda: self._healthy("triggerer")),
        ]

    def _healthy(self, component: str) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url('airflow')}/api/v2/monitor/health", timeout=2) as answer:  # noqa: S310 - loopback
                return bool(json.load(answer)[component]["status"] == "healthy")
        except (URLError, OSError, KeyError):
            return False

    @property
    def _ministack_python(self) -> Path:
        """MiniStack pins a botocore of its own, so it lives in a virtual environment of its own (see Makefile)."""
        return ROOT / ".local" / "venvs" / "ministack" / "bin" / "python"

    # what the stack does

    def up(self) -> None:
        """Starts what does not run yet and waits until all of it answers. StackError where something does not come up."""
        if not self._ministack_python.exists():
            raise StackError(f"MiniStack is not installed ({self._ministack_python}): run `make install`")
        if catalogue().failures:
            for folder, failure in catalogue().failures.items():
                print(f"\033[41;97m domain {folder} does not load, its DAGs are missing \033[0m\n{failure}", file=sys.stderr)
        self.write_files()
        open_store(self.experiments_url).ensure()
        services = {service.name: service for service in self.services}
        aws = [services.pop("ministack"), services.pop("sagemaker")]
        for service in aws:
            self.processes.start(service)
        self._migrate()
        for service in services.values():
            self.processes.start(service)
        for service in aws:
            self.processes.wait_until_ready(service, READY_SECONDS)
        self._make_bucket_topics_and_queue()
        for service in services.values():
            self.processes.wait_until_ready(service, READY_SECONDS)

    def down(self) -> list[str]:
        """Stops every process of the stack, Airflow first; returns their names. State stays."""
        order = ["scheduler", "triggerer", "dag-processor", "execution-api", "api-server", "gateway", "sagemaker", "ministack"]
        known = self.processes.names()
        stopped = [name for name in order if name in known]
        for name in stopped:
            self.processes.stop(name)
        return stopped

    def write_files(self) -> None:
        (self.home / "airflow").mkdir(parents=True, exist_ok=True)
        image = {
            "command": [sys.executable, "-m", "include.jobs"],
            "working_directory": str(ROOT),
            # two jobs at once share this machine, as they would not share an instance
            "environment": {**self._python_environment, VARIABLE: str(max(1, usable_processors() // 2))},
            "preload": list(PRELOADED),
        }
        (self.home / "images.json").write_text(json.dumps({self.settings.image_uri: image}, indent=1))
        _write_secret(self.home / "airflow" / "passwords.json", self.file.passwords)

    def _migrate(self) -> None:
        """Airflow's database, made or brought up to date; once a version of Airflow."""
        from importlib.metadata import version

        done = self.home / "airflow" / f"migrated-{version('apache-airflow')}"
        if done.exists():
            return
        result = subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            env=self.airflow_environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise StackError(f"`airflow db migrate` failed:\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}")
        done.touch()

    def client(self, service: str) -> object:
        """A boto3 client that reaches this stack."""
        import boto3

        endpoint = self.url("sagemaker" if service.startswith("sagemaker") else "ministack")
        return boto3.client(
            service,
            endpoint_url=endpoint,
            region_name=self.settings.region,
            aws_access_key_id="laptop",
            aws_secret_access_key="laptop",  # noqa: S106
        )

    def _make_bucket_topics_and_queue(self) -> None:
        s3, sns = self.client("s3"), self.client("sns")
        if self.settings.bucket not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:  # type: ignore[attr-defined]
            s3.create_bucket(Bucket=self.settings.bucket)  # type: ignore[attr-defined]
        sns.create_topic(Name=self.settings.alerts_topic_arn.rpartition(":")[2])  # type: ignore[attr-defined]
        topic = sns.create_topic(Name=CLOUDWATCH_TOPIC)["TopicArn"]  # type: ignore[attr-defined]
        sqs = self.client("sqs")
        queue = sqs.create_queue(QueueName=self.settings.alarms_queue_url.rpartition("/")[2])["QueueUrl"]  # type: ignore[attr-defined]
        arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]  # type: ignore[attr-defined]
        if not sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]:  # type: ignore[attr-defined]
            sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)  # type: ignore[attr-defined]
