"""Fixtures for the tests of conversion."""

from __future__ import annotations

import pytest


@pytest.fixture
def quiet() -> None:
    """Discard llama.cpp's log: it is printed for each model, and its split characters break pytest's capture."""
    from edgeembed.engine.llama.library import send_log_to

    send_log_to(lambda line: None, verbose=False)
