"""What the routes of Ollama's dialect share: names, durations, options, and the words that its clients look for in errors.

Reference: docs/api.md, api/types.go and server/routes.go of ollama/ollama. Ollama's NAME:TAG is NAME:TYPE, NAME:query or
NAME:document here, and NAME:latest is NAME.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from typing import Annotated, Any, TypeAlias

from aiohttp import web
from msgspec import Meta

from edgeembed.errors import InputTooLongError, ModelNotFoundError, NoRoomError, RequestError, WrongTaskError, quoted
from edgeembed.hub.other_names import LATEST
from edgeembed.models.registry import ModelRegistry, Target
from edgeembed.server.app_keys import SERVICE

NameField: TypeAlias = Annotated[str | None, Meta(description="The model: any name of GET /api/tags.")]
OldNameField: TypeAlias = Annotated[str | None, Meta(description="The same as model, from older clients.")]
KeepAlive: TypeAlias = Annotated[
    str | float | None,
    Meta(description='A duration such as "5m", or seconds. Negative: keep the model loaded; 0: unload it at once.'),
]
OllamaOptions: TypeAlias = Annotated[
    dict[str, Any] | None,
    Meta(description="Only num_ctx is used: the longest text in tokens. The others are about generating text."),
]


def with_tag(name: str) -> str:
    """Return a name as Ollama writes it, which never leaves out the tag."""
    return name if ":" in name else name + LATEST


async def find_target(request: web.Request, given: str | None) -> Target:
    """Return what a name means, whatever the model's task is. Raises RequestError, ModelNotFoundError."""
    if not given:
        raise RequestError("model is required: expected a name of GET /api/tags", param="model")
    registry: ModelRegistry = request.app[SERVICE].registry
    target = await registry.look_up(given)
    if target is None:
        raise ModelNotFoundError(f"model {quoted(given)} not found; GET /api/tags lists every name", param="model")
    return target


@contextlib.contextmanager
def in_ollamas_words(model: str | None) -> Iterator[None]:
    """Begin the messages of errors with what Ollama says, which its clients look for; the rest says what to do.

    model: the name in the request.
    """
    try:
        yield
    except ModelNotFoundError as error:
        error.message = f"model {quoted(model or '')} not found, try pulling it first: {error.message}"
        raise
    except WrongTaskError as error:
        error.message = f"this model does not support embeddings: {error.message}"
        raise
    except InputTooLongError as error:
        error.message = f"the input length exceeds the context length: {error.message}"
        raise
    except NoRoomError as error:
        error.message = f"input after truncation exceeds maximum context length: {error.message}"
        raise


def as_json_time(moment: datetime.datetime) -> str:
    """Return a time in UTC as Go writes it."""
    return moment.isoformat().replace("+00:00", "Z")
