"""docs/clients.md names the clients of tests/clients in their versions, and what does not work."""

from __future__ import annotations

import re

import pytest

from tests.clients.environments import Environment, environments
from tests.clients.failing import failing
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
HEAD = "| environment | packages |\n"
INSTALLED = [environment for environment in environments().values() if environment.python]


@pytest.mark.parametrize("environment", INSTALLED, ids=lambda environment: environment.name)
def test_the_versions_are_those_that_are_tested(environment: Environment) -> None:
    [row] = re.findall(rf"^\| `{environment.name}` \| (.*) \|$", PAGE.partition(HEAD)[2], re.MULTILINE)
    pins = [pin.rpartition("==") for pin in environment.python] + [pin.rpartition("@") for pin in environment.npm]
    assert row.split(", ") == [f"{name} {version}" for name, _, version in pins]


def test_what_fails_in_the_matrix_is_on_the_page() -> None:
    reasons = set(failing().values())
    assert not [reason for reason in reasons if f"| {reason} |" not in PAGE]
