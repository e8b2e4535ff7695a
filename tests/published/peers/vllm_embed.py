"""vLLM: its tests of /v1/embeddings."""

from __future__ import annotations

from typing import Any

from tests.published.cases import MODEL, Ask, Case, case, differs, get, post

POOLING = "tests/entrypoints/pooling/"
EMBED = POOLING + "embed/test_online.py::"
DIMENSIONS = POOLING + "embed/test_online_dimensions.py::"
USAGE = POOLING + "embed/test_usage_policy.py::"
LONG_TEXT = POOLING + "embed/test_online_long_text.py::"
TOKENS = "tests/entrypoints/openai/test_tokenization.py::"
TRUNCATION = POOLING + "basic/test_truncation.py::"
OK = "a.status == 200"
REFUSED = "a.status == 400 and 'error' in a"
TEXT = "The best thing about vLLM is that it supports many different models"
IDS = [101, 1996, 2190, 2518, 2055, 1058, 3363, 2213, 2003, 2008, 2009, 6753, 2116, 2367, 4275, 102]
"""TEXT's tokens in the vocabulary of MODEL."""
CHAT = [
    {"role": "user", "content": "The cat sat on the mat."},
    {"role": "assistant", "content": "A feline was resting on a rug."},
    {"role": "user", "content": "Stars twinkle brightly in the night sky."},
]
DTYPES = ("float32", "float16", "bfloat16", "fp8_e4m3", "fp8_e5m2")
ENDS = ("native", "little", "big")
TOKEN_IDS = differs("token ids", "a.status == 400", "'token_ids' in a.message")
FP8 = differs("8-bit floats", "a.status == 400", "a['error']['param'] == 'embed_dtype'")
CHATS = differs("chat templates", REFUSED, "'messages' in a.message or 'chat' in a.message or 'text' in a.message")
LIMITS = differs("limits above the model's", OK, "rows(a).shape == (1, 384)")


def embed(given: Any, **more: Any) -> Ask:
    return post("/v1/embeddings", model=MODEL, input=given, **more)


def numbers_cases() -> list[Case]:
    """Return the cases of each type of numbers, in each order of bytes, in each encoding."""
    found = []
    for dtype in DTYPES:
        for end in ENDS:
            more = {"embed_dtype": dtype, "endianness": end}
            unless = [FP8] if dtype.startswith("fp8") else []
            size = {"float32": 4}.get(dtype, 1 if dtype.startswith("fp8") else 2)
            read = f"'{dtype}', '{end}'"
            found += [
                case(
                    EMBED + f"test_base64_embed_dtype_and_endianness[{dtype}, {end}]",
                    embed([TEXT] * 3, encoding_format="base64", **more),
                    embed([TEXT] * 3),
                    OK,
                    f"all(cosine(numbers(item['embedding'], {read}), rows(b)[0]) > 0.99 for item in a['data'])",
                    *unless,
                ),
                case(
                    EMBED + f"test_bytes_embed_dtype_and_endianness[{dtype}, {end}]",
                    embed([TEXT] * 3, encoding_format="bytes", **more),
                    embed([TEXT] * 3),
                    OK,
                    f"len(a.content) == 3 * 384 * {size}",
                    "[item['index'] for item in loads(a.headers['metadata'])['data']] == [0, 1, 2]",
                    f"all(item['embed_dtype'] == '{dtype}' and item['shape'] == [384]"
                    f" and cosine(numbers(a.content[item['start']:item['end']], {read}), rows(b)[0]) > 0.99"
                    " for item in loads(a.headers['metadata'])['data'])",
                    *unless,
                ),
                case(
                    EMBED + f"test_bytes_only_embed_dtype_and_endianness[{dtype}, {end}]",
                    embed([TEXT] * 2, encoding_format="bytes_only", **more),
                    embed([TEXT] * 2),
                    OK,
                    "'metadata' not in a.headers",
                    f"cosine(numbers(a.content, {read}).reshape(2, 384), rows(b)) > 0.99",
                    *unless,
                ),
            ]
    return found


