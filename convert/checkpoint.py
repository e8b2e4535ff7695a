"""A checkpoint folder in the layout of transformers and sentence-transformers: configuration, pooling, weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from edgeembed.engine.interface import Task
from edgeembed.errors import ConversionError
from edgeembed_convert.adapters import choose_adapter, merged, refuse_adapter_alone
from edgeembed_convert.fp8 import check_quantization, dequantized
from edgeembed_convert.ignored import (
    TOKENIZER_ARGUMENTS,
    refuse_arguments,
    refuse_code,
    refuse_tokenizer_class,
)
from edgeembed_convert.jsonfile import read_json, read_json_value
from edgeembed_convert.late_interaction import LateSettings, read_settings
from edgeembed_convert.prompts import CONFIG_FILE, read_prompts
from edgeembed_convert.routes import ROUTERS, Modules, read_routes
from edgeembed_convert.task_adapters import renamed_for_peft, tasks_of, with_task
from edgeembed_convert.weights import Weights, open_weights

Pooling = Literal["splade"]
"""What a user may say of a checkpoint whose files do not: that a masked language model is a sparse one."""

# sentence-transformers' name -> GGUF's (`{arch}.pooling_type`). The sum over the square root of the number of tokens has the
# direction of the mean, and the daemon normalises rows.
_POOLING = {"mean": "mean", "cls": "cls", "lasttoken": "last", "mean_sqrt_len_tokens": "mean"}
_NOT_IN_LLAMA_CPP = {
    "max": "the largest value of each dimension",
    "weightedmean": "a mean that weights each token by its position",
}
# Older Pooling configs have one boolean per mode.
_POOLING_BOOLEANS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
# Where sentence-transformers looks for the settings of its Transformer module, in this order.
_TRANSFORMER_CONFIGS = [
    "sentence_bert_config.json", "sentence_roberta_config.json", "sentence_distilbert_config.json",
    "sentence_camembert_config.json", "sentence_albert_config.json", "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
]  # fmt: skip
# Files that may contain a model's prompt, besides its model card.
_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
_UNLIMITED = 1e9
_MODULES_OF = "sentence_transformers."
# Normalize and Dropout do not change the direction of the pooled row, and the daemon normalises rows itself. Dense: `dense`.
_READ_MODULES = {"Transformer", "Dense", "Normalize", "Dropout"}
_ENCODERS = ("Transformer", "MLMTransformer")
SPLADE = "SpladePooling"


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: `config` has been read, everything else is read on access."""

    folder: Path
    modules: Modules | None
    """Class and folder of each module; None without modules.json. The classes of sentence-transformers are without their
    package. If queries are read by other modules, these are those for documents."""
    model_folder: Path
    """Folder of the encoder's files: `folder`, or that of the Transformer module."""
    config: dict[str, Any]
    task: Task | None = None
    """The purpose of the model, as given by the caller; for files that do not say it."""
    adapter: Path | None = None
    """The folder of the adapter that is merged into the weights."""
    task_adapter: str | None = None
    """The name of the adapter that is merged, if it is stored among the weights."""
    query_modules: Modules | None = None
    """The modules for queries, if they are not those for documents."""
    is_splade: bool = False
    """Whether it has sparse vectors alone, which a masked language model computes."""

    @property
    def config_file(self) -> Path:
        """The file of `config`, for error messages."""
        return self.model_folder / "config.json"

    @property
    def adapter_name(self) -> str | None:
        """The name of the adapter that is merged; None without one, or if it is the model's only one, beside it."""
        if self.adapter is None or self.adapter.resolve() == self.folder.resolve():
            return self.task_adapter
        return self.adapter.name

    @property
    def modules_file(self) -> Path:
        """The file of `modules`, for error messages."""
        return self.folder / "modules.json"

    @cached_property
    def weights(self) -> Weights:
        """The weights, with checked headers. Raises ConversionError."""
        weights = dequantized(open_weights(self.model_folder), self.config, self.config_file)
        if self.task_adapter:
            weights = with_task(weights, self.config, self.config_file, self.task_adapter)
        return merged(renamed_for_peft(weights, self.config), self.adapter) if self.adapter else weights

    @cached_property
    def lowercases_input(self) -> bool:
        """Whether sentence-transformers lower-cases texts before they are tokenised."""
        file = _transformer_config(self.model_folder)
        value = read_json(file).get("do_lower_case", False) if file else False
        if not isinstance(value, bool):
            raise ConversionError(f"{file}: do_lower_case = {value!r}; expected true or false")
        return value

    @cached_property
    def max_seq_length(self) -> int | None:
        """The length in tokens at which sentence-transformers cuts texts; None if no file says it.

        It is in the settings of its Transformer module, or else that of the tokenizer, where newer versions write it.
        Raises ConversionError.
        """
        if self.late is not None and self.late.document_length is not None:  # the others are ignored then
            return self.late.document_length
        file, tokenizer = _transformer_config(self.model_folder), self.model_folder / "tokenizer_config.json"
        settings = read_json(file) if file else {}
        for arguments in TOKENIZER_ARGUMENTS:
            if isinstance(given := settings.get(arguments), dict) and "model_max_length" in given:
                return _length(given["model_max_length"], f"{file}: {arguments}: model_max_length")
        if settings.get("max_seq_length") is not None:
            return _length(settings["max_seq_length"], f"{file}: max_seq_length")
        value = read_json(tokenizer).get("model_max_length") if tokenizer.is_file() else None
        # Tokenizers without a limit have 1e30.
        unlimited = value is None or (isinstance(value, float) and value >= _UNLIMITED)
        return None if unlimited else _length(value, f"{tokenizer}: model_max_length")

    @cached_property
    def late(self) -> LateSettings | None:
        """What the files of a ColBERT checkpoint say of its vectors; None for others. Raises ConversionError."""
        return read_settings(
            self.folder, self.modules, self.model_folder, self.config, _transformer_config(self.model_folder)
        )

    @cached_property
    def similarity(self) -> str:
        """The function by which sentence-transformers compares vectors: cosine, dot, euclidean or manhattan."""
        file = self.folder / CONFIG_FILE
        value = read_json(file).get("similarity_fn_name") if file.is_file() else None
        return "dot" if value == "dot_product" else str(value or "cosine")

    @property
    def license(self) -> str | None:
        """The licence in the front matter of README.md, if any."""
        return self.card_value("license")

    @cached_property
    def card(self) -> str:
        """README.md, the model card; empty if there is none."""
        file = self.folder / "README.md"
        return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""

    def mentions(self, text: str) -> bool:
        """Return whether the model card or the chat template contains a text."""
        files = [self.model_folder / name for name in _TEMPLATE_FILES]
        return text in self.card or any(
            text in file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()
        )

    def card_value(self, key: str) -> str | None:
        """Return a one-line value from the front matter of README.md; None if it is missing."""
        lines = self.card.splitlines()
        if not lines or lines[0].strip() != "---":
            return None
        for line in lines[1:]:
            if line.strip() == "---":
                return None
            if line.startswith(f"{key}:"):
                return line.removeprefix(f"{key}:").strip().strip("\"'") or None
        return None

    @cached_property
    def prompts(self) -> dict[str, str]:
        """The templates in config_sentence_transformers.json, with the keys of `ModelPlan.prompts`."""
        return read_prompts(self.folder)

    def positive_int(self, key: str, default: int | None = None) -> int:
        """Return a size from config.json. default: if it is missing.

        Raises ConversionError if it is missing without a default, or not a positive integer.
        """
        value = self.config.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**31:
            raise ConversionError(f"{self.config_file}: {key} = {value!r}; expected a positive integer")
        return value

    def pooling(self, hidden_size: int, also: Collection[str] = ()) -> str:
        """Return the pooling of the checkpoint: mean, cls or last; none if it has no dense vectors.

        also: modules that the family converts, besides those of all families.

        Raises ConversionError if the files do not specify it, contradict each other, or use what GGUF cannot express.
        """
        if self.late is not None or self.is_splade:
            return "none"
        if self.modules is None:
            masked = any("ForMaskedLM" in str(name) for name in self.config.get("architectures") or [])
            raise ConversionError(
                f"{self.folder / 'modules.json'}: missing, so the pooling is unknown; only checkpoints of "
                "sentence-transformers, with modules.json and a Pooling folder, can be converted"
                + ("; if this is a SPLADE model, say so with --pooling splade" if masked else "")
            )
        poolings = []
        for kind, folder in self.modules:
            if kind == "Pooling":
                poolings.append(folder / "config.json")
            elif kind not in {*_READ_MODULES, *also}:
                raise ConversionError(f"{self.folder / 'modules.json'}: modules of the kind {kind} cannot be converted")
        if len(poolings) != 1:
            raise ConversionError(f"{self.folder / 'modules.json'}: expected one Pooling module, found {len(poolings)}")
        return _read_pooling(poolings[0], hidden_size)


