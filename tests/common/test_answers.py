"""Answers of other servers: what is read of them is bounded, whatever they send."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from edgeembed.client import ask
from edgeembed.common.answers import AnswerTooLargeError, read_body, read_start
from edgeembed.config.settings import Settings
from edgeembed.upstream.client import RefusedError, UnavailableError, UpstreamClient, UpstreamOptions
from edgeembed.upstream.wire import MOST_LIST_BYTES
from tests.hostile_server import HostileServer, bomb, dripping, endless, hostile_server

BUFFERS = 16 * 2**20
"""More than what the sockets, and the readers on top of them, hold."""


@pytest.fixture
async def server() -> AsyncIterator[HostileServer]:
    async with hostile_server() as running:
        yield running


@pytest.fixture
async def client(server: HostileServer) -> AsyncIterator[UpstreamClient]:
    async with UpstreamClient(UpstreamOptions(url=server.url, timeout=20.0)) as made:
        yield made


async def test_a_body_is_read_up_to_a_limit(server: HostileServer) -> None:
    async with aiohttp.ClientSession() as session:
        server.answer(b"x" * 1000)
        for most, start in ((1000, 1000), (1001, 1000), (10, 10)):
            async with session.get(server.url) as response:
                assert len(await read_start(response, most)) == start
        async with session.get(server.url) as response:
            assert await read_body(response, 1000) == b"x" * 1000
        async with session.get(server.url) as response:
            with pytest.raises(AnswerTooLargeError, match="longer than 999 bytes"):
                await read_body(response, 999)


async def test_an_endless_answer_is_not_read_to_its_end(server: HostileServer, client: UpstreamClient) -> None:
    server.stream(endless)
    with pytest.raises(UnavailableError, match="longer than"):
        await client.embed("m", ["a"])
    with pytest.raises(UnavailableError, match=f"longer than {MOST_LIST_BYTES} bytes"):
        await client.models()
    server.stream(endless, status="400 Bad Request")
    with pytest.raises(RefusedError):
        await client.embed("m", ["a"])
    assert server.sent < BUFFERS


async def test_a_bomb_is_not_decompressed_to_its_end(server: HostileServer, client: UpstreamClient) -> None:
    server.answer(bomb(), "Content-Encoding: gzip")
    with pytest.raises(UnavailableError, match="longer than"):
        await client.embed("m", ["a"])
    with pytest.raises(UnavailableError, match="longer than"):
        await client.models()


async def test_an_answer_that_trickles_in_runs_into_a_timeout(server: HostileServer) -> None:
    server.stream(dripping)
    async with UpstreamClient(UpstreamOptions(url=server.url, timeout=0.3)) as client:
        with pytest.raises(UnavailableError, match="no answer within"):
            await client.embed("m", ["a"])


async def test_deep_json_is_an_answer_that_cannot_be_used(server: HostileServer, client: UpstreamClient) -> None:
    server.answer(b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}")
    with pytest.raises(UnavailableError, match="cannot be used"):
        await client.embed("m", ["a"])
    with pytest.raises(UnavailableError):
        await client.models()
    server.answer(b"[" * 30_000, status="400 Bad Request")
    with pytest.raises(RefusedError):
        await client.embed("m", ["a"])


@pytest.mark.parametrize("location", ["/v1/embeddings", "file:///etc/passwd", "http://127.0.0.1:1/"])
async def test_upstream_cannot_redirect(location: str, server: HostileServer, client: UpstreamClient) -> None:
    server.answer(b"", f"Location: {location}", status="307 Temporary Redirect")
    with pytest.raises(UnavailableError, match="307"):
        await client.embed("m", ["a"])
    assert server.requests == 1


async def test_another_program_at_the_daemons_port_does_not_fill_the_memory(server: HostileServer) -> None:
    server.stream(endless)
    reply = await ask(Settings(port=server.port), "/v1/status", 20.0)
    assert reply is not None and not reply.ours
    assert server.sent < 2 * BUFFERS + 16 * 2**20
