"""No command ends in a traceback for what a user typed, set or gave."""

from __future__ import annotations

import contextlib
import io
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from huggingface_hub import close_session

from edgeembed.cli.main import COMMANDS, cli, main
from edgeembed.config.settings import Settings
from tests.cli.helpers import edgeembed

ROUNDS = 12
"""Of each command. With other seeds, `SEED=7 pytest ...` looks elsewhere."""
SEED = int(os.environ.get("SEED", "1"))
NOT_RUN = {"tray", "autostart", "serve", "start", "mcp", "completion"}
"""Commands that open windows, change the login, run until they are stopped, or read nothing."""

HOSTILE = (
    *("", "-", " ", "./nosuch", "/", "//", "..", ".", "folder", "empty", "bytes.bin", "a.gguf", "bad.jsonl", "deep.jsonl"),
    *("x.csv", "p.parquet", "checkpoint", "\udcff", "é" * 300, "a" * 5000, "a/b", "a/b@c", "a/b/c/d", "@", "a@", ":"),
    *(
        "a:",
        "a:b:c",
        "hf:",
        "hf:a/b:c",
        "https://x",
        "http://127.0.0.1:1",
        "http://[::1",
        "http://h:x",
        "file:///etc/passwd",
    ),
    *("-1", "0", "1e9", "9" * 30, "nan", "inf", "1h", "∞", "٣", "0x10", "true", "null", "[]", "{}", "[::1]", "*", "a b"),
    *("%s%n", "\n", "\r\x1b[31m", "~", "~nosuch", "--help", "C:\\x", "Q8_0", "F32,nosuch", "all-minilm-l6-v2", "/dev/null"),
    *("out.parquet", "out.npy", "folder/", "host:port", "[", "(", "\\", "a..b/c--d"),
)
VARIABLES = (
    *("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "ALL_PROXY", "HF_TOKEN", "HF_ENDPOINT", "HF_HOME", "LANG", "TERM", "COLUMNS"),
    *("TZ", "TMPDIR", "SSL_CERT_FILE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "EDGEEMBED_HOME"),
    *(f"EDGEEMBED_{name.upper()}" for name in Settings.__struct_fields__),
)
LINES = (
    *("[", "a", "port = ", "port = 1\nport = 2", "[[port]]", "[port]\nx = 1", "model = 5", "preload = 5", "aliases = []"),
    *("port = 1e400", "keep_alive_of = 1", "keep_alive = -1", "upstream = 'http://['", "api_key = ''", "x = 1", '"" = 1'),
)
PLAIN = (
    ["ps"],
    ["config"],
    ["list"],
    ["show", "x"],
    ["devices"],
    ["cache", "info"],
    ["pull", "x/y"],
    ["convert", "a/b"],
    ["rm", "x"],
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of files that are not what they seem; no network, no daemon."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEEMBED_OFFLINE", "1")
    monkeypatch.setenv("EDGEEMBED_PORT", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    for name, content in {
        "empty": b"",
        "bytes.bin": bytes(range(256)) * 20,
        "a.gguf": b"GGUF" + bytes(range(100)),
        "bad.jsonl": b'{"text": 5}\n[[[[\n{"text": "a", "text": null}\n"\\ud800"\n',
        "deep.jsonl": b"[" * 100_000 + b"\n",
        "x.csv": b'a,b\n"unclosed\n\xff\xfe,1\n',
        "p.parquet": b"PAR1xxxxPAR1",
        "checkpoint/config.json": b"[]",
    }.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(content)
    Path("folder").mkdir()
    return tmp_path


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a command in this process and return what it printed. Exceptions that are not an exit are raised."""
    out, stdin = (
        io.TextIOWrapper(io.BytesIO(), encoding="utf-8"),
        io.TextIOWrapper(io.BufferedReader(io.BytesIO(b"one\n\xff\n"))),
    )
    monkeypatch.setattr(sys, "argv", ["edgeembed", *arguments])
    monkeypatch.setattr(sys, "stdin", stdin)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.suppress(SystemExit):
        main()
    out.flush()
    written = out.buffer.getvalue()  # type: ignore[attr-defined] # a BytesIO
    return str(written, "utf-8", "replace")


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    names = list(COMMANDS) if group is cli else list(group.commands)
    for name in names:
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        elif command is not None and (*path, name)[0] not in NOT_RUN:
            yield (*path, name), command


def hostile_arguments(command: click.Command, draw: random.Random) -> list[str]:
    found: list[str] = []
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            count = parameter.nargs if parameter.nargs > 0 else draw.randint(1, 2)
            found += [draw.choice(HOSTILE) for _ in range(count)] if parameter.required or draw.random() < 0.7 else []
        elif isinstance(parameter, click.Option) and draw.random() < min(0.3, 2 / len(command.params)):
            found.append(draw.choice([*parameter.opts, *parameter.secondary_opts]))
            if not parameter.is_flag:
                known = parameter.type.choices if isinstance(parameter.type, click.Choice) else ("1", "8")
                found.append(str(draw.choice(known)) if draw.random() < 0.4 else draw.choice(HOSTILE))
    return found


def case(path: tuple[str, ...]) -> Any:
    """Return a parameter; commands that look who listens at --host look up its name."""
    return pytest.param(
        " ".join(path), marks=[pytest.mark.e2e] if path[0] in ("stop", "restart", "logs", "status", "open") else []
    )


@pytest.mark.parametrize("path", [case(path) for path, _ in commands(cli)])
@pytest.mark.usefixtures("folder")
def test_hostile_arguments_give_a_message(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(f"{SEED} {path}")
    command = dict(commands(cli))[tuple(path.split())]
    for _ in range(ROUNDS):
        arguments = [*path.split(), *hostile_arguments(command, draw)]
        try:
            run(arguments, monkeypatch)
        except Exception as error:
            raise AssertionError(f"edgeembed {arguments!r} ended in a traceback") from error


@pytest.mark.e2e  # it looks up the hosts of proxies
@pytest.mark.parametrize("number", range(12))
def test_hostile_settings_give_a_message(
    folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, number: int
) -> None:
    draw = random.Random(f"{SEED} settings {number}")
    request.addfinalizer(close_session)
    monkeypatch.setenv("EDGEEMBED_HOME", str(folder / "home"))
    (folder / "home").mkdir()
    for _ in range(ROUNDS):
        with pytest.MonkeyPatch.context() as patch:
            if draw.random() < 0.3:
                (folder / "home" / "config.toml").write_text(draw.choice(LINES))
            else:
                (folder / "home" / "config.toml").unlink(missing_ok=True)
            changed = {draw.choice(VARIABLES): draw.choice(HOSTILE) for _ in range(2)}
            if changed.get("EDGEEMBED_HOME") in ("", "/", "//", "."):
                del changed["EDGEEMBED_HOME"]
            if any("PROXY" in name or name.startswith(("HF_", "SSL_")) for name in changed):
                patch.setenv("EDGEEMBED_OFFLINE", "0")
                patch.setenv("EDGEEMBED_HUB_TIMEOUT", "0.2")
            for name, value in changed.items():
                patch.setenv(name, value)
            arguments = list(draw.choice(PLAIN))
            close_session()  # the client keeps the settings that it began with
            try:
                run(arguments, patch)
            except Exception as error:
                raise AssertionError(f"{changed!r} edgeembed {arguments!r} ended in a traceback") from error


def test_an_error_of_the_system_names_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = run(["pull", "é" * 300 + ".gguf"], monkeypatch)
    assert said.startswith("error: ")
    assert said.rstrip().endswith(": File name too long")


@pytest.mark.parametrize("name", ["./nosuch", "a..b/c--d", "../x"])
def test_a_source_that_is_neither_folder_nor_repository_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("EDGEEMBED_OFFLINE", "0")
    said = run(["convert", name], monkeypatch)
    assert said.startswith(f"error: {name!r} is neither a folder nor a repository") or "not a valid repository name" in said


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("HTTPS_PROXY", "http://127.0.0.1:x", "the proxy settings"),
        ("SSL_CERT_FILE", "/nosuch", "the certificates"),
        ("HF_ENDPOINT", "http://x:y", "HF_ENDPOINT = 'http://x:y' is not a URL"),
    ],
)
def test_settings_of_the_connection_that_cannot_be_used_are_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    found = edgeembed("convert", "acme/tiny")  # in a process of its own: the client is built once
    assert (found.returncode, found.stderr.startswith("error: "), words in found.stderr) == (1, True, True), found.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX pipe")
def test_a_reader_that_goes_away_ends_the_command_quietly(folder: Path) -> None:
    import subprocess

    from tests.cli.helpers import MAIN

    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "config", "show"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait(60)
