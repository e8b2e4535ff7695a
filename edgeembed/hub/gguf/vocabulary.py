"""Checks of the tokenizer in a GGUF file.

While it tokenizes a text, llama.cpp no longer catches exceptions, so one ends the process, as does a failed assertion. What
llama-vocab.cpp does not verify is checked here: unique tokens, existing special tokens, a token for each byte, and a
normalisation table whose links stay within it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from edgeembed.hub.gguf.file import FLOAT32, INT32, STRING, GgufArray, GgufHead, GgufReader, Scalar
from edgeembed.hub.gguf.tensors import UnfitError

MODEL_KEY = "tokenizer.ggml.model"
SPLITTER_KEY = "tokenizer.ggml.pre"
TOKENS_KEY = "tokenizer.ggml.tokens"
SCORES_KEY = "tokenizer.ggml.scores"
TYPES_KEY = "tokenizer.ggml.token_type"
MERGES_KEY = "tokenizer.ggml.merges"
CHARSMAP_KEY = "tokenizer.ggml.precompiled_charsmap"

_WORDPIECE, _UNIGRAM, _SENTENCEPIECE, _WHITESPACE = "bert", "t5", "llama", "whitespace"
_BYTE_PAIRS = ("gpt2", _WHITESPACE)
_LONGEST_TOKEN = 2048
"""In bytes. llama.cpp inserts the tokens of a Unigram vocabulary into a tree by recursion, one level per letter."""
_MOST_CHARSMAP = 2**21
_MOST_TYPE, _BYTE_TYPE = 6, 6
_NONE = 2**32 - 1
"""A special token's id of -1, "none", in an unsigned key."""

_SPECIAL = (
    "bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "cls", "mask", "prefix", "suffix", "middle",
    "fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep",
)  # fmt: skip
# The ids that llama.cpp (llama_vocab::impl::load) assumes if the file has none.
DEFAULT_IDS = {
    _SENTENCEPIECE: {"bos": 1, "eos": 2, "unknown": 0},
    _WORDPIECE: {"bos": 101, "seperator": 102, "unknown": 100},
    _UNIGRAM: {"eos": 1, "unknown": 2},
    **{name: {"bos": 11, "eos": 11} for name in _BYTE_PAIRS},
}
ADDED_BY_DEFAULT = {_SENTENCEPIECE: ("bos",), _UNIGRAM: ("eos",)}


def check_vocabulary(reader: GgufReader, head: GgufHead) -> int:
    """Check all `tokenizer.*` keys and return the number of tokens. Raises UnfitError, MalformedError."""
    model = head.values.get(MODEL_KEY)
    if model not in DEFAULT_IDS:
        raise UnfitError(f"key {MODEL_KEY!r} is {model!r}, expected one of {', '.join(DEFAULT_IDS)}")
    assert isinstance(model, str)
    tokens = _array(head, TOKENS_KEY, (STRING,))
    if tokens is None or tokens.count == 0:
        raise UnfitError(f"key {TOKENS_KEY!r} has no tokens")
    _check_tokens(reader, tokens, bytes_needed=model == _SENTENCEPIECE)
    _check_scores(reader, head, tokens.count)
    _check_types(reader, head, tokens.count, takes_bytes=model != _WORDPIECE)
    merges = _array(head, MERGES_KEY, (STRING,))
    if merges is None and model in _BYTE_PAIRS:
        raise UnfitError(f"there is no key {MERGES_KEY!r}, which a byte-pair vocabulary requires")
    if head.values.get(SPLITTER_KEY) == _WHITESPACE != model:
        # It keeps spaces, and llama.cpp asserts that a token has none.
        raise UnfitError(f"key {SPLITTER_KEY!r} is {_WHITESPACE!r}, which the tokenizer {model!r} cannot use")
    _check_special_tokens(head.values, model, tokens.count)
    table = _array(head, CHARSMAP_KEY, (0, 1))
    if table is not None and model == _UNIGRAM:
        _check_charsmap(reader, table)
    return tokens.count


def _array(head: GgufHead, key: str, kinds: tuple[int, ...]) -> GgufArray | None:
    if key in head.values:
        raise UnfitError(f"key {key!r} is not an array")
    found = head.arrays.get(key)
    if found is not None and found.kind not in kinds:
        raise UnfitError(f"key {key!r} is an array of the wrong type {found.kind}")
    return found


def _check_tokens(reader: GgufReader, tokens: GgufArray, *, bytes_needed: bool) -> None:
    """Check that tokens are unique and, if asked, that each byte has one; takes 8 bytes of memory per token."""
    hashes = np.sort(
        np.frombuffer(array("q", map(hash, reader.strings(TOKENS_KEY, tokens, _LONGEST_TOKEN))), dtype=np.int64)
    )
    if hash(b"") in hashes:
        hashes = np.sort(np.frombuffer(array("q", map(hash, _named(reader, tokens))), dtype=np.int64))
    if suspects := set(hashes[1:][hashes[1:] == hashes[:-1]].tolist()):
        seen: set[bytes] = set()
        for text in _named(reader, tokens):
            if hash(text) in suspects:
                if text in seen:
                    raise UnfitError(f"key {TOKENS_KEY!r} has the token {text.decode('utf-8', 'replace')!r} twice")
                seen.add(text)
    if bytes_needed:
        names = {name: byte for byte in range(256) for name in (b"<0x%02X>" % byte, bytes([byte]))}
        found = {names[name] for name in set(names).intersection(reader.strings(TOKENS_KEY, tokens))}
        if missing := set(range(256)) - found:
            raise UnfitError(f"key {TOKENS_KEY!r} has no token for the byte {min(missing):02X}")


