"""What is expected of redis-py, its private parts among it, and requests over one connection."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis.asyncio

from edgeembed.cache import redis_client
from edgeembed.cache.redis_client import Server, ServerFault, TooSlow
from edgeembed.errors import ConfigError


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer everything as a server does that is asked a handshake, then echo each command's first argument."""
    while line := await reader.readline():
        words = []
        for _ in range(int(line[1:])):
            size = int((await reader.readline())[1:])
            words.append((await reader.readexactly(size + 2))[:-2])
        if words[0] == b"NEVER":
            continue
        writer.write(b"+OK\r\n" if words[0] in (b"CLIENT", b"PING") else b"$%d\r\n%s\r\n" % (len(words[1]), words[1]))


async def test_a_late_reply_closes_the_connection_for_all_who_wait() -> None:
    faults: list[ServerFault] = []
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        server = Server(f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
        connection = await server.connect(10.0, faults.append)
        asked = [connection.ask([(b"ECHO", b"%d" % number)], 10.0) for number in range(20)]
        assert await asyncio.gather(*asked) == [[b"%d" % number] for number in range(20)]
        late = asyncio.create_task(connection.ask([(b"NEVER", b"x")], 0.05))
        behind = asyncio.create_task(connection.ask([(b"NEVER", b"y")], 10.0))
        for task in (late, behind):
            with pytest.raises(TooSlow, match="no reply within 50 ms"):
                await task
        with pytest.raises(TooSlow):
            await connection.ask([(b"ECHO", b"1")], 10.0)
        assert len(faults) == 1


async def test_a_server_that_reads_nothing_holds_nobody_up() -> None:
    """More than the system's buffers take is sent, so that even sending waits."""
    stop = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await reader.readuntil(b"LIB-")
            writer.write(b"+OK\r\n")
        transport = writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        await stop.wait()
        writer.transport.abort()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as listener:
        server = Server(f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
        connection = await server.connect(10.0, lambda fault: None)
        with pytest.raises(TooSlow):
            await connection.ask([(b"SET", b"k", b"x" * (64 * 2**20))], 0.05)
        await connection.close()
        stop.set()


def test_redis_py_has_what_is_used_of_it(tmp_path: Path) -> None:
    connection = redis.asyncio.ConnectionPool.from_url("redis://h").make_connection()
    assert connection._writer is None and callable(connection._close) and not connection.is_connected
    secure = redis.asyncio.ConnectionPool.from_url("rediss://h").make_connection()
    assert secure.ssl_context.get().check_hostname, "certificates are checked unless the URL says otherwise"
    for name in ("connect", "send_packed_command", "pack_commands", "read_response"):
        assert callable(getattr(connection, name))


def test_without_redis_py_the_daemon_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_client.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"cache_url needs redis-py: .*redis"):
        Server("redis://localhost")


@pytest.mark.parametrize("url", ["redis://me:sesame@localhost?ssl_ca_certs=x", "redis://me:sesame@localhost?db=sesame"])
def test_a_url_that_redis_py_refuses_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="redis-py does not take this URL") as caught:
        Server(url)
    assert "sesame" not in str(caught.value) and caught.value.__suppress_context__
