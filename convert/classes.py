"""What a checkpoint says of a classifier's outputs: how many there are, their names, and what makes scores of them.

Sources: transformers' PretrainedConfig (id2label, problem_type) and TextClassificationPipeline, which chooses the function;
CrossEncoder of sentence-transformers for the score of a pair.

One output is a reranker's score, unless the caller says that the model is a classifier; several are those of classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf import Keys

from edgeembed.engine.classes import LONGEST_LABELS, MOST_LABELS, Classes, ClassFunction
from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import Checkpoint, torch_class
from edgeembed_convert.jsonfile import read_json
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.prompts import CONFIG_FILE

ACTIVATION_KEY = "edgeembed.rerank.activation"
"""The function that turns the output of a reranker into a score: "sigmoid" or "none"."""

# Class names, the last part of what sentence-transformers' CrossEncoder stores.
_ACTIVATIONS = {"Sigmoid": "sigmoid", "Identity": "none"}
_FUNCTIONS: dict[str, ClassFunction] = {
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": "identity",
}


@dataclass(frozen=True)
class Outputs:
    """The outputs of a classifier."""

    count: int
    metadata: Metadata
    """For the file, without the keys of the architecture."""
    labels: list[str]
    """Their names, if the checkpoint or the task needs any."""

    def keys(self, arch: str) -> Metadata:
        """Return what the file says of the outputs."""
        labels: Metadata = {Keys.Classifier.OUTPUT_LABELS.format(arch=arch): self.labels} if self.labels else {}
        return {**self.metadata, **labels}


def read_outputs(checkpoint: Checkpoint, rows: int) -> Outputs:
    """Return what config.json says of a classifier's outputs. rows: of the weights of its last layer.

    Raises ConversionError.
    """
    check_modules(checkpoint)
    labels = _labels(checkpoint, rows)
    if len(labels) > 1 and checkpoint.task == "rerank":
        raise ConversionError(
            f"{checkpoint.config_file}: the classifier has the labels {labels!r}; a reranker must have one"
        )
    if len(labels) == 1 and checkpoint.task != "classify":
        named = checkpoint.config.get("id2label") is not None
        return Outputs(1, {ACTIVATION_KEY: read_activation(checkpoint)}, labels if named else [])
    classes = Classes(tuple(labels), _function(checkpoint, len(labels)))
    if len(labels) > MOST_LABELS or sum(map(len, map(repr, labels))) > LONGEST_LABELS // 2:
        raise ConversionError(f"{checkpoint.config_file}: the names of {len(labels)} labels are more than a file may have")
    return Outputs(len(labels), {**classes.metadata()}, labels)


def read_activation(checkpoint: Checkpoint) -> str:
    """Return the function that turns the output into a score, as CrossEncoder of sentence-transformers chooses it.

    The default is a sigmoid. Raises ConversionError for any other function.
    """
    return _named_activation(checkpoint) or "sigmoid"


def check_modules(checkpoint: Checkpoint) -> None:
    """Raise ConversionError if modules.json contains more than the encoder."""
    kinds = [kind for kind, _ in checkpoint.modules or []]
    if kinds not in ([], ["Transformer"]):
        raise ConversionError(f"{checkpoint.modules_file}: unexpected modules {', '.join(kinds)}; expected only Transformer")


def _named_activation(checkpoint: Checkpoint) -> str | None:
    """Return the function in CrossEncoder's own file, or else in config.json under the newer or the older key."""
    file = checkpoint.folder / CONFIG_FILE
    newer = checkpoint.config.get("sentence_transformers")
    name = read_json(file).get("activation_fn") if file.is_file() else None
    if name is None and isinstance(newer, dict):
        name = newer.get("activation_fn")
    if name is None:
        name = checkpoint.config.get("sbert_ce_default_activation_function")
    if name is None:
        return None
    activation = _ACTIVATIONS.get(torch_class(name) or "")
    if activation is None:
        raise ConversionError(
            f"{checkpoint.config_file}: the activation {name!r} is not supported; expected Sigmoid or Identity"
        )
    return activation


def _labels(checkpoint: Checkpoint, rows: int) -> list[str]:
    """Return the names in id2label, or else transformers' own for as many outputs as there are."""
    given = checkpoint.config.get("id2label")
    if given is None:
        return [f"LABEL_{number}" for number in range(rows)]
    if not isinstance(given, dict) or set(given) != {str(number) for number in range(len(given))} or not given:
        raise ConversionError(
            f"{checkpoint.config_file}: id2label = {given!r}; expected a name for each of the numbers from 0 on"
        )
    return [str(given[str(number)]) for number in range(len(given))]


def _function(checkpoint: Checkpoint, count: int) -> ClassFunction:
    """Return what makes probabilities of logits, as TextClassificationPipeline chooses it.

    For one label, the function that CrossEncoder would take comes first. Raises ConversionError.
    """
    problem = checkpoint.config.get("problem_type")
    if problem is not None and problem not in _FUNCTIONS:
        raise ConversionError(
            f"{checkpoint.config_file}: problem_type = {problem!r}; expected one of {', '.join(_FUNCTIONS)}"
        )
    if count == 1 and (named := _named_activation(checkpoint)):
        return "identity" if named == "none" else "sigmoid"
    if problem == "regression":
        return "identity"
    if count == 1:
        return "sigmoid"
    return _FUNCTIONS[problem or "single_label_classification"]
