"""What model servers may answer: each way in which HTTP ends a body, and answers that break off."""

from __future__ import annotations

import asyncio

import pytest

from include.local_sagemaker.model_client import Answer, Broken, ModelClient


async def asked(answer: bytes, times: int = 1) -> list[Answer]:
    """Ask a server that gives this answer to every connection's first request and closes the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"body")
        writer.write(answer)
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        client = ModelClient(server.sockets[0].getsockname()[1])
        answers = [await client.post([(b"content-type", b"text/csv")], b"body", 5) for _ in range(times)]
        client.close()
    return answers


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\nContent-Type: text/csv\r\n\r\n0.25",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nConnection: close\r\n\r\n0.25",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nConnection: close\r\n\r\n0.25",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nContent-Length: 4\r\n\r\n0.25",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n0.25\r\n0\r\n\r\n",
    ],
)
def test_every_way_to_end_a_body(answer: bytes) -> None:
    for found in asyncio.run(asked(answer, times=2)):
        assert found == Answer(200, {**found.headers, b"content-type": b"text/csv"}, b"0.25")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.0 200 OK\r\nContent-Ty",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n0.25",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n0.25\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno length",
    ],
)
def test_an_answer_that_breaks_off_is_broken(answer: bytes) -> None:
    with pytest.raises(Broken):
        asyncio.run(asked(answer))
