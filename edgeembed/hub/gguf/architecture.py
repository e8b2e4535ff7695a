"""Checks of a model's sizes, the `{architecture}.*` keys of a GGUF file.

llama.cpp divides by them, allocates memory by them and asserts on them (llama-model.cpp, load_hparams, and the graphs in
models/).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeembed.engine.outputs import OUTPUTS_KEY, parse_outputs
from edgeembed.engine.stand_ins import ARCHITECTURE_KEY, STAND_INS, computed_as
from edgeembed.hub.gguf.file import BOOL, INT32, STRING, UINT32, GgufHead, GgufReader
from edgeembed.hub.gguf.header import RANK_POOLING
from edgeembed.hub.gguf.tensors import Attention, UnfitError

# The architectures of embedding models and rerankers, and what RoPE rotates: whole heads, parts of them or none. How
# llama.cpp handles a hostile file of another architecture has not been reviewed.
_ROTATIONS: dict[str, Literal["whole", "part", "none"]] = {
    "bert": "none", "nomic-bert": "part", "nomic-bert-moe": "part", "jina-bert-v2": "none", "jina-bert-v3": "part",
    "modern-bert": "part", "neo-bert": "part", "eurobert": "part", "gemma": "part", "gemma-embedding": "part",
    "gemma2": "part", "gemma3": "part", "llama": "whole", "llama-embed": "whole", "qwen2": "whole", "qwen3": "whole",
    "t5encoder": "none", "lfm2": "whole",
}  # fmt: skip

# Architectures with sliding windows: the default period of layers without a window, and whether the first layer is one.
_WINDOWS = {"gemma-embedding": (6, False), "gemma2": (2, False), "gemma3": (6, False), "modern-bert": (3, True)}

_MOST_LAYERS = 512
"""llama.cpp's LLAMA_MAX_LAYERS."""
_MOST_EXPERTS = 16
"""llama.cpp sorts their scores with std::sort, which reads beyond the end if there are more and one is NaN."""
_MOST_HEADS, _LONGEST_HEAD = 1024, 1024
_MOST_WIDTH = 2**17
_MOST_FEED_FORWARD, _MOST_QUERY = 32, 16
"""As multiples of the width: the memory for each token of a batch must stay in proportion to the file."""
_WITH_KV_CACHE = ("gemma", "gemma2", "gemma3", "lfm2", "llama", "llama-embed", "qwen2", "qwen3")
"""Architectures for which llama.cpp allocates a KV cache; llama-embed makes no use of it."""
_WITH_CONVOLUTIONS = ("lfm2",)
"""Architectures of which some layers have no attention; those are marked by no heads for keys and values."""
_LONGEST_CONVOLUTION = 63
_WITHOUT_PIECES = ("lfm2", "llama-embed")
"""Architectures with a KV cache whose texts must not be computed in pieces."""
_KEPT_TOKENS, _KEPT_BYTES = 512, 2**22
"""The KV cache of so many tokens must not be larger than the file, or than this."""
_WITH_DISTANCES = ("t5encoder",)
"""Architectures whose attention has a bias by distance, for each head and each two tokens of a batch."""
_LEAST_DISTANCES, _MOST_DISTANCES = 4, 508
"""Beyond them llama.cpp divides by the logarithm of 1, or computes a negative index, on which ggml asserts."""
_MOST_BIASES = 2**28
_MOST_CONTEXT = 2**24
_MOST_WINDOW = 2**20
_MOST_LABELS = 1024
_LAST_POOLING = 3
_SCALINGS = ("none", "linear", "yarn", "longrope")
_LARGEST_FLOAT = 1e12


@dataclass(frozen=True)
class ArchitectureSizes:
    """Sizes that the other parts of the file must match."""

    width: int
    """Length of a token's embedding and of a text's vector."""
    layers: int
    attention: Attention
    scores: int | None
    """Numbers that a reranker computes for a pair; None for an embedder."""
    distances: int | None = None
    """Rows of the table with a bias of attention for each range of distances; None for an architecture without one."""


