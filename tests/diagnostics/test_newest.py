"""Which version is the newest: asked of a package index, a release page and a git remote that stand in for the real ones."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edgeembed.common.installation import Installation, Kind
from edgeembed.diagnostics.newest import find_newest, is_newer, newest_of
from edgeembed.errors import EdgeEmbedError

FILES = [f"edgeembed-{version}-py3-none-any.whl" for version in ("0.1.0", "9.8.0", "9.10.0", "10.0.0rc1")]


class StandIn(BaseHTTPRequestHandler):
    """A package index (PEP 691) below /simple/ and release pages below /releases."""

    asked: list[str]
    latest: str | None

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        if self.path == "/releases/latest" and self.latest == "200":
            self._answer("Welcome", "text/html")
        elif self.path == "/releases/latest" and self.latest is not None:
            self.send_response(302)
            self.send_header("Location", self.latest if self.latest.startswith("/") else f"/releases/{self.latest}")
            self.end_headers()
        elif self.path in ("/simple/edgeembed/", "/empty/edgeembed/", "/candidates/edgeembed/"):
            names = {"/simple": FILES, "/empty": [], "/candidates": FILES[-1:]}[self.path.removesuffix("/edgeembed/")]
            files = [{"filename": name, "url": f"/files/{name}", "hashes": {}, "core-metadata": True} for name in names]
            page = {"meta": {"api-version": "1.0"}, "name": "edgeembed", "files": files}
            self._answer(json.dumps(page), "application/vnd.pypi.simple.v1+json")
        elif self.path.endswith(".whl.metadata"):
            version = self.path.split("-")[1]
            self._answer(f"Metadata-Version: 2.1\nName: edgeembed\nVersion: {version}\n", "text/plain")
        else:
            self.send_error(401 if self.path.startswith("/login/") else 404)

    def _answer(self, text: str, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def stand_in() -> Iterator[tuple[str, type[StandIn]]]:
    handler: type[StandIn] = type("Handler", (StandIn,), {"asked": [], "latest": "tag/v9.10.0"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    thread.join()
    server.server_close()


def installed(kind: Kind, *, source: Path | None = None, **notes: str) -> Installation:
    return Installation(kind=kind, title=kind, prefix=Path(), source=str(source) if source else None, notes=notes)


def test_pip_asks_the_index_that_the_user_configured(
    stand_in: tuple[str, type[StandIn]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{stand_in[0]}/simple/")
    found = find_newest(installed("pip"))
    assert found.version == "9.10.0", "the newest by number, and no pre-release"
    assert stand_in[1].asked == ["/simple/edgeembed/"]
    assert "pip" in found.asked


@pytest.mark.skipif(not shutil.which("uv"), reason="uv is not on this machine")
def test_uv_asks_the_index_that_the_user_configured(
    stand_in: tuple[str, type[StandIn]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"{stand_in[0]}/simple/")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    found = find_newest(installed("uv tool"))
    assert found.version == "9.10.0" and "uv" in found.asked


def test_an_index_that_is_not_there_is_said_to_be_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://someone:secret@127.0.0.1:9/simple/")
    monkeypatch.setenv("PIP_NO_INDEX", "false")
    with pytest.raises(EdgeEmbedError, match="cannot be reached") as raised:
        find_newest(installed("pip"))
    assert "secret" not in raised.value.message


@pytest.mark.parametrize(
    ("kind", "index"), [("pip", "empty"), ("pip", "candidates"), ("uv tool", "candidates"), ("uv tool", "nothing")]
)
def test_an_index_without_a_release_is_said_to_have_none(
    kind: Kind, index: str, stand_in: tuple[str, type[StandIn]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "uv tool" and not shutil.which("uv"):
        pytest.skip("uv is not on this machine")
    monkeypatch.setenv("PIP_INDEX_URL", f"{stand_in[0]}/{index}/")
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"{stand_in[0]}/{index}/")
    with pytest.raises(EdgeEmbedError) as raised:
        find_newest(installed(kind))
    asked = f"the package index of your {kind.split()[0]} configuration"
    assert re.fullmatch(
        rf"no release of edgeembed for Python 3\.\d+ is published yet, or you may not see it; asked: {asked}\. "
        "If this installation came from another index, set its address in pip's or uv's configuration",
        raised.value.message,
    )


@pytest.mark.skipif(not shutil.which("uv"), reason="uv is not on this machine")
def test_an_index_that_wants_a_login_is_not_said_to_have_no_release(
    stand_in: tuple[str, type[StandIn]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"{stand_in[0].replace('//', '//me:secret@')}/login/")
    with pytest.raises(EdgeEmbedError, match=r"the package index refused: An index .*401") as raised:
        find_newest(installed("uv tool"))
    assert "secret" not in raised.value.message


def test_a_package_asks_its_release_page_and_follows_nothing(stand_in: tuple[str, type[StandIn]]) -> None:
    found = find_newest(installed("deb", releases=f"{stand_in[0]}/releases"))
    assert found.version == "9.10.0"
    assert stand_in[1].asked == ["/releases/latest"]


@pytest.mark.parametrize(
    ("latest", "says"),
    [
        (
            None,
            "no release of edgeembed is published yet, .*; asked: http.*/releases. To build a package .*, see installers",
        ),
        ("", "no release of edgeembed is published yet"),
        ("tag/nightly", r"called nightly, which is no version"),
        (
            "/login?back=1",
            r"/releases answers with something else than a release \(redirect to http\S+/login\?back=1\); look there",
        ),
        ("/renamed/releases/latest", r"answers with something else .*redirect to http\S+/renamed/releases/latest"),
        ("200", r"answers with something else than a release \(status 200\)"),
    ],
)
def test_a_release_page_without_a_release_is_no_version(
    stand_in: tuple[str, type[StandIn]], latest: str | None, says: str
) -> None:
    stand_in[1].latest = latest
    with pytest.raises(EdgeEmbedError, match=says):
        find_newest(installed("tarball", releases=f"{stand_in[0]}/releases"))


def test_without_a_release_it_is_said_where_a_file_came_from(stand_in: tuple[str, type[StandIn]]) -> None:
    stand_in[1].latest = None
    notes = {"releases": f"{stand_in[0]}/releases"}
    wheel = Installation(kind="pip", title="pip", prefix=Path(), source="https://me:secret@files.example/a.whl", notes=notes)
    with pytest.raises(EdgeEmbedError, match=r"This installation came from https://files\.example/a\.whl: look there"):
        find_newest(wheel)


def test_an_address_that_is_none_is_an_error_and_no_traceback() -> None:
    for page in ("http://127.0.0.1:9/releases", "nonsense", "file:///etc/passwd"):
        with pytest.raises(EdgeEmbedError, match="release page"):
            find_newest(installed("deb", releases=page))


@pytest.mark.skipif(not shutil.which("git"), reason="git is not on this machine")
def test_a_source_tree_asks_its_own_remote(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, timeout=60)

    git("init", "-q", "published")
    git("-C", "published", "commit", "-q", "--allow-empty", "-m", "one")
    git("clone", "-q", str(tmp_path / "published"), "mine")
    tree = installed("source", source=tmp_path / "mine")
    with pytest.raises(EdgeEmbedError, match=r"no release of edgeembed is published yet; .* git -C .*/mine pull"):
        find_newest(tree)
    for tag in ("v0.9.0", "v0.10.0", "v1.0.0rc1", "unrelated"):
        git("-C", "published", "tag", tag)
    assert find_newest(tree).version == "0.10.0"
    shutil.rmtree(tmp_path / "published")
    with pytest.raises(EdgeEmbedError, match="does not answer"):
        find_newest(tree)


def test_versions_are_compared_as_python_does() -> None:
    assert is_newer("0.10.0", "0.9.1") and not is_newer("0.9.1", "0.9.1") and is_newer("1.0", "1.0rc1")
    assert newest_of(["x", "0.2", "0.10", "1.0a1", ""]) == "0.10"
    assert newest_of(["1.0a1"]) is None
