"""Manifests for package managers, made from a release's checksums and read by the formats' own tools."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installers.loading import load

manifests = load("manifests.py")
PAGE = "https://example.org/o/edgeembed/releases"
VERSION = load("metadata.py").read_project()["version"]
NAMES = [
    f"edgeembed-{VERSION}-{rest}"
    for rest in (
        "linux-x86_64.tar.xz",
        "linux-aarch64.tar.xz",
        "windows-x64.exe",
        "py3-none-macosx_11_0_arm64.whl",
        "py3-none-macosx_10_13_x86_64.whl",
        "py3-none-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
        "py3-none-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl",
        "py3-none-musllinux_1_2_x86_64.whl",
        "py3-none-win_amd64.whl",
    )
]


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


SUMS = [f"{digest(name)}  {name}\n" for name in NAMES]
RELEASE = manifests.read_release(SUMS, PAGE)


@pytest.fixture
def written() -> Iterator[Path]:
    """The manifests, in a folder that other users can read: makepkg refuses to run as root."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    manifests.write_manifests(RELEASE, folder)
    (folder / "aur").chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def tool(*command: str, cwd: Path | None = None, nobody: bool = False) -> str:
    """Return what a tool prints. nobody: not as root."""
    user = 65534 if nobody and os.geteuid() == 0 else None
    done = subprocess.run(
        command,
        cwd=cwd,
        user=user,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PACMAN": "true", "HOME": tempfile.gettempdir()},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_address_is_of_a_listed_file_with_its_checksum(written: Path) -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in written.rglob("*") if path.is_file())
    named = set(re.findall(rf"{re.escape(PAGE)}/download/v{re.escape(VERSION)}/([^\"'\s]+)", text))
    assert len(named) == 7 and named <= set(NAMES)
    for name in named:
        ours = digest(name), digest(name).upper(), manifests.File(f"/{name}", digest(name)).sri
        assert any(form in text for form in ours), name


@pytest.mark.parametrize("missing", [name for name in NAMES if "musl" not in name and "win_" not in name])
def test_a_release_without_a_file_gets_no_manifest(missing: str, tmp_path: Path) -> None:
    sums = [line for line in SUMS if missing not in line]
    with pytest.raises(manifests.ManifestError, match="expected one file like"):
        manifests.write_manifests(manifests.read_release(sums, PAGE), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("line", ["", "abc  file", f"{'0' * 64}  ../file", f"{'0' * 64}  a b", f"{'0' * 64}  $(x)"])
def test_a_list_that_sha256sum_did_not_write_is_refused(line: str) -> None:
    with pytest.raises(manifests.ManifestError, match="not a line of sha256sum"):
        manifests.read_release([line], PAGE)


@pytest.mark.parametrize("page", ["", "https://example.org", "https://example.org/'$(x)/releases", "ftp://e.org/releases"])
def test_a_page_that_is_none_is_refused(page: str) -> None:
    with pytest.raises(manifests.ManifestError, match="no release page"):
        manifests.read_release(SUMS, page)


def test_ruby_reads_the_formula(written: Path) -> None:
    if not shutil.which("ruby"):
        pytest.skip("ruby is not on this machine")
    formula = written / "homebrew" / "Formula" / "edgeembed.rb"
    assert "Syntax OK" in tool("ruby", "-c", str(formula))
    # As Homebrew's formulae are evaluated, with stand-ins for its words: the file for each system and processor.
    stand_in = """
      class Formula
        def self.test; end
        def self.method_missing(name, *args, **kw, &block)
          case name
          when :on_macos, :on_linux then @@system = name; class_eval(&block)
          when :on_arm, :on_intel then @@processor = name; class_eval(&block)
          when :url then puts "#{@@system} #{@@processor} #{args[0]}"
          end
        end
      end
      load ARGV[0]
    """
    lines = [line.split() for line in tool("ruby", "-e", stand_in, str(formula)).splitlines()]
    chosen = {(system, processor): url.rpartition("/")[2] for system, processor, url in lines}
    assert chosen == {
        ("on_macos", "on_arm"): NAMES[3],
        ("on_macos", "on_intel"): NAMES[4],
        ("on_linux", "on_arm"): NAMES[6],
        ("on_linux", "on_intel"): NAMES[5],
    }


def test_makepkg_reads_the_pkgbuild_and_prints_our_srcinfo(written: Path) -> None:
    if not shutil.which("makepkg"):
        pytest.skip("makepkg is not on this machine")
    printed = tool("makepkg", "--printsrcinfo", cwd=written / "aur", nobody=True)
    assert printed.strip() == (written / "aur" / ".SRCINFO").read_text(encoding="utf-8").strip()


def test_the_pkgbuild_packages_what_the_tarball_has(written: Path, tmp_path: Path) -> None:
    unpacked = tmp_path / f"edgeembed-{VERSION}-linux-x86_64"
    for name in (
        "python/bin/python3",
        "edgeembed",
        "LICENSE",
        "share/applications/edgeembed.desktop",
        "share/icons/edgeembed.svg",
        "share/man/man1/edgeembed.1.gz",
        *(f"share/completions/edgeembed.{shell}" for shell in ("bash", "zsh", "fish")),
    ):
        file = unpacked / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    pkgbuild = written / "aur" / "PKGBUILD"
    script = f"set -euo pipefail; CARCH=x86_64 pkgdir={tmp_path}/root; source {pkgbuild}; package"
    tool("bash", "-c", script, cwd=tmp_path)
    root = tmp_path / "root" / "usr"
    assert (root / "bin" / "edgeembed").read_text() == "edgeembed"
    assert (root / "share/man/man1/edgeembed.1.gz").is_file() and (root / "share/zsh/site-functions/_edgeembed").is_file()
    noted = (root / "lib/edgeembed/python/edgeembed-package").read_text().splitlines()
    assert noted[0] == "the AUR package" and f"releases={PAGE}" in noted


def test_nix_evaluates_the_package(written: Path) -> None:
    if not shutil.which("nix-instantiate"):
        pytest.skip("nix-instantiate is not on this machine")
    package = written / "nix" / "package.nix"
    expression = f"""
      let made = import {package} {{
        lib = {{ licenses.asl20 = "Apache-2.0"; sourceTypes.binaryNativeCode = "binary"; }};
        stdenv = {{ mkDerivation = it: it; hostPlatform.system = "aarch64-linux"; cc.cc.lib = "lib"; }};
        fetchurl = it: it; autoPatchelfHook = "hook";
      }}; in {{ inherit (made) pname version src; inherit (made.meta) description platforms; }}"""
    made = json.loads(tool("nix-instantiate", "--eval", "--strict", "--json", "-E", expression))
    assert made["src"] == {"url": RELEASE.tarball("aarch64").url, "hash": RELEASE.tarball("aarch64").sri}
    assert made["version"] == VERSION and made["platforms"] == ["aarch64-linux", "x86_64-linux"]
    assert len(made["description"]) < 80


def test_the_winget_manifest_has_the_fields_that_its_schema_requires(written: Path) -> None:
    """As in microsoft/winget-cli's JSON schemas; each file is flat YAML but for lists."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    (folder,) = (written / "winget").rglob(VERSION)
    read = {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in folder.iterdir()}
    main, installer, locale = (
        read[f"edgeembed.edgeembed.{rest}"] for rest in ("yaml", "installer.yaml", "locale.en-US.yaml")
    )
    for kind, fields in (("version", main), ("installer", installer), ("defaultLocale", locale)):
        assert fields["PackageIdentifier"] == "edgeembed.edgeembed" and fields["PackageVersion"] == VERSION
        assert fields["ManifestType"] == kind and re.fullmatch(r"1\.\d+\.0", fields["ManifestVersion"])
    assert main["DefaultLocale"] == locale["PackageLocale"] == "en-US"
    assert {"Publisher", "PackageName", "License", "ShortDescription"} <= set(locale)
    (only,) = installer["Installers"]
    assert only == {
        "Architecture": "x64",
        "InstallerUrl": f"{PAGE}/download/v{VERSION}/{NAMES[2]}",
        "InstallerSha256": digest(NAMES[2]).upper(),
    }
