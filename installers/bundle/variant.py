#!/usr/bin/env python3
"""Print which of llama.cpp's modules for x86-64 fits this processor best, according to its flags in /proc/cpuinfo.

With llama.cpp's description of itself ("CPU : AVX = 1 | …", in GET /v1/status) as argument, print which module is used
there; the checks compare the two. llama.cpp queries the processor (`ggml_backend_score`); this uses /proc/cpuinfo and the
list in ggml's CMakeLists.txt, so that both cannot be wrong in the same way.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_AVX2 = {"sse4_2", "avx", "f16c", "fma", "avx2", "bmi2"}
_AVX512 = _AVX2 | {"avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"}
VARIANTS: dict[str, set[str]] = {
    "sapphirerapids": _AVX512 | {"avx512vbmi", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8"},
    "zen4": _AVX512 | {"avx512vbmi", "avx512_vnni", "avx512_bf16"},
    "cooperlake": _AVX512 | {"avx512_vnni", "avx512_bf16"},
    "icelake": _AVX512 | {"avx512vbmi", "avx512_vnni"},
    "cascadelake": _AVX512 | {"avx512_vnni"},
    "cannonlake": _AVX512 | {"avx512vbmi"},
    "skylakex": _AVX512,
    "alderlake": _AVX2 | {"avx_vnni"},
    "haswell": _AVX2,
    "piledriver": {"sse4_2", "avx", "f16c", "fma"},
    "ivybridge": {"sse4_2", "avx", "f16c"},
    "sandybridge": {"sse4_2", "avx"},
    "sse42": {"sse4_2"},
    "x64": set(),
}
"""The flags that each variant needs, the best variant first."""


_FEATURES: dict[str, set[str]] = {
    "SSSE3": {"sse4_2"},
    **{name: {name.lower()} for name in ("AVX", "AVX2", "F16C", "FMA", "BMI2", "AVX_VNNI", "AVX512_VNNI", "AVX512_BF16")},
    "AVX512": _AVX512,
    "AVX512_VBMI": {"avx512vbmi"},
    "AMX_INT8": {"amx_tile", "amx_int8"},
}
"""llama.cpp's names of compiled-in features -> flags."""


def best(flags: set[str]) -> str:
    """Return the best variant for a processor with these flags."""
    return next(name for name, needs in VARIANTS.items() if needs <= flags)


def flags_of(cpuinfo: str) -> set[str]:
    """Return the flags of the first processor in the text of /proc/cpuinfo."""
    return next((set(line.partition(":")[2].split()) for line in cpuinfo.splitlines() if line.startswith("flags")), set())


def computing(llama_cpp: str) -> str:
    """Return the variant with this description of llama.cpp."""
    named = set(re.findall(r"(\w+) = 1", llama_cpp))
    return best({flag for name, flags in _FEATURES.items() if name in named for flag in flags})


if __name__ == "__main__":
    found = computing(sys.argv[1]) if sys.argv[1:] else best(flags_of(Path("/proc/cpuinfo").read_text(encoding="utf-8")))
    sys.stdout.write(f"{found}\n")
