"""Settings and model files that the daemon refuses."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.errors import ConfigError, EngineUnavailableError
from edgeembed.hub.store import Store
from edgeembed.runtime.engines import make_engine
from edgeembed.server.address import addresses, open_sockets
from tests.engine.tiny_qwen3 import make_tiny_qwen3
from tests.ports import free_port


def check_address(settings: Settings) -> list[str]:
    """Open the sockets of the settings and close them; return their addresses."""
    found = []
    for opened in open_sockets(settings):
        with opened:
            found.append(opened.getsockname()[0])
    return found


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
    assert check_address(Settings(port=port)) == addresses(Settings())


def test_clients_can_connect_before_the_daemon_answers() -> None:
    port = free_port()
    (opened, *_) = open_sockets(Settings(port=port, host="127.0.0.1"))
    with opened, socket.create_connection(("127.0.0.1", port), timeout=5):
        pass


@pytest.mark.skipif(len(addresses(Settings())) == 1, reason="this system has no IPv6")
def test_a_port_that_is_busy_on_the_second_address_is_an_error_too() -> None:
    """A client that takes localhost for ::1 would reach the other program."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"\[::1\]:{port} is in use.*--host 127\.0\.0\.1"):
            check_address(Settings(port=port))
        check_address(Settings(port=port, host="127.0.0.1"))


def test_without_ipv6_the_other_address_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = socket.socket.bind

    def bind(self: socket.socket, address: tuple[str, int]) -> None:
        if self.family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        usual(self, address)

    monkeypatch.setattr(socket.socket, "bind", bind)
    assert addresses(Settings()) == ["127.0.0.1"]
    check_address(Settings(port=free_port()))


async def test_a_model_file_that_was_replaced_is_not_loaded_under_the_old_digest(tmp_path: Path) -> None:
    paths = Paths.resolve()
    file = make_tiny_qwen3(tmp_path / "model.gguf")
    engine = make_engine(Settings(), paths, Store(paths).local(file))
    make_tiny_qwen3(file, seed=1)
    with pytest.raises(EngineUnavailableError, match="was replaced by another file"):
        await engine.start()
    await engine.close()
