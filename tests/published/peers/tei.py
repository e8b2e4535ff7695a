"""text-embeddings-inference: the router's tests, and the answers that its OpenAPI document promises."""

from __future__ import annotations

from tests.published.cases import CLASSIFIER, MODEL, RERANKER, WHOLE, Case, Peer, case, differs, get, post, send

EMBED = "router/tests/test_http_embed.rs::"
PREDICT = "router/tests/test_http_predict.rs::"
RERANK = "router/tests/test_http_rerank.rs::"
API = "docs/openapi.json::"
TYPES = "router/src/http/types.rs::"
TOUR = "docs/source/en/quick_tour.md::"

DEEP = "What is Deep Learning?"
LONG = "word " * 600
OK = "a.status == 200"
EMPTY = "a.status == 400 and a['error_type'].lower() == 'empty' and 'empty' in a['error']"
TOO_MANY = (
    "a.status in (413, 422) and a['error_type'].lower() == 'validation' and 'maximum allowed batch size' in a['error']"
)
"""The document says 413, and its router answers 422."""
INVALID = "a.status == 422"
_STEPS = differs("times of TEI's steps", "'x-compute-time' in a.headers and 'x-total-time' in a.headers")
COMPUTED = {
    "x-compute-type": [_STEPS],
    "x-compute-time": [],
    "x-compute-characters": [],
    "x-compute-tokens": [],
    "x-total-time": [],
    "x-tokenization-time": [_STEPS],
    "x-queue-time": [_STEPS],
    "x-inference-time": [_STEPS],
}

