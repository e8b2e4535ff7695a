"""Log lines: JSON, and the request that they belong to."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeembed.common.logs import LOG_BYTES, LOG_FILE, begin_request, log_anyway, provide_stderr, request_id, setup_logging

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


def test_invalid_unicode_in_a_line_is_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("info", "json")
    log.info("file %s", "bad\udc80name")
    assert json.loads(capsys.readouterr().err)["message"] == "file bad?name"


@pytest.mark.parametrize("format_", ["text", "json"])
async def test_lines_have_the_request_id_until_the_request_ends(format_: str, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_announcements_are_logged_at_every_level(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("error", "json")
    log.info("not this")
    log_anyway("listens on somewhere")
    assert json.loads(capsys.readouterr().err)["message"] == "listens on somewhere"


@pytest.mark.skipif(os.name != "posix", reason="closes stderr as a shell of POSIX does")
def test_a_daemon_without_stderr_writes_a_file(home: Path) -> None:
    """As on Windows, where a program that starts at login has no console."""
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-m", "edgeembed", "serve"]
    for port in ("70000", "80000"):
        ended = subprocess.run([*command, "--port", port], check=False, timeout=60)
        assert ended.returncode == 2
    first, second = (home / "logs" / LOG_FILE).read_text(encoding="utf-8").splitlines()
    assert first.startswith("error: ") and "70000" in first and "80000" in second


def test_a_long_log_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    file = tmp_path / "logs" / LOG_FILE
    file.parent.mkdir()
    file.write_bytes(b"x" * (LOG_BYTES + 1))
    provide_stderr(file.parent)
    setup_logging("info")
    log.info("a new line")
    assert "a new line" in file.read_text(encoding="utf-8") and file.stat().st_size < 1000
    assert file.with_suffix(".log.1").stat().st_size == LOG_BYTES + 1
    sys.stderr.close()


def test_a_folder_that_cannot_be_written_only_costs_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    (tmp_path / "file").touch()
    provide_stderr(tmp_path / "file" / "logs")
    assert sys.stderr is None
