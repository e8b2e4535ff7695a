"""docs/dialects.md counts the published cases, and gives the reason of each that we differ from on purpose."""

from __future__ import annotations

import re

from tests.docs.pages import ROOT
from tests.published.peers import PEERS

SECTION = re.compile(r"^## Where we differ on purpose$(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
COUNTS = re.compile(r"^\| ([^|]+?) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", re.MULTILINE)
ROW = re.compile(r"^\| ([^|]+?) \| [^|]+ \| [^|]+ \|$", re.MULTILINE)


def section() -> str:
    found = SECTION.search((ROOT / "docs" / "dialects.md").read_text(encoding="utf-8"))
    assert found
    return found[1]


def test_the_reasons_of_the_cases_are_those_of_the_page() -> None:
    reasons = {case.differs.reason for peer in PEERS for case in peer.cases if case.differs}
    assert reasons == set(ROW.findall(section()))


def test_the_counts_are_those_of_the_cases() -> None:
    """Each case holds or differs, which tests/published/ tests."""
    expected = {}
    for peer in PEERS:
        differ = sum(case.differs is not None for case in peer.cases)
        left_out = sum(left.count for left in peer.left_out)
        expected[peer.name] = (len(peer.cases), len(peer.cases) - differ, differ, left_out)
    found = {name: tuple(map(int, numbers)) for name, *numbers in COUNTS.findall(section())}
    assert found == expected


def test_no_case_is_listed_twice() -> None:
    names = [(peer.name, case.test) for peer in PEERS for case in peer.cases]
    assert len(names) == len(set(names))
