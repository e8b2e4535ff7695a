"""The first start: the default model or, if the hub cannot be reached, the starter; and the saved choice."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path

import msgspec
import pytest

from edgeembed.config.paths import Paths
from edgeembed.config.resolution import resolve
from edgeembed.config.settings import Settings
from edgeembed.errors import ChecksumError, HubError, SourceUnreachableError
from edgeembed.hub.catalogue import DEFAULT_MODEL, STARTER_MODEL
from edgeembed.hub.install import ensure_installed, first_model
from edgeembed.models.pending import PendingModel
from edgeembed.runtime.default_model import find_default
from tests.fakes import Lines
from tests.hub.fakes import DEFAULT_FILE, DEFAULT_REPO, FakeConverter, FakeHub, leftovers

pytestmark = pytest.mark.usefixtures("small_catalogue")


def test_the_hub_answers(paths: Paths, settings: Settings, report: Lines, hub: FakeHub) -> None:
    model = first_model(paths=paths, settings=settings, report=report)
    assert model.name == DEFAULT_MODEL
    assert resolve().settings.model == f"{DEFAULT_MODEL}:Q8_0"
    assert "Written by edgeembed on" in paths.config_file.read_text()
    assert str(paths.config_file) in str(report)


@pytest.mark.parametrize("hub_state", ["closed_port", "black_hole"])
def test_the_hub_cannot_be_reached(
    hub_state: str,
    request: pytest.FixtureRequest,
    paths: Paths,
    settings: Settings,
    report: Lines,
    wheelhouse: Path,
    converter: FakeConverter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request.getfixturevalue(hub_state)
    model = first_model(paths=paths, settings=settings, report=report)
    assert model.name == STARTER_MODEL
    said = str(report)
    assert "127.0.0.1 cannot be reached" in said
    assert f"To keep the starter: edgeembed config set model {STARTER_MODEL}" in said
    assert resolve().settings.model is None, "the starter is chosen for ever"

    # The hub is back.
    fake = FakeHub()
    fake.files[DEFAULT_REPO] = {"tiny-Q8_0.gguf": DEFAULT_FILE}
    monkeypatch.setenv("HF_ENDPOINT", fake.url)
    try:
        assert first_model(paths=paths, settings=settings, report=report).name == DEFAULT_MODEL
        assert resolve().settings.model == f"{DEFAULT_MODEL}:Q8_0"
        assert "its vectors cannot be compared" in str(report)
    finally:
        fake.close()


def test_a_token_that_the_hub_refuses_is_left_out_for_a_public_model(
    paths: Paths, settings: Settings, report: Lines, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_expired00000000")
    hub.expired.add("hf_expired00000000")
    assert first_model(paths=paths, settings=settings, report=report).name == DEFAULT_MODEL
    assert "the hub refuses your token (HF_TOKEN)" in str(report)
    assert "hf_expired" not in str(report)
    assert [authorization for _, _, authorization in hub.requests][-1] is None


@pytest.mark.parametrize(
    ("status", "retry_after", "words"),
    [
        (401, None, "HTTP 401: the model hub denies access"),
        (403, None, "HTTP 403: the model hub denies access"),
        (429, "3600", "127.0.0.1 is busy (HTTP 429) and asks to wait 3600 s"),
        (429, None, "127.0.0.1 is busy (HTTP 429)"),
        (503, "3600", "127.0.0.1 is busy (HTTP 503) and asks to wait 3600 s"),
    ],
)
def test_a_hub_that_refuses_is_named_as_such_and_the_starter_is_for_this_run_only(
    paths: Paths,
    settings: Settings,
    report: Lines,
    hub: FakeHub,
    wheelhouse: Path,
    converter: FakeConverter,
    status: int,
    retry_after: str | None,
    words: str,
) -> None:
    hub.trouble.head_status = [status] * 10
    hub.trouble.retry_after = retry_after
    assert first_model(paths=paths, settings=settings, report=report).name == STARTER_MODEL
    assert words in str(report)
    assert "cannot be reached" not in str(report)
    assert not paths.config_file.exists()


def test_a_busy_hub_is_asked_again_when_it_says(paths: Paths, settings: Settings, report: Lines, hub: FakeHub) -> None:
    hub.trouble.head_status = [429]
    hub.trouble.retry_after = "1"
    assert first_model(paths=paths, settings=settings, report=report).name == DEFAULT_MODEL
    assert "asks to wait 1 s; retrying then" in str(report)


def test_a_name_that_never_resolves(
    paths: Paths,
    settings: Settings,
    report: Lines,
    wheelhouse: Path,
    converter: FakeConverter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    end = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: end.wait())  # a name server that never answers
    with pytest.raises(SourceUnreachableError, match=r"hub\.invalid cannot be reached \(no answer within 1 s\)"):
        ensure_installed(DEFAULT_MODEL, paths=paths, settings=settings, report=report)
    end.set()


def test_after_a_wrong_checksum_the_starter_is_not_used(
    paths: Paths, settings: Settings, report: Lines, hub: FakeHub, wheelhouse: Path, converter: FakeConverter
) -> None:
    hub.damaged[f"{DEFAULT_REPO}/tiny-Q8_0.gguf"] = DEFAULT_FILE[:-1] + b"!"
    with pytest.raises(ChecksumError):
        first_model(paths=paths, settings=settings, report=report)
    assert (converter.calls, leftovers(paths), paths.config_file.exists()) == ([], [], False)


def test_nothing_can_be_reached(paths: Paths, settings: Settings, report: Lines, closed_port: None) -> None:
    with pytest.raises(SourceUnreachableError, match=rf"(?s){DEFAULT_MODEL}.*{STARTER_MODEL}"):
        first_model(paths=paths, settings=settings, report=report)
    assert not paths.config_file.exists()


def test_offline(paths: Paths, settings: Settings, report: Lines, hub: FakeHub) -> None:
    offline = msgspec.structs.replace(settings, offline=True)
    with pytest.raises(HubError, match="offline is set"):
        first_model(paths=paths, settings=offline, report=report)
    assert hub.requests == []
    ensure_installed(DEFAULT_MODEL, paths=paths, settings=settings, report=report)
    assert first_model(paths=paths, settings=offline, report=report).name == DEFAULT_MODEL


def test_a_configuration_that_cannot_be_written_is_reported(
    paths: Paths, settings: Settings, report: Lines, hub: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    paths.config_file.parent.mkdir(parents=True)
    paths.config_file.mkdir()
    assert first_model(paths=paths, settings=settings, report=report).name == DEFAULT_MODEL
    assert f"set EDGEEMBED_MODEL={DEFAULT_MODEL}:Q8_0" in str(report)


@pytest.mark.parametrize("name", [None, DEFAULT_MODEL, f"hf:{DEFAULT_REPO}"])
def test_requests_wait_for_a_model_that_is_installed(
    paths: Paths, settings: Settings, report: Lines, hub: FakeHub, name: str | None
) -> None:
    """They are told that it is fetched only when it is."""

    async def start() -> bool:
        pending = PendingModel("looking for the model", 1.0)
        named = msgspec.structs.replace(settings, model=name)
        await find_default(named, paths, pending, report, asyncio.Event())
        return pending.is_fetching

    assert asyncio.run(start())
    assert not asyncio.run(start())
