"""Tiny checkpoints of XLM-RoBERTa and of cross-encoders, with seeded random weights."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.encoder_texts import PAIRS, TEXTS
from tests.convert.pickled_files import write_pickled
from tests.convert.tiny_bert import SPECIAL, Float32Array, tiny_weights, tokenizer_json, write_json, write_safetensors

TOKENS = 640
"""Context of the models in tokens."""

_UNIGRAM = Path(__file__).with_name("tiny_unigram.json")
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
}


def write_sentence_transformer(folder: Path, hidden: int, pooling: str) -> None:
    """Write modules.json and the Pooling folder; `pooling` is mean or cls."""
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    modes = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": hidden, **modes})


# --- XLM-RoBERTa --------------------------------------------------------------------------------------------------------


def unigram_tokenizer_json() -> dict[str, Any]:
    """Return the content of tokenizer.json, as transformers saves XLM-RoBERTa's."""
    stored = json.loads(_UNIGRAM.read_text(encoding="utf-8"))
    ids = {piece: number for number, (piece, _) in enumerate(stored["vocab"])}

    def special(piece: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": piece, "type_id": 0}}

    first, second = ({"Sequence": {"id": which, "type_id": 0}} for which in "AB")
    start, end = special("<s>"), special("</s>")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": ids[piece],
                "content": piece,
                "single_word": False,
                "lstrip": piece == "<mask>",
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for piece in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
        ],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": stored["precompiled_charsmap"]},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, first, end],
            "pair": [start, first, end, end, second, end],
            "special_tokens": {piece: {"id": piece, "ids": [ids[piece]], "tokens": [piece]} for piece in ("<s>", "</s>")},
        },
        "decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        "model": {"type": "Unigram", "unk_id": ids["<unk>"], "vocab": stored["vocab"], "byte_fallback": False},
    }


def make_tiny_xlm_roberta(folder: Path, *, pooling: str = "cls", seed: int = 0) -> Path:
    """Write an XLM-RoBERTa embedder and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = _xlm_roberta_config("XLMRobertaModel")
    write_json(folder / "config.json", config)
    _write_unigram(folder)
    write_sentence_transformer(folder, config["hidden_size"], pooling)
    write_safetensors(folder / "model.safetensors", tiny_weights(config, seed))
    return folder


def _xlm_roberta_config(architecture: str) -> dict[str, Any]:
    vocabulary = len(json.loads(_UNIGRAM.read_text(encoding="utf-8"))["vocab"])
    return {
        "architectures": [architecture],
        "model_type": "xlm-roberta",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": TOKENS + 2,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "position_embedding_type": "absolute",
        "type_vocab_size": 1,
        "vocab_size": vocabulary + 3,  # more rows than pieces, as in multilingual-e5-small
        **SIZES,
    }


def _write_unigram(folder: Path) -> None:
    write_json(folder / "tokenizer.json", unigram_tokenizer_json())
    names = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    config = {"tokenizer_class": "XLMRobertaTokenizer", **{f"{role}_token": piece for role, piece in names.items()}}
    write_json(folder / "tokenizer_config.json", config)


def calm(weights: dict[str, Float32Array], layers: str = "encoder.") -> dict[str, Float32Array]:
    """Scale the layers' matrices to unit variance. layers: a part of their names.

    A score is one number, on which every rounding shows: flash attention rounds keys and values to F16, which
    attention as sharp as that of `tiny_weights` magnifies to 0.005.
    """
    return {
        name: (tensor / 1.5).astype(np.float32) if tensor.ndim == 2 and layers in name else tensor
        for name, tensor in weights.items()
    }


def random_dense(seed: int, outputs: int, inputs: int, name: str) -> dict[str, Float32Array]:
    """Return weight and bias of a random linear layer."""
    random = np.random.default_rng(seed)
    return {
        f"{name}.weight": (random.standard_normal((outputs, inputs)) * 1.5 / np.sqrt(inputs)).astype(np.float32),
        f"{name}.bias": (random.standard_normal(outputs) * 0.1).astype(np.float32),
    }


def write_heads(folder: Path, hidden: int, numbers: int = 8) -> Path:
    """Write heads in the form of bge-m3 beside an encoder: weights of tokens, and vectors of `numbers` of tokens."""
    for seed, name, outputs in ((6, "sparse_linear", 1), (7, "colbert_linear", numbers)):
        head = random_dense(seed, outputs, hidden, name)
        write_pickled(folder / f"{name}.pt", {key.removeprefix(f"{name}."): values for key, values in head.items()})
    return folder


def make_tiny_m3(folder: Path, *, seed: int = 0) -> Path:
    """Write a checkpoint with dense vectors, sparse ones and vectors of tokens, in the form of bge-m3; return its folder."""
    make_tiny_xlm_roberta(folder, seed=seed)
    return write_heads(folder, SIZES["hidden_size"])


def make_tiny_xlm_roberta_reranker(folder: Path, *, seed: int = 0) -> Path:
    """Write an XLM-RoBERTa cross-encoder and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**_xlm_roberta_config("XLMRobertaForSequenceClassification"), "id2label": {"0": "LABEL_0"}}
    write_json(folder / "config.json", config)
    _write_unigram(folder)
    hidden = config["hidden_size"]
    weights = {
        f"roberta.{name}": tensor for name, tensor in calm(tiny_weights(config, seed)).items() if "pooler" not in name
    }
    weights |= random_dense(seed + 1, hidden, hidden, "classifier.dense")
    weights |= random_dense(seed + 2, 1, hidden, "classifier.out_proj")
    write_safetensors(folder / "model.safetensors", weights)
    return folder


