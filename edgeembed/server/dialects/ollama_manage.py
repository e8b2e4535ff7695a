"""Ollama's routes that change what is installed: /api/pull, /api/delete, /api/copy. They are for the server's owner.

Reference: `PullHandler`, `DeleteHandler` and `CopyHandler` in server/routes.go of ollama/ollama.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import msgspec
from aiohttp import hdrs, web
from msgspec import UNSET, Meta, UnsetType

from edgeembed.common.pull_lines import PullLine
from edgeembed.errors import HubError, ModelNotFoundError, RequestError, quoted
from edgeembed.models.registry import ModelRegistry
from edgeembed.server.app_keys import SERVICE
from edgeembed.server.body import BodyType, read_body
from edgeembed.server.dialects.ollama_fields import NameField, OldNameField, find_target
from edgeembed.server.error_formats import OllamaError
from edgeembed.server.model_manager import MANAGER, ModelManager, bare_name, pull_spec
from edgeembed.server.owner import require_owner
from edgeembed.server.responses import PartedResponse, struct_response

LINES_TYPE = "application/x-ndjson"


class OllamaPullBody(msgspec.Struct):
    """The model to install: a name of the catalogue, or hf.co/OWNER/REPOSITORY, with :TYPE if needed."""

    model: NameField = None
    name: OldNameField = None
    stream: Annotated[bool | None, Meta(description="Whether to send progress, one JSON object per line.")] = None
    insecure: Annotated[bool | None, Meta(description="It has no effect: downloads are always checked.")] = None


class OllamaProgress(msgspec.Struct):
    """Progress: a status for people and, during a download, its name in `digest`. The last status is success."""

    status: str
    digest: str | UnsetType = UNSET
    total: int | UnsetType = UNSET
    completed: int | UnsetType = UNSET


class OllamaDeleteBody(msgspec.Struct):
    """The model to remove, or the alias."""

    model: NameField = None
    name: OldNameField = None


class OllamaCopyBody(msgspec.Struct):
    """A model, and one more name for it."""

    source: NameField = None
    destination: Annotated[str | None, Meta(description="The new name.")] = None


_PULL = BodyType(OllamaPullBody, {})
_DELETE = BodyType(OllamaDeleteBody, {})
_COPY = BodyType(OllamaCopyBody, {})
_SUCCESS = OllamaProgress("success")


def add_to(app: web.Application, manager: ModelManager) -> None:
    """Add the routes to an application."""

    async def close(_app: web.Application) -> None:
        await manager.close()

    app[MANAGER] = manager
    app.on_shutdown.append(close)
    app.add_routes(
        [web.post("/api/pull", pull), web.delete("/api/delete", delete), web.post("/api/copy", copy)],
    )


async def pull(request: web.Request) -> web.StreamResponse:
    """Install a model, as edgeembed pull does; one that is installed is a success at once.

    The pull ends when the client disconnects; another one resumes its download. Clients that pull the same model share one
    pull. Only for the server's owner, unless the model is installed.
    """
    body = await read_body(request, _PULL)
    given = _name(body)
    if await _is_installed(request, given):
        return _whole(body, OllamaProgress("pulling manifest"), _SUCCESS)
    require_owner(request)
    lines = request.app[MANAGER].pulls.follow(pull_spec(given))
    line = await anext(lines)
    if not line.error and body.stream is not False:
        return PartedResponse(_parts(request, line, lines), {hdrs.CONTENT_TYPE: LINES_TYPE})
    async with aclosing(lines):
        while not _is_result(line):
            line = await anext(lines)
    await _finish(request, line)
    return struct_response(_SUCCESS)


async def delete(request: web.Request) -> web.Response:
    """Remove an installed model, as edgeembed rm does, or an alias. Only for the server's owner."""
    require_owner(request)
    body = await read_body(request, _DELETE)
    given = _name(body)
    target = await find_target(request, given)
    if alias := _alias(request, given):
        await request.app[MANAGER].remove_alias(alias)
    elif target.suffix:
        raise RequestError(f"{quoted(given)} is a way to use {target.model.name!r}, and no model of its own", param="model")
    else:
        await request.app[MANAGER].remove(target.model)
    return web.Response(text="")


async def copy(request: web.Request) -> web.Response:
    """Add one more name for a model, an alias in config.toml. Only for the server's owner."""
    require_owner(request)
    body = await read_body(request, _COPY)
    if not body.destination:
        raise RequestError('destination "" is invalid: expected a name', param="destination")
    target = await find_target(request, body.source)
    await request.app[MANAGER].add_alias(bare_name(body.destination), target)
    return web.Response(text="")


async def _parts(request: web.Request, line: PullLine, lines: AsyncGenerator[PullLine, None]) -> AsyncGenerator[bytes, None]:
    """Yield progress as it comes, each part on a line; an error is the last line. line: the first one, which was read."""
    async with aclosing(lines):
        yield _line(OllamaProgress("pulling manifest"))
        while not _is_result(line):
            yield _line(_progress(line))
            line = await anext(lines)
        try:
            await _finish(request, line)
        except (HubError, ModelNotFoundError) as error:
            yield _line(OllamaError(error.message))
        else:
            yield _line(OllamaProgress(f"installed as {line.installed}")) + _line(_SUCCESS)


async def _finish(request: web.Request, result: PullLine) -> None:
    """Make a pulled model known. Raises ModelNotFoundError, HubError if it was not installed."""
    if result.unknown:
        raise ModelNotFoundError(f"pull model manifest: file does not exist: {result.error}", param="model")
    if result.error:
        raise HubError(result.error)
    registry = request.app[SERVICE].registry
    registry.mark_stale()
    await registry.refresh()


def _whole(body: OllamaPullBody, *progress: OllamaProgress) -> web.Response:
    """Return progress that is known already, with the last part alone if the client wants no stream."""
    if body.stream is False:
        return struct_response(progress[-1])
    return web.Response(body=b"".join(map(_line, progress)), content_type=LINES_TYPE)


async def _is_installed(request: web.Request, given: str) -> bool:
    try:
        target = await find_target(request, given)
    except ModelNotFoundError:
        return False
    return await request.app[MANAGER].is_sound(target.model)


def _name(body: OllamaPullBody | OllamaDeleteBody) -> str:
    if given := body.model or body.name:
        return given
    raise RequestError("model is required: expected a name", param="model")


def _alias(request: web.Request, given: str) -> str | None:
    """Return the alias that a name is; None if it is none."""
    registry: ModelRegistry = request.app[SERVICE].registry
    return next((name for name in (given, bare_name(given)) if registry.is_alias(name)), None)


def _is_result(line: PullLine) -> bool:
    return bool(line.installed or line.error)


def _progress(line: PullLine) -> OllamaProgress:
    if not line.what:
        return OllamaProgress(line.message)
    # Clients show one bar for each digest, and its status beside it.
    return OllamaProgress(f"pulling: {line.what}", line.what, line.total, line.done)


def _line(part: OllamaProgress | OllamaError) -> bytes:
    return msgspec.json.encode(part) + b"\n"
