"""The `litellm` package: the providers whose protocols the daemon speaks, at the addresses that its documentation shows."""

from collections.abc import Callable
from typing import Any

import litellm
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

litellm.suppress_debug_info = True
LIMIT = "maximum context length is 256 tokens"
TOO_LONG = raises("litellm.ContextWindowExceededError")
UNKNOWN = raises("litellm.NotFoundError")
WRONG_KEY = raises("litellm.AuthenticationError")
EMPTY = raises("litellm.BadRequestError", "litellm.APIError", match="empty")
TOO_MANY = raises("litellm.BadRequestError", "litellm.APIError")


def embed_with(provider: str, path: str, **more: Any) -> Callable[..., Rows]:
    def embed(texts: Any, url: str = URL, model: str | None = MODEL, key: str = ANY_KEY, **fields: Any) -> Rows:
        answer = litellm.embedding(
            model=f"{provider}/{model}", input=texts, api_base=f"{url}{path}", api_key=key, **more, **fields
        )
        return [item["embedding"] for item in answer.data]

    return embed


def rerank_with(provider: str, path: str) -> Callable[..., Scores]:
    def rerank(documents: list[str], top: int, model: str) -> Scores:
        answer = litellm.rerank(
            model=f"{provider}/{model}",
            query=QUERY,
            documents=documents,
            top_n=top,
            api_base=f"{URL}{path}",
            api_key=ANY_KEY,
        )
        return [(item["index"], item["relevance_score"]) for item in answer.results]

    return rerank


def add(provider: str, path: str, **more: Any) -> None:
    client = f"litellm, {provider}"
    extra = more.pop("extra", {})
    embed = embed_with(provider, path, **extra)
    expectations = {
        # What other providers refuse is a BadRequestError, whatever the text.
        "long": TOO_LONG
        if provider in ("openai", "hosted_vllm", "lm_studio")
        else raises("litellm.BadRequestError", match=LIMIT),
        "empty": EMPTY,
        "unknown": UNKNOWN,
        "wrong_key": WRONG_KEY,
        "many": TOO_MANY,
        **more,
    }
    embedder(client, embed, lambda text: embed([text])[0], **expectations)
    if provider not in ("huggingface", "cohere", "openai", "lm_studio"):  # litellm itself refuses the field
        case(client, "dimensions", rows("one", 64), lambda: embed(TEXTS["one"], dimensions=64))


add("openai", "/v1")
add("hosted_vllm", "/v1")
add("lm_studio", "/v1")
add("ollama", "", long=rows("long"), empty=finite("empty"), many=rows("many"))
add("infinity", "")
add("jina_ai", "/v1")
add("voyage", "/v1")
add("cohere", "/v2/embed", long=rows("long"), extra={"input_type": "search_document"})
add("huggingface", "", unknown=None, long=rows("long"), extra={"input_type": "feature-extraction"})
case(
    "litellm, openai",
    "dimensions, allowed",
    rows("one", 64),
    lambda: embed_with("openai", "/v1")(TEXTS["one"], dimensions=64, allowed_openai_params=["dimensions"]),
)
case("litellm, infinity", "URL/v1", rows("one"), lambda: embed_with("infinity", "/v1")(TEXTS["one"]))
case("litellm, openai", "URL without /v1", rows("one"), lambda: embed_with("openai", "")(TEXTS["one"]))
case(
    "litellm, huggingface",
    "URL/embed",
    rows("one"),
    lambda: embed_with("huggingface", "/embed", input_type="feature-extraction")(TEXTS["one"]),
)

for provider, path in (
    ("cohere", ""),
    ("jina_ai", "/v1"),
    ("infinity", ""),
    ("hosted_vllm", "/v1"),
    ("voyage", "/v1"),
    ("huggingface", ""),
):
    unknown = raises("litellm.NotFoundError", "litellm.APIConnectionError") if provider != "huggingface" else None
    reranker(f"litellm, {provider}", rerank_with(provider, path), unknown=unknown)
main()
