"""Shadow variants: copies of the production variant's requests, of which the caller notices nothing, whatever becomes of them."""

from __future__ import annotations

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import waiting
from sagemaker_lab import Server, error_of, variants_of
from test_sagemaker_capture import INTERVAL, lines, settings
from test_sagemaker_endpoints import Load

wait_until = functools.partial(waiting.wait_until, seconds=60)  # captures pass through S3, whatever else the machine does


@pytest.fixture(scope="module")
def shadowing(aws: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("shadowing"), aws, **INTERVAL).start()
    running.put("data/a.csv")
    for model in ("old", "new"):
        running.model(model)
    running.model("failing", ACT="never healthy")
    yield running
    running.close()


def shadow_config(server: Server, name: str, shadow: str = "new", weight: float = 1.0, production: float = 1.0) -> str:
    """Of the models "old", in production, and ``shadow``; captured under a prefix of the configuration's name."""
    more = {"ShadowProductionVariants": variants_of({"challenger": (shadow, weight)}), "DataCaptureConfig": settings(name)}
    return server.config(name, {"champion": ("old", production)}, **more)


def shadow_endpoint(server: Server, name: str, **more: Any) -> dict[str, Any]:
    server.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=shadow_config(server, name, **more))
    return server.settled(name)


def captured_ids(server: Server, prefix: str) -> dict[str, list[str]]:
    """The inference ids that were captured, by variant."""
    found = {variant: lines(server, f"{prefix}/{prefix}/{variant}") for variant in ("champion", "challenger")}
    return {variant: sorted(line["eventMetadata"].get("inferenceId", "") for line in each) for variant, each in found.items()}


def sum_of(server: Server, endpoint: str, metric: str, variant: str = "challenger") -> float:
    found = server.cloudwatch.get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName=metric,
        Dimensions=[{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": variant}],
        StartTime=time.time() - 600,
        EndTime=time.time() + 600,
        Period=3600,
        Statistics=["Sum"],
    )
    return float(sum(point["Sum"] for point in found["Datapoints"]))


def processes_of(server: Server, endpoint: str, variant: str) -> set[psutil.Process]:
    """The processes of a variant's container, as this machine numbers them."""
    found = set()
    for process in server.descendants():
        with contextlib.suppress(psutil.Error):
            home = Path(process.environ().get("HOME", "/"))
            if home.is_relative_to(server.state / "endpoints" / endpoint) and variant in home.parts:
                found.add(process)
    return found


def test_each_request_is_copied_and_both_answers_are_captured(shadowing: Server) -> None:
    described = shadow_endpoint(shadowing, "copied")
    assert [variant["VariantName"] for variant in described["ProductionVariants"]] == ["champion"]
    [shadow] = described["ShadowProductionVariants"]
    assert (shadow["VariantName"], shadow["CurrentWeight"], shadow["CurrentInstanceCount"]) == ("challenger", 1.0, 1)
    config = shadowing.sagemaker.describe_endpoint_config(EndpointConfigName="copied")
    assert [variant["ModelName"] for variant in config["ShadowProductionVariants"]] == ["new"]
    ids = sorted(f"event-{number}" for number in range(30))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda each: shadowing.invoke("copied", each.encode(), InferenceId=each, CustomAttributes="a=1"), ids))
    assert {(answer["model"], answer["variant"]) for answer in answers} == {("old", "champion")}
    wait_until(lambda: captured_ids(shadowing, "copied") == {"champion": ids, "challenger": ids}, what="both variants' captures")
    for variant, model in (("champion", "old"), ("challenger", "new")):
        for line in lines(shadowing, f"copied/copied/{variant}"):
            event, data = line["eventMetadata"], line["captureData"]
            assert data["endpointInput"]["data"] == event["inferenceId"], "the same request"
            assert f'"model": "{model}"' in data["endpointOutput"]["data"]
            assert event["customAttributes"] == ["a=1"]
    wait_until(lambda: sum_of(shadowing, "copied", "Invocations") == 30, what="the shadow's metrics")
    assert sum_of(shadowing, "copied", "Invocations", "champion") == 30
    assert sum_of(shadowing, "copied", "ModelLatency") > 0
    assert sum_of(shadowing, "copied", "Invocation5XXErrors") == 0


