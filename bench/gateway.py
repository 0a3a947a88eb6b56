"""The gateway: what it adds to InvokeEndpoint, what it sustains on this machine, and the AWS sample's logic on the same machine.

``python -m bench.gateway``. 100 trees of depth 6 over 30 features, two variants in a ramp at one half, capture off; everything (clients, gateway,
local SageMaker, two model servers, MiniStack) shares the machine's processors. Clients are sockets that write ready-made bytes, the same for all.

One connection: rounds are interleaved, and what is added is the median over rounds of the difference of medians: over boto3's
``invoke_endpoint``, which is what a caller would use instead, and over the bare signed request on a socket, which is the endpoint alone.

Under load: connections that each ask again as soon as they are answered. The peer is the logic of AWS's "Dynamic A/B testing for machine learning
models with Amazon SageMaker MLOps projects" (lambda_invoke.py: read the user's assignment, read the endpoint's metrics, choose, write a
new assignment, invoke, write the event, synchronously with boto3), served by the same FastAPI and uvicorn, in as many threads as they give it, over
MiniStack's DynamoDB. That takes as long for a read as the machine makes it; DynamoDB itself takes some milliseconds over a network.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import numpy as np

from bench.report import Figure, publish
from bench.serving import ENVIRONMENTS, FEATURES, ROOT, Connection, free_port, make_model, running
from include.lifecycle.as_of import iso
from include.lifecycle.domain import Guardrails, Rollout
from include.lifecycle.experiment import Contender, Experiment
from include.lifecycle.names import endpoint_name, package_group
from include.stores.experiments import open_store

DOMAIN, REGION, BUCKET = "card_payments", "us-east-1", "bench"
ENDPOINT = endpoint_name(DOMAIN)
ASSIGNMENTS, METRICS = "ab-testing-assignment", "ab-testing-metrics"
SHARE = 0.5
VARIANTS = ("champion", "challenger")


@dataclass(frozen=True)
class Size:
    """``rounds`` of ``requests`` on one connection; ``seconds`` of load on ``connections``, ``load_rounds`` times."""

    rounds: int = 20
    requests: int = 100
    connections: int = 16
    seconds: float = 10.0
    load_rounds: int = 3
    warm_up: int = 200


@dataclass(frozen=True)
class Place:
    """Ports, and where the endpoint's own is."""

    gateway: int
    peer: int
    sagemaker: int
    row: tuple[float, ...]


# ------------------------------------------------------------------------------------------------------------------------ the peer


def peer(port: int) -> None:
    """Serves the AWS sample's logic until it is ended."""
    import uvicorn
    from botocore.config import Config
    from fastapi import FastAPI
    from fastapi.responses import JSONResponse

    config = Config(max_pool_connections=64)
    dynamodb = boto3.resource("dynamodb", config=config)
    assignments, metrics = dynamodb.Table(ASSIGNMENTS), dynamodb.Table(METRICS)
    runtime = boto3.client("sagemaker-runtime", config=config)
    app = FastAPI()

    @app.post("/invocation")
    def invocation(body: dict[str, Any]) -> JSONResponse:
        user, endpoint, inference = body["user_id"], body["endpoint_name"], body["inference_id"]
        key = {"user_id": user, "endpoint_name": endpoint}
        assigned = assignments.get_item(Key=key).get("Item")
        found = metrics.get_item(Key={"endpoint_name": endpoint})["Item"]["variant_metrics"]
        variant = assigned["variant_name"] if assigned else None
        if variant not in found:
            drawn = {
                name: random.betavariate(1 + float(each["reward_sum"]), 1 + max(0.0, float(each["invocation_count"] - each["reward_sum"])))
                for name, each in found.items()
            }
            variant = max(drawn, key=lambda name: drawn[name])
            assignments.put_item(Item={**key, "variant_name": variant, "ttl": int(time.time()) + 90 * 86_400})
        answer = runtime.invoke_endpoint(
            EndpointName=endpoint, ContentType=body["content_type"], Body=body["data"], TargetVariant=variant, InferenceId=inference
        )
        predictions = answer["Body"].read().decode()
        metrics.update_item(
            Key={"endpoint_name": endpoint},
            UpdateExpression="ADD variant_metrics.#variant.invocation_count :one",
            ExpressionAttributeNames={"#variant": variant},
            ExpressionAttributeValues={":one": 1},
        )
        result = {"strategy": "ThompsonSampling", "endpoint_variant": answer["InvokedProductionVariant"], "inference_id": inference}
        return JSONResponse(result | {"target_variant": variant, "user_id": user, "predictions": predictions})

    @app.get("/healthz")
    def alive() -> dict[str, bool]:
        return {"alive": True}

    uvicorn.run(app, port=port, loop="uvloop", http="httptools", access_log=False, log_level="warning")


