"""Routes for the daemon's owner about settings: what is in effect and why, and changes of config.toml."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import msgspec
from aiohttp import web
from msgspec.structs import replace

from edgeembed.cache.redis_client import require_package
from edgeembed.common.admin_status import SettingsStatus, SettingStatus
from edgeembed.config.file import read_config, remove_setting, write_setting
from edgeembed.config.secrets import SECRET_KINDS, kind_of
from edgeembed.config.settings import Settings
from edgeembed.config.values import check_value, did_you_mean
from edgeembed.errors import ConfigError, ConflictError, ForbiddenError, RequestError, UnknownModelError, quoted
from edgeembed.hub.named import check_models, names_file
from edgeembed.server.address import check_address, make_tls, read_keys
from edgeembed.server.app_keys import ACCESS, SERVICE
from edgeembed.server.auth import origins_of
from edgeembed.server.body import BodyType, read_body
from edgeembed.server.live_settings import LIVE, LiveSettings
from edgeembed.server.model_manager import MANAGER
from edgeembed.server.owner import may_change_machine, owned
from edgeembed.server.responses import struct_response

log = logging.getLogger(__name__)

_KINDS = {"duration": "duration", "base URL": "URL", "API key": "secret", "cache URL": "secret", "file": "file"}
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "text"}
AT_ONCE = ("aliases", "allowed_origins", "allow_desktop_apps", "log_level")
"""Settings that take effect without a restart."""
_MODELS = ("model", "preload", "pin", "aliases", "upstream_fallback")
_CHECKED_AT_START = ("host", "port", "uds", "no_auth", "api_key", "api_key_file", "certfile", "keyfile", "cache_url")
_PROTECTING = ("host", "no_auth", "allowed_hosts", "sandbox")
_FIELDS = {field.name: field for field in msgspec.structs.fields(Settings)}


class SettingBody(msgspec.Struct):
    """A setting and its value, as config.toml or the command line has it; null removes it from config.toml."""

    name: str
    value: Any


_SETTING = BodyType(SettingBody, {})


def add_to(app: web.Application) -> None:
    """Add the routes to an application."""
    app.add_routes(
        [web.get("/v1/admin/settings", owned(show_settings)), web.post("/v1/admin/settings", owned(change_setting))]
    )


async def show_settings(request: web.Request) -> web.Response:
    """List all settings: the value in effect, where it comes from, and whether a restart would change it. No secrets."""
    return struct_response(await _describe(request.app))


async def change_setting(request: web.Request) -> web.Response:
    """Write one setting to config.toml, or remove it from there.

    The value is checked as the command line checks it. A 409 says why the daemon would not start with it. What a restart
    changes is in the answer, as `restart_needed`.
    """
    body, live = await read_body(request, _SETTING), request.app[LIVE]
    if body.name not in _FIELDS:
        raise RequestError(f"unknown setting {quoted(body.name)}.{did_you_mean(body.name, [*_FIELDS])}", param="name")
    value = None if body.value is None else _checked(body.name, body.value, live)
    if _is_matter_of_machine(body.name, value) and not may_change_machine(request):
        raise ForbiddenError(
            f"{body.name} names files or other servers, holds a secret, or protects the server's machine: over HTTP it is "
            f"changed from that machine only, and with an API key. On its terminal: edgeembed config set {body.name} VALUE"
        )
    async with live.changing:
        value, notes = await asyncio.to_thread(_write, live, body.name, value)
        if body.name in AT_ONCE:
            _apply(request.app, body.name, value)
    log.info("the setting %s was %s over HTTP", body.name, "removed" if value is None else "changed")
    settings = (await _describe(request.app)).settings
    changed = next(each for each in settings if each.name == body.name)
    if hidden := live.hidden_note(body.name):
        notes.append(hidden)
    return struct_response(replace(changed, note="; ".join(notes) or None))


def _is_matter_of_machine(name: str, value: Any) -> bool:
    """Return whether a change is neither for everybody who has an API key, nor for every user of the machine.

    They could have the daemon read and write files as the user who runs it, or send all texts elsewhere.
    """
    if name in _PROTECTING or kind_of(_FIELDS[name]) in ("file", "base URL", *SECRET_KINDS):
        return True
    if name not in _MODELS or value is None:
        return False
    models = [value] if isinstance(value, str) else value.values() if isinstance(value, dict) else value
    return any(map(names_file, models))


def _checked(name: str, value: Any, live: LiveSettings) -> Any:
    """Return a value as the settings have it. Raises RequestError."""
    try:
        return check_value(name, value, "default", live.paths.config_file)
    except ConfigError as error:
        raise RequestError(error.message, param="value") from None  # the cause of a bad secret shows it


def require_startable(live: LiveSettings) -> None:
    """Raise ConflictError if the daemon would not start with what config.toml has now."""
    try:
        after = _next(live)
        _check_start(after, live)
        if after.model != live.settings.model:
            check_models("model", after.model, after, live.paths)
    except (ConfigError, UnknownModelError) as error:
        raise ConflictError(f"the daemon would not start again: {error.message}") from None


def _check_start(after: Settings, live: LiveSettings) -> None:
    """Raise ConfigError if keys, certificates, the address or a missing package keep the daemon from starting."""
    read_keys(after)
    make_tls(after)
    if after.cache_url:
        require_package()
    check_address(after, live.settings)


def _write(live: LiveSettings, name: str, value: Any) -> tuple[Any, list[str]]:
    """Change config.toml; return the value as it is written, and what the owner should know.

    Raises ConflictError if the daemon would not start with it, or if the file cannot be changed; RequestError for a model
    that exists nowhere.
    """
    file = live.paths.config_file
    try:
        after = _next(live)
        value, notes = check_models(name, value, after, live.paths)
        if not live.is_hidden(name):
            after = replace(after, **{name: _default(name) if value is None else value})
        if name in _CHECKED_AT_START:
            _check_start(after, live)
        if value is None:
            remove_setting(file, name)
        else:
            write_setting(file, name, value)
    except UnknownModelError as error:
        raise RequestError(error.message, param="value") from None
    except ConfigError as error:
        raise ConflictError(error.message, param="name") from None
    return value, notes


def _apply(app: web.Application, name: str, value: Any) -> None:
    """Let a setting take effect at once."""
    live = app[LIVE]
    if live.is_hidden(name):
        return
    in_effect = _default(name) if value is None else value
    live.adopt(name, in_effect, written=value is not None)
    if name == "log_level":
        logging.getLogger("edgeembed").setLevel(in_effect.upper())
    elif name == "aliases":
        app[MANAGER].take_aliases(in_effect)
    else:
        app[ACCESS].origins = origins_of(live.settings)


async def _describe(app: web.Application) -> SettingsStatus:
    live = app[LIVE]
    default = app[SERVICE].registry.default
    try:
        written = await asyncio.to_thread(read_config, live.paths.config_file)
        after = _next(live, written)
    except ConfigError as error:  # somebody edits the file
        raise ConflictError(error.message) from None
    found = [_setting(name, live, written, after) for name in _FIELDS]
    if default is not None and live.settings.model is None and after.model in (default.spec, str(default.path)):
        # The first start chose the default model, and wrote it down.
        found = [replace(each, restart_needed=False) if each.name == "model" else each for each in found]
    return SettingsStatus(
        file=str(live.paths.config_file),
        restart_needed=any(each.restart_needed for each in found),
        settings=tuple(found),
    )


def _next(live: LiveSettings, written: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings that a restart would have, as far as config.toml decides. Raises ConfigError."""
    file = live.paths.config_file
    written = read_config(file) if written is None else written
    changes = {
        name: check_value(name, written[name], "config.toml", file) if name in written else _default(name)
        for name in _FIELDS
        if not live.is_hidden(name)
    }
    return replace(live.settings, **changes)


