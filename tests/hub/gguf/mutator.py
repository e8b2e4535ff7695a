"""Damages GGUF files in thousands of ways, each with a name and repeatable by its seed.

Some damage is blind: bits, lengths and counts overwritten where they lie. Some is careful: the file is taken apart, one
thing in it is changed, and it is put together again with right lengths and offsets, so that only the change itself is
wrong; that is what a hostile file looks like.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

from tests.hub.gguf.parts import (
    ALIGNMENT,
    ARCHITECTURE,
    ARRAY,
    BOOL,
    CODES,
    SIZES,
    STRING,
    Array,
    Gguf,
    Pair,
    read,
    size_of,
    write,
)

_INTEGERS = [0, 1, 2, 3, 5, 7, 31, 33, 63, 127, 255, 256, 512, 513, 4096, 65_535, 2**20, 2**24, 2**31 - 1, 2**31, 2**32 - 1]
_REALS = [math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-30, 1.0, 1e30, 3.4e38]
_WORDS = [
    "", "bert", "qwen3", "qwen2", "llama", "nomic-bert", "modern-bert", "gemma-embedding", "gemma3", "t5", "mamba", "clip",
    "gpt2", "whitespace", "none", "rwkv", "plamo2", "default", "qwen2vl", "jina-bert-v2", "linear", "yarn", "longrope",
    "phi-3", "\0", "{", "{text:>999999999}", "{document", "x" * 300, "[[]]", "AAAA",
]  # fmt: skip


# --- blind damage -------------------------------------------------------------------------------------------------------


def _overwrite(content: bytes, at: int, raw: bytes) -> bytes:
    return content[:at] + raw + content[at + len(raw) :]


def _flip_bits(random: random.Random, file: Gguf, content: bytes) -> tuple[str, bytes]:
    damaged = bytearray(content)
    places = [random.randrange(file.spots["head"][0]) for _ in range(random.choice([1, 1, 2, 8]))]
    for place in places:
        damaged[place] ^= 1 << random.randrange(8)
    return f"bits flipped at {places}", bytes(damaged)


def _flip_weights(random: random.Random, file: Gguf, content: bytes) -> tuple[str, bytes]:
    damaged = bytearray(content)
    start = file.spots["head"][0]
    for _ in range(64):
        damaged[random.randrange(start, len(content))] = random.randrange(256)
    return "bytes of the weights", bytes(damaged)


def _cut(random: random.Random, file: Gguf, content: bytes) -> tuple[str, bytes]:
    length = random.choice([random.randrange(len(content)), random.randrange(file.spots["head"][0]), len(content) - 33])
    return f"cut to {length} bytes", content[:length]


def _tail(random: random.Random, _file: Gguf, content: bytes) -> tuple[str, bytes]:
    length = random.choice([1, 31, 4096])
    return f"{length} bytes of garbage behind it", content + random.randbytes(length)


def _header(random: random.Random, _file: Gguf, content: bytes) -> tuple[str, bytes]:
    at = random.choice([0, 4, 4, 8, 16])
    raw = random.choice(
        [b"\0\0\0\x03", b"\1\0\0\0", b"\2\0\0\0", b"\4\0\0\0", b"\xff" * 8, random.randbytes(4), b"\1" + bytes(7)]
    )
    return f"header: {raw!r} at {at}", _overwrite(content, at, raw)


def _spot(random: random.Random, file: Gguf, content: bytes) -> tuple[str, bytes]:
    what = random.choice(["count", "length", "length", "type", "dimension", "offset"])
    at = random.choice(file.spots[what])
    width = 4 if what == "type" else 8
    old = int.from_bytes(content[at : at + width], "little")
    new = random.choice(
        [old + 1, old - 1, old * 2, old + 32, 0, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1, random.randrange(64)]
    )
    return f"{what} {old} at {at} is {new}", _overwrite(content, at, (new % 2 ** (8 * width)).to_bytes(width, "little"))


# --- careful damage -----------------------------------------------------------------------------------------------------


def _shown(name: bytes) -> str:
    return name[:60].decode("utf-8", "replace")


def _number(random: random.Random, file: Gguf) -> str:
    pair = random.choice([pair for pair in file.pairs if pair.kind in CODES])
    old = pair.value
    assert isinstance(old, int | float)
    if CODES[pair.kind] in "fd":
        pair.value = random.choice(_REALS)
    elif pair.kind == BOOL:
        pair.value = random.choice([1 - int(old), 2, 255])
    else:
        pair.value = random.choice([*_INTEGERS, int(old) + 1, int(old) - 1, int(old) * 2, int(old) // 2])
    return f"{_shown(pair.key)} is {pair.value} instead of {old}"


def _string(random: random.Random, file: Gguf) -> str:
    pair = random.choice([pair for pair in file.pairs if pair.kind == STRING])
    assert isinstance(pair.value, bytes)
    cut = random.randrange(len(pair.value) + 1)
    pair.value = random.choice([random.choice(_WORDS).encode(), random.randbytes(9), pair.value[:cut], pair.value * 2])
    return f"{_shown(pair.key)} is {pair.value[:40]!r}"


def _kind(random: random.Random, file: Gguf) -> str:
    """Change a key's type, with a value of that type."""
    pair = random.choice(file.pairs)
    pair.kind = random.choice([*CODES, STRING, ARRAY])
    pair.value = random.choice(_INTEGERS[:8])
    if pair.kind == STRING:
        pair.value = b"7"
    elif pair.kind == ARRAY:
        inner = random.choice([4, 5, 5, 6, BOOL, STRING, ARRAY])
        count = random.choice([0, 1, 2, 3])
        items = {STRING: [b"a", b"b", b"c"], ARRAY: [Array(4, [1])] * 3, BOOL: [0, 1, 2]}.get(inner, [1, 2, 3])
        pair.value = Array(inner, items[:count])  # type: ignore[arg-type]
    return f"{_shown(pair.key)} has type {pair.kind}: {str(pair.value)[:40]}"


