"""From a checkpoint folder to a GGUF file: the whole way, in one function."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gguf import GGML_QUANT_VERSION, GGUFReader, Keys
from gguf.utility import model_weight_count_rounded_notation

from edgeembed import __version__
from edgeembed.engine.machine import usable_threads
from edgeembed.engine.quantize import QuantizeJob, run_job
from edgeembed.errors import ConversionError
from edgeembed_convert import canary
from edgeembed_convert.checkpoint import Checkpoint, Task, open_checkpoint
from edgeembed_convert.families import find_family
from edgeembed_convert.families.base import ModelPlan, PlannedTensor
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.quantization import (
    FALLBACK,
    MIXTURE_BITS,
    MIXTURE_BLOCK,
    MIXTURES,
    block_values,
    choose_type,
    file_type,
    file_type_of_tensors,
    parse_quantization,
)
from edgeembed_convert.weights import StoredTensor
from edgeembed_convert.writer import OutputTensor, check_target, hidden_part, replacing, write_gguf

MATRYOSHKA_KEYS = ("edgeembed.matryoshka.min", "edgeembed.matryoshka.max")
FALLBACKS_KEY = "edgeembed.converter.fallbacks"


@dataclass(frozen=True)
class Conversion:
    """What came out of a conversion."""

    path: Path
    quantization: str
    """The type of most values: the one asked for, unless no tensor could take it (see `fallbacks`)."""
    size_bytes: int
    tensors: int
    fallbacks: list[str]
    """One sentence for each group of tensors that could not take the type asked for."""
    source_sha256: str
    architecture: str
    dimensions: int
    pooling: str


def convert_checkpoint(
    source: Path,
    target: Path,
    *,
    quantization: str = "Q8_0",
    license: str | None = None,  # noqa: A002 - the name of the metadata key
    source_repo: str | None = None,
    source_revision: str | None = None,
    name: str | None = None,
    task: Task | None = None,
    master: Path | None = None,
    proof: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Convert the checkpoint folder `source` to the GGUF file `target`, replacing an older file of that name at the end.

    `quantization` is one of QUANTIZATIONS, in any case. `license` goes before what the checkpoint's README.md says,
    `name` before the last part of `source_repo`, and that before the folder's name. `progress(done, total)` counts bytes:
    those of the weights, read once for their checksum, and those written. `task` says whether the model gives vectors or
    scores, for checkpoints whose own files do not say it.

    With `proof`, llama.cpp computes canary rows from the weights as they are, which go into the file. That, and the types
    that only llama.cpp writes, take a file of the unquantised weights: it is kept as `master`, or removed.

    Raises ConversionError with the file and the reason; then, and when interrupted, no file is left.
    """
    wanted = parse_quantization(quantization)
    try:
        checkpoint = open_checkpoint(source, task)
        plan = find_family(checkpoint).plan(checkpoint)
        if task is not None and (task == "rerank") != (plan.pooling == "rank"):
            raise ConversionError(f"{source}: is no model to {task} with: its own files say {plan.pooling} pooling")
        exact = _exact_type(plan)
        scores = plan.pooling == "rank"
        mixture = wanted in MIXTURES
        outputs = _outputs(plan, exact if mixture else wanted)
        originals = _outputs(plan, exact)
        needs_master = mixture or master is not None or (proof and wanted != exact)
        size = _mixture_bytes(plan) if mixture else sum(output.size_bytes for output in outputs)
        master_size = sum(output.size_bytes for output in originals) if needs_master else 0
        check_target(target, size + master_size)
        work = _Progress(checkpoint.weights.size_bytes + size + master_size, progress)
        sha256 = checkpoint.weights.sha256(work.advance)
        metadata = _metadata(checkpoint, plan, license, source_repo, source_revision, name, sha256)
    except OSError as error:
        raise ConversionError(f"{source}: not converted: {error}") from error
    if proof:
        metadata |= canary.placeholder(_labels(plan) if scores else plan.dimensions, scores=scores)

    if not needs_master:
        fallbacks, effective = _describe_fallbacks(outputs, wanted), _effective_type(outputs, wanted)
        with replacing(target) as part:
            write_gguf(part, plan.architecture, {**metadata, **_type_keys(effective, fallbacks)}, outputs, work.advance)
            if proof:
                canary.fill(part, canary.compute(part, scores=scores))
    else:
        with _master_file(target, master) as original:
            keys = {**metadata, **_type_keys(exact, [])}
            write_gguf(original, plan.architecture, keys, originals, work.advance)
            if proof:
                rows = canary.compute(original, scores=scores)
                canary.fill(original, rows)
                metadata = canary.filled(metadata, rows)
            if mixture:
                fallbacks, effective = _quantize(original, target, plan, wanted, size, work)
            else:
                fallbacks, effective = _describe_fallbacks(outputs, wanted), _effective_type(outputs, wanted)
                keys = {**metadata, **_type_keys(effective, fallbacks)}
                write_gguf(target, plan.architecture, keys, outputs, work.advance)
    work.finish()
    return Conversion(
        path=target,
        quantization=effective,
        size_bytes=target.stat().st_size,
        tensors=len(outputs),
        fallbacks=fallbacks,
        source_sha256=sha256,
        architecture=plan.architecture,
        dimensions=plan.dimensions,
        pooling=plan.pooling,
    )


