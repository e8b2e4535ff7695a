"""The check of a model that was loaded, with its canary texts; see `edgeembed.engine.canary`."""

from __future__ import annotations

import time

import msgspec

from edgeembed.engine import canary
from edgeembed.engine.interface import ModelInfo, Pair, Reference, Task
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.reading import Tokens


def check_model(model: LlamaModel, task: Task) -> ModelInfo:
    """Check the rows of fixed texts and of those in the file. Raises CanaryError, ComputeError."""
    limit, scores = model.info.context_tokens, model.info.pooling == "rank"
    tokenized = (model.read(text).tokens for text in canary.texts_for(task))
    texts = [tokens[:limit] for tokens in tokenized if len(tokens)]
    # As many as fit into one batch, shortest first.
    together: list[Tokens] = []
    for tokens in sorted(texts, key=len):
        if sum(map(len, together)) + len(tokens) <= model.batch_capacity:
            together.append(tokens)
    # A reranker's template alone may be longer than a batch.
    canary.check(model.embed, together or [min(texts, key=len)], model.info.file_type, scores=scores)
    in_file, rows = model.file.metadata(canary.TEXTS_KEY), model.file.metadata(canary.ROWS_KEY)
    if in_file is None or rows is None:
        return msgspec.structs.replace(model.info, reference=_own_reference(model, task, scores=scores))
    # Only those that fit into the context that the settings allow.
    stored = canary.read_rows(in_file, rows)
    expected = [(text, row) for text, row in stored if len(model.read(text).tokens) <= limit]
    found = canary.check_file(
        model.embed, lambda text: model.read(text).tokens, expected, model.info.file_type, scores=scores
    )
    least = canary.least_again(model.info.file_type, scores=scores)
    given = [
        Reference(text=text, row=row.tobytes(), least=least, given=True)
        for text, row in expected
        if isinstance(text, str | Pair)
    ]
    return msgspec.structs.replace(
        model.info,
        canary_cosines=tuple(found),
        reference=given[0] if given else _own_reference(model, task, scores=scores),
    )


def _own_reference(model: LlamaModel, task: Task, *, scores: bool) -> Reference | None:
    """Compute the first canary text; None if it does not fit. Raises ComputeError."""
    text, *_ = canary.texts_for(task)
    tokens = model.read(text).tokens
    if not 0 < len(tokens) <= model.info.context_tokens:
        return None
    least = canary.least_again(model.info.file_type, scores=scores)
    (row,) = model.embed([tokens])
    return Reference(text=text, row=row.tobytes(), least=least, given=False, made_at=time.time())
