"""A rollout's traffic through real processes: the endpoint with a shadow, then a gateway in front of both variants, each killed on the way; and
what the evidence job makes of what they wrote, against the same found by hand."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from claims_store import DOMAIN, LAYOUT, run
from live_endpoint import CONFIGURATION, ROOT, LiveEndpoint, bring_to, live_endpoint
from rollout_lab import AS_OF, CHALLENGER_KEY, MODELS, OPENED, Truth, copy_of, experiment, put_challenger, truth
from scored_claims import LAST_DAY
from waiting import wait_until

from include.jobs.context import JobError
from include.lifecycle.as_of import iso
from include.lifecycle.experiment import CHALLENGER, CHAMPION
from include.stores.experiments import open_store
from include.stores.objects import ObjectStore

DAYS = ("--first-day", str(OPENED), "--last-day", str(LAST_DAY))


@pytest.fixture(scope="module")
def claims(trained_claims: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    objects = copy_of(trained_claims, "rollout-live")
    put_challenger(objects, tmp_path_factory.mktemp("challenger"))
    return objects


@pytest.fixture(scope="module")
def found(claims: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return truth(claims, tmp_path_factory.mktemp("truth"))


@pytest.fixture(scope="module")
def live(claims: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveEndpoint]:
    with (
        live_endpoint(claims, tmp_path_factory.mktemp("live"), challenger=CHALLENGER_KEY) as endpoint,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", endpoint.url)
        patch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", endpoint.url)
        yield endpoint


def evidence(objects: ObjectStore, *more: str, **changes: Any) -> dict[str, Any]:
    described = objects.put_json(LAYOUT.experiment("exp-1", "experiment.json"), experiment(objects, **changes).as_json())
    output = objects.uri(f"{LAYOUT.domain}/reports/rollout/live/")
    result = run("rollout_evidence", objects, "--experiment", described, "--as-of", AS_OF, "--output", output, *more)
    written: dict[str, Any] = objects.get_json(objects.key(result["reports"]["evidence"]))
    return written


def difference(found: Truth) -> float:
    return float((found.cost(found.wants(CHALLENGER)) - found.cost(found.wants(CHAMPION))).mean())


def test_what_shadow_and_champion_answered_is_the_evidence(live: LiveEndpoint, found: Truth) -> None:
    objects = live.objects
    sent = run("replay", objects, *DAYS, "--wait-for-captures", "60")
    assert sent["events"] == len(found.ids)
    assert sent["captured"] == 2 * len(found.ids), "each answer twice: the champion's and its shadow's"
    captured = ("--captured", objects.uri(LAYOUT.captured(CONFIGURATION)))
    written = evidence(objects, *captured)
    assert (written["events"], written["unpaired"], written["left_out"]["damaged"]) == (len(found.ids), 0, 0)
    assert written["difference"]["value"] == pytest.approx(difference(found), abs=1e-6)
    assert sum(written["shadow_scores"]) == len(found.ids)

    # again, and a killed shadow is missed by the evidence alone: its events are unpaired until they are asked about again
    for info in list(objects.list(LAYOUT.captured(CONFIGURATION))):
        if info.key.endswith(".jsonl"):
            objects.delete(info.key)
    for process in variant_processes(live, CHALLENGER):
        process.kill()
    assert run("replay", objects, *DAYS, "--again", "--wait-for-captures", "8")["events"] == len(found.ids)
    part = evidence(objects, *captured)
    assert part["events"] + part["unpaired"] == len(found.ids)
    assert part["unpaired"] > 0
    run("replay", objects, *DAYS, "--again", "--wait-for-captures", "30")
    again = evidence(objects, *captured)
    assert (again["events"], again["difference"]) == (written["events"], written["difference"])


def variant_processes(live: LiveEndpoint, variant: str) -> set[psutil.Process]:
    processes = set()
    for process in psutil.Process(live.process.pid).children(recursive=True):
        try:
            if f"/{variant}/" in process.environ().get("HOME", ""):
                processes.add(process)
        except psutil.Error:
            continue
    return processes


class Gateway:
    """A gateway in a process of its own; ``start`` again after ``kill`` goes on with what it had."""

    def __init__(self, live: LiveEndpoint, folder: Path) -> None:
        self.folder, self.bucket = folder, live.objects.bucket
        self.store_url = f"sqlite://{folder / 'experiments.db'}"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        arguments = ["--port", str(self.port), "--store", self.store_url, "--domains", DOMAIN, "--bucket", self.bucket]
        command = [sys.executable, "-m", "include.gateway", *arguments, "--state", str(self.folder / "state"), "--refresh-every", "0.2"]
        with (self.folder / "gateway.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=log, stderr=log)
        wait_until(self._ready, "the gateway is ready")

    def _ready(self) -> bool:
        assert self.process.poll() is None, (self.folder / "gateway.log").read_text()
        try:
            return httpx.get(f"{self.url}/readyz", timeout=1).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)


@pytest.fixture
def gateway(live: LiveEndpoint, tmp_path: Path) -> Iterator[Gateway]:
    bring_to(live, f"ramp-{uuid.uuid4().hex[:8]}", {"ProductionVariants": [CHAMPION, CHALLENGER]}, MODELS)
    made = Gateway(live, tmp_path)
    store = open_store(made.store_url)
    store.ensure()
    began = store.create(experiment(live.objects, endpoint=live.name))
    store.save(began.but(stage="ramp", stage_since=began.opened, share=0.4, cap=0.5, step=1, step_began=iso(datetime.now(UTC))))
    made.start()
    yield made
    made.close()


def test_what_a_gateway_decided_is_the_evidence_though_it_was_killed(live: LiveEndpoint, gateway: Gateway, found: Truth) -> None:
    objects = live.objects

    def kill_and_start() -> None:
        time.sleep(0.5)
        gateway.kill()
        gateway.start()

    killing = threading.Thread(target=kill_and_start)
    killing.start()
    sent = run("replay", objects, *DAYS, "--gateway", gateway.url, "--rate", "150")
    killing.join()
    assert (sent["events"], sent["gateway"], sent["skipped_days"]) == (len(found.ids), gateway.url, [])
    assert run("replay", objects, *DAYS, "--gateway", gateway.url)["skipped_days"] == [day["day"] for day in sent["days"]]
    assert run("replay", objects, "--first-day", str(OPENED), "--last-day", str(OPENED))["events"] > 0, (
        "straight to the endpoint is another way"
    )
    gateway.close()  # which ships what is left
    written = evidence(objects, stage="ramp", stage_since=f"{OPENED}T00:00:00Z")
    assert (written["events"], written["left_out"]["damaged"], written["unpaired"]) == (len(found.ids), 0, 0)
    assert written["difference"]["value"] == pytest.approx(difference(found), abs=1e-6), "both decided as their scores imply"
    assert written["sample_ratio"]["expected"] == pytest.approx(0.4)
    assert not written["sample_ratio"]["mismatch"]
    arms = {slot: sum(day["events"] for day in days) for slot, days in written["arms"].items()}
    assert arms[CHAMPION] + arms[CHALLENGER] == len(found.ids)
    assert 0.2 < arms[CHALLENGER] / len(found.ids) < 0.6


def test_what_a_gateway_refuses_ends_the_replay(
    live: LiveEndpoint, gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = ("--first-day", str(OPENED), "--last-day", str(OPENED), "--again")
    assert run("replay", live.objects, *day, "--gateway", gateway.url, "--missing", "injury_claim")["events"] > 0
    monkeypatch.setattr("include.jobs.replay._WAITS", (0.0, 0.1))
    with pytest.raises(JobError, match=r"the gateway at .* refused it with 4\d\d"):
        run("replay", live.objects, *day, "--gateway", f"{gateway.url}/elsewhere")
    gateway.kill()
    with pytest.raises(JobError, match=r"did not answer: .*refused"):
        run("replay", live.objects, *day, "--gateway", gateway.url)