def _default(name: str) -> Any:
    field = _FIELDS[name]
    return field.default_factory() if field.default is msgspec.NODEFAULT else field.default


def _setting(name: str, live: LiveSettings, written: Mapping[str, Any], after: Settings) -> SettingStatus:
    meta: msgspec.Meta = get_args(_FIELDS[name].type)[1]
    value, default = getattr(live.settings, name), _default(name)
    secret = kind_of(_FIELDS[name]) in SECRET_KINDS
    kind, choices = _kind(name)
    own = written.get(name)
    if own is not None and not secret:
        with contextlib.suppress(ConfigError):
            own = check_value(name, own, "config.toml", live.paths.config_file)
    return SettingStatus(
        name=name,
        value=None if secret else value,
        default=default,
        source=live.source(name),
        written=None if secret else own,
        restart_needed=getattr(after, name) != value,
        description=meta.description or "",
        kind=kind,
        choices=choices,
        minimum=_first(meta.ge, meta.gt),
        maximum=_first(meta.le, meta.lt),
        secret=secret,
        is_set=value != default,
        note=live.hidden_note(name) if name in written else None,
    )


def _first(*bounds: float | None) -> float | None:
    return next((bound for bound in bounds if bound is not None), None)


def _kind(name: str) -> tuple[str, tuple[str, ...] | None]:
    """Return what a setting's values are, in a word, and those that it may have, if they are few."""
    type_, default = get_args(_FIELDS[name].type)[0], _default(name)
    if isinstance(default, dict):
        return "table", None
    if isinstance(default, tuple):
        return "list", None
    if (kind := kind_of(_FIELDS[name])) is not None:
        return _KINDS[kind], None
    if get_origin(type_) is Literal:
        return "choice", get_args(type_)
    return _TYPES.get(type_, "text"), None
