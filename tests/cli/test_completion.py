"""Completions, and that real shells use them."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeembed.cli.main import COMMANDS, cli
from edgeembed.config.values import field_names
from edgeembed.hub.catalogue import catalogue
from edgeembed.hub.offered import CONVERTED_TYPES
from edgeembed_convert import QUANTIZATIONS
from tests.cli.helpers import edgeembed, install
from tests.cli.imports import HEAVY, imported

START_SECONDS = 60.0


def offered(*words: str) -> list[str]:
    """Return the completions of `edgeembed WORDS<TAB>`; "file" stands for files."""
    environment = {
        "_EDGEEMBED_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["edgeembed", *words]),
        "COMP_CWORD": str(len(words)),
    }
    result = CliRunner(catch_exceptions=False).invoke(cli, env=environment, prog_name="edgeembed")
    assert result.exit_code == 0
    answers = [line.split(",", 1) for line in result.output.splitlines() if line]
    return [value if kind == "plain" else kind for kind, value in answers]


def test_types_are_those_of_the_converter() -> None:
    assert CONVERTED_TYPES == QUANTIZATIONS


def test_commands_and_options() -> None:
    assert offered("") == list(COMMANDS)
    assert offered("co") == [name for name in COMMANDS if name.startswith("co")]
    assert "--json" in offered("rm", "--")
    assert "path" in offered("config", "")


@pytest.mark.parametrize(
    "words", [["show"], ["pull"], ["verify"], ["serve", "--model"], ["serve", "--pin"], ["doctor", "--model"]]
)
def test_models_of_the_catalogue_and_installed_ones(words: list[str]) -> None:
    install("my-own", "Q8_0")
    found = offered(*words, "")
    assert found == sorted({*catalogue(), "my-own"})
    assert offered(*words, "my") == ["my-own", "my-own:Q8_0"]


def test_settings_and_their_values(home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text('[aliases]\none = "bge-m3"\n')
    assert offered("config", "set", "") == [
        item for name in field_names() for item in ([name, f"{name}."] if name in ("aliases", "keep_alive_of") else [name])
    ]
    assert offered("config", "set", "cache-d") == ["cache_disk_mib"]
    assert offered("config", "get", "alia") == ["aliases", "aliases.one"]
    assert offered("config", "unset", "aliases.o") == ["aliases.one"]
    assert offered("config", "set", "truncate", "") == ["none", "end", "start"]
    assert offered("config", "set", "cache", "f") == ["false"]
    assert offered("config", "set", "certfile", "") == ["file"]
    assert {"bge-m3", "bge-m3:F16"} < set(offered("config", "set", "aliases.two", "bge-m"))
    assert offered("config", "set", "port", "") == []


def test_types_are_offered_once_the_name_is_unambiguous() -> None:
    install("all-minilm-l6-v2", "IQ4_XS")
    assert offered("show", "qwen3-e") == [name for name in catalogue() if name.startswith("qwen3-e")]
    assert offered("show", "all-minilm-l6-v2:f") == ["all-minilm-l6-v2:F32", "all-minilm-l6-v2:F16"]
    assert offered("show", "All-MiniLM-L6-v2:iq") == ["all-minilm-l6-v2:IQ4_XS"]
    only = offered("pull", "qwen3-embedding-0.6b")
    assert only[:2] == ["qwen3-embedding-0.6b", "qwen3-embedding-0.6b:Q8_0"]
    assert offered("show", "nobody:Q") == ["file"]


def test_files_are_offered_if_no_model_matches() -> None:
    assert offered("show", "./mod") == ["file"]
    assert offered("serve", "--model", "zzz") == ["file"]
    assert offered("pull", "hf:ow") == []


def test_rm_offers_installed_models_that_are_not_named_yet() -> None:
    assert offered("rm", "") == []
    for name, kind in (("alpha", "F16"), ("alpha", "Q8_0"), ("beta", "F16")):
        install(name, kind)
    assert offered("rm", "") == ["alpha", "beta"]
    assert offered("rm", "alpha:") == ["alpha:F16", "alpha:Q8_0"]
    assert offered("rm", "alpha:F16", "alpha:") == ["alpha:Q8_0"]
    assert offered("rm", "beta", "") == ["alpha"]


def test_a_mistyped_command_is_not_an_error() -> None:
    assert offered("sevre", "x") == []


def test_completion_imports_nothing_heavy() -> None:
    code = (
        "import contextlib, io, os, sys\n"
        "from edgeembed.cli.main import main\n"
        "sys.argv = ['edgeembed']\n"
        "os.environ |= {'_EDGEEMBED_COMPLETE': 'bash_complete', 'COMP_WORDS': 'edgeembed show al', 'COMP_CWORD': '2'}\n"
        "with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())) as out, contextlib.suppress(SystemExit): main()\n"
        "out.flush(); assert b'plain,all-minilm-l6-v2' in out.buffer.getvalue()"
    )
    # Parsing the catalogue and finding the folders needs these two.
    assert not imported(code) & set(HEAVY) - {"msgspec", "tomlkit"}


def test_an_unknown_shell() -> None:
    done = edgeembed("completion", "tcsh")
    assert done.returncode == 2 and "'bash', 'zsh', 'fish', 'powershell'" in done.stderr


def by_powershell(*words: str) -> list[list[str]]:
    """Return the answers to the script for PowerShell: type, value, help."""
    environ = {
        **os.environ,
        "_EDGEEMBED_COMPLETE": "powershell_complete",
        "COMP_WORDS": "\n".join(["edgeembed.exe", *words[:-1]]),
        "COMP_CWORD": words[-1],
    }
    code = "import sys; from edgeembed.cli.main import main; sys.argv[0] = 'edgeembed.exe'; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environ, check=True)
    assert done.stderr == ""
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_powershell_asks_and_is_answered() -> None:
    assert ["plain", "completion", COMMANDS["completion"][2]] in by_powershell("comp")
    assert by_powershell("config", "set", "truncate", "e") == [["plain", "end", ""]]
    assert ["plain", "all-minilm-l6-v2:F16", ""] in by_powershell("serve", "--model=all-minilm-l6-v2:F1")
    assert by_powershell("embed", "my file") == [["file", "my file", ""]]
    script = edgeembed("completion", "powershell").stdout
    assert script.startswith("Register-ArgumentCompleter -Native -CommandName edgeembed -ScriptBlock {")
    assert "$env:_EDGEEMBED_COMPLETE = 'powershell_complete'" in script and "%" not in script
    for opening, closing in ("{}", "()", "[]"):
        assert script.count(opening) == script.count(closing)


@pytest.mark.parametrize(
    "words", [["embed"], ["embed", "x", "-o"], ["convert"], ["serve", "--certfile"], ["status", "--uds"], ["search"]]
)
def test_files_are_offered_where_files_are_meant(words: list[str]) -> None:
    assert offered(*words, "some") == ["file"]


@pytest.mark.parametrize("words", [["pull", "m", "--type"], ["convert", "m", "--type"]])
def test_types_are_offered_where_a_type_is_meant(words: list[str]) -> None:
    assert offered(*words, "q5_k") == ["Q5_K_M"]


# --- real shells ------------------------------------------------------------------------------------------------------

PROGRAM = """#!/bin/sh
if [ -z "$_EDGEEMBED_COMPLETE" ]; then echo "ran <$*>"; exit; fi
exec '{python}' -c 'import sys; from edgeembed.cli.main import main; sys.argv[0] = "edgeembed"; main()'
"""
SHELLS = {
    "bash": ["bash", "--noprofile", "--norc", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
LOAD = {
    "bash": ". ./script",
    "zsh": "autoload -Uz compinit; compinit -u -D; . ./script",
    "fish": ". ./script",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a program `edgeembed` that prints its arguments and completes like the real one."""
    program = tmp_path / "bin" / "edgeembed"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    (tmp_path / "my-model.gguf").touch()
    return tmp_path


