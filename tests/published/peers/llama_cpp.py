"""llama.cpp: the tests of its server."""

from __future__ import annotations

from tests.published.cases import KEY, RERANKER, Case, LeftOut, Peer, case, differs, get, post, send

EMBEDDING = "tools/server/tests/unit/test_embedding.py::"
RERANK = "tools/server/tests/unit/test_rerank.py::"
TOKENIZE = "tools/server/tests/unit/test_tokenize.py::"
SECURITY = "tools/server/tests/unit/test_security.py::"
BASIC = "tools/server/tests/unit/test_basic.py::"

MEANING = "I believe the meaning of life is"
FOUR = [
    MEANING,
    "Write a joke about AI from a very long prompt which will not be truncated",
    "This is a test",
    "This is another test",
]
DOCUMENTS = [
    "A machine is a physical system that applies forces to perform an action.",
    "Learning is the process of acquiring new understanding, knowledge and skills.",
    "Machine learning is a field of study concerned with algorithms that learn from data.",
    "Paris, capitale de la France, est une grande ville européenne.",
]
ABOUT = "Machine learning is"
OK = "a.status == 200"
REFUSED = "a.status == 400 and 'error' in a"

TOKEN_IDS = differs("token ids", REFUSED, "'token_ids' in a.message")
OTHER_NAMES = differs("unknown model names", "a.status == 404", "a['error']['code'] == 'model_not_found'")
ORIGINS = differs("web pages of any origin", "'access-control-allow-origin' not in a.headers")


def embeds(count: int) -> tuple[str, ...]:
    return OK, f"rows(a).shape == ({count}, 384)"


