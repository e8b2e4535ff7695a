"""API keys: read from the settings, stored as digests, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from edgeembed.config.secrets import check_key, read_key_file
from edgeembed.errors import ConfigError

DEFAULT_NAME = "default"
"""Of the key in the setting api_key."""


@dataclass(frozen=True)
class Keys:
    """API keys by name, stored as digests. Every comparison takes the same time."""

    digests: tuple[tuple[str, bytes], ...] = ()

    @classmethod
    def read(cls, key: str | None, file: str | None) -> Keys:
        """Return the keys of the settings. Raises ConfigError for a key that protects nothing, or an unreadable file."""
        found: list[tuple[str, str]] = []
        if key is not None:
            try:
                found.append((DEFAULT_NAME, check_key(key)))
            except ValueError as error:
                raise ConfigError(f"api_key: {error}") from None
        if file is not None:
            found += read_key_file(file)
        return cls(tuple((name, _digest(secret)) for name, secret in found))

    def __bool__(self) -> bool:
        return bool(self.digests)

    def name_of(self, secret: str) -> str | None:
        """Return the name of a key; None if it is unknown."""
        given = _digest(secret)
        matches = [name for name, digest in self.digests if hmac.compare_digest(digest, given)]
        return matches[0] if matches else None


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
