"""Where an installation came from, and the commands that fit it."""

from __future__ import annotations

import re
import shlex
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from edgeembed.common import installation
from edgeembed.common.installation import PACKAGE_FILE, Installation, file_name, find_installation, requirements_of

ROOT = Path(__file__).parents[2]
PAGE = "https://example.org/o/edgeembed/releases"


class Metadata(Distribution):
    """The metadata of an edgeembed with this direct_url.json."""

    def __init__(self, direct_url: str | None = None) -> None:
        self._direct_url = direct_url

    def read_text(self, filename: str) -> str | None:
        return {"direct_url.json": self._direct_url, "METADATA": "Name: edgeembed\nVersion: 0\n"}.get(filename)

    def locate_file(self, path: object) -> Path:  # type: ignore[override]
        return Path(str(path))


@pytest.fixture(autouse=True)
def without_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_present_extras", lambda: "")


def packaged(folder: Path, *lines: str) -> Installation:
    (folder / PACKAGE_FILE).write_text("".join(f"{line}\n" for line in lines))
    return find_installation(folder)


@pytest.mark.parametrize(
    ("mark", "direct_url", "kind", "upgrade"),
    [
        (None, None, "pip", "-m pip install --upgrade edgeembed"),
        (
            None,
            '{"url": "file:///d/edgeembed-1.whl", "archive_info": {}}',
            "pip",
            "-m pip install --upgrade edgeembed",
        ),
        ("uv-receipt.toml", None, "uv tool", "uv tool upgrade edgeembed"),
        ("uv-receipt.toml", '{"url": "file:///d/e.whl"}', "uv tool", "uv tool install --force edgeembed"),
        ("pipx_metadata.json", None, "pipx", "pipx upgrade edgeembed"),
        (
            None,
            '{"url": "file:///src/it", "dir_info": {"editable": true}}',
            "source",
            "git -C /src/it pull && uv pip",
        ),
        (None, '{"url": "file:///src/it", "dir_info": {}}', "source", "git -C /src/it pull && uv pip"),
        (None, "not JSON", "pip", "-m pip install --upgrade edgeembed"),
    ],
)
def test_what_an_installer_noted_tells_which_one_it_was(
    tmp_path: Path, mark: str | None, direct_url: str | None, kind: str, upgrade: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mark:
        (tmp_path / mark).touch()
    found = find_installation(tmp_path, frozen=False, found=Metadata(direct_url))
    assert found.kind == kind and not found.packaged
    assert upgrade in found.upgrade("9.9")


def test_a_debian_package_is_upgraded_from_the_release_page_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    found = packaged(tmp_path, "the Debian package", f"releases={PAGE}")
    assert (found.kind, found.title, found.packaged) == ("deb", "the Debian package", True)
    assert found.upgrade("9.9") == (
        f"curl -fLO {PAGE}/download/v9.9/edgeembed_9.9-1_amd64.deb && sudo apt install ./edgeembed_9.9-1_amd64.deb"
    )
    assert packaged(tmp_path, "the Debian package").upgrade("9.9") == "sudo apt install ./edgeembed_9.9-1_amd64.deb"


def test_a_tarball_is_upgraded_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    home = tmp_path / "lib" / "edgeembed" / "python"
    home.mkdir(parents=True)
    command = packaged(home, "the tarball").upgrade("9.9")
    assert command == (
        f"tar xf edgeembed-9.9-linux-aarch64.tar.xz && edgeembed-9.9-linux-aarch64/install.sh --prefix {tmp_path}"
    )
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    local = tmp_path / ".local" / "lib" / "edgeembed" / "python"
    local.mkdir(parents=True)
    assert packaged(local, "the tarball").upgrade("9.9").endswith("install.sh")


def test_a_container_names_its_image(tmp_path: Path) -> None:
    assert packaged(tmp_path, "the container image", "image=r.example/e").upgrade("9.9") == "docker pull r.example/e:9.9"
    assert "build the image anew" in packaged(tmp_path, "the container image").upgrade("9.9")


def test_a_package_of_others_says_itself_how_it_is_upgraded(tmp_path: Path) -> None:
    found = packaged(tmp_path, "the package of Arch Linux", "upgrade=paru -Syu edgeembed-bin")
    assert (found.kind, found.upgrade("9.9")) == ("other", "paru -Syu edgeembed-bin")


@pytest.mark.parametrize(("system", "kind", "file"), [("win32", "windows", "x64.exe"), ("darwin", "macos", "arm64.dmg")])
def test_frozen_programs_are_the_installer_and_the_app(
    tmp_path: Path, system: str, kind: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    found = find_installation(tmp_path, frozen=True, system=system)
    assert found.kind == kind and found.packaged
    assert file in found.upgrade("9.9")
    assert "uv tool install 'edgeembed[bulk]'" in found.add("bulk")


def test_a_package_names_its_own_python_for_an_extra(tmp_path: Path) -> None:
    """`pip install 'edgeembed[bulk]'` is another Python's pip; the package's own is named, and what the extra brings."""
    pyarrow = requirements_of("bulk")
    assert pyarrow and pyarrow[0].startswith("pyarrow")
    for title in ("the Debian package", "the tarball", "the container image"):
        (tmp_path / PACKAGE_FILE).write_text(title)
        added = find_installation(tmp_path).add("bulk")
        assert f"-m pip install {shlex.quote(pyarrow[0])}" in added and "edgeembed[" not in added, title


def test_each_installer_has_its_own_command_for_an_extra(tmp_path: Path) -> None:
    def add(kind: installation.Kind, source: str | None = None) -> str:
        return Installation(kind=kind, title="", prefix=tmp_path, python="/v/bin/python", source=source).add("tray")

    assert add("pip") == "/v/bin/python -m pip install 'edgeembed[tray]'"
    assert add("uv tool") == "uv tool install --force 'edgeembed[tray]'"
    assert add("uv tool", "file:///d/e.whl") == "uv tool install --force 'edgeembed[tray] @ file:///d/e.whl'"
    assert re.fullmatch(r"pipx inject edgeembed .*pillow.* .*pystray.*", add("pipx"))
    assert add("source", "/src") == "uv pip install --python /v/bin/python -e '/src[tray]'"


def test_files_have_the_names_that_the_build_scripts_give_them() -> None:
    def recipe(path: str) -> str:
        return (ROOT / "installers" / path).read_text(encoding="utf-8")

    assert file_name(
        "deb", "1", "x86_64"
    ) == "edgeembed_1-1_amd64.deb" and "edgeembed_${version}_$architecture.deb" in recipe("deb/build.sh")
    assert file_name("tarball", "1", "x86_64") == "edgeembed-1-linux-x86_64.tar.xz"
    assert re.search(r"name=edgeembed-\S.*-linux-\$\(uname -m\)\n", recipe("bundle/build.sh"))
    assert file_name("macos", "1", "arm64") == "edgeembed-1-macos-arm64.dmg"
    assert "edgeembed-$version-macos-$(uname -m).dmg" in recipe("macos/build.sh")
    assert file_name("windows", "1", "AMD64") == "edgeembed-1-windows-x64.exe"
    assert "OutputBaseFilename=edgeembed-{#Version}-windows-x64" in recipe("windows/edgeembed.iss")
    assert file_name("pip", "1", "x86_64") is None


def test_no_message_names_another_pythons_pip() -> None:
    """What is missing is added as this installation adds it: `find_installation().add(EXTRA)`. Help texts may differ."""
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in (ROOT / "edgeembed").rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "pip install 'edgeembed[" in line and "Error(" in line
    ]
    assert not found
