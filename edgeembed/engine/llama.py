"""llama.cpp through its low-level API: load, tokenise, embed a batch. The only module that imports `llama_cpp`.

`Llama.embed()` of llama-cpp-python is not used: it cuts long texts in front of the final special token that Qwen3 pools, and
fills batches token by token in Python.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt

from edgeembed.engine import wordpiece
from edgeembed.engine.normalizer import choose_normalizer
from edgeembed.engine.pairs import TEMPLATE_KEY, PairTemplate
from edgeembed.engine.protocol import Float32Row, ModelInfo, Pair, Text, WorkerOptions

Tokens = npt.NDArray[np.int32]

MAX_SEQUENCES = 64
"""Texts in one forward pass. llama.cpp allows 256; more than the token budget holds gains nothing."""

FLASH_ATTENTION_TOKENS = 64
"""The tiled flash-attention kernel starts at this many tokens in a ubatch; a smaller batch buffer would never reach it."""

_POOLING = {lib.LLAMA_POOLING_TYPE_MEAN: "mean", lib.LLAMA_POOLING_TYPE_CLS: "cls", lib.LLAMA_POOLING_TYPE_LAST: "last"}


class ModelLoadError(Exception):
    """The file cannot be served. `fatal`: another rung of the ladder would not help."""

    def __init__(self, message: str, *, fatal: bool) -> None:
        super().__init__(message)
        self.fatal = fatal


class ComputeError(Exception):
    """A forward pass failed; the context stays usable."""


@dataclass(frozen=True)
class _Shape:
    """Sizes of a context, in tokens."""

    context: int
    batch: int
    longest_text: int


class LlamaModel:
    """One model and one context. `tokenize` may be called from any thread, `embed` from one thread only."""

    def __init__(self, options: WorkerOptions) -> None:
        """Load the file. Raises ModelLoadError."""
        self._options = options
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = options.extra_buffers
        overrides = _overrides({wordpiece.STRIP_ACCENTS_KEY: False})  # see the module wordpiece
        params.kv_overrides = overrides
        model = lib.llama_model_load_from_file(options.path.encode(), params)
        if not model:
            raise ModelLoadError(f"llama.cpp cannot load {options.path}{_said()}", fatal=False)
        self._model = model
        self._vocab = lib.llama_model_get_vocab(model)
        self._architecture = self.metadata("general.architecture") or "unknown"
        self._pooling = self._pooling_of_file()
        self._causal = self.metadata(f"{self._architecture}.attention.causal") != "false"
        self._shape = self._plan()
        self._context = self._new_context()
        self._memory = lib.llama_get_memory(self._context)
        self._normalize = choose_normalizer(self.metadata)
        width = lib.llama_model_n_cls_out if self._pooling == "rank" else lib.llama_model_n_embd_out
        self._dimensions = int(width(model))
        self._fill = _BatchBuffers(self._shape.batch)
        self._token_buffers = threading.local()
        self._pairs = PairTemplate.of(self.metadata)
        self.info = self._describe()

    @property
    def batch_capacity(self) -> int:
        """Tokens that one `embed` call of several texts can hold."""
        return self._shape.batch

    @property
    def batch_budget(self) -> int:
        """Tokens of all texts together that one `embed` call should aim at."""
        return min(self._options.batch_tokens, self._shape.batch)

    def tokenize(self, text: str) -> Tokens:
        """Give the model's token ids, shape (tokens,), special ones of the template included.

        What looks like a special token inside the text stays text.
        """
        return self._tokenize(text, frame=True, special=False)

    def read(self, text: Text) -> Tokens:
        """Tokenise whatever it is."""
        return self.tokenize(text) if isinstance(text, str) else self.tokenize_pair(text)

    def tokenize_pair(self, pair: Pair) -> Tokens:
        """Give the ids of a query and a document in the file's own template. Raises ComputeError when it has none."""
        if not self._pairs:
            raise ComputeError(f"the file has no template for pairs ({TEMPLATE_KEY})")
        return self._pairs.tokens(pair, lambda text, special: self._tokenize(text, frame=False, special=special))

    def _tokenize(self, text: str, *, frame: bool, special: bool) -> Tokens:
        """Tokenise. frame: add the special tokens around a text. special: names of special tokens in it become such."""
        encoded = self._normalize(text).encode("utf-8")
        capacity = len(encoded) + 16
        for _ in range(2):
            buffer = self._token_buffer(capacity)
            count = int(
                lib.llama_tokenize(
                    self._vocab,
                    encoded,
                    len(encoded),
                    buffer.ctypes.data_as(ctypes.POINTER(lib.llama_token)),
                    len(buffer),
                    frame,
                    special,
                )
            )
            if count >= 0:
                return buffer[:count].copy()
            capacity = -count
        raise ComputeError("llama.cpp cannot tokenise this text")

    def embed(self, texts: Sequence[Tokens]) -> list[Float32Row]:
        """Compute one pooled row, float32, shape (dimensions,), for each text, in one batch.

        Each text has 1 to `info.context_tokens` tokens; together they fit the batch buffer, or there is one text only,
        which a causal model takes in pieces. Raises ComputeError.
        """
        if self._memory:
            lib.llama_memory_clear(self._memory, False)
        total = sum(len(text) for text in texts)
        if total <= self._shape.batch:
            self._decode(texts, starts=[0] * len(texts))
        else:
            if len(texts) != 1 or not self._takes_pieces():
                raise ComputeError(f"a batch of {total} tokens is larger than {self._shape.batch}")
            # The KV cache carries the earlier pieces; the row of the last piece pools the text's last token.
            (text,) = texts
            for start in range(0, len(text), self._shape.batch):
                self._decode([text[start : start + self._shape.batch]], starts=[start])
        return [self._row(index) for index in range(len(texts))]

    def close(self) -> None:
        """Free the context and the model."""
        if self._context:
            lib.llama_free(self._context)
            self._context = None
        if self._model:
            lib.llama_model_free(self._model)
            self._model = None

    # --- loading ------------------------------------------------------------------------------------------------------

    def metadata(self, key: str) -> str | None:
        """Give a value of the file's metadata as text; None when the file has no such key, or an array under it."""
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = lib.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
            if length < size:
                return buffer.value.decode("utf-8", "replace") if length >= 0 else None
            size = length + 1  # what snprintf would have written

    def _describe(self) -> ModelInfo:
        description = ctypes.create_string_buffer(256)
        lib.llama_model_desc(self._model, description, len(description))
        return ModelInfo(
            architecture=self._architecture,
            name=self.metadata("general.name") or Path(self._options.path).stem,
            dimensions=self._dimensions,
            context_tokens=self._shape.longest_text,
            pooling=self._pooling,
            file_type=_after_first_word(description.value.decode("utf-8", "replace")),
            parameters=int(lib.llama_model_n_params(self._model)),
            size_bytes=int(lib.llama_model_size(self._model)),
            llama_cpp=system_info(),
        )

    def _pooling_of_file(self) -> str:
        value = self.metadata(f"{self._architecture}.pooling_type")
        if value is None:
            raise ModelLoadError(
                f"{self._options.path} does not say how token vectors become one vector (no "
                f"{self._architecture}.pooling_type): it is a generation model, or was converted without its pooling",
                fatal=True,
            )
        ranks = int(value) == lib.LLAMA_POOLING_TYPE_RANK
        if ranks and self._options.task == "rerank":
            return "rank"
        if self._options.task == "rerank":
            raise ModelLoadError(f"{self._options.path} is an embedder: it has vectors and scores no pairs", fatal=True)
        if ranks:
            raise ModelLoadError(f"{self._options.path} is a reranker: it scores pairs and has no vectors", fatal=True)
        try:
            return _POOLING[int(value)]
        except KeyError:
            raise ModelLoadError(
                f"{self._options.path} has pooling type {value}, which gives no vector per text", fatal=True
            ) from None

    def _takes_pieces(self) -> bool:
        """Whether a text may be longer than the batch buffer: only a causal model that reads the last token."""
        return self._causal and self._pooling in ("last", "rank")

    def _plan(self) -> _Shape:
        trained = int(lib.llama_model_n_ctx_train(self._model))
        longest = min(trained, self._options.context_tokens)
        batch = max(self._options.batch_tokens, FLASH_ATTENTION_TOKENS)
        if self._takes_pieces():
            # Every token is an output and each output has a row of logits: a large batch buffer costs
            # vocabulary * tokens * 4 bytes (78 MB for 128 tokens of Qwen3).
            return _Shape(context=max(longest, batch), batch=batch, longest_text=longest)
        # llama.cpp aborts the process when a non-causal batch is larger than the ubatch.
        batch = max(batch, longest)
        return _Shape(context=batch, batch=batch, longest_text=longest)

    def _new_context(self) -> Any:
        params = lib.llama_context_default_params()
        params.n_ctx = self._shape.context
        params.n_batch = self._shape.batch
        params.n_ubatch = self._shape.batch
        params.n_seq_max = MAX_SEQUENCES
        params.n_threads = self._options.threads
        params.n_threads_batch = self._options.threads
        params.embeddings = True
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.kv_unified = True  # all sequences share one pool of n_ctx cells, instead of n_ctx / n_seq_max each
        params.no_perf = True
        context = lib.llama_init_from_model(self._model, params)
        if not context:
            raise ModelLoadError(
                f"llama.cpp cannot make a context of {self._shape.context} tokens (not enough memory?){_said()}", fatal=False
            )
        return context

    # --- computing ----------------------------------------------------------------------------------------------------

    def _token_buffer(self, capacity: int) -> Tokens:
        """Give this thread's buffer, grown to at least `capacity` tokens."""
        buffer: Tokens | None = getattr(self._token_buffers, "value", None)
        if buffer is None or len(buffer) < capacity:
            buffer = np.empty(max(capacity, 4096), dtype=np.int32)
            if capacity <= 1 << 20:  # a giant text does not leave its buffer behind
                self._token_buffers.value = buffer
        return buffer

    def _decode(self, texts: Sequence[Tokens], starts: Sequence[int]) -> None:
        # A model without a KV cache is an encoder; llama_decode would do the same, with a warning in the log for each batch.
        compute = lib.llama_decode if self._memory else lib.llama_encode
        code = compute(self._context, self._fill(texts, starts))
        if code != 0:
            raise ComputeError(f"llama.cpp cannot compute this batch (code {code})")

    def _row(self, sequence: int) -> Float32Row:
        pointer = lib.llama_get_embeddings_seq(self._context, sequence)
        if not pointer:
            raise ComputeError(f"llama.cpp has no row for sequence {sequence}")
        # A copy: the next batch overwrites what the pointer shows.
        row: Float32Row = np.ctypeslib.as_array(pointer, shape=(self._dimensions,)).astype(np.float32, copy=True)
        return row


