"""The converter without canary rows, for tests that do not need them: computing rows starts two processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import edgeembed_convert


def convert_checkpoint(
    source: Path, target: Path, progress: Callable[[int, int], None] | None = None, **options: Any
) -> edgeembed_convert.Conversion:
    """Convert without canary rows. options: those of ConversionOptions."""
    return edgeembed_convert.convert_checkpoint(
        source, target, edgeembed_convert.ConversionOptions(proof=False, **options), progress
    )