CASES: list[Case] = [
    # embed/test_online.py
    case(EMBED + "test_basic[models]", get("/v1/models"), OK, "a['data'][0]['id'] == MODEL"),
    case(EMBED + "test_basic[tokenize]", post("/tokenize", model=MODEL, prompt=TEXT), OK, f"a['tokens'] == {IDS}"),
    case(
        EMBED + "test_completion_request[text]",
        embed(TEXT, encoding_format="float"),
        OK,
        "rows(a).shape == (1, 384)",
        f"a['usage']['prompt_tokens'] == a['usage']['total_tokens'] == {len(IDS)}",
    ),
    case(
        EMBED + "test_completion_request[ids]",
        embed(IDS, encoding_format="float"),
        OK,
        "rows(a).shape == (1, 384)",
        TOKEN_IDS,
    ),
    case(
        EMBED + "test_completion_request[ids, as ours are marked]",
        embed(IDS, encoding_format="float", token_ids="model"),
        embed(TEXT),
        OK,
        "cosine(rows(a), rows(b)) > 0.9999",
        f"a['usage']['prompt_tokens'] == a['usage']['total_tokens'] == {len(IDS)}",
    ),
    case(
        EMBED + "test_completion_request_batched[texts]",
        embed([TEXT] * 10, encoding_format="float"),
        OK,
        "rows(a).shape == (10, 384)",
        f"a['usage']['prompt_tokens'] == a['usage']['total_tokens'] == {10 * len(IDS)}",
    ),
    case(
        EMBED + "test_completion_request_batched[ids]",
        embed([IDS] * 10, encoding_format="float"),
        OK,
        "rows(a).shape == (10, 384)",
        TOKEN_IDS,
    ),
    case(
        EMBED + "test_completion_request[id of the answer]",
        embed(TEXT),
        OK,
        "a['id'] and a['created'] > 0 and a['usage']['completion_tokens'] == 0",
        differs("other fields of answers", OK, "'id' not in a"),
    ),
    case(
        EMBED + "test_truncate_prompt_tokens[texts]",
        embed(["Como o Brasil pode fomentar o desenvolvimento de modelos de IA?"], truncate_prompt_tokens=10),
        OK,
        "rows(a).shape == (1, 384)",
        "a['usage']['prompt_tokens'] == a['usage']['total_tokens'] == 10",
    ),
    case(
        EMBED + "test_truncate_prompt_tokens[ids]",
        embed(IDS, truncate_prompt_tokens=10),
        OK,
        "a['usage']['prompt_tokens'] == 10",
        TOKEN_IDS,
    ),
    case(
        EMBED + "test_truncate_prompt_tokens[more than the model takes]",
        embed(["Como o Brasil"], truncate_prompt_tokens=8193),
        REFUSED,
        "'truncate_prompt_tokens' in a.message",
        LIMITS,
    ),
    case(
        EMBED + "test_chat_request",
        post("/v1/embeddings", model=MODEL, messages=CHAT, encoding_format="float"),
        OK,
        "rows(a).shape == (1, 384)",
        CHATS,
    ),
    case(
        EMBED + "test_chat_request[one message]",
        post("/v1/embeddings", model=MODEL, messages=CHAT[:1], encoding_format="float"),
        embed("The cat sat on the mat."),
        OK,
        "a['object'] == 'list' and a['model'] == MODEL",
        "cosine(rows(a), rows(b)) > 0.9999",
    ),
    *(
        case(
            EMBED + f"test_chat_request[{name}]",
            post("/v1/embeddings", model=MODEL, messages=CHAT, **{name: True}),
            OK,
            "rows(a).shape == (1, 384)",
            CHATS,
        )
        for name in ("add_generation_prompt", "continue_final_message", "add_special_tokens")
    ),
    case(
        EMBED + "test_chat_request[both]",
        post("/v1/embeddings", model=MODEL, messages=CHAT, continue_final_message=True, add_generation_prompt=True),
        REFUSED,
    ),
    case(
        EMBED + "test_invocations_completion_request",
        post("/invocations", model=MODEL, input=TEXT, encoding_format="float"),
        embed(TEXT, encoding_format="float"),
        "a.status == b.status == 200 and set(a.json) == set(b.json)",
        "cosine(rows(a), rows(b)) > 0.9999",
    ),
    case(
        EMBED + "test_invocations_chat_request",
        post("/invocations", model=MODEL, messages=CHAT[:1], encoding_format="float"),
        post("/v1/embeddings", model=MODEL, messages=CHAT[:1], encoding_format="float"),
        "a.status == b.status == 200 and set(a.json) == set(b.json)",
        "cosine(rows(a), rows(b)) > 0.9999",
    ),
    case(
        EMBED + "test_base64_embedding",
        embed(["Hello my name is", TEXT], encoding_format="float"),
        embed(["Hello my name is", TEXT], encoding_format="base64"),
        embed(["Hello my name is", TEXT]),
        "a.status == b.status == c.status == 200",
        "near(rows(a), rows(b), 1e-6) and near(rows(a), rows(c), 1e-6)",
    ),
    *numbers_cases(),
    *(
        case(
            EMBED + f"test_params_not_supported[{name}]",
            embed(TEXT, **{"encoding_format": "base64", name: f"bad_{name}"}),
            REFUSED,
            f"'{name}' in a.message",
        )
        for name in ("encoding_format", "embed_dtype", "endianness")
    ),
    case(
        EMBED + "test_use_activation[default is normalized]",
        embed(TEXT, use_activation=None),
        embed(TEXT, use_activation=True),
        "a.status == b.status == 200",
        "near(rows(a), rows(b), 1e-2)",
    ),
    case(
        EMBED + "test_use_activation[false]",
        embed(TEXT, use_activation=False),
        embed(TEXT),
        OK,
        "not near(rows(a), rows(b), 1e-2)",
        "near(rows(a)[0] / norms(rows(a)), rows(b)[0], 1e-2)",
    ),
    # embed/test_online_dimensions.py: every model may be cut here.
    case(
        DIMENSIONS + "test_matryoshka[all]",
        embed(["The chef prepared a delicious meal."] * 3),
        OK,
        "rows(a).shape == (3, 384)",
    ),
    case(
        DIMENSIONS + "test_matryoshka[256]",
        embed(["The chef prepared a delicious meal."] * 3, dimensions=256),
        OK,
        "rows(a).shape == (3, 256) and near(norms(rows(a)), 1)",
    ),
    case(DIMENSIONS + "test_matryoshka[-1]", embed(["The chef prepared a delicious meal."] * 3, dimensions=-1), REFUSED),
    case(
        DIMENSIONS + "test_matryoshka[5, which the model was not trained for]",
        embed(["The chef prepared a delicious meal."] * 3, dimensions=5),
        REFUSED,
        differs("dimensions", OK, "rows(a).shape == (3, 5)"),
    ),
    case(
        DIMENSIONS + "test_matryoshka[16, of a model without]",
        embed(["The chef prepared a delicious meal."] * 3, dimensions=16),
        REFUSED,
        differs("dimensions", OK, "rows(a).shape == (3, 16)"),
    ),
    # embed/test_usage_policy.py, embed/test_online_long_text.py, basic/test_truncation.py
    case(
        USAGE + "test_non_streaming",
        embed("Hello world", encoding_format="float"),
        "a['usage']['total_tokens'] == a['usage']['prompt_tokens'] > 0",
    ),
    case(
        USAGE + "test_non_streaming_batch",
        embed(["Hello", "World"], encoding_format="float"),
        "a['usage']['total_tokens'] == a['usage']['prompt_tokens'] > 0",
    ),
    case(
        LONG_TEXT + "test_chunked_vs_normal_consistency",
        embed(["Artificial intelligence technology is changing our world, bringing opportunities and challenges."]),
        OK,
        "rows(a).shape == (1, 384) and a['usage']['prompt_tokens'] < 512",
    ),
    case(
        LONG_TEXT + "test_long_text_embedding",
        embed(["word " * 1500]),
        OK,
        differs("long texts", REFUSED, "a['error']['code'] == 'context_length_exceeded'"),
    ),
    case(
        TRUNCATION + "test_smaller_truncation_size",
        embed("calculus has transformed our comprehension of change " * 20, truncate_prompt_tokens=10),
        OK,
        "a['usage']['prompt_tokens'] == 10",
    ),
    case(
        TRUNCATION + "test_bigger_truncation_size",
        embed("calculus", truncate_prompt_tokens=513),
        REFUSED,
        "'truncate_prompt_tokens' in a.message",
        LIMITS,
    ),
    case(
        TRUNCATION + "test_max_truncation_size",
        embed("calculus has transformed our comprehension of change " * 200, truncate_prompt_tokens=-1),
        OK,
        "a['usage']['prompt_tokens'] == 512",
    ),
    # tests/entrypoints/openai/test_tokenization.py
    *(
        case(
            TOKENS + f"test_tokenize_completions[{special}]",
            post("/tokenize", model=MODEL, prompt="This is a test prompt.", add_special_tokens=special),
            OK,
            f"a['tokens'] == {ids}",
            f"a['count'] == {len(ids)} and a['max_model_len'] == 512 and a['token_strs'] is None",
        )
        for special, ids in [
            (False, [2023, 2003, 1037, 3231, 25732, 1012]),
            (True, [101, 2023, 2003, 1037, 3231, 25732, 1012, 102]),
        ]
    ),
    case(
        TOKENS + "test_tokenize_with_return_token_strs",
        post("/tokenize", model=MODEL, prompt="a token_strs test", return_token_strs=True),
        OK,
        "len(a['token_strs']) == a['count'] == len(a['tokens'])",
        "a['token_strs'] == ['[CLS]', 'a', 'token', '_', 'st', '##rs', 'test', '[SEP]']",
        differs("texts of tokens", OK, "''.join(a['token_strs'][1:-1]).strip() == 'a token _ strs test'"),
    ),
    case(
        TOKENS + "test_detokenize",
        post("/detokenize", model=MODEL, tokens=[2023, 2003, 1037, 3231, 25732, 1012]),
        OK,
        "a['prompt'] == 'this is a test prompt.'",
    ),
]
