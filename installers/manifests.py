#!/usr/bin/env python3
"""Write the manifests of package managers for a release: winget, Homebrew, AUR and Nix.

    manifests.py SHA256SUMS RELEASE_PAGE FOLDER

SHA256SUMS lists the release's files as sha256sum prints them; the names hold version and architecture. RELEASE_PAGE is the
address to which /download/vVERSION/FILE is added. FOLDER receives winget/, homebrew/, aur/ and nix/. Needs only the standard
library of Python 3.11. Nothing is published: see installers/README.md for where each manifest goes.
"""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import metadata

IDENTIFIER = "edgeembed.edgeembed"
PUBLISHER = "The edgeembed developers"
WINGET_SCHEMA = "1.9.0"
UPGRADE = "edgeembed-package"
"""The file next to the package's Python that tells `edgeembed update` who upgrades it (edgeembed/common/installation.py)."""


class ManifestError(Exception):
    """The list of files is malformed, or a file of the release is missing."""


@dataclass(frozen=True)
class File:
    """A file of the release."""

    url: str
    sha256: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def sri(self) -> str:
        """The hash as Nix writes it."""
        return "sha256-" + base64.b64encode(bytes.fromhex(self.sha256)).decode()


@dataclass(frozen=True)
class Release:
    """What the manifests are made from."""

    version: str
    description: str
    page: str
    files: tuple[File, ...]

    @property
    def home(self) -> str:
        """The address of the repository, whose release page is."""
        return self.page.removesuffix("/releases")

    def file(self, pattern: str) -> File:
        """Return the file whose whole name matches a pattern. Raises ManifestError unless it is one."""
        found = [file for file in self.files if re.fullmatch(pattern, file.name)]
        if len(found) != 1:
            raise ManifestError(f"expected one file like {pattern}, found {len(found)} among {len(self.files)} files")
        return found[0]

    def wheel(self, platform: str) -> File:
        return self.file(rf"edgeembed-{re.escape(self.version)}-[^-]+-[^-]+-{platform}\.whl")

    def tarball(self, machine: str) -> File:
        return self.file(rf"edgeembed-{re.escape(self.version)}-linux-{machine}\.tar\.xz")


def read_release(sums: Iterable[str], page: str) -> Release:
    """Return the release whose files are listed. Raises ManifestError."""
    page = page.rstrip("/")
    if not re.fullmatch(r"https?://[\w./:-]+/releases", page):
        raise ManifestError(f"{page!r} is no release page such as https://github.com/OWNER/REPOSITORY/releases")
    project = metadata.read_project()
    version: str = project["version"]
    files = []
    for line in sums:
        listed = re.fullmatch(r"([0-9a-f]{64}) [ *](?:\./)?([\w.+~-]+)\n?", line)
        if not listed:
            raise ManifestError(f"not a line of sha256sum: {line.strip()!r}")
        files.append(File(f"{page}/download/v{version}/{listed[2]}", listed[1]))
    # Package managers want less than 80 characters, and no article or full stop.
    words = project["description"].partition(":")[0].removeprefix("A ").removesuffix(".")
    return Release(version, words[:1].upper() + words[1:], page, tuple(files))


def winget(release: Release) -> dict[str, str]:
    """Return the three files of a winget manifest."""
    setup = release.file(rf"edgeembed-{re.escape(release.version)}-windows-x64\.exe")
    head = f"PackageIdentifier: {IDENTIFIER}\nPackageVersion: {release.version}\n"

    def written(kind: str, body: str) -> str:
        schema = f"https://aka.ms/winget-manifest.{kind}.{WINGET_SCHEMA}.schema.json"
        tail = f"ManifestType: {kind}\nManifestVersion: {WINGET_SCHEMA}\n"
        return f"# yaml-language-server: $schema={schema}\n\n{head}{body}{tail}"

    installer = f"""InstallerType: inno
Scope: user
InstallModes:
- interactive
- silent
- silentWithProgress
UpgradeBehavior: install
Commands:
- edgeembed
Installers:
- Architecture: x64
  InstallerUrl: {setup.url}
  InstallerSha256: {setup.sha256.upper()}
"""
    locale = f"""PackageLocale: en-US
Publisher: {PUBLISHER}
PackageName: edgeembed
PackageUrl: {release.home}
License: Apache-2.0
LicenseUrl: {release.home}/blob/v{release.version}/LICENSE
ShortDescription: "{release.description}"
Tags:
- embeddings
- gguf
- llama-cpp
ReleaseNotesUrl: {release.page}/tag/v{release.version}
"""
    folder = f"manifests/e/edgeembed/edgeembed/{release.version}"
    return {
        f"{folder}/{IDENTIFIER}.yaml": written("version", "DefaultLocale: en-US\n"),
        f"{folder}/{IDENTIFIER}.installer.yaml": written("installer", installer),
        f"{folder}/{IDENTIFIER}.locale.en-US.yaml": written("defaultLocale", locale),
    }


