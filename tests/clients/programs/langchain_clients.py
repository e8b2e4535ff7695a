"""LangChain's embeddings and rerankers."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from client_cases import (
    ANY_KEY,
    MODEL,
    QUERY,
    TEXTS,
    URL,
    Rows,
    Scores,
    case,
    embedder,
    finite,
    main,
    raises,
    reranker,
    rows,
)

# The file of OpenAI's vocabulary, which tiktoken would fetch.
found = find_spec("litellm")
assert found and found.origin
os.environ["TIKTOKEN_CACHE_DIR"] = str(Path(found.origin).parent / "litellm_core_utils" / "tokenizers")

from langchain_cohere import CohereEmbeddings, CohereRerank  # noqa: E402
from langchain_huggingface import HuggingFaceEndpointEmbeddings  # noqa: E402
from langchain_ollama import OllamaEmbeddings  # noqa: E402
from langchain_openai import OpenAIEmbeddings  # noqa: E402


def openai_default(url: str = URL, model: str = MODEL, key: str = ANY_KEY, **more: Any) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(base_url=f"{url}/v1", api_key=key, model=model, **more)


def openai_text(url: str = URL, model: str = MODEL, key: str = ANY_KEY) -> OpenAIEmbeddings:
    return openai_default(url, model, key, check_embedding_ctx_length=False)


def ollama(url: str = URL, model: str = MODEL, key: str = ANY_KEY, **more: Any) -> OllamaEmbeddings:
    return OllamaEmbeddings(base_url=url, model=model, client_kwargs={"headers": {"Authorization": f"Bearer {key}"}}, **more)


def cohere(url: str = URL, model: str = MODEL, key: str = ANY_KEY) -> CohereEmbeddings:
    return CohereEmbeddings(base_url=url, model=model, cohere_api_key=key)


def documents(make: Callable[..., Any]) -> Callable[..., Rows]:
    return lambda texts, **where: make(**where).embed_documents(texts)


case(
    "langchain-openai",
    "by default, token ids",
    raises("openai.BadRequestError", match="check_embedding_ctx_length"),
    lambda: openai_default().embed_documents(TEXTS["batch"]),
)
embedder(
    "langchain-openai",
    documents(openai_text),
    lambda text: openai_text().embed_query(text),
    long=raises("openai.BadRequestError", match="maximum context length is 256 tokens"),
    empty=raises("openai.BadRequestError", match="empty"),
    unknown=raises("openai.NotFoundError"),
    wrong_key=raises("openai.AuthenticationError"),
)
embedder(
    "langchain-ollama",
    documents(ollama),
    lambda text: ollama().embed_query(text),
    long=rows("long"),
    empty=finite("empty"),
    unknown=raises("ollama.ResponseError", match="not found"),
    wrong_key=raises("ollama.ResponseError"),
)
case(
    "langchain-ollama",
    "validate_model_on_init",
    rows("one"),
    lambda: ollama(validate_model_on_init=True).embed_documents(TEXTS["one"]),
)
embedder(
    "langchain-cohere",
    documents(cohere),
    lambda text: cohere().embed_query(text),
    long=rows("long"),
    empty=raises("cohere.BadRequestError", match="empty"),
    unknown=raises("cohere.NotFoundError"),
    wrong_key=raises("cohere.UnauthorizedError"),
)


def rerank_with(make: Callable[..., Any]) -> Callable[..., Scores]:
    def rerank(texts: list[str], top: int, model: str) -> Scores:
        return [(item["index"], item["relevance_score"]) for item in make(model, top).rerank(texts, QUERY)]

    return rerank


reranker(
    "langchain-cohere",
    rerank_with(lambda model, top: CohereRerank(base_url=URL, model=model, cohere_api_key=ANY_KEY, top_n=top)),
)
case(
    "langchain-huggingface",
    "an address for a model",
    raises("pydantic_core.ValidationError", match="not a URL"),
    lambda: HuggingFaceEndpointEmbeddings(model=URL),
)
main()
