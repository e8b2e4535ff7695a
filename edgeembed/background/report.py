"""What happens while a daemon starts or stops, for people."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


class Report:
    """Takes what happens, for people; this one logs it."""

    def __call__(self, line: str) -> None:
        """Take one line."""
        log.info("%s", line)

    def stage(self, what: str) -> None:
        """Take what is done now; called often."""

    def clear(self) -> None:
        """Forget the stage: it is over."""
