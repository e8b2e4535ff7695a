"""API keys: read from the settings, stored as digests, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path

from edgeembed.errors import ConfigError


@dataclass(frozen=True)
class Keys:
    """API keys by name, stored as digests. Every comparison takes the same time."""

    digests: tuple[tuple[str, bytes], ...] = ()

    @classmethod
    def read(cls, key: str | None, file: str | None) -> Keys:
        """Read the keys of the settings. Raises ConfigError for a file that cannot be read or has no keys."""
        found: list[tuple[str, str]] = [("default", key)] if key else []
        if file:
            path = Path(file).expanduser()
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"cannot read the API keys in {path}: {error}") from error
            named = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
            if not named:
                raise ConfigError(f"{path} has no API keys; expected one per line, as KEY or NAME: KEY")
            for number, line in enumerate(named, 1):
                name, colon, secret = line.partition(":")
                found.append((name.strip(), secret.strip()) if colon else (f"key {number}", line))
        if any(not secret for _, secret in found):
            raise ConfigError("an API key is empty")
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