def test_a_shadow_is_no_target(shadowing: Server) -> None:
    shadow_endpoint(shadowing, "targeted")
    assert shadowing.invoke("targeted", TargetVariant="champion")["variant"] == "champion"
    code, told = error_of(lambda: shadowing.invoke("targeted", TargetVariant="challenger"))
    assert (code, "challenger" in told) == ("ValidationError", True)


def test_the_weights_say_which_share_is_copied(shadowing: Server) -> None:
    shadow_endpoint(shadowing, "half-copied", weight=1.0, production=2.0)
    ids = [f"event-{number}" for number in range(400)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda each: shadowing.invoke("half-copied", InferenceId=each), ids))
    wait_until(lambda: len(captured_ids(shadowing, "half-copied")["champion"]) == 400, what="the champion's captures")
    wait_until(lambda: len(captured_ids(shadowing, "half-copied")["challenger"]) > 160, what="the shadow's captures")
    time.sleep(2)
    copied = captured_ids(shadowing, "half-copied")["challenger"]
    assert set(copied) <= set(ids)
    assert 0.4 < len(copied) / 400 < 0.6  # .5 ± 4 standard errors
    change = [{"VariantName": "challenger", "DesiredWeight": 0.0}]
    shadowing.sagemaker.update_endpoint_weights_and_capacities(EndpointName="half-copied", DesiredWeightsAndCapacities=change)
    [shadow] = shadowing.settled("half-copied")["ShadowProductionVariants"]
    assert shadow["CurrentWeight"] == 0.0
    for number in range(20):
        shadowing.invoke("half-copied", InferenceId=f"after-{number}")
    wait_until(lambda: len(captured_ids(shadowing, "half-copied")["champion"]) == 420, what="the champion's captures")
    time.sleep(1)
    assert not [each for each in captured_ids(shadowing, "half-copied")["challenger"] if each.startswith("after")]


def test_the_caller_does_not_wait_for_a_slow_shadow_nor_see_its_failures(shadowing: Server) -> None:
    shadowing.model("hampered", DELAY="2")
    shadowing.model("broken", BREAKS="yes")
    shadow_endpoint(shadowing, "slow", shadow="hampered")
    begun = time.monotonic()
    for number in range(10):
        shadowing.invoke("slow", InferenceId=f"event-{number}")
    assert time.monotonic() - begun < 2, "ten answers in the time of one of the shadow's"
    wait_until(lambda: len(captured_ids(shadowing, "slow")["challenger"]) == 10, what="the copies, later")
    shadow_endpoint(shadowing, "failing-shadow", shadow="broken")
    for number in range(10):
        assert shadowing.invoke("failing-shadow", InferenceId=f"event-{number}")["model"] == "old"
    wait_until(lambda: sum_of(shadowing, "failing-shadow", "Invocation5XXErrors") == 10, what="the shadow's errors")
    assert sum_of(shadowing, "failing-shadow", "Invocation5XXErrors", "champion") == 0
    assert captured_ids(shadowing, "failing-shadow")["challenger"] == []


def test_copies_that_a_shadow_cannot_keep_up_with_are_dropped_and_counted(shadowing: Server) -> None:
    shadowing.model("stuck", DELAY="30")
    shadow_endpoint(shadowing, "overrun", shadow="stuck")
    with ThreadPoolExecutor(16) as pool:
        answers = Counter(pool.map(lambda _: shadowing.invoke("overrun")["model"], range(2_200)))
    assert answers == {"old": 2_200}
    # 4 are being asked, 2,000 wait
    wait_until(lambda: sum_of(shadowing, "overrun", "Invocation5XXErrors") == 196, what="the dropped copies in the metrics")
    assert "cannot keep up" in shadowing.log_file.read_text()
    shadowing.sagemaker.delete_endpoint(EndpointName="overrun")


