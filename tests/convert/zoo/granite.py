"""Forms of ModernBERT with the multilingual tokenizers of Granite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.convert.tiny_gemma_checkpoint import tiny_vocabulary as gemma_vocabulary
from tests.convert.tiny_gemma_checkpoint import tokenizer_json as gemma_tokenizer_json
from tests.convert.tiny_rotary_encoders import bpe_tokenizer_json, make_tiny_modern_bert
from tests.convert.zoo.form import Form
from tests.engine.tiny_qwen3 import byte_pieces

PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WHOLE = (" города", " Hügeln", " thuật", "Суд", " ÉCOLE", "осС", "É")
"""Pieces that no merges lead to, and two that are never words: they end behind a small letter, and within capitals."""
CARD = "Matryoshka Support: Truncate embeddings to 48, 32, or 16 dimensions with graceful degradation.\n"


def cased_tokenizer_json() -> dict[str, Any]:
    """Return the content of tokenizer.json with the pattern of granite-embedding-97m-multilingual-r2."""
    spelling = byte_pieces()
    found = bpe_tokenizer_json(["".join(spelling[byte] for byte in word.encode()) for word in WHOLE])
    found["model"]["ignore_merges"] = True
    found["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Removed", "invert": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    }
    return found | {"normalizer": None}


def make_granite_97m(folder: Path) -> Path:
    """Write a checkpoint in the form of granite-embedding-97m-multilingual-r2: SwiGLU, byte-level BPE."""
    tokenizer = cased_tokenizer_json()
    return make_tiny_modern_bert(
        folder,
        tokenizer=tokenizer,
        hidden_activation="silu",
        vocab_size=len(tokenizer["model"]["vocab"]) + len(tokenizer["added_tokens"]) + 2,
    )


def make_granite_311m(folder: Path) -> Path:
    """Write a checkpoint in the form of granite-embedding-311m-multilingual-r2: Gemma's vocabulary."""
    names = {"cls": "<bos>", "sep": "<eos>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    size = len(gemma_vocabulary())
    make_tiny_modern_bert(folder, tokenizer=gemma_tokenizer_json(image=False), names=names, vocab_size=size, seed=1)
    (folder / "README.md").write_text(f"---\nlicense: apache-2.0\n---\n{CARD}", encoding="utf-8")
    return folder


FORMS = (
    Form(
        "granite_97m_multilingual",
        ("ibm-granite/granite-embedding-97m-multilingual-r2",),
        "ModernBertModel",
        make_granite_97m,
        "cls",
        context=1280,
        pre="granite-embed-multi-97m",
    ),
    Form(
        "granite_311m_multilingual",
        ("ibm-granite/granite-embedding-311m-multilingual-r2",),
        "ModernBertModel",
        make_granite_311m,
        "cls",
        context=1280,
        pre="granite-embed-multi-311m",
    ),
)
