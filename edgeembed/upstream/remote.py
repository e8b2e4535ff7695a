"""A model on another server: its identity, and how it is found out."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable

from edgeembed.errors import ConfigError, EngineUnavailableError
from edgeembed.hub.catalogue import CatalogueEntry, HubCheckpoint, HubGguf, catalogue
from edgeembed.models.registry import ServedModel
from edgeembed.upstream.breaker import Breaker
from edgeembed.upstream.client import RefusedError, UpstreamClient, UpstreamError, UpstreamOptions
from edgeembed.upstream.identity import CANARY_TEXTS, SENTINEL_TEXT, Identity, IdentityStore, ProbeResult
from edgeembed.upstream.wire import RowEncoding, context_tokens, own_names

log = logging.getLogger(__name__)

REMOTE_TYPE = "remote"
"""Takes the place of a local file's quantisation type."""
_TYPE_SUFFIX = re.compile(r"[-.](f16|f32|bf16|i?q\d\w*)$")
PROBE_SECONDS = 20.0
"""Timeout for the canary texts; a server that takes longer counts as away."""


class Remote:
    """An upstream model. Everything runs on one event loop."""

    def __init__(self, options: UpstreamOptions, model: str, identities: IdentityStore) -> None:
        """Take the settings. model: its name on the upstream server."""
        self.options = options
        self.model = model
        self.entry = entry_of(model)
        self.changes = 0
        """How often upstream was found to serve another model than before."""
        self.on_change: Callable[[ServedModel], None] = lambda _old: None
        """Called with the model served before, when upstream has changed."""
        self._identities = identities
        self._identity: Identity | None = None

    @property
    def identity(self) -> Identity:
        """The identity last seen. `identify` was called before."""
        assert self._identity is not None
        return self._identity

    async def identify(self, retry_budget: float, stop: asyncio.Event) -> None:
        """Find out the identity; while upstream is unavailable, take the last one seen, or wait for it if there is none.

        retry_budget: seconds to wait. stop: ends the wait. Raises EngineUnavailableError with the reason.
        """
        until = time.monotonic() + retry_budget
        breaker = Breaker()
        async with UpstreamClient(self.options) as client:
            while True:
                try:
                    self.recognise(await self.probe(client))
                    return
                except UpstreamError as error:
                    reason = f"upstream {self.options.url}: {error}"
                    if last := self._identities.last(self.options.url, self.model):
                        log.warning("%s; texts that it embedded before are answered from the cache", reason)
                        self._identity = last
                        return
                    if isinstance(error, RefusedError) or time.monotonic() > until or stop.is_set():
                        raise EngineUnavailableError(
                            f"{reason}; it has never been reached, so nothing can be served"
                        ) from error
                    if breaker.reason is None:
                        log.warning("%s; waiting up to %g s for it", reason, retry_budget)
                    breaker.failed(str(error))
                try:
                    await asyncio.wait_for(stop.wait(), breaker.pause)
                except TimeoutError:
                    continue

    async def probe(self, client: UpstreamClient, identity: Identity | None = None) -> ProbeResult:
        """Embed the canary texts; everything else is taken from `identity`, if given. Raises a subclass of UpstreamError."""
        seconds = min(PROBE_SECONDS, self.options.timeout)
        if identity is not None:
            texts = CANARY_TEXTS[: len(identity.canary_rows)]
            answer = await client.embed(self.model, texts, identity.encoding, seconds=seconds)
            return ProbeResult(
                rows=answer.rows,
                sentinel_tokens=identity.sentinel_tokens,
                context_tokens=identity.context_tokens,
                encoding=identity.encoding,
            )
        encoding: RowEncoding = "base64"
        try:
            sentinel = await client.embed(self.model, [SENTINEL_TEXT], encoding, seconds=seconds)
        except RefusedError:
            encoding = "float"  # some servers refuse base64 instead of answering with floats
            sentinel = await client.embed(self.model, [SENTINEL_TEXT], encoding, seconds=seconds)
        try:
            answer = await client.embed(self.model, CANARY_TEXTS, encoding, seconds=seconds)
        except RefusedError:  # the last one is too long for the smallest contexts
            answer = await client.embed(self.model, CANARY_TEXTS[:-1], encoding, seconds=seconds)
        return ProbeResult(
            rows=answer.rows,
            sentinel_tokens=sentinel.tokens or 0,
            context_tokens=await self._context_tokens(client),
            encoding=encoding,
        )

    def recognise(self, result: ProbeResult) -> Identity:
        """Return the identity of a probe result, and keep it as the current one."""
        before = self._identity
        identity, found = self._identities.recognise(self.options.url, self.model, result, self.options.min_cosine)
        self._identity = identity
        if before is not None and before.digest != identity.digest:
            self.changes += 1
            log.warning(
                "upstream %s gives other vectors than before for %s: its rows are now cached as %s instead of %s",
                self.options.url,
                self.model,
                identity.digest[:12],
                before.digest[:12],
            )
        elif before is None:
            log.info("upstream's rows are cached as %s, cosine %.4f", identity.digest[:12], found)
        return identity

    def served(self) -> ServedModel:
        """Return the model as requests see it, with upstream's identity in place of a file's digest."""
        entry = self.entry
        return ServedModel(
            name=self.model,
            digest=self.identity.digest,
            type=REMOTE_TYPE,
            prompts=entry.prompts if entry else None,
            dimensions=self.identity.dimensions,
            matryoshka=entry.matryoshka if entry else None,
            other_names=_other_names(entry) if entry else (),
            upstream=self.options.url,
        )

    async def _context_tokens(self, client: UpstreamClient) -> int:
        try:
            described = await client.models()
        except UpstreamError:  # not every server has that list
            described = []
        mine = [item for item in described if item["id"].lower() == self.model.lower()]
        if not mine and len(described) == 1:
            mine = described  # servers with a single model accept any name
        found = context_tokens(mine[0]) if mine else 0
        return found or (self.entry.context_tokens if self.entry else 0)


async def only_model(options: UpstreamOptions, identities: IdentityStore) -> str:
    """Return the name of the only model of an upstream server; while it is unavailable, that of the last one seen there.

    Raises ConfigError.
    """
    async with UpstreamClient(options) as client:
        try:
            names = own_names(await client.models())
        except UpstreamError as error:
            if last := identities.last(options.url, None):
                return last.model
            raise ConfigError(f"{options.url} does not list its models ({error}); name one with --model") from error
    if not names:
        raise ConfigError(f"{options.url} lists no models; name one with --model")
    if len(names) > 1:
        raise ConfigError(f"{options.url} serves several models; name one with --model: {', '.join(names[:20])}")
    return names[0]


def entry_of(model: str) -> CatalogueEntry | None:
    """Return the catalogue's entry for a model by its name on another server: ours, a repository's or a file's."""
    wanted = model.lower().removesuffix(":latest")
    if wanted.endswith(".gguf"):  # llama-server's name of a file
        wanted = _TYPE_SUFFIX.sub("", wanted.replace("\\", "/").rpartition("/")[2].removesuffix(".gguf"))
    for name, entry in catalogue().items():
        repositories = {repository.lower() for repository in _other_names(entry)}
        if wanted in (name, *repositories, *(repository.partition("/")[2] for repository in repositories)):
            return entry if entry.task == "embed" else None
    return None


def _other_names(entry: CatalogueEntry) -> tuple[str, ...]:
    repositories = {source.repo for source in entry.sources if isinstance(source, HubGguf | HubCheckpoint)}
    return (entry.name, *sorted(repositories))
