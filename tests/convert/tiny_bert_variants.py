"""Tiny checkpoints of BERT's variants DistilBERT and RoBERTa, with seeded random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.convert.tiny_bert import SPECIAL, Float32Array, tiny_weights, write_json, write_safetensors
from tests.convert.tiny_encoders import (
    SIZES,
    TOKENS,
    unigram_tokenizer_json,
    wordpiece_pieces,
    wordpiece_tokenizer_json,
    write_sentence_transformer,
)
from tests.convert.tiny_rotary_encoders import bpe_tokenizer_json

# --- DistilBERT ---------------------------------------------------------------------------------------------------------

_DISTIL_PARTS = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


def make_tiny_distil_bert(folder: Path, *, pooling: str = "mean", seed: int = 0) -> Path:
    """Write a DistilBERT embedder with the keys and tensor names of multi-qa-distilbert-cos-v1; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "activation": "gelu",
        "architectures": ["DistilBertModel"],
        "attention_dropout": 0.1,
        "dim": SIZES["hidden_size"],
        "dropout": 0.1,
        "hidden_dim": SIZES["intermediate_size"],
        "initializer_range": 0.02,
        "max_position_embeddings": TOKENS,
        "model_type": "distilbert",
        "n_heads": SIZES["num_attention_heads"],
        "n_layers": SIZES["num_hidden_layers"],
        "pad_token_id": 0,
        "qa_dropout": 0.1,
        "seq_classif_dropout": 0.2,
        "sinusoidal_pos_embds": False,
        "tie_weights_": True,
        "vocab_size": len(wordpiece_pieces()),
    }
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", wordpiece_tokenizer_json())
    own = {
        "do_lower_case": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "tokenizer_class": "DistilBertTokenizer",
        **SPECIAL,
    }
    write_json(folder / "tokenizer_config.json", own)
    write_sentence_transformer(folder, SIZES["hidden_size"], pooling)
    write_safetensors(folder / "model.safetensors", distil_bert_weights(seed))
    return folder


def distil_bert_weights(seed: int = 0) -> dict[str, Float32Array]:
    """Return random weights under DistilBertModel's names."""
    sizes = {**SIZES, "max_position_embeddings": TOKENS, "type_vocab_size": 1, "vocab_size": len(wordpiece_pieces())}
    found = {}
    for name, tensor in tiny_weights(sizes, seed).items():
        if name.startswith("encoder.layer."):
            number, _, part = name.removeprefix("encoder.layer.").partition(".")
            part, _, end = part.rpartition(".")
            found[f"transformer.layer.{number}.{_DISTIL_PARTS[part]}.{end}"] = tensor
        elif not name.startswith(("pooler.", "embeddings.token_type_embeddings.")):
            found[name] = tensor
    return found


# --- RoBERTa ------------------------------------------------------------------------------------------------------------

_ROBERTA_NAMES = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
_CAMEMBERT_SPECIAL = ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>")


def roberta_tokenizer_json() -> dict[str, Any]:
    """Return the content of tokenizer.json, as transformers saves RoBERTa's: special pieces in front, <mask> at the end.

    As in the real vocabulary, some pieces with names like special tokens are ordinary ones.
    """
    content = bpe_tokenizer_json()
    words = list(content["model"]["vocab"])
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *words, "<|endoftext|>", "madeupword0000", "<mask>"]
    ids = {piece: number for number, piece in enumerate(pieces)}
    added = [_added(ids[piece], piece) for piece in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")]
    model = {**content["model"], "continuing_subword_prefix": "", "end_of_word_suffix": "", "vocab": ids}
    model["merges"] = [" ".join(merge) for merge in model["merges"]]
    return {
        **content,
        "added_tokens": added,
        "normalizer": None,
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": ["</s>", ids["</s>"]],
            "cls": ["<s>", ids["<s>"]],
            "trim_offsets": True,
            "add_prefix_space": False,
        },
        "model": model,
    }


def camembert_tokenizer_json() -> dict[str, Any]:
    """Return the content of tokenizer.json, as transformers saves CamemBERT's, with fairseq's special pieces in front."""
    content = unigram_tokenizer_json()
    xlm = len(("<s>", "<pad>", "</s>", "<unk>"))
    front = [[piece, -100.0 if piece == "<unk>NOTUSED" else 0.0] for piece in _CAMEMBERT_SPECIAL]
    vocab = [*front, *content["model"]["vocab"][xlm:]]
    ids = {piece: number for number, (piece, _) in enumerate(vocab)}
    content["model"].update(vocab=vocab, unk_id=ids["<unk>"])
    content["added_tokens"] = [_added(ids[piece], piece) for piece in (*_CAMEMBERT_SPECIAL, "<mask>")]
    special = {piece: {"id": piece, "ids": [ids[piece]], "tokens": [piece]} for piece in ("<s>", "</s>")}
    content["post_processor"]["special_tokens"] = special
    return content


def _added(number: int, piece: str) -> dict[str, Any]:
    return {
        "id": number,
        "content": piece,
        "single_word": False,
        "lstrip": piece == "<mask>",
        "rstrip": False,
        "normalized": piece != "<mask>",
        "special": True,
    }


def make_tiny_roberta(folder: Path, *, pooling: str = "mean", seed: int = 0) -> Path:
    """Write a RoBERTa embedder with the keys and tensor names of all-distilroberta-v1; return its folder."""
    return _make_roberta(folder, roberta_tokenizer_json(), ("Roberta", "roberta"), pooling, seed)


def make_tiny_camembert(folder: Path, *, pooling: str = "mean", seed: int = 0) -> Path:
    """Write a CamemBERT embedder with the keys and tensor names of sentence-camembert-base; return its folder."""
    return _make_roberta(folder, camembert_tokenizer_json(), ("Camembert", "camembert"), pooling, seed)


def _make_roberta(folder: Path, tokenizer: dict[str, Any], names: tuple[str, str], pooling: str, seed: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    bos, eos = (tokenizer["post_processor"].get(key) for key in ("cls", "sep"))
    config = {
        "architectures": [f"{names[0]}Model"],
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": bos[1] if bos else 5,
        "eos_token_id": eos[1] if eos else 6,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 2 * TOKENS + 2,
        "model_type": names[1],
        "pad_token_id": 1,
        "position_embedding_type": "absolute",
        "type_vocab_size": 1,
        "vocab_size": len(tokenizer["model"]["vocab"]),
        **SIZES,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", tokenizer)
    own = {f"{role}_token": piece for role, piece in _ROBERTA_NAMES.items()}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": f"{names[0]}Tokenizer", **own})
    write_sentence_transformer(folder, SIZES["hidden_size"], pooling)
    write_safetensors(folder / "model.safetensors", tiny_weights(config, seed))
    return folder
