"""Ollama: the integration tests of /api/embed and /api/embeddings, and what its handler does with each kind of body."""

from __future__ import annotations

from typing import Any

from tests.published.cases import MODEL, Ask, Case, case, post, send

EMBED = "integration/embed_test.go::"
CASES_OF_MODELS = "integration/embed_cases_test.go::"
TYPES = "api/types_test.go::"
HANDLER = "server/routes.go::EmbedHandler/"

SKY = "why is the sky blue?"
GRASS = "why is the grass green?"
SKY_ROW = [0.01007, -0.00176, 0.05007, 0.04693, 0.05492, 0.0086]
"""The first numbers that Ollama's documentation gives for SKY, to the fifth place."""
GRASS_ROW = [-0.0098, 0.06042, 0.02526, -0.00636, 0.07273, 0.01719]
OK = "a.status == 200"


def embed(given: Any, **more: Any) -> Ask:
    return post("/api/embed", model="all-minilm", input=given, **more)


TRIPLES = [
    ("cat", "kitten", "dog"),
    ("king", "queen", "baron"),
    ("paris", "london", "vancouver"),
    ("The cat is sleeping on the sofa", "A feline is sleeping on the couch", "Quantum physics is complex"),
    ("I love programming in python", "Coding in python brings me joy", "Pizza is delicious"),
    ("Machine learning is fascinating", "Artificial intelligence is amazing", "I need to buy groceries"),
    (
        "The quick brown fox jumps over the lazy dog",
        "A fast brown fox leaps over a sleepy dog",
        "The weather is warm and sunny today",
    ),
]
LONG = "very long input " * 100
TOO_LONG = "'exceeds the context length' in a.message or 'exceeds maximum context length' in a.message"
CANNOT_CUT = (
    "a.status == 400 and ('input after truncation exceeds maximum context length' in a.message"
    " or 'input exceeds maximum context length and cannot be truncated further' in a.message)"
)

NOTHING: tuple[Any, ...] = ("", [], None)

