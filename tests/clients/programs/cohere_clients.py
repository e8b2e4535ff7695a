"""The `cohere` package, both of its clients."""

from typing import Any

import cohere
from client_cases import (
    ANY_KEY,
    DOCUMENTS,
    MODEL,
    QUERY,
    RERANKER,
    TEXTS,
    URL,
    Rows,
    Scores,
    case,
    embedder,
    main,
    raises,
    reranker,
    rows,
    value,
)


def embed(texts: list[str], url: str = URL, model: str = MODEL, key: str = ANY_KEY) -> Rows:
    client = cohere.ClientV2(api_key=key, base_url=url)
    return client.embed(model=model, texts=texts, input_type="search_document", embedding_types=["float"]).embeddings.float_


def embed_v1(texts: list[str], url: str = URL, model: str = MODEL, key: str = ANY_KEY) -> Rows:
    return cohere.Client(api_key=key, base_url=url).embed(model=model, texts=texts, input_type="search_document").embeddings


def rerank(documents: list[str], top: int, model: str) -> Scores:
    results = (
        cohere.ClientV2(api_key=ANY_KEY, base_url=URL)
        .rerank(model=model, query=QUERY, documents=documents, top_n=top)
        .results
    )
    return [(result.index, result.relevance_score) for result in results]


def rerank_v1(documents: list[str], top: int, model: str) -> Scores:
    results = (
        cohere.Client(api_key=ANY_KEY, base_url=URL).rerank(model=model, query=QUERY, documents=documents, top_n=top).results
    )
    return [(result.index, result.relevance_score) for result in results]


def typed(kind: str, attribute: str) -> Any:
    client = cohere.ClientV2(api_key=ANY_KEY, base_url=URL)
    answer = client.embed(model=MODEL, texts=TEXTS["one"], input_type="search_document", embedding_types=[kind])
    return getattr(answer.embeddings, attribute)


for name, call, call_rerank in (("cohere (Python), v2", embed, rerank), ("cohere (Python), v1", embed_v1, rerank_v1)):
    embedder(
        name,
        call,
        lambda text, call=call: next(iter(call([text]))),
        long=rows("long"),
        empty=raises("cohere.BadRequestError", "cohere.UnprocessableEntityError", match="empty"),
        unknown=raises("cohere.NotFoundError", match="no-such-model"),
        wrong_key=raises("cohere.UnauthorizedError"),
        # The client of version 1 sends 96 texts at a time; that of version 2 leaves it to the caller.
        many=raises("cohere.BadRequestError") if name.endswith("v2") else None,
    )
    reranker(name, call_rerank, unknown=raises("cohere.NotFoundError"))
case("cohere (Python), v2", "int8", rows("one", least=0.99), lambda: typed("int8", "int8"))
case("cohere (Python), v2", "ubinary", value(48), lambda: len(typed("ubinary", "ubinary")[0]))
case(
    "cohere (Python), v1",
    "documents returned",
    value(True),
    lambda: (
        {
            each.document.text
            for each in cohere.Client(api_key=ANY_KEY, base_url=URL)
            .rerank(model=RERANKER, query=QUERY, documents=DOCUMENTS, return_documents=True)
            .results
        }
        == set(DOCUMENTS)
    ),
)
case(
    "cohere (Python), v1",
    "tokenize",
    value(True),
    lambda: bool(cohere.Client(api_key=ANY_KEY, base_url=URL).tokenize(text="a b", model=MODEL, offline=False).tokens),
)
main()
