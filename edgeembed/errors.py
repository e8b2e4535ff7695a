"""The exceptions of edgeembed.

Every class carries what clients and users need: the HTTP status, OpenAI's error `type` and `code`, and the request field at
fault (`param`). The server's middleware turns an exception into a response; the command line prints the message and exits
with `exit_code`.

    EdgeEmbedError
    ├── ConfigError                     invalid setting or flag, port in use
    ├── RequestError                    invalid request (4xx)
    │   ├── EmptyInputError
    │   ├── InputTooLongError
    │   ├── NoRoomError                 the limit leaves no room for the text
    │   ├── TooManyTokensError
    │   ├── TokenInputError
    │   ├── ModelNotFoundError          404
    │   ├── ConflictError               409: the owner must change something else first
    │   ├── WrongTaskError              embeddings from a reranker, or scores from an embedder
    │   ├── RequestTooLargeError        413
    │   ├── UnsupportedMediaError       415: compressed or encoded in a way that is not taken
    │   ├── BodyTimeoutError            408: the client sends its body too slowly
    │   ├── ForbiddenError              403: Host or Origin not allowed
    │   └── UnauthorizedError           401: missing or invalid API key
    ├── HubError                        a model could not be found, downloaded or installed
    │   ├── UnknownModelError           no such model or file
    │   ├── SourceUnreachableError      network error; another source may work
    │   ├── ChecksumError               a downloaded file is not the expected one
    │   ├── WrongFrameError             a model file would give wrong results
    │   └── DamagedModelError           an installed file is not what was installed
    ├── ConversionError                 a checkpoint could not be converted
    ├── CacheFileError                  invalid file of queries or cached rows
    ├── ForwardError                    502: the server to forward to cannot be reached
    │   └── ForwardTimeoutError         504: it did not answer in time
    ├── TooManyConnectionsError         503: the server takes no more connections
    └── EngineError                     the model failed to compute (500)
        ├── EngineUnavailableError      503: starting, restarting or failed
        │   ├── ModelLoadingError       503: still loading
        │   ├── ModelReplacedError      503: the model file has changed; the next request uses the new one
        │   ├── DaemonGoneError         503: the daemon that answered before no longer does
        │   └── WrongRowsError          503: an upstream server returned rows of other texts
        ├── OverloadedError             429: the queue is full
        ├── EngineTimeoutError          504: the request's time ran out
        ├── BadVectorError              NaN, infinite or zero row
        └── WorkerCrashedError          the text crashed the worker repeatedly
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BadVectorError",
    "BodyTimeoutError",
    "CacheFileError",
    "ChecksumError",
    "ConfigError",
    "ConflictError",
    "ConversionError",
    "DaemonGoneError",
    "DamagedModelError",
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
    "NoRoomError",
    "OverloadedError",
    "RequestError",
    "RequestTooLargeError",
    "SourceUnreachableError",
    "TokenInputError",
    "TooManyConnectionsError",
    "TooManyTokensError",
    "UnauthorizedError",
    "UnknownModelError",
    "UnsupportedMediaError",
    "WorkerCrashedError",
    "WrongFrameError",
    "WrongRowsError",
    "WrongTaskError",
]

_MOST_QUOTED = 100
"""Characters of a client's word in a message; the longest names of models have about 60."""


def quoted(word: str) -> str:
    """Return a word of the client in quotes, for a message; the end of a long one is left out."""
    return repr(word) if len(word) <= _MOST_QUOTED else f"{word[:_MOST_QUOTED]!r}… ({len(word):,} characters)"


class EdgeEmbedError(Exception):
    """Base class of all exceptions of edgeembed."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        """Seconds after which the same request may succeed; sent as a Retry-After header."""

    def __reduce__(self) -> tuple[object, ...]:
        # Subclasses have other parameters: copies in other processes, as Dask makes them, are made without calling them.
        return type(self).__new__, (type(self), *self.args), self.__dict__


class ConfigError(EdgeEmbedError):
    """A setting or flag is invalid, or the state of the machine does not allow the operation."""

    exit_code = 2


class RequestError(EdgeEmbedError):
    """The request is invalid; repeating it unchanged would fail again."""

    status = 400
    type = "invalid_request_error"
    exit_code = 2


class EmptyInputError(RequestError):
    """An input text is empty."""

    code = "empty_input"


class InputTooLongError(RequestError):
    """A text has more tokens than the model accepts; `tokens` and `limit` include special tokens.

    Both are 0 where a daemon reported the error, which has them in its message only. at_least: it may have more than
    `tokens`, which were not counted to the end.
    """

    code = "context_length_exceeded"

    def __init__(self, message: str, *, tokens: int, limit: int, param: str | None = None, at_least: bool = False) -> None:
        super().__init__(message, param=param)
        self.tokens = tokens
        self.limit = limit
        self.at_least = at_least


class NoRoomError(RequestError):
    """Prompt, query and special tokens take all tokens of the limit, so that a text cannot be cut to fit."""


class TooManyTokensError(RequestError):
    """All texts of a request together have more tokens than allowed."""

    code = "max_tokens_per_request"


class TokenInputError(RequestError):
    """The input is a list of token ids of an unknown vocabulary."""

    code = "token_input_unsupported"


class ModelNotFoundError(RequestError):
    """The request names a model that is not served."""

    status = 404
    code = "model_not_found"


class ConflictError(RequestError):
    """What the owner asks for contradicts the daemon's state or settings; the message says what to change first."""

    status = 409
    code = "conflict"


