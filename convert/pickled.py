"""Read the tensors of pytorch_model.bin without running the code in it.

A pickle is a program. Python's unpickler imports what it names and calls it, so a file can do anything. Here its opcodes are
decoded by `pickletools`, and a small machine follows those that torch writes for a dictionary of tensors. It imports nothing
and calls nothing: a tensor's constructor becomes a note of where the values are in the file. Every other name and opcode is
refused.

Format: torch.save since torch 1.6: a zip archive, not compressed, with the pickle in `NAME/data.pkl` and the values of each
storage in `NAME/data/KEY`. Opcodes: Python's pickletools.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from edgeembed.errors import ConversionError
from edgeembed_convert.jsonfile import POINTER_BYTES, refuse_pointer
from edgeembed_convert.tensors import ITEM_BYTES, StoredTensor

_T = TypeVar("_T")

_MOST_PICKLE_BYTES = 4 << 20
"""Of data.pkl, which only describes the tensors: about 200 bytes each. A byte can make an object of 72 bytes here."""
_MOST_DIMENSIONS = 8
_LOCAL_HEADER_BYTES = 30
_ENCRYPTED = 1
_RESAVE = (
    "python -c \"import torch; f = 'FILE'; torch.save({k: v.contiguous() for k, v in torch.load(f, map_location='cpu', "
    'weights_only=True).items()}, f)"'
)

_STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "LongStorage": "I64",
    "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
}  # fmt: skip
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint64": "U64", "uint32": "U32",
    "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
_UNTYPED = "torch.storage UntypedStorage"
_DICTIONARY = "collections OrderedDict"
_PARAMETER = "torch._utils _rebuild_parameter"
_TENSORS = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3")
_NAMES = {
    _UNTYPED, _DICTIONARY, _PARAMETER, *_TENSORS,
    *(f"torch {name}" for name in (*_STORAGES, *_DTYPES)),
}  # fmt: skip
_CONSTANTS = {
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8",
}  # fmt: skip
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class _Name:
    """A name that the pickle asks for; never imported."""

    name: str


@dataclass(frozen=True)
class _Record:
    """Where the content of a file of the archive is."""

    offset: int
    size: int


@dataclass(frozen=True)
class _Storage:
    """The values of a storage. dtype: None if the tensor states it."""

    record: _Record
    dtype: str | None


@dataclass(frozen=True)
class _Tensor:
    dtype: str
    shape: tuple[int, ...]
    offset: int


class _Malformed(Exception):
    """What is wrong with a file, for people."""


_MARK = object()


def read_linear(file: Path) -> tuple[StoredTensor, StoredTensor]:
    """Return weight and bias of a file of `torch.save` with one linear layer. Raises ConversionError for other tensors."""
    tensors = read_pickled(file)
    if set(tensors) != {"weight", "bias"}:
        raise ConversionError(f"{file}: has the tensors {sorted(tensors)}; expected weight and bias")
    return tensors["weight"], tensors["bias"]


def read_pickled(file: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a file of `torch.save` by name; of the values only the places are read.

    Raises ConversionError with the file and the reason for anything but a dictionary of contiguous tensors.
    """
    try:
        with file.open("rb") as stream:
            refuse_pointer(stream.read(POINTER_BYTES), file)
            if not zipfile.is_zipfile(stream):
                raise _Malformed(
                    "not a file that torch 1.6 or later saved, or truncated. An older file has to be saved again, which "
                    f"needs torch: {_RESAVE}"
                )
            records = _records(stream)
            content = _Machine(records).run(_pickle(stream, records))
    except _Malformed as error:
        raise ConversionError(f"{file}: {str(error).replace('FILE', file.as_posix())}") from None
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ConversionError(f"{file}: cannot be read: {error}") from error
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise ConversionError(f"{file}: data.pkl is malformed: {error}") from error
    found = {}
    for name, tensor in content.items():
        if not isinstance(tensor, _Tensor):
            raise ConversionError(
                f"{file}: {name[:200]!r} is not a tensor; expected a dictionary of tensors, as save_pretrained() writes it"
            )
        found[name] = StoredTensor(name, file, tensor.dtype, tensor.shape, tensor.offset)
    return found