CASES: list[Case] = [
    *(
        case(
            EMBED + f"runEmbedCosineDistanceCorrelation[{one}]",
            embed([one, near, far], keep_alive="10s"),
            OK,
            "rows(a).shape == (3, 384)",
            "cosine(rows(a)[0], rows(a)[1]) > cosine(rows(a)[0], rows(a)[2])",
            "distance(rows(a)[0], rows(a)[1], 2) < distance(rows(a)[0], rows(a)[2], 2)",
            "distance(rows(a)[0], rows(a)[1], 1) < distance(rows(a)[0], rows(a)[2], 1)",
        )
        for one, near, far in TRIPLES
    ),
    case(
        EMBED + "runAllMiniLMEmbeddings",
        post("/api/embeddings", model="all-minilm", prompt=SKY, keep_alive="10s"),
        OK,
        "rows(a).shape == (1, 384)",
        # Not of length 1: only the direction is published.
        f"cosine(rows(a)[0][:6], {SKY_ROW}) > 0.99",
    ),
    case(
        EMBED + "runAllMiniLMEmbed",
        embed(SKY),
        OK,
        "rows(a).shape == (1, 384)",
        f"cosine(rows(a)[0][:6], {SKY_ROW}) > 0.99",
        "a['prompt_eval_count'] == 8",
    ),
    case(
        EMBED + "runAllMiniLMBatchEmbed",
        embed([SKY, GRASS]),
        OK,
        "rows(a).shape == (2, 384)",
        f"cosine(rows(a)[:, :6], [{SKY_ROW}, {GRASS_ROW}]) > 0.99",
        "a['prompt_eval_count'] == 16",
    ),
    case(EMBED + "runAllMiniLMEmbedTruncate[target]", embed("why"), embed("why"), OK, "cosine(rows(a), rows(b)) > 0.999"),
    *(
        case(
            EMBED + f"runAllMiniLMEmbedTruncate[{name}]",
            embed(SKY, options={"num_ctx": 3}, **more),
            embed("why"),
            OK,
            "cosine(rows(a), rows(b)) > 0.999",
        )
        for name, more in [("default", {}), ("explicit", {"truncate": True})]
    ),
    case(
        EMBED + "runAllMiniLMEmbedTruncate[error]",
        embed(SKY, truncate=False, options={"num_ctx": 3}),
        "400 <= a.status < 500",
        TOO_LONG,
    ),
    case(
        EMBED + "runAllMiniLMEmbedTruncate[num_ctx 1]",
        embed(SKY, truncate=True, options={"num_ctx": 1}),
        CANNOT_CUT,
    ),
    case(
        EMBED + "runAllMiniLMEmbedTruncate[num_ctx 0]",
        embed(SKY, truncate=True, options={"num_ctx": 0}),
        CANNOT_CUT,
    ),
    case(
        EMBED + "runAllMiniLMEmbedTruncate[boundary]",
        embed("why is the sky blue? Why is the sky blue? hi there my", options={"num_ctx": 16}),
        OK,
        "rows(a).shape == (1, 384)",
    ),
    case(
        EMBED + "runEmbedTruncation[batch]",
        embed(["short", "long " * 100, "medium text"], truncate=True, options={"num_ctx": 30}),
        OK,
        "rows(a).shape == (3, 384)",
        "a['prompt_eval_count'] <= 90",
    ),
    case(
        EMBED + "runEmbedTruncation[count of tokens]",
        embed("test"),
        embed(["test", "test", "test"]),
        "a.status == b.status == 200",
        "abs(b['prompt_eval_count'] - 3 * a['prompt_eval_count']) <= 2",
    ),
    *(
        case(
            EMBED + f"runEmbedLargeInput[{count} words]",
            embed(" ".join(["word"] * count), keep_alive="30s"),
            OK,
            "rows(a).shape == (1, 384)",
        )
        for count in (256, 512, 800)
    ),
    case(
        EMBED + "runEmbedStatusCode[one]",
        embed(LONG, truncate=False, options={"num_ctx": 10}),
        "400 <= a.status < 500",
        "any(words in a.message for words in ('context length', 'too large', 'exceed_context_size'))",
    ),
    case(
        EMBED + "runEmbedStatusCode[batch]",
        embed(["short input", LONG, "another short input"], truncate=False, options={"num_ctx": 10}),
        "400 <= a.status < 500",
    ),
    case(
        CASES_OF_MODELS + "runEmbeddingModel[all-minilm]",
        post("/api/embeddings", model="all-minilm", prompt=SKY, keep_alive="10s", options={"temperature": 0, "seed": 123}),
        OK,
        "rows(a).shape == (1, 384)",
        f"cosine(rows(a)[0][:6], {SKY_ROW}) > 0.99",
    ),
    case(
        CASES_OF_MODELS + "runEmbeddingModel[unload by generate]",
        post("/api/generate", model="all-minilm", keep_alive=0),
        OK,
        "a['done'] is True and a['done_reason'] == 'unload'",
    ),
    case(
        CASES_OF_MODELS + "runEmbeddingSmokeModel",
        embed(["cat", "kitten", "dog"], keep_alive="10s"),
        OK,
        "rows(a).shape == (3, 384)",
        "cosine(rows(a)[0], rows(a)[1]) > cosine(rows(a)[0], rows(a)[2])",
    ),
    # keep_alive.
    *(
        case(
            TYPES + f"TestKeepAliveParsingFromJSON[{value!r}]", embed("a", keep_alive=value), OK, "rows(a).shape == (1, 384)"
        )
        for value in (42, 42.5, "42m", -1, -3.14, "-1m", 0, "0", "24h", "1h30m", None)
    ),
    # What its handler answers to each kind of body.
    case(
        HANDLER + "no body",
        send("POST", "/api/embed", content_type="application/json"),
        "a.status == 400",
        "'missing request body' in a['error']",
    ),
    case(
        HANDLER + "no JSON",
        send("POST", "/api/embed", "{", content_type="application/json"),
        "a.status == 400",
        "'error' in a",
    ),
    case(HANDLER + "no content type", send("POST", "/api/embed", f'{{"model": "{MODEL}", "input": "a"}}'), OK),
    case(
        HANDLER + "curl's content type",
        send(
            "POST",
            "/api/embed",
            f'{{"model": "{MODEL}", "input": "a"}}',
            content_type="application/x-www-form-urlencoded",
        ),
        OK,
        "rows(a).shape == (1, 384)",
    ),
    case(
        HANDLER + "unknown model",
        post("/api/embed", model="no-such-model", input="a"),
        "a.status == 404",
        "'no-such-model' in a['error'] and 'not found' in a['error']",
    ),
    *(
        case(
            HANDLER + f"input is {given!r}",
            embed(given),
            "a.status == 400",
            "'invalid input type' in a['error']",
        )
        for given in (5, True, {"text": "a"}, ["a", 5], ["a", None], [["a"]])
    ),
    *(case(HANDLER + f"input is {given!r}", embed(given), OK, "a['embeddings'] == []") for given in NOTHING),
    case(HANDLER + "no input", post("/api/embed", model="all-minilm"), OK, "a['embeddings'] == []"),
    case(
        HANDLER + "an empty text among others",
        embed(["a", "", "b"]),
        OK,
        "rows(a).shape == (3, 384)",
    ),
    case(HANDLER + "dimensions", embed("a", dimensions=128), OK, "rows(a).shape == (1, 128)", "near(norms(rows(a)), 1)"),
    *(
        case(HANDLER + f"{name} is null", embed("a", **{name: None}), OK, "rows(a).shape == (1, 384)")
        for name in ("truncate", "options", "keep_alive", "dimensions")
    ),
    case(HANDLER + "numbers with a point", embed("a", options={"num_ctx": 8192.0}), OK, "rows(a).shape == (1, 384)"),
    case(
        HANDLER + "answer",
        embed("a"),
        OK,
        "set(a.json) == {'model', 'embeddings', 'total_duration', 'load_duration', 'prompt_eval_count'}",
        "a['model'] == 'all-minilm'",
        "a['total_duration'] > 0",
    ),
    case(HANDLER + "rows have length 1", embed(["a", SKY]), OK, "near(norms(rows(a)), 1)"),
    case(
        HANDLER + "name with its tag",
        post("/api/embed", model="all-minilm:latest", input="a"),
        "a['model'] == 'all-minilm:latest'",
    ),
    case(HANDLER + "size as tag", post("/api/embed", model="all-minilm:22m", input="a"), OK),
    case(HANDLER + "more texts than OpenAI takes", embed(["a"] * 3000), OK, "rows(a).shape == (3000, 384)"),
    case(HANDLER + "more tokens than OpenAI takes", embed(["word " * 510] * 2 + ["a"] * 2100), OK, "len(rows(a)) == 2102"),
]
