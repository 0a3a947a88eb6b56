"""Endpoints: hosting, traffic, updates without downtime, and what callers are told when something is wrong."""

from __future__ import annotations

import concurrent.futures
import io
import json
import random
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from sagemaker_lab import BUCKET, IMAGE, ROLE, Server, error_of
from waiting import wait_until


@pytest.fixture(scope="module")
def split(server: Server) -> Iterator[str]:
    """An endpoint with three variants, weights 3, 1 and 0."""
    for name in ("split-a", "split-b", "split-c"):
        server.model(name)
    described = server.endpoint("split", {"champion": ("split-a", 3), "challenger": ("split-b", 1), "idle": ("split-c", 0)})
    assert described["EndpointStatus"] == "InService"
    yield "split"
    server.sagemaker.delete_endpoint(EndpointName="split")


def test_requests_and_answers_pass_unchanged(server: Server, split: str) -> None:
    answer = server.invoke(
        split, b"1,2,3", Accept="application/json", CustomAttributes="trace-1", InferenceId="decision-7", TargetVariant="challenger"
    )
    assert answer["variant"] == "challenger"
    assert answer["model"] == "split-b"
    assert answer["body"] == "1,2,3"
    assert answer["headers"]["content-type"] == "text/csv"
    assert answer["headers"]["accept"] == "application/json"
    assert answer["headers"]["x-amzn-sagemaker-inference-id"] == "decision-7"
    assert "authorization" not in answer["headers"]
    assert answer["response"]["ContentType"] == "application/json"
    assert answer["response"]["CustomAttributes"] == "seen-trace-1"


def test_weights_share_the_traffic(server: Server, split: str) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        counts = Counter(answer["variant"] for answer in pool.map(lambda _: server.invoke(split), range(400)))
    assert counts["idle"] == 0
    assert 0.66 < counts["champion"] / 400 < 0.84  # .75 ± 4 standard errors
    assert server.invoke(split, TargetVariant="idle")["variant"] == "idle"


def test_weights_can_be_moved(server: Server) -> None:
    server.model("moved-a")
    server.model("moved-b")
    server.endpoint("moved", {"champion": ("moved-a", 1), "challenger": ("moved-b", 0)})
    assert {server.invoke("moved")["variant"] for _ in range(20)} == {"champion"}
    change = [
        {"VariantName": "champion", "DesiredWeight": 0.0},
        {"VariantName": "challenger", "DesiredWeight": 1.0, "DesiredInstanceCount": 2},
    ]
    server.sagemaker.update_endpoint_weights_and_capacities(EndpointName="moved", DesiredWeightsAndCapacities=change)
    described = server.settled("moved")
    variants = {variant["VariantName"]: variant for variant in described["ProductionVariants"]}
    assert variants["challenger"]["CurrentWeight"] == variants["challenger"]["DesiredWeight"] == 1.0
    assert variants["challenger"]["CurrentInstanceCount"] == 2
    assert {server.invoke("moved")["variant"] for _ in range(20)} == {"challenger"}
    nothing = [{"VariantName": "challenger", "DesiredWeight": 0.0}]
    update = server.sagemaker.update_endpoint_weights_and_capacities
    assert error_of(lambda: update(EndpointName="moved", DesiredWeightsAndCapacities=nothing))[0] == "ValidationException"
    unknown = [{"VariantName": "nobody", "DesiredWeight": 1.0}]
    assert error_of(lambda: update(EndpointName="moved", DesiredWeightsAndCapacities=unknown))[0] == "ValidationException"
    server.sagemaker.delete_endpoint(EndpointName="moved")


