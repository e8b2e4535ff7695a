"""The embedders of `mem0ai`."""

from client_cases import ANY_KEY, MODEL, TEXTS, URL, Rows, case, embedder, finite, main, raises, rows
from mem0.configs.embeddings.base import BaseEmbedderConfig
from mem0.embeddings.lmstudio import LMStudioEmbedding
from mem0.embeddings.ollama import OllamaEmbedding
from mem0.embeddings.openai import OpenAIEmbedding


def openai(texts: list[str], url: str = URL, model: str = MODEL, key: str = ANY_KEY) -> Rows:
    return OpenAIEmbedding(BaseEmbedderConfig(model=model, openai_base_url=f"{url}/v1", api_key=key)).embed_batch(texts)


def ollama(texts: list[str], url: str = URL, model: str = MODEL, key: str = ANY_KEY) -> Rows:
    return OllamaEmbedding(BaseEmbedderConfig(model=model, ollama_base_url=url)).embed_batch(texts)


def lm_studio(texts: list[str], url: str = URL, model: str = MODEL, key: str = ANY_KEY) -> Rows:
    embedding = LMStudioEmbedding(BaseEmbedderConfig(model=model, lmstudio_base_url=f"{url}/v1"))
    return [embedding.embed(text) for text in texts]


embedder(
    "mem0, openai",
    openai,
    lambda text: OpenAIEmbedding(BaseEmbedderConfig(model=MODEL, openai_base_url=f"{URL}/v1", api_key=ANY_KEY)).embed(text),
    long=raises("openai.BadRequestError", match="maximum context length is 256 tokens"),
    empty=raises("openai.BadRequestError", match="empty"),
    unknown=raises("openai.NotFoundError"),
    wrong_key=raises("openai.AuthenticationError"),
)
embedder(
    "mem0, ollama",
    ollama,
    lambda text: OllamaEmbedding(BaseEmbedderConfig(model=MODEL, ollama_base_url=URL)).embed(text),
    long=rows("long"),
    empty=finite("empty"),
    unknown=raises("ollama.ResponseError", match="not found|no model"),
    wrong_key=None,
)
case("mem0, lmstudio", "unicode", rows("unicode"), lambda: lm_studio(TEXTS["unicode"]))
main()
