"""The version of a release: one in pyproject.toml, CHANGELOG.md and the tag."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.installers.loading import ROOT, load

release = load("release.py")
ReleaseError = release.ReleaseError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / release.CHART).parent.mkdir(parents=True)
    shutil.copy(ROOT / release.CHART, tmp_path / release.CHART)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n- New.\n\n## 0.0.9 (2026-01-02)\n\n- Old.\n")
    return tmp_path


def test_one_command_sets_the_version_everywhere(tree: Path) -> None:
    old = release.current_version(tree)
    release.set_version("7.1.0", "2026-12-24", tree)
    assert release.current_version(tree) == "7.1.0"
    changed = (tree / "pyproject.toml").read_text(encoding="utf-8")
    assert changed.replace('version = "7.1.0"', f'version = "{old}"', 1) == (ROOT / "pyproject.toml").read_text(
        encoding="utf-8"
    )
    assert release.check_tag("v7.1.0", tree) == "7.1.0"
    assert release.notes_of("7.1.0", tree) == "- New.\n"
    assert release.notes_of("0.0.9", tree) == "- Old.\n"
    before = (tree / "CHANGELOG.md").read_text(encoding="utf-8")
    release.set_version("7.1.0", "2026-12-25", tree)
    assert (tree / "CHANGELOG.md").read_text(encoding="utf-8") == before, "a second run changes nothing"


def test_the_chart_gets_the_version_as_helm_writes_it(tree: Path) -> None:
    release.set_version("7.1.0rc2", "2026-12-24", tree)
    lines = (tree / release.CHART).read_text(encoding="utf-8").splitlines()
    assert "version: 7.1.0-rc2" in lines
    assert 'appVersion: "7.1.0rc2"' in lines
    assert release.semantic("1.2.3.post4") == "1.2.3+post4"
    assert release.semantic("1.2.3") == "1.2.3"


@pytest.mark.parametrize("tag", ["v7.1.1", "7.1.0", "v7.1", "v7.1.0rc1", ""])
def test_a_tag_of_another_version_is_refused(tree: Path, tag: str) -> None:
    release.set_version("7.1.0", "2026-12-24", tree)
    with pytest.raises(ReleaseError, match=r"whose tag is v7\.1\.0"):
        release.check_tag(tag, tree)


def test_a_version_of_which_the_changelog_says_nothing_is_refused(tree: Path) -> None:
    changelog = tree / "CHANGELOG.md"
    changelog.write_text("# Changelog\n\n## Unreleased\n\n## 0.0.9 (2026-01-02)\n\n- Old.\n")
    before = (tree / "pyproject.toml").read_bytes()
    with pytest.raises(ReleaseError, match="nothing below '## Unreleased'"):
        release.set_version("7.1.0", "2026-12-24", tree)
    assert (tree / "pyproject.toml").read_bytes() == before
    with pytest.raises(ReleaseError, match="no text below"):
        release.check_tag(f"v{release.current_version(tree)}", tree)


@pytest.mark.parametrize("version", ["1", "1.2", "v1.2.3", "1.2.3-rc1", "1.2.3+local", "01.2.3", "1.2.3.4", "1.2.x"])
def test_words_that_are_no_version_are_refused(tree: Path, version: str) -> None:
    with pytest.raises(ReleaseError, match="not a version such as"):
        release.set_version(version, "2026-12-24", tree)


@pytest.mark.parametrize("arguments", [[], ["--check"], ["--nonsense"], ["1.2.3", "1.2.4"]])
def test_wrong_arguments_show_the_usage(arguments: list[str]) -> None:
    with pytest.raises(ReleaseError, match="usage"):
        release.main(arguments)
