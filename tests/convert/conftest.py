"""Fixtures for the tests of conversion."""

from __future__ import annotations

import pytest


@pytest.fixture
def quiet() -> None:
    """Discard llama.cpp's log: each load of a model prints it, and characters cut in two break the capture of output."""
    from edgeembed.engine.llama.library import send_log_to

    send_log_to(lambda line: None, verbose=False)
