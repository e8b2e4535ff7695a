"""Malformed checkpoints raise a ConversionError that names the file and the reason, and leave no file."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import open_checkpoint
from tests.convert.tiny_bert import (
    PIECES,
    edit_json,
    make_tiny_bert,
    read_raw_safetensors,
    tokenizer_json,
    write_json,
    write_raw_safetensors,
    write_safetensors,
)
from tests.convert.without_proof import convert_checkpoint

Break = Callable[[Path], object]
PACKAGE = "sentence_transformers.models."
COMPRESSED = {"quant_method": "compressed-tensors", "format": "float-quantized"}
WORD = "embeddings.word_embeddings.weight"
FIRST_NORM = "embeddings.LayerNorm.weight"


def config(**changes: Any) -> Break:
    return lambda folder: edit_json(folder / "config.json", **changes)


def pooling(**changes: Any) -> Break:
    return lambda folder: edit_json(folder / "1_Pooling" / "config.json", **changes)


def modules(*kinds: str) -> Break:
    return lambda folder: write_json(
        folder / "modules.json",
        [
            {"path": "1_Pooling" if kind == "Pooling" else "", "type": f"sentence_transformers.models.{kind}"}
            for kind in kinds
        ],
    )


def remove(name: str) -> Break:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: bytes) -> Break:
    return lambda folder: (folder / name).write_bytes(content)


def tokenizer(**changes: Any) -> Break:
    return lambda folder: edit_json(folder / "tokenizer.json", **changes)


def tokenizer_model(**changes: Any) -> Break:
    return tokenizer(model={**tokenizer_json(cased=False)["model"], **changes})


def normalizer(**changes: Any) -> Break:
    return tokenizer(normalizer={**tokenizer_json(cased=False)["normalizer"], **changes})


def vocab(**changes: int) -> Break:
    return tokenizer_model(vocab={**{piece: number for number, piece in enumerate(PIECES)}, **changes})


def header(name: str, **changes: Any) -> Break:
    """Change one tensor's entry in the safetensors header, but not the data."""

    def apply(folder: Path) -> None:
        file = folder / "model.safetensors"
        entries, data = read_raw_safetensors(file)
        entries[name] = {**entries[name], **changes}
        write_raw_safetensors(file, entries, data)

    return apply


def data(change: Callable[[bytes, int], bytes]) -> Break:
    """Change the data by a function that takes it and the start of the word embeddings."""

    def apply(folder: Path) -> None:
        file = folder / "model.safetensors"
        entries, content = read_raw_safetensors(file)
        write_raw_safetensors(file, entries, change(content, entries[WORD]["data_offsets"][0]))

    return apply


def rename_tensor(old: str, new: str) -> Break:
    def apply(folder: Path) -> None:
        file = folder / "model.safetensors"
        entries, content = read_raw_safetensors(file)
        entries[new] = entries.pop(old)
        write_raw_safetensors(file, entries, content)

    return apply


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size - 1000)


def index(**weight_map: str) -> Break:
    def apply(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        write_json(folder / "model.safetensors.index.json", {"weight_map": weight_map})

    return apply


def stray_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    write_json(folder / "model.safetensors.index.json", {"weight_map": {WORD: "a.safetensors"}})


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def adapter(path: str) -> Break:
    """Add an adapter of peft, whose weights any loader adds to the model's."""

    def apply(folder: Path) -> None:
        (folder / path).mkdir(parents=True, exist_ok=True)
        write_json(folder / path / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "acme/base"})
        weights = {"base_model.model.encoder.layer.0.attention.self.query.lora_A.weight": np.ones((8, 64), dtype=np.float32)}
        write_safetensors(folder / path / "adapter_model.safetensors", weights)

    return apply


def only_an_adapter(folder: Path) -> None:
    shutil.rmtree(folder)
    adapter("")(folder)


def own_module(kind: str) -> Break:
    return lambda folder: write_json(
        folder / "modules.json",
        [{"path": "", "type": kind}, {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}],
    )


def single_file_and_shards(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "a.safetensors")
    write_json(folder / "model.safetensors.index.json", {"weight_map": {WORD: "a.safetensors"}})


