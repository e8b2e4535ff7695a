"""The published tests of other servers, as cases: every one holds, or differs for a reason that the docs give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.published.peers import PEERS
from tests.published.run import FAILS, daemons, run, summary


@pytest.mark.slow
def test_every_case_holds_or_differs_on_purpose(home: Path, minilm: Callable[[str], Path]) -> None:
    with daemons(home, minilm("Q8_0")) as urls:
        results = run(urls, PEERS)
    failed = [summary(result) for found in results.values() for result in found if result.verdict == FAILS]
    assert not failed, "\n".join([f"{len(failed)} cases", *failed])
