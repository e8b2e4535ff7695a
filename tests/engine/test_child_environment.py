"""The variables of processes that load llama.cpp."""

from __future__ import annotations

import pytest

from edgeembed.engine.child_environment import child_environment


def test_what_the_libraries_read_is_passed_on() -> None:
    needed = {
        "PATH": "/bin", "HOME": "/root", "TMPDIR": "/tmp", "LC_ALL": "C", "LD_LIBRARY_PATH": "/lib", "PYTHONPATH": "/src",
        "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive", "GGML_CUDA_ENABLE_UNIFIED_MEMORY": "1",
        "LLAMA_CPP_LIB_PATH": "/lib", "CUDA_VISIBLE_DEVICES": "0", "HIP_VISIBLE_DEVICES": "0", "SystemRoot": r"C:\Windows",
    }  # fmt: skip
    assert child_environment(needed) == {**needed, "GGML_NO_BACKTRACE": "1"}


@pytest.mark.parametrize(
    "name",
    ["EDGEEMBED_API_KEY", "EDGEEMBED_HOME", "HF_TOKEN", "LLAMA_API_KEY", "NVIDIA_API_KEY", "OPENAI_API_KEY", "GGML_TOKEN",
     "CUDA_SECRET", "AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY", "PIP_INDEX_URL", "PYTHON_KEYRING_BACKEND",
     "DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK", "MY_PATH", "PATH2"],
)  # fmt: skip
def test_nothing_else_is(name: str) -> None:
    assert name not in child_environment({name: "sesame"})