class _BatchBuffers:
    """The arrays of a `llama_batch`, filled through numpy, one slice per text."""

    def __init__(self, capacity: int) -> None:
        self._token = np.zeros(capacity, dtype=np.int32)
        self._position = np.zeros(capacity, dtype=np.int32)
        self._sequence = np.zeros(capacity, dtype=np.int32)
        self._sequence_count = np.ones(capacity, dtype=np.int32)
        self._output = np.ones(capacity, dtype=np.int8)
        # Each token has a pointer to its list of sequence ids, here of one: the addresses never change.
        self._sequence_pointer = (self._sequence.ctypes.data + 4 * np.arange(capacity)).astype(np.uintp)
        self._ramp = np.arange(capacity, dtype=np.int32)

    def __call__(self, texts: Sequence[Tokens], starts: Sequence[int]) -> Any:
        at = 0
        for sequence, (text, start) in enumerate(zip(texts, starts, strict=True)):
            end = at + len(text)
            self._token[at:end] = text
            np.add(self._ramp[: len(text)], start, out=self._position[at:end])
            self._sequence[at:end] = sequence
            at = end
        batch = lib.llama_batch()
        batch.n_tokens = at
        batch.token = self._token.ctypes.data_as(ctypes.POINTER(lib.llama_token))
        batch.pos = self._position.ctypes.data_as(ctypes.POINTER(lib.llama_pos))
        batch.n_seq_id = self._sequence_count.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        batch.seq_id = self._sequence_pointer.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(lib.llama_seq_id)))
        batch.logits = self._output.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        return batch


