"""The cases of failing.toml, which fail."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path

from tests.clients.matrix import Outcome

FILE = Path(__file__).with_name("failing.toml")


def failing() -> dict[tuple[str, str], str]:
    """Return why a case fails, by client and operation."""
    listed = tomllib.loads(FILE.read_text(encoding="utf-8")).get("failing", [])
    return {(case["client"], case["operation"]): case["reason"] for case in listed}


def unexpected(outcomes: Iterable[Outcome]) -> list[str]:
    """Return a line for each case that fails and is not listed, or works and is."""
    reasons = failing()
    lines = []
    for outcome in outcomes:
        place = f"{outcome.client} | {outcome.operation}"
        is_listed = (outcome.client, outcome.operation) in reasons
        if outcome.fault and not is_listed:
            lines.append("\n    ".join([f"{place} | {outcome.fault}", *outcome.sent]))
        elif is_listed and not outcome.fault:
            lines.append(f"{place} | works now: take it out of {FILE.name}")
    return lines
