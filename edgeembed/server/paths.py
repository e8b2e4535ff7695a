"""Paths: which spellings of a path mean one of our routes, and what to tell a client whose path means none.

Clients join a base URL and a route in many ways: with two slashes or one at the end, with `/v1` twice or not at all, or the
base URL is already the route. Such a path is replaced by the route's own, once, ahead of everything that reads it: access,
the fast path, routing, counts, formats of errors, forwarding. So it is answered exactly as the route's own path.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from urllib.parse import quote, unquote

from aiohttp import web

from edgeembed.server.aiohttp_internals import wrap_urls
from edgeembed.server.error_formats import Dialect, dialect_of

BASE = "/v1"
ALTERNATIVES: Mapping[str, str] = {
    "/embeddings": "/v1/embeddings",  # of infinity, and of a base URL without /v1
    "/models": "/v1/models",
    "/reranking": "/rerank",  # of llama-server, as the next two
    "/v1/reranking": "/v1/rerank",
    "/v1/health": "/health",
    "/api/v0/embeddings": "/v1/embeddings",  # of LM Studio
    "/api/rerank": "/v2/rerank",  # proposed for Ollama; Dify uses it
    "/ping": "/health",  # of text-embeddings-inference, vLLM and SageMaker
}
"""Other servers' names for routes that we have."""

GENERATION = frozenset(
    {
        *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/moderations"),
        *("/v1/images/generations", "/v1/images/edits", "/v1/images/variations"),
        *("/v1/audio/speech", "/v1/audio/transcriptions", "/v1/audio/translations"),
    }
)
"""Well-known routes that this server only forwards."""
_GENERATION_ENDS = frozenset(path.removeprefix(f"{BASE}/") for path in GENERATION)

_MAKES_NO_MODELS = "this server makes no models: edgeembed convert makes one of a checkpoint, and edgeembed pull installs it"
_NOT_OF_OLLAMA: Mapping[str, str] = {
    "chat": "this server computes embeddings; ask an Ollama server for generated text",
    **dict.fromkeys(("create", "push", "blobs"), _MAKES_NO_MODELS),
}
"""Routes of Ollama that this server does not have, below /api, and what it does instead."""
OWN_PATH_ONLY = ("/v1/admin", "/v1/status", "/metrics", "/api/pull", "/api/delete", "/api/copy")
"""Routes without other spellings, as a proxy in front of this server may keep strangers from them by their path."""
_MOST_PARTS = 10
_MODEL = re.compile(r"/+(?:v1/+)*models/(.*[^/])/*", re.DOTALL)

_NAMES: dict[Dialect, str] = {
    "openai": "OpenAI's API",
    "ollama": "Ollama",
    "tei": "text-embeddings-inference",
    "cohere": "Cohere",
}

Parts = tuple[str, ...]


class Spellings:
    """The spellings of an application's routes."""

    def __init__(self, app: web.Application) -> None:
        """Take the application; its routes are read when they are first needed, and all must have been added by then."""
        self._app = app

    @functools.cached_property
    def plain(self) -> frozenset[str]:
        """The routes' own paths, without those that contain a name."""
        return frozenset(one.canonical for one in self._app.router.resources() if "{" not in one.canonical)

    @functools.cached_property
    def _routes(self) -> dict[Parts, str]:
        own = [*self.plain]
        if any(one.canonical == f"{BASE}/{{tail}}" for one in self._app.router.resources()):  # see proxy.py
            own += GENERATION
        routes = {_parts(path): path for path in own}
        others = {path.removeprefix(BASE): path for path in own if path in GENERATION} | dict(ALTERNATIVES)
        for other, path in others.items():
            if path in own:
                routes.setdefault(_parts(other), path)
        return routes

    def meant(self, path: str) -> str | None:
        """Return the own path of the route that a path means, whatever it is spelled like; None if it means none.

        Escapes are no spelling; see `replacement`.
        """
        if found := _MODEL.fullmatch(path):
            name = found[1] if found[1].lower().endswith(".gguf") else found[1].lstrip("/")  # a file's path is a name, too
            return f"{BASE}/models/{name}"
        parts: Parts | None = _parts(path)
        while parts is not None and len(parts) <= _MOST_PARTS:
            if route := self._routes.get(parts):
                return route
            parts = _without_repetition(parts)
        return None

    def replacement(self, path: str) -> str | None:
        """Return the path that takes the place of a request's; None if it stays as it is.

        A route that has its own path only is not found by one with escapes either, which the router would decode.
        """
        if path in self.plain or not path.startswith("/"):
            return None
        if "%" in path and (decoded := unquote(path)) in self.plain and decoded.startswith(OWN_PATH_ONLY):
            return quote(path)
        meant = self.meant(path)
        return None if meant is None or meant == path or meant.startswith(OWN_PATH_ONLY) else meant

    def is_ours(self, path: str) -> bool:
        """Return whether a path means one of our routes, or would with another base URL: nothing to forward."""
        meant = [self.meant(one) for one in (path, path.removeprefix(BASE))]
        return any(one is not None and one not in GENERATION for one in meant)

    def advice(self, method: str, path: str, origin: str) -> tuple[Dialect, str]:
        """Return the dialect that a client speaks whose path means nothing here, and what to tell it.

        origin: scheme, host and port that the client uses.
        """
        parts = _parts(path)[-_MOST_PARTS:]
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            if (route := self.meant(f"/{end}")) is not None:
                dialect = dialect_of(method, route)
                if route.startswith(OWN_PATH_ONLY):
                    return dialect, f"the path is {route}"
                base = base_urls(origin)["openai" if route.startswith(BASE) and dialect != "cohere" else dialect]
                return dialect, f"the base URL for clients of {_NAMES[dialect]} is {base}"
            if end in _GENERATION_ENDS:
                return "openai", (
                    "this server computes embeddings and reranks; to have it pass such requests on to a server that "
                    f"generates, start it with --forward http://HOST:PORT/v1. The base URL for both is then {origin}{BASE}"
                )
        if parts[:1] == ("api",) and (instead := _NOT_OF_OLLAMA.get("".join(parts[1:2]))):
            return "ollama", instead
        bases = ", ".join(f"{base} ({_NAMES[dialect]})" for dialect, base in base_urls(origin).items())
        return dialect_of(method, path), f"base URLs: {bases}. {origin}/docs lists all routes"


SPELLINGS = web.AppKey("spellings", Spellings)


def base_urls(origin: str) -> dict[Dialect, str]:
    """Return the base URL that a client of each dialect takes, for a server at an origin such as http://127.0.0.1:8327."""
    return {"openai": f"{origin}{BASE}", "ollama": origin, "tei": origin, "cohere": origin}


def origin_of(request: web.BaseRequest) -> str:
    """Return scheme, host and port of this server as the client of a request calls it."""
    return f"{request.scheme}://{request.host}"


def install(runner: web.AppRunner) -> None:
    """Replace the paths of a runner's requests; it must be set up. Call this before its first connection."""
    spellings = runner.app[SPELLINGS]
    wrap_urls(runner, spellings.plain, spellings.replacement)


def _parts(path: str) -> Parts:
    return tuple(part for part in path.split("/") if part)


def _without_repetition(parts: Parts) -> Parts | None:
    """Return the parts without the second of the first two equal sequences that follow each other; None without such two."""
    for size in range(1, len(parts) // 2 + 1):
        for start in range(len(parts) - 2 * size + 1):
            middle, end = start + size, start + 2 * size
            if parts[start:middle] == parts[middle:end]:
                return parts[:middle] + parts[end:]
    return None
