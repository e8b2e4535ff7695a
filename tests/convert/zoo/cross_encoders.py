"""Forms of the encoders that score pairs, apart from those of BERT and XLM-RoBERTa; and of ELECTRA."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from tests.convert.tiny_bert import Float32Array, edit_json, read_raw_safetensors, write_safetensors
from tests.convert.tiny_bert_variants import make_tiny_camembert, make_tiny_distil_bert, make_tiny_roberta
from tests.convert.tiny_encoders import (
    SIZES,
    calm,
    make_tiny_cross_encoder,
    make_tiny_xlm_roberta_reranker,
    random_dense,
    write_sentence_transformer,
)
from tests.convert.tiny_rotary_encoders import make_tiny_modern_bert
from tests.convert.zoo.form import Form

_HIDDEN = 64


def _to_classifier(folder: Path, architecture: str, weights: dict[str, Float32Array]) -> Path:
    """Turn an embedder into a classifier of one label with these weights."""
    for file in ("modules.json", "1_Pooling/config.json"):
        (folder / file).unlink()
    (folder / "1_Pooling").rmdir()
    edit_json(folder / "config.json", architectures=[architecture], id2label={"0": "LABEL_0"}, label2id={"LABEL_0": 0})
    write_safetensors(folder / "model.safetensors", weights)
    return folder


def stored_weights(folder: Path) -> dict[str, Float32Array]:
    """Return the tensors of a checkpoint, without buffers of integers."""
    header, data = read_raw_safetensors(folder / "model.safetensors")
    return {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], dtype=np.float32).reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__" and entry["dtype"] == "F32"
    }


def _weights(folder: Path, prefix: str) -> dict[str, Float32Array]:
    return {f"{prefix}{name}": tensor for name, tensor in calm(stored_weights(folder)).items() if "pooler" not in name}


def make_roberta(folder: Path, *, camembert: bool = False) -> Path:
    """Write a checkpoint in the form of stsb-distilroberta-base, or of crossencoder-camembert-base-mmarcoFR."""
    make = make_tiny_camembert if camembert else make_tiny_roberta
    make(folder)
    head = random_dense(1, _HIDDEN, _HIDDEN, "classifier.dense") | random_dense(2, 1, _HIDDEN, "classifier.out_proj")
    name = "Camembert" if camembert else "Roberta"
    _to_classifier(folder, f"{name}ForSequenceClassification", _weights(folder, "roberta.") | head)
    if not camembert:
        edit_json(folder / "config.json", gradient_checkpointing=False, use_cache=True)
    return folder


_JINA_NAMES = {
    "embeddings.LayerNorm": "emb_ln",
    "attention.output.dense": "mixer.out_proj",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "output.LayerNorm": "norm2",
    "encoder.layer.": "encoder.layers.",
}


def make_jina(folder: Path) -> Path:
    """Write a checkpoint in the form of jina-reranker-v2-base-multilingual: XLM-RoBERTa in the makers' own code."""
    make_tiny_xlm_roberta_reranker(folder)
    stored, joint = stored_weights(folder), dict[str, Float32Array]()
    for layer in range(SIZES["num_hidden_layers"]):
        base = f"roberta.encoder.layer.{layer}.attention.self"
        for end in ("weight", "bias"):
            parts = [stored.pop(f"{base}.{part}.{end}") for part in ("query", "key", "value")]
            joint[f"roberta.encoder.layers.{layer}.mixer.Wqkv.{end}"] = np.concatenate(parts)
    for name, tensor in stored.items():
        for old, new in _JINA_NAMES.items():
            name = name.replace(old, new)
        joint[name] = tensor
    write_safetensors(folder / "model.safetensors", joint)
    edit_json(
        folder / "config.json",
        auto_map={
            "AutoConfig": "configuration_xlm_roberta.XLMRobertaFlashConfig",
            "AutoModel": "modeling_xlm_roberta.XLMRobertaModel",
            "AutoModelForSequenceClassification": "modeling_xlm_roberta.XLMRobertaForSequenceClassification",
        },
        classifier_dropout=None,
        emb_pooler=None,
        label2id={"LABEL_0": 0},
        num_labels=1,
        output_past=True,
        use_cache=False,
        use_flash_attn=True,
    )
    return folder