class Load:
    """Threads that call an endpoint until told to stop, and remember every answer and every error."""

    def __init__(self, server: Server, endpoint: str, body: bytes = b"hello") -> None:
        self.answers: list[str] = []
        self.errors: list[Any] = []
        self._stop = threading.Event()
        self._call = lambda: server.invoke(endpoint, body)
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.answers.append(self._call()["model"])
            except ClientError as error:
                self.errors.append(error)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_an_update_under_load_fails_no_request(server: Server) -> None:
    server.model("update-old")
    server.model("update-new", START_SECONDS="0.5")
    server.endpoint("updated", {"AllTraffic": ("update-old", 1)})
    before = {process.pid for process in server.descendants()}
    with Load(server, "updated", b"slow 0.05") as load:
        wait_until(lambda: len(load.answers) > 10)
        server.sagemaker.update_endpoint(
            EndpointName="updated", EndpointConfigName=server.config("updated-2", {"AllTraffic": ("update-new", 1)})
        )
        described = server.sagemaker.describe_endpoint(EndpointName="updated")
        assert described["EndpointStatus"] == "Updating"
        assert described["EndpointConfigName"] == "updated-config"
        assert described["PendingDeploymentSummary"]["EndpointConfigName"] == "updated-2"
        assert described["PendingDeploymentSummary"]["ProductionVariants"][0]["VariantStatus"][0]["Status"] == "Creating"
        mark = len(load.answers)
        assert server.invoke("updated")["model"] == "update-old"  # while the new fleet starts, the old one serves
        code, message = error_of(lambda: server.sagemaker.update_endpoint(EndpointName="updated", EndpointConfigName="updated-config"))
        assert code == "ValidationException"
        assert "in-progress" in message
        described = server.settled("updated")
        after = len(load.answers)
        wait_until(lambda: len(load.answers) > after + 10)
    assert load.errors == []
    assert set(load.answers[:mark]) == {"update-old"}
    assert set(load.answers[after + 4 :]) == {"update-new"}
    assert described["EndpointStatus"] == "InService"
    assert described["EndpointConfigName"] == "updated-2"
    assert "PendingDeploymentSummary" not in described
    assert "FailureReason" not in described
    assert described["ProductionVariants"][0]["DeployedImages"][0]["SpecifiedImage"] == IMAGE
    wait_until(lambda: len({process.pid for process in server.descendants()}) == len(before), what="the end of the old fleet")
    server.sagemaker.delete_endpoint(EndpointName="updated")


def test_an_update_that_fails_leaves_the_old_fleet_serving(server: Server) -> None:
    server.model("steady")
    server.model("ill", ACT="never healthy")
    server.endpoint("steady", {"AllTraffic": ("steady", 1)})
    with Load(server, "steady") as load:
        server.sagemaker.update_endpoint(EndpointName="steady", EndpointConfigName=server.config("ill-config", {"AllTraffic": ("ill", 1)}))
        described = server.settled("steady")
    assert load.errors == []
    assert set(load.answers) == {"steady"}
    assert described["EndpointStatus"] == "InService"
    assert described["EndpointConfigName"] == "steady-config"
    assert described["FailureReason"].startswith(
        "The primary container for production variant AllTraffic did not pass the ping health check."
    )
    server.sagemaker.delete_endpoint(EndpointName="steady")


def test_retained_properties(server: Server) -> None:
    server.model("retained")
    variants = {"champion": ("retained", 1.0), "challenger": ("retained", 1.0)}
    server.endpoint("retained", variants)
    change = [{"VariantName": "champion", "DesiredWeight": 7.0}]
    server.sagemaker.update_endpoint_weights_and_capacities(EndpointName="retained", DesiredWeightsAndCapacities=change)
    server.settled("retained")
    server.config("retained-2", variants)
    server.sagemaker.update_endpoint(EndpointName="retained", EndpointConfigName="retained-2", RetainAllVariantProperties=True)
    weights = {variant["VariantName"]: variant["CurrentWeight"] for variant in server.settled("retained")["ProductionVariants"]}
    assert weights == {"champion": 7.0, "challenger": 1.0}
    server.sagemaker.update_endpoint(EndpointName="retained", EndpointConfigName="retained-config")
    weights = {variant["VariantName"]: variant["CurrentWeight"] for variant in server.settled("retained")["ProductionVariants"]}
    assert weights == {"champion": 1.0, "challenger": 1.0}
    server.sagemaker.delete_endpoint(EndpointName="retained")


def canary(alarm: str) -> dict[str, Any]:
    size = {"Type": "CAPACITY_PERCENT", "Value": 50}
    routing = {"Type": "CANARY", "WaitIntervalInSeconds": 1, "CanarySize": size}
    return {
        "BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing, "TerminationWaitInSeconds": 0},
        "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": alarm}]},
    }


