"""Forms of Llama, Mistral and Qwen2: causal or not, with byte pairs or SentencePiece's vocabulary."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.tiny_bert import edit_json, write_json
from tests.convert.tiny_encoders import write_sentence_transformer
from tests.convert.tiny_gemma_checkpoint import CHARACTERS, WORDS
from tests.convert.tiny_qwen3_checkpoint import ADDED, INSTRUCTION, Float32Array, tiny_vocabulary, write_weights
from tests.convert.tiny_qwen3_checkpoint import tokenizer_json as byte_pairs_json
from tests.convert.zoo.form import Form

HIDDEN, LAYERS, HEADS, KEY_VALUE_HEADS, FEED_FORWARD = 64, 2, 4, 2, 128
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPACE = "\u2581"
_INSTRUCT = f"Instruct: {INSTRUCTION}\nQuery: "


# --- weights and settings -----------------------------------------------------------------------------------------------


def _weights(config: Mapping[str, Any], prefix: str, *, seed: int, biased: bool) -> Iterator[tuple[str, Float32Array]]:
    """Yield random tensors under transformers' names."""
    hidden, feed_forward = config["hidden_size"], config["intermediate_size"]
    query = config["num_attention_heads"] * (config.get("head_dim") or hidden // config["num_attention_heads"])
    key = query // config["num_attention_heads"] * config["num_key_value_heads"]
    random = np.random.default_rng(seed)

    def tensor(name: str, *shape: int, mean: float = 0.0, deviation: float = 1.0) -> tuple[str, Float32Array]:
        return prefix + name, random.standard_normal(shape, dtype=np.float32) * np.float32(deviation) + np.float32(mean)

    yield tensor("embed_tokens.weight", config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        base = f"layers.{layer}"
        yield tensor(f"{base}.input_layernorm.weight", hidden, mean=1.0, deviation=0.1)
        yield tensor(f"{base}.post_attention_layernorm.weight", hidden, mean=1.0, deviation=0.1)
        for part, rows, columns in (("q", query, hidden), ("k", key, hidden), ("v", key, hidden), ("o", hidden, query)):
            yield tensor(f"{base}.self_attn.{part}_proj.weight", rows, columns, deviation=1.5 / math.sqrt(columns))
            if biased and part != "o":
                yield tensor(f"{base}.self_attn.{part}_proj.bias", rows, deviation=0.5)
        for part, rows, columns in (
            ("gate", feed_forward, hidden), ("up", feed_forward, hidden), ("down", hidden, feed_forward)
        ):  # fmt: skip
            yield tensor(f"{base}.mlp.{part}_proj.weight", rows, columns, deviation=1.5 / math.sqrt(columns))
    yield tensor("norm.weight", hidden, mean=1.0, deviation=0.1)


def _write(folder: Path, config: dict[str, Any], pooling: str, *, prefix: str = "", biased: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": FEED_FORWARD,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "torch_dtype": "float32",
        "use_cache": False,
        **config,
    }
    write_json(folder / "config.json", config)
    write_sentence_transformer(folder, HIDDEN, pooling)
    edit_json(folder / "1_Pooling" / "config.json", pooling_mode_lasttoken=pooling == "last", include_prompt=True)
    write_weights(folder / "model.safetensors", _weights(config, prefix, seed=5, biased=biased), "F32")
    return folder


def _prompts(folder: Path, **prompts: str) -> None:
    write_json(folder / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": None})


# --- Qwen2 --------------------------------------------------------------------------------------------------------------


def _qwen2(folder: Path, pooling: str, *, adds_end: bool, prefix: str = "", **config: Any) -> Path:
    vocabulary, merges = tiny_vocabulary()
    first = len(vocabulary)
    _write(
        folder,
        {
            "architectures": ["Qwen2ForCausalLM"],
            "bos_token_id": first,
            "eos_token_id": first,
            "max_position_embeddings": 32768,
            "max_window_layers": 21,
            "model_type": "qwen2",
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0,
            "sliding_window": 131072,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "vocab_size": first + len(ADDED) + 3,
            **config,
        },
        pooling,
        prefix=prefix,
        biased=True,
    )
    write_json(folder / "tokenizer.json", byte_pairs_json(vocabulary, merges, adds_end=adds_end))
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "bos_token": None,
            "eos_token": "<|endoftext|>",
            "model_max_length": 32768,
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )
    return folder


def make_gte(folder: Path) -> Path:
    """Write a checkpoint in the form of gte-Qwen2-1.5B-instruct: its own code, which also adds the last token."""
    code = "modeling_qwen"
    _qwen2(
        folder,
        "last",
        adds_end=False,
        prefix="model.",
        auto_map={
            "AutoModel": f"{code}.Qwen2Model",
            "AutoModelForCausalLM": f"{code}.Qwen2ForCausalLM",
            "AutoModelForSequenceClassification": f"{code}.Qwen2ForSequenceClassification",
        },
        is_causal=False,
        tie_word_embeddings=False,
    )
    tokenizer = "tokenization_qwen"
    edit_json(
        folder / "tokenizer_config.json",
        add_eos_token=True,
        auto_map={"AutoTokenizer": [f"{tokenizer}.Qwen2Tokenizer", f"{tokenizer}.Qwen2TokenizerFast"]},
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 32768, "do_lower_case": False})
    _prompts(folder, query=_INSTRUCT)
    return folder


def make_jina_code(folder: Path) -> Path:
    """Write a checkpoint in the form of jina-code-embeddings-0.5b: causal, the last token is in tokenizer.json."""
    _qwen2(folder, "last", adds_end=True, prefix="model.", rope_scaling=None)
    _prompts(
        folder,
        nl2code_query="Find the most relevant code snippet given the following query:\n",
        nl2code_document="Candidate code snippet:\n",
        qa_query="Find the most relevant answer given the following question:\n",
        qa_document="Candidate answer:\n",
    )
    return folder


def make_kalm(folder: Path) -> Path:
    """Write a checkpoint in the form of KaLM-embedding-multilingual-mini-instruct-v1.5: causal, mean pooling."""
    _qwen2(folder, "mean", adds_end=False, architectures=["Qwen2Model"])
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 512, "do_lower_case": False})
    return folder


