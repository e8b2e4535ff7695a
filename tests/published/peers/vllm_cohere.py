"""vLLM: its tests of Cohere's /v2/embed."""

from __future__ import annotations

from typing import Any

from tests.published.cases import MODEL, Ask, Case, case, differs, post
from tests.published.peers.vllm_embed import embed

POOLING = "tests/entrypoints/pooling/"
COHERE = POOLING + "embed/test_cohere_online.py::"
PARITY = POOLING + "embed/test_cohere_openai_parity.py::"
PROTOCOL = POOLING + "embed/test_protocol.py::"
OK = "a.status == 200"


def cohere(texts: list[str] | None = None, **more: Any) -> Ask:
    return post("/v2/embed", model=MODEL, **({} if texts is None else {"texts": texts}), **more)


NOT_ONE: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("no texts", {"texts": []}),
    ("other tasks", {"images": []}),
    ("no inputs", {"inputs": []}),
    ("texts and images", {"texts": ["hello"], "images": ["data:image/png;base64,AAAA"]}),
    ("texts and inputs", {"texts": ["hello"], "inputs": [{"content": [{"type": "text", "text": "world"}]}]}),
    ("images and inputs", {"images": ["data:,"], "inputs": [{"content": [{"type": "text", "text": "world"}]}]}),
    (
        "all",
        {"texts": ["a"], "images": ["data:,"], "inputs": [{"content": [{"type": "text", "text": "world"}]}]},
    ),
]
"""Bodies with no input, or more than one."""

