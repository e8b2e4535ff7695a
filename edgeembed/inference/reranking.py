"""Scores: pairs for a reranker, and what its rows mean; the cosine of an embedder's vectors; MaxSim of those of tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from operator import itemgetter

import msgspec
import numpy as np

from edgeembed.cache import CachedRow, KeyMaker
from edgeembed.engine.interface import DENSE, Float32Row, Output, Pair, Row
from edgeembed.engine.late_interaction import max_sim
from edgeembed.errors import ModelReplacedError, RequestError, quoted
from edgeembed.inference.requests import Cut, EmbedRequest, EmbedResult, RerankRequest, RerankResult, cuts_of, place_of
from edgeembed.inference.row_request import RowRequest, keys_of, refuse_empty
from edgeembed.inference.tokenize import refuse_repeated
from edgeembed.inference.truncation import Lengths
from edgeembed.inference.windows import Windowed
from edgeembed.models.served_model import ServedModel

INTERACTIVE_PAIRS = 100
"""A request with at most this many documents has somebody waiting for it, as nearly every one has."""
_LEAST = float(np.finfo(np.float32).smallest_subnormal)


def prepare_pairs(
    request: RerankRequest, model: ServedModel, clean: Callable[[str], str], key_maker: KeyMaker, label: str
) -> RowRequest:
    """Return a request with its texts cleaned, for a reranker. Raises RequestError."""
    queries = [clean(query) for query in request.queries]
    documents = [clean(document) for document in request.documents]
    for texts, place in ((queries, request.place_of_query), (documents, lambda index: place_of(request, index))):
        refuse_empty(texts, place)
    instruction = _instruction(request, model)
    refuse_repeated("instruction", instruction, len(documents))
    identities = [json.dumps(["rerank", instruction, query]) for query in queries]
    identity: str | list[str] = identities
    if isinstance(request.query, str):
        refuse_repeated(request.query_param, queries[0], len(documents))
        identity, queries = identities[0], queries * len(documents)
    few = len(documents) <= INTERACTIVE_PAIRS
    return RowRequest(
        client=request,
        model=model,
        key_maker=key_maker,
        label=label,
        identity=identity,
        names=documents,
        keys=keys_of(key_maker, identity, documents),
        texts=[Pair(query, document, instruction) for query, document in zip(queries, documents, strict=True)],
        interactive=few,
        frequent=few or request.cache == "keep",
    )


def _instruction(request: RerankRequest, model: ServedModel) -> str | None:
    """Return the instruction of a request. Raises RequestError if the model takes none; an empty one is none then."""
    if model.prompts is not None and model.prompts.instruction is not None:
        return request.instruction
    if request.instruction:
        raise RequestError(
            f"model {quoted(request.model or model.name)} takes no instruction; leave 'instruction' out", param="instruction"
        )
    return None


def best_windows(windowed: Windowed, rows: Sequence[Row | CachedRow]) -> list[Row | CachedRow]:
    """Return a row for each document: that of its best window, with the tokens of all."""
    _, logits = scores_of([row.vector for row in rows])
    found: list[Row | CachedRow] = []
    for pairs in windowed.grouped(list(zip(logits, rows, strict=True))):
        _, best = max(pairs, key=itemgetter(0))
        found.append(best if len(pairs) == 1 else Row(best.vector, sum(row.tokens for _, row in pairs)))
    return found


def result_of_pairs(model: ServedModel, rows: Sequence[Row | CachedRow], hits: int, texts: int) -> RerankResult:
    """Return the scores in a reranker's rows. hits, texts: see RerankResult."""
    relevances, logits = scores_of([row.vector for row in rows])
    return RerankResult(
        model=model,
        scores=relevances,
        raw_scores=logits,
        tokens=[row.tokens for row in rows],
        hits=hits,
        texts=texts,
        cuts=cuts_of(rows),
    )


def scores_of(rows: Sequence[Float32Row]) -> tuple[list[float], list[float]]:
    """Return the relevance of each pair, 0 to 1, and its logit, from a reranker's rows.

    One number is a logit, which a sigmoid maps. Two numbers are probabilities already, "yes" first: llama.cpp's graph
    applies the softmax (Qwen3-Reranker); the logit is then the difference of their logits. Logits tell pairs apart whose
    relevance is 1 in all digits.
    """
    matrix = np.concatenate(rows).reshape(len(rows), -1).astype(np.float64)
    if matrix.shape[1] == 1:
        logits = matrix[:, 0]
        with np.errstate(over="ignore"):  # a logit below -709 has a relevance of 0
            relevances = 1 / (1 + np.exp(-logits))
    else:
        relevances = matrix[:, 0]
        logits = np.log(np.maximum(matrix[:, 0], _LEAST)) - np.log(np.maximum(matrix[:, 1], _LEAST))
    return relevances.tolist(), logits.tolist()


# --- embedders --------------------------------------------------------------------------------------------------------


