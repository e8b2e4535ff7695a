"""Errors in the format of each dialect, and the dialect of a request.

Formats: the OpenAI API documentation; `gin.H{"error": …}` in Ollama's server/routes.go; `ErrorResponse` in the router of
huggingface/text-embeddings-inference; the API documentation of Cohere and Voyage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal, TypeAlias

import msgspec
from aiohttp import web


@dataclass(frozen=True)
class Problem:
    """An error, before it is put into a dialect's format."""

    status: int
    message: str
    type: str
    code: str | None = None
    param: str | None = None


class OpenAIErrorDetails(msgspec.Struct):
    """The error. `param` names the field, and the index in it, that is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(msgspec.Struct):
    """An error in OpenAI's format, and the message where Voyage's clients look for it."""

    error: OpenAIErrorDetails
    detail: str


class OllamaError(msgspec.Struct):
    """An error in Ollama's format."""

    error: str


TeiErrorType: TypeAlias = Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]


class TeiError(msgspec.Struct):
    """An error in the format of text-embeddings-inference."""

    error: str
    error_type: TeiErrorType


class CohereError(msgspec.Struct):
    """An error in Cohere's format."""

    message: str


ErrorBody: TypeAlias = OpenAIError | OllamaError | TeiError | CohereError
ErrorFormat: TypeAlias = Callable[[Problem], tuple[int, ErrorBody]]
"""Returns the status and the body for a problem."""


def openai(problem: Problem) -> tuple[int, OpenAIError]:
    """Return a problem for clients of OpenAI."""
    details = OpenAIErrorDetails(problem.message, problem.type, problem.param, problem.code)
    return problem.status, OpenAIError(details, problem.message)


def ollama(problem: Problem) -> tuple[int, OllamaError]:
    """Return a problem for clients of Ollama."""
    return problem.status, OllamaError(problem.message)


def cohere(problem: Problem) -> tuple[int, CohereError]:
    """Return a problem for clients of Cohere."""
    return problem.status, CohereError(problem.message)


_TEI_TYPES: dict[int, TeiErrorType] = {
    HTTPStatus.SERVICE_UNAVAILABLE: "Unhealthy",
    HTTPStatus.TOO_MANY_REQUESTS: "Overloaded",
}


def tei(problem: Problem) -> tuple[int, TeiError]:
    """Return a problem for clients of text-embeddings-inference, which has its own statuses."""
    match problem.status, problem.code:
        case HTTPStatus.BAD_REQUEST, "empty_input":
            return HTTPStatus.BAD_REQUEST, TeiError(problem.message, "Empty")
        case HTTPStatus.BAD_REQUEST, "wrong_task":
            return HTTPStatus.FAILED_DEPENDENCY, TeiError(problem.message, "Backend")
        case HTTPStatus.BAD_REQUEST, _:
            return HTTPStatus.UNPROCESSABLE_ENTITY, TeiError(problem.message, "Validation")
        case status, _:
            otherwise: TeiErrorType = "Validation" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "Backend"
            return status, TeiError(problem.message, _TEI_TYPES.get(status, otherwise))


Dialect: TypeAlias = Literal["openai", "ollama", "tei", "cohere"]
ERROR_FORMATS: dict[Dialect, ErrorFormat] = {"openai": openai, "ollama": ollama, "tei": tei, "cohere": cohere}

DIALECT: web.RequestKey[Dialect] = web.RequestKey("dialect")
"""Set by the handler of a path that several dialects share."""
_TEI_PATHS = frozenset(
    {"/embed", "/embed_all", "/embed_sparse", "/similarity", "/predict", "/info", "/tokenize", "/decode", "/invocations"}
)
_COHERE_PATHS = frozenset({"/v1/embed"})


def dialect_of(method: str, path: str) -> Dialect:
    """Return the dialect of a path; OpenAI's if it is in none."""
    if path.startswith("/api/") and not path.startswith("/api/v0/"):  # that is LM Studio's, which speaks OpenAI's dialect
        return "ollama"
    if path in _TEI_PATHS or (method, path) == ("POST", "/"):
        return "tei"
    if path.startswith("/v2/") or path in _COHERE_PATHS:
        return "cohere"
    return "openai"


def error_format_of(request: web.BaseRequest) -> ErrorFormat:
    """Return the error format for a request."""
    return ERROR_FORMATS[request.get(DIALECT) or dialect_of(request.method, request.path)]