def make_kalm_v2(folder: Path) -> Path:
    """Write a checkpoint in the form of KaLM-embedding-multilingual-mini-instruct-v2, with is_causal for its code."""
    make_kalm(folder)
    edit_json(folder / "config.json", is_causal=False)
    return folder


# --- Llama 3 ------------------------------------------------------------------------------------------------------------


def make_nemotron(folder: Path) -> Path:
    """Write a checkpoint in the form of llama-embed-nemotron-8b: no causal mask, Llama 3.1's scaled positions."""
    vocabulary, merges = tiny_vocabulary()
    first = len(vocabulary)
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|reserved_special_token_0|>"]
    code = "llama_bidirectional_model"
    _write(
        folder,
        {
            "architectures": ["LlamaBidirectionalModel"],
            "attention_bias": False,
            "auto_map": {"AutoConfig": f"{code}.LlamaBidirectionalConfig", "AutoModel": f"{code}.LlamaBidirectionalModel"},
            "bos_token_id": first,
            "eos_token_id": first + 1,
            "head_dim": 32,
            "max_position_embeddings": 131072,
            "mlp_bias": False,
            "model_type": "llama_bidirec",
            "pad_token_id": first + 2,
            "pooling": "avg",
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            # Made for texts of 32 tokens, so that the texts of the tests are long ones.
            "rope_scaling": {
                "factor": 8.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 32,
                "rope_type": "llama3",
            },
            "rope_theta": 500000.0,
            "temperature": 0.02,
            "tie_word_embeddings": False,
            "vocab_size": first + len(names),
        },
        "mean",
    )
    content = byte_pairs_json(vocabulary, merges, adds_end=False)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"] = [{"id": first + n, "content": name, **flags} for n, name in enumerate(names)]
    content["normalizer"] = None
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = LLAMA3_PATTERN
    content["model"]["ignore_merges"] = True
    begin = names[0]
    content["post_processor"] = {
        "type": "Sequence",
        "processors": [
            content["post_processor"],
            {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": begin, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [],
                "special_tokens": {begin: {"id": begin, "ids": [first], "tokens": [begin]}},
            },
        ],
    }
    write_json(folder / "tokenizer.json", content)
    write_json(
        folder / "tokenizer_config.json",
        {
            "bos_token": begin,
            "eos_token": names[1],
            "model_max_length": 131072,
            "pad_token": names[2],
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    _prompts(folder, query=_INSTRUCT, document="")
    return folder


# --- SentencePiece --------------------------------------------------------------------------------------------------------


def sentencepiece_json() -> dict[str, Any]:
    """Return the content of tokenizer.json as Mistral 7B has it: a space before each text, bytes for unknown characters."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    merges: list[tuple[str, str]] = []
    longer = list(dict.fromkeys(WORDS))
    known = {*CHARACTERS, *longer}
    # As in a file made from a SentencePiece model: every split of a piece into two others is a merge.
    for word in longer:
        merges += [(word[:at], word[at:]) for at in range(1, len(word)) if {word[:at], word[at:]} <= known]
    pieces += [*longer, *(character for character in CHARACTERS if character not in longer)]
    ids = {piece: number for number, piece in enumerate(pieces)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    begin = "<s>"
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": pieces[number], **flags} for number in range(3)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": _SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": begin, "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}},
            ],
            "pair": [],
            "special_tokens": {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in (begin, "</s>")},
        },
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": ids,
            "merges": [" ".join(pair) for pair in merges],
        },
    }


def make_e5_mistral(folder: Path) -> Path:
    """Write a checkpoint in the form of e5-mistral-7b-instruct."""
    content = sentencepiece_json()
    _write(
        folder,
        {
            "architectures": ["MistralModel"],
            "bos_token_id": 1,
            "eos_token_id": 2,
            "max_position_embeddings": 32768,
            "model_type": "mistral",
            "pad_token_id": 2,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "tie_word_embeddings": False,
            "vocab_size": len(content["model"]["vocab"]),
        },
        "last",
    )
    write_json(folder / "tokenizer.json", content)
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": True,
            "add_eos_token": True,
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "</s>",
            "legacy": True,
            "pad_token": "</s>",
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
            "unk_token": "<unk>",
            "use_default_system_prompt": True,
        },
    )
    _prompts(folder, web_search_query=_INSTRUCT, sts_query="Instruct: Retrieve semantically similar text.\nQuery: ")
    return folder


def make_sfr_mistral(folder: Path) -> Path:
    """Write a checkpoint in the form of SFR-Embedding-Mistral: the last token is in the flags alone."""
    make_e5_mistral(folder)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    del content["post_processor"]["single"][2]
    write_json(file, content)
    return folder


_PERMUTED = "llama-embed has another order of the rows than qwen2, which theirs writes"
_ROWS = {
    f"blk.{layer}.attn_{part}.{name}": _PERMUTED for layer in range(LAYERS) for part in "qk" for name in ("weight", "bias")
}

FORMS = (
    Form(
        "qwen2_gte",
        ("Alibaba-NLP/gte-Qwen2-1.5B-instruct", "Alibaba-NLP/gte-Qwen2-7B-instruct"),
        "Qwen2ForCausalLM",
        make_gte,
        "last",
        reference="qwen2_gte",
        context=1280,
        pre="qwen2",
        differs=_ROWS,
    ),
    Form(
        "qwen2_causal",
        ("jinaai/jina-code-embeddings-0.5b", "jinaai/jina-code-embeddings-1.5b"),
        "Qwen2ForCausalLM",
        make_jina_code,
        "last",
        context=1280,
        pre="qwen2",
    ),
    Form(
        "qwen2_causal_mean",
        ("HIT-TMG/KaLM-embedding-multilingual-mini-instruct-v1.5", "HIT-TMG/KaLM-embedding-multilingual-mini-instruct-v1"),
        "Qwen2Model",
        make_kalm,
        "mean",
        context=1280,
        pre="qwen2",
        differs=_ROWS,
    ),
    Form(
        "qwen2_bidirectional_mean",
        ("KaLM-embedding-multilingual-mini-instruct-v2 with is_causal = false for its code",),
        "Qwen2Model",
        make_kalm_v2,
        "mean",
        context=1280,
        pre="qwen2",
        differs=_ROWS,
    ),
    Form(
        "llama_bidirectional",
        ("nvidia/llama-embed-nemotron-8b", "nvidia/llama-nemotron-embed-1b-v2"),
        "LlamaBidirectionalModel",
        make_nemotron,
        "mean",
        reference="llama_bidirectional",
        context=1280,
        pre="llama-bpe",
    ),
    Form(
        "mistral",
        ("intfloat/e5-mistral-7b-instruct", "Linq-AI-Research/Linq-Embed-Mistral"),
        "MistralModel",
        make_e5_mistral,
        "last",
        context=1280,
    ),
    Form(
        "mistral_flags",
        ("Salesforce/SFR-Embedding-Mistral", "Salesforce/SFR-Embedding-2_R"),
        "MistralModel",
        make_sfr_mistral,
        "last",
        reference="mistral_flags",
        context=1280,
    ),
)