# --- BERT cross-encoders ------------------------------------------------------------------------------------------------

_WORDPIECE_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def wordpiece_pieces() -> list[str]:
    """Return a vocabulary of the letters in the texts, at the beginning and inside of words, and of the shorter words."""
    texts = [*TEXTS.values(), *(text for pair in PAIRS.values() for text in pair)]
    decomposed = unicodedata.normalize("NFD", " ".join(texts))
    text = "".join(letter.lower() for letter in decomposed if unicodedata.category(letter) != "Mn")
    letters = sorted({letter for letter in text if not letter.isspace()} - {"ş", "ω", "ह"})  # some are unknown
    words = sorted(set(re.findall(r"[a-z]{2,6}", text)))
    return [*_WORDPIECE_SPECIAL, *letters, *(f"##{letter}" for letter in letters), *words]


def wordpiece_tokenizer_json() -> dict[str, Any]:
    """Return the content of tokenizer.json, as transformers saves BERT's."""
    content = tokenizer_json(cased=False)
    ids = {piece: number for number, piece in enumerate(wordpiece_pieces())}
    content["model"]["vocab"] = ids

    def part(piece: str, kind: int) -> dict[str, Any]:
        return (
            {"Sequence": {"id": piece, "type_id": kind}}
            if piece in "AB"
            else {"SpecialToken": {"id": piece, "type_id": kind}}
        )

    content["post_processor"]["pair"] = [
        *(part(piece, 0) for piece in ("[CLS]", "A", "[SEP]")),
        *(part(piece, 1) for piece in ("B", "[SEP]")),
    ]
    return {
        "truncation": None,
        "padding": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        **content,
    }


def make_tiny_cross_encoder(folder: Path, *, seed: int = 0) -> Path:
    """Write a BERT cross-encoder and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": TOKENS,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.0.1"},
        "type_vocab_size": 2,
        "vocab_size": len(wordpiece_pieces()),
        **SIZES,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", wordpiece_tokenizer_json())
    write_json(folder / "tokenizer_config.json", {"do_lower_case": True, "tokenizer_class": "BertTokenizer", **SPECIAL})
    weights = {f"bert.{name}": tensor for name, tensor in calm(tiny_weights(config, seed)).items()}
    write_safetensors(folder / "model.safetensors", weights | random_dense(seed + 1, 1, SIZES["hidden_size"], "classifier"))
    return folder