def _records(stream: BinaryIO) -> dict[str, _Record]:
    """Return the files of the archive by their names below its folder."""
    size = stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream) as archive:
        entries = archive.infolist()
    folders = [entry.filename.removesuffix("data.pkl") for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(folders) != 1:
        raise _Malformed("not a file of torch.save: the archive has no data.pkl, or several")
    found: dict[str, _Record] = {}
    for entry in entries:
        name = entry.filename.removeprefix(folders[0])
        if name in found:
            raise _Malformed(f"the archive has {name[:200]!r} twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & _ENCRYPTED:
            raise _Malformed(f"{name[:200]!r} is compressed or encrypted, which torch.save does not do")
        stream.seek(entry.header_offset)
        header = stream.read(_LOCAL_HEADER_BYTES)
        if len(header) != _LOCAL_HEADER_BYTES or not header.startswith(b"PK\x03\x04"):
            raise _Malformed(f"the archive does not have {name[:200]!r} where its directory says")
        offset = entry.header_offset + _LOCAL_HEADER_BYTES
        offset += int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        if offset + entry.file_size > size:
            raise _Malformed(f"{name[:200]!r} is outside the file: it is truncated")
        found[name] = _Record(offset, entry.file_size)
    return found


def _pickle(stream: BinaryIO, records: Mapping[str, _Record]) -> bytes:
    order = records.get("byteorder")
    if order is not None and _content(stream, order, 16) != b"little":
        raise _Malformed("the byte order is not little-endian")
    return _content(stream, records["data.pkl"], _MOST_PICKLE_BYTES)


def _content(stream: BinaryIO, record: _Record, most: int) -> bytes:
    if record.size > most:
        raise _Malformed(f"a description of {record.size} bytes is too long; expected up to {most}")
    stream.seek(record.offset)
    return stream.read(record.size)


class _Machine:
    """Follows the opcodes of a pickle. Its objects are dictionaries, lists, tuples, constants and the classes above."""

    def __init__(self, records: Mapping[str, _Record]) -> None:
        self._records = records
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, pickle: bytes) -> dict[str, Any]:
        """Return the dictionary that the pickle describes. Raises _Malformed, LookupError, TypeError or ValueError."""
        for opcode, argument, _ in pickletools.genops(pickle):
            self._step(opcode.name, argument)
        content = self._stack.pop()
        if not isinstance(content, dict) or self._stack:
            raise _Malformed("expected a dictionary of tensors, as save_pretrained() writes it")
        return content

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        if opcode in _CONSTANTS:
            stack.append(_VALUES.get(opcode, argument))
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif opcode == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif opcode == "MARK":
            stack.append(_MARK)
        elif opcode in _TUPLES:
            stack.append(tuple(self._pop(_TUPLES[opcode])))
        elif opcode == "TUPLE":
            stack.append(tuple(self._pop_to_mark()))
        elif opcode in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if opcode == "EMPTY_DICT" else [])
        elif opcode in ("APPEND", "APPENDS"):
            values = self._pop(1) if opcode == "APPEND" else self._pop_to_mark()
            _expect(stack[-1], list).extend(values)
        elif opcode in ("SETITEM", "SETITEMS"):
            values = self._pop(2) if opcode == "SETITEM" else self._pop_to_mark()
            _set_items(_expect(stack[-1], dict), values)
        elif opcode == "GLOBAL":
            stack.append(_permitted(argument))
        elif opcode == "STACK_GLOBAL":
            # Not str() of just anything: the text of tuples in tuples can be of any length.
            stack.append(_permitted(" ".join(_expect(part, str) for part in self._pop(2))))
        elif opcode == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif opcode == "REDUCE":
            name, arguments = self._pop(2)
            stack.append(_made(_expect(name, _Name).name, _expect(arguments, tuple)))
        elif opcode == "BUILD":  # attributes of an OrderedDict, such as the versions of modules
            stack.pop()
            _expect(stack[-1], dict)
        elif opcode not in ("PROTO", "FRAME", "STOP"):
            raise _Malformed(f"data.pkl has the opcode {opcode}, which torch.save does not use for tensors; it is not run")

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count or any(value is _MARK for value in self._stack[len(self._stack) - count :]):
            raise ValueError("too few values on the stack")
        values = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return values

    def _pop_to_mark(self) -> list[Any]:
        values = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _storage(self, description: Any) -> _Storage:
        kind, cls, key = _expect(description, tuple)[:3]
        if kind != "storage" or not isinstance(cls, _Name) or not isinstance(key, str):
            raise ValueError("unknown kind of reference to values")
        record = self._records.get(f"data/{key}")
        if record is None:
            raise _Malformed(f"the values {key[:200]!r} are missing from the archive")
        if cls.name == _UNTYPED:
            return _Storage(record, None)
        return _Storage(record, _STORAGES[cls.name.removeprefix("torch ")])


