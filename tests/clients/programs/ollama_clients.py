"""The `ollama` package."""

from typing import Any

import ollama
from client_cases import ANY_KEY, MODEL, TEXTS, URL, Rows, case, embedder, finite, main, raises, rows, value

CLIENT = "ollama (Python)"


def client(url: str = URL, key: str = ANY_KEY) -> ollama.Client:
    return ollama.Client(host=url, headers={"Authorization": f"Bearer {key}"})


def embed(texts: Any, url: str = URL, model: str | None = MODEL, key: str = ANY_KEY, **more: Any) -> Rows:
    return client(url, key).embed(model=model, input=texts, **more).embeddings


embedder(
    CLIENT,
    embed,
    lambda text: embed(text)[0],
    long=rows("long"),
    empty=finite("empty"),
    unknown=raises("ollama.ResponseError", match="not found"),
    wrong_key=raises("ollama.ResponseError"),
)
case(CLIENT, "embeddings", rows("one"), lambda: [client().embeddings(model=MODEL, prompt=TEXTS["one"][0]).embedding])
case(CLIENT, "NAME:latest", rows("one"), lambda: embed(TEXTS["one"], model=f"{MODEL}:latest"))
case(CLIENT, "Ollama's own name", rows("one"), lambda: embed(TEXTS["one"], model="all-minilm"))
case(CLIENT, "dimensions", rows("one", 64), lambda: embed(TEXTS["one"], dimensions=64))
case(
    CLIENT,
    "too long, truncate false",
    raises("ollama.ResponseError", match="maximum context length|exceeds the context length"),
    lambda: embed(TEXTS["long"], truncate=False),
)
case(CLIENT, "list", value(True), lambda: f"{MODEL}:latest" in [model.model for model in client().list().models])
case(CLIENT, "show", value(["embedding"]), lambda: client().show(MODEL).capabilities)
case(CLIENT, "ps", value(True), lambda: bool(client().ps().models))
case(CLIENT, "pull of what is installed", value("success"), lambda: client().pull(MODEL).status)
case(CLIENT, "pull, streamed", value("success"), lambda: [each.status for each in client().pull(MODEL, stream=True)][-1])
case(CLIENT, "generate", raises("ollama.ResponseError", match="not support generate"), lambda: client().generate(MODEL, "a"))
main()
