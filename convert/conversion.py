"""Convert a checkpoint folder to a GGUF file.

Step by step: `open_checkpoint` reads the small files, the family plans the GGUF file (`families/`), `_Job` decides what is
written, and `writer.write_gguf` streams the tensors. With canary rows, or with a type that only llama.cpp writes, there is a
file of the unquantised weights in between, the master.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from gguf import GGML_QUANT_VERSION, GGUFReader, Keys
from gguf.utility import model_weight_count_rounded_notation

from edgeembed import __version__
from edgeembed.engine.interface import TYPE_KEY, Output, Task
from edgeembed.engine.machine import usable_threads
from edgeembed.engine.outputs import OUTPUTS_KEY, parse_outputs
from edgeembed.engine.quantize import QuantizeJob, run_job
from edgeembed.engine.stand_ins import ARCHITECTURE_KEY, STAND_INS
from edgeembed.errors import ConversionError
from edgeembed_convert import canary
from edgeembed_convert.checkpoint import Checkpoint, Pooling, open_checkpoint
from edgeembed_convert.dense import read_dense
from edgeembed_convert.families import find_family
from edgeembed_convert.families.base import ModelPlan
from edgeembed_convert.importance import as_inputs, read_texts
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.notes import NOTES_KEY, notes_on, shorter_length
from edgeembed_convert.outcome import describe_fallbacks, describe_types, effective_type, stays_f32
from edgeembed_convert.outputs import with_outputs
from edgeembed_convert.quantization import (
    MIXTURE_BITS,
    MIXTURES,
    QUANTIZATIONS,
    WEIGHED,
    block_of,
    choose_type,
    file_type,
    file_type_of_tensors,
    parse_quantization,
)
from edgeembed_convert.recipes import RECIPES
from edgeembed_convert.views import Interleaved
from edgeembed_convert.weights import StoredTensor
from edgeembed_convert.writer import OutputTensor, check_target, copy_under_architecture, replacing, temporary, write_gguf

MATRYOSHKA_KEYS = ("edgeembed.matryoshka.min", "edgeembed.matryoshka.max")
_DENSE_IN_GRAPH = "dense_2.weight"
"""A tensor of dense layers that llama.cpp computes."""
MAX_SEQ_LENGTH_KEY = "edgeembed.max_seq_length"
"""The length in tokens at which sentence-transformers cuts texts, if the model takes longer ones."""
FALLBACKS_KEY = "edgeembed.converter.fallbacks"


@dataclass(frozen=True)
class ConversionOptions:
    """How a checkpoint is converted."""

    quantization: str = "Q8_0"
    """One of QUANTIZATIONS, in any case."""
    license: str | None = None
    """Licence to record; default: what the checkpoint's README.md says."""
    source_repo: str | None = None
    source_revision: str | None = None
    name: str | None = None
    """Name to record; default: the last part of `source_repo`, or else the name of the folder."""
    task: Task | None = None
    """What the model computes, for checkpoints whose files do not say it."""
    pooling: Pooling | None = None
    """For a masked language model whose files do not say that it is a sparse one."""
    adapter: str | None = None
    """The adapter to merge into the weights: the name of one in the checkpoint, or the path of its folder."""
    master: Path | None = None
    """Where to keep the file of the unquantised weights; it is removed by default."""
    importance: Path | None = None
    """Texts, one a line, for which columns that matter are rounded with less error. None: no texts, or for recipes ours."""
    proof: bool = True
    """Whether llama.cpp computes canary rows with the unquantised weights, which are stored in the file."""
    sandbox: bool = True
    """Whether processes that run llama.cpp restrict what they may do, where the system can."""


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion."""

    path: Path
    quantization: str
    """The type of most values: the requested one, unless no tensor could take it (see `fallbacks`)."""
    size_bytes: int
    tensors: int
    fallbacks: list[str]
    """One sentence for each group of tensors that could not take the requested type."""
    notes: list[str]
    """What the file does in another way than the checkpoint; see `notes`."""
    source_sha256: str
    architecture: str
    dimensions: int
    pooling: str


def convert_checkpoint(
    source: Path,
    target: Path,
    options: ConversionOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Convert the checkpoint folder `source` to the GGUF file `target`, which is replaced at the end if it exists.

    `progress(done, total)` counts the bytes read for the checksum of the weights, and the bytes written.

    Raises ConversionError with the file and the reason. On errors and interrupts no file is left.
    """
    options = options or ConversionOptions()
    wanted = parse_quantization(options.quantization)
    try:
        checkpoint = open_checkpoint(source, options.task, options.adapter, options.source_repo, options.pooling)
        plan = find_family(checkpoint).plan(checkpoint)
        if options.task not in (None, plan.task):
            raise ConversionError(
                f"{source}: cannot be converted with the task {options.task}: its files are those of a model for the task "
                f"{plan.task}"
            )
        plan = with_outputs(checkpoint, _with_dense(checkpoint, plan))
        _check_lower_casing(checkpoint, plan)
        notes = notes_on(checkpoint, plan, wanted)
        job = _Job(plan, target, wanted, options)
        check_target(target, job.size + job.master_size)
        work = _ByteProgress(checkpoint.weights.size_bytes + job.size + job.master_size, progress)
        sha256 = checkpoint.weights.sha256(work.advance)
        metadata = _metadata(checkpoint, plan, options, sha256) | ({NOTES_KEY: "\n".join(notes)} if notes else {})
    except OSError as error:
        raise ConversionError(f"{source}: not converted: {error}") from error
    fallbacks, effective = job.run(metadata, work)
    work.finish()
    return Conversion(
        path=target,
        quantization=effective,
        size_bytes=target.stat().st_size,
        tensors=len(plan.tensors),
        fallbacks=fallbacks,
        notes=notes,
        source_sha256=sha256,
        architecture=plan.architecture,
        dimensions=plan.dimensions,
        pooling=plan.pooling,
    )


