"""The command `edgeembed`: help, errors, exit statuses, and what a start imports."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from edgeembed import __version__
from edgeembed.cli import main as main_module
from edgeembed.cli.main import COMMANDS, cli, main
from edgeembed.errors import EngineUnavailableError, RequestError
from edgeembed.hub.catalogue import DEFAULT_MODEL
from tests.cli.helpers import MAIN, answering, edgeembed, install, status_of
from tests.cli.imports import HEAVY, imported
from tests.ports import free_port

# --- help -------------------------------------------------------------------------------------------------------------


def test_help_lists_every_command_with_its_summary() -> None:
    done = edgeembed("-h")
    assert done.returncode == 0 and done.stderr == ""
    listed = " ".join(done.stdout.split())
    for name, (_, _, line) in COMMANDS.items():
        assert f" {name} {line}" in listed


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_teaches(name: str) -> None:
    module, attribute, _ = COMMANDS[name]
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command) and command.name == name
    done = CliRunner().invoke(cli, [name, "--help"], prog_name="edgeembed")
    assert done.exit_code == 0
    examples = [line for line in done.output.splitlines() if line.strip().startswith(f"edgeembed {name}")]
    assert examples, "no example in the help"
    if isinstance(command, click.Group):
        for inner in command.commands:
            assert any(f"edgeembed {name} {inner}" in line for line in examples), f"no example of {inner}"


def test_help_of_serve_shows_variable_default_and_placeholder() -> None:
    shown = " ".join(edgeembed("serve", "--help").stdout.split())
    assert "[EDGEEMBED_PORT, default: 8327]" in shown
    for flag in ("--port N", "--load-timeout SECONDS", "--gpu-memory-utilization 0..1", "--upstream-min-cosine 0..1"):
        assert f"{flag} " in shown


def test_version() -> None:
    assert edgeembed("--version").stdout == f"edgeembed, version {__version__}\n"


# --- output that cannot be written ------------------------------------------------------------------------------------

PRINTING = (
    ("--help",), ("--version",), ("list",), ("list", "--available", "--json"), ("show",), ("config", "show"),
    ("autostart", "status"), ("devices", "--json"), ("completion", "bash"), ("cache", "stats"), ("serve", "--help"),
)  # fmt: skip


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a device of Linux")
@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_a_full_disk_behind_the_output_is_one_line(arguments: tuple[str, ...]) -> None:
    done = _printing_to("/dev/full", *arguments)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ") and "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell of POSIX")
def test_a_reader_that_has_gone_is_no_error_to_read_about(arguments: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = _printing_to(write, *arguments)
    finally:
        os.close(write)
    assert done.returncode == 1 and done.stderr == ""


def _printing_to(output: str | int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `edgeembed` with its standard output there, buffered as it is for users."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open(output, "w", closefd=isinstance(output, str)) as opened:
        return subprocess.run(
            [sys.executable, "-c", MAIN, *arguments],
            stdout=opened, stderr=subprocess.PIPE, text=True, timeout=120, check=False, env=environ,
        )  # fmt: skip


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sevre"], "no such command 'sevre'. Did you mean 'serve'?"),
        (["xyzzy"], "no such command 'xyzzy'."),
        (["config", "set", "port"], "Missing argument 'VALUE'"),
        (["serve", "--prot", "1"], "No such option"),
        (["serve", "--log-level", "loud"], "'loud' is not one of 'debug', 'info', 'warning', 'error'"),
    ],
)
def test_a_mistyped_command_is_explained_on_stderr(arguments: list[str], says: str) -> None:
    done = edgeembed(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr and "Traceback" not in done.stderr


def test_an_error_is_one_line_on_stderr() -> None:
    done = edgeembed("config", "set", "prot", "9000")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown setting 'prot'. Did you mean 'port'?\n"


def test_a_bad_setting_stops_serve_before_any_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEEMBED_PORT", "many")
    done = edgeembed("serve")
    assert done.returncode == 2
    assert done.stderr.startswith("error: EDGEEMBED_PORT = 'many'") and done.stderr.count("\n") == 1


def test_an_error_of_several_lines_stops_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    done = edgeembed("serve", "--model", DEFAULT_MODEL)
    assert done.returncode == 1
    first, *others = done.stderr[done.stderr.index("error: ") :].splitlines()
    assert first.endswith("could not be downloaded. Tried:")
    assert len(others) >= 2 and all(line.startswith("  ") for line in others)


@pytest.mark.parametrize(
    ("raised", "status", "says"),
    [
        (RequestError("wrong"), 2, "error: wrong\n"),
        (EngineUnavailableError("no mode holds"), 1, "error: no mode holds\n"),
        (RequestError("wrong:\n\x1b[31mred"), 2, "error: wrong:\n  \\x1b[31mred\n"),
        (PermissionError(13, "Permission denied", "\x1b[31mred"), 1, "error: \\x1b[31mred: Permission denied\n"),
        (click.Abort(), 130, "interrupted\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (click.exceptions.Exit(3), 3, ""),
        (SystemExit(4), 4, ""),
        (None, 0, ""),
    ],
)
def test_exit_statuses(
    raised: BaseException | None,
    status: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @click.command()
    def command() -> None:
        if raised is not None:
            raise raised

    monkeypatch.setattr(main_module, "cli", command)
    monkeypatch.setattr(sys, "argv", ["edgeembed"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0) == status
    assert capsys.readouterr().err.lstrip("\n") == says


# --- what a start costs -----------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import contextlib, io, sys\n"
        "from edgeembed.cli.main import main\n"
        "sys.argv = ['edgeembed', '--help']\n"
        "with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit): main()\n"
        "assert 'doctor' in out.getvalue()"
    )
    modules = imported(code)
    assert "edgeembed" in modules
    assert not modules & set(HEAVY)


def test_the_daemon_never_imports_llama_cpp() -> None:
    """A crash of the native library must end a worker, never the daemon."""
    modules = imported(
        "import edgeembed.runtime.daemon, edgeembed.server.lifecycle, edgeembed.diagnostics.doctor, edgeembed.cli.serve"
    )
    assert "aiohttp" in modules
    assert "llama_cpp" not in modules


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
@pytest.mark.parametrize(
    "arguments",
    [["config", "show"], ["list", "--available"], ["list", "--json", "--available"], ["show"], ["rm", "alpha"], ["ps"]],
    ids=" ".join,
)
def test_a_closed_pipe_causes_no_traceback(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    install("alpha", "F16")
    with answering(status_of()) as (port, _):
        monkeypatch.setenv("EDGEEMBED_PORT", str(port))
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "wb") as pipe:
            done = subprocess.run(
                [sys.executable, "-c", MAIN, *arguments], stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=120
            )
    assert (done.stderr, done.returncode) == ("", 1)
