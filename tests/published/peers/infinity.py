"""infinity: its end-to-end tests."""

from __future__ import annotations

from itertools import permutations
from typing import Any

from tests.published.cases import KEY, MODEL, RERANKER, Ask, Case, LeftOut, Peer, case, differs, get, post, send

DUMMY = "libs/infinity_emb/tests/end_to_end/test_api_with_dummymodel.py::"
KEYS = "libs/infinity_emb/tests/end_to_end/test_authentication.py::"
TORCH = "libs/infinity_emb/tests/end_to_end/test_sentence_transformers.py::"
RERANK = "libs/infinity_emb/tests/end_to_end/test_torch_reranker.py::"
CLIENT = "libs/infinity_emb/tests/end_to_end/test_openapi_client_compat.py::"
RESPONSE = "libs/infinity_emb/tests/unit_test/fastapi_schemas/test_response.py::"
SCHEMA = "libs/infinity_emb/infinity_emb/fastapi_schemas/pymodels.py::"

OK = "a.status == 200"
ONE, TWO = ["This is a test sentence."], ["This is a test sentence.", "This is another test sentence."]
TOWER = "Where is the Eiffel Tower located?"
PLACES = [
    "The Eiffel Tower is located in the United States.",
    "The Eiffel Tower is located in Paris, France",
    "The Eiffel Tower is located in the United Kingdom.",
]
STATS = differs("other fields of answers", OK, "'stats' not in a['data'][0]")
STATUS_422 = differs("status codes", "a.status == 400", "a['error']['param'] is not None")


def rerank(documents: list[str], **more: Any) -> Ask:
    return post("/rerank", model=RERANKER, query=TOWER, documents=documents, **more)


