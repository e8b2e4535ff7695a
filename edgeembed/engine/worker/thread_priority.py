"""Threads that run at a lower priority than others of the same process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

_BELOW_NORMAL = -1
"""Windows' THREAD_PRIORITY_BELOW_NORMAL."""
_QOS_CLASS_UTILITY = 0x11
"""macOS's class for work that no user is waiting for."""


def lower_priority(niceness: int) -> None:
    """Lower the priority of the calling thread and of those that it starts. If the system refuses, nothing changes.

    niceness: steps of Unix's nice on Linux, where each thread has its own; elsewhere any positive number is one step.
    """
    if niceness <= 0:
        return
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # 0: the calling thread, the only one whose priority the sandbox lets be changed
            os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + niceness)
    elif sys.platform == "darwin":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).pthread_set_qos_class_self_np(_QOS_CLASS_UTILITY, 0)
    elif sys.platform == "win32":
        kernel = ctypes.windll.kernel32
        kernel.GetCurrentThread.restype = ctypes.c_void_p
        kernel.SetThreadPriority(ctypes.c_void_p(kernel.GetCurrentThread()), _BELOW_NORMAL)
