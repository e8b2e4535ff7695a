"""llama.cpp's own headers, for the tests that hold what we assume of it against them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeembed.engine.llama.ggml import LLAMA_CPP_PYTHON
from tests.engine.contract import Contract, fetch_headers
from tests.sharing import once


@pytest.fixture(scope="session")
def contract(shared: Path) -> Contract:
    """Return a compiler with the headers of the llama.cpp that the code is written for."""
    return Contract(
        once(shared / f"llama-cpp-python-{LLAMA_CPP_PYTHON}", lambda target: fetch_headers(LLAMA_CPP_PYTHON, target))
    )
