"""Names of stores, as users write them: KIND:PLACE#TABLE."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeembed.bulk.stores.interface import Store, StoreInfo
from edgeembed.errors import ConfigError

KINDS = ("sqlite", "lancedb", "qdrant", "postgresql", "postgres")
DEFAULT_TABLE = "vectors"
_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,47}")
_PASSWORD_OF_USER = re.compile(r"(://[^/@:]*:)([^/]*)(@)")
_PASSWORD_OF_OPTION = re.compile(r"(password=)[^&\s]*")
_FORMS = "sqlite:FILE#TABLE, lancedb:FOLDER#TABLE, qdrant:URL#COLLECTION or postgresql://…#TABLE"


class StoreKind(Protocol):
    """What the module of a kind of store offers, besides the stores themselves."""

    def exists(self, target: Target) -> bool:
        """Return whether there is a table of that name, whoever made it. Raises ConfigError."""
        ...

    def create(self, target: Target, info: StoreInfo) -> Store:
        """Make an empty store. Raises ConfigError."""
        ...

    def open(self, target: Target) -> Store:
        """Open a store that `create` made. Raises ConfigError if there is none."""
        ...

    def drop(self, target: Target) -> None:
        """Remove a store with its rows, if there is one. Raises ConfigError if it is not one that `create` made."""
        ...


@dataclass(frozen=True)
class Target:
    """A store that a user names. place: a file, folder or URL. table: or collection."""

    kind: str
    place: str
    table: str

    @classmethod
    def parse(cls, name: str) -> Target | None:
        """Return the store that is named, or None for the name of a file. Raises ConfigError."""
        kind, colon, rest = name.partition(":")
        if not colon or kind not in KINDS:
            return None
        place, _, table = rest.partition("#")
        if kind in ("postgresql", "postgres"):
            kind, place = "postgresql", f"postgresql:{place}" if place.startswith("//") else place
        if not place.strip("/"):
            raise ConfigError(f"{name} names no place; expected {_FORMS}")
        table = table or DEFAULT_TABLE
        if not _TABLE.fullmatch(table):
            raise ConfigError(f"{table!r} cannot be a table; expected at most 48 letters, digits and _, no digit first")
        return cls(kind, place, table)

    @property
    def file(self) -> Path | None:
        """The file or folder that holds the store; None on a server."""
        return None if "://" in self.place or self.kind == "postgresql" else Path(self.place)

    @property
    def beside(self) -> Path:
        """A path that no other store has, in whose folder a job keeps its own files: the current one for a server."""
        if self.file is None:
            return Path(f"{self.kind}.{self.table}")
        return self.file.with_name(f"{self.file.name}.{self.table}")

    def __str__(self) -> str:
        """The name, without the password in a URL."""
        place = _PASSWORD_OF_USER.sub(r"\1***\3", self.place) if "://" in self.place else self.place
        place = _PASSWORD_OF_OPTION.sub(r"\1***", place)
        return f"{place}#{self.table}" if place.startswith(f"{self.kind}:") else f"{self.kind}:{place}#{self.table}"


def kind_of(target: Target) -> StoreKind:
    """Return the kind of a store. Raises ConfigError if its library is not installed."""
    from edgeembed.bulk.stores import lance, postgresql, qdrant, sqlite

    kinds: dict[str, StoreKind] = {
        "sqlite": sqlite.SqliteKind(),
        "lancedb": lance.LanceKind(),
        "qdrant": qdrant.QdrantKind(),
        "postgresql": postgresql.PostgresqlKind(),
    }
    return kinds[target.kind]
