"""Causes are read out of the texts of others, and of nothing that we say ourselves."""

from __future__ import annotations

import errno

import pytest

from edgeembed.engine.canary import CanaryError
from edgeembed.engine.causes import CAUSES, cause_in_foreign_text, cause_of_os_error
from edgeembed.engine.llama import library


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("CUDA error: out of memory", "out_of_memory"),
        ("alloc_buffer: allocating 900.00 MiB on device 0: cudaMalloc failed: out of memory", "out_of_memory"),
        ("vk::Device::allocateMemory: ErrorOutOfDeviceMemory", "out_of_memory"),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "out_of_memory"),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 3.00 GiB", "out_of_memory"),
        ("CUDA error: CUDA driver version is insufficient for CUDA runtime version", "driver_too_old"),
        ("CUDA error: the provided PTX was compiled with an unsupported toolchain.", "driver_too_old"),
        ("CUDA error: no kernel image is available for execution on the device", "driver_too_old"),
        ("OSError: libcuda.so.1: cannot open shared object file", "no_driver"),
        ("CUDA error: no CUDA-capable device is detected", "no_device"),
        ("CUDA error: unspecified launch failure", "device_lost"),
        ("vk::Queue::submit: ErrorDeviceLost", "device_lost"),
        ("CUDA error: an illegal memory access was encountered", "device_lost"),
        ("gguf_init_from_file: failed to open GGUF file 'm.gguf' (Permission denied)", "refused"),
        ("libgomp: Thread creation failed: Operation not permitted", "refused"),
        ("PermissionError", "refused"),
        ("Fatal Python error: Aborted", None),
        ("GGML_ASSERT(n_tokens_all <= cparams.n_batch) failed", None),
    ],
)  # fmt: skip
def test_a_text_of_a_driver_or_of_llama_cpp_names_its_cause(text: str, cause: str | None) -> None:
    assert cause_in_foreign_text(text) == cause
    assert cause is None or cause in CAUSES


@pytest.mark.parametrize(
    "text",
    [
        "canary text 3 computed alone gave a row that is not finite",
        "no progress for 61 s while computing 1 text of at most 9 tokens",
        "no answer for 300 s while loading the model",
        "ended by SIGKILL while computing the canary texts",
        "ended with exit status 1 while starting",
        "this build of llama.cpp has no kernels for GPUs",
        "llama.cpp finds no device CUDA1",
        "llama.cpp cannot compute this batch (code -2)",
    ],
)
def test_what_we_say_ourselves_is_not_read(text: str) -> None:
    assert cause_in_foreign_text(text) is None


@pytest.mark.parametrize(
    ("logged", "cause"),
    [
        ([], "other"),
        (["llama_model_load: error loading model: unknown model architecture: 'x'"], "other"),
        (
            ["ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory", "failed to load"],
            "out_of_memory",
        ),
    ],
)
def test_the_latest_errors_that_llama_cpp_logged_name_the_cause(
    logged: list[str], cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_recent_errors", logged)
    assert library.logged_cause(otherwise="other") == cause


def test_wrong_canary_rows_and_a_process_without_memory_have_their_causes() -> None:
    assert CanaryError("canary rows are too far off").cause == "wrong_vectors"
    assert cause_of_os_error(OSError(errno.ENOMEM, "Cannot allocate memory")) == "out_of_memory"
    assert cause_of_os_error(FileNotFoundError(errno.ENOENT, "No such file or directory")) == "other"