def typed(shell: str, folder: Path, lines: list[str], wanted: list[str]) -> str:
    """Type lines, each followed by TAB and Enter, into an interactive shell until all of `wanted` was shown."""
    import pty

    (folder / "script").write_text(edgeembed("completion", shell).stdout)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    # A separate home, to keep these lines out of the developer's history.
    environment = {**os.environ, "PATH": path, "TERM": "xterm", "HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    ours, theirs = pty.openpty()
    # fish needs a controlling terminal.
    process = subprocess.Popen(SHELLS[shell], cwd=folder, env=environment, preexec_fn=lambda: os.login_tty(theirs))
    os.close(theirs)
    shown = ""
    try:
        for line, expected in zip([LOAD[shell] + "; echo lo''aded", *lines], ["loaded", *wanted], strict=True):
            os.write(ours, f"{line}{'' if expected == 'loaded' else chr(9)}\r".encode())
            until = time.monotonic() + START_SECONDS
            while expected not in shown and time.monotonic() < until:
                if select.select([ours], [], [], 1.0)[0]:
                    shown += os.read(ours, 4096).decode(errors="replace")
        return shown
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.e2e
@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals of POSIX")
@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell_completes(shell: str, folder: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} on this machine")
    if shell == "bash" and subprocess.run(["bash", "-c", "((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404))"]).returncode:
        pytest.skip("this bash is older than 4.4")
    lines = {
        "edgeembed complet": "ran <completion>",
        "edgeembed show all-minilm-l6-v2:F1": "ran <show all-minilm-l6-v2:F16>",
        "edgeembed pull all-minilm-l6-v2:q6": "ran <pull all-minilm-l6-v2:Q6_K>",
        "edgeembed serve --model=all-minilm-l6-v2:F1": "ran <serve --model=all-minilm-l6-v2:F16>",
        "edgeembed serve --log-level=d": "ran <serve --log-level=debug>",
        "edgeembed show ./my-m": "ran <show ./my-model.gguf>",
        "edgeembed serve --model=./my-m": "ran <serve --model=./my-model.gguf>",
        "edgeembed nonsense x": "ran <nonsense x>",
    }
    shown = typed(shell, folder, list(lines), list(lines.values()))
    assert [said for said in lines.values() if said not in shown] == []
    assert "Traceback" not in shown and "error" not in shown
