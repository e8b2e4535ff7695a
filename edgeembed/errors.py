"""The one hierarchy of errors.

Every class carries what a client and a user need: the HTTP status, OpenAI's error `type` and `code`, and the name of the
request field at fault (`param`). The server maps them once, in its error middleware; the command line prints the message and
exits with `exit_code`.

    EdgeEmbedError
    ├── ConfigError                     bad setting, bad flag, busy port
    ├── RequestError                    the client's mistake (4xx)
    │   ├── EmptyInputError
    │   ├── InputTooLongError
    │   ├── TooManyTokensError
    │   ├── TokenInputError
    │   ├── ModelNotFoundError          404
    │   ├── WrongTaskError              a reranker was asked for vectors, or an embedder for scores
    │   ├── RequestTooLargeError        413
    │   ├── ForbiddenError              403: this Host or Origin may not ask
    │   └── UnauthorizedError           401: no key, or a wrong one
    ├── HubError                        a model could not be fetched
    │   ├── UnknownModelError           no such name in the catalogue, no such file
    │   ├── SourceUnreachableError      the line is down: another source may do
    │   └── ChecksumError               what arrived is not what was promised
    ├── ConversionError                 a checkpoint that cannot become a GGUF
    ├── CacheFileError                  a file of queries or cached rows that cannot be used
    ├── ForwardError                    502: the server that a request is passed on to cannot be reached
    │   └── ForwardTimeoutError         504: it is silent
    └── EngineError                     the model could not compute (500)
        ├── EngineUnavailableError      503: restarting, or beyond repair
        │   ├── ModelLoadingError       503: not loaded yet
        │   └── ModelReplacedError      503: its file is another one now; the next request takes that
        ├── OverloadedError             429: too much waits already
        ├── EngineTimeoutError          504: no answer within the request's time
        ├── BadVectorError              NaN, infinite or zero row
        └── WorkerCrashedError          this very text took the worker down, more than once
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BadVectorError",
    "CacheFileError",
    "ChecksumError",
    "ConfigError",
    "ConversionError",
    "EdgeEmbedError",
    "EmptyInputError",
    "EngineError",
    "EngineTimeoutError",
    "EngineUnavailableError",
    "ForbiddenError",
    "ForwardError",
    "ForwardTimeoutError",
    "HubError",
    "InputTooLongError",
    "ModelLoadingError",
    "ModelNotFoundError",
    "ModelReplacedError",
    "OverloadedError",
    "RequestError",
    "RequestTooLargeError",
    "SourceUnreachableError",
    "TokenInputError",
    "TooManyTokensError",
    "UnauthorizedError",
    "UnknownModelError",
    "WorkerCrashedError",
    "WrongTaskError",
]


class EdgeEmbedError(Exception):
    """Base of every error that edgeembed raises on purpose."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        """Seconds after which the same call may succeed; becomes a Retry-After header."""


class ConfigError(EdgeEmbedError):
    """A setting, a flag or the machine's state does not allow what was asked."""

    exit_code = 2


class RequestError(EdgeEmbedError):
    """The request is wrong; sending it again unchanged will fail again."""

    status = 400
    type = "invalid_request_error"
    exit_code = 2


class EmptyInputError(RequestError):
    """An input string is empty."""

    code = "empty_input"


class InputTooLongError(RequestError):
    """A text has more tokens than the model takes.

    `tokens` and `limit` count the model's tokens, special ones included.
    """

    code = "context_length_exceeded"

    def __init__(self, message: str, *, tokens: int, limit: int, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.tokens = tokens
        self.limit = limit


class TooManyTokensError(RequestError):
    """The texts of a request have more tokens together than one request may have."""

    code = "max_tokens_per_request"


class TokenInputError(RequestError):
    """The input is a list of token ids, whose vocabulary nobody named."""

    code = "token_input_unsupported"


class ModelNotFoundError(RequestError):
    """The request names a model that is not served."""

    status = 404
    code = "model_not_found"


class WrongTaskError(RequestError):
    """The request asks a model for work that it was not made for."""

    code = "wrong_task"


class RequestTooLargeError(RequestError):
    """The request's body is larger than the server takes."""

    status = 413
    code = "request_too_large"


class ForbiddenError(RequestError):
    """The request comes by a name or from a web page that may not use this server."""

    status = 403
    code = "forbidden"


class UnauthorizedError(RequestError):
    """The request has no API key, or a wrong one."""

    status = 401
    code = "invalid_api_key"


class HubError(EdgeEmbedError):
    """A model could not be found, fetched or installed."""


class UnknownModelError(HubError):
    """Neither the catalogue nor the disk knows this name."""

    exit_code = 2


class SourceUnreachableError(HubError):
    """A source did not answer, or does not have the file; the next source may."""


class ChecksumError(HubError):
    """The bytes that arrived are not the bytes that the catalogue promises."""


class ConversionError(EdgeEmbedError):
    """A checkpoint that cannot be made into a GGUF file, and why."""


class CacheFileError(EdgeEmbedError):
    """A file of queries or of cached rows is damaged, of another version, or not what it should be."""

    exit_code = 2


class ForwardError(EdgeEmbedError):
    """The server that a request was to be passed on to cannot be reached, or breaks off."""

    status = 502
    code = "bad_gateway"


class ForwardTimeoutError(ForwardError):
    """The server that a request was passed on to has not answered in time."""

    status = 504
    code = "gateway_timeout"


class EngineError(EdgeEmbedError):
    """The model could not compute a vector."""


class EngineUnavailableError(EngineError):
    """No worker can answer now."""

    status = 503
    code = "engine_unavailable"


class ModelLoadingError(EngineUnavailableError):
    """The model was not loaded within the time that a request waits for that."""

    code = "model_loading"


class ModelReplacedError(EngineUnavailableError):
    """The model's file is not the one that requests were meant for."""

    code = "model_replaced"


class OverloadedError(EngineError):
    """The queue is full; nothing of the request was taken."""

    status = 429
    type = "rate_limit_exceeded"
    code = "queue_full"


class EngineTimeoutError(EngineError):
    """The request's time ran out before its vectors were ready."""

    status = 504
    code = "timeout"


class BadVectorError(EngineError):
    """The model gave a row that is not finite, or all zeros; such a row is never served and never cached."""

    code = "bad_vector"


class WorkerCrashedError(EngineError):
    """The worker died more than once while computing this text."""

    code = "worker_crashed"
