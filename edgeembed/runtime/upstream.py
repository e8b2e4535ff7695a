"""The upstream server's model and its engine, made from the settings."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.engine.interface import Engine
from edgeembed.errors import UnknownModelError
from edgeembed.hub.install import ensure_installed
from edgeembed.runtime.engines import make_engine

if TYPE_CHECKING:  # they import aiohttp, which commands that compute in their own process do without
    from edgeembed.upstream.client import UpstreamOptions
    from edgeembed.upstream.remote import Remote

log = logging.getLogger(__name__)

UPSTREAM_FILE = "upstream-identities.json"
"""Identities of upstream models, by their vectors of the canary texts."""


async def make_remote(settings: Settings, paths: Paths) -> Remote:
    """Return the upstream server's model. The server is asked only for its name, where the settings have none.

    Raises ConfigError when the settings have to name it.
    """
    from edgeembed.upstream.identity import IdentityStore
    from edgeembed.upstream.remote import Remote, only_model

    options, identities = upstream_options(settings), IdentityStore(paths.state / UPSTREAM_FILE)
    return Remote(options, settings.model or await only_model(options, identities), identities)


def upstream_options(settings: Settings) -> UpstreamOptions:
    """Return the settings about upstream, which must be set."""
    from edgeembed.upstream.client import UpstreamOptions

    assert settings.upstream is not None
    return UpstreamOptions(
        url=settings.upstream,
        key=settings.upstream_key,
        timeout=settings.upstream_timeout,
        wait=settings.upstream_wait,
        most_texts=settings.upstream_texts,
        most_characters=settings.upstream_characters,
        most_requests=settings.upstream_requests,
        check_every=settings.upstream_check,
        min_cosine=settings.upstream_min_cosine,
    )


def make_remote_engine(settings: Settings, paths: Paths, remote: Remote) -> Engine:
    """Return the engine of the upstream server's model, with the local fallback of the settings; nothing starts yet."""
    from edgeembed.upstream.engine import RemoteEngine

    chosen = settings.upstream_fallback
    if chosen == "off":
        return RemoteEngine(remote)

    def local() -> Engine:
        if chosen == "auto" and remote.entry is None:
            raise UnknownModelError(f"the catalogue has no model {remote.model!r}; name one with --upstream-fallback")
        name = remote.entry.name if chosen == "auto" and remote.entry else chosen
        return make_engine(settings, paths, ensure_installed(name, paths=paths, settings=settings, report=log.info))

    return RemoteEngine(remote, local)
