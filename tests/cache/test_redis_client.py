"""What is expected of redis-py, its private parts among it, and requests over one connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest
import redis.asyncio

from edgeembed.cache import SharedTier, redis_client
from edgeembed.cache.redis_client import Connection, Server, ServerFault, TooSlow
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


Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs a coroutine on each of the loops that the daemon may have: they differ in what is due first, timers or bytes."""
    factory = pytest.importorskip("uvloop", reason="Windows has none").new_event_loop if request.param == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner.run


@contextlib.asynccontextmanager
async def served(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]) -> AsyncIterator[Server]:
    serving: set[asyncio.Task[None] | None] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        try:
            await serve(reader, writer)
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            writer.transport.abort()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as listener:
        try:
            yield Server(f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
        finally:
            tasks = [task for task in serving if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def test_a_late_reply_closes_the_connection_for_all_who_wait(run: Run) -> None:
    async def check() -> None:
        faults: list[ServerFault] = []
        async with served(serve) as server:
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

    run(check())


def test_a_reply_that_came_while_the_event_loop_was_held_up_is_not_late(run: Run) -> None:
    """The reply is there before its time is up, but is read after it."""

    async def check() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            redis_py = redis.asyncio.Connection()
            redis_py._reader, redis_py._writer = reader, writer
            redis_py._parser.on_connect(redis_py)
            connection = Connection(redis_py, lambda fault: None)
            asked = asyncio.create_task(connection.ask([(b"ECHO", b"x")], 0.02))
            await asyncio.sleep(0)  # it is sent

            def hold_up() -> None:
                theirs.sendall(b"$1\r\nx\r\n")
                time.sleep(0.03)  # what holds an event loop up

            asyncio.get_running_loop().call_soon(hold_up)
            assert await asked == [b"x"]
            await connection.close()

    run(check())


def test_a_server_that_reads_nothing_holds_nobody_up(run: Run) -> None:
    """More than the system's buffers take is sent, so that even sending waits."""

    async def check() -> None:
        stop = asyncio.Event()

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _ in range(2):
                await reader.readuntil(b"LIB-")
                writer.write(b"+OK\r\n")
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await stop.wait()
            writer.transport.abort()

        async with served(greet) as server:
            connection = await server.connect(10.0, lambda fault: None)
            with pytest.raises(TooSlow):
                await connection.ask([(b"SET", b"k", b"x" * (64 * 2**20))], 0.05)
            await connection.close()
            stop.set()

    run(check())


async def test_replies_that_are_not_those_of_a_clearing_are_a_fault() -> None:
    async with served(serve) as server:
        tier = SharedTier(server)
        with pytest.raises(ServerFault, match="its answer is not that of SCAN"):
            await tier.clear()


async def test_redis_py_has_what_is_used_of_it() -> None:
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
