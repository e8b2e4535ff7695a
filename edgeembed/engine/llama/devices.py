"""List the devices that llama.cpp finds, as JSON: `python -m edgeembed.engine.llama.devices`.

This runs in a separate process: a broken driver can end it, and the memory that it takes on a card is free again
afterwards.
"""

from __future__ import annotations

import ctypes
import os
import sys

import msgspec

from edgeembed.engine.gpu import nvidia, vulkan
from edgeembed.engine.gpu.inventory import BackendModule, Device, DeviceKind, Inventory
from edgeembed.engine.llama.backends import gpu_modules, has_vulkan, load_backends
from edgeembed.engine.llama.ggml import DEVICE_ACCEL, DEVICE_CPU, DEVICE_GPU, DEVICE_IGPU, DeviceProperties, function
from edgeembed.engine.llama.library import send_log_to

_KINDS: dict[int, DeviceKind] = {DEVICE_CPU: "cpu", DEVICE_GPU: "gpu", DEVICE_IGPU: "igpu", DEVICE_ACCEL: "accel"}


def list_devices() -> Inventory:
    """Load every backend of the build and return the devices that it finds. Raises ModelLoadError, OSError."""
    logged: list[str] = []
    send_log_to(logged.append, verbose=False)
    modules = [BackendModule(file=file.name, problem=_problem(str(file))) for file in gpu_modules()]
    load_backends(oldest=False, gpu=True)
    vulkan_facts = vulkan.inspect() if has_vulkan() else vulkan.VulkanFacts()
    devices = _devices(vulkan_facts.software)
    return Inventory(
        backends=tuple(dict.fromkeys(device.backend for device in devices)),
        devices=devices,
        modules=tuple(modules),
        nvidia=nvidia.inspect(),
        vulkan=vulkan_facts,
        messages=tuple(line for text in logged if (line := text.strip())),
    )


def _devices(software: frozenset[str]) -> tuple[Device, ...]:
    get = function("ggml_backend_dev_get")
    return tuple(_device(get(number), software) for number in range(function("ggml_backend_dev_count")()))


def _device(device: int, software: frozenset[str]) -> Device:
    """Return a device of ggml. software: names of Vulkan's devices that compute on the processor, which ggml calls GPUs."""
    properties = DeviceProperties()
    function("ggml_backend_dev_get_props")(device, ctypes.addressof(properties))
    backend = _text(function("ggml_backend_reg_name")(function("ggml_backend_dev_backend_reg")(device)))
    description = _text(properties.description)
    in_software = backend == "Vulkan" and description in software
    return Device(
        name=_text(properties.name),
        description=description,
        backend=backend,
        kind="software" if in_software else _KINDS.get(properties.type, "other"),
        memory_free=properties.memory_free,
        memory_total=properties.memory_total,
        id=_text(properties.device_id) or None,
    )


def _problem(file: str) -> str | None:
    """Return why a library cannot be loaded, or None: llama.cpp itself skips such a library without a message."""
    try:
        ctypes.CDLL(file)
    except OSError as error:
        return str(error).removeprefix(f"{file}: ")
    return None


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace").strip()


def main() -> int:
    """Print the inventory to stdout; whatever a backend prints goes to stderr."""
    stdout = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(stdout, "wb") as output:
        output.write(msgspec.json.encode(list_devices()))
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # without a driver's clean-up at exit, which may crash or hang
