"""What each route takes and returns, for the OpenAPI document; see `openapi`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgeembed.common.admin_status import (
    AliasesStatus,
    CacheStatus,
    KeysStatus,
    LogTail,
    NewKey,
    OriginsStatus,
    OwnedModel,
    OwnedModels,
    PullStatus,
    SettingsStatus,
    SettingStatus,
)
from edgeembed.common.status import AdminStatus, DaemonStatus, EndingStatus, Health, ListedModel
from edgeembed.server import dashboard, error_formats, responses
from edgeembed.server.dialects import (
    classify,
    cohere,
    embeddings_body,
    lm_studio,
    ollama_embed,
    ollama_generate,
    ollama_manage,
    ollama_models,
    pooling,
    rerank,
    rerank_answer,
    score,
    tei,
    tei_fields,
    tei_info,
    tei_outputs,
    tei_scores,
    tei_tokens,
    tokenize,
    tokenize_path,
)
from edgeembed.server.fields import RowsField
from edgeembed.server.ops import admin, admin_access, admin_models, admin_names, admin_settings, base_url
from edgeembed.server.ops.schemas import Anything, EmbeddingsAnswer, LiveAnswer, ModelsAnswer, OutputsAnswer

_COMPUTES = (400, 401, 403, 404, 413, 429, 500, 503, 504)
_TEI_COMPUTES = (400, 401, 403, 404, 413, 422, 424, 429, 500, 503, 504)
_READS = (401, 403, 500)
_OWNS = (400, 401, 403, 404, 409, 413, 500, 503)
_CHANGES = (400, 401, 403, 404, 409, 413, 500)


@dataclass(frozen=True)
class Operation:
    """What a route takes and returns.

    body, answer: types of the JSON, several in a tuple; None for no body, and for a response that is not JSON, which has one
    of the types in `media`. example: a valid body, for readers and tests. fails: types of error responses, by status, where
    they are not those of the dialect.
    """

    tag: str
    answer: Any
    body: Any = None
    errors: tuple[int, ...] = _READS
    example: dict[str, Any] | None = None
    media: tuple[str, ...] = (responses.JSON_TYPE,)
    cached: bool = False
    """The cache is used: one header controls it, another one tells whether it answered."""
    fails: dict[int, Any] = field(default_factory=dict)
    body_required: bool = True
    status: int = 200
    """Of a success."""


_JSON_OR_BYTES = (responses.JSON_TYPE, responses.BYTES_TYPE)
_OPENAI = "OpenAI"
_JINA = "Jina"
_RERANK = "Rerank (Jina, Cohere, vLLM, SGLang, infinity, Voyage)"
_CLASSIFY = "Classify (vLLM, SGLang, infinity)"
_OLLAMA = "Ollama"
_LM_STUDIO = "LM Studio"
_VLLM = "vLLM"
_TEI = "text-embeddings-inference"
_COHERE = "Cohere"
_SERVER = "This server"
_ADMIN = "Administration"

_QUERY: dict[str, Any] = {"query": "Is it raining?", "documents": ["The rain falls.", "A dry desert."]}

_PREDICTIONS = (list[tei_scores.TeiPrediction], list[list[tei_scores.TeiPrediction]])

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/v1/embeddings"): Operation(
        _OPENAI,
        (EmbeddingsAnswer, OutputsAnswer),
        embeddings_body.EmbeddingsBody,
        _COMPUTES,
        {"input": "The rain falls."},
        media=_JSON_OR_BYTES,
        cached=True,
    ),
    ("POST", "/v1/multi-vector"): Operation(
        _JINA, OutputsAnswer, embeddings_body.EmbeddingsBody, _COMPUTES, {"input": "The rain falls."}, cached=True
    ),
    ("GET", "/v1/models"): Operation(_OPENAI, ModelsAnswer),
    ("GET", "/v1/models/{name}"): Operation(_OPENAI, ListedModel, errors=(401, 403, 404, 500)),
    ("POST", "/v1/tokenize"): Operation(
        _OPENAI,
        tokenize.TokenizeAnswer,
        tokenize.TokenizeBody,
        _COMPUTES,
        {"input": ["The rain falls."], "ids": True},
    ),
    **{
        ("POST", path): Operation(
            _RERANK,
            (rerank_answer.RerankAnswer, list[tei_scores.TeiRank]),
            (rerank.RerankBody, tei_scores.TeiRerankBody),
            _TEI_COMPUTES,
            example,
            cached=True,
            fails=dict.fromkeys(_TEI_COMPUTES, (error, error_formats.TeiError)),
        )
        for path, example, error in (
            ("/v1/rerank", {**_QUERY, "top_n": 1}, error_formats.OpenAIError),
            ("/v2/rerank", _QUERY, error_formats.CohereError),
            ("/rerank", {"query": _QUERY["query"], "texts": _QUERY["documents"]}, error_formats.OpenAIError),
        )
    },
    ("POST", "/pooling"): Operation(
        _VLLM,
        pooling.PoolingAnswer,
        pooling.PoolingBody,
        _COMPUTES,
        {"input": "The rain falls.", "task": "token_embed"},
        media=_JSON_OR_BYTES,
        cached=True,
    ),
    **{
        ("POST", path): Operation(
            _RERANK,
            (score.ScoreAnswer, score.SglangScoreAnswer),
            score.ScoreBody,
            _COMPUTES,
            {"text_1": "Is it raining?", "text_2": ["The rain falls.", "A dry desert."]},
            cached=True,
        )
        for path in ("/score", "/v1/score")
    },
    **{
        ("POST", path): Operation(
            _CLASSIFY,
            (classify.ClassifyAnswer, classify.InfinityClassifyAnswer),
            classify.ClassifyBody,
            _COMPUTES,
            {"input": ["I like it.", "It broke on the first day."]},
            cached=True,
        )
        for path in ("/classify", "/v1/classify")
    },
    ("POST", "/api/embed"): Operation(
        _OLLAMA,
        ollama_embed.OllamaEmbedAnswer,
        ollama_embed.OllamaEmbedBody,
        _COMPUTES,
        {"input": ["The rain falls.", "A dry desert."]},
        cached=True,
    ),
    ("POST", "/api/embeddings"): Operation(
        _OLLAMA,
        ollama_embed.OllamaEmbeddingsAnswer,
        ollama_embed.OllamaEmbeddingsBody,
        _COMPUTES,
        {"prompt": "The rain falls."},
        cached=True,
    ),
    ("GET", "/api/tags"): Operation(_OLLAMA, ollama_models.OllamaTags),
    ("POST", "/api/show"): Operation(
        _OLLAMA, ollama_models.OllamaShowAnswer, ollama_models.OllamaShowBody, (400, 401, 403, 404, 413, 500)
    ),
    ("GET", "/api/ps"): Operation(_OLLAMA, ollama_models.OllamaProcesses),
    ("GET", "/api/version"): Operation(_OLLAMA, ollama_models.OllamaVersion),
    ("GET", "/api/v0/models"): Operation(_LM_STUDIO, lm_studio.LmStudioModels),
    ("POST", "/api/pull"): Operation(
        _OLLAMA,
        ollama_manage.OllamaProgress,
        ollama_manage.OllamaPullBody,
        _CHANGES,
        media=(responses.JSON_TYPE, ollama_manage.LINES_TYPE),
    ),
    ("DELETE", "/api/delete"): Operation(_OLLAMA, None, ollama_manage.OllamaDeleteBody, _CHANGES, media=("text/plain",)),
    ("POST", "/api/copy"): Operation(_OLLAMA, None, ollama_manage.OllamaCopyBody, _CHANGES, media=("text/plain",)),
    ("POST", "/api/generate"): Operation(
        _OLLAMA, ollama_generate.OllamaGenerateAnswer, ollama_generate.OllamaGenerateBody, _CHANGES
    ),
    ("POST", "/embed"): Operation(
        _TEI, RowsField, tei.TeiEmbedBody, _TEI_COMPUTES, {"inputs": ["The rain falls.", "A dry desert."]}, cached=True
    ),
    ("POST", "/similarity"): Operation(
        _TEI,
        list[float],
        tei.SimilarityBody,
        _TEI_COMPUTES,
        {"inputs": {"source_sentence": "It rains.", "sentences": ["The rain falls.", "A dry desert."]}},
        cached=True,
    ),
    ("POST", "/predict"): Operation(
        _TEI,
        _PREDICTIONS,
        tei_scores.TeiPredictBody,
        _TEI_COMPUTES,
        {"inputs": ["Is it raining?", "The rain falls."]},
        cached=True,
    ),
    ("POST", "/embed_all"): Operation(
        _TEI, list[RowsField], tei_fields.TeiTextsBody, _TEI_COMPUTES, {"inputs": "The rain falls."}, cached=True
    ),
    ("POST", "/embed_sparse"): Operation(
        _TEI,
        list[list[tei_outputs.SparseValue]],
        tei_fields.TeiTextsBody,
        _TEI_COMPUTES,
        {"inputs": "The rain falls."},
        cached=True,
    ),
    ("POST", "/tokenize"): Operation(
        _TEI,
        (list[list[tei_tokens.TeiToken]], tokenize_path.VllmTokens, tokenize_path.LlamaTokens),
        (tei_tokens.TeiTokenizeBody, tokenize_path.VllmTokenizeBody, tokenize_path.LlamaTokenizeBody),
        _TEI_COMPUTES,
        {"inputs": "The rain falls."},
        fails=dict.fromkeys(_TEI_COMPUTES, (error_formats.OpenAIError, error_formats.TeiError)),
    ),
    ("POST", "/decode"): Operation(_TEI, list[str], tei_tokens.TeiDecodeBody, _TEI_COMPUTES, {"ids": [0, 1]}),
    ("POST", "/detokenize"): Operation(
        _TEI,
        tokenize_path.DetokenizeAnswer,
        tokenize_path.DetokenizeBody,
        _COMPUTES,
        {"tokens": [0, 1]},
        fails=dict.fromkeys(_COMPUTES, error_formats.OpenAIError),
    ),
    ("POST", "/"): Operation(
        _TEI,
        (RowsField, list[float], list[tei_scores.TeiRank], *_PREDICTIONS),
        (tei.TeiEmbedBody, tei.SimilarityBody, tei_scores.TeiRerankBody, tei_scores.TeiPredictBody),
        _TEI_COMPUTES,
        {"inputs": "The rain falls."},
        cached=True,
    ),
    ("POST", "/invocations"): Operation(
        _TEI,
        (
            RowsField,
            list[float],
            list[tei_scores.TeiRank],
            *_PREDICTIONS,
            EmbeddingsAnswer,
            OutputsAnswer,
            classify.ClassifyAnswer,
            classify.InfinityClassifyAnswer,
            rerank_answer.RerankAnswer,
        ),
        (
            tei.TeiEmbedBody,
            tei.SimilarityBody,
            tei_scores.TeiRerankBody,
            tei_scores.TeiPredictBody,
            embeddings_body.EmbeddingsBody,
            classify.ClassifyBody,
            rerank.RerankBody,
        ),
        _TEI_COMPUTES,
        {"input": "The rain falls."},
        cached=True,
        fails=dict.fromkeys(_TEI_COMPUTES, (error_formats.OpenAIError, error_formats.TeiError)),
    ),
    ("GET", "/info"): Operation(_TEI, tei_info.TeiInfo, errors=(401, 403, 500, 503)),
    ("POST", "/v2/embed"): Operation(
        _COHERE,
        cohere.CohereEmbedAnswer,
        cohere.CohereEmbedBody,
        _COMPUTES,
        {"texts": ["The rain falls."], "input_type": "search_document", "embedding_types": ["float", "ubinary"]},
        cached=True,
    ),
    ("POST", "/v1/embed"): Operation(
        _COHERE,
        (cohere.CohereFloatsAnswer, cohere.CohereEmbedAnswer),
        cohere.CohereEmbedBody,
        _COMPUTES,
        {"texts": ["The rain falls."]},
        cached=True,
    ),
    ("GET", "/v1"): Operation(_SERVER, base_url.BaseUrlAnswer),
    ("GET", "/health"): Operation(_SERVER, Health, errors=(403, 500), fails={503: Health}),
    ("GET", "/readyz"): Operation(_SERVER, Health, errors=(403, 500), fails={503: Health}),
    ("GET", "/livez"): Operation(_SERVER, LiveAnswer, errors=(403, 500)),
    ("GET", "/metrics"): Operation(_SERVER, None, media=("text/plain",)),
    ("GET", "/"): Operation(_SERVER, None, media=("text/plain", "text/html"), errors=(403, 500)),
    ("GET", "/recipes.json"): Operation(_SERVER, Anything, errors=(403, 500)),
    **{("GET", f"/{name}"): Operation(_SERVER, None, media=("text/css",), errors=(403, 500)) for name in dashboard.STYLES},
    **{
        ("GET", f"/{name}"): Operation(_SERVER, None, media=("text/javascript",), errors=(403, 500))
        for name in dashboard.SCRIPTS
    },
    ("GET", "/v1/status"): Operation(_SERVER, DaemonStatus),
    ("GET", "/v1/status/ending"): Operation(_SERVER, EndingStatus, errors=(400, 401, 403, 500)),
    ("GET", "/openapi.json"): Operation(_SERVER, Anything),
    ("GET", "/docs"): Operation(_SERVER, None, media=("text/html",)),
    ("GET", "/v1/admin"): Operation(_ADMIN, AdminStatus),
    ("POST", "/v1/admin/pause"): Operation(_ADMIN, AdminStatus),
    ("POST", "/v1/admin/resume"): Operation(_ADMIN, AdminStatus),
    ("POST", "/v1/admin/shutdown"): Operation(_ADMIN, AdminStatus),
    ("POST", "/v1/admin/restart"): Operation(_ADMIN, AdminStatus, errors=(401, 403, 409, 500)),
    ("GET", "/v1/admin/models"): Operation(_ADMIN, OwnedModels),
    **{
        ("POST", f"/v1/admin/models/{action}"): Operation(
            _ADMIN, answer, admin_models.ModelBody, _OWNS, status=202 if action == "pull" else 200
        )
        for action, answer in (
            ("pull", PullStatus),
            ("pull/pause", PullStatus),
            ("pull/cancel", PullStatus),
            *((action, OwnedModel) for action in ("load", "unload", "default", "delete")),
        )
    },
    ("GET", "/v1/admin/settings"): Operation(_ADMIN, SettingsStatus, errors=(401, 403, 409, 500)),
    ("POST", "/v1/admin/settings"): Operation(
        _ADMIN, SettingStatus, admin_settings.SettingBody, _OWNS, {"name": "keep_alive", "value": "1h"}
    ),
    ("GET", "/v1/admin/keys"): Operation(_ADMIN, KeysStatus, errors=(401, 403, 409, 500)),
    ("POST", "/v1/admin/keys"): Operation(_ADMIN, NewKey, admin_access.KeyBody, _OWNS, {"name": "notebook"}),
    ("POST", "/v1/admin/keys/delete"): Operation(_ADMIN, KeysStatus, admin_access.KeyBody, _OWNS),
    ("GET", "/v1/admin/aliases"): Operation(_ADMIN, AliasesStatus),
    ("POST", "/v1/admin/aliases"): Operation(_ADMIN, AliasesStatus, admin_names.AliasBody, _OWNS),
    ("GET", "/v1/admin/origins"): Operation(_ADMIN, OriginsStatus),
    ("POST", "/v1/admin/origins"): Operation(
        _ADMIN, OriginsStatus, admin_access.OriginsBody, _OWNS, {"origins": ["https://notes.example"]}
    ),
    ("GET", "/v1/admin/log"): Operation(_ADMIN, LogTail, errors=(400, 401, 403, 500)),
    ("GET", "/v1/admin/cache"): Operation(_ADMIN, CacheStatus),
    ("POST", "/v1/admin/cache/clear"): Operation(
        _ADMIN, admin.ClearAnswer, admin.ClearBody, (400, 401, 403, 404, 413, 500), body_required=False
    ),
}
"""All routes of the server, by method and path."""
