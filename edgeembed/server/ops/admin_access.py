"""Routes for the daemon's owner about who may use it: API keys, and the origins of web pages and apps."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets

import msgspec
from aiohttp import web

from edgeembed.common.admin_status import KeysStatus, KeyStatus, NewKey, OriginsStatus
from edgeembed.common.files import expanded
from edgeembed.config.file import remove_setting, write_setting
from edgeembed.config.secrets import add_key, read_key_file, remove_key
from edgeembed.errors import ConfigError, ConflictError, ModelNotFoundError, RequestError, quoted
from edgeembed.server.address import is_local
from edgeembed.server.api_keys import DEFAULT_NAME, Keys
from edgeembed.server.app_keys import ACCESS
from edgeembed.server.auth import DESKTOP_APPS, origins_of
from edgeembed.server.body import BodyType, read_body
from edgeembed.server.live_settings import LIVE, LiveSettings
from edgeembed.server.owner import owned
from edgeembed.server.responses import struct_response

log = logging.getLogger(__name__)

KEY_FILE = "api-keys"
"""Beside config.toml, for keys that are made here when no setting names a file."""
_KEY_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9 ._@-]{0,62}[A-Za-z0-9._@-])?")
_ORIGIN = re.compile(r"[A-Za-z*][A-Za-z0-9+.*-]*://[^\s/,?#@]+|\*")
_FIRST = (
    "this is the first API key: from now on every request needs one, this page and programs of this machine, too. Copy it "
    "now; it is not shown again"
)
_LAST = "no API key is left: programs of this machine, and this page, need none"


class KeyBody(msgspec.Struct):
    """The name of an API key, by which the log calls who uses it."""

    name: str


class OriginsBody(msgspec.Struct):
    """The origins of web pages that may use the server, in place of those before; `*` stands for any characters."""

    origins: list[str]
    desktop_apps: bool | None = None
    """Whether apps that are made of web pages may, too; null leaves that as it is."""


_KEY = BodyType(KeyBody, {})
_ORIGINS = BodyType(OriginsBody, {})


def add_to(app: web.Application) -> None:
    """Add the routes to an application."""
    app.add_routes(
        [
            web.get("/v1/admin/keys", owned(show_keys)),
            web.post("/v1/admin/keys", owned(make_key)),
            web.post("/v1/admin/keys/delete", owned(delete_key)),
            web.get("/v1/admin/origins", owned(show_origins)),
            web.post("/v1/admin/origins", owned(set_origins)),
        ]
    )


# --- API keys ---------------------------------------------------------------------------------------------------------


async def show_keys(request: web.Request) -> web.Response:
    """List the API keys by name, and where each comes from. The keys themselves are never shown."""
    return struct_response(await asyncio.to_thread(_describe_keys, request.app[LIVE]))


async def make_key(request: web.Request) -> web.Response:
    """Make an API key, which is in effect at once, and return it; it is not shown again.

    It is written to the file of the setting api_key_file or, if there is none, to a new one beside config.toml that only its
    owner can read. The first key locks the server: every request needs one from then on.
    """
    name, live = (await read_body(request, _KEY)).name, request.app[LIVE]
    if not _KEY_NAME.fullmatch(name):
        raise RequestError(
            f"the name {quoted(name)} is invalid: expected letters, digits, spaces, '.', '_', '@' and '-', 64 at most",
            param="name",
        )
    async with live.changing:
        first = not request.app[ACCESS].keys
        key = await asyncio.to_thread(_add, live, name)
        _use_keys(request.app)
    log.info("an API key was added over HTTP")
    return struct_response(NewKey(name=name, key=key, note=_FIRST if first else None))


async def delete_key(request: web.Request) -> web.Response:
    """Remove an API key of the key file; requests with it are refused at once."""
    name, live = (await read_body(request, _KEY)).name, request.app[LIVE]
    async with live.changing:
        await asyncio.to_thread(_remove, live, name)
        _use_keys(request.app)
    log.info("an API key was removed over HTTP")
    left = await asyncio.to_thread(_describe_keys, live)
    return struct_response(msgspec.structs.replace(left, note=None if left.keys else _LAST))


def _describe_keys(live: LiveSettings) -> KeysStatus:
    settings, found = live.settings, []
    if settings.api_key is not None:
        found.append(KeyStatus(name=DEFAULT_NAME, source=f"the setting api_key ({live.source('api_key')})", removable=False))
    if settings.api_key_file is not None:
        file = expanded(settings.api_key_file)
        found += [KeyStatus(name=name, source=str(file), removable=True) for name, _ in _read(settings.api_key_file)]
    return KeysStatus(keys=tuple(found))


def _read(file: str) -> list[tuple[str, str]]:
    try:
        return read_key_file(file)
    except ConfigError as error:
        raise ConflictError(error.message) from None


def _add(live: LiveSettings, name: str) -> str:
    """Write a new key, and return it. Raises ConflictError."""
    settings, config = live.settings, live.paths.config_file
    names = [each.name.lower() for each in _describe_keys(live).keys]
    if name.lower() in (*names, DEFAULT_NAME):
        raise ConflictError(f"there is an API key named {quoted(name)} already; choose another name", param="name")
    file = settings.api_key_file or str(config.parent / KEY_FILE)
    if settings.api_key_file is None and expanded(file).exists():
        raise ConflictError(
            f"{file} is left from before, and no setting names it: its keys would be valid again. Remove it on the server's "
            f"machine, or use it: edgeembed config set api_key_file {file}"
        )
    key = secrets.token_urlsafe(32)
    try:
        add_key(file, name, key)
        if settings.api_key_file is None:
            write_setting(config, "api_key_file", file)
            live.adopt("api_key_file", file)
    except ConfigError as error:
        raise ConflictError(error.message) from None
    return key


def _remove(live: LiveSettings, name: str) -> None:
    """Remove a key from its file, and the file with the last one. Raises ModelNotFoundError, ConflictError."""
    settings, file = live.settings, live.settings.api_key_file
    if settings.api_key is not None and name == DEFAULT_NAME:
        raise ConflictError(f"it is the setting api_key ({live.source('api_key')}); change it there", param="name")
    known = [each for each, _ in _read(file)] if file else []
    if file is None or name not in known:
        raise ModelNotFoundError(f"there is no API key named {quoted(name)}", param="name")
    try:
        if len(known) > 1:
            remove_key(file, name)
            return
        ours = live.paths.config_file.parent / KEY_FILE
        if live.is_hidden("api_key_file") or expanded(file) != ours:  # only a file that was made here is removed here
            raise ConflictError(
                f"it is the last key in {file}, which the setting api_key_file ({live.source('api_key_file')}) names; make "
                "another one first, or remove that setting",
                param="name",
            )
        if settings.api_key is None and not (settings.no_auth or is_local(settings)):
            raise ConflictError(
                f"it is the last key, and other machines can reach {settings.host}: without a key, everybody could use this "
                "server. Make another one first",
                param="name",
            )
        remove_setting(live.paths.config_file, "api_key_file")
        live.adopt("api_key_file", None, written=False)
        ours.unlink(missing_ok=True)
    except OSError as error:
        raise ConflictError(f"{file} cannot be removed: {error.strerror}") from error
    except ConfigError as error:
        raise ConflictError(error.message) from None


def _use_keys(app: web.Application) -> None:
    """Let the keys of the settings take effect. The check of the Host goes on if it was on: a page may have the key now."""
    settings, access = app[LIVE].settings, app[ACCESS]
    access.keys = Keys.read(settings.api_key, settings.api_key_file)
    access.check_host = access.check_host or not access.keys


# --- origins ----------------------------------------------------------------------------------------------------------


async def show_origins(request: web.Request) -> web.Response:
    """List the origins of web pages and apps that may use the server, which none of them may administer."""
    return struct_response(_describe_origins(request.app[LIVE]))


async def set_origins(request: web.Request) -> web.Response:
    """Set the origins of web pages that may use the server, at once and in config.toml."""
    body, live = await read_body(request, _ORIGINS), request.app[LIVE]
    origins = tuple(dict.fromkeys(each.strip().rstrip("/") for each in body.origins))
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise RequestError(
                f"{quoted(origin)} is no origin: expected scheme, host and port, such as https://notes.example or "
                "http://localhost:3000",
                param="origins",
            )
    changed: dict[str, object] = {"allowed_origins": origins}
    if body.desktop_apps is not None:
        changed["allow_desktop_apps"] = body.desktop_apps
    async with live.changing:
        try:
            for name, value in changed.items():
                await asyncio.to_thread(write_setting, live.paths.config_file, name, value)
                live.adopt(name, value)
        except ConfigError as error:
            raise ConflictError(error.message) from None
        finally:
            request.app[ACCESS].origins = origins_of(live.settings)
    log.info("allowed_origins was changed over HTTP")
    notes = [note for name in changed if (note := live.hidden_note(name))]
    return struct_response(msgspec.structs.replace(_describe_origins(live), note="; ".join(notes) or None))


def _describe_origins(live: LiveSettings) -> OriginsStatus:
    settings = live.settings
    return OriginsStatus(
        origins=settings.allowed_origins, desktop_apps=settings.allow_desktop_apps, desktop_app_origins=DESKTOP_APPS
    )
