"""vLLM: its tests of /score and /rerank, and of tasks that it has besides."""

from __future__ import annotations

from typing import Any

from tests.published.cases import MODEL, RERANKER, Ask, Case, case, differs, get, post
from tests.published.peers.vllm_embed import embed

POOLING = "tests/entrypoints/pooling/"
CROSS = POOLING + "scoring/test_cross_encoder_online.py::"
BI = POOLING + "scoring/test_bi_encoder_online.py::"
PER_DOC = POOLING + "scoring/test_max_tokens_per_doc.py::"
SCORING = POOLING + "scoring/test_protocol.py::"
QWEN = POOLING + "scoring/test_qwen3_reranker_online.py::"
SALT = POOLING + "test_cache_salt_validation.py::"
LIMITS = POOLING + "test_pooling_prompt_limit.py::"
OK = "a.status == 200"
REFUSED = "a.status == 400 and 'error' in a"
FRANCE = "What is the capital of France?"
TEXTS_1 = [FRANCE, "What is the capital of Germany?"]
TEXTS_2 = ["The capital of France is Paris.", "The capital of Germany is Berlin."]
PRODUCT = "This product was excellent and exceeded my expectations"
CAPITALS = ["The capital of Brazil is Brasilia.", "The capital of France is Paris."]
LIMITS_ABOVE = differs("limits above the model's", OK, "len(scores(a)) == 2")
ON_REQUEST = differs("reranking with an embedder", "a.status == 400", "':cosine' in a.message")


def rerank(query: str, documents: list[str], **more: Any) -> Ask:
    return post("/rerank", model=more.pop("model", RERANKER), query=query, documents=documents, **more)


def score_cases(place: str, model: str) -> list[Case]:
    """Return the cases of /score that cross-encoders and embedders share; the rows of a pair alone are the reference."""
    pairs = [
        post("/score", model=model, queries=one, documents=other)
        for one, other in [(TEXTS_1[0], TEXTS_2[0]), (TEXTS_1[1], TEXTS_2[1]), (TEXTS_1[0], TEXTS_2[1])]
    ]
    shaped = "a['id'] and a['object'] == 'list' and a['model'] and all(item['object'] == 'score' for item in a['data'])"
    both = "near(scores(a), [scores(b)[0], scores(c)[0]], 0.01)"
    return [
        case(place + "test_score_api_queries_str_1_documents_str_1", pairs[0], OK, shaped, "len(scores(a)) == 1"),
        case(
            place + "test_score_api_queries_str_1_documents_str_n",
            post("/score", model=model, queries=TEXTS_1[0], documents=TEXTS_2),
            pairs[0],
            pairs[2],
            OK,
            shaped,
            both,
        ),
        *(
            case(
                place + f"test_score_api_{name}",
                post("/score", model=model, **{first: TEXTS_1, second: TEXTS_2}),
                pairs[0],
                pairs[1],
                OK,
                shaped,
                both,
            )
            for name, first, second in [
                ("queries_str_n_documents_str_n", "queries", "documents"),
                ("queries_vs_documents", "queries", "documents"),
                ("queries_vs_items", "queries", "items"),
                ("text_1_vs_text_2", "text_1", "text_2"),
                ("data_1_vs_data_2", "data_1", "data_2"),
            ]
        ),
        case(
            place + "test_score_api_max_model_len",
            post("/score", model=model, queries=FRANCE * 200, documents=CAPITALS),
            REFUSED,
            "'maximum context length' in a.message",
        ),
        case(
            place + "test_score_api_max_model_len[truncation]",
            post("/score", model=model, queries=FRANCE, documents=CAPITALS, truncate_prompt_tokens=100_000),
            REFUSED,
            "'truncate_prompt_tokens' in a.message",
            LIMITS_ABOVE,
        ),
    ]


EMBEDDERS = [(MODEL, [ON_REQUEST]), (f"{MODEL}:cosine", [])]