def test_a_canary_is_rolled_back_by_its_alarm(server: Server) -> None:
    server.cloudwatch.put_metric_alarm(
        AlarmName="canary-alarm",
        Namespace="tests",
        MetricName="Harm",
        Statistic="Maximum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1,
        ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="notBreaching",
    )
    server.cloudwatch.set_alarm_state(AlarmName="canary-alarm", StateValue="OK", StateReason="quiet")
    server.model("blue")
    server.model("green")
    server.endpoint("canary", {"AllTraffic": ("blue", 1)})
    update = {"EndpointName": "canary", "EndpointConfigName": server.config("canary-2", {"AllTraffic": ("green", 1)})}
    with Load(server, "canary") as load:
        server.sagemaker.update_endpoint(**update, DeploymentConfig=canary("canary-alarm"))
        wait_until(lambda: "green" in load.answers[-50:] and "blue" in load.answers[-50:], what="the canary's share of the traffic")
        server.cloudwatch.set_alarm_state(AlarmName="canary-alarm", StateValue="ALARM", StateReason="harm")
        described = server.settled("canary")
    assert load.errors == []
    assert described["EndpointConfigName"] == "canary-config"
    assert "canary-alarm" in described["FailureReason"]
    assert {server.invoke("canary")["model"] for _ in range(10)} == {"blue"}
    server.cloudwatch.set_alarm_state(AlarmName="canary-alarm", StateValue="OK", StateReason="quiet")
    server.sagemaker.update_endpoint(**update, DeploymentConfig=canary("canary-alarm"))
    described = server.settled("canary")
    assert described["EndpointConfigName"] == "canary-2"
    assert described["LastDeploymentConfig"] == canary("canary-alarm")
    assert {server.invoke("canary")["model"] for _ in range(10)} == {"green"}
    server.sagemaker.delete_endpoint(EndpointName="canary")


def linear(timeout: int, wait: int) -> dict[str, Any]:
    routing = {"Type": "LINEAR", "WaitIntervalInSeconds": wait, "LinearStepSize": {"Type": "CAPACITY_PERCENT", "Value": 25}}
    return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing, "MaximumExecutionTimeoutInSeconds": timeout}}


def test_a_timeout_must_leave_time_for_the_waits(server: Server, split: str) -> None:
    update = server.sagemaker.update_endpoint
    request = {"EndpointName": split, "EndpointConfigName": "split-config"}
    code, message = error_of(lambda: update(**request, DeploymentConfig=linear(600, 150)))  # four steps
    assert code == "ValidationException"
    assert "MaximumExecutionTimeoutInSeconds 600 must be larger than the waiting that the policy asks for, 600 seconds" in message


class Impatient(Server):
    """A server whose service model allows a timeout of 1 second, by botocore's own way to amend a model; AWS's smallest is 600."""

    def environment(self) -> dict[str, str]:
        home = self.state.parent / "home"
        amended = home / ".aws/models/sagemaker/2017-07-24/service-2.sdk-extras.json"
        amended.parent.mkdir(parents=True, exist_ok=True)
        amended.write_text(json.dumps({"merge": {"shapes": {"MaximumExecutionTimeoutInSeconds": {"min": 1}}}}))
        return {**super().environment(), "HOME": str(home)}


def test_a_deployment_that_takes_too_long_is_rolled_back(aws: str, tmp_path: Path) -> None:
    server = Impatient(tmp_path, aws).start()
    try:
        sagemaker = server.client("sagemaker", parameter_validation=False)
        server.model("timely")
        server.model("tardy", START_SECONDS="2.5")
        server.endpoint("timely", {"AllTraffic": ("timely", 1)})
        server.config("tardy", {"AllTraffic": ("tardy", 1)})
        for deployment, reason in (
            (linear(5, 1), "did not end within its MaximumExecutionTimeoutInSeconds of 5."),  # 2.5 s to start and 3 s of waits
            (linear(1, 0), "did not pass the ping health check"),  # never started in time
        ):
            sagemaker.update_endpoint(EndpointName="timely", EndpointConfigName="tardy", DeploymentConfig=deployment)
            described = server.settled("timely")
            assert described["EndpointConfigName"] == "timely-config"
            assert reason in described["FailureReason"]
            assert {server.invoke("timely")["model"] for _ in range(10)} == {"timely"}
            assert len(list((server.state / "endpoints/timely").iterdir())) == 1  # the fleet that serves
    finally:
        server.close()


