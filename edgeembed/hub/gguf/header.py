"""The metadata of a GGUF file, read without the `gguf` package, whose import alone takes longer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeembed.common.files import describe_os_error
from edgeembed.engine.dense import COUNT_KEY, outputs_key
from edgeembed.engine.interface import TYPE_KEY
from edgeembed.engine.stand_ins import ARCHITECTURE_KEY, computed_as
from edgeembed.errors import HubError, UnknownModelError
from edgeembed.hub.gguf.file import GgufReader, MalformedError, Scalar

RANK_POOLING = 4
"""`pooling_type` of a reranker."""

# `general.file_type` (llama.cpp, enum llama_ftype): the types in use for embedding models.
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 25: "IQ4_NL", 30: "IQ4_XS",
    32: "BF16",
}  # fmt: skip


@dataclass(frozen=True)
class GgufHeader:
    """Key-value pairs of a GGUF file, without arrays."""

    values: dict[str, Scalar]

    def text(self, key: str) -> str | None:
        """Return a string value; None if the key is missing or has another type."""
        value = self.values.get(key)
        return value if isinstance(value, str) else None

    def number(self, key: str) -> int | None:
        """Return an integer value; None if the key is missing or has another type."""
        value = self.values.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def architecture(self) -> str | None:
        """Name of the model's architecture."""
        return self.text(ARCHITECTURE_KEY)

    def size(self, name: str) -> int | None:
        """Return an integer of the architecture, such as `embedding_length`; as for `number`."""
        return self.number(self.key(name))

    def key(self, name: str) -> str:
        """Return the full name of a key of the architecture."""
        return f"{computed_as(self.architecture or '')}.{name}"

    @property
    def dimensions(self) -> int | None:
        """Length of the model's vectors."""
        if layers := self.number(COUNT_KEY):
            return self.number(outputs_key(layers - 1))
        return self.size("embedding_length")

    @property
    def pooling(self) -> int | None:
        """llama.cpp's number of the pooling type."""
        return self.size("pooling_type")

    @property
    def type(self) -> str:
        """The quantisation type that the file states; "unknown" if it states none."""
        if own := self.text(TYPE_KEY):
            return own
        number = self.number("general.file_type")
        return "unknown" if number is None else _FILE_TYPES.get(number, "unknown")


def read_header(path: Path) -> GgufHeader:
    """Return the metadata of a GGUF file; a vocabulary of 150,000 tokens takes a tenth of a second.

    Whether the file is safe for llama.cpp is not checked; see `check.check_gguf`. Raises UnknownModelError if there is no
    such file, HubError if it is not a GGUF file or its metadata is damaged.
    """
    with open_gguf(path) as reader:
        return GgufHeader(reader.head().values)


@contextmanager
def open_gguf(path: Path) -> Iterator[GgufReader]:
    """Open a GGUF file; errors in the block become UnknownModelError or HubError, naming the file."""
    try:
        with path.open("rb") as file:
            yield GgufReader(file)
    except FileNotFoundError as error:
        raise UnknownModelError(f"there is no file {path}") from error
    except OSError as error:
        raise HubError(f"cannot read {describe_os_error(error, path)}") from error
    except MalformedError as error:
        raise HubError(f"{path}: damaged or incomplete GGUF file: {error}") from error