def test_from_one_variant_to_a_shadow_to_two_variants_and_back_fails_no_request(shadowing: Server) -> None:
    single = shadowing.config("moving", {"champion": ("old", 1)})
    both = shadowing.config("moving-2", {"champion": ("old", 1), "challenger": ("new", 0)})
    shadow = shadow_config(shadowing, "moving-s")
    shadowing.sagemaker.create_endpoint(EndpointName="moving", EndpointConfigName=single)
    shadowing.settled("moving")
    with Load(shadowing, "moving") as load:
        for config, shadows in ((shadow, 1), (both, 0), (shadow, 1), (single, 0)):
            shadowing.sagemaker.update_endpoint(EndpointName="moving", EndpointConfigName=config)
            pending = shadowing.sagemaker.describe_endpoint(EndpointName="moving").get("PendingDeploymentSummary", {})
            assert len(pending.get("ShadowProductionVariants", [])) == shadows
            described = shadowing.settled("moving")
            assert described["EndpointConfigName"] == config
            assert len(described.get("ShadowProductionVariants", [])) == shadows
            answered = len(load.answers)
            wait_until(lambda before=answered: len(load.answers) > before + 20, what="answers")
    assert load.errors == []
    assert set(load.answers) == {"old"}
    copies = lines(shadowing, "moving-s/moving/challenger")
    assert copies
    assert all('"model": "new"' in line["captureData"]["endpointOutput"]["data"] for line in copies)


def test_a_shadow_that_never_becomes_healthy_fails_the_update(shadowing: Server) -> None:
    shadow_endpoint(shadowing, "hopeful")
    config = shadow_config(shadowing, "hopeless", shadow="failing")
    shadowing.sagemaker.update_endpoint(EndpointName="hopeful", EndpointConfigName=config)
    described = shadowing.settled("hopeful")
    assert (described["EndpointStatus"], described["EndpointConfigName"]) == ("InService", "hopeful")
    assert "challenger did not pass the ping health check" in described["FailureReason"]
    assert shadowing.invoke("hopeful")["model"] == "old"


def test_a_killed_shadow_is_missed_by_nobody_and_comes_back(shadowing: Server) -> None:
    shadow_endpoint(shadowing, "shadow-killed")
    shadowing.invoke("shadow-killed", InferenceId="first")
    wait_until(
        lambda: captured_ids(shadowing, "shadow-killed") == {"champion": ["first"], "challenger": ["first"]}, what="the first captures"
    )
    victims = processes_of(shadowing, "shadow-killed", "challenger")
    assert victims
    with Load(shadowing, "shadow-killed") as load:
        for process in victims:
            process.kill()
        answered = len(load.answers)
        wait_until(lambda: len(load.answers) > answered + 200, what="answers")

        def back() -> bool:
            shadowing.invoke("shadow-killed", InferenceId="again")
            return "again" in captured_ids(shadowing, "shadow-killed")["challenger"]

        wait_until(back, what="the shadow")
    assert load.errors == []
    assert sum_of(shadowing, "shadow-killed", "Invocation5XXErrors", "champion") == 0
    revived = processes_of(shadowing, "shadow-killed", "challenger")
    assert revived
    assert not revived & victims


def test_a_killed_server_comes_back_with_the_shadow_and_its_weight(own_server: Server) -> None:
    own_server.options |= INTERVAL
    for model in ("old", "new"):
        own_server.model(model)
    shadow_endpoint(own_server, "returns")
    change = [{"VariantName": "challenger", "DesiredWeight": 0.0}]
    own_server.sagemaker.update_endpoint_weights_and_capacities(EndpointName="returns", DesiredWeightsAndCapacities=change)
    own_server.settled("returns")
    own_server.kill()
    own_server.start()
    described = own_server.settled("returns")
    assert described["ShadowProductionVariants"][0]["CurrentWeight"] == 0.0
    own_server.invoke("returns", InferenceId="not copied")
    change = [{"VariantName": "challenger", "DesiredWeight": 1.0}]
    own_server.sagemaker.update_endpoint_weights_and_capacities(EndpointName="returns", DesiredWeightsAndCapacities=change)
    own_server.settled("returns")
    assert own_server.invoke("returns", InferenceId="copied")["model"] == "old"
    wait_until(lambda: captured_ids(own_server, "returns")["challenger"] == ["copied"], what="the shadow's capture")
    wait_until(lambda: captured_ids(own_server, "returns")["champion"] == ["copied", "not copied"], what="the champion's captures")
