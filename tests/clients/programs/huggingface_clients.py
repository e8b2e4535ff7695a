"""The `huggingface_hub` package: InferenceClient."""

from typing import Any

from client_cases import ANY_KEY, TEXTS, URL, Rows, case, embedder, main, raises, rows, value
from huggingface_hub import InferenceClient

CLIENT = "huggingface_hub"


def embed(texts: Any, url: str = URL, model: str | None = None, key: str = ANY_KEY, **more: Any) -> Rows:
    return InferenceClient(url, token=key).feature_extraction(texts, **more)


embedder(
    CLIENT,
    embed,
    lambda text: embed(text)[0],
    long=rows("long"),
    empty=raises("huggingface_hub.HfHubHTTPError", match="empty"),
    unknown=None,
    wrong_key=raises("huggingface_hub.HfHubHTTPError"),
    many=raises("huggingface_hub.HfHubHTTPError"),
)
case(CLIENT, "URL/embed", rows("batch"), lambda: embed(TEXTS["batch"], url=f"{URL}/embed"))
case(
    CLIENT,
    "too long, truncate false",
    raises("huggingface_hub.HfHubHTTPError"),
    lambda: embed(TEXTS["long"], truncate=False),
)
case(CLIENT, "normalize false", rows("one"), lambda: embed(TEXTS["one"], normalize=False))
case(CLIENT, "dimensions", rows("one", 64), lambda: embed(TEXTS["one"], dimensions=64))
case(
    CLIENT,
    "base_url",
    rows("one"),
    lambda: InferenceClient(base_url=URL, token=ANY_KEY).feature_extraction(TEXTS["one"], model=None),
)
case(
    CLIENT,
    "sentence_similarity",
    value(3),
    lambda: len(InferenceClient(URL, token=ANY_KEY).sentence_similarity("a", other_sentences=["a", "b", "c"])),
)
case(
    CLIENT,
    "model beside the address",
    rows("one"),
    lambda: InferenceClient(URL).feature_extraction(TEXTS["one"], model=f"{URL}/embed"),
)
main()
