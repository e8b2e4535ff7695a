"""From a checkpoint folder to a GGUF file: the whole way, in one function."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gguf import GGML_QUANT_VERSION, Keys
from gguf.utility import model_weight_count_rounded_notation

from edgeembed import __version__
from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import open_checkpoint
from edgeembed_convert.families import find_family
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.quantization import FALLBACK, block_values, choose_type, file_type, parse_quantization
from edgeembed_convert.writer import OutputTensor, check_target, write_gguf

MATRYOSHKA_KEYS = ("edgeembed.matryoshka.min", "edgeembed.matryoshka.max")


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
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Convert the checkpoint folder `source` to the GGUF file `target`, replacing an older file of that name at the end.

    `quantization` is one of QUANTIZATIONS, in any case. `license` goes before what the checkpoint's README.md says,
    `name` before the last part of `source_repo`, and that before the folder's name. `progress(done, total)` counts bytes:
    those of the weights, read once for their checksum, and those written.

    Raises ConversionError with the file and the reason; then, and when interrupted, no file is left.
    """
    wanted = parse_quantization(quantization)
    try:
        checkpoint = open_checkpoint(source)
        plan = find_family(checkpoint).plan(checkpoint)
        outputs = [
            OutputTensor(tensor.name, tensor.source, choose_type(tensor.source.shape, wanted, keep_f32=tensor.keep_f32))
            for tensor in plan.tensors
        ]
        check_target(target, outputs)
        total = checkpoint.weights.size_bytes + sum(output.size_bytes for output in outputs)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, total)

        sha256 = checkpoint.weights.sha256(advance)
        license_id = license or checkpoint.license or ""
    except OSError as error:
        raise ConversionError(f"{source}: not converted: {error}") from error
    fallbacks = _describe_fallbacks(outputs, wanted)
    effective = _effective_type(outputs, wanted)
    metadata: Metadata = {
        Keys.General.TYPE: "model",
        Keys.General.NAME: name or (source_repo or "").rstrip("/").rpartition("/")[2] or source.resolve().name,
        Keys.General.SIZE_LABEL: model_weight_count_rounded_notation(sum(output.source.size for output in outputs)),
        Keys.General.LICENSE: license_id,
        Keys.General.FILE_TYPE: file_type(effective),
        Keys.General.QUANTIZATION_VERSION: GGML_QUANT_VERSION,
        Keys.General.SOURCE_REPO_URL: source_repo if source_repo and "://" in source_repo else "",
        **plan.metadata,
        **{f"edgeembed.prompt.{kind}": template for kind, template in plan.prompts.items()},
        **(dict(zip(MATRYOSHKA_KEYS, plan.matryoshka, strict=True)) if plan.matryoshka else {}),
        "edgeembed.converter.version": __version__,
        "edgeembed.converter.fallbacks": fallbacks,
        "edgeembed.source.repo": source_repo or "",
        "edgeembed.source.revision": source_revision or "",
        "edgeembed.source.sha256": sha256,
    }
    # What is not known has no key.
    metadata = {key: value for key, value in metadata.items() if value not in ("", [])}
    size = write_gguf(target, plan.architecture, metadata, outputs, advance)
    return Conversion(
        path=target,
        quantization=effective,
        size_bytes=size,
        tensors=len(outputs),
        fallbacks=fallbacks,
        source_sha256=sha256,
        architecture=plan.architecture,
        dimensions=plan.dimensions,
        pooling=plan.pooling,
    )


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
