"""A model loaded through llama.cpp's low-level API: its tokens, heads and contexts.

`Llama.embed()` of llama-cpp-python is not used: it truncates long texts before the final special token, which Qwen3 pools,
and fills batches token by token in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import msgspec
import numpy as np

from edgeembed.engine.context_plan import TILE, ContextShape, ModelFacts, attainable_tokens, make_plan, reduced
from edgeembed.engine.interface import (
    AutotuneResult,
    Float32Matrix,
    Float32Row,
    ModelInfo,
    Output,
    Pair,
    Prompted,
    Role,
    Text,
)
from edgeembed.engine.llama.autotune import autotune
from edgeembed.engine.llama.backends import load_backends
from edgeembed.engine.llama.bindings import lib
from edgeembed.engine.llama.context import Context
from edgeembed.engine.llama.expansion_mask import ExpansionMask
from edgeembed.engine.llama.file_heads import FileHeads
from edgeembed.engine.llama.framing import Framing
from edgeembed.engine.llama.gated_gelu import GatedGelu
from edgeembed.engine.llama.graph_change import GraphChange, Watch
from edgeembed.engine.llama.kernel_hook import PLAIN_KERNELS, Kernels, install_kernels
from edgeembed.engine.llama.library import ComputeError, ModelLoadError, system_info
from edgeembed.engine.llama.masked_lm import MaskedLm, find_embeddings
from edgeembed.engine.llama.model_file import ModelFile
from edgeembed.engine.llama.product_choice import choose_products, type_name
from edgeembed.engine.llama.row_probe import CausalModel, find_last_token_reader
from edgeembed.engine.llama.rows import Head, LastTokenReader, PooledReader, RowReader
from edgeembed.engine.llama.score_bias import ScoreBias
from edgeembed.engine.llama.token_spans import Spans
from edgeembed.engine.llama.token_states import StatesContext, StatesReader, states_shape
from edgeembed.engine.llama.tokenizer import Tokenizer
from edgeembed.engine.llama.vocabulary import Vocabulary
from edgeembed.engine.pair_template import TEMPLATE_KEY, PairTemplate
from edgeembed.engine.reading import Prefix, Reading, Tokens, read_behind
from edgeembed.engine.sparse import MaskedLmWeights, VocabularyHead
from edgeembed.engine.text_template import TextTemplate
from edgeembed.engine.token_heads import TokenHead, packed_row
from edgeembed.engine.worker_options import WorkerOptions

PREFIXES_READ = 64
"""Prefixes whose tokens are remembered."""
LONGEST_PREFIX_CHARACTERS = 16_384
"""A longer prefix is treated as part of the text and not shared."""


def load_libraries(options: WorkerOptions) -> Kernels:
    """Load all native code that the options need, once in a process, and return the kernels. Raises ModelLoadError."""
    load_backends(oldest=options.oldest_kernels, gpu=options.device != "cpu")
    lib.llama_backend_init()
    return install_kernels() if options.extra_buffers and options.own_kernels else PLAIN_KERNELS


class LlamaModel:
    """One model and its wide context. `tokenize` and `read` may be called from any thread, a context from one at a time."""

    def __init__(self, options: WorkerOptions) -> None:
        """Load the file. Raises ModelLoadError."""
        self._options = options
        self.kernels = load_libraries(options)
        left_types, measured = choose_products(options, self.kernels)
        file = self.file = ModelFile(options)
        self.vocabulary = Vocabulary(lib.llama_model_get_vocab(file.handle), file.metadata)
        heads = FileHeads(options, file.metadata, file.keys)
        self._score_bias = heads.score_bias(file.architecture, file.heads)
        self._outputs, self._pooling = heads.outputs, heads.pooling
        ranks = self._pooling == "rank"
        self._dimensions = file.scores if ranks else file.row_width
        classifier = heads.classifier(self._dimensions, file.width) if ranks else None
        dense = heads.dense(file.row_width) if classifier is None else None
        self._head: Head | None = classifier or dense
        if dense is not None:
            self._dimensions = dense.outputs
        self._token_heads: dict[Output, TokenHead] = {}
        if not ranks:
            self._token_heads = heads.token_heads(file.row_width, self.vocabulary.size, dense, self._make_masked_lm)
        self._tokenizer = Tokenizer(self.vocabulary, file.metadata)
        self._roles = heads.late_interaction(self.vocabulary.size)
        try:
            self._framing = Framing(self._tokenizer, TextTemplate.of(file.metadata), self._roles)
            if self._roles is not None and self._roles.has_markers and not len(self._tokenizer.frame[0]):
                raise ValueError("its tokenizer puts no token before a text, behind which a marker of its role could be")
        except ValueError as error:
            raise ModelLoadError(f"{options.path}: {error}", fatal=True) from None
        self._pairs = PairTemplate.of(file.metadata)
        if options.task == "rerank" and self._pairs is None:
            raise ModelLoadError(
                f"{options.path} is a reranker without a template for pairs of query and document ({TEMPLATE_KEY})",
                fatal=True,
            )
        self._prefix_of = lru_cache(PREFIXES_READ)(self._read_prefix)
        facts = file.facts(self._pooling, self.vocabulary.size, own_attention=self.kernels.ours)
        options = self._options = reduced(options, facts.trained_tokens)
        self._make_reader = self._find_last_token_reader(facts)
        self.plan = make_plan(facts, options, last_only=self._make_reader is not None)
        self.wide = self._new_context(self.plan.wide)
        self.info = self._describe(left_types, measured)
        if options.autotune and not facts.pieces and facts.trained_tokens >= TILE and not facts.own_attention:
            self._autotune(facts)

    def new_states_context(self, *, bulk: bool = False) -> StatesContext:
        """Return a new context for hidden states; the caller closes it. Raises ModelLoadError when memory is short.

        bulk: for a bulk lane.
        """
        decoder = self._make_reader is not None
        reader = StatesReader(self.file.row_width, before_lm_head=decoder)
        shape = states_shape(self.plan.bulk if bulk else self.plan.wide, decoder=decoder)
        change = self._make_change(shape)
        if self._roles is not None and (expansion := self._roles.expansion) is not None and not expansion.attended:
            if change is not None:
                raise ModelLoadError(f"queries of the architecture {self.file.architecture} cannot be expanded", fatal=True)
            change = ExpansionMask(self.file.layers)
        on_card = bool(self._options.gpu_layers)
        return StatesContext(self.file.handle, shape, reader, on_card=on_card, change=change)

    def new_bulk_context(self) -> Context:
        """Return a new context for a bulk lane; the caller closes it. Raises ModelLoadError when memory is short."""
        return self._new_context(self.plan.bulk)

    def new_context(self, reader: RowReader, watch: Watch, shape: ContextShape | None = None) -> Context:
        """Return another context, whose rows this reader reads; the caller closes it. Raises ModelLoadError.

        watch: the reader's evaluation callback. shape: the wide one by default.
        """
        shape = shape or self.plan.wide
        change = self._make_change(shape, watch)
        return Context(self.file.handle, shape, reader, dimensions=self._dimensions, change=change)

    def renew_wide(self) -> None:
        """Replace an encoder's wide context, so that it takes memory only as passes need it, after one that took all.

        Raises ModelLoadError when memory is short.
        """
        if not self.plan.wide.pieces and not self._options.gpu_layers:
            self.wide.close()
            self.wide = self._new_context(self.plan.wide)

    @property
    def batch_capacity(self) -> int:
        """Tokens that one `embed` call of several texts can hold."""
        return self.plan.wide.batch

    @property
    def batch_budget(self) -> int:
        """Tokens of all texts together that one forward pass should aim for."""
        return min(self._options.batch_tokens, self.plan.wide.batch)

    def embed(self, texts: Sequence[Tokens]) -> list[Float32Row]:
        """Return one pooled row, float32, shape (dimensions,), for each text, computed in the wide context.

        Each text has 1 to `info.context_tokens` tokens. Raises ComputeError.
        """
        return list(self.wide.compute([Reading(tokens) for tokens in texts]))

    def packed_row(self, states: Float32Matrix, text: Reading, outputs: Sequence[Output], role: Role) -> Float32Row:
        """Return the packed row of a text, of the hidden states of its tokens. Raises ComputeError for a missing output."""
        try:
            return packed_row(self._token_heads, outputs, states, text.tokens, role)
        except KeyError as missing:
            raise ComputeError(f"the model file has no output {missing}") from None

    @property
    def _masked_lm(self) -> VocabularyHead | None:
        """The head of a masked language model, if the file has one."""
        head = self._token_heads.get("sparse")
        return head if isinstance(head, VocabularyHead) else None

    def needs_all_threads(self, outputs: tuple[Output, ...]) -> bool:
        """Return whether a head for these outputs computes with all threads, and so in one lane only."""
        return "sparse" in outputs and self._masked_lm is not None

    def needs_states(self, outputs: tuple[Output, ...], role: Role) -> bool:
        """Return whether these outputs of a text depend on its hidden states, and not on the ids of its tokens alone."""
        return outputs != ("sparse",) or self._masked_lm is None or self._masked_lm.needs_states(role)

    def free_head(self) -> None:
        """Free what the head of a masked language model takes until it is needed again."""
        if self._masked_lm is not None:
            self._masked_lm.free()

    def close(self) -> None:
        """Free the wide context and the model. Close the contexts of bulk lanes first."""
        self.free_head()
        self.wide.close()
        self.file.close()

    # --- tokens -------------------------------------------------------------------------------------------------------

    def read(self, text: Text) -> Reading:
        """Return the tokens of a text or a pair. Raises ComputeError for a pair when the file has no template for pairs."""
        if isinstance(text, str):
            return Reading(self.tokenize(text))
        if isinstance(text, Pair):
            tokens, scaffold = self.tokenize_pair(text), Pair(text.query, "", text.instruction)
            return self._read_behind(tokens, scaffold, len(text.query) + len(text.instruction or ""))
        tokens = self._framing.tokenize_prompted(text.prefix, text.text, text.suffix, text.role)
        return self._read_behind(tokens, text.prefix, len(text.prefix))

    def tokenize(self, text: str) -> Tokens:
        """Return the token ids of a text, shape (tokens,), with the special tokens that the model adds around it.

        A special token's name inside the text is read as plain text.
        """
        return self._framing.tokenize(text)

    def around(self, prefix: str, suffix: str, role: Role = "") -> tuple[Tokens, Tokens]:
        """Return the token ids before and after each text with this prompt."""
        return self._framing.around(prefix, suffix, role)

    def expanded(self, reading: Reading, role: Role) -> Reading:
        """Return a text as it is computed: a query with the tokens that expand it, if the model is made for them."""
        return self._roles.expanded(reading, role, self.plan.wide.longest_text) if self._roles else reading

    def spans(self, text: Text, tokens: Tokens) -> Spans:
        """Return the part of a text, with its prompt, that each of its tokens stands for; see `token_spans`."""
        match text:
            case str() | Prompted(ids=None):
                return self._framing.spans(text, tokens)
            case _:
                return np.full((len(tokens), 2), -1, dtype=np.int32)

    def shorten(self, text: str, most: int, *, at_start: bool = False) -> str:
        """Return a part of the text with more than `most` tokens, or the whole text; see `Tokenizer.shorten`."""
        return self._tokenizer.shorten(text, most, at_start=at_start)

    def tokenize_pair(self, pair: Pair) -> Tokens:
        """Return the token ids of a query and a document in the file's own template. Raises ComputeError without one."""
        if not self._pairs:
            raise ComputeError(f"the model file has no template for pairs of query and document ({TEMPLATE_KEY})")
        return self._pairs.tokens(pair, self._framing.part)

    def _read_behind(self, tokens: Tokens, prefix: str | Pair, characters: int) -> Reading:
        if not self.plan.wide.prefix_cells or characters > LONGEST_PREFIX_CHARACTERS:
            return Reading(tokens)
        return read_behind(tokens, self._prefix_of(prefix))

    def _read_prefix(self, prefix: str | Pair) -> Prefix:
        """Tokenise a prefix alone, or a pair with an empty document."""
        if isinstance(prefix, str):
            return Prefix(self._framing.tokenize_prompted(prefix, "", ""))
        return Prefix(self.tokenize_pair(prefix))

    # --- loading ------------------------------------------------------------------------------------------------------

    def _new_context(self, shape: ContextShape) -> Context:
        reader = self._make_reader(shape.sequences) if self._make_reader else self._new_pooled_reader()
        on_card, change = bool(self._options.gpu_layers), self._make_change(shape)
        return Context(self.file.handle, shape, reader, dimensions=self._dimensions, on_card=on_card, change=change)

    def _new_pooled_reader(self) -> PooledReader:
        pooling = None
        if self._pooling == "rank" and self._head is not None:
            pooling = lib.LLAMA_POOLING_TYPE_CLS
        elif self._pooling == "none":  # the rows by which the model is checked are means
            pooling = lib.LLAMA_POOLING_TYPE_MEAN
        return PooledReader(self._head, pooling=pooling)

    def _make_change(self, shape: ContextShape, watch: Watch | None = None) -> GraphChange | None:
        """Return the change of a context's graph, for architectures that llama.cpp lacks. watch: see `GraphChange`."""
        if self._score_bias is not None:
            return ScoreBias(self._score_bias, shape.batch, self.file.layers, watch)
        return GatedGelu(self.file.layers, watch) if self.file.architecture == "gte" else None

    def _autotune(self, facts: ModelFacts) -> None:
        """Measure the length from which padding makes a text faster, and use the result."""
        found = autotune(self.wide.time_pass)
        fill = self._options.pad_from_tokens if self._options.pad_from_tokens is not None else found.pad_from_tokens
        self._options = msgspec.structs.replace(self._options, pad_from_tokens=fill)
        self.plan = make_plan(facts, self._options, last_only=self._make_reader is not None)
        self.wide.adopt(self.plan.wide)
        before = self.info.autotune
        if before is not None:
            found = msgspec.structs.replace(
                found, left_types=before.left_types, seconds=round(before.seconds + found.seconds, 3)
            )
        self.info = msgspec.structs.replace(self.info, autotune=found)

    def _find_last_token_reader(self, facts: ModelFacts) -> Callable[[int], LastTokenReader] | None:
        if not facts.pieces:
            return None
        return find_last_token_reader(
            self.file.handle,
            CausalModel(
                self.file.architecture, facts.width, self._dimensions, self._pooling == "rank", self.file.type, self._head
            ),
            threads=self._options.threads,
            on_card=bool(self._options.gpu_layers),
        )

    def _make_masked_lm(self, weights: MaskedLmWeights) -> MaskedLm:
        small = replace(self.plan.wide, cells=TILE, batch=TILE, longest_text=TILE, pieces=False, prefix_cells=0)
        embeddings = find_embeddings(partial(self.new_context, shape=small))
        packed, threads = self._options.extra_buffers, self._options.threads
        return MaskedLm(weights, embeddings, threads=threads, packed=packed)

    def _describe(self, left_types: tuple[int, ...], measured: AutotuneResult | None) -> ModelInfo:
        left = f", llama.cpp's for {', '.join(map(type_name, left_types))}" if left_types else ""
        return ModelInfo(
            architecture=self.file.architecture,
            name=self.file.metadata("general.name") or Path(self._options.path).stem,
            dimensions=self._dimensions,
            context_tokens=self.plan.wide.longest_text,
            attainable_tokens=attainable_tokens(self.plan, self._options),
            pooling=self._pooling,
            task=self._options.task,
            outputs=self._outputs,
            file_type=self.file.type,
            parameters=self.file.parameters,
            size_bytes=self.file.size_bytes,
            llama_cpp=f"{system_info()}; {self.kernels.words}{left}",
            mode=self._options.mode,
            autotune=measured,
        )
