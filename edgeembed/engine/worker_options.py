"""The options of a worker: the model file, and how to run it."""

from __future__ import annotations

import msgspec

from edgeembed.common.files import FileIdentity
from edgeembed.engine.interface import Task

MetadataValue = bool | int | str


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker runs a model file: everything that the execution mode, the settings and the run profile decide."""

    path: str
    file: FileIdentity | None = None
    """The file at `path` whose digest is known; the worker loads no other. None: whatever is there."""
    threads: int
    context_tokens: int
    batch_tokens: int
    mode: str
    extra_buffers: bool
    """Repacked weights and AMX kernels (llama.cpp's `use_extra_bufts`)."""
    oldest_kernels: bool = False
    """In a build for many processors, use the module with the oldest kernels instead of the best one."""
    task: Task = "embed"
    """The worker rejects a file made for another task."""
    verbose: bool = False
    """Log llama.cpp's informational lines too."""
    bulk_lanes: int | None = None
    """Number of contexts for bulk loads beside the one for queries; None for as many as threads and memory allow."""
    bulk_niceness: int = 5
    """Unix nice value of the threads of bulk lanes."""
    pad_from_tokens: int | None = None
    """A lone text of an encoder with this many tokens or more is padded to the 64 at which a faster attention kernel starts;
    None for a guess by the model's width, 0 for never."""
    prefix_tokens: int = 256
    """KV cells, in each context, for prefixes that texts of a causal model share; 0 for none."""
    activity_table: str | None = None
    """File of the activity table (see `ipc.activity_table`); set by the supervisor."""
    reduction: int = 0
    """Steps by which it is to be smaller than these options say; see `context_plan.reduced`."""
    autotune: bool = False
    """Measure how an encoder runs fastest, and run it so; `pad_from_tokens` takes precedence if it is set."""
    metadata: dict[str, MetadataValue] = {}
    """Metadata that is used instead of the file's, where that is known to be wrong or missing."""
    own_kernels: bool = True
    """Add our kernels to llama.cpp's, if `extra_buffers` is set."""
    left_types: tuple[int, ...] | None = None
    """Types of weights, as ggml's numbers, that our kernels leave to llama.cpp's; None to measure it."""
    sandbox: bool = True
    """Restrict what the worker may do, where the system can (see `edgeembed.engine.sandbox`)."""
    device: str = "cpu"
    """Names of ggml's devices for the offloaded layers, separated by commas; "cpu" for none."""
    gpu_layers: int = 0
    """Number of layers that are offloaded, from the last one on; the output layer counts as one."""
    main_gpu: int = 0
    """The device that keeps what is not split."""
    tensor_split: tuple[float, ...] = ()
    """Shares of the layers on each device, where there are several."""
