"""Make the reference rows of the decoder families, by transformers on torch, for test_qwen3.py and test_gemma.py.

    PYTHON tests/reference/make_decoder_rows.py [qwen3] [gemma]
    PYTHON tests/reference/make_decoder_rows.py ids FOLDER

PYTHON is one of an environment with torch (CPU), transformers, tokenizers, numpy and gguf; nothing of edgeembed is imported.
The checkpoints are the tiny ones that the tests make again from the same seeds, so that only texts, ids and rows are stored:
tests/reference/qwen3_rows.npz and gemma_rows.npz. Ids are those of the tokenizers library, told that a special token's name
in a text is text, as edgeembed always tokenises; `parsed` ids are with the names read as tokens. `ids FOLDER` writes
qwen_token_ids.json instead, from a checkpoint with Qwen's true vocabulary.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.convert.decoder_texts import LONG, PAIRS, TRICKY

HERE = Path(__file__).parent
# Qwen3-Reranker's model card.
PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
PAIR = "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n<Query>: {}\n<Document>: {}"


def open_tokenizer(folder: Path, *, names_are_text: bool) -> Any:
    """Open tokenizer.json; `names_are_text`: no name of a control token is read as that token."""
    from tokenizers import Tokenizer

    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for entry in content["added_tokens"]:
        # llama.cpp takes these for control tokens, though not all checkpoints mark them so.
        entry["special"] = entry["special"] or bool(re.fullmatch(r"<\|.*\|>|<unused.*|<pad>|<mask>", entry["content"]))
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.encode_special_tokens = names_are_text
    return tokenizer


def pack(sequences: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return sequences of different lengths as two arrays."""
    return {
        "ids": np.array([number for ids in sequences for number in ids], dtype=np.int32),
        "lengths": np.array([len(ids) for ids in sequences], dtype=np.int32),
    }


def make_qwen3() -> None:
    """Write qwen3_rows.npz."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

    from tests.convert.tiny_qwen3_checkpoint import make_qwen3_checkpoint

    texts = [*TRICKY, *LONG.values()]
    found: dict[str, Any] = {"texts": np.array(texts), "pairs": np.array(PAIRS)}
    with tempfile.TemporaryDirectory() as work, torch.no_grad():
        folder = make_qwen3_checkpoint(Path(work) / "embed")
        tokenizer = open_tokenizer(folder, names_are_text=True)
        parsing = open_tokenizer(folder, names_are_text=False)
        model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        for name, tool in (("text", tokenizer), ("parsed", parsing)):
            ids = [tool.encode(text).ids for text in texts]
            rows = [model(torch.tensor([numbers])).last_hidden_state[0, -1].numpy() for numbers in ids]
            found |= {f"{name}_{key}": value for key, value in pack(ids).items()} | {f"{name}_rows": np.stack(rows)}

        scores: dict[str, list[float]] = {}
        for kind, tied in (("rerank", True), ("rerank", False), ("classify", True)):
            name = kind if tied else f"{kind}_untied"
            folder = make_qwen3_checkpoint(Path(work) / name, kind=kind, tied=tied)
            plain = open_tokenizer(folder, names_are_text=True)
            parsing = open_tokenizer(folder, names_are_text=False)
            yes, no = plain.token_to_id("yes"), plain.token_to_id("no")
            maker = AutoModelForSequenceClassification if kind == "classify" else AutoModelForCausalLM
            model = maker.from_pretrained(folder, dtype=torch.float32).eval()
            prompts = []
            for query, document in PAIRS:
                ids = (
                    parsing.encode(PREFIX).ids + plain.encode(PAIR.format(query, document)).ids + parsing.encode(SUFFIX).ids
                )
                prompts.append(ids)
                logits = model(torch.tensor([ids])).logits
                if kind == "classify":
                    score = torch.sigmoid(logits[0, 0])
                else:
                    score = torch.softmax(logits[0, -1, [yes, no]], dim=0)[0]
                scores.setdefault(name, []).append(float(score))
            found |= {f"pair_{key}": value for key, value in pack(prompts).items()}
        found |= {f"{name}_scores": np.array(values) for name, values in scores.items()}
    np.savez_compressed(HERE / "qwen3_rows.npz", **found)
    print(f"qwen3_rows.npz: {len(texts)} texts, the longest of {found['text_lengths'].max()} tokens")
    for name, values in scores.items():
        print(f"  {name}: " + " ".join(f"{value:.4f}" for value in values))


def make_gemma() -> None:
    """Write gemma_rows.npz: the vectors before they are normalised."""
    import torch
    from sentence_transformers import SentenceTransformer

    from tests.convert.tiny_gemma_checkpoint import make_gemma_checkpoint

    texts = [*TRICKY, *LONG.values()]
    found: dict[str, Any] = {"texts": np.array(texts)}
    with tempfile.TemporaryDirectory() as work, torch.no_grad():
        folder = make_gemma_checkpoint(Path(work) / "gemma")
        model = SentenceTransformer(str(folder), device="cpu")
        modules = [module for module in model if type(module).__name__ != "Normalize"]
        for name, names_are_text in (("text", True), ("parsed", False)):
            ids = [open_tokenizer(folder, names_are_text=names_are_text).encode(text).ids for text in texts]
            rows = []
            for numbers in ids:
                features: Any = {
                    "input_ids": torch.tensor([numbers]),
                    "attention_mask": torch.ones(1, len(numbers), dtype=int),
                }
                for module in modules:
                    features = module(features)
                rows.append(features["sentence_embedding"][0].numpy())
            found |= {f"{name}_{key}": value for key, value in pack(ids).items()} | {f"{name}_rows": np.stack(rows)}
    np.savez_compressed(HERE / "gemma_rows.npz", **found)
    print(f"gemma_rows.npz: {len(texts)} texts, the longest of {found['text_lengths'].max()} tokens")


def make_ids(folder: Path) -> None:
    """Write qwen_token_ids.json: the ids of texts in Qwen's true vocabulary, of a checkpoint of make_qwen3_checkpoint.py."""
    tokenizer = open_tokenizer(folder, names_are_text=True)
    ids = {text: tokenizer.encode(text).ids for text in [*TRICKY, *LONG.values()]}
    lines = ",\n".join(f"{json.dumps(text)}: {json.dumps(numbers)}" for text, numbers in ids.items())
    (HERE / "qwen_token_ids.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    print(f"qwen_token_ids.json: {len(ids)} texts")


MAKERS = {"qwen3": make_qwen3, "gemma": make_gemma}

if __name__ == "__main__":
    if sys.argv[1:2] == ["ids"]:
        make_ids(Path(sys.argv[2]))
        sys.exit()
    for family in sys.argv[1:] or MAKERS:
        MAKERS[family]()