def _keys(random: random.Random, file: Gguf) -> str:
    how = random.choice(["drop", "twice", "rename", "swap", "architecture"])
    at = random.randrange(len(file.pairs))
    key = file.pairs[at].key
    if how == "drop":
        del file.pairs[at]
    elif how == "twice":
        file.pairs.append(replace(file.pairs[at]))
    elif how == "rename":
        file.pairs[at].key = random.choice([key + b"x", b"", key[:-1], key + b"\0x", random.randbytes(8), b"k" * 70_000])
    elif how == "swap":
        other = random.randrange(len(file.pairs))
        file.pairs[at].key, file.pairs[other].key = file.pairs[other].key, key
    else:
        _rename_architecture(file, random.choice(_WORDS).encode())
    return f"{how} {_shown(key)}"


def _rename_architecture(file: Gguf, name: bytes) -> None:
    old = file.architecture
    for pair in file.pairs:
        if pair.key.startswith(old + b"."):
            pair.key = name + pair.key[len(old) :]
        elif pair.key == ARCHITECTURE and pair.kind == STRING:
            pair.value = name


_EXTRA: dict[str, tuple[int, list[int | float | bytes | Array]]] = {
    "attention.key_length": (4, [0, 1, 3, 8, 15, 17, 32, 2**31]),
    "attention.value_length": (4, [0, 1, 3, 8, 15, 17, 32, 2**31]),
    "attention.head_count_kv": (4, [0, 1, 2, 3, 4, 2**31]),
    "attention.key_length_swa": (4, [0, 8, 2**20]),
    "attention.causal": (BOOL, [0, 1]),
    "attention.sliding_window": (4, [0, 1, 2**32 - 1]),
    "attention.sliding_window_pattern": (4, [0, 1, 2**32 - 1]),
    "shortconv.l_cache": (4, [0, 1, 2, 3, 4, 5, 63, 2**31]),
    "rope.dimension_count": (4, [0, 1, 7, 8, 15, 17, 2**31]),
    "rope.scaling.type": (STRING, [b"linear", b"yarn", b"longrope", b"su", b""]),
    "rope.scaling.factor": (6, [0.0, math.nan, math.inf, -1.0, 1e-38]),
    "rope.scaling.original_context_length": (4, [0, 1, 2**32 - 1]),
    "rope.freq_base": (6, [0.0, math.nan, -1.0, 1e30]),
    "expert_count": (4, [1, 2, 8, 1025, 2**31]),
    "expert_used_count": (4, [1, 2, 2**31]),
    "expert_group_count": (4, [1, 2, 2**31]),
    "nextn_predict_layers": (4, [1, 2, 2**31]),
    "embedding_length_out": (4, [1, 63, 65, 2**20, 2**31]),
    "dense_2_feat_in": (4, [1, 65]),
    "dense_2_feat_out": (4, [1, 65, 2**31]),
    "classifier.output_labels": (ARRAY, [Array(STRING, []), Array(STRING, [b"a"] * 9), Array(4, [1, 2])]),
    "pooling_type": (4, [0, 1, 2, 3, 4, 5, 2**31]),
    "vocab_size": (4, [0, 1, 2**31]),
    "feed_forward_length": (ARRAY, [Array(5, [128, 2**30]), Array(5, [128, 128]), Array(5, [0, 0])]),
    "attention.head_count": (ARRAY, [Array(5, [4, 2**20]), Array(5, [4, 4]), Array(5, [4, 0]), Array(5, [-4, -4])]),
}
_EXTRA_WHOLE: dict[str, tuple[int, list[int | float | bytes | Array]]] = {
    "split.count": (2, [0, 1, 2, 65_535]),
    "general.alignment": (4, [0, 1, 8, 24, 33, 64, 2**31]),
    "tokenizer.ggml.add_bos_token": (BOOL, [0, 1]),
    "tokenizer.ggml.add_eos_token": (BOOL, [0, 1]),
    "tokenizer.ggml.bos_token_id": (4, [0, 10**6, 2**31, 2**32 - 1]),
    "tokenizer.ggml.eos_token_id": (4, [0, 10**6, 2**31, 2**32 - 1]),
    "tokenizer.ggml.seperator_token_id": (4, [0, 10**6, 2**32 - 1]),
    "tokenizer.ggml.model": (STRING, [b"bert", b"gpt2", b"t5", b"llama", b"whitespace", b"none", b"rwkv", b"test"]),
    "tokenizer.ggml.pre": (STRING, [b"default", b"kimi-k2", b"tekken", b"chameleon", b"superbpe", b"gemma4", b"nonsense"]),
    "general.name": (STRING, [b"phi-3", b"modern-bert", b"x" * 5000]),
    "edgeembed.prompt.query": (STRING, [b"{text:>999999999}", b"{text!r}", b"{text.format}", b"{", b"{text}{text}", b"q"]),
    "edgeembed.prompt.rerank": (STRING, [b"{query", b"{query:>999999999}", b"{0}", b"[CLS]{query}[SEP]{document}", b"x"]),
    "edgeembed.text.template": (STRING, [b"{instruction}{text}", b"<s>{instruction}</s>{text}", b"{text}", b"{0}"]),
    "edgeembed.rerank.classifier": (8, [b"", b"AAAA", b"////" * 4, b"A" * 8192]),
    "edgeembed.rerank.second_segment": (4, [1, 2**31, 2**32 - 1]),
    "edgeembed.canary.texts": (STRING, [b"[]", b"{}", b'["a"]', b'[["a","b"]]', b"x"]),
    "edgeembed.canary.rows": (STRING, [b"", b"AAAAAA==", b"AACAPw==", b"!"]),
    "edgeembed.matryoshka.min": (4, [0, 2**31]),
}  # fmt: skip


