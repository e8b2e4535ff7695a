"""pystray's icon for plain X, with what pystray 0.19.5 lacks: clicks arrive, no event is
missed, and a panel that starts again gets its icon back.

Imported on X alone: pystray's own module needs python-xlib.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator
from typing import Any

import Xlib.X
from pystray._xorg import Icon as PystrayIcon

DOCK_SECONDS = 2.0
"""How often is looked for a panel when the one with the icon has gone."""


class Icon(PystrayIcon):  # type: ignore[misc]
    """Mends, in methods of pystray's that are its own: the version is pinned for them."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        """Make the icon, as pystray's."""
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        super().__init__(*arguments, **more)
        # pystray handles clicks and forgets to ask the server for them.
        self._window.change_attributes(event_mask=Xlib.X.ExposureMask | Xlib.X.StructureNotifyMask | Xlib.X.ButtonPressMask)
        flush = self._display.flush

        def flush_and_wake() -> None:
            flush()
            with contextlib.suppress(BlockingIOError):  # it is awake already, many times over
                os.write(self._wake, b".")

        self._display.flush = flush_and_wake

    def _events(self) -> Iterator[Any]:
        """Give events as they come.

        A thread that sends something reads what has arrived meanwhile, such as the very message that it sent to this loop;
        a loop that waits for the socket would not hear of it before something else comes.
        """
        while True:
            while self._display.pending_events():
                yield self._display.next_event()
            lost = self.visible and self._systray_manager is None
            ready, _, _ = select.select([self._display, self._woken], [], [], DOCK_SECONDS if lost else None)
            if lost and not ready:
                self._dock_window()  # a panel that has started again takes it
            if self._woken in ready:
                os.read(self._woken, 4096)