def make_modern_bert(folder: Path, pooling: str) -> Path:
    """Write a checkpoint in the form of gte-reranker-modernbert-base; pooling: before the classifier."""
    make_tiny_modern_bert(folder)
    stored = stored_weights(folder)
    head = random_dense(1, _HIDDEN, _HIDDEN, "head.dense") | random_dense(2, 1, _HIDDEN, "classifier")
    del head["head.dense.bias"]
    head["head.norm.weight"] = (1 + np.random.default_rng(3).standard_normal(_HIDDEN) * 0.1).astype(np.float32)
    encoder = {  # calm, as those of `calm`
        f"model.{name}": (tensor / 1.5).astype(np.float32) if "layers." in name and tensor.ndim == 2 else tensor
        for name, tensor in stored.items()
    }
    _to_classifier(folder, "ModernBertForSequenceClassification", encoder | head)
    edit_json(
        folder / "config.json",
        classifier_activation="gelu",
        classifier_bias=False,
        classifier_dropout=0.0,
        classifier_pooling=pooling,
        deterministic_flash_attn=False,
        repad_logits_with_grad=False,
        sparse_pred_ignore_index=-100,
        sparse_prediction=False,
    )
    edit_json(folder / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
    return folder


def make_distil_bert(folder: Path) -> Path:
    """Write a DistilBERT classifier of one label."""
    make_tiny_distil_bert(folder)
    head = random_dense(1, _HIDDEN, _HIDDEN, "pre_classifier") | random_dense(2, 1, _HIDDEN, "classifier")
    return _to_classifier(folder, "DistilBertForSequenceClassification", _weights(folder, "distilbert.") | head)


def make_electra(folder: Path, *, width: int = _HIDDEN, classifier: bool = False) -> Path:
    """Write a checkpoint on the base model of ELECTRA; width: of its embeddings. As classifier: ms-marco-electra-base."""
    make_tiny_cross_encoder(folder)
    stored = stored_weights(folder)
    weights = {
        name.removeprefix("bert."): tensor for name, tensor in stored.items() if "pooler" not in name and "class" not in name
    }
    edit_json(
        folder / "config.json",
        architectures=["ElectraModel"],
        embedding_size=width,
        id2label=None,
        label2id=None,
        model_type="electra",
        sentence_transformers=None,
        summary_activation="gelu",
        summary_last_dropout=0.1,
        summary_type="first",
        summary_use_proj=True,
    )
    edit_json(folder / "tokenizer_config.json", tokenizer_class="ElectraTokenizer")
    write_sentence_transformer(folder, _HIDDEN, "mean")
    write_safetensors(folder / "model.safetensors", weights)
    if classifier:
        head = random_dense(1, _HIDDEN, _HIDDEN, "classifier.dense") | random_dense(2, 1, _HIDDEN, "classifier.out_proj")
        _to_classifier(folder, "ElectraForSequenceClassification", _weights(folder, "electra.") | head)
    return folder


_F32 = {"cls.weight": "ours stays F32", "cls.output.weight": "ours stays F32"}

FORMS = (
    Form(
        "roberta_reranker",
        ("cross-encoder/stsb-distilroberta-base", "cross-encoder/quora-roberta-base", "cross-encoder/stsb-roberta-large"),
        "RobertaForSequenceClassification",
        make_roberta,
        "rank",
        pre="roberta-bpe",
        context=1280,
        differs=_F32,
    ),
    Form(
        "camembert_reranker",
        ("antoinelouis/crossencoder-camembert-base-mmarcoFR",),
        "CamembertForSequenceClassification",
        partial(make_roberta, camembert=True),
        "rank",
    ),
    Form(
        "modern_bert_reranker_mean",
        ("Alibaba-NLP/gte-reranker-modernbert-base",),
        "ModernBertForSequenceClassification",
        partial(make_modern_bert, pooling="mean"),
        "rank",
        pre="modern-bert",
        context=1280,
        differs=_F32,
    ),
    Form(
        "modern_bert_reranker_cls",
        ("tomaarsen/reranker-ModernBERT-base-gooaq-bce", "ibm-granite/granite-embedding-reranker-english-r2"),
        "ModernBertForSequenceClassification",
        partial(make_modern_bert, pooling="cls"),
        "rank",
        pre="modern-bert",
        context=1280,
        differs=_F32,
    ),
    Form(
        "jina_reranker_v2",
        ("jinaai/jina-reranker-v2-base-multilingual",),
        "XLMRobertaForSequenceClassification",
        make_jina,
        "rank",
        reference="jina_reranker",
        differs=_F32,
    ),
    Form("electra", ("google/electra-base-discriminator",), "ElectraModel", make_electra, "mean"),
    Form(
        "electra_small",
        ("google/electra-small-discriminator",),
        "ElectraModel",
        partial(make_electra, width=32),
        "mean",
        refused="no projection between embeddings and layers",
    ),
    Form(
        "electra_reranker",
        ("cross-encoder/ms-marco-electra-base",),
        "ElectraForSequenceClassification",
        partial(make_electra, classifier=True),
        "rank",
    ),
    Form(
        "distil_bert_reranker",
        ("fine-tunes of distilbert/distilbert-base-uncased",),
        "DistilBertForSequenceClassification",
        make_distil_bert,
        "rank",
        most_at_q8_0=0.2,
    ),
)