CASES: list[Case] = [
    # scoring/test_cross_encoder_online.py
    case(
        CROSS + "test_basic[models]",
        get("/v1/models"),
        OK,
        f"'{RERANKER}' in [model['id'] for model in a['data']]",
    ),
    case(CROSS + "test_basic[tokenize]", post("/tokenize", model=RERANKER, prompt=PRODUCT), OK, "len(a['tokens']) > 2"),
    *score_cases(CROSS, RERANKER),
    case(
        CROSS + "test_rerank_api_texts",
        rerank(FRANCE, CAPITALS),
        OK,
        "a['id'] and sorted(order(a)) == [0, 1]",
        "[scores(a)[index] for index in order(a)] == sorted(scores(a), reverse=True)",
    ),
    case(
        CROSS + "test_rerank_api_top_n",
        rerank(FRANCE, [*CAPITALS, "Cross-encoder models are neat"], top_n=2),
        rerank(FRANCE, [*CAPITALS, "Cross-encoder models are neat"]),
        OK,
        "order(a) == order(b)[:2]",
    ),
    case(
        CROSS + "test_rerank_api_max_model_len",
        rerank(FRANCE * 200, CAPITALS),
        "a.status == 400",
        "'maximum context length' in a.message",
        differs("long pairs", OK, "a['truncated'] and a['meta']['warnings']"),
    ),
    case(
        CROSS + "test_invocations",
        post("/invocations", model=RERANKER, query=FRANCE, documents=CAPITALS),
        rerank(FRANCE, CAPITALS),
        "a.status == b.status == 200 and set(a.json) == set(b.json)",
        "near(scores(a), scores(b), 1e-2) and order(a) == order(b)",
    ),
    case(
        CROSS + "test_use_activation[default]",
        rerank(FRANCE, CAPITALS, use_activation=None),
        rerank(FRANCE, CAPITALS, use_activation=True),
        "a.status == b.status == 200",
        "near(scores(a), scores(b), 1e-2)",
    ),
    case(
        CROSS + "test_use_activation[false]",
        rerank(FRANCE, CAPITALS, use_activation=False),
        rerank(FRANCE, CAPITALS),
        OK,
        "not near(scores(a), scores(b), 1e-2)",
        "near(sigmoid(scores(a)), scores(b), 1e-2)",
    ),
    case(
        CROSS + "test_rerank_max_tokens_per_doc",
        rerank(FRANCE, ["The capital of France is Paris. " * 500, CAPITALS[0]], max_tokens_per_doc=10),
        OK,
        "len(order(a)) == 2 and a['usage']['prompt_tokens'] > 0",
    ),
    case(
        CROSS + "test_rerank_max_tokens_per_doc_reduces_tokens",
        rerank(FRANCE, ["The capital of France is Paris. " * 10], max_tokens_per_doc=10),
        rerank(FRANCE, ["The capital of France is Paris. " * 10], truncate_prompt_tokens=99),
        "a.status == b.status == 200",
        "a['usage']['prompt_tokens'] < b['usage']['prompt_tokens']",
    ),
    *(
        case(
            CROSS + f"test_rerank_max_tokens_per_doc_validation[{most}]",
            rerank(FRANCE, CAPITALS, max_tokens_per_doc=most),
            "a.status == 400",
            "'max_tokens_per_doc' in a.text",
            *([differs("max_tokens_per_doc 0", OK, "len(order(a)) == 2")] if most == 0 else []),
        )
        for most in (0, -5)
    ),
    case(
        CROSS + "test_score_max_tokens_per_doc_with_score_template",
        rerank(FRANCE, ["The capital of France is Paris. " * 20], max_tokens_per_doc=15),
        OK,
        "len(order(a)) == 1 and a['usage']['prompt_tokens'] > 0",
    ),
    # scoring/test_bi_encoder_online.py
    *score_cases(BI, MODEL),
    case(
        BI + "test_score_api[best]",
        post("/score", model=MODEL, queries=FRANCE, documents=CAPITALS),
        OK,
        "scores(a)[1] > scores(a)[0]",
    ),
    *(
        case(
            BI + f"test_rerank_api_texts[{model}]",
            rerank(FRANCE, CAPITALS, model=model),
            OK,
            "order(a) == [1, 0]",
            "scores(a)[1] > scores(a)[0]",
            *unless,
        )
        for model, unless in EMBEDDERS
    ),
    *(
        case(
            BI + f"test_rerank_api_top_n[{model}]",
            rerank(FRANCE, [*CAPITALS, "Cross-encoder models are neat"], model=model, top_n=2),
            OK,
            "len(order(a)) == 2 and order(a)[0] == 1",
            *unless,
        )
        for model, unless in EMBEDDERS
    ),
    case(
        BI + "test_rerank_api_max_model_len",
        rerank(FRANCE * 200, CAPITALS, model=f"{MODEL}:cosine"),
        "a.status == 400",
        "'maximum context length' in a.message",
        differs("long pairs", OK, "a['truncated'] and a['meta']['warnings']"),
    ),
    case(
        BI + "test_invocations",
        post("/invocations", model=f"{MODEL}:cosine", query=FRANCE, documents=CAPITALS),
        rerank(FRANCE, CAPITALS, model=f"{MODEL}:cosine"),
        "a.status == b.status == 200 and set(a.json) == set(b.json)",
        "near(scores(a), scores(b), 1e-2) and order(a) == order(b)",
    ),
    # scoring/test_max_tokens_per_doc.py (one of its three models), test_protocol.py, test_qwen3_reranker_online.py
    case(
        PER_DOC + "test_jina_max_tokens_per_doc",
        rerank(FRANCE, ["The capital of France is Paris. " * 20], max_tokens_per_doc=10),
        OK,
        "len(order(a)) == 1 and a['usage']['prompt_tokens'] > 0",
    ),
    case(
        PER_DOC + "test_jina_max_tokens_per_doc_reduces_tokens",
        rerank(FRANCE, ["The capital of France is Paris. " * 5], max_tokens_per_doc=5),
        rerank(FRANCE, ["The capital of France is Paris. " * 5]),
        "a['usage']['prompt_tokens'] < b['usage']['prompt_tokens']",
    ),
    *(
        case(
            SCORING + f"test_non_negative_top_n_is_accepted[{top_n}]",
            rerank("capital of France", ["Paris", "Berlin"], top_n=top_n),
            OK,
            f"len(order(a)) == {top_n or 2}",
        )
        for top_n in (0, 1, 2)
    ),
    case(SCORING + "test_top_n_defaults_to_zero", rerank("capital of France", ["Paris"]), OK, "len(order(a)) == 1"),
    case(SCORING + "test_top_n_null", rerank("capital of France", ["Paris"], top_n=None), OK, "len(order(a)) == 1"),
    case(
        SCORING + "test_negative_top_n_is_rejected",
        rerank("capital of France", ["Paris", "Berlin"], top_n=-1),
        "a.status == 400",
    ),
    case(
        QWEN + "test_score_and_rerank_use_qwen3_reranker_template[the same numbers]",
        post("/score", model=RERANKER, queries=FRANCE, documents="The capital of France is Paris."),
        rerank(FRANCE, ["The capital of France is Paris."]),
        "a.status == b.status == 200",
        "a['usage']['prompt_tokens'] == b['usage']['prompt_tokens']",
        "near(scores(a), scores(b), 0.01)",
    ),
    # test_cache_salt_validation.py, test_pooling_prompt_limit.py
    case(
        SALT + "test_pooling_rejects_empty_cache_salt",
        embed("hello", cache_salt=""),
        "a.status == 400",
        differs("cache_salt", OK),
    ),
    case(SALT + "test_pooling_accepts_a_real_cache_salt", embed("hello", cache_salt="tenant-a"), OK),
    case(SALT + "test_pooling_allows_cache_salt_to_be_omitted", embed("hello"), OK),
    case(
        LIMITS + "test_score_documents_rejected",
        post("/score", model=RERANKER, queries=["q"], documents=["d"] * 10_000),
        "a.status == 400",
        "'documents' in a.message",
    ),
    case(
        LIMITS + "test_score_items_rejected",
        post("/score", model=RERANKER, queries=["q"], items=["d"] * 10_000),
        "a.status == 400",
        "'items' in a.message",
    ),
    case(
        LIMITS + "test_score_text_2_rejected",
        post("/score", model=RERANKER, text_1="q", text_2=["d"] * 10_000),
        "a.status == 400",
        "'text_2' in a.message",
    ),
    case(
        LIMITS + "test_rerank_documents_rejected", rerank("q", ["d"] * 10_000), "a.status == 400", "'documents' in a.message"
    ),
    case(LIMITS + "test_rerank_within_limit", rerank("q", ["d"] * 5), OK, "len(order(a)) == 5"),
    case(
        LIMITS + "test_scalar_input_unaffected",
        post("/rerank", model=RERANKER, query="q", documents="single doc"),
        OK,
        "len(order(a)) == 1",
    ),
    case(LIMITS + "test_string_list_rejected", embed(["x"] * 10_000), "a.status == 400", "'input' in a.message"),
]