def quantize_file(
    source: Path,
    target: Path,
    *,
    file_type: int,
    threads: int,
    keep_f32: Sequence[str] = (),
    notes: Mapping[str, str] | None = None,
) -> None:
    """Quantise a GGUF file with llama.cpp's own rules for mixed types (llama_model_quantize); the metadata is copied.

    file_type: llama.h's llama_ftype. keep_f32: names of tensors that stay F32. notes: metadata to add, each at most 127
    bytes. Raises ComputeError.
    """
    lib.llama_backend_init()
    params = lib.llama_model_quantize_default_params()
    params.ftype = file_type
    params.nthread = threads
    overrides = (lib.llama_model_tensor_override * (len(keep_f32) + 1))()  # ends with an empty one
    for override, name in zip(overrides, keep_f32, strict=False):
        override.pattern = f"^{re.escape(name)}$".encode()
        override.type = lib.GGML_TYPE_F32
    params.tt_overrides = overrides
    params.kv_overrides = _overrides({key: value.encode() for key, value in (notes or {}).items()})
    code = lib.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if code != 0:
        raise ComputeError(f"llama.cpp cannot quantise {source}{_said()}")


def _overrides(values: Mapping[str, bool | bytes]) -> Any:
    """Give metadata that llama.cpp shall take instead of the file's: a list that ends with an empty key."""
    overrides = (lib.llama_model_kv_override * (len(values) + 1))()
    for override, (key, value) in zip(overrides, values.items(), strict=False):
        override.key = key.encode()
        if isinstance(value, bool):
            override.tag = lib.LLAMA_KV_OVERRIDE_TYPE_BOOL
            override.value.val_bool = value
        else:
            override.tag = lib.LLAMA_KV_OVERRIDE_TYPE_STR
            override.value.val_str = value
    return overrides


