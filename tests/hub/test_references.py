"""References to models: how they are parsed, which file they mean, and the name it gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeembed.errors import HubError, UnknownModelError
from edgeembed.hub.references import (
    HubReference,
    choose_file,
    installed_name,
    name_from,
    parse_reference,
    parse_spec,
    type_in_name,
)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("hf:acme/Model", HubReference("acme/Model")),
        ("HF:acme/model", HubReference("acme/model")),
        ("hf:acme/model@v1.0", HubReference("acme/model", "v1.0")),
        ("hf:acme/model@refs/pr/7:q4_k_m", HubReference("acme/model", "refs/pr/7", type="Q4_K_M")),
        ("hf:acme/model:UD-Q4_K_XL", HubReference("acme/model", type="UD_Q4_K_XL")),
        ("hf:acme/model:fp16", HubReference("acme/model", type="F16")),
        ("hf:acme/model:sub/Model-Q8_0.gguf", HubReference("acme/model", file="sub/Model-Q8_0.gguf")),
    ],
)
def test_references(text: str, reference: HubReference) -> None:
    assert parse_reference(text) == reference
    assert parse_spec(text).reference == reference
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    "text",
    ["hf:", "hf:acme", "hf:acme/", "hf:/model", "hf:acme/model/more", "hf:acme/..", "hf:../model", "hf:acme/model@",
     "hf:acme/model@../x", "hf:acme/model:", "hf:acme/model:a b", "hf:acme/model:x/y", "hf:acme/mo del"],
)  # fmt: skip
def test_invalid_references(text: str) -> None:
    with pytest.raises(UnknownModelError):
        parse_spec(text)


def test_near_misses_get_a_hint() -> None:
    with pytest.raises(UnknownModelError, match=r"hf:acme/model"):
        parse_spec("acme/model")
    with pytest.raises(UnknownModelError, match=r"hf:OWNER/REPO"):
        parse_spec("https://hub.example/acme/model")


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("Model-Q8_0.gguf", "Q8_0"), ("model.Q4_K_M.gguf", "Q4_K_M"), ("deep/model_f16.gguf", "F16"),
        ("model-FP16.gguf", "F16"), ("model-bf16.GGUF", "BF16"), ("model.i1-IQ4_XS.gguf", "IQ4_XS"),
        ("model-UD-Q4_K_XL.gguf", "UD_Q4_K_XL"), ("q8_0.gguf", "Q8_0"), ("model-v2.gguf", None), ("seq8_0.gguf", None),
    ],
)  # fmt: skip
def test_types_in_file_names(file: str, kind: str | None) -> None:
    assert type_in_name(file) == kind


SEVERAL = ["README.md", "M-Q4_K_M.gguf", "M-Q8_0.gguf", "M-f16.gguf", "mmproj-M-f16.gguf"]
PARTS = ["M-Q8_0-00001-of-00002.gguf", "M-Q8_0-00002-of-00002.gguf"]


@pytest.mark.parametrize(
    ("files", "reference", "chosen"),
    [
        (["a.gguf", "config.json"], "hf:o/r", "a.gguf"),
        (SEVERAL, "hf:o/r", "M-Q8_0.gguf"),
        (SEVERAL, "hf:o/r:q4_k_m", "M-Q4_K_M.gguf"),
        (SEVERAL, "hf:o/r:F16", "M-f16.gguf"),
        (SEVERAL, "hf:o/r:M-f16.gguf", "M-f16.gguf"),
        (["config.json", "model.safetensors"], "hf:o/r", None),
        (["config.json", "model.safetensors"], "hf:o/r:F16", None),
        (["config.json", "pytorch_model.bin"], "hf:o/r", None),
        (["model.safetensors", "M-Q4_0.gguf"], "hf:o/r", "M-Q4_0.gguf"),
        ([*PARTS, "M-Q4_0.gguf"], "hf:o/r:Q4_0", "M-Q4_0.gguf"),
        (PARTS, "hf:o/r", PARTS[0]),
        ([*PARTS, "M-F16.gguf"], "hf:o/r:Q8_0", PARTS[0]),
        (PARTS, f"hf:o/r:{PARTS[1]}", PARTS[0]),
        (["m-00001-of-00001.gguf"], "hf:o/r", "m-00001-of-00001.gguf"),
    ],
)
def test_the_chosen_file(files: list[str], reference: str, chosen: str | None) -> None:
    assert choose_file(files, parse_reference(reference)) == chosen


@pytest.mark.parametrize(
    ("files", "reference", "said"),
    [
        (SEVERAL, "hf:o/r:Q5_0", r"no file of type Q5_0:\n  M-Q4_K_M\.gguf\n  M-Q8_0\.gguf\n  M-f16\.gguf$"),
        (SEVERAL, "hf:o/r:other.gguf", r"no file other\.gguf:\n  M-Q4_K_M"),
        (["a-Q4_0.gguf", "b-Q4_0.gguf"], "hf:o/r", r"several GGUF files and none of type Q8_0; name one:\n  a-Q4_0"),
        (["a-Q8_0.gguf", "b-Q8_0.gguf"], "hf:o/r", r"several files of type Q8_0; name one:\n  a-Q8_0"),
        (["model.onnx"], "hf:o/r", "neither GGUF nor safetensors"),
        (["model.safetensors"], "hf:o/r:x.gguf", "it contains no GGUF file"),
        ([f"m-{number:02}.gguf" for number in range(30)], "hf:o/r", "and 10 more"),
        (PARTS[:1], "hf:o/r", f"one of 2 parts of a model, and the repository has no {PARTS[1]}"),
        ([*PARTS, "b-Q8_0.gguf"], "hf:o/r:Q8_0", "several files of type Q8_0"),
    ],
)
def test_an_ambiguous_reference_is_an_error(files: list[str], reference: str, said: str) -> None:
    with pytest.raises(HubError, match=f"(?s){said}"):
        choose_file(files, parse_reference(reference))


@pytest.mark.parametrize(
    ("repo", "file", "name"),
    [
        ("acme/Model-GGUF", "My-Model-v1.5-Q8_0.gguf", "my-model-v1.5"),
        ("acme/Model-GGUF", "my_model.i1-Q4_K_M.gguf", "my_model"),
        ("acme/Model-GGUF", "ggml-model-f16.gguf", "acme-model"),
        ("acme/Model-GGUF", "My-Model-Q8_0-00001-of-00002.gguf", "my-model"),
        ("acme/Best Model-GGUF", "Q8_0/model.gguf", "best-model"),
        ("acme/Modèle-gguf", "Q8_0.gguf", "mod-le"),
        ("acme/Some.Model", None, "some.model"),
        (None, "../../Über Model (2).gguf", "ber-model-2"),
        (None, "Q8_0.gguf", None),
        (None, "....gguf", None),
    ],
)
def test_names_come_from_the_file_or_the_repository(repo: str | None, file: str | None, name: str | None) -> None:
    assert name_from(repo, file) == name


@pytest.mark.parametrize(
    ("repo", "file", "name"),
    [
        ("Qwen/Qwen3-Embedding-0.6B-GGUF", "Qwen3-Embedding-0.6B-Q8_0.gguf", "qwen3-embedding-0.6b"),
        ("qwen/qwen3-embedding-0.6b-gguf", "Qwen3-Embedding-0.6B-f16.gguf", "qwen3-embedding-0.6b"),
        ("stranger/Qwen3-Embedding-0.6B-GGUF", "Qwen3-Embedding-0.6B-Q8_0.gguf", "stranger-qwen3-embedding-0.6b"),
        (None, "Qwen3-Embedding-0.6B-Q8_0.gguf", "local-qwen3-embedding-0.6b"),
        ("sentence-transformers/all-MiniLM-L6-v2", None, "all-minilm-l6-v2"),
        # A source of one model of the catalogue is not a source of another.
        ("sentence-transformers/all-MiniLM-L6-v2", "Qwen3-Embedding-0.6B-Q8_0.gguf",
         "sentence-transformers-qwen3-embedding-0.6b"),
        ("acme/con-GGUF", None, "model-con"),
    ],
)  # fmt: skip
def test_a_name_of_the_catalogue_is_for_its_own_sources(repo: str | None, file: str | None, name: str) -> None:
    assert installed_name(None, repo, file) == name


def test_a_name_of_the_users_own() -> None:
    assert installed_name("mine", "stranger/Qwen3-Embedding-0.6B-GGUF", "x.gguf") == "mine"
    assert installed_name(None, None, "x.gguf", "all-minilm-l6-v2") == "all-minilm-l6-v2"
    with pytest.raises(HubError, match="name of another model"):
        installed_name("all-minilm-l6-v2", "stranger/x", "x.gguf")
    with pytest.raises(HubError, match="--name"):
        installed_name(None, None, "Q8_0.gguf")
    for bad in ("", "../x", "A", "a/b", "a:b", ".a", "a\\b", "a b", "x" * 200, "nul", "com1.x", "a\n", "a."):
        with pytest.raises(HubError, match="--name"):
            installed_name(bad, None, "x.gguf")


def test_a_file_that_looks_like_a_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "model.gguf").write_bytes(b"x")
    assert parse_spec("acme/model.gguf").path == tmp_path / "acme" / "model.gguf"
