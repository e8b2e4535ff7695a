"""Log lines: JSON, and the request that they belong to."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from edgeembed.logs import begin_request, log_anyway, request_id, setup_logging

log = logging.getLogger("edgeembed.test")


def test_a_json_line_has_what_a_collector_needs(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("info", "json")
    log.info("loaded %s\nand a second line", "a model")
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("it failed")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.keys() == {"time", "level", "logger", "message"}
    assert (first["level"], first["logger"]) == ("info", "edgeembed.test")
    assert first["message"] == "loaded a model\nand a second line"
    assert first["time"].endswith("Z") and "T" in first["time"]
    assert second["level"] == "error" and "ValueError: no" in second["exception"]


def test_what_is_no_unicode_costs_letters_and_not_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("info", "json")
    log.info("file %s", "bad\udc80name")
    assert json.loads(capsys.readouterr().err)["message"] == "file bad?name"


@pytest.mark.parametrize("format_", ["text", "json"])
async def test_lines_name_their_request_until_it_ends(format_: str, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("info", format_)  # type: ignore[arg-type]
    go = asyncio.Event()

    async def background() -> None:
        log.info("during")
        await go.wait()
        log.info("after")

    async def answer() -> asyncio.Task[None]:
        scope = begin_request("id-1")
        task = asyncio.create_task(background())
        await asyncio.sleep(0)
        scope.active = False
        return task

    log.info("before")
    task = await asyncio.create_task(answer())
    go.set()
    await task
    assert request_id() is None
    lines = capsys.readouterr().err.splitlines()
    assert [("id-1" in line) for line in lines] == [False, True, False], lines
    if format_ == "json":
        assert json.loads(lines[1])["request_id"] == "id-1"


def test_announcements_are_lines_whatever_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("error", "json")
    log.info("not this")
    log_anyway("listens on somewhere")
    assert json.loads(capsys.readouterr().err)["message"] == "listens on somewhere"
