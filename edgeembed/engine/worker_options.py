"""What a worker is told when it is started: the model file, and how to run it."""

from __future__ import annotations

import msgspec

from edgeembed.engine.interface import Task


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker shall run a model file: everything that the ladder and the settings decide."""

    path: str
    threads: int
    context_tokens: int
    batch_tokens: int
    mode: str
    extra_buffers: bool
    """Repacked weights and AMX kernels (llama.cpp's `use_extra_bufts`)."""
    oldest_kernels: bool = False
    """Of a build for many processors the module with the oldest kernels, in place of the best one."""
    task: Task = "embed"
    """A file made for the other task is refused."""
    verbose: bool = False
    """Log llama.cpp's informational lines too."""
    bulk_lanes: int | None = None
    """Contexts for bulk loads beside the one for queries; None for as many as threads and memory allow, 0 for none."""
    bulk_niceness: int = 5
    """How far the threads of bulk lanes give way, in steps of Unix's nice; 0 for not at all."""
    pad_from_tokens: int | None = None
    """A lone text of an encoder from this many tokens on is filled up to the 64 at which the faster attention begins; None
    for a guess by the model's width, 0 for never."""
    prefix_tokens: int = 256
    """KV cells for prefixes that several texts of a causal model share, in each context; 0 for none."""
    activity_table: str | None = None
    """File in which the worker notes what it computes (see `ipc.activity_table`), filled in by the supervisor."""
    autotune: bool = False
    """Look how an encoder runs fastest, and run it so; `pad_from_tokens` is not overruled."""
    own_kernels: bool = True
    """Add our kernels to llama.cpp's, where there are extra buffers."""
    device: str = "cpu"
    """Names of ggml's devices for the layers that leave the processor, with commas in between; "cpu" for none."""
    gpu_layers: int = 0
    """The last so many layers go there, the output layer counted as one."""
    main_gpu: int = 0
    """The one of them that keeps what is not split."""
    tensor_split: tuple[float, ...] = ()
    """Shares of the layers on each, where there are several."""
