"""The `infinity-client` package."""

from typing import Any

from client_cases import (
    ANY_KEY,
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
from infinity_client import AuthenticatedClient
from infinity_client.api.default import embeddings, health, models
from infinity_client.api.default import rerank as rerank_api
from infinity_client.models import OpenAIEmbeddingInputText, RerankInput

CLIENT = "infinity-client"


def client(url: str = URL, key: str = ANY_KEY) -> AuthenticatedClient:
    return AuthenticatedClient(base_url=url, token=key, raise_on_unexpected_status=True)


def embed(texts: list[str], url: str = URL, model: str = MODEL, key: str = ANY_KEY) -> Rows:
    answer = embeddings.sync(client=client(url, key), body=OpenAIEmbeddingInputText(input_=texts, model=model))
    return [item.embedding for item in answer.data]


def rerank(documents: list[str], top: int, model: str) -> Scores:
    body = RerankInput(query=QUERY, documents=documents, model=model, top_n=top)
    return [(item.index, item.relevance_score) for item in rerank_api.sync(client=client(), body=body).results]


def returned_documents() -> list[str]:
    body = RerankInput(query=QUERY, documents=["a", "b"], model=RERANKER, return_documents=True)
    return sorted(str(item.document) for item in rerank_api.sync(client=client(), body=body).results)


def unexpected(match: str) -> dict[str, Any]:
    return raises("infinity_client.UnexpectedStatus", match=match)


embedder(
    CLIENT,
    embed,
    lambda text: embed([text])[0],
    long=unexpected("maximum context length"),
    empty=unexpected("empty"),
    unknown=unexpected("no-such-model"),
    wrong_key=unexpected("401"),
    many=unexpected("items"),
)
reranker(CLIENT, rerank, unknown=unexpected("no-such-model"))
case(CLIENT, "documents returned", value(["a", "b"]), returned_documents)
case(CLIENT, "health", value(True), lambda: health.sync(client=client()) is not None)
case(CLIENT, "models", value(True), lambda: MODEL in [model.id for model in models.sync(client=client()).data])
case(CLIENT, "URL/v1", rows("one"), lambda: embed(TEXTS["one"], url=f"{URL}/v1"))
main()