def _named(reader: GgufReader, tokens: GgufArray) -> Iterator[bytes]:
    """Yield the tokens as llama.cpp names them: it replaces empty ones."""
    for number, text in enumerate(reader.strings(TOKENS_KEY, tokens)):
        yield text or b"[EMPTY_%d]" % number


def _check_scores(reader: GgufReader, head: GgufHead, count: int) -> None:
    scores = _array(head, SCORES_KEY, (FLOAT32, INT32))
    if scores is None:
        return
    _check_count(SCORES_KEY, scores, count)
    if scores.kind == FLOAT32:
        for chunk in reader.chunks(SCORES_KEY, scores):
            if not np.isfinite(np.frombuffer(chunk, dtype="<f4")).all():
                raise UnfitError(f"key {SCORES_KEY!r} has a score that is not finite")


def _check_types(reader: GgufReader, head: GgufHead, count: int, *, takes_bytes: bool) -> None:
    types = _array(head, TYPES_KEY, (INT32,))
    if types is None:
        return
    _check_count(TYPES_KEY, types, count)
    for chunk in reader.chunks(TYPES_KEY, types):
        numbers = np.frombuffer(chunk, dtype="<i4")
        if numbers.min() < 0 or numbers.max() > _MOST_TYPE:
            raise UnfitError(f"key {TYPES_KEY!r} has a token whose type is not within 0 to {_MOST_TYPE}")
        if not takes_bytes and (numbers == _BYTE_TYPE).any():
            raise UnfitError(f"key {TYPES_KEY!r} has a byte token, which a WordPiece vocabulary cannot have")


def _check_count(key: str, found: GgufArray, count: int) -> None:
    if found.count != count:
        raise UnfitError(f"key {key!r} has {found.count} values for {count} tokens")


def _check_special_tokens(values: Mapping[str, Scalar], model: str, count: int) -> None:
    """Check that the ids of special tokens exist, and that required special tokens are set."""
    ids = {role: number for role, number in DEFAULT_IDS[model].items() if number < count}
    for role in _SPECIAL:
        key = f"tokenizer.ggml.{role}_token_id"
        number = values.get(key)
        if number is None or number == _NONE:
            continue
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < count:
            raise UnfitError(f"key {key!r} is {number!r}, expected the id of one of {count} tokens")
        ids[role] = number
    for role in _needed(values, model):
        if role not in ids:
            raise UnfitError(
                f"there is no key 'tokenizer.ggml.{role}_token_id', but the tokenizer {model!r} adds that token"
            )


def _needed(values: Mapping[str, Scalar], model: str) -> Iterable[str]:
    if model == _WORDPIECE:
        return ("bos", "seperator", "unknown")
    needed = [
        role
        for role in ("bos", "eos")
        if values.get(f"tokenizer.ggml.add_{role}_token", role in ADDED_BY_DEFAULT.get(model, ()))
    ]
    return [*needed, "unknown"] if model == _UNIGRAM else needed


# --- the normalisation table of SentencePiece ---------------------------------------------------------------------------

_LEAF, _WIDE = 1 << 8, 1 << 9
_LABEL, _VALUE = (1 << 31) | 0xFF, (1 << 31) - 1
_NODES_AT_ONCE = 2048
"""Nodes that are visited together; each has 255 possible children."""


def _check_charsmap(reader: GgufReader, table: GgufArray) -> None:
    """Check that every path through the table, for any text, stays inside the table and ends at a replacement.

    Format: sentencepiece's precompiled charsmap: the length of a double array of 32-bit units (Darts-clone), the units,
    then the replacements, each ending with a zero byte.
    """
    if not 4 < table.count <= _MOST_CHARSMAP:
        raise UnfitError(f"key {CHARSMAP_KEY!r} has {table.count} bytes")
    blob = b"".join(reader.chunks(CHARSMAP_KEY, table))
    length = int.from_bytes(blob[:4], "little")
    replacements = blob[4 + length :]
    if length % 4 or not length or not replacements or replacements[-1]:
        raise UnfitError(f"key {CHARSMAP_KEY!r} is damaged: its parts do not add up to its size")
    units = np.frombuffer(blob, dtype="<u4", count=length // 4, offset=4)
    letters = np.arange(1, 256, dtype=np.uint32)
    seen = np.zeros(len(units), dtype=bool)
    todo = [_base(units[:1])]  # offsets of the children of the nodes reached so far
    while todo:
        front = todo.pop()
        if len(front) > _NODES_AT_ONCE:
            todo.append(front[_NODES_AT_ONCE:])
        front = front[:_NODES_AT_ONCE]
        nodes = (front[:, None] ^ letters).ravel()
        _check_inside(nodes, len(units))
        found = units[nodes]
        match = (found & _LABEL) == np.tile(letters, len(front))
        nodes, found = nodes[match], found[match]
        children = nodes ^ _base(found)
        leaves = children[(found & _LEAF) != 0]
        _check_inside(leaves, len(units))
        _check_inside(units[leaves] & _VALUE, len(replacements))
        new = ~seen[nodes]
        seen[nodes] = True
        if new.any():
            todo.append(np.unique(children[new]))


def _check_inside(places: npt.NDArray[np.uint32], length: int) -> None:
    if len(places) and places.max() >= length:
        raise UnfitError(f"key {CHARSMAP_KEY!r} is damaged: it points outside itself")


def _base(units: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    base: npt.NDArray[np.uint32] = (units >> np.uint32(10)) << ((units & np.uint32(_WIDE)) >> np.uint32(6))
    return base