def text_vocabulary(content: str, **config_changes: Any) -> Break:
    def apply(folder: Path) -> None:
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.txt").write_text(content, encoding="utf-8")
        edit_json(folder / "tokenizer_config.json", **config_changes)

    return apply


def an_integer_norm(folder: Path) -> None:
    file = folder / "model.safetensors"
    entries, content = read_raw_safetensors(file)
    entries[FIRST_NORM]["dtype"] = "I32"
    write_raw_safetensors(file, entries, content)


LINES = "".join(f"{piece}\n" for piece in PIECES)
NAN, INFINITE = (np.array([value], dtype=np.float32).tobytes() for value in (np.nan, np.inf))

CASES: dict[str, tuple[Break, str]] = {
    # the folder and config.json
    "no config": (remove("config.json"), r"config\.json: missing"),
    "config no json": (write("config.json", b"{"), r"config\.json: not valid JSON"),
    "config no object": (write("config.json", b"[]"), r"config\.json: expected a JSON object"),
    "config not utf-8": (write("config.json", b'{"a": "\xff"}'), r"config\.json: not valid JSON"),
    "config too deep": (write("config.json", b"[" * 200_000), r"config\.json: not valid JSON"),
    "config key twice": (write("config.json", b'{"a": 1, "a": 2}'), r"duplicate key 'a'"),
    "unknown architecture": (
        config(architectures=["GPT2LMHeadModel"]),
        r"GPT2LMHeadModel.*supported architectures: BertModel,",
    ),
    "cross-encoder": (config(architectures=["BertForSequenceClassification"]), r"expected only Transformer"),
    "no architecture": (config(architectures=None, model_type="gpt2"), r"gpt2.*supported architectures"),
    "other activation": (config(hidden_act="relu"), r"config\.json: hidden_act = 'relu'"),
    "relative positions": (config(position_embedding_type="relative_key"), r"position_embedding_type"),
    "decoder": (config(is_decoder=True), r"is_decoder"),
    "already quantised": (config(quantization_config={"quant_method": "awq", "bits": 4}), r"with quant_method = 'awq'"),
    "already sparse": (config(compression_config={"format": "x"}), r"compression_config: the weights are already quantised"),
    "8-bit integers": (
        config(quantization_config={"quant_method": "compressed-tensors", "format": "int-quantized"}),
        r"by compressed-tensors as 'int-quantized'. Of such formats, only fp8 can be read",
    ),
    "sparse fp8": (
        config(quantization_config={**COMPRESSED, "sparsity_config": {"format": "sparse-24-bitmask"}}),
        r"with sparsity_config",
    ),
    "fp4": (
        config(quantization_config={**COMPRESSED, "config_groups": {"0": {"weights": {"num_bits": 4, "type": "float"}}}}),
        r"weights of the kind \('float', 4",
    ),
    # what would change the vectors, and would be ignored
    "adapter": (
        adapter(""),
        r"tiny/adapter_config\.json: the checkpoint has an adapter.*edgeembed convert (\S+) --merge-adapter \1;",
    ),
    "adapters of tasks": (
        adapter("adapters/retrieval"),
        r"has adapters, each of which .*: retrieval\. Choose one: edgeembed convert \S+ --merge-adapter retrieval",
    ),
    "adapter alone": (
        only_an_adapter,
        r"an adapter of acme/base, and the model is not beside it.*: edgeembed convert acme/base --merge-adapter \S+tiny$",
    ),
    "adapter without config": (write("adapter_model.bin", b""), r"adapter_model\.bin: this is an adapter"),
    "adapter by another name": (
        write("pytorch_lora_weights.safetensors", b""),
        r"lora_weights\.safetensors: this is an adapter",
    ),
    "own code": (
        config(auto_map={"AutoModel": "modeling_x.BertModel"}),
        r"config\.json: auto_map has AutoModel .*own",
    ),
    "own tokenizer": (
        lambda folder: edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["x.T", None]}),
        r"tokenizer_config\.json: auto_map has AutoTokenizer",
    ),
    "code of another module": (
        config(architectures=["NomicBertModel"], auto_map={"AutoModel": "someone/x--modeling_other.NomicBertModel"}),
        r"config\.json: auto_map has AutoModel = 'someone/x--modeling_other\.NomicBertModel'",
    ),
    "code of the same name by others": (
        config(
            architectures=["NomicBertModel"],
            auto_map={"AutoModel": "someone/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"},
        ),
        r"config\.json: auto_map has AutoModel = 'someone/nomic-bert-2048--modeling_hf_nomic_bert\.NomicBertModel'",
    ),
    "code of a classifier": (
        config(
            architectures=["BertForSequenceClassification"],
            auto_map={"AutoModel": "modeling_hf_nomic_bert.NomicBertModel", "AutoModelForSequenceClassification": "x.C"},
        ),
        r"config\.json: auto_map has AutoModel = ",
    ),
    "known code for another class": (
        config(auto_map={"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"}),
        r"config\.json: auto_map has AutoModel",
    ),
    "own tokenizer behind known code": (
        config(
            architectures=["NomicBertModel"],
            auto_map={"AutoModel": "modeling_hf_nomic_bert.NomicBertModel", "AutoTokenizer": ["x.T", None]},
        ),
        r"config\.json: auto_map has AutoTokenizer",
    ),
    "auto_map no object": (config(auto_map=[1]), r"auto_map = \[1\]; expected an object"),
    "own module": (
        own_module("custom_st.Transformer"),
        r"modules\.json: the module custom_st\.Transformer is the checkpoint's own code",
    ),
    "two encoders": (modules("Transformer", "Transformer", "Pooling"), r"expected one Transformer module, found 2"),
    "arguments": (
        lambda folder: write_json(folder / "sentence_bert_config.json", {"config_args": {"num_hidden_layers": 1}}),
        r"sentence_bert_config\.json: config_args = \{'num_hidden_layers': 1\} may change the vectors",
    ),
    "arguments no object": (
        lambda folder: write_json(folder / "sentence_bert_config.json", {"model_args": [1]}),
        r"sentence_bert_config\.json: model_args = \[1\] may change the vectors",
    ),
    "two sets of weights": (single_file_and_shards, r"contains model\.safetensors and a\.safetensors.*not clear"),
    "no hidden size": (config(hidden_size=None), r"config\.json: hidden_size = None"),
    "hidden size text": (config(hidden_size="64"), r"hidden_size = '64'"),
    "heads": (config(num_attention_heads=5), r"not a multiple of num_attention_heads 5"),
    "epsilon": (config(layer_norm_eps=0), r"layer_norm_eps = 0"),
    # pooling
    "no modules": (remove("modules.json"), r"modules\.json: missing"),
    "modules no list": (write("modules.json", b"{}"), r"modules\.json: expected a list"),
    "module without path": (write("modules.json", b'[{"type": "x.Pooling"}]'), r"without type or path"),
    "module outside": (
        write("modules.json", b'[{"type": "x.Pooling", "path": "../up"}]'),
        r"outside the checkpoint's folder",
    ),
    "dense": (modules("Transformer", "Pooling", "Dense"), r"unknown settings of a Dense module"),
    "no pooling": (modules("Transformer", "Normalize"), r"expected one Pooling module, found 0"),
    "two poolings": (modules("Transformer", "Pooling", "Pooling"), r"expected one Pooling module, found 2"),
    "no pooling config": (remove("1_Pooling/config.json"), r"1_Pooling/config\.json: missing"),
    "max pooling": (
        pooling(pooling_mode_mean_tokens=False, pooling_mode_max_tokens=True),
        r"'max' \(the largest value of each dimension\) cannot be converted",
    ),
    "unheard-of pooling": (
        pooling(pooling_mode_mean_tokens=False, pooling_mode_median_tokens=True),
        r"'pooling_mode_median_tokens' \(unknown\) cannot be converted",
    ),
    "mean and cls": (
        pooling(pooling_mode_cls_token=True),
        r"'cls' and 'mean' \(rows of several poolings, one after the other\)",
    ),
    "no mode": (pooling(pooling_mode_mean_tokens=False), r"no pooling mode; expected one of mean, cls, lasttoken"),
    "new weighted": (
        pooling(pooling_mode="weightedmean"),
        r"'weightedmean' \(a mean that weights each token by its position\)",
    ),
    "new pair": (pooling(pooling_mode=["mean", "max"]), r"'mean' and 'max' \(rows of several"),
    "mode an object": (pooling(pooling_mode={}), r"pooling \{\} \(unknown\)"),
    "prompt excluded": (pooling(include_prompt=False), r"include_prompt"),
    "pooled size": (pooling(word_embedding_dimension=32), r"32 dimensions, but hidden_size in config.json is 64"),
    # weights
    "no weights": (remove("model.safetensors"), r"neither model\.safetensors"),
    "pickle": (pickled, r"pytorch_model\.bin: not a file that torch 1\.6 or later saved"),
    "empty file": (write("model.safetensors", b""), r"not a safetensors file, or truncated"),
    "header too long": (write("model.safetensors", struct.pack("<Q", 1 << 60) + b"{}"), r"truncated"),
    "header no json": (write("model.safetensors", struct.pack("<Q", 2) + b"xx"), r"model\.safetensors: not valid JSON"),
    "truncated": (cut, r"model\.safetensors: .*(truncated|outside)"),
    "longer than the header": (data(lambda content, at: content + b"\0" * 8), r"the header describes"),
    "offsets outside": (header(WORD, data_offsets=[0, 1 << 40]), r"are outside"),
    "offsets backwards": (header(WORD, data_offsets=[100, 0]), r"are outside"),
    "offsets negative": (header(WORD, data_offsets=[-4, 4]), r"not two positions"),
    "offsets overlap": (header(WORD, data_offsets=[4, 4 + 4 * len(PIECES) * 64]), r"overlap or a gap"),
    "wrong shape": (header(WORD, shape=[len(PIECES), 65]), r"does not match the"),
    "shape no list": (header(WORD, shape="64"), r"not a list of sizes"),
    "unknown dtype": (header(WORD, dtype="Q1"), r"unknown type 'Q1'"),
    "integers": (an_integer_norm, r"LayerNorm\.weight has the type I32"),
    "nan": (data(lambda content, at: content[:at] + NAN + content[at + 4 :]), rf"{WORD} contains NaN"),
    "infinite": (data(lambda content, at: content[:at] + INFINITE + content[at + 4 :]), r"contains NaN or infinity"),
    "fewer layers": (config(num_hidden_layers=1), r"16 tensors do not belong to a BERT encoder.*encoder\.layer\.1"),
    "more layers": (config(num_hidden_layers=3), r"tensor encoder\.layer\.2\.attention\.self\.query\.weight is missing"),
    "other sizes": (config(intermediate_size=256), r"has the shape \[128, 64\]; config\.json requires \[256, 64\]"),
    "other context": (config(max_position_embeddings=32), r"position_embeddings.*config\.json requires \[32, 64\]"),
    "tensor missing": (rename_tensor(WORD, "cls.x"), rf"tensor {WORD} is missing"),
    "tensor unknown": (rename_tensor("pooler.dense.bias", "adapter.bias"), r"would be lost: adapter\.bias"),
    "tensor twice": (rename_tensor("pooler.dense.bias", f"bert.{FIRST_NORM}"), r"are the same tensor"),
    "index outside": (index(x="../model.safetensors"), r"not a file name"),
    "shard missing": (index(x="a.safetensors"), r"a\.safetensors: missing"),
    "index empty": (index(), r"weight_map is missing"),
    "index silent": (stray_shard, r"index\.json lists for another file"),
    # tokenizer
    "no tokenizer": (remove("tokenizer.json"), r"no tokenizer: "),
    "vocabulary small": (config(vocab_size=33), r"32 pieces, but vocab_size in config\.json is 33"),
    "not wordpiece": (tokenizer_model(type="BPE"), r"'BPE'; expected WordPiece"),
    "other prefix": (tokenizer_model(continuing_subword_prefix="@@"), r"'@@'; expected '##'"),
    "no longest word": (tokenizer_model(max_input_chars_per_word=0), r"max_input_chars_per_word = 0 is not a number"),
    "vocabulary a list": (tokenizer_model(vocab=PIECES), r"an object that maps pieces to ids"),
    "id out of range": (vocab(fox=4000), r"out of range or not unique"),
    "id twice": (vocab(fox=5), r"out of range or not unique"),
    "other normaliser": (normalizer(type="NFC"), r"supports only BertNormalizer"),
    "chinese not split": (normalizer(handle_chinese_chars=False), r"handle_chinese_chars"),
    "other pre-tokenizer": (tokenizer(pre_tokenizer={"type": "Whitespace"}), r"BertPreTokenizer"),
    "other frame": (tokenizer(post_processor={"type": "ByteLevel"}), r"post-processor"),
    "files disagree": (normalizer(lowercase=False), r"do_lower_case = True, but tokenizer\.json says False"),
    "no unk": (
        lambda folder: edit_json(folder / "tokenizer_config.json", unk_token="<unk>"),
        r"unk token is '\[UNK\]' in tokenizer.json, but '<unk>' in the other files",
    ),
    "no cls": (
        lambda folder: edit_json(folder / "tokenizer_config.json", cls_token="<s>"),
        r"the cls token '<s>' is not in the vocabulary",
    ),
    "added token elsewhere": (
        tokenizer(added_tokens=[{"id": 7, "content": "[PAD]", "special": True}]),
        r"'\[PAD\]' has the id 7, but 0 in the vocabulary",
    ),
    "not unicode": (
        lambda folder: (folder / "tokenizer.json").write_text(
            json.dumps(tokenizer_json(cased=False)).replace('"fox"', '"\\ud800"'), encoding="utf-8"
        ),
        r"not valid JSON: .*surrogates",
    ),
    "casing unknown": (text_vocabulary(LINES, do_lower_case=None), r"do_lower_case is missing"),
    "japanese words": (
        lambda folder: edit_json(folder / "tokenizer_config.json", tokenizer_class="BertJapaneseTokenizer"),
        r"tokenizer_config\.json: tokenizer_class = 'BertJapaneseTokenizer': this tokenizer splits texts in its own way",
    ),
    "japanese words by config.json": (
        lambda folder: [
            text_vocabulary(LINES, tokenizer_class=None)(folder),
            config(tokenizer_class="BertJapaneseTokenizer")(folder),
        ],
        r"tiny/config\.json: tokenizer_class = 'BertJapaneseTokenizer'",
    ),
    "words of a dictionary": (
        text_vocabulary(LINES, word_tokenizer_type="mecab", subword_tokenizer_type="character"),
        r"word_tokenizer_type = 'mecab': this tokenizer splits",
    ),
    "another reader of vocab.txt": (
        text_vocabulary(LINES, tokenizer_class="MPNetTokenizer"),
        r"'MPNetTokenizer': it is unknown how this tokenizer reads vocab\.txt",
    ),
    "added token in capitals": (
        tokenizer(added_tokens=[{"id": 10, "content": "fox", "special": False, "normalized": True}]),
        r"the added token 'fox' is found in normalised texts",
    ),
    "added word of the vocabulary": (
        tokenizer(added_tokens=[{"id": 10, "content": "fox", "special": False, "normalized": False}]),
        r"the added token 'fox' is found in normalised texts",
    ),
    "added whole word": (
        tokenizer(added_tokens=[{"id": 15, "content": "a", "special": False, "single_word": True}]),
        r"the added token 'a' has single_word = true",
    ),
    "piece twice": (text_vocabulary(LINES.replace("fox\n", "hello\n")), r"lines 6 and 11 have the same piece 'hello'"),
}