def _with_dense(checkpoint: Checkpoint, plan: ModelPlan) -> ModelPlan:
    """Return the plan with the dense layers that our engine computes."""
    if plan.pooling in ("rank", "none") or any(tensor.name == _DENSE_IN_GRAPH for tensor in plan.tensors):
        return plan
    head = read_dense(checkpoint, plan.dimensions)
    if head is None:
        return plan
    return replace(plan, dimensions=head.outputs, metadata={**plan.metadata, **head.metadata()})


def _check_lower_casing(checkpoint: Checkpoint, plan: ModelPlan) -> None:
    """Raise ConversionError if texts are lower-cased before they are tokenised, which only WordPiece does in llama.cpp."""
    if checkpoint.lowercases_input and plan.metadata.get("tokenizer.ggml.normalizer.lowercase") is not True:
        raise ConversionError(
            f"{checkpoint.model_folder}: do_lower_case = true in sentence-transformers' settings: lower-casing of the "
            "input is supported for WordPiece vocabularies only"
        )


class _ByteProgress:
    """Counts the bytes that have been processed."""

    def __init__(self, total: int, report: Callable[[int, int], None] | None) -> None:
        self._total = total
        self._report = report
        self._done = 0

    def advance(self, count: int) -> None:
        """Add so many bytes."""
        self._done = min(self._total, self._done + count)
        if self._report is not None:
            self._report(self._done, self._total)

    def tensor_done(self, size: int) -> Callable[[int, int], None]:
        """Return a callback for (tensors done, all tensors) of a file of so many bytes."""
        before = 0

        def done(tensors: int, total: int) -> None:
            nonlocal before
            self.advance((tensors - before) * size // max(total, 1))
            before = tensors

        return done

    def finish(self) -> None:
        """Report the total as done: the size of a mixture is an estimate."""
        self.advance(self._total - self._done)


class _Job:
    """Writes the planned file, and the master if one is needed."""

    def __init__(self, plan: ModelPlan, target: Path, wanted: str, options: ConversionOptions) -> None:
        self._plan, self._target, self._wanted, self._options = plan, target, wanted, options
        self._exact = _exact_type(plan)
        self._texts = _texts(wanted, options)
        self._by_llama = wanted in MIXTURES or wanted in RECIPES or bool(self._texts)
        self._outputs = _outputs(plan, self._exact if wanted in MIXTURES else wanted)
        self._originals = _outputs(plan, self._exact)
        self._needs_master = self._by_llama or options.master is not None or (options.proof and wanted != self._exact)
        self.size = _mixture_bytes(plan) if wanted in MIXTURES else sum(output.size_bytes for output in self._outputs)
        """Bytes of the target; an estimate for a mixture."""
        self.master_size = sum(output.size_bytes for output in self._originals) if self._needs_master else 0

    def run(self, metadata: Metadata, work: _ByteProgress) -> tuple[list[str], str]:
        """Write the target; return sentences about tensors of other types, and the type of most values."""
        if self._options.proof:
            width = self._plan.dimensions if self._plan.task == "embed" else _labels(self._plan)
            metadata = metadata | canary.placeholder(width, self._heads, self._plan.task)
        if self._options.master is not None:
            with replacing(self._options.master) as part:
                metadata = self._write_master(part, metadata, work)
            return self._run_with_master(self._options.master, metadata, work)
        if self._needs_master:
            with temporary(self._target) as master:
                return self._run_with_master(master, self._write_master(master, metadata, work), work)
        fallbacks, effective = self._types()
        with replacing(self._target) as part:
            self._write(part, {**metadata, **_type_keys(effective, fallbacks)}, self._outputs, work)
            if self._options.proof:
                canary.fill(part, self._rows(part))
        return fallbacks, effective

    def _write_master(self, file: Path, metadata: Metadata, work: _ByteProgress) -> Metadata:
        """Write the unquantised weights; return the metadata with the canary rows."""
        self._write(file, {**metadata, **_type_keys(self._exact, [])}, self._originals, work)
        if not self._options.proof:
            return metadata
        rows = self._rows(file)
        canary.fill(file, rows)
        return {**metadata, **rows}

    def _rows(self, file: Path) -> dict[str, str]:
        return canary.compute(file, self._heads, self._plan.task, sandbox=self._options.sandbox)

    @property
    def _heads(self) -> list[Output]:
        """The outputs besides the dense row."""
        named = self._plan.metadata.get(OUTPUTS_KEY)
        return [output for output in parse_outputs(None if named is None else str(named)) if output != "dense"]

    def _run_with_master(self, master: Path, metadata: Metadata, work: _ByteProgress) -> tuple[list[str], str]:
        if self._by_llama:
            return self._quantize(master, work.tensor_done(self.size))
        fallbacks, effective = self._types()
        with replacing(self._target) as part:
            self._write(part, {**metadata, **_type_keys(effective, fallbacks)}, self._outputs, work)
        return fallbacks, effective

    def _quantize(self, master: Path, done: Callable[[int, int], None]) -> tuple[list[str], str]:
        """Let llama.cpp write the target; return sentences about tensors of other types, and the type of most values."""
        wanted, block = self._wanted, block_of(self._wanted)
        unfit = Counter(
            tensor.source.shape[-1]
            for tensor in self._plan.tensors
            if not stays_f32(tensor) and tensor.source.shape[-1] % block
        )
        # llama.cpp accepts strings of up to 127 bytes; the tensors themselves say which types it chose.
        note = "; ".join(f"{count} tensors with rows of {length}" for length, count in unfit.items())
        notes = {FALLBACKS_KEY: f"{note} (not a multiple of {block}) have other types"[:127]} if unfit else {}
        forced = self._forced_types()
        if wanted in RECIPES and describe_types(self._plan, wanted, forced)[1] == wanted:
            notes[TYPE_KEY] = wanted
        with replacing(self._target) as part:
            job = QuantizeJob(
                source=str(master),
                target=str(part),
                file_type=file_type(wanted),
                threads=usable_threads(),
                types=forced,
                texts=as_inputs(self._texts, self._plan.task),
                task=self._plan.task,
                notes=notes,
                sandbox=self._options.sandbox,
            )
            if self._plan.architecture in STAND_INS:
                # llama.cpp writes into the file what it is told instead of the file's own metadata.
                notes[ARCHITECTURE_KEY] = STAND_INS[self._plan.architecture]
                with temporary(self._target) as named_otherwise:
                    run_job(msgspec.structs.replace(job, target=str(named_otherwise), notes=notes), done)
                    copy_under_architecture(named_otherwise, part, self._plan.architecture)
            else:
                run_job(job, done)
            types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(part).tensors}
            fallbacks, effective = describe_types(self._plan, wanted, types)
            if effective != wanted:
                _set_file_type(part, file_type_of_tensors(effective))
        return fallbacks, effective

    def _forced_types(self) -> dict[str, str]:
        """Return the types of the tensors for which llama.cpp's own rules do not hold."""
        return {
            output.name: output.type
            for output, tensor in zip(self._outputs, self._plan.tensors, strict=True)
            if len(output.source.shape) > 1 and (tensor.keep_f32 or self._wanted not in MIXTURES)
        }

    def _types(self) -> tuple[list[str], str]:
        return describe_fallbacks(self._outputs, self._wanted), effective_type(self._outputs, self._wanted)

    def _write(self, file: Path, metadata: Metadata, outputs: Sequence[OutputTensor], work: _ByteProgress) -> None:
        write_gguf(file, self._plan.architecture, metadata, outputs, work.advance)