def open_checkpoint(
    folder: Path,
    task: Task | None = None,
    adapter: str | None = None,
    source: str | None = None,
    pooling: Pooling | None = None,
) -> Checkpoint:
    """Open a checkpoint folder and read its config.json.

    adapter: name or path of the one that is merged. source: what the user called the checkpoint, for messages. pooling: for
    files that do not say it.

    Raises ConversionError if it is not a checkpoint, or contains something that changes vectors but is not read.
    """
    if not folder.is_dir():
        raise ConversionError(f"{folder}: not a folder")
    source = source or str(folder)
    refuse_adapter_alone(folder, source)
    modules, query_modules = _read_modules(folder)
    is_splade = any(kind == SPLADE for kind, _ in modules or [])
    if pooling == "splade" and modules is not None and not is_splade:
        kinds = ", ".join(kind for kind, _ in modules)
        raise ConversionError(f"{folder / 'modules.json'}: the modules {kinds} are not those of a SPLADE model")
    if query_modules is not None and not is_splade:
        raise ConversionError(
            f"{folder / 'modules.json'}: queries are read by another model than documents, which is not "
            "supported for dense vectors"
        )
    encoders = [path for kind, path in modules or [] if kind.rpartition(".")[2] in _ENCODERS]
    if len(encoders) > 1:
        raise ConversionError(f"{folder / 'modules.json'}: expected one Transformer module, found {len(encoders)}")
    model_folder = encoders[0] if encoders else folder
    file = model_folder / "config.json"
    config = read_json(file)
    chosen = choose_adapter(folder, tasks_of(config, file), adapter, source)
    check_quantization(config, file)
    if (tokenizer := model_folder / "tokenizer_config.json").is_file():
        refuse_code(read_json(tokenizer), tokenizer)
    refuse_tokenizer_class(model_folder, config)
    if settings := _transformer_config(model_folder):
        refuse_arguments(read_json(settings), settings)
    return Checkpoint(
        folder,
        modules,
        model_folder,
        config,
        task,
        adapter=None if isinstance(chosen, str) else chosen,
        task_adapter=chosen if isinstance(chosen, str) else None,
        query_modules=query_modules,
        is_splade=is_splade or pooling == "splade",
    )


