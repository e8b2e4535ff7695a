"""What is said where a package of an extra is missing fits the way in which edgeembed was installed."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeembed.bulk.cluster import import_ray
from edgeembed.bulk.tables import import_pyarrow
from edgeembed.common.installation import PACKAGE_FILE
from edgeembed.errors import ConfigError


@pytest.mark.parametrize(("missing", "load"), [("pyarrow", import_pyarrow), ("ray", import_ray)])
def test_in_a_tarball_its_own_python_gets_the_missing_package(
    missing: str, load: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pip install 'edgeembed[bulk]'` would install another edgeembed into another Python."""
    (tmp_path / PACKAGE_FILE).write_text("the tarball\n", encoding="utf-8")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError) as raised:
        load()
    assert f"{sys.executable} -m pip install" in raised.value.message
    assert re.search(rf"'{missing}(\[data\])?[<>]", raised.value.message)
    assert "edgeembed[" not in raised.value.message
