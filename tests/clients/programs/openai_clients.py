"""The `openai` package."""

from typing import Any

import openai
from client_cases import ANY_KEY, MODEL, TEXTS, URL, Rows, case, embedder, main, raises, rows, value

CLIENT = "openai (Python)"


def client(url: str = URL, key: str = ANY_KEY) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def embed(texts: Any, url: str = URL, model: str | None = MODEL, key: str = ANY_KEY, **more: Any) -> Rows:
    return [item.embedding for item in client(url, key).embeddings.create(model=model, input=texts, **more).data]


embedder(
    CLIENT,
    embed,
    lambda text: embed(text)[0],
    long=raises("openai.BadRequestError", match="maximum context length is 256 tokens"),
    empty=raises("openai.BadRequestError", match="empty"),
    unknown=raises("openai.NotFoundError", match="no-such-model"),
    wrong_key=raises("openai.AuthenticationError"),
    many=raises("openai.BadRequestError", match="2048"),
)
case(CLIENT, "dimensions", rows("batch", 64), lambda: embed(TEXTS["batch"], dimensions=64))
case(CLIENT, "float", rows("batch"), lambda: embed(TEXTS["batch"], encoding_format="float"))
case(
    CLIENT,
    "OpenAI's model",
    raises("openai.NotFoundError", match="alias"),
    lambda: embed("a", model="text-embedding-3-small"),
)
case(CLIENT, "list of models", value(True), lambda: MODEL in [model.id for model in client().models.list()])
case(CLIENT, "one model", value(MODEL), lambda: client().models.retrieve(MODEL).id)
case(
    CLIENT,
    "token ids of OpenAI",
    raises("openai.BadRequestError", match="check_embedding_ctx_length"),
    lambda: embed([[1, 2, 3]]),
)
main()
