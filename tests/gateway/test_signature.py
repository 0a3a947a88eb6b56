"""``include.gateway.signature`` against botocore's own ``SigV4Auth``."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import botocore.auth
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from include.gateway import signature
from include.gateway.signature import Signer

HOSTS = (
    "http://127.0.0.1:4566",
    "https://runtime.sagemaker.eu-west-1.amazonaws.com",
    "http://localhost",
    "https://Proxy.example:8443/stage",
)
PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=64)
HEADERS = st.fixed_dictionaries(
    {"content-type": st.just("text/csv"), "x-amzn-sagemaker-inference-id": PRINTABLE},
    optional={"accept": PRINTABLE, "x-amzn-sagemaker-custom-attributes": PRINTABLE, "x-amzn-sagemaker-target-variant": PRINTABLE},
)
TOKENS = st.none() | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(st.sampled_from(HOSTS), HEADERS, st.binary(max_size=300), TOKENS, st.integers(0, 4_000_000_000))
def test_it_is_botocores_byte_for_byte(
    monkeypatch: pytest.MonkeyPatch, host: str, headers: dict[str, str], body: bytes, token: str | None, now: int
) -> None:
    url = f"{host}/endpoints/fraud-card-payments/invocations"
    credentials = ReadOnlyCredentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", token)
    monkeypatch.setattr(signature, "gmtime", lambda: time.gmtime(now))
    signer = Signer(credentials, "sagemaker", "eu-west-1", url)
    mine = signer.signed(headers, body)
    assert signer.signed(headers, body) == mine, "with the key that it kept"

    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: datetime.fromtimestamp(now, UTC))
    request = AWSRequest("POST", url, headers, body)
    SigV4Auth(credentials, "sagemaker", "eu-west-1").add_auth(request)
    theirs = {name.lower(): value for name, value in request.headers.items()}
    host_sent = mine.pop("host")
    assert mine == theirs
    assert host_sent == SigV4Auth(credentials, "sagemaker", "eu-west-1").headers_to_sign(request)["host"]


def test_the_key_is_anothers_on_another_day(monkeypatch: pytest.MonkeyPatch) -> None:
    days = iter((0, 86_399, 86_400, 0))
    monkeypatch.setattr(signature, "gmtime", lambda: time.gmtime(next(days)))
    signer = Signer(ReadOnlyCredentials("a", "b", None), "sagemaker", "eu-west-1", f"{HOSTS[0]}/endpoints/e/invocations")
    keys = [(signer.signed({}, b""), signer._key)[1] for _ in range(4)]
    assert keys[0] == keys[1] == keys[3] != keys[2]
