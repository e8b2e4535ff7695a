"""Forms of causal Gemma 3 models for vectors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.convert.tiny_bert import edit_json, write_json
from tests.convert.tiny_gemma_checkpoint import HIDDEN, make_gemma_checkpoint, tokenizer_json
from tests.convert.zoo.form import Form

PROMPTS = {
    "web_search_query": ("Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: "),
    "sts_query": "Instruct: Retrieve semantically similar text\nQuery: ",
    "bitext_query": "Instruct: Retrieve parallel sentences\nQuery: ",
}


def make_harrier_270m(folder: Path) -> Path:
    """Write a checkpoint in the form of harrier-oss-v1-270m: causal, the last token's state, no dense layers."""
    make_gemma_checkpoint(folder, seed=1)
    edit_json(folder / "config.json", use_bidirectional_attention=False, max_position_embeddings=1280)
    entries = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    write_json(folder / "modules.json", entries[:2])
    write_json(folder / "tokenizer.json", tokenizer_json(image=False))
    for number in (2, 3):
        shutil.rmtree(folder / f"{number}_Dense")
    pooling = {"word_embedding_dimension": HIDDEN, "pooling_mode_lasttoken": True, "include_prompt": True}
    write_json(folder / "1_Pooling" / "config.json", pooling)
    settings = {"prompts": PROMPTS, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    write_json(folder / "config_sentence_transformers.json", settings)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 1280, "do_lower_case": False})
    (folder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    return folder


FORMS = (
    Form(
        "gemma3_causal",
        ("microsoft/harrier-oss-v1-270m",),
        "Gemma3TextModel",
        make_harrier_270m,
        "last",
        context=1280,
        pre="gemma4",
    ),
)
