"""pytorch_model.bin: tensors are read, code is not run, and hostile files are refused."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeembed.errors import ConversionError
from edgeembed_convert.pickled import read_pickled
from edgeembed_convert.weights import open_weights
from tests.convert.pickled_files import DICTIONARY, number, numbers, state, tensor, text, write_archive, write_pickled
from tests.convert.tiny_bert import write_json

pytestmark = pytest.mark.unit

SAVED = Path(__file__).parents[1] / "reference" / "pickled"
ONE = np.arange(6, dtype=np.float32).reshape(2, 3)


def values_of(file: Path) -> dict[str, npt.NDArray[Any]]:
    return {
        name: np.concatenate([*tensor.rows(), np.empty((0, tensor.shape[-1] if tensor.shape else 1), np.float32)])
        for name, tensor in read_pickled(file).items()
        if not tensor.dtype.startswith(("I", "U"))
    }


def test_a_state_dictionary_of_torch() -> None:
    found = read_pickled(SAVED / "state.bin")
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in found.items()} == {
        "0.weight": ("F16", (2, 3)),
        "0.bias": ("F16", (2,)),
        "1.weight": ("F16", (4, 3)),
    }
    assert all(np.isfinite(rows).all() and rows.any() for rows in values_of(SAVED / "state.bin").values())


def test_each_type_and_each_view_of_torch() -> None:
    values = values_of(SAVED / "kinds.bin")
    whole = np.arange(12.0).reshape(3, 4)
    assert np.array_equal(values["parameter"], whole) and np.array_equal(values["whole"], whole)
    assert np.array_equal(values["view"], whole[1:])
    assert values["scalar"].tolist() == [[2.5]] and values["empty"].shape == (0, 4)
    for kind in ("float64", "bfloat16", "float8_e4m3fn", "float8_e5m2"):
        assert values[kind].tolist() == [[0, 1, 3]], kind
    kinds = {name: tensor.dtype for name, tensor in read_pickled(SAVED / "kinds.bin").items()}
    assert (kinds["int64"], kinds["uint16"]) == ("I64", "U16")


@pytest.mark.parametrize(
    ("name", "message"), [("old.bin", "older file has to be saved again.*python -c"), ("transposed.bin", "not in order.*-c")]
)
def test_what_torch_has_to_save_again(name: str, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        read_pickled(SAVED / name)


def test_shards(tmp_path: Path) -> None:
    write_pickled(tmp_path / "a.bin", {"x": ONE})
    write_pickled(tmp_path / "b.bin", {"y": ONE + 1})
    index = tmp_path / "pytorch_model.bin.index.json"
    write_json(index, {"weight_map": {"x": "a.bin", "y": "b.bin"}})
    found = open_weights(tmp_path).tensors
    assert np.array_equal(np.concatenate(list(found["y"].rows())), ONE + 1) and set(found) == {"x", "y"}
    write_json(index, {"weight_map": {"x": "a.bin", "y": "../b.bin"}})
    with pytest.raises(ConversionError, match="not a file name"):
        open_weights(tmp_path)


class Runs:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("protocol", range(6))
def test_code_is_never_run(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "trace"
    content = pickle.dumps({"x": Runs(trace)}, protocol)
    write_archive(tmp_path / "x.bin", content, {})
    with pytest.raises(ConversionError, match=r"could run code|is not run") as raised:
        read_pickled(tmp_path / "x.bin")
    assert not trace.exists()
    assert "mkdir" in raised.value.message or protocol < 2  # whose opcodes torch.save does not use
    pickle.loads(content)  # noqa: S301 - it is what it claims to be
    assert trace.exists()


BIG = 1 << 40
NAME = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n"
HOSTILE: dict[str, tuple[bytes, str]] = {
    "another module": (b"\x80\x02cbuiltins\neval\n" + text("1") + b"\x85R.", r"'builtins\.eval'.*is not loaded"),
    "a dotted name": (b"\x80\x04" + text("torch._utils") + text("_rebuild_tensor_v2.__globals__") + b"\x93.", "not loaded"),
    "a name of tuples in tuples": (
        b"\x80\x04)\x94" + b"".join(bytes([104, at, 104, at, 0x86, 0x94]) for at in range(200)) + text("x") + b"\x93.",
        "a tuple where a str",
    ),
    "a name of any depth": (b"\x80\x04)" + b"\x85" * 100_000 + text("x") + b"\x93.", "a tuple where a str"),
    "half a character in a key": (b"\x80\x02}X\x03\x00\x00\x00\xed\xa0\x80Ns.", "surrogates not allowed"),
    "another part of torch": (b"\x80\x02ctorch\nload\n.", r"'torch\.load'"),
    "a class by its number": (b"\x80\x02\x82\x01.", "EXT1"),
    "an instance": (b"\x80\x02(cos\nsystem\no.", "not loaded"),
    "an old instance": (b"(" + text("x") + b"ios\nsystem\n.", "opcode INST"),
    "a new object": (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "opcode NEWOBJ"),
    "attributes of a name": (NAME + b"}" + text("__code__") + number(1) + b"sb.", "a _Name where a dict"),
    "a storage that is called": (b"\x80\x02ctorch\nFloatStorage\n)R.", "is not called"),
    "a call of a tensor": (state({"x": tensor("0", [2, 3]) + b")R"}), "malformed"),
    "a dictionary of a dictionary": (state({"x": b"}" + text("y") + tensor("0", [2, 3]) + b"s"}), "'x' is not a tensor"),
    "no dictionary": (b"\x80\x02" + tensor("0", [2, 3]) + b".", "expected a dictionary"),
    "nothing": (b"\x80\x02.", "malformed"),
    "no end": (b"\x80\x02}", "malformed"),
    "empty": (b"", "malformed"),
    "text of any length": (b"\x80\x02X\xff\xff\xff\xff.", "malformed"),
    "bytes of any length": (b"\x80\x05\x96" + struct.pack("<Q", BIG) + b".", "malformed"),
    "a frame of any length": (b"\x80\x04\x95" + struct.pack("<Q", BIG) + b"}.", "expected a dictionary|^$"),
    "a memo of any size": (b"\x80\x02}r\xff\xff\xff\x7f0.", "opcode POP"),
    "an empty memo": (b"\x80\x02h\x00.", "malformed"),
    "a tuple of nothing": (b"\x80\x02\x87.", "too few values"),
    "beyond a mark": (b"\x80\x02(}\x86.", "too few values"),
    "keys of any depth": (b"\x80\x02})" + b"\x85" * 100_000 + b"}s.", "a tuple where a str was expected"),
    "odd entries": (b"\x80\x02}(" + text("x") + b"u.", "malformed"),
    "a shape of any size": (state({"x": tensor("0", [BIG, BIG], strides=[BIG, 1])}), "outside the 24 bytes"),
    "a shape beyond that": (state({"x": tensor("0", [1 << 60])}), "impossible shape"),
    "a negative shape": (state({"x": tensor("0", [-2, -3], strides=[3, 1])}), "impossible shape"),
    "dimensions without end": (state({"x": tensor("0", [1] * 5000, strides=[1] * 5000)}), "impossible shape"),
    "a shape that is no tuple": (
        state({"x": tensor("0", [2, 3]).replace(numbers([2, 3]), text("23"))}),
        "a str where a tuple",
    ),
    "values after the end": (state({"x": tensor("0", [2, 3], offset=1)}), "outside the 24 bytes"),
    "values before the start": (state({"x": tensor("0", [2, 3], offset=-1)}), "impossible shape"),
    "strides of zero": (state({"x": tensor("0", [2, 3], strides=[0, 0])}), "not in order"),
    "fewer strides": (state({"x": tensor("0", [2, 3], strides=[1])}), "not in order"),
    "values of another file": (state({"x": tensor("../../x", [2, 3])}), "are missing from the archive"),
    "another type": (state({"x": tensor("0", [2, 3], kind="float32")}), "malformed"),
    "a type without end": (state({"x": tensor("0", [2, 3], kind="QInt8Storage")}), "not loaded"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles(tmp_path: Path, case: str) -> None:
    content, message = HOSTILE[case]
    file = tmp_path / "x.bin"
    write_archive(file, content, {"data/0": ONE.tobytes()})
    if case == "a frame of any length":  # which is only a hint
        assert read_pickled(file) == {}
        return
    with pytest.raises(ConversionError, match=message) as raised:
        read_pickled(file)
    assert str(file) in raised.value.message and len(raised.value.message) < 600


def bomb(file: Path) -> None:
    write_archive(file, state({}), {"data/0": bytes(50 << 20)}, zipfile.ZIP_DEFLATED)


def long_pickle(file: Path) -> None:
    write_archive(file, b"\x80\x02" + b"N" * (5 << 20), {})


def changed(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        write_archive(file, state({"x": tensor("0", [2, 3])}), {"data/0": ONE.tobytes()})
        file.write_bytes(change(file.read_bytes()))

    return write


def longer_record(content: bytes) -> bytes:
    """Return the archive with a directory that says that the values are 1 GB long."""
    at = content.rindex(b"archive/data/0") - 46
    return content[: at + 20] + struct.pack("<II", 1 << 30, 1 << 30) + content[at + 28 :]


def moved_record(content: bytes) -> bytes:
    """Return the archive with a directory that says that the values begin elsewhere."""
    at = content.rindex(b"archive/data/0") - 46
    return content[: at + 42] + struct.pack("<I", 7) + content[at + 46 :]


def twice(file: Path) -> None:
    write_archive(file, state({}), {"data/0": b"", "data/1": b""})
    file.write_bytes(file.read_bytes().replace(b"archive/data/1", b"archive/data/0"))


ARCHIVES: dict[str, tuple[Callable[[Path], None], str]] = {
    "compressed": (bomb, "is compressed or encrypted"),
    "a pickle that is too long": (long_pickle, "is too long"),
    "the same name twice": (twice, "twice"),
    "values after the end of the file": (changed(longer_record), "is outside the file"),
    "values at a wrong place": (changed(moved_record), "where its directory says"),
    "truncated": (changed(lambda content: content[: len(content) // 2]), "not a file that torch 1.6"),
    "cut in front": (changed(lambda content: content[40:]), "cannot be read|where its directory says|malformed"),
    "empty": (lambda file: file.write_bytes(b"") and None, "not a file that torch 1.6"),
    "no pickle": (lambda file: zipfile.ZipFile(file, "w").close(), "not a file of torch.save"),
    "the other byte order": (lambda file: write_archive(file, state({}), {"byteorder": b"big"}), "byte order"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_hostile_archives(tmp_path: Path, case: str) -> None:
    write, message = ARCHIVES[case]
    write(tmp_path / "x.bin")
    with pytest.raises(ConversionError, match=message):
        read_pickled(tmp_path / "x.bin")


def test_any_changed_byte_gives_tensors_or_an_error(tmp_path: Path) -> None:
    write_archive(tmp_path / "x.bin", state({"x": tensor("0", [2, 3]), "y": DICTIONARY}), {"data/0": ONE.tobytes()})
    content = (tmp_path / "x.bin").read_bytes()
    random = np.random.default_rng(0)
    for _ in range(600):
        broken = bytearray(content)
        broken[random.integers(len(broken))] = random.integers(256)
        (tmp_path / "y.bin").write_bytes(broken)
        try:
            read_pickled(tmp_path / "y.bin")
        except ConversionError:
            continue
