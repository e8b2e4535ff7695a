"""The embedding functions of `chromadb`."""

import os

from client_cases import ANY_KEY, MODEL, URL, Rows, embedder, finite, main, raises, rows

os.environ["CO_API_URL"] = URL  # read when cohere is imported: its function has no parameter for an address

from chromadb.utils.embedding_functions import (
    CohereEmbeddingFunction,
    HuggingFaceEmbeddingServer,
    JinaEmbeddingFunction,
    OllamaEmbeddingFunction,
    OpenAIEmbeddingFunction,
    VoyageAIEmbeddingFunction,
)


def openai(texts: list[str], url: str = URL, model: str = MODEL, key: str = ANY_KEY) -> Rows:
    return OpenAIEmbeddingFunction(api_key=key, model_name=model, api_base=f"{url}/v1")(texts)


def ollama(texts: list[str], url: str = URL, model: str = MODEL, key: str = ANY_KEY) -> Rows:
    return OllamaEmbeddingFunction(url=url, model_name=model)(texts)


def server(texts: list[str], url: str = URL, model: str = MODEL, key: str = ANY_KEY) -> Rows:
    return HuggingFaceEmbeddingServer(url=f"{url}/embed", api_key=key)(texts)


def cohere(texts: list[str], url: str = URL, model: str = MODEL, key: str = ANY_KEY) -> Rows:
    return CohereEmbeddingFunction(api_key=key, model_name=model)(texts)


def jina(texts: list[str], url: str = URL, model: str = MODEL, key: str = ANY_KEY) -> Rows:
    function = JinaEmbeddingFunction(api_key=key, model_name=model)
    function._api_url = f"{url}/v1/embeddings"  # no parameter for it
    return function(texts)


def voyage(texts: list[str], url: str = URL, model: str = MODEL, key: str = ANY_KEY) -> Rows:
    import voyageai

    function = VoyageAIEmbeddingFunction(api_key=key, model_name=model)
    function._client = voyageai.Client(api_key=key, base_url=f"{url}/v1")  # no parameter for it
    return function(texts)


embedder(
    "chromadb, OpenAI",
    openai,
    lambda text: openai([text])[0],
    long=raises("openai.BadRequestError", match="maximum context length is 256 tokens"),
    empty=raises("openai.BadRequestError", match="empty"),
    unknown=raises("openai.NotFoundError"),
    wrong_key=raises("openai.AuthenticationError"),
    many=raises("openai.BadRequestError", match="2048"),
)
embedder(
    "chromadb, Ollama",
    ollama,
    lambda text: ollama([text])[0],
    long=rows("long"),
    empty=finite("empty"),
    unknown=raises("ollama.ResponseError", match="not found"),
    wrong_key=None,
)
embedder(
    "chromadb, HuggingFaceEmbeddingServer",
    server,
    lambda text: server([text])[0],
    long=rows("long"),
    # It takes any answer for the rows.
    empty=raises("builtins.Exception"),
    unknown=None,
    wrong_key=raises("builtins.Exception"),
    many=raises("builtins.Exception"),
)
embedder(
    "chromadb, Cohere",
    cohere,
    lambda text: cohere([text])[0],
    long=rows("long"),
    empty=raises("cohere.BadRequestError", match="empty"),
    unknown=raises("cohere.NotFoundError"),
    wrong_key=None,
)
embedder(
    "chromadb, Jina",
    jina,
    lambda text: jina([text])[0],
    long=raises("builtins.RuntimeError"),
    empty=raises("builtins.RuntimeError"),
    unknown=raises("builtins.RuntimeError"),
    wrong_key=raises("builtins.RuntimeError"),
    many=raises("builtins.RuntimeError"),
)
embedder(
    "chromadb, Voyage",
    voyage,
    lambda text: voyage([text])[0],
    long=rows("long"),
    empty=raises("voyageai.InvalidRequestError", match="empty"),
    unknown=raises("voyageai.APIError", match="no-such-model"),
    wrong_key=raises("voyageai.AuthenticationError"),
    many=raises("voyageai.InvalidRequestError"),
)
main()
