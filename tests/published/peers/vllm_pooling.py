"""vLLM: its tests of /pooling."""

from __future__ import annotations

from typing import Any

from tests.published.cases import COLBERT, MODEL, RERANKER, Ask, Case, case, differs, post
from tests.published.peers.vllm_embed import CHAT, DTYPES, ENDS, FP8, IDS, OK, REFUSED, TEXT

POOLING = "tests/entrypoints/pooling/"
EMBED = POOLING + "embed/test_online.py::"
CROSS = POOLING + "scoring/test_cross_encoder_online.py::"
BI = POOLING + "scoring/test_bi_encoder_online.py::"
PLAIN = POOLING + "pooling/test_online.py::"
TOKEN_EMBED = POOLING + "token_embed/test_online.py::"
LATE = POOLING + "scoring/late_interaction/test_late_interaction_online.py::"
CAPITALS = ["What is the capital of France?", "What is the capital of Germany?"]
PLACES = ["The capital of France is Paris.", "The capital of Germany is Berlin."]
TYPES = differs("types of errors", REFUSED, "a['error']['type'] == 'invalid_request_error'")
OTHER_TASK = differs("other tasks", REFUSED)
SHAPED = (
    "a['id'] and a['object'] == 'list' and a['model'] == MODEL",
    "all(item['object'] == 'pooling' for item in a['data'])",
)


def pooling(given: Any, **more: Any) -> Ask:
    return post("/pooling", model=more.pop("model", MODEL), input=given, **more)


def usage(texts: int) -> str:
    tokens = texts * len(IDS)
    return f"a['usage'] == {{'prompt_tokens': {tokens}, 'total_tokens': {tokens}, 'completion_tokens': 0}}"


def not_supported(place: str, tasks: tuple[str, ...], model: str = MODEL) -> list[Case]:
    """Return the cases of tasks that a model does not have."""
    return [
        case(
            place + f"test_pooling_not_supported[{task}]",
            pooling("test", model=model, encoding_format="float", task=task),
            "a['error']['type'] == 'BadRequestError'",
            TYPES,
        )
        for task in tasks
    ]


def numbers_cases() -> list[Case]:
    """Return the cases of each type of numbers, in each order of bytes, in each encoding."""
    found = []
    for dtype in DTYPES:
        for end in ENDS:
            more = {"embed_dtype": dtype, "endianness": end}
            unless = [FP8] if dtype.startswith("fp8") else []
            read, flat = f"'{dtype}', '{end}'", "[x for row in b['data'][0]['data'] for x in row]"
            found += [
                case(
                    PLAIN + f"test_base64_embed_dtype_and_endianness[{dtype}, {end}]",
                    pooling([TEXT] * 3, encoding_format="base64", **more),
                    pooling([TEXT] * 3),
                    OK,
                    f"all(near(numbers(item['data'], {read}), {flat}, 1e-2) for item in a['data'])",
                    *unless,
                ),
                case(
                    PLAIN + f"test_bytes_embed_dtype_and_endianness[{dtype}, {end}]",
                    pooling([TEXT] * 3, encoding_format="bytes", **more),
                    pooling([TEXT] * 3),
                    OK,
                    f"all(item['shape'] == [{len(IDS)}, 384] for item in loads(a.headers['metadata'])['data'])",
                    f"near(numbers(a.content, {read}), 3 * {flat}, 1e-2)",
                    *unless,
                ),
                case(
                    PLAIN + f"test_bytes_only_embed_dtype_and_endianness[{dtype}, {end}]",
                    pooling([TEXT] * 3, encoding_format="bytes_only", **more),
                    pooling([TEXT] * 3),
                    OK,
                    "'metadata' not in a.headers",
                    f"near(numbers(a.content, {read}), 3 * {flat}, 1e-2)",
                    *unless,
                ),
            ]
    return found


