"""The check of a GGUF file before llama.cpp opens it: complete, of a supported architecture, with consistent numbers.

llama.cpp trusts a file in many places, and a failed assertion ends the process. So a bad file is refused here, with the name
of the key or tensor at fault. Sources: the GGUF specification (ggml, docs/gguf.md), and what llama.cpp 0c1e57098 reads. The
other modules of this package check the parts.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NoReturn

from edgeembed.engine import canary, text_template
from edgeembed.engine.classes import FUNCTION_KEY, LABELS_KEY, read_classes
from edgeembed.engine.classifier import CLASSIFIER_KEY, decode_classifier
from edgeembed.engine.dense import COUNT_KEY, read_head
from edgeembed.engine.outputs import OUTPUTS_KEY, parse_outputs
from edgeembed.engine.pair_template import SECOND_SEGMENT_KEY, TEMPLATE_KEY
from edgeembed.engine.sparse import MaskedLmWeights
from edgeembed.engine.stand_ins import ARCHITECTURE_KEY, SCORE_BIAS_KEY, decode_bias
from edgeembed.engine.text_template import TextTemplate
from edgeembed.engine.token_heads import read_token_heads
from edgeembed.errors import HubError, WrongFrameError
from edgeembed.hub.catalogue import Prompts
from edgeembed.hub.gguf.architecture import ArchitectureSizes, check_sizes
from edgeembed.hub.gguf.file import GgufHead, Scalar
from edgeembed.hub.gguf.frames import frame_of
from edgeembed.hub.gguf.header import GgufHeader, open_gguf
from edgeembed.hub.gguf.split import PARTS_KEY
from edgeembed.hub.gguf.tensors import (
    UnfitError,
    check_dense,
    check_distances,
    check_fused_attention,
    check_kinds,
    check_layout,
    check_scores,
    check_vocabulary_size,
)
from edgeembed.hub.gguf.vocabulary import check_vocabulary

_PROMPT_KEYS = {kind: f"edgeembed.prompt.{kind}" for kind in Prompts.__struct_fields__}
_MATRYOSHKA_KEYS = ("edgeembed.matryoshka.min", "edgeembed.matryoshka.max")
_MOST_CANARY_TEXTS, _LONGEST_CANARY_TEXTS = 64, 2**16
"""All of them are computed whenever the file is loaded."""


def check_gguf(path: Path) -> GgufHeader:
    """Check everything in a GGUF file except the weights, and return its metadata.

    A vocabulary of 150,000 tokens and as many merges takes a fifth of a second and three megabytes of memory.

    Raises:
        UnknownModelError: There is no such file.
        WrongFrameError: The file's vectors or scores would be wrong, for the reason in the message.
        HubError: The file is not safe for llama.cpp; the message names the key or tensor and the reason.
    """
    with open_gguf(path) as reader:
        try:
            head = reader.head()
            if head.values.get(PARTS_KEY, 0) not in (0, 1):
                raise UnfitError(
                    f"key {PARTS_KEY!r}: the file is one of {head.values[PARTS_KEY]} parts of a model. Install them as one "
                    "file: edgeembed pull FILE"
                )
            tensors = reader.tensors(head)
            end = reader.position
            check_layout(head, tensors, end, reader.size)
            by_name = {tensor.name: tensor for tensor in tensors}
            sizes = check_sizes(reader, head)
            check_kinds(by_name)
            check_fused_attention(by_name, sizes.layers, sizes.attention)
            check_dense(by_name)
            if sizes.distances is not None:
                check_distances(by_name)
            if sizes.scores is not None and not {CLASSIFIER_KEY, COUNT_KEY} & head.values.keys():
                check_scores(by_name, sizes.scores)
            tokens = check_vocabulary(reader, head)
            check_vocabulary_size(tokens, sizes.width)
            _check_own_keys(head, sizes, tokens)
            refusal = frame_of(reader, head, tensors, end).refusal
        except UnfitError as error:
            raise HubError(f"{path} is not safe for llama.cpp: {error}") from error
    if refusal is not None:
        raise WrongFrameError(f"{path} would give wrong results: {refusal}")
    return GgufHeader(head.values)


def _check_own_keys(head: GgufHead, sizes: ArchitectureSizes, tokens: int) -> None:
    """Check the keys that our converter writes. Raises UnfitError."""
    values = head.values
    templates = (TEMPLATE_KEY, text_template.TEMPLATE_KEY, text_template.INSTRUCTION_KEY)
    for key in (
        *_PROMPT_KEYS.values(),
        *templates,
        canary.TEXTS_KEY,
        canary.ROWS_KEY,
        SCORE_BIAS_KEY,
        LABELS_KEY,
        FUNCTION_KEY,
    ):
        if not isinstance(values.get(key, ""), str):
            raise UnfitError(f"key {key!r} is {values[key]!r}, expected a string")
    texts = {key: value for key, value in values.items() if isinstance(value, str)}
    _check_prompts(texts)
    try:
        TextTemplate.of(texts.get)
    except ValueError as error:
        raise UnfitError(f"key {error}") from error
    _check_classes(texts, sizes)
    if (classifier := values.get(CLASSIFIER_KEY)) is not None:
        _check_classifier(classifier, sizes)
    offset = values.get(SECOND_SEGMENT_KEY, 0)
    if not isinstance(offset, int) or isinstance(offset, bool) or not 0 <= offset < tokens:
        raise UnfitError(f"key {SECOND_SEGMENT_KEY!r} is {offset!r}, expected the id of one of {tokens} tokens")
    least, most = (values.get(key) for key in _MATRYOSHKA_KEYS)
    width = _width_behind_dense(head, sizes)
    if (least, most) != (None, None) and not (
        isinstance(least, int) and isinstance(most, int) and 1 <= least <= most <= width
    ):
        raise UnfitError(
            f"keys {' and '.join(_MATRYOSHKA_KEYS)}: {least!r} and {most!r} are not a range within 1 to {width}"
        )
    if values.get(ARCHITECTURE_KEY) == "mpnet":
        try:
            decode_bias(texts.get(SCORE_BIAS_KEY, ""), sizes.attention.heads)
        except ValueError as error:
            raise UnfitError(f"key {SCORE_BIAS_KEY!r}: {error}") from error
    _check_heads(values, sizes, tokens)
    if canary.TEXTS_KEY in texts and canary.ROWS_KEY in texts:
        _check_canary(texts[canary.TEXTS_KEY], texts[canary.ROWS_KEY], sizes.scores or width)


def _width_behind_dense(head: GgufHead, sizes: ArchitectureSizes) -> int:
    """Check our dense layers behind the pooling, and return the length of a vector. Raises UnfitError."""
    try:
        dense = read_head(partial(_text_of, head.values), sizes.width)
    except ValueError as error:
        raise UnfitError(str(error)) from error
    if dense is not None and sizes.scores not in (None, dense.outputs):
        raise UnfitError(
            f"key {COUNT_KEY!r}: the dense layers compute {dense.outputs} numbers, expected {sizes.scores} scores"
        )
    return sizes.width if dense is None else dense.outputs


def _check_heads(values: Mapping[str, Scalar], sizes: ArchitectureSizes, tokens: int) -> None:
    """Check the heads of other outputs than the dense row. Raises UnfitError."""

    def make_nothing(weights: MaskedLmWeights) -> NoReturn:
        raise AssertionError("a file is checked without computing anything")

    def value(key: str) -> str | None:
        found = values.get(key)
        return str(found).lower() if isinstance(found, bool) else _text_of(values, key)

    try:
        read_token_heads(value, sizes.width, tokens, parse_outputs(value(OUTPUTS_KEY)), make_nothing)
    except ValueError as error:
        raise UnfitError(str(error)) from error


def _text_of(values: Mapping[str, Scalar], key: str) -> str | None:
    """Return a value as text; None if there is none. Raises UnfitError for a fraction or a truth value."""
    found = values.get(key)
    if isinstance(found, bool | float):
        raise UnfitError(f"key {key!r} is {found!r}")
    return None if found is None else str(found)


def _check_classes(texts: dict[str, str], sizes: ArchitectureSizes) -> None:
    try:
        classes = read_classes(texts.get)
    except ValueError as error:
        raise UnfitError(str(error)) from error
    if classes is not None and len(classes.labels) != sizes.scores:
        raise UnfitError(
            f"key {LABELS_KEY!r} has {len(classes.labels)} names; the file computes {sizes.scores or 'no'} scores"
        )


def _check_classifier(value: Scalar, sizes: ArchitectureSizes) -> None:
    if not isinstance(value, str) or sizes.scores is None:
        raise UnfitError(f"key {CLASSIFIER_KEY!r}: expected a string in the file of a reranker")
    try:
        decode_classifier(value, sizes.scores, sizes.width)
    except ValueError as error:
        raise UnfitError(f"key {CLASSIFIER_KEY!r}: {error}") from error


def _check_prompts(texts: dict[str, str]) -> None:
    found = {kind: texts[key] for kind, key in _PROMPT_KEYS.items() if key in texts}
    try:
        Prompts(**found)
    except ValueError as error:
        raise UnfitError(f"keys 'edgeembed.prompt.*': {error}") from error
    for key, allowed in (
        *((key, {"text", "instruction"}) for kind, key in _PROMPT_KEYS.items() if kind != "instruction"),
        (TEMPLATE_KEY, {"query", "document", "instruction", "cut"}),
    ):
        _check_template(key, texts.get(key, ""), allowed)


def _check_template(key: str, template: str, allowed: set[str]) -> None:
    """Check that a template for `str.format` only inserts texts unchanged: a width can turn a word into a gigabyte."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UnfitError(f"key {key!r} is not a valid template: {error}") from error
    for _, field, form, conversion in parts:
        if field is not None and (field not in allowed or form or conversion):
            raise UnfitError(f"key {key!r} has a field that is not just one of {', '.join(sorted(allowed))}")


def _check_canary(texts: str, rows: str, width: int) -> None:
    if len(texts) > _LONGEST_CANARY_TEXTS:
        raise UnfitError(f"key {canary.TEXTS_KEY!r} has {len(texts)} characters, more than {_LONGEST_CANARY_TEXTS}")
    try:
        read = canary.read_rows(texts, rows)
    except canary.CanaryError as error:
        raise UnfitError(f"keys {canary.TEXTS_KEY!r} and {canary.ROWS_KEY!r}: {error}") from error
    if len(read) > _MOST_CANARY_TEXTS:
        raise UnfitError(f"key {canary.TEXTS_KEY!r} has {len(read)} texts, more than {_MOST_CANARY_TEXTS}")
    if any(row.shape != (width,) for _, row in read):
        raise UnfitError(f"key {canary.ROWS_KEY!r} has rows whose length is not {width}")