def make_tables() -> None:
    dynamodb = boto3.client("dynamodb")
    for name, keys in ((ASSIGNMENTS, ("user_id", "endpoint_name")), (METRICS, ("endpoint_name",))):
        dynamodb.create_table(
            TableName=name,
            KeySchema=[{"AttributeName": key, "KeyType": kind} for key, kind in zip(keys, ("HASH", "RANGE"), strict=False)],
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in keys],
            BillingMode="PAY_PER_REQUEST",
        )
    counts = {variant: {"initial_variant_weight": 1, "invocation_count": 0, "reward_sum": 0} for variant in VARIANTS}
    boto3.resource("dynamodb").Table(METRICS).put_item(Item={"endpoint_name": ENDPOINT, "variant_metrics": counts})


# ---------------------------------------------------------------------------------------------------------------------- the place


@contextmanager
def stage(scratch: Path) -> Iterator[Place]:
    """Everything running, the environment pointing boto3 at it."""
    row, _ = make_model(scratch / "ml" / "model")
    archive = scratch / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as content:
        for path in sorted((scratch / "ml" / "model").iterdir()):
            content.add(path, path.name)
    cloud, sagemaker, gateway, other = free_port(), free_port(), free_port(), free_port()
    url = f"http://127.0.0.1:{sagemaker}"
    aws = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{cloud}", "AWS_DEFAULT_REGION": REGION, "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench", "AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1,localhost", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    ours = {"AWS_ENDPOINT_URL_SAGEMAKER": url, "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": url}
    ministack = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(cloud), "S3_PERSIST": "1", "S3_DATA_DIR": str(scratch / "s3")}
    image = f"000000000000.dkr.ecr.{REGION}.amazonaws.com/bench:1"
    images = scratch / "images.json"
    images.write_text(json.dumps({image: {"command": [sys.executable, "-m", "include.jobs"], "working_directory": str(ROOT)}}))
    before = dict(os.environ)
    with ExitStack() as stack:
        stack.callback(lambda: (os.environ.clear(), os.environ.update(before)))
        os.environ.update(aws | ours)
        python = str(ENVIRONMENTS / "ministack" / "bin" / "python")
        health = f"http://127.0.0.1:{cloud}/_ministack/health"
        stack.enter_context(running("ministack", [python, "-m", "ministack"], ministack, health, scratch))
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket=BUCKET)
        s3.upload_file(str(archive), BUCKET, "model.tar.gz")
        make_tables()
        command = [sys.executable, "-m", "include.local_sagemaker", "--state", str(scratch / "sagemaker"), "--images", str(images)]
        stack.enter_context(running("sagemaker", [*command, "--port", str(sagemaker)], {}, f"{url}/health", scratch))
        store = deploy(image, scratch)
        command = [
            sys.executable,
            "-m",
            "include.gateway",
            "--port",
            str(gateway),
            "--store",
            store,
            "--bucket",
            BUCKET,
            "--domains",
            DOMAIN,
        ]
        command += ["--state", str(scratch / "gateway"), "--rate", "1e9"]
        stack.enter_context(running("gateway", command, {}, f"http://127.0.0.1:{gateway}/readyz", scratch))
        command = [sys.executable, "-m", "bench.gateway", "--peer", str(other)]
        stack.enter_context(running("peer", command, {}, f"http://127.0.0.1:{other}/healthz", scratch))
        yield Place(gateway, other, sagemaker, tuple(float(value) for value in row[0]))


def deploy(image: str, scratch: Path) -> str:
    """Both variants in service, and their experiment in a ramp; the store's URL."""
    sagemaker, group = boto3.client("sagemaker"), package_group(DOMAIN)
    sagemaker.create_model_package_group(ModelPackageGroupName=group)
    specification = {
        "Containers": [{"Image": image, "ModelDataUrl": f"s3://{BUCKET}/model.tar.gz"}],
        "SupportedContentTypes": ["text/csv"],
        "SupportedResponseMIMETypes": ["text/csv"],
    }
    contenders, variants = {}, []
    for slot in VARIANTS:
        package = sagemaker.create_model_package(
            ModelPackageGroupName=group, ModelApprovalStatus="Approved", InferenceSpecification=specification
        )["ModelPackageArn"]
        role = "arn:aws:iam::000000000000:role/bench"
        sagemaker.create_model(ModelName=slot, ExecutionRoleArn=role, Containers=[{"ModelPackageName": package}])
        contenders[slot] = Contender(package, f"s3://{BUCKET}/model.tar.gz", 0.0)
        variants.append({"VariantName": slot, "ModelName": slot, "InitialInstanceCount": 1, "InstanceType": "ml.t2.medium"})
    sagemaker.create_endpoint_config(EndpointConfigName="bench", ProductionVariants=variants)
    sagemaker.create_endpoint(EndpointName=ENDPOINT, EndpointConfigName="bench")
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=ENDPOINT, WaiterConfig={"Delay": 1, "MaxAttempts": 120})
    url, opened = f"sqlite://{scratch / 'experiments.db'}", "2026-01-01T00:00:00Z"
    store = open_store(url)
    store.ensure()
    created = store.create(Experiment("bench", DOMAIN, ENDPOINT, contenders["champion"], contenders["challenger"], opened, as_of=opened))
    policy = Rollout(guardrails=Guardrails(heartbeat=timedelta(days=1)))  # for as long as this takes, nobody looks at guardrails
    store.save(created.but(stage="ramp", share=SHARE, step=1, step_began=iso(datetime.now(UTC)), policy=policy))
    return url


