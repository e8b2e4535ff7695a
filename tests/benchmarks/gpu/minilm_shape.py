"""Write a checkpoint with all-MiniLM-L6-v2's true shape and tokenizer, and random weights (seeded, F16, 45 MB).

    python -m tests.benchmarks.gpu.minilm_shape TOKENIZER_FOLDER FOLDER

The true weights would make the package for the other machine too large.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from tests.convert.tiny_bert import tiny_weights, write_safetensors


def make_minilm_shape(source: Path, folder: Path) -> None:
    """Copy configuration and tokenizer, and write weights that fit."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    write_safetensors(folder / "model.safetensors", tiny_weights(config), "F16")
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\n---\n# Random weights of MiniLM's shape\n", encoding="utf-8"
    )


if __name__ == "__main__":
    make_minilm_shape(Path(sys.argv[1]), Path(sys.argv[2]))
