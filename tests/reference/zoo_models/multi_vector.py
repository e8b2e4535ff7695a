"""Vectors of a MultiVectorEncoder, by all modules of sentence-transformers 6, of the ids as the daemon reads them."""

from __future__ import annotations

from pathlib import Path

from tests.convert.encoder_texts import TEXTS
from tests.convert.zoo.rows import Outputs


def outputs(folder: Path) -> list[Outputs]:
    """Return the vectors of TEXTS, each as a query and as a document."""
    import torch
    from sentence_transformers import MultiVectorEncoder

    from tests.reference.make_zoo_rows import tokenizer_of

    tokenizer, model = tokenizer_of(folder), MultiVectorEncoder(str(folder), device="cpu")
    expansion = model[0].query_expansion
    found = []
    for kind, text in TEXTS.items():
        for role in ("query", "document"):
            ids = tokenizer.encode(text).ids
            ids.insert(1, model.tokenizer.convert_tokens_to_ids(model.prompts[role]))
            missing = max(0, expansion["length"] - len(ids)) if role == "query" else 0
            features = {
                "input_ids": torch.tensor([ids + [model.tokenizer.mask_token_id] * missing]),
                "attention_mask": torch.tensor([[1] * len(ids) + [0] * missing]),
                "query_expansion_positions": torch.tensor([[0] * len(ids) + [1] * missing]),
            }
            if kind == "question":  # without white space around it, which sentence-transformers takes away
                theirs = model.preprocess([text], prompt=model.prompts[role], task=role)
                assert theirs["input_ids"].tolist() == features["input_ids"].tolist()
                assert theirs["attention_mask"].tolist() == features["attention_mask"].tolist()
            with torch.no_grad():
                numbers = features["input_ids"][0].tolist()
                for module in model:
                    features = module(
                        features, **({"task": role} if "task" in getattr(module, "forward_kwargs", ()) else {})
                    )
            vectors = features["token_embeddings"][0][features["attention_mask"][0].bool()].numpy()
            found.append(Outputs(kind, role, numbers, {"multi": vectors}))
    return found