def _metadata(checkpoint: Checkpoint, plan: ModelPlan, options: ConversionOptions, sha256: str) -> Metadata:
    source_repo = options.source_repo or ""
    name = options.name or source_repo.rstrip("/").rpartition("/")[2] or checkpoint.folder.resolve().name
    if checkpoint.adapter_name and not options.name:
        name = f"{name}-{checkpoint.adapter_name}"
    prompts = plan.prompts
    if prompts is None:
        prompts = {} if plan.pooling == "rank" else checkpoint.prompts
    metadata: Metadata = {
        Keys.General.TYPE: "model",
        Keys.General.NAME: name,
        Keys.General.SIZE_LABEL: model_weight_count_rounded_notation(sum(tensor.source.size for tensor in plan.tensors)),
        Keys.General.LICENSE: options.license or checkpoint.license or "",
        Keys.General.QUANTIZATION_VERSION: GGML_QUANT_VERSION,
        Keys.General.SOURCE_REPO_URL: source_repo if "://" in source_repo else "",
        **plan.metadata,
        **{f"edgeembed.prompt.{kind}": template for kind, template in prompts.items()},
        MAX_SEQ_LENGTH_KEY: shorter_length(checkpoint, plan) or "",
        **(dict(zip(MATRYOSHKA_KEYS, plan.matryoshka, strict=True)) if plan.matryoshka else {}),
        "edgeembed.converter.version": __version__,
        "edgeembed.source.repo": source_repo,
        "edgeembed.source.revision": options.source_revision or "",
        "edgeembed.source.adapter": checkpoint.adapter_name or "",
        "edgeembed.source.sha256": sha256,
    }
    # Unknown values get no key.
    return {key: value for key, value in metadata.items() if value not in ("", [])}


