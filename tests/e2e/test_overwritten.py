"""A model file that is written to while it is served: no wrong row is sent, and none is cached."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.overwritten import rows_of, serve_and_write
from tests.e2e.texts import texts_of
from tests.overwriting import WRITES, make_other

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no change time"),
]


@pytest.mark.parametrize("write", ["overwrite", "overwrite_half", "truncate"])
def test_a_model_file_that_is_written_to_while_it_is_served(
    write: str, tmp_path: Path, minilm: Callable[[str], Path]
) -> None:
    texts, old = texts_of(1, 300), minilm("Q8_0")
    other = make_other(old, tmp_path / "other.gguf")
    written = Path(shutil.copyfile(old, tmp_path / "written.gguf"))
    WRITES[write](other, written)
    new = None if write == "truncate" else (written, rows_of(written, texts, tmp_path / "home-new"))
    outcome = serve_and_write(
        WRITES[write],
        (old, rows_of(old, texts, tmp_path / "home-old")),
        new,
        tmp_path / "served",
        source=other,
        seconds=3,
        clients=2,
    )
    assert outcome.answers > 0
    assert (outcome.wrong, outcome.failed) == (0, {}), outcome
    assert not any(outcome.wrong_later.values()), outcome
    assert outcome.verdicts == ["ok"], outcome
    if new:
        assert outcome.of_new > 0, "the new file is served without a restart"
