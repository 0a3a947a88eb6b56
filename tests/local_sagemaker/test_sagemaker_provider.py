"""The Amazon provider's own operators and hook, against the local SageMaker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from sagemaker_lab import BUCKET, IMAGE, ROLE, Server

PROVIDER = """
import json, logging, sys
from airflow.providers.amazon.aws.operators.sagemaker import (
    SageMakerEndpointOperator, SageMakerModelOperator, SageMakerProcessingOperator, SageMakerRegisterModelVersionOperator, SageMakerTrainingOperator,
)
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.amazon.aws.utils.sagemaker import ApprovalStatus

asked = json.loads(sys.argv[1])
common = {"aws_conn_id": "local", "check_interval": 1}
told = {}
training = SageMakerTrainingOperator(task_id="t", config=asked["training"], print_log=False, **common).execute({})
told["training"] = training["Training"]["TrainingJobStatus"]
again = SageMakerTrainingOperator(task_id="t", config=asked["training"], print_log=False, action_if_job_exists="timestamp", **common).execute({})
told["renamed"] = again["Training"]["TrainingJobName"]
try:
    failing = {**asked["training"], "TrainingJobName": "op-fails", "HyperParameters": {"act": "fail"}}
    SageMakerTrainingOperator(task_id="t", config=failing, print_log=False, **common).execute({})
except Exception as error:
    told["failure"] = str(error)
told["processing"] = SageMakerProcessingOperator(task_id="p", config=asked["processing"], **common).execute({})["Processing"]["ProcessingJobStatus"]
SageMakerModelOperator(task_id="m", config=asked["model"], aws_conn_id="local").execute({})
for step in asked["endpoints"]:
    found = SageMakerEndpointOperator(task_id="e", config=step, operation="create", **common).execute({})
    told.setdefault("endpoints", []).append([found["Endpoint"]["EndpointStatus"], found["Endpoint"]["EndpointConfigName"]])
for _ in range(2):
    package = {"image_uri": asked["image"], "model_url": asked["model_url"], "package_group_name": "operators"}
    register = SageMakerRegisterModelVersionOperator(task_id="r", model_approval=ApprovalStatus.APPROVED, aws_conn_id="local", **package)
    told.setdefault("versions", []).append(register.execute({}))
hook = SageMakerHook(aws_conn_id="local")
state, description, _ = hook.describe_training_job_with_log("op-train", {}, [], 1, 1, hook.describe_training_job("op-train"), 0.0)
told["described"] = description["TrainingJobStatus"]
told["count"] = hook.count_processing_jobs_by_name("op-process")
print("TOLD", json.dumps(told))
"""


def test_the_amazon_providers_operators(server: Server, tmp_path: Path) -> None:
    """The real operators, in a process of their own (importing Airflow leaves its marks on a process)."""
    channel = {"ChannelName": "train", "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/data/train/"}}}
    variants = [{"VariantName": "v", "ModelName": "op-model", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}]
    asked = {
        "training": server.training_request("op-train", InputDataConfig=[channel]),
        "processing": server.processing_request("op-process", ["features"]),
        "model": {"ModelName": "op-model", "ExecutionRoleArn": ROLE, "PrimaryContainer": {"Image": IMAGE}},
        "endpoints": [
            {
                "EndpointConfig": {"EndpointConfigName": f"op-config-{number}", "ProductionVariants": variants},
                "Endpoint": {"EndpointName": "op-endpoint", "EndpointConfigName": f"op-config-{number}"},
            }
            for number in (1, 2)
        ],
        "image": IMAGE,
        "model_url": server.put("models/op.tar.gz"),
    }
    extra = {"endpoint_url": server.aws_url, "region_name": "us-east-1", "service_config": {"sagemaker": {"endpoint_url": server.url}}}
    connection = {"conn_type": "aws", "login": "test", "password": "test", "extra": extra}
    environment = {
        **server.environment(),
        "HOME": str(tmp_path),
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW_CONN_LOCAL": json.dumps(connection),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    command = [sys.executable, "-c", PROVIDER, json.dumps(asked)]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    told = json.loads(next(line for line in found.stdout.splitlines() if line.startswith("TOLD ")).removeprefix("TOLD "))
    assert told["training"] == told["processing"] == told["described"] == "Completed"
    assert told["renamed"].startswith("op-train-")
    assert "AlgorithmError: the data are bad" in told["failure"]
    assert told["endpoints"] == [["InService", "op-config-1"], ["InService", "op-config-2"]]  # the second create became an update
    assert [arn.rpartition("/")[2] for arn in told["versions"]] == ["1", "2"]
    assert told["count"] == 1
    server.sagemaker.delete_endpoint(EndpointName="op-endpoint")
