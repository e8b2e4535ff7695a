"""Look which devices llama.cpp finds, and print it as JSON: `python -m edgeembed.engine.llama.devices`.

A process of its own: a broken driver can end it, and what it takes on a card is free again behind it.
"""

from __future__ import annotations

import ctypes
import os
import sys

import msgspec

from edgeembed.engine.gpu import nvidia
from edgeembed.engine.gpu.inventory import Device, Inventory, Kind, Module
from edgeembed.engine.llama.backends import gpu_modules, load_backends
from edgeembed.engine.llama.library import function, send_log_to

_KINDS: dict[int, Kind] = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel"}
"""ggml-backend.h, enum ggml_backend_dev_type."""
_CPU = 0


class _Properties(ctypes.Structure):
    """ggml-backend.h's ggml_backend_dev_props up to the id; room for what follows."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("device_id", ctypes.c_char_p),
        ("rest", ctypes.c_char * 256),
    )


def look() -> Inventory:
    """Load every backend of the build and list what it computes on. Raises ModelLoadError, OSError."""
    said: list[str] = []
    send_log_to(said.append, verbose=False)
    modules = [Module(file=file.name, problem=_problem(str(file))) for file in gpu_modules()]
    load_backends(oldest=False, gpu=True)
    devices = _devices()
    return Inventory(
        backends=tuple(dict.fromkeys(device.backend for device in devices)),
        devices=devices,
        modules=tuple(modules),
        nvidia=nvidia.look(),
        said=tuple(line for text in said if (line := text.strip())),
    )


def _devices() -> tuple[Device, ...]:
    count = function("ggml_backend_dev_count", ctypes.c_size_t)
    get = function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    return tuple(_device(get(number)) for number in range(count()))


def _device(device: int) -> Device:
    properties = _Properties()
    function("ggml_backend_dev_get_props", None, ctypes.c_void_p, ctypes.c_void_p)(device, ctypes.addressof(properties))
    registry = function("ggml_backend_dev_backend_reg", ctypes.c_void_p, ctypes.c_void_p)(device)
    backend = function("ggml_backend_reg_name", ctypes.c_char_p, ctypes.c_void_p)(registry)
    return Device(
        name=_text(properties.name),
        description=_text(properties.description),
        backend=_text(backend),
        kind=_KINDS.get(properties.type, "other"),
        memory_free=properties.memory_free,
        memory_total=properties.memory_total,
        id=_text(properties.device_id) or None,
    )


def _problem(file: str) -> str | None:
    """Say why a library cannot be loaded: llama.cpp itself passes over it in silence."""
    try:
        ctypes.CDLL(file)
    except OSError as error:
        return str(error).removeprefix(f"{file}: ")
    return None


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace").strip()


def main() -> int:
    """Print the inventory. What a backend prints goes to stderr."""
    sink = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(sink, "wb") as output:
        output.write(msgspec.json.encode(look()))
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # a driver's own clean-up has nothing to add
