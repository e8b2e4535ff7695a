"""The head of a GGUF file that is on the model hub, without its weights: what a model takes, before it is downloaded."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeembed.common.files import describe_os_error
from edgeembed.common.progress import ReportLine
from edgeembed.config.settings import Settings
from edgeembed.errors import HubError, SourceUnreachableError
from edgeembed.hub.download.huggingface import CHECK_CONNECTION, HubClient
from edgeembed.hub.download.transfer import RemoteFile
from edgeembed.hub.gguf.header import open_gguf
from edgeembed.hub.gguf.split import parts_of
from edgeembed.hub.references import HubReference, choose_file

STEPS = (2**20, 2**23, 2**25, 2**26)
"""Bytes of a file that are asked for, until they contain its head: a vocabulary of 250,000 pieces takes some 20 MiB."""


@contextmanager
def remote_head(reference: HubReference, settings: Settings, report: ReportLine) -> Iterator[Path]:
    """Yield a file with the head and the size of the GGUF file that a reference means; in place of the weights is a hole.

    The file is removed afterwards. Raises UnknownModelError, SourceUnreachableError, HubError for a model whose sizes no
    single head has.
    """
    if settings.offline:
        raise HubError(f"{reference} is not installed, and `offline` forbids asking the hub for its size; unset `offline`")
    hub = HubClient(settings, report)
    try:
        listing = hub.listing(reference.repo, reference.revision)
    except SourceUnreachableError as error:
        hint = f". {CHECK_CONNECTION}" if hub.out_of_reach else ""
        raise SourceUnreachableError(
            f"{reference} is not installed, and its size cannot be asked for: {error}{hint}"
        ) from error
    path = choose_file(listing.files, reference)
    if path is None or parts_of(path):
        what = "is in several parts, which are joined" if path else "has no GGUF file, but a checkpoint, which is converted"
        raise HubError(f"{reference} {what} when it is installed; its size is known after that: edgeembed pull {reference}")
    remote = listing.files[path]
    size = remote.size_bytes
    if size is None:
        size = hub.head(reference.repo, path, listing.commit).size_bytes
    if size is None:
        raise HubError(f"the hub does not say how large {path} is; to see it, install it: edgeembed pull {reference}")
    try:
        folder = tempfile.TemporaryDirectory(prefix="edgeembed-")
    except OSError as error:
        raise HubError(f"cannot write the head of {path}: {describe_os_error(error)}") from error
    with folder:
        target = Path(folder.name) / remote.name
        _fetch_head(hub, remote, size, target)
        yield target


def _fetch_head(hub: HubClient, remote: RemoteFile, size: int, target: Path) -> None:
    """Write the head of a file to `target`, which gets the file's size. Raises HubError if it is no GGUF file."""
    for step in STEPS:
        content = hub.beginning(remote, step)
        try:
            target.write_bytes(content)
            os.truncate(target, size)
        except OSError as error:
            raise HubError(f"cannot write the head of {remote.path}: {describe_os_error(error)}") from error
        reason = "its head is too long"
        try:
            with open_gguf(target) as reader:
                reader.tensors(reader.head())
                if reader.position <= len(content):
                    return
        except HubError as error:  # it may be what follows the bytes that are here
            reason = str(error).removeprefix(f"{target}: ")
        if len(content) < step or not content.startswith(b"GGUF"):
            break
    raise HubError(f"{remote.path} of {remote.repo} cannot be read: {reason}")