@pytest.mark.parametrize("case", CASES)
def test_broken_checkpoint(tmp_path: Path, case: str) -> None:
    apply, reason = CASES[case]
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    apply(checkpoint)
    target = tmp_path / "out" / "tiny.gguf"
    target.parent.mkdir()
    with pytest.raises(ConversionError, match=reason) as raised:
        convert_checkpoint(checkpoint, target)
    assert str(checkpoint) in raised.value.message
    assert list(target.parent.iterdir()) == []


HARMLESS: dict[str, Break] = {
    "how it is loaded": lambda folder: write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": 64, "model_args": {"torch_dtype": "float32", "attn_implementation": "sdpa"}, "config_args": {}},
    ),
    "an index without its shards": lambda folder: write_json(
        folder / "model.safetensors.index.json", {"weight_map": {WORD: "a.safetensors"}}
    ),
    "pickled and other copies": lambda folder: [
        (folder / name).write_bytes(b"") for name in ("pytorch_model.bin", "x.onnx")
    ],
    "what is hidden": lambda folder: [
        (folder / ".cache").mkdir(),
        (folder / ".cache" / "adapter_config.json").write_bytes(b"{}"),
    ],
    "code that is not used": config(auto_map={"AutoConfig": "configuration_x.BertConfig"}),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_does_not_change_vectors_is_no_reason_to_refuse(tmp_path: Path, case: str) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    HARMLESS[case](checkpoint)
    assert convert_checkpoint(checkpoint, tmp_path / "tiny.gguf").dimensions == 64


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta"])
def test_lower_casing_is_read_from_each_file_that_sentence_transformers_reads(tmp_path: Path, name: str) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny", cased=True)
    assert not open_checkpoint(checkpoint).lowercases_input
    write_json(checkpoint / f"sentence_{name}_config.json", {"do_lower_case": True})
    assert open_checkpoint(checkpoint).lowercases_input


