"""Whether the sizes of a model, the `{architecture}.*` keys of a GGUF file, are ones that llama.cpp can compute with.

llama.cpp divides by them, allocates by them and asserts on them (llama-model.cpp, load_hparams, and the graphs in models/).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgeembed.hub.gguf.file import BOOL, INT32, STRING, UINT32, GgufHead, GgufReader
from edgeembed.hub.gguf.header import RANK_POOLING
from edgeembed.hub.gguf.tensors import Attention, UnfitError

ARCHITECTURE_KEY = "general.architecture"

# The architectures that embedding models and rerankers come in, and what turns with a token's position: whole heads, parts
# of them or none. What llama.cpp does with a hostile file of any other architecture nobody has looked at.
_ROTATIONS: dict[str, Literal["whole", "part", "none"]] = {
    "bert": "none", "nomic-bert": "part", "nomic-bert-moe": "part", "jina-bert-v2": "none", "jina-bert-v3": "part",
    "modern-bert": "part", "neo-bert": "part", "eurobert": "part", "gemma-embedding": "part", "gemma2": "part",
    "gemma3": "part", "llama": "whole", "llama-embed": "whole", "qwen2": "whole", "qwen3": "whole",
}  # fmt: skip

# Where some layers look only at tokens nearby: every how manieth does not unless the file says so, and whether the first one
# of those is the first layer.
_WINDOWS = {"gemma-embedding": (6, False), "gemma2": (2, False), "gemma3": (6, False), "modern-bert": (3, True)}

_MOST_LAYERS = 512
"""llama.cpp's LLAMA_MAX_LAYERS."""
_MOST_EXPERTS = 16
"""llama.cpp sorts their scores with std::sort, which reads beyond the end when there are more and one is not a number."""
_MOST_HEADS, _LONGEST_HEAD = 1024, 1024
_MOST_WIDTH = 2**17
_MOST_FEED_FORWARD, _MOST_QUERY = 32, 16
"""In proportion to the width: what is computed for each token of a batch must not dwarf the file."""
_KEEPS_KEYS = ("gemma2", "gemma3", "llama", "qwen2", "qwen3")
"""Those that keep keys and values of every token in their context."""
_KEPT_TOKENS, _KEPT_BYTES = 512, 2**22
"""The keys and values of so many tokens must not take more room than the file, or this."""
_MOST_CONTEXT = 2**24
_MOST_WINDOW = 2**20
_MOST_LABELS = 1024
_LAST_POOLING = 3
_SCALINGS = ("none", "linear", "yarn", "longrope")
_LARGEST_REAL = 1e12


@dataclass(frozen=True)
class ArchitectureSizes:
    """What the other parts of the file have to fit."""

    width: int
    """Of a token's embedding and of a text's vector."""
    layers: int
    feed_forward: int
    attention: Attention
    scores: int | None
    """How many numbers a reranker gives for a pair; None for an embedder."""


def check_sizes(reader: GgufReader, head: GgufHead) -> ArchitectureSizes:
    """Check everything under the architecture's name. Raises UnfitError, MalformedError."""
    name = head.values.get(ARCHITECTURE_KEY)
    if name not in _ROTATIONS:
        raise UnfitError(
            f"key {ARCHITECTURE_KEY!r} is {name!r}; the architectures that embedding models come in are "
            f"{', '.join(_ROTATIONS)}"
        )
    assert isinstance(name, str)
    keys = _Keys(reader, head, name)
    width = keys.required("embedding_length", _MOST_WIDTH)
    layers = keys.required("block_count", _MOST_LAYERS)
    keys.required("context_length", _MOST_CONTEXT)
    attention = _attention(keys, layers, width)
    _check_rotation(keys, attention, _ROTATIONS[name])
    _check_experts(keys, layers)
    _check_windows(keys, layers, _WINDOWS.get(name))
    keys.only("nextn_predict_layers", 0)
    # llama.cpp would read rows of this length, whatever the graph gives.
    for same in ("embedding_length_out", "dense_2_feat_in", "dense_3_feat_out"):
        keys.only(same, width)
    _check_reals(keys)
    if name in _KEEPS_KEYS:
        _check_kept(layers, attention, reader.size)
    else:
        _check_encoder(keys)
    return ArchitectureSizes(
        width=width,
        layers=layers,
        feed_forward=keys.in_all_layers("feed_forward_length", layers, _MOST_FEED_FORWARD * width),
        attention=attention,
        scores=_scores(keys),
    )


