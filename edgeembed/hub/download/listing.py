"""The listing of a repository: what the hub says about its files, checked before any of it is used."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any

import msgspec

from edgeembed.common.files import UNREADABLE_JSON
from edgeembed.hub.download import transport
from edgeembed.hub.download.transfer import RemoteFile

MOST_LISTING_BYTES = 16 * 2**20
"""Of an answer; a repository of 50,000 files has as much."""
MOST_FILE_BYTES = 2**50
COMMIT = re.compile(r"[0-9a-f]{40}")
# The small files of a checkpoint; the same repositories also contain ONNX and OpenVINO copies of the weights.
_CHECKPOINT_FILES = [
    "*.json", "*.txt", "*.model", "*.jinja", "README.md", "artifact.metadata", "sparse_linear.pt", "colbert_linear.pt",
]  # fmt: skip
_SAFETENSORS = ".safetensors"
_PICKLED = re.compile(r"(?:.*/)?(?:pytorch_model(?:-\d+-of-\d+)?|adapter_model)\.bin")
_ADAPTER = "adapter_model."
_NOT_CHECKPOINT = ["onnx/*", "openvino/*"]
_HARMLESS_PATH = re.compile(r"(?!/)(?!(?:.*/)?\.{1,2}(?:/|$))[^\\:\x00-\x1f\x7f]+")
_LONGEST_LICENSE = 200


@dataclass(frozen=True)
class RepositoryListing:
    """The content of a repository at one commit."""

    repo: str
    commit: str
    files: dict[str, RemoteFile]
    """By path."""
    license: str | None
    """As the model card states it."""

    @property
    def checkpoint(self) -> list[RemoteFile]:
        """The files of the checkpoint, weights last."""
        small = [file for path, file in self._convertible() if any(fnmatchcase(path, name) for name in _CHECKPOINT_FILES)]
        return [*sorted(small, key=lambda file: file.path), *self.weights]

    @property
    def weights(self) -> list[RemoteFile]:
        """The files with weights: safetensors, or where a folder has none of the model or of its adapter, pickled ones."""
        files = dict(self._convertible())
        safe = {_belongs_to(path) for path in files if path.endswith(_SAFETENSORS)}
        wanted = [
            path
            for path in files
            if path.endswith(_SAFETENSORS) or (_PICKLED.fullmatch(path) and _belongs_to(path) not in safe)
        ]
        return [files[path] for path in sorted(wanted)]

    def _convertible(self) -> Iterator[tuple[str, RemoteFile]]:
        for path, file in self.files.items():
            if not any(fnmatchcase(path, pattern) for pattern in _NOT_CHECKPOINT):
                yield path, file


def _belongs_to(path: str) -> tuple[str, bool]:
    """Return the folder of a file with weights, and whether they are those of an adapter."""
    folder, _, name = path.rpartition("/")
    return folder, name.startswith(_ADAPTER)


class _Lfs(msgspec.Struct):
    sha256: str | None = None


class _Sibling(msgspec.Struct):
    rfilename: str
    size: Annotated[int, msgspec.Meta(ge=0, le=MOST_FILE_BYTES)] | None = None
    blob_id: str | None = msgspec.field(default=None, name="blobId")
    lfs: _Lfs | None = None


class _Listing(msgspec.Struct):
    sha: str | None = None
    siblings: list[_Sibling] | None = None
    card: msgspec.Raw = msgspec.field(default=msgspec.Raw(b"null"), name="cardData")


class _Card(msgspec.Struct):
    """The part of a model card that is used; people write it, so its fields may have any type."""

    license: Any = None
    license_name: Any = None


def read_listing(repo: str, body: bytes, *, anonymous: bool = False) -> RepositoryListing:
    """Return the listing in a response of the hub. Raises Refusal if it is not one.

    anonymous: whether it was read without the user's token, as the files then are.
    """
    try:
        listed = msgspec.json.decode(body, type=_Listing)
    except UNREADABLE_JSON as error:
        raise transport.Refusal(
            f"the listing of {repo} cannot be read ({transport.first_line(error)}); check that HF_ENDPOINT is a model hub"
        ) from error
    commit = listed.sha
    if not commit or not COMMIT.fullmatch(commit):
        raise transport.Refusal(f"the listing of {repo} names no commit; check that HF_ENDPOINT is a model hub")
    files = {
        sibling.rfilename: RemoteFile(
            repo,
            sibling.rfilename,
            commit,
            size_bytes=sibling.size,
            sha256=sibling.lfs.sha256 if sibling.lfs else None,
            git_sha1=sibling.blob_id if not sibling.lfs and COMMIT.fullmatch(sibling.blob_id or "") else None,
            anonymous=anonymous,
        )
        for sibling in listed.siblings or []
        # The name becomes a path on this machine.
        if _HARMLESS_PATH.fullmatch(sibling.rfilename)
    }
    return RepositoryListing(repo, commit, files, _license(listed.card))


def _license(raw_card: msgspec.Raw) -> str | None:
    """Return the licence that a model card states."""
    try:
        card = msgspec.json.decode(raw_card, type=_Card | None)
    except UNREADABLE_JSON:
        return None
    found = card.license if card else None
    if card and found == "other":
        found = card.license_name or found
    names = found if isinstance(found, list) else [found]
    said = " AND ".join(name for name in names if isinstance(name, str))
    return transport.plain(said)[:_LONGEST_LICENSE] or None
