"""Pulls in child processes, with a script in place of `edgeembed pull`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from edgeembed.common.pull_lines import PullLine
from edgeembed.config.settings import Settings
from edgeembed.server import pulls
from edgeembed.server.pulls import Pulls
from tests.server.pull_script import WAITS
from tests.waiting import until_async

Script = Callable[[str], Path]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Let pulls run a script, whose argument is the file that is returned."""

    def use(text: str) -> Path:
        log = tmp_path / "log"
        log.touch()
        monkeypatch.setattr(pulls, "command", lambda *_: [sys.executable, "-c", text, str(log)])
        return log

    return use


async def follow(running: Pulls, spec: str = "tiny") -> list[PullLine]:
    async with aclosing(running.follow(spec)) as lines:
        return [line async for line in lines]


async def test_lines_come_in_order_and_end_with_the_result(script: Script) -> None:
    script('print(\'{"message": "downloading"}\\n{"what": "a", "done": 2, "total": 2}\\n{"installed": "tiny:F32"}\')')
    assert await follow(Pulls(Settings())) == [
        PullLine(message="downloading"),
        PullLine(what="a", done=2, total=2),
        PullLine(installed="tiny:F32"),
    ]


@pytest.mark.parametrize(
    ("text", "error", "unknown"),
    [
        ('print(\'{"error": "no such model", "unknown": true}\'); raise SystemExit(2)', "no such model", True),
        ("raise SystemExit(3)", "edgeembed pull ended with status 3", False),
        ("print('no JSON')", "edgeembed pull printed something that is no line of its own", False),
    ],
)
async def test_every_end_is_a_result(script: Script, text: str, error: str, unknown: bool) -> None:
    script(text)
    (line,) = await follow(Pulls(Settings()))
    assert line.error.startswith(error) and line.unknown is unknown


async def test_a_process_that_cannot_be_started_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pulls, "command", lambda *_: [str(tmp_path / "nothing")])
    (line,) = await follow(Pulls(Settings()))
    assert line.error.startswith("edgeembed pull cannot be started")


async def test_those_who_pull_the_same_model_share_one_process(script: Script) -> None:
    log = script(WAITS)
    running = Pulls(Settings())
    async with aclosing(running.follow("tiny")) as first, aclosing(running.follow("Tiny")) as second:
        assert await anext(first) == await anext(second) == PullLine(what="tiny", done=1, total=2)
        async with aclosing(running.follow("tiny")) as third:
            assert (await anext(third)).what == "tiny", "who joins later sees where it is"
        log.with_name("go on").touch()
        assert await anext(first) == await anext(second) == PullLine(installed="tiny:F32")
    assert log.read_text() == "started\n"
    await follow(running)
    assert log.read_text() == "started\nstarted\n", "a pull that has ended is not joined"


@pytest.mark.skipif(os.name != "posix", reason="a process of Windows cannot be interrupted")
@pytest.mark.parametrize("by", ["its followers", "the server"])
async def test_a_pull_that_nobody_follows_is_interrupted(script: Script, by: str) -> None:
    log = script(WAITS)
    running = Pulls(Settings())
    lines: list[PullLine] = []

    async def watch() -> None:
        async with aclosing(running.follow("tiny")) as followed:
            async for line in followed:
                lines.append(line)

    task = asyncio.create_task(watch())
    await until_async(lambda: lines)  # a process that is still being started is killed instead
    if by == "the server":
        await running.close()
        await task
        assert lines[-1].error == "the server is stopping"
        assert log.read_text() == "started\ninterrupted\n"
    else:
        task.cancel()
        await until_async(lambda: log.read_text() == "started\ninterrupted\n")
        await running.close()


async def test_few_pulls_run_at_once(script: Script) -> None:
    log = script(WAITS)
    running = Pulls(Settings())
    tasks = [asyncio.create_task(follow(running, f"model-{number}")) for number in range(4)]
    await until_async(lambda: log.read_text() == "started\n" * 2)
    async with aclosing(running.follow("model-3")) as waiting:
        assert (await anext(waiting)).message == "waiting for other pulls"
    tasks.pop().cancel()
    log.with_name("go on").touch()
    assert [(await task)[-1] for task in tasks] == [PullLine(installed="tiny:F32")] * 3
    await running.close()
    assert log.read_text() == "started\n" * 3, "one that nobody waits for never starts"


async def test_a_pull_gets_the_hubs_token_and_no_key_of_this_server(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEEMBED_API_KEY", "sesame")
    monkeypatch.setenv("EDGEEMBED_UPSTREAM_KEY", "sesame")
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_user")
    log = script("import os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(repr(dict(os.environ)))")
    await follow(Pulls(Settings(offline=True)))
    assert "sesame" not in log.read_text()
    assert "'hf_of_the_user'" in log.read_text()
    assert "'EDGEEMBED_OFFLINE': 'true'" in log.read_text(), "a flag of the daemon holds for its pulls"
