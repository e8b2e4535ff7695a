"""Files that `check_gguf` accepts, and files that it refuses with a reason."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeembed.engine.stand_ins import SCORE_BIAS_KEY
from edgeembed.errors import HubError, UnknownModelError
from edgeembed.hub.gguf.check import check_gguf
from edgeembed.hub.gguf.file import GgufReader, MalformedError
from tests.convert.tiny_mpnet import make_tiny_mpnet
from tests.convert.without_proof import convert_checkpoint
from tests.engine.tiny_qwen3 import make_tiny_qwen3
from tests.hub.gguf.models import refusal
from tests.hub.gguf.parts import ARRAY, BOOL, STRING, Array, Gguf, Tensor, read, write

UINT32, INT32, FLOAT32 = 4, 5, 6


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_tiny_qwen3(tmp_path_factory.mktemp("sound") / "tiny.gguf").read_bytes()


# --- sound files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantization", ["F32", "Q8_0"])
def test_the_real_minilm_is_accepted(minilm: Callable[[str], Path], quantization: str) -> None:
    header = check_gguf(minilm(quantization))
    assert (header.architecture, header.dimensions, header.pooling) == ("bert", 384, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: setattr(file, "version", 2),
        lambda file: (setattr(file, "alignment", 64), file.put("general.alignment", UINT32, 64)),
        lambda file: file.put("tokenizer.ggml.padding_token_id", UINT32, 2**32 - 1),  # -1: none
        lambda file: file.put("qwen3.attention.head_count", ARRAY, Array(INT32, [4, 4])),
        lambda file: file.put("general.tags", ARRAY, Array(STRING, [b"a", b"\xc3\xa4"])),
        lambda file: file.put("some.flags", ARRAY, Array(BOOL, [0, 1])),
        lambda file: file.put("qwen3.rope.scaling.type", STRING, b"yarn"),
        lambda file: file.drop("qwen3.pooling_type"),  # a generation model, which the engine refuses
    ],
)
def test_unusual_files_are_accepted(tmp_path: Path, sound: bytes, change: Callable[[Gguf], object]) -> None:
    file = read(sound)
    change(file)
    path = tmp_path / "x.gguf"
    path.write_bytes(write(file))
    assert check_gguf(path).architecture == "qwen3"


def test_the_last_tensor_needs_no_padding_and_bytes_after_it_are_ignored(tmp_path: Path, sound: bytes) -> None:
    file = read(sound)
    file.tensors[-1].shape, file.tensors[-1].data = [3], bytes(12)
    whole = write(file)
    for content in (whole[:-20], whole + b"garbage"):
        path = tmp_path / "x.gguf"
        path.write_bytes(content)
        check_gguf(path)
    assert "ends at byte" in refusal(tmp_path, whole[:-21])


# --- bytes ----------------------------------------------------------------------------------------------------------------

HUGE = struct.pack("<Q", 2**63)


@pytest.mark.parametrize(
    ("at", "raw", "said"),
    [
        (0, b"GGML", r"begins with b'GGML'"),
        (4, b"\0\0\0\3", r"big-endian"),
        (4, b"\1\0\0\0", r"version 1 "),
        (4, b"\4\0\0\0", r"version 4 "),
        (8, HUGE, r"claims 9223372036854775808 tensors"),
        (16, HUGE, r"claims 9223372036854775808 key-value pairs"),
        (24, HUGE, r"key number 0 has a string of 9223372036854775808 bytes"),
        (24, b"\xff" * 8, r"key number 0 has a string of 18446744073709551615 bytes"),
        (32, b"\xff", r"key number 0 has a string that is not UTF-8"),
        (32, b"\0", r"key number 0 has a string with a zero byte"),
        (32, b"\n", r"key number 0 has the name '\\neneral"),
        (32 + 20, struct.pack("<I", 13), r"key 'general.architecture' has the unknown type 13"),
    ],
)
def test_damaged_bytes_of_the_head(tmp_path: Path, sound: bytes, at: int, raw: bytes, said: str) -> None:
    assert re.search(said, refusal(tmp_path, sound[:at] + raw + sound[at + len(raw) :]))


def test_a_file_truncated_anywhere_in_its_head_is_refused(tmp_path: Path, sound: bytes) -> None:
    for length in [*range(0, 400), *range(400, read(sound).spots["head"][0], 97)]:
        assert "damaged or incomplete" in refusal(tmp_path, sound[:length])


def test_a_file_that_is_truncated_during_the_check(sound: bytes) -> None:
    class Cut(io.BytesIO):
        def seek(self, offset: int, whence: int = 0) -> int:
            return super().seek(offset, whence) + (len(sound) // 2 if whence == os.SEEK_END else 0)

    reader = GgufReader(Cut(sound[: len(sound) // 200]))
    with pytest.raises(MalformedError, match="was truncated"):
        reader.head()


def test_arrays_and_strings_that_claim_too_much(tmp_path: Path, sound: bytes) -> None:
    def content(kind: int, count: int, raw: bytes) -> bytes:
        return sound[:16] + struct.pack("<QQ", 1, 1) + b"x" + struct.pack("<IIQ", ARRAY, kind, count) + raw

    assert "key 'x' claims 1048576 values" in refusal(tmp_path, content(UINT32, 2**20, bytes(2**20)))
    assert "1048576 strings" in refusal(tmp_path, content(STRING, 2**20 + 1, bytes(2**24)))
    file = read(sound)
    for number in range(3):
        file.put(f"x{number}", STRING, b"x" * (12 * 2**20))
    assert "longer than 33554432 together" in refusal(tmp_path, write(file))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError):
        check_gguf(tmp_path / "none.gguf")
    with pytest.raises(HubError):
        check_gguf(tmp_path)


# --- keys -----------------------------------------------------------------------------------------------------------------


KEYS: list[tuple[str, int, bytes | int | float | Array, str]] = [
    ("x", BOOL, 2, "bool of value 2"),
    ("x", ARRAY, Array(BOOL, [0, 7, 1]), "bools other than 0 and 1"),
    ("x", ARRAY, Array(ARRAY, [Array(UINT32, [1])]), "array of arrays"),  # type: ignore[list-item]
    ("x", ARRAY, Array(STRING, [b"a" * 20_000]), "contains a string of 20000 bytes"),
    ("x", STRING, b"\xff", "not UTF-8"),
    ("general.alignment", UINT32, 0, "expected a power of two"),
    ("general.alignment", UINT32, 24, "expected a power of two"),
    ("general.alignment", UINT32, 16, "expected a power of two from 32"),
    ("general.alignment", UINT32, 2**31, "expected a power of two"),
    ("general.architecture", STRING, b"mamba", "supported architectures are"),
    ("general.architecture", UINT32, 1, "supported architectures are"),
    ("split.count", 2, 3, "one of 3 parts"),
    ("qwen3.block_count", UINT32, 0, "expected a number from 1 to 512"),
    ("qwen3.block_count", UINT32, 513, "expected a number from 1 to 512"),
    ("qwen3.block_count", STRING, b"2", "expected a number from 1"),
    ("qwen3.block_count", ARRAY, Array(UINT32, [2]), "is an array"),
    ("qwen3.context_length", UINT32, 0, "expected a number from 1"),
    ("qwen3.context_length", UINT32, 2**31, "expected a number from 1"),
    ("qwen3.embedding_length", UINT32, 2**31, "expected a number from 1"),
    ("qwen3.embedding_length_out", UINT32, 128, "the other keys require 64"),
    ("qwen3.feed_forward_length", UINT32, 2**30, "expected a number from 1"),
    ("qwen3.feed_forward_length", ARRAY, Array(INT32, [128, 256]), "not one number"),
    ("qwen3.feed_forward_length", ARRAY, Array(INT32, [128]), "1 values of type 5 for 2 layers"),
    ("qwen3.attention.head_count", UINT32, 0, "expected a number from 1"),
    ("qwen3.attention.head_count", UINT32, 1024, "too wide for 64"),
    ("qwen3.attention.head_count", ARRAY, Array(INT32, [4, -4]), "not one number"),
    ("qwen3.attention.head_count_kv", UINT32, 3, "does not divide 4 heads"),
    ("qwen3.attention.key_length", UINT32, 15, "value_length"),
    ("qwen3.attention.key_length_swa", UINT32, 2**20, "the other keys require 16"),
    ("qwen3.attention.layer_norm_rms_epsilon", FLOAT32, -1.0, "expected a number from 0 to 1"),
    ("qwen3.attention.layer_norm_rms_epsilon", FLOAT32, math.nan, "is nan"),
    ("qwen3.rope.dimension_count", UINT32, 8, "expected 16, the length of a head"),
    ("qwen3.rope.freq_base", FLOAT32, 0.0, "expected a positive number"),
    ("qwen3.rope.scaling.factor", FLOAT32, math.inf, "is inf"),
    ("qwen3.rope.scaling.type", STRING, b"su", "expected one of none, linear"),
    ("qwen3.rope.scaling.type", UINT32, 1, "expected a string"),
    ("qwen3.expert_count", UINT32, 1025, "expected a number from 0 to 16"),
    ("qwen3.expert_count", UINT32, 4, "expert_used_count"),
    ("qwen3.expert_used_count", UINT32, 1, "expected a number from 0 to 0"),
    ("qwen3.expert_group_count", UINT32, 2, "expected a number from 0 to 0"),
    ("qwen3.nextn_predict_layers", UINT32, 3, "the other keys require 0"),
    ("qwen3.pooling_type", UINT32, 0, "expected a number from 1 to 4"),
    ("qwen3.pooling_type", UINT32, 5, "expected a number from 1 to 4"),
    ("qwen3.pooling_type", UINT32, 4, "reranker has no tensor"),
    ("qwen3.classifier.output_labels", ARRAY, Array(STRING, []), "not an array of 1 to 1024 strings"),
    ("tokenizer.ggml.model", STRING, b"none", "expected one of llama, bert, t5"),
    ("tokenizer.ggml.model", STRING, b"llama", "no token for the byte 00"),
    ("tokenizer.ggml.pre", STRING, b"whitespace", "cannot use"),
    ("tokenizer.ggml.tokens", STRING, b"a", "not an array"),
    ("tokenizer.ggml.tokens", ARRAY, Array(STRING, []), "no tokens"),
    ("tokenizer.ggml.tokens", ARRAY, Array(UINT32, [1]), "wrong type 4"),
    ("tokenizer.ggml.tokens", ARRAY, Array(STRING, [b"a", b"b", b"a"]), "the token 'a' twice"),
    ("tokenizer.ggml.tokens", ARRAY, Array(STRING, [b"[EMPTY_1]", b""]), r"the token '\[EMPTY_1\]' twice"),
    ("tokenizer.ggml.tokens", ARRAY, Array(STRING, [b"a" * 3000]), "string of 3000 bytes"),
    ("tokenizer.ggml.scores", ARRAY, Array(FLOAT32, [0.0]), "1 values for 259 tokens"),
    ("tokenizer.ggml.scores", ARRAY, Array(FLOAT32, [math.nan] * 259), "score that is not finite"),
    ("tokenizer.ggml.token_type", ARRAY, Array(INT32, [1] * 258), "258 values for 259 tokens"),
    ("tokenizer.ggml.token_type", ARRAY, Array(INT32, [7] * 259), "type is not within 0 to 6"),
    ("tokenizer.ggml.merges", ARRAY, Array(UINT32, [1]), "wrong type 4"),
    ("tokenizer.ggml.eos_token_id", UINT32, 259, "one of 259 tokens"),
    ("tokenizer.ggml.padding_token_id", INT32, -1, "one of 259 tokens"),
    ("tokenizer.ggml.bos_token_id", STRING, b"a", "one of 259 tokens"),
    ("edgeembed.prompt.query", STRING, b"{text:>999999999}", "more than a name in its braces"),
    ("edgeembed.prompt.query", STRING, b"{text.__class__}", "text"),
    ("edgeembed.prompt.document", STRING, b"{text", "edgeembed.prompt"),
    ("edgeembed.prompt.query", STRING, b"without it", "must contain .text. once"),
    ("edgeembed.prompt.query", UINT32, 1, "expected a string"),
    ("edgeembed.prompt.rerank", STRING, b"{query}{nothing}", "field that is not just one of"),
    ("edgeembed.prompt.rerank", STRING, b"}", "is not a valid template"),
    ("edgeembed.rerank.classifier", STRING, b"AAAA", "in the file of a reranker"),
    ("edgeembed.rerank.second_segment", UINT32, 259, "one of 259 tokens"),
    ("edgeembed.rerank.second_segment", STRING, b"x", "one of 259 tokens"),
    ("edgeembed.matryoshka.min", UINT32, 0, "not a range within 1 to 64"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "kind", "value", "said"), KEYS, ids=lambda value: str(value)[:40])
def test_a_key_that_is_unsafe_for_llama_cpp(
    tmp_path: Path, sound: bytes, key: str, kind: int, value: bytes | int | float | Array, said: str
) -> None:
    file = read(sound)
    file.put(key, kind, value)
    assert re.search(said, refusal(tmp_path, write(file)))


@pytest.mark.parametrize(
    "key",
    [
        "general.architecture",
        "qwen3.block_count",
        "qwen3.context_length",
        "qwen3.embedding_length",
        "qwen3.feed_forward_length",
        "qwen3.attention.head_count",
        "tokenizer.ggml.model",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.merges",
    ],
)
def test_a_key_that_is_missing(tmp_path: Path, sound: bytes, key: str) -> None:
    file = read(sound)
    file.drop(key)
    assert f"'{key}'" in refusal(tmp_path, write(file))


def test_inconsistent_keys(tmp_path: Path, sound: bytes) -> None:
    file = read(sound)
    file.put("qwen3.attention.key_length", UINT32, 32)
    file.drop("qwen3.attention.value_length")  # llama.cpp would assume 16
    assert "no key 'qwen3.attention.value_length'" in refusal(tmp_path, write(file))
    file = read(sound)
    file.put("qwen3.expert_count", UINT32, 4)
    file.put("qwen3.expert_used_count", UINT32, 2)
    file.put("qwen3.expert_group_count", UINT32, 3)
    assert "does not divide 4 experts" in refusal(tmp_path, write(file))
    file.put("qwen3.expert_group_count", UINT32, 2)
    assert "no key 'qwen3.expert_group_used_count'" in refusal(tmp_path, write(file))


def test_duplicate_keys_and_tensors(tmp_path: Path, sound: bytes) -> None:
    file = read(sound)
    file.pairs.append(file.pairs[1])
    assert "key 'general.name' occurs twice" in refusal(tmp_path, write(file))
    file = read(sound)
    file.tensors.append(file.tensors[1])
    assert "tensor 'output_norm.weight' occurs twice" in refusal(tmp_path, write(file))


def test_inconsistent_canary_rows(tmp_path: Path, sound: bytes) -> None:
    file = read(sound)
    file.put("edgeembed.canary.texts", STRING, b'["a"]')
    file.put("edgeembed.canary.rows", STRING, b"AACAPw==")  # one number
    assert "rows whose length is not 64" in refusal(tmp_path, write(file))
    file.put("edgeembed.canary.rows", STRING, b"?")
    assert "canary rows in the file are damaged" in refusal(tmp_path, write(file))
    file.put("edgeembed.canary.texts", STRING, b'["' + b"a" * 70_000 + b'"]')
    assert "more than 65536" in refusal(tmp_path, write(file))
    file.put("edgeembed.canary.texts", STRING, json.dumps(["a"] * 65).encode())
    file.put("edgeembed.canary.rows", STRING, base64.b64encode(struct.pack("<f", 1) * 64 * 65))
    assert "65 texts, more than 64" in refusal(tmp_path, write(file))


# --- tensors --------------------------------------------------------------------------------------------------------------


def reshape(name: str, shape: list[int], kind: int = 0, size: int | None = None) -> Callable[[Gguf], None]:
    """Return a function that changes a tensor's shape, type and amount of data."""

    def change(file: Gguf) -> None:
        tensor = file.tensor(name)
        tensor.shape, tensor.kind = shape, kind
        tensor.data = bytes(math.prod(shape) * 4 if size is None else size)

    return change


