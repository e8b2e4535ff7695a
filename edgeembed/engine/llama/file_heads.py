"""What a model file says of its outputs: pooling, classifier, dense layers, heads of tokens; how queries are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from edgeembed.engine.classes import LABELS_KEY
from edgeembed.engine.classifier import CLASSIFIER_KEY, ClassifierHead, decode_classifier
from edgeembed.engine.dense import DenseHead, read_head
from edgeembed.engine.interface import Float32Matrix, Output, Task
from edgeembed.engine.late_interaction import LateInteraction, read_late_interaction
from edgeembed.engine.llama.bindings import lib
from edgeembed.engine.llama.library import ModelLoadError
from edgeembed.engine.outputs import OUTPUTS_KEY, parse_outputs
from edgeembed.engine.sparse import MakeLogits
from edgeembed.engine.stand_ins import SCORE_BIAS_KEY, decode_bias
from edgeembed.engine.token_heads import PooledHead, StatesHead, TokenHead, read_token_heads
from edgeembed.engine.worker_options import WorkerOptions

_DOES: Mapping[Task, str] = {
    "embed": "is an embedding model",
    "rerank": "is a reranker, which scores pairs",
    "classify": "is a classifier",
}
_POOLING = {lib.LLAMA_POOLING_TYPE_MEAN: "mean", lib.LLAMA_POOLING_TYPE_CLS: "cls", lib.LLAMA_POOLING_TYPE_LAST: "last"}


class FileHeads:
    """Reads the metadata of one file. All methods raise ModelLoadError for values that cannot be used."""

    def __init__(self, options: WorkerOptions, value: Callable[[str], str | None], keys: str) -> None:
        """value: returns a metadata value as text, or None. keys: what the keys of the architecture begin with."""
        self._options = options
        self._value = value
        with self._fatal():
            self.outputs = parse_outputs(value(OUTPUTS_KEY))
        self.pooling = self._pooling(f"{keys}.pooling_type")
        """As in `ModelInfo`."""

    def score_bias(self, architecture: str, heads: int) -> Float32Matrix | None:
        """Return the bias of the attention scores; None if the architecture has none."""
        if architecture != "mpnet":
            return None
        with self._fatal(f"key {SCORE_BIAS_KEY}: "):
            return decode_bias(self._value(SCORE_BIAS_KEY) or "", heads)

    def classifier(self, labels: int, width: int) -> ClassifierHead | None:
        """Return the classifier in the metadata; None if llama.cpp's graph has it, or if there is none."""
        text = self._value(CLASSIFIER_KEY)
        if text is None:
            return None
        with self._fatal(f"{CLASSIFIER_KEY}: "):
            return ClassifierHead(decode_classifier(text, labels, width))

    def dense(self, width: int) -> DenseHead | None:
        """Return the dense layers behind the pooling in the metadata; None if there are none."""
        with self._fatal():
            return read_head(self._value, width)

    def token_heads(
        self, width: int, vocabulary: int, dense: DenseHead | None, make_logits: MakeLogits
    ) -> dict[Output, TokenHead]:
        """Return what computes the outputs of a text from the hidden states of its tokens.

        width: of a hidden state. vocabulary: number of its tokens. dense: the layers behind the pooling.
        """
        with self._fatal():
            heads = read_token_heads(self._value, width, vocabulary, self.outputs, make_logits)
        return heads | {"dense": PooledHead(self.pooling, dense), "tokens": StatesHead()}

    def late_interaction(self, vocabulary: int) -> LateInteraction | None:
        """Return how queries and documents are read for vectors of tokens; None if alike."""
        with self._fatal():
            return read_late_interaction(self._value, vocabulary)

    @contextmanager
    def _fatal(self, where: str = "") -> Iterator[None]:
        """Turn a ValueError into a ModelLoadError: another mode cannot help."""
        try:
            yield
        except ValueError as error:
            raise ModelLoadError(f"{self._options.path}: {where}{error}", fatal=True) from error

    def _pooling(self, key: str) -> str:
        value, path = self._value(key), self._options.path
        if value is None:
            raise ModelLoadError(
                f"{path} has no {key}, so it is unknown how token vectors become one vector: it is a generation model, or "
                "was converted without its pooling. If it is to embed all the same, install it with a pooling: "
                "edgeembed pull FILE --pooling last",
                fatal=True,
            )
        ranks = int(value) == lib.LLAMA_POOLING_TYPE_RANK
        task: Task = "embed" if not ranks else "rerank" if self._value(LABELS_KEY) is None else "classify"
        if task != self._options.task:
            raise ModelLoadError(f"{path} {_DOES[task]}; it is not for the task {self._options.task}", fatal=True)
        if ranks:
            return "rank"
        if int(value) == lib.LLAMA_POOLING_TYPE_NONE and "dense" not in self.outputs:
            return "none"
        if int(value) not in _POOLING:
            raise ModelLoadError(f"{path} has no vector per text: its pooling type is {value}", fatal=True)
        return _POOLING[int(value)]
