"""Tokenizers without tokenizer.json: what is unknown or malformed is refused. What is read is compared in the zoo."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeembed.errors import ConversionError
from edgeembed_convert.older_tokenizers import older_tokenizer
from edgeembed_convert.sentencepiece_file import read_sentencepiece_file
from edgeembed_convert.unigram import read_unigram
from tests.convert.tiny_bert import edit_json, write_json
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.older_tokenizers import (
    make_qwen3,
    make_roberta,
    make_vocabulary_text,
    make_xlm_roberta,
    sentencepiece_model,
)

Break = Callable[[Path], object]
PIECES = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("a", -1.5, 1)]


def write(name: str, content: str) -> Break:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8")


def model(pieces: Any = PIECES, **options: Any) -> Break:
    return lambda folder: (folder / "sentencepiece.bpe.model").write_bytes(sentencepiece_model(pieces, b"", **options))


BROKEN: dict[str, tuple[Callable[[Path], Path], Break, str]] = {
    "no merges": (make_roberta, lambda folder: (folder / "merges.txt").unlink(), r"merges\.txt: missing, but vocab\.json"),
    "another first line": (make_roberta, write("merges.txt", "h e\n"), r"the first line is 'h e'; expected #version"),
    "a merge of three": (make_roberta, write("merges.txt", "#version: 0.2\nh e l\n"), "'h e l' is not a pair of pieces"),
    "an unknown merge": (
        make_roberta,
        write("merges.txt", "#version: 0.2\nh \u1234\n"),
        "a piece that is not in the vocabulary",
    ),
    "merges that are no text": (make_roberta, lambda folder: (folder / "merges.txt").write_bytes(b"\xff"), "cannot be read"),
    "a vocabulary that is a list": (make_roberta, write("vocab.json", "[1]"), "expected a JSON object"),
    "no special tokens": (make_roberta, write("vocab.json", '{"a": 0}'), "special token '</s>' is not in the vocabulary"),
    "an unknown class": (
        make_roberta,
        lambda folder: write_json(folder / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer"}),
        r"unknown how tokenizer_class = 'CLIPTokenizer' reads this file.*save_pretrained",
    ),
    "a space before each text": (
        make_roberta,
        lambda folder: write_json(folder / "tokenizer_config.json", {"add_prefix_space": True}),
        r"vocab\.json: ByteLevel's add_prefix_space = True is not supported",
    ),
    "an end that is added": (
        make_qwen3,
        lambda folder: edit_json(folder / "tokenizer_config.json", add_eos_token=True),
        r"add_eos_token = True needs a tokenizer\.json.*save_pretrained",
    ),
    "another special token": (
        make_xlm_roberta,
        lambda folder: write_json(folder / "special_tokens_map.json", {"mask_token": {"content": "[MASK]"}}),
        r"the mask token is '\[MASK\]', which XLMRobertaTokenizer does not have",
    ),
    "a special token that is no text": (
        make_xlm_roberta,
        lambda folder: write_json(folder / "special_tokens_map.json", {"mask_token": 7}),
        "the mask token is 7; expected a text",
    ),
    "BPE for XLM-RoBERTa": (make_xlm_roberta, model(kind=2), "the model is not Unigram"),
    "spaces are kept": (make_xlm_roberta, model(normalizer=b"\x20\x00"), "the model treats spaces in another way"),
    "no space before a text": (make_xlm_roberta, model(normalizer=b"\x18\x00"), "the model treats spaces in another way"),
    "pieces of its user": (make_xlm_roberta, model([*PIECES, ("b", 0.0, 4)]), "has user-defined pieces"),
    "another order": (make_xlm_roberta, model([PIECES[0], PIECES[2], PIECES[1]]), "the first pieces are"),
    "Llama": (
        make_xlm_roberta,
        lambda folder: write_json(folder / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizerFast"}),
        "tokenizer_class = 'LlamaTokenizerFast'",
    ),
    "no file at all": (
        make_xlm_roberta,
        lambda folder: (folder / "sentencepiece.bpe.model").unlink(),
        r"no tokenizer: neither tokenizer\.json nor vocab\.json with merges\.txt nor sentencepiece\.bpe\.model",
    ),
    "capitals without a note": (
        make_vocabulary_text,
        lambda folder: write("vocab.txt", (folder / "vocab.txt").read_text(encoding="utf-8").replace("\nfox\n", "\nFox\n"))(
            folder
        ),
        r"vocab\.txt has capitals \('Fox'\).*\"do_lower_case\": false",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_unknown_or_malformed_is_refused(tmp_path: Path, case: str) -> None:
    make, change, message = BROKEN[case]
    checkpoint = make(tmp_path / "tiny")
    change(checkpoint)
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")
    assert not (tmp_path / "tiny.gguf").exists()


def test_added_tokens_of_both_older_files(tmp_path: Path) -> None:
    checkpoint = make_roberta(tmp_path / "tiny")
    last = len(json.loads((checkpoint / "vocab.json").read_text(encoding="utf-8")))
    write_json(checkpoint / "added_tokens.json", {"<x>": last})
    entry = {"content": "<y>", "special": True, "normalized": False}
    write_json(checkpoint / "tokenizer_config.json", {"added_tokens_decoder": {str(last + 1): entry}})
    _, content, config = older_tokenizer(checkpoint)
    added = {entry["content"]: (entry["id"], entry["special"]) for entry in content["added_tokens"]}
    assert added["<x>"] == (last, False) and added["<y>"] == (last + 1, True) and added["<mask>"][1]
    assert config["mask_token"] == "<mask>"


def test_t5_has_its_end_and_sentinels(tmp_path: Path) -> None:
    pieces = [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2), ("\u2581a", -1.0, 1)]
    (tmp_path / "spiece.model").write_bytes(sentencepiece_model(pieces, b""))
    write_json(tmp_path / "config.json", {"model_type": "t5"})
    write_json(tmp_path / "tokenizer_config.json", {"extra_ids": 2})
    _, content, _ = older_tokenizer(tmp_path)
    assert [piece for piece, _ in content["model"]["vocab"]][3:] == ["\u2581a", "<extra_id_1>", "<extra_id_0>"]
    assert content["model"]["unk_id"] == 2
    single = content["post_processor"]["single"]
    assert [next(iter(part.values()))["id"] for part in single] == ["A", "</s>"]


def test_a_model_file_cut_or_changed_anywhere_is_read_or_refused(tmp_path: Path) -> None:
    content = sentencepiece_model(PIECES, b"\x04\x00\x00\x00abcdef")
    file = tmp_path / "x.model"
    random = np.random.default_rng(0)
    broken = [content[:end] for end in range(len(content))]
    for _ in range(500):
        changed = bytearray(content)
        changed[random.integers(len(changed))] = random.integers(256)
        broken.append(bytes(changed))
    refused = 0
    for data in broken:
        file.write_bytes(data)
        try:
            read_sentencepiece_file(file)
        except ConversionError as error:
            assert str(file) in error.message
            refused += 1
    assert refused > 100
    file.write_bytes(content)
    assert [piece for piece, _, _ in read_sentencepiece_file(file).pieces] == ["<unk>", "<s>", "</s>", "a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has no pieces"),
        (b"\x0a\xff\xff\xff\xff\x0f", "it is truncated"),
        (b"\x0a" + b"\xff" * 20, "a number is too long"),
        (b"\x0f", "unknown wire type 7"),
        (b"\x0a\x03\x0a\x01\xff", "not a SentencePiece model"),
        (b"\x0a\x05\x15\x00\x00\xc0\x7f", "a piece has the wrong type"),
        (b"\x0a\x08\x0a\x01a\x15\x00\x00\xc0\x7f", "a score is not finite"),
    ],
)
def test_files_that_are_no_model(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.model").write_bytes(content)
    with pytest.raises(ConversionError, match=message):
        read_sentencepiece_file(tmp_path / "x.model")


def test_the_ids_are_moved_as_fairseq_moves_them(tmp_path: Path) -> None:
    checkpoint = make_xlm_roberta(tmp_path / "tiny")
    vocabulary = read_unigram(checkpoint, 1000)
    assert vocabulary.pieces[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    own = read_sentencepiece_file(checkpoint / "sentencepiece.bpe.model").pieces
    assert [piece for piece, _, _ in own[3:]] == vocabulary.pieces[4 : len(own) + 1]
    assert vocabulary.special == {"bos": 0, "eos": 2, "unk": 3, "pad": 1, "mask": len(own) + 1}
