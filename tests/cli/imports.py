"""What a piece of Python imports."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("llama_cpp", "aiohttp", "numpy", "diskcache", "msgspec", "gguf", "huggingface_hub", "tomlkit", "asyncio")


def imported(code: str) -> set[str]:
    """Run Python code in a new process and return the top-level modules that it imported."""
    code += "\nimport json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))
