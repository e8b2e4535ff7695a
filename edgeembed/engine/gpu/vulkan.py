"""Vulkan's loader and the devices of the installed drivers, as the loader itself lists them.

ggml leaves out devices that compute on the processor, and calls them graphics cards if a variable makes it list them.
`inspect` loads the drivers: call it in a separate process. Source: the Vulkan specification (vulkan_core.h).
"""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import POINTER, byref, c_char_p, c_int32, c_uint32, c_void_p
from functools import cache
from typing import Literal

import msgspec

VISIBLE_VARIABLE = "GGML_VK_VISIBLE_DEVICES"
"""ggml's own: numbers of the devices that it lists, in the loader's order, without regard to their kind."""
_LIBRARY = {"win32": "vulkan-1.dll", "darwin": "libvulkan.1.dylib"}.get(sys.platform, "libvulkan.so.1")
_APPLICATION_INFO, _INSTANCE_CREATE_INFO = 0, 1
_API_VERSION = (1 << 22) | (1 << 12)
"""1.1; a driver may support more."""
_INCOMPATIBLE_DRIVER = -9
"""vkCreateInstance's answer where no driver is installed."""

VulkanKind = Literal["other", "igpu", "gpu", "virtual", "software"]
_KINDS: tuple[VulkanKind, ...] = ("other", "igpu", "gpu", "virtual", "software")
"""By VkPhysicalDeviceType."""


class VulkanDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device of a driver. kind: software for a driver that computes on the processor, such as Mesa's llvmpipe."""

    name: str
    kind: VulkanKind


class VulkanFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the loader says; None for what is unknown."""

    loader: str | None = None
    """Version of the loader, such as 1.3.239; None without its library."""
    devices: tuple[VulkanDevice, ...] | None = None
    """In the loader's order, in which VISIBLE_VARIABLE counts."""
    error: int | None = None
    """The VkResult with which the loader or a driver failed."""

    @property
    def software(self) -> frozenset[str]:
        """Names of the devices that compute on the processor."""
        return frozenset(device.name for device in self.devices or () if device.kind == "software")


class _ApplicationInfo(ctypes.Structure):
    _fields_ = (
        ("type", c_int32), ("next", c_void_p), ("name", c_char_p), ("version", c_uint32), ("engine", c_char_p),
        ("engine_version", c_uint32), ("api_version", c_uint32),
    )  # fmt: skip


class _InstanceCreateInfo(ctypes.Structure):
    _fields_ = (
        ("type", c_int32), ("next", c_void_p), ("flags", c_uint32), ("application", POINTER(_ApplicationInfo)),
        ("layers", c_uint32), ("layer_names", c_void_p), ("extensions", c_uint32), ("extension_names", c_void_p),
    )  # fmt: skip


class _PhysicalDeviceProperties(ctypes.Structure):
    """VkPhysicalDeviceProperties up to the name, then room for the rest."""

    _fields_ = (
        ("api_version", c_uint32), ("driver_version", c_uint32), ("vendor", c_uint32), ("device", c_uint32),
        ("type", c_int32), ("name", ctypes.c_char * 256), ("rest", ctypes.c_char * 2048),
    )  # fmt: skip


def show_software() -> None:
    """Make ggml in this process list the drivers that compute on the processor, if there are no others.

    ggml reads the variable when its Vulkan backend is loaded, and lists none of them without it.
    """
    devices = inspect().devices or ()
    if devices and all(device.kind == "software" for device in devices):
        os.environ.setdefault(VISIBLE_VARIABLE, ",".join(map(str, range(len(devices)))))


@cache
def inspect() -> VulkanFacts:
    """Return what the loader and the drivers say; a fact that they do not tell is None."""
    try:
        library = ctypes.CDLL(_LIBRARY)
        version = c_uint32(0)
        if error := library.vkEnumerateInstanceVersion(byref(version)):
            return VulkanFacts(error=error)
    except (OSError, AttributeError):  # a loader of Vulkan 1.0 has no such function; ggml cannot use it either
        return VulkanFacts()
    loader = f"{version.value >> 22 & 0x7F}.{version.value >> 12 & 0x3FF}.{version.value & 0xFFF}"
    application = _ApplicationInfo(type=_APPLICATION_INFO, api_version=_API_VERSION)
    request = _InstanceCreateInfo(type=_INSTANCE_CREATE_INFO, application=ctypes.pointer(application))
    instance = c_void_p()
    error = library.vkCreateInstance(byref(request), None, byref(instance))
    if error:
        return VulkanFacts(loader=loader, devices=() if error == _INCOMPATIBLE_DRIVER else None, error=error)
    try:
        devices = _devices(library, instance)
    except OSError as failure:
        return VulkanFacts(loader=loader, error=failure.errno)
    finally:
        library.vkDestroyInstance(instance, None)
    return VulkanFacts(loader=loader, devices=devices)


def _devices(library: ctypes.CDLL, instance: c_void_p) -> tuple[VulkanDevice, ...]:
    count = c_uint32(0)
    if error := library.vkEnumeratePhysicalDevices(instance, byref(count), None):
        raise OSError(error, "vkEnumeratePhysicalDevices")
    handles = (c_void_p * count.value)()
    if (error := library.vkEnumeratePhysicalDevices(instance, byref(count), handles)) < 0:
        raise OSError(error, "vkEnumeratePhysicalDevices")
    return tuple(_device(library, c_void_p(handle)) for handle in handles[: count.value])


def _device(library: ctypes.CDLL, handle: c_void_p) -> VulkanDevice:
    properties = _PhysicalDeviceProperties()
    library.vkGetPhysicalDeviceProperties(handle, byref(properties))
    kind: VulkanKind = _KINDS[properties.type] if 0 <= properties.type < len(_KINDS) else "other"
    return VulkanDevice(name=properties.name.decode("utf-8", "replace").strip(), kind=kind)
