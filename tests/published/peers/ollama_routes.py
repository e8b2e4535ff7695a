"""Ollama: the tests of its other routes, and of its compatibility with OpenAI."""

from __future__ import annotations

from tests.published.cases import MODEL, Case, case, differs, get, post, send
from tests.published.peers.ollama_embed import OK, embed

API = "integration/api_test.go::"
ROUTES = "server/routes_test.go::TestRoutes/"
LIST = "server/routes_list_test.go::"
MIDDLEWARE = "middleware/openai_test.go::"
FORMATS = "middleware/openai_encoding_format_test.go::"
LISTS = "openai/openai_encoding_format_test.go::"
PAGE = "docs/api.md::"

CASES: list[Case] = [
    # Models.
    case(
        API + "runAPIListModels",
        get("/api/tags"),
        OK,
        f"any('{MODEL}' in model['name'] for model in a['models'])",
        "all(model[key] for model in a['models'] for key in ('name', 'model', 'modified_at', 'size', 'digest'))",
        "all(model['details'][key] for model in a['models']"
        " for key in ('format', 'family', 'parameter_size', 'quantization_level'))",
    ),
    *(
        case(API + f"runAPIShowModel[{name}]", post("/api/show", model=MODEL), OK, check)
        for name, check in [
            ("license", "a['license']"),
            ("modelfile", "a['modelfile']"),
            ("template", "a['template']"),
            (
                "details",
                "all(a['details'][key] for key in ('format', 'family', 'parameter_size', 'quantization_level'))",
            ),
            ("model_info", "len(a['model_info']) > 0"),
            ("modified_at", "a['modified_at']"),
        ]
    ),
    case(
        API + "runAPIShowModel[parameters]",
        post("/api/show", model=MODEL),
        OK,
        "a['parameters']",
    ),
    case(
        "server/routes_test.go::TestShow",
        post("/api/show", name=MODEL),
        OK,
        "a['model_info']['general.architecture'] == 'bert'",
    ),
    case(
        ROUTES + "Version Handler",
        get("/api/version"),
        OK,
        "a.headers['content-type'] == 'application/json; charset=utf-8'",
        "list(a.json) == ['version']",
        differs("content type", OK, "a.headers['content-type'] == 'application/json'", "a['version']"),
    ),
    case(
        ROUTES + "Tags Handler",
        get("/api/tags"),
        OK,
        "a.headers['content-type'] == 'application/json; charset=utf-8'",
        "'expires_at' not in a.text",
        f"'{MODEL}:latest' in [model['name'] for model in a['models']]",
        differs(
            "content type",
            OK,
            "a.headers['content-type'] == 'application/json' and 'expires_at' not in a.text",
            f"'{MODEL}:latest' in [model['name'] for model in a['models']]",
        ),
    ),
    case(
        ROUTES + "Delete Non-existent Model",
        send("DELETE", "/api/delete", '{"name": "non_existent_model"}', content_type="application/json"),
        "a.status == 404",
        "'not found' in a['error']",
    ),
    case(
        ROUTES + "Copy Model Handler",
        post("/api/copy", source=MODEL, destination="beefsteak"),
        post("/api/show", model="beefsteak"),
        post("/api/embed", model="beefsteak:latest", input="a"),
        "a.status == b.status == c.status == 200",
        "c['model'] == 'beefsteak:latest'",
    ),
    case(
        ROUTES + "Delete Model Handler",
        post("/api/copy", source=MODEL, destination="model_to_delete"),
        send("DELETE", "/api/delete", '{"name": "model_to_delete"}', content_type="application/json"),
        post("/api/show", model="model_to_delete"),
        "a.status == b.status == 200",
        "c.status == 404",
    ),
    case(
        ROUTES + "openai list models with tags",
        get("/v1/models"),
        OK,
        "a.headers['content-type'].startswith('application/json')",
        "a['object'] == 'list'",
        f"'{MODEL}:latest' in [model['id'] for model in a['data']]",
        "a['data'][0]['owned_by'] == 'library'",
        differs("names in OpenAI's list", OK, f"'{MODEL}' in [model['id'] for model in a['data']]"),
    ),
    case(
        ROUTES + "openai retrieve model handler",
        get(f"/v1/models/{MODEL}"),
        OK,
        "a.headers['content-type'].startswith('application/json')",
        "a['id'] == MODEL",
        "a['owned_by'] == 'library'",
        differs("names in OpenAI's list", OK, "a['id'] == MODEL and a['owned_by'] == 'edgeembed'"),
    ),
    case(ROUTES + "Method Not Allowed", get("/api/show"), "a.status == 405"),
    case(
        ROUTES + "Create Model Handler",
        post("/api/create", model="t-bone", **{"from": MODEL}, stream=False),
        OK,
        differs("other tasks", "a.status == 404", "'error' in a"),
    ),
    case(
        LIST + "TestOpenAIListMatchesTagsModels",
        get("/api/tags"),
        get("/v1/models"),
        get("/v1/models/all-minilm:latest"),
        "a.status == b.status == 200",
        "[model['model'] for model in a['models']] == [model['id'] for model in b['data']]",
        differs(
            "names in OpenAI's list", "c.status == 200", "'all-minilm:latest' in [model['model'] for model in a['models']]"
        ),
    ),
    case(
        "server/routes_test.go::TestManifestCaseSensitivity",
        post("/api/embed", model=MODEL.upper(), input="a"),
        OK,
        "rows(a).shape == (1, 384)",
    ),
    # OpenAI's routes.
    case(MIDDLEWARE + "TestEmbeddingsMiddleware[single]", post("/v1/embeddings", model=MODEL, input="Hello"), OK),
    case(
        MIDDLEWARE + "TestEmbeddingsMiddleware[batch]",
        post("/v1/embeddings", model=MODEL, input=["Hello", "World"]),
        OK,
        "rows(a).shape == (2, 384)",
    ),
    case(
        MIDDLEWARE + "TestEmbeddingsMiddleware[error]",
        post("/v1/embeddings", model=MODEL),
        "a.status == 400",
        "a['error']['type'] == 'invalid_request_error'",
        "'input' in a.message",
    ),
    case(
        MIDDLEWARE + "TestRetrieveMiddleware[error]",
        get("/v1/models/test-model"),
        "a.status in (400, 404)",
        "{'message', 'type', 'param', 'code'} <= set(a['error'])",
        "a['error']['type'] == 'invalid_request_error'",
    ),
    *(
        case(
            FORMATS + f"TestEmbeddingsMiddleware_EncodingFormats[{name}]",
            post("/v1/embeddings", model=MODEL, input="test", **more),
            OK,
            check,
        )
        for name, more, check in [
            ("float", {"encoding_format": "float"}, "isinstance(a['data'][0]['embedding'], list)"),
            ("base64", {"encoding_format": "base64"}, "len(numbers(a['data'][0]['embedding'])) == 384"),
            ("default", {}, "isinstance(a['data'][0]['embedding'], list)"),
        ]
    ),
    case(
        FORMATS + "TestEmbeddingsMiddleware_BatchWithBase64",
        post("/v1/embeddings", model=MODEL, input=["hello", "world", "test"], encoding_format="base64"),
        OK,
        "all(len(numbers(item['embedding'])) == 384 for item in a['data'])",
        "[item['index'] for item in a['data']] == [0, 1, 2]",
    ),
    *(
        case(
            FORMATS + f"TestEmbeddingsMiddleware_InvalidEncodingFormat[{word}]",
            post("/v1/embeddings", model=MODEL, input="test", encoding_format=word),
            OK,
        )
        for word in ("float", "base64", "FLOAT", "BASE64", "Float", "Base64")
    ),
    *(
        case(
            FORMATS + f"TestEmbeddingsMiddleware_InvalidEncodingFormat[{word}]",
            post("/v1/embeddings", model=MODEL, input="test", encoding_format=word),
            "a.status == 400",
            "a['error']['type'] == 'invalid_request_error'",
            "'encoding_format' in a.message",
        )
        for word in ("json", "hex", "invalid_format")
    ),
    case(
        LISTS + "TestToEmbeddingList[usage and model]",
        post("/v1/embeddings", model=MODEL, input=["a", "b", "c"]),
        OK,
        "a['model'] == MODEL and a['usage']['prompt_tokens'] == 9",
        "[item['index'] for item in a['data']] == [0, 1, 2]",
    ),
    case(
        LISTS + "TestFloatsToBase64",
        post("/v1/embeddings", model=MODEL, input="a", encoding_format="base64"),
        post("/v1/embeddings", model=MODEL, input="a"),
        "near(numbers(a['data'][0]['embedding'], 'float32', 'little'), rows(b)[0], 1e-6)",
    ),
    # Its documentation.
    case(
        PAGE + "pull, no stream",
        post("/api/pull", model=MODEL, stream=False),
        OK,
        "a.json == {'status': 'success'}",
    ),
    case(
        PAGE + "pull, stream",
        post("/api/pull", model=MODEL),
        OK,
        "a.headers['content-type'].startswith('application/x-ndjson')",
        "lines(a)[-1] == {'status': 'success'}",
    ),
    case(
        PAGE + "pull of what does not exist",
        post("/api/pull", model="no-such-model", stream=False),
        "a.status >= 400 and 'error' in a",
    ),
    case(
        PAGE + "list of running models",
        embed("a"),
        get("/api/ps"),
        "b.status == 200",
        f"any(model['name'].startswith('{MODEL}') for model in b['models'])",
        "all(model[key] for model in b['models'] for key in ('name', 'model', 'size', 'digest', 'details', 'expires_at'))",
        "all('size_vram' in model for model in b['models'])",
    ),
    case(
        PAGE + "embeddings, prompt",
        post("/api/embeddings", model="all-minilm", prompt="Here is an article"),
        "len(a['embedding']) == 384",
    ),
    case(PAGE + "root", get("/"), OK),
    case(PAGE + "HEAD /", send("HEAD", "/"), OK),
    case(PAGE + "HEAD /api/tags", send("HEAD", "/api/tags"), OK),
    case(PAGE + "HEAD /api/version", send("HEAD", "/api/version"), OK),
    case(
        PAGE + "push",
        post("/api/push", model=MODEL, stream=False),
        OK,
        differs("other tasks", "a.status == 404", "'error' in a"),
    ),
]