def test_a_model_server_that_dies_is_started_again(server: Server) -> None:
    server.model("mortal", START_SECONDS="0.3")
    server.endpoint("mortal", {"AllTraffic": ("mortal", 1)})
    assert server.invoke("mortal")["model"] == "mortal"
    code, message = error_of(lambda: server.invoke("mortal", b"crash"))
    assert code == "ModelError"
    assert "closed the connection" in message
    assert error_of(lambda: server.invoke("mortal"))[0] == "ServiceUnavailable"

    def revived() -> bool:
        try:
            return server.invoke("mortal")["model"] == "mortal"
        except ClientError:
            return False

    wait_until(revived, what="the restart")
    assert server.sagemaker.describe_endpoint(EndpointName="mortal")["EndpointStatus"] == "InService"
    server.sagemaker.delete_endpoint(EndpointName="mortal")


def test_errors_of_the_model_are_told_as_documented(server: Server, split: str) -> None:
    for body, status, side in ((b"bad", 400, "client"), (b"error", 500, "server")):
        with pytest.raises(server.runtime.exceptions.ModelError) as caught:
            server.invoke(split, body, TargetVariant="champion")
        response = caught.value.response
        assert response["ResponseMetadata"]["HTTPStatusCode"] == 424
        assert response["OriginalStatusCode"] == status
        assert '"body": "' + body.decode() in response["OriginalMessage"]
        assert response["LogStreamArn"].startswith(
            "arn:aws:logs:us-east-1:000000000000:log-group:/aws/sagemaker/Endpoints/split:log-stream:champion/"
        )
        assert response["Error"]["Message"].startswith(f'Received {side} error ({status}) from primary with message "')


def test_requests_that_aws_would_refuse(server: Server, split: str) -> None:
    code, message = error_of(lambda: server.invoke("nobody"))
    assert (code, message) == ("ValidationError", "Endpoint nobody of account 000000000000 not found.")
    assert error_of(lambda: server.invoke(split, TargetVariant="nobody"))[0] == "ValidationError"
    assert error_of(lambda: server.invoke(split, TargetModel="a.tar.gz"))[0] == "ValidationError"
    assert error_of(lambda: server.invoke(split, InferenceId="x" * 65))[0] == "ValidationError"
    code, message = error_of(lambda: server.invoke(split, b"x" * 6_291_457))
    assert (code, message) == ("413", "HTTP content length exceeded 6291456 bytes.")
    assert server.invoke(split, b"x" * 6_291_456)["size"] == 6_291_456
    code, message = error_of(lambda: server.runtime.invoke_endpoint_async(EndpointName=split, InputLocation="s3://bucket/key"))
    assert code == "UnknownOperationException"
    assert "InvokeEndpointAsync" in message


