"""Write the tiny EmbeddingGemma checkpoint together with a tokenizer.model, for compare_with_llama_cpp.py.

    uv run python tests/reference/make_gemma_checkpoint.py FOLDER

llama.cpp's converter takes Gemma's vocabulary from tokenizer.model alone, which our own does not need. Scores are those that
SentencePiece gives when it trains BPE: one less for each piece.
Format: SentencePiece's sentencepiece_model.proto (ModelProto), in the encoding of Protocol Buffers.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.convert.tiny_gemma_checkpoint import DEFINED, SPECIAL, UNUSED, make_gemma_checkpoint, tiny_vocabulary

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
BPE = 2


def varint(number: int) -> bytes:
    """Encode a number, seven bits to a byte."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def block(field: int, content: bytes) -> bytes:
    """Encode a field of bytes, text or another message."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def piece_entry(piece: str, score: float, kind: int) -> bytes:
    """Encode a ModelProto.SentencePiece."""
    content = block(1, piece.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score) + varint(3 << 3) + varint(kind)
    return block(1, content)


def main() -> None:
    """Write the checkpoint."""
    folder = make_gemma_checkpoint(Path(sys.argv[1]))
    entries = []
    score = 0.0
    for piece in tiny_vocabulary():
        kind = NORMAL
        if piece == "<unk>":
            kind = UNKNOWN
        elif piece in SPECIAL:
            kind = CONTROL
        elif piece in (*UNUSED, *DEFINED):
            kind = USER_DEFINED
        elif piece.startswith("<0x"):
            kind = BYTE
        entries.append(piece_entry(piece, score if kind == NORMAL else 0.0, kind))
        score -= kind == NORMAL
    trainer = varint(3 << 3) + varint(BPE) + varint(35 << 3) + varint(1)  # model_type, byte_fallback
    normalizer = block(1, b"identity") + varint(3 << 3) + varint(0) + varint(4 << 3) + varint(0)
    (folder / "tokenizer.model").write_bytes(b"".join(entries) + block(2, trainer) + block(3, normalizer))
    # Here the converter of llama.cpp looks for the tokens that tokenizer.model does not mark.
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["added_tokens_decoder"] = {
        str(entry["id"]): {key: value for key, value in entry.items() if key != "id"} for entry in content["added_tokens"]
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    print(f"{folder}: {len(entries)} pieces")


if __name__ == "__main__":
    main()
