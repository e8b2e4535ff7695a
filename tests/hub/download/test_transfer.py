"""Downloads over a failing connection: complete, resumed instead of repeated, and without secrets in messages."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import random
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest

from edgeembed.common.backoff import Backoff
from edgeembed.config.settings import Settings
from edgeembed.errors import ChecksumError, HubError, SourceUnreachableError
from edgeembed.hub.download import transport
from edgeembed.hub.download.huggingface import HubClient
from edgeembed.hub.download.partials import Partials
from edgeembed.hub.download.transfer import DownloadWatcher, RemoteFile, download, missing_bytes
from edgeembed.hub.download.transport import RetryBudget
from tests.fakes import Lines
from tests.hub.fake_hub import COMMIT, SIGNATURE, FakeHub

REPO, FILE = "acme/large", "large-Q8_0.gguf"
SIZE = 6 * 2**20
CONTENT = random.Random(0).randbytes(SIZE)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
REMOTE = RemoteFile(REPO, FILE, COMMIT, SIZE, SHA256)


@dataclass
class Setting:
    """A hub with one file, and the target of its download."""

    hub: FakeHub
    target: Path
    said: Lines

    def get(self, remote: RemoteFile = REMOTE) -> str:
        return download(remote, self.target, DownloadWatcher(say=self.said))

    def left(self) -> list[str]:
        return sorted(path.name for path in self.target.parent.iterdir())

    def put(self, content: bytes, remote: RemoteFile = REMOTE) -> None:
        """Leave a partial file, as a killed process does."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        remote.partial(self.target).write_bytes(content)


@pytest.fixture
def setting(hub: FakeHub, tmp_path: Path, report: Lines) -> Setting:
    hub.files[REPO] = {FILE: CONTENT, "notes.txt": b"small"}
    return Setting(hub, tmp_path / "downloads" / FILE, report)


def test_an_undisturbed_download(setting: Setting) -> None:
    seen: list[int] = []
    assert download(REMOTE, setting.target, DownloadWatcher(at=seen.append)) == SHA256
    assert setting.target.read_bytes() == CONTENT
    assert setting.left() == [FILE]
    assert (seen[-1], setting.hub.sent) == (SIZE, SIZE)


def test_twenty_broken_connections_cost_little_more_than_one_download(setting: Setting) -> None:
    places = sorted(random.Random(20).sample(range(1, SIZE), 20))
    setting.hub.trouble.cut = [place - before for before, place in pairwise([0, *places])]
    assert setting.get() == SHA256
    assert setting.target.read_bytes() == CONTENT
    assert len(setting.hub.downloads) == 21
    assert {request.status for request in setting.hub.downloads[1:]} == {206}
    assert setting.hub.sent <= SIZE * 1.05
    assert setting.left() == [FILE]


def test_a_partial_file_of_an_earlier_process_is_resumed(setting: Setting) -> None:
    setting.put(CONTENT[:4_000_000])
    assert missing_bytes(REMOTE, setting.target) == SIZE - 4_000_000
    assert setting.get() == SHA256
    [request] = setting.hub.downloads
    assert (request.range, request.sent) == ("bytes=4000000-", SIZE - 4_000_000)
    assert setting.get() == SHA256, "a finished file is checked"
    assert len(setting.hub.downloads) == 1


def test_a_complete_partial_file_needs_no_hub(setting: Setting) -> None:
    setting.put(CONTENT)
    assert setting.get() == SHA256
    assert setting.hub.requests == []


def test_nothing_but_the_file_is_requested(tmp_path: Path, hub: FakeHub) -> None:
    """By itself, huggingface_hub requests more in a new process, and reveals what else is installed."""
    hub.files[REPO] = {FILE: CONTENT}
    program = f"""
import sys
from pathlib import Path
from edgeembed.config.resolution import Settings
from edgeembed.hub.download.huggingface import HubClient
from edgeembed.hub.download.partials import Partials
hub = HubClient(Settings(hub_timeout=30), print)
hub.head({REPO!r}, {FILE!r})
hub.fetch(hub.listing({REPO!r}).files[{FILE!r}], Path({str(tmp_path)!r}))
"""
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "HF_HOME": str(tmp_path / "hf")})
    resolve = f"hub:{REPO}/resolve/{COMMIT}/{FILE}"
    assert [path for _, path, _ in hub.requests] == [
        f"hub:{REPO}/resolve/main/{FILE}",
        f"hub:api/models/{REPO}",
        resolve,
        f"cdn:{REPO}/{FILE}",
    ]
    assert all(re.fullmatch(r"edgeembed/[\d.]+; hf_hub/[\w.]+; python/[\w.]+", request.agent) for request in hub.log)


