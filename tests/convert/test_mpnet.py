"""MPNet: keys, checks, and that no other program takes its files for BERT's. The rows are compared in the zoo."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from edgeembed.engine.llama.bindings import lib
from edgeembed.engine.stand_ins import SCORE_BIAS_KEY, architecture_of, decode_bias
from edgeembed.errors import ConversionError
from edgeembed.hub.gguf.check import check_gguf
from edgeembed_convert import ConversionOptions, convert_checkpoint
from tests.convert.llama_vectors import cosine, open_llama
from tests.convert.tiny_bert import edit_json, write_json
from tests.convert.tiny_encoders import TOKENS
from tests.convert.tiny_mpnet import BUCKETS, make_tiny_mpnet, mpnet_weights

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("quiet")]

TEXT = "the quick brown fox jumps over the lazy dog, and nobody was there to see it"


def test_the_bias_of_near_tokens_is_exact_and_grows_coarse_with_distance(tmp_path: Path) -> None:
    checkpoint = make_tiny_mpnet(tmp_path / "tiny")
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    table = mpnet_weights(config)["encoder.relative_attention_bias.weight"]
    keys = GGUFReader(convert_checkpoint(checkpoint, tmp_path / "tiny.gguf").path).fields
    bias = decode_bias(keys[SCORE_BIAS_KEY].contents(), config["num_attention_heads"])
    assert bias.shape == (4, 257)
    for ahead in (False, True):
        half = table[BUCKETS // 2 :] if ahead else table[: BUCKETS // 2]
        side = (bias[:, 129:] if ahead else bias[:, 127::-1]).T
        assert np.array_equal(side[:7], half[1:8])  # distances 1 to 7
        assert np.array_equal(side[7], side[10]) and np.array_equal(side[7], half[8])  # 8 to 11
        assert np.array_equal(side[-1], half[-1])
    assert np.array_equal(bias[:, 128], table[0])
    assert keys["bert.context_length"].contents() == TOKENS


def test_a_mixture_of_types_keeps_the_architecture_and_the_vectors(tmp_path: Path) -> None:
    checkpoint = make_tiny_mpnet(tmp_path / "tiny")
    rows = []
    for kind in ("F32", "Q6_K"):
        result = convert_checkpoint(checkpoint, tmp_path / f"{kind}.gguf", ConversionOptions(quantization=kind))
        assert result.architecture == "mpnet" == architecture_of(result.path)
        reader = GGUFReader(result.path)
        assert reader.fields["general.architecture"].contents() == "mpnet"
        with open_llama(result.path, TOKENS) as llama:
            rows.append(llama.embed(TEXT))
    assert cosine(*rows) > 0.99
    assert not list(tmp_path.glob(".*"))


def test_plain_llama_cpp_refuses_the_file(tmp_path: Path) -> None:
    file = convert_checkpoint(make_tiny_mpnet(tmp_path / "tiny"), tmp_path / "tiny.gguf").path
    lib.llama_backend_init()
    params = lib.llama_model_default_params()
    params.devices = ctypes.cast((ctypes.c_void_p * 1)(), ctypes.c_void_p)
    assert not lib.llama_model_load_from_file(str(file).encode(), params)


@pytest.mark.parametrize("buckets", [0, 2, 31, 2048, "32", True])
def test_an_impossible_number_of_buckets_is_refused(tmp_path: Path, buckets: object) -> None:
    checkpoint = make_tiny_mpnet(tmp_path / "tiny")
    edit_json(checkpoint / "config.json", relative_attention_num_buckets=buckets)
    with pytest.raises(ConversionError, match="relative_attention_num_buckets"):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")


def test_token_types_are_refused(tmp_path: Path) -> None:
    checkpoint = make_tiny_mpnet(tmp_path / "tiny")
    edit_json(checkpoint / "config.json", type_vocab_size=2)
    with pytest.raises(ConversionError, match="type_vocab_size = 2"):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")


def test_the_length_that_the_makers_use_is_the_limit(tmp_path: Path) -> None:
    checkpoint = make_tiny_mpnet(tmp_path / "tiny")
    write_json(checkpoint / "sentence_bert_config.json", {"max_seq_length": 384, "do_lower_case": False})
    result = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", ConversionOptions(proof=False))
    assert len(result.notes) == 1 and "up to 384 tokens" in result.notes[0]
    header = check_gguf(result.path)
    assert header.size("context_length") == TOKENS and header.architecture == "mpnet"
