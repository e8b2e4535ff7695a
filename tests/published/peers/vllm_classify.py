"""vLLM: its tests of /classify."""

from __future__ import annotations

from typing import Any

from tests.published.cases import CLASSIFIER, Ask, case, differs, post

CLASSIFY = "tests/entrypoints/pooling/classify/test_online.py::"
PRODUCT = "This product was excellent and exceeded my expectations"
IDS = [120, 130, 140, 150]
OK = "a.status == 200"
REFUSED = "a.status == 400 and 'error' in a"
NO_TEMPLATE = differs("chat templates", REFUSED, "'messages' in a.message")
OTHER_TASK = differs("other tasks", REFUSED)
TYPES = differs("types of errors", REFUSED, "a['error']['type'] == 'invalid_request_error'")
CHAT = [
    {"role": "user", "content": "The cat sat on the mat."},
    {"role": "assistant", "content": "A feline was resting on a rug."},
    {"role": "user", "content": "Stars twinkle brightly in the night sky."},
]


def classify(given: Any, **more: Any) -> Ask:
    return post("/classify", model=CLASSIFIER, input=given, **more)


def shaped(texts: int) -> tuple[str, ...]:
    """Return what holds of the classes of so many texts."""
    return (
        OK,
        "a['object'] == 'list' and a['model'] == CLASSIFIER",
        f"[item['index'] for item in a['data']] == list(range({texts}))",
        "all(len(item['probs']) == item['num_classes'] for item in a['data'])",
        "all(item['label'] in ('Default', 'Spoiled') for item in a['data'])",
    )


CASES = [
    case(CLASSIFY + "test_completion_request[text]", classify(PRODUCT), *shaped(1)),
    case(CLASSIFY + "test_completion_request[ids]", classify(IDS), *shaped(1)),
    case(CLASSIFY + "test_completion_request_batched[texts]", classify([PRODUCT] * 10), *shaped(10)),
    case(CLASSIFY + "test_completion_request_batched[ids]", classify([IDS] * 10), *shaped(10)),
    case(CLASSIFY + "test_empty_input_error[text]", classify(""), REFUSED),
    case(CLASSIFY + "test_empty_input_error[list]", classify([]), REFUSED),
    case(
        CLASSIFY + "test_truncate_prompt_tokens",
        classify("hello " * 600, truncate_prompt_tokens=5),
        *shaped(1),
        "a['usage']['prompt_tokens'] == a['usage']['total_tokens'] == 5",
    ),
    case(
        CLASSIFY + "test_truncate_prompt_tokens[more than the model takes]",
        classify("test", truncate_prompt_tokens=513),
        REFUSED,
        differs("limits above the model's", OK),
    ),
    case(CLASSIFY + "test_add_special_tokens[true]", classify(PRODUCT, add_special_tokens=True), OK),
    case(
        CLASSIFY + "test_add_special_tokens[false]",
        classify(PRODUCT, add_special_tokens=False),
        OK,
        differs("special tokens", REFUSED, "'add_special_tokens' in a.message"),
    ),
    *(
        case(
            CLASSIFY + f"test_chat_request[{name}]",
            post("/classify", model=CLASSIFIER, messages=CHAT, **more),
            OK,
            NO_TEMPLATE,
        )
        for name, more in (
            ("plain", {}),
            ("add_generation_prompt", {"add_generation_prompt": True}),
            ("continue_final_message", {"continue_final_message": True}),
            ("add_special_tokens", {"add_special_tokens": True}),
        )
    ),
    case(
        CLASSIFY + "test_chat_request[both]",
        post("/classify", model=CLASSIFIER, messages=CHAT, continue_final_message=True, add_generation_prompt=True),
        REFUSED,
    ),
    case(
        CLASSIFY + "test_invocations_completion_request",
        classify(PRODUCT),
        post("/invocations", model=CLASSIFIER, input=PRODUCT),
        "a.status == b.status == 200 and set(a.json) == set(b.json)",
        "near(a['data'][0]['probs'], b['data'][0]['probs'], 1e-2)",
    ),
    case(
        CLASSIFY + "test_invocations_chat_request",
        post("/invocations", model=CLASSIFIER, messages=CHAT),
        OK,
        NO_TEMPLATE,
    ),
    case(
        CLASSIFY + "test_use_activation",
        classify(PRODUCT),
        classify(PRODUCT, use_activation=True),
        classify(PRODUCT, use_activation=False),
        "near(a['data'][0]['probs'], b['data'][0]['probs'], 1e-2)",
        "not near(b['data'][0]['probs'], c['data'][0]['probs'], 1e-3)",
        "near(sigmoid([c['data'][0]['probs'][0] - c['data'][0]['probs'][1]]), b['data'][0]['probs'][:1], 1e-2)",
    ),
    case(
        CLASSIFY + "test_score",
        post("/score", model=CLASSIFIER, queries="ping", documents="pong"),
        "a.status == 404",
        OTHER_TASK,
    ),
    case(
        CLASSIFY + "test_rerank",
        post("/rerank", model=CLASSIFIER, query="ping", documents=["pong"]),
        "a.status == 404",
        OTHER_TASK,
    ),
    case(
        CLASSIFY + "test_pooling_classify",
        post("/pooling", model=CLASSIFIER, input=PRODUCT, encoding_format="float", task="classify"),
        OK,
        "len(a['data'][0]['data']) == 2",
    ),
    *(
        case(
            CLASSIFY + f"test_pooling_not_supported[{task}]",
            post("/pooling", model=CLASSIFIER, input=PRODUCT, encoding_format="float", task=task),
            "a['error']['type'] == 'BadRequestError'",
            TYPES,
        )
        for task in ("embed", "token_embed", "token_classify", "plugin")
    ),
]
