"""docs/dialects.md gives the reason of every published case that we differ from on purpose, and of no other."""

from __future__ import annotations

import re

from tests.docs.pages import ROOT
from tests.published.peers import PEERS

SECTION = re.compile(r"^## Where we differ on purpose$(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| ([^|]+?) \| [^|]+ \| [^|]+ \|$", re.MULTILINE)


def test_the_reasons_of_the_cases_are_those_of_the_page() -> None:
    section = SECTION.search((ROOT / "docs" / "dialects.md").read_text(encoding="utf-8"))
    assert section
    reasons = {case.differs.reason for peer in PEERS for case in peer.cases if case.differs}
    assert reasons == set(ROW.findall(section[1]))


def test_no_case_is_listed_twice() -> None:
    names = [(peer.name, case.test) for peer in PEERS for case in peer.cases]
    assert len(names) == len(set(names))
