"""Outputs besides the dense row: a lane's context for hidden states, and the check of the heads that use them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from edgeembed.engine import canary
from edgeembed.engine.interface import Float32Matrix, Float32Row, Output, Prompted
from edgeembed.engine.llama.library import ComputeError
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.llama.token_states import StatesContext
from edgeembed.engine.outputs import unpack
from edgeembed.engine.reading import Reading
from edgeembed.engine.worker.packing import QueuedText


class TokenOutputs:
    """Computes the packed rows of a lane. The context is made when it is first needed. One thread at a time."""

    def __init__(self, model: LlamaModel, *, bulk: bool = False) -> None:
        """bulk: for a bulk lane, which computes no head that needs all threads."""
        self._model = model
        self._bulk = bulk
        self._context: StatesContext | None = None
        self._used = 0.0

    @property
    def in_use(self) -> bool:
        """Whether a context takes memory."""
        return self._context is not None

    @property
    def unused_seconds(self) -> float:
        """Time since it was last asked for rows."""
        return time.monotonic() - self._used

    def compute(self, batch: Sequence[QueuedText[Reading]]) -> list[Float32Row]:
        """Return the packed row of each text. Raises ComputeError, ModelLoadError, CanaryError."""
        try:
            context = self._context or self._checked_context()
            states = context.compute_states([text.tokens for text in batch])
            return [
                self._model.packed_row(of_text, text.tokens, text.outputs, text.role)
                for text, of_text in zip(batch, states, strict=True)
            ]
        except MemoryError as error:  # of NumPy, whose arrays here may be large
            raise ComputeError("there is not enough memory for vectors of tokens", "out_of_memory") from error
        finally:
            self._used = time.monotonic()

    def close(self) -> None:
        """Free the context until it is needed again."""
        if self._context is not None:
            self._context.close()
            self._context = None
            if not self._bulk:
                self._model.free_head()

    def _checked_context(self) -> StatesContext:
        """Return a new context, after what the heads compute was compared with the canary rows of the file."""
        model, context = self._model, self._model.new_states_context(bulk=self._bulk)
        try:
            for output, key in canary.SKETCH_KEYS.items():
                if output not in model.info.outputs or (self._bulk and model.needs_all_threads((output,))):
                    continue
                if (stored := model.file.metadata(key)) is not None:
                    canary.check_head(output, stored, partial(self._output, context, output), model.info.file_type)
        except BaseException:
            context.close()
            raise
        self._context = context
        return context

    def _output(self, context: StatesContext, output: Output, text: Prompted) -> Float32Matrix | None:
        """Return an output of a text; None if the text is too long."""
        reading = self._model.read(text)
        if len(reading.tokens) > self._model.info.context_tokens:
            return None
        (states,) = context.compute_states([reading])
        return unpack(self._model.packed_row(states, reading, (output,), text.role), (output,))[output]
