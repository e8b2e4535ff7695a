"""The word for what was said."""

from __future__ import annotations

import pytest

from edgeembed.engine.causes import cause_of


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("ended by SIGABRT while computing: CUDA error: out of memory", "out_of_memory"),
        ("llama.cpp cannot make a context of 4096 tokens (not enough memory?)", "out_of_memory"),
        ("alloc_buffer: allocating 900.00 MiB on device 0: cudaMalloc failed: out of memory", "out_of_memory"),
        ("vk::Device::allocateMemory: ErrorOutOfDeviceMemory", "out_of_memory"),
        ("out of memory before loading: the model would take 900 MiB, and CUDA0 has room for 3 MiB", "out_of_memory"),
        ("CUDA error: CUDA driver version is insufficient for CUDA runtime version", "driver_too_old"),
        ("CUDA error: the provided PTX was compiled with an unsupported toolchain.", "driver_too_old"),
        ("CUDA error: no kernel image is available for execution on the device", "driver_too_old"),
        ("OSError: libcuda.so.1: cannot open shared object file", "no_driver"),
        ("there is no NVIDIA driver: its library is missing", "no_driver"),
        ("libggml-cuda.so cannot be loaded: undefined symbol: cudaMalloc", "no_driver"),
        ("CUDA error: no CUDA-capable device is detected", "no_device"),
        ("llama.cpp finds no device CUDA1", "no_device"),
        ("CUDA_VISIBLE_DEVICES is '', so that no program sees a GPU", "no_device"),
        ("ended by SIGABRT while computing: CUDA error: unspecified launch failure", "device_lost"),
        ("vk::Queue::submit: ErrorDeviceLost", "device_lost"),
        ("CUDA error: an illegal memory access was encountered", "device_lost"),
        ("canary text 3 computed alone gave a row that is not finite", "wrong_vectors"),
        ("nothing has come for 61 s while computing 1 text of at most 9 tokens", "hang"),
        ("no answer for 300 s while loading the model", "hang"),
        ("ended by SIGKILL while loading the model", "killed"),
        ("ended by SIGSEGV while computing", "crash"),
        ("ended with exit status 1 while starting", "crash"),
        ("something else", "other"),
    ],
)  # fmt: skip
def test_a_reason_has_one_cause(said: str, cause: str) -> None:
    assert cause_of(said) == cause
