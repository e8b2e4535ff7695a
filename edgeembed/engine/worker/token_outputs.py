"""Outputs besides the dense row: the wide lane's context for hidden states, and the check of the heads that use them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from edgeembed.engine import canary
from edgeembed.engine.interface import Float32Matrix, Float32Row, Output, Prompted
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.llama.token_states import StatesContext
from edgeembed.engine.outputs import unpack
from edgeembed.engine.reading import Reading
from edgeembed.engine.worker.batching import QueuedText


class TokenOutputs:
    """Computes packed rows. The context is made when it is first needed. One thread at a time."""

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        self._context: StatesContext | None = None

    @property
    def in_use(self) -> bool:
        """Whether a context takes memory."""
        return self._context is not None

    def compute(self, batch: Sequence[QueuedText[Reading]]) -> list[Float32Row]:
        """Return the packed row of each text. Raises ComputeError, ModelLoadError, CanaryError."""
        context = self._context or self._checked_context()
        states = context.compute_states([text.tokens for text in batch])
        return [
            self._model.packed_row(of_text, text.tokens, text.outputs, text.role)
            for text, of_text in zip(batch, states, strict=True)
        ]

    def close(self) -> None:
        """Free the context until it is needed again."""
        if self._context is not None:
            self._context.close()
            self._context = None

    def _checked_context(self) -> StatesContext:
        """Return a new context, after what the heads compute was compared with the canary rows of the file."""
        model, context = self._model, self._model.new_states_context()
        try:
            for output, key in canary.SKETCH_KEYS.items():
                if output in model.info.outputs and (stored := model.metadata(key)) is not None:
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
