"""A model on another server: its identity, and how it is found out."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Callable

from edgeembed.errors import ConfigError, EngineUnavailableError, WrongRowsError
from edgeembed.hub.catalogue import CatalogueEntry
from edgeembed.hub.other_names import meaning
from edgeembed.models.served_model import ServedModel
from edgeembed.upstream.breaker import Breaker
from edgeembed.upstream.client import RefusedError, UnavailableError, UpstreamClient, UpstreamError, UpstreamOptions
from edgeembed.upstream.identity import CANARY_TEXTS, Identity, IdentityStore, ProbeResult, least_cosine
from edgeembed.upstream.order import trial_texts
from edgeembed.upstream.wire import RowEncoding, UpstreamAnswer, context_tokens, own_names

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
        self.faults = 0
        """How often rows of other texts came back. After the first time every text is sent alone, so that its sentinel text
        shows that its row is in its place; after the second time nothing is sent any more."""
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
                    if fault := await self.find_fault(client):
                        self.distrust(fault)
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
                    async with asyncio.timeout(breaker.pause):
                        await stop.wait()
                except TimeoutError:
                    continue

    async def probe(self, client: UpstreamClient, identity: Identity | None = None) -> ProbeResult:
        """Embed the canary texts; everything else is taken from the identity, if given. Raises a subclass of UpstreamError.

        With an identity they are sent in one request, in a random order; otherwise, and to a server that mixed up rows,
        one by one.
        """
        seconds = min(PROBE_SECONDS, self.options.timeout)
        if identity is None:
            return await self._probe_new(client, seconds)
        number, encoding = len(identity.canary_rows), identity.encoding
        order = random.sample(range(number), number)
        sent = [CANARY_TEXTS[place] for place in order]
        if self.faults:
            rows = [(await client.embed(self.model, [text], encoding, seconds=seconds)).rows[0] for text in sent]
        else:
            rows = (await client.embed(self.model, sent, encoding, seconds=seconds)).rows
        return ProbeResult(
            rows=[rows[order.index(place)] for place in range(number)],
            canary_tokens=identity.canary_tokens,
            context_tokens=identity.context_tokens,
            encoding=encoding,
        )

    async def _probe_new(self, client: UpstreamClient, seconds: float) -> ProbeResult:
        encoding: RowEncoding = "base64"
        answers: list[UpstreamAnswer] = []
        for text in CANARY_TEXTS:
            try:
                answers.append(await client.embed(self.model, [text], encoding, seconds=seconds))
            except RefusedError:
                if not answers:
                    encoding = "float"  # some servers refuse base64 instead of answering with floats
                    answers.append(await client.embed(self.model, [text], encoding, seconds=seconds))
                elif text != CANARY_TEXTS[-1]:  # which is too long for the smallest contexts
                    raise
        rows = [answer.rows[0] for answer in answers]
        if len({len(row) for row in rows}) > 1:
            raise UnavailableError("its rows differ in length")
        if len({row.tobytes() for row in rows}) == 1:
            raise UnavailableError("it returns the same row for different texts")
        tokens = [answer.tokens for answer in answers if answer.tokens is not None]
        return ProbeResult(
            rows=rows,
            canary_tokens=tokens if len(tokens) == len(rows) else [],
            context_tokens=await self._context_tokens(client),
            encoding=encoding,
        )

    async def find_fault(self, client: UpstreamClient) -> str | None:
        """Send a request of the largest size twice, in two orders; return how rows are seen to be mixed up, or None.

        `recognise` was called before.
        """
        texts = trial_texts(self.options.most_texts)
        seconds, encoding = min(PROBE_SECONDS, self.options.timeout), self.identity.encoding
        rows = []
        try:
            for order in (texts, random.sample(texts, len(texts))):
                answer = await client.embed(self.model, order, encoding, seconds=seconds)
                rows.append(dict(zip(order, answer.rows, strict=True)))
        except UpstreamError as error:  # it may take fewer texts at a time; the checks of each request go on
            log.info("upstream %s could not be tried with %d texts at a time: %s", self.options.url, len(texts), error)
            return None
        first, second = rows
        if any(least_cosine([first[text]], [second[text]]) < self.options.min_cosine for text in texts):
            return "a text whose row depends on its place"
        return None

    def distrust(self, reason: str) -> WrongRowsError:
        """Record that rows of other texts came back, and return the error for the texts that wait.

        The identity gets another digest: nothing says which of the rows in the cache are right.
        """
        self.faults += 1
        before, self._identity = self.identity, self._identities.renew(self.identity)
        what = "each text is sent alone from now on" if self.faults == 1 else "nothing is sent to it any more"
        log.error(
            "upstream %s returned rows that belong to other texts, as shown by %s: its rows in the cache (%s) are not used "
            "again, and %s. Repair that server, then restart this daemon",
            self.options.url,
            reason,
            before.digest[:12],
            what,
        )
        return WrongRowsError(
            f"upstream {self.options.url} returned rows that belong to other texts; send the request again", retry_after=1.0
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
            other_names=(entry.name, *entry.other_names) if entry else (),
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
    wanted = model.lower()
    if wanted.endswith(".gguf"):  # llama-server's name of a file
        wanted = _TYPE_SUFFIX.sub("", wanted.replace("\\", "/").rpartition("/")[2].removesuffix(".gguf"))
    found = meaning(wanted)
    return found.entry if found is not None and found.entry.task == "embed" else None