def _extra(random: random.Random, file: Gguf) -> str:
    """Set a key that the file may not have, to a value that a careless reader would trust."""
    keys = {f"{file.architecture.decode('utf-8', 'replace')}.{key}": choice for key, choice in _EXTRA.items()} | _EXTRA_WHOLE
    key = random.choice(list(keys))
    kind, values = keys[key]
    value = random.choice(values)
    file.pairs = [*(pair for pair in file.pairs if pair.key != key.encode()), Pair(key.encode(), kind, value)]
    return f"{key} set to {str(value)[:40]}"


def _array(random: random.Random, file: Gguf) -> str:
    """Change the values or the length of an array, mostly one of the tokenizer's."""
    pair = random.choice([pair for pair in file.pairs if isinstance(pair.value, Array)])
    assert isinstance(pair.value, Array)
    kind, values = pair.value
    items: list[bytes | int | float] = list(values)
    how = random.choice(["cut", "grow", "twice", "change", "change", "shuffle", "empty"])
    at = random.randrange(len(items)) if items else 0
    if how == "cut":
        items = items[:at]
    elif how == "grow":
        items += items[:1] * random.choice([1, 7, 1000])
    elif how == "twice" and items:
        items[at] = items[at - 1]
    elif how == "shuffle":
        random.shuffle(items)
    elif how == "empty":
        items = []
    for place in [at, *(random.randrange(len(items)) for _ in range(8))] if how == "change" and items else []:
        if kind == STRING:
            items[place] = random.choice([b"", b"\xff\xfe", b"<0x", b"x" * 3000, b"[EMPTY_1]", b" ", random.randbytes(5)])
        elif kind == 6:
            items[place] = random.choice(_REALS)
        else:
            items[place] = random.choice([0, 1, 2, 3, 4, 5, 6, 7, 100, -1]) % (256 if kind in (0, 1) else 100)
            items[place] = min(int(items[place]), 127) if kind == 1 else items[place]
    pair.value = Array(kind, items)  # type: ignore[arg-type]
    return f"{_shown(pair.key)}: {how} at {at}"