def rename(name: str, other: bytes) -> Callable[[Gguf], None]:
    return lambda file: setattr(file.tensor(name), "name", other)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (reshape("output_norm.weight", []), "has 0 dimensions"),
        (reshape("output_norm.weight", [64, 1, 1, 1, 1]), "has 5 dimensions"),
        (reshape("output_norm.weight", [0]), "is empty"),
        (reshape("output_norm.weight", [2**40, 2**40], size=0), "ends at byte"),
        (reshape("output_norm.weight", [2**63, 2], size=0), "ends at byte"),
        (reshape("output_norm.weight", [64], 1, 128), "is F16; llama.cpp requires F32"),
        (reshape("blk.0.attn_q.weight", [64, 64], 4, 64), "type that ggml has removed: 4"),
        (reshape("blk.0.attn_q.weight", [64, 64], 26, 4 * 64 * 64), "an unsupported type: 26"),
        (reshape("blk.0.attn_q.weight", [64, 64], 99, 64), "an unsupported type: 99"),
        (reshape("blk.0.attn_q.weight", [64, 64], 12, 64), "not a multiple of 256, the block size of Q4_K"),
        (rename("token_embd.weight", b"t" * 64), "string of 64 bytes"),
        (rename("token_embd.weight", b""), "has the name ''"),
        (lambda file: file.tensors.clear(), "no tensors"),
    ],
)  # fmt: skip
def test_a_tensor_that_is_unsafe_for_llama_cpp(
    tmp_path: Path, sound: bytes, change: Callable[[Gguf], object], said: str
) -> None:
    file = read(sound)
    change(file)
    assert said in refusal(tmp_path, write(file))


