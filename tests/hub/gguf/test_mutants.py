"""Models of every family, sound and damaged: the result of the check, and of loading what it accepts in a worker."""

from __future__ import annotations

import contextlib
import json
import math
import re
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeembed.engine.execution_modes import ExecutionMode
from edgeembed.engine.interface import BULK
from edgeembed.engine.supervisor.fallback_policy import FallbackPolicy
from edgeembed.engine.supervisor.worker_engine import WorkerEngine
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.errors import EngineUnavailableError, HubError
from edgeembed.hub.gguf.check import check_gguf
from edgeembed.hub.gguf.header import read_header
from tests.engine.tiny_qwen3 import make_tiny_qwen3
from tests.hub.gguf import loading
from tests.hub.gguf.loading import Outcome
from tests.hub.gguf.models import make_models, refusal
from tests.hub.gguf.mutator import mutate
from tests.hub.gguf.parts import ARRAY, BOOL, STRING, Array, Gguf, read, write

UINT32, INT32 = 4, 5
F32, F16, Q8_0, I8 = 0, 1, 8, 24
ROOT = Path(__file__).parents[3]

MUTANTS = 240
MARGIN = 16 * 2**20
"""Bytes of memory that a damaged file may take in addition to the sound one."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tmp_path_factory.mktemp("models"))


def test_converted_models_are_accepted(models: dict[str, Path]) -> None:
    for name, file in models.items():
        header = check_gguf(file)
        assert header == read_header(file), name
        assert header.architecture is not None and header.dimensions, name


@pytest.mark.parametrize(
    ("name", "key", "kind", "value", "said"),
    [
        ("gemma", "gemma-embedding.attention.sliding_window_pattern", UINT32, 100, "all of the"),
        ("gemma", "gemma-embedding.attention.sliding_window_pattern", UINT32, 1, "none of the"),
        ("gemma", "gemma-embedding.attention.sliding_window_pattern", ARRAY, Array(BOOL, [1]), "1 values of type 7"),
        ("gemma", "gemma-embedding.dense_2_feat_in", UINT32, 1, "the other keys require 48"),
        ("modern-bert", "modern-bert.attention.sliding_window_pattern", UINT32, 1, "none of the"),
        ("bert", "bert.attention.head_count", UINT32, 5, "not a multiple of 5 heads"),
        ("bert", "bert.attention.causal", UINT32, 0, "expected true or false"),
        ("nomic-bert", "nomic-bert.rope.dimension_count", UINT32, 7, "expected an even number"),
        ("bert", "tokenizer.ggml.token_type", ARRAY, Array(INT32, [6] * 32), "a WordPiece vocabulary cannot have"),
        ("rerank-bert", "bert.classifier.output_labels", ARRAY, Array(STRING, [b"a"] * 9), "requires 9 on axis 1"),
        ("rerank-bert", "bert.attention.causal", BOOL, 1, "this architecture is not causal"),
        ("xlm-roberta", "tokenizer.ggml.precompiled_charsmap", ARRAY, Array(0, [8, 0, 0, 0, 1]), "do not add up"),
        ("xlm-roberta", "tokenizer.ggml.precompiled_charsmap", ARRAY, Array(0, [1, 2, 3]), "has 3 bytes"),
        ("lfm2", "lfm2.shortconv.l_cache", UINT32, 4, "an odd number from 3 on"),
        ("lfm2", "lfm2.shortconv.l_cache", UINT32, 65, "from 1 to 63"),
        ("lfm2", "lfm2.attention.causal", BOOL, 1, "causal models of this kind are not supported"),
        ("lfm2", "lfm2.attention.sliding_window", UINT32, 8, "the other keys require 0"),
        ("lfm2", "lfm2.attention.head_count_kv", UINT32, 2, "not 0 for some of 5 layers"),
        ("lfm2", "lfm2.attention.head_count_kv", ARRAY, Array(INT32, [2] * 5), "not 0 for some of 5 layers"),
        ("lfm2", "lfm2.attention.head_count_kv", ARRAY, Array(INT32, [0] * 5), "not 0 for some of 5 layers"),
        ("lfm2", "lfm2.attention.head_count_kv", ARRAY, Array(INT32, [0, 2, 0, 0, 4]), "not 0 for some of 5 layers"),
        ("lfm2", "lfm2.attention.head_count_kv", ARRAY, Array(INT32, [0, 3, 0, 0, 3]), "which does not divide 4 heads"),
        ("lfm2", "lfm2.attention.head_count_kv", ARRAY, Array(INT32, [0, 2]), "2 values of type 5 for 5 layers"),
        ("t5", "t5encoder.attention.relative_buckets_count", UINT32, 3, "an even number from 4 to 508"),
        ("t5", "t5encoder.attention.relative_buckets_count", UINT32, 510, "from 1 to 508"),
        ("t5", "t5encoder.context_length", UINT32, 2**14, "4 heads take too much memory"),
        ("t5", "edgeembed.dense.count", UINT32, 5, "from 1 to 4"),
        ("t5", "edgeembed.dense.count", BOOL, 1, "is True"),
        ("t5", "edgeembed.dense.count", UINT32, 2, "'edgeembed.dense.1.outputs' is None"),
        ("t5", "edgeembed.dense.0.outputs", UINT32, 63, "does not have 4032 numbers"),
        ("t5", "edgeembed.dense.0.outputs", STRING, b"-1", "expected a number from 1"),
        ("t5", "edgeembed.dense.0.activation", STRING, b"swish", "expected one of identity, tanh"),
        ("t5", "edgeembed.dense.0.weight", STRING, b"A" * 21847 + b"=", "16385 bytes"),
        ("t5", "edgeembed.dense.0.weight", STRING, b"?" * 21848, "is not base64"),
        ("t5", "edgeembed.dense.0.weight", STRING, b"////" * 5461 + b"/w==", "not finite"),
        ("t5", "edgeembed.dense.0.bias", STRING, b"AAAA", "does not have 64 numbers"),
        ("t5", "edgeembed.matryoshka.max", UINT32, 65, "not a range"),
        ("rerank-bert", "edgeembed.dense.count", UINT32, 1, "'edgeembed.dense.0.outputs' is None"),
    ],
)
def test_keys_of_one_family(
    tmp_path: Path, models: dict[str, Path], name: str, key: str, kind: int, value: int | Array, said: str
) -> None:
    file = read(models[name].read_bytes())
    file.put(key, kind, value)
    assert said in refusal(tmp_path, write(file))


def test_the_biases_by_distance_have_to_be_there(tmp_path: Path, models: dict[str, Path]) -> None:
    file = read(models["t5"].read_bytes())
    file.tensor("enc.blk.0.attn_rel_b.weight").name = b"enc.blk.1.attn_rel_b.weight"
    assert "there is no tensor 'enc.blk.0.attn_rel_b.weight'" in refusal(tmp_path, write(file))


def test_a_special_token_that_wordpiece_requires(tmp_path: Path, models: dict[str, Path]) -> None:
    file = read(models["bert"].read_bytes())
    file.drop("tokenizer.ggml.seperator_token_id")  # llama.cpp would assume 102, of 32 tokens
    assert "no key 'tokenizer.ggml.seperator_token_id'" in refusal(tmp_path, write(file))


def test_a_normalisation_table_with_links_out_of_it(tmp_path: Path, models: dict[str, Path]) -> None:
    """llama.cpp follows the table byte by byte of a text; a link out of it throws an exception that nothing catches."""
    file = read(models["xlm-roberta"].read_bytes())
    table = file.value("tokenizer.ggml.precompiled_charsmap")
    assert isinstance(table, Array)
    blob = bytes(map(int, table.values))
    (length,) = struct.unpack_from("<I", blob)
    units = list(struct.unpack_from(f"<{length // 4}I", blob, 4))
    beyond = ((2**21 - 1) << 10) | (units[0] & 0x3FF)
    for damaged in ([beyond, *units[1:]], units[: len(units) // 2]):
        raw = struct.pack(f"<I{len(damaged)}I", 4 * len(damaged), *damaged) + blob[4 + length :]
        file.put("tokenizer.ggml.precompiled_charsmap", ARRAY, Array(table.kind, list(raw)))
        assert "points outside itself" in refusal(tmp_path, write(file))


def test_layers_after_the_pooling_that_are_incomplete(tmp_path: Path, models: dict[str, Path]) -> None:
    file = read(models["gemma"].read_bytes())
    file.tensors.remove(file.tensor("dense_3.weight"))
    assert "not both 'dense_2.weight' and 'dense_3.weight'" in refusal(tmp_path, write(file))
    file = read(models["rerank-bert"].read_bytes())
    file.tensors.remove(file.tensor("cls.output.weight"))
    assert "tensor 'cls.weight' has the shape (64, 64)" in refusal(tmp_path, write(file))
    file.tensors.remove(file.tensor("cls.weight"))
    assert "no tensor 'cls.output.weight'" in refusal(tmp_path, write(file))


def test_heads_that_do_not_fit_the_matrix_of_all_three(tmp_path: Path, models: dict[str, Path]) -> None:
    """llama.cpp would take keys and values from the wrong rows of it."""
    file = read(models["modern-bert"].read_bytes())
    file.put("modern-bert.attention.head_count_kv", UINT32, 2)
    assert "tensor 'blk.0.attn_qkv.weight' has the shape (64, 192)" in refusal(tmp_path, write(file))


# --- random bytes ---------------------------------------------------------------------------------------------------------


def test_any_bytes_give_a_header_or_an_error(tmp_path: Path, models: dict[str, Path]) -> None:
    contents = [path.read_bytes() for path in models.values()]
    refused = 0
    file = tmp_path / "x.gguf"
    for seed in range(600):
        what, content = mutate(contents[seed % len(contents)], seed + 1_000_000)
        file.write_bytes(content)
        try:
            check_gguf(file)
        except HubError as error:
            assert re.search(r"(key|keys|tensor|header|head|version|begins|endian|layers|reranker|tensors)\b", str(error)), (
                what
            )
            refused += 1
    assert 200 < refused < 600


def test_numbers_in_a_file_do_not_allocate_memory(tmp_path: Path) -> None:
    """Each length and count in turn claims an exabyte."""
    sound = make_tiny_qwen3(tmp_path / "tiny.gguf").read_bytes()
    spots = read(sound).spots
    file = tmp_path / "x.gguf"
    tracemalloc.start()
    try:
        for at in (*spots["count"], *spots["length"][::5], *spots["dimension"][::5]):
            file.write_bytes(sound[:at] + struct.pack("<Q", 2**60) + sound[at + 8 :])
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            with contextlib.suppress(HubError):
                check_gguf(file)
            assert tracemalloc.get_traced_memory()[1] - before < 2 * 2**20, at
    finally:
        tracemalloc.stop()


def test_a_large_vocabulary_takes_little_memory(tmp_path: Path) -> None:
    file = read(make_tiny_qwen3(tmp_path / "tiny.gguf").read_bytes())
    count = 150_000
    file.put("tokenizer.ggml.tokens", ARRAY, Array(STRING, [b"token %d" % number for number in range(count)]))
    file.put("tokenizer.ggml.token_type", ARRAY, Array(INT32, [1] * count))
    file.put("tokenizer.ggml.merges", ARRAY, Array(STRING, [b"%d %d" % (number, number) for number in range(count)]))
    words = file.tensor("token_embd.weight")
    words.shape, words.kind, words.data = [64, count], Q8_0, bytes(count * 68)
    path = tmp_path / "x.gguf"
    path.write_bytes(write(file))
    del file
    tracemalloc.start()
    try:
        check_gguf(path)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


# --- with real workers ----------------------------------------------------------------------------------------------------


def _resized(name: str, shape: list[int]) -> Callable[[Gguf], None]:
    def change(file: Gguf) -> None:
        tensor = file.tensor(name)
        tensor.shape, tensor.kind, tensor.data = shape, F32, bytes(4 * math.prod(shape))

    return change


def _put(key: str, kind: int, value: int | Array) -> Callable[[Gguf], None]:
    return lambda file: file.put(key, kind, value)


MISSHAPED: list[tuple[str, Callable[[Gguf], None]]] = [
    ("qwen3", _put("qwen3.block_count", UINT32, 3)),
    ("qwen3", _put("qwen3.block_count", UINT32, 1)),
    ("qwen3", _put("qwen3.embedding_length", UINT32, 65)),
    ("qwen3", _put("qwen3.feed_forward_length", UINT32, 127)),
    ("qwen3", _put("qwen3.attention.head_count", UINT32, 8)),
    ("qwen3", _resized("blk.0.attn_q.weight", [64, 32])),
    ("qwen3", _resized("blk.1.attn_k.weight", [64, 48])),
    ("qwen3", _resized("blk.1.attn_output.weight", [32, 64])),
    ("qwen3", _resized("blk.1.ffn_up.weight", [64, 256])),
    ("qwen3", _resized("token_embd.weight", [64, 258])),
    ("qwen3", lambda file: file.tensors.remove(file.tensor("token_embd.weight"))),
    ("qwen3", lambda file: file.tensors.remove(file.tensor("blk.1.attn_q.weight"))),
    ("bert", _resized("blk.0.attn_q.weight", [64, 32])),
    ("bert", _resized("blk.0.ffn_up.weight", [64, 32])),
    ("bert", _resized("token_embd.weight", [32, 32])),
    ("lfm2", _put("lfm2.attention.head_count_kv", ARRAY, Array(INT32, [2, 0, 0, 0, 2]))),
    ("lfm2", _put("lfm2.shortconv.l_cache", UINT32, 5)),
    ("lfm2", _resized("blk.0.shortconv.in_proj.weight", [64, 64])),
    ("gemma", _resized("dense_3.weight", [64, 48])),
    ("gemma", _resized("dense_2.weight", [48, 64])),
]
"""Files whose tensors do not have the shapes that the metadata says, by the name of the sound model."""


@pytest.mark.model
def test_llama_cpp_itself_refuses_tensors_of_other_shapes(tmp_path: Path, models: dict[str, Path]) -> None:
    """So the check does not compare them. If this fails with a new llama.cpp, it has to."""
    for number, (name, change) in enumerate(MISSHAPED):
        file = read(models[name].read_bytes())
        change(file)
        path = tmp_path / f"{name}-{number}.gguf"
        path.write_bytes(write(file))
        check_gguf(path)
    for name in {name for name, _ in MISSHAPED}:
        (tmp_path / f"{name}-sound.gguf").write_bytes(models[name].read_bytes())
    outcomes = load(tmp_path)
    for file_name, outcome in outcomes.items():
        expected = "embedded" if file_name.endswith("-sound.gguf") else "refused"
        assert outcome.kind == expected, f"{file_name}: {outcome}"
        sound = outcomes[f"{file_name.rpartition('-')[0]}-sound.gguf"]
        assert outcome.peak < sound.peak + MARGIN, file_name


@pytest.mark.slow
@pytest.mark.model
def test_a_damaged_file_is_refused_or_loads_harmlessly(tmp_path: Path, models: dict[str, Path]) -> None:
    """No crash, no hang, and no more memory than the sound file takes; the seeds make each damage repeatable."""
    done: dict[str, str] = {}
    refused = 0
    for name, file in models.items():
        (tmp_path / file.name).write_bytes(file.read_bytes())
        for seed in range(MUTANTS // len(models)):
            what, content = mutate(file.read_bytes(), seed)
            mutant = tmp_path / f"{name}-{seed:03}.gguf"
            mutant.write_bytes(content)
            try:
                check_gguf(mutant)
            except HubError:
                mutant.unlink()
                refused += 1
            else:
                done[mutant.name] = what
    outcomes = load(tmp_path)
    assert refused > MUTANTS // 4
    assert sum(outcome.kind == "embedded" for outcome in outcomes.values()) > MUTANTS // 8
    for name, file in models.items():
        usual = outcomes[file.name]
        assert usual.kind == "embedded", usual
        for mutant, what in done.items():
            if mutant.rpartition("-")[0] == name:
                outcome = outcomes[mutant]
                assert outcome.kind in ("embedded", "refused"), f"{mutant}: {what}: {outcome}"
                assert outcome.peak < usual.peak + MARGIN, f"{mutant}: {what}: {outcome.peak} bytes instead of {usual.peak}"


def load(folder: Path) -> dict[str, Outcome]:
    """Load every file of a folder in a separate process; see `loading`."""
    command = [sys.executable, "-m", loading.__name__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return {name: Outcome(*outcome) for name, outcome in json.loads(done.stdout).items()}


@pytest.mark.model
async def test_a_file_that_crashes_its_worker_does_not_crash_the_daemon(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a hostile file passes the check: llama.cpp aborts if a layer's weights are integers."""
    monkeypatch.setenv("GGML_NO_BACKTRACE", "1")
    file = read(models["bert"].read_bytes())
    weights = file.tensor("blk.0.ffn_up.weight")
    weights.kind, weights.data = I8, weights.data[: len(weights.data) // 4]
    hostile = tmp_path / "hostile.gguf"
    hostile.write_bytes(write(file))
    assert "an unsupported type" in refusal(tmp_path, hostile.read_bytes())

    async def rows(path: Path) -> int:
        def options(mode: ExecutionMode) -> WorkerOptions:
            return WorkerOptions(
                path=str(path),
                threads=1,
                context_tokens=64,
                batch_tokens=64,
                mode=mode.name,
                extra_buffers=mode.extra_buffers,
            )

        engine = WorkerEngine(options, FallbackPolicy())
        try:
            await engine.start()
            (row,) = engine.submit(["hello"], BULK)
            return len((await row).vector)
        finally:
            await engine.close()

    with pytest.raises(EngineUnavailableError):
        await rows(hostile)
    assert await rows(models["bert"]) == 64
