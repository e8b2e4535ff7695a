"""A real daemon whose model hub is on this machine: for tests of downloads that are watched, paused and resumed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from edgeembed.hub.catalogue import STARTER_MODEL, HubCheckpoint, catalogue
from tests.e2e.daemon import Daemon, running
from tests.hub.fakes import FakeHub

REPOSITORY = "acme/tiny-GGUF"
"""A repository that is not in the catalogue: pulled as hf:acme/tiny-GGUF, installed as tiny:Q8_0."""


def stock(hub: FakeHub, checkpoint: Path, gguf: Path) -> None:
    """Put all-minilm-l6-v2 of the catalogue, 91 MB, and a GGUF file of `REPOSITORY` into a hub. checkpoint: the real one."""
    source = next(source for source in catalogue()[STARTER_MODEL].sources if isinstance(source, HubCheckpoint))
    hub.files[source.repo] = {
        path.relative_to(checkpoint).as_posix(): path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()
    }
    hub.files[REPOSITORY] = {"tiny-Q8_0.gguf": gguf.read_bytes()}


@contextmanager
def serving_with_hub(hub: FakeHub, model: Path, home: Path, *flags: str, ready: bool = True) -> Iterator[Daemon]:
    """Run a daemon that serves a file, and whose pulls ask this hub.

    A download stops at `hub.hold_at` bytes until `hub.gate` is set (set hold_at to None before); `hub.slow` sends 100 kB/s.
    """
    home.mkdir(exist_ok=True)
    with running("--model", str(model), *flags, home=home, ready=ready, HF_ENDPOINT=hub.url, NO_PROXY="127.0.0.1") as daemon:
        yield daemon


def pulls_of(daemon: Daemon) -> list[psutil.Process]:
    """Return the daemon's child processes that pull."""
    found = []
    for child in psutil.Process(daemon.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "pull" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found
