"""Log lines: JSON, and the request that they belong to."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeembed.common.logs import (
    LOG_BYTES,
    LOG_FILE,
    MOST_LINES,
    WINDOW_SECONDS,
    LogHandler,
    begin_request,
    log_anyway,
    provide_stderr,
    request_id,
    setup_logging,
)

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
    assert second["level"] == "error" and second["exception"].splitlines()[-1] == "ValueError"


def test_invalid_unicode_in_a_line_is_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("info", "json")
    log.info("file %s", "bad\udc80name")
    assert json.loads(capsys.readouterr().err)["message"] == "file bad?name"


def test_a_message_cannot_forge_a_line_of_text(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("info", "text")
    log.info("path %s", "/a\r\n2026-01-01 00:00:00 ERROR \x1b[31m\u202e")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("INFO    edgeembed.test: path /a\\r\\n2026-01-01 00:00:00 ERROR \\x1b[31m\\u202e")


def test_a_long_message_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("info", "text")
    log.info("x" * 1_000_000)
    assert len(capsys.readouterr().err) < 2200


@pytest.mark.parametrize("format_", ["text", "json"])
def test_what_others_log_is_logged_without_content(format_: str, capsys: pytest.CaptureFixture[str]) -> None:
    """aiohttp quotes the request that it cannot parse, asyncio the exception of a task; a bug of ours may quote anything."""
    setup_logging("debug", format_)  # type: ignore[arg-type]
    others = logging.getLogger("aiohttp.server")
    others.debug("secret")
    others.warning("secret %s", "secret")
    error = ValueError("secret\nsecret")
    error.add_note("secret")
    try:
        raise error
    except ValueError as raised:
        others.exception("secret %s", "secret", exc_info=raised)
        log.exception("it failed")
        sys.excepthook(type(raised), raised, raised.__traceback__)
        sys.unraisablehook(SimpleNamespace(exc_type=ValueError, exc_value=raised, exc_traceback=None))  # type: ignore[arg-type]
        thread = threading.Thread(target=_fail)
        thread.start()
        thread.join()
    warnings.warn("secret", DeprecationWarning, stacklevel=1)
    said = capsys.readouterr().err
    assert "secret" not in said
    assert said.count("ValueError") >= 6 and "DeprecationWarning, from test_logs.py" in said
    assert "a message, from test_logs.py" in said, "where it comes from"
    if format_ == "json":
        assert all(json.loads(line) for line in said.splitlines())


def _fail() -> None:
    raise ValueError("sec" + "ret")


async def test_what_asyncio_logs_of_a_failed_task_has_no_content(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("info", "json")

    async def fail() -> None:
        raise ValueError("sec" + "ret")

    task = asyncio.create_task(fail(), name="secret")
    await asyncio.wait([task])
    del task
    gc.collect()
    asyncio.get_running_loop().call_exception_handler({"message": "secret", "exception": ValueError("secret")})
    lines = list(map(json.loads, capsys.readouterr().err.splitlines()))
    assert [line["logger"] for line in lines] == ["asyncio", "asyncio"]
    assert "secret" not in str(lines) and "in fail" in lines[0]["exception"]


def test_a_message_that_cannot_be_formatted_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("info", "text")
    log.info("%d", "secret")
    log.info("next")
    assert capsys.readouterr().err.endswith("edgeembed.test: next\n")


def test_a_flood_is_limited_and_the_rest_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("debug", "text")
    now = 0.0
    handler = LogHandler("text", lambda: now)
    log.parent.handlers[:] = [handler]  # type: ignore[union-attr]
    for number in range(1000):
        log.warning("request %d failed", number)
    log.info("another line of code")
    log_anyway("what the user must see")
    now = WINDOW_SECONDS
    for number in range(1000):
        log.debug("asked for %d", number)
    log.info("the next line reports the last window")
    lines = capsys.readouterr().err.splitlines()
    assert sum("failed" in line for line in lines) == MOST_LINES
    (said,) = [line for line in lines if "left out" in line]
    assert "WARNING" in said and "970 more lines from test_logs.py:" in said
    assert sum("asked for" in line for line in lines) == 1000, "who asks for debug messages gets them"
    for _ in range(MOST_LINES + 5):
        log.error("again")
    handler.close()
    assert "5 more lines" in capsys.readouterr().err, "at the end, what has not been reported"


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
