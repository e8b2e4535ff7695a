"""The newest published version of edgeembed, asked for where this installation came from. Nothing else asks.

Packages know their release page, source trees their git remote; all others ask the package index of the user's own pip or uv
configuration, whose mirrors, proxies and certificates are used.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable
from email.message import Message
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urljoin, urlsplit

import msgspec
from packaging.version import InvalidVersion, Version

from edgeembed.common.installation import Installation
from edgeembed.common.log_content import printable
from edgeembed.config.secrets import without_secrets
from edgeembed.errors import EdgeEmbedError

NAME = "edgeembed"
SECONDS = 60.0
"""For an answer, retries of pip and uv included."""
_NONE_FOUND = ("No matching distribution found", "No solution found")
"""How pip and uv say that an index answered, and has no version for this Python."""


class Newest(msgspec.Struct, frozen=True):
    """The newest version, and who named it."""

    version: str
    asked: str
    """For people, such as "the package index of your pip configuration"."""


def find_newest(installation: Installation) -> Newest:
    """Return the newest released version. Raises EdgeEmbedError if there is no answer, or no release yet."""
    if installation.releases:
        version = _of_release_page(installation.releases)
        asked = installation.releases
    elif installation.kind == "source" and (remote := _git(installation.source, "remote", "get-url", "origin")):
        tags = _git(installation.source, "ls-remote", "--tags", "--refs", "origin", "v*")
        if tags is None:
            raise EdgeEmbedError(
                f"the source tree's git remote does not answer; try `git -C {installation.source} fetch --tags`"
            )
        version = newest_of(line.rpartition("refs/tags/v")[2] for line in tags.splitlines())
        asked = f"the git remote {_without_password(remote.strip())}"
    elif installation.kind == "uv tool" and (uv := shutil.which("uv")):
        version, asked = _of_uv(uv), "the package index of your uv configuration"
    else:
        version, asked = _of_pip(), "the package index of your pip configuration"
    if version is None:
        raise EdgeEmbedError(_no_release(installation, asked))
    return Newest(version, asked)


def _no_release(installation: Installation, asked: str) -> str:
    """Return that there is no release, and where newer code may be."""
    if installation.kind == "source" and _git(installation.source, "remote"):
        return (
            f"no release of edgeembed is published yet; asked: {asked}. To get the newest code: {installation.upgrade('')}"
        )
    # Neither pip nor a release page says that it hides something.
    python = f" for Python {sys.version_info[0]}.{sys.version_info[1]}" if "package index" in asked else ""
    found = f"no release of edgeembed{python} is published yet, or you may not see it; asked: {asked}."
    if installation.source:
        return f"{found} This installation came from {_without_password(installation.source)}: look there for a newer one"
    if installation.packaged:
        return f"{found} To build a package of the newest code, see installers/README.md in the source tree"
    return f"{found} If this installation came from another index, set its address in pip's or uv's configuration"


def is_newer(version: str, than: str) -> bool:
    """Return whether a version is newer than another (PEP 440)."""
    return Version(version) > Version(than)


def newest_of(versions: Iterable[str]) -> str | None:
    """Return the newest of the versions that are no pre-releases; None if there is none. Other words are passed over."""
    found = []
    for word in versions:
        try:
            version = Version(word)
        except InvalidVersion:
            continue
        if not version.is_prerelease:
            found.append(version)
    return str(max(found)) if found else None


def _of_pip() -> str | None:
    """Return the newest release that pip finds for this Python, as its configuration says; None if there is none."""
    command = [sys.executable, "-P", "-m", "pip", "index", "versions", NAME]
    command += ["--no-input", "--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
    output = _run(command, "pip")
    listed = re.search(r"^Available versions:(.*)$", output, re.MULTILINE)
    return newest_of(word.strip() for word in listed[1].split(",")) if listed else None


def _of_uv(uv: str) -> str | None:
    """Return the newest release that uv finds for this Python, as its configuration says; None if there is none."""
    command = [uv, "pip", "compile", "-", "--no-deps", "--no-header", "--no-annotate", "--quiet"]
    command += ["--python", sys.executable, "--refresh-package", NAME, "--no-cache"]
    output = _run(command, "uv", NAME)
    pinned = re.search(rf"^{NAME}==(\S+)", output, re.MULTILINE)
    return newest_of([pinned[1]]) if pinned else None  # without a release, uv names a pre-release


def _run(command: list[str], name: str, text: str = "") -> str:
    """Return what pip or uv print; "" if they say that the index has no version for this Python."""
    # In an empty folder: a project's own configuration in the working directory does not count.
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                command,
                input=text,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=SECONDS,
                check=False,
                cwd=folder,
                env=without_secrets(os.environ),
            )
        except subprocess.TimeoutExpired as error:
            raise EdgeEmbedError(f"the package index did not answer {name} within {SECONDS:.0f} s") from error
    if done.returncode != 0 and "connection broken" in done.stderr:  # of which pip's last line says nothing
        raise EdgeEmbedError(f"the package index of your {name} configuration cannot be reached")
    refused = re.search(r"^(?:hint: An index|WARNING: \d{3} Error).*", done.stderr, re.MULTILINE)
    if done.returncode != 0 and refused:
        raise EdgeEmbedError(f"the package index refused: {_without_password(printable(refused[0].partition(': ')[2]))}")
    if done.returncode != 0 and any(words in done.stderr for words in _NONE_FOUND):
        return ""
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = next((line for line in reversed(lines) if line.lower().startswith("error:")), lines[-1] if lines else "")
        reason = re.sub(r"^error:\s*", "", said, flags=re.IGNORECASE) or f"{name} ended with status {done.returncode}"
        raise EdgeEmbedError(f"the package index gave no version of edgeembed: {_without_password(printable(reason))}")
    return done.stdout


def _git(folder: str | None, *words: str) -> str | None:
    """Return what git prints; None if it fails, is missing, or would ask for a password."""
    if folder is None or not (Path(folder) / ".git").exists():
        return None
    environ = {**without_secrets(os.environ), "GIT_TERMINAL_PROMPT": "0"}
    command = ["git", "-C", folder, *words]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False, env=environ
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect to the caller."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


def _of_release_page(page: str) -> str | None:
    """Return the version to whose tag PAGE/latest leads, which GitHub and Forgejo answer with a redirect.

    None if there is no release: GitHub then leads to PAGE itself, Forgejo says that there is nothing (404). Whatever
    else answers, such as a page to log in or another name of the repository, says nothing of releases.
    """
    address = f"{page}/latest"
    opener = urllib.request.build_opener(_NoRedirect(), urllib.request.HTTPSHandler(context=_certificates()))
    if urlsplit(page).scheme not in ("http", "https"):
        raise EdgeEmbedError(f"the release page {page}, which the package names, is no web address")
    request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": NAME})
    target = ""
    try:
        with opener.open(request, timeout=SECONDS / 2) as answer:
            answered = f"status {answer.status}"
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        if not 300 <= error.code < 400:
            raise EdgeEmbedError(f"the release page {address} answers with status {error.code}") from error
        target = urljoin(address, error.headers.get("Location", ""))
        answered = f"redirect to {_without_password(printable(target))}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise EdgeEmbedError(f"the release page {address} cannot be reached: {printable(str(reason))}") from error
    if target.rstrip("/") == page.rstrip("/"):
        return None
    _, is_tag, tag = unquote(urlsplit(target).path).rpartition("/tag/")
    if not is_tag:
        raise EdgeEmbedError(f"the release page {page} answers with something else than a release ({answered}); look there")
    version = newest_of([tag.removeprefix("v")])
    if version is None:
        raise EdgeEmbedError(f"the newest release at {page} is called {printable(tag)}, which is no version (vX.Y.Z)")
    return version


def _certificates() -> ssl.SSLContext:
    """Return the system's certificates, with those that come with the hub's library: a frozen program may find no others."""
    context = ssl.create_default_context()
    with contextlib.suppress(ImportError):
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def _without_password(text: str) -> str:
    return re.sub(r"(://)[^\s/@]*@", r"\1", text)
