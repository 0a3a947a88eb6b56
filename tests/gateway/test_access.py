"""Who may ask what, how often, and how much."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from gateway_lab import DOMAIN, ROOT, Cloud, Gateway, model_archive, request
from waiting import wait_until

from include.gateway.counts import Metrics
from include.gateway.guard import Access, Application, Guard, Message, Receive, Refused, Scope, Send
from include.gateway.keys import Keys, KeysError, TokenBucket, add_key


def test_keys_are_kept_as_hashes(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    first, second = add_key(path, "scoring"), add_key(path, "risk.desk@bank", ("read", "command"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert first not in path.read_text()
    assert len(first) >= 43
    keys = Keys.read(path)
    found = [keys.caller(key) for key in (first, second, "", first[:-1], "é")]
    assert [each and each.name for each in found] == ["scoring", "risk.desk@bank", None, None, None]
    assert found[1] is not None
    assert found[1].rights == {"read", "command"}
    assert found[0] is not None
    assert found[0].rights == {"score", "outcomes", "read", "command"}, "to override is in no key that does not name it"
    with pytest.raises(KeysError, match="has a key of scoring already"):
        add_key(path, "scoring")
    with pytest.raises(KeysError, match="is no name"):
        add_key(path, "a b")


@pytest.mark.parametrize(
    ("text", "mode", "error"),
    [
        (None, 0o600, "No such file"),
        ("a: 12\n", 0o600, "line 1 is not"),
        (f"a: {'0' * 64}\nb {'0' * 64}\n", 0o600, "line 2 is not"),
        (f"a: {'0' * 64} fly\n", 0o600, "no right is called 'fly'"),
        (f"a: {'0' * 64}\n", 0o640, "chmod 600"),
        (f"a: {'0' * 64}\n", 0o602, "chmod 600"),
        ("ä: x\n", 0o600, "ascii"),
    ],
)
def test_a_file_of_keys_that_cannot_be_used_says_why(tmp_path: Path, text: str | None, mode: int, error: str) -> None:
    path = tmp_path / "keys"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    with pytest.raises(KeysError, match=error):
        Keys.read(path)
    with pytest.raises((KeysError, OSError), match=error):
        Access(path, 1.0)


def test_a_file_of_no_keys_is_none_to_begin_with_but_can_be_what_is_left(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    for text in ("", "# nobody\n\n"):
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(KeysError, match="holds no key"):
            Access(path, 1.0)
    key = add_key(path, "first")
    access = Access(path, 1.0)
    headers = {b"x-api-key": key.encode()}
    assert access.admit(headers, "score").name == "first"
    path.write_text("# nobody\n")
    access.refresh()
    with pytest.raises(Refused, match="no such key"):
        access.admit(headers, "score")


def test_a_bucket_fills_again() -> None:
    bucket = TokenBucket(2.0)
    assert [bucket.wait("a", 0.0) for _ in range(3)] == [0.0, 0.0, 0.5]
    assert bucket.wait("b", 0.0) == 0.0
    assert bucket.wait("a", 0.25) == pytest.approx(0.25)
    assert bucket.wait("a", 0.5) == 0.0
    assert [bucket.wait("a", 100.0) for _ in range(3)] == [0.0, 0.0, 0.5]  # never more than a second's
    slow = TokenBucket(0.5)
    assert [slow.wait("a", at) for at in (0.0, 1.0, 2.0)] == [0.0, 1.0, 0.0]


def made(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """What the command says. Where ``environment`` is given, it alone says what AWS's region is."""
    inherited = {name: value for name, value in os.environ.items() if not environment or name not in {"AWS_DEFAULT_REGION", "AWS_REGION"}}
    return subprocess.run(
        [sys.executable, "-m", "include.gateway", *arguments], cwd=ROOT, capture_output=True, text=True, check=False,
        env=inherited | {"PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip


def test_what_it_does_not_start_with(tmp_path: Path) -> None:
    needed = ["--store", f"sqlite://{tmp_path}/e.db", "--bucket", "b", "--state", str(tmp_path / "state"), "--port", "0"]
    for more, error in (
        (["--host", "0.0.0.0"], "is no loopback address"),  # noqa: S104 -- it must refuse
        (["--keys", str(tmp_path / "none")], "No such file"),
        (["--domains", "nobody"], "no domain 'nobody'"),
        (["--rate", "0"], "want numbers above 0"),
        (["--store", "http://x"], "is no experiment store"),
    ):
        refused = made([*needed, *more], AWS_DEFAULT_REGION="eu-west-1")
        assert refused.returncode == 2
        assert error in refused.stderr
        assert "Traceback" not in refused.stderr


def test_it_takes_its_region_from_either_variable(tmp_path: Path) -> None:
    arguments = ["--store", "http://x", "--bucket", "b", "--state", str(tmp_path / "state"), "--port", "0"]
    for name, value, error in (
        ("AWS_REGION", "", "there is no AWS region: set AWS_DEFAULT_REGION"),
        ("AWS_REGION", "eu-west-1", "is no experiment store"),
        ("AWS_DEFAULT_REGION", "eu-west-1", "is no experiment store"),
    ):
        refused = made(arguments, AWS_CONFIG_FILE=os.devnull, **{name: value})
        assert refused.returncode == 2
        assert error in refused.stderr
        assert "Traceback" not in refused.stderr


def test_keys_rights_and_limits_of_a_running_gateway(gateway: Gateway, cloud: Cloud, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    scoring = made(["key", "scoring", "--keys", str(keys), "--may", "score", "outcomes"]).stdout.strip()
    desk = made(["key", "desk", "--keys", str(keys)]).stdout.strip()
    gateway.close()
    gateway.options = ("--keys", str(keys))
    gateway.start()
    score, commands = "/v1/score", f"/v1/experiments/{DOMAIN}/commands"
    assert gateway.post(score, request("1")).status_code == 401
    assert gateway.post(score, request("1")).headers["www-authenticate"] == "Bearer"
    assert gateway.post(score, request("1"), **{"X-API-Key": scoring + "x"}).status_code == 401
    assert gateway.post(score, request("1"), **{"X-API-Key": scoring}).status_code == 200
    assert gateway.post(score, request("2"), Authorization=f"Bearer {scoring}").status_code == 200
    lacking = gateway.post(commands, {"action": "stop", "why": "x"}, **{"X-API-Key": scoring})
    assert (lacking.status_code, lacking.json()["error"]) == (403, "the key of scoring may not do this: it lacks the right 'command'")
    assert gateway.get(f"/v1/experiments/{DOMAIN}", **{"X-API-Key": scoring}).status_code == 403
    assert gateway.get("/metrics").status_code == 401
    assert gateway.get("/healthz").status_code == 200
    gateway.rolled_out("ramp", 0.1)
    assert gateway.post(commands, {"action": "stop", "why": "x"}, **{"X-API-Key": desk}).json()["who"] == "desk"

    with httpx.Client(base_url=gateway.url, headers={"X-API-Key": scoring}) as client:
        large = client.post(score, content=b" " * (256 * 1024 + 1), headers={"Content-Type": "application/json"})
        assert (large.status_code, "larger than 262144 bytes" in large.json()["error"]) == (413, True)
        chunked = client.post(score, content=iter([b" " * 100_000] * 4), headers={"Content-Type": "application/json"})
        assert chunked.status_code == 413
        assert client.post("/v1/outcomes", content=b" " * 900_000, headers={"Content-Type": "application/json"}).status_code == 422
        assert client.post(score, content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415

    keys.write_text("".join(line for line in keys.read_text().splitlines(keepends=True) if not line.startswith("scoring")))
    wait_until(
        lambda: gateway.post(score, request("3"), **{"X-API-Key": scoring}).status_code == 401, "a key that is taken out is out of use"
    )
    written = keys.read_text()
    keys.write_text("nonsense\n")
    time.sleep(0.6)
    assert gateway.get("/metrics", **{"X-API-Key": desk}).status_code == 200  # a spoiled file shuts nobody out, or in

    def answers(status: int, what: str) -> None:
        wait_until(lambda: gateway.get("/metrics", **{"X-API-Key": desk}).status_code == status, what)

    keys.write_text("# the last key is taken out\n")
    answers(401, "the last key is out of use")
    assert gateway.get("/metrics").status_code == 401
    keys.write_text(written)
    answers(200, "it is back")
    away = keys.rename(keys.with_name("away"))
    answers(401, "a file that is gone holds no keys")
    assert gateway.get("/metrics").status_code == 401
    away.rename(keys)
    answers(200, "the same file is back")
    assert scoring not in gateway.log
    assert desk not in gateway.log


def test_a_key_that_asks_too_often_waits_and_no_other_does(gateway: Gateway, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    eager, other = (made(["key", name, "--keys", str(keys)]).stdout.strip() for name in ("eager", "other"))
    gateway.close()
    gateway.options = ("--keys", str(keys), "--rate", "0.01")  # once in 100 s, which the rest of this does not take
    gateway.start()
    found = [gateway.post("/v1/score", request("1"), **{"X-API-Key": eager}) for _ in range(10)]
    assert [each.status_code for each in found] == [200] + [429] * 9
    assert 1 < int(found[1].headers["retry-after"]) <= 100
    assert "eager asks more often than 0.01 times a second" in found[1].json()["error"]
    assert gateway.post("/v1/score", request("1"), **{"X-API-Key": other}).status_code == 200


def test_only_a_key_that_says_so_chooses_the_variant(gateway: Gateway, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    usual = made(["key", "usual", "--keys", str(keys)]).stdout.strip()
    tester = made(["key", "tester", "--keys", str(keys), "--may", "score", "override"]).stdout.strip()
    gateway.close()
    gateway.options = ("--keys", str(keys))
    gateway.start()
    for variant in ("champion", "challenger"):
        refused = gateway.post("/v1/score", request("1", variant=variant), **{"X-API-Key": usual})
        assert (refused.status_code, refused.json()["where"][0]["member"]) == (403, "variant")
    assert gateway.post("/v1/score", request("1", variant=None), **{"X-API-Key": usual}).status_code == 200
    assert gateway.post("/v1/score", request("2", variant="champion"), **{"X-API-Key": tester}).status_code == 200
    text = gateway.get("/metrics", **{"X-API-Key": usual}).text
    scored = [line for line in text.splitlines() if line.startswith("fraud_gateway_requests_total{")]
    assert sorted((line.partition('override="')[2].partition('"')[0], line.split()[-1]) for line in scored) == [
        ("false", "1"),
        ("true", "1"),
    ]


def test_who_may_not_read_is_not_told_why_a_domain_cannot_be_scored(gateway: Gateway, cloud: Cloud, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    desk = made(["key", "desk", "--keys", str(keys)]).stdout.strip()
    cloud.register("unready", model_archive(0.2))
    try:
        cloud.deploy("unready", {"champion": "unready"})
        gateway.close()
        gateway.options = ("--keys", str(keys))
        gateway.start()
        stranger, known = gateway.get("/readyz"), gateway.get("/readyz", **{"X-API-Key": desk})
        assert stranger.status_code == known.status_code == 503
        assert set(stranger.json()["unready"]) == set(known.json()["unready"]) == {DOMAIN}
        assert cloud.packages["unready"] in known.text
        assert cloud.packages["unready"] not in stranger.text
    finally:
        cloud.deploy("single-after-unready", {"champion": "champion"})


def test_clients_beyond_the_limit_are_refused_and_leave_room_for_the_log(gateway: Gateway) -> None:
    clients = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(700)]
    try:
        wait_until(lambda: gateway.get("/healthz").status_code == 503, "it has as many as it takes")
    finally:
        for client in clients:
            client.close()
    wait_until(lambda: gateway.get("/healthz").status_code == 200, "they are gone")
    assert gateway.score("1")["variant"] == "champion"
    assert "Too many open files" not in gateway.log


def test_faults_are_counted_and_timed_like_all_answers() -> None:
    metrics = Metrics()

    async def ask(path: str, answer: Application) -> None:
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "path": path, "method": "POST", "headers": headers}
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"{}"}

        async def send(message: Message) -> None:
            sent.append(message)

        await Guard(answer, Access(None, 1e9), metrics)(scope, receive, send)

    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    async def fails_in_the_middle(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    async def answers(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 503 if scope["path"] == "/v1/outcomes" else 200, "headers": []})

    for answer in (fails, fails_in_the_middle):
        with pytest.raises(ZeroDivisionError):
            asyncio.run(ask("/v1/score", answer))
    for path in ("/v1/score", "/v1/outcomes", "/metrics", "/v1/experiments/whatever/commands"):
        asyncio.run(ask(path, answers))
    assert metrics.refused == {("500",): 2, ("503",): 1}
    assert {labels: sum(found.cells) for labels, found in metrics.latencies.items()} == {
        ("/v1/score", "500"): 2,
        ("/v1/score", "200"): 1,
        ("/v1/outcomes", "503"): 1,
        ("other", "200"): 2,
    }


def test_a_page_in_a_browser_of_this_machine_cannot_command(gateway: Gateway) -> None:
    def status(host: str, kind: str = "application/json") -> int:
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port)
        connection.request(
            "POST", f"/v1/experiments/{DOMAIN}/commands", b'{"action": "stop", "why": "x"}', {"Host": host, "Content-Type": kind}
        )
        return connection.getresponse().status

    assert status(f"127.0.0.1:{gateway.port}") == 404  # there is no rollout
    assert status("localhost") == 404
    assert status(f"rebound.example:{gateway.port}") == 403
    assert status("127.0.0.1.rebound.example") == 403
    assert status(f"127.0.0.1:{gateway.port}", "text/plain") == 415
