"""What a model of the hub takes, by `edgeembed devices --plan`, before it is downloaded."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgeembed.cli.devices import devices
from edgeembed.errors import HubError, SourceUnreachableError, UnknownModelError
from edgeembed.hub import remote_head
from tests.hub.fakes import STARTER_REPO, WEIGHTS, FakeHub, model_bytes
from tests.hub.gguf.splitting import split

REPO = "acme/nice-model-GGUF"
WHOLE = model_bytes(300_000)


@pytest.fixture
def repository(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    hub.files[REPO] = {"nice-Q8_0.gguf": WHOLE, "nice-Q4_0.gguf": model_bytes(7_000, general__file_type=2)}
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return hub


def plan(name: str, *more: str) -> dict[str, Any]:
    done = CliRunner(catch_exceptions=False).invoke(devices, ["--plan", name, "--json", *more])
    found: dict[str, Any] = json.loads(done.stdout)["plan"]
    return found


def test_the_plan_is_that_of_the_file_and_the_weights_stay_there(
    repository: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nice.gguf").write_bytes(WHOLE)
    here = plan(str(tmp_path / "nice.gguf"))
    for reference in (f"hf:{REPO}", f"hf:{REPO}@v2:nice-Q8_0.gguf"):
        assert plan(reference) == {**here, "installed": False}
    monkeypatch.setattr(remote_head, "STEPS", (64, 128, 8192))
    assert plan(f"hf:{REPO}:q8_0") == {**here, "installed": False}
    assert [request.range for request in repository.downloads[-3:]] == ["bytes=0-63", "bytes=0-127", "bytes=0-8191"]
    assert repository.downloads[-1].sent == 8192
    assert list((tmp_path / "temporary").iterdir()) == []
    done = CliRunner(catch_exceptions=False).invoke(devices, ["--plan", f"hf:{REPO}"])
    assert "not installed; the sizes are read from the head of its file on the hub" in done.stdout


def test_a_hub_without_ranges_or_sizes(repository: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_head, "STEPS", (1024, 4096))
    expected = plan(f"hf:{REPO}")
    repository.ranges = False
    assert plan(f"hf:{REPO}") == expected
    repository.tells_sizes = False
    with pytest.raises(HubError, match=f"does not say how large .* install it: edgeembed pull hf:{REPO}"):
        plan(f"hf:{REPO}")


def test_what_has_no_single_head_names_the_command_that_installs_it(repository: FakeHub, tmp_path: Path) -> None:
    repository.files[STARTER_REPO] = {"model.safetensors": WEIGHTS, "config.json": b"{}"}
    with pytest.raises(HubError, match=f"is converted when it is installed; .* edgeembed pull hf:{STARTER_REPO}"):
        plan(f"hf:{STARTER_REPO}")
    (tmp_path / "large.gguf").write_bytes(WHOLE)
    parts = split(tmp_path / "large.gguf", 2)
    repository.files[REPO] = {part.name: part.read_bytes() for part in parts}
    with pytest.raises(HubError, match=f"are joined when it is installed; .* edgeembed pull hf:{REPO}"):
        plan(f"hf:{REPO}")
    assert repository.downloads == []


def test_a_file_that_is_none_is_not_read_on(repository: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_head, "STEPS", (64, 1024, 8192))
    for content, reason in (
        (bytes(9_000), "it begins with"),
        (WHOLE[:500], "the file ends within"),
        (WHOLE[:40] + bytes(20_000), "cannot be read: "),
    ):
        repository.files[REPO] = {"nice-Q8_0.gguf": content}
        with pytest.raises(HubError, match=rf"nice-Q8_0\.gguf of {REPO} .*{reason}"):
            plan(f"hf:{REPO}")
    assert repository.sent < 15_000


def test_who_is_not_asked_and_who_does_not_answer(repository: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HubError, match="`offline` forbids asking the hub for its size"):
        plan(f"hf:{REPO}", "--offline")
    assert repository.log == []
    with pytest.raises(UnknownModelError, match=r"has no file other\.gguf"):
        plan(f"hf:{REPO}:other.gguf")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("EDGEEMBED_HUB_TIMEOUT", "1")
    with pytest.raises(SourceUnreachableError, match=r"its size cannot be asked for: .* Check the connection"):
        plan(f"hf:{REPO}")
