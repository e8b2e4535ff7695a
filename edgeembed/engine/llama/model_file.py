"""A model file that llama.cpp has loaded: its weights, its metadata, its sizes."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Mapping
from pathlib import Path

from edgeembed.common.files import FileIdentity
from edgeembed.engine.context_plan import ModelFacts
from edgeembed.engine.interface import TYPE_KEY
from edgeembed.engine.llama import wordpiece
from edgeembed.engine.llama.backends import device_handles
from edgeembed.engine.llama.bindings import lib
from edgeembed.engine.llama.library import ModelLoadError, logged_cause, logged_errors, metadata_overrides
from edgeembed.engine.stand_ins import ARCHITECTURE_KEY, STAND_INS, architecture_of, computed_as
from edgeembed.engine.worker_options import MetadataValue, WorkerOptions

OWN_KEYS = "edgeembed."
"""Keys that llama.cpp does not read begin with it."""


class ModelFile:
    """A file in memory, until `close`. `metadata` may be called from any thread."""

    def __init__(self, options: WorkerOptions) -> None:
        """Load the file; the libraries are loaded already. Raises ModelLoadError."""
        self._options = options
        devices = [] if options.device == "cpu" else options.device.split(",")
        params = lib.llama_model_default_params()
        # Weights are copied into memory of this process. In a mapped file, a write to the file would change them at once,
        # and truncating it would end the process.
        params.load_mode = lib.LLAMA_LOAD_MODE_NONE
        params.lazy_mode = lib.LLAMA_LAZY_MODE_OFF
        params.n_gpu_layers = options.gpu_layers
        # Without a list, llama.cpp would use every card that it finds: even without a layer there, large matrix products go
        # to a card.
        handles = device_handles(devices)
        params.devices = ctypes.cast(handles, ctypes.c_void_p)
        params.main_gpu = options.main_gpu
        if options.tensor_split:
            split = (ctypes.c_float * max(lib.llama_max_devices(), len(options.tensor_split)))(*options.tensor_split)
            params.tensor_split = split
        params.use_extra_bufts = options.extra_buffers
        overrides = metadata_overrides(_for_llama(options.metadata, architecture_of(Path(options.path))))
        params.kv_overrides = overrides
        handle = lib.llama_model_load_from_file(options.path.encode(), params)
        _require_file(options)
        if not handle:
            raise ModelLoadError(
                f"llama.cpp cannot load {options.path}{logged_errors()}", fatal=False, cause=logged_cause(otherwise="other")
            )
        self.handle = handle
        """llama.cpp's."""
        self.architecture = self.metadata(ARCHITECTURE_KEY) or "unknown"
        self.keys = computed_as(self.architecture)
        """What the keys of the architecture begin with."""
        if self.architecture in STAND_INS and options.gpu_layers:
            raise ModelLoadError(
                f"models of the architecture {self.architecture} are computed on the processor", fatal=False
            )
        self.layers, self.heads = int(lib.llama_model_n_layer(handle)), int(lib.llama_model_n_head(handle))
        self.width, self.row_width = int(lib.llama_model_n_embd(handle)), int(lib.llama_model_n_embd_out(handle))
        """Numbers in a hidden state inside the graph, and in what the graph returns of a token."""
        self.scores = int(lib.llama_model_n_cls_out(handle))
        """Numbers in a row of a reranker or classifier."""
        self.parameters, self.size_bytes = int(lib.llama_model_n_params(handle)), int(lib.llama_model_size(handle))

    def metadata(self, key: str) -> str | None:
        """Return a metadata value as text, of the options or of the file; None if there is none, or if it is an array."""
        if (replaced := self._options.metadata.get(key)) is not None:
            return str(replaced).lower() if isinstance(replaced, bool) else str(replaced)
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = lib.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
            if length < size:
                return buffer.value.decode("utf-8", "replace") if length >= 0 else None
            size = length + 1  # like snprintf, llama.cpp returns the full length

    @property
    def type(self) -> str:
        """The converter's name for the type, such as "Q4_E", or else llama.cpp's, such as "Q4_K - Medium"."""
        description = ctypes.create_string_buffer(256)
        lib.llama_model_desc(self.handle, description, len(description))
        return self.metadata(TYPE_KEY) or _after_first_word(description.value.decode("utf-8", "replace"))

    def facts(self, pooling: str, vocabulary: int, *, own_attention: bool) -> ModelFacts:
        """Return what decides about the sizes of contexts. pooling: as in `ModelInfo`. vocabulary: number of tokens."""
        causal = self.metadata(f"{self.keys}.attention.causal") != "false"
        pieces = causal and pooling in ("last", "rank")
        head = self.width // max(1, self.heads)
        key, value = (int(self.metadata(f"{self.keys}.attention.{part}_length") or head) for part in ("key", "value"))
        cells = self.layers * int(lib.llama_model_n_head_kv(self.handle)) * (key + value) * 2  # F16
        return ModelFacts(
            pieces=pieces,
            trained_tokens=int(lib.llama_model_n_ctx_train(self.handle)),
            width=self.width,
            vocabulary=vocabulary,
            cell_bytes=cells if pieces else 0,
            own_attention=own_attention,
        )

    def close(self) -> None:
        """Free the weights. Close the contexts first."""
        if self.handle:
            lib.llama_model_free(self.handle)
            self.handle = None


def _for_llama(metadata: Mapping[str, MetadataValue], architecture: str | None) -> dict[str, bool | int | bytes]:
    """Return the metadata that llama.cpp is to use instead of the file's, which has this architecture."""
    values = {key: value for key, value in metadata.items() if not key.startswith(OWN_KEYS)}
    encoded = {key: value.encode() if isinstance(value, str) else value for key, value in values.items()}
    if architecture in STAND_INS:
        encoded[ARCHITECTURE_KEY] = STAND_INS[architecture].encode()
    return {wordpiece.STRIP_ACCENTS_KEY: False, **encoded}  # see wordpiece.py


def _require_file(options: WorkerOptions) -> None:
    """Raise ModelLoadError if what was just loaded may not be the file that the options mean."""
    with contextlib.suppress(OSError):  # it is gone
        if options.file is None or FileIdentity.of(Path(options.path)) == options.file:
            return
    raise ModelLoadError(f"{options.path} was written to or replaced while it was loaded", fatal=False, cause="replaced")


def _after_first_word(description: str) -> str:
    """Return "Q8_0" for "bert 22M Q8_0": llama.cpp's description ends with the type of most tensors."""
    return description.split(maxsplit=2)[-1] if description else "unknown"
