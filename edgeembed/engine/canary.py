"""Canary texts: fixed texts that show, before a worker is ready, that its kernels compute correctly.

Two checks: a row computed alone is close to the row computed in a batch; and, where the converter wrote the rows of the
unquantised weights into the file (`edgeembed.canary.*`), the rows computed here are close to those.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec
import numpy as np

from edgeembed.engine.causes import Cause
from edgeembed.engine.float_strings import decode_floats, encode_floats
from edgeembed.engine.interface import Float32Matrix, Float32Row, Output, Pair, Prompted, Task, Text

TokensT = TypeVar("TokensT")

TEXTS = (
    "edgeembed",
    "The quick brown fox jumps over the lazy dog.",
    "Größe, цвет, 颜色, رنگ, रंग: one text in several scripts. 🙂",
    "def mean(values: list[float]) -> float:\n    return sum(values) / len(values)\n",
    # Long enough for kernels that are used only from 64 tokens on.
    "A daemon turns this computer into a private embedding server. It answers on localhost, it remembers the vectors of "
    "frequent queries, and it keeps running for years: on a laptop, on an edge box, on a workstation. Texts never leave "
    "the machine; nobody else learns what is being searched for, what is being written, or what is being thought.",
)

PAIRS = (
    Pair("What is the capital of China?", "The capital of China is Beijing."),
    Pair("What is the capital of China?", "Gravity is a force that attracts two bodies towards each other."),
    Pair("Größe, цвет, 颜色", TEXTS[2]),
    Pair("mean of a list", TEXTS[3]),
    Pair("What does the daemon remember?", TEXTS[4]),
)
"""For rerankers."""

HEAD_TEXTS = tuple(Prompted("", text, role="query" if number % 2 else "document") for number, text in enumerate(TEXTS))
"""For heads: some models read queries otherwise than documents."""

LEAST_TOGETHER = {"F32": 0.999, "F16": 0.999, "BF16": 0.999, "Q8_0": 0.997}
LEAST_TOGETHER_OF_OTHERS = 0.993
"""Cosine of a text's row computed alone and in a batch, by the type of most tensors. The shape of a batch changes the last
bit of sums, and where activations are rounded to 8 bits before each product, as for all quantised weights, that bit decides
between two steps 1/127 apart, which later layers amplify. The lowest in any mode on the real Gemma 3 270M, which is worse
than SmolLM2 135M: 1.0 for F32, 0.999999 for F16, 0.99998 for BF16, 0.9986 for Q8_0 (blocks of 32 activations), 0.9967 for K
types (blocks of 256: one outlier makes the steps of all coarser). The limits allow for twice these deviations; rows of a
broken kernel differ by more than 0.01."""

LEAST_AGAIN, LEAST_SCORE_AGAIN = 0.9, 0.7
"""Likeness of a row to one that other kernels, threads or batches computed for the same text, which is 0.99 or more even at
four bits."""

TEXTS_KEY = "edgeembed.canary.texts"
"""Metadata key: a JSON list of texts; of [query, document] for a reranker."""
ROWS_KEY = "edgeembed.canary.rows"
"""Metadata key: base64 of their rows, float32, little-endian, shape (texts, dimensions); NaN where a text was too long."""

SKETCH_KEYS: Mapping[Output, str] = {"multi": "edgeembed.canary.multi", "sparse": "edgeembed.canary.sparse"}
"""Metadata keys: the same for what a head computes of `HEAD_TEXTS`, as sketches of SKETCH_NUMBERS; see `sketch`."""
SKETCH_NUMBERS = 256
_SKETCH_LOSS = 4
"""A head may lose so many times more of the cosine than a row: it sees single tokens, where a row is a mean or a summary."""

LEAST_BY_TYPE = {
    "F32": 0.9995, "F16": 0.9995, "BF16": 0.998, "Q8_0": 0.99, "Q6_K": 0.985, "Q5_K": 0.97, "Q5_1": 0.97, "Q5_0": 0.96,
    "Q4_K": 0.93, "Q4_1": 0.93, "Q4_0": 0.9, "IQ4_NL": 0.9, "IQ4_XS": 0.9, "Q8_E": 0.97, "Q5_E": 0.95, "Q4_E": 0.93,
}  # fmt: skip
"""Lowest cosine of a canary row to the row of the unquantised weights, by the type of most tensors. It allows for the loss
of the type itself (see the table in docs/converting.md), but not for a broken kernel."""
LEAST_OF_OTHERS = 0.85
LEAST_OF_ANY_SCORE = 0.3
LEAST_SCORE_LIKENESS = 0.98
"""Like LEAST_TOGETHER, for scores."""


class CanaryError(Exception):
    """The rows are wrong; the message says which and how."""

    cause: Cause = "wrong_vectors"


def texts_for(task: Task) -> Sequence[str | Pair]:
    """Return the canary texts of a model; pairs for a reranker."""
    return PAIRS if task == "rerank" else TEXTS


def check(
    embed: Callable[[Sequence[TokensT]], list[Float32Row]],
    texts: Sequence[TokensT],
    file_type: str,
    *,
    scores: bool = False,
) -> float:
    """Embed each text alone and all in one batch; return the lowest likeness. Raises CanaryError.

    file_type: as for `least_for`.
    """
    single = [embed([text])[0] for text in texts]
    batch = embed(texts)
    for rows, where in ((single, "alone"), (batch, "in a batch")):
        for number, row in enumerate(rows):
            if reason := defect(row):
                raise CanaryError(f"canary text {number} computed {where} gave a row that is {reason}")
    found = [likeness(one, other, scores=scores) for one, other in zip(single, batch, strict=True)]
    least = least_together(file_type, scores=scores)
    for number, value in enumerate(found):
        if not value >= least:  # also true for NaN
            raise CanaryError(
                f"canary text {number} computed alone and in a batch gave different rows: cosine {value:.6f}, "
                f"expected at least {least} for {file_type}"
            )
    return min(found)


def defect(row: Float32Row) -> str | None:
    """Return what makes a row unusable; None when it is usable."""
    if not np.isfinite(row).all():
        return "not finite"
    if not row.any():
        return "all zeros"
    return None


def cosine(one: Float32Row, other: Float32Row) -> float:
    """Return the cosine similarity of two rows, computed in float64."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def likeness(one: Float32Row, other: Float32Row, *, scores: bool) -> float:
    """Return the cosine of two vectors; for scores 1 minus their largest difference, relative where a score is above 1."""
    if not scores:
        return cosine(one, other)
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(1 - (np.abs(a - b) / np.maximum(1, np.abs(a))).max())


