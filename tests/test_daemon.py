"""What the daemon refuses before it fetches anything."""

from __future__ import annotations

import socket

import pytest

from edgeembed.config import Settings
from edgeembed.daemon import check_address
from edgeembed.errors import ConfigError


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "example.invalid", "::"])
def test_an_address_that_others_reach_needs_a_word_of_consent(host: str) -> None:
    with pytest.raises(ConfigError, match="--no-auth"):
        check_address(Settings(host=host, port=0))
    check_address(Settings(host=host, port=0, no_auth=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_loopback_needs_none(host: str) -> None:
    check_address(Settings(host=host, port=0))


def test_a_busy_port_is_told_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port} is in use.*--port"):
            check_address(Settings(port=port))
    check_address(Settings(port=port))