def _expect(value: Any, kind: type[_T]) -> _T:
    if not isinstance(value, kind):
        raise TypeError(f"a {type(value).__name__} where a {kind.__name__} was expected")
    return value


def _permitted(name: str) -> _Name:
    if name not in _NAMES:
        raise _Malformed(
            f"asks Python to load {name[:200].replace(' ', '.')!r}, which tensors do not need and which could run code; it "
            "is not loaded. Do not use this file with other programs before you know what it does"
        )
    return _Name(name)


def _set_items(target: dict[Any, Any], values: list[Any]) -> None:
    for key, value in zip(values[::2], values[1::2], strict=True):
        # Other keys, such as deeply nested tuples, could cost any time or stack to hash.
        name = _expect(key, str)
        name.encode()  # an unpaired surrogate, with which no message about the tensor could be printed, is a ValueError
        target[name] = value


def _made(name: str, arguments: tuple[Any, ...]) -> Any:
    """Return what the call of a permitted name stands for."""
    if name == _DICTIONARY and not arguments:
        return {}
    if name == _PARAMETER:
        return _expect(arguments[0], _Tensor)
    if name not in _TENSORS:
        raise _Malformed(f"calls {name.replace(' ', '.')!r}, which torch.save does not do for tensors; it is not called")
    storage, first, shape, strides = arguments[:4]
    dtype = _expect(storage, _Storage).dtype
    if name == _TENSORS[1]:
        dtype = _DTYPES[_expect(arguments[6], _Name).name.removeprefix("torch ")]
    if dtype is None:
        raise ValueError("values without a type")
    sizes, steps = _sizes(shape), _sizes(strides)
    if len(sizes) != len(steps) or not _contiguous(sizes, steps):
        raise _Malformed("has a tensor whose values are not in order. Save the file again, which needs torch: " + _RESAVE)
    item = ITEM_BYTES[dtype]
    begin = _sizes((first,))[0] * item
    if begin + math.prod(sizes) * item > storage.record.size:
        raise _Malformed(
            f"a tensor of the shape {list(sizes)} is outside the {storage.record.size} bytes of its values: the file is "
            "truncated"
        )
    return _Tensor(dtype, sizes, storage.record.offset + begin)


def _sizes(value: Any) -> tuple[int, ...]:
    sizes: tuple[int, ...] = _expect(value, tuple)
    if len(sizes) > _MOST_DIMENSIONS or not all(type(size) is int and 0 <= size < 2**48 for size in sizes):
        raise _Malformed("a tensor has an impossible shape")
    return sizes


def _contiguous(sizes: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    step = 1
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size != 1 and stride != step and 0 not in sizes:
            return False
        step *= size
    return True
