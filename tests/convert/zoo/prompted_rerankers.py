"""Forms of text generators that score pairs by the answer to a prompt."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert import tiny_gemma_checkpoint as gemma
from tests.convert import tiny_qwen3_checkpoint as qwen3
from tests.convert.tiny_bert import Float32Array, write_json
from tests.convert.zoo.form import Form

_HIDDEN, _LAYERS, _HEADS, _KEY_VALUE_HEADS, _FEED_FORWARD, _CONTEXT = 64, 2, 4, 2, 128, 1024
_SIZES = {
    "hidden_size": _HIDDEN,
    "intermediate_size": _FEED_FORWARD,
    "max_position_embeddings": _CONTEXT,
    "num_attention_heads": _HEADS,
    "num_hidden_layers": _LAYERS,
    "num_key_value_heads": _KEY_VALUE_HEADS,
}


def _weights(vocabulary: int, head: int, *, gemma: bool, head_rows: int = 0) -> Iterator[tuple[str, Float32Array]]:
    """Yield random weights under the names of transformers. head_rows: of an LM head of its own, or a classifier."""
    random = np.random.default_rng(7)

    def values(*shape: int, scale: float, mean: float = 0.0) -> Float32Array:
        return (random.standard_normal(shape) * scale + mean).astype(np.float32)

    mean = 0.0 if gemma else 1.0  # Gemma's norms are stored without the 1 that it adds
    yield "model.embed_tokens.weight", values(vocabulary, _HIDDEN, scale=1 / math.sqrt(_HIDDEN))
    sizes = {"q_proj": _HEADS * head, "k_proj": _KEY_VALUE_HEADS * head, "v_proj": _KEY_VALUE_HEADS * head}
    for layer in range(_LAYERS):
        base = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{base}.{norm}.weight", values(_HIDDEN, scale=0.1, mean=mean)
        for part, outputs in sizes.items():
            yield f"{base}.self_attn.{part}.weight", values(outputs, _HIDDEN, scale=1 / math.sqrt(_HIDDEN))
            if not gemma:
                yield f"{base}.self_attn.{part}.bias", values(outputs, scale=0.2)
        yield f"{base}.self_attn.o_proj.weight", values(_HIDDEN, _HEADS * head, scale=1 / math.sqrt(_HEADS * head))
        for part in ("gate_proj", "up_proj"):
            yield f"{base}.mlp.{part}.weight", values(_FEED_FORWARD, _HIDDEN, scale=1 / math.sqrt(_HIDDEN))
        yield f"{base}.mlp.down_proj.weight", values(_HIDDEN, _FEED_FORWARD, scale=1 / math.sqrt(_FEED_FORWARD))
    yield "model.norm.weight", values(_HIDDEN, scale=0.1, mean=mean)
    if head_rows:
        name = "score" if head_rows == 1 else "lm_head"
        yield f"{name}.weight", values(head_rows, _HIDDEN, scale=1 / math.sqrt(_HIDDEN))


def make_qwen2(folder: Path, *, tied: bool = True, classifier: bool = False) -> Path:
    """Write a checkpoint in the form of mxbai-rerank-base-v2; classifier: as a model for classification of one label."""
    pieces, merges = qwen3.tiny_vocabulary()
    # The makers tokenise the parts of their prompt by themselves: a question mark before a line break is no such piece.
    merges = [*merges, ("?", "\u010a")]
    pieces = [*pieces, "?\u010a"]
    qwen3.make_qwen3_checkpoint(folder, kind="rerank", vocabulary=pieces, merges=merges)
    vocabulary = len(pieces) + len(qwen3.ADDED) + 3
    config: dict[str, Any] = {
        "architectures": ["Qwen2ForSequenceClassification" if classifier else "Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": len(pieces),
        "eos_token_id": len(pieces) + 2,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_window_layers": _LAYERS,
        "model_type": "qwen2",
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": tied,
        "torch_dtype": "float16",
        "use_cache": False,
        "use_sliding_window": False,
        "vocab_size": vocabulary,
        **_SIZES,
    }
    if classifier:
        config |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "pad_token_id": len(pieces)}
    write_json(folder / "config.json", config)
    card = "---\nlicense: apache-2.0\npipeline_tag: text-ranking\n---\n# mxbai-rerank-base-v2\npip install mxbai-rerank\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
    rows = 1 if classifier else 0 if tied else vocabulary
    weights = _weights(vocabulary, _HIDDEN // _HEADS, gemma=False, head_rows=rows)
    qwen3.write_weights(folder / "model.safetensors", weights, "F32")
    return folder


def make_gemma(folder: Path) -> Path:
    """Write a checkpoint in the form of bge-reranker-v2-gemma."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [*gemma.tiny_vocabulary(), "Y", "Yes"]
    tokenizer = gemma.tokenizer_json()
    del tokenizer["added_tokens"][-1]
    tokenizer["model"]["vocab"] = {piece: number for number, piece in enumerate(pieces)}
    tokenizer["model"]["merges"] = [*gemma.tiny_merges(), ["Y", "es"]]
    processor = tokenizer["post_processor"]
    processor["single"] = processor["single"][:2]
    del processor["special_tokens"]["<eos>"]
    write_json(folder / "tokenizer.json", tokenizer)
    roles = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk")}
    own = {"add_bos_token": True, "add_eos_token": False, "tokenizer_class": "GemmaTokenizer", **roles}
    write_json(folder / "tokenizer_config.json", own)
    config: dict[str, Any] = {
        "architectures": ["GemmaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "head_dim": 32,
        "hidden_act": "gelu",
        "initializer_range": 0.02,
        "model_type": "gemma",
        "pad_token_id": 0,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": len(pieces),
        **_SIZES,
    }
    write_json(folder / "config.json", config)
    card = "---\nlicense: apache-2.0\n---\n```python\nfrom FlagEmbedding import FlagLLMReranker\n```\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
    qwen3.write_weights(folder / "model.safetensors", _weights(len(pieces), 32, gemma=True), "F32")
    return folder


_NO_HEAD = {"output.weight": "no LM head: scores need two of its rows, which are in the metadata"}

FORMS = (
    Form(
        "qwen2_reranker",
        ("mixedbread-ai/mxbai-rerank-base-v2",),
        "Qwen2ForCausalLM",
        make_qwen2,
        "rank",
        reference="prompted_rerankers",
        context=_CONTEXT,
        pre="qwen2",
    ),
    Form(
        "qwen2_reranker_untied",
        ("mixedbread-ai/mxbai-rerank-large-v2",),
        "Qwen2ForCausalLM",
        partial(make_qwen2, tied=False),
        "rank",
        reference="prompted_rerankers",
        context=_CONTEXT,
        pre="qwen2",
        differs=_NO_HEAD,
    ),
    Form(
        "qwen2_classifier",
        ("michaelfeil/mxbai-rerank-base-v2-seq",),
        "Qwen2ForSequenceClassification",
        partial(make_qwen2, classifier=True),
        "rank",
        reference="prompted_rerankers",
        context=_CONTEXT,
        pre="qwen2",
    ),
    Form(
        "gemma_reranker",
        ("BAAI/bge-reranker-v2-gemma",),
        "GemmaForCausalLM",
        make_gemma,
        "rank",
        reference="prompted_rerankers",
        context=_CONTEXT,
    ),
)
