"""Ollama's client installs, copies and removes models of a real daemon; the model hub is on this machine."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import ollama
import pytest

from edgeembed.config.paths import Paths
from edgeembed.hub.store import Store
from tests.e2e.daemon import Daemon, running
from tests.e2e.hub import pulls_of
from tests.hub.fakes import FakeHub
from tests.waiting import until

REPOSITORY = "acme/tiny-GGUF"
GIVEN = f"hf.co/{REPOSITORY}"


@pytest.fixture
def hub(minilm: Callable[[str], Path]) -> Iterator[FakeHub]:
    fake = FakeHub()
    fake.files[REPOSITORY] = {"tiny-Q8_0.gguf": minilm("Q8_0").read_bytes()}
    yield fake
    fake.close()


@contextlib.contextmanager
def serving(minilm: Callable[[str], Path], hub: FakeHub, home: Path) -> Iterator[Daemon]:
    home.mkdir(exist_ok=True)
    with running("--model", str(minilm("F16")), home=home, HF_ENDPOINT=hub.url, NO_PROXY="127.0.0.1") as daemon:
        yield daemon


def test_pull_use_copy_and_delete(minilm: Callable[[str], Path], hub: FakeHub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    store = Store(Paths.resolve({"EDGEEMBED_HOME": str(home)}))
    with serving(minilm, hub, home) as daemon:
        client = ollama.Client(host=daemon.url)
        parts = list(client.pull(GIVEN, stream=True))
        assert [parts[0].status, parts[-1].status] == ["pulling manifest", "success"]
        bars = [part for part in parts if part.digest]
        assert bars[-1].completed == bars[-1].total == minilm("Q8_0").stat().st_size
        assert {"tiny:latest", "tiny:Q8_0"} <= {model.model for model in client.list().models}
        rows = client.embed("tiny", ["a text"]).embeddings
        assert [part.status for part in client.pull("tiny", stream=True)] == ["pulling manifest", "success"]
        assert client.pull("tiny").status == "success"
        client.copy("tiny", "text-embedding-3-small")
        assert client.embed("text-embedding-3-small", "a text").embeddings == rows
        with pytest.raises(ollama.ResponseError, match="try pulling it first"):
            client.embed("nobody", "a text")
        with pytest.raises(ollama.ResponseError, match="file does not exist") as unknown:
            client.pull("nobody")
        assert unknown.value.status_code == 404
        with pytest.raises(ollama.ResponseError, match="acme/nothing"):
            client.pull("hf.co/acme/nothing", stream=False)
    with serving(minilm, hub, home) as daemon:
        client = ollama.Client(host=daemon.url)
        assert client.embed("text-embedding-3-small", "a text").embeddings == rows, "the alias lasts"
        with pytest.raises(ollama.ResponseError, match="has other names"):
            client.delete("tiny")
        client.delete("text-embedding-3-small")
        client.delete("tiny")
        assert store.installed() == [] and not list(store.folder("tiny").glob("**/*"))
        with pytest.raises(ollama.ResponseError, match="not found"):
            client.embed("tiny", "a text")


@pytest.mark.skipif(os.name != "posix", reason="a process of Windows cannot be interrupted")
def test_a_client_that_hangs_up_interrupts_its_pull_and_the_next_one_resumes(
    minilm: Callable[[str], Path], hub: FakeHub, tmp_path: Path
) -> None:
    hub.hold_at = 6_000_000
    home = tmp_path / "home"
    with serving(minilm, hub, home) as daemon:
        connection = http.client.HTTPConnection(daemon.url.removeprefix("http://"), timeout=60)
        connection.request("POST", "/api/pull", json.dumps({"model": GIVEN}))
        response = connection.getresponse()
        assert json.loads(response.readline()) == {"status": "pulling manifest"}
        until(lambda: "digest" in json.loads(response.readline()))
        until(lambda: sum(file.stat().st_size for file in home.glob("models/tiny/**/*") if file.is_file()) > 1_000_000)
        assert len(pulls_of(daemon)) == 1
        response.close()
        connection.close()
        until(lambda: not pulls_of(daemon))
        hub.hold_at = None
        hub.gate.set()
        assert ollama.Client(host=daemon.url).pull(GIVEN).status == "success"
        assert hub.downloads[-1].range is not None, "the rest of the file"
        assert daemon.get("/health")[0] == 200


def test_a_daemon_that_stops_ends_its_pulls(minilm: Callable[[str], Path], hub: FakeHub, tmp_path: Path) -> None:
    hub.hold_at = 1_000_000
    with serving(minilm, hub, tmp_path / "home") as daemon:
        connection = http.client.HTTPConnection(daemon.url.removeprefix("http://"), timeout=30)
        connection.request("POST", "/api/pull", json.dumps({"model": GIVEN}))
        response = connection.getresponse()
        (child,) = until(lambda: pulls_of(daemon))
        assert daemon.stop() == 0
        assert not child.is_running()
        assert json.loads(response.read().splitlines()[-1]) == {"error": "the server is stopping"}
