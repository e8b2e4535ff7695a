"""The `voyageai` package."""

from typing import Any

import voyageai
from client_cases import ANY_KEY, MODEL, QUERY, TEXTS, URL, Rows, Scores, case, embedder, main, raises, reranker, rows

CLIENT = "voyageai"


def client(url: str = URL, key: str = ANY_KEY) -> voyageai.Client:
    return voyageai.Client(api_key=key, base_url=f"{url}/v1")


def embed(texts: Any, url: str = URL, model: str | None = MODEL, key: str = ANY_KEY, **more: Any) -> Rows:
    return client(url, key).embed(texts, model=model, **more).embeddings


def rerank(documents: list[str], top: int, model: str) -> Scores:
    return [(item.index, item.relevance_score) for item in client().rerank(QUERY, documents, model=model, top_k=top).results]


embedder(
    CLIENT,
    embed,
    lambda text: embed([text], input_type="query")[0],
    long=rows("long"),
    empty=raises("voyageai.InvalidRequestError", match="empty"),
    unknown=raises("voyageai.APIError", match="no-such-model"),
    wrong_key=raises("voyageai.AuthenticationError"),
    many=raises("voyageai.InvalidRequestError"),
)
case(CLIENT, "truncation false", raises("voyageai.InvalidRequestError"), lambda: embed(TEXTS["long"], truncation=False))
case(CLIENT, "output_dimension", rows("one", 64), lambda: embed(TEXTS["one"], output_dimension=64))
case(CLIENT, "output_dtype int8", rows("one", least=0.99), lambda: embed(TEXTS["one"], output_dtype="int8"))
case(CLIENT, "output_dtype float", rows("one"), lambda: embed(TEXTS["one"], output_dtype="float"))
reranker(CLIENT, rerank, unknown=raises("voyageai.APIError", match="no-such-model"))
main()