def check_sizes(reader: GgufReader, head: GgufHead) -> ArchitectureSizes:
    """Check all keys of the architecture and return the sizes. Raises UnfitError, MalformedError."""
    name = head.values.get(ARCHITECTURE_KEY)
    if name not in _ROTATIONS and name not in STAND_INS:
        supported = ", ".join([*_ROTATIONS, *STAND_INS])
        raise UnfitError(f"key {ARCHITECTURE_KEY!r} is {name!r}; supported architectures are {supported}")
    assert isinstance(name, str)
    biased = name == "mpnet"
    name = computed_as(name)
    keys = _Keys(reader, head, name)
    width = keys.required("embedding_length", _MOST_WIDTH)
    layers = keys.required("block_count", _MOST_LAYERS)
    context = keys.required("context_length", _MOST_CONTEXT)
    convolves = name in _WITH_CONVOLUTIONS
    attention = _attention(keys, layers, width, in_some_layers=convolves)
    if convolves:
        _check_convolutions(keys)
    _check_rotation(keys, attention, _ROTATIONS[name])
    _check_experts(keys, layers)
    distances = _check_distances(keys, attention.heads, context) if name in _WITH_DISTANCES else None
    if biased:
        _check_biases(keys, attention.heads, context)
    _check_windows(keys, layers, _WINDOWS.get(name))
    keys.only("nextn_predict_layers", 0)
    # llama.cpp would read rows of this length, whatever the graph computes.
    for same in ("embedding_length_out", "dense_2_feat_in", "dense_3_feat_out"):
        keys.only(same, width)
    _check_floats(keys)
    if name in _WITH_KV_CACHE:
        _check_kv_cache(layers, attention, reader.size)
    if name in _WITHOUT_PIECES:
        _check_no_pieces(keys)
    elif name not in _WITH_KV_CACHE:
        _check_encoder(keys)
    keys.in_all_layers("feed_forward_length", layers, _MOST_FEED_FORWARD * width)
    return ArchitectureSizes(width=width, layers=layers, attention=attention, scores=_scores(keys), distances=distances)