def _labels(plan: ModelPlan) -> int:
    """Return the number of scores that a reranker or classifier computes."""
    labels = plan.metadata.get(Keys.Classifier.OUTPUT_LABELS.format(arch=plan.architecture))
    return len(labels) if isinstance(labels, list) else 1


def _type_keys(effective: str, fallbacks: list[str]) -> Metadata:
    keys: Metadata = {Keys.General.FILE_TYPE: file_type(effective)}
    return {**keys, FALLBACKS_KEY: "\n".join(fallbacks)} if fallbacks else keys


def _outputs(plan: ModelPlan, kind: str) -> list[OutputTensor]:
    return [
        OutputTensor(
            tensor.name, tensor.source, choose_type(tensor.name, tensor.source.shape, kind, keep_f32=tensor.keep_f32)
        )
        for tensor in plan.tensors
    ]


def _texts(wanted: str, options: ConversionOptions) -> list[str]:
    """Return the texts for which the importance of columns is measured. Raises ConversionError."""
    if options.importance is None:
        return read_texts() if wanted in RECIPES and RECIPES[wanted].weighed else []
    if wanted not in WEIGHED:
        users = ", ".join(name for name in QUANTIZATIONS if name in WEIGHED)
        raise ConversionError(f"texts for importance have no effect on {wanted}; these types use them: {users}")
    return read_texts(options.importance)


def _exact_type(plan: ModelPlan) -> str:
    """Return the smallest lossless type: F16 or BF16 if all weights have that type, else F32."""
    kinds = {
        tensor.source.dtype if isinstance(tensor.source, StoredTensor | Interleaved) else "F32"
        for tensor in plan.tensors
        if not stays_f32(tensor)
    }
    return kinds.pop() if kinds in ({"F16"}, {"BF16"}) else "F32"


# --- types that llama.cpp writes ----------------------------------------------------------------------------------------


def _mixture_bytes(plan: ModelPlan) -> int:
    """Return an upper estimate of the size of a mixture's file."""
    return sum(tensor.source.size * (32 if stays_f32(tensor) else MIXTURE_BITS) // 8 for tensor in plan.tensors)


def _set_file_type(file: Path, number: int) -> None:
    """Replace the type that llama.cpp wrote into the header by the type of most values."""
    field = GGUFReader(file, "r+").fields[Keys.General.FILE_TYPE]
    field.parts[field.data[0]][0] = number