CASES: list[Case] = [
    case(DUMMY + "test_model_route[ids]", get("/models"), OK, "{MODEL, RERANKER} <= {model['id'] for model in a['data']}"),
    case(DUMMY + "test_model_route[stats]", get("/models"), OK, "isinstance(a['data'][0]['stats'], dict)", STATS),
    case(DUMMY + "test_model_route[health]", get("/health"), OK),
    case(
        DUMMY + "test_model_route[clock]",
        get("/health"),
        OK,
        "'unix' in a",
        differs("other fields of answers", OK, "a['status'] == 'ok'"),
    ),
    case(
        DUMMY + "test_embedding_max_length[too long]",
        post("/embeddings", input="%_" * 4097 * 15, model=MODEL),
        "a.status == 422",
        differs("status codes", "a.status == 400", "a['error']['code'] == 'context_length_exceeded'"),
    ),
    case(
        DUMMY + "test_embedding_max_length[up to the limit]",
        post("/embeddings", input="%_" * 250, model=MODEL),
        OK,
        "a['model'] == MODEL",
    ),
    case(
        DUMMY + "test_encoding_base_64",
        post("/embeddings", input="Hello World", model=MODEL, encoding_format="float"),
        post("/embeddings", input="Hello World", model=MODEL, encoding_format="base64"),
        "a.status == b.status == 200",
        "near(numbers(b['data'][0]['embedding']), a['data'][0]['embedding'], 1e-7)",
    ),
    *(
        case(
            DUMMY + f"test_embedding[{len(given)}]",
            post("/embeddings", input=given, model=MODEL),
            OK,
            f"rows(a).shape == ({len(given)}, 384)",
        )
        for given in (ONE, TWO)
    ),
    case(
        DUMMY + "test_batch_embedding",
        post("/embeddings", input=[f"sentence number {number}" for number in range(100)], model=MODEL),
        OK,
        "rows(a).shape == (100, 384)",
    ),
    *(
        case(
            DUMMY + f"test_matryoshka_embedding[{len(given)}]",
            post("/embeddings", input=given, model=MODEL, dimensions=10),
            OK,
            f"rows(a).shape == ({len(given)}, 10)",
        )
        for given in (ONE, TWO)
    ),
    case(DUMMY + "test_openapi_same_as_docs_file", get("/openapi.json"), OK, "{'openapi', 'info', 'paths'} <= set(a.json)"),
    *(
        case(
            KEYS + f"test_authentication[{method} {path}, {'with' if allowed else 'without'} key]",
            send(
                method,
                path,
                body,
                content_type="application/json",
                **({"authorization": f"Bearer {KEY}"} if allowed else {}),
            ),
            "a.status in (200, 400)" if allowed else "a.status == 401",
            keyed=True,
        )
        for method, path, body in [
            ("GET", "/models", None),
            ("POST", "/embeddings", f'{{"model": "{MODEL}", "input": "sentence"}}'),
            (
                "POST",
                "/rerank",
                f'{{"model": "{RERANKER}", "query": "Where is Munich?", "documents": ["Munich is in Germany."]}}',
            ),
        ]
        for allowed in (False, True)
    ),
    case(TORCH + "test_model_route", get("/models"), OK, "a['data'][0]['id'] == MODEL"),
    *(
        case(
            TORCH + f"test_embedding[{len(given)}]",
            post("/embeddings", input=given, model=MODEL),
            *(post("/embeddings", input=text, model=MODEL) for text in given),
            OK,
            "cosine(rows(a)[0], rows(b)) > 0.999",
            f"len(rows(a)) == {len(given)}",
        )
        for given in (ONE, TWO)
    ),
    case(
        RERANK + "test_reranker",
        rerank(["My favorite dish is a hamburger.", *PLACES, "I enjoiy flying to the moon."]),
        OK,
        "'model' in a and 'usage' in a",
        "sorted(order(a)) == [0, 1, 2, 3, 4]",
        "all(0 <= score <= 1 for score in scores(a))",
    ),
    *(
        case(
            RERANK + f"test_reranker_top_n[{number}, {top_n}, {returned}]",
            rerank(list(documents), top_n=top_n, return_documents=returned),
            OK,
            f"len(order(a)) == {min(top_n, 3)}",
            "order(a)[0] == scores(a).index(max(scores(a))) or len(order(a)) < 3",
            f"('document' in a['results'][0]) == {returned}",
        )
        for number, documents in enumerate(permutations(PLACES))
        for top_n in (1, 2, 8000)
        for returned in (True, False)
    ),
    case(
        RERANK + "test_reranker_top_n[the document is a text]",
        rerank(PLACES, return_documents=True),
        OK,
        "isinstance(a['results'][0]['document'], str)",
    ),
    case(RERANK + "test_reranker_invalid_top_n[-1]", rerank(PLACES, top_n=-1), "a.status == 422", STATUS_422),
    case(
        RERANK + "test_reranker_invalid_top_n[0]",
        rerank(PLACES, top_n=0),
        "a.status == 422",
        differs("top_n 0", OK, "len(order(a)) == 3"),
    ),
    case(
        RERANK + "test_reranker_cant_embed_or_classify[embed]",
        post("/embeddings", model=RERANKER, input=PLACES),
        "a.status == 400",
    ),
    case(
        RERANK + "test_reranker_cant_embed_or_classify[classify]",
        post("/classify", model=RERANKER, input=PLACES),
        "a.status == 400",
    ),
    case(
        CLIENT + "test_openai[text]",
        post("/embeddings", model=MODEL, input=["a cat", "a cat", "a bird"], encoding_format="float", modality="text"),
        OK,
        "near(rows(a)[0], rows(a)[1], 1e-4)",
    ),
    case(
        CLIENT + "test_openai[dimensions]",
        post(
            "/embeddings",
            model=MODEL,
            input=["a cat", "a cat", "a bird"],
            encoding_format="float",
            dimensions=64,
            modality="text",
        ),
        OK,
        "rows(a).shape == (3, 64)",
    ),
    *(
        case(
            CLIENT + f"test_openai[{modality}, of a model without]",
            post("/embeddings", model=MODEL, input=["https://example.org/a"], encoding_format="float", modality=modality),
            "a.status == 400",
        )
        for modality in ("image", "audio")
    ),
    case(
        CLIENT + "test_openai[wrong key]",
        send("POST", "/embeddings", '{"input": "a"}', content_type="application/json", authorization="Bearer some_wrong"),
        "a.status == 401",
        keyed=True,
    ),
    case(RESPONSE + "test_embedding_response", post("/embeddings", input="a"), OK, "a['object'] == 'list'"),
    case(
        SCHEMA + "RerankInput[raw_scores]",
        rerank(PLACES, raw_scores=True),
        rerank(PLACES),
        "a.status == b.status == 200",
        "near(sigmoid(scores(a)), scores(b), 1e-3)",
    ),
    case(
        SCHEMA + "OpenAIEmbeddingInput[dimensions 0]",
        post("/embeddings", input="a", dimensions=0),
        OK,
        "rows(a).shape == (1, 384)",
    ),
    case(
        SCHEMA + "OpenAIEmbeddingResult[id, created]",
        post("/embeddings", input="a"),
        OK,
        "a['id'] and a['created'] > 0",
        differs("other fields of answers", OK, "'id' not in a"),
    ),
]

PEER = Peer(
    "infinity",
    "michaelfeil/infinity",
    CASES,
    [
        LeftOut(RERANK, 1, "the same of its library, not over HTTP"),
        LeftOut(TORCH, 2, "the same of its library, and how fast it is"),
    ],
    "images, audio, ColBERT, classifiers, engines with the same tests, its queue, its command line",
)
