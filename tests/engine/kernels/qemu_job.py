"""A program for `qemu-x86_64 -cpu MODEL`: loads our kernels, and prints the level that they choose and what it computes.

    python qemu_job.py LIBRARY [LEVEL]

LEVEL: compute with this one; by default with the one that is chosen. It imports little, because everything is slow there.
"""

import ctypes
import json
import math
import struct
import sys

Q8_0 = 8  # ggml's number
TOKENS, ROWS, COLUMNS = 5, 32, 64

library = ctypes.CDLL(sys.argv[1])
level = int(sys.argv[2]) if len(sys.argv) > 2 else library.edgeembed_kernels_level()
blocks = ROWS * COLUMNS // 32
weights = b"".join(
    struct.pack("<e32b", 0.01 + block / 1000, *(((block * 37 + at * 11) % 255) - 127 for at in range(32)))
    for block in range(blocks)
)
given = (ctypes.c_float * (TOKENS * COLUMNS))(*(math.sin(at) for at in range(TOKENS * COLUMNS)))
product = (ctypes.c_float * (TOKENS * ROWS))()
sizes = (ctypes.c_int64(size) for size in (ROWS, COLUMNS, TOKENS))
library.edgeembed_kernels_multiply(level, Q8_0, weights, given, product, *sizes)
gelu = (ctypes.c_float * 50)()
library.edgeembed_kernels_gelu(level, given, gelu, ctypes.c_int64(50))
norm = (ctypes.c_float * 48)()
library.edgeembed_kernels_norm(level, given, norm, ctypes.c_int64(48), ctypes.c_float(1e-5))
print(json.dumps({"level": level, "numbers": [*product, *gelu, *norm]}))
