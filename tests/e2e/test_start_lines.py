"""The lines that `edgeembed serve` prints: what a user pastes from them works."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeembed.config.settings import Settings
from edgeembed.server.address import addresses, network_address
from tests.e2e.daemon import Daemon, running

SECRET = "a-key-that-nobody-guesses"
shell_only = pytest.mark.skipif(sys.platform == "win32" or not shutil.which("curl"), reason="a POSIX shell and curl")


def line(daemon: Daemon, label: str) -> str:
    """Return what a line says behind its label."""
    return daemon.wait_for(rf"(?m)^{label}: +(.*)$")[1]


def paste(command: str, **variables: str) -> dict[str, object]:
    """Run a command in a shell; return the JSON that it prints."""
    environment = {**os.environ, **variables}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, timeout=60, check=True)
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def status(url: str) -> int:
    with urllib.request.urlopen(url, timeout=20) as response:
        return int(response.status)


@shell_only
def test_by_default(home: Path, minilm: Callable[[str], Path]) -> None:
    with running("--model", str(minilm("Q8_0")), home=home) as daemon:
        assert "data" in paste(line(daemon, "try"))
        assert line(daemon, "base URL") == f"{daemon.url}/v1" and daemon.url.startswith("http://127.0.0.1:")
        assert status(line(daemon, "dashboard")) == 200
        assert status(f"{line(daemon, 'base URL')}/models") == 200
        assert "network:" not in daemon.log and "API key:" not in daemon.log
        port = daemon.url.rpartition(":")[2]
        for host in addresses(Settings()):
            assert status(f"http://{f'[{host}]' if ':' in host else host}:{port}/v1/models") == 200, (
                "localhost may mean either"
            )


@shell_only
@pytest.mark.parametrize("by", ["variable", "file"])
def test_on_all_addresses_with_a_key(home: Path, minilm: Callable[[str], Path], tmp_path: Path, by: str) -> None:
    file = tmp_path / "keys"
    file.write_text(f"me: {SECRET}\n")
    file.chmod(0o600)
    flags, variables = (("--api-key-file", str(file)), {}) if by == "file" else ((), {"EDGEEMBED_API_KEY": SECRET})
    with running("--model", str(minilm("Q8_0")), "--host", "0.0.0.0", *flags, home=home, **variables) as daemon:
        command = line(daemon, "try")
        assert "data" in paste(command, EDGEEMBED_API_KEY=SECRET)
        assert "error" in paste(command, EDGEEMBED_API_KEY="wrong")
        assert "EDGEEMBED_API_KEY" in line(daemon, "API key")
        assert SECRET not in daemon.log and not re.search(r"http://(0\.0\.0\.0|\[::\])", daemon.log)
        if address := network_address("0.0.0.0"):
            port = daemon.url.rpartition(":")[2]
            assert line(daemon, "network") == f"http://{address}:{port}/v1"
            assert f"for other machines on http://{address}:{port}," in daemon.log
            assert status(f"http://{address}:{port}/health") == 200


@shell_only
def test_on_a_unix_socket(home: Path, minilm: Callable[[str], Path], tmp_path: Path) -> None:
    with running("--model", str(minilm("Q8_0")), "--uds", str(tmp_path / "a socket"), home=home) as daemon:
        assert "data" in paste(line(daemon, "try"))
        assert "base URL:" not in daemon.log


def test_the_address_for_other_machines_is_one_that_they_can_use() -> None:
    assert network_address("127.0.0.1") is None and network_address("192.0.2.7") is None
    for host in ("0.0.0.0", "::"):
        found = network_address(host)  # None without a network
        assert found is None or not ipaddress.ip_address(found).is_unspecified
