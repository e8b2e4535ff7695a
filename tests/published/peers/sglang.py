"""SGLang: the tests of its embeddings and of its reranking."""

from __future__ import annotations

from typing import Any

from tests.published.cases import KEY, MODEL, RERANKER, Ask, Case, Differs, LeftOut, Peer, case, differs, get, post, send

EMBEDDING = "test/registered/openai_server/basic/test_openai_embedding.py::"
SERVING = "test/registered/openai_server/basic/test_serving_embedding.py::"
RERANK = "test/registered/openai_server/basic/test_serving_rerank.py::"
NAMES = "test/registered/openai_server/validation/test_strict_model_validation.py::"
LENGTHS = "test/registered/openai_server/validation/test_request_length_validation.py::"
TOKENS = "test/srt/test_tokenizer_api.py::"
DOCS = "docs/supported_models/rerank_models.md::"

OK = "a.status == 200"
IDS = [15339, 314, 703, 284, 612, 262, 10658, 10188, 286, 2061]
TOKEN_IDS = differs("token ids", "a.status == 400", "'token_ids' in a.message")
SHAPE = differs("SGLang's reranking", OK, "all('relevance_score' in item for item in a['results'])")


def openai(body: str) -> Ask:
    """Return what OpenAI's client sends, with a key."""
    return send("POST", "/v1/embeddings", body, content_type="application/json", authorization=f"Bearer {KEY}")


RERANKED: list[tuple[str, list[str], dict[str, Any], tuple[str | Differs, ...]]] = [
    (
        "test_convert_to_internal_request_cross_encoder_pairs",
        ["doc-a", "doc-b"],
        {"instruct": "Retrieve semantically similar text."},
        ("sorted(order(a)) == [0, 1]", differs("an instruction for a model without one", "a.status == 400")),
    ),
    (
        "test_build_rerank_response_embedding_list_uses_first_scalar",
        ["doc-a", "doc-b"],
        {"return_documents": True},
        ("[scores(a)[index] for index in order(a)] == sorted(scores(a), reverse=True)",),
    ),
    (
        "test_build_rerank_response_float_list",
        ["a", "b", "c"],
        {"return_documents": True},
        ("sorted(order(a)) == [0, 1, 2]",),
    ),
    (
        "test_build_rerank_response_return_documents_false",
        ["a", "b", "c"],
        {"return_documents": False},
        ("'document' not in a.text", "sorted(order(a)) == [0, 1, 2]"),
    ),
    (
        "test_build_rerank_response_top_n",
        ["a", "b", "c"],
        {"return_documents": True, "top_n": 2},
        ("len(order(a)) == 2",),
    ),
    ("test_build_rerank_response_top_n_greater_than_total", ["a", "b"], {"top_n": 10}, ("len(order(a)) == 2",)),
    (
        "test_build_rerank_response_top_n_with_return_documents_false",
        ["a", "b", "c"],
        {"return_documents": False, "top_n": 1},
        ("len(order(a)) == 1", "'document' not in a.text"),
    ),
]

