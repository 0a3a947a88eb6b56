"""Load on many connections, and the gateway killed in the middle of it, again and again: what was answered is what arrives, once."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from gateway_lab import DOMAIN, LAYOUT, Cloud, Gateway, landed_labels, request, shipped

CLIENTS, EVENTS, KILLS = 6, 250, 4


@dataclass
class Client:
    """Scores its events, tells of each what became of it (some twice, some before it was scored, some against what was said), and asks again
    whatever was not answered. Each try to score has an amount of its own, so that the log says which of them it tells of. ``answered``: the answer
    to each try that was answered, by (event, amount)."""

    gateway: Gateway
    number: int
    answered: dict[tuple[str, float], dict[str, Any]] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=dict)
    conflicts: set[str] = field(default_factory=set)
    asked: int = 0
    error: Exception | None = None

    def run(self) -> None:
        try:
            self._work()
        except Exception as error:
            self.error = error

    def _work(self) -> None:
        dice = random.Random(self.number)
        for place in range(EVENTS):
            event = str(1 + self.number * EVENTS + place)
            label = dice.randrange(2)
            if dice.random() < 0.2:
                self._tell(event, label)
            self._score(event)
            self._tell(event, label)
            if dice.random() < 0.2:
                self._tell(event, label)
            if dice.random() < 0.1:
                assert self._ask("/v1/outcomes", [self._outcome(event, 1 - label)])["outcomes"][0]["state"] == "conflict"
                self.conflicts.add(event)

    def _score(self, event: str) -> None:
        tries = count(1)
        answer = self._ask("/v1/score", lambda: request(event, amount=float(next(tries))))
        self.answered[event, float(next(tries) - 1)] = answer

    def _outcome(self, event: str, label: int) -> dict[str, Any]:
        return {"domain": DOMAIN, "inference_id": event, "label": label, "known_at": "2026-04-07T09:00:00Z"}

    def _tell(self, event: str, label: int) -> None:
        [answer] = self._ask("/v1/outcomes", [self._outcome(event, label)])["outcomes"]
        assert answer["state"] in {"accepted", "pending", "known"}
        self.told[event] = label

    def _ask(self, path: str, body: Any) -> Any:
        """Until it is answered. ``body``: what makes one for each try, or the same for all."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=20)
            self.asked += 1
            try:
                connection.request("POST", path, json.dumps(body() if callable(body) else body), {"Content-Type": "application/json"})
                answer = connection.getresponse()
                content = answer.read()
                assert answer.status == 200, content
                return json.loads(content)
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
            finally:
                connection.close()
        raise AssertionError(f"{path} was not answered within a minute")


@pytest.mark.timeout(300)
def test_nothing_answered_is_lost_and_nothing_is_counted_twice(gateway: Gateway, cloud: Cloud) -> None:
    gateway.close()
    gateway.options = ("--ship-every", "0.3")
    gateway.start()
    clients = [Client(gateway, number) for number in range(CLIENTS)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    for kill in range(KILLS):
        time.sleep(0.8 + 0.37 * kill)
        gateway.kill()
        gateway.start()
    for thread in threads:
        thread.join(200)
    assert [client.error for client in clients] == [None] * CLIENTS
    gateway.kill()  # and once more, with whatever has not left yet
    gateway.start()
    gateway.flush()

    events = {str(number) for number in range(1, 1 + CLIENTS * EVENTS)}
    answered = {key: answer for client in clients for key, answer in client.answered.items()}
    told = {event: label for client in clients for event, label in client.told.items()}
    assert {event for event, _ in answered} == set(told) == events
    decisions = shipped(cloud.objects, LAYOUT.shipped_decisions())
    logged = {(each["inference_id"], each["amount"]): each for each in decisions}
    assert len(logged) == len(decisions), "no try is logged twice"
    for key, answer in answered.items():  # an answered try is there, whatever became of earlier ones, and says what was answered
        each = logged[key]
        assert answer == {
            "inference_id": key[0],
            "decision": "review" if each["reviewed"] else "pass",
            "reviewed_because": "score" if each["wanted"] else "random" if each["random_review"] else None,
            "variant": each["answered"],
            **{name: each[name] for name in ("score", "reasons", "model_package", "experiment", "share", "fallback")},
        }
    assert {event for event, _ in logged} == events
    audited = Counter(each["inference_id"] for each in shipped(cloud.objects, LAYOUT.shipped_outcomes()))
    assert audited == Counter(dict.fromkeys(events, 1))
    landed = Counter(line for _, line in landed_labels(cloud.objects))
    assert landed == Counter({f"{event},{label},2026-04-07T09:00:00Z": 1 for event, label in told.items()})
    counts = gateway.get(f"/v1/experiments/{DOMAIN}").json()["outcomes"]
    conflicts = {event for client in clients for event in client.conflicts}
    assert counts == {"accepted": len(events), "pending": 0, "conflicts": len(conflicts), "landed": len(events)}
    print(f"{sum(client.asked for client in clients):,} requests, {KILLS + 1} kills: {len(decisions):,} lines, {len(events):,} decisions, "
          f"{sum(landed.values()):,} labels, {len(conflicts)} conflicts")  # fmt: skip


def test_a_state_directory_is_one_gateways(gateway: Gateway, tmp_path: Path) -> None:
    second = Gateway(gateway.cloud, gateway.folder)
    with pytest.raises(AssertionError, match="another gateway runs in"):
        second.start()


def test_the_end_ships_what_is_here(gateway: Gateway, cloud: Cloud) -> None:
    gateway.score("1")
    gateway.post("/v1/outcomes", {"domain": DOMAIN, "inference_id": "1", "label": 1})
    gateway.terminate()
    assert [each["inference_id"] for each in shipped(cloud.objects, LAYOUT.shipped_decisions())] == ["1"]
    assert len(list(landed_labels(cloud.objects))) == 1
    assert not list((gateway.folder / "state" / "decisions").glob("*.log"))
