"""Routes for the daemon's owner about aliases: other names for models."""

from __future__ import annotations

import msgspec
from aiohttp import web

from edgeembed.common.admin_status import AliasesStatus
from edgeembed.errors import ConfigError, ConflictError, ModelNotFoundError, quoted
from edgeembed.server.app_keys import SERVICE
from edgeembed.server.body import BodyType, read_body
from edgeembed.server.model_manager import MANAGER
from edgeembed.server.owner import owned
from edgeembed.server.responses import struct_response


class AliasBody(msgspec.Struct):
    """A name, and the model that it is to mean, which may end in :query or :document; null removes the name."""

    name: str
    model: str | None


_ALIAS = BodyType(AliasBody, {})


def add_to(app: web.Application) -> None:
    """Add the routes to an application."""
    app.add_routes([web.get("/v1/admin/aliases", owned(show_aliases)), web.post("/v1/admin/aliases", owned(set_alias))])


async def show_aliases(request: web.Request) -> web.Response:
    """List the aliases, and what they mean."""
    return struct_response(AliasesStatus(aliases=request.app[MANAGER].aliases))


async def set_alias(request: web.Request) -> web.Response:
    """Add, change or remove an alias, at once and in config.toml."""
    body, manager = await read_body(request, _ALIAS), request.app[MANAGER]
    registry = request.app[SERVICE].registry
    if body.model is None and not registry.is_alias(body.name):
        raise ModelNotFoundError(f"there is no alias {quoted(body.name)}", param="name")
    try:
        if body.model is None:
            await manager.remove_alias(body.name)
        else:
            target = None if registry.is_alias(body.model) else await registry.look_up(body.model)
            if target is None:
                raise ModelNotFoundError(
                    f"no model {quoted(body.model)} is installed; an alias stands for a model, not for another alias",
                    param="model",
                )
            await manager.add_alias(body.name, target)
    except ConfigError as error:
        raise ConflictError(error.message) from None
    return struct_response(AliasesStatus(aliases=manager.aliases))
