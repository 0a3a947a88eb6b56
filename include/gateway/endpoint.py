"""InvokeEndpoint without blocking: aiohttp's kept connections, botocore's URL and credentials.

boto3 in threads takes longer for a request, sends fewer of them a second, and wants a thread for each one under way (``bench/gateway.py`` measures
both). What botocore does besides is done here in the open: the signature, the errors' names, and one thing it cannot do, a time limit for the whole
request.
"""

from __future__ import annotations

import asyncio
import json
import math
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
import botocore.session
from botocore.credentials import ReadOnlyCredentials
from botocore.httpsession import get_cert_path
from yarl import URL

from include.gateway.signature import Signer

_SERVICE = "sagemaker"
_UNSIGNED = {"user-agent": "fraud-gateway", "accept-encoding": "identity"}
_SHOWN = 300


class InvocationError(Exception):
    """An endpoint's variant did not give a score. ``kind``: "no_variant": the endpoint has none of that name; "refused": the request's fault, it
    would fail again; "unavailable": anything else, the time limit among them."""

    def __init__(self, message: str, kind: Literal["no_variant", "refused", "unavailable"] = "unavailable") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Invocation:
    """``variant``: the production variant that answered. ``reasons``: as ``include.lifecycle.explain.Reason.as_json``."""

    score: float
    reasons: list[dict[str, Any]]
    variant: str
    milliseconds: float


class Endpoints:
    """Invokes endpoints of the account and region of the environment's credentials, without a proxy. To be used in one event loop."""

    def __init__(self) -> None:
        session = botocore.session.get_session()
        client = session.create_client("sagemaker-runtime")  # finds out the region and the URL, as boto3 would
        self._url: str = client.meta.endpoint_url.rstrip("/")
        self._region: str = client.meta.region_name
        self._session = session
        self._credentials: ReadOnlyCredentials | None = None
        self._ways: dict[str, tuple[URL, Signer]] = {}
        """By endpoint: where its requests go, and what signs them."""
        trusted = ssl.create_default_context(cafile=session.get_config_variable("ca_bundle") or get_cert_path(True))
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30, ssl=trusted)
        self._http = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # ``invoke`` has its own
        )

    def refresh_credentials(self) -> None:
        """Takes the session's credentials, renewed where they are about to expire. Blocks, so it belongs in no request's path. BotoCoreError where
        they cannot be renewed: then those there are count on."""
        if (credentials := self._session.get_credentials()) is not None:
            self._credentials = credentials.get_frozen_credentials()

    def _way(self, endpoint: str) -> tuple[URL, Signer]:
        if (credentials := self._credentials) is None:
            raise InvocationError("there are no AWS credentials in the environment")
        found = self._ways.get(endpoint)
        if found is None or found[1].credentials is not credentials:
            url = f"{self._url}/endpoints/{endpoint}/invocations"
            found = self._ways[endpoint] = URL(url, encoded=True), Signer(credentials, _SERVICE, self._region, url)
        return found

    async def close(self) -> None:
        await self._http.close()

    async def invoke(
        self,
        endpoint: str,
        variant: str | None,
        inference_id: str,
        event_time: str,
        row: Sequence[float | None],
        reasons: int | None,
        seconds: float,
    ) -> Invocation:
        """The score of one event. ``variant`` None: the endpoint chooses. ``seconds``: how long it may take. InvocationError says why there is none.

        A connection that the other side had closed meanwhile is no answer of the model, and the request is sent once more."""
        headers = {
            "content-type": "text/csv",
            "accept": "application/json" if reasons else "text/csv",
            "x-amzn-sagemaker-custom-attributes": f"event_time={event_time};reasons={reasons}" if reasons else f"event_time={event_time}",
            "x-amzn-sagemaker-inference-id": inference_id,
        }
        if variant is not None:
            headers["x-amzn-sagemaker-target-variant"] = variant
        body = ",".join(["" if value is None else repr(value) for value in row]).encode()
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(seconds):
                try:
                    status, answered, content = await self._post(endpoint, headers, body)
                except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                    status, answered, content = await self._post(endpoint, headers, body)
        except TimeoutError as error:
            raise InvocationError(f"{endpoint}: no answer of {variant or 'the endpoint'} within {seconds:g} s") from error
        except aiohttp.ClientError as error:
            raise InvocationError(f"{endpoint} cannot be reached: {error}") from error
        if status != 200:
            raise _refusal(endpoint, status, answered, content)
        score, why = _read(endpoint, content, with_reasons=bool(reasons))
        return Invocation(score, why, answered.get("x-amzn-invoked-production-variant", ""), (time.perf_counter() - begun) * 1000)

    async def _post(self, endpoint: str, headers: dict[str, str], body: bytes) -> tuple[int, Any, bytes]:
        url, signer = self._way(endpoint)
        sent = _UNSIGNED | signer.signed(headers, body)
        async with self._http.post(url, data=body, headers=sent, allow_redirects=False) as response:
            return response.status, response.headers, await response.read()


def _read(endpoint: str, content: bytes, with_reasons: bool) -> tuple[float, list[dict[str, Any]]]:
    """InvocationError for what is no probability, or no JSON with its reasons: a broken model's answer decides nothing."""
    try:
        if with_reasons:
            [prediction] = json.loads(content)["predictions"]
            score, why = float(prediction["score"]), [_reason(each) for each in prediction["reasons"]]
        else:
            score, why = float(content), []
        if not 0 <= score <= 1:
            raise ValueError("a probability lies between 0 and 1")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InvocationError(f"{endpoint}: the answer is no score: {content[:_SHOWN]!r}: {error}") from error
    return score, why


def _reason(told: dict[str, Any]) -> dict[str, Any]:
    """ValueError, KeyError or TypeError where it is none, or a number is not finite: JSON, and so the log of decisions, has no place for it."""
    feature, value, contribution = told["feature"], told["value"], told["contribution"]
    if not (isinstance(feature, str) and math.isfinite(contribution) and (value is None or math.isfinite(value))):
        raise ValueError(f"the reason {told} is not a feature, its value and its contribution")
    return {"feature": feature, "value": value, "contribution": contribution}


def _refusal(endpoint: str, status: int, headers: Any, content: bytes) -> InvocationError:
    code = headers.get("x-amzn-errortype", "").partition(":")[0]
    try:
        told = json.loads(content)
        message = str(told.get("OriginalMessage") or told.get("Message") or told.get("message") or told)
    except (ValueError, AttributeError):
        told, message = {}, content.decode(errors="replace")
    text = f"{endpoint} answered {status} {code}: {message[:_SHOWN]}"
    if code == "ValidationError" and message.startswith("Variant "):
        return InvocationError(text, "no_variant")
    original = told.get("OriginalStatusCode", 0)
    if code == "ModelError" and 400 <= original < 500 and original not in (408, 429):
        return InvocationError(text, "refused")
    return InvocationError(text)