def _tensor(random: random.Random, file: Gguf) -> str:
    """Change a tensor and its data so that the file stays complete."""
    how = random.choice(["kind", "kind", "kind", "shape", "shape", "drop", "twice", "name", "swap", "cut", "flat"])
    at = random.randrange(len(file.tensors))
    tensor = file.tensors[at]
    name = _shown(tensor.name)
    if how == "drop":
        del file.tensors[at]
    elif how == "twice":
        file.tensors.append(replace(tensor))
    elif how == "name":
        tensor.name = random.choice(
            [b"", tensor.name + b"\0", tensor.name + b"x", b"n" * 64, b"\xff", b"blk.99.attn_q.weight"]
        )
    elif how == "swap":
        other = random.choice(file.tensors)
        tensor.name, other.name = other.name, tensor.name
    else:
        if how == "kind":
            tensor.kind = random.choice([*SIZES, 4, 31, 36, 43, 99])
        elif how == "shape":
            axis = random.randrange(len(tensor.shape))
            tensor.shape[axis] = random.choice([1, 2, 32, 256, tensor.shape[axis] * 2, max(1, tensor.shape[axis] // 2)])
        elif how == "cut":
            tensor.shape[-1] = max(1, tensor.shape[-1] - random.choice([1, 8]))
        else:
            tensor.shape = random.choice(
                [[*tensor.shape, 1], [*tensor.shape, 2], [math.prod(tensor.shape)], tensor.shape[::-1], []]
            )
        size = size_of(tensor.shape, tensor.kind) if math.prod(tensor.shape) < 2**22 else 0
        tensor.data = (tensor.data * (size // max(1, len(tensor.data)) + 1))[:size]
    return f"tensor {name}: {how} -> {tensor.name[:20]!r} {tensor.shape} {tensor.kind}"


def _realigned(random: random.Random, file: Gguf) -> str:
    file.alignment = random.choice([1, 8, 16, 64, 4096, 2**17])
    file.pairs = [*(pair for pair in file.pairs if pair.key != ALIGNMENT)]
    file.pairs.append(Pair(ALIGNMENT, 4, file.alignment))
    return f"laid out again with alignment {file.alignment}"


def _fewer_layers(random: random.Random, file: Gguf) -> str:
    """Change the number of layers, or leave some of them out."""
    layer = random.choice([b"blk.0.", b"blk.1."])
    file.tensors = [tensor for tensor in file.tensors if not tensor.name.startswith(layer)]
    return f"without {layer.decode()}*"


_BLIND: list[Callable[[random.Random, Gguf, bytes], tuple[str, bytes]]] = [
    _flip_bits, _flip_bits, _flip_bits, _flip_weights, _cut, _tail, _header, _spot, _spot, _spot,
]  # fmt: skip
_CAREFUL: list[Callable[[random.Random, Gguf], str]] = [
    _number, _number, _number, _string, _kind, _keys, _keys, _extra, _extra, _extra, _array, _array, _tensor, _tensor,
    _tensor, _realigned, _fewer_layers,
]  # fmt: skip


def mutate(content: bytes, seed: int, *, careful: bool | None = None) -> tuple[str, bytes]:
    """Damage a sound file; return the name of the damage, and the damaged file.

    careful: change things inside a file that stays well-formed; None leaves it to the seed.
    """
    source = random.Random(seed)
    file = read(content)
    if careful is None:
        careful = source.random() < 0.7
    if not careful:
        return source.choice(_BLIND)(source, file, content)
    done = [source.choice(_CAREFUL)(source, file)]
    if source.random() < 0.2:
        done.append(source.choice(_CAREFUL)(source, file))
    return "; ".join(done), write(file)