# ---------------------------------------------------------------------------------------------------------------------- measuring

Ask = Callable[[int], None]


def socket_client(port: int, path: str, body_of: Callable[[int], bytes]) -> Ask:
    """Sends the n-th request, over a connection of its own, and wants status 200."""
    connection = Connection(b"", socket.create_connection(("127.0.0.1", port)))
    connection.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: ".encode()

    def ask(number: int) -> None:
        body = body_of(number)
        connection.request = b"%b%d\r\n\r\n%b" % (head, len(body), body)
        connection.ask()

    return ask


def gateway_client(place: Place) -> Ask:
    event = {"domain": DOMAIN, "event_time": "2026-03-31T14:30:00Z", "amount": 100.0, "features": list(place.row)}

    def body(number: int) -> bytes:
        return json.dumps(event | {"event_id": str(number), "entity_id": str(number % 5_000)}).encode()

    return socket_client(place.gateway, "/v1/score", body)


def peer_client(place: Place) -> Ask:
    asked = {"endpoint_name": ENDPOINT, "content_type": "text/csv", "data": ",".join(map(repr, place.row))}

    def body(number: int) -> bytes:
        return json.dumps(asked | {"user_id": str(number % 5_000), "inference_id": str(number)}).encode()

    return socket_client(place.peer, "/invocation", body)


def bare_client(place: Place) -> Ask:
    """InvokeEndpoint's signed request on a socket: the endpoint alone."""
    body = ",".join(map(repr, place.row)).encode()
    connection = Connection.to(place.sagemaker, f"/endpoints/{ENDPOINT}/invocations", body, "text/csv", signed=True)
    return lambda number: (connection.ask(), None)[1]


def boto3_client(place: Place) -> Ask:
    runtime, body = boto3.client("sagemaker-runtime"), ",".join(map(repr, place.row)).encode()

    def ask(number: int) -> None:
        variant = VARIANTS[number % 2]
        asked = {"EndpointName": ENDPOINT, "ContentType": "text/csv", "Accept": "text/csv", "Body": body, "TargetVariant": variant}
        runtime.invoke_endpoint(**asked, InferenceId=str(number), CustomAttributes="event_time=2026-03-31T14:30:00Z")["Body"].read()

    return ask


def milliseconds(ask: Ask, first: int, requests: int) -> np.ndarray:
    taken = np.empty(requests)
    for number in range(requests):
        begun = time.perf_counter()
        ask(first + number)
        taken[number] = time.perf_counter() - begun
    return taken * 1_000


def one_connection(place: Place, size: Size) -> dict[str, Figure]:
    clients = {
        "gateway": gateway_client(place),
        "boto3": boto3_client(place),
        "endpoint": bare_client(place),
        "aws_sample": peer_client(place),
    }
    for ask in clients.values():
        milliseconds(ask, 1_000_000_000, size.warm_up)
    rounds = [
        {name: milliseconds(ask, (1 + number) * 1_000_000, size.requests) for name, ask in clients.items()} for number in range(size.rounds)
    ]
    medians = {name: np.array([np.median(one[name]) for one in rounds]) for name in clients}
    figures = {f"{name}_p50_ms": Figure(float(np.median(np.concatenate([one[name] for one in rounds])))) for name in clients}
    over_boto3, over_endpoint = medians["gateway"] - medians["boto3"], medians["gateway"] - medians["endpoint"]
    return figures | {
        "added_to_boto3_invoke_p50_ms": Figure(float(np.median(over_boto3)), 2.0, at_least=False),
        "added_to_boto3_invoke_highest_round_ms": Figure(float(over_boto3.max())),
        "added_to_bare_invoke_p50_ms": Figure(float(np.median(over_endpoint))),
    }