def homebrew(release: Release) -> dict[str, str]:
    """Return a formula for a tap: the release wheel in an environment of its own, on macOS and Linux."""
    platforms = {
        ("macos", "arm"): r"macosx_\d+_\d+_arm64",
        ("macos", "intel"): r"macosx_\d+_\d+_x86_64",
        ("linux", "arm"): r"manylinux[\w.]*_aarch64",
        ("linux", "intel"): r"manylinux[\w.]*_x86_64",
    }
    choices = ""
    for system in ("macos", "linux"):
        choices += f"  on_{system} do\n"
        for processor in ("arm", "intel"):
            wheel = release.wheel(platforms[system, processor])
            choices += (
                f'    on_{processor} do\n      url "{wheel.url}", using: :nounzip\n      sha256 "{wheel.sha256}"\n    end\n'
            )
        choices += "  end\n"
    formula = f'''class Edgeembed < Formula
  desc "{release.description}"
  homepage "{release.home}"
  version "{release.version}"
  license "Apache-2.0"

{choices}
  depends_on "python@3.13"

  def install
    system Formula["python@3.13"].opt_bin/"python3.13", "-m", "venv", libexec
    system libexec/"bin/python", "-m", "pip", "install", Dir["*.whl"].first
    (libexec/"{UPGRADE}").write "the Homebrew formula\\nreleases={release.page}\\nupgrade=brew upgrade edgeembed\\n"
    bin.install_symlink libexec/"bin/edgeembed"
    generate_completions_from_executable(bin/"edgeembed", "completion", shells: [:bash, :zsh, :fish])
  end

  service do
    run [opt_bin/"edgeembed", "serve"]
    keep_alive true
  end

  test do
    assert_match version.to_s, shell_output("#{{bin}}/edgeembed --version")
  end
end
'''
    return {"Formula/edgeembed.rb": formula}


def aur(release: Release) -> dict[str, str]:
    """Return PKGBUILD and .SRCINFO of edgeembed-bin, which unpacks the tarball."""
    x86, arm = release.tarball("x86_64"), release.tarball("aarch64")
    pkgbuild = f"""# Maintainer: {PUBLISHER}
pkgname=edgeembed-bin
pkgver={release.version}
pkgrel=1
pkgdesc='{release.description}'
arch=('x86_64' 'aarch64')
url='{release.home}'
license=('Apache-2.0')
depends=('glibc' 'gcc-libs')
optdepends=('libnotify: notifications of the tray')
provides=('edgeembed')
conflicts=('edgeembed')
# Libraries in wheels were changed after linking, and strip damages such files.
options=('!strip' '!debug')
source_x86_64=('{x86.url}')
source_aarch64=('{arm.url}')
sha256sums_x86_64=('{x86.sha256}')
sha256sums_aarch64=('{arm.sha256}')

package() {{
  cd "edgeembed-$pkgver-linux-$CARCH"
  local share="$pkgdir/usr/share" page
  install -d "$pkgdir/usr/lib/edgeembed" "$pkgdir/usr/bin"
  cp -a python edgeembed "$pkgdir/usr/lib/edgeembed"
  ln -s ../lib/edgeembed/edgeembed "$pkgdir/usr/bin/edgeembed"
  printf '%s\\n' 'the AUR package' 'releases={release.page}' 'upgrade=edgeembed-bin, by your helper for the AUR' \\
    >"$pkgdir/usr/lib/edgeembed/python/{UPGRADE}"
  install -Dm644 share/completions/edgeembed.bash "$share/bash-completion/completions/edgeembed"
  install -Dm644 share/completions/edgeembed.zsh "$share/zsh/site-functions/_edgeembed"
  install -Dm644 share/completions/edgeembed.fish "$share/fish/vendor_completions.d/edgeembed.fish"
  install -Dm644 share/applications/edgeembed.desktop -t "$share/applications"
  install -Dm644 share/icons/edgeembed.svg -t "$share/icons/hicolor/scalable/apps"
  for page in share/man/man1/*; do
    install -Dm644 "$page" -t "$share/man/man1"
  done
  install -Dm644 LICENSE -t "$share/licenses/edgeembed-bin"
}}
"""
    fields = f"""pkgbase = edgeembed-bin
\tpkgdesc = {release.description}
\tpkgver = {release.version}
\tpkgrel = 1
\turl = {release.home}
\tarch = x86_64
\tarch = aarch64
\tlicense = Apache-2.0
\tdepends = glibc
\tdepends = gcc-libs
\toptdepends = libnotify: notifications of the tray
\tprovides = edgeembed
\tconflicts = edgeembed
\toptions = !strip
\toptions = !debug
\tsource_x86_64 = {x86.url}
\tsha256sums_x86_64 = {x86.sha256}
\tsource_aarch64 = {arm.url}
\tsha256sums_aarch64 = {arm.sha256}

pkgname = edgeembed-bin
"""
    return {"PKGBUILD": pkgbuild, ".SRCINFO": fields}


