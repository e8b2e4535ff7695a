"""What `edgeembed update` prints, and that it asks nobody where `offline` is set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeembed import __version__
from edgeembed.cli.update import update
from edgeembed.common import installation
from edgeembed.common.installation import Installation
from edgeembed.diagnostics import newest
from edgeembed.diagnostics.newest import Newest


@pytest.fixture(autouse=True)
def from_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Installation(kind="pip", title="the package index, by pip", prefix=Path(), python="/v/bin/python")
    monkeypatch.setattr(installation, "find_installation", lambda: found)


def answer(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(newest, "find_newest", lambda _installation: Newest(version, "a stand-in"))


def test_a_newer_version_comes_with_the_command_of_this_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, "99.0")
    done = CliRunner().invoke(update, [])
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        f"edgeembed {__version__} from the package index, by pip",
        "there is a newer version, 99.0; asked: a stand-in",
        "to get it: /v/bin/python -m pip install --upgrade edgeembed",
    ]
    told = json.loads(CliRunner().invoke(update, ["--json"]).stdout)
    assert (told["newest"], told["newer"], told["kind"]) == ("99.0", True, "pip")


def test_the_newest_version_has_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, __version__)
    assert "that is the newest version; asked: a stand-in" in CliRunner().invoke(update, []).stdout
    assert json.loads(CliRunner().invoke(update, ["--json"]).stdout)["command"] is None


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_offline_asks_nobody(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_installation: Installation) -> Newest:
        raise AssertionError("it asked")

    monkeypatch.setattr(newest, "find_newest", refuse)
    if by == "variable":
        monkeypatch.setenv("EDGEEMBED_OFFLINE", "true")
    done = CliRunner().invoke(update, ["--offline"] if by == "flag" else [])
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "offline is set, so nothing was asked")
    told = json.loads(CliRunner().invoke(update, ["--json", "--offline"]).stdout)
    assert (told["newest"], told["newer"], told["asked"]) == (None, None, None)
