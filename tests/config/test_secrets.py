"""Secrets in variables, and the files that hold them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeembed.config.resolution import files_others_can_read, resolve
from edgeembed.config.secrets import hide_secrets, hub_token_file, secret_names, without_secrets
from edgeembed.config.values import field_names

needs_modes = pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")


def test_every_setting_that_is_a_key_or_may_have_a_password_is_secret() -> None:
    named = ("_key", "_secret", "cache_url")
    assert secret_names() == [name for name in field_names() if name.endswith(named)]


def test_other_programs_get_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "EDGEEMBED_API_KEY",
        "EDGEEMBED_UPSTREAM_KEY",
        "EDGEEMBED_FORWARD_KEY",
        "EDGEEMBED_CACHE_URL",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
    }
    for name in secrets:
        monkeypatch.setenv(name, "sesame")
    monkeypatch.setenv("EDGEEMBED_PORT", "9000")
    assert os.environ.keys() - without_secrets(os.environ) == secrets
    before = hide_secrets()
    assert not secrets & os.environ.keys() and os.environ["EDGEEMBED_PORT"] == "9000"
    assert {before[name] for name in secrets} == {"sesame"}
    for name in secrets:  # else monkeypatch, which has to remove them, finds them gone
        os.environ[name] = ""


@needs_modes
def test_files_with_secrets_that_others_can_read_are_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    monkeypatch.setenv("HF_HOME", str(home / "hub"))
    names = ("config.toml", "keys", "cert.pem", "key.pem", "hub/token")
    files = [home / name for name in names]
    files[4].parent.mkdir()
    for file in files:
        file.touch()
        file.chmod(0o600)
    flags = {"api_key_file": str(files[1]), "certfile": str(files[2]), "keyfile": str(files[3])}
    files[0].write_text("port = 9000\n")
    assert files_others_can_read(resolve(flags)) == []
    for file in files:
        file.chmod(0o640)
    assert set(files_others_can_read(resolve(flags))) == {files[1], files[3], files[4]}, "the certificate is public"
    files[0].write_text('forward_key = "sesame"\n')
    assert files[0] in files_others_can_read(resolve(flags))
    del flags["keyfile"]
    assert files[2] in files_others_can_read(resolve(flags)), "it has to hold the private key"


def test_where_the_hub_keeps_its_token() -> None:
    assert hub_token_file({"HF_TOKEN_PATH": "/a/b", "HF_HOME": "/c"}) == Path("/a/b")
    assert hub_token_file({"HF_HOME": "/c"}) == Path("/c/token")
    assert hub_token_file({"XDG_CACHE_HOME": "/d"}) == Path("/d/huggingface/token")
    assert hub_token_file({}) == Path("~/.cache/huggingface/token").expanduser()
