"""Types of our own, and importance of columns in the converter."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize

from edgeembed.diagnostics.verify import retrieval_set
from edgeembed.errors import ConversionError
from edgeembed.hub.gguf.header import read_header
from edgeembed_convert import ConversionOptions, convert_checkpoint
from edgeembed_convert.importance import read_texts
from edgeembed_convert.recipes import RECIPES
from tests.convert.tiny_bert import make_tiny_bert
from tests.convert.tiny_encoders import make_tiny_cross_encoder
from tests.convert.tiny_mpnet import make_tiny_mpnet
from tests.convert.tiny_rotary_encoders import make_tiny_nomic_bert

pytestmark = pytest.mark.model


def types_of(file: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(file).tensors}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bert(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose rows fit K types."""
    return make_tiny_bert(tmp_path_factory.mktemp("wide") / "tiny", hidden=256, feed_forward=512)


@pytest.mark.parametrize(
    ("recipe", "bits"),
    [
        ("Q8_E", {"token_embd": 4, "attn_q": 8, "attn_v": 8, "ffn_up": 8}),
        ("Q5_E", {"token_embd": 4, "attn_q": 4, "attn_v": 5, "ffn_up": 5}),
        ("Q4_E", {"token_embd": 4, "attn_q": 4, "attn_v": 5, "ffn_up": 4}),
    ],
)
@pytest.mark.parametrize(("rows", "names"), [("narrow", ["IQ4_NL", "Q5_1"]), ("wide", ["Q4_K", "Q5_K"])])
def test_each_matrix_has_the_type_of_the_recipe(
    recipe: str, bits: dict[str, int], rows: str, names: list[str], checkpoint: Path, wide: Path, tmp_path: Path
) -> None:
    source = {"narrow": checkpoint, "wide": wide}[rows]
    result = convert_checkpoint(source, tmp_path / "model.gguf", ConversionOptions(quantization=recipe, proof=False))
    found = types_of(result.path)
    four, five = names
    kinds = {part: {4: four, 5: five, 8: "Q8_0"}[count] for part, count in bits.items()}
    assert found["token_embd.weight"] == kinds["token_embd"] and found["position_embd.weight"] == "F32"
    for layer in (0, 1):
        of = {part: found[f"blk.{layer}.{part}.weight"] for part in ("attn_q", "attn_k", "attn_v", "attn_output")}
        assert of == {"attn_q": kinds["attn_q"], "attn_k": kinds["attn_q"]} | dict.fromkeys(
            ("attn_v", "attn_output"), kinds["attn_v"]
        )
        assert {found[f"blk.{layer}.ffn_{part}.weight"] for part in ("up", "down")} == {kinds["ffn_up"]}
    assert (result.quantization, result.fallbacks) == (recipe, [])
    assert read_header(result.path).type == recipe, "llama.cpp has no number for it"


def test_a_matrix_of_queries_keys_and_values_has_more_bits(tmp_path: Path) -> None:
    checkpoint = make_tiny_nomic_bert(tmp_path / "tiny")
    result = convert_checkpoint(checkpoint, tmp_path / "model.gguf", ConversionOptions(quantization="Q4_E", proof=False))
    found = types_of(result.path)
    assert found["blk.0.attn_qkv.weight"] == "Q5_1"
    assert {found[f"blk.0.ffn_{part}.weight"] for part in ("up", "gate", "down")} == {"IQ4_NL"}