CASES: list[Case] = [
    # embed/test_cohere_online.py
    case(COHERE + "test_basic_embed", cohere(["hello world"], embedding_types=["float"]), OK, "rows(a).shape == (1, 384)"),
    case(
        COHERE + "test_unsupported_input_type_rejected",
        cohere(["hello world"], input_type="nonexistent_type", embedding_types=["float"]),
        "a.status == 400",
        "'input_type' in a.message and 'nonexistent_type' in a.message",
    ),
    case(
        COHERE + "test_omitted_input_type_accepted",
        cohere(["hello world"], embedding_types=["float"]),
        OK,
        "len(rows(a)) == 1",
    ),
    case(
        COHERE + "test_v1_v2_parity",
        cohere(["hello world"], embedding_types=["float"]),
        embed(["hello world"], encoding_format="float"),
        "cosine(rows(a), rows(b)) > 0.9999",
    ),
    case(
        COHERE + "test_embedding_types",
        cohere(["test"], embedding_types=["float", "binary", "ubinary"]),
        OK,
        "len(a['embeddings']['binary'][0]) == len(a['embeddings']['ubinary'][0]) == len(rows(a)[0]) // 8",
    ),
    *(
        case(COHERE + f"test_response_structure[{name}]", cohere(["test"], embedding_types=["float"]), OK, check)
        for name, check in [
            ("id", "a['id']"),
            ("texts", "a['texts'] == ['test']"),
            ("version", "a['meta']['api_version']['version'] == '2'"),
            ("tokens", "a['meta']['tokens']['input_tokens'] > 0"),
        ]
    ),
    case(
        COHERE + "test_batch", cohere(["apple", "banana", "cherry"], embedding_types=["float"]), "rows(a).shape == (3, 384)"
    ),
    case(COHERE + "test_l2_normalized", cohere(["hello world"], embedding_types=["float"]), "near(norms(rows(a)), 1, 0.01)"),
    case(
        COHERE + "test_semantic_similarity",
        cohere(["machine learning", "deep learning", "chocolate cake recipe"], embedding_types=["float"]),
        "cosine(rows(a)[0], rows(a)[1]) > cosine(rows(a)[0], rows(a)[2])",
    ),
    case(COHERE + "test_missing_input_returns_error", cohere(), "a.status == 400"),
    case(
        COHERE + "test_base64_embedding_type",
        cohere(["test encoding"], embedding_types=["float", "base64"]),
        OK,
        "near(numbers(a['embeddings']['base64'][0], 'float32', 'little'), a['embeddings']['float'][0], 1e-5)",
    ),
    *(
        case(
            COHERE + f"test_truncate_{side.lower()}_succeeds",
            cohere([" ".join(["word"] * 2000)], embedding_types=["float"], truncate=side),
            OK,
            "len(rows(a)) == 1",
        )
        for side in ("END", "START")
    ),
    case(
        COHERE + "test_truncate_none_rejects_long_input",
        cohere([" ".join(["word"] * 2000)], embedding_types=["float"], truncate="NONE"),
        "a.status == 400",
    ),
    case(
        COHERE + "test_truncate_start_vs_end_differ",
        *(
            cohere(
                [" ".join([f"alpha{number}" for number in range(300)] + [f"omega{number}" for number in range(300)])],
                embedding_types=["float"],
                truncate=side,
            )
            for side in ("END", "START")
        ),
        "cosine(rows(a), rows(b)) < 0.99",
    ),
    # embed/test_cohere_openai_parity.py
    case(
        PARITY + "test_single_text_parity",
        cohere(["the quick brown fox jumps over the lazy dog"], embedding_types=["float"]),
        embed(["the quick brown fox jumps over the lazy dog"]),
        "cosine(rows(a), rows(b)) > 0.9999",
    ),
    case(
        PARITY + "test_batch_parity",
        cohere(["machine learning", "deep learning", "natural language processing"], embedding_types=["float"]),
        embed(["machine learning", "deep learning", "natural language processing"]),
        "cosine(rows(a), rows(b)) > 0.9999",
        "[max(range(3), key=lambda other: cosine(rows(a)[one], rows(b)[other])) for one in range(3)] == [0, 1, 2]",
    ),
    case(
        PARITY + "test_token_count_parity",
        cohere(["hello world"], embedding_types=["float"]),
        embed(["hello world"]),
        "a['meta']['billed_units']['input_tokens'] == b['usage']['prompt_tokens']",
    ),
    # embed/test_protocol.py, over HTTP
    case(
        PROTOCOL + "test_float_passthrough",
        cohere(["test"], embedding_types=["float"]),
        "list(a['embeddings']) == ['float']",
    ),
    case(
        PROTOCOL + "test_binary_packing",
        cohere(["test"], embedding_types=["float", "binary", "ubinary"]),
        "[sum((value >= 0) << (7 - bit) for bit, value in enumerate(rows(a)[0][8 * place : 8 * place + 8]))"
        " for place in range(48)] == a['embeddings']['ubinary'][0]",
        "[value - 128 for value in a['embeddings']['ubinary'][0]] == a['embeddings']['binary'][0]",
    ),
    *(
        case(
            PROTOCOL + f"test_{name}non_multiple_of_8_raises",
            cohere(["test"], embedding_types=[kind], output_dimension=10),
            "a.status == 400",
            differs("bits are padded", OK, f"len(a['embeddings']['{kind}'][0]) == 2"),
        )
        for name, kind in [("", "binary"), ("ubinary_", "ubinary")]
    ),
    case(
        PROTOCOL + "test_base64_byte_length",
        cohere(["test"], embedding_types=["base64"], output_dimension=3),
        "len(numbers(a['embeddings']['base64'][0])) == 3",
    ),
    case(
        PROTOCOL + "test_all_types_at_once",
        cohere(["test"], embedding_types=["float", "binary", "ubinary", "base64"]),
        "set(a['embeddings']) == {'float', 'binary', 'ubinary', 'base64'}",
    ),
    case(
        PROTOCOL + "test_subset_types",
        cohere(["test"], embedding_types=["float", "binary"]),
        "set(a['embeddings']) == {'float', 'binary'}",
    ),
    case(
        PROTOCOL + "test_unknown_type_ignored",
        cohere(["test"], embedding_types=["float", "unknown_type"]),
        OK,
        differs("unknown values are refused", "a.status == 400", "'unknown_type' in a.text"),
    ),
    case(PROTOCOL + "test_texts_input_is_accepted", cohere(["hello"]), OK),
    case(
        PROTOCOL + "test_images_input_is_accepted",
        cohere(images=["data:image/png;base64,AAAA"]),
        OK,
        differs("other tasks", "a.status == 400", "'images' in a.text"),
    ),
    case(
        PROTOCOL + "test_inputs_input_is_accepted",
        cohere(inputs=[{"content": [{"type": "text", "text": "hello"}]}], embedding_types=["float"]),
        embed("hello"),
        OK,
        "cosine(rows(a), rows(b)) > 0.9999",
    ),
    *(
        case(
            PROTOCOL + f"test_exactly_one_non_empty_input_field_is_required[{name}]",
            cohere(**given),
            "a.status == 400",
        )
        for name, given in NOT_ONE
    ),
    case(
        POOLING + "embed/test_cohere_protocol.py::test_truncate_end_default",
        cohere([" ".join(["word"] * 2000)], embedding_types=["float"]),
        cohere([" ".join(["word"] * 2000)], embedding_types=["float"], truncate="END"),
        "a.status == b.status == 200",
        "cosine(rows(a), rows(b)) > 0.9999",
    ),
    *(
        case(
            POOLING + f"embed/test_cohere_protocol.py::test_truncate_{side.lower()}_with_max_tokens",
            cohere(["one two three four five six seven eight"], embedding_types=["float"], truncate=side, max_tokens=4),
            embed("one two" if side == "END" else "seven eight"),
            OK,
            "cosine(rows(a), rows(b)) > 0.9999",
        )
        for side in ("END", "START")
    ),
    case(
        POOLING + "embed/test_cohere_protocol.py::test_exceeds_limit",
        cohere(["one two three four five six"], embedding_types=["float"], truncate="NONE", max_tokens=5),
        "a.status == 400",
    ),
    case(
        POOLING + "embed/test_cohere_protocol.py::test_exact_limit",
        cohere(["one two three"], embedding_types=["float"], truncate="NONE", max_tokens=5),
        OK,
    ),
    *(
        case(
            POOLING + f"embed/test_cohere_protocol.py::test_known_type_accepted[{kind}]",
            cohere(["hello"], input_type=kind, embedding_types=["float"]),
            OK,
        )
        for kind in ("search_query", "search_document", "classification", "clustering")
    ),
]