def embed_requests(request: RerankRequest, *, by_tokens: bool = False) -> tuple[EmbedRequest, EmbedRequest]:
    """Return the requests to embed the queries and the documents of a request, for an embedder.

    With prompts, unless the request wants its texts as they are. by_tokens: for vectors of their tokens, for which queries
    are read otherwise than documents in any case.
    """
    outputs: tuple[Output, ...] = ("multi",) if by_tokens else DENSE
    plain = request.plain and not by_tokens
    lengths = request.lengths
    of_query = Lengths(lengths.cut) if lengths.own else lengths
    if not lengths.query and lengths.cut != "none":
        of_query = Lengths()
    queries = EmbedRequest(
        texts=request.queries,
        model=request.model,
        input_type=None if plain else "query",
        instruction=request.instruction,
        param=request.query_param,
        single=isinstance(request.query, str),
        cache=request.cache,
        lengths=of_query,
        outputs=outputs,
    )
    documents = EmbedRequest(
        texts=request.documents,
        model=request.model,
        input_type=None if plain else "document",
        param=request.param,
        single=request.single,
        cache=request.cache,
        lengths=lengths,
        long_text="chunks" if request.windows else "none",
        outputs=outputs,
    )
    return queries, documents


def result_of_vectors(queries: EmbedResult, documents: EmbedResult) -> RerankResult:
    """Return the cosines of one query with all documents, or of each one with its own.

    Aliases may name a model for queries and another for documents. Raises ModelReplacedError, or RequestError if their rows
    have different lengths.
    """
    _check_lengths(queries, documents, queries.vectors.shape[-1], documents.vectors.shape[-1])
    rows, counts = _by_window(documents)
    asked = queries.vectors if len(queries.rows) == 1 else np.repeat(queries.vectors, counts, axis=0)
    products = np.einsum("ij,ij->i", *np.broadcast_arrays(asked, rows.vectors), dtype=np.float64)
    cosines = _best(np.clip(products, -1.0, 1.0).tolist(), counts)
    return _result(queries, documents, cosines, cosines)


def result_of_tokens(queries: EmbedResult, documents: EmbedResult) -> RerankResult:
    """Return how well the vectors of a query's tokens are found in each document, or those of each one in its own (MaxSim).

    The relevance is the mean of the best cosines, so that long and short queries compare; the raw score is what the model's
    makers use, the sum or the mean. Raises as `result_of_vectors`.
    """
    rows, windows = _by_window(documents)
    asked, given = queries.parts("multi"), rows.parts("multi")
    _check_lengths(queries, documents, asked[0].shape[1], given[0].shape[1])
    if len(asked) == 1:
        sums = max_sim(asked[0], given, "sum")
    else:
        every = [query for query, count in zip(asked, windows, strict=True) for _ in range(count)]
        sums = [max_sim(query, [document], "sum")[0] for query, document in zip(every, given, strict=True)]
    sums = _best(sums, windows)
    counts = [len(query) for query in asked] * (len(sums) // len(asked))
    means = np.clip(np.array(sums) / np.maximum(counts, 1), -1.0, 1.0).tolist()
    return _result(queries, documents, means, means if documents.model.max_sim == "mean" else sums)


def _check_lengths(queries: EmbedResult, documents: EmbedResult, one: int, other: int) -> None:
    """Raise ModelReplacedError, or RequestError if vectors of these lengths cannot be compared."""
    if queries.model.path == documents.model.path and queries.model.digest != documents.model.digest:
        raise ModelReplacedError("the model was replaced meanwhile; send the request again", retry_after=1.0)
    if one != other:
        raise RequestError(
            f"the aliases for queries and documents mean {queries.model.name} and {documents.model.name}, whose vectors "
            "have different lengths",
            param="model",
        )


def _result(queries: EmbedResult, documents: EmbedResult, scores: list[float], raw_scores: list[float]) -> RerankResult:
    times = len(documents.rows) // len(queries.rows)
    pairs = list(zip([*queries.rows] * times, documents.rows, strict=True))
    cuts = [
        Cut(index, query.tokens + document.tokens, _full(query) + _full(document))
        for index, (query, document) in enumerate(pairs)
        if _full(query) > query.tokens or _full(document) > document.tokens
    ]
    return RerankResult(
        model=documents.model,
        scores=scores,
        raw_scores=raw_scores,
        tokens=[query.tokens + document.tokens for query, document in pairs],
        hits=queries.hits + documents.hits,
        texts=queries.texts + documents.texts,
        cuts=cuts,
    )


def _by_window(documents: EmbedResult) -> tuple[EmbedResult, list[int]]:
    """Return a result with a row for each window of the documents, and how many windows each one has."""
    if documents.windows is None:
        return documents, [1] * len(documents.rows)
    rows = [part.row for parts in documents.windows for part in parts]
    return msgspec.structs.replace(documents, rows=rows, windows=None), [len(parts) for parts in documents.windows]


def _best(scores: Sequence[float], counts: Sequence[int]) -> list[float]:
    """Return the best of each document's scores. counts: of its windows."""
    best: list[float] = np.maximum.reduceat(np.array(scores), np.cumsum([0, *counts[:-1]])).tolist()
    return best


def _full(row: Row | CachedRow) -> int:
    """Return the tokens of a text before it was cut."""
    return row.full if isinstance(row, Row) and row.full else row.tokens