def least_for(file_type: str, *, scores: bool = False) -> float:
    """Return the lowest likeness for a type as llama.cpp names it, such as "Q4_K - Medium" or "all F32".

    It is lower for scores: a small change of a vector changes the single number computed from it by more.
    """
    least = _by_type(LEAST_BY_TYPE, file_type, LEAST_OF_OTHERS)
    return max(LEAST_OF_ANY_SCORE, 1 - 10 * (1 - least)) if scores else least


def least_together(file_type: str, *, scores: bool = False) -> float:
    """Return the lowest likeness of a row computed alone to the one computed in a batch, for a type as in `least_for`."""
    return LEAST_SCORE_LIKENESS if scores else _by_type(LEAST_TOGETHER, file_type, LEAST_TOGETHER_OF_OTHERS)


def _by_type(limits: Mapping[str, float], file_type: str, otherwise: float) -> float:
    words = file_type.replace("_M", "").replace("_S", "").split()
    return next((limits[word] for word in words if word in limits), otherwise)


def least_again(file_type: str, *, scores: bool = False) -> float:
    """Return the lowest likeness of a row that is computed while a model serves; it may be in any batch."""
    return min(LEAST_SCORE_AGAIN if scores else LEAST_AGAIN, least_for(file_type, scores=scores) - 0.02)


def encode_rows(rows: Sequence[Float32Row]) -> str:
    """Return the value for ROWS_KEY; its length depends only on the shape."""
    return encode_floats(np.stack(rows))


def write_texts(texts: Sequence[Text]) -> str:
    """Return the value for TEXTS_KEY."""
    return json.dumps([_plain(text) for text in texts], ensure_ascii=False)


def _plain(text: Text) -> str | list[str]:
    match text:
        case Pair(query, document):
            return [query, document]
        case Prompted(prefix, body, suffix):
            return prefix + body + suffix
        case _:
            return text