class _Keys:
    """The keys of the architecture. All methods raise UnfitError."""

    def __init__(self, reader: GgufReader, head: GgufHead, architecture: str) -> None:
        self._reader = reader
        self._head = head
        self._architecture = architecture

    def pooling(self) -> int | None:
        """Return mean, first token, last token or rank, the poolings with one row per text; 0 in a file without such rows.

        Without the key the engine raises the error. Raises UnfitError.
        """
        stated = self._head.values.get(OUTPUTS_KEY)
        try:
            pooled = "dense" in parse_outputs(None if stated is None else str(stated))
        except ValueError as error:
            raise UnfitError(str(error)) from error
        return self.optional("pooling_type", RANK_POOLING, least=1 if pooled else 0)

    def name(self, key: str) -> str:
        """Return the full name of a key."""
        return f"{self._architecture}.{key}"

    def text(self, key: str) -> str | None:
        """Return a string; None if the key is missing."""
        value = self._value(key)
        if value is not None and not isinstance(value, str):
            raise UnfitError(f"key {self.name(key)!r} is {value!r}, expected a string")
        return value

    def flag(self, key: str) -> bool | None:
        """Return a flag; None if the key is missing."""
        value = self._value(key)
        if value is not None and not isinstance(value, bool):
            raise UnfitError(f"key {self.name(key)!r} is {value!r}, expected true or false")
        return value

    def optional(self, key: str, most: int, *, least: int = 1) -> int | None:
        """Return a number from `least` to `most`; None if the key is missing."""
        value = self._value(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise UnfitError(f"key {self.name(key)!r} is {value!r}, expected a number from {least} to {most}")
        return value

    def required(self, key: str, most: int) -> int:
        """Return a required number from 1 to `most`."""
        value = self.optional(key, most)
        if value is None:
            raise UnfitError(f"there is no key {self.name(key)!r}")
        return value

    def only(self, key: str, allowed: int) -> None:
        """Check that a number, if present, has the only value that fits the other keys."""
        value = self._value(key)
        if value is not None and (value != allowed or isinstance(value, bool)):
            raise UnfitError(f"key {self.name(key)!r} is {value!r}; the other keys require {allowed}")

    def in_all_layers(self, key: str, layers: int, most: int, *, default: int | None = None, least: int = 1) -> int:
        """Return a number that may be an array of one per layer; a file whose layers differ is refused.

        Embedding models have equal layers, and llama.cpp allocates with one layer's number and reads with another's.
        """
        name = self.name(key)
        array = self._head.arrays.get(name)
        if array is None:
            value = self.optional(key, most, least=least)
            if value is not None:
                return value
            if default is None:
                raise UnfitError(f"there is no key {name!r}")
            return default
        values = self._numbers(key, layers)
        if values.min() != values.max() or not least <= values[0] <= most:
            raise UnfitError(
                f"key {name!r} is {values.tolist()[:8]}..., not one number from {least} to {most} for all layers"
            )
        return int(values[0])

    def in_some_layers(self, key: str, layers: int, most: int) -> int:
        """Return the number that an array has for some layers; it must have 0 for the others, of which there is one."""
        values = self._numbers(key, layers) if self.name(key) in self._head.arrays else np.zeros(0, dtype="<u4")
        numbers = set(values.tolist())
        if len(numbers) != 2 or min(numbers) != 0 or max(numbers) > most:
            raise UnfitError(
                f"key {self.name(key)!r} is {values.tolist()[:8]}..., not 0 for some of {layers} layers and one number up "
                f"to {most} for the others"
            )
        return int(max(numbers))

    def _numbers(self, key: str, layers: int) -> npt.NDArray[np.uint32]:
        """Return an array of one number per layer."""
        name = self.name(key)
        array = self._head.arrays[name]
        if array.kind not in (UINT32, INT32) or array.count != layers:
            raise UnfitError(f"key {name!r} has {array.count} values of type {array.kind} for {layers} layers")
        return np.frombuffer(b"".join(self._reader.chunks(name, array)), dtype="<u4")

    def strings(self, key: str, most: int) -> int:
        """Return the length of an array of strings; 0 if the key is missing."""
        name = self.name(key)
        array = self._head.arrays.get(name)
        if name in self._head.values or (array is not None and (array.kind != STRING or not 1 <= array.count <= most)):
            raise UnfitError(f"key {name!r} is not an array of 1 to {most} strings")
        return array.count if array is not None else 0

    def flags(self, key: str, layers: int) -> list[bool] | None:
        """Return an array of one flag per layer; None if there is no array."""
        name = self.name(key)
        array = self._head.arrays.get(name)
        if array is None:
            return None
        if array.kind not in (BOOL, UINT32, INT32) or array.count != layers:
            raise UnfitError(f"key {name!r} has {array.count} values of type {array.kind} for {layers} layers")
        raw = b"".join(self._reader.chunks(name, array))
        return [bool(flag) for flag in np.frombuffer(raw, dtype="u1" if array.kind == BOOL else "<u4")]

    def floats(self) -> dict[str, float]:
        """Return all floating-point numbers, by full name."""
        start = f"{self._architecture}."
        return {
            name: value for name, value in self._head.values.items() if name.startswith(start) and isinstance(value, float)
        }

    def _value(self, key: str) -> str | int | float | bool | None:
        if self.name(key) in self._head.arrays:
            raise UnfitError(f"key {self.name(key)!r} is an array")
        return self._head.values.get(self.name(key))


def _attention(keys: _Keys, layers: int, width: int, *, in_some_layers: bool = False) -> Attention:
    heads = keys.in_all_layers("attention.head_count", layers, _MOST_HEADS)
    if in_some_layers:
        kv_heads = keys.in_some_layers("attention.head_count_kv", layers, _MOST_HEADS)
    else:
        kv_heads = keys.in_all_layers("attention.head_count_kv", layers, _MOST_HEADS, default=heads)
    if heads % kv_heads:
        raise UnfitError(f"key {keys.name('attention.head_count_kv')!r} is {kv_heads}, which does not divide {heads} heads")
    head = keys.optional("attention.key_length", _LONGEST_HEAD)
    if head is None:
        if width % heads or not 1 <= width // heads <= _LONGEST_HEAD:
            raise UnfitError(f"key {keys.name('embedding_length')!r} is {width}, not a multiple of {heads} heads")
        head = width // heads
        # Only in this case does llama.cpp use the same length for the values.
        keys.only("attention.value_length", head)
    elif keys.optional("attention.value_length", _LONGEST_HEAD) is None and width // heads != head:
        raise UnfitError(f"there is no key {keys.name('attention.value_length')!r}")
    if heads * head > _MOST_QUERY * width:
        raise UnfitError(f"key {keys.name('attention.head_count')!r}: {heads} heads of {head} are too wide for {width}")
    for same in ("attention.value_length", "attention.key_length_swa", "attention.value_length_swa"):
        keys.only(same, head)
    return Attention(heads, kv_heads, head)


def _check_convolutions(keys: _Keys) -> None:
    """Check the length of the convolutions: llama.cpp asserts that as many tokens are on each side of one."""
    length = keys.required("shortconv.l_cache", _LONGEST_CONVOLUTION)
    if length % 2 == 0 or length < 3:
        raise UnfitError(f"key {keys.name('shortconv.l_cache')!r} is {length}, expected an odd number from 3 on")
    keys.only("attention.sliding_window", 0)
    if keys.flag("attention.causal") is not False:
        # Over the tokens before, a convolution keeps a state, which texts with a common beginning cannot share.
        raise UnfitError(f"key {keys.name('attention.causal')!r} is not false; causal models of this kind are not supported")


def _check_rotation(keys: _Keys, attention: Attention, rotation: Literal["whole", "part", "none"]) -> None:
    rotated = keys.optional("rope.dimension_count", attention.head) or attention.head
    if rotation == "whole" and rotated != attention.head:
        raise UnfitError(
            f"key {keys.name('rope.dimension_count')!r} is {rotated}, expected {attention.head}, the length of a head"
        )
    if rotation != "none" and rotated % 2:
        raise UnfitError(
            f"key {keys.name('rope.dimension_count')!r} or the length of a head is {rotated}, expected an even number"
        )
    keys.only("rope.dimension_count_swa", rotated)
    scaling = keys.text("rope.scaling.type")
    if scaling is not None and scaling not in _SCALINGS:
        raise UnfitError(f"key {keys.name('rope.scaling.type')!r} is {scaling!r}; expected one of {', '.join(_SCALINGS)}")


def _check_windows(keys: _Keys, layers: int, default: tuple[int, bool] | None) -> None:
    """Check that some layers have a window and some do not: llama.cpp creates a mask for each kind and requires its use."""
    window = keys.optional("attention.sliding_window", _MOST_WINDOW)
    if window is None or default is None:
        return
    period, wide_first = default
    key = "attention.sliding_window_pattern"
    near = keys.flags(key, layers)
    if near is None:
        period = keys.optional(key, _MOST_LAYERS) or period
        near = [layer % period != (0 if wide_first else period - 1) for layer in range(layers)]
    if all(near) or not any(near):
        raise UnfitError(f"key {keys.name(key)!r}: {'all' if all(near) else 'none'} of the {layers} layers have a window")


def _check_experts(keys: _Keys, layers: int) -> None:
    experts = keys.optional("expert_count", _MOST_EXPERTS, least=0) or 0
    used = keys.in_all_layers("expert_used_count", layers, experts, default=0, least=min(experts, 1))
    if experts and not used:
        raise UnfitError(f"there is no key {keys.name('expert_used_count')!r}")
    groups = keys.optional("expert_group_count", max(experts - 1, 0), least=0) or 0
    if groups > 1 and experts % groups:
        raise UnfitError(f"key {keys.name('expert_group_count')!r} is {groups}, which does not divide {experts} experts")
    if groups > 1:
        keys.required("expert_group_used_count", groups - 1)


def _check_distances(keys: _Keys, heads: int, context: int) -> int:
    key = "attention.relative_buckets_count"
    distances = keys.required(key, _MOST_DISTANCES)
    if distances < _LEAST_DISTANCES or distances % 2:
        raise UnfitError(
            f"key {keys.name(key)!r} is {distances}, expected an even number from {_LEAST_DISTANCES} to {_MOST_DISTANCES}"
        )
    _check_biases(keys, heads, context)
    return distances


def _check_biases(keys: _Keys, heads: int, context: int) -> None:
    if heads * context**2 > _MOST_BIASES:
        raise UnfitError(f"key {keys.name('context_length')!r} is {context}, for which {heads} heads take too much memory")


def _check_floats(keys: _Keys) -> None:
    for name, value in keys.floats().items():
        if not math.isfinite(value) or abs(value) > _LARGEST_FLOAT:
            raise UnfitError(f"key {name!r} is {value!r}")
        if name.endswith("epsilon") and not 0 <= value < 1:
            raise UnfitError(f"key {name!r} is {value!r}, expected a number from 0 to 1")
        if ".rope.freq_base" in name and value <= 0:
            raise UnfitError(f"key {name!r} is {value!r}, expected a positive number")


def _check_kv_cache(layers: int, attention: Attention, size: int) -> None:
    kept = _KEPT_TOKENS * 4 * layers * attention.kv_heads * attention.head  # keys and values, in F16
    if kept > max(size, _KEPT_BYTES):
        raise UnfitError(
            f"the KV cache of its {layers} layers takes {kept} bytes for {_KEPT_TOKENS} tokens, but the file has {size}"
        )


def _check_encoder(keys: _Keys) -> None:
    """Check that an encoder is not marked as causal: the engine would split long texts."""
    causal = keys.flag("attention.causal")
    if causal or (causal is None and keys.pooling() in (_LAST_POOLING, RANK_POOLING)):
        raise UnfitError(f"key {keys.name('attention.causal')!r} is {causal}, but this architecture is not causal")


def _check_no_pieces(keys: _Keys) -> None:
    """Check that a model that makes no use of its cache is not causal and pooled at the end: long texts would be split."""
    if keys.flag("attention.causal") and keys.pooling() in (_LAST_POOLING, RANK_POOLING):
        raise UnfitError(f"key {keys.name('attention.causal')!r} is true, but this architecture keeps no keys and values")


def _scores(keys: _Keys) -> int | None:
    pooling = keys.pooling()
    labels = keys.strings("classifier.output_labels", _MOST_LABELS)
    return max(1, labels) if pooling == RANK_POOLING else None