def test_a_server_without_ranges(setting: Setting) -> None:
    setting.hub.ranges = False
    setting.hub.trouble.cut = [1_000_000, None]
    assert setting.get() == SHA256
    assert setting.target.read_bytes() == CONTENT
    assert [request.status for request in setting.hub.downloads] == [200, 200]


def test_a_server_without_ranges_that_always_breaks_at_one_place_is_given_up(setting: Setting) -> None:
    setting.hub.ranges = False
    setting.hub.trouble.cut = [1_000_000] * 50
    with pytest.raises(SourceUnreachableError, match=r"1\.0 MB of 6\.3 MB are kept"):
        setting.get()
    assert len(setting.hub.downloads) == 1 + transport.RETRY_BUDGET.attempts
    assert REMOTE.partial(setting.target).read_bytes() == CONTENT[:1_000_000]


def test_another_content_is_downloaded_from_the_start(setting: Setting) -> None:
    setting.put(CONTENT[:1_000_000])
    other = random.Random(1).randbytes(SIZE)
    setting.hub.files[REPO][FILE] = other
    changed = replace(REMOTE, commit="b" * 40, sha256=hashlib.sha256(other).hexdigest())
    assert setting.get(changed) == changed.sha256
    [request] = setting.hub.downloads
    assert request.range is None
    assert setting.left() == [FILE], "the partial file of the older content is removed"


def test_a_mirror_that_names_no_checksum(setting: Setting) -> None:
    """Only the hub's ETag then distinguishes a changed file from an unchanged one."""
    setting.hub.tells_sizes = False
    unknown = RemoteFile(REPO, "notes.txt", None)
    target = setting.target.with_name("notes.txt")
    assert download(unknown, target) == hashlib.sha256(b"small").hexdigest()
    named = replace(unknown, etag="of-another-content")
    named.partial(target).write_bytes(b"smell")
    target.unlink()
    assert download(replace(named, size_bytes=5, etag="x"), target) == hashlib.sha256(b"small").hexdigest()
    etag = hashlib.sha1(b"blob 5\0small").hexdigest()
    for sent, partial in (("y", b"sm"), (etag, b"sm")):
        target.unlink()
        remote = RemoteFile(REPO, "notes.txt", None, 5, etag=sent)
        remote.partial(target).write_bytes(partial)
        if sent == etag:
            assert download(remote, target) == hashlib.sha256(b"small").hexdigest()
        else:
            setting.hub.log.clear()
            download(remote, target)
            assert [request.range for request in setting.hub.log] == ["bytes=2-", None]


def test_a_small_file_is_verified_by_its_git_hash(setting: Setting) -> None:
    target = setting.target.with_name("notes.txt")
    right = hashlib.sha1(b"blob 5\0small").hexdigest()
    remote = RemoteFile(REPO, "notes.txt", COMMIT, 5, git_sha1=right)
    assert download(remote, target) == hashlib.sha256(b"small").hexdigest()
    setting.hub.files[REPO]["notes.txt"] = b"smell"
    target.unlink()
    with pytest.raises(ChecksumError, match="Git hash"):
        download(remote, target)


def test_a_proxy_that_compresses_unasked(setting: Setting) -> None:
    setting.hub.compresses = True
    remote = RemoteFile(REPO, "notes.txt", COMMIT, 5, git_sha1=hashlib.sha1(b"blob 5\0small").hexdigest())
    target = setting.target.with_name("notes.txt")
    for here in (b"", b"sm"):
        target.unlink(missing_ok=True)
        setting.put(b"")
        remote.partial(target).write_bytes(here)
        assert download(remote, target) == hashlib.sha256(b"small").hexdigest()