class WrongTaskError(RequestError):
    """The model does not support this task."""

    code = "wrong_task"


class RequestTooLargeError(RequestError):
    """The request's body is larger than the server accepts."""

    status = 413
    code = "request_too_large"


class UnsupportedMediaError(RequestError):
    """The request's body is compressed, or its characters are encoded, in a way that the server does not take."""

    status = 415
    code = "unsupported_media_type"


class BodyTimeoutError(RequestError):
    """The request's body did not arrive in time."""

    status = 408
    code = "body_timeout"


class ForbiddenError(RequestError):
    """The Host or Origin of the request may not use this server."""

    status = 403
    code = "forbidden"


class UnauthorizedError(RequestError):
    """The request has no API key, or an invalid one."""

    status = 401
    code = "invalid_api_key"


class HubError(EdgeEmbedError):
    """A model could not be found, downloaded or installed."""


class UnknownModelError(HubError):
    """There is no model of this name, in the catalogue or installed, or no such file."""

    exit_code = 2


class SourceUnreachableError(HubError):
    """A source cannot be reached or does not have the file; another source may."""


class ChecksumError(HubError):
    """A downloaded file does not have the expected checksum."""


class WrongFrameError(HubError):
    """A model file can be loaded, but its vectors or scores would be wrong; another source may have a right one."""


class DamagedModelError(HubError):
    """The bytes of a model's file are not those that were installed. `what` is wrong; `advice` is what to do."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(f"{what}. {advice}")
        self.what = what
        self.advice = advice


class ConversionError(EdgeEmbedError):
    """A checkpoint could not be converted to a GGUF file."""


class CacheFileError(EdgeEmbedError):
    """A file of queries or cached rows is damaged, of another version, or of another kind."""

    exit_code = 2


class ForwardError(EdgeEmbedError):
    """The server to forward a request to cannot be reached, or closed the connection."""

    status = 502
    code = "bad_gateway"


class ForwardTimeoutError(ForwardError):
    """The server that a request was forwarded to did not answer in time."""

    status = 504
    code = "gateway_timeout"


class EngineError(EdgeEmbedError):
    """The model failed to compute a vector."""


class EngineUnavailableError(EngineError):
    """No worker is ready to answer."""

    status = 503
    code: ClassVar[str | None] = "engine_unavailable"


class ModelLoadingError(EngineUnavailableError):
    """The model did not finish loading within the time that a request waits for it."""

    code = "model_loading"


class ModelReplacedError(EngineUnavailableError):
    """The model's file was replaced since the request was resolved."""

    code = "model_replaced"


class DaemonGoneError(EngineUnavailableError):
    """The daemon that a client of the same machine uses no longer answers."""

    code = None  # it is no server's answer


class WrongRowsError(EngineUnavailableError):
    """An upstream server returned rows that belong to other texts; none of that answer was used."""

    code = "wrong_rows"


class TooManyConnectionsError(EdgeEmbedError):
    """All connections of the server are in use."""

    status = 503
    code = "too_many_connections"


class OverloadedError(EngineError):
    """The queue is full; no text of the request was accepted."""

    status = 429
    type = "rate_limit_exceeded"
    code = "queue_full"


class EngineTimeoutError(EngineError):
    """The request timed out before its vectors were ready."""

    status = 504
    code = "timeout"


class BadVectorError(EngineError):
    """The model computed a row that is not finite, or all zeros; such rows are never served or cached."""

    code = "bad_vector"


class WorkerCrashedError(EngineError):
    """The worker crashed more than once while computing this text."""

    code = "worker_crashed"
