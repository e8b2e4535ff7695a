"""Settings and model files that the daemon refuses."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.errors import ConfigError, EngineUnavailableError
from edgeembed.hub.store import Store
from edgeembed.runtime.engines import make_engine
from edgeembed.server.address import check_address
from tests.engine.tiny_qwen3 import make_tiny_qwen3


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "example.invalid", "::"])
def test_an_address_that_others_reach_needs_no_auth_to_be_set(host: str) -> None:
    with pytest.raises(ConfigError, match="--no-auth"):
        check_address(Settings(host=host, port=0))
    check_address(Settings(host=host, port=0, no_auth=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_loopback_needs_no_consent(host: str) -> None:
    check_address(Settings(host=host, port=0))


def test_a_busy_port_is_an_error_that_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port} is in use.*--port"):
            check_address(Settings(port=port))
    check_address(Settings(port=port))


async def test_a_model_file_that_was_replaced_is_not_loaded_under_the_old_digest(tmp_path: Path) -> None:
    paths = Paths.resolve()
    file = make_tiny_qwen3(tmp_path / "model.gguf")
    engine = make_engine(Settings(), paths, Store(paths).local(file))
    make_tiny_qwen3(file, seed=1)
    with pytest.raises(EngineUnavailableError, match="was replaced by another file"):
        await engine.start()
    await engine.close()