def test_a_full_disk_keeps_the_partial_file(setting: Setting, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    hub = HubClient(settings, setting.said)
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            hub.fetch(REMOTE, setting.target.parent)
    assert hub.fetch(REMOTE, setting.target.parent) == (setting.target, SHA256)
    assert setting.hub.sent == SIZE


def test_a_partial_file_that_is_longer_than_the_file(setting: Setting) -> None:
    setting.put(CONTENT + b"!")
    assert setting.get() == SHA256


def test_a_range_that_the_server_does_not_have(setting: Setting) -> None:
    unsized = replace(REMOTE, size_bytes=None)
    setting.put(CONTENT, unsized)
    assert setting.get(unsized) == SHA256, "416 means that the file is complete"
    assert [request.status for request in setting.hub.downloads] == [416]
    setting.target.unlink()
    setting.put(CONTENT + b"too much", unsized)
    assert setting.get(unsized) == SHA256
    assert [request.status for request in setting.hub.downloads[1:]] == [416, 200]


def test_a_server_that_sends_another_range(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edgeembed")
    setting.hub.wrong_ranges = True
    setting.put(CONTENT[:1_000_000])
    assert setting.get() == SHA256
    assert [request.status for request in setting.hub.downloads] == [206, 200]
    assert "another range than requested" in caplog.text


def test_partial_files_of_another_commit_are_removed(tmp_path: Path) -> None:
    partials = Partials(tmp_path / "parts")
    for repo, commit in ((REPO, "a" * 40), ("acme/other", "a" * 40), (REPO, "b" * 40)):
        (partials.folder(repo, commit) / "half.part").write_bytes(b"half")
    assert sorted(path.name for path in partials.root.iterdir()) == [
        "acme--large@bbbbbbbbbbbb",
        "acme--other@aaaaaaaaaaaa",
    ]
    assert partials.size() == 8


def test_a_wrong_byte_is_detected(setting: Setting) -> None:
    setting.hub.damaged[f"{REPO}/{FILE}"] = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(ChecksumError, match=f"expected {SHA256}"):
        setting.get()
    assert setting.left() == []
    assert len(setting.hub.downloads) == 1, "a retry would give the same"


def test_a_damaged_partial_file_costs_one_new_download(setting: Setting) -> None:
    setting.put(bytes(1_000_000))
    assert setting.get() == SHA256
    assert [request.range for request in setting.hub.downloads] == ["bytes=1000000-", None]
    assert "downloading it again from the start" in str(setting.said)


def test_a_wrong_byte_is_detected_after_resuming(setting: Setting) -> None:
    setting.hub.damaged[f"{REPO}/{FILE}"] = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    setting.put(CONTENT[:1_000_000])
    with pytest.raises(ChecksumError):
        setting.get()
    assert [request.range for request in setting.hub.downloads] == ["bytes=1000000-", None]
    assert setting.left() == []


def test_a_page_in_place_of_the_file_is_not_appended_to_it(setting: Setting) -> None:
    """A captive portal answers every request with its own page."""
    setting.hub.damaged[f"{REPO}/{FILE}"] = b"<html>please log in</html>"
    with pytest.raises(SourceUnreachableError, match=rf"26 bytes, but the hub promised {SIZE}"):
        setting.get()


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_requests_to_a_busy_hub_are_retried(setting: Setting, status: int) -> None:
    setting.hub.trouble.hub_status = [status, None, status, status]
    setting.hub.trouble.cut = [2_000_000]
    assert setting.get() == SHA256
    assert f"HTTP {status}" in str(setting.said)


def test_a_refused_signature_is_renewed(setting: Setting) -> None:
    setting.hub.trouble.cdn_status = [403, 404]
    assert setting.get() == SHA256


def test_a_long_retry_after_ends_the_download(setting: Setting) -> None:
    setting.hub.trouble.hub_status, setting.hub.trouble.retry_after = [429], "86400"
    with pytest.raises(SourceUnreachableError, match=r"asks to wait 86400 s"):
        setting.get()


def test_attempts_without_a_new_byte_end_the_download(setting: Setting) -> None:
    setting.hub.trouble.cut = [1_500_000, *[0] * 50]
    with pytest.raises(SourceUnreachableError, match=r"1\.5 MB of 6\.3 MB are kept"):
        setting.get()
    setting.hub.trouble.cut = []
    before = setting.hub.sent
    assert setting.get() == SHA256
    assert setting.hub.sent - before == SIZE - 1_500_000


def test_a_silent_connection_counts_as_broken(setting: Setting, monkeypatch: pytest.MonkeyPatch, black_hole: None) -> None:
    budget = RetryBudget(attempts=2, backoff=Backoff(first=0.01, longest=0.04), silence=0.1)
    monkeypatch.setattr(transport, "RETRY_BUDGET", budget)
    with pytest.raises(SourceUnreachableError, match=r"127\.0\.0\.1: "):
        setting.get()


@pytest.mark.parametrize(
    ("token", "repo", "gated", "said"),
    [
        (None, "acme/nothing", False, r"HTTP 401.*without a token.*HF_TOKEN"),
        ("hf_abcdefghij", "acme/nothing", False, r"HTTP 404: there is no repository acme/nothing"),
        ("hf_abcdefghij", REPO, True, r"HTTP 403.*with this token.*accept the terms.*/acme/large, and set HF_TOKEN"),
    ],
)
def test_refusals_say_what_to_do(
    setting: Setting,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    repo: str,
    gated: bool,
    said: str,
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    if gated:
        setting.hub.gated.add(repo)
    remote = replace(REMOTE, repo=repo)
    hub = HubClient(settings, setting.said)
    for ask in (lambda: setting.get(remote), lambda: hub.listing(repo), lambda: hub.head(repo, FILE)):
        setting.hub.log.clear()
        with pytest.raises(SourceUnreachableError, match=said) as caught:
            ask()
        assert len(setting.hub.log) == 1, "a refused request is not retried"
        assert "hf_abc" not in str(caught.value)


def test_a_file_that_does_not_exist(setting: Setting) -> None:
    with pytest.raises(SourceUnreachableError, match="HTTP 404: acme/large has no such file"):
        setting.get(replace(REMOTE, path="other.gguf"))


def test_the_token_is_sent_to_the_hub_only_and_no_message_has_a_secret(
    setting: Setting, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_s3cretS3cret")
    caplog.set_level(logging.INFO, "edgeembed")
    setting.hub.trouble.cut = [100, None, 2_000_000]
    setting.hub.trouble.cdn_status = [None, 500, None, 403]
    hub = HubClient(settings, setting.said)
    hub.head(REPO, FILE)
    assert hub.listing(REPO).files[FILE].sha256 == SHA256
    assert setting.get() == SHA256
    assert len(setting.hub.downloads) > 4
    assert {request.authorization for request in setting.hub.log if request.role == "cdn"} == {None}
    assert {request.authorization for request in setting.hub.log if request.role == "hub"} == {"Bearer hf_s3cretS3cret"}
    setting.target.unlink()
    setting.hub.trouble.cdn_status = [500] * 50
    with pytest.raises(SourceUnreachableError) as caught:
        setting.get()
    messages = f"{setting.said}\n{caplog.text}\n{caught.value!r}\n{caught.value.__cause__!r}"
    assert "HTTP 500" in messages
    for secret in ("s3cret", SIGNATURE, "Signature"):
        assert secret not in messages


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET https://cdn.example/x?Signature=abc&Key=d failed", "GET https://cdn.example/x failed"),
        ("proxy http://me:secret@proxy.example:3128/ refused", "proxy http://proxy.example:3128/ refused"),
        ("token hf_ABCDEFGHIJKLMNOP is invalid", "token hf_… is invalid"),
        ("\x1b[31mred", r"\x1b[31mred"),
    ],
)
def test_secrets_are_removed_from_messages(text: str, shown: str) -> None:
    assert transport.plain(text) == shown


def test_settings_that_cannot_be_used_are_named(
    setting: Setting, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = HubClient(settings, setting.said)
    monkeypatch.setenv("HF_ENDPOINT", "hub.example")
    with pytest.raises(HubError, match=r"HF_ENDPOINT = 'hub\.example' is not a URL"):
        hub.head(REPO, FILE)


def test_an_endpoint_that_is_not_a_hub_is_reported(
    setting: Setting, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeHub, "_commit", lambda *_: "not a commit")
    with pytest.raises(SourceUnreachableError, match="names no commit; check that HF_ENDPOINT is a model hub"):
        HubClient(settings, setting.said).listing(REPO)


def test_unsafe_paths_are_left_out(setting: Setting, settings: Settings) -> None:
    names = [
        "good.gguf",
        "deep/good.gguf",
        "../evil.gguf",
        "a/../../evil.gguf",
        "/evil.gguf",
        "a\\evil.gguf",
        "c:evil.gguf",
        ".",
    ]
    setting.hub.files[REPO] = dict.fromkeys(names, b"x")
    assert sorted(HubClient(settings, setting.said).listing(REPO).files) == ["deep/good.gguf", "good.gguf"]
