"""Sparse heads of checkpoints: SPLADE's, which is that of a masked language model, and bge-m3's weights of tokens.

Formats: sentence-transformers' SpladePooling and SparseStaticEmbedding; transformers' classes for masked language models,
whose last matrix is that of the token embeddings; FlagEmbedding's sparse_linear.pt. The head is computed by our engine, from
the metadata of the file (`edgeembed.engine.sparse`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from gguf import Keys

from edgeembed.engine.dense import LONGEST_WEIGHT
from edgeembed.engine.float_strings import encoded_length
from edgeembed.engine.sparse import MaskedLmWeights, Pooling, SparseHead, TextTokensHead, VocabularyHead
from edgeembed.engine.stand_ins import computed_as
from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import SPLADE, Checkpoint
from edgeembed_convert.families.base import ModelPlan, PlannedTensor
from edgeembed_convert.jsonfile import read_json
from edgeembed_convert.pickled import read_linear
from edgeembed_convert.tensors import Float32Array
from edgeembed_convert.tokenizer_json import token_ids
from edgeembed_convert.weights import StoredTensor, open_weights

TEXT_WEIGHTS_FILE = "sparse_linear.pt"
_TOKEN_CLASSIFIERS = {"NewForTokenClassification"}
"""Classes whose classifier weighs the tokens of a text, as in gte-multilingual-base."""
_EXCLUDED = (
    "tokenizer.ggml.cls_token_id", Keys.Tokenizer.BOS_ID, Keys.Tokenizer.EOS_ID, Keys.Tokenizer.SEP_ID,
    Keys.Tokenizer.PAD_ID, Keys.Tokenizer.UNK_ID,
)  # fmt: skip
"""Tokens that FlagEmbedding, and gte-multilingual-base's makers, leave out."""
_POOLINGS: Mapping[str, Pooling] = {"max": "max", "sum": "sum"}
_ACTIVATIONS = {"relu": 1, "log1p_relu": 2}
"""sentence-transformers' name -> how often the logarithm is applied."""
_SPLADE_KEYS = {"pooling_strategy", "activation_function", "word_embedding_dimension", "embedding_dimension", "chunk_size"}
_STATIC = "SparseStaticEmbedding"
_IDF_FILE = "idf.json"
"""By which the makers of opensearch-project's models read queries."""


@dataclass(frozen=True)
class _Names:
    """Where a class keeps its masked-LM head: its dense layer, its layer norm, and the names of bias and matrix.

    One tensor may have several names, of which a file has one or all. activation: key in config.json of the function behind
    the dense layer; empty if it is always GELU, or that of the encoder, which the family has checked.
    """

    dense: str
    norm: str
    bias: tuple[str, ...]
    matrix: str
    activation: str = ""


_HEADS = (
    _Names(
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        ("cls.predictions.bias", "cls.predictions.decoder.bias"),
        "cls.predictions.decoder.weight",
    ),
    _Names("vocab_transform", "vocab_layer_norm", ("vocab_projector.bias",), "vocab_projector.weight"),
    _Names("lm_head.dense", "lm_head.layer_norm", ("lm_head.bias", "lm_head.decoder.bias"), "lm_head.decoder.weight"),
    _Names("lm_head.dense", "lm_head.norm", ("lm_head.decoder.bias",), "lm_head.decoder.weight"),
    _Names("head.dense", "head.norm", ("decoder.bias",), "decoder.weight", "classifier_activation"),
)
"""BERT's, DistilBERT's, that of RoBERTa, XLM-RoBERTa, CamemBERT and MPNet, GTE's, ModernBERT's."""


def read_sparse(checkpoint: Checkpoint, plan: ModelPlan) -> SparseHead | None:
    """Return the sparse head of a checkpoint with its weights; None if it has none. Raises ConversionError."""
    if checkpoint.is_splade:
        return _read_splade(checkpoint, plan)
    if plan.pooling == "rank":
        return None
    weights = _text_weights(checkpoint)
    if weights is None:
        return None
    weight, bias = weights
    if weight.shape != (1, plan.dimensions) or bias.shape != (1,):
        raise ConversionError(
            f"{weight.file}: weights of tokens have the shapes {list(weight.shape)} and {list(bias.shape)}; expected "
            f"[1, {plan.dimensions}] and [1]"
        )
    ids = {number for key in _EXCLUDED if isinstance(number := plan.metadata.get(key), int)}
    return TextTokensHead(weight.values()[0], float(bias.values()[0]), tuple(sorted(ids)))