def torch_class(name: Any) -> str | None:
    """Return the class that a full name such as `torch.nn.modules.linear.Identity` means; None if it is not one of torch."""
    return name.rpartition(".")[2] if isinstance(name, str) and name.startswith("torch.nn.") else None


def _length(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConversionError(f"{where} = {value!r}; expected a positive integer")
    return value


def _transformer_config(folder: Path) -> Path | None:
    return next((folder / name for name in _TRANSFORMER_CONFIGS if (folder / name).is_file()), None)


def _read_modules(folder: Path) -> tuple[Modules | None, Modules | None]:
    """Return the modules of a checkpoint, and those for queries if they are others; None without modules.json."""
    file = folder / "modules.json"
    if not file.is_file():
        return None, None
    entries = read_json_value(file)
    if not isinstance(entries, list):
        raise ConversionError(f"{file}: expected a list of modules")

    def module(kind: Any, path: Any) -> tuple[str, Path]:
        if not isinstance(kind, str) or not isinstance(path, str):
            raise ConversionError(f"{file}: module without type or path: {kind!r}, {path!r}")
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts or "\\" in path:
            raise ConversionError(f"{file}: the path {path!r} is outside the checkpoint's folder")
        # sentence-transformers has moved its classes between Python modules; the class names are stable.
        # A class of another package keeps its full name: only the family that follows its code may accept it.
        name = kind.rpartition(".")[2] if kind.startswith(_MODULES_OF) else kind if "." in kind else f".{kind}"
        return name, folder / parts

    if not all(isinstance(entry, dict) for entry in entries):
        raise ConversionError(f"{file}: expected a list of modules, each with type and path")
    modules = [module(entry.get("type"), entry.get("path")) for entry in entries]
    if not modules or modules[0][0] not in ROUTERS:
        return modules, None
    router = modules[0][1]
    beside = router.relative_to(folder).as_posix()

    def routed(kind: Any, path: Any) -> tuple[str, Path]:
        return module(kind, f"{beside}/{path}" if isinstance(path, str) else path)

    documents, queries = read_routes(router, routed)
    return [*documents, *modules[1:]], None if queries == documents else [*queries, *modules[1:]]


def _read_pooling(file: Path, hidden_size: int) -> str:
    config = read_json(file)
    mode = config.get("pooling_mode")
    if mode is None:
        modes = [
            _POOLING_BOOLEANS.get(key, key) for key, value in config.items() if key.startswith("pooling_mode_") and value
        ]
    else:
        modes = list(mode) if isinstance(mode, list) else [mode]
    if not modes:
        raise ConversionError(f"{file}: no pooling mode; expected one of {', '.join(_POOLING)}")
    name = modes[0] if isinstance(modes[0], str) else ""
    if len(modes) > 1 or name not in _POOLING:
        what = "rows of several poolings, one after the other" if len(modes) > 1 else _NOT_IN_LLAMA_CPP.get(name, "unknown")
        raise ConversionError(
            f"{file}: pooling {' and '.join(map(repr, modes))} ({what}) cannot be converted: llama.cpp does not compute it; "
            f"supported: {', '.join(_POOLING)}"
        )
    if config.get("include_prompt") is False:
        raise ConversionError(f"{file}: include_prompt = false (pooling without the prompt) is not supported by GGUF")
    size = config.get("embedding_dimension", config.get("word_embedding_dimension", hidden_size))
    if size != hidden_size:
        raise ConversionError(f"{file}: the pooling has {size} dimensions, but hidden_size in config.json is {hidden_size}")
    return _POOLING[name]
