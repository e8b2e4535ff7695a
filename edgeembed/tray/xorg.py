"""pystray's icon for plain X, with fixes for pystray 0.19.5: clicks arrive, no event is missed, and a panel that restarts
gets its icon back.

Imported on X only: pystray's module needs python-xlib.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator
from typing import Any

import Xlib.X
from pystray._xorg import Icon as PystrayXorgIcon

DOCK_SECONDS = 2.0
"""Seconds between searches for a panel after the panel with the icon has gone."""


class XorgIcon(PystrayXorgIcon):  # type: ignore[misc]
    """Overrides private methods of pystray, whose version is pinned for that reason."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        """Create the icon; the arguments are pystray's."""
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        super().__init__(*arguments, **more)
        # pystray handles clicks but does not ask the server for them.
        self._window.change_attributes(event_mask=Xlib.X.ExposureMask | Xlib.X.StructureNotifyMask | Xlib.X.ButtonPressMask)
        flush = self._display.flush

        def flush_and_wake() -> None:
            flush()
            with contextlib.suppress(BlockingIOError):  # a full pipe: the loop will wake up anyway
                os.write(self._wake, b".")

        self._display.flush = flush_and_wake

    def _events(self) -> Iterator[Any]:
        """Yield events as they arrive.

        A thread that sends something also reads what has arrived, including messages that it sent to this loop. If the
        loop waited for the socket alone, it would miss them until the next event; hence the pipe.
        """
        while True:
            while self._display.pending_events():
                yield self._display.next_event()
            lost = self.visible and self._systray_manager is None
            ready, _, _ = select.select([self._display, self._woken], [], [], DOCK_SECONDS if lost else None)
            if lost and not ready:
                self._dock_window()  # in case the panel has restarted
            if self._woken in ready:
                os.read(self._woken, 4096)