def read_rows(texts: str, rows: str) -> list[tuple[Text, Float32Row]]:
    """Return the texts that have a row, from the values of both keys. Raises CanaryError when they do not match."""
    try:
        known = msgspec.json.decode(texts, type=list[str | Pair])
        matrix = decode_floats(rows).reshape(len(known), -1)
    except (ValueError, TypeError, msgspec.DecodeError) as error:
        raise CanaryError(f"the canary rows in the file are damaged: {error}") from error
    return [(text, row) for text, row in zip(known, matrix, strict=True) if np.isfinite(row).all()]


def check_file(
    embed: Callable[[Sequence[TokensT]], list[Float32Row]],
    tokenize: Callable[[Text], TokensT],
    expected: Sequence[tuple[Text, Float32Row]],
    file_type: str,
    *,
    scores: bool = False,
) -> list[float]:
    """Embed the file's canary texts; return the likeness of each to the file's row. Raises CanaryError with the numbers."""
    found = [likeness(row, embed([tokenize(text)])[0], scores=scores) for text, row in expected]
    least = least_for(file_type, scores=scores)
    if not all(value >= least for value in found):
        numbers = ", ".join(f"{value:.4f}" for value in found)
        raise CanaryError(
            f"canary rows are too far from those of the unquantised weights: cosines {numbers}; expected at "
            f"least {least:g} for {file_type}"
        )
    return found


def least_of_head(least: float) -> float:
    """Return the lowest cosine of what a head computes, where a row's is `least`."""
    return 1 - _SKETCH_LOSS * (1 - least)


def likeness_of_outputs(output: Output, one: Float32Matrix, other: Float32Matrix) -> float:
    """Return the cosine of an output computed twice, as one vector of all its numbers; 0 if the sizes differ."""
    if output == "sparse":
        ids = np.union1d(one[:, 0], other[:, 0])
        one, other = (np.where(np.isin(ids, part[:, 0]), _weights(ids, part), 0) for part in (one, other))
    if one.shape != other.shape:
        return 0.0
    if not one.any() or not other.any():
        return float(one.any() == other.any())
    return cosine(one.ravel(), other.ravel())


def _weights(ids: Float32Row, part: Float32Matrix) -> Float32Row:
    """Return the weight that each id has in a sparse output; of others any number."""
    if not len(part):
        return np.zeros(len(ids), dtype=np.float32)
    found: Float32Row = part[np.minimum(np.searchsorted(part[:, 0], ids), len(part) - 1), 1]
    return found


def sketch(output: Output, part: Float32Matrix) -> Float32Row:
    """Return SKETCH_NUMBERS numbers for an output of any size, shape (rows, width).

    They are sums of its columns, or the weights of its words; each is added to one of the numbers or taken from it, so that
    sketches of different outputs are not alike.
    """
    if output == "sparse":
        places, values = part[:, 0].astype(np.int64), part[:, 1]
    else:
        places, values = np.arange(part.shape[1]), part.sum(axis=0)
    signs = 1 - 2 * (places // SKETCH_NUMBERS % 2)
    found = np.zeros(SKETCH_NUMBERS, dtype=np.float32)
    np.add.at(found, places % SKETCH_NUMBERS, signs * values)
    return found


def check_head(output: Output, stored: str, compute: Callable[[Prompted], Float32Matrix | None], file_type: str) -> None:
    """Compare what a head computes of `HEAD_TEXTS` with the sketches in the file. Raises CanaryError.

    stored: the value of the output's key. compute: returns a text's output; None if it is too long for the settings.
    """
    try:
        expected = decode_floats(stored).reshape(len(HEAD_TEXTS), SKETCH_NUMBERS)
    except ValueError as error:
        raise CanaryError(f"the canary rows of {output!r} in the file are damaged: {error}") from error
    least = least_of_head(least_for(file_type))
    for number, (text, row) in enumerate(zip(HEAD_TEXTS, expected, strict=True)):
        if not np.isfinite(row).all() or not row.any() or (part := compute(text)) is None:
            continue
        found = sketch(output, part)
        value = cosine(row, found) if found.any() else 0.0
        if not value >= least:
            raise CanaryError(
                f"the output {output!r} of canary text {number} is too far from that of the unquantised weights: cosine "
                f"{value:.4f}; expected at least {least:g} for {file_type}"
            )