CASES: list[Case] = [
    # embed/test_online.py
    case(
        EMBED + "test_pooling_embed",
        pooling(TEXT, encoding_format="float", task="embed"),
        post("/v1/embeddings", model=MODEL, input=TEXT, encoding_format="float"),
        OK,
        "len(a['data']) == 1 and len(a['data'][0]['data']) == 384",
        "cosine(a['data'][0]['data'], rows(b)) > 0.9999",
    ),
    case(
        EMBED + "test_pooling_token_embed",
        pooling(TEXT, encoding_format="float", task="token_embed"),
        OK,
        f"len(a['data']) == 1 and len(a['data'][0]['data']) == {len(IDS)} and len(a['data'][0]['data'][0]) == 384",
    ),
    *not_supported(EMBED, ("classify", "token_classify", "plugin")),
    # token_embed/test_online.py: every embedder has both tasks here.
    case(
        TOKEN_EMBED + "test_pooling_token_embed",
        pooling(TEXT, encoding_format="float", task="token_embed"),
        OK,
        f"len(a['data'][0]['data']) == {len(IDS)} and len(a['data'][0]['data'][0]) == 384",
    ),
    *not_supported(TOKEN_EMBED, ("classify", "token_classify", "plugin")),
    # scoring/test_cross_encoder_online.py, scoring/test_bi_encoder_online.py
    case(CROSS + "test_pooling_classify", pooling(TEXT, model=RERANKER, task="classify"), OK, OTHER_TASK),
    case(CROSS + "test_pooling_token_classify", pooling(TEXT, model=RERANKER, task="token_classify"), OK, OTHER_TASK),
    *not_supported(CROSS, ("embed", "token_embed", "plugin"), RERANKER),
    case(BI + "test_pooling_embed", pooling(TEXT, task="embed"), OK, "len(a['data'][0]['data']) == 384"),
    *not_supported(BI, ("classify", "token_classify", "plugin")),
    # scoring/late_interaction/test_late_interaction_online.py: of a model with vectors of tokens alone.
    *(
        case(
            LATE + f"test_score_api_{name}",
            post("/score", model=COLBERT, queries=one, documents=other),
            OK,
            "a['id'] and all(item['object'] == 'score' for item in a['data'])",
            f"len(scores(a)) == {count}",
        )
        for name, one, other, count in (
            ("queries_str_1_documents_str_1", CAPITALS[0], PLACES[0], 1),
            ("queries_str_1_documents_str_n", CAPITALS[0], PLACES, 2),
            ("queries_str_n_documents_str_n", CAPITALS, PLACES, 2),
        )
    ),
    case(
        LATE + "test_rerank_api_texts",
        post("/rerank", model=COLBERT, query=CAPITALS[0], documents=PLACES),
        post("/score", model=COLBERT, queries=CAPITALS[0], documents=PLACES),
        OK,
        "a['id'] and len(a['results']) == 2",
        "order(a) == sorted(range(2), key=lambda index: -scores(b)[index])",
    ),
    case(
        LATE + "test_rerank_api_top_n",
        post(
            "/rerank", model=COLBERT, query=CAPITALS[0], documents=[*PLACES, "Machine learning is a field of AI."], top_n=2
        ),
        OK,
        "len(a['results']) == 2",
    ),
    case(
        LATE + "test_token_embed",
        pooling(CAPITALS[0], model=COLBERT, task="token_embed"),
        OK,
        "len(a['data']) == 1 and len(a['data'][0]['data']) > 0 and len(a['data'][0]['data'][0]) == 8",
    ),
    case(
        LATE + "test_embed_not_supported",
        pooling(CAPITALS[0], model=COLBERT, task="embed"),
        "a['error']['type'] == 'BadRequestError'",
        TYPES,
    ),
    # pooling/test_online.py: of a reward model, which has one number for each token, where ours have 384.
    case(
        PLAIN + "test_completion_request[text]",
        pooling(TEXT, encoding_format="float"),
        OK,
        *SHAPED,
        f"len(a['data'][0]['data']) == {len(IDS)}",
        usage(1),
    ),
    case(
        PLAIN + "test_completion_request[ids]",
        pooling(IDS, encoding_format="float"),
        pooling(TEXT, encoding_format="float"),
        OK,
        f"len(a['data'][0]['data']) == {len(IDS)}",
        "near(a['data'][0]['data'], b['data'][0]['data'], 1e-2)",
        usage(1),
    ),
    case(
        PLAIN + "test_completion_request_batched[texts]",
        pooling([TEXT] * 10, encoding_format="float"),
        OK,
        *SHAPED,
        f"[len(item['data']) for item in a['data']] == [{len(IDS)}] * 10",
        usage(10),
    ),
    case(
        PLAIN + "test_completion_request_batched[ids]",
        pooling([IDS] * 10, encoding_format="float"),
        OK,
        f"[len(item['data']) for item in a['data']] == [{len(IDS)}] * 10",
        usage(10),
    ),
    case(
        PLAIN + "test_conversation_pooling",
        post("/pooling", model=MODEL, messages=CHAT[:1], encoding_format="float"),
        pooling(CHAT[0]["content"], encoding_format="float"),
        "a.status == b.status == 200",
        "near(a['data'][0]['data'], b['data'][0]['data'], 1e-3)",
    ),
    case(
        PLAIN + "test_batch_base64_pooling",
        pooling(["Hello my name is", TEXT], encoding_format="float"),
        pooling(["Hello my name is", TEXT], encoding_format="base64"),
        pooling(["Hello my name is", TEXT]),
        "a.status == b.status == c.status == 200",
        "all(near(numbers(two['data']), [x for row in one['data'] for x in row], 1e-3)"
        " for one, two in zip(a['data'], b['data']))",
        "all(near(one['data'], two['data'], 1e-3) for one, two in zip(a['data'], c['data']))",
    ),
    *numbers_cases(),
    *(
        case(
            PLAIN + f"test_params_not_supported[{name}]",
            pooling(TEXT, **{"encoding_format": "base64", name: f"bad_{name}"}),
            REFUSED,
            f"'{name}' in a.message",
        )
        for name in ("encoding_format", "embed_dtype", "endianness")
    ),
]