CASES: list[Case] = [
    case(EMBEDDING + "test_embedding_single", post("/v1/embeddings", input=MEANING), *embeds(1), "near(norms(rows(a)), 1)"),
    case(EMBEDDING + "test_embedding_multiple", post("/v1/embeddings", input=FOUR), *embeds(4)),
    case(
        EMBEDDING + "test_embedding_multiple_with_fa",
        post("/v1/embeddings", input=["a " * 253, "b " * 254, "c " * 255, "d " * 256]),
        *embeds(4),
    ),
    case(
        EMBEDDING + "test_embedding_mixed_input[empty text]",
        post("/v1/embeddings", input=""),
        *embeds(1),
        differs("empty texts", REFUSED, "a['error']['code'] == 'empty_input'"),
    ),
    case(EMBEDDING + "test_embedding_mixed_input[text]", post("/v1/embeddings", input="string"), *embeds(1)),
    *(
        case(
            EMBEDDING + f"test_embedding_mixed_input[{name}]", post("/v1/embeddings", input=given), *embeds(count), TOKEN_IDS
        )
        for name, given, count in [
            ("ids", [12, 34, 56], 1),
            ("ids and a text", [12, 34, "string", 56, 78], 1),
            ("a text, and ids", ["string1", [12, 34, 56]], 2),
            ("two of ids", [[12, 34, 56], [12, 34, 56]], 2),
            ("two of ids, one with a text", [[12, 34, 56], [12, "string", 34, 56]], 2),
        ]
    ),
    case(EMBEDDING + "test_embedding_mixed_input[texts]", post("/v1/embeddings", input=["string1", "string2"]), *embeds(2)),
    case(
        EMBEDDING + "test_embedding_mixed_input[prompt_string]",
        post("/v1/embeddings", input={"prompt_string": "string"}),
        *embeds(1),
    ),
    case(
        EMBEDDING + "test_embedding_mixed_input[content]",
        post("/v1/embeddings", input={"content": [{"type": "text", "text": "string"}]}),
        *embeds(1),
    ),
    case(
        EMBEDDING + "test_embedding_mixed_input[all]",
        post(
            "/v1/embeddings",
            input=["string1", {"prompt_string": "string2"}, {"content": [{"type": "text", "text": "string3"}]}],
        ),
        *embeds(3),
    ),
    case(
        EMBEDDING + "test_embedding_content_text_same_as_string",
        post(
            "/v1/embeddings",
            input=["hello world", {"content": [{"type": "text", "text": "hello "}, {"type": "text", "text": "world"}]}],
        ),
        *embeds(2),
        "near(rows(a)[0], rows(a)[1])",
    ),
    *(
        case(EMBEDDING + f"test_embedding_invalid_input[{name}]", post("/v1/embeddings", input=given), REFUSED)
        for name, given in [
            ("no text", []),
            ("audio", {"content": [{"type": "input_audio", "input_audio": {}}]}),
            ("image", {"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}),
        ]
    ),
    case(
        EMBEDDING + "test_embedding_invalid_input[content is a text]",
        post("/v1/embeddings", input={"content": "string"}),
        REFUSED,
        differs("messages as input", *embeds(1)),
    ),
    case(
        EMBEDDING + "test_embedding_pooling_mean",
        post("/v1/embeddings", input=MEANING),
        *embeds(1),
        "near(norms(rows(a)), 1)",
    ),
    case(EMBEDDING + "test_embedding_pooling_mean_multiple", post("/v1/embeddings", input=FOUR[:3]), *embeds(3)),
    case(
        EMBEDDING + "test_embedding_openai_library_single",
        post("/v1/embeddings", model="text-embedding-3-small", input=MEANING, encoding_format="base64"),
        *embeds(1),
        OTHER_NAMES,
    ),
    case(
        EMBEDDING + "test_embedding_openai_library_multiple",
        post("/v1/embeddings", model="text-embedding-3-small", input=FOUR, encoding_format="base64"),
        *embeds(4),
        OTHER_NAMES,
    ),
    case(
        EMBEDDING + "test_embedding_error_prompt_too_long",
        post("/v1/embeddings", input="This is a test " * 512),
        "a.status != 200",
        "'too large' in a.message",
        differs("words of errors", "a.status == 400", "a['error']['code'] == 'context_length_exceeded'"),
    ),
    case(
        EMBEDDING + "test_same_prompt_give_same_result",
        post("/v1/embeddings", input=[MEANING] * 5),
        *embeds(5),
        "near(rows(a), rows(a)[0])",
    ),
    *(
        case(
            EMBEDDING + f"test_embedding_usage_single[{tokens}]",
            post("/v1/embeddings", input=given),
            OK,
            f"a['usage']['prompt_tokens'] == a['usage']['total_tokens'] == {tokens}",
        )
        for given, tokens in [(MEANING, 9), ("This is a test", 6)]
    ),
    case(
        EMBEDDING + "test_embedding_usage_multiple",
        post("/v1/embeddings", input=[MEANING, MEANING]),
        OK,
        "a['usage']['prompt_tokens'] == a['usage']['total_tokens'] == 18",
    ),
    case(
        EMBEDDING + "test_embedding_openai_library_base64",
        post("/v1/embeddings", input="Test base64 embedding output"),
        post("/v1/embeddings", input="Test base64 embedding output", encoding_format="base64"),
        "a.status == b.status == 200",
        "len(b['data']) == 1 and isinstance(b['data'][0]['embedding'], str)",
        "near(numbers(b['data'][0]['embedding']), a['data'][0]['embedding'])",
    ),
    case(
        RERANK + "test_rerank",
        post("/rerank", query=ABOUT, documents=DOCUMENTS),
        OK,
        "sorted(order(a)) == [0, 1, 2, 3]",
        "max(scores(a)) > min(scores(a)) and order(a)[0] == scores(a).index(max(scores(a)))",
    ),
    case(
        RERANK + "test_rerank_tei_format",
        post("/rerank", query=ABOUT, texts=DOCUMENTS),
        OK,
        "sorted(order(a)) == [0, 1, 2, 3]",
        "max(scores(a)) > min(scores(a)) and order(a)[0] == scores(a).index(max(scores(a)))",
    ),
    *(
        case(RERANK + f"test_invalid_rerank_req[{given}]", post("/rerank", query=ABOUT, documents=given), REFUSED)
        for given in ([], None, 123, [1, 2, 3])
    ),
    *(
        case(
            RERANK + f"test_rerank_usage[{query}]",
            post("/rerank", query=query, documents=[one, other]),
            post("/rerank", query=query, documents=[one]),
            post("/rerank", query=query, documents=[other]),
            OK,
            "a['usage']['prompt_tokens'] == a['usage']['total_tokens']",
            "a['usage']['prompt_tokens'] == b['usage']['prompt_tokens'] + c['usage']['prompt_tokens']",
        )
        for query, one, other in [
            (ABOUT, "A machine", "Learning is"),
            ("Which city?", "Machine learning is ", "Paris, capitale de la"),
        ]
    ),
    *(
        case(
            RERANK + f"{test}[{top_n}]",
            post("/rerank", query=ABOUT, **{key: DOCUMENTS}, **({"top_n": top_n} if top_n else {})),
            OK,
            f"len(order(a)) == {count}",
        )
        for test, key in [("test_rerank_top_n", "documents"), ("test_rerank_tei_top_n", "texts")]
        for top_n, count in [(None, 4), (2, 2), (4, 4), (99, 4)]
    ),
    *(
        case(
            RERANK + f"test_embeddings_rejected_with_rank_pooling[{path}]",
            post(path, model=RERANKER, input="hello"),
            "a.status == 400",
            "'rerank' in a.message",
        )
        for path in ("/embeddings", "/v1/embeddings")
    ),
    case(
        TOKENIZE + "test_tokenize_detokenize[tokenize]",
        post("/tokenize", content="What is the capital of France ?"),
        OK,
        "a['tokens'] == [2054, 2003, 1996, 3007, 1997, 2605, 1029]",
    ),
    case(
        TOKENIZE + "test_tokenize_detokenize[detokenize]",
        post("/detokenize", tokens=[2054, 2003, 1996, 3007, 1997, 2605, 1029]),
        OK,
        "a['content'].strip().lower() in ('what is the capital of france ?', 'what is the capital of france?')",
    ),
    case(
        TOKENIZE + "test_tokenize_with_bos",
        post("/tokenize", content="What is the capital of France ?", add_special=True),
        OK,
        "a['tokens'][0] == 101",
    ),
    case(
        TOKENIZE + "test_tokenize_with_pieces",
        post("/tokenize", content="This is a test string with unicode 媽 and emoji 🤗", with_pieces=True),
        OK,
        "a['tokens'] and all(token['id'] > 0 and len(token['piece']) > 0 for token in a['tokens'])",
    ),
    case(SECURITY + "test_access_public_endpoint[/health]", get("/health"), OK, "'error' not in a", keyed=True),
    case(
        SECURITY + "test_access_public_endpoint[/models]",
        get("/models"),
        OK,
        "'error' not in a",
        differs("models behind the key", "a.status == 401"),
        keyed=True,
    ),
    case(SECURITY + "test_access_static_assets_without_api_key[/]", get("/"), OK, keyed=True),
    *(
        case(
            SECURITY + f"test_incorrect_api_key[{key}]",
            send(
                "POST",
                "/v1/embeddings",
                '{"input": "a"}',
                content_type="application/json",
                **({"authorization": f"Bearer {key}"} if key else {}),
            ),
            "a.status == 401",
            "a['error']['type'] == 'authentication_error'",
            differs("types of errors", "a.status == 401", "a['error']['code'] == 'invalid_api_key'"),
            keyed=True,
        )
        for key in (None, "invalid-key")
    ),
    *(
        case(
            SECURITY + test,
            send("POST", "/v1/embeddings", '{"input": "a"}', content_type="application/json", **{header: value}),
            OK,
            "'error' not in a",
            keyed=True,
        )
        for test, header, value in [
            ("test_correct_api_key", "authorization", f"Bearer {KEY}"),
            ("test_correct_api_key_anthropic_header", "x_api_key", KEY),
            ("test_openai_library_correct_api_key", "authorization", f"Bearer {KEY}"),
        ]
    ),
    *(
        case(
            SECURITY + f"test_cors_options[{origin}, {header}]",
            send(
                "OPTIONS",
                "/v1/embeddings",
                origin=origin,
                access_control_request_method="POST",
                access_control_request_headers="Authorization",
            ),
            OK,
            f"a.headers['{header}'] == '{value}'",
            ORIGINS,
        )
        for origin, header, value in [
            ("localhost", "access-control-allow-origin", "localhost"),
            ("web.mydomain.fr", "access-control-allow-origin", "web.mydomain.fr"),
            ("origin", "access-control-allow-credentials", "true"),
            ("web.mydomain.fr", "access-control-allow-methods", "GET, POST"),
            ("web.mydomain.fr", "access-control-allow-headers", "*"),
        ]
    ),
    case(BASIC + "test_server_start_simple", get("/health"), OK),
    case(BASIC + "test_server_models", get("/models"), OK, "a['data'][0]['id'] == MODEL"),
    case(BASIC + "test_no_webui", get("/", accept="text/html"), OK, "'<!doctype html>' in a.text.lower()"),
]

PEER = Peer(
    "llama.cpp",
    "ggml-org/llama.cpp",
    CASES,
    [
        LeftOut(EMBEDDING, 2, "a server started without pooling; here the model says how to pool"),
        LeftOut(SECURITY, 7, "files of its own web page, images in chats"),
        LeftOut(BASIC, 5, "slots, settings of generation, split models of generation, flags of its own start"),
    ],
    "chat, completion, tools, slots, LoRA, images, audio, its router of processes",
)
