"""The operators of a rollout's configurations against the local SageMaker: shadow, ramp and back, with a challenger that nobody has approved."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

from sagemaker_lab import IMAGE, ROLE, ROOT, Server, error_of

from include.lifecycle.names import endpoint_name

ROLLOUT = """
import json, sys
from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from sagemaker_lifecycle.endpoints import ModelFromPackageOperator, RampConfigOperator, ShadowConfigOperator, SingleVariantConfigOperator, set_weights

from include.lifecycle.names import endpoint_name
from include.stores.registry import ModelRegistry

asked, name = json.loads(sys.argv[1]), endpoint_name("auto_claims")
both = {"domain": "auto_claims", "champion": asked["champion"], "challenger": asked["challenger"]}
client = SageMakerHook(aws_conn_id="aws_default").conn
told = {"models": [], "configs": [], "weights": [], "served": [], "alone": []}
for _ in range(2):  # a retry finds what is there
    for slot, trial in (("champion", False), ("challenger", True)):
        operator = ModelFromPackageOperator(task_id=f"create_{slot}", domain="auto_claims", model_package=asked[slot], trial=trial)
        told["models"].append(operator.execute({}))
    single = SingleVariantConfigOperator(task_id="single", domain="auto_claims", model_package=asked["champion"]).execute({})
    shadow = ShadowConfigOperator(task_id="shadow", **both).execute({})
    told["configs"].append([single, shadow, RampConfigOperator(task_id="ramp", **both).execute({})])
single, shadow, ramp = told["configs"][0]
wait = lambda: client.get_waiter("endpoint_in_service").wait(EndpointName=name, WaiterConfig={"Delay": 0.1, "MaxAttempts": 300})
client.create_endpoint(EndpointName=name, EndpointConfigName=single)
for config in (single, shadow, ramp):
    if config != single:
        client.update_endpoint(EndpointName=name, EndpointConfigName=config)
    wait()
    described = client.describe_endpoint(EndpointName=name)
    kinds = ("ProductionVariants", "ShadowProductionVariants")
    told["alone"].append(ModelRegistry(client).live("auto_claims").alone)
    told["served"].append([[variant["VariantName"] for variant in described.get(kind, [])] for kind in kinds])
for share in (0.05, 0.05, 1.0):
    changed = set_weights(name, share)
    wait()
    variants = client.describe_endpoint(EndpointName=name)["ProductionVariants"]
    told["weights"].append([changed, {variant["VariantName"]: round(variant["CurrentWeight"], 6) for variant in variants}])
print("TOLD", json.dumps(told))
"""


def test_a_rollouts_configurations_and_weights(server: Server, tmp_path: Path) -> None:
    """The operators run in a process of their own: importing Airflow leaves its marks on a process."""
    settings = tmp_path / "place.toml"
    laptop = (ROOT / "config" / "laptop.toml").read_text()
    settings.write_text(laptop)
    server.s3.create_bucket(Bucket="fraud-lifecycle")
    server.sagemaker.create_model_package_group(ModelPackageGroupName="auto-claims")
    content = {"Containers": [{"Image": IMAGE, "ModelDataUrl": server.put("models/tiny.tar.gz", tiny_archive())}]}
    types = {"SupportedContentTypes": ["text/csv"], "SupportedResponseMIMETypes": ["text/csv"]}
    packages = {
        slot: server.sagemaker.create_model_package(
            ModelPackageGroupName="auto-claims", InferenceSpecification=content | types, ModelApprovalStatus=status
        )["ModelPackageArn"]
        for slot, status in (("champion", "Approved"), ("challenger", "PendingManualApproval"))
    }
    container = {"ModelPackageName": packages["challenger"]}
    code, told = error_of(lambda: server.sagemaker.create_model(ModelName="refused", ExecutionRoleArn=ROLE, PrimaryContainer=container))
    assert (code, "must be Approved" in told) == ("ValidationException", True), "why a trial is made of what the package holds"
    extra = {"endpoint_url": server.aws_url, "region_name": "us-east-1", "service_config": {"sagemaker": {"endpoint_url": server.url}}}
    environment = {
        **server.environment(),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}",
        "HOME": str(tmp_path),
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW_CONN_AWS_DEFAULT": json.dumps({"conn_type": "aws", "login": "test", "password": "test", "extra": extra}),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "FRAUD_SETTINGS": str(settings),
    }
    command = [sys.executable, "-c", ROLLOUT, json.dumps(packages)]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    result = json.loads(next(line for line in found.stdout.splitlines() if line.startswith("TOLD ")).removeprefix("TOLD "))
    assert result["models"][:2] == result["models"][2:]
    assert len(set(result["models"])) == 2
    assert result["configs"][0] == result["configs"][1]
    assert result["served"] == [[["champion"], []], [["champion"], ["challenger"]], [["champion", "challenger"], []]]
    assert result["weights"] == [
        [True, {"champion": 0.95, "challenger": 0.05}],
        [False, {"champion": 0.95, "challenger": 0.05}],
        [True, {"champion": 0.0, "challenger": 1.0}],
    ]
    server.sagemaker.delete_endpoint(EndpointName=endpoint_name("auto_claims"))


def tiny_archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("model"), io.BytesIO())
    return buffer.getvalue()
