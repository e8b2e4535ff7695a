"""LlamaIndex's embeddings and rerankers."""

from collections.abc import Callable
from typing import Any

from client_cases import ANY_KEY, MODEL, QUERY, URL, Rows, Scores, embedder, finite, main, raises, reranker, rows
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.embeddings.cohere import CohereEmbedding
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference as TeiRerank


def openai_like(url: str = URL, model: str = MODEL, key: str = ANY_KEY) -> OpenAILikeEmbedding:
    return OpenAILikeEmbedding(model_name=model, api_base=f"{url}/v1", api_key=key)


def ollama(url: str = URL, model: str = MODEL, key: str = ANY_KEY) -> OllamaEmbedding:
    return OllamaEmbedding(model_name=model, base_url=url, client_kwargs={"headers": {"Authorization": f"Bearer {key}"}})


def tei(url: str = URL, model: str = MODEL, key: str = ANY_KEY) -> TextEmbeddingsInference:
    return TextEmbeddingsInference(model_name=model, base_url=url, auth_token=key)


def cohere(url: str = URL, model: str = MODEL, key: str = ANY_KEY) -> CohereEmbedding:
    return CohereEmbedding(model_name=model, base_url=url, api_key=key)


def of(make: Callable[..., Any]) -> Callable[..., Rows]:
    return lambda texts, **where: make(**where).get_text_embedding_batch(texts)


embedder(
    "llama-index, openai-like",
    of(openai_like),
    lambda text: openai_like().get_query_embedding(text),
    long=raises("openai.BadRequestError", match="maximum context length is 256 tokens"),
    empty=raises("openai.BadRequestError", match="empty"),
    unknown=raises("openai.NotFoundError"),
    wrong_key=raises("openai.AuthenticationError"),
)
embedder(
    "llama-index, ollama",
    of(ollama),
    lambda text: ollama().get_query_embedding(text),
    long=rows("long"),
    empty=finite("empty"),
    unknown=raises("ollama.ResponseError", match="not found"),
    wrong_key=raises("ollama.ResponseError"),
)
embedder(
    "llama-index, text-embeddings-inference",
    of(tei),
    lambda text: tei().get_query_embedding(text),
    long=rows("long"),
    # It takes any answer for the rows.
    empty=raises("builtins.Exception"),
    unknown=None,
    wrong_key=raises("builtins.Exception"),
)


def cohere_names_are_checked() -> bool:
    try:
        cohere()
    except ValueError:
        return True
    return False


if not cohere_names_are_checked():
    embedder(
        "llama-index, cohere",
        of(cohere),
        lambda text: cohere().get_query_embedding(text),
        long=rows("long"),
        empty=raises("cohere.BadRequestError", match="empty"),
        unknown=raises("cohere.NotFoundError"),
        wrong_key=raises("cohere.UnauthorizedError"),
    )


def reranked(make: Callable[..., Any]) -> Callable[..., Scores]:
    def rerank(documents: list[str], top: int, model: str) -> Scores:
        nodes = [NodeWithScore(node=TextNode(id_=str(index), text=text)) for index, text in enumerate(documents)]
        found = make(model, top).postprocess_nodes(nodes, QueryBundle(QUERY))
        return [(int(each.node.node_id), each.score) for each in found]

    return rerank


reranker("llama-index, tei-rerank", reranked(lambda model, top: TeiRerank(base_url=URL, model_name=model, top_n=top)))
reranker(
    "llama-index, cohere-rerank",
    reranked(lambda model, top: CohereRerank(base_url=URL, api_key=ANY_KEY, model=model, top_n=top)),
)
main()