def test_models_from_the_registry_and_from_s3(server: Server) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo("answer.txt")
        member.size = 8
        tar.addfile(member, io.BytesIO(b"packaged"))
    url = server.put("models/packaged.tar.gz", buffer.getvalue())
    server.put("models/loose/answer.txt", b"loose")
    server.sagemaker.create_model_package_group(ModelPackageGroupName="hosted")
    arn = server.sagemaker.create_model_package(
        ModelPackageGroupName="hosted",
        ModelApprovalStatus="PendingManualApproval",
        InferenceSpecification={
            "Containers": [{"Image": IMAGE, "ModelDataUrl": url, "Environment": {"ANSWER": "from the package"}}],
            "SupportedContentTypes": ["text/csv"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
    )["ModelPackageArn"]

    def create() -> None:
        server.sagemaker.create_model(ModelName="packaged", ExecutionRoleArn=ROLE, Containers=[{"ModelPackageName": arn}])

    code, message = error_of(create)
    assert code == "ValidationException"
    assert "Approved" in message
    server.sagemaker.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Approved")
    create()
    source = {"S3DataSource": {"S3Uri": f"s3://{BUCKET}/models/loose/", "S3DataType": "S3Prefix", "CompressionType": "None"}}
    server.sagemaker.create_model(ModelName="loose", ExecutionRoleArn=ROLE, PrimaryContainer={"Image": IMAGE, "ModelDataSource": source})
    server.endpoint("hosted", {"packaged": ("packaged", 1), "loose": ("loose", 1)})
    assert server.invoke("hosted", TargetVariant="packaged")["model"] == "packaged"
    assert server.invoke("hosted", TargetVariant="loose")["model"] == "loose"
    server.sagemaker.delete_endpoint(EndpointName="hosted")


def test_an_archive_that_leads_out_of_its_directory_is_refused(server: Server) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo("../../../escaped.txt")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    url = server.put("models/evil.tar.gz", buffer.getvalue())
    server.sagemaker.create_model(ModelName="evil", ExecutionRoleArn=ROLE, PrimaryContainer={"Image": IMAGE, "ModelDataUrl": url})
    described = server.endpoint("evil", {"AllTraffic": ("evil", 1)})
    assert described["EndpointStatus"] == "Failed"
    assert "'../../../escaped.txt' is no regular file or folder inside the archive" in described["FailureReason"]
    assert not list(server.state.rglob("escaped.txt"))
    assert not list((server.state / "endpoints/evil").glob("*"))  # nothing of the failed fleet is left
    code, _ = error_of(lambda: server.invoke("evil"))
    assert code == "ValidationError"
    server.sagemaker.delete_endpoint(EndpointName="evil")  # a failed endpoint can only be deleted
    wait_until(lambda: server.sagemaker.list_endpoints(NameContains="evil")["Endpoints"] == [])


def test_a_damaged_archive_is_the_endpoints_reason(server: Server) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo("weights")
        member.size = 100_000
        tar.addfile(member, io.BytesIO(random.Random(0).randbytes(100_000)))  # incompressible: only the checksum tells
    content = bytearray(buffer.getvalue())
    content[50_000] ^= 0xFF
    url = server.put("models/damaged.tar.gz", bytes(content))
    server.sagemaker.create_model(ModelName="damaged", ExecutionRoleArn=ROLE, PrimaryContainer={"Image": IMAGE, "ModelDataUrl": url})
    described = server.endpoint("damaged", {"AllTraffic": ("damaged", 1)})
    assert described["EndpointStatus"] == "Failed"
    assert described["FailureReason"].startswith("Failed to download model data for production variant AllTraffic: ")
    assert "Failed to extract model data archive" in described["FailureReason"]
    server.sagemaker.delete_endpoint(EndpointName="damaged")


def test_the_endpoints_metrics_and_logs_are_in_cloudwatch(server: Server) -> None:
    server.model("measured")
    server.endpoint("measured", {"AllTraffic": ("measured", 1)})
    for body in (b"a", b"b", b"c"):
        server.invoke("measured", body)
    error_of(lambda: server.invoke("measured", b"error"))

    def total(metric: str) -> float:
        found = server.cloudwatch.get_metric_statistics(
            Namespace="AWS/SageMaker",
            MetricName=metric,
            Dimensions=[{"Name": "EndpointName", "Value": "measured"}, {"Name": "VariantName", "Value": "AllTraffic"}],
            StartTime=time.time() - 600,
            EndTime=time.time() + 600,
            Period=3600,
            Statistics=["Sum"],
        )
        return float(sum(point["Sum"] for point in found["Datapoints"]))

    wait_until(lambda: total("Invocations") == 4, what="the count of invocations")
    assert total("Invocation5XXErrors") == 1
    assert total("Invocation4XXErrors") == 0
    assert total("ModelLatency") > 0
    assert total("OverheadLatency") > 0
    server.sagemaker.delete_endpoint(EndpointName="measured")
    wait_until(lambda: server.sagemaker.list_endpoints(NameContains="measured")["Endpoints"] == [])  # its log is shipped whole before
    streams = server.logs.describe_log_streams(logGroupName="/aws/sagemaker/Endpoints/measured")["logStreams"]
    assert [stream["logStreamName"].split("/")[0] for stream in streams] == ["AllTraffic"]


def test_a_deleted_endpoint_is_gone(server: Server) -> None:
    server.model("passing")
    server.endpoint("passing", {"AllTraffic": ("passing", 1)})
    server.sagemaker.delete_endpoint(EndpointName="passing")
    assert error_of(lambda: server.invoke("passing"))[0] == "ValidationError"
    server.sagemaker.get_waiter("endpoint_deleted").wait(EndpointName="passing", WaiterConfig={"Delay": 1, "MaxAttempts": 10})
    assert error_of(lambda: server.sagemaker.describe_endpoint(EndpointName="passing"))[0] == "ValidationException"
    server.endpoint("passing-again", {"AllTraffic": ("passing", 1)})  # the name of its configuration, not of the endpoint, was taken
    server.sagemaker.delete_endpoint(EndpointName="passing-again")
