"""Forms of sparse models: SPLADE on several encoders, with queries that need no forward pass, and weights of tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.tiny_bert import Float32Array, edit_json, tiny_weights, write_json, write_safetensors
from tests.convert.tiny_bert_variants import distil_bert_weights, make_tiny_distil_bert, make_tiny_roberta
from tests.convert.tiny_encoders import calm, make_tiny_cross_encoder, make_tiny_xlm_roberta, random_dense, write_heads
from tests.convert.tiny_gte import gte_weights, make_tiny_gte
from tests.convert.tiny_mpnet import make_tiny_mpnet, mpnet_weights
from tests.convert.tiny_rotary_encoders import make_tiny_modern_bert, modern_bert_weights
from tests.convert.zoo.form import Form

HIDDEN = 64
_SIZE, _FEW = 0.1, -1.1
"""Scale of the logits and what is added to them: as with a trained model, they are of the size of 1, and few are above 0."""
_QUERY, _DOCUMENT, _POOLING = "query_0_SparseStaticEmbedding", "document_0_MLMTransformer", "document_1_SpladePooling"

Weights = dict[str, Float32Array]


def head_weights(dense: str, norm: str, bias: str, vocabulary: int, *, biased: bool = True, width: int = HIDDEN) -> Weights:
    """Return random weights of a masked-LM head under these names. biased: whether dense layer and norm have a bias."""
    seed = 5
    random = np.random.default_rng(seed)
    found = random_dense(seed, width, width, dense)
    found[f"{norm}.weight"] = (_SIZE * (1 + random.standard_normal(width) * 0.1)).astype(np.float32)
    found[f"{norm}.bias"] = (_SIZE * random.standard_normal(width) * 0.1).astype(np.float32)
    found[bias] = (_FEW + _SIZE * random.standard_normal(vocabulary)).astype(np.float32)
    return found if biased else {name: tensor for name, tensor in found.items() if name == bias or name.endswith("weight")}


def write_splade_modules(folder: Path, *, activation: str = "relu", strategy: str = "max", newer: bool = False) -> Path:
    """Replace the modules of a checkpoint by those of a SparseEncoder. newer: as sentence-transformers 5.4 and later."""
    (folder / "1_Pooling" / "config.json").unlink(missing_ok=True)
    kinds = (
        ("base.modules.transformer.Transformer", "sparse_encoder.modules.splade_pooling.SpladePooling")
        if newer
        else ("sparse_encoder.models.MLMTransformer", "sparse_encoder.models.SpladePooling")
    )
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.{kind}"}
        for number, (path, kind) in enumerate(zip(("", "1_SpladePooling"), kinds, strict=True))
    ]
    write_json(folder / "modules.json", modules)
    settings: dict[str, Any] = {"max_seq_length": 512, "do_lower_case": False}
    if newer:
        settings = {
            "transformer_task": "fill-mask",
            "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
            "module_output_name": "token_embeddings",
        }
    write_json(folder / "sentence_bert_config.json", settings)
    size = "embedding_dimension" if newer else "word_embedding_dimension"
    pooling = {"pooling_strategy": strategy, "activation_function": activation, size: None}
    write_json(folder / "1_SpladePooling" / "config.json", pooling)
    similarity = {"model_type": "SparseEncoder", "prompts": {"query": "", "document": ""}, "similarity_fn_name": "dot"}
    write_json(folder / "config_sentence_transformers.json", similarity)
    return folder


def config_of(folder: Path) -> dict[str, Any]:
    """Return the content of config.json."""
    content: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return content


def make_bert_masked(folder: Path) -> Path:
    """Write a checkpoint of BertForMaskedLM without modules."""
    make_tiny_cross_encoder(folder)
    labels = ("id2label", "label2id", "sentence_transformers")
    edit_json(folder / "config.json", architectures=["BertForMaskedLM"], **dict.fromkeys(labels))
    config = config_of(folder)
    weights = {f"bert.{name}": tensor for name, tensor in calm(tiny_weights(config)).items() if "pooler" not in name}
    names = ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias")
    write_safetensors(folder / "model.safetensors", weights | head_weights(*names, config["vocab_size"]))
    return folder


def make_bert(folder: Path, **modules: Any) -> Path:
    """Write a checkpoint in the form of naver/splade-v3."""
    return write_splade_modules(make_bert_masked(folder), **modules)


def make_distil_bert(folder: Path, **modules: Any) -> Path:
    """Write a checkpoint in the form of naver/splade-v3-distilbert."""
    make_tiny_distil_bert(folder)
    edit_json(folder / "config.json", architectures=["DistilBertForMaskedLM"])
    weights = {f"distilbert.{name}": tensor for name, tensor in calm(distil_bert_weights(), "transformer.").items()}
    head = head_weights("vocab_transform", "vocab_layer_norm", "vocab_projector.bias", config_of(folder)["vocab_size"])
    write_safetensors(folder / "model.safetensors", weights | head)
    return write_splade_modules(folder, **modules)


def make_roberta(folder: Path) -> Path:
    """Write a checkpoint in the form of granite-embedding-30m-sparse."""
    make_tiny_roberta(folder)
    edit_json(folder / "config.json", architectures=["RobertaForMaskedLM"])
    config = config_of(folder)
    weights = {f"roberta.{name}": tensor for name, tensor in calm(tiny_weights(config)).items() if "pooler" not in name}
    head = head_weights("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", config["vocab_size"])
    write_safetensors(folder / "model.safetensors", weights | head)
    return write_splade_modules(folder)


def make_xlm_roberta(folder: Path) -> Path:
    """Write a checkpoint in the form of SPLADE models on XLM-RoBERTa."""
    make_tiny_xlm_roberta(folder)
    edit_json(folder / "config.json", architectures=["XLMRobertaForMaskedLM"])
    config = config_of(folder)
    weights = {f"roberta.{name}": tensor for name, tensor in calm(tiny_weights(config)).items() if "pooler" not in name}
    head = head_weights("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", config["vocab_size"])
    write_safetensors(folder / "model.safetensors", weights | head)
    return write_splade_modules(folder, newer=True)


def make_mpnet(folder: Path) -> Path:
    """Write a checkpoint in the form of SPLADE models on MPNet."""
    make_tiny_mpnet(folder)
    edit_json(folder / "config.json", architectures=["MPNetForMaskedLM"])
    config = config_of(folder)
    weights = {f"mpnet.{name}": tensor for name, tensor in calm(mpnet_weights(config)).items() if "pooler" not in name}
    head = head_weights("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", config["vocab_size"])
    write_safetensors(folder / "model.safetensors", weights | head)
    return write_splade_modules(folder, newer=True)


def make_gte(folder: Path) -> Path:
    """Write a checkpoint in the form of opensearch-neural-sparse-encoding-doc-v3-gte, as its document model alone."""
    make_tiny_gte(folder)
    edit_json(folder / "config.json", architectures=["NewForMaskedLM"])
    config = config_of(folder)
    weights = {f"new.{name}": tensor for name, tensor in calm(gte_weights(config)).items()}
    head = head_weights("lm_head.dense", "lm_head.norm", "lm_head.decoder.bias", config["vocab_size"])
    write_safetensors(folder / "model.safetensors", weights | head)
    return write_splade_modules(folder, activation="log1p_relu")


def make_modern_bert(folder: Path) -> Path:
    """Write a checkpoint in the form of SPLADE models on ModernBERT."""
    make_tiny_modern_bert(folder, architectures=["ModernBertForMaskedLM"], classifier_activation="gelu", decoder_bias=True)
    config = config_of(folder)
    weights = {f"model.{name}": tensor for name, tensor in calm(modern_bert_weights(config), "layers.").items()}
    head = head_weights("head.dense", "head.norm", "decoder.bias", config["vocab_size"], biased=False)
    write_safetensors(folder / "model.safetensors", weights | head)
    return write_splade_modules(folder, newer=True)


def make_inference_free(folder: Path, *, table: bool = False, activation: str = "log1p_relu") -> Path:
    """Write a checkpoint in the form of opensearch-neural-sparse-encoding-doc-v3-distill.

    table: the weights of queries are in a file of JSON, as in its earlier forms.
    """
    encoder = make_distil_bert(folder / _DOCUMENT, activation=activation)
    for left in ("modules.json", "config_sentence_transformers.json"):
        (encoder / left).replace(folder / left)
    (encoder / "1_SpladePooling").rename(folder / _POOLING)
    package = "sentence_transformers.sparse_encoder.models"
    types = {name: f"{package}.{name.rpartition('_')[2]}" for name in (_QUERY, _DOCUMENT, _POOLING)}
    parameters = {"default_route": "document", "allow_empty_key": True}
    routes = {"query": [_QUERY], "document": [_DOCUMENT, _POOLING]}
    write_json(folder / "router_config.json", {"types": types, "structure": routes, "parameters": parameters})
    write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Router"}])
    pieces = json.loads((encoder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    weights = np.random.default_rng(8).uniform(0, 6, len(pieces)).astype(np.float32)
    weights[::9] = 0
    query = folder / _QUERY
    if table:
        write_json(
            query / "idf.json", {piece: float(weights[number]) for piece, number in pieces.items() if weights[number]}
        )
    else:
        query.mkdir()
        write_safetensors(query / "model.safetensors", {"weight": weights})
    write_json(query / "config.json", {"frozen": True, **({"path": "idf.json"} if table else {})})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (query / name).write_bytes((encoder / name).read_bytes())
    return folder


def make_bge_m3(folder: Path) -> Path:
    """Write a checkpoint in the form of BAAI/bge-m3; its vectors of tokens are shorter, to keep the reference small."""
    make_tiny_xlm_roberta(folder, pooling="cls")
    write_safetensors(folder / "model.safetensors", calm(tiny_weights(config_of(folder))))
    return write_heads(folder, HIDDEN)


def make_gte_multilingual(folder: Path) -> Path:
    """Write a checkpoint in the form of gte-multilingual-base."""
    make_tiny_gte(folder, multilingual=True, types=1)
    weights = {f"new.{name}": tensor for name, tensor in calm(gte_weights(config_of(folder))).items()}
    write_safetensors(folder / "model.safetensors", weights | random_dense(6, 1, HIDDEN, "classifier"))
    return folder


def make_untied(folder: Path) -> Path:
    """Write a checkpoint whose head has a matrix of its own."""
    make_bert(folder)
    edit_json(folder / "config.json", tie_word_embeddings=False)
    config = config_of(folder)
    weights = {f"bert.{name}": tensor for name, tensor in calm(tiny_weights(config)).items() if "pooler" not in name}
    names = ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias")
    own = random_dense(7, config["vocab_size"], HIDDEN, "cls.predictions.decoder")
    write_safetensors(folder / "model.safetensors", weights | head_weights(*names, config["vocab_size"]) | own)
    return folder


def _form(name: str, models: tuple[str, ...], kind: str, make: Callable[[Path], Path], **rest: Any) -> Form:
    return Form(
        name,
        models,
        kind,
        make,
        **{
            "pooling": "none",
            "reference": "sparse",
            "outputs": ("sparse",),
            "most": 1e-3,
            "most_at_q8_0": 1.0,
            **rest,
        },
    )


FORMS = (
    _form(
        "splade_bert",
        (
            "naver/splade-v3",
            "naver/splade-cocondenser-ensembledistil",
            "prithivida/Splade_PP_en_v1",
            "prithivida/Splade_PP_en_v2",
            "rasyosef/splade-mini",
        ),
        "BertForMaskedLM",
        make_bert,
    ),
    _form("splade_plain", ("naver/splade_v2_max",), "BertForMaskedLM", make_bert_masked, options={"pooling": "splade"}),
    _form(
        "splade_sum",
        ("models trained as the first SPLADE",),
        "BertForMaskedLM",
        partial(make_bert, strategy="sum", newer=True),
        most=2e-2,  # a sum over the tokens of a text is some fifty times as large as the maximum
        most_at_q8_0=4.0,
    ),
    _form(
        "splade_distil_bert",
        ("naver/splade-v3-distilbert", "opensearch-project/opensearch-neural-sparse-encoding-v2-distill"),
        "DistilBertForMaskedLM",
        make_distil_bert,
    ),
    _form(
        "splade_inference_free",
        ("opensearch-project/opensearch-neural-sparse-encoding-doc-v3-distill",),
        "DistilBertForMaskedLM",
        make_inference_free,
    ),
    _form(
        "splade_idf",
        (
            "opensearch-project/opensearch-neural-sparse-encoding-doc-v2-distill",
            "opensearch-project/opensearch-neural-sparse-encoding-doc-v2-mini",
        ),
        "DistilBertForMaskedLM",
        partial(make_inference_free, table=True, activation="relu"),
    ),
    _form("splade_roberta", ("ibm-granite/granite-embedding-30m-sparse",), "RobertaForMaskedLM", make_roberta, context=1280),
    _form(
        "splade_xlm_roberta",
        ("SPLADE models on FacebookAI/xlm-roberta-base",),
        "XLMRobertaForMaskedLM",
        make_xlm_roberta,
    ),
    _form("splade_mpnet", ("SPLADE models on microsoft/mpnet-base",), "MPNetForMaskedLM", make_mpnet),
    _form(
        "splade_modern_bert",
        ("SPLADE models on answerdotai/ModernBERT-base",),
        "ModernBertForMaskedLM",
        make_modern_bert,
        context=1280,
    ),
    _form(
        "splade_untied",
        ("models with tie_word_embeddings = false",),
        "BertForMaskedLM",
        make_untied,
        refused="a matrix of its own",
    ),
    _form(
        "bge_m3",
        ("BAAI/bge-m3",),
        "XLMRobertaModel",
        make_bge_m3,
        pooling="cls",
        reference="bge_m3",
        outputs=("dense", "multi", "sparse"),
    ),
    _form(
        "gte_multilingual_sparse",
        ("Alibaba-NLP/gte-multilingual-base",),
        "NewModel, NewForTokenClassification",
        make_gte_multilingual,
        pooling="cls",
        reference="gte_sparse",
        outputs=("dense", "sparse"),
    ),
)
