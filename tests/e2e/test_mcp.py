"""`edgeembed mcp` as agents use it: the official SDK's client, over standard input and over HTTP, with a real model."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from mcp import Client, StdioServerParameters

from tests.e2e.daemon import running
from tests.e2e.models import install
from tests.ports import free_port
from tests.waiting import until_async

MODEL = "all-minilm-l6-v2"
FILES = {
    "weather.md": "# Weather\n\nThe rain in Spain falls mainly on the plain.\n",
    "cooking.md": "# Cooking\n\nKnead the dough for ten minutes, then let it rise.\n",
    "code/stop.py": "def stop(process):\n    process.terminate()\n",
}


@pytest.fixture(scope="module")
def home(minilm: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("mcp") / "home"
    home.mkdir()
    install(home, MODEL, "Q8_0", minilm("Q8_0"))
    return home


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_text(text)
    return tmp_path / "folder"


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "EDGEEMBED_HOME": str(home)}


def command(*more: str) -> list[str]:
    """Return the command line of a server that finds no daemon."""
    return ["-m", "edgeembed", "mcp", "--model", MODEL, "--port", str(free_port()), *more]


@asynccontextmanager
async def agent(home: Path, *more: str) -> AsyncIterator[Client]:
    server = StdioServerParameters(command=sys.executable, args=command(*more), env=environment(home))
    async with Client(server) as client:
        yield client


async def called(client: Client, tool: str, **arguments: Any) -> Any:
    found = await client.call_tool(tool, arguments)
    assert not found.is_error, found.content
    assert found.structured_content is not None
    return found.structured_content


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    found = await client.call_tool(tool, arguments)
    assert found.is_error
    return str(found.content)


async def test_an_agent_indexes_searches_and_finds_what_it_has_just_changed(home: Path, folder: Path) -> None:
    async with agent(home) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == {
            *("embed", "rerank", "index_folder", "search_folder", "list_indexes", "forget_folder")
        }
        assert "index_folder first" in await refused(client, "search_folder", folder=str(folder), query="rain")
        report = await called(client, "index_folder", folder=str(folder))
        assert (report["files"], report["files_computed"], report["model"]) == (3, 3, MODEL)
        found = await called(client, "search_folder", folder=str(folder), query="How do I end a program?", limit=1)
        [best] = found["results"]
        assert (best["path"], best["first_line"], best["last_line"]) == ("code/stop.py", 1, 2)
        (folder / "cooking.md").write_text("# Astronomy\n\nSaturn has rings of ice and dust.\n")
        found = await called(client, "search_folder", folder=str(folder), query="planets", limit=1)
        assert found["results"][0]["text"].endswith("rings of ice and dust.")
        [index] = (await called(client, "list_indexes"))["result"]
        assert (index["folder"], index["files"], index["exists"]) == (str(folder), 3, True)
        vectors = await called(client, "embed", texts=["a", "b"])
        assert vectors["dimensions"] == 384 and len(vectors["vectors"]) == 2
        assert "pull" in await refused(client, "rerank", query="rain", documents=["a", "b"])
        assert "removed" in (await called(client, "forget_folder", folder=str(folder)))["result"]
        assert (folder / "weather.md").exists()
    async with agent(home, "--root", str(folder / "code")) as client:
        assert "--root" in await refused(client, "index_folder", folder=str(folder))
        assert "--root" in await refused(client, "index_folder", folder=f"{folder}/code/../../folder")
        assert (await called(client, "index_folder", folder=str(folder / "code")))["files"] == 1


async def test_an_agent_follows_the_daemon_to_another_model(
    minilm: Callable[[str], Path], tmp_path: Path, folder: Path
) -> None:
    """The daemon is restarted with another file of the same name while the agent goes on."""
    home, port = tmp_path / "home", str(free_port())
    home.mkdir()
    types = ("Q8_0", "F16")
    for type_ in types:
        install(home, MODEL, type_, minilm(type_))
    arguments = ["-m", "edgeembed", "mcp", "--port", port]
    server = StdioServerParameters(command=sys.executable, args=arguments, env=environment(home))
    async with Client(server) as client:
        for type_ in types:
            with running("--port", port, "--model", f"{MODEL}:{type_}", home=home):
                report = await called(client, "index_folder", folder=str(folder))
                assert report["files_computed"] == 3
                found = await called(client, "search_folder", folder=str(folder), query="How do I end a program?", limit=1)
                assert found["results"][0]["path"] == "code/stop.py"
                assert len((await called(client, "embed", texts=["a"]))["vectors"]) == 1
        assert report["note"].endswith(f"was made with {MODEL}:Q8_0, and the model is now {MODEL}:F16")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
async def test_an_index_goes_on_where_a_killed_server_was(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(260):
        (folder / f"{number:03}.txt").write_text(f"Text number {number}, " + "which goes on for a while " * 8)
    began = asyncio.Event()

    async def progress(done: float, _total: float | None, _path: str | None) -> None:
        if done >= 130:  # two requests of 64 are done
            began.set()

    async with agent(home) as client:
        call = asyncio.create_task(client.call_tool("index_folder", {"folder": str(folder)}, progress_callback=progress))
        async with asyncio.timeout(100):
            await began.wait()
        [server] = [each for each in psutil.Process().children() if "mcp" in each.cmdline()]
        workers = server.children()
        server.send_signal(signal.SIGKILL)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    _, alive = psutil.wait_procs(workers, 20)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
    async with agent(home) as client:
        report = await called(client, "index_folder", folder=str(folder))
        assert report["files"] == report["parts"] == 260
        assert 0 < report["files_computed"] <= 260 - 128


def listens(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(url.split(":")[2].partition("/")[0]))) == 0


@contextmanager
def listening(home: Path, root: Path) -> Iterator[str]:
    port = free_port()
    arguments = command("--http", "--http-port", str(port), "--root", str(root))
    with subprocess.Popen([sys.executable, *arguments], env=environment(home), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert f"listening on http://127.0.0.1:{port}/mcp" in process.stderr.readline()
        try:
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.terminate()
            process.communicate(timeout=20)


async def test_over_http_for_this_machine_alone_and_no_page(home: Path, folder: Path) -> None:
    with listening(home, folder) as url:
        await until_async(lambda: listens(url))
        async with Client(url) as client:
            assert (await called(client, "index_folder", folder="."))["files"] == 3
            assert "--root" in await refused(client, "index_folder", folder=str(folder.parent))
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
        accept = {"Accept": "application/json, text/event-stream"}
        async with aiohttp.ClientSession() as session:
            for header in (
                {"Origin": "http://other.example"},
                {"Origin": "http://localhost:3000"},
                {"Host": "other.example"},
            ):
                answer = await session.post(url, json=body, headers=accept | header)
                assert answer.status in (403, 421), header


async def test_a_missing_model_is_explained_to_the_agent(tmp_path: Path) -> None:
    home = tmp_path / "empty"
    home.mkdir()
    arguments = ["-m", "edgeembed", "mcp", "--offline", "--port", str(free_port())]
    server = StdioServerParameters(command=sys.executable, args=arguments, env=environment(home))
    async with Client(server) as client:
        assert "--model" in await refused(client, "embed", texts=["a"])