@pytest.mark.parametrize(
    ("offset", "said"), [(1, "not a multiple of 32"), (0, "overlaps"), (2**40, "leaves a gap"), (2**64 - 32, "leaves a gap")]
)
def test_tensors_at_other_offsets(tmp_path: Path, sound: bytes, offset: int, said: str) -> None:
    at = read(sound).spots["offset"][1]
    assert said in refusal(tmp_path, sound[:at] + struct.pack("<Q", offset) + sound[at + 8 :])


def test_sizes_out_of_proportion(tmp_path: Path, sound: bytes) -> None:
    """A small file must not make llama.cpp allocate a large cache."""
    file = read(sound)
    layer = [tensor for tensor in file.tensors if tensor.name.startswith(b"blk.0.")]
    file.tensors = [tensor for tensor in file.tensors if not tensor.name.startswith(b"blk.")]
    for number in range(500):
        name = f"blk.{number}.".encode()
        file.tensors += [Tensor(name + tensor.name[6:], [1, 1], 0, bytes(4)) for tensor in layer]
    file.put("qwen3.block_count", UINT32, 500)
    file.put("qwen3.attention.head_count_kv", UINT32, 4)
    assert "the KV cache of its 500 layers" in refusal(tmp_path, write(file))
    file = read(sound)
    file.put("qwen3.embedding_length", UINT32, 4)
    file.put("tokenizer.ggml.tokens", ARRAY, Array(STRING, [b"%d" % number for number in range(4 * 4096 + 1)]))
    file.drop("tokenizer.ggml.token_type")
    assert "16385 tokens for embeddings of 4 numbers" in refusal(tmp_path, write(file))


