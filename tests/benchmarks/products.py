"""How fast each kernel of this processor multiplies each type of weights: ours, and llama.cpp's own (plain, repacked, AMX).

    python -m tests.benchmarks.products [--level 1] [--types Q8_0,Q4_0] [--shape 768x3072]

In G multiplications a second of one thread's processor time, the best of several runs, on weights that do not fit into a
core's own cache: other programs disturb it little. This is what a model's first load measures where it has a choice.
--level: of our kernels, 1 for AVX2, 2 for AVX-VNNI, 3 for AVX-512 VNNI; by default the best one.
"""

from __future__ import annotations

import argparse

import gguf

from edgeembed.engine.llama import kernel_hook
from edgeembed.engine.llama.backends import load_backends
from edgeembed.engine.llama.bindings import lib
from edgeembed.engine.llama.product_choice import REPEATS, TOKENS, Contest

TYPES = ("Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "F16", "BF16")


def rates(contest: Contest, buffer_type: int) -> list[float]:
    """Return G multiplications a second of products with weights in this buffer type, for each of `TOKENS`."""
    measure = contest.products(buffer_type)
    found = []
    for tokens in TOKENS:
        seconds = min([measure(tokens) for _ in range(1 + REPEATS)][1:])
        found.append(contest.multiplications * tokens / seconds / 1e9)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", type=int, choices=kernel_hook.LEVELS)
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--shape", default="768x3072", help="columns x rows")
    given = parser.parse_args()
    columns, rows = map(int, given.shape.split("x"))
    load_backends(oldest=False, gpu=False)
    lib.llama_backend_init()
    lib.llama_log_set(_quiet, None)
    kernels = kernel_hook.install_kernels(given.level)
    print(f"{kernels.words}; weights of {columns} columns and {rows} rows; G multiplications a second and thread\n")
    print(
        "| type | kernels | " + " | ".join(f"{tokens} tokens" for tokens in TOKENS) + " |\n|---|---|" + "---|" * len(TOKENS)
    )
    for name in given.types.split(","):
        with Contest(gguf.GGMLQuantizationType[name].value, (columns, rows)) as contest:
            for label, buffer_type in [(b"as in the file", contest.plain_type), *contest.takers()]:
                figures = " | ".join(f"{rate:.0f}" for rate in rates(contest, buffer_type))
                print(f"| {name} | {label.decode()} | {figures} |", flush=True)


@lib.llama_log_callback
def _quiet(_level: int, _text: bytes, _data: object) -> None:
    """Ignore what llama.cpp logs about each matrix that it repacks."""


if __name__ == "__main__":
    main()
