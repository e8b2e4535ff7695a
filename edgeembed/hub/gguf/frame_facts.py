"""What a file says of its frame, what llama.cpp takes where it says nothing, and what is used instead of it."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping

from edgeembed.engine.dense import COUNT_KEY as DENSE_COUNT_KEY
from edgeembed.engine.stand_ins import ARCHITECTURE_KEY, computed_as
from edgeembed.engine.worker_options import MetadataValue
from edgeembed.hub.gguf.file import Scalar
from edgeembed.hub.gguf.frame_tokens import FrameTokens
from edgeembed.hub.gguf.header import RANK_POOLING
from edgeembed.hub.gguf.vocabulary import ADDED_BY_DEFAULT, DEFAULT_IDS, MODEL_KEY

POOLINGS = {0: "none", 1: "mean", 2: "cls", 3: "last", RANK_POOLING: "rank"}


class FrameFacts:
    """The metadata of one file that its frame depends on, with what is mended."""

    def __init__(self, values: Mapping[str, Scalar], shapes: Mapping[str, tuple[int, ...]], tokens: FrameTokens) -> None:
        """values: the file's metadata. shapes: of its tensors."""
        self.values = values
        self.shapes = shapes
        self.tokens = tokens
        self.architecture = str(values.get(ARCHITECTURE_KEY))
        self.keys = computed_as(self.architecture)
        """What the keys of the architecture begin with."""
        self.tokenizer = values.get(MODEL_KEY)
        self.mends: dict[str, MetadataValue] = {}
        """As in `Frame`."""
        self.mended: list[str] = []

    @property
    def dense(self) -> int:
        """How many dense layers follow the pooling."""
        ours = self.values.get(DENSE_COUNT_KEY)
        return 2 if "dense_2.weight" in self.shapes else ours if isinstance(ours, int) else 0

    @property
    def pooling(self) -> str | None:
        """None if it is not known."""
        number = self.value(f"{self.keys}.pooling_type")
        return POOLINGS.get(number, str(number)) if isinstance(number, int) else None

    @property
    def is_cross_encoder(self) -> bool:
        """Whether it has a cross-encoder's classifier; llama.cpp's converter writes no pooling for those."""
        names = ("cls.output.weight", "cls.weight")
        return self.architecture in ("bert", "modern-bert") and any(name in self.shapes for name in names)

    @property
    def is_unigram(self) -> bool:
        """Whether the vocabulary is one of SentencePiece."""
        ids = self.tokens.ids
        return all(mark in ids for mark in ("<s>", "</s>", "<unk>")) and "[CLS]" not in ids

    def special_tokens(self) -> tuple[str | None, str | None]:
        """Return the names of the special tokens before and after a text, as llama.cpp will add them."""
        names = {number: name for name, number in self.tokens.ids.items()} | dict(self.tokens.named)
        framed = self.tokenizer == "bert"

        def name(role: str, adds: bool) -> str | None:
            number = self.value(f"tokenizer.ggml.{role}_token_id")
            return (names.get(number, str(number)) if isinstance(number, int) else "?") if adds else None

        adds_bos = framed or self.value("tokenizer.ggml.add_bos_token") is True
        adds_eos = framed or self.value("tokenizer.ggml.add_eos_token") is True
        return name("bos", adds_bos), name("seperator" if framed else "eos", adds_eos)

    def value(self, key: str) -> Scalar | None:
        """Return what llama.cpp will take for a key."""
        return self.mends.get(key, self.values.get(key, self._default(key)))

    def _default(self, key: str) -> Scalar | None:
        """Return what llama.cpp takes for a key of a special token that the file does not have."""
        role = key.removeprefix("tokenizer.ggml.")
        if role.endswith("_token_id"):
            return DEFAULT_IDS.get(str(self.tokenizer), {}).get(role.removesuffix("_token_id"))
        if key.endswith(".attention.causal"):
            return True
        if role.startswith("add_") and role.endswith("_token"):
            return role[len("add_") : -len("_token")] in ADDED_BY_DEFAULT.get(str(self.tokenizer), ())
        return None

    def expect(self, key: str, value: MetadataValue) -> None:
        """Mend a key whose value is another one."""
        found = self.values.get(key)
        taken = self._default(key) if found is None else found
        if taken == value and isinstance(taken, bool) == isinstance(value, bool):
            return
        self.mends[key] = value
        was = "the file does not say" if found is None else f"the file says {_shown(found)}"
        self.mended.append(f"{key} is taken to be {_shown(value)}; {was}")


def _shown(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else reprlib.repr(value)