def system_info() -> str:
    """Give llama-cpp-python's version and the processor features that its build uses."""
    from importlib.metadata import version

    features = lib.llama_print_system_info().decode("utf-8", "replace").strip().rstrip("|").strip()
    return f"llama-cpp-python {version('llama-cpp-python')} ({features})"


_log_callbacks: list[object] = []
_recent_errors: deque[str] = deque(maxlen=3)


def send_log_to(write: Callable[[str], object], *, verbose: bool) -> None:
    """Send llama.cpp's log lines to `write`: warnings and errors only, unless verbose."""
    levels_shown = (3, 4) if not verbose else (1, 2, 3, 4)
    last_shown = [False]

    def receive(level: int, text: bytes, _user_data: object) -> None:
        # Level 5 continues the line before it.
        shown = last_shown[0] if level == 5 else level in levels_shown
        last_shown[0] = shown
        if shown:
            line = text.decode("utf-8", "replace")
            write(line)
            if level == 4:
                _recent_errors.append(line.strip())

    callback = lib.llama_log_callback(receive)
    _log_callbacks.append(callback)  # llama.cpp keeps only the address
    lib.llama_log_set(callback, ctypes.c_void_p(0))


def _said() -> str:
    """Quote what llama.cpp logged as errors: its functions give no reason of their own."""
    return f" ({'; '.join(_recent_errors)})" if _recent_errors else ""


def _after_first_word(description: str) -> str:
    """Give "Q8_0" of "bert 22M Q8_0": llama.cpp's description ends in the type of most tensors."""
    return description.split(maxsplit=2)[-1] if description else "unknown"