def nix(release: Release) -> dict[str, str]:
    """Return a package for Nix's callPackage, which unpacks the tarball."""
    x86, arm = release.tarball("x86_64"), release.tarball("aarch64")
    package = f'''{{
  lib,
  stdenv,
  fetchurl,
  autoPatchelfHook,
}}:

let
  sources = {{
    x86_64-linux = {{
      url = "{x86.url}";
      hash = "{x86.sri}";
    }};
    aarch64-linux = {{
      url = "{arm.url}";
      hash = "{arm.sri}";
    }};
  }};
in
stdenv.mkDerivation {{
  pname = "edgeembed";
  version = "{release.version}";
  src = fetchurl sources.${{stdenv.hostPlatform.system}};

  nativeBuildInputs = [ autoPatchelfHook ];
  buildInputs = [ stdenv.cc.cc.lib ];
  # Libraries in wheels were changed after linking, and strip damages such files.
  dontStrip = true;

  installPhase = \'\'
    runHook preInstall
    mkdir -p $out/lib/edgeembed $out/bin
    cp -a python edgeembed $out/lib/edgeembed
    ln -s $out/lib/edgeembed/edgeembed $out/bin/edgeembed
    printf '%s\\n' 'the Nix package' 'releases={release.page}' 'upgrade=a newer package.nix' \\
      > $out/lib/edgeembed/python/{UPGRADE}
    install -Dm644 -t $out/share/man/man1 share/man/man1/*
    install -Dm644 share/completions/edgeembed.bash $out/share/bash-completion/completions/edgeembed
    install -Dm644 share/completions/edgeembed.zsh $out/share/zsh/site-functions/_edgeembed
    install -Dm644 share/completions/edgeembed.fish $out/share/fish/vendor_completions.d/edgeembed.fish
    install -Dm644 -t $out/share/applications share/applications/edgeembed.desktop
    install -Dm644 -t $out/share/icons/hicolor/scalable/apps share/icons/edgeembed.svg
    runHook postInstall
  \'\';

  meta = {{
    description = "{release.description}";
    homepage = "{release.home}";
    license = lib.licenses.asl20;
    mainProgram = "edgeembed";
    platforms = builtins.attrNames sources;
    sourceProvenance = [ lib.sourceTypes.binaryNativeCode ];
  }};
}}
'''
    return {"package.nix": package}


MANAGERS = {"winget": winget, "homebrew": homebrew, "aur": aur, "nix": nix}


def write_manifests(release: Release, folder: Path) -> list[Path]:
    """Write all manifests and return their paths. Raises ManifestError, before anything is written."""
    texts = {folder / name / path: text for name, make in MANAGERS.items() for path, text in make(release).items()}
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    return list(texts)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(f"usage: {Path(sys.argv[0]).name} SHA256SUMS RELEASE_PAGE FOLDER")
    try:
        with Path(sys.argv[1]).open(encoding="utf-8") as lines:
            written = write_manifests(read_release(lines, sys.argv[2]), Path(sys.argv[3]))
    except ManifestError as error:
        sys.exit(f"manifests.py: {error}")
    sys.stdout.write("".join(f"{path}\n" for path in written))
