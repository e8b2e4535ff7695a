"""Imports scripts from installers/, which is not a package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
INSTALLERS = ROOT / "installers"


def load(script: str) -> ModuleType:
    """Return installers/SCRIPT as a module."""
    spec = importlib.util.spec_from_file_location(f"installers_{Path(script).stem}", INSTALLERS / script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module