def under_load(make: Callable[[], Ask], first: int, size: Size) -> tuple[float, np.ndarray]:
    """(requests a second, milliseconds of each)."""
    clients = [make() for _ in range(size.connections)]
    taken: list[list[float]] = [[] for _ in clients]
    failures: list[Exception] = []
    begun = time.perf_counter()

    def work(place: int) -> None:
        number, mine, ask = first + place * 1_000_000, taken[place], clients[place]
        try:
            while (started := time.perf_counter()) < begun + size.seconds:
                ask(number)
                number += 1
                mine.append((time.perf_counter() - started) * 1_000)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    everything = np.concatenate([np.array(mine) for mine in taken])
    return everything.size / (time.perf_counter() - begun), everything


def loads(place: Place, size: Size) -> dict[str, Figure]:
    makers = {"gateway": lambda: gateway_client(place), "aws_sample": lambda: peer_client(place)}
    found: dict[str, list[tuple[float, np.ndarray]]] = {name: [] for name in makers}
    for number in range(size.load_rounds):
        for name, make in makers.items():
            found[name].append(under_load(make, (100 + 100 * number) * 1_000_000, size))
    figures = {}
    for name, rounds in found.items():
        figures[f"{name}_requests_a_second"] = Figure(statistics.median(rate for rate, _ in rounds))
        figures[f"{name}_load_p50_ms"] = Figure(float(np.median(np.concatenate([taken for _, taken in rounds]))))
        figures[f"{name}_load_p99_ms"] = Figure(float(np.percentile(np.concatenate([taken for _, taken in rounds]), 99)))
    ratio = figures["gateway_requests_a_second"].value / figures["aws_sample_requests_a_second"].value
    return figures | {"throughput_over_aws_sample": Figure(ratio, 1.0, at_least=True)}


async def _one_after_the_other(way: Callable[[int], Any], requests: int) -> None:
    for number in range(requests):
        await way(number)


def ways_to_invoke(place: Place, size: Size) -> dict[str, Figure]:
    """aiohttp with botocore's signature, as the gateway does it, and boto3 in threads: one request at a time, and ``connections`` at once."""
    from include.gateway.endpoint import Endpoints

    async def measure() -> dict[str, Figure]:
        endpoints = Endpoints()
        endpoints.refresh_credentials()
        ask = boto3_client(place)

        async def ours(number: int) -> None:
            await endpoints.invoke(ENDPOINT, VARIANTS[number % 2], str(number), "2026-03-31T14:30:00Z", place.row, None, 10.0)

        async def threads(number: int) -> None:
            await asyncio.to_thread(ask, number)

        ways = {"aiohttp": ours, "boto3_in_threads": threads}
        taken: dict[str, list[float]] = {name: [] for name in ways}
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(4):  # in turn, so that what else the machine does meets both alike
            for name, way in ways.items():
                for number in range(size.requests):
                    begun = time.perf_counter()
                    await way(number)
                    taken[name].append((time.perf_counter() - begun) * 1_000)
                begun = time.perf_counter()
                await asyncio.gather(*(_one_after_the_other(way, size.requests // 4) for _ in range(10)))
                rates[name].append(10 * (size.requests // 4) / (time.perf_counter() - begun))
        figures = {f"invoke_{name}_p50_ms": Figure(statistics.median(each)) for name, each in taken.items()}
        figures |= {f"invoke_{name}_a_second": Figure(statistics.median(each)) for name, each in rates.items()}
        await endpoints.close()
        return figures

    import uvloop

    return uvloop.run(measure())


def durable_log(folder: Path, size: Size) -> dict[str, Figure]:
    """What a line's way to the disk takes one caller, and how many a second 64 callers get there."""
    from include.gateway.journal import Journal

    async def measure() -> dict[str, Figure]:
        journal, line, taken = Journal(folder, "bench"), b"x" * 900, []
        for _ in range(size.requests * 2):
            begun = time.perf_counter()
            await journal.append(line)
            taken.append((time.perf_counter() - begun) * 1_000)

        async def several() -> None:
            for _ in range(size.requests):
                await journal.append(line)

        begun = time.perf_counter()
        await asyncio.gather(*(several() for _ in range(64)))
        rate = 64 * size.requests / (time.perf_counter() - begun)
        await journal.close()
        return {"durable_log_p50_ms": Figure(statistics.median(taken), 1.0, at_least=False), "durable_log_lines_a_second": Figure(rate)}

    import uvloop

    return uvloop.run(measure())


def measure(size: Size) -> dict[str, Figure]:
    with tempfile.TemporaryDirectory() as folder, stage(Path(folder)) as place:
        assert len(place.row) == FEATURES
        figures = one_connection(place, size) | loads(place, size) | ways_to_invoke(place, size)
        return figures | durable_log(Path(folder) / "log", size)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__)
    parser.add_argument("--peer", type=int, metavar="PORT", help="serve the peer on this port (the bench starts it so)")
    options = parser.parse_args()
    if options.peer:
        peer(options.peer)
    else:
        publish("gateway", measure(Size()))


if __name__ == "__main__":
    main()