class _Progress:
    """Counts bytes of work done."""

    def __init__(self, total: int, report: Callable[[int, int], None] | None) -> None:
        self._total = total
        self._report = report
        self._done = 0

    def advance(self, count: int) -> None:
        """Say that so many bytes more are done."""
        self._done = min(self._total, self._done + count)
        if self._report is not None:
            self._report(self._done, self._total)

    def finish(self) -> None:
        """Say that nothing is left: the size of a mixture is an estimate."""
        self.advance(self._total - self._done)


def _metadata(
    checkpoint: Checkpoint,
    plan: ModelPlan,
    license_: str | None,
    source_repo: str | None,
    source_revision: str | None,
    name: str | None,
    sha256: str,
) -> Metadata:
    prompts = plan.prompts or ({} if plan.pooling == "rank" else checkpoint.prompts)
    metadata: Metadata = {
        Keys.General.TYPE: "model",
        Keys.General.NAME: name or (source_repo or "").rstrip("/").rpartition("/")[2] or checkpoint.folder.resolve().name,
        Keys.General.SIZE_LABEL: model_weight_count_rounded_notation(sum(tensor.source.size for tensor in plan.tensors)),
        Keys.General.LICENSE: license_ or checkpoint.license or "",
        Keys.General.QUANTIZATION_VERSION: GGML_QUANT_VERSION,
        Keys.General.SOURCE_REPO_URL: source_repo if source_repo and "://" in source_repo else "",
        **plan.metadata,
        **{f"edgeembed.prompt.{kind}": template for kind, template in prompts.items()},
        **(dict(zip(MATRYOSHKA_KEYS, plan.matryoshka, strict=True)) if plan.matryoshka else {}),
        "edgeembed.converter.version": __version__,
        "edgeembed.source.repo": source_repo or "",
        "edgeembed.source.revision": source_revision or "",
        "edgeembed.source.sha256": sha256,
    }
    # What is not known has no key.
    return {key: value for key, value in metadata.items() if value not in ("", [])}


def _labels(plan: ModelPlan) -> int:
    """Give the number of scores that a reranker gives."""
    labels = plan.metadata.get(Keys.Classifier.OUTPUT_LABELS.format(arch=plan.architecture))
    return len(labels) if isinstance(labels, list) else 1


def _type_keys(effective: str, fallbacks: list[str]) -> Metadata:
    keys: Metadata = {Keys.General.FILE_TYPE: file_type(effective)}
    return {**keys, FALLBACKS_KEY: "\n".join(fallbacks)} if fallbacks else keys


def _outputs(plan: ModelPlan, kind: str) -> list[OutputTensor]:
    return [
        OutputTensor(tensor.name, tensor.source, choose_type(tensor.source.shape, kind, keep_f32=tensor.keep_f32))
        for tensor in plan.tensors
    ]


def _describe_fallbacks(outputs: Sequence[OutputTensor], wanted: str) -> list[str]:
    """Say which tensors could not take the wanted type: one sentence for each row length."""
    names: dict[int, list[str]] = defaultdict(list)
    for output in outputs:
        if output.type == FALLBACK != wanted:
            names[output.source.shape[-1]].append(output.name)
    return [
        f"{len(found)} tensors with rows of {length} values are {FALLBACK}: {wanted} needs a multiple of"
        f" {block_values(wanted)} ({', '.join(found)})"
        for length, found in names.items()
    ]


