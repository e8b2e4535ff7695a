"""README's commands: the first one serves, the second one tests, and .ci/run runs the second one."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_two_commands_are_those_that_serve_and_that_test() -> None:
    """Both are for a clone; what else there is to type stands in blocks of another kind."""
    serve, test = re.findall(
        r"^```sh$\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert serve.endswith("edgeembed serve\n") and "uv run" in serve
    assert test.endswith("pytest\n") and "uv run" in test


@pytest.mark.skipif(not Path("/usr/bin/awk").exists(), reason="awk is not installed")
def test_ci_finds_the_command_that_tests() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    [find] = re.findall(r"^test_command=\$\((.*)\)$", script, re.MULTILINE)
    found = subprocess.run(["bash", "-c", find], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found.strip().endswith("pytest")
