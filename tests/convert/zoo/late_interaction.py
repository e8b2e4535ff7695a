"""Forms of ColBERT: PyLate's on BERT and ModernBERT, Stanford's."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.convert.tiny_bert import edit_json, tiny_weights, write_json, write_safetensors
from tests.convert.tiny_encoders import make_tiny_cross_encoder, make_tiny_xlm_roberta, random_dense
from tests.convert.tiny_rotary_encoders import bpe_tokenizer_json, make_tiny_modern_bert
from tests.convert.zoo.form import Form
from tests.convert.zoo.modules import write_dense

HIDDEN = 64
VECTOR = 8
"""Numbers in a vector: few, since reference files have those of each token."""
_IDENTITY = "torch.nn.modules.linear.Identity"
_UNUSED = ("[unused0]", "[unused1]")
MARKERS = ("[Q] ", "[D] ")


def pylate_config(**changes: Any) -> dict[str, Any]:
    """Return the content of config_sentence_transformers.json as PyLate writes it."""
    return {
        "__version__": {"sentence_transformers": "4.0.2", "transformers": "4.48.2", "pytorch": "2.5.1"},
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": "MaxSim",
        "query_prefix": MARKERS[0],
        "document_prefix": MARKERS[1],
        "query_length": 32,
        "document_length": 300,
        "attend_to_expansion_tokens": False,
        "skiplist_words": list(string.punctuation),
        "do_query_expansion": True,
        **changes,
    }


def write_pylate(folder: Path, sizes: Sequence[int] = (HIDDEN, VECTOR), *, residual: bool = False, **changes: Any) -> Path:
    """Write the modules of a PyLate checkpoint. sizes: of a state and of what each Dense module makes of it.

    residual: each adds its input. changes: of its settings.
    """
    (folder / "1_Pooling" / "config.json").unlink(missing_ok=True)
    entries = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for at, (inputs, outputs) in enumerate(pairwise(sizes), 1):
        path = f"{at}_Dense"
        entries.append({"idx": at, "name": str(at), "path": path, "type": "pylate.models.Dense.Dense"})
        weights = write_dense(folder / path, inputs, outputs, bias=False, activation=_IDENTITY, seed=at)
        edit_json(folder / path / "config.json", use_residual=residual)
        if residual and inputs != outputs:
            added = {"residual.weight": random_dense(9 + at, outputs, inputs, "residual")["residual.weight"]}
            write_safetensors(folder / path / "model.safetensors", weights | added)
    write_json(folder / "modules.json", entries)
    write_json(folder / "config_sentence_transformers.json", pylate_config(**changes))
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 299, "do_lower_case": False})
    return folder


def _make_bert(folder: Path) -> dict[str, Any]:
    """Write a BERT encoder whose vocabulary has unused tokens; return its config.json."""
    make_tiny_cross_encoder(folder)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    for token in _UNUSED:
        vocabulary[token] = len(vocabulary)
    write_json(file, content)
    edit_json(
        folder / "config.json",
        architectures=["BertModel"],
        vocab_size=len(vocabulary),
        id2label=None,
        label2id=None,
        sentence_transformers=None,
    )
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_safetensors(folder / "model.safetensors", tiny_weights(config))
    return config


def make_bert(folder: Path) -> Path:
    """Write a checkpoint in the form of lightonai/colbertv2.0."""
    _make_bert(folder)
    return write_pylate(folder, query_prefix=_UNUSED[0], document_prefix=_UNUSED[1], document_length=180)


def make_stanford(folder: Path) -> Path:
    """Write a checkpoint in the form of colbert-ir/colbertv2.0: no modules, the projection among the weights."""
    config = _make_bert(folder)
    edit_json(folder / "config.json", architectures=["HF_ColBERT"])
    weights = {f"bert.{name}": tensor for name, tensor in tiny_weights(config).items()}
    linear = random_dense(3, VECTOR, HIDDEN, "linear")["linear.weight"]
    write_safetensors(folder / "model.safetensors", {**weights, "linear.weight": linear})
    metadata = {
        "query_token_id": _UNUSED[0],
        "doc_token_id": _UNUSED[1],
        "query_token": "[Q]",
        "doc_token": "[D]",
        "attend_to_mask_tokens": False,
        "similarity": "cosine",
        "dim": VECTOR,
        "query_maxlen": 32,
        "doc_maxlen": 180,
        "mask_punctuation": True,
        "checkpoint": "colbert-ir/colbertv2.0",
    }
    write_json(folder / "artifact.metadata", metadata)
    (folder / "modules.json").unlink(missing_ok=True)
    return folder


def _make_modern_bert(folder: Path) -> None:
    tokenizer = bpe_tokenizer_json()
    added = tokenizer["added_tokens"]
    for marker in MARKERS:
        entry = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
        added.append({"id": 1 + max(one["id"] for one in added), "content": marker, **entry})
    make_tiny_modern_bert(folder, tokenizer=tokenizer)


def make_modern_bert(folder: Path) -> Path:
    """Write a checkpoint in the form of GTE-ModernColBERT-v1: a query is longer than the window of local attention."""
    _make_modern_bert(folder)
    return write_pylate(folder, query_length=48)


def make_edge(folder: Path) -> Path:
    """Write a checkpoint in the form of mxbai-edge-colbert-v0: a wider layer and back, each adds its input."""
    _make_modern_bert(folder)
    return write_pylate(folder, (HIDDEN, 2 * HIDDEN, 2 * HIDDEN, VECTOR), residual=True, do_query_expansion=False)


def make_multi_vector(folder: Path) -> Path:
    """Write a checkpoint of a MultiVectorEncoder of sentence-transformers 6, whose prompts are the markers."""
    _make_modern_bert(folder)
    (folder / "1_Pooling" / "config.json").unlink()
    package = "sentence_transformers"
    kinds = [
        ("", f"{package}.base.modules.transformer.Transformer"),
        ("1_Dense", f"{package}.base.modules.dense.Dense"),
        ("2_MultiVectorMask", f"{package}.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"),
        ("3_Normalize", f"{package}.base.modules.normalize.Normalize"),
    ]
    write_json(
        folder / "modules.json",
        [{"idx": at, "name": str(at), "path": path, "type": kind} for at, (path, kind) in enumerate(kinds)],
    )
    names = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    write_dense(folder / "1_Dense", HIDDEN, VECTOR, bias=False, activation=_IDENTITY)
    edit_json(folder / "1_Dense" / "config.json", **names)
    mask = {"skiplist_words": list(string.punctuation), "skiplist_tasks": ["document"], "keep_only_token_ids": None}
    write_json(folder / "2_MultiVectorMask" / "config.json", mask)
    write_json(folder / "3_Normalize" / "config.json", names)
    config = {
        "__version__": {"pytorch": "2.13.0", "sentence_transformers": "6.2.0", "transformers": "5.24.0"},
        "default_prompt_name": None,
        "model_type": "MultiVectorEncoder",
        "prompts": {"document": MARKERS[1], "query": MARKERS[0]},
        "similarity_fn_name": "maxsim",
    }
    write_json(folder / "config_sentence_transformers.json", config)
    encoder = {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        "module_output_name": "token_embeddings",
        "document_length": 300,
        "query_expansion": {"strategy": "min", "attend": False, "token": None, "length": 32},
    }
    write_json(folder / "sentence_bert_config.json", encoder)
    return folder


def make_attended(folder: Path) -> Path:
    """Write a checkpoint of PyLate on XLM-RoBERTa, whose queries attend to the tokens that expand them, without markers."""
    make_tiny_xlm_roberta(folder)
    return write_pylate(folder, query_prefix="", document_prefix="", attend_to_expansion_tokens=True, skiplist_words=None)


def make_jina(folder: Path) -> Path:
    """Write a checkpoint in the form of jina-colbert-v2: Stanford's class for the makers' own code."""
    make_tiny_xlm_roberta(folder)
    code = "jinaai/xlm-roberta-flash-implementation--modeling_xlm_colbert.ColbertModel"
    edit_json(folder / "config.json", architectures=["HF_ColBERT"], auto_map={"AutoModel": code})
    return folder


def _form(name: str, models: tuple[str, ...], kind: str, make: Any, **rest: Any) -> Form:
    usual = {"pooling": "none", "reference": "late_interaction", "outputs": ("multi",), "most": 1e-3}
    # Vectors of 8 numbers lose more than those of 128.
    return Form(name, models, kind, make, **(usual | {"least_at_q8_0": 0.95} | rest))


FORMS = (
    _form("colbert_bert", ("lightonai/colbertv2.0",), "BertModel", make_bert),
    _form(
        "colbert_stanford", ("colbert-ir/colbertv2.0", "answerdotai/answerai-colbert-small-v1"), "HF_ColBERT", make_stanford
    ),
    _form(
        "colbert_modern_bert",
        ("lightonai/GTE-ModernColBERT-v1", "lightonai/Reason-ModernColBERT"),
        "ModernBertModel",
        make_modern_bert,
        context=1280,
        pre="modern-bert",
    ),
    _form(
        "colbert_edge",
        ("mixedbread-ai/mxbai-edge-colbert-v0-17m", "mixedbread-ai/mxbai-edge-colbert-v0-32m"),
        "ModernBertModel",
        make_edge,
        context=1280,
        pre="modern-bert",
    ),
    _form(
        "colbert_multi_vector",
        ("MultiVectorEncoder of sentence-transformers 6",),
        "ModernBertModel",
        make_multi_vector,
        reference="multi_vector",
        context=1280,
        pre="modern-bert",
    ),
    _form("colbert_attended", ("fine-tunes of xlm-roberta-base with PyLate",), "XLMRobertaModel", make_attended),
    _form("colbert_jina", ("jinaai/jina-colbert-v2",), "HF_ColBERT", make_jina, refused="runs its own code"),
)