def _text_weights(checkpoint: Checkpoint) -> tuple[StoredTensor, StoredTensor] | None:
    """Return the matrix and the bias that weigh the tokens of a text; None without them."""
    file = checkpoint.folder / TEXT_WEIGHTS_FILE
    if file.is_file():
        return read_linear(file)
    if _TOKEN_CLASSIFIERS.isdisjoint(checkpoint.config.get("architectures") or []):
        return None
    stored = _Stored(checkpoint)
    weight, bias = stored.find("classifier.weight"), stored.find("classifier.bias")
    return None if weight is None or bias is None else (weight, bias)


# --- SPLADE -------------------------------------------------------------------------------------------------------------


class _Stored:
    """The tensors of a checkpoint by the end of their names: a model may be saved as part of another one."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def find(self, *names: str) -> StoredTensor | None:
        """Return the first tensor with one of these names; None if there is none. Raises ConversionError for several."""
        tensors = self._checkpoint.weights.tensors
        for name in names:
            found = [tensor for full, tensor in tensors.items() if full == name or full.endswith(f".{name}")]
            if len(found) > 1:
                raise ConversionError(
                    f"{found[0].file}: {name} several times: {', '.join(sorted(tensor.name for tensor in found))}"
                )
            if found:
                return found[0]
        return None

    def values(self, shape: tuple[int, ...], *names: str) -> Float32Array | None:
        """Return the values of such a tensor; None if there is none. Raises ConversionError for another shape."""
        tensor = self.find(*names)
        if tensor is not None and tensor.shape != shape:
            raise ConversionError(
                f"{tensor.file}: tensor {tensor.name} has the shape {list(tensor.shape)}; expected {list(shape)}"
            )
        return None if tensor is None else tensor.values()


def _read_splade(checkpoint: Checkpoint, plan: ModelPlan) -> VocabularyHead:
    stored = _Stored(checkpoint)
    names = _find_head(checkpoint, stored)
    embeddings = next(tensor for tensor in plan.tensors if tensor.name == "token_embd.weight")
    # Some families leave out the rows by which a table of embeddings is padded.
    rows, vocabulary, width = checkpoint.positive_int("vocab_size"), embeddings.source.shape[0], plan.dimensions
    if encoded_length(width * width) > LONGEST_WEIGHT:
        raise ConversionError(f"{checkpoint.config_file}: the dense layer of the masked-LM head is too large to be stored")
    if names.activation and checkpoint.config.get(names.activation, "gelu") != "gelu":
        value = checkpoint.config[names.activation]
        raise ConversionError(f"{checkpoint.config_file}: {names.activation} = {value!r}; supported is only 'gelu'")
    _require_tied(stored.find(names.matrix), embeddings)
    epsilon = plan.metadata[Keys.Attention.LAYERNORM_EPS.format(arch=computed_as(plan.architecture))]
    assert isinstance(epsilon, float)
    weight = stored.values((width, width), f"{names.dense}.weight")
    norm = stored.values((width,), f"{names.norm}.weight", f"{names.norm}.gamma")
    assert weight is not None and norm is not None  # _find_head
    bias = stored.values((rows,), *names.bias)
    weights = MaskedLmWeights(
        weight=weight,
        weight_bias=stored.values((width,), f"{names.dense}.bias"),
        norm=norm,
        norm_bias=stored.values((width,), f"{names.norm}.bias", f"{names.norm}.beta"),
        epsilon=epsilon,
        bias=np.zeros(vocabulary, dtype=np.float32) if bias is None else bias[:vocabulary],
    )
    pooling, logarithms = _read_pooling(checkpoint)
    return VocabularyHead(weights, pooling, logarithms, _read_query(checkpoint, plan, vocabulary))


def _find_head(checkpoint: Checkpoint, stored: _Stored) -> _Names:
    for names in _HEADS:
        if stored.find(f"{names.dense}.weight") and stored.find(f"{names.norm}.weight", f"{names.norm}.gamma"):
            return names
    raise ConversionError(
        f"{checkpoint.model_folder}: the weights have no head of a masked language model, which SPLADE needs; architectures "
        f"in {checkpoint.config_file.name}: {checkpoint.config.get('architectures')!r}"
    )


def _require_tied(matrix: StoredTensor | None, embeddings: PlannedTensor) -> None:
    """Raise ConversionError if the head has a matrix of its own: the file has room for the token embeddings alone."""
    if matrix is None:
        return
    source = embeddings.source
    if matrix.shape[1:] == source.shape[1:] and all(
        one is not None and np.array_equal(one, other)
        for one, other in zip_longest(islice(_rows_of(matrix.rows()), source.shape[0]), _rows_of(source.rows()))
    ):
        return
    raise ConversionError(
        f"{matrix.file}: the masked-LM head has a matrix of its own ({matrix.name}), which is not that of the token "
        "embeddings; such models cannot be converted: llama.cpp's encoders have no place for it"
    )


def _rows_of(chunks: Iterator[Float32Array]) -> Iterator[Float32Array]:
    for chunk in chunks:
        yield from chunk


def _read_pooling(checkpoint: Checkpoint) -> tuple[Pooling, int]:
    """Return the pooling, and how often the logarithm is applied. Without SpladePooling: those of SPLADE v2."""
    folders = [folder for kind, folder in checkpoint.modules or [] if kind == SPLADE]
    if not folders:
        return "max", 1
    kinds = [kind for kind, _ in checkpoint.modules or []]
    if len(kinds) != 2 or kinds[1] != SPLADE:
        raise ConversionError(f"{checkpoint.modules_file}: modules {', '.join(kinds)}; expected Transformer and {SPLADE}")
    file = folders[0] / "config.json"
    config = read_json(file)
    if unknown := sorted(config.keys() - _SPLADE_KEYS):
        raise ConversionError(f"{file}: unknown settings of {SPLADE}: {', '.join(unknown)}")
    pooling = _choice(config.get("pooling_strategy", "max"), _POOLINGS, f"{file}: pooling_strategy")
    logarithms = _choice(config.get("activation_function", "relu"), _ACTIVATIONS, f"{file}: activation_function")
    return pooling, logarithms


def _choice(value: Any, choices: Mapping[str, Any], where: str) -> Any:
    if not isinstance(value, str) or value not in choices:
        raise ConversionError(f"{where} = {value!r}; expected one of {', '.join(choices)}")
    return choices[value]


# --- queries without a forward pass -------------------------------------------------------------------------------------


def _read_query(checkpoint: Checkpoint, plan: ModelPlan, vocabulary: int) -> Float32Array | None:
    """Return the weight of each token in a query; None if queries are read as documents are."""
    if checkpoint.query_modules is None:
        if checkpoint.modules is None and (file := checkpoint.folder / _IDF_FILE).is_file():
            raise ConversionError(
                f"{file}: queries are read by these weights, but without modules.json it is unknown how documents are read; "
                "convert a later revision of the repository, which has modules.json"
            )
        return None
    kinds = [kind for kind, _ in checkpoint.query_modules]
    if kinds != [_STATIC]:
        raise ConversionError(
            f"{checkpoint.modules_file}: queries are read by the modules {', '.join(kinds)}; supported is only {_STATIC}"
        )
    folder = checkpoint.query_modules[0][1]
    _check_tokenizer(folder, checkpoint.model_folder)
    file = folder / "config.json"
    path = read_json(file).get("path") if file.is_file() else None
    if isinstance(path, str) and path.endswith(".json"):
        found = [place / Path(path).name for place in (folder, checkpoint.folder)]
        table = next((one for one in found if one.is_file()), found[0])
        weights = _weights_by_token(table, vocabulary, token_ids(checkpoint.model_folder))
    else:
        weights = _stored_weights(folder, vocabulary)
    # They are not put around a query, and their names in a text are plain text.
    around = [plan.metadata.get(key) for key in _EXCLUDED if key not in (Keys.Tokenizer.UNK_ID, Keys.Tokenizer.PAD_ID)]
    weights[[number for number in around if isinstance(number, int)]] = 0
    return weights


def _check_tokenizer(folder: Path, documents: Path) -> None:
    """Raise ConversionError if queries have another tokenizer than documents: the file has room for one."""
    file, other = folder / "tokenizer.json", documents / "tokenizer.json"
    if not file.is_file():
        return
    same = token_ids(folder) == token_ids(documents)
    if other.is_file():
        same &= all(read_json(file).get(part) == read_json(other).get(part) for part in ("normalizer", "pre_tokenizer"))
    if not same:
        raise ConversionError(f"{file}: queries are read by another tokenizer than documents, which is not supported")


def _stored_weights(folder: Path, vocabulary: int) -> Float32Array:
    tensors = open_weights(folder).tensors
    if set(tensors) != {"weight"} or len(tensors["weight"].shape) != 1 or tensors["weight"].shape[0] > vocabulary:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise ConversionError(f"{folder}: {_STATIC} has {shapes}; expected weight [{vocabulary}]")
    values = tensors["weight"].values()
    return np.pad(values, (0, vocabulary - len(values))).astype(np.float32)


def _weights_by_token(file: Path, vocabulary: int, ids: Mapping[str, int]) -> Float32Array:
    """Return the weights of a JSON file that maps tokens to them. ids: of the tokens."""
    weights = np.zeros(vocabulary, dtype=np.float32)
    for token, weight in read_json(file).items():
        if not isinstance(weight, int | float) or isinstance(weight, bool) or not np.isfinite(weight):
            raise ConversionError(f"{file}: the weight of {token!r} is {weight!r}; expected a number")
        number = ids.get(token)
        if number is None or number >= vocabulary:
            raise ConversionError(f"{file}: {token!r} is not a token of the vocabulary")
        weights[number] = weight
    return weights