def test_broken_target(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    with pytest.raises(ConversionError, match="no such folder"):
        convert_checkpoint(checkpoint, tmp_path / "nowhere" / "tiny.gguf")
    with pytest.raises(ConversionError, match="is a folder"):
        convert_checkpoint(checkpoint, checkpoint)
    with pytest.raises(ConversionError, match="not a folder"):
        convert_checkpoint(tmp_path / "nowhere", tmp_path / "tiny.gguf")
    with pytest.raises(ConversionError, match=r"unknown type 'Q3_X'; known types: F32, F16"):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", quantization="Q3_X")


def test_missing_disk_space_is_an_error_before_the_work_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    usage = type("Usage", (), {"free": 1 << 20})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ConversionError, match="16 MiB needed, 1 MiB free"):
        convert_checkpoint(
            checkpoint, tmp_path / "tiny.gguf", progress=lambda done, total: pytest.fail("the work has begun")
        )


def test_a_full_disk_keeps_the_existing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    target = tmp_path / "tiny.gguf"
    target.write_bytes(b"older")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConversionError, match="No space left"):
        convert_checkpoint(checkpoint, target)
    assert target.read_bytes() == b"older"
    assert sorted(tmp_path.iterdir()) == [checkpoint, target]


def test_interrupted_conversion_leaves_no_file(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    seen: list[str] = []

    def interrupt(done: int, total: int) -> None:
        if done > total * 0.9:
            seen.extend(file.name for file in tmp_path.iterdir() if file.suffix == ".tmp")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", quantization="F32", progress=interrupt)
    assert seen, "interrupted before the file was created"
    assert list(tmp_path.iterdir()) == [checkpoint]


KILLED_MIDWAY = """
import sys, time
from pathlib import Path
from tests.convert.without_proof import convert_checkpoint

def stall(done, total):
    if done > total * 0.9:
        print("now", flush=True)
        time.sleep(60)

convert_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), quantization="F32", progress=stall)
"""


def test_files_of_a_killed_conversion_are_hidden_and_removed_later(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    target = tmp_path / "tiny.gguf"
    command = [sys.executable, "-c", KILLED_MIDWAY, str(checkpoint), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "now\n"
        process.kill()
    assert not target.exists()
    (part,) = tmp_path.glob(".tiny.gguf.*.tmp")
    hours_ago = time.time() - 7200
    os.utime(part, (hours_ago, hours_ago))
    convert_checkpoint(checkpoint, target)
    assert sorted(tmp_path.iterdir()) == [checkpoint, target]


def test_tensors_may_be_stored_in_any_order(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    convert_checkpoint(checkpoint, tmp_path / "one.gguf")
    entries, content = read_raw_safetensors(checkpoint / "model.safetensors")
    entries.pop("__metadata__")
    arrays = {}
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        kind = {"F32": np.float32, "I64": np.int64}[entry["dtype"]]
        arrays[name] = np.frombuffer(content[begin:end], dtype=kind).reshape(entry["shape"])
    write_safetensors(checkpoint / "model.safetensors", dict(reversed(arrays.items())))
    convert_checkpoint(checkpoint, tmp_path / "two.gguf")
    one, two = ((tmp_path / name).read_bytes() for name in ("one.gguf", "two.gguf"))
    assert one[-10_000:] == two[-10_000:]
