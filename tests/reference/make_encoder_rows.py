"""Make the reference rows and scores of the tiny encoder checkpoints (tests/convert/tiny_*encoders.py) with transformers.

    uv run --group reference python tests/reference/make_encoder_rows.py [NAME ...]

Writes tests/reference/encoder_NAME.npz: the SHA-256 of the checkpoint's weights, and for each text or pair its ids and its
row or score. What looks like a special token inside a text stays text, as in the daemon.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.convert import tiny_bert_variants as variants
from tests.convert import tiny_encoders as tiny
from tests.convert import tiny_rotary_encoders as rotary
from tests.convert.encoder_texts import PAIRS, TEXTS

FOLDER = Path(__file__).parent


def tokenizer_of(folder: Path) -> Any:
    """Load tokenizer.json so that no special token is ever found in a text."""
    from tokenizers import Tokenizer

    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    special = {entry["content"] for entry in content["added_tokens"] if entry["special"]}
    content = copy.deepcopy(content)
    # Without its entry a special token is an ordinary piece; as an ordinary piece it gets a name that no text has.
    content["added_tokens"] = [entry for entry in content["added_tokens"] if not entry["special"]]
    model = content["model"]

    def hide(piece: str) -> str:
        return f"\ue000 {piece}" if piece in special and piece != model.get("unk_token") else piece

    if isinstance(model["vocab"], dict):
        model["vocab"] = {hide(piece): number for piece, number in model["vocab"].items()}
    else:
        model["vocab"] = [[hide(piece), score] for piece, score in model["vocab"]]
    return Tokenizer.from_str(json.dumps(content))


def rows(folder: Path, pooling: str) -> tuple[list[list[int]], np.ndarray[Any, Any]]:
    """Return ids and pooled rows of TEXTS."""
    import torch
    from transformers import AutoModel

    tokenizer = tokenizer_of(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    ids = [tokenizer.encode(text).ids for text in TEXTS.values()]
    found = []
    for numbers in ids:
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([numbers])).last_hidden_state[0].double()
        found.append((hidden[0] if pooling == "cls" else hidden.mean(0)).numpy())
    return ids, np.stack(found).astype(np.float32)


def scores(folder: Path) -> tuple[list[list[int]], np.ndarray[Any, Any]]:
    """Return ids and bare outputs of PAIRS, token types as the tokenizer says them."""
    import torch
    from transformers import AutoModelForSequenceClassification

    tokenizer = tokenizer_of(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    encodings = [tokenizer.encode(query, document) for query, document in PAIRS.values()]
    found = []
    for encoding in encodings:
        types = torch.tensor([encoding.type_ids])
        with torch.no_grad():
            found.append(model(input_ids=torch.tensor([encoding.ids]), token_type_ids=types).logits[0, 0].item())
    return [encoding.ids for encoding in encodings], np.array(found, dtype=np.float32)


MAKERS: dict[str, Callable[[Path], tuple[list[list[int]], np.ndarray[Any, Any]]]] = {
    "xlm_roberta_cls": lambda folder: rows(tiny.make_tiny_xlm_roberta(folder, pooling="cls"), "cls"),
    "xlm_roberta_mean": lambda folder: rows(tiny.make_tiny_xlm_roberta(folder, pooling="mean"), "mean"),
    "distil_bert_cls": lambda folder: rows(variants.make_tiny_distil_bert(folder, pooling="cls"), "cls"),
    "distil_bert_mean": lambda folder: rows(variants.make_tiny_distil_bert(folder, pooling="mean"), "mean"),
    "roberta_cls": lambda folder: rows(variants.make_tiny_roberta(folder, pooling="cls"), "cls"),
    "roberta_mean": lambda folder: rows(variants.make_tiny_roberta(folder), "mean"),
    "camembert": lambda folder: rows(variants.make_tiny_camembert(folder), "mean"),
    "cross_encoder": lambda folder: scores(tiny.make_tiny_cross_encoder(folder)),
    "modern_bert_cls": lambda folder: rows(rotary.make_tiny_modern_bert(folder, pooling="cls"), "cls"),
    "modern_bert_mean": lambda folder: rows(rotary.make_tiny_modern_bert(folder, pooling="mean"), "mean"),
    "nomic_bert": lambda folder: rows(rotary.make_tiny_nomic_bert(folder), "mean"),
    "xlm_roberta_reranker": lambda folder: scores(tiny.make_tiny_xlm_roberta_reranker(folder)),
}


def main() -> None:
    """Write the files that are named, or all."""
    for name in sys.argv[1:] or MAKERS:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            ids, values = MAKERS[name](folder)
            file = FOLDER / f"encoder_{name}.npz"
            np.savez_compressed(
                file,
                sha256=np.array(tiny.checkpoint_sha256(folder)),
                kinds=np.array(list(PAIRS if values.ndim == 1 else TEXTS)),
                lengths=np.array([len(numbers) for numbers in ids], dtype=np.int32),
                ids=np.concatenate([np.array(numbers, dtype=np.int32) for numbers in ids]),
                values=values,
            )
            print(f"{file.name}: {values.shape}, {min(map(len, ids))} to {max(map(len, ids))} tokens")


if __name__ == "__main__":
    main()