def _effective_type(outputs: Sequence[OutputTensor], wanted: str) -> str:
    """Give the type of most values among the tensors that are not F32 by rule, so that no file carries a misleading name."""
    values = Counter[str]()
    for output in outputs:
        if output.type != "F32":
            values[output.type] += output.source.size
    return values.most_common(1)[0][0] if values else wanted


def _exact_type(plan: ModelPlan) -> str:
    """Give the smallest type that holds every weight as it is: F16 or BF16 where all are, else F32."""
    kinds = {
        tensor.source.dtype if isinstance(tensor.source, StoredTensor) else "F32"
        for tensor in plan.tensors
        if not _stays_f32(tensor)
    }
    return kinds.pop() if kinds in ({"F16"}, {"BF16"}) else "F32"


# --- types that llama.cpp writes ----------------------------------------------------------------------------------------


@contextmanager
def _master_file(target: Path, master: Path | None) -> Iterator[Path]:
    """Give the path of the file of unquantised weights: where it shall stay, or a hidden one that is removed."""
    if master is not None:
        yield master
        return
    hidden = hidden_part(target)
    try:
        yield hidden
    finally:
        hidden.unlink(missing_ok=True)


def _mixture_bytes(plan: ModelPlan) -> int:
    """Estimate the bytes of a mixture's file, rather too high than too low."""
    return sum(tensor.source.size * (32 if _stays_f32(tensor) else MIXTURE_BITS) // 8 for tensor in plan.tensors)


def _stays_f32(tensor: PlannedTensor) -> bool:
    return tensor.keep_f32 or len(tensor.source.shape) < 2


def _quantize(
    original: Path, target: Path, plan: ModelPlan, wanted: str, size: int, work: _Progress
) -> tuple[list[str], str]:
    """Let llama.cpp write the target; gives the sentences about fall-back types, and the type that most values have."""
    keep = [tensor.name for tensor in plan.tensors if tensor.keep_f32 and len(tensor.source.shape) > 1]
    unfit = Counter(
        tensor.source.shape[-1]
        for tensor in plan.tensors
        if not _stays_f32(tensor) and tensor.source.shape[-1] % MIXTURE_BLOCK
    )
    # llama.cpp takes no longer string than 127 bytes; which types it chose is in the tensors themselves.
    note = "; ".join(f"{count} tensors with rows of {length}" for length, count in unfit.items())
    notes = {FALLBACKS_KEY: f"{note} (no multiple of {MIXTURE_BLOCK}) have other types"[:127]} if unfit else {}
    steps = 0

    def tensor_done(done: int, total: int) -> None:
        nonlocal steps
        work.advance((done - steps) * size // max(total, 1))
        steps = done

    with replacing(target) as part:
        job = QuantizeJob(str(original), str(part), file_type(wanted), usable_threads(), keep, notes)
        run_job(job, tensor_done)
        types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(part).tensors}
        values = Counter[str]()
        fallen: dict[int, Counter[str]] = defaultdict(Counter)
        for tensor in plan.tensors:
            # llama.cpp gives the token embeddings a better type than the rest; they would outvote it in a small model.
            if not _stays_f32(tensor) and tensor.name != "token_embd.weight":
                values[types[tensor.name]] += tensor.source.size
            if not _stays_f32(tensor) and tensor.source.shape[-1] in unfit:
                fallen[tensor.source.shape[-1]][types[tensor.name]] += 1
        belongs = sum(values[kind] for kind in MIXTURES[wanted])
        effective = wanted if 2 * belongs >= values.total() else values.most_common(1)[0][0]
        if effective != wanted:
            _set_file_type(part, file_type_of_tensors(effective))
    return [
        f"{kinds.total()} tensors with rows of {length} values cannot be {wanted}, which needs a multiple of"
        f" {MIXTURE_BLOCK}: " + ", ".join(f"{count} are {kind}" for kind, count in kinds.most_common())
        for length, kinds in fallen.items()
    ], effective


def _set_file_type(file: Path, number: int) -> None:
    """Correct the type that llama.cpp wrote into the header: a file should not be called what it is not."""
    field = GGUFReader(file, "r+").fields[Keys.General.FILE_TYPE]
    field.parts[field.data[0]][0] = number