class _Keys:
    """Numbers under the architecture's name. All methods raise UnfitError."""

    def __init__(self, reader: GgufReader, head: GgufHead, architecture: str) -> None:
        self._reader = reader
        self._head = head
        self._architecture = architecture

    def name(self, key: str) -> str:
        """Give the whole name."""
        return f"{self._architecture}.{key}"

    def text(self, key: str) -> str | None:
        """Give a word."""
        value = self._value(key)
        if value is not None and not isinstance(value, str):
            raise UnfitError(f"key {self.name(key)!r} is {value!r}, no word")
        return value

    def flag(self, key: str) -> bool | None:
        """Give a flag; None where there is none."""
        value = self._value(key)
        if value is not None and not isinstance(value, bool):
            raise UnfitError(f"key {self.name(key)!r} is {value!r}, neither true nor false")
        return value

    def optional(self, key: str, most: int, *, least: int = 1) -> int | None:
        """Give a number from `least` to `most`; None where there is none."""
        value = self._value(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise UnfitError(f"key {self.name(key)!r} is {value!r}, no number from {least} to {most}")
        return value

    def required(self, key: str, most: int) -> int:
        """Give a number from 1 to `most` that has to be there."""
        value = self.optional(key, most)
        if value is None:
            raise UnfitError(f"there is no key {self.name(key)!r}")
        return value

    def only(self, key: str, allowed: int) -> None:
        """Check a number that follows from others."""
        value = self._value(key)
        if value is not None and (value != allowed or isinstance(value, bool)):
            raise UnfitError(f"key {self.name(key)!r} is {value!r}; only {allowed} fits the rest")

    def in_all_layers(self, key: str, layers: int, most: int, *, default: int | None = None, least: int = 1) -> int:
        """Give a number that may stand there once for each layer; a file where layers differ is refused.

        Models that embed have equal layers, and llama.cpp allocates by one layer's number what it reads with another's.
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
        if array.kind not in (UINT32, INT32) or array.count != layers:
            raise UnfitError(f"key {name!r} has {array.count} values of type {array.kind} for {layers} layers")
        values = np.frombuffer(b"".join(self._reader.chunks(name, array)), dtype="<u4")
        if values.min() != values.max() or not least <= values[0] <= most:
            raise UnfitError(
                f"key {name!r} is {values.tolist()[:8]}..., not one number from {least} to {most} for all layers"
            )
        return int(values[0])

    def strings(self, key: str, most: int) -> int:
        """Give how many strings there are; 0 without the key."""
        name = self.name(key)
        array = self._head.arrays.get(name)
        if name in self._head.values or (array is not None and (array.kind != STRING or not 1 <= array.count <= most)):
            raise UnfitError(f"key {name!r} is no array of 1 to {most} strings")
        return array.count if array is not None else 0

    def flags(self, key: str, layers: int) -> list[bool] | None:
        """Give an array of one flag for each layer; None where there is no array."""
        name = self.name(key)
        array = self._head.arrays.get(name)
        if array is None:
            return None
        if array.kind not in (BOOL, UINT32, INT32) or array.count != layers:
            raise UnfitError(f"key {name!r} has {array.count} values of type {array.kind} for {layers} layers")
        raw = b"".join(self._reader.chunks(name, array))
        return [bool(flag) for flag in np.frombuffer(raw, dtype="u1" if array.kind == BOOL else "<u4")]

    def reals(self) -> dict[str, float]:
        """Give every floating-point number."""
        start = f"{self._architecture}."
        return {
            name: value for name, value in self._head.values.items() if name.startswith(start) and isinstance(value, float)
        }

    def _value(self, key: str) -> str | int | float | bool | None:
        if self.name(key) in self._head.arrays:
            raise UnfitError(f"key {self.name(key)!r} is an array")
        return self._head.values.get(self.name(key))


def _attention(keys: _Keys, layers: int, width: int) -> Attention:
    heads = keys.in_all_layers("attention.head_count", layers, _MOST_HEADS)
    kv_heads = keys.in_all_layers("attention.head_count_kv", layers, _MOST_HEADS, default=heads)
    if heads % kv_heads:
        raise UnfitError(f"key {keys.name('attention.head_count_kv')!r} is {kv_heads}, which does not divide {heads} heads")
    head = keys.optional("attention.key_length", _LONGEST_HEAD)
    if head is None:
        if width % heads or not 1 <= width // heads <= _LONGEST_HEAD:
            raise UnfitError(f"key {keys.name('embedding_length')!r} is {width}, which {heads} heads do not divide")
        head = width // heads
        # Only then does llama.cpp take the same for the values.
        keys.only("attention.value_length", head)
    elif keys.optional("attention.value_length", _LONGEST_HEAD) is None and width // heads != head:
        raise UnfitError(f"there is no key {keys.name('attention.value_length')!r}")
    if heads * head > _MOST_QUERY * width:
        raise UnfitError(f"key {keys.name('attention.head_count')!r}: {heads} heads of {head} are too wide for {width}")
    for same in ("attention.value_length", "attention.key_length_swa", "attention.value_length_swa"):
        keys.only(same, head)
    return Attention(heads, kv_heads, head)


def _check_rotation(keys: _Keys, attention: Attention, rotation: Literal["whole", "part", "none"]) -> None:
    turned = keys.optional("rope.dimension_count", attention.head) or attention.head
    if rotation == "whole" and turned != attention.head:
        raise UnfitError(f"key {keys.name('rope.dimension_count')!r} is {turned}; heads of {attention.head} turn as a whole")
    if rotation != "none" and turned % 2:
        raise UnfitError(f"key {keys.name('rope.dimension_count')!r} or the length of a head is {turned}, an odd number")
    keys.only("rope.dimension_count_swa", turned)
    scaling = keys.text("rope.scaling.type")
    if scaling is not None and scaling not in _SCALINGS:
        raise UnfitError(f"key {keys.name('rope.scaling.type')!r} is {scaling!r}; known are {', '.join(_SCALINGS)}")


def _check_windows(keys: _Keys, layers: int, default: tuple[int, bool] | None) -> None:
    """Check that there are layers with a window and layers without: llama.cpp makes a mask for each, and wants both used."""
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
        raise UnfitError(
            f"key {keys.name(key)!r}: of {layers} layers {'all' if all(near) else 'none'} look through a window"
        )


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


def _check_reals(keys: _Keys) -> None:
    for name, value in keys.reals().items():
        if not math.isfinite(value) or abs(value) > _LARGEST_REAL:
            raise UnfitError(f"key {name!r} is {value!r}")
        if name.endswith("epsilon") and not 0 <= value < 1:
            raise UnfitError(f"key {name!r} is {value!r}, no small positive number")
        if ".rope.freq_base" in name and value <= 0:
            raise UnfitError(f"key {name!r} is {value!r}, no positive number")


def _check_kept(layers: int, attention: Attention, size: int) -> None:
    kept = _KEPT_TOKENS * 4 * layers * attention.kv_heads * attention.head  # keys and values, in F16
    if kept > max(size, _KEPT_BYTES):
        raise UnfitError(f"its {layers} layers keep {kept} bytes for {_KEPT_TOKENS} tokens, and the file has {size}")


def _check_encoder(keys: _Keys) -> None:
    """Check that nobody takes it for a model that reads in one direction, and gives it a long text in pieces."""
    causal = keys.flag("attention.causal")
    if causal or (causal is None and keys.optional("pooling_type", RANK_POOLING) in (_LAST_POOLING, RANK_POOLING)):
        raise UnfitError(f"key {keys.name('attention.causal')!r} is {causal}; this architecture sees all of a text at once")


def _scores(keys: _Keys) -> int | None:
    # Mean, first token, last token, rank: those that give one row for a text. Without the key the engine says so itself.
    pooling = keys.optional("pooling_type", RANK_POOLING)
    labels = keys.strings("classifier.output_labels", _MOST_LABELS)
    return max(1, labels) if pooling == RANK_POOLING else None