# --- architectures that llama.cpp computes as another one ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("bias", "reason"),
    [
        (None, "not an odd number for each of 4 heads"),
        (b"", "not an odd number for each of 4 heads"),
        (base64.b64encode(bytes(4 * 4 * 2)), "not an odd number for each of 4 heads"),
        (base64.b64encode(bytes(4 * 4 * (2**15 + 3))), "not an odd number for each of 4 heads"),
        (base64.b64encode(bytes(5)), "not base64 of float32"),
        (b"!", "not base64 of float32"),
        (base64.b64encode(struct.pack("<4f", 0, 0, 0, 1e6)), "not finite in half precision"),
        (base64.b64encode(struct.pack("<4f", 0, 0, math.nan, 0)), "not finite in half precision"),
    ],
)
def test_mpnet_needs_a_bias_for_each_head(tmp_path: Path, bias: bytes | None, reason: str) -> None:
    checkpoint = make_tiny_mpnet(tmp_path / "tiny")
    file = read(convert_checkpoint(checkpoint, tmp_path / "tiny.gguf").path.read_bytes())
    assert (header := check_gguf(tmp_path / "tiny.gguf")).architecture == "mpnet" and header.dimensions == 64
    file.drop(SCORE_BIAS_KEY)
    if bias is not None:
        file.put(SCORE_BIAS_KEY, STRING, bias)
    path = tmp_path / "x.gguf"
    path.write_bytes(write(file))
    with pytest.raises(HubError, match=f"{re.escape(SCORE_BIAS_KEY)}.*{reason}"):
        check_gguf(path)


def test_mpnet_must_not_take_texts_whose_biases_fill_the_memory(tmp_path: Path) -> None:
    checkpoint = make_tiny_mpnet(tmp_path / "tiny")
    file = read(convert_checkpoint(checkpoint, tmp_path / "tiny.gguf").path.read_bytes())
    file.put("bert.context_length", UINT32, 16_384)
    path = tmp_path / "x.gguf"
    path.write_bytes(write(file))
    with pytest.raises(HubError, match=r"bert\.context_length.*too much memory"):
        check_gguf(path)
