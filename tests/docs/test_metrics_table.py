"""The table of metrics in docs/monitoring.md names every metric of the code, and no other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_names_every_metric() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    table = page.partition("<!-- metrics: begin -->")[2].partition("<!-- metrics: end -->")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = {name.removesuffix("_total") for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert documented == _defined()


def _defined() -> set[str]:
    """Return the names that `edgeembed.server.ops.metrics` passes to its families, without edgeembed_ and _total."""
    code = (ROOT / "edgeembed" / "server" / "ops" / "metrics.py").read_text(encoding="utf-8")
    named = re.findall(r'(?:gauge|counter)\(\s*"(\w+)"|MetricFamily\(\s*"edgeembed_(\w+)"', code)
    listed = re.findall(r'^ +\(\s*(?:[\w.]+, )?"((?:model|upstream|batch)_\w+)"', code, re.MULTILINE)
    vectors = re.findall(r'^ +\(\s*"(mean|variance|spread|bad_share|drift_cosine|alarm)"', code, re.MULTILINE)
    return {one or other for one, other in named} | set(listed) | {f"vector_{name}" for name in vectors}
