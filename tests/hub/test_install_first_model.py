"""The first start: the default model or, if the hub cannot be reached, the starter; and the saved choice."""

from __future__ import annotations

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
    assert "127.0.0.1" in said and STARTER_MODEL in said
    assert f"edgeembed pull {DEFAULT_MODEL} && edgeembed config set model {DEFAULT_MODEL}" in said
    assert "the starter, because the hub" in paths.config_file.read_text()

    # The hub is back: the choice stays, and no request is made.
    fake = FakeHub()
    fake.files[DEFAULT_REPO] = {"tiny-Q8_0.gguf": DEFAULT_FILE}
    monkeypatch.setenv("HF_ENDPOINT", fake.url)
    try:
        chosen = resolve().settings.model
        assert chosen == f"{STARTER_MODEL}:Q8_0"
        assert ensure_installed(chosen, paths=paths, settings=settings, report=report) == model
        assert fake.requests == []
    finally:
        fake.close()


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
    with pytest.raises(SourceUnreachableError, match=r"hub\.invalid did not answer within 1 s"):
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