def test_rows_that_are_no_multiple_of_32_are_f16_and_reported(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny", hidden=40, feed_forward=64, heads=4)
    result = convert_checkpoint(checkpoint, tmp_path / "model.gguf", ConversionOptions(quantization="Q4_E", proof=False))
    assert any("rows of 40 values cannot be Q4_E, which needs a multiple of 32" in line for line in result.fallbacks)
    assert types_of(result.path)["blk.0.attn_q.weight"] == "F16"
    assert result.quantization == "F16" and read_header(result.path).type == "F16", "the type of most values"


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_columns_that_matter_are_rounded_with_less_error(kind: str, checkpoint: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("hello world\n\nthe quick brown fox\nsearch embedding\n", encoding="utf-8")
    plain, weighed = (
        convert_checkpoint(checkpoint, tmp_path / name, ConversionOptions(quantization=kind, importance=file, proof=False))
        for name, file in (("plain.gguf", None), ("weighed.gguf", texts))
    )
    assert weighed.size_bytes <= plain.size_bytes + 64 and types_of(weighed.path) == types_of(plain.path)
    assert weighed.quantization == kind

    def values(file: Path, name: str) -> np.ndarray:
        tensor = next(tensor for tensor in GGUFReader(file).tensors if tensor.name == name)
        return np.asarray(dequantize(tensor.data, tensor.tensor_type))

    exact = convert_checkpoint(checkpoint, tmp_path / "f32.gguf", ConversionOptions(quantization="F32", proof=False)).path
    from edgeembed.engine.llama.importance import measure

    importance = measure(exact, read_texts(texts), threads=1)
    for name in ("blk.0.attn_v.weight", "blk.1.ffn_down.weight"):
        errors = [
            float((np.square(values(file.path, name) - values(exact, name)) * importance[name]).sum())
            for file in (plain, weighed)
        ]
        assert errors[1] < errors[0], name


def test_a_mixture_takes_importance(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny", hidden=256, feed_forward=512)
    texts = tmp_path / "texts.txt"
    texts.write_text("hello world\nthe quick brown fox\n", encoding="utf-8")
    files = [
        convert_checkpoint(
            checkpoint, tmp_path / f"{file}.gguf", ConversionOptions(quantization="Q4_K_M", importance=file, proof=False)
        )
        for file in (None, texts)
    ]
    assert types_of(files[0].path) == types_of(files[1].path)
    assert files[0].path.read_bytes() != files[1].path.read_bytes()


def test_a_reranker_is_measured_with_pairs(tmp_path: Path) -> None:
    checkpoint = make_tiny_cross_encoder(tmp_path / "tiny")
    result = convert_checkpoint(checkpoint, tmp_path / "model.gguf", ConversionOptions(quantization="Q4_E"))
    assert result.quantization == "Q4_E" and result.pooling == "rank"


def test_a_model_that_llama_cpp_computes_as_another_is_measured_too(tmp_path: Path) -> None:
    """Both the bias of its attention and the importance come in llama.cpp's evaluation callback."""
    checkpoint = make_tiny_mpnet(tmp_path / "tiny")
    result = convert_checkpoint(checkpoint, tmp_path / "model.gguf", ConversionOptions(quantization="Q4_E"))
    assert result.quantization == "Q4_E" and read_header(result.path).architecture == "mpnet"
    exact = convert_checkpoint(checkpoint, tmp_path / "f32.gguf", ConversionOptions(quantization="F32", proof=False)).path
    from edgeembed.engine.llama.importance import measure

    assert measure(exact, ["hello world"], threads=1)["blk.1.ffn_down.weight"].max() > 0


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        (b"hello\n", "Q8_0", "texts for importance have no effect on Q8_0; these types use them: .*Q4_0"),
        (b"hello\n", "Q8_E", "texts for importance have no effect on Q8_E"),
        (b" \n\n", "Q4_0", "no texts; expected one a line"),
        (b"\xff\xfe\x00", "Q4_0", "not a file of texts in UTF-8"),
        (None, "Q4_E", "not a file of texts in UTF-8, one a line: .*No such file"),
    ],
)
def test_texts_that_cannot_be_used_are_refused(
    content: bytes | None, kind: str, says: str, checkpoint: Path, tmp_path: Path
) -> None:
    file = tmp_path / "texts.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConversionError, match=says):
        convert_checkpoint(checkpoint, tmp_path / "model.gguf", ConversionOptions(quantization=kind, importance=file))
    assert not (tmp_path / "model.gguf").exists()


@pytest.mark.parametrize("at", [0.5, 0.7, 0.95])
def test_an_interrupt_leaves_no_file(at: float, checkpoint: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done >= at * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(checkpoint, tmp_path / "model.gguf", ConversionOptions(quantization="Q4_E"), interrupt)
    assert list(tmp_path.iterdir()) == []


def test_conversions_with_importance_report_progress_and_are_deterministic(checkpoint: Path, tmp_path: Path) -> None:
    contents = []
    for name in ("a.gguf", "b.gguf"):
        seen: list[tuple[int, int]] = []
        options = ConversionOptions(quantization="Q4_E", proof=False)
        convert_checkpoint(checkpoint, tmp_path / name, options, lambda *step: seen.append(step))  # noqa: B023
        assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]
        assert len({done for done, _ in seen}) > 20, "texts and tensors"
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]


def test_our_texts_are_in_many_scripts_and_not_in_the_retrieval_set() -> None:
    texts = read_texts()
    assert len(texts) > 100 and sum(len(text.encode()) for text in texts) < 100_000
    scripts = {unicodedata.name(letter).split()[0] for text in texts for letter in text if letter.isalpha()}
    assert scripts >= {
        "LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "BENGALI", "TAMIL", "THAI", "CJK", "HIRAGANA",
        "KATAKANA", "HANGUL",
    }  # fmt: skip
    assert any("def " in text for text in texts) and any("SELECT" in text for text in texts)
    measured = retrieval_set()
    assert not set(texts) & {*measured.queries, *measured.documents}


def test_recipes_are_named_in_the_help() -> None:
    from edgeembed.cli.convert import convert

    assert all(name in (convert.help or "") for name in RECIPES)
