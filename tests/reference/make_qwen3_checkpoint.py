"""Write a checkpoint with Qwen3-Embedding-0.6B's true shape and true vocabulary, and random weights (seeded, BF16, 1.2 GB).

    uv run python tests/reference/make_qwen3_checkpoint.py FOLDER --ranks qwen.tiktoken [--layers 14] [--hidden 2560]

`qwen.tiktoken` is the vocabulary of all Qwen models; it lies in the PyPI package dashscope under `dashscope/resources/`
(`pip download --no-deps dashscope`, then unzip the wheel; nothing needs to be installed). One line is a piece in base64 and
its rank, which is its id. The merges follow from the ranks: a piece was made by the last merge that its bytes go through.
"""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.convert.tiny_qwen3_checkpoint import Qwen3Shape, make_qwen3_checkpoint
from tests.engine.tiny_qwen3 import byte_pieces

TRUE_SHAPE = Qwen3Shape(
    hidden_size=1024,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    intermediate_size=3072,
    max_position_embeddings=32768,
)
CARD = """---
license: apache-2.0
pipeline_tag: {tag}
---
# Random weights of Qwen3-Embedding-0.6B's shape

Embedding Dimension: Up to {hidden}, supports user-defined output dimensions ranging from 32 to {hidden}
"""


def read_ranks(file: Path) -> dict[bytes, int]:
    """Read a tiktoken vocabulary: piece to rank."""
    ranks = {}
    for line in file.read_bytes().splitlines():
        piece, rank = line.split()
        ranks[base64.b64decode(piece)] = int(rank)
    return ranks


def vocabulary_and_merges(ranks: Mapping[bytes, int]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the pieces in the order of their ids, and the merges, in GPT-2's spelling of bytes."""
    stand_in = byte_pieces()

    def spell(piece: bytes) -> str:
        return "".join(stand_in[byte] for byte in piece)

    pieces = sorted(ranks, key=ranks.__getitem__)
    merges = []
    for piece in pieces:
        parts = [bytes([byte]) for byte in piece]
        while len(parts) > 2:
            best = min(range(len(parts) - 1), key=lambda at: ranks.get(parts[at] + parts[at + 1], len(ranks)))
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            merges.append((spell(parts[0]), spell(parts[1])))
    return [spell(piece) for piece in pieces], merges


def main() -> None:
    """Write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ranks", type=Path, required=True, help="qwen.tiktoken")
    parser.add_argument("--kind", default="embed", choices=["embed", "rerank"])
    parser.add_argument("--layers", type=int, default=TRUE_SHAPE.num_hidden_layers)
    parser.add_argument("--hidden", type=int, default=TRUE_SHAPE.hidden_size)
    options = parser.parse_args()
    vocabulary, merges = vocabulary_and_merges(read_ranks(options.ranks))
    shape = replace(
        TRUE_SHAPE, num_hidden_layers=options.layers, hidden_size=options.hidden, intermediate_size=3 * options.hidden
    )
    make_qwen3_checkpoint(
        options.folder,
        kind=options.kind,
        shape=shape,
        dtype="BF16",
        unused=0,
        vocabulary=vocabulary,
        merges=merges,
    )
    tag = {"embed": "feature-extraction", "rerank": "text-ranking"}[options.kind]
    card = options.folder / "README.md"
    rest = card.read_text(encoding="utf-8") if options.kind == "rerank" else ""
    card.write_text(CARD.format(hidden=options.hidden, tag=tag) + rest, encoding="utf-8")
    print(f"{options.folder}: {len(vocabulary)} pieces, {len(merges)} merges, {options.layers} layers")


if __name__ == "__main__":
    main()
