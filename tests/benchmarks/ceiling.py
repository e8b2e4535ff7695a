"""The ceiling of a forward pass: what the kernel of products alone reaches on all threads at once, and what a model needs.

    python -m tests.benchmarks.ceiling MODEL.gguf [--threads 2] [--tokens 128] [--rounds 5]

All threads multiply at the same time, each its own part of the rows of a matrix, as in a forward pass: two virtual
processors may be the two threads of one core. Weights are packed, tokens quantised, and both have been read before. The rate
of a model is that of its matrices one after the other.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import gguf

from edgeembed.engine.kernels import library_file
from edgeembed.engine.machine import usable_threads

ROWS_OF_A_GROUP = 16
TOKENS = 128
"""Of a batch, as the daemon makes them of bulk loads."""


@dataclass(frozen=True)
class Products:
    """The products of a model with its weights. matrices: how many there are of each shape (rows, columns)."""

    matrices: Mapping[tuple[int, int], int]
    last_only: int = 0
    """Multiplications that a model with last-token pooling does for the last token of a text alone."""

    @classmethod
    def read(cls, file: Path) -> Products:
        """Read the shapes of all weights in the layers of a GGUF file."""
        reader = gguf.GGUFReader(file)
        architecture = str(reader.fields["general.architecture"].contents())
        last = int(reader.fields[f"{architecture}.block_count"].contents()) - 1
        pooling = reader.fields.get(f"{architecture}.pooling_type")
        by_last = pooling is not None and int(pooling.contents()) == gguf.PoolingType.LAST
        matrices: Counter[tuple[int, int]] = Counter()
        last_only = 0
        for tensor in reader.tensors:
            if not (tensor.name.startswith("blk.") and len(tensor.shape) == 2):
                continue
            columns, rows = (int(size) for size in tensor.shape)
            matrices[rows, columns] += 1
            # Keys and values of all tokens are needed in the last layer, and queries are computed with them.
            if by_last and tensor.name.startswith(f"blk.{last}.") and not tensor.name.endswith(_ALL_TOKENS):
                last_only += rows * columns
        return cls(matrices, last_only)

    def of_text(self, tokens: float) -> float:
        """Return the multiplications that a text of so many tokens takes."""
        every = sum(rows * columns * count for (rows, columns), count in self.matrices.items())
        return tokens * (every - self.last_only) + self.last_only

    def rate(self, threads: int, *, tokens: int = TOKENS, seconds: float = 0.6) -> float:
        """Return the multiplications a second of all threads at once. Raises RuntimeError without kernels."""
        each = seconds / len(self.matrices)
        needed = taken = 0.0
        for (rows, columns), count in self.matrices.items():
            number = rows * columns * count
            needed += number
            taken += number / product_rate(rows, columns, threads, tokens=tokens, seconds=each)
        return needed / taken


_ALL_TOKENS = ("attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_qkv.weight")


def product_rate(rows: int, columns: int, threads: int, *, tokens: int, seconds: float) -> float:
    """Return the multiplications a second with a matrix of this shape, whose rows the threads share.

    Raises RuntimeError without kernels, and where the processor supports none of their levels.
    """
    file = library_file()
    if file is None:
        raise RuntimeError("the kernels were not compiled")
    library = ctypes.CDLL(str(file))
    rate = library.edgeembed_kernels_rate
    rate.restype = ctypes.c_double
    rate.argtypes = [ctypes.c_int, *[ctypes.c_int64] * 4]
    level = int(library.edgeembed_kernels_level())
    share = max(rows // threads // ROWS_OF_A_GROUP, 1) * ROWS_OF_A_GROUP
    with ThreadPoolExecutor(threads) as pool:  # ctypes releases the interpreter's lock
        found = sum(pool.map(lambda _: rate(level, share, columns, tokens, int(1000 * seconds)), range(threads)))
    if not found:
        raise RuntimeError("the kernels support no level of this processor")
    return float(found)


def main() -> None:
    """Print a model's multiplications and the rate at which the products alone would do them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=usable_threads())
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    products = Products.read(given.model)
    rates = sorted(products.rate(given.threads, tokens=given.tokens) for _ in range(given.rounds))
    rate, each = statistics.median(rates), products.of_text(100) / 100
    print(f"{each / 1e6:,.2f} million multiplications a token, in texts of 100 tokens")
    print(
        f"{rate / 1e9:,.0f} ({rates[0] / 1e9:,.0f} to {rates[-1] / 1e9:,.0f}) billion a second: {rate / each:,.0f} tokens/s"
    )


if __name__ == "__main__":
    main()
