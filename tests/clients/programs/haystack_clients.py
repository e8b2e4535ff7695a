"""Haystack's embedders and rankers."""

from collections.abc import Callable
from typing import Any

from client_cases import ANY_KEY, MODEL, QUERY, URL, Rows, Scores, embedder, finite, main, raises, reranker, rows
from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret
from haystack_integrations.components.embedders.cohere import CohereDocumentEmbedder, CohereTextEmbedder
from haystack_integrations.components.embedders.huggingface_api import (
    HuggingFaceAPIDocumentEmbedder,
    HuggingFaceAPITextEmbedder,
)
from haystack_integrations.components.embedders.ollama import OllamaDocumentEmbedder, OllamaTextEmbedder
from haystack_integrations.components.rankers.cohere import CohereRanker


def of(make: Callable[..., Any]) -> Callable[..., Rows]:
    def embed(texts: list[str], url: str = URL, model: str = MODEL, key: str = ANY_KEY) -> Rows:
        return [
            document.embedding
            for document in make(url, model, key).run([Document(content=text) for text in texts])["documents"]
        ]

    return embed


def openai(url: str = URL, model: str = MODEL, key: str = ANY_KEY, kind: Any = OpenAIDocumentEmbedder, **more: Any) -> Any:
    return kind(api_key=Secret.from_token(key), model=model, api_base_url=f"{url}/v1", **more)


def ollama(url: str = URL, model: str = MODEL, key: str = ANY_KEY, kind: Any = OllamaDocumentEmbedder) -> Any:
    return kind(model=model, url=url)


def tei(url: str = URL, model: str = MODEL, key: str = ANY_KEY, kind: Any = HuggingFaceAPIDocumentEmbedder) -> Any:
    return kind(api_type="text_embeddings_inference", api_params={"url": url}, token=Secret.from_token(key))


def cohere(url: str = URL, model: str = MODEL, key: str = ANY_KEY, kind: Any = CohereDocumentEmbedder) -> Any:
    return kind(api_key=Secret.from_token(key), model=model, api_base_url=url)


embedder(
    "haystack, OpenAI",
    of(lambda url, model, key: openai(url, model, key, raise_on_failure=True)),
    lambda text: openai(kind=OpenAITextEmbedder).run(text)["embedding"],
    long=raises("openai.BadRequestError", match="maximum context length is 256 tokens"),
    empty=raises("openai.BadRequestError", match="empty"),
    unknown=raises("openai.NotFoundError"),
    wrong_key=raises("openai.AuthenticationError"),
)
embedder(
    "haystack, Ollama",
    of(ollama),
    lambda text: ollama(kind=OllamaTextEmbedder).run(text)["embedding"],
    long=rows("long"),
    empty=finite("empty"),
    unknown=raises("ollama.ResponseError", match="not found"),
    wrong_key=None,
)
embedder(
    "haystack, HuggingFaceAPI with TEI",
    of(tei),
    lambda text: tei(kind=HuggingFaceAPITextEmbedder).run(text)["embedding"],
    long=rows("long"),
    empty=raises("huggingface_hub.HfHubHTTPError", match="empty"),
    unknown=None,
    wrong_key=raises("huggingface_hub.HfHubHTTPError"),
)
embedder(
    "haystack, Cohere",
    of(cohere),
    lambda text: cohere(kind=CohereTextEmbedder).run(text)["embedding"],
    long=rows("long"),
    empty=raises("cohere.BadRequestError", match="empty"),
    unknown=raises("cohere.NotFoundError"),
    wrong_key=raises("cohere.UnauthorizedError"),
)


def rerank(documents: list[str], top: int, model: str) -> Scores:
    ranker = CohereRanker(model=model, top_k=top, api_key=Secret.from_token(ANY_KEY), api_base_url=URL)
    found = ranker.run(QUERY, [Document(id=str(index), content=text) for index, text in enumerate(documents)])["documents"]
    return [(int(each.id), each.score) for each in found]


reranker("haystack, Cohere ranker", rerank, unknown=raises("cohere.NotFoundError"))

try:
    from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
except ImportError:
    pass
else:

    def tei_rerank(documents: list[str], top: int, model: str) -> Scores:
        ranker = HuggingFaceTEIRanker(url=URL, top_k=top, token=Secret.from_token(ANY_KEY))
        found = ranker.run(QUERY, [Document(id=str(index), content=text) for index, text in enumerate(documents)])[
            "documents"
        ]
        return [(int(each.id), each.score) for each in found]

    reranker("haystack, TEI ranker", tei_rerank)
main()
