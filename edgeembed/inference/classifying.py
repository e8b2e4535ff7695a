"""Classes of texts and of pairs: what a classifier computes of them, and what its logits mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from edgeembed.cache import CachedRow, KeyMaker
from edgeembed.engine.classes import Classes
from edgeembed.engine.interface import Pair, Row, Task, Text
from edgeembed.errors import RequestError, quoted
from edgeembed.inference import token_ids
from edgeembed.inference.requests import ClassifyRequest, ClassifyResult, RerankRequest, RerankResult, cuts_of, place_of
from edgeembed.inference.row_request import RowRequest, keys_of, refuse_empty
from edgeembed.models.prompts import NO_PROMPT
from edgeembed.models.registry import ModelRegistry, Target
from edgeembed.models.served_model import ServedModel

Float64Matrix = npt.NDArray[np.float64]

INTERACTIVE_TEXTS = 16
"""A request with at most this many texts has somebody waiting for it: messages are classified as they come in."""
SCORE = Classes(("LABEL_0",), "sigmoid")
"""A reranker's, with transformers' name for the only label of a model that was trained without names."""


async def target_of(registry: ModelRegistry, request: ClassifyRequest) -> Target:
    """Return the model of a request; a reranker, which has one label, only if the request allows it."""
    task: Task = "classify"
    also: Task | None = "rerank" if request.or_reranker else None
    if also and not request.model and (default := await registry.default_model()) is not None and default.task == also:
        task = also
    return await registry.resolve(request.model, task, also=also)


def prepare(
    request: ClassifyRequest, model: ServedModel, clean: Callable[[str], str], key_maker: KeyMaker, label: str
) -> RowRequest:
    """Return a request with its texts cleaned, for a classifier. Raises RequestError."""
    place, kind = partial(place_of, request), ""
    identity: str | list[str] = ""
    texts: Sequence[Text]
    if request.ids is not None:
        names, kind = token_ids.names_of(request.ids, place), token_ids.KIND
        texts = token_ids.texts_of(request.ids, NO_PROMPT)
    else:
        names = [clean(text) for text in request.texts]
        refuse_empty(names, place)
        texts = names
    if request.seconds is not None:
        seconds = [None if second is None else clean(second) for second in request.seconds]
        refuse_empty(["-" if second is None else second for second in seconds], place)
        _check_pairs(request, model)
        identity = ["" if second is None else json.dumps(["before", second]) for second in seconds]
        texts = [text if second is None else Pair(text, second) for text, second in zip(names, seconds, strict=True)]
    few = len(texts) <= INTERACTIVE_TEXTS
    return RowRequest(
        client=request,
        model=model,
        key_maker=key_maker,
        label=label,
        identity=identity,
        names=names,
        keys=keys_of(key_maker, identity, names, kind),
        texts=texts,
        kind=kind,
        interactive=few,
        frequent=few or request.cache == "keep",
    )


def result_of(model: ServedModel, rows: Sequence[Row | CachedRow], hits: int) -> ClassifyResult:
    """Return the classes in a classifier's rows."""
    assert model.classes is not None
    logits = np.stack([row.vector for row in rows]).astype(np.float64)
    return ClassifyResult(
        model=model,
        classes=model.classes,
        logits=logits,
        probabilities=probabilities_of(logits, model.classes),
        tokens=[row.tokens for row in rows],
        hits=hits,
        cuts=cuts_of(rows),
    )


def probabilities_of(logits: Float64Matrix, classes: Classes) -> Float64Matrix:
    """Return the probability of each class, shape (texts, classes), from logits of the same shape."""
    match classes.function:
        case "identity":
            return logits
        case "sigmoid":
            with np.errstate(over="ignore"):  # a logit below -709 has a probability of 0
                return np.asarray(1 / (1 + np.exp(-logits)))
        case "softmax":
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def rerank_request(request: ClassifyRequest) -> RerankRequest:
    """Return the request for a reranker, whose score is that of its only label. Raises RequestError unless all are pairs."""
    seconds = request.seconds or [None] * len(request.texts)
    documents = [second for second in seconds if second is not None]
    if len(documents) < max(1, len(seconds)):
        place = place_of(request, next((index for index, second in enumerate(seconds) if second is None), 0))
        raise RequestError(f"{place} is a single text; a reranker scores pairs: send [query, text]", param=place)
    return RerankRequest(
        query=request.texts,
        documents=documents,
        model=request.model,
        param=request.param,
        query_param=request.param,
        single=request.single,
        cache=request.cache,
        lengths=request.lengths,
    )


def result_of_scores(result: RerankResult) -> ClassifyResult:
    """Return the scores of a reranker as those of its only label."""
    return ClassifyResult(
        model=result.model,
        classes=SCORE,
        logits=np.array(result.raw_scores)[:, None],
        probabilities=np.array(result.scores)[:, None],
        tokens=result.tokens,
        hits=result.hits,
        cuts=result.cuts,
    )


def _check_pairs(request: ClassifyRequest, model: ServedModel) -> None:
    """Raise RequestError for a pair if the model takes single texts only, as far as that is known."""
    if model.classes is None or model.classes.pairs or request.seconds is None:
        return
    index = next((index for index, second in enumerate(request.seconds) if second is not None), None)
    if index is not None:
        place = place_of(request, index)
        raise RequestError(
            f"{place} is a pair of texts; {quoted(request.model or model.name)} takes single texts only", param=place
        )
