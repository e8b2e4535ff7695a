"""The weights that are compared, in the forms that the peers read: a checkpoint and a GGUF file made from it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from edgeembed.hub.catalogue import STARTER_MODEL, PypiWheel, catalogue
from edgeembed.hub.download.wheel import fetch_wheel_folder
from tests.benchmarks.place import ModelName, Weights
from tests.benchmarks.processes import ROOT

VOCABULARY_PACKAGE = "dashscope"
"""Carries the vocabulary of all Qwen models; only that file is taken out of the wheel."""


def weights_of(folder: Path, model: ModelName) -> Weights:
    """Return where the files of a model belong; they need not exist, and may be links to files made elsewhere."""
    own = folder / "models" / model
    return Weights(model, own / "model-Q8_0.gguf", own / "checkpoint")


def make_weights(folder: Path, model: ModelName) -> Weights:
    """Fetch or make what is missing. Raises HubError or subprocess.CalledProcessError."""
    weights = weights_of(folder, model)
    if not weights.checkpoint.exists():
        weights.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        if model == "minilm":
            sources = catalogue()[STARTER_MODEL].sources
            wheel = next(source for source in sources if isinstance(source, PypiWheel))
            fetch_wheel_folder(wheel, weights.checkpoint, print)
        else:
            _make_qwen3(weights.checkpoint)
    if not weights.gguf.exists():
        files = [str(weights.checkpoint), "--type", "Q8_0", "-o", str(weights.gguf)]
        subprocess.run([sys.executable, "-m", "edgeembed", "convert", *files], check=True, cwd=ROOT)
    return weights


def _make_qwen3(checkpoint: Path) -> None:
    """Make a checkpoint of Qwen3-Embedding-0.6B's shape and vocabulary with random weights."""
    beside = checkpoint.parent
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", beside, VOCABULARY_PACKAGE], check=True
    )
    (wheel,) = beside.glob(f"{VOCABULARY_PACKAGE}-*.whl")
    ranks = beside / "qwen.tiktoken"
    with zipfile.ZipFile(wheel) as archive:
        ranks.write_bytes(archive.read(f"{VOCABULARY_PACKAGE}/resources/qwen.tiktoken"))
    wheel.unlink()
    script = ROOT / "tests" / "reference" / "make_qwen3_checkpoint.py"
    subprocess.run([sys.executable, script, checkpoint, "--ranks", ranks], check=True)
