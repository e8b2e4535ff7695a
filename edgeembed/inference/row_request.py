"""A request prepared for the pipeline: its model is resolved, its texts are cleaned and keyed."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

import msgspec

from edgeembed.cache import KeyMaker
from edgeembed.engine.interface import DENSE, Output, Text
from edgeembed.engine.text_sizes import tokens_at_most
from edgeembed.errors import (
    EdgeEmbedError,
    EmptyInputError,
    EngineUnavailableError,
    InputTooLongError,
)
from edgeembed.inference.aside import size_of
from edgeembed.inference.requests import CacheUse, ClassifyRequest, EmbedRequest, RerankRequest, place_of
from edgeembed.inference.truncation import Lengths
from edgeembed.models.served_model import ServedModel

RETRY_SECONDS = 5.0
"""After which a client may ask again when the engine cannot answer now, and does not say itself how long that takes."""


class RowRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a request needs from cache and engine, made from `client`, the request as its dialect read it.

    In the request's order: names, which distinguish texts under one prompt; keys, under which the rows of whole texts are
    cached; texts, as the engine takes them. identity: of the prompt, or of a reranker's query; a list with one for each text
    where they differ. kind: what the names are, empty for text. label: the model's label in the cache. frequent: these texts
    will probably be asked for again. most_tokens: limit for all texts together. isolated, outputs: see `Engine.submit`.
    owners: which of the client's texts each is a part of; empty if each is a whole one.
    """

    client: EmbedRequest | RerankRequest | ClassifyRequest
    model: ServedModel
    key_maker: KeyMaker
    label: str
    identity: str | Sequence[str]
    names: Sequence[str]
    keys: Sequence[bytes]
    texts: Sequence[Text]
    kind: str = ""
    interactive: bool = True
    frequent: bool = True
    most_tokens: int | None = None
    isolated: bool = False
    owners: Sequence[int] = ()
    outputs: tuple[Output, ...] = DENSE

    @property
    def lengths(self) -> Lengths:
        return self.client.lengths

    @property
    def given(self) -> Sequence[str]:
        """The texts, or documents, as the client sent them."""
        return self.client.documents if isinstance(self.client, RerankRequest) else self.client.texts

    @property
    def cache_use(self) -> CacheUse:
        # The hidden states of one text take as much room as the vectors of hundreds, and are as quickly computed again.
        return "off" if self.isolated or "tokens" in self.outputs else self.client.cache

    @property
    def is_plain_query(self) -> bool:
        """Whether its texts are frequent ones, and whole rows are what it asks for."""
        return self.frequent and self.lengths.max_tokens is None and self.cache_use in ("on", "no-store")

    @property
    def size(self) -> int:
        """The work that something takes which is done to each text; see `Aside.run`."""
        return size_of(self.names)

    def cut_keys(self, context_tokens: int, among: Container[bytes]) -> dict[bytes, bytes]:
        """Return, by key, the keys of rows that are computed from a part of a text, for the texts that may be too long.

        A row of a part is cached under a key of its own, which names the limit. context_tokens: longest text of the model.
        among: the keys of the texts to look at.
        """
        if self.lengths.plain:
            return {}
        rule, most = f"{self.kind} {self.lengths.rule(context_tokens)}", self.lengths.most(context_tokens)
        chosen = {
            key: index
            for index, (key, text) in enumerate(zip(self.keys, self.texts, strict=True))
            if key in among and tokens_at_most(text) > most
        }
        identity = self.identity
        if not isinstance(identity, str):
            identity = [identity[index] for index in chosen.values()]
        names = [self.names[index] for index in chosen.values()]
        return dict(zip(chosen, keys_of(self.key_maker, identity, names, rule), strict=True))

    # --- failures, in the words of the client's request ---------------------------------------------------------------

    def too_long(
        self, key: bytes, tokens: int, limit: int, *, at_least: bool = False, attainable: int = 0
    ) -> InputTooLongError:
        """Return the error for a text that is too long.

        at_least: it may have more tokens than these. attainable: see `ModelInfo.attainable_tokens`.
        """
        place = self._place_of(key)
        pair = isinstance(self.client, RerankRequest) and self.client.query_param != self.client.param
        what = f"{place} with its query" if pair else place
        lengths = self.lengths
        by_client = lengths.max_tokens is not None and (lengths.own or lengths.max_tokens <= limit)
        if by_client:
            allowed = f"tokens, and {lengths.asked} allows {limit}"
        else:  # in the words by which clients of OpenAI's API recognise this error
            allowed = f"tokens. This model's maximum context length is {limit} tokens"
        ways = f"have it cut (see {lengths.cutting})"
        # Only dense rows of texts have a mean. Where long_text was sent, there is no room for windows.
        if isinstance(self.client, EmbedRequest) and not self.kind and self.client.long_text == "none":
            ways = f"have it cut or divided (see {lengths.cutting} and long_text)"
        advice = f"Split the text, or {ways}"
        if attainable >= tokens and not by_client:
            advice = (
                f"Split the text, {ways}, or raise the server's setting context_tokens (up to {attainable} for this model)"
            )
        return InputTooLongError(
            f"{what} has {'at least ' if at_least else ''}{tokens} {allowed}. {advice}",
            tokens=tokens,
            limit=limit,
            param=place,
            at_least=at_least,
        )

    def failure(self, key: bytes, error: BaseException, attainable: int = 0) -> BaseException:
        """Return the error for the client when the engine has no row for a text; our own errors are only reworded.

        attainable: see `ModelInfo.attainable_tokens`.
        """
        place = self._place_of(key)
        match error:
            case InputTooLongError():
                return self.too_long(key, error.tokens, error.limit, at_least=error.at_least, attainable=attainable)
            case EmptyInputError():
                return EmptyInputError(f"{place} holds nothing that the model can read", param=place)
            case EngineUnavailableError():
                return EngineUnavailableError(error.message, retry_after=error.retry_after or RETRY_SECONDS)
            case EdgeEmbedError():
                return type(error)(f"{place}: {error.message}", param=place, retry_after=error.retry_after)
            case _:
                return error

    def _place_of(self, key: bytes) -> str:
        """Return what the text with a key is called in the client's request."""
        index = self.keys.index(key)
        return place_of(self.client, self.owners[index] if self.owners else index)


def keys_of(key_maker: KeyMaker, identity: str | Sequence[str], names: Sequence[str], rule: str = "") -> list[bytes]:
    """Return the keys of texts under one prompt or query, or each under its own; see `KeyMaker.keys`."""
    if isinstance(identity, str):
        return key_maker.keys(identity, names, rule)
    return [key_maker.key(own, name, rule) for own, name in zip(identity, names, strict=True)]


def refuse_empty(texts: Sequence[str], place_of: Callable[[int], str]) -> None:
    """Raise EmptyInputError for the first text that is empty. place_of: returns what a text is called in the request."""
    if "" in texts:
        place = place_of(texts.index(""))
        raise EmptyInputError(
            f"{place} is empty; a text needs at least one character that is no control character", param=place
        )
