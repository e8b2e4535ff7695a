"""The best module of kernels for a processor, according to its flags."""

from __future__ import annotations

import pytest

from tests.installers.loading import load

V2 = "fpu sse sse2 ssse3 sse4_1 sse4_2 popcnt"
V3 = f"{V2} avx avx2 bmi1 bmi2 f16c fma"
V4 = f"{V3} avx512f avx512cd avx512vl avx512dq avx512bw"


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("fpu sse sse2", "x64"),
        (V2, "sse42"),
        (f"{V2} avx", "sandybridge"),
        (V3, "haswell"),
        (f"{V3} avx_vnni", "alderlake"),
        (f"{V3} avx512f", "haswell"),  # Knights Landing: AVX-512 without the parts that ggml needs
        (V4, "skylakex"),
        (f"{V4} avx512_vnni", "cascadelake"),
        (f"{V4} avx512_vnni avx512vbmi", "icelake"),
        (f"{V4} avx512_vnni avx512vbmi avx512_bf16 avx_vnni", "zen4"),  # Sapphire Rapids in a machine that hides AMX
        (f"{V4} avx512_vnni avx512vbmi avx512_bf16 amx_tile amx_int8 amx_bf16", "sapphirerapids"),
    ],
)
def test_the_best_supported_variant_is_chosen(flags: str, wanted: str) -> None:
    variant = load("bundle/variant.py")
    assert (
        variant.best(variant.flags_of(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: fpu\n")) == wanted
    )


def test_no_variant_hides_another() -> None:
    """A variant whose flags are a subset of a later one's would always be preferred."""
    needs = list(load("bundle/variant.py").VARIANTS.values())
    assert all(not earlier < later for number, later in enumerate(needs) for earlier in needs[:number])


@pytest.mark.parametrize(
    ("description", "wanted"),
    [
        (
            "SSE3 = 1 | SSSE3 = 1 | AVX = 1 | AVX2 = 1 | F16C = 1 | FMA = 1 | BMI2 = 1 | LLAMAFILE = 1 | REPACK = 1",
            "haswell",
        ),
        ("AVX2 = 1 | AVX512 = 1 | AVX512_VBMI = 1 | AVX512_VNNI = 1 | AVX512_BF16 = 1 | OPENMP = 1", "zen4"),
        ("SSE3 = 1 | SSSE3 = 1 | LLAMAFILE = 1", "sse42"),
        ("LLAMAFILE = 1 | OPENMP = 1", "x64"),
    ],
)
def test_the_variant_in_use_is_recognised_by_its_description(description: str, wanted: str) -> None:
    assert load("bundle/variant.py").computing(f"llama-cpp-python 0.3.36 (CPU : {description})") == wanted
