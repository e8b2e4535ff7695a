"""Reference scores of text generators that answer a prompt, with transformers' causal models.

After the descriptions of mixedbread-ai/mxbai-rerank (mxbai_rerank_v2.py) and FlagOpen/FlagEmbedding (FlagLLMReranker): the
parts of a prompt are tokenised by themselves; the score is a logit, or a difference of two, behind the last token.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.encoder_texts import PAIRS
from tests.reference.make_zoo_rows import Rows, tokenizer_of

_QWEN_BEGIN = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
)
_QWEN_TASK = (
    "You are a search relevance expert who evaluates how well documents match search queries. For each query-document pair, "
    "carefully analyze the semantic relationship between them, then provide your binary relevance judgment (0 for not "
    "relevant, 1 for relevant).\nRelevance:"
)
_QWEN_END = "<|im_end|>\n<|im_start|>assistant\n"
_GEMMA_TASK = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
    "prediction of either 'Yes' or 'No'."
)


def rows(folder: Path) -> Rows:
    """Return the ids and the scores of PAIRS."""
    import torch
    import transformers

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    special = {entry["content"]: entry["id"] for entry in content["added_tokens"]}
    tokenizer = tokenizer_of(folder)

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    def scaffold(text: str) -> list[int]:
        ids: list[int] = []
        for part in re.split(r"(<\|[a-z_]+\|>|<bos>)", text):
            ids += [special[part]] if part in special else encode(part)
        return ids

    classifies = config["architectures"][0].endswith("ForSequenceClassification")
    kind: Any = transformers.AutoModelForSequenceClassification if classifies else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(folder, dtype=torch.float32).eval()
    all_ids, found = [], []
    for query, document in PAIRS.values():
        line = encode("\n")
        if config["model_type"] == "qwen2":
            pair = [*encode(f"query: {query}"), *line, *encode(f"document: {document}")]
            ids = [*scaffold(_QWEN_BEGIN), *pair, *line, *encode(_QWEN_TASK), *scaffold(_QWEN_END)]
            yes, no = encode("1")[0], encode("0")[0]
        else:
            pair = [*encode(f"A: {query}"), *line, *encode(f"B: {document}")]
            ids = [special["<bos>"], *pair, *line, *encode(_GEMMA_TASK)]
            yes, no = encode("Yes")[0], None
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0].double()
        if classifies:
            found.append(float(logits[0]))
        else:
            found.append(float(logits[-1, yes]) - (0.0 if no is None else float(logits[-1, no])))
        all_ids.append(ids)
    return all_ids, np.array(found)
