"""Sizes that are computed from a model's shape: against published files, published parameter counts, and our converter."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import msgspec
import pytest
from gguf import GGUFReader

from edgeembed.hub.catalogue import CatalogueEntry, HubCheckpoint, HubGguf, Shape, catalogue
from edgeembed.hub.file_sizes import file_bytes, published_sizes, size_of, tensor_bytes
from edgeembed.hub.gguf.file import UINT32
from edgeembed.hub.gguf.header import read_header
from edgeembed.models.memory import estimate, estimate_entry
from edgeembed_convert import QUANTIZATIONS, ConversionOptions, convert_checkpoint
from edgeembed_convert.quantization import WEIGHED
from edgeembed_convert.recipes import RECIPES
from tests.convert.tiny_bert import make_tiny_bert
from tests.convert.tiny_qwen3_checkpoint import Qwen3Shape, make_qwen3_checkpoint
from tests.convert.without_proof import convert_checkpoint as convert_unproven
from tests.convert.zoo import FORMS
from tests.convert.zoo.sparse import make_bert
from tests.hub.gguf.parts import read, write

# Files whose token embeddings have another type than our converter or today's llama.cpp would choose.
OTHER_EMBEDDINGS = {("nomic-embed-text-v1.5", "Q4_K_M"), ("qwen3-embedding-4b", "Q5_0"), ("qwen3-embedding-8b", "Q5_0")}
PUBLISHED = [
    (name, kind, size)
    for name, entry in catalogue().items()
    for kind, size in published_sizes(entry).items()
    if (name, kind) not in OTHER_EMBEDDINGS
]
# mteb's descriptions of the models, from the headers of the weights.
PARAMETERS = {
    "all-minilm-l12-v2": 33_360_000,
    "all-minilm-l6-v2": 22_713_216,
    "all-mpnet-base-v2": 109_486_464,
    "granite-embedding-311m-multilingual-r2": 311_664_384,
    "granite-embedding-97m-multilingual-r2": 97_441_152,
    "granite-embedding-english-r2": 149_014_272,
    "gte-multilingual-base": 305_368_320,
    "gte-qwen2-1.5b-instruct": 1_543_268_864,
    "granite-embedding-small-english-r2": 47_662_464,
    "jina-embeddings-v2-base-en": 137_368_320,
    "jina-embeddings-v2-small-en": 32_690_688,
    "jina-embeddings-v5-text-nano": 211_766_016,
    "jina-embeddings-v5-text-small": 596_049_920,
    "llama-embed-nemotron-8b": 7_504_924_672,
    "mxbai-rerank-base-v2": 494_032_768,
    "mxbai-rerank-large-v2": 1_543_714_304,
    "nomic-embed-text-v2-moe": 475_292_928,
    "mxbai-embed-large-v1": 335_141_888,
    "paraphrase-multilingual-minilm-l12-v2": 117_653_760,
    "paraphrase-multilingual-mpnet-base-v2": 278_043_648,
    "qwen3-embedding-0.6b": 595_776_512,
    "qwen3-embedding-4b": 4_021_774_336,
    "qwen3-embedding-8b": 7_567_295_488,
    "snowflake-arctic-embed-l": 335_141_888,
    "snowflake-arctic-embed-l-v2.0": 567_754_752,
    "snowflake-arctic-embed-m": 109_482_240,
    "snowflake-arctic-embed-s": 33_360_000,
    "snowflake-arctic-embed-xs": 22_713_216,
}


@pytest.mark.parametrize("name", list(catalogue()))
def test_every_model_has_a_size_and_an_estimate_of_its_memory(name: str) -> None:
    entry = catalogue()[name]
    size = size_of(entry, entry.default_type)
    memory = estimate_entry(entry, entry.default_type, 4096, 128)
    assert size and memory and size < memory < 2 * size + 400_000_000
    assert not entry.shape or entry.task == "rerank" or entry.shape.width == entry.dimensions


@pytest.mark.parametrize(("name", "kind", "size"), PUBLISHED)
def test_published_files_have_the_computed_size(name: str, kind: str, size: int) -> None:
    assert file_bytes(catalogue()[name], kind) == pytest.approx(size, rel=0.001)


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_shapes_have_the_published_number_of_parameters(name: str) -> None:
    entry = catalogue()[name]
    values = (tensor_bytes(entry, "F32") or 0) // 4
    width = entry.dimensions
    if entry.architecture in ("bert", "jina-bert-v2"):  # the weights have a pooler, and XLM-RoBERTa's two unused positions
        values += width * width + width + (2 * width if entry.shape and entry.shape.token_types == 1 else 0)
    if entry.architecture == "mpnet":  # the same, and a bias of 12 heads for 32 distances, which is metadata in the file
        values += width * width + width + 2 * width + 12 * 32
    if entry.architecture == "gte":  # its bias of ffn_down is one of 256 units that the converter adds
        values += 12 * (width - 256 * 3 * width)
    if entry.architecture == "nomic-bert-moe":  # biases of experts are added to those of the norms after them
        values += 6 * width
    assert values == PARAMETERS[name]


def test_without_a_shape_or_a_rule_there_is_no_size() -> None:
    entry = catalogue()["all-minilm-l6-v2"]
    assert size_of(msgspec.structs.replace(entry, shape=None), "Q8_0") is None
    assert estimate_entry(msgspec.structs.replace(entry, shape=None), "Q8_0", 4096, 128) is None
    assert size_of(msgspec.structs.replace(entry, architecture="new"), "Q8_0") is None
    assert size_of(entry, "IQ2_M") is None
    assert {kind for kind in QUANTIZATIONS if size_of(entry, kind) is None} == {"IQ4_XS"}, "a mixture that nobody computes"


@pytest.mark.model
@pytest.mark.parametrize("kind", ["Q8_0", "F16"])
def test_the_memory_of_a_model_without_dense_rows_is_counted(tmp_path: Path, kind: str) -> None:
    """Of a second context, and of the copy that a masked-LM head makes of token embeddings in Q8_0."""
    path, dense = tmp_path / "sparse.gguf", tmp_path / "dense.gguf"
    convert_unproven(make_bert(tmp_path / "checkpoint"), path, quantization=kind)
    file = read(path.read_bytes())
    file.drop("edgeembed.outputs")
    file.put("bert.pooling_type", UINT32, 1)
    file.drop("edgeembed.sparse.kind")
    dense.write_bytes(write(file))
    width, feed_forward = (read_header(path).size(f"{name}_length") or 0 for name in ("embedding", "feed_forward"))
    context = 4 * 128 * (4 * width + 2 * feed_forward)
    tokens = next(tensor.shape[1] for tensor in GGUFReader(path).tensors if tensor.name == "token_embd.weight")
    copy = int(tokens) * width * 34 // 32 if kind == "Q8_0" else 0
    added = estimate(path, 64, 128) - path.stat().st_size - (estimate(dense, 64, 128) - dense.stat().st_size)
    assert added == context + copy


WIDE_QWEN = Qwen3Shape(hidden_size=256, intermediate_size=512, num_hidden_layers=9)
CHECKPOINTS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "bert": ("all-minilm-l6-v2", make_tiny_bert),
    "wide bert": ("all-minilm-l6-v2", lambda folder: make_tiny_bert(folder, hidden=256, feed_forward=512, layers=9)),
    "wide qwen3": ("qwen3-embedding-0.6b", lambda folder: make_qwen3_checkpoint(folder, shape=WIDE_QWEN)),
    # Each form of which the catalogue has a model.
    **{
        form.name: (entry.name, form.make)
        for form in FORMS
        for entry in catalogue().values()
        for source in entry.sources
        if isinstance(source, HubCheckpoint) and source.repo in form.models and not form.refused
    },
}


KINDS = ["F32", "F16", "Q8_0", "Q4_0", "Q6_K", "Q5_K_M", "Q4_K_M"]


@pytest.mark.model
@pytest.mark.parametrize(
    ("form", "kind"),
    # Our own types have one table here and one in the converter, by parts of a model that all forms have.
    [*product(CHECKPOINTS, KINDS), *product(["bert", "wide bert", "wide qwen3"], RECIPES)],
)
def test_converted_files_have_exactly_the_computed_size(form: str, kind: str, tmp_path: Path) -> None:
    like, make = CHECKPOINTS[form]
    folder = make(tmp_path / "checkpoint")
    file = tmp_path / "model.gguf"
    adapter = next((source.adapter for source in catalogue()[like].sources if isinstance(source, HubCheckpoint)), None)
    options = ConversionOptions(quantization=kind, proof=False, task=catalogue()[like].task, adapter=adapter)
    if kind in RECIPES and kind in WEIGHED:  # our own texts take a while, and do not change the size
        texts = tmp_path / "texts.txt"
        texts.write_text("one\ntwo\n", "utf-8")
        options = replace(options, importance=texts)
    convert_checkpoint(folder, file, options)
    entry = entry_of(catalogue()[like], folder, file)
    # Llama 3's factors of the rotation are some hundred bytes that no shape tells.
    tensors = [tensor for tensor in GGUFReader(file).tensors if tensor.name != "rope_freqs.weight"]
    assert tensor_bytes(entry, kind) == sum(tensor.n_bytes for tensor in tensors)
    size = file.stat().st_size
    assert estimate_entry(entry, kind, 512, 128) == estimate(file, 512, 128) + (size_of(entry, kind) or 0) - size


def entry_of(like: CatalogueEntry, folder: Path, file: Path) -> CatalogueEntry:
    """Return the entry of a checkpoint, with the sizes in its config.json."""
    config = json.loads((folder / "config.json").read_text("utf-8"))

    def number(*keys: str) -> int | None:
        return next((config[key] for key in keys if key in config), None)

    header = read_header(file)
    fields = GGUFReader(file).fields
    context = next(field.contents() for name, field in fields.items() if name.endswith(".context_length"))
    # nomic-bert's and GTE's config.json have a padded number.
    padded = "n_embd" in config or "pack_qkv" in config
    vocabulary = len(fields["tokenizer.ggml.tokens"].data) if padded else number("vocab_size")
    width = number("hidden_size", "n_embd")
    dense = folder / "2_Dense" / "config.json"
    shape = Shape(
        layers=number("num_hidden_layers", "n_layer"),
        width=width,
        feed_forward=number("intermediate_size", "n_inner"),
        vocabulary=vocabulary,
        heads=number("num_attention_heads", "n_head"),
        kv_heads=number("num_key_value_heads"),
        head_length=number("head_dim"),
        joint_attention=like.shape is not None and like.shape.joint_attention,
        attention_biases=like.shape is not None and like.shape.attention_biases,
        experts=number("num_experts"),
        token_types=number("type_vocab_size") or 1,
        projection=json.loads(dense.read_text("utf-8"))["out_features"] if dense.is_file() else None,
    )
    converted = tuple(source for source in like.sources if not isinstance(source, HubGguf))
    changes = {"shape": shape, "dimensions": width, "context_tokens": context, "sources": converted, "sizes": {}}
    return msgspec.structs.replace(like, **changes, architecture=header.architecture, matryoshka=None)
