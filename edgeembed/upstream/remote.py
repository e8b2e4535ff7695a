"""A model that another server computes: what is known of it, and the first meeting."""

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
"""What stands where a local file has its quantisation type."""
_TYPE_BEHIND = re.compile(r"[-.](f16|f32|bf16|i?q\d\w*)$")
LOOK_SECONDS = 20.0
"""For the canary texts; a server that takes longer is as good as away."""


class Remote:
    """An upstream model. Everything runs on one event loop."""

    def __init__(self, options: UpstreamOptions, model: str, book: IdentityStore) -> None:
        """Take what the settings say. model: its name, as upstream knows it."""
        self.options = options
        self.model = model
        self.entry = entry_of(model)
        self.changes = 0
        """Times that upstream was found to be another one than before."""
        self.on_change: Callable[[ServedModel], None] = lambda _old: None
        """Told what was served when upstream has changed."""
        self._book = book
        self._identity: Identity | None = None

    @property
    def identity(self) -> Identity:
        """Whose rows upstream gives, by what was seen last."""
        assert self._identity is not None  # it was met
        return self._identity

    async def meet(self, retry_budget: float, stop: asyncio.Event) -> None:
        """Learn whose rows upstream gives; when it is away, whose it gave last. It is waited for when it was never seen.

        retry_budget: seconds to wait; stop: ends the wait. Raises EngineUnavailableError with the reason.
        """
        until = time.monotonic() + retry_budget
        breaker = Breaker()
        async with UpstreamClient(self.options) as client:
            while True:
                try:
                    self.recognise(await self.look(client))
                    return
                except UpstreamError as error:
                    reason = f"upstream {self.options.url}: {error}"
                    if known := self._book.last(self.options.url, self.model):
                        log.warning("%s; rows that it gave before are answered from the cache", reason)
                        self._identity = known
                        return
                    if isinstance(error, RefusedError) or time.monotonic() > until or stop.is_set():
                        raise EngineUnavailableError(
                            f"{reason}; it was never seen, so that nothing can be served"
                        ) from error
                    if breaker.reason is None:
                        log.warning("%s; waiting for it, up to %g s", reason, retry_budget)
                    breaker.failed(str(error))
                try:
                    await asyncio.wait_for(stop.wait(), breaker.pause)
                except TimeoutError:
                    continue

    async def look(self, client: UpstreamClient, known: Identity | None = None) -> ProbeResult:
        """Embed the canary texts. known: what need not be asked again. Raises UpstreamError's kinds."""
        seconds = min(LOOK_SECONDS, self.options.timeout)
        if known is not None:
            texts = CANARY_TEXTS[: len(known.canary_rows)]
            answer = await client.embed(self.model, texts, known.encoding, seconds=seconds)
            return ProbeResult(
                rows=answer.rows,
                rider_tokens=known.rider_tokens,
                context_tokens=known.context_tokens,
                encoding=known.encoding,
            )
        encoding: RowEncoding = "base64"
        try:
            sentinel = await client.embed(self.model, [SENTINEL_TEXT], encoding, seconds=seconds)
        except RefusedError:
            encoding = "float"  # servers there are that refuse base64 instead of answering with floats
            sentinel = await client.embed(self.model, [SENTINEL_TEXT], encoding, seconds=seconds)
        try:
            answer = await client.embed(self.model, CANARY_TEXTS, encoding, seconds=seconds)
        except RefusedError:  # the last one is too long for the smallest contexts
            answer = await client.embed(self.model, CANARY_TEXTS[:-1], encoding, seconds=seconds)
        return ProbeResult(
            rows=answer.rows,
            rider_tokens=sentinel.tokens or 0,
            context_tokens=await self._context_tokens(client),
            encoding=encoding,
        )

    def recognise(self, sight: ProbeResult) -> Identity:
        """Note whose rows upstream gives now, and give it."""
        before = self._identity
        identity, found = self._book.recognise(self.options.url, self.model, sight, self.options.min_cosine)
        self._identity = identity
        if before is not None and before.digest != identity.digest:
            self.changes += 1
            log.warning(
                "upstream %s gives other vectors than before for %s: rows are cached as %s from now on, no more as %s",
                self.options.url,
                self.model,
                identity.digest[:12],
                before.digest[:12],
            )
        elif before is None:
            log.info("upstream's rows are known as %s, cosine %.4f", identity.digest[:12], found)
        return identity

    def served(self) -> ServedModel:
        """Describe the model for requests, with upstream's identity in place of a file's digest."""
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
            mine = described  # of servers with one model, which listen to any name
        found = context_tokens(mine[0]) if mine else 0
        return found or (self.entry.context_tokens if self.entry else 0)


async def only_model(options: UpstreamOptions, book: IdentityStore) -> str:
    """Give the name of the model of an upstream server that has just one; when it is away, that of the last one there.

    Raises ConfigError.
    """
    async with UpstreamClient(options) as client:
        try:
            names = own_names(await client.models())
        except UpstreamError as error:
            if known := book.last(options.url, None):
                return known.model
            raise ConfigError(f"--model must name upstream's model: {options.url} does not list any ({error})") from error
    if len(names) != 1:
        shown = ", ".join(names[:20]) or "none"
        raise ConfigError(f"--model must name one of the models of {options.url}: {shown}")
    return names[0]


def entry_of(model: str) -> CatalogueEntry | None:
    """Find the catalogue's entry of a model by the name that another server has for it: ours, or that of a repository."""
    wanted = model.lower().removesuffix(":latest")
    if wanted.endswith(".gguf"):  # llama-server's name of a file
        wanted = _TYPE_BEHIND.sub("", wanted.replace("\\", "/").rpartition("/")[2].removesuffix(".gguf"))
    for name, entry in catalogue().items():
        repositories = {repository.lower() for repository in _other_names(entry)}
        if wanted in (name, *repositories, *(repository.partition("/")[2] for repository in repositories)):
            return entry if entry.task == "embed" else None
    return None


def _other_names(entry: CatalogueEntry) -> tuple[str, ...]:
    repositories = {source.repo for source in entry.sources if isinstance(source, HubGguf | HubCheckpoint)}
    return (entry.name, *sorted(repositories))
