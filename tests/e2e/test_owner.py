"""What the owner of a real daemon does with models over HTTP; the model hub is on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeembed.hub.catalogue import STARTER_MODEL
from tests.e2e.daemon import Daemon, post
from tests.e2e.hub import REPOSITORY, pulls_of, serving_with_hub
from tests.hub.fakes import FakeHub
from tests.waiting import until

pytestmark = pytest.mark.slow

SPEC = f"{STARTER_MODEL}:F16"
HELD = 6_000_000
"""Bytes of a file after which the hub sends nothing more."""


def pull_of(daemon: Daemon, spec: str) -> dict[str, Any] | None:
    status, answer = daemon.get("/v1/admin/models")
    assert status == 200, f"{answer}\n{daemon.log}"
    return next((pull for pull in answer["pulls"] if pull["spec"] == spec), None)


def wait_for(daemon: Daemon, spec: str, state: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        pull = pull_of(daemon, spec)
        return pull if pull and pull["state"] == state else None

    return until(found, seconds=60, found=lambda: f"{pull_of(daemon, spec)}\n{daemon.log}")


def held(daemon: Daemon, spec: str) -> dict[str, Any]:
    """Wait until a download has got as far as the hub lets it."""

    def found() -> dict[str, Any] | None:
        pull = pull_of(daemon, spec)
        return pull if pull and pull["done_bytes"] > HELD // 2 else None

    return until(found, seconds=60, found=lambda: f"{pull_of(daemon, spec)}\n{daemon.log}")


def let_go(hub: FakeHub) -> None:
    hub.hold_at = None
    hub.gate.set()


def test_a_model_of_the_catalogue_is_pulled_made_the_default_and_deleted(
    minilm: Callable[[str], Path], stocked_hub: FakeHub, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    stocked_hub.hold_at = HELD
    with serving_with_hub(stocked_hub, minilm("Q8_0"), home) as daemon:
        status, pull = post(daemon, "/v1/admin/models/pull", model=SPEC)
        assert (status, pull["spec"], pull["state"]) == (202, SPEC, "waiting")
        running = held(daemon, SPEC)
        assert running["state"] == "running" and running["total_bytes"] > 80_000_000, "nobody watches, and it goes on"
        let_go(stocked_hub)
        assert wait_for(daemon, SPEC, "done")["installed"] == SPEC
        status, model = post(daemon, "/v1/admin/models/default", model=SPEC)
        assert status == 200 and "--model" in model["note"]
        assert daemon.embed("a text").shape == (1, 384)
        assert [each["default"] for each in model["types"] if each["type"] == "F16"] == [True]
        status, _ = post(daemon, "/v1/admin/models/delete", model=SPEC)
        assert status == 409, "it is the default"
    assert f'model = "{SPEC}"' in (home / "config.toml").read_text()


@pytest.mark.skipif(os.name != "posix", reason="a process of Windows cannot be interrupted")
def test_a_pull_is_paused_resumed_survives_a_restart_and_is_cancelled(
    minilm: Callable[[str], Path], stocked_hub: FakeHub, tmp_path: Path
) -> None:
    home, spec = tmp_path / "home", f"hf:{REPOSITORY}"

    def kept() -> int:
        return sum(file.stat().st_size for file in home.glob("models/tiny/**/*") if file.is_file())

    stocked_hub.hold_at = HELD
    with serving_with_hub(stocked_hub, minilm("F16"), home) as daemon:
        post(daemon, "/v1/admin/models/pull", model=spec)
        held(daemon, spec)
        assert post(daemon, "/v1/admin/models/pull/pause", model=spec)[1]["state"] == "paused"
        assert not pulls_of(daemon) and kept() > HELD // 2, "what has arrived is kept"
        post(daemon, "/v1/admin/models/pull", model=spec)
        wait_for(daemon, spec, "running")
        assert daemon.stop() == 0
    with serving_with_hub(stocked_hub, minilm("F16"), home) as daemon:
        left = pull_of(daemon, spec)
        assert left is not None and left["state"] == "paused" and left["done_bytes"] > HELD // 2, "it is remembered"
        post(daemon, "/v1/admin/models/pull", model=spec)
        wait_for(daemon, spec, "running")
        assert post(daemon, "/v1/admin/models/pull/cancel", model=spec)[0] == 200
        assert pull_of(daemon, spec) is None and kept() == 0 and not pulls_of(daemon)
        let_go(stocked_hub)
        post(daemon, "/v1/admin/models/pull", model=spec)
        assert wait_for(daemon, spec, "done")["installed"] == "tiny:Q8_0"
        assert post(daemon, "/v1/admin/models/delete", model="tiny:Q8_0")[0] == 200 and kept() == 0
