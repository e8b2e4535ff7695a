"""Take a card's memory and hold it until standard input ends: the other program that fallback.py needs.

python -m tests.benchmarks.gpu.hog --leave-mib 300
"""

from __future__ import annotations

import argparse
import sys

MIB = 2**20
PIECE = 256 * MIB


def main() -> None:
    """Take memory, say how much, and wait."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--leave-mib", type=int, required=True)
    options = parser.parse_args()
    import torch

    held = []
    while (free := torch.cuda.mem_get_info()[0]) > options.leave_mib * MIB + 4 * MIB:
        held.append(torch.empty(max(MIB, min(PIECE, free - options.leave_mib * MIB)), dtype=torch.uint8, device="cuda"))
    print(f"holds {sum(each.numel() for each in held) // MIB} MiB, {free // MIB} MiB are free", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