CASES: list[Case] = [
    # Router's tests.
    case(
        EMBED + "test_mrl_embeddings[single]",
        post("/embed", inputs="test", dimensions=128),
        OK,
        "rows(a).shape == (1, 128)",
        "cosine(rows(a)[0][:6], [0.02096, 0.04566, -0.06651, 0.10739, -0.01305, -0.07468]) > 0.99",
    ),
    case(
        EMBED + "test_mrl_embeddings[batch]",
        post("/embed", inputs=["test", "test", "test"], dimensions=128),
        post("/embed", inputs="test", dimensions=128),
        OK,
        "rows(a).shape == (3, 128)",
        "near(rows(a), rows(b)[0], 4e-3)",
    ),
    case(
        RERANK + "test_rerank",
        post("/rerank", query="test", texts=["test", "other", "test"], return_text=True),
        OK,
        "sorted((item['index'], item['text']) for item in a.json) == [(0, 'test'), (1, 'other'), (2, 'test')]",
        "near(scores(a)[0], scores(a)[2], 4e-3)",
        "[item['score'] for item in a.json] == sorted(scores(a), reverse=True)",
    ),
    # Quick tour and README: what users paste.
    case(TOUR + "embed", post("/embed", inputs=DEEP), OK, "rows(a).shape == (1, 384)", "near(norms(rows(a)), 1)"),
    case(
        TOUR + "embed a batch", post("/embed", inputs=["Today is a nice day", "I like you"]), OK, "rows(a).shape == (2, 384)"
    ),
    case(
        TOUR + "huggingface_hub",
        post("/embed", inputs=DEEP, parameters={}),
        OK,
        "rows(a).shape == (1, 384)",
    ),
    case(
        TOUR + "OpenAI's client",
        post("/v1/embeddings", input=DEEP, model="text-embeddings-inference", encoding_format="float"),
        OK,
        "rows(a).shape == (1, 384)",
        differs("unknown model names", "a.status == 404", "a['error']['code'] == 'model_not_found'"),
    ),
    case(
        TOUR + "rerank",
        post("/rerank", query=DEEP, texts=["Deep Learning is not...", "Deep learning is..."], raw_scores=False),
        OK,
        "sorted(order(a)) == [0, 1]",
        "all(0 <= score <= 1 for score in scores(a))",
    ),
    # /embed
    *(
        case(f"{API}/embed[{name}={value}]", post("/embed", inputs="test", **{name: value}), OK, "rows(a).shape == (1, 384)")
        for name, value in [
            ("truncate", None),
            ("truncate", False),
            ("truncate", True),
            ("truncation_direction", "Right"),
            ("truncation_direction", "right"),
            ("truncation_direction", "Left"),
            ("truncation_direction", "left"),
            ("prompt_name", None),
            ("normalize", True),
            ("dimensions", None),
        ]
    ),
    case(
        f"{API}/embed[not normalized]",
        post("/embed", inputs="test", normalize=False),
        post("/embed", inputs="test"),
        OK,
        "not near(norms(rows(a)), 1, 0.05) and cosine(rows(a), rows(b)) > 0.99999",
    ),
    case(
        f"{TYPES}InputType[ids]",
        post("/tokenize", inputs="what is rain?"),
        post("/embed", inputs=[101, 2054, 2003, 4542, 1029, 102]),
        post("/embed", inputs="what is rain?"),
        "[token['id'] for token in a[0]] == [101, 2054, 2003, 4542, 1029, 102]",
        "b.status == 200",
        "rows(b).shape == (1, 384) and cosine(rows(b), rows(c)) > 0.9999",
    ),
    case(
        f"{TYPES}InputType[several of ids]",
        post("/embed", inputs=[[101, 4542, 102], [101, 2054, 102]]),
        OK,
        "rows(a).shape == (2, 384)",
    ),
    case(f"{API}/embed 400", post("/embed", inputs=[]), EMPTY),
    case(f"{API}/embed 400[empty text]", post("/embed", inputs=""), "a.status in (400, 422) and 'error_type' in a"),
    case(
        f"{API}/embed 413",
        get("/info"),
        post("/embed", inputs=["a"] * 10_000),
        "a['max_client_batch_size'] < 10_000",
        TOO_MANY.replace("a.status", "b.status").replace("a['error", "b['error"),
    ),
    case(
        f"{API}/embed 422[too long]",
        post("/embed", inputs=LONG, truncate=False),
        INVALID,
        "a['error_type'].lower() == 'validation'",
    ),
    case(
        f"{API}/embed 422[not JSON]", send("POST", "/embed", "{", content_type="application/json"), "400 <= a.status < 500"
    ),
    case(f"{API}/embed 422[number]", post("/embed", inputs=5), "a.status in (400, 422)"),
    case(
        "router/src/lib.rs::auto_truncate is the default since 1.9",
        post("/embed", inputs=LONG),
        post("/embed", inputs=LONG, truncate=True),
        OK,
        "cosine(rows(a), rows(b)) > 0.9999",
    ),
    case(
        f"{API}/embed[left and right]",
        post("/embed", inputs="alpha " * 600 + "omega " * 600, truncate=True, truncation_direction="Left"),
        post("/embed", inputs="alpha " * 600 + "omega " * 600, truncate=True),
        "a.status == b.status == 200",
        "cosine(rows(a), rows(b)) < 0.99",
    ),
    case(
        f"{API}/embed[unknown prompt_name]",
        post("/embed", inputs="test", prompt_name="no-such-prompt"),
        "a.status in (400, 422)",
        "'no-such-prompt' in a['error'] or 'prompt' in a['error']",
    ),
    *(
        case(
            f"router/src/http/server.rs::/embed[{header}]",
            post("/embed", inputs="test"),
            OK,
            f"'{header}' in a.headers",
            *unless,
        )
        for header, unless in COMPUTED.items()
    ),
    # POST / is the route of the model's kind.
    case("router/src/http/server.rs::POST /", post("/", inputs="test"), OK, "rows(a).shape == (1, 384)"),
    # /embed_all: a row for each token, special ones included; not pooled.
    case(
        f"{API}/embed_all[text]",
        post("/embed_all", inputs="what is rain?"),
        OK,
        "len(a) == 1 and len(a[0]) == 6 and len(a[0][0]) == 384",
    ),
    case(
        f"{API}/embed_all[batch]",
        post("/embed_all", inputs=["rain", "the rain"]),
        OK,
        "[len(one) for one in a.json] == [3, 4]",
    ),
    case(f"{API}/embed_all 400", post("/embed_all", inputs=[]), EMPTY),
    # /embed_sparse and /predict: for models that can; the error says that this one cannot.
    case(
        f"{API}/embed_sparse[text]",
        post("/embed_sparse", model=WHOLE, inputs="I like you, what is rain?"),
        OK,
        "len(a) == 1 and len(a[0]) > 0",
        "all(type(one['index']) is int and one['value'] > 0 and set(one) == {'index', 'value'} for one in a[0])",
    ),
    case(
        f"{API}/embed_sparse[batch]",
        post("/embed_sparse", model=WHOLE, inputs=["what is rain?", "I like you."], truncate=True, prompt_name=None),
        post("/embed_sparse", model=WHOLE, inputs="what is rain?"),
        OK,
        "len(a) == 2 and [one['index'] for one in a[0]] == [one['index'] for one in b[0]]",
        "near([one['value'] for one in a[0]], [one['value'] for one in b[0]])",
    ),
    case(f"{API}/embed_sparse 400", post("/embed_sparse", model=WHOLE, inputs=[]), EMPTY),
    case(
        f"{API}/embed_sparse 424",
        post("/embed_sparse", model=MODEL, inputs="I like you."),
        "a.status == 424",
        "a['error_type'].lower() == 'backend'",
    ),
    case(
        f"{API}/predict 424",
        post("/predict", model=MODEL, inputs="I like you."),
        "a.status == 424",
        "a['error_type'].lower() == 'backend'",
    ),
    case(
        f"{TYPES}PredictInput[pair]",
        post("/predict", model=RERANKER, inputs=["rain", "wet"]),
        OK,
        "len(a) == 1 and 0 <= a[0]['score'] <= 1 and a[0]['label']",
    ),
    case(
        f"{TYPES}PredictInput[pairs]",
        post("/predict", model=RERANKER, inputs=[["rain", "wet"], ["rain", "dry"]]),
        OK,
        "[len(one) for one in a.json] == [1, 1]",
    ),
    case(
        f"{PREDICT}test_predict",
        post("/predict", model=CLASSIFIER, inputs="test"),
        post("/predict", model=CLASSIFIER, inputs=[["test"]] * 5),
        "a.status == b.status == 200",
        "sorted(one['label'] for one in a.json) == ['Default', 'Spoiled']",
        "a[0]['score'] >= a[1]['score'] and near([sum(one['score'] for one in a.json)], [1.0], 1e-3)",
        "len(b) == 5 and all([one['label'] for one in item] == [one['label'] for one in a.json] for item in b.json)",
        "all(near([one['score'] for one in item], [one['score'] for one in a.json], 1e-3) for item in b.json)",
    ),
    case(
        f"{API}/predict[answer]",
        post("/predict", model=CLASSIFIER, inputs="I like you."),
        OK,
        "all(set(one) == {'score', 'label'} for one in a.json)",
    ),
    case(f"{API}/predict 400", post("/predict", inputs=[]), "a.status in (400, 422) and 'error_type' in a"),
    # /similarity
    case(
        f"{API}/similarity",
        post(
            "/similarity",
            inputs={"source_sentence": DEEP, "sentences": ["What is Machine Learning?", "Cheese is made of milk."]},
            parameters=None,
        ),
        OK,
        "len(a) == 2 and a[0] > a[1]",
    ),
    case(
        f"{API}/similarity[parameters]",
        post(
            "/similarity",
            inputs={"source_sentence": DEEP, "sentences": ["What is Machine Learning?"]},
            parameters={"truncate": True, "truncation_direction": "left", "prompt_name": None},
        ),
        OK,
        "len(a) == 1",
    ),
    case(f"{API}/similarity 400", post("/similarity", inputs={"source_sentence": DEEP, "sentences": []}), EMPTY),
    # /rerank
    case(f"{API}/rerank 400", post("/rerank", query=DEEP, texts=[]), EMPTY),
    case(
        f"{API}/rerank[raw_scores]",
        post("/rerank", query="rain", texts=["dry", "wet"], raw_scores=True),
        post("/rerank", query="rain", texts=["dry", "wet"]),
        "a.status == b.status == 200",
        "near(sigmoid(scores(a)), scores(b), 1e-3)",
    ),
    case(f"{API}/rerank[no text]", post("/rerank", query="rain", texts=["dry"]), OK, "'text' not in a[0]"),
    case(
        f"{API}/rerank[truncate]",
        post("/rerank", query="rain", texts=["a " * 2000, "wet"], truncate=True),
        OK,
        "sorted(order(a)) == [0, 1]",
    ),
    case(
        f"{API}/rerank[truncate by default]",
        post("/rerank", query="rain", texts=["a " * 2000, "wet"]),
        OK,
        "sorted(order(a)) == [0, 1]",
    ),
    case(
        f"{API}/rerank[truncate left]",
        post("/rerank", query="rain", texts=["a " * 2000, "wet"], truncate=True, truncation_direction="Left"),
        OK,
        "sorted(order(a)) == [0, 1]",
    ),
    case(
        f"{API}/rerank 413",
        post("/rerank", query="rain", texts=["a"] * 10_000),
        TOO_MANY,
    ),
    # /tokenize and /decode
    case(
        f"{API}/tokenize",
        post("/tokenize", inputs="what is rain?"),
        OK,
        "[(token['id'], token['special']) for token in a[0]]"
        " == [(101, True), (2054, False), (2003, False), (4542, False), (1029, False), (102, True)]",
        "[token['text'].strip() for token in a[0]] == ['[CLS]', 'what', 'is', 'rain', '?', '[SEP]']",
    ),
    case(
        f"{API}/tokenize[start, stop]",
        post("/tokenize", inputs="what is rain?"),
        OK,
        "[(token['start'], token['stop']) for token in a[0]][1:5] == [(0, 4), (5, 7), (8, 12), (12, 13)]",
        "a[0][0]['start'] is None and a[0][-1]['stop'] is None",
    ),
    case(
        f"{API}/tokenize[the text's own letters]",
        post("/tokenize", inputs="Déjà VU"),
        OK,
        "''.join(token['text'] for token in a[0] if not token['special']).replace(' ', '') == 'DéjàVU'",
    ),
    case(
        f"{API}/tokenize[no special tokens]",
        post("/tokenize", inputs="what is rain?", add_special_tokens=False),
        OK,
        "[token['id'] for token in a[0]] == [2054, 2003, 4542, 1029]",
    ),
    case(
        f"{API}/tokenize[batch]",
        post("/tokenize", inputs=["rain", "the rain"]),
        OK,
        "[len(one) for one in a.json] == [3, 4]",
    ),
    case(f"{API}/tokenize[prompt_name]", post("/tokenize", inputs="rain", prompt_name=None), OK, "len(a[0]) == 3"),
    case(f"{API}/tokenize 400", post("/tokenize", inputs=[]), EMPTY),
    case(f"{API}/decode", post("/decode", ids=[101, 2054, 2003, 4542, 102]), OK, "a.json == ['what is rain']"),
    case(
        f"{API}/decode[batch]",
        post("/decode", ids=[[101, 4542, 102], [101, 2054, 102]]),
        OK,
        "a.json == ['rain', 'what']",
    ),
    case(
        f"{API}/decode[special tokens]",
        post("/decode", ids=[101, 4542, 102], skip_special_tokens=False),
        OK,
        "a.json == ['[CLS] rain [SEP]']",
    ),
    case(f"{API}/decode 400", post("/decode", ids=[]), EMPTY),
    # /v1/embeddings
    case(
        f"{API}/v1/embeddings",
        post("/v1/embeddings", input="test", model=MODEL, user=None, encoding_format="float", dimensions=None),
        OK,
        "a['object'] == 'list' and a['data'][0]['object'] == 'embedding' and a['data'][0]['index'] == 0",
        "rows(a).shape == (1, 384)",
        "a['model'] == MODEL",
        "a['usage'] == {'prompt_tokens': 3, 'total_tokens': 3}",
    ),
    case(f"{API}/v1/embeddings[no model]", post("/v1/embeddings", input="test"), OK, "rows(a).shape == (1, 384)"),
    case(
        f"{API}/v1/embeddings[empty model]", post("/v1/embeddings", input="test", model=""), OK, "rows(a).shape == (1, 384)"
    ),
    case(
        f"{API}/v1/embeddings[base64]",
        post("/v1/embeddings", input="test", encoding_format="base64"),
        post("/v1/embeddings", input="test"),
        OK,
        "near(numbers(a['data'][0]['embedding'], 'float32', 'little'), rows(b)[0], 1e-6)",
    ),
    case(
        f"{API}/v1/embeddings[dimensions]", post("/v1/embeddings", input="test", dimensions=128), "rows(a).shape == (1, 128)"
    ),
    case(
        f"{API}/v1/embeddings 400",
        post("/v1/embeddings", input=[]),
        "a.status == 400",
        "a['type'].lower() == 'empty' and 'empty' in a['message']",
        differs("shape of errors", "a.status == 400", "'input' in a['error']['message']"),
    ),
    case(
        f"{API}/v1/embeddings 413",
        post("/v1/embeddings", input=["a"] * 10_000),
        "a.status == 413",
        differs("status codes", "a.status == 400", "'10000' in a.message or '10,000' in a.message"),
    ),
    # /info, /health, /metrics
    case(f"{API}/health", get("/health"), OK),
    case(f"{API}/metrics", get("/metrics"), OK, "a.headers['content-type'].startswith('text/plain')"),
    *(
        case(f"{API}/info[{name}]", get("/info"), OK, f"a['{name}'] is not None and {check}")
        for name, check in [
            ("model_id", "a['model_id'] == MODEL"),
            ("model_dtype", "isinstance(a['model_dtype'], str)"),
            ("model_type", "a['model_type']['embedding']['pooling'] == 'mean'"),
            ("max_input_length", "a['max_input_length'] == 512"),
            ("max_batch_tokens", "a['max_batch_tokens'] >= 512"),
            ("max_client_batch_size", "a['max_client_batch_size'] >= 32"),
            ("auto_truncate", "a['auto_truncate'] is True"),
            ("version", "a['version']"),
        ]
    ),
    *(
        case(
            f"{API}/info[{name}]",
            get("/info"),
            f"a['{name}'] > 0",
        )
        for name in ("max_concurrent_requests", "tokenization_workers")
    ),
    case(
        f"{API}/info[a request may hold what it says]",
        get("/info"),
        "a['max_client_batch_size'] * a['max_input_length'] <= 300_000",
    ),
    case(
        "router/src/http/server.rs::model_id of a reranker",
        post("/rerank", query="rain", texts=["wet"], model=RERANKER),
        OK,
        "order(a) == [0]",
    ),
]

PEER = Peer(
    "TEI",
    "huggingface/text-embeddings-inference",
    CASES,
    [],
    "gRPC, the models in its own formats, its queue",
)