CASES: list[Case] = [
    case(
        EMBEDDING + "test_embedding_single",
        openai(f'{{"model": "{MODEL}", "input": "Hello world", "encoding_format": "base64"}}'),
        OK,
        "rows(a).shape == (1, 384)",
        keyed=True,
    ),
    case(
        EMBEDDING + "test_embedding_batch",
        openai(f'{{"model": "{MODEL}", "input": ["Hello world", "Test text"], "encoding_format": "base64"}}'),
        OK,
        "rows(a).shape == (2, 384)",
        keyed=True,
    ),
    case(
        EMBEDDING + "test_embedding_single_batch_str",
        openai(f'{{"model": "{MODEL}", "input": ["Hello world"], "encoding_format": "base64"}}'),
        OK,
        "rows(a).shape == (1, 384)",
        keyed=True,
    ),
    *(
        case(
            EMBEDDING + f"test_embedding_single_int_list[{name}]",
            post("/v1/embeddings", model=MODEL, input=given),
            OK,
            "rows(a).shape == (1, 384)",
            TOKEN_IDS,
        )
        for name, given in [("list of lists", [IDS]), ("list", IDS)]
    ),
    case(EMBEDDING + "test_empty_string_embedding", post("/v1/embeddings", model=MODEL, input=""), "a.status == 400"),
    case(
        EMBEDDING + "test_embedding_with_dimensions_parameter[more than the model has]",
        post("/v1/embeddings", model=MODEL, input="Hello world", dimensions=512),
        "a.status == 400",
    ),
    *(
        case(
            EMBEDDING + f"test_matryoshka_embedding_valid_dimensions[{dimensions}]",
            post("/v1/embeddings", model=MODEL, input="Hello world", dimensions=dimensions),
            OK,
            f"rows(a).shape == (1, {dimensions})",
        )
        for dimensions in (64, 128, 256, 320, 384)
    ),
    case(
        EMBEDDING + "test_matryoshka_embedding_batch_same_dimensions",
        post("/v1/embeddings", model=MODEL, input=["Hello world", "Test text", "Another example"], dimensions=256),
        OK,
        "rows(a).shape == (3, 256)",
    ),
    case(
        EMBEDDING + "test_matryoshka_embedding_no_dimensions",
        post("/v1/embeddings", input="Hello world"),
        "rows(a).shape == (1, 384)",
    ),
    *(
        case(
            EMBEDDING + f"test_matryoshka_embedding_invalid_dimensions[{dimensions}]",
            post("/v1/embeddings", model=MODEL, input="Hello world", dimensions=dimensions),
            "a.status == 400",
        )
        for dimensions in (-1, 10000)
    ),
    case(
        EMBEDDING + "test_matryoshka_embedding_invalid_dimensions[0]",
        post("/v1/embeddings", model=MODEL, input="Hello world", dimensions=0),
        "a.status == 400",
        differs("dimensions", OK, "rows(a).shape == (1, 384)"),
    ),
    case(
        EMBEDDING + "test_matryoshka_embedding_invalid_dimensions[100]",
        post("/v1/embeddings", model=MODEL, input="Hello world", dimensions=100),
        "a.status == 400",
        differs("dimensions", OK, "rows(a).shape == (1, 100)"),
    ),
    case(
        SERVING + "test_convert_single_string_request",
        post("/v1/embeddings", input="Hello, how are you?", encoding_format="float"),
        OK,
    ),
    case(
        SERVING + "test_convert_list_string_request",
        post("/v1/embeddings", input=["Hello, how are you?", "I am fine, thank you!"], encoding_format="float"),
        "rows(a).shape == (2, 384)",
    ),
    case(
        SERVING + "test_convert_token_ids_request",
        post("/v1/embeddings", input=[1, 2, 3, 4, 5], encoding_format="float"),
        OK,
        TOKEN_IDS,
    ),
    case(
        SERVING + "test_convert_multimodal_request[text only]",
        post("/v1/embeddings", input=[{"text": "Hello"}, {"text": "World", "image": None}], encoding_format="float"),
        post("/v1/embeddings", input=["Hello", "World"]),
        OK,
        "cosine(rows(a), rows(b)) > 0.9999",
    ),
    case(
        SERVING + "test_convert_multimodal_request[an image, of a model without]",
        post("/v1/embeddings", input=[{"text": "Hello", "image": "base64_image_data"}]),
        "a.status == 400",
    ),
    *(
        case(RERANK + test, post("/v1/rerank", model=RERANKER, query="q", documents=documents, **more), OK, *holds)
        for test, documents, more, holds in RERANKED
    ),
    case(
        DOCS + "the answer is a list",
        post("/v1/rerank", model=RERANKER, query="what is panda?", documents=["hi", "The giant panda is a bear."]),
        OK,
        "isinstance(a.json, list)",
        "all({'score', 'index', 'document'} <= set(item) for item in a.json)",
        SHAPE,
    ),
    case(
        NAMES + "test_invalid_model_name_completion",
        post("/v1/embeddings", model="wrong_model_name", input="hi"),
        "a.status == 400",
        "'wrong_model_name' in a.message",
        differs("unknown model names", "a.status == 404", "'wrong_model_name' in a.message"),
    ),
    case(NAMES + "test_valid_model_name_chat", post("/v1/embeddings", model=MODEL, input="hi"), OK),
    case(
        LENGTHS + "test_input_length_longer_than_context_length",
        post("/v1/embeddings", model=MODEL, input="hello " * 1200),
        "a.status == 400",
        '"is longer than the model\'s context length" in a.message',
        differs("words of errors", "a.status == 400", "'maximum context length is 512 tokens' in a.message"),
    ),
    case("docs/basic_usage/native_api.md::/health", get("/health"), OK),
    case(
        "docs/basic_usage/native_api.md::/model_info",
        get("/model_info"),
        OK,
        differs("routes of other programs", "a.status == 404"),
    ),
    case(
        "docs/basic_usage/native_api.md::/encode",
        post("/encode", text="Once upon a time"),
        OK,
        differs("routes of other programs", "a.status == 404"),
    ),
    # Its tokenizer's routes: `prompt` as of today, `text` when the test was written.
    case(
        TOKENS + "test_tokenize_simple",
        post("/tokenize", prompt="Hello, world!"),
        OK,
        "a['tokens'] == [101, 7592, 1010, 2088, 999, 102] and a['count'] == 6",
    ),
    case(TOKENS + "test_tokenize_empty", post("/tokenize", prompt=""), OK, "a['tokens'] == [101, 102] and a['count'] == 2"),
    case(
        TOKENS + "test_tokenize_long",
        post("/tokenize", prompt="This is a longer text that should be tokenized properly. " * 100),
        OK,
        "len(a['tokens']) == a['count'] > 1000",
    ),
    case(TOKENS + "test_tokenize_invalid", post("/tokenize", prompt=123), "a.status == 400", "'error' in a"),
    case(
        TOKENS + "test_detokenize_simple",
        post("/detokenize", tokens=[101, 7592, 1010, 2088, 999, 102]),
        OK,
        "a['text'].strip() == 'hello, world!'",
    ),
    case(TOKENS + "test_detokenize_empty", post("/detokenize", tokens=[]), OK, "a['text'] == ''"),
    *(
        case(
            TOKENS + f"test_detokenize_invalid[{name}]", post("/detokenize", tokens=given), "a.status == 400", "'error' in a"
        )
        for name, given in [("format", "not_a_list"), ("token", [1, 2, "not_an_int", 4])]
    ),
    case(
        TOKENS + "test_detokenize_keep_special_tokens",
        post("/detokenize", tokens=[101, 7592, 102], skip_special_tokens=False),
        OK,
        "'[CLS]' in a['text'] and '[SEP]' in a['text']",
    ),
    case(
        TOKENS + "test_roundtrip",
        post("/tokenize", prompt="this is a test of the round trip."),
        post("/detokenize", tokens=[101, 2023, 2003, 1037, 3231, 1997, 1996, 2461, 4440, 1012, 102]),
        "a.status == b.status == 200",
        "a['tokens'] == [101, 2023, 2003, 1037, 3231, 1997, 1996, 2461, 4440, 1012, 102]",
        "b['text'].strip() == 'this is a test of the round trip.'",
    ),
]

PEER = Peer(
    "SGLang",
    "sgl-project/sglang",
    CASES,
    [
        LeftOut(RERANK, 6, "chat templates, log-probabilities of yes and no, images"),
        LeftOut(NAMES, 2, "chat, LoRA"),
        LeftOut(LENGTHS, 7, "log-probabilities of tokens, max_tokens"),
    ],
    "chat, tools, responses, transcription, probabilities of the next token",
)
