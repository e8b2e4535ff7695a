"""What `start` does with a service manager whose daemon does not answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeembed.autostart.base import Managed, ServiceManager
from edgeembed.background import control
from edgeembed.background.control import Background
from edgeembed.config.resolution import resolve
from edgeembed.errors import EdgeEmbedError
from tests.ports import free_port


class Silent(ServiceManager):
    """Runs a daemon that listens elsewhere."""

    name = "systemd"

    def inspect(self) -> Managed:
        return Managed("running", 4321)

    def start(self) -> None:
        """It runs already."""

    def stop(self) -> None:
        raise AssertionError("start stops nothing")


def test_a_managed_daemon_that_never_answers_is_not_waited_for_without_end(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    background = Background(resolve({"host": "127.0.0.1", "port": str(free_port())}), [])
    monkeypatch.setattr(background, "_manager_for_start", Silent)
    monkeypatch.setattr(control, "MANAGER_POLL_SECONDS", 0.0)
    monkeypatch.setattr(control, "SILENT_SECONDS", 0.0)
    with pytest.raises(EdgeEmbedError, match=r"systemd runs the daemon, but it does not answer .*edgeembed restart"):
        background.start()
