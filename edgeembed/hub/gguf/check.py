"""Whether a GGUF file can be given to llama.cpp: whole, of a known architecture, with numbers that fit together.

llama.cpp trusts a file in many places, and a failed assertion there ends the process. So a file is looked at before
llama.cpp opens it, and refused by the name of the key or the tensor at fault. Sources: the GGUF specification (ggml,
docs/gguf.md), and what llama.cpp 0c1e57098 reads; the parts of the work are in the modules `gguf_*`.
"""

from __future__ import annotations

import string
from pathlib import Path

from edgeembed.engine import canary
from edgeembed.engine.pair_template import SECOND_SEGMENT_KEY, TEMPLATE_KEY
from edgeembed.errors import HubError
from edgeembed.hub.catalogue import Prompts
from edgeembed.hub.gguf.architecture import ArchitectureSizes, check_sizes
from edgeembed.hub.gguf.file import GgufHead
from edgeembed.hub.gguf.header import GgufHeader, open_gguf
from edgeembed.hub.gguf.tensors import (
    UnfitError,
    check_dense,
    check_embeddings,
    check_kinds,
    check_layers,
    check_layout,
    check_scores,
)
from edgeembed.hub.gguf.vocabulary import check_vocabulary

SPLIT_KEY = "split.count"
_PROMPT_KEYS = {kind: f"edgeembed.prompt.{kind}" for kind in ("query", "document", "instruction")}
_MATRYOSHKA_KEYS = ("edgeembed.matryoshka.min", "edgeembed.matryoshka.max")
_MOST_CANARY_TEXTS, _LONGEST_CANARY_TEXTS = 64, 2**16
"""Each is computed whenever the file is loaded."""


def check_gguf(path: Path) -> GgufHeader:
    """Check a GGUF file's whole head and give its metadata. The weights themselves are not read.

    A vocabulary of 150,000 tokens and as many merges takes a fifth of a second, and three megabytes of memory. Raises
    UnknownModelError when there is no such file, HubError naming key or tensor and the reason when llama.cpp should not see
    this one.
    """
    with open_gguf(path) as reader:
        try:
            head = reader.head()
            if head.values.get(SPLIT_KEY, 0) not in (0, 1):
                raise UnfitError(f"key {SPLIT_KEY!r}: it is one part of {head.values[SPLIT_KEY]}; join the parts first")
            tensors = reader.tensors(head)
            check_layout(head, tensors, reader.position, reader.size)
            by_name = {tensor.name: tensor for tensor in tensors}
            sizes = check_sizes(reader, head)
            check_kinds(by_name)
            check_layers(by_name, sizes.layers, sizes.attention, sizes.feed_forward)
            check_dense(by_name, sizes.width)
            if sizes.scores is not None:
                check_scores(by_name, sizes.scores)
            tokens = check_vocabulary(reader, head)
            check_embeddings(by_name, sizes.width, tokens)
            _check_own_keys(head, sizes, tokens)
        except UnfitError as error:
            raise HubError(f"{path} is not fit for llama.cpp: {error}") from error
    return GgufHeader(head.values)


def _check_own_keys(head: GgufHead, sizes: ArchitectureSizes, tokens: int) -> None:
    """Check what our converter writes and our own code reads. Raises UnfitError."""
    values = head.values
    for key in (*_PROMPT_KEYS.values(), TEMPLATE_KEY, canary.TEXTS_KEY, canary.ROWS_KEY):
        if not isinstance(values.get(key, ""), str):
            raise UnfitError(f"key {key!r} is {values[key]!r}, no text")
    texts = {key: value for key, value in values.items() if isinstance(value, str)}
    _check_prompts(texts)
    offset = values.get(SECOND_SEGMENT_KEY, 0)
    if not isinstance(offset, int) or isinstance(offset, bool) or not 0 <= offset < tokens:
        raise UnfitError(f"key {SECOND_SEGMENT_KEY!r} is {offset!r}, which is none of {tokens} tokens")
    least, most = (values.get(key) for key in _MATRYOSHKA_KEYS)
    if (least, most) != (None, None) and not (
        isinstance(least, int) and isinstance(most, int) and 1 <= least <= most <= sizes.width
    ):
        raise UnfitError(f"keys {' and '.join(_MATRYOSHKA_KEYS)}: {least!r} and {most!r} are no range in 1 to {sizes.width}")
    if canary.TEXTS_KEY in texts and canary.ROWS_KEY in texts:
        _check_canary(texts[canary.TEXTS_KEY], texts[canary.ROWS_KEY], sizes.scores or sizes.width)


def _check_prompts(texts: dict[str, str]) -> None:
    found = {kind: texts[key] for kind, key in _PROMPT_KEYS.items() if key in texts}
    try:
        Prompts(**found)
    except ValueError as error:
        raise UnfitError(f"keys 'edgeembed.prompt.*': {error}") from error
    for key, known in (
        (_PROMPT_KEYS["query"], {"text", "instruction"}),
        (_PROMPT_KEYS["document"], {"text", "instruction"}),
        (TEMPLATE_KEY, {"query", "document", "instruction"}),
    ):
        _check_template(key, texts.get(key, ""), known)


def _check_template(key: str, template: str, known: set[str]) -> None:
    """Check that a template of `str.format` only puts texts in, unchanged: a width alone can make a text of a gigabyte."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UnfitError(f"key {key!r} is no template: {error}") from error
    for _, field, form, conversion in parts:
        if field is not None and (field not in known or form or conversion):
            raise UnfitError(f"key {key!r} has a field that is not plainly one of {', '.join(sorted(known))}")


def _check_canary(texts: str, rows: str, width: int) -> None:
    if len(texts) > _LONGEST_CANARY_TEXTS:
        raise UnfitError(f"key {canary.TEXTS_KEY!r} has {len(texts)} characters, more than {_LONGEST_CANARY_TEXTS}")
    try:
        known = canary.read_rows(texts, rows)
    except canary.CanaryError as error:
        raise UnfitError(f"keys {canary.TEXTS_KEY!r} and {canary.ROWS_KEY!r}: {error}") from error
    if len(known) > _MOST_CANARY_TEXTS:
        raise UnfitError(f"key {canary.TEXTS_KEY!r} has {len(known)} texts, more than {_MOST_CANARY_TEXTS}")
    if any(row.shape != (width,) for _, row in known):
        raise UnfitError(f"key {canary.ROWS_KEY!r} has rows of another length than {width}")
